//! What everything that opens an engine does alike.

use super::api::{Core, CudaEngine, Runtime};
use super::gpu::{Gpu, cuda};
use super::loader::Loaded;
use crate::engine::Error;
use std::sync::Arc;

/// Opens plan bytes, with the GPU's context current. `host_code`: they bring code of their own, and it may run.
pub(super) fn deserialize(
    core: &Arc<Core>,
    gpu: &Gpu,
    plan: &[u8],
    host_code: bool,
) -> Result<CudaEngine, Error> {
    gpu.context().map_err(cuda)?;
    drop(core.take_messages());
    let runtime = Runtime::new(core)?;
    // Said to the runtime before it opens anything: by default it refuses code that a plan brings.
    if host_code {
        runtime.allow_host_code()?;
    }
    runtime.deserialize(plan)
}

pub(super) fn no_gpu(loaded: &Loaded, what: &str, reason: &str) -> Error {
    Error::Unavailable {
        backend: loaded.product.backend().into(),
        reason: format!(
            "{what} with {} needs a CUDA device, and {reason}",
            loaded.title()
        ),
        hints: vec!["use a machine with an NVIDIA GPU, or `--backend cpu`".into()],
    }
}

/// Threads to use where nothing else is said.
pub(super) fn default_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(16)
}
