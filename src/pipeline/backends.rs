//! Which backend compiles a model, and which one opens a plan again.

use super::{Environment, Error};
use crate::engine::cpu::{self, CPU, Cpu, ONNXRUNTIME, OnnxRuntime};
use crate::engine::{self, Backend, Identity};
use crate::onnx::Model;
use crate::watch::{Event, Watch};

/// `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendChoice {
    /// The embedded engine where it computes the model right, else onnxruntime where it is installed
    Auto,
    /// The embedded engine: nothing to install
    Cpu,
    /// onnxruntime's CPU provider, from ORT_DYLIB_PATH or python3's packages
    #[value(name = "onnxruntime")]
    OnnxRuntime,
    /// NVIDIA TensorRT
    #[value(name = "tensorrt")]
    TensorRt,
    /// NVIDIA TensorRT for RTX
    #[value(name = "tensorrt-rtx")]
    TensorRtRtx,
}

/// The backend that compiles `model`.
///
/// # Errors
/// [`engine::Error::Unavailable`] where it is not on this machine, [`engine::Error::Refused`] where `auto` finds none that
/// computes the model.
pub fn choose(
    choice: BackendChoice,
    model: &Model,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Box<dyn Backend>, Error> {
    match choice {
        BackendChoice::Auto => {
            let (backend, refusals) = cpu::auto(model, || onnxruntime(environment))?;
            if let Some(first) = refusals.first() {
                watch.event(Event::Warn(&format!(
                    "onnxruntime is used, because the embedded engine refuses {} in node `{}`: {}",
                    first.operator, first.node, first.reason
                )));
            }
            Ok(backend)
        }
        BackendChoice::Cpu => Ok(Box::new(Cpu)),
        BackendChoice::OnnxRuntime => Ok(Box::new(onnxruntime(environment)?)),
        BackendChoice::TensorRt => Err(not_here("tensorrt")),
        BackendChoice::TensorRtRtx => Err(not_here("tensorrt-rtx")),
    }
}

/// The backend that compiled a plan, to open it again.
///
/// # Errors
/// As [`choose`].
pub fn reopen(identity: &Identity, environment: &Environment) -> Result<Box<dyn Backend>, Error> {
    match identity.backend.as_str() {
        CPU => Ok(Box::new(Cpu)),
        ONNXRUNTIME => Ok(Box::new(onnxruntime(environment)?)),
        other => Err(not_here(other)),
    }
}

/// onnxruntime, where it is installed.
///
/// # Errors
/// [`engine::Error::Unavailable`] where it is not, or is too old.
pub fn onnxruntime(environment: &Environment) -> Result<OnnxRuntime, engine::Error> {
    match &environment.ort_dylib {
        Some(explicit) => OnnxRuntime::locate(Some(explicit), &[]),
        None => OnnxRuntime::locate(None, environment.site_packages()),
    }
}

fn not_here(backend: &str) -> Error {
    engine::Error::Unavailable {
        backend: backend.into(),
        reason: "it is not in this build of trtmut yet".into(),
        hints: vec!["use `--backend cpu` or `--backend onnxruntime`".into()],
    }
    .into()
}
