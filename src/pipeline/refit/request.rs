//! What is asked to lie over the base weights of a plan.

use crate::weights::lora::Fuse;
use std::path::PathBuf;

/// What the user wants to lie over the base weights. Nothing at all is the base itself.
#[derive(Debug, Clone, Default)]
pub struct OverlayRequest {
    /// Checkpoints that hold one model together.
    pub checkpoint: Vec<PathBuf>,
    /// LoRAs with their scales.
    pub loras: Vec<(PathBuf, f64)>,
    /// The checkpoint that the model was exported from, to prove the mapping with.
    pub base_weights: Vec<PathBuf>,
    /// A mapping file by hand.
    pub mapping: Option<PathBuf>,
    /// The checkpoint is meant to hold only some of the weights.
    pub partial: bool,
    /// Take a name's word where nothing speaks against it.
    pub trust_names: bool,
    /// How LoRAs are rounded.
    pub fuse: Fuse,
}
