//! A plan on disk becomes an open engine.

use super::backends::reopen;
use super::environment::Environment;
use super::error::Error;
use super::other_gpu::check_gpu;
use crate::engine::Engine;
use crate::plan::{self, Manifest};
use std::path::Path;

/// A plan that was checked against its manifest, and its engine.
pub struct OpenPlan {
    /// What the plan is.
    pub manifest: Manifest,
    /// Open, and not told yet how it is to run: [`Engine::prepare`].
    pub engine: Box<dyn Engine>,
}

/// Checks a plan against its manifest and opens it with the backend that compiled it, to run it.
///
/// # Errors
/// See [`Error`]; [`Error::Stripped`] for a plan without weights, which TensorRT would run on whatever its memory holds.
pub fn open(plan: &Path, environment: &Environment) -> Result<OpenPlan, Error> {
    let manifest = plan::open(plan)?;
    if manifest.stripped {
        return Err(Error::Stripped {
            plan: plan.to_owned(),
        });
    }
    let library = &manifest.backend.library;
    let _span = tracing::info_span!("open", plan = ?plan, %library).entered();
    let engine = open_engine(plan, &manifest, environment)?;
    Ok(OpenPlan { manifest, engine })
}

/// The engine of a plan, by the backend that compiled it; nothing is read for a GPU that it is not for.
pub(super) fn open_engine(
    plan: &Path,
    manifest: &Manifest,
    environment: &Environment,
) -> Result<Box<dyn Engine>, Error> {
    let backend = reopen(manifest, environment)?;
    check_gpu(plan, &manifest.backend, &manifest.options)?;
    Ok(backend.open(plan)?)
}
