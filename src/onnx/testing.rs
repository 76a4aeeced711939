//! Hand-made models for tests.

use super::{Error, Model, Problem};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use protobuf::MessageField;
use std::path::{Path, PathBuf};

/// A node without attributes.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        ..NodeProto::default()
    }
}

/// `node` with one more attribute.
pub fn with(mut node: NodeProto, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(attribute);
    node
}

pub fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::INTS.into(),
        ints: ints.to_vec(),
        ..AttributeProto::default()
    }
}

pub fn tensor_attribute(name: &str, tensor: TensorProto) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::TENSOR.into(),
        t: MessageField::some(tensor),
        ..AttributeProto::default()
    }
}

pub fn subgraph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::GRAPH.into(),
        g: MessageField::some(graph),
        ..AttributeProto::default()
    }
}

pub fn constant(output: &str, tensor: TensorProto) -> NodeProto {
    with(
        node("Constant", &[], &[output]),
        tensor_attribute("value", tensor),
    )
}

/// A tensor with raw data.
pub fn raw(name: &str, data_type: i32, dims: &[i64], data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type,
        dims: dims.to_vec(),
        raw_data: data,
        ..TensorProto::default()
    }
}

pub fn f32s(name: &str, dims: &[i64], data: &[f32]) -> TensorProto {
    raw(
        name,
        1,
        dims,
        data.iter().flat_map(|v| v.to_le_bytes()).collect(),
    )
}

pub fn i64s(name: &str, dims: &[i64], data: &[i64]) -> TensorProto {
    raw(
        name,
        7,
        dims,
        data.iter().flat_map(|v| v.to_le_bytes()).collect(),
    )
}

/// A declared tensor of f32; a dim that is no number is a symbol.
pub fn declare(name: &str, dims: &[&str]) -> ValueInfoProto {
    declare_as(name, 1, dims)
}

pub fn declare_as(name: &str, elem_type: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|d| Dimension {
            value: Some(match d.parse() {
                Ok(n) => dimension::Value::DimValue(n),
                Err(_) => dimension::Value::DimParam((*d).into()),
            }),
            ..Dimension::default()
        })
        .collect();
    let tensor = type_proto::Tensor {
        elem_type,
        shape: MessageField::some(TensorShapeProto {
            dim,
            ..TensorShapeProto::default()
        }),
        ..type_proto::Tensor::default()
    };
    ValueInfoProto {
        name: name.into(),
        type_: MessageField::some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

/// A graph with inputs and outputs of f32 [N, 4].
pub fn graph(
    inputs: &[&str],
    initializers: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
    outputs: &[&str],
) -> GraphProto {
    let declared = |names: &[&str]| names.iter().map(|n| declare(n, &["N", "4"])).collect();
    GraphProto {
        name: "g".into(),
        input: declared(inputs),
        output: declared(outputs),
        initializer: initializers,
        node: nodes,
        ..GraphProto::default()
    }
}

pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            version: 17,
            ..OperatorSetIdProto::default()
        }],
        graph: MessageField::some(graph),
        ..ModelProto::default()
    }
}

/// x · W + b, with W of 4×4 big enough to stay in the map, and a Clip with two bounds.
pub fn small() -> ModelProto {
    let w: Vec<f32> = (0..1024u16).map(f32::from).collect();
    model(graph(
        &["x"],
        vec![
            f32s("w", &[4, 256], &w),
            f32s("b", &[256], &w[..256]),
            f32s("low", &[], &[0.0]),
        ],
        vec![
            constant("high", f32s("", &[], &[6.0])),
            node("MatMul", &["x", "w"], &["xw"]),
            node("Add", &["xw", "b"], &["sum"]),
            node("Clip", &["sum", "low", "high"], &["y"]),
        ],
        &["y"],
    ))
}

/// Opens the model from a folder that is gone afterwards.
pub fn open(proto: &ModelProto) -> Result<Model, Error> {
    open_bytes(&proto.write_to_bytes().unwrap())
}

pub fn open_bytes(bytes: &[u8]) -> Result<Model, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    Model::open(&path)
}

/// What is wrong with the model.
pub fn problems(proto: &ModelProto) -> Vec<Problem> {
    match open(proto) {
        Err(Error::Invalid { problems, .. }) => problems,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was opened"),
    }
}

/// The one thing that is wrong with the model.
pub fn problem(proto: &ModelProto) -> Problem {
    let mut all = problems(proto);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Every model of the fixtures.
pub fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap()
        .flat_map(|d| {
            let folder = d.unwrap().path();
            ["model.ts.onnx", "model.dynamo.onnx"].map(|f| folder.join(f))
        })
        .filter(|p| p.exists())
        .collect();
    found.sort();
    assert_eq!(found.len(), 11, "in {}", root.display());
    found
}
