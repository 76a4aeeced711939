//! The model that a plan was compiled from, found again and checked.

use crate::onnx::Model;
use crate::pipeline::error::Error;
use crate::plan::Manifest;
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
    source_model_at(plan, manifest, None)
}

/// As [`source_model`], from `moved` where the file is not where the manifest says.
///
/// # Errors
/// As [`source_model`].
pub fn source_model_at(
    plan: &Path,
    manifest: &Manifest,
    moved: Option<&Path>,
) -> Result<SourceModel, Error> {
    let folder = plan.parent().unwrap_or(Path::new("."));
    let path = moved.map_or_else(|| folder.join(&manifest.model.path), Path::to_owned);
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
