//! What can be wrong with a mapping.

use super::row::{FoldSign, Grade, Recipe, Row};
use crate::fault::Explain;
use crate::tensor::{ConvertError, Dtype, show_shape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Why a mapping cannot be used as it is.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    /// Nothing says where the weight comes from.
    #[error("weight `{weight}` is {} and no tensor of the checkpoint fills it", grade.name())]
    #[explain(code = "weight-unmapped", class = Input,
        hint("give the checkpoint that the model was exported from: --base-weights, at build or at refit"),
        hint("or state its derivation with --mapping FILE"))]
    NoRecipe { weight: String, grade: Grade },
    /// A source is not in the checkpoint.
    #[error("weight `{weight}` needs tensor `{source_name}`, which the checkpoint does not hold")]
    #[explain(code = "source-missing", class = Input, hint("pass --partial if the file is meant to hold only some tensors"))]
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
    #[explain(code = "source-misfit", class = Input)]
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
    #[explain(code = "weight-overflow", class = Input)]
    Overflow {
        weight: String,
        source_name: String,
        dtype: Dtype,
        /// Largest magnitude in the tensor.
        largest: f64,
    },
    /// Nothing says where a weight comes from, and it may hold what changes.
    #[error("nothing says where weight `{weight}` comes from, and it may hold what changes in {}", changed.join(", "))]
    #[explain(code = "weight-unsourced", class = Input,
        hint("give the checkpoint that the model was exported from: --base-weights at build or here"),
        hint("or, where no tensor of the checkpoint is in it, say so with --mapping FILE"))]
    Unsourced {
        weight: String,
        /// Changed tensors, in backticks, the first few.
        changed: Vec<String>,
    },
    /// A step cannot be computed.
    #[error("weight `{weight}` cannot be computed")]
    #[explain(code = "source-unconvertible", class = Input)]
    Convert {
        weight: String,
        #[source]
        cause: ConvertError,
    },
    /// The weight's sources cannot be had from its bytes.
    #[error("weight `{weight}` is computed from {}, which cannot be undone", sources.join(", "))]
    #[explain(code = "fold-needs-base", class = Input, hint("give the checkpoint that the model was exported from with --base-weights"))]
    NotInvertible {
        weight: String,
        /// What it is computed from, in backticks.
        sources: Vec<String>,
    },
    /// The ONNX file's values of a weight are not at hand.
    #[error("the base values of weight `{weight}` are not at hand")]
    #[explain(code = "base-values-missing", class = Input)]
    NotHeld { weight: String },
    /// A mapping file names weights that the model does not have.
    #[error("the mapping file names unknown weights: {}", weights.join(", "))]
    #[explain(code = "mapping-unknown-weights", class = Input)]
    UnknownWeights {
        /// Their names, in backticks.
        weights: Vec<String>,
    },
    /// Names that a LoRA targets could not be tied to weights.
    #[error("{}", join(declined))]
    #[explain(code = "targets-declined", class = Input, hints = declined.iter().flat_map(Explain::hints).collect::<BTreeSet<_>>())]
    Targets {
        /// Each with its reason.
        declined: Vec<Declined>,
    },
    /// A second export proves nothing.
    #[error("the probe cannot be used: {problem}")]
    #[explain(code = "probe-unusable", class = Input,
        hint("`trtmut probe --print` prints the lines of Python that make one: all tensors moved, the same exporter, the same arguments"))]
    Probe {
        /// What is wrong with it.
        problem: String,
    },
    /// A mapping file cannot be read.
    #[error("not a mapping file")]
    #[explain(code = "mapping-unreadable", class = Input)]
    Document(#[source] serde_json::Error),
    /// A mapping file of another format.
    #[error("mapping format `{found}` is not `{expected}`")]
    #[explain(code = "mapping-schema", class = Input)]
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

/// Why a name was not adopted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, Explain)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Declined {
    /// No weight of the model is known under this name.
    #[error("no weight of the model is known as `{name}`")]
    #[explain(code = "target-unknown", class = Input, hint("the file may belong to another model"))]
    Unknown { name: String },
    /// The shapes do not agree.
    #[error(
        "`{name}` is {}, but weight `{weight}` is {}",
        show_shape(shape),
        show_shape(expected)
    )]
    #[explain(code = "target-misfit", class = Input, hint("the file may belong to another model"))]
    Misfit {
        name: String,
        shape: Vec<usize>,
        weight: String,
        /// Shape of the ONNX weight.
        expected: Vec<usize>,
    },
    /// A square matrix whose consumer does not say whether it is transposed.
    #[error("whether weight `{weight}` holds `{name}` transposed cannot be told")]
    #[explain(code = "target-orientation", class = Input, hint("give the checkpoint that the model was exported from with --base-weights"))]
    Orientation { name: String, weight: String },
    /// The graph shows that something was folded into the weight.
    #[error("weight `{weight}` is `{name}` with a normalisation folded in, as the graph shows")]
    #[explain(code = "target-fold-suspected", class = Input, hint("give the checkpoint that the model was exported from with --base-weights"))]
    FoldSuspected {
        name: String,
        weight: String,
        signs: Vec<FoldSign>,
    },
    /// The weight is computed from several tensors, which only the base checkpoint holds.
    #[error("weight `{weight}` is computed from `{name}` and other tensors")]
    #[explain(code = "fold-needs-base", class = Input, hint("give the checkpoint that the model was exported from with --base-weights"))]
    Folded {
        name: String,
        weight: String,
        sources: Vec<String>,
    },
    /// The exporter computed the weight of the tensor (`1 + w`), and without the base nothing says how.
    #[error(
        "weight `{weight}` is computed from `{name}`, and without the checkpoint that the model was exported from nothing says how"
    )]
    #[explain(code = "target-computed", class = Input, hint("give the checkpoint that the model was exported from with --base-weights"))]
    Computed { name: String, weight: String },
    /// Several names lead to one weight, or the mapping refuses it for another reason.
    #[error("weight `{weight}` is {}: `{name}` cannot be tied to it", grade.name())]
    #[explain(code = "target-unsure", class = Input, hint("give the checkpoint that the model was exported from with --base-weights"))]
    Unsure {
        name: String,
        weight: String,
        grade: Grade,
    },
    /// One initializer stands for the tensor and for something else, which does not change with it.
    #[error(
        "weight `{weight}` stands for `{name}` and for {with}: one cannot change without the other"
    )]
    #[explain(code = "target-merged", class = Input, hint("fuse the file where the model is made, and export it again"))]
    Merged {
        name: String,
        weight: String,
        /// The other tensor, or the node that reads it.
        with: String,
    },
}
