//! What a model declares of its inputs and outputs.

use super::error::Problem;
use crate::maps::QuickSet;
use crate::tensor::{Dtype, Extent, TensorDecl};
use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::{ModelProto, TypeProto, ValueInfoProto, type_proto};

/// Makes the extents of inputs, outputs and values that are no symbols, though they have a text (see [`is_placeholder`]),
/// extents without one. Engines read the graph too, and `TensorRT` takes equal texts for equal sizes.
pub(super) fn clear_placeholders(proto: &mut ModelProto) {
    let Some(graph) = proto.graph.as_mut() else {
        return;
    };
    let values = (graph.input.iter_mut())
        .chain(&mut graph.output)
        .chain(&mut graph.value_info);
    for value in values {
        let Some(type_proto::Value::TensorType(tensor)) =
            value.type_.as_mut().and_then(|t| t.value.as_mut())
        else {
            continue;
        };
        for dim in tensor.shape.as_mut().iter_mut().flat_map(|s| &mut s.dim) {
            if matches!(&dim.value, Some(dimension::Value::DimParam(name)) if is_placeholder(name))
            {
                dim.value = None;
            }
        }
    }
}

/// Whether a `dim_param` is what converters write where they know neither a size nor a name: `?`, nothing, a negative
/// number, Python's `None`, and tf2onnx's `unk__7`, which it numbers anew for every axis.
fn is_placeholder(text: &str) -> bool {
    let text = text.trim();
    text.chars().all(|c| c == '?')
        || text == "None"
        || text.starts_with("unk__")
        || text.parse::<i128>().is_ok_and(|n| n < 0)
}

/// Inputs that are not initializers, and outputs, in graph order.
pub(super) fn declared(
    proto: &ModelProto,
    problems: &mut Vec<Problem>,
) -> (Vec<TensorDecl>, Vec<TensorDecl>) {
    let Some(graph) = proto.graph.as_ref() else {
        return (Vec::new(), Vec::new());
    };
    // Before IR version 4 every initializer had to be an input too.
    let named: QuickSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    let initializers: QuickSet<&str> = (graph.initializer.iter())
        .filter_map(|t| named.get(t.name.as_str()).copied())
        .collect();
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
        // `UNDEFINED` and `STRING` of `TensorProto.DataType`.
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
                Some(dimension::Value::DimParam(name)) if !is_placeholder(name) => {
                    Extent::Symbol(name.clone())
                }
                _ => Extent::Unknown,
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::is_placeholder;
    use crate::onnx::testing::{declare, graph, model, node, open};

    #[test]
    fn engines_are_given_no_text_for_an_unknown_size() {
        let mut unknown = graph(&[], Vec::new(), vec![node("Relu", &["x"], &["y"])], &[]);
        unknown.input = vec![declare("x", &["unk__1", "rows", "unk__1", "?"])];
        unknown.output = vec![declare("y", &["unk__2", "rows", "None", "?"])];
        let model = open(&model(unknown)).unwrap();
        assert_eq!(model.inputs()[0].show_dims(), "[?, rows, ?, ?]");
        assert_eq!(model.outputs()[0].show_dims(), "[?, rows, ?, ?]");
        let bytes = model.graph_bytes();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("rows") && !text.contains("unk__") && !text.contains("None"));
    }

    #[test]
    fn a_text_for_an_unknown_size_is_no_symbol() {
        for text in ["", " ", "?", "??", "-1", "-9", "None", "unk__12", "unk__"] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["N", "?x", "none", "batch", "1", "2*s", "unk", "s-1", "-s"] {
            assert!(!is_placeholder(text), "{text}");
        }
    }
}
