//! A plan is compiled again from the model that its manifest names: same backend, same options, another shape range.

use super::{BuildRequest, Environment, Error, MappingSource, Overlay, build, compiler, rebuild};
use crate::onnx::Model;
use crate::plan::Manifest;
use crate::shapes::Resolved;
use crate::watch::Watch;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The model of a plan, found again and checked.
pub struct SourceModel {
    /// The model; its structure is what the plan was compiled from.
    pub model: Model,
    /// Where it was found.
    pub path: PathBuf,
}

/// Opens the model that the manifest of `plan` names.
///
/// # Errors
/// [`Error::Source`] when it is gone or has another structure now; the reader's own errors.
pub fn source_model(plan: &Path, manifest: &Manifest) -> Result<SourceModel, Error> {
    let folder = plan.parent().unwrap_or(Path::new("."));
    let path = folder.join(&manifest.model.path);
    let refuse = |reason: &'static str| Error::Source {
        plan: plan.to_owned(),
        model: path.clone(),
        reason,
    };
    if !path.exists() {
        return Err(refuse("is not there"));
    }
    let model = Model::open(&path)?;
    if model.structure_digest() != manifest.model.structure {
        return Err(refuse("has another structure now"));
    }
    Ok(SourceModel { model, path })
}

/// Compiles the plan again for `shapes` and replaces it. It holds the same weights afterwards, those that it was refitted with
/// among them. Tells how long the compiling took.
///
/// # Errors
/// As [`source_model`] and [`build()`]; [`Error::Recipe`] where the weights cannot be had again. The old plan is then
/// untouched.
pub fn recompile(
    plan: &Path,
    manifest: &Manifest,
    shapes: &Resolved,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Duration, Error> {
    if !manifest.recipe.ingredients.is_empty() {
        let overlay = Overlay::again(plan, manifest, watch)?;
        let wanted = Manifest {
            profile: shapes.profile(),
            shapes: shapes.clone(),
            ..manifest.clone()
        };
        let (_, time) = rebuild::compile(&overlay, wanted, plan, environment, watch)?;
        return Ok(time);
    }
    let source = source_model(plan, manifest)?;
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
