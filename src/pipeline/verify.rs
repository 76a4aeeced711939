//! What an engine computes, held against a reference engine that compiles the model with the same weights.

use super::backends::onnxruntime;
use super::converted::is_converted;
use super::environment::Environment;
use super::error::Error;
use super::refit::{Overlay, OverlayRequest, source_model_at, write_model};
use super::run::inputs;
use super::verification::{Verification, Verified};
use crate::engine::cpu::{self, Cpu};
use crate::engine::{Backend, BuildJob, Engine, Options, RunOptions};
use crate::fsx;
use crate::onnx::Model;
use crate::plan::Manifest;
use crate::shapes::Profile;
use crate::tensor::{Difference, Dtype, NamedTensors, difference};
use crate::watch::{Event, Watch};
use std::path::Path;

/// Relative L2 error that two engines may have between them in f32, and where the plan computes in less.
const TOLERANCE: f64 = 1e-4;
const REDUCED_TOLERANCE: f64 = 2e-2;

/// Whether a plan may compute in less than f32: by its options, or because its model does.
fn is_reduced(manifest: &Manifest) -> bool {
    let option = |name: &str| manifest.options.get(name).map_or("", String::as_str);
    let precision = option("precision");
    let narrow = |dtype: Dtype| matches!(dtype, Dtype::F16 | Dtype::Bf16);
    is_converted(manifest)
        || precision.contains("16")
        || precision.contains("int8")
        || option("tf32") == "true"
        || manifest.weights.iter().any(|w| narrow(w.dtype))
        || manifest.inputs.iter().any(|i| narrow(i.dtype))
}

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
    let drawn = inputs::gather_inputs(
        &inputs::InputRequest::default(),
        &manifest.inputs,
        &manifest.outputs,
        &manifest.shapes,
    )?;
    engine.prepare(&RunOptions::default())?;
    let outputs = engine.run(&drawn.tensors)?;
    against_reference(
        manifest,
        overlay,
        &drawn.tensors,
        &outputs,
        beside,
        environment,
    )
}

/// A run whose outputs are to be verified.
pub struct VerifyRequest<'a> {
    /// The plan that ran.
    pub plan: &'a Path,
    pub manifest: &'a Manifest,
    /// The plan's model, where it is not where the manifest says.
    pub model: Option<&'a Path>,
    /// What it was given.
    pub inputs: &'a NamedTensors,
    pub outputs: &'a NamedTensors,
}

/// Compares what a plan computed with what a reference computes from the same inputs and weights.
///
/// # Errors
/// [`Error::Source`] and [`Error::Recipe`] where model or weights cannot be had again; what the reference fails with.
pub fn verify_outputs(
    request: &VerifyRequest<'_>,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Verification, Error> {
    watch.event(Event::Begin {
        step: "verifying",
        total: None,
    });
    let VerifyRequest { plan, manifest, .. } = request;
    let overlay = if manifest.recipe.ingredients.is_empty() {
        let base = OverlayRequest {
            model: request.model.map(Path::to_owned),
            ..OverlayRequest::default()
        };
        Overlay::survey(plan, manifest, &base, watch)?
    } else {
        Overlay::again(plan, manifest, request.model, watch)?
    };
    let found = against_reference(
        manifest,
        &overlay,
        request.inputs,
        request.outputs,
        plan,
        environment,
    )?;
    watch.event(Event::End);
    Ok(found)
}

fn against_reference(
    manifest: &Manifest,
    overlay: &Overlay,
    given: &NamedTensors,
    actual: &NamedTensors,
    beside: &Path,
    environment: &Environment,
) -> Result<Verification, Error> {
    // A reference is built from an ONNX file, so what a refit gave has to stand in one.
    let refitted = !overlay.is_base();
    let written = refitted.then(|| write_model(overlay, beside)).transpose()?;
    let model = written
        .as_ref()
        .map_or(&overlay.model().model, |w| &w.model);
    let reference = reference(model, environment)?;
    let expected = run_once(reference.as_ref(), model, &manifest.profile, given, beside)?;
    let limit = if is_reduced(manifest) {
        REDUCED_TOLERANCE
    } else {
        TOLERANCE
    };
    let mut outputs = Vec::new();
    for (name, a) in actual {
        // By name: engines give their outputs in an order of their own.
        let Some((_, e)) = expected.iter().find(|(n, _)| n == name) else {
            return Err(crate::engine::Error::Library {
                library: reference.identity().library,
                message: format!("the reference gives no output `{name}`"),
            }
            .into());
        };
        let d = if a.shape == e.shape {
            difference(a.view(), e.view(), limit, limit).map_err(|cause| {
                crate::mapping::Error::Convert {
                    weight: name.clone(),
                    cause,
                }
            })?
        } else {
            Difference::OF_OTHER_SHAPES
        };
        outputs.push(Verified {
            output: name.clone(),
            equal: d.relative_l2 <= limit,
            difference: d,
        });
    }
    Ok(Verification {
        reference: reference.identity().library,
        outputs,
    })
}

/// Checks that there is a reference for the model of a plan, before anything is done that a verification shall follow.
///
/// # Errors
/// [`Error::Source`] where the model cannot be had; [`crate::engine::Error::Refused`] where no reference runs it.
pub fn require_reference(
    plan: &Path,
    manifest: &Manifest,
    moved: Option<&Path>,
    environment: &Environment,
) -> Result<(), Error> {
    let source = source_model_at(plan, manifest, moved)?;
    reference(&source.model, environment).map(drop)
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
    model: &Model,
    profile: &Profile,
    inputs: &NamedTensors,
    beside: &Path,
) -> Result<NamedTensors, Error> {
    // None of the plan's: what they change is what is to be seen.
    let options = Options::new();
    let job = BuildJob {
        model,
        profile,
        options: &options,
        mark: None,
    };
    let staged = fsx::Staged::write::<Error>(beside, |out| {
        backend.build(&job, out, &crate::watch::Silent)?;
        Ok(())
    })?;
    let mut engine = backend.open(staged.path())?;
    engine.prepare(&RunOptions::default())?;
    Ok(engine.run(inputs)?)
}
