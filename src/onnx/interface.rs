//! What a model declares of its inputs and outputs.

use super::error::Problem;
use crate::tensor::{Dtype, Extent, TensorDecl};
use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::{ModelProto, TypeProto, ValueInfoProto, type_proto};
use std::collections::HashSet;

/// Inputs that are not initializers, and outputs, in graph order.
pub(super) fn declared(
    proto: &ModelProto,
    problems: &mut Vec<Problem>,
) -> (Vec<TensorDecl>, Vec<TensorDecl>) {
    let Some(graph) = proto.graph.as_ref() else {
        return (Vec::new(), Vec::new());
    };
    let initializers: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let inputs = graph
        .input
        .iter()
        .filter(|i| !initializers.contains(i.name.as_str()))
        .filter_map(|i| declaration(i, "input", problems))
        .collect();
    let outputs = graph
        .output
        .iter()
        .filter_map(|o| declaration(o, "output", problems))
        .collect();
    (inputs, outputs)
}

fn declaration(
    info: &ValueInfoProto,
    what: &'static str,
    problems: &mut Vec<Problem>,
) -> Option<TensorDecl> {
    match dtype_of(info.type_.as_ref()) {
        Ok(dtype) => Some(TensorDecl {
            name: info.name.clone(),
            dtype,
            dims: info.type_.as_ref().and_then(dims_of),
        }),
        Err(found) => {
            problems.push(Problem::Interface {
                what,
                name: info.name.clone(),
                found,
            });
            None
        }
    }
}

fn dtype_of(type_: Option<&TypeProto>) -> Result<Dtype, String> {
    let tensor = match type_.and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => t,
        Some(type_proto::Value::SequenceType(_)) => return Err("a sequence".into()),
        Some(type_proto::Value::MapType(_)) => return Err("a map".into()),
        Some(type_proto::Value::OptionalType(_)) => return Err("optional".into()),
        Some(type_proto::Value::SparseTensorType(_)) => return Err("a sparse tensor".into()),
        Some(_) | None => return Err("of no declared type".into()),
    };
    Dtype::from_onnx(tensor.elem_type).ok_or_else(|| match tensor.elem_type {
        0 => "of no declared type".into(),
        8 => "a tensor of strings".into(),
        other => format!("of the unknown element type {other}"),
    })
}

/// `None` where no rank is stated. A negative size, as some exporters write it, is an unknown one.
fn dims_of(type_: &TypeProto) -> Option<Vec<Extent>> {
    let Some(type_proto::Value::TensorType(tensor)) = &type_.value else {
        return None;
    };
    let shape = tensor.shape.as_ref()?;
    Some(
        shape
            .dim
            .iter()
            .map(|d| match &d.value {
                Some(dimension::Value::DimValue(n)) => {
                    usize::try_from(*n).map_or(Extent::Unknown, Extent::Fixed)
                }
                Some(dimension::Value::DimParam(name)) if !name.is_empty() => {
                    Extent::Symbol(name.clone())
                }
                _ => Extent::Unknown,
            })
            .collect(),
    )
}
