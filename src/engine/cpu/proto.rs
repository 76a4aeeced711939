//! Small readers and makers of ONNX protobuf pieces: attributes, constants, nodes.

use crate::onnx::weight_name;
use crate::tensor::Dtype;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto, TensorProto};
use std::collections::HashSet;

/// The attribute `name` of `node`.
pub fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

pub fn int(node: &NodeProto, name: &str) -> Option<i64> {
    attribute(node, name).map(|a| a.i)
}

/// A list of integers.
pub fn ints<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [i64]> {
    attribute(node, name).map(|a| a.ints.as_slice())
}

/// A string attribute; text that is not UTF-8 is no value that ONNX defines and reads as empty.
pub fn string<'a>(node: &'a NodeProto, name: &str) -> Option<&'a str> {
    attribute(node, name).map(|a| std::str::from_utf8(&a.s).unwrap_or_default())
}

/// Input `index`, `None` where it is left out.
pub fn input(node: &NodeProto, index: usize) -> Option<&str> {
    node.input
        .get(index)
        .map(String::as_str)
        .filter(|name| !name.is_empty())
}

/// The graphs that a node's attributes hold.
pub fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute
        .iter()
        .flat_map(|a| a.g.as_ref().into_iter().chain(&a.graphs))
}

/// As [`subgraphs`], for changing them.
pub fn subgraphs_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute
        .iter_mut()
        .flat_map(|a| a.g.as_mut().into_iter().chain(&mut a.graphs))
}

/// Extents of a constant, `None` where one is negative.
pub fn extents(tensor: &TensorProto) -> Option<Vec<usize>> {
    tensor
        .dims
        .iter()
        .map(|&d| usize::try_from(d).ok())
        .collect()
}

/// The elements of an inline integer or bool constant, `None` for other types and for placeholders.
pub fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    let raw = &tensor.raw_data;
    let dtype = Dtype::from_onnx(tensor.data_type)?;
    if weight_name(tensor).is_some() {
        return None;
    }
    Some(match dtype {
        Dtype::I64 if raw.is_empty() => tensor.int64_data.clone(),
        Dtype::I64 => raw
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b))
            .collect(),
        Dtype::I32 if !raw.is_empty() => raw
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| i64::from(i32::from_le_bytes(*b)))
            .collect(),
        Dtype::U8 | Dtype::Bool if !raw.is_empty() => raw.iter().map(|&b| i64::from(b)).collect(),
        Dtype::I8 if !raw.is_empty() => raw.iter().map(|&b| i64::from(b as i8)).collect(),
        Dtype::I32 | Dtype::U8 | Dtype::Bool | Dtype::I8 => {
            tensor.int32_data.iter().map(|&v| i64::from(v)).collect()
        }
        _ => return None,
    })
}

/// An `i64` in the 32 bits that the engine has. The one value whose negation does not fit counts as not fitting.
pub fn held(value: i64) -> Option<i32> {
    i32::try_from(value).ok().filter(|&v| v != i32::MIN)
}

/// A constant of `i64`.
pub fn int_tensor(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: Dtype::I64.onnx(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::new()
    }
}

/// A scalar constant of `dtype`, one of the types that the engine computes in.
pub fn scalar(name: &str, dtype: Dtype, value: i8) -> TensorProto {
    let raw_data = match dtype {
        Dtype::I64 => i64::from(value).to_le_bytes().to_vec(),
        Dtype::I32 => i32::from(value).to_le_bytes().to_vec(),
        Dtype::I8 | Dtype::U8 | Dtype::Bool => value.to_le_bytes().to_vec(),
        Dtype::F64 => f64::from(value).to_le_bytes().to_vec(),
        _ => f32::from(value).to_le_bytes().to_vec(),
    };
    let data_type = match dtype {
        Dtype::I64 | Dtype::I32 | Dtype::I8 | Dtype::U8 | Dtype::Bool | Dtype::F64 => dtype,
        _ => Dtype::F32,
    };
    TensorProto {
        name: name.into(),
        data_type: data_type.onnx(),
        raw_data,
        ..TensorProto::new()
    }
}

/// A scalar constant of f32.
pub fn float_scalar(name: &str, value: f32) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: Dtype::F32.onnx(),
        raw_data: value.to_le_bytes().to_vec(),
        ..TensorProto::new()
    }
}

/// A node of ONNX's own domain.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        ..NodeProto::new()
    }
}

/// Sets an integer attribute.
pub fn set_int(node: &mut NodeProto, name: &str, value: i64) {
    remove(node, name);
    node.attribute.push(AttributeProto {
        name: name.into(),
        type_: AttributeType::INT.into(),
        i: value,
        ..AttributeProto::new()
    });
}

/// Sets a list of integers.
pub fn set_ints(node: &mut NodeProto, name: &str, values: &[i64]) {
    remove(node, name);
    node.attribute.push(AttributeProto {
        name: name.into(),
        type_: AttributeType::INTS.into(),
        ints: values.to_vec(),
        ..AttributeProto::new()
    });
}

pub fn set_graph(node: &mut NodeProto, name: &str, graph: GraphProto) {
    remove(node, name);
    node.attribute.push(AttributeProto {
        name: name.into(),
        type_: AttributeType::GRAPH.into(),
        g: Some(graph).into(),
        ..AttributeProto::new()
    });
}

pub fn remove(node: &mut NodeProto, name: &str) {
    node.attribute.retain(|a| a.name != name);
}

/// Makes names that no value of the model has.
#[derive(Debug, Default)]
pub struct Names {
    used: HashSet<String>,
    next: usize,
}

impl Names {
    /// Knows every name in `graph` and the graphs inside it.
    pub fn of(graph: &GraphProto) -> Names {
        let mut names = Names::default();
        names.take(graph);
        names
    }

    fn take(&mut self, graph: &GraphProto) {
        self.used.extend(
            graph
                .input
                .iter()
                .chain(&graph.output)
                .map(|v| v.name.clone())
                .chain(graph.initializer.iter().map(|t| t.name.clone())),
        );
        for node in &graph.node {
            self.used
                .extend(node.input.iter().chain(&node.output).cloned());
            subgraphs(node).for_each(|g| self.take(g));
        }
    }

    /// A new name that tells where it comes from.
    pub fn fresh(&mut self, stem: &str) -> String {
        loop {
            let name = format!("trtmut.{stem}.{}", self.next);
            self.next += 1;
            if self.used.insert(name.clone()) {
                return name;
            }
        }
    }
}

pub(super) fn is_onnx(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// What a node is called in messages.
pub(super) fn label(node: &NodeProto) -> String {
    if node.name.is_empty() {
        node.output.first().cloned().unwrap_or_default()
    } else {
        node.name.clone()
    }
}
