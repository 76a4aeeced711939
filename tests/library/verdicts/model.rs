//! The model that is changed, and hands to change it with.

use super::spread;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};

pub const F32: i32 = 1;
pub const I64: i32 = 7;
pub const F16: i32 = 10;

/// A convolution between constants that engines bake in, then a product, from which one output is normalised and the other
/// goes through two products with one matrix.
pub fn base() -> ModelProto {
    let random = |name: &str, dims: &[i64], seed| {
        f32s(
            name,
            dims,
            &spread(dims.iter().product::<i64>() as usize, seed),
        )
    };
    let node = vec![
        constant_node("shift", random("", &[4], 11)),
        constant_node("high", f32s("", &[], &[1e6])),
        made("Pad", &["x", "pads"], &["p"], Vec::new()),
        made(
            "Conv",
            &["p", "conv.weight", "conv.bias"],
            &["c"],
            vec![ints("kernel_shape", &[3, 3]), ints("strides", &[1, 1])],
        ),
        made("Mul", &["c", "scale"], &["m"], Vec::new()),
        made("Clip", &["m", "low", "high"], &["k"], Vec::new()),
        made("Reshape", &["k", "target"], &["r"], Vec::new()),
        made("MatMul", &["r", "proj.weight"], &["q"], Vec::new()),
        made("Add", &["q", "shift"], &["a"], Vec::new()),
        made("Gather", &["a", "index"], &["g"], vec![int("axis", 1)]),
        made(
            "LayerNormalization",
            &["g", "norm.weight", "norm.bias"],
            &["y"],
            vec![int("axis", -1), float("epsilon", 1e-5)],
        ),
        made("MatMul", &["g", "tied"], &["h"], Vec::new()),
        made("Relu", &["h"], &["s"], Vec::new()),
        made("MatMul", &["s", "tied"], &["t"], Vec::new()),
        made("Softmax", &["t"], &["z"], vec![int("axis", -1)]),
    ];
    let graph = GraphProto {
        name: "g".into(),
        node,
        initializer: vec![
            random("conv.weight", &[3, 2, 3, 3], 12),
            random("conv.bias", &[3], 13),
            f32s("scale", &[], &[0.75]),
            f32s("low", &[], &[-0.8]),
            i64s("pads", &[0, 0, 1, 1, 0, 0, 1, 1]),
            i64s("target", &[-1, 36, 3]),
            i64s("index", &[0, 2, 3]),
            random("proj.weight", &[3, 4], 14),
            random("norm.weight", &[4], 15),
            random("norm.bias", &[4], 16),
            random("tied", &[4, 4], 17),
            random("spare", &[2], 18),
        ],
        input: vec![declared("x", &["N", "2", "6", "6"])],
        output: vec![
            declared("y", &["M", "3", "4"]),
            declared("z", &["M", "3", "4"]),
        ],
        ..GraphProto::new()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            version: 17,
            ..OperatorSetIdProto::new()
        }],
        graph: Some(graph).into(),
        ..ModelProto::new()
    }
}

pub fn made(
    op: &str,
    inputs: &[&str],
    outputs: &[&str],
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    NodeProto {
        name: format!("/{op}/{}", outputs[0]),
        op_type: op.into(),
        input: owned(inputs),
        output: owned(outputs),
        attribute,
        ..NodeProto::new()
    }
}

pub fn constant_node(output: &str, tensor: TensorProto) -> NodeProto {
    let value = AttributeProto {
        name: "value".into(),
        type_: AttributeType::TENSOR.into(),
        t: Some(tensor).into(),
        ..AttributeProto::new()
    };
    made("Constant", &[], &[output], vec![value])
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::INT.into(),
        i,
        ..AttributeProto::new()
    }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::INTS.into(),
        ints: values.to_vec(),
        ..AttributeProto::new()
    }
}

pub fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::FLOAT.into(),
        f,
        ..AttributeProto::new()
    }
}

pub fn f32s(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: F32,
        dims: dims.to_vec(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::new()
    }
}

pub fn i64s(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: I64,
        dims: vec![values.len() as i64],
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::new()
    }
}

/// A declared f32 tensor; a dim that is no number is a symbol.
pub fn declared(name: &str, dims: &[&str]) -> ValueInfoProto {
    let dim = dims.iter().map(|d| Dimension {
        value: Some(match d.parse() {
            Ok(n) => dimension::Value::DimValue(n),
            Err(_) => dimension::Value::DimParam((*d).into()),
        }),
        ..Dimension::new()
    });
    let shape = TensorShapeProto {
        dim: dim.collect(),
        ..TensorShapeProto::new()
    };
    let tensor = type_proto::Tensor {
        elem_type: F32,
        shape: Some(shape).into(),
        ..type_proto::Tensor::new()
    };
    let declared = TypeProto {
        value: Some(type_proto::Value::TensorType(tensor)),
        ..TypeProto::new()
    };
    ValueInfoProto {
        name: name.into(),
        type_: Some(declared).into(),
        ..ValueInfoProto::new()
    }
}

/// Where the first node of an operator is.
pub fn position(m: &ModelProto, op: &str) -> Option<usize> {
    m.graph.node.iter().position(|n| n.op_type == op)
}

pub fn node<'m>(m: &'m mut ModelProto, op: &str) -> Option<&'m mut NodeProto> {
    let at = position(m, op)?;
    m.graph.mut_or_insert_default().node.get_mut(at)
}

pub fn attribute<'m>(
    m: &'m mut ModelProto,
    op: &str,
    name: &str,
) -> Option<&'m mut AttributeProto> {
    node(m, op)?.attribute.iter_mut().find(|a| a.name == name)
}

/// An initializer, or the value of a Constant node by its output.
pub fn constant<'m>(m: &'m mut ModelProto, name: &str) -> Option<&'m mut TensorProto> {
    let graph = m.graph.mut_or_insert_default();
    let held = graph.initializer.iter_mut().find(|t| t.name == name);
    held.or_else(|| {
        let made = graph
            .node
            .iter_mut()
            .find(|n| n.op_type == "Constant" && n.output[0] == name)?;
        made.attribute.first_mut()?.t.as_mut()
    })
}

pub fn drop_initializer(m: &mut ModelProto, name: &str) -> Option<()> {
    let all = &mut m.graph.mut_or_insert_default().initializer;
    let at = all.iter().position(|t| t.name == name)?;
    all.remove(at);
    Some(())
}

pub fn floats(tensor: &TensorProto) -> Vec<f32> {
    let raw = tensor.raw_data.as_chunks::<4>().0.iter();
    let raw = raw.map(|b| f32::from_le_bytes(*b));
    raw.chain(tensor.float_data.iter().copied()).collect()
}

/// Puts `f(index, value)` in the place of every value.
pub fn alter(m: &mut ModelProto, name: &str, f: impl Fn(usize, f32) -> f32) -> Option<()> {
    let tensor = constant(m, name).filter(|t| t.data_type == F32)?;
    let values = floats(tensor).into_iter().enumerate();
    tensor.raw_data = values.flat_map(|(i, v)| f(i, v).to_le_bytes()).collect();
    tensor.float_data.clear();
    Some(())
}

pub fn integers(m: &mut ModelProto, name: &str, values: &[i64]) -> Option<()> {
    constant(m, name)?.raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Some(())
}

pub fn replace_readers(m: &mut ModelProto, from: &str, to: &str) {
    let nodes = m.graph.mut_or_insert_default().node.iter_mut();
    let inputs = nodes.flat_map(|n| n.input.iter_mut());
    inputs.filter(|i| *i == from).for_each(|i| *i = to.into());
}

/// Puts a node between the first node of `op` and what it reads first.
pub fn insert_before(m: &mut ModelProto, op: &str, more: &str, output: &str) -> Option<()> {
    let at = position(m, op)?;
    let nodes = &mut m.graph.mut_or_insert_default().node;
    let input = std::mem::replace(&mut nodes[at].input[0], output.into());
    nodes.insert(at, made(more, &[&input], &[output], Vec::new()));
    Some(())
}

/// The first extent of the input.
pub fn first_dim(m: &mut ModelProto, value: dimension::Value) -> Option<()> {
    let input = m.graph.mut_or_insert_default().input.first_mut()?;
    let Some(type_proto::Value::TensorType(tensor)) = &mut input.type_.as_mut()?.value else {
        return None;
    };
    tensor.shape.as_mut()?.dim.first_mut()?.value = Some(value);
    Some(())
}
