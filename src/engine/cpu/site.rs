//! Where a node is rewritten, and what it becomes.

use super::facts::Facts;
use super::proto::{Names, int_tensor, scalar};
use crate::tensor::Dtype;
use onnx_protobuf::{NodeProto, TensorProto};
use std::collections::HashSet;

/// What a node became: nodes in topological order, and constants that they read.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// The nodes; the last has the outputs of the original.
    pub nodes: Vec<NodeProto>,
    pub constants: Vec<TensorProto>,
    /// A value that must have at least two axes when the graph runs.
    pub matrix: Option<String>,
}

/// Where a node is rewritten.
pub struct Site<'a> {
    /// Opset of ONNX's own domain.
    pub opset: i64,
    /// What is known of its inputs.
    pub facts: &'a Facts<'a>,
    /// Values that a step function is taken of, see [`stepped`](super::rewrite::stepped).
    pub stepped: &'a HashSet<String>,
    pub names: &'a mut Names,
}

impl Site<'_> {
    pub(super) fn constant(&mut self, out: &mut Rewritten, dims: &[i64], values: &[i64]) -> String {
        let name = self.names.fresh("const");
        out.constants.push(int_tensor(&name, dims, values));
        name
    }

    pub(super) fn zero(&mut self, out: &mut Rewritten, dtype: Dtype) -> String {
        let name = self.names.fresh("zero");
        out.constants.push(scalar(&name, dtype, 0));
        name
    }
}
