//! Layouts: the spellings in which one model's tensors are passed around, as data, and a checkpoint
//! in another of them.
//!
//! ```text
//! data/*.txt       one table a family (table.rs says how it is written, pattern.rs what its names may hold)
//! storage.rs       what a file's tensors are: wrappers off, 8-bit floats with their scales
//! candidate.rs     the ways in which a file may be a model's checkpoint, and the best of them
//! view.rs          the file in the model's names, laid out when asked for
//! components.rs    parts of a pipeline by prefix
//! ```
//!
//! The tables were derived from the public converters (diffusers `loaders/single_file_utils.py`,
//! ComfyUI `comfy/utils.py`) by running them on tensors whose elements all differ; the test
//! compares them with what was recorded there, row by row.

mod candidate;
mod components;
mod error;
mod pattern;
mod storage;
mod table;
mod view;
mod wanted;

pub use candidate::Op;
pub use error::Error;
pub use table::Table;
pub use view::{View, open_in_layout};

use std::sync::LazyLock;

const DATA: &[&str] = &[
    include_str!("data/sd_unet.txt"),
    include_str!("data/sd_controlnet.txt"),
    include_str!("data/vae.txt"),
    include_str!("data/vae_before_0_18.txt"),
    include_str!("data/wan_vae.txt"),
    include_str!("data/clip.txt"),
    include_str!("data/openclip.txt"),
    include_str!("data/t5.txt"),
    include_str!("data/sd3.txt"),
    include_str!("data/chroma.txt"),
    include_str!("data/hunyuan_video.txt"),
    include_str!("data/hunyuan_video_comfyui.txt"),
    include_str!("data/hunyuan_video_to_comfyui.txt"),
    include_str!("data/flux.txt"),
    include_str!("data/flux2.txt"),
    include_str!("data/flux3.txt"),
    include_str!("data/wan.txt"),
    include_str!("data/wan_animate.txt"),
    include_str!("data/ltx_video.txt"),
    include_str!("data/ltx2.txt"),
    include_str!("data/z_image.txt"),
    include_str!("data/lumina2.txt"),
    include_str!("data/auraflow.txt"),
    include_str!("data/cosmos1.txt"),
    include_str!("data/cosmos2.txt"),
    include_str!("data/stable_cascade_b.txt"),
    include_str!("data/stable_cascade_c.txt"),
    include_str!("data/stable_cascade_to_comfyui.txt"),
    include_str!("data/sana.txt"),
    include_str!("data/pixart.txt"),
    include_str!("data/mochi.txt"),
    include_str!("data/hidream.txt"),
    include_str!("data/qwen_image.txt"),
    include_str!("data/qwen_image_2_1.txt"),
    include_str!("data/krea2.txt"),
    include_str!("data/ideogram4.txt"),
    include_str!("data/ace_step.txt"),
];

/// A table for the modules of one model.
pub(crate) struct Translation {
    table: &'static Table,
    parameters: pattern::Parameters,
}

/// What a module is in diffusers' names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModuleHit {
    /// The modules, stacked by rows in this order.
    pub to: Vec<String>,
    /// Their heights in proportion.
    pub heights: Vec<usize>,
    /// The second half of the rows comes first.
    pub swapped: bool,
}

impl Translation {
    /// `names` are those of the model's modules, in either spelling.
    pub(crate) fn new<'a>(
        table: &'static Table,
        names: &(impl Iterator<Item = &'a str> + Clone),
    ) -> Translation {
        Translation {
            table,
            parameters: table.parameters(names, names),
        }
    }

    /// What the first authors' module is. `flat` names have `_` for `.`, here and in the answer.
    pub(crate) fn module(&self, name: &str, flat: bool) -> Option<ModuleHit> {
        let hit = self.table.translate_module(name, flat, &self.parameters)?;
        // A turned matrix is no module that a LoRA of rows and columns fits.
        (hit.turn != table::Turn::Transpose).then_some(ModuleHit {
            to: hit.to,
            heights: hit.heights,
            swapped: hit.turn == table::Turn::SwapHalves,
        })
    }
}

pub fn tables() -> &'static [Table] {
    static TABLES: LazyLock<Vec<Table>> = LazyLock::new(|| {
        let read = |text: &&str| Table::parse(text).unwrap_or_else(|e| panic!("{e:?}"));
        DATA.iter().map(read).collect()
    });
    &TABLES
}

/// Halves of an autoencoder in diffusers' names that are exported on their own; none for any other
/// model.
fn diffusers_halves(has: impl Fn(&str) -> bool) -> Vec<(String, Vec<String>)> {
    let both = ["encoder", "decoder"].iter().all(|half| {
        (has(&format!("{half}.conv_norm_out.weight")) || has(&format!("{half}.norm_out.gamma")))
            && has(&format!("{half}.conv_in.weight"))
    });
    let vae = tables().iter().filter(|t| both && t.family == "vae");
    vae.flat_map(|t| t.halves.clone()).collect()
}

#[cfg(test)]
pub(crate) mod tests;
