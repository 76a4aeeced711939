//! What the real parser of TensorRT-RTX tells of the weights that it makes, held against the model and the formulas of the header.

use super::rtx::search;
use libtest_mimic::Failed;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, tensor_shape_proto, type_proto,
};
use trtmut::engine::tensorrt::Product;
use trtmut::engine::tensorrt::api::{Builder, Core, NetworkTyping, Origin, Parser, Record};
use trtmut::engine::tensorrt::loader;
use trtmut::tensor::Dtype;

const EPSILON: f32 = 0.125;

fn value(name: &str) -> ValueInfoProto {
    let dim = |n| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(n)),
        ..Default::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: 1,
        shape: Some(TensorShapeProto {
            dim: [1, 2, 4, 4].map(dim).into(),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    ValueInfoProto {
        name: name.into(),
        type_: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

/// y = BatchNormalization(x · m): one initializer as it is, and four that are folded.
fn model() -> ModelProto {
    let node = |op: &str, input: &[&str], output: &str| NodeProto {
        op_type: op.into(),
        name: format!("{op}_0"),
        input: input.iter().map(|i| (*i).into()).collect(),
        output: vec![output.into()],
        ..Default::default()
    };
    let mut norm = node("BatchNormalization", &["h", "g", "b", "mu", "var"], "y");
    norm.attribute.push(AttributeProto {
        name: "epsilon".into(),
        f: EPSILON,
        type_: attribute_proto::AttributeType::FLOAT.into(),
        ..Default::default()
    });
    let tensor = |name: &str, dims: &[i64], values: &[f32]| TensorProto {
        name: name.into(),
        data_type: 1,
        dims: dims.into(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Default::default()
    };
    let graph = GraphProto {
        name: "norm".into(),
        node: vec![node("Mul", &["x", "m"], "h"), norm],
        initializer: vec![
            tensor("m", &[1, 2, 1, 1], &[2.0, 3.0]),
            tensor("g", &[2], &[1.5, -2.0]),
            tensor("b", &[2], &[0.25, 4.0]),
            tensor("mu", &[2], &[1.0, -1.0]),
            tensor("var", &[2], &[0.875, 2.0]),
        ],
        input: vec![value("x")],
        output: vec![value("y")],
        ..Default::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            version: 17,
            ..Default::default()
        }],
        graph: Some(graph).into(),
        ..Default::default()
    }
}

/// Sources of folds come as scale, bias, mean, variance, with their ε; other initializers come under their own names.
pub fn folds_and_initializers_are_told() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("norm.onnx");
    std::fs::write(&path, model().write_to_bytes()?)?;
    let core = Core::new(loader::find(Product::Rtx, &search())?);
    let network = Builder::new(&core)?.network(NetworkTyping::Strong)?;
    let parser = Parser::new(&network)?;
    let records = parser
        .parse_file(&path)?
        .map_err(|e| format!("{e:?}"))?
        .ok_or("this version has an observer")?;
    let of = |origin: Origin| -> Vec<&Record> {
        records.iter().filter(|r| r.origin == origin).collect()
    };
    let identity = of(Origin::Initializer);
    assert_eq!(identity.len(), 1, "{records:?}");
    assert_eq!((identity[0].name.as_str(), identity[0].count), ("m", 2));
    assert_eq!(identity[0].sources, ["m"]);
    let (scale, shift) = (of(Origin::FoldScale), of(Origin::FoldShift));
    assert_eq!((scale.len(), shift.len()), (1, 1), "{records:?}");
    for fold in [scale[0], shift[0]] {
        assert_eq!(fold.sources, ["g", "b", "mu", "var"]);
        assert_eq!((fold.dtype, fold.count), (Some(Dtype::F32), 2));
        assert_eq!(fold.epsilon, EPSILON);
    }
    assert_ne!(scale[0].name, shift[0].name);
    Ok(())
}
