//! Small ONNX models, and checkpoints for them, made in the test.

use onnx_protobuf::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, tensor_shape_proto,
    type_proto,
};
use protobuf::{EnumOrUnknown, Message, MessageField};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;

/// Tensors of f32 by name.
pub type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A graph under construction.
#[derive(Debug, Clone, Default)]
pub struct Net {
    graph: GraphProto,
}

/// Values drawn from a seed.
pub fn random(seed: u64, shape: &[usize]) -> (Vec<usize>, Vec<f32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let values = (0..count).map(|_| rng.random_range(-1.0f32..1.0));
    (shape.to_vec(), values.collect())
}

/// A safetensors file of them.
pub fn safetensors(weights: &Weights) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = weights
        .values()
        .map(|(_, v)| v.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let views = weights.iter().zip(&bytes).map(|((name, (shape, _)), b)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), b).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

impl Net {
    fn value(name: &str, onnx_type: i32, shape: &[&str]) -> ValueInfoProto {
        let dim = |text: &&str| tensor_shape_proto::Dimension {
            value: Some(match text.parse() {
                Ok(n) => tensor_shape_proto::dimension::Value::DimValue(n),
                Err(_) => tensor_shape_proto::dimension::Value::DimParam((*text).into()),
            }),
            ..Default::default()
        };
        let tensor = type_proto::Tensor {
            elem_type: onnx_type,
            shape: MessageField::some(TensorShapeProto {
                dim: shape.iter().map(dim).collect(),
                ..Default::default()
            }),
            ..Default::default()
        };
        ValueInfoProto {
            name: name.into(),
            type_: MessageField::some(TypeProto {
                value: Some(type_proto::Value::TensorType(tensor)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// An f32 input; extents that are no numbers are names of dims.
    #[must_use]
    pub fn input(mut self, name: &str, shape: &[&str]) -> Net {
        self.graph.input.push(Self::value(name, 1, shape));
        self
    }

    /// An i32 input.
    #[must_use]
    pub fn indices(mut self, name: &str, shape: &[&str]) -> Net {
        self.graph.input.push(Self::value(name, 6, shape));
        self
    }

    /// An f32 output.
    #[must_use]
    pub fn output(mut self, name: &str, shape: &[&str]) -> Net {
        self.graph.output.push(Self::value(name, 1, shape));
        self
    }

    /// An i64 output.
    #[must_use]
    pub fn whole(mut self, name: &str, shape: &[&str]) -> Net {
        self.graph.output.push(Self::value(name, 7, shape));
        self
    }

    /// An initializer.
    #[must_use]
    pub fn weight(mut self, name: &str, (shape, values): &(Vec<usize>, Vec<f32>)) -> Net {
        self.graph.initializer.push(TensorProto {
            name: name.into(),
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: 1,
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..Default::default()
        });
        self
    }

    /// A constant of i64 that is part of the graph's structure.
    #[must_use]
    pub fn constant(mut self, name: &str, values: &[i64]) -> Net {
        self.graph.initializer.push(TensorProto {
            name: name.into(),
            dims: vec![values.len() as i64],
            data_type: 7,
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..Default::default()
        });
        self
    }

    /// A mask that is part of the graph's structure.
    #[must_use]
    pub fn mask(mut self, name: &str, values: &[bool]) -> Net {
        self.graph.initializer.push(TensorProto {
            name: name.into(),
            dims: vec![values.len() as i64],
            data_type: 9,
            raw_data: values.iter().map(|&v| u8::from(v)).collect(),
            ..Default::default()
        });
        self
    }

    /// The exporter's record of what it folded `name` from.
    #[must_use]
    pub fn folded_from(mut self, name: &str, from: &[&str]) -> Net {
        let list: Vec<String> = from.iter().map(|f| format!("'{f}'")).collect();
        self.graph.value_info.push(ValueInfoProto {
            name: name.into(),
            metadata_props: vec![StringStringEntryProto {
                key: "pkg.onnxscript.optimizer.folded_from".into(),
                value: format!("[{}]", list.join(", ")),
                ..Default::default()
            }],
            ..Default::default()
        });
        self
    }

    /// A node called after the module that it stands for, with integer attributes.
    #[must_use]
    pub fn node(
        mut self,
        path: &str,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, i64)],
    ) -> Net {
        let attribute = |(name, value): &(&str, i64)| AttributeProto {
            name: (*name).into(),
            type_: EnumOrUnknown::new(attribute_proto::AttributeType::INT),
            i: *value,
            ..Default::default()
        };
        self.graph.node.push(NodeProto {
            name: format!("/{path}/{operator}"),
            op_type: operator.into(),
            input: inputs.iter().map(|&i| i.into()).collect(),
            output: vec![output.into()],
            attribute: attributes.iter().map(attribute).collect(),
            ..Default::default()
        });
        self
    }

    /// The file, opset 17.
    pub fn onnx(&self, doc: &str) -> Vec<u8> {
        let mut graph = self.graph.clone();
        graph.name = "net".into();
        let model = ModelProto {
            ir_version: 8,
            doc_string: doc.into(),
            opset_import: vec![OperatorSetIdProto {
                version: 17,
                ..Default::default()
            }],
            graph: MessageField::some(graph),
            ..Default::default()
        };
        model.write_to_bytes().unwrap()
    }
}
