//! Tests with models that are too big to be copied. The files are sparse: they take no space on disk.

use super::testing::{f32s, graph, model, node};
use super::*;
use onnx_protobuf::StringStringEntryProto;
use onnx_protobuf::tensor_proto::DataLocation;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use wire::put_varint;

const GIB: u64 = 1 << 30;

/// Anonymous memory of this process in bytes, or `None` where it cannot be known.
fn anonymous() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("RssAnon:"))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

fn header(number: u64, length: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, number << 3 | 2);
    put_varint(&mut out, length);
    out
}

/// A model of x · w0 · w1 … in one file, each weight of `each` bytes of zeros.
fn one_file(dir: &Path, count: usize, each: u64) -> PathBuf {
    let name = |i: usize| {
        if i == 0 {
            "x".to_owned()
        } else {
            format!("v{i}")
        }
    };
    let nodes = (0..count)
        .map(|i| node("Mul", &[&name(i), &format!("w{i}")], &[&name(i + 1)]))
        .collect();
    let mut proto = model(graph(&["x"], vec![], nodes, &[&name(count)]));
    let graph = write::serialise(&*proto.graph);
    proto.graph.clear();
    let tensors: Vec<Vec<u8>> = (0..count)
        .map(|i| {
            let mut t = f32s(&format!("w{i}"), &[each as i64 / 4], &[]);
            t.raw_data.clear();
            [write::serialise(&t), header(9, each)].concat()
        })
        .collect();
    let headers: Vec<Vec<u8>> = tensors
        .iter()
        .map(|t| header(5, t.len() as u64 + each))
        .collect();
    let inside: u64 = tensors
        .iter()
        .zip(&headers)
        .map(|(t, h)| (t.len() + h.len()) as u64 + each)
        .sum();
    let path = dir.join("model.onnx");
    let mut file = File::create(&path).unwrap();
    file.write_all(&write::serialise(&proto)).unwrap();
    file.write_all(&header(7, graph.len() as u64 + inside))
        .unwrap();
    file.write_all(&graph).unwrap();
    for (tensor, header) in tensors.iter().zip(&headers) {
        file.write_all(header).unwrap();
        file.write_all(tensor).unwrap();
        file.seek(SeekFrom::Current(each as i64)).unwrap();
    }
    let end = file.stream_position().unwrap();
    file.set_len(end).unwrap();
    path
}

#[test]
fn opening_a_gigabyte_takes_no_memory_for_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = one_file(dir.path(), 8, GIB / 8);
    let before = anonymous();
    let model = Model::open(path).unwrap();
    let after = anonymous();
    let total: usize = model.weights().iter().map(|w| model.bytes(w).len()).sum();
    assert_eq!(total as u64, GIB);
    if let (Some(before), Some(after)) = (before, after) {
        let grown = after.saturating_sub(before);
        // Other tests run beside this one; a copy of the weights would be the whole gigabyte.
        assert!(grown < GIB / 4, "{grown} bytes");
    }
}

/// A model whose one weight ends at `end` in a data file.
fn with_data_file(dir: &Path, elements: u64, offset: u64) -> PathBuf {
    let mut w = f32s("w", &[elements as i64], &[]);
    w.data_location = DataLocation::EXTERNAL.into();
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: key.into(),
        value,
        ..StringStringEntryProto::default()
    };
    w.external_data = vec![
        entry("location", "data".into()),
        entry("offset", offset.to_string()),
        entry("length", (elements * 4).to_string()),
    ];
    let proto = model(graph(
        &["x"],
        vec![w],
        vec![node("Mul", &["x", "w"], &["y"])],
        &["y"],
    ));
    let path = dir.join("model.onnx");
    std::fs::write(&path, write::serialise(&proto)).unwrap();
    let data = File::create(dir.join("data")).unwrap();
    data.set_len(offset + elements * 4).unwrap();
    path
}

#[test]
fn data_files_over_four_gigabytes_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = with_data_file(dir.path(), 2, 5 * GIB);
    let mut data = File::options()
        .write(true)
        .open(dir.path().join("data"))
        .unwrap();
    data.seek(SeekFrom::Start(5 * GIB)).unwrap();
    data.write_all(b"12345678").unwrap();
    let model = Model::open(path).unwrap();
    assert_eq!(&*model.bytes(&model.weights()[0]), b"12345678");
}

#[test]
fn what_one_file_cannot_hold_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::open(with_data_file(dir.path(), 3 * GIB / 4, 0)).unwrap();
    assert!(model.onnx_size() > 3 * GIB);
    let mut out = Vec::new();
    let e = model.write_onnx::<Error>(&mut out, &|w| Ok(model.bytes(w)));
    assert!(matches!(e, Err(Error::TooBig { .. })));
    assert!(out.is_empty());
}
