//! `--convert`: a model is compiled in half precision, whoever compiles it.
//!
//! The manifest is about the model as it is: mapping, digests and verdicts are those of its own values, and what an engine holds of
//! them is rounded when it is given to it (see `feed`).

use super::error::Error;
use super::written::Written;
use crate::engine::{self, Backend, BuildJob, BuildNotes};
use crate::fsx::Staged;
use crate::onnx::half::Half;
use crate::onnx::keep;
use crate::plan::{self, Manifest, PlanRef};
use crate::tensor::{ConvertError, Digest, Dtype, narrow};
use crate::watch::{Event, Watch};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// The option that asks for it.
const OPTION: &str = "convert";

/// Compiles a model and writes the plan beside `output`: of the model in half precision where the options ask for it, which is
/// written there too, for as long as that takes.
///
/// # Errors
/// As [`Backend::build`]; [`Error::Convert`].
pub(super) fn stage(
    backend: &dyn Backend,
    job: &BuildJob<'_>,
    output: &Path,
    watch: &dyn Watch,
) -> Result<(Staged, PlanRef, BuildNotes), Error> {
    let Some(name) = job.options.get(OPTION) else {
        return compiled(backend, job, output, watch);
    };
    let refuse = |option: &str, value: &str, reason: String| engine::Error::Option {
        backend: backend.identity().backend,
        option: format!("{option}={value}"),
        reason,
    };
    let half = Half::from_name(name)
        .ok_or_else(|| refuse(OPTION, name, "it is one of `fp16`, `bf16`".into()))?;
    let list = job.options.get("f32-layers");
    let patterns =
        list.map(|list| keep::patterns(list).map_err(|reason| refuse("f32-layers", list, reason)));
    let patterns = patterns.transpose()?.unwrap_or_default();
    watch.event(Event::Begin {
        step: "converting the model",
        total: None,
    });
    let fault = |cause| Error::Convert {
        half,
        cause: Box::new(cause),
    };
    let converted = job.model.to_half(half, &patterns).map_err(fault)?;
    let written = Written::by(
        output,
        job.model.onnx_size(),
        Box::new(|out, data| job.model.write_half(&converted, out, data).map_err(fault)),
    )?;
    watch.event(Event::End);
    let job = BuildJob {
        model: &written.model,
        ..*job
    };
    let (staged, plan, mut notes) = compiled(backend, &job, output, watch)?;
    notes.notes.insert(0, converted.says());
    // A refit has the model as it is, which is not the one that the engine was built from.
    notes.by_parser.clear();
    Ok((staged, plan, notes))
}

fn compiled(
    backend: &dyn Backend,
    job: &BuildJob<'_>,
    output: &Path,
    watch: &dyn Watch,
) -> Result<(Staged, PlanRef, BuildNotes), Error> {
    plan::stage::<Error, _>(
        output,
        |file| (backend.build_into(job, file, watch)).map_err(Error::writing(output)),
        |out| (backend.build(job, out, watch)).map_err(Error::writing(output)),
    )
}

/// Whether the plan was built of a model that was converted.
pub(super) fn is_converted(manifest: &Manifest) -> bool {
    manifest.options.contains_key(OPTION)
}

/// The bytes that a weight is to get, by name.
type BytesOf<'f, 'b> = dyn Fn(&str) -> Result<Option<Cow<'b, [u8]>>, Error> + Sync + 'f;

/// Refuses new values that an engine of half precision cannot hold: their digests and bytes by the name of the weight.
///
/// # Errors
/// [`Error::TooLarge`]; what `bytes` fails with.
pub(super) fn refuse_overflow(
    plan: &Path,
    manifest: &Manifest,
    digest: &(dyn Fn(&str) -> Option<Digest> + Sync),
    bytes: &BytesOf<'_, '_>,
) -> Result<(), Error> {
    let rows = manifest.weights.iter().map(|w| (w.name.as_str(), w));
    let rows: HashMap<_, _> = rows.collect();
    let narrower = manifest.slots.par_iter().filter_map(|slot| {
        let row = rows.get(slot.name.as_str())?;
        // Values that the engine holds already fit into it.
        let changes = digest(&slot.name) != Some(row.digest);
        let narrows = matches!(slot.dtype, Dtype::F16 | Dtype::Bf16) && row.dtype != slot.dtype;
        (changes && narrows && slot.refittable).then_some((slot, row.dtype))
    });
    narrower.try_for_each(|(slot, dtype)| {
        let Some(bytes) = bytes(&slot.name)? else {
            return Ok(());
        };
        match narrow(dtype, slot.dtype, &bytes) {
            Err(cause @ ConvertError::Overflow { .. }) => Err(Error::TooLarge {
                plan: plan.to_owned(),
                weight: slot.name.clone(),
                cause,
            }),
            _ => Ok(()),
        }
    })
}
