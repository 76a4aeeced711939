//! The model with other weights, written out, and compiled again where a refit is not enough.

use super::overlay::Overlay;
use super::ready::Ready;
use crate::engine::BuildJob;
use crate::fsx;
use crate::onnx::Weight;
use crate::pipeline::backends::compiler;
use crate::pipeline::converted;
use crate::pipeline::environment::Environment;
use crate::pipeline::error::Error;
use crate::pipeline::facts::{marked, note_slots};
use crate::pipeline::written::Written;
use crate::plan::{self, Manifest};
use crate::watch::{Event, Watch};
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

pub(in crate::pipeline) fn write_model(overlay: &Overlay, beside: &Path) -> Result<Written, Error> {
    let source = &overlay.model().model;
    let bytes_of = |w: &Weight| -> Result<std::borrow::Cow<'_, [u8]>, Error> {
        let known = overlay.bytes(&w.name)?;
        Ok(known.expect("every weight of the model has a row in the manifest of its plan"))
    };
    // Constants that engines fold in stand in the graph itself.
    let mut folded = HashMap::new();
    for weight in source.weights().iter().filter(|w| !w.is_elided()) {
        let bytes = bytes_of(weight)?;
        if bytes != source.bytes(weight) {
            folded.insert(weight.name.clone(), bytes.into_owned());
        }
    }
    let graph = source.graph_with(&folded)?;
    Written::by(
        beside,
        source.onnx_size(),
        Box::new(|out, data| source.write_graph(&graph, out, data, &bytes_of)),
    )
}

/// Compiles the model with the overlay's weights for the profile that `manifest` has, and puts plan and manifest in place.
/// `manifest` is what it shall be, but for what only the new engine tells.
///
/// # Errors
/// See [`Error`]; what was there is then untouched.
pub(in crate::pipeline) fn compile(
    overlay: &Overlay,
    manifest: Manifest,
    output: &Path,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<(Manifest, Duration), Error> {
    let (ready, time) = stage(overlay, manifest, output, environment, watch)?;
    plan::replace(output, ready.staged, &ready.manifest)?;
    Ok((ready.manifest, time))
}

/// As [`compile`], but leaves the plan beside its place.
///
/// # Errors
/// As [`compile`].
pub(super) fn stage(
    overlay: &Overlay,
    mut manifest: Manifest,
    output: &Path,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<(Ready, Duration), Error> {
    fsx::check_output(output)?;
    let backend = compiler(&manifest, environment)?;
    if backend.needs_bounds() {
        manifest.shapes.require_bounded()?;
    }
    let written = write_model(overlay, output)?;
    let rows = manifest.weights.iter().filter_map(|w| w.mapping.as_deref());
    let mark = marked(&manifest.options, manifest.base.is_some(), rows);
    let job = BuildJob {
        model: &written.model,
        profile: &manifest.profile,
        options: &manifest.options,
        mark: mark.as_ref(),
    };
    watch.event(Event::Begin {
        step: "compiling",
        total: None,
    });
    let start = Instant::now();
    let (staged, bytes, notes) = converted::stage(backend.as_ref(), &job, output, watch)?;
    let time = start.elapsed();
    watch.event(Event::End);
    manifest.plan = bytes;
    // The library may be another version than the plan was built with.
    manifest.backend = backend.identity();
    manifest.notes = notes.notes;
    manifest.stripped = notes.stripped;
    // Compiled here, so what it holds is known.
    manifest.unproven = false;
    manifest.folds = notes.folds;
    manifest.by_parser = notes.by_parser;
    note_slots(&mut manifest, &written.model, notes.slots);
    let ready = Ready {
        output: output.to_owned(),
        staged,
        manifest,
    };
    Ok((ready, time))
}
