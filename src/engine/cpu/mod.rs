//! The CPU backends: `cpu`, an embedded engine behind a guard that needs nothing installed, and `onnxruntime`, a library on
//! this machine. They share a plan format (`container`); a plan keeps the original graph, and what a backend changes in it is
//! done when a session is made.

#[cfg(not(all(feature = "embedded", feature = "onnxruntime")))]
mod absent;
mod checks;
mod conditions;
mod container;
mod facts;
mod inline;
mod lower;
mod narrow;
#[cfg(feature = "onnxruntime")]
mod ort;
mod plan;
mod proto;
mod recurrent;
mod rewrite;
#[cfg(feature = "embedded")]
mod rten;
mod site;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod walk;
mod writer;

#[cfg(not(feature = "onnxruntime"))]
pub use absent::ort::OnnxRuntime;
#[cfg(not(feature = "embedded"))]
use absent::rten;
#[cfg(feature = "onnxruntime")]
pub use ort::OnnxRuntime;

use super::{
    Backend, BuildJob, BuildNotes, Engine, Error, Identity, NOTHING_CONVERTED, Options, Refusal,
    RunOptions, Slot, Written,
};
use crate::onnx::Model;
use crate::tensor::{Digest, Dtype};
use crate::watch::{Event, Watch};
use container::Container;
pub use container::{digest_of, is_known_by_tensors};
use lower::lower;
use plan::PlanEngine;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use writer::{Content, Contents};

/// Name of the embedded backend.
pub const CPU: &str = "cpu";

/// What computes for it, and its version.
const LIBRARY: &str = "rten 0.27.0";

/// Name of onnxruntime's.
pub const ONNXRUNTIME: &str = "onnxruntime";

/// The embedded backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl Backend for Cpu {
    fn identity(&self) -> Identity {
        Identity {
            backend: CPU.into(),
            library: LIBRARY.into(),
            device: BTreeMap::new(),
        }
    }

    fn build(
        &self,
        job: &BuildJob<'_>,
        out: &mut dyn Write,
        watch: &dyn Watch,
    ) -> Result<BuildNotes, Error> {
        let notes = notes_of(job)?;
        write_plan(CPU, job.model, out, watch, notes)
    }

    fn build_into(
        &self,
        job: &BuildJob<'_>,
        file: &File,
        watch: &dyn Watch,
    ) -> Result<Option<(BuildNotes, Written)>, Error> {
        let notes = notes_of(job)?;
        write_plan_into(CPU, job.model, file, watch, notes)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Engine>, Error> {
        let container = Container::open(path, CPU)?;
        let start = Box::new(rten::RtenSession::start);
        Ok(Box::new(PlanEngine::new(CPU, container, start)?))
    }
}

/// What is to be said of a plan of the job's model, which the engine takes and has loaded once.
fn notes_of(job: &BuildJob<'_>) -> Result<Vec<String>, Error> {
    take_no_options(CPU, job.options)?;
    Ok(prove(job.model)?.notes)
}

fn refused(refusals: Vec<Refusal>) -> Error {
    Error::Refused {
        backend: CPU.into(),
        refusals,
    }
}

/// The embedded backend for a model that it has loaded once.
struct Proven {
    notes: Vec<String>,
}

impl Backend for Proven {
    fn identity(&self) -> Identity {
        Cpu.identity()
    }

    fn build(
        &self,
        job: &BuildJob<'_>,
        out: &mut dyn Write,
        watch: &dyn Watch,
    ) -> Result<BuildNotes, Error> {
        // What was loaded is the model as it was before it was converted.
        if job.options.contains_key("convert") {
            return Cpu.build(job, out, watch);
        }
        take_no_options(CPU, job.options)?;
        write_plan(CPU, job.model, out, watch, self.notes.clone())
    }

    fn build_into(
        &self,
        job: &BuildJob<'_>,
        file: &File,
        watch: &dyn Watch,
    ) -> Result<Option<(BuildNotes, Written)>, Error> {
        if job.options.contains_key("convert") {
            return Cpu.build_into(job, file, watch);
        }
        take_no_options(CPU, job.options)?;
        write_plan_into(CPU, job.model, file, watch, self.notes.clone())
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Engine>, Error> {
        Cpu.open(path)
    }
}

/// Loads `model` as a run would, so that what the engine does not take is told when it is built.
///
/// # Errors
/// [`Error::Refused`], or [`Error::Unavailable`] where this build has no embedded engine.
fn prove(model: &Model) -> Result<Proven, Error> {
    let lowered = lower(model.proto());
    if !lowered.refusals.is_empty() {
        return Err(refused(lowered.refusals));
    }
    let notes = lowered.notes.clone();
    let slots = slots(model);
    let load = |lowered, values: bool| {
        let bytes_of = |slot: &Slot| {
            // Integers may be indices and shapes, which loading looks at, and those of f64 are held against f32.
            if !values && matches!(slot.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
                return Ok(None);
            }
            match model.weight(&slot.name) {
                Some(weight) => Ok(Some(model.read(weight))),
                None => Err(Error::Weight {
                    name: slot.name.clone(),
                    reason: "the model does not hold it".into(),
                }),
            }
        };
        let options = RunOptions::default();
        rten::RtenSession::load(model, lowered, &slots, &bytes_of, &options)
    };
    // In f32 the weights of a large model would take twice its size, and loading does not ask for the values of floats but where it
    // folds constants; whether zeros or the model are wrong there, only the values tell.
    match load(lowered, false).or_else(|_| load(lower(model.proto()), true)) {
        Ok(_) => Ok(Proven { notes }),
        Err(told @ (Error::Refused { .. } | Error::Unavailable { .. })) => Err(told),
        Err(other) => Err(refused(vec![Refusal {
            node: "the model".into(),
            operator: "loading".into(),
            reason: other.to_string(),
        }])),
    }
}

/// Opens a plan, reads every weight, and writes the same plan into memory: what fuzzing does with a file.
///
/// # Errors
/// [`Error::Plan`], [`Error::File`], [`Error::Weight`].
#[cfg(any(test, fuzzing))]
pub(crate) fn read_and_write(path: &Path) -> Result<Vec<u8>, Error> {
    let container = Container::open(path, CPU)?;
    let mut out = Vec::new();
    container::write(
        &mut out,
        CPU,
        container.graph(),
        container.slots(),
        |slot| {
            let bytes = container
                .bytes(&slot.name)
                .expect("every slot has its bytes");
            Ok(bytes.into())
        },
    )?;
    Ok(out)
}

/// The operators of ONNX's own domain that the embedded engine computes, by name.
pub fn operators() -> impl Iterator<Item = &'static str> {
    table::ROWS.iter().map(|row| row.op)
}

/// Why the embedded engine refuses `model`, as far as its graph alone says; empty when it computes it.
pub fn refusals(model: &Model) -> Vec<Refusal> {
    lower(model.proto()).refusals
}

/// The embedded backend where it computes `model` and loads it, else onnxruntime where `locate` finds it. The refusals that come
/// with onnxruntime say why it was chosen. The backend is for `model` alone.
///
/// # Errors
/// What the embedded engine says ([`Error::Refused`], or [`Error::Unavailable`] where this build has none), when there is no onnxruntime.
pub fn auto(
    model: &Model,
    locate: impl FnOnce() -> Result<OnnxRuntime, Error>,
) -> Result<(Box<dyn Backend>, Vec<Refusal>), Error> {
    let refused = match prove(model) {
        Ok(proven) => return Ok((Box::new(proven), Vec::new())),
        Err(refused) => refused,
    };
    let Ok(runtime) = locate() else {
        return Err(refused);
    };
    Ok(match refused {
        Error::Refused { refusals, .. } => (Box::new(runtime), refusals),
        _ => (Box::new(runtime), Vec::new()),
    })
}

/// What was done to the model before is none.
fn take_no_options(backend: &str, options: &Options) -> Result<(), Error> {
    let converted = options.contains_key("convert");
    let done = |name: &str| converted && matches!(name, "convert" | "f32-layers");
    match options.iter().find(|(name, _)| !done(name)) {
        None => Ok(()),
        Some((name, value)) => Err(Error::Option {
            backend: backend.into(),
            option: format!("{name}={value}"),
            reason: match (name.as_str(), value.as_str()) {
                ("f32-layers", _) => NOTHING_CONVERTED.into(),
                ("precision", half @ ("fp16" | "bf16")) => {
                    format!(
                        "it cannot choose; pass `--convert {half}` instead, for the whole model"
                    )
                }
                _ => "its only options are --convert and, with it, --f32-layers".into(),
            },
        }),
    }
}

/// The weights of a model, for a new plan.
struct OfModel<'m>(&'m Model);

impl Contents for OfModel<'_> {
    fn kept(&self, _: &Slot) -> Option<Digest> {
        None
    }

    fn of(&self, slot: &Slot) -> Result<Content<'_>, Error> {
        match self.0.weight(&slot.name) {
            Some(weight) => Ok(Content::Bytes(self.0.read(weight), None)),
            None => Err(Error::Weight {
                name: slot.name.clone(),
                reason: "the model does not hold it".into(),
            }),
        }
    }
}

/// Writes the plan of `model` to an empty file.
fn write_plan_into(
    backend: &str,
    model: &Model,
    file: &File,
    watch: &dyn Watch,
    notes: Vec<String>,
) -> Result<Option<(BuildNotes, Written)>, Error> {
    let slots = slots(model);
    let graph = model.graph_bytes();
    let written = writer::write(file, backend, &graph, &slots, &OfModel(model), None, watch)?;
    let notes = BuildNotes {
        notes,
        slots,
        folds: Vec::new(),
        by_parser: Vec::new(),
        stripped: false,
    };
    Ok(Some((notes, written)))
}

/// Streams the plan of `model`.
fn write_plan(
    backend: &str,
    model: &Model,
    out: &mut dyn Write,
    watch: &dyn Watch,
    notes: Vec<String>,
) -> Result<BuildNotes, Error> {
    let weights: BTreeMap<&str, _> = model
        .weights()
        .iter()
        .filter(|w| w.is_elided())
        .map(|w| (w.name.as_str(), w))
        .collect();
    let slots = slots(model);
    watch.event(Event::Begin {
        step: "writing weights",
        total: Some(slots.len() as u64),
    });
    container::write(out, backend, &model.graph_bytes(), &slots, |slot| {
        watch.event(Event::Advance(1));
        Ok(model.bytes(weights[slot.name.as_str()]))
    })?;
    watch.event(Event::End);
    Ok(BuildNotes {
        notes,
        slots,
        folds: Vec::new(),
        by_parser: Vec::new(),
        stripped: false,
    })
}

/// The weights that a plan of `model` holds.
fn slots(model: &Model) -> Vec<Slot> {
    model
        .weights()
        .iter()
        .filter(|w| w.is_elided())
        .map(|w| Slot {
            name: w.name.clone(),
            dtype: w.dtype,
            count: w.shape.iter().product(),
            shape: Some(w.shape.clone()),
            refittable: true,
        })
        .collect()
}
