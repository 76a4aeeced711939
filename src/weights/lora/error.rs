//! What can be wrong with a LoRA, and with fusing it.

use super::super::Error as SourceError;
use crate::fault::Explain;
use crate::tensor::{Dtype, show_shape};
use std::path::PathBuf;

/// Why a LoRA could not be opened or fused.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    #[error(transparent)]
    #[explain(transparent)]
    Source(#[from] SourceError),
    /// A configuration that is no JSON.
    #[error("the LoRA configuration in `{path}` cannot be read", path = path.display())]
    #[explain(code = "lora-config", class = Input, hint("save the adapter again with peft"))]
    ConfigSyntax {
        /// The configuration, or the file whose metadata it is in.
        path: PathBuf,
        source: serde_json::Error,
    },
    /// A configuration with a field that is missing, wrong, or asks for what cannot be fused.
    #[error("the LoRA configuration in `{path}` has a missing or unsupported value of `{field}`", path = path.display())]
    #[explain(code = "lora-config", class = Input, hint("merge it with peft itself and refit from the merged weights"))]
    ConfigValue {
        /// The configuration, or the file whose metadata it is in.
        path: PathBuf,
        field: String,
    },
    /// A file without a single LoRA key.
    #[error("`{path}` holds no LoRA", path = path.display())]
    #[explain(code = "lora-none", class = Input, hint("give whole weights without --lora"))]
    NoLora { path: PathBuf },
    /// Several parts of the file fit the model equally well.
    #[error("`{path}` holds LoRAs for {}, and each of them fits this model", components.join(" and "), path = path.display())]
    #[explain(code = "lora-components", class = Input, hint("say which one is meant: `--component {}`", components[0]))]
    Components {
        path: PathBuf,
        components: Vec<&'static str>,
    },
    /// The LoRA does not fit the model, or is damaged.
    #[error("`{path}` cannot be fused: {}", first_of(problems), path = path.display())]
    #[explain(code = problems[0].code(), class = Input, hints = of_problems(problems))]
    Problems {
        path: PathBuf,
        /// All of them; never empty.
        problems: Vec<Problem>,
    },
    /// A scale that is no number.
    #[error("{scale} is not a scale for `{path}`", path = path.display())]
    #[explain(code = "lora-scale", class = Usage, hint("write a finite number, e.g. `style.safetensors:0.8`"))]
    Scale { path: PathBuf, scale: f64 },
    /// A base weight of a type that has no defined rounding.
    #[error("a LoRA cannot be fused into `{name}`, which is {dtype}")]
    #[explain(code = "lora-base-dtype", class = Input, hint("fuse into f32, f16 or bf16 weights and quantise afterwards"))]
    BaseDtype { name: String, dtype: Dtype },
    /// A base weight of another shape than the LoRA was opened for, or whose bytes do not fit its shape.
    #[error(
        "`{name}` is {} here, and was {} when the LoRA was opened",
        show_shape(actual),
        show_shape(expected)
    )]
    #[explain(code = "lora-base-shape", class = Bug)]
    BaseShape {
        name: String,
        /// Shape when the LoRA was opened.
        expected: Vec<usize>,
        /// Shape of what was given.
        actual: Vec<usize>,
    },
    /// Values that become infinite or NaN.
    #[error("fusing makes {count} values of `{name}` infinite or NaN in {dtype}")]
    #[explain(code = "lora-not-finite", class = Input, hint("use a smaller scale; the result does not fit into {dtype}, or the LoRA holds NaNs"))]
    NotFinite {
        name: String,
        dtype: Dtype,
        count: usize,
    },
    /// A result that has no single definition in PEFT.
    #[error("PEFT's order of roundings is not defined for `{name}`: {why}")]
    #[explain(code = "lora-peft-order", class = Input, hint("use the default, which is exact"))]
    NoPeftOrder { name: String, why: &'static str },
}

/// One reason why a LoRA does not fit.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Explain)]
pub enum Problem {
    /// The model has no such module.
    #[error("the model has no module for `{module}`{}", nearest.first().map_or_else(String::new, |n| format!(" (nearest: `{n}`)")))]
    #[explain(code = "lora-unmatched", class = Input)]
    Unmatched {
        /// Module as the LoRA writes it.
        module: String,
        /// Names of the model that are most like it, the nearest first.
        nearest: Vec<String>,
    },
    /// The model has several such modules.
    #[error("`{module}` may be any of {}", quoted(candidates))]
    #[explain(code = "lora-ambiguous", class = Input)]
    Ambiguous {
        /// Module as the LoRA writes it.
        module: String,
        candidates: Vec<String>,
    },
    /// Tensors that a module of this kind needs are not there, or there are some that do not belong together.
    #[error("`{module}` {what}")]
    #[explain(code = "lora-incomplete", class = Input)]
    Incomplete {
        /// Module as the LoRA writes it.
        module: String,
        /// What is missing or too much.
        what: String,
    },
    /// Two modules of the file change the same values of one weight.
    #[error("`{target}` is changed by {}", quoted(modules))]
    #[explain(code = "lora-overlap", class = Input)]
    Overlap {
        target: String,
        modules: Vec<String>,
    },
    /// The product has another shape than the weight.
    #[error(
        "`{module}` gives {}, and `{target}` is {}",
        show_shape(lora),
        show_shape(weight)
    )]
    #[explain(code = "lora-shape", class = Input)]
    Shape {
        /// Module as the LoRA writes it.
        module: String,
        target: String,
        /// Rows and columns that the LoRA gives.
        lora: Vec<usize>,
        /// Shape of the weight.
        weight: Vec<usize>,
    },
    /// The factors do not fit each other.
    #[error("the factors of `{module}` do not fit: {}", shaped(shapes))]
    #[explain(code = "lora-factors", class = Input)]
    Factors {
        /// Module as the LoRA writes it.
        module: String,
        /// The shapes, by key.
        shapes: Vec<(String, Vec<usize>)>,
    },
    /// A kind of adapter that is not fused here.
    #[error("`{key}` is {kind}, which is not supported")]
    #[explain(code = "lora-unsupported", class = Input)]
    Unsupported { key: String, kind: &'static str },
    /// A plain parameter that no configuration declares, or a key that means nothing.
    #[error("`{key}` is no part of a LoRA")]
    #[explain(code = "lora-unknown-key", class = Input)]
    UnknownKey { key: String },
    /// A tensor whose type or value cannot be used.
    #[error("`{key}` {what}")]
    #[explain(code = "lora-value", class = Input)]
    Value {
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// The configuration and the file disagree.
    #[error("the {what} of `{module}` is {file} in the file and {config} in the configuration")]
    #[explain(code = "lora-config", class = Input)]
    Config {
        /// Module as the LoRA writes it.
        module: String,
        what: &'static str,
        /// What the file says.
        file: f64,
        /// What the configuration says.
        config: f64,
    },
}

fn first_of(problems: &[Problem]) -> String {
    match problems {
        [only] => only.to_string(),
        _ => format!("{} problems, first: {}", problems.len(), problems[0]),
    }
}

fn shaped(shapes: &[(String, Vec<usize>)]) -> String {
    let shown: Vec<String> = (shapes.iter())
        .map(|(k, s)| format!("`{k}` {}", show_shape(s)))
        .collect();
    shown.join(", ")
}

fn quoted(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().map(|n| format!("`{n}`")).collect();
    shown.join(", ")
}

/// How many problems the hints list beside the first.
const LISTED: usize = 7;

fn of_problems(problems: &[Problem]) -> Vec<String> {
    let mut hints = Vec::new();
    if (problems.iter()).all(|p| matches!(p, Problem::Unmatched { .. })) {
        hints.push("the LoRA may be for another model or another component".into());
    }
    let more = problems.iter().skip(1);
    hints.extend(more.take(LISTED).map(|p| format!("also: {p}")));
    if problems.len() > LISTED + 1 {
        hints.push(format!("and {} more", problems.len() - LISTED - 1));
    }
    hints
}
