//! What a manifest says of a model and an engine: digests, names of files, which weights a refit can change.

use super::error::Error;
use crate::engine::{Options, Slot};
use crate::fsx;
use crate::mapping::{Mapping, Row};
use crate::maps::QuickMap;
use crate::onnx::{Model, Role, Weight};
use crate::plan::{Manifest, WeightRow};
use crate::shapes::Resolved;
use crate::tensor::Digest;
use crate::watch::{Event, Watch};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// The shapes that an engine of this backend, built with these options, is made for: TensorRT allows several optimization profiles in an
/// engine that is not refittable, and elsewhere one range has to hold them all. What was joined, for a warning.
pub fn shapes_of_engine(
    backend: &str,
    options: &Options,
    shapes: &Resolved,
) -> (Resolved, Option<String>) {
    let is = |name: &str, value: &str| options.get(name).is_some_and(|v| v == value);
    let tensorrt = backend.starts_with("tensorrt");
    if shapes.profile_count() == 1 || tensorrt && is("refit", "none") && !is("strip", "true") {
        return (shapes.clone(), None);
    }
    let why = if tensorrt {
        "an engine that can be refitted has one optimization profile (`--refit none` allows several)"
    } else {
        "engines of this backend have no optimization profiles"
    };
    let said = format!(
        "{why}, so the {} profiles of the spec are joined into the smallest range that holds all",
        shapes.profile_count()
    );
    (shapes.joined(), Some(said))
}

/// What stays replaceable with `refit=individual`: what the base checkpoint maps to, where there is one.
pub(super) fn marked<'r>(
    options: &Options,
    has_base: bool,
    rows: impl IntoIterator<Item = &'r Row>,
) -> Option<BTreeSet<String>> {
    let individual = options.get("refit").is_some_and(|r| r == "individual");
    (individual && has_base).then(|| {
        rows.into_iter()
            .filter(|r| r.recipe.is_some() && r.grade.is_writable())
            .map(|r| r.name.clone())
            .collect()
    })
}

/// Notes in a manifest what the slots of its engine say: which weights cannot be refitted, and why.
pub(super) fn note_slots(manifest: &mut Manifest, model: &Model, slots: Vec<Slot>) {
    let refittable: HashMap<&str, bool> = slots
        .iter()
        .map(|s| (s.name.as_str(), s.refittable))
        .collect();
    let identical = manifest
        .options
        .get("refit")
        .is_some_and(|r| r == "identical");
    // A stripped plan that was filled may let nothing be replaced any more.
    let replaceable = slots.iter().any(|s| s.refittable);
    for row in &mut manifest.weights {
        let Some(weight) = model.weight(&row.name) else {
            continue;
        };
        let folded = || {
            manifest
                .folds
                .iter()
                .any(|f| f.sources().contains(&row.name.as_str()))
        };
        let by_parser = || replaceable && manifest.by_parser.contains(&row.name);
        let listed = refittable.get(row.name.as_str()).copied();
        row.unread = weight.role == Role::Unused;
        row.fixed = match fixed(weight, listed.map(|can| can || folded() || by_parser())) {
            None if identical => Some(
                "an engine built with `--refit identical` takes back only its own values".into(),
            ),
            why => why,
        };
    }
    // Kept apart only where they are not the graph's weights by name, type, shape and use.
    let same = slots.iter().all(|s| {
        model
            .weight(&s.name)
            .is_some_and(|w| w.dtype == s.dtype && s.shape.as_ref() == Some(&w.shape))
    });
    manifest.slots = if same && !identical {
        // With `identical` every row is fixed, so that only the slots say what the engine takes.
        Vec::new()
    } else {
        slots
    };
}

/// Digest of every constant tensor by name, on all cores. Events are in bytes.
pub(super) fn digests<'a>(model: &'a Model, watch: &dyn Watch) -> QuickMap<&'a str, Digest> {
    let bytes = model.weights().iter().map(|w| w.byte_length() as u64);
    watch.event(Event::BeginBytes {
        step: "hashing weights",
        bytes: bytes.sum(),
    });
    let digests = model.digests(|n| watch.event(Event::Advance(n)));
    watch.event(Event::End);
    let names = model.weights().iter().map(|w| w.name.as_str());
    names.zip(digests).collect()
}

fn fixed(weight: &Weight, refittable: Option<bool>) -> Option<String> {
    match (&weight.role, refittable) {
        (Role::Structural { operator, why, .. }, _) => {
            Some(format!("{why}, folded into {operator}"))
        }
        (Role::Unused, _) => Some(WeightRow::UNREAD.into()),
        (Role::Weight, Some(true)) => None,
        (Role::Weight, Some(false)) => Some("the engine does not let it be refitted".into()),
        (Role::Weight, None) => Some("not in the engine".into()),
    }
}

/// `to` as seen from the folder of `from`, for a manifest.
pub(super) fn relative(from: &Path, to: &Path) -> String {
    fsx::relative(from, to).to_string_lossy().into_owned()
}

/// A base that does not give the model's parameters is not what the model was exported from: one shard, a fine-tune, another
/// model. Nothing that is decided later could be trusted.
pub(super) fn require_proof(
    mapping: &Mapping,
    files: &[PathBuf],
    partial: bool,
) -> Result<(), Error> {
    let Some(proof) = mapping.proof() else {
        return Ok(());
    };
    // A model without parameters is proven by a base that leaves none of its constants unexplained.
    let any = proof.proven > 0 || (proof.parameters == 0 && proof.is_closed());
    if any && (partial || proof.is_whole()) {
        return Ok(());
    }
    Err(Error::BaseUnproven {
        files: files.to_vec(),
        proof,
    })
}
