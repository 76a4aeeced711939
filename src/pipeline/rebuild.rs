//! The model with other weights, written out: to compile it again where a refit is not enough, and to check a refit against.

use super::build::own_slots;
use super::{Environment, Error, Overlay, Prepared, compiler, inputs, onnxruntime};
use crate::engine::cpu::{self, Cpu};
use crate::engine::{Backend, BuildJob, Engine, Options, RunOptions};
use crate::fsx;
use crate::onnx::{Model, Weight};
use crate::plan::{self, Manifest};
use crate::shapes::Profile;
use crate::tensor::{Difference, NamedTensors, difference};
use crate::watch::{Event, Watch};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A model file that is removed when it is dropped.
struct Written {
    model: Model,
    _folder: fsx::Scratch,
}

/// Above this many bytes the weights go into a file beside the model: protobuf messages end at 2 GiB.
const INLINE_LIMIT: u64 = 1 << 30;

fn write_model(overlay: &Overlay, beside: &Path) -> Result<Written, Error> {
    let folder = fsx::Scratch::beside(beside)?;
    let source = &overlay.model().model;
    let path = folder.path().join("model.onnx");
    let create = |p: &PathBuf| -> Result<BufWriter<File>, Error> {
        let file = File::create(p).map_err(|e| fsx::Error::write(p, e))?;
        Ok(BufWriter::with_capacity(1 << 20, file))
    };
    let bytes_of = |w: &Weight| -> Result<std::borrow::Cow<'_, [u8]>, Error> {
        let known = overlay.bytes(&w.name)?;
        Ok(known.expect("every weight of the model has a row in the manifest of its plan"))
    };
    let mut out = create(&path)?;
    if source.onnx_size() <= INLINE_LIMIT {
        source.write_onnx(&mut out, &bytes_of)?;
    } else {
        let name = "model.onnx.data";
        let data_path = folder.path().join(name);
        let mut data = create(&data_path)?;
        source.write_onnx_external(&mut out, &mut data, name, &bytes_of)?;
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

/// How far one output of a refitted engine is from the reference.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Output name.
    pub output: String,
    /// The distance.
    pub difference: Difference,
    /// Whether it is within tolerance.
    pub equal: bool,
}

/// A check of a refitted engine against a reference engine that compiled the model with the same weights.
#[derive(Debug, Clone)]
pub struct Verification {
    /// Library of the reference engine.
    pub reference: String,
    /// Per output.
    pub outputs: Vec<Verified>,
}

impl Verification {
    /// Whether every output is within tolerance.
    pub fn is_equal(&self) -> bool {
        self.outputs.iter().all(|o| o.equal)
    }
}

/// Relative L2 error that two engines may have between them in f32, and where the plan computes in half precision.
const TOLERANCE: f64 = 1e-4;
const HALF_TOLERANCE: f64 = 2e-2;

/// Runs `engine` and a reference on inputs drawn from a seed, at the sizes that the plan was optimised for.
///
/// # Errors
/// What either engine fails with.
pub(super) fn verify(
    engine: &mut dyn Engine,
    manifest: &Manifest,
    overlay: &Overlay,
    beside: &Path,
    environment: &Environment,
) -> Result<Verification, Error> {
    let written = write_model(overlay, beside)?;
    let drawn = inputs::gather_inputs(
        &inputs::InputRequest::default(),
        &manifest.inputs,
        &manifest.shapes,
    )?;
    let reference = reference(&written.model, environment)?;
    let expected = run_once(
        reference.as_ref(),
        &written,
        &manifest.profile,
        &drawn.tensors,
        beside,
    )?;
    engine.prepare(&RunOptions::default())?;
    let actual = engine.run(&drawn.tensors)?;
    let half = manifest
        .options
        .get("precision")
        .is_some_and(|p| p.contains("16") || p.contains("int8"));
    let limit = if half { HALF_TOLERANCE } else { TOLERANCE };
    let mut outputs = Vec::new();
    for ((name, a), (_, e)) in actual.iter().zip(&expected) {
        let d = difference(a.view(), e.view(), limit, limit).map_err(|cause| {
            crate::mapping::Error::Convert {
                weight: name.clone(),
                cause,
            }
        })?;
        outputs.push(Verified {
            output: name.clone(),
            equal: a.shape == e.shape && d.relative_l2 <= limit,
            difference: d,
        });
    }
    Ok(Verification {
        reference: reference.identity().library,
        outputs,
    })
}

/// onnxruntime where it is installed, since it is the better witness; else the embedded engine.
fn reference(model: &Model, environment: &Environment) -> Result<Box<dyn Backend>, Error> {
    if let Ok(runtime) = onnxruntime(environment) {
        return Ok(Box::new(runtime));
    }
    let refusals = cpu::refusals(model);
    if refusals.is_empty() {
        return Ok(Box::new(Cpu));
    }
    Err(crate::engine::Error::Refused {
        backend: cpu::CPU.into(),
        refusals,
    }
    .into())
}

fn run_once(
    backend: &dyn Backend,
    written: &Written,
    profile: &Profile,
    inputs: &NamedTensors,
    beside: &Path,
) -> Result<NamedTensors, Error> {
    let options = Options::new();
    let job = BuildJob {
        model: &written.model,
        profile,
        options: &options,
    };
    let staged = fsx::Staged::write::<Error>(beside, |out| {
        backend.build(&job, out, &crate::watch::Silent)?;
        Ok(())
    })?;
    let mut engine = backend.open(staged.path())?;
    engine.prepare(&RunOptions::default())?;
    Ok(engine.run(inputs)?)
}

impl Prepared {
    /// Compiles the model with the overlay's weights and puts the plan in place, instead of refitting it.
    ///
    /// # Errors
    /// See [`Error`]; what was there is then untouched.
    pub fn rebuild(
        &self,
        output: &Path,
        environment: &Environment,
        watch: &dyn Watch,
    ) -> Result<(Manifest, Duration), Error> {
        fsx::check_output(output)?;
        let written = write_model(self.overlay(), output)?;
        let mut manifest = self.manifest();
        let backend = compiler(&manifest, environment)?;
        let job = BuildJob {
            model: &written.model,
            profile: &manifest.profile,
            options: &manifest.options,
        };
        watch.event(Event::Begin {
            step: "compiling",
            total: None,
        });
        let start = Instant::now();
        let mut notes = None;
        let (staged, bytes) = plan::stage::<Error>(output, |out| {
            notes = Some(backend.build(&job, out, watch)?);
            Ok(())
        })?;
        watch.event(Event::End);
        manifest.plan = bytes;
        manifest.slots = notes.map_or_else(Vec::new, |n| own_slots(&written.model, n.slots));
        manifest.backend = backend.identity();
        plan::replace(output, staged, &manifest)?;
        Ok((manifest, start.elapsed()))
    }
}
