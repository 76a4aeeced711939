//! A model in half precision, for libraries that compute in a model's own types.
//!
//! | file | purpose |
//! |---|---|
//! | `types` | the element type of every value |
//! | `rewrite` | which nodes compute in half precision, and the graph that does so |
//!
//! Inputs and outputs stay as they are, with casts behind and before them. What is converted keeps its name, so that an engine
//! made of it has the weights of the model by name, each rounded once.

mod rewrite;
#[cfg(test)]
mod tests;
mod types;

use super::{BytesOf, Error, Model, Weight};
use crate::fault::Explain;
use crate::tensor::{ConvertError, Dtype, narrow};
use glob::Pattern;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;

/// A type of half precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// IEEE binary16: 11 bits of precision, up to 65504.
    Fp16,
    /// bfloat16: 8 bits of precision, up to 3.4e38.
    Bf16,
}

impl Half {
    /// By the name that options have.
    pub fn from_name(name: &str) -> Option<Half> {
        match name {
            "fp16" => Some(Half::Fp16),
            "bf16" => Some(Half::Bf16),
            _ => None,
        }
    }

    /// The name that options have.
    pub fn name(self) -> &'static str {
        match self {
            Half::Fp16 => "fp16",
            Half::Bf16 => "bf16",
        }
    }

    /// The element type.
    pub fn dtype(self) -> Dtype {
        match self {
            Half::Fp16 => Dtype::F16,
            Half::Bf16 => Dtype::Bf16,
        }
    }

    /// The first opset whose `Cast` has it.
    fn opset(self) -> i64 {
        match self {
            Half::Fp16 => 6,
            Half::Bf16 => 13,
        }
    }
}

/// Why a node computes in f32 still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// It is asked for by name.
    Named,
    /// It is between the inputs and a sine, a cosine or a whole number.
    Argument,
    /// A constant that it reads would become zero.
    Vanishes,
    /// Half precision is not defined for it, or is no use: quantisation, counting, coordinates, the model's own functions, branches.
    Operator,
}

impl Kept {
    fn says(self) -> &'static str {
        match self {
            Kept::Named => "named",
            Kept::Argument => "between the inputs and a sine, a cosine or a whole number",
            Kept::Vanishes => "with a constant that would become zero",
            Kept::Operator => "of operators that have no half precision",
        }
    }
}

/// A graph in half precision; the weights are still those of the model.
pub struct Converted {
    /// As [`Model::graph_bytes`].
    graph: Vec<u8>,
    half: Half,
    /// [`Weight::name`] of those that it holds in half precision.
    halved: HashSet<String>,
    /// Bytes of these in f32.
    bytes: u64,
    /// Weights in f32 that stay so.
    whole: usize,
    /// Nodes that compute in half precision.
    nodes: usize,
    kept: BTreeMap<Kept, usize>,
}

impl Converted {
    /// What was converted, in one sentence without a period.
    pub fn says(&self) -> String {
        let name = self.half.name();
        let stay = match self.whole {
            0 => String::new(),
            n => format!(" ({n} stay in f32)"),
        };
        let size = |bytes: u64| match bytes as f64 / 1024.0 {
            kib if kib < 1024.0 => format!("{kib:.1} KiB"),
            kib => format!("{:.1} MiB", kib / 1024.0),
        };
        let text = format!(
            "converted to {name}: {} weights{stay}, {} instead of {}; {} nodes compute in {name}",
            self.halved.len(),
            size(self.bytes / 2),
            size(self.bytes),
            self.nodes,
        );
        let kept: Vec<String> = (self.kept.iter())
            .map(|(why, n)| format!("{n} {}", why.says()))
            .collect();
        if kept.is_empty() {
            return text;
        }
        format!("{text}, and in f32 {}", kept.join(", "))
    }
}

/// Why a model cannot be converted.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Fault {
    /// It is in half precision, at least in part, and whoever made it chose what is.
    #[error("it holds {dtype} values already, such as `{value}`")]
    #[explain(code = "model-unconvertible", class = Input, hint("leave `--convert` out: engines compute in the model's own types"))]
    Already {
        /// The first.
        value: String,
        /// Its type.
        dtype: Dtype,
    },
    /// Nothing of it is f32.
    #[error("nothing of it that could be converted is f32")]
    #[explain(code = "model-unconvertible", class = Input, hint("leave `--convert` out: engines compute in the model's own types"))]
    Nothing,
    /// Its opset has no such casts.
    #[error("its opset {found} is older than {needed}, the first that has casts to {name}", name = .half.name())]
    #[explain(code = "model-unconvertible", class = Input, hint("export the model in a newer opset"))]
    Opset {
        /// What was asked for.
        half: Half,
        /// Its opset.
        found: i64,
        /// The first that would do.
        needed: i64,
    },
    /// No node has such a name.
    #[error("`--f32-layers {pattern}`: {reason}")]
    #[explain(code = "model-unconvertible", class = Input)]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why not.
        reason: String,
    },
    /// A finite value would become infinite.
    #[error("weight `{weight}` would become infinite: {cause}")]
    #[explain(code = "weight-overflow", class = Input,
        hints = readers.as_ref().map(|r| format!("keep what reads it in f32 with `--f32-layers '{r}'`")),
        hints = (*half == Half::Fp16).then_some("pass `--convert bf16`, which has the range of f32"))]
    Overflow {
        /// The weight.
        weight: String,
        /// By how much.
        cause: ConvertError,
        /// A pattern for the nodes that read it; none where one of them has no name.
        readers: Option<String>,
        /// What was asked for.
        half: Half,
    },
    /// The model cannot be written.
    #[error(transparent)]
    #[explain(code = "model-unconvertible", class = Input)]
    Model(#[from] Error),
}

impl Model {
    /// The graph of this model in half precision, but for the nodes whose names match `f32_layers` and what has to stay in f32.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn to_half(&self, half: Half, f32_layers: &[Pattern]) -> Result<Converted, Fault> {
        rewrite::convert(self, half, f32_layers)
    }

    /// Writes a converted model, as [`Model::write_graph`].
    ///
    /// # Errors
    /// As [`Model::write_graph`]; [`Fault::Overflow`].
    pub fn write_half(
        &self,
        converted: &Converted,
        out: &mut dyn Write,
        data: Option<(&mut dyn Write, &str)>,
    ) -> Result<(), Fault> {
        let bytes_of = |weight: &Weight| -> Result<Cow<'_, [u8]>, Fault> {
            let bytes = self.read(weight);
            if !converted.halved.contains(&weight.name) {
                return Ok(bytes);
            }
            let narrowed = rewrite::narrowed(self, weight, &bytes, converted.half)?;
            Ok(Cow::Owned(narrowed))
        };
        let bytes_of: &BytesOf<'_, '_, Fault> = &bytes_of;
        self.write_graph(&converted.graph, out, data, bytes_of)
    }
}

/// `bytes` of f32 in half precision.
fn to_bytes(bytes: &[u8], half: Half) -> Result<Vec<u8>, ConvertError> {
    narrow(Dtype::F32, half.dtype(), bytes)
}
