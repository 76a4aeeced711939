//! What an engine depends on, as the labelled fields of its cache key: everything but the weights, which the entry's manifest
//! names by digest, unless the engine cannot be given others.

use super::draft::{Draft, MappingSource, prove};
use crate::cache::{KeyFields, Memo};
use crate::engine::{Identity, Options, tensorrt};
use crate::onnx::Model;
use crate::pipeline::error::Error;
use crate::pipeline::facts::marked;
use crate::pipeline::past;
use crate::plan::FORMAT;
use crate::shapes::Profile;
use crate::tensor::{Digest, LabelledHasher};
use crate::watch::Watch;
use std::collections::{BTreeSet, HashMap};

/// The fields of a build.
pub(super) fn fields_of(draft: &Draft<'_>) -> KeyFields {
    let request = draft.request;
    let fields = fields(
        draft.structure,
        &draft.profile,
        request.options,
        &request.backend.identity(),
        || draft.digests.clone(),
    );
    marking(fields, draft.mark.as_ref())
}

fn marking(fields: KeyFields, names: Option<&BTreeSet<String>>) -> KeyFields {
    let Some(names) = names else {
        return fields;
    };
    let mut hasher = LabelledHasher::new("trtmut.marked/1");
    for name in names {
        hasher.field("name", name.as_bytes());
    }
    fields.with("marked weights", hasher.finish().to_string())
}

/// `fields` of a build whose mapping comes from `from`: with `--refit individual`, what is marked refittable depends on it.
///
/// # Errors
/// Those of the build: of reading the checkpoint and the probe, and of what they do not prove.
pub fn with_checkpoint(
    fields: KeyFields,
    model: &Model,
    options: &Options,
    from: MappingSource<'_>,
    memo: Option<&Memo>,
    watch: &dyn Watch,
) -> Result<KeyFields, Error> {
    let mark = match from {
        MappingSource::Keep(manifest) => {
            let rows = manifest.weights.iter().filter_map(|w| w.mapping.as_deref());
            marked(options, manifest.base.is_some(), rows)
        }
        MappingSource::Infer { files: [], .. } => None,
        MappingSource::Infer { .. } => {
            let digests = past::weights(model, memo, watch);
            let proven = prove(model, from, &digests, memo, watch)?;
            proven.and_then(|proven| marked(options, true, &proven.mapping.rows))
        }
    };
    Ok(marking(fields, mark.as_ref()))
}

/// What an engine depends on, field by field. The weights are read only where they are part of it and `memo` does not know them.
pub fn key_fields(
    model: &Model,
    profile: &Profile,
    options: &Options,
    backend: &Identity,
    memo: Option<&Memo>,
    watch: &dyn Watch,
) -> KeyFields {
    let digests = || past::weights(model, memo, watch);
    fields(model.structure_digest(), profile, options, backend, digests)
}

fn fields<'a>(
    structure: Digest,
    profile: &Profile,
    options: &Options,
    backend: &Identity,
    digests: impl FnOnce() -> HashMap<&'a str, Digest>,
) -> KeyFields {
    let mut fields = KeyFields::new()
        .with("structure", structure.to_string())
        .with("backend", &backend.backend)
        .with("library", &backend.library)
        // What is done to a graph before it is compiled may change with the version.
        .with("trtmut", env!("CARGO_PKG_VERSION"))
        .with("manifest format", FORMAT);
    let options = &spelled(backend, options);
    for (name, value) in hardware(backend, options) {
        fields = fields.with(name, value);
    }
    for (at, input) in profile.inputs.iter().enumerate() {
        let range = serde_json::to_string(input).expect("names and numbers are JSON");
        fields = fields.with(format!("profile of input {at}"), range);
    }
    for (number, inputs) in profile.several.iter().enumerate() {
        let ranges = serde_json::to_string(inputs).expect("names and numbers are JSON");
        fields = fields.with(format!("profile {}", number + 1), ranges);
    }
    for (name, value) in options {
        fields = fields.with(format!("option {name}"), value);
    }
    if holds_its_weights(options) {
        fields = fields.with("weights", weights_digest(&digests()).to_string());
    }
    fields
}

/// The options of a build in one spelling.
pub(in crate::pipeline) fn spelled(backend: &Identity, options: &Options) -> Options {
    if backend.backend.starts_with("tensorrt") {
        tensorrt::canonical(options)
    } else {
        options.clone()
    }
}

/// The hardware that an engine runs on: this GPU, or as many as it was asked to run on.
///
/// The driver is no part of it. An engine is tied to the library and the GPU; a newer driver runs it as it is, and where an
/// older one cannot, opening it fails and says so. Its version changes with every update of the machine, and each would
/// throw away all engines.
pub(in crate::pipeline) fn hardware<'a>(
    backend: &'a Identity,
    options: &'a Options,
) -> Vec<(&'static str, &'a str)> {
    let device = |name| backend.device.get(name).map(String::as_str);
    let gpu = device("gpu").map(|v| ("gpu", v));
    let capability = device("compute_capability");
    let own = capability.map(|v| ("compute_capability", v));
    let asked = |name: &str| options.get(name).map(String::as_str);
    match backend.backend.as_str() {
        "tensorrt" => match asked("hardware-compat") {
            // Older GPUs have no part in it; what is built on one is its own.
            Some(all @ "ampere-plus") if capability.is_some_and(ampere_or_newer) => {
                vec![("hardware", all)]
            }
            Some("same-compute-capability") if own.is_some() => own.into_iter().collect(),
            _ => gpu.into_iter().chain(own).collect(),
        },
        // It compiles for what it is told, which is an option and so in the key, wherever it runs.
        "tensorrt-rtx" if asked("compute-capability").is_some() => Vec::new(),
        _ => gpu.into_iter().chain(own).collect(),
    }
}

fn ampere_or_newer(capability: &str) -> bool {
    let major = capability.split('.').next();
    major.and_then(|m| m.parse::<u32>().ok()) >= Some(8)
}

/// Whether other weights mean another engine.
fn holds_its_weights(options: &Options) -> bool {
    let is = |name: &str, values: &[&str]| {
        options
            .get(name)
            .is_some_and(|v| values.contains(&v.as_str()))
    };
    is("refit", &["none", "identical"]) || is("strip", &["true"])
}

fn weights_digest(digests: &HashMap<&str, Digest>) -> Digest {
    let mut rows: Vec<_> = digests.iter().collect();
    // By name, since the map has no order that two runs share.
    rows.sort_unstable_by_key(|(name, _)| **name);
    let mut hasher = LabelledHasher::new("trtmut.weights/1");
    for (name, digest) in rows {
        hasher.field(name, &digest.0);
    }
    hasher.finish()
}
