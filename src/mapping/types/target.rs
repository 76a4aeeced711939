//! Weights that a LoRA may name, and why one cannot be used.

use super::row::{FoldSign, Grade};
use crate::fault::{Class, Explain};
use crate::tensor::{Dtype, show_shape};
use serde::{Deserialize, Serialize};

/// A weight that a LoRA may name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The source's name: of the checkpoint where one was seen, else as the graph presumes it without the wrapper.
    pub name: String,
    /// Other spellings.
    pub aliases: Vec<String>,
    /// Shape as torch holds it, where it is known: extents of one may be missing, and a matrix whose orientation is not
    /// known stands as in the ONNX file.
    pub shape: Vec<usize>,
    /// Element type in the ONNX file.
    pub dtype: Dtype,
    /// Index of the row.
    pub row: usize,
    /// Whether it is computed from several tensors, so that a change of this one needs the others too.
    pub folded: bool,
}

/// Why a name was not adopted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Declined {
    /// No weight of the model is known under this name.
    #[error("no weight of the model is known as `{name}`")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The shapes do not agree.
    #[error(
        "`{name}` is {}, but weight `{weight}` is {}",
        show_shape(shape),
        show_shape(expected)
    )]
    Misfit {
        /// The name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// ONNX name.
        weight: String,
        /// Shape of the ONNX weight.
        expected: Vec<usize>,
    },
    /// A square matrix whose consumer does not say whether it is transposed.
    #[error("whether weight `{weight}` holds `{name}` transposed cannot be told")]
    Orientation {
        /// The name.
        name: String,
        /// ONNX name.
        weight: String,
    },
    /// The graph shows that something was folded into the weight.
    #[error("weight `{weight}` is `{name}` with a normalisation folded in, as the graph shows")]
    FoldSuspected {
        /// The name.
        name: String,
        /// ONNX name.
        weight: String,
        /// What shows it.
        signs: Vec<FoldSign>,
    },
    /// The weight is computed from several tensors, which only the base checkpoint holds.
    #[error("weight `{weight}` is computed from `{name}` and other tensors")]
    Folded {
        /// The name.
        name: String,
        /// ONNX name.
        weight: String,
        /// All sources.
        sources: Vec<String>,
    },
    /// Several names lead to one weight, or the mapping refuses it for another reason.
    #[error("weight `{weight}` is {}: `{name}` cannot be tied to it", grade.name())]
    Unsure {
        /// The name.
        name: String,
        /// ONNX name.
        weight: String,
        /// The row's grade.
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
