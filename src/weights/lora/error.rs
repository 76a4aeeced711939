//! What can be wrong with a LoRA, and with fusing it.

use super::super::Error as SourceError;
use crate::fault::{Class, Explain};
use crate::tensor::{Dtype, show_shape};
use std::fmt;
use std::path::PathBuf;

/// Why a LoRA could not be opened or fused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A configuration that is no JSON.
    #[error("the LoRA configuration in `{path}` cannot be read", path = path.display())]
    ConfigSyntax {
        /// The configuration, or the file whose metadata it is in.
        path: PathBuf,
        source: serde_json::Error,
    },
    /// A configuration with a field that is missing, wrong, or asks for what cannot be fused.
    #[error("the LoRA configuration in `{path}` has a missing or unsupported value of `{field}`", path = path.display())]
    ConfigValue {
        /// The configuration, or the file whose metadata it is in.
        path: PathBuf,
        field: String,
    },
    /// A file without a single LoRA key.
    #[error("`{path}` holds no LoRA", path = path.display())]
    NoLora { path: PathBuf },
    /// Several parts of the file fit the model equally well.
    #[error("`{path}` holds LoRAs for {}, and each of them fits this model", components.join(" and "), path = path.display())]
    Components {
        path: PathBuf,
        components: Vec<&'static str>,
    },
    /// The LoRA does not fit the model, or is damaged.
    #[error("`{path}` cannot be fused: {}", first_of(problems), path = path.display())]
    Problems {
        path: PathBuf,
        /// All of them; never empty.
        problems: Vec<Problem>,
    },
    /// A scale that is no number.
    #[error("{scale} is not a scale for `{path}`", path = path.display())]
    Scale { path: PathBuf, scale: f64 },
    /// A base weight of a type that has no defined rounding.
    #[error("a LoRA cannot be fused into `{name}`, which is {dtype}")]
    BaseDtype { name: String, dtype: Dtype },
    /// A base weight of another shape than the LoRA was opened for, or whose bytes do not fit its shape.
    #[error(
        "`{name}` is {} here, and was {} when the LoRA was opened",
        show_shape(actual),
        show_shape(expected)
    )]
    BaseShape {
        name: String,
        /// Shape when the LoRA was opened.
        expected: Vec<usize>,
        /// Shape of what was given.
        actual: Vec<usize>,
    },
    /// Values that become infinite or NaN.
    #[error("fusing makes {count} values of `{name}` infinite or NaN in {dtype}")]
    NotFinite {
        name: String,
        dtype: Dtype,
        count: usize,
    },
    /// A result that has no single definition in PEFT.
    #[error("PEFT's order of roundings is not defined for `{name}`: {why}")]
    NoPeftOrder { name: String, why: &'static str },
}

/// One reason why a LoRA does not fit.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    /// The model has no such module.
    Unmatched {
        /// Module as the LoRA writes it.
        module: String,
        /// Names of the model that are most like it, the nearest first.
        nearest: Vec<String>,
    },
    /// The model has several such modules.
    Ambiguous {
        /// Module as the LoRA writes it.
        module: String,
        candidates: Vec<String>,
    },
    /// Tensors that a module of this kind needs are not there, or there are some that do not belong together.
    Incomplete {
        /// Module as the LoRA writes it.
        module: String,
        /// What is missing or too much.
        what: String,
    },
    /// Two modules of the file change the same values of one weight.
    Overlap {
        target: String,
        modules: Vec<String>,
    },
    /// The product has another shape than the weight.
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
    Factors {
        /// Module as the LoRA writes it.
        module: String,
        /// The shapes, by key.
        shapes: Vec<(String, Vec<usize>)>,
    },
    /// A kind of adapter that is not fused here.
    Unsupported { key: String, kind: &'static str },
    /// A plain parameter that no configuration declares, or a key that means nothing.
    UnknownKey { key: String },
    /// A tensor whose type or value cannot be used.
    Value {
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// The configuration and the file disagree.
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

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unmatched { module, nearest } => {
                write!(f, "the model has no module for `{module}`")?;
                match nearest.split_first() {
                    None => Ok(()),
                    Some((first, _)) => write!(f, " (nearest: `{first}`)"),
                }
            }
            Problem::Ambiguous { module, candidates } => {
                write!(f, "`{module}` may be any of {}", quoted(candidates))
            }
            Problem::Incomplete { module, what } => write!(f, "`{module}` {what}"),
            Problem::Overlap { target, modules } => {
                write!(f, "`{target}` is changed by {}", quoted(modules))
            }
            Problem::Shape {
                module,
                target,
                lora,
                weight,
            } => write!(
                f,
                "`{module}` gives {}, and `{target}` is {}",
                show_shape(lora),
                show_shape(weight)
            ),
            Problem::Factors { module, shapes } => {
                let shapes: Vec<String> = (shapes.iter())
                    .map(|(k, s)| format!("`{k}` {}", show_shape(s)))
                    .collect();
                write!(
                    f,
                    "the factors of `{module}` do not fit: {}",
                    shapes.join(", ")
                )
            }
            Problem::Unsupported { key, kind } => {
                write!(f, "`{key}` is {kind}, which is not supported")
            }
            Problem::UnknownKey { key } => write!(f, "`{key}` is no part of a LoRA"),
            Problem::Value { key, what } => write!(f, "`{key}` {what}"),
            Problem::Config {
                module,
                what,
                file,
                config,
            } => write!(
                f,
                "the {what} of `{module}` is {file} in the file and {config} in the configuration"
            ),
        }
    }
}

fn first_of(problems: &[Problem]) -> String {
    match problems {
        [only] => only.to_string(),
        _ => format!("{} problems, first: {}", problems.len(), problems[0]),
    }
}

fn quoted(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().map(|n| format!("`{n}`")).collect();
    shown.join(", ")
}

impl Problem {
    fn code(&self) -> &'static str {
        match self {
            Problem::Unmatched { .. } => "lora-unmatched",
            Problem::Ambiguous { .. } => "lora-ambiguous",
            Problem::Incomplete { .. } => "lora-incomplete",
            Problem::Overlap { .. } => "lora-overlap",
            Problem::Shape { .. } => "lora-shape",
            Problem::Factors { .. } => "lora-factors",
            Problem::Unsupported { .. } => "lora-unsupported",
            Problem::UnknownKey { .. } => "lora-unknown-key",
            Problem::Value { .. } => "lora-value",
            Problem::Config { .. } => "lora-config",
        }
    }
}

/// How many problems the hints list beside the first.
const LISTED: usize = 7;

impl Explain for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Source(e) => e.code(),
            Error::ConfigSyntax { .. } | Error::ConfigValue { .. } => "lora-config",
            Error::NoLora { .. } => "lora-none",
            Error::Components { .. } => "lora-components",
            Error::Problems { problems, .. } => problems[0].code(),
            Error::Scale { .. } => "lora-scale",
            Error::BaseDtype { .. } => "lora-base-dtype",
            Error::BaseShape { .. } => "lora-base-shape",
            Error::NotFinite { .. } => "lora-not-finite",
            Error::NoPeftOrder { .. } => "lora-peft-order",
        }
    }

    fn class(&self) -> Class {
        match self {
            Error::Source(e) => e.class(),
            Error::Scale { .. } => Class::Usage,
            Error::BaseShape { .. } => Class::Bug,
            _ => Class::Input,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Error::Source(e) => e.hints(),
            Error::ConfigValue { .. } => {
                vec!["merge it with peft itself and refit from the merged weights".into()]
            }
            Error::ConfigSyntax { .. } => vec!["save the adapter again with peft".into()],
            Error::NoLora { .. } => vec!["give whole weights without --lora".into()],
            Error::Components { components, .. } => {
                vec![format!(
                    "say which one is meant: `--component {}`",
                    components[0]
                )]
            }
            Error::Problems { problems, .. } => {
                let mut hints = Vec::new();
                if problems
                    .iter()
                    .all(|p| matches!(p, Problem::Unmatched { .. }))
                {
                    hints.push("the LoRA may be for another model or another component".into());
                }
                let more = problems.iter().skip(1);
                hints.extend(more.take(LISTED).map(|p| format!("also: {p}")));
                if problems.len() > LISTED + 1 {
                    hints.push(format!("and {} more", problems.len() - LISTED - 1));
                }
                hints
            }
            Error::Scale { .. } => {
                vec!["write a finite number, e.g. `style.safetensors:0.8`".into()]
            }
            Error::BaseDtype { .. } => {
                vec!["fuse into f32, f16 or bf16 weights and quantise afterwards".into()]
            }
            Error::NotFinite { dtype, .. } => vec![format!(
                "use a smaller scale; the result does not fit into {dtype}, or the LoRA holds NaNs"
            )],
            Error::NoPeftOrder { .. } => vec!["use the default, which is exact".into()],
            Error::BaseShape { .. } => Vec::new(),
        }
    }
}
