//! Small graphs, run through build, plan and engine, against values worked out by hand.

mod plans;
mod recurrent;
mod rewriting;

use super::proto::{node, set_int, set_ints};
use super::{CPU, Cpu};
use crate::engine::{
    Backend, BuildJob, BuildNotes, Engine, Error, Feed, Refusal, RunOptions, Slot,
};
use crate::onnx::Model;
use crate::shapes::Profile;
use crate::tensor::{Dtype, NamedTensors, Tensor};
use crate::watch::Silent;
use half::{bf16, f16};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::Dimension;
use onnx_protobuf::tensor_shape_proto::dimension::Value as Dim;
use onnx_protobuf::type_proto::{Tensor as TensorType, Value as Kind};
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
};
use std::borrow::Cow;
use std::sync::Arc;

/// `None` leaves an extent open.
fn value(name: &str, dtype: Dtype, dims: Option<&[Option<i64>]>) -> ValueInfoProto {
    let shape = dims.map(|dims| TensorShapeProto {
        dim: dims
            .iter()
            .map(|d| Dimension {
                value: d.map(Dim::DimValue),
                ..Dimension::new()
            })
            .collect(),
        ..TensorShapeProto::new()
    });
    ValueInfoProto {
        name: name.into(),
        type_: Some(TypeProto {
            value: Some(Kind::TensorType(TensorType {
                elem_type: dtype.onnx(),
                shape: shape.into(),
                ..TensorType::new()
            })),
            ..TypeProto::new()
        })
        .into(),
        ..ValueInfoProto::new()
    }
}

fn fixed(name: &str, dtype: Dtype, dims: &[i64]) -> ValueInfoProto {
    let dims: Vec<Option<i64>> = dims.iter().map(|&d| Some(d)).collect();
    value(name, dtype, Some(&dims))
}

fn open(name: &str, dtype: Dtype) -> ValueInfoProto {
    value(name, dtype, None)
}

struct Graph {
    opset: i64,
    proto: GraphProto,
}

impl Graph {
    fn new(opset: i64, inputs: Vec<ValueInfoProto>, outputs: Vec<ValueInfoProto>) -> Graph {
        Graph {
            opset,
            proto: GraphProto {
                name: "g".into(),
                input: inputs,
                output: outputs,
                ..GraphProto::new()
            },
        }
    }

    fn node(mut self, op: &str, inputs: &[&str], outputs: &[&str]) -> Graph {
        self.proto.node.push(node(op, inputs, outputs));
        self
    }

    fn last(&mut self) -> &mut NodeProto {
        self.proto.node.last_mut().unwrap()
    }

    fn int(mut self, name: &str, value: i64) -> Graph {
        set_int(self.last(), name, value);
        self
    }

    fn ints(mut self, name: &str, values: &[i64]) -> Graph {
        set_ints(self.last(), name, values);
        self
    }

    fn constant(mut self, name: &str, tensor: &Tensor) -> Graph {
        self.proto.initializer.push(TensorProto {
            name: name.into(),
            dims: tensor.shape.iter().map(|&d| d as i64).collect(),
            data_type: tensor.dtype.onnx(),
            raw_data: tensor.data.clone(),
            ..TensorProto::new()
        });
        self
    }

    fn model(self) -> Model {
        let model = ModelProto {
            ir_version: 8,
            opset_import: [("", self.opset), ("com.microsoft", 1), ("own", 13)]
                .map(|(domain, version)| OperatorSetIdProto {
                    domain: domain.into(),
                    version,
                    ..OperatorSetIdProto::new()
                })
                .into(),
            graph: Some(self.proto).into(),
            ..ModelProto::new()
        };
        let file = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap();
        std::fs::write(file.path(), model.write_to_bytes().unwrap()).unwrap();
        Model::open(file.path()).unwrap()
    }

    fn run(self, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>, Error> {
        run(&mut *engine(&self.model())?.0, inputs)
    }

    fn refusals(self) -> Vec<Refusal> {
        refused(engine(&self.model()).map(|_| Vec::new()))
    }
}

fn plan(model: &Model) -> Result<(Vec<u8>, BuildNotes), Error> {
    let mut bytes = Vec::new();
    let job = BuildJob {
        model,
        profile: &Profile::default(),
        options: &std::collections::BTreeMap::new(),
        mark: None,
    };
    let notes = Cpu.build(&job, &mut bytes, &Silent)?;
    Ok((bytes, notes))
}

fn engine(model: &Model) -> Result<(Box<dyn Engine>, BuildNotes), Error> {
    let (bytes, notes) = plan(model)?;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut engine = Cpu.open(file.path())?;
    engine.prepare(&RunOptions {
        threads: Some(1),
        ..RunOptions::default()
    })?;
    Ok((engine, notes))
}

fn run(engine: &mut dyn Engine, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>, Error> {
    let inputs: NamedTensors = inputs
        .iter()
        .map(|(n, t)| ((*n).to_string(), t.clone()))
        .collect();
    Ok(engine.run(&inputs)?.into_iter().map(|(_, t)| t).collect())
}

fn refused(result: Result<Vec<Tensor>, Error>) -> Vec<Refusal> {
    match result {
        Err(Error::Refused { backend, refusals }) => {
            assert_eq!(backend, CPU);
            refusals
        }
        Err(e) => panic!("{e}"),
        Ok(outputs) => panic!("{outputs:?}"),
    }
}

macro_rules! maker {
    ($name:ident, $type:ty, $dtype:expr) => {
        fn $name(shape: &[usize], values: &[$type]) -> Tensor {
            assert_eq!(shape.iter().product::<usize>(), values.len());
            Tensor {
                dtype: $dtype,
                shape: shape.to_vec(),
                data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            }
        }
    };
}

maker!(floats, f32, Dtype::F32);
maker!(doubles, f64, Dtype::F64);
maker!(longs, i64, Dtype::I64);
maker!(halves, f16, Dtype::F16);
maker!(brains, bf16, Dtype::Bf16);
maker!(bytes, u8, Dtype::U8);

fn bools(shape: &[usize], values: &[bool]) -> Tensor {
    let data = values.iter().map(|&b| u8::from(b)).collect();
    Tensor {
        dtype: Dtype::Bool,
        shape: shape.to_vec(),
        data,
    }
}

fn close(got: &Tensor, want: &Tensor) {
    assert_eq!((got.dtype, &got.shape), (want.dtype, &want.shape));
    let difference = crate::tensor::to_f32(got.dtype, &got.data)
        .unwrap()
        .into_iter()
        .zip(crate::tensor::to_f32(want.dtype, &want.data).unwrap())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(difference < 1e-6, "{got:?} is not {want:?}");
}

/// `op` from `x` to `y`, of types and shapes that the graph leaves open.
fn unary(opset: i64, op: &str, from: Dtype, to: Dtype) -> Graph {
    Graph::new(opset, vec![open("x", from)], vec![open("y", to)]).node(op, &["x"], &["y"])
}
