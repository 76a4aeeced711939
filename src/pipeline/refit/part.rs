//! Parts of a file for several models, and what a plan takes of them.

use crate::weights::layouts::View;
use crate::weights::lora::Lora;
use std::path::{Path, PathBuf};

/// A part of a checkpoint or of a LoRA: what it holds for one model of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The file, or the first of several.
    pub file: PathBuf,
    /// What `--component` calls it.
    pub name: String,
    /// Tensors of a checkpoint, or modules of a LoRA.
    pub size: usize,
    /// Whether the plan takes it.
    pub taken: bool,
    /// Why not, where it has modules of the plan's names.
    pub why: Option<String>,
}

/// What of a checkpoint is no part that a plan could take: nobody loads it as the weights of a model. The halves of an autoencoder
/// belong to one that is taken.
const ASIDE: [&str; 7] = [
    "schedule",
    "training",
    "quantisation",
    "ema",
    "unused by this layout",
    "encoder",
    "decoder",
];

impl Part {
    /// The parts of a checkpoint, as the view of one model shows them.
    pub(super) fn of_checkpoint(files: &[PathBuf], view: &View) -> Vec<Part> {
        let file = files.first().map_or(Path::new(""), PathBuf::as_path);
        let part = |name: &str, size, taken| Part {
            file: file.to_owned(),
            name: name.to_owned(),
            size,
            taken,
            why: None,
        };
        let own = view.part().map(|name| part(name, view.names().len(), true));
        let others = (view.components().iter())
            .filter(|(name, _)| !ASIDE.contains(&name.as_str()))
            .map(|(name, size)| part(name, *size, false));
        own.into_iter().chain(others).collect()
    }

    /// The parts of a LoRA.
    pub(super) fn of_lora(lora: &Lora) -> Vec<Part> {
        let part = |component: crate::weights::lora::Component, size, taken| Part {
            file: lora.path().to_owned(),
            name: component.name().to_owned(),
            size,
            taken,
            why: lora.misfit(component).map(ToString::to_string),
        };
        let taken = lora.taken().map(|(c, n)| part(c, n, true));
        let others = lora.skipped().map(|(c, n)| part(c, n, false));
        taken.chain(others).collect()
    }
}
