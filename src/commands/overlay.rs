//! Options that say what lies over a plan's base weights; `refit`, `diff` and `run` share them.

use super::UsageError;
use crate::mapping::Permissions;
use crate::pipeline::{OverlayRequest, Stated};
use crate::weights::lora::Fuse;
use std::path::PathBuf;

/// LoRAs, and how the mapping is found.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Weights")]
pub struct OverlayArgs {
    /// A LoRA to fuse; a scale may follow the file (default 1) (repeatable)
    #[arg(short, long, value_name = "FILE[:SCALE]", value_parser = lora)]
    pub lora: Vec<(PathBuf, f64)>,

    /// The alpha of LoRA modules for which neither the file nor a configuration states one (else: the rank)
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub lora_alpha: Option<f64>,

    /// How fused values are rounded: once at the end, or in the order that PEFT rounds
    #[arg(long, value_enum, default_value_t = FuseMode::Exact)]
    pub fuse: FuseMode,

    /// The checkpoint that the model was exported from: proves the mapping (repeatable)
    #[arg(long, value_name = "FILE")]
    pub base_weights: Vec<PathBuf>,

    /// Which part of a checkpoint or LoRA is meant where several fit: denoiser, text-encoder, text-encoder-2, vae, …
    #[arg(long, value_name = "PART")]
    pub component: Option<String>,

    /// Rows of the mapping said by hand (JSON)
    #[arg(long, value_name = "FILE")]
    pub mapping: Option<PathBuf>,

    /// The file is meant to hold only some of the tensors; weights that it does not reach get their base values
    #[arg(long)]
    pub partial: bool,

    /// Let changes of these tensors (or weights) go; `*` stands for any text (repeatable)
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub ignore: Vec<glob::Pattern>,

    /// Take a name's word for where a weight comes from, where there are no base weights and nothing speaks against it
    #[arg(long)]
    pub trust_names: bool,

    /// The ONNX model of the plan, where it is not where the manifest says
    #[arg(long, value_name = "ONNX")]
    pub model: Option<PathBuf>,
}

/// Values of `--fuse`: where sums of a LoRA are rounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum FuseMode {
    /// f64 throughout, one rounding at the end; the order of LoRAs does not matter
    #[default]
    Exact,
    /// As PEFT's `merge_and_unload` rounds, adapter by adapter
    Peft,
    /// As PEFT rounds with adapters kept in the weights' own half type, as diffusers' `fuse_lora` does
    PeftHalf,
}

impl OverlayArgs {
    /// Files and folders that are read.
    pub fn inputs(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let loras = self.lora.iter().map(|(path, _)| path);
        let others = self.base_weights.iter().chain(&self.mapping);
        loras.chain(others).cloned()
    }

    /// The request, over `checkpoint`.
    pub fn request(&self, checkpoint: Vec<PathBuf>) -> OverlayRequest {
        OverlayRequest {
            checkpoint,
            loras: self.lora.clone(),
            base_weights: self.base_weights.clone(),
            component: self.component.clone(),
            shared: false,
            lora_alpha: self.lora_alpha,
            mapping: self.mapping.clone().map(Stated::File),
            model: self.model.clone(),
            permissions: Permissions {
                partial: self.partial,
                trust_names: self.trust_names,
                ignore: self.ignore.clone(),
            },
            fuse: match self.fuse {
                FuseMode::Exact => Fuse::Exact,
                FuseMode::Peft => Fuse::Peft,
                FuseMode::PeftHalf => Fuse::PeftHalf,
            },
            memo: None,
        }
    }
}

/// A pattern of names.
fn pattern(text: &str) -> Result<glob::Pattern, String> {
    glob::Pattern::new(text).map_err(|e| e.to_string())
}

/// `FILE` or `FILE:SCALE`. A file name may hold colons: what follows the last one is a scale only if it is a number.
fn lora(text: &str) -> Result<(PathBuf, f64), String> {
    match text.rsplit_once(':') {
        Some((file, scale)) if !file.is_empty() => match scale.parse::<f64>() {
            Ok(s) if s.is_finite() => Ok((file.into(), s)),
            // `inf` and `nan` parse as numbers, and would make every weight one of them.
            Ok(_) => Err(format!("the scale `{scale}` is not finite")),
            Err(_) => Ok((text.into(), 1.0)),
        },
        _ => Ok((text.into(), 1.0)),
    }
}

/// Checks that something was asked for, and only once.
///
/// # Errors
/// When nothing was, or `--base` along with something else.
pub fn check_asked(
    checkpoint: &[PathBuf],
    overlay: &OverlayArgs,
    base: bool,
) -> Result<(), UsageError> {
    let something = !checkpoint.is_empty() || !overlay.lora.is_empty();
    match (base, something) {
        (true, true) => Err(UsageError::new(
            "--base goes back to the base weights and takes no checkpoint and no --lora",
            "leave out one of the two",
        )),
        (false, false) => Err(UsageError::new(
            "nothing says which weights to take",
            "give a checkpoint, --lora FILE[:SCALE], or --base to go back to the base weights",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_stand_behind_the_last_colon() {
        assert_eq!(
            lora("a.safetensors:0.8").unwrap(),
            ("a.safetensors".into(), 0.8)
        );
        assert_eq!(
            lora("a.safetensors").unwrap(),
            ("a.safetensors".into(), 1.0)
        );
        assert_eq!(
            lora("a:b.safetensors:-1").unwrap(),
            ("a:b.safetensors".into(), -1.0)
        );
        assert_eq!(
            lora("a:b.safetensors").unwrap(),
            ("a:b.safetensors".into(), 1.0)
        );
        assert!(lora("a.safetensors:inf").is_err());
    }
}
