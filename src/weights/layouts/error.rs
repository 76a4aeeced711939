//! Why a checkpoint cannot be read as the tensors that a model names.

use crate::fault::{Class, Explain};
use crate::tensor::show_shape;
use std::path::PathBuf;

/// The tensor that marks a Control-LoRA.
pub(super) const CONTROL_LORA: &str = "lora_controlnet";

/// Why a checkpoint's tensors cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Several parts of the file fit the model equally well.
    #[error("`{path}` holds {}, and each of them fits this model", components.join(" and "), path = path.display())]
    Components {
        path: PathBuf,
        /// Their names, as `--component` takes them.
        components: Vec<String>,
    },
    /// A component was asked for that the file does not have, or that does not fit.
    #[error("`{path}` has no part `{component}` that fits this model", path = path.display())]
    NoComponent {
        path: PathBuf,
        /// What was asked for.
        component: String,
        /// Parts that do fit.
        fitting: Vec<String>,
    },
    /// Two tensors of the file mean the same parameter.
    #[error("`{first}` and `{second}` of `{path}` are both `{to}`", path = path.display())]
    Twice {
        path: PathBuf,
        to: String,
        first: String,
        second: String,
    },
    /// A stacked tensor whose rows do not come out even.
    #[error("`{tensor}` of `{path}` is {}, which cannot be cut into {parts} equal parts", show_shape(shape), path = path.display())]
    Uncut {
        path: PathBuf,
        tensor: String,
        shape: Vec<usize>,
        /// Into how many parts.
        parts: usize,
    },
    /// A PEFT model saved with its adapters beside the base weights.
    #[error("`{path}` is an unmerged PEFT model: {} layers hold a base weight and an adapter, first `{first}`", layers, path = path.display())]
    Unmerged {
        path: PathBuf,
        layers: usize,
        first: String,
    },
    /// Weights quantised in a way that is not undone here.
    #[error("`{path}` holds weights quantised by {kind} ({count} tensors, first `{first}`)", path = path.display())]
    Quantised {
        path: PathBuf,
        kind: &'static str,
        /// How many tensors show it.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// A `ControlNet` saved as what is to be added to a UNet.
    #[error("`{path}` holds a ControlNet as differences from a UNet (its tensor `{mark}` says so), and not its weights", path = path.display())]
    Difference {
        path: PathBuf,
        /// The tensor that says so.
        mark: &'static str,
    },
    /// 8-bit floats with scales for some of them only.
    #[error(
        "`{path}` has scales for {scaled} of its f8 tensors and none for {}, first `{}`", bare.len(), bare[0], path = path.display()
    )]
    PartlyScaled {
        path: PathBuf,
        /// How many have one.
        scaled: usize,
        /// Those that have none; never empty.
        bare: Vec<String>,
    },
    /// A scale of an 8-bit float tensor that is not understood.
    #[error("`{scale}` of `{path}` is a scale of the f8 tensor `{tensor}` that is not understood: {why}", path = path.display())]
    Scale {
        path: PathBuf,
        scale: String,
        /// The tensor beside it.
        tensor: String,
        why: String,
    },
}

impl Explain for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Components { .. } => "weights-components",
            Error::NoComponent { .. } => "weights-no-component",
            Error::Twice { .. } => "weights-twice",
            Error::Uncut { .. } => "weights-uncut",
            Error::Unmerged { .. } => "weights-unmerged",
            Error::Quantised { .. } => "weights-quantised",
            Error::Difference { .. } => "weights-difference",
            Error::PartlyScaled { .. } => "weights-partly-scaled",
            Error::Scale { .. } => "weights-scale",
        }
    }

    fn class(&self) -> Class {
        Class::Input
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Error::Components { components, .. } => vec![format!(
                "say which one is meant: `--component {}`",
                components[0]
            )],
            Error::NoComponent { fitting, .. } if fitting.is_empty() => {
                vec!["leave out `--component`: no part of the file fits by its names".into()]
            }
            Error::NoComponent { fitting, .. } => {
                vec![format!("what fits is `--component {}`", fitting.join("`, `--component "))]
            }
            Error::Difference { mark: CONTROL_LORA, .. } => vec![
                "add each product of `X.up` and `X.down` to the UNet's `X.weight`, save that with the other tensors as a ControlNet, \
                 without `lora_controlnet`, and give it"
                    .into(),
            ],
            Error::Difference { .. } => vec![
                "add the UNet's tensor of the same name to each `control_model.` tensor that has one, save that without \
                 `difference`, and give it"
                    .into(),
            ],
            Error::Twice { .. } => vec!["save the file again with one of them".into()],
            Error::Uncut { .. } => vec!["the file is of another variant of this architecture".into()],
            Error::Unmerged { .. } => vec![
                "merge it first: `model = model.merge_and_unload()` in Python, then save the model's weights"
                    .into(),
                "or give the base checkpoint, and the adapter alone with `--lora`".into(),
            ],
            Error::Quantised { .. } | Error::PartlyScaled { .. } | Error::Scale { .. } => vec![
                "give the checkpoint that it was quantised from (f32, f16 or bf16), or load it with the library that \
                 quantised it, dequantise there, and save that"
                    .into(),
            ],
        }
    }
}
