//! Why a checkpoint cannot be read as the tensors that a model names.

use crate::fault::Explain;
use crate::tensor::show_shape;
use std::path::PathBuf;

/// The tensor that marks a Control-LoRA.
pub(super) const CONTROL_LORA: &str = "lora_controlnet";

const MULTIPLY_AND_ADD: &str = "add each product of `X.up` and `X.down` to the UNet's `X.weight`, save that with the other tensors as \
    a ControlNet, without `lora_controlnet`, and give it";
const ADD: &str = "add the UNet's tensor of the same name to each `control_model.` tensor that has one, save that without \
    `difference`, and give it";
const AS_IT_WAS: &str = "give the checkpoint that it was quantised from (f32, f16 or bf16), or load it with the library that \
    quantised it, dequantise there, and save that";

/// Why a checkpoint's tensors cannot be laid out.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    /// Several parts of the file fit the model equally well.
    #[error("`{path}` holds {}, and each of them fits this model", components.join(" and "), path = path.display())]
    #[explain(code = "weights-components", class = Input, hint("say which one is meant: `--component {}`", components[0]))]
    Components {
        path: PathBuf,
        /// Their names, as `--component` takes them.
        components: Vec<String>,
    },
    /// A component was asked for that the file does not have, or that does not fit.
    #[error("`{path}` has no part `{component}` that fits this model", path = path.display())]
    #[explain(code = "weights-no-component", class = Input, hint("{}", fitting_components(fitting)))]
    NoComponent {
        path: PathBuf,
        /// What was asked for.
        component: String,
        /// Parts that do fit.
        fitting: Vec<String>,
    },
    /// Two tensors of the file mean the same parameter.
    #[error("`{first}` and `{second}` of `{path}` are both `{to}`", path = path.display())]
    #[explain(code = "weights-twice", class = Input, hint("save the file again with one of them"))]
    Twice {
        path: PathBuf,
        to: String,
        first: String,
        second: String,
    },
    /// A stacked tensor whose rows do not come out even.
    #[error("`{tensor}` of `{path}` is {}, which cannot be cut into {parts} equal parts", show_shape(shape), path = path.display())]
    #[explain(code = "weights-uncut", class = Input, hint("the file is of another variant of this architecture"))]
    Uncut {
        path: PathBuf,
        tensor: String,
        shape: Vec<usize>,
        /// Into how many parts.
        parts: usize,
    },
    /// A PEFT model saved with its adapters beside the base weights.
    #[error("`{path}` is an unmerged PEFT model: {} layers hold a base weight and an adapter, first `{first}`", layers, path = path.display())]
    #[explain(code = "weights-unmerged", class = Input,
        hint("merge it first: `model = model.merge_and_unload()` in Python, then save the model's weights"),
        hint("or give the base checkpoint, and the adapter alone with `--lora`"))]
    Unmerged {
        path: PathBuf,
        layers: usize,
        first: String,
    },
    /// Weights quantised in a way that is not undone here.
    #[error("`{path}` holds weights quantised by {kind} ({count} tensors, first `{first}`)", path = path.display())]
    #[explain(code = "weights-quantised", class = Input, hint("{AS_IT_WAS}"))]
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
    #[explain(code = "weights-difference", class = Input, hint("{}", if *mark == CONTROL_LORA { MULTIPLY_AND_ADD } else { ADD }))]
    Difference {
        path: PathBuf,
        /// The tensor that says so.
        mark: &'static str,
    },
    /// 8-bit floats with scales for some of them only.
    #[error(
        "`{path}` has scales for {scaled} of its f8 tensors and none for {}, first `{}`", bare.len(), bare[0], path = path.display()
    )]
    #[explain(code = "weights-partly-scaled", class = Input, hint("{AS_IT_WAS}"))]
    PartlyScaled {
        path: PathBuf,
        /// How many have one.
        scaled: usize,
        /// Those that have none; never empty.
        bare: Vec<String>,
    },
    /// A scale of an 8-bit float tensor that is not understood.
    #[error("`{scale}` of `{path}` is a scale of the f8 tensor `{tensor}` that is not understood: {why}", path = path.display())]
    #[explain(code = "weights-scale", class = Input, hint("{AS_IT_WAS}"))]
    Scale {
        path: PathBuf,
        scale: String,
        /// The tensor beside it.
        tensor: String,
        why: String,
    },
}

fn fitting_components(fitting: &[String]) -> String {
    if fitting.is_empty() {
        return "leave out `--component`: no part of the file fits by its names".into();
    }
    format!(
        "what fits is `--component {}`",
        fitting.join("`, `--component ")
    )
}
