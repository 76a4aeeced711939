//! The element type of every value, as far as the operators' definitions and the file's own declarations say.
//!
//! Nodes are read once, in the order of the file: what a file puts before its producer has no known type, and stays as it is.

use crate::onnx::is_default_domain;
use crate::tensor::Dtype;
use onnx_protobuf::type_proto::Value;
use onnx_protobuf::{FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use std::cell::RefCell;
use std::collections::HashMap;

/// The model's functions, with what calls gave before.
pub struct Functions<'m> {
    all: HashMap<(&'m str, &'m str), &'m FunctionProto>,
    calls: RefCell<HashMap<Call, Vec<Option<Dtype>>>>,
}

/// Domain, name, and the types of the inputs.
type Call = (String, String, Vec<Option<Dtype>>);

impl<'m> Functions<'m> {
    pub fn of(model: &'m ModelProto) -> Functions<'m> {
        let named = |f: &'m FunctionProto| ((f.domain.as_str(), f.name.as_str()), f);
        Functions {
            all: model.functions.iter().map(named).collect(),
            calls: RefCell::default(),
        }
    }

    /// What the node calls, where that is one of them.
    pub fn called(&self, node: &NodeProto) -> Option<&'m FunctionProto> {
        self.all
            .get(&(node.domain.as_str(), node.op_type.as_str()))
            .copied()
    }
}

/// Types by name, with those of the graph around.
#[derive(Default)]
pub struct Types<'o> {
    known: HashMap<String, Dtype>,
    outer: Option<&'o Types<'o>>,
}

impl<'o> Types<'o> {
    /// Those of `graph` and what it reads from outside.
    pub fn of(
        graph: &GraphProto,
        outer: Option<&'o Types<'o>>,
        functions: &Functions<'_>,
    ) -> Types<'o> {
        let declarations = graph
            .input
            .iter()
            .chain(&graph.value_info)
            .chain(&graph.output);
        let declared = declarations.filter_map(|v| Some((v.name.clone(), declared(v)?)));
        let mut known: HashMap<String, Dtype> = declared.collect();
        known.extend(
            graph
                .initializer
                .iter()
                .filter_map(|t| Some((t.name.clone(), Dtype::from_onnx(t.data_type)?))),
        );
        let mut types = Types { known, outer };
        types.walk(&graph.node, functions);
        types
    }

    /// The type of a value.
    pub fn get(&self, name: &str) -> Option<Dtype> {
        let own = self.known.get(name).copied();
        own.or_else(|| self.outer.and_then(|o| o.get(name)))
    }

    fn walk(&mut self, nodes: &[NodeProto], functions: &Functions<'_>) {
        for node in nodes {
            let outputs = self.outputs(node, functions);
            for (name, dtype) in node.output.iter().zip(outputs) {
                // Where the definition is silent, the declaration stays.
                if let (false, Some(dtype)) = (name.is_empty(), dtype) {
                    self.known.insert(name.clone(), dtype);
                }
            }
        }
    }

    fn outputs(&self, node: &NodeProto, functions: &Functions<'_>) -> Vec<Option<Dtype>> {
        if let Some(function) = functions.called(node) {
            return self.call(node, function, functions);
        }
        if !is_default_domain(&node.domain) {
            return Vec::new();
        }
        let bodies = node.attribute.iter().filter_map(|a| a.g.as_ref());
        match node.op_type.as_str() {
            "If" | "Loop" | "Scan" => {
                // A Loop's body also gives its condition.
                let skipped = usize::from(node.op_type == "Loop");
                let Some(body) = bodies.into_iter().next() else {
                    return Vec::new();
                };
                let inner = Types::of(body, Some(self), functions);
                let outputs = body.output.iter().skip(skipped);
                outputs.map(|o| inner.get(&o.name)).collect()
            }
            _ => {
                let input = |i: usize| node.input.get(i).and_then(|name| self.get(name));
                (0..node.output.len())
                    .map(|i| defined(node, i, &input))
                    .collect()
            }
        }
    }

    fn call(
        &self,
        node: &NodeProto,
        function: &FunctionProto,
        functions: &Functions<'_>,
    ) -> Vec<Option<Dtype>> {
        let inputs: Vec<Option<Dtype>> = node.input.iter().map(|name| self.get(name)).collect();
        let call = (node.domain.clone(), node.op_type.clone(), inputs);
        // Remembered, because functions that call one another twice would be walked exponentially
        // often.
        if let Some(before) = functions.calls.borrow().get(&call) {
            return before.clone();
        }
        let given = function.input.iter().zip(&call.2);
        let mut inner = Types {
            known: given
                .filter_map(|(name, dtype)| Some((name.clone(), (*dtype)?)))
                .collect(),
            outer: None,
        };
        inner.walk(&function.node, functions);
        let outputs: Vec<_> = function.output.iter().map(|o| inner.get(o)).collect();
        functions.calls.borrow_mut().insert(call, outputs.clone());
        outputs
    }
}

fn declared(value: &ValueInfoProto) -> Option<Dtype> {
    match value.type_.as_ref()?.value.as_ref()? {
        Value::TensorType(tensor) => Dtype::from_onnx(tensor.elem_type),
        _ => None,
    }
}

/// The type that an attribute names.
pub fn named(node: &NodeProto, attribute: &str) -> Option<Dtype> {
    let attribute = node.attribute.iter().find(|a| a.name == attribute)?;
    Dtype::from_onnx(i32::try_from(attribute.i).ok()?)
}

fn value(node: &NodeProto) -> Option<Dtype> {
    let attribute = node.attribute.iter().find(|a| a.name == "value")?;
    Dtype::from_onnx(attribute.t.as_ref()?.data_type)
}

/// The type of output `index` by the definition of the operator (<https://onnx.ai/onnx/operators/>); most give the type of their
/// first input.
fn defined(
    node: &NodeProto,
    index: usize,
    input: &dyn Fn(usize) -> Option<Dtype>,
) -> Option<Dtype> {
    match (node.op_type.as_str(), index) {
        ("Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin" | "NonMaxSuppression", _)
        | ("TopK" | "MaxPool", 1)
        | ("Unique", 1..) => Some(Dtype::I64),
        (
            "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" | "Not"
            | "Xor" | "IsNaN" | "IsInf",
            _,
        )
        | ("Dropout", 1) => Some(Dtype::Bool),
        ("Cast", _) => named(node, "to"),
        ("CastLike", _) => input(1),
        ("Constant", _) => value(node),
        ("ConstantOfShape", _) => value(node).or(Some(Dtype::F32)),
        ("EyeLike" | "RandomNormalLike" | "RandomUniformLike" | "Bernoulli", _) => {
            named(node, "dtype").or_else(|| input(0))
        }
        ("RandomNormal" | "RandomUniform", _) => named(node, "dtype").or(Some(Dtype::F32)),
        ("Multinomial", _) => named(node, "dtype").or(Some(Dtype::I32)),
        ("Where", _) => input(1).or_else(|| input(2)),
        ("OneHot", _) => input(2),
        ("QuantizeLinear", _) => named(node, "output_dtype")
            .or_else(|| input(2))
            .or(Some(Dtype::U8)),
        ("DequantizeLinear", _) => named(node, "output_dtype").or_else(|| input(1)),
        ("DynamicQuantizeLinear", 1) => Some(Dtype::F32),
        ("DynamicQuantizeLinear", _) => Some(Dtype::U8),
        ("MatMulInteger" | "ConvInteger", _) => Some(Dtype::I32),
        ("QLinearMatMul" | "QLinearConv", _) => input(7),
        ("LayerNormalization", 1..) => named(node, "stash_type").or(Some(Dtype::F32)),
        ("BatchNormalization", 1..) => input(3),
        (op, _) if op.contains("Sequence") && op != "ReverseSequence" => None,
        (op, _) if op.starts_with("Optional") || op.starts_with("String") => None,
        (
            "TfIdfVectorizer" | "RegexFullMatch" | "DFT" | "STFT" | "MelWeightMatrix"
            | "ImageDecoder",
            _,
        ) => None,
        _ => input(0),
    }
}
