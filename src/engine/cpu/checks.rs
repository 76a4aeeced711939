//! What can only be known when the graph runs: it gets one more output that tells, and the session looks at it.
//!
//! One vector for all of it: the engine merges values that it finds to be equal, and refuses a graph that then has an output twice.
//! In the branches of an `If` each branch tells what it has to, and that the others have nothing to complain about.

use super::proto::{
    float_scalar, int_tensor, label, node, set_int, string, subgraphs, subgraphs_mut,
};
use super::walk::{Must, RunCheck, Told, Walk};
use crate::tensor::Dtype;
use onnx_protobuf::type_proto::{Tensor, Value};
use onnx_protobuf::{GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto};
use std::collections::HashSet;

/// Largest magnitude that an i64 result may have: below 2^31 by more than the rounding of the f32 that it is told in.
const LIMIT: f32 = 2.0e9;
/// What an infinite float is cast to where it may be cast at all, and what finite ones must stay below: far from what models count,
/// and room for sums.
const FAR: f32 = (1u32 << 30) as f32;

/// Whether a scatter adds to or multiplies what it finds, so that its values can grow.
pub(super) fn scatter_accumulates(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "ScatterElements" | "ScatterND")
        && matches!(string(node, "reduction"), Some("add" | "mul"))
}

impl Walk {
    /// Has the graph tell the rank of `value`.
    pub(super) fn watch_rank(
        &mut self,
        original: &NodeProto,
        value: &str,
        nodes: &mut Vec<NodeProto>,
        constants: &mut Vec<TensorProto>,
    ) {
        let shape = self.names.fresh("shape");
        let rank = self.names.fresh("rank");
        nodes.push(node("Shape", &[value], &[&shape]));
        nodes.push(node("Size", &[&shape], &[&rank]));
        self.tell(original, &rank, Must::BeMatrix, nodes, constants);
    }

    /// Has the graph count the elements of an i64 result that may not fit 32 bits. The operator is computed once more in f32,
    /// on absolute values and with sums for differences: an upper bound of the true magnitude, cancellation or not.
    pub(super) fn watch_range(
        &mut self,
        original: &NodeProto,
        nodes: &mut Vec<NodeProto>,
        constants: &mut Vec<TensorProto>,
    ) {
        let mut bound = original.clone();
        bound.name.clear();
        if bound.op_type == "Sub" {
            bound.op_type = "Add".into();
        }
        let elementwise = matches!(original.op_type.as_str(), "Add" | "Sub" | "Mul" | "Pow");
        // What a reduction or a running sum has beside its data are axes, and the second input of a scatter are places.
        let is_operand = |i: usize| match i {
            0 => true,
            2 => elementwise || scatter_accumulates(original),
            _ => elementwise,
        };
        for (_, name) in (bound.input.iter_mut().enumerate()).filter(|(i, _)| is_operand(*i)) {
            let [float, magnitude] = ["float", "magnitude"].map(|s| self.names.fresh(s));
            let mut cast = node("Cast", &[name], &[&float]);
            set_int(&mut cast, "to", i64::from(Dtype::F32.onnx()));
            nodes.push(cast);
            // A negative exponent makes a power smaller, not larger.
            nodes.push(node("Abs", &[&float], &[&magnitude]));
            *name = magnitude;
        }
        let result = if original.op_type.starts_with("Cast") {
            bound.input[0].clone()
        } else {
            let result = self.names.fresh("bound");
            bound.output = vec![result.clone()];
            nodes.push(bound);
            result
        };
        let limit = self.names.fresh("limit");
        constants.push(float_scalar(&limit, LIMIT));
        let [fits, beyond, count, total] =
            ["fits", "beyond", "count", "total"].map(|s| self.names.fresh(s));
        // `not (x < limit)` is true of NaN too.
        nodes.push(node("Less", &[&result, &limit], &[&fits]));
        nodes.push(node("Not", &[&fits], &[&beyond]));
        let mut cast = node("Cast", &[&beyond], &[&count]);
        set_int(&mut cast, "to", i64::from(Dtype::I32.onnx()));
        nodes.push(cast);
        let mut sum = node("ReduceSum", &[&count], &[&total]);
        set_int(&mut sum, "keepdims", 0);
        nodes.push(sum);
        self.tell(original, &total, Must::Fit, nodes, constants);
    }

    /// A cast of floats to i64 that may meet infinities whose result is thrown away (see [`guarded`]): they become far numbers of
    /// their sign; every other number must fit.
    pub(super) fn cast_guarded(
        &mut self,
        original: &NodeProto,
        nodes: &mut Vec<NodeProto>,
        constants: &mut Vec<TensorProto>,
    ) {
        let [least, most] = ["least", "most"].map(|s| self.names.fresh(s));
        constants.push(float_scalar(&least, -FAR));
        constants.push(float_scalar(&most, FAR));
        let data = original.input[0].as_str();
        let [clipped, magnitude, near, infinite, good, bad, count, total] = [
            "clipped",
            "magnitude",
            "near",
            "infinite",
            "good",
            "bad",
            "count",
            "total",
        ]
        .map(|s| self.names.fresh(s));
        let mut result = node("Cast", &[&clipped], &[&original.output[0]]);
        set_int(&mut result, "to", i64::from(Dtype::I64.onnx()));
        let mut counted = node("Cast", &[&bad], &[&count]);
        set_int(&mut counted, "to", i64::from(Dtype::I32.onnx()));
        let mut sum = node("ReduceSum", &[&count], &[&total]);
        set_int(&mut sum, "keepdims", 0);
        *nodes = vec![
            node("Clip", &[data, &least, &most], &[&clipped]),
            result,
            node("Abs", &[data], &[&magnitude]),
            node("Less", &[&magnitude, &most], &[&near]),
            node("IsInf", &[data], &[&infinite]),
            node("Or", &[&near, &infinite], &[&good]),
            node("Not", &[&good], &[&bad]),
            counted,
            sum,
        ];
        self.tell(original, &total, Must::Fit, nodes, constants);
    }

    fn tell(
        &mut self,
        original: &NodeProto,
        number: &str,
        must: Must,
        nodes: &mut Vec<NodeProto>,
        constants: &mut Vec<TensorProto>,
    ) {
        let [one, value] = ["one", "told"].map(|s| self.names.fresh(s));
        constants.push(int_tensor(&one, &[1], &[1]));
        nodes.push(node("Reshape", &[number, &one], &[&value]));
        self.told.push(Told {
            value,
            checks: vec![RunCheck {
                node: label(original),
                operator: original.op_type.clone(),
                must,
            }],
        });
    }

    /// Has `branching` (an `If`) pass on what its branches tell, in the order in which it holds them.
    pub(super) fn pass_on(&mut self, branching: &mut NodeProto, told: Vec<Vec<Told>>) {
        if told.iter().all(Vec::is_empty) {
            return;
        }
        let result = self.names.fresh("told");
        for (own, graph) in subgraphs_mut(branching).enumerate() {
            let mut parts = Vec::new();
            for (branch, told) in told.iter().enumerate() {
                for told in told {
                    if branch == own {
                        parts.push(told.value.clone());
                        continue;
                    }
                    let name = self.names.fresh("good");
                    let values: Vec<i64> =
                        told.checks.iter().map(|c| c.must.good().into()).collect();
                    graph
                        .initializer
                        .push(int_tensor(&name, &[values.len() as i64], &values));
                    parts.push(name);
                }
            }
            let value = self.names.fresh("told");
            graph.node.push(concat(&parts, &value));
            graph.output.push(declared(value));
        }
        branching.output.push(result.clone());
        self.told.push(Told {
            value: result,
            checks: told.into_iter().flatten().flat_map(|t| t.checks).collect(),
        });
    }

    /// Gives the main graph its last output, where there is something to tell: the name, and what its elements must be.
    pub(super) fn tell_all(&mut self, graph: &mut GraphProto) -> Option<(String, Vec<RunCheck>)> {
        let told = std::mem::take(&mut self.told);
        if told.is_empty() {
            return None;
        }
        let parts: Vec<String> = told.iter().map(|t| t.value.clone()).collect();
        let output = self.names.fresh("told");
        graph.node.push(concat(&parts, &output));
        graph.output.push(declared(output.clone()));
        Some((output, told.into_iter().flat_map(|t| t.checks).collect()))
    }
}

/// The values of `graph` of which every reader picks elements, compares them, moves them, adds to them or looks something up by
/// them. What an infinite float becomes as an integer is not defined by ONNX and differs between machines, so a model that casts
/// one (T5's logarithmic buckets of distances do) can only be right where the result is thrown away; among these readers a far
/// number is thrown away as any other would be, and an index that is none is an error.
pub(super) fn guarded(graph: &GraphProto) -> HashSet<String> {
    fn read(graph: &GraphProto, names: &mut HashSet<String>) {
        for node in &graph.node {
            names.extend(node.input.iter().cloned());
            subgraphs(node).for_each(|g| read(g, names));
        }
        names.extend(graph.output.iter().map(|v| v.name.clone()));
    }
    let mut seen = HashSet::new();
    let mut exposed: HashSet<String> = graph.output.iter().map(|v| v.name.clone()).collect();
    for node in graph.node.iter().rev() {
        for inner in subgraphs(node) {
            read(inner, &mut exposed);
        }
        let passes = match node.op_type.as_str() {
            "Add" | "Clip" | "Concat" | "Expand" | "Flatten" | "Identity" | "Max" | "Min"
            | "Neg" | "Reshape" | "Slice" | "Squeeze" | "Sub" | "Transpose" | "Unsqueeze"
            | "Where" => node.output.iter().any(|o| exposed.contains(o)),
            "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Shape" | "Size" => false,
            "Gather" | "GatherElements" | "GatherND" => {
                let indices = node.input.iter().skip(1).cloned();
                let data = node.input.iter().take(1).cloned();
                seen.extend(indices);
                exposed.extend(data);
                continue;
            }
            _ => true,
        };
        if passes {
            exposed.extend(node.input.iter().cloned());
        }
        seen.extend(node.input.iter().cloned());
    }
    seen.retain(|name| !exposed.contains(name));
    seen
}

fn concat(parts: &[String], to: &str) -> NodeProto {
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let mut concat = node("Concat", &parts, &[to]);
    set_int(&mut concat, "axis", 0);
    concat
}

/// An output of i32.
fn declared(name: String) -> ValueInfoProto {
    let mut tensor = Tensor::new();
    tensor.elem_type = Dtype::I32.onnx();
    ValueInfoProto {
        name,
        type_: Some(TypeProto {
            value: Some(Value::TensorType(tensor)),
            ..TypeProto::new()
        })
        .into(),
        ..ValueInfoProto::new()
    }
}
