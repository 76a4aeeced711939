//! Generated models with planted sources, as both exporters would write them.

use crate::mapping::Part;
use crate::onnx::Model;
use crate::tensor::{Dtype, Tensor, cast, to_f32, transpose};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto,
};
use protobuf::MessageField;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::collections::BTreeMap;

/// How the exporter made a weight.
#[derive(Debug, Clone)]
pub(super) enum Made {
    Copied {
        source: String,
    },
    Turned {
        source: String,
    },
    Folded {
        part: Part,
        kernel: String,
        norm: String,
    },
    /// No source.
    Own,
}

pub(super) struct Planted {
    pub model: Model,
    pub base: BTreeMap<String, Tensor>,
    pub made: BTreeMap<String, Made>,
    pub held: BTreeMap<String, Tensor>,
}

pub(super) fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

pub(super) fn numbers(t: &Tensor) -> Vec<f32> {
    to_f32(t.dtype, &t.data).unwrap()
}

struct Gen {
    rng: ChaCha8Rng,
    torchscript: bool,
    paths: bool,
    wrapper: &'static str,
    base: BTreeMap<String, Tensor>,
    made: BTreeMap<String, Made>,
    held: BTreeMap<String, Tensor>,
    order: Vec<String>,
    nodes: Vec<NodeProto>,
    flow: String,
    serial: usize,
}

impl Gen {
    fn chance(&mut self, of: f64) -> bool {
        self.rng.random_bool(of)
    }

    fn values(&mut self, shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        let same: Vec<Tensor> = self
            .base
            .values()
            .filter(|t| t.shape == shape)
            .cloned()
            .collect();
        match self.rng.random_range(0..12) {
            0 => tensor(shape, &vec![0.0; n]),
            1 => tensor(shape, &vec![1.0; n]),
            2 | 3 if !same.is_empty() => same[self.rng.random_range(0..same.len())].clone(),
            4 if shape.len() == 2 && shape[0] == shape[1] => {
                let mut v: Vec<f32> = (0..n)
                    .map(|_| StandardNormal.sample(&mut self.rng))
                    .collect();
                for i in 0..shape[0] {
                    for j in 0..i {
                        v[i * shape[0] + j] = v[j * shape[0] + i];
                    }
                }
                tensor(shape, &v)
            }
            _ => {
                let v: Vec<f32> = (0..n)
                    .map(|_| StandardNormal.sample(&mut self.rng))
                    .collect();
                tensor(shape, &v)
            }
        }
    }

    /// Values of an exporter's own constant: ones, zeros, or numbers that no checkpoint holds.
    fn own(&mut self, shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        let fill = [0.0, 1.0, 0.125][self.rng.random_range(0..3)];
        let v: Vec<f32> = (0..n)
            .map(|i| {
                if fill == 0.125 {
                    fill * (i + 1) as f32
                } else {
                    fill
                }
            })
            .collect();
        tensor(shape, &v)
    }

    fn source(&mut self, name: &str, shape: &[usize]) -> String {
        let value = self.values(shape);
        self.base.insert(name.to_owned(), value);
        name.to_owned()
    }

    fn fresh(&mut self, kind: &str) -> String {
        self.serial += 1;
        if self.torchscript {
            format!("onnx::{kind}_{}", 100 + self.serial)
        } else {
            format!("val_{}", 100 + self.serial)
        }
    }

    /// Adds the weight `name` of `shape`, made from sources.
    fn weight(&mut self, name: String, shape: &[usize], made: Made) -> String {
        let mut value = fill(&made, &self.base).unwrap_or_else(|| self.own(shape));
        value.shape = shape.to_vec();
        self.held.insert(name.clone(), value);
        self.made.insert(name.clone(), made);
        self.order.push(name.clone());
        name
    }

    fn parameter(&mut self, source: String) -> String {
        let name = format!("{}{source}", self.wrapper);
        let shape = self.base[&source].shape.clone();
        self.weight(name, &shape, Made::Copied { source })
    }

    fn node(
        &mut self,
        op: &str,
        module: &str,
        inputs: Vec<String>,
        attribute: Option<(&str, i64)>,
    ) {
        self.serial += 1;
        let output = format!("v{}", self.serial);
        let name = if self.torchscript && self.paths {
            format!(
                "/{}{}/{op}",
                self.wrapper.replace('.', "/"),
                module.replace('.', "/")
            )
        } else {
            format!("node_{}_{}", op.to_lowercase(), self.serial)
        };
        self.nodes.push(NodeProto {
            op_type: op.into(),
            name,
            input: inputs,
            output: vec![output.clone()],
            attribute: (attribute.into_iter())
                .map(|(name, i)| AttributeProto {
                    name: name.into(),
                    type_: AttributeType::INT.into(),
                    i,
                    ..AttributeProto::default()
                })
                .collect(),
            ..NodeProto::default()
        });
        self.flow = output;
    }

    fn linear(&mut self, module: &str) {
        let sizes = [4, 8, 8, 8, 12];
        let (i, o) = (
            sizes[self.rng.random_range(0..5)],
            sizes[self.rng.random_range(0..5)],
        );
        let weight = self.source(&format!("{module}.weight"), &[o, i]);
        let x = self.flow.clone();
        let bias = self
            .chance(0.7)
            .then(|| self.source(&format!("{module}.bias"), &[o]));
        match self.rng.random_range(0..4) {
            0 => {
                let w = self.parameter(weight);
                let mut inputs = vec![x, w];
                if let Some(b) = bias {
                    inputs.push(self.parameter(b));
                }
                self.node("Gemm", module, inputs, Some(("transB", 1)));
            }
            1 => {
                // The parameter keeps its name behind a Transpose node.
                let w = self.parameter(weight);
                self.node("Transpose", module, vec![w], None);
                let turned = self.flow.clone();
                self.node("MatMul", module, vec![x, turned], None);
                self.add(module, bias);
            }
            _ => {
                let name = self.fresh("MatMul");
                let w = self.weight(name, &[i, o], Made::Turned { source: weight });
                self.node("MatMul", module, vec![x, w], None);
                self.add(module, bias);
            }
        }
    }

    fn add(&mut self, module: &str, bias: Option<String>) {
        if let Some(b) = bias {
            let b = self.parameter(b);
            let x = self.flow.clone();
            self.node("Add", module, vec![x, b], None);
        }
    }

    fn projection(&mut self, module: &str) {
        // `x @ self.weight`: not transposed, the name is kept.
        let weight = self.source(&format!("{module}.weight"), &[8, 8]);
        let w = self.parameter(weight);
        let x = self.flow.clone();
        self.node("MatMul", module, vec![x, w], None);
    }

    fn conv(&mut self, module: &str) {
        let k = if self.chance(0.5) { 1 } else { 3 };
        let shape = [8, 4, k, k];
        let weight = self.source(&format!("{module}.weight"), &shape);
        let x = self.flow.clone();
        if self.chance(0.4) {
            let norm = format!("{module}_bn");
            for leaf in ["weight", "bias", "running_mean", "running_var"] {
                let name = self.source(&format!("{norm}.{leaf}"), &[8]);
                let positive: Vec<f32> = numbers(&self.base[&name])
                    .iter()
                    .map(|v| v.abs() + 0.5)
                    .collect();
                if leaf == "running_var" || (leaf == "weight" && self.chance(0.5)) {
                    self.base.insert(name, tensor(&[8], &positive));
                }
            }
            let (kernel, bias) = if self.torchscript {
                (self.fresh("Conv"), self.fresh("Conv"))
            } else {
                let own = format!("{}{weight}", self.wrapper);
                (own.clone(), format!("{own}_bias"))
            };
            let made = |part| Made::Folded {
                part,
                kernel: weight.clone(),
                norm: norm.clone(),
            };
            let w = self.weight(kernel, &shape, made(Part::Kernel));
            let b = self.weight(bias, &[8], made(Part::Bias));
            self.node("Conv", module, vec![x, w, b], None);
            if !self.torchscript {
                self.nodes.last_mut().unwrap().name = format!("node_Conv_{}", self.serial);
            }
        } else {
            let bias = self.source(&format!("{module}.bias"), &[8]);
            let (w, b) = (self.parameter(weight), self.parameter(bias));
            self.node("Conv", module, vec![x, w, b], None);
        }
    }

    fn group_norm(&mut self, module: &str) {
        for (leaf, op) in [("weight", "Mul"), ("bias", "Add")] {
            let source = self.source(&format!("{module}.{leaf}"), &[8]);
            let name = self.fresh(op);
            let w = self.weight(name, &[8, 1, 1], Made::Copied { source });
            let x = self.flow.clone();
            self.node(op, module, vec![x, w], None);
        }
    }

    fn constant(&mut self) {
        let name = self.fresh("Mul");
        let shape: &[usize] = if self.chance(0.5) { &[] } else { &[8] };
        let w = self.weight(name, shape, Made::Own);
        let x = self.flow.clone();
        self.node("Mul", "scale", vec![x, w], None);
    }

    /// An embedding whose weights the head shares; torch saves both names or one.
    fn tied(&mut self) {
        let source = self.source("embed.weight", &[12, 8]);
        let w = self.parameter(source.clone());
        let ids = "ids".to_owned();
        self.node("Gather", "embed", vec![w, ids], None);
        let mut source = source;
        if self.chance(0.5) {
            let value = self.base[&source].clone();
            source = "head.weight".into();
            self.base.insert(source.clone(), value);
        }
        let name = self.fresh("MatMul");
        let head = self.weight(name, &[8, 12], Made::Turned { source });
        let x = self.flow.clone();
        self.node("MatMul", "head", vec![x, head], None);
    }

    fn model(mut self) -> Planted {
        for layer in 0..self.rng.random_range(2..7) {
            let module = format!("blocks.{layer}.m");
            match self.rng.random_range(0..10) {
                0..=4 => self.linear(&module),
                5 => self.projection(&module),
                6 | 7 => self.conv(&module),
                8 => self.group_norm(&module),
                _ => self.constant(),
            }
        }
        if self.chance(0.3) {
            self.tied();
        }
        let initializer = (self.order.iter())
            .map(|name| TensorProto {
                name: name.clone(),
                data_type: 1,
                dims: self.held[name].shape.iter().map(|&d| d as i64).collect(),
                raw_data: self.held[name].data.clone(),
                ..TensorProto::default()
            })
            .collect();
        let proto = ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto {
                version: 17,
                ..OperatorSetIdProto::default()
            }],
            graph: MessageField::some(GraphProto {
                name: "g".into(),
                node: self.nodes,
                initializer,
                input: vec![declared("x"), declared("ids")],
                output: vec![declared(&self.flow)],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        std::fs::write(&path, proto.write_to_bytes().unwrap()).unwrap();
        Planted {
            model: Model::open(&path).unwrap(),
            base: self.base,
            made: self.made,
            held: self.held,
        }
    }
}

fn declared(name: &str) -> ValueInfoProto {
    use onnx_protobuf::{TensorShapeProto, TypeProto, type_proto};
    ValueInfoProto {
        name: name.into(),
        type_: MessageField::some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: if name == "ids" { 7 } else { 1 },
                shape: MessageField::some(TensorShapeProto::default()),
                ..type_proto::Tensor::default()
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

pub(super) fn planted(seed: u64) -> Planted {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let torchscript = rng.random_bool(0.5);
    Gen {
        torchscript,
        paths: rng.random_bool(0.8),
        wrapper: if rng.random_bool(0.5) { "m." } else { "" },
        rng,
        base: BTreeMap::new(),
        made: BTreeMap::new(),
        held: BTreeMap::new(),
        order: Vec::new(),
        nodes: Vec::new(),
        flow: "x".into(),
        serial: 0,
    }
    .model()
}

/// The value that an exporter writes for a weight from these sources; none when one is missing.
pub(super) fn fill(made: &Made, from: &BTreeMap<String, Tensor>) -> Option<Tensor> {
    let wide = |name: &str| {
        let t = from.get(name)?;
        Some(Tensor {
            dtype: Dtype::F32,
            shape: t.shape.clone(),
            data: cast(t.dtype, Dtype::F32, &t.data).unwrap(),
        })
    };
    match made {
        Made::Own => None,
        Made::Copied { source } => wide(source),
        Made::Turned { source } => {
            let t = wide(source)?;
            Some(Tensor {
                dtype: t.dtype,
                shape: vec![t.shape[1], t.shape[0]],
                data: transpose(t.view()).unwrap(),
            })
        }
        Made::Folded { part, kernel, norm } => {
            let of = |leaf: &str| Some(numbers(&wide(&format!("{norm}.{leaf}"))?));
            let (scale, variance) = (of("weight")?, of("running_var")?);
            let factor = |c: usize| scale[c] / (variance[c] + 1e-5).sqrt();
            match part {
                Part::Kernel => {
                    let w = wide(kernel)?;
                    let inner = w.shape[1..].iter().product::<usize>();
                    let v: Vec<f32> = (numbers(&w).iter().enumerate())
                        .map(|(i, x)| x * factor(i / inner))
                        .collect();
                    Some(tensor(&w.shape, &v))
                }
                Part::Bias => {
                    let (shift, mean) = (of("bias")?, of("running_mean")?);
                    let v: Vec<f32> = (0..shift.len())
                        .map(|c| shift[c] + (0.0 - mean[c]) * factor(c))
                        .collect();
                    Some(tensor(&[v.len()], &v))
                }
            }
        }
    }
}
