//! What is asked to lie over the base weights of a plan.

use crate::cache::Memo;
use crate::mapping::{Override, Permissions};
use crate::plan::{Ingredient, Manifest, Recipe};
use crate::weights::lora::Fuse;
use std::path::{Path, PathBuf};

/// Where derivations that were stated by hand come from.
#[derive(Debug, Clone)]
pub enum Stated {
    File(PathBuf),
    /// The recipe of a plan.
    Recorded(Override),
}

/// What the user wants to lie over the base weights. Nothing at all is the base itself.
#[derive(Debug, Clone, Default)]
pub struct OverlayRequest {
    /// Checkpoints that hold one model together.
    pub checkpoint: Vec<PathBuf>,
    /// LoRAs with their scales.
    pub loras: Vec<(PathBuf, f64)>,
    /// The checkpoint that the model was exported from, to prove the mapping with.
    pub base_weights: Vec<PathBuf>,
    /// Derivations stated by hand.
    pub mapping: Option<Stated>,
    /// The alpha of LoRA modules for which nothing states one.
    pub lora_alpha: Option<f64>,
    /// Which part of a file is meant, where several fit.
    pub component: Option<String>,
    /// The files are given to several plans: what of them is for another is no error.
    pub shared: bool,
    /// The ONNX file, where it is not where the manifest says.
    pub model: Option<PathBuf>,
    /// What is allowed beyond what is proven.
    pub permissions: Permissions,
    /// How LoRAs are rounded.
    pub fuse: Fuse,
    /// Where digests of plans and models are remembered; without it they are read.
    pub memo: Option<Memo>,
}

impl OverlayRequest {
    /// What the recipe of `plan` names by its `manifest`, and how it was asked for. A recipe of an earlier version, which does not say how
    /// LoRAs were rounded, is taken for exact.
    pub fn of_recipe(plan: &Path, manifest: &Manifest) -> OverlayRequest {
        let folder = plan.parent().unwrap_or(Path::new(""));
        let Recipe { ingredients, asked } = &manifest.recipe;
        let mut request = OverlayRequest {
            component: asked.component.clone(),
            lora_alpha: asked.lora_alpha,
            mapping: asked.mapping.clone().map(Stated::Recorded),
            fuse: (asked.fuse.as_deref())
                .and_then(Fuse::from_name)
                .unwrap_or_default(),
            permissions: Permissions {
                partial: asked.partial,
                trust_names: asked.trust_names,
                ignore: (asked.ignore.iter())
                    .filter_map(|p| glob::Pattern::new(p).ok())
                    .collect(),
            },
            ..OverlayRequest::default()
        };
        for ingredient in ingredients {
            match ingredient {
                Ingredient::Checkpoint { file } => request.checkpoint.push(folder.join(&file.path)),
                Ingredient::Lora { file, scale } => {
                    request.loras.push((folder.join(&file.path), *scale));
                }
            }
        }
        request
    }

    /// The first option of a mapping that is given; with `permitted`, beside those that only allow something.
    pub fn first_of_a_mapping(&self, permitted: bool) -> Option<&'static str> {
        let permissions = &self.permissions;
        let allowed = [
            (permissions.partial, "--partial"),
            (permissions.trust_names, "--trust-names"),
            (!permissions.ignore.is_empty(), "--ignore"),
        ];
        let others = [
            (!self.base_weights.is_empty(), "--base-weights"),
            (self.component.is_some(), "--component"),
            (self.mapping.is_some(), "--mapping"),
            (self.model.is_some(), "--model"),
            (self.lora_alpha.is_some(), "--lora-alpha"),
            (self.fuse != Fuse::Exact, "--fuse"),
        ];
        let allowed = allowed.into_iter().filter(|_| !permitted);
        let mut given = others
            .into_iter()
            .chain(allowed)
            .filter(|(given, _)| *given);
        given.next().map(|(_, option)| option)
    }
}
