//! What fuzzing does with a file, and a test does again with every file that fuzzing found: each reader gets the bytes under a name of
//! its kind, and uses what it was given as commands do. A panic, an abort or an endless loop is a bug; an error is not.

// These files are made here and read by nobody else, so none of what `fsx` guards against can happen to them.
#![allow(clippy::disallowed_methods)]

use crate::cache::{Check, Key, Store};
use crate::mapping::{self, Mapping, Override, Row};
use crate::onnx::Model;
use crate::watch::Silent;
use crate::weights::Source;
use crate::weights::lora::Lora;
use crate::{arrays, engine, fault, tensor};
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

/// What stands before and behind 0xfe 0xfe: two files in one input.
fn halves(data: &[u8]) -> (&[u8], Option<&[u8]>) {
    let split = data.windows(2).position(|w| w == [0xfe, 0xfe]);
    split.map_or((data, None), |at| (&data[..at], Some(&data[at + 2..])))
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
        // The format lets no two tensors share bytes.
        assert!(bytes <= data.len());
        source.digests(&Silent);
    }
}

/// A model, and what follows 0xfe 0xfe as the file `data` beside it.
pub fn onnx(data: &[u8]) {
    let folder = folder();
    let (model, beside) = halves(data);
    // Also where there is none: the folder is used again, and that of the last input would be found.
    put(&folder, "data", beside.unwrap_or_default());
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
    let (file, config) = halves(data);
    put(&folder, "adapter_config.json", config.unwrap_or(b"{}"));
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

/// Text as a shape spec, and as the record of one in a manifest.
pub fn shapes(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        crate::shapes::exercise::exercise(text);
    }
}

/// A plan of the embedded engine.
pub fn plan(data: &[u8]) {
    let path = put(&folder(), "a.plan", data);
    shown(engine::cpu::read_and_write(&path));
}

/// The manifest of a plan, with the recipes that it records.
pub fn manifest(data: &[u8]) {
    let folder = folder();
    let path = put(&folder, "m.plan", b"");
    put(&folder, "m.plan.json", data);
    let _ = shown(crate::plan::read_sources(&path));
    let Some(manifest) = shown(crate::plan::read_manifest(&path)) else {
        return;
    };
    for row in manifest.weights.iter().filter_map(|w| w.mapping.as_ref()) {
        follow(row);
    }
    let text = serde_json::to_vec(&manifest).expect("what was read can be written");
    put(&folder, "m.plan.json", &text);
    shown(crate::plan::read_manifest(&path)).expect("what was written can be read");
}

/// A document of `--mapping`, each of its rows for a weight of two small shapes.
pub fn mapping(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(by_hand) = shown(Override::parse(text)) else {
        return;
    };
    for (name, recipe) in &by_hand.weights {
        for shape in [vec![4], vec![4, 6]] {
            let mut mapping = Mapping {
                rows: vec![row(name, &shape)],
                ..Mapping::default()
            };
            let only = Override {
                schema: by_hand.schema.clone(),
                weights: [(name.clone(), recipe.clone())].into(),
            };
            if shown(mapping.override_with(&only)).is_some() {
                follow(&mapping.rows[0]);
            }
        }
    }
}

/// An entry of the cache: its record, and what follows 0xfe 0xfe as its manifest.
pub fn entry(data: &[u8]) {
    let root = folder().join("cache");
    // The folder is used again: an entry of the last input would be listed and checked as well.
    let _ = std::fs::remove_dir_all(&root);
    let (record, manifest) = halves(data);
    // A record says itself whose it is; one that names another key's folder would only be seen to be wrong.
    let key = serde_json::from_slice::<serde_json::Value>(record)
        .ok()
        .and_then(|v| Key::parse(v.get("key")?.as_str()?));
    let (Some(key), Some(store)) = (key, shown(Store::open(&root, 1 << 20))) else {
        return;
    };
    let place = store.dir().join("engines-v1").join(key.to_string());
    std::fs::create_dir_all(&place).expect("a temporary folder can be made");
    put(&place, "entry.json", record);
    put(&place, "manifest.json", manifest.unwrap_or_default());
    put(&place, "engine.plan", b"plan");
    shown(store.list());
    shown(store.inspect(&key, Check::Full));
    shown(store.lookup(&key, Check::Full));
    shown(store.verify(true, &Silent));
}

fn row(name: &str, shape: &[usize]) -> Row {
    let row = serde_json::json!({
        "name": name, "dtype": tensor::Dtype::F32, "shape": shape, "grade": mapping::Grade::Given, "layout": mapping::Layout::Unknown,
    });
    serde_json::from_value(row).expect("these are all fields that a row must have")
}

/// The bytes that a recipe gives from a small checkpoint: an error, or as many as the weight has.
fn follow(row: &Row) {
    struct Small;
    static VALUES: [u8; 96] = [63; 96];
    impl mapping::Checkpoint for Small {
        fn names(&self) -> Vec<&str> {
            vec!["a", "b"]
        }
        fn get(&self, name: &str) -> Option<tensor::TensorView<'_>> {
            let shape: &[usize] = match name {
                "a" => &[4],
                "b" => &[4, 6],
                _ => return None,
            };
            let data = &VALUES[..shape.iter().product::<usize>() * 4];
            let dtype = tensor::Dtype::F32;
            Some(tensor::TensorView { dtype, shape, data })
        }
    }
    for recipe in row.explanations() {
        if let Some(bytes) = shown(mapping::apply_recipe(row, recipe, &Small)) {
            let expected = tensor::element_count(&row.shape).and_then(|n| row.dtype.bytes_for(n));
            assert_eq!(Some(bytes.len()), expected);
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
        replay("shapes", shapes);
        replay("safetensors", safetensors);
        replay("onnx", onnx);
        replay("lora", lora);
        replay("arrays", arrays);
        replay("plan", plan);
        replay("manifest", manifest);
        replay("mapping", mapping);
        replay("entry", entry);
    }
}
