//! What can be wrong with a mapping.

use super::row::{FoldSign, Grade, Recipe, Row};
use crate::fault::{Class, Explain};
use crate::tensor::{ConvertError, Dtype, show_shape};
use serde::{Deserialize, Serialize};

/// Why a mapping cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing says where the weight comes from.
    #[error("weight `{weight}` is {} and no tensor of the checkpoint fills it", grade.name())]
    NoRecipe { weight: String, grade: Grade },
    /// A source is not in the checkpoint.
    #[error("weight `{weight}` needs tensor `{source_name}`, which the checkpoint does not hold")]
    SourceMissing {
        weight: String,
        /// Name in the checkpoint.
        source_name: String,
    },
    /// The sources do not give what the engine holds.
    #[error(
        "weight `{weight}` is {expected_dtype} {}, but its source gives {dtype} {}",
        show_shape(expected),
        show_shape(shape)
    )]
    Length {
        weight: String,
        /// Element type of the weight.
        expected_dtype: Dtype,
        /// Shape of the weight.
        expected: Vec<usize>,
        /// Element type that came out.
        dtype: Dtype,
        /// Shape that came out.
        shape: Vec<usize>,
    },
    /// A finite value does not fit into the weight's type.
    #[error(
        "weight `{weight}` would become infinite: `{source_name}` holds values up to {largest:e}, too large for {dtype}"
    )]
    Overflow {
        weight: String,
        source_name: String,
        dtype: Dtype,
        /// Largest magnitude in the tensor.
        largest: f64,
    },
    /// Nothing says where a weight comes from, and it may hold what changes.
    #[error("nothing says where weight `{weight}` comes from, and it may hold what changes in {}", changed.join(", "))]
    Unsourced {
        weight: String,
        /// Changed tensors, in backticks, the first few.
        changed: Vec<String>,
    },
    /// A step cannot be computed.
    #[error("weight `{weight}` cannot be computed")]
    Convert {
        weight: String,
        #[source]
        cause: ConvertError,
    },
    /// The weight's sources cannot be had from its bytes.
    #[error("weight `{weight}` is computed from {}, which cannot be undone", sources.join(", "))]
    NotInvertible {
        weight: String,
        /// What it is computed from, in backticks.
        sources: Vec<String>,
    },
    /// The ONNX file's values of a weight are not at hand.
    #[error("the base values of weight `{weight}` are not at hand")]
    NotHeld { weight: String },
    /// A mapping file names weights that the model does not have.
    #[error("the mapping file names unknown weights: {}", weights.join(", "))]
    UnknownWeights {
        /// Their names, in backticks.
        weights: Vec<String>,
    },
    /// Names that a LoRA targets could not be tied to weights.
    #[error("{}", join(declined))]
    Targets {
        /// Each with its reason.
        declined: Vec<Declined>,
    },
    /// A second export proves nothing.
    #[error("the probe cannot be used: {problem}")]
    Probe {
        /// What is wrong with it.
        problem: String,
    },
    /// A mapping file cannot be read.
    #[error("not a mapping file")]
    Document(#[source] serde_json::Error),
    /// A mapping file of another format.
    #[error("mapping format `{found}` is not `{expected}`")]
    Schema {
        /// What the file says.
        found: String,
        /// What this version reads.
        expected: &'static str,
    },
}

fn join(declined: &[Declined]) -> String {
    const SHOWN: usize = 8;
    let shown = declined.iter().take(SHOWN).map(ToString::to_string);
    let mut all: Vec<String> = shown.collect();
    if declined.len() > SHOWN {
        all.push(format!("and {} more", declined.len() - SHOWN));
    }
    all.join("; ")
}

impl Error {
    pub(in crate::mapping) fn length(row: &Row, dtype: Dtype, shape: &[usize]) -> Error {
        Error::Length {
            weight: row.name.clone(),
            expected_dtype: row.dtype,
            expected: row.shape.clone(),
            dtype,
            shape: shape.to_vec(),
        }
    }

    pub(in crate::mapping) fn convert(row: &Row, cause: ConvertError) -> Error {
        Error::Convert {
            weight: row.name.clone(),
            cause,
        }
    }

    pub(in crate::mapping) fn not_invertible(row: &Row, recipe: &Recipe) -> Error {
        Error::NotInvertible {
            weight: row.name.clone(),
            sources: recipe.sources().iter().map(|s| format!("`{s}`")).collect(),
        }
    }
}

impl Explain for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::NoRecipe { .. } => "weight-unmapped",
            Error::SourceMissing { .. } => "source-missing",
            Error::Length { .. } => "source-misfit",
            Error::Overflow { .. } => "weight-overflow",
            Error::Unsourced { .. } => "weight-unsourced",
            Error::Convert { .. } => "source-unconvertible",
            Error::NotInvertible { .. } => "fold-needs-base",
            Error::NotHeld { .. } => "base-values-missing",
            Error::UnknownWeights { .. } => "mapping-unknown-weights",
            Error::Targets { .. } => "targets-declined",
            Error::Probe { .. } => "probe-unusable",
            Error::Document(_) => "mapping-unreadable",
            Error::Schema { .. } => "mapping-schema",
        }
    }

    fn class(&self) -> Class {
        Class::Input
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Error::NoRecipe { .. } => vec![
                "give the checkpoint that the model was exported from: --base-weights, at build or at refit".into(),
                "or state its derivation with --mapping FILE".into(),
            ],
            Error::Unsourced { .. } => vec![
                "give the checkpoint that the model was exported from: --base-weights at build or here".into(),
                "or, where no tensor of the checkpoint is in it, say so with --mapping FILE".into(),
            ],
            Error::SourceMissing { .. } => {
                vec!["pass --partial if the file is meant to hold only some tensors".into()]
            }
            Error::Probe { .. } => vec![
                "`trtmut probe --print` prints the lines of Python that make one: all tensors moved, the same exporter, the same \
                 arguments"
                    .into(),
            ],
            Error::NotInvertible { .. } => vec![
                "give the checkpoint that the model was exported from with --base-weights".into(),
            ],
            Error::Targets { declined } => {
                let mut hints: Vec<String> = declined.iter().flat_map(Explain::hints).collect();
                hints.sort();
                hints.dedup();
                hints
            }
            _ => Vec::new(),
        }
    }
}

/// Why a name was not adopted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Declined {
    /// No weight of the model is known under this name.
    #[error("no weight of the model is known as `{name}`")]
    Unknown { name: String },
    /// The shapes do not agree.
    #[error(
        "`{name}` is {}, but weight `{weight}` is {}",
        show_shape(shape),
        show_shape(expected)
    )]
    Misfit {
        name: String,
        shape: Vec<usize>,
        weight: String,
        /// Shape of the ONNX weight.
        expected: Vec<usize>,
    },
    /// A square matrix whose consumer does not say whether it is transposed.
    #[error("whether weight `{weight}` holds `{name}` transposed cannot be told")]
    Orientation { name: String, weight: String },
    /// The graph shows that something was folded into the weight.
    #[error("weight `{weight}` is `{name}` with a normalisation folded in, as the graph shows")]
    FoldSuspected {
        name: String,
        weight: String,
        signs: Vec<FoldSign>,
    },
    /// The weight is computed from several tensors, which only the base checkpoint holds.
    #[error("weight `{weight}` is computed from `{name}` and other tensors")]
    Folded {
        name: String,
        weight: String,
        sources: Vec<String>,
    },
    /// Several names lead to one weight, or the mapping refuses it for another reason.
    #[error("weight `{weight}` is {}: `{name}` cannot be tied to it", grade.name())]
    Unsure {
        name: String,
        weight: String,
        grade: Grade,
    },
}

impl Explain for Declined {
    fn code(&self) -> &'static str {
        match self {
            Declined::Unknown { .. } => "target-unknown",
            Declined::Misfit { .. } => "target-misfit",
            Declined::Orientation { .. } => "target-orientation",
            Declined::FoldSuspected { .. } => "target-fold-suspected",
            Declined::Folded { .. } => "fold-needs-base",
            Declined::Unsure { .. } => "target-unsure",
        }
    }

    fn class(&self) -> Class {
        Class::Input
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Declined::Unknown { .. } | Declined::Misfit { .. } => {
                vec!["the file may belong to another model".into()]
            }
            _ => vec![
                "give the checkpoint that the model was exported from with --base-weights".into(),
            ],
        }
    }
}
