//! A plan is compiled again from the model that its manifest names: same backend, same options, same weights, another shape
//! range.

use super::{
    BuildRequest, Built, CacheUse, Environment, Error, MappingSource, OverlayRequest, Prepared,
    build, prepare, reopen,
};
use crate::onnx::Model;
use crate::plan::{Ingredient, Manifest};
use crate::shapes::Resolved;
use crate::watch::Watch;
use crate::weights::lora::Fuse;
use std::path::{Path, PathBuf};

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

/// Compiles the plan again for `shapes`, with the weights that it holds now, and replaces it.
///
/// # Errors
/// [`Error::Lost`] where those weights cannot be had again; as [`source_model`] and [`build()`]. The old plan is then untouched.
pub fn recompile(
    plan: &Path,
    manifest: &Manifest,
    shapes: &Resolved,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Built, Error> {
    if manifest.weights.iter().any(|w| w.base.is_some()) {
        let held = held(plan, manifest, environment, watch)?;
        let (manifest, compile) = held.rebuild_for(shapes, plan, environment, watch)?;
        return Ok(Built {
            manifest,
            compile,
            cache: CacheUse::Off,
        });
    }
    let source = source_model(plan, manifest)?;
    let backend = reopen(manifest, environment)?;
    build(
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
    )
}

/// The overlay that a refitted plan holds: what its recipe names, where that gives the digest of every weight.
fn held(
    plan: &Path,
    manifest: &Manifest,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Prepared, Error> {
    let lost = |reason: String| Error::Lost {
        plan: plan.to_owned(),
        reason,
    };
    let folder = plan.parent().unwrap_or(Path::new("."));
    // The digests are all the proof that is needed, so nothing is left to be vouched for.
    let mut request = OverlayRequest {
        partial: true,
        trust_names: true,
        ..OverlayRequest::default()
    };
    for ingredient in &manifest.recipe.ingredients {
        match ingredient {
            Ingredient::Checkpoint { file } => request.checkpoint.push(folder.join(&file.path)),
            Ingredient::Lora { file, scale } => {
                request.loras.push((folder.join(&file.path), *scale));
            }
        }
    }
    // The recipe does not say how fused values were rounded.
    for fuse in [Fuse::Exact, Fuse::Peft, Fuse::PeftHalf] {
        request.fuse = fuse;
        let prepared =
            prepare(plan, &request, environment, watch).map_err(|e| lost(e.to_string()))?;
        if prepared.is_live() {
            return Ok(prepared);
        }
    }
    Err(lost("what its recipe names gives other weights now".into()))
}
