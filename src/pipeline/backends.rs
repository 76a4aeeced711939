//! Which backend compiles a model, and which one opens a plan again.

use super::{Environment, Error};
use crate::engine::cpu::{CPU, Cpu};
use crate::engine::{self, Backend, Identity};
use crate::onnx::Model;

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
/// [`engine::Error::Unavailable`] where it is not on this machine, [`engine::Error::Refused`] where `auto` finds none that computes the model.
pub fn choose(
    choice: BackendChoice,
    _model: &Model,
    _environment: &Environment,
) -> Result<Box<dyn Backend>, Error> {
    match choice {
        BackendChoice::Auto | BackendChoice::Cpu => Ok(Box::new(Cpu)),
        BackendChoice::OnnxRuntime => Err(not_yet("onnxruntime")),
        BackendChoice::TensorRt => Err(not_yet("tensorrt")),
        BackendChoice::TensorRtRtx => Err(not_yet("tensorrt-rtx")),
    }
}

/// The backend that compiled a plan, to open it again.
///
/// # Errors
/// As [`choose`].
pub fn reopen(identity: &Identity, _environment: &Environment) -> Result<Box<dyn Backend>, Error> {
    match identity.backend.as_str() {
        CPU => Ok(Box::new(Cpu)),
        other => Err(not_yet(other)),
    }
}

fn not_yet(backend: &str) -> Error {
    engine::Error::Unavailable {
        backend: backend.into(),
        reason: "this build of trtmut does not have it".into(),
        hints: vec!["use `--backend cpu`".into()],
    }
    .into()
}
