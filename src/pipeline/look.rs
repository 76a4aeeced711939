//! What a file is, by its name and its first bytes.

use super::error::Error;
use super::past;
use crate::cache::Memo;
use crate::fsx;
use crate::onnx::Model;
use crate::plan::{self, Manifest};
use std::path::Path;

pub(super) enum Thing {
    Plan(Box<Manifest>),
    Model(Box<Model>),
    Weights,
}

/// What a file is, without what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThingKind {
    /// A plan with its manifest.
    Plan,
    Model,
    /// A checkpoint: a safetensors file, an index of shards, or a folder of them.
    Weights,
}

fn has_extension(path: &Path, of: &[&str]) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| of.iter().any(|o| e.eq_ignore_ascii_case(o)))
}

/// What `path` is taken for; nothing of it is checked.
pub fn kind_of(path: &Path) -> ThingKind {
    // A plan whose manifest is missing has to hear of that.
    if plan::manifest_path(path).exists() || has_extension(path, &["plan"]) {
        return ThingKind::Plan;
    }
    if path.is_dir() || has_extension(path, &["safetensors", "json"]) {
        return ThingKind::Weights;
    }
    ThingKind::Model
}

/// Whether a file that may be a plan or weights is a plan: by its extension, or because a manifest stands beside a file whose
/// extension says nothing else.
pub fn is_plan(path: &Path) -> bool {
    let weights = path.is_dir() || has_extension(path, &["safetensors", "json", "onnx"]);
    !weights && kind_of(path) == ThingKind::Plan
}

/// Opens what is at `path`.
pub(super) fn look(path: &Path, memo: Option<&Memo>) -> Result<Thing, Error> {
    Ok(match kind_of(path) {
        ThingKind::Plan => Thing::Plan(Box::new(open_plan(path, memo)?)),
        ThingKind::Model => Thing::Model(Box::new(Model::open(path)?)),
        ThingKind::Weights => Thing::Weights,
    })
}

/// The manifest of a plan, which is read and checked unless `memo` knows its digest.
pub(super) fn open_plan(path: &Path, memo: Option<&Memo>) -> Result<Manifest, Error> {
    Ok(plan::open_with(path, |map| past::plan(map, memo))?)
}

/// Whether `path` is an ONNX model and nothing else: by its extension, or because it begins as a `ModelProto` does, with
/// `ir_version` (field 1, a varint: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>), which no safetensors file does:
/// that begins with the length of its header, eight bytes, and the header's brace.
pub fn is_model(path: &Path) -> bool {
    if kind_of(path) != ThingKind::Model || !path.is_file() {
        return false;
    }
    has_extension(path, &["onnx"])
        || fsx::Map::open(path).is_ok_and(|map| {
            let first = map.len().min(9);
            let start = map.get(0..first).unwrap_or_default();
            matches!(start, [0x08, version, ..] if *version < 0x80) && start.get(8) != Some(&b'{')
        })
}
