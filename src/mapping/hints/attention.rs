//! Which matrix is query, key or value: read from the dataflow softmax(q·kᵀ)·v, for exports that name neither node nor
//! weight. The output projection behind it must be named; its module gives the scope.

use super::record::Nodes;
use crate::mapping::types::{AttentionRole, Clue, Row, push_hint};
use onnx_protobuf::NodeProto;
use std::collections::HashMap;

/// How libraries name the projections: the output's path below the attention module, then query, key, value.
/// Sources: diffusers `Attention`, transformers `CLIPAttention`, `LlamaAttention`, `DistilBertModel`, `BertModel`,
/// `T5Attention`, Meta's `llama`.
const NAMES: [(&str, [&str; 3]); 8] = [
    ("to_out.0", ["to_q", "to_k", "to_v"]),
    ("to_out", ["to_q", "to_k", "to_v"]),
    ("out_proj", ["q_proj", "k_proj", "v_proj"]),
    ("o_proj", ["q_proj", "k_proj", "v_proj"]),
    ("out_lin", ["q_lin", "k_lin", "v_lin"]),
    ("output.dense", ["self.query", "self.key", "self.value"]),
    ("wo", ["wq", "wk", "wv"]),
    ("o", ["q", "k", "v"]),
];

const ROLES: [AttentionRole; 3] = [
    AttentionRole::Query,
    AttentionRole::Key,
    AttentionRole::Value,
];

/// Operators that move or rescale data without mixing channels of different projections.
fn carries(operator: &str) -> bool {
    matches!(
        operator,
        "Transpose"
            | "Reshape"
            | "Cast"
            | "Squeeze"
            | "Unsqueeze"
            | "Identity"
            | "Expand"
            | "Dropout"
    )
}

/// Elementwise operators whose other operand may be a scale, a mask or a bias.
fn adjusts(operator: &str) -> bool {
    matches!(operator, "Mul" | "Div" | "Add" | "Sub" | "Where")
}

/// Gives a hint to every weight without one that feeds attention as query, key or value.
pub(super) fn add_roles(nodes: &Nodes<'_>, rows: &mut [Row]) {
    let index: HashMap<String, usize> = rows
        .iter()
        .enumerate()
        .map(|(i, r)| (r.name.clone(), i))
        .collect();
    for softmax in nodes.iter().filter(|n| n.op_type == "Softmax") {
        let Some((found, output)) = around(nodes, softmax) else {
            continue;
        };
        let Some(module) = output_module(nodes, rows, &index, output) else {
            continue;
        };
        for (role, weight) in found {
            // A name says more than the dataflow does.
            if let Some(&at) = index.get(weight)
                && rows[at].hints.is_empty()
            {
                let names = names(&module, role);
                if !names.is_empty() {
                    let clue = Clue::AttentionRole {
                        role,
                        output: module.clone(),
                    };
                    push_hint(&mut rows[at], clue, names);
                }
            }
        }
    }
}

fn names(output: &str, role: AttentionRole) -> Vec<String> {
    let Some(&(suffix, named)) = NAMES.iter().find(|(suffix, _)| {
        output
            .strip_suffix(suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }) else {
        return Vec::new();
    };
    let scope = &output[..output.len() - suffix.len()];
    let own = ROLES.iter().position(|r| *r == role).unwrap_or_default();
    vec![format!("{scope}{}.weight", named[own])]
}

/// The weights that act as query, key and value around one softmax, and the product that projects the result.
fn around<'a>(
    nodes: &Nodes<'a>,
    softmax: &'a NodeProto,
) -> Option<(Vec<(AttentionRole, &'a str)>, &'a NodeProto)> {
    let scores = scores(nodes, softmax.input.first()?)?;
    let weighed = forward(nodes, softmax.output.first()?, |n| n.op_type == "MatMul")?;
    // The scores must be the left factor of the second product, as in softmax(q·kᵀ)·v.
    let from_scores = back_to(nodes, weighed.input.first()?, softmax);
    if !from_scores || weighed.input.len() != 2 {
        return None;
    }
    let output = forward(nodes, weighed.output.first()?, |n| {
        matches!(n.op_type.as_str(), "MatMul" | "Gemm")
    })?;
    let inputs = [&scores.input[0], &scores.input[1], &weighed.input[1]];
    let found: Vec<_> = ROLES
        .into_iter()
        .zip(inputs)
        .filter_map(|(role, input)| Some((role, projection(nodes, input)?)))
        .collect();
    // One matrix in two roles is no attention of the usual kind.
    let distinct = found
        .iter()
        .all(|(role, w)| !found.iter().any(|(r, other)| r != role && other == w));
    distinct.then_some((found, output))
}

/// The product q·kᵀ behind a softmax, through scales and masks.
fn scores<'a>(nodes: &Nodes<'a>, name: &str) -> Option<&'a NodeProto> {
    let mut node = nodes.producer(name)?;
    for _ in 0..8 {
        let operator = node.op_type.as_str();
        if operator == "MatMul" && node.input.len() == 2 {
            // A product with a constant is a projection.
            let dynamic = !node.input.iter().any(|i| nodes.is_constant(i));
            return dynamic.then_some(node);
        }
        let next = if carries(operator) {
            node.input.first()?
        } else if matches!(operator, "Mul" | "Div" | "Add") {
            node.input.iter().find(|i| reaches_product(nodes, i))?
        } else {
            return None;
        };
        node = nodes.producer(next)?;
    }
    None
}

/// Whether a product is reached from `name` through scales and moves; a mask is not.
fn reaches_product(nodes: &Nodes<'_>, name: &str) -> bool {
    let mut at = name.to_owned();
    for _ in 0..8 {
        match nodes.producer(&at) {
            Some(n) if n.op_type == "MatMul" => return true,
            Some(n) if carries(&n.op_type) || matches!(n.op_type.as_str(), "Mul" | "Div") => {
                let Some(next) = n.input.iter().find(|i| !nodes.is_constant(i)) else {
                    return false;
                };
                at.clone_from(next);
            }
            _ => return false,
        }
    }
    false
}

/// The next node that `wanted` takes, through operators that carry data on to a single use.
fn forward<'a>(
    nodes: &Nodes<'a>,
    name: &str,
    wanted: impl Fn(&NodeProto) -> bool,
) -> Option<&'a NodeProto> {
    let mut at = name.to_owned();
    for _ in 0..8 {
        // Who asks for the extents does not use the values.
        let mut uses = nodes.direct_uses(&at).filter(|(n, _)| n.op_type != "Shape");
        let (node, input) = uses.next()?;
        if uses.next().is_some() || input != 0 {
            return None;
        }
        if wanted(node) {
            return Some(node);
        }
        if !carries(&node.op_type) {
            return None;
        }
        at.clone_from(node.output.first()?);
    }
    None
}

fn back_to(nodes: &Nodes<'_>, name: &str, goal: &NodeProto) -> bool {
    let mut at = name.to_owned();
    for _ in 0..8 {
        match nodes.producer(&at) {
            Some(n) if n.output == goal.output => return true,
            Some(n) if carries(&n.op_type) => {
                let Some(next) = n.input.first() else {
                    return false;
                };
                at.clone_from(next);
            }
            _ => return false,
        }
    }
    false
}

/// The weight of the `Linear` that computes `name`, through moves, scales and its bias.
fn projection<'a>(nodes: &Nodes<'a>, name: &str) -> Option<&'a str> {
    let mut node = nodes.producer(name)?;
    for _ in 0..16 {
        let operator = node.op_type.as_str();
        if matches!(operator, "MatMul" | "Gemm") {
            return stored(nodes, node.input.get(1)?);
        }
        let next = if carries(operator) {
            node.input.first()?
        } else if adjusts(operator) && node.input.len() == 2 {
            let mut dynamic = node.input.iter().filter(|i| !nodes.is_constant(i));
            let only = dynamic.next()?;
            if dynamic.next().is_some() {
                return None;
            }
            only
        } else {
            return None;
        };
        node = nodes.producer(next)?;
    }
    None
}

/// The constant behind a matrix operand, through a transpose or cast.
fn stored<'a>(nodes: &Nodes<'a>, name: &'a str) -> Option<&'a str> {
    let mut at = name;
    for _ in 0..4 {
        if nodes.is_constant(at) {
            return Some(at);
        }
        let node = nodes.producer(at)?;
        if !carries(&node.op_type) {
            return None;
        }
        at = node.input.first()?;
    }
    None
}

/// The module of an output projection, from its own hints.
fn output_module(
    nodes: &Nodes<'_>,
    rows: &[Row],
    index: &HashMap<String, usize>,
    output: &NodeProto,
) -> Option<String> {
    let weight = stored(nodes, output.input.get(1)?)?;
    let row = &rows[*index.get(weight)?];
    row.hints
        .iter()
        .flat_map(|h| &h.names)
        .find_map(|n| n.strip_suffix(".weight").map(ToOwned::to_owned))
}
