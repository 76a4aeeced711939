//! What fuzzing does with a file, and a test does again with every file that fuzzing found: each reader gets the bytes under a name of
//! its kind, and uses what it was given as commands do. A panic, an abort or an endless loop is a bug; an error is not.

#![allow(clippy::disallowed_methods)]

use crate::onnx::Model;
use crate::weights::Source;
use crate::weights::lora::Lora;
use crate::{arrays, fault, tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder of this thread in memory where there is such a thing, so that disks are not worn.
fn folder() -> PathBuf {
    let root = ["/dev/shm", "/tmp"]
        .into_iter()
        .map(Path::new)
        .find(|p| p.is_dir())
        .unwrap_or(Path::new("."));
    let id = format!(
        "trtmut-reading-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    );
    let folder = root.join(id);
    std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
    folder
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a temporary file can be written");
    path
}

/// Every error can be shown, with what to do about it.
fn shown<T, E: fault::Explain + std::error::Error>(result: Result<T, E>) -> Option<T> {
    result
        .map_err(|e| {
            assert!(!e.to_string().is_empty() && !e.code().is_empty());
            let _ = (e.class(), e.hints());
        })
        .ok()
}

/// A checkpoint; what begins with `{` is an index, of which the shard is what follows the first line.
pub fn safetensors(data: &[u8]) {
    let folder = folder();
    let path = if data.starts_with(b"{") {
        let end = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
        put(&folder, "a.safetensors", data.get(end + 1..).unwrap_or(&[]));
        put(&folder, "m.safetensors.index.json", &data[..end])
    } else {
        put(&folder, "a.safetensors", data)
    };
    if let Some(source) = shown(Source::open(&path)) {
        let mut bytes = 0;
        for name in source.names() {
            let view = source.get(name).expect("it is in the list of names");
            assert_eq!(source.shape(name), Some(view.shape));
            bytes += view.data.len();
            let _ = tensor::to_f32(view.dtype, view.data);
        }
        assert!(bytes <= data.len());
        source.digests(&crate::watch::Silent);
    }
}

/// A model, and what follows 0xfe 0xfe as the file `data` beside it.
pub fn onnx(data: &[u8]) {
    let folder = folder();
    let split = data.windows(2).position(|w| w == [0xfe, 0xfe]);
    let (model, beside) = split.map_or((data, &[][..]), |at| (&data[..at], &data[at + 2..]));
    put(&folder, "data", beside);
    let path = put(&folder, "m.onnx", model);
    if let Some(model) = shown(Model::open(&path)) {
        for weight in model.weights() {
            assert_eq!(model.bytes(weight).len(), weight.byte_length());
        }
        let structure = model.structure_digest();
        let mut written = Vec::new();
        let done: Result<(), crate::onnx::Error> =
            model.write_onnx(&mut written, &|w| Ok(model.bytes(w)));
        if shown(done).is_some() {
            let again = Model::open(put(&folder, "again.onnx", &written))
                .expect("what was read can be written and read again");
            assert_eq!(again.structure_digest(), structure);
        }
    }
}

/// A LoRA; what follows 0xfe 0xfe is its `adapter_config.json`.
pub fn lora(data: &[u8]) {
    let folder = folder();
    let split = data.windows(2).position(|w| w == [0xfe, 0xfe]);
    let (file, config) = split.map_or((data, &b"{}"[..]), |at| (&data[..at], &data[at + 2..]));
    put(&folder, "adapter_config.json", config);
    let path = put(&folder, "adapter_model.safetensors", file);
    let targets: BTreeMap<String, Vec<usize>> = [
        ("a.to_q.weight", vec![4, 4]),
        ("a.conv.weight", vec![4, 2, 3, 3]),
        ("a.norm.weight", vec![4]),
        ("a.to_q.bias", vec![4]),
    ]
    .into_iter()
    .map(|(name, shape)| (name.to_owned(), shape))
    .collect();
    shown(Lora::open(&path, &targets));
}

/// A tensor file, whose first byte says which kind it is taken for.
pub fn arrays(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let folder = folder();
    let name = ["a.npz", "a.npy", "a.safetensors"][*kind as usize % 3];
    let path = put(&folder, name, data);
    if let Some(tensors) = shown(arrays::read(&path)) {
        for to in ["out.safetensors", "out.npz"] {
            let out = folder.join(to);
            let plain = tensors.iter().all(|(name, _)| !name.is_empty());
            if plain && shown(arrays::write(&out, &tensors)).is_some() {
                shown(arrays::read(&out));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(target: &str, with: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            with(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 5, "the corpus of `{target}` is missing");
        let _ = std::fs::remove_dir_all(folder());
    }

    #[test]
    fn the_fuzz_corpora_are_replayed() {
        replay("safetensors", safetensors);
        replay("onnx", onnx);
        replay("lora", lora);
        replay("arrays", arrays);
    }
}
