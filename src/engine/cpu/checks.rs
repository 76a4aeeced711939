//! What can only be known when the graph runs: it gets outputs that tell, and the session looks at them.

use super::lower::{Walk, label};
use super::proto::{float_scalar, node, set_int};
use crate::tensor::Dtype;
use onnx_protobuf::type_proto::{Tensor, Value};
use onnx_protobuf::{NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto};

/// Largest magnitude that an i64 result may have: below 2^31 by more than the rounding of the f32 that it is told in.
const LIMIT: f32 = 2.0e9;

/// An output that tells whether a result can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunCheck {
    /// Its name.
    pub output: String,
    /// The node that it watches.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// What must hold.
    pub must: Must,
}

/// What a [`RunCheck`] wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Must {
    /// The number of elements that may not fit 32 bits is 0.
    Fit,
    /// The rank is 2 or more.
    BeMatrix,
}

impl Walk {
    /// Has the graph tell the rank of `value`.
    pub(super) fn watch_rank(
        &mut self,
        original: &NodeProto,
        value: &str,
        inside: bool,
        nodes: &mut Vec<NodeProto>,
    ) {
        if inside {
            return self.refuse(original, "the rank of its second input is not known");
        }
        let shape = self.names.fresh("shape");
        let rank = self.names.fresh("rank");
        nodes.push(node("Shape", &[value], &[&shape]));
        nodes.push(node("Size", &[&shape], &[&rank]));
        self.tell(original, rank, Must::BeMatrix);
    }

    /// Has the graph count the elements of an i64 result that may not fit 32 bits. The operator is computed once more in f32,
    /// on absolute values and with sums for differences: an upper bound of the true magnitude, cancellation or not.
    pub(super) fn watch_range(
        &mut self,
        original: &NodeProto,
        inside: bool,
        nodes: &mut Vec<NodeProto>,
        constants: &mut Vec<TensorProto>,
    ) {
        if inside {
            return self.refuse(
                original,
                "i64 arithmetic in a subgraph, where its range cannot be checked",
            );
        }
        let mut bound = original.clone();
        bound.name.clear();
        if bound.op_type == "Sub" {
            bound.op_type = "Add".into();
        }
        let elementwise = matches!(original.op_type.as_str(), "Add" | "Sub" | "Mul" | "Pow");
        let operands = if elementwise { original.input.len() } else { 1 };
        for name in bound.input.iter_mut().take(operands) {
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
        self.tell(original, total, Must::Fit);
    }

    fn tell(&mut self, original: &NodeProto, output: String, must: Must) {
        let mut tensor = Tensor::new();
        tensor.elem_type = Dtype::I32.onnx();
        tensor.shape = Some(TensorShapeProto::new()).into();
        self.outputs.push(ValueInfoProto {
            name: output.clone(),
            type_: Some(TypeProto {
                value: Some(Value::TensorType(tensor)),
                ..TypeProto::new()
            })
            .into(),
            ..ValueInfoProto::new()
        });
        self.checks.push(RunCheck {
            output,
            node: label(original),
            operator: original.op_type.clone(),
            must,
        });
    }
}
