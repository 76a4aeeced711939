//! The model with other weights, written out, and compiled again where a refit is not enough.

use super::overlay::Overlay;
use super::ready::Ready;
use crate::engine::BuildJob;
use crate::fsx;
use crate::onnx::{Model, Weight};
use crate::pipeline::backends::compiler;
use crate::pipeline::environment::Environment;
use crate::pipeline::error::Error;
use crate::pipeline::facts::{marked, note_slots};
use crate::plan::{self, Manifest};
use crate::watch::{Event, Watch};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A model file that is removed when it is dropped.
pub(in crate::pipeline) struct Written {
    pub(in crate::pipeline) model: Model,
    _folder: fsx::Scratch,
}

/// Above this many bytes the weights go into a file beside the model: protobuf messages end at 2 GiB.
const INLINE_LIMIT: u64 = 1 << 30;

pub(in crate::pipeline) fn write_model(overlay: &Overlay, beside: &Path) -> Result<Written, Error> {
    let folder = fsx::Scratch::beside(beside)?;
    let source = &overlay.model().model;
    let path = folder.path().join("model.onnx");
    let create = |p: &PathBuf| -> Result<BufWriter<File>, Error> {
        Ok(BufWriter::with_capacity(
            1 << 20,
            fsx::create_in_scratch(p)?,
        ))
    };
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
    let mut out = create(&path)?;
    if source.onnx_size() <= INLINE_LIMIT {
        source.write_graph(&graph, &mut out, None, &bytes_of)?;
    } else {
        let name = "model.onnx.data";
        let data_path = folder.path().join(name);
        let mut data = create(&data_path)?;
        source.write_graph(&graph, &mut out, Some((&mut data, name)), &bytes_of)?;
        data.into_inner()
            .map_err(|e| fsx::Error::write(&data_path, e.into_error()))?;
    }
    out.into_inner()
        .map_err(|e| fsx::Error::write(&path, e.into_error()))?;
    Ok(Written {
        model: Model::open(&path)?,
        _folder: folder,
    })
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
    let rows = manifest.weights.iter().filter_map(|w| w.mapping.as_ref());
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
    let (staged, bytes, notes) = plan::stage::<Error, _>(
        output,
        |file| (backend.build_into(&job, file, watch)).map_err(Error::writing(output)),
        |out| (backend.build(&job, out, watch)).map_err(Error::writing(output)),
    )?;
    let time = start.elapsed();
    watch.event(Event::End);
    manifest.plan = bytes;
    manifest.backend = backend.identity();
    manifest.notes = notes.notes;
    manifest.stripped = notes.stripped;
    manifest.unproven = false;
    manifest.folds = notes.folds;
    note_slots(&mut manifest, &written.model, notes.slots);
    let ready = Ready {
        output: output.to_owned(),
        staged,
        manifest,
    };
    Ok((ready, time))
}
