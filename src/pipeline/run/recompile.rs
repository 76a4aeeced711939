//! A plan is compiled again from the model that its manifest names: same backend, same options, another shape range.

use crate::pipeline::backends::compiler;
use crate::pipeline::build::{BuildRequest, MappingSource, build};
use crate::pipeline::environment::Environment;
use crate::pipeline::error::Error;
use crate::pipeline::refit::{Overlay, rebuild, source_model_at};
use crate::plan::Manifest;
use crate::shapes::Resolved;
use crate::watch::Watch;
use std::path::Path;
use std::time::Duration;

/// Compiles the plan again for `shapes` and replaces it, from the model at `moved` where it is not where the manifest says. It holds the same weights afterwards, those that it was refitted with
/// among them. Tells how long the compiling took.
///
/// # Errors
/// As [`source_model_at`] and [`crate::pipeline::build()`]; [`Error::Recipe`] where the weights cannot be had again. The old plan is then
/// untouched.
pub fn recompile(
    plan: &Path,
    manifest: &Manifest,
    moved: Option<&Path>,
    shapes: &Resolved,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Duration, Error> {
    if !manifest.recipe.ingredients.is_empty() {
        let overlay = Overlay::again(plan, manifest, moved, watch)?;
        let wanted = Manifest {
            profile: shapes.profile(),
            shapes: shapes.clone(),
            ..manifest.clone()
        };
        let (_, time) = rebuild::compile(&overlay, wanted, plan, environment, watch)?;
        return Ok(time);
    }
    let source = source_model_at(plan, manifest, moved)?;
    let backend = compiler(manifest, environment)?;
    let built = build(
        &BuildRequest {
            model: &source.model,
            model_path: &source.path,
            shapes,
            mapping: MappingSource::Keep(manifest),
            options: &manifest.options,
            backend: backend.as_ref(),
            output: plan,
            force: true,
        },
        watch,
    )?;
    Ok(built.compile)
}
