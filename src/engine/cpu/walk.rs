//! What one pass over a model gathers: names, refusals, and what the graph has to tell when it runs.

use super::proto::{Names, is_onnx, label};
use crate::engine::Refusal;
use crate::tensor::Dtype;
use onnx_protobuf::NodeProto;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// One pass over a model.
pub(super) struct Walk {
    pub(super) opset: i64,
    pub(super) names: Names,
    /// Values that a step function is taken of, in branches too; see [`stepped`](super::rewrite::stepped).
    pub(super) stepped: HashSet<String>,
    pub(super) refusals: Vec<Refusal>,
    /// What the graph that is being walked tells when it runs.
    pub(super) told: Vec<Told>,
    pub(super) rewritten: BTreeMap<&'static str, usize>,
    pub(super) floats: BTreeSet<Dtype>,
}

impl Walk {
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self
            .floats
            .iter()
            .map(|d| format!("{d} computed in f32"))
            .collect();
        notes.extend(
            self.rewritten.iter().map(|(what, n)| {
                format!("{what} ({n} {})", if *n == 1 { "node" } else { "nodes" })
            }),
        );
        notes
    }

    pub(super) fn refuse(&mut self, node: &NodeProto, reason: impl Into<String>) {
        let operator = if is_onnx(&node.domain) {
            node.op_type.clone()
        } else {
            format!("{}.{}", node.domain, node.op_type)
        };
        self.refusals.push(Refusal {
            node: label(node),
            operator,
            reason: reason.into(),
        });
    }

    /// Notes a float type that is computed in f32.
    pub(super) fn see(&mut self, dtype: Option<Dtype>) {
        if let Some(dtype @ (Dtype::F16 | Dtype::Bf16 | Dtype::F64)) = dtype {
            self.floats.insert(dtype);
        }
    }
}

/// A number that tells whether a result can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunCheck {
    /// The node that it watches.
    pub node: String,
    pub operator: String,
    pub must: Must,
}

/// A vector of `i32` in a graph, and what each of its elements must be.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub value: String,
    pub checks: Vec<RunCheck>,
}

/// What a [`RunCheck`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Must {
    /// The number of elements that may not fit 32 bits is 0.
    Fit,
    /// The rank is 2 or more.
    BeMatrix,
}

impl Must {
    /// Whether `number` is as it must be.
    pub fn holds(self, number: i32) -> bool {
        match self {
            Must::Fit => number == 0,
            Must::BeMatrix => number >= 2,
        }
    }

    /// A number that holds.
    pub fn good(self) -> i32 {
        match self {
            Must::Fit => 0,
            Must::BeMatrix => 2,
        }
    }
}
