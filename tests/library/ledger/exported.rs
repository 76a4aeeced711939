//! Random models as exporters write them, with a checkpoint and the truth about every constant.

use super::made::{Checkpoint, Made, numbers, of_f32};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use protobuf::MessageField;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::collections::{BTreeMap, HashMap};
use trtmut::onnx::Model;
use trtmut::tensor::{Dtype, Tensor};

/// Who wrote the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exporter {
    /// Parameter names and module paths; equal parameters are merged, literals are `Constant` nodes.
    TorchScript,
    /// As `TorchScript`, and an optimizer made initializers of the literals, merged equal ones and then equal nodes.
    Simplified,
    /// Equal initializers and then equal nodes are merged; every node and folded value has a record.
    Dynamo,
    /// As `Dynamo`, and the record was dropped.
    Bare,
}

/// A constant of the model as the file holds it.
#[derive(Debug, Clone)]
pub struct Constant {
    pub name: String,
    pub value: Tensor,
    /// More than one where values were merged.
    pub made: Vec<Made>,
    /// Engines fold it in, so no refit changes it.
    pub baked: bool,
    inline: bool,
    folded_from: Vec<String>,
}

pub struct Exported {
    pub model: Model,
    pub base: Checkpoint,
    pub constants: Vec<Constant>,
    /// Tensors whose value stands in an attribute.
    pub attributes: Vec<String>,
    /// Tensors that were saved twice under two names, both meaning one parameter.
    pub tied: Vec<(String, String)>,
    pub exporter: Exporter,
}

#[derive(Debug, Clone, PartialEq)]
enum In {
    Value(String),
    Const(usize),
}

#[derive(Debug, Clone)]
struct Op {
    kind: &'static str,
    name: String,
    inputs: Vec<In>,
    output: String,
    alpha: Option<f32>,
    turn_b: bool,
    call: (String, Vec<String>),
}

#[derive(Clone)]
struct Gen {
    rng: ChaCha8Rng,
    exporter: Exporter,
    wrapper: &'static str,
    dtype: Dtype,
    base: Checkpoint,
    constants: Vec<Constant>,
    ops: Vec<Op>,
    attributes: Vec<String>,
    tied: Vec<(String, String)>,
    flow: String,
    serial: usize,
    /// Whether the derivations that came later are made as well.
    later: bool,
    /// Whether a part of a tensor may have one value, as the keys' part of a joined bias often has, and a tensor follow a rule.
    parted: bool,
}

const D: usize = 8;
/// From this seed on models have the derivations that came later; those before stay as they were.
pub const LATER: u64 = 30_000_000;
/// From this seed on tensors may have one value in a part or follow a rule, and what is read twice may have a bias.
pub const PARTED: u64 = 90_000_000;

impl Gen {
    fn chance(&mut self, of: f64) -> bool {
        self.rng.random_bool(of)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.rng.random_range(0..of.len())].clone()
    }

    fn normal(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| StandardNormal.sample(&mut self.rng))
            .collect()
    }

    /// A new tensor of the checkpoint: trained, or with one of the values that initialisers give, or equal to another.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> String {
        let n: usize = shape.iter().product();
        let same: Vec<Tensor> = self
            .base
            .values()
            .filter(|t| t.shape == shape && t.dtype == Dtype::F32)
            .cloned()
            .collect();
        let value = match self.rng.random_range(0..20) {
            0 => of_f32(shape, &vec![0.0; n]),
            1 => of_f32(shape, &vec![1.0; n]),
            2 if !same.is_empty() => self.pick(&same),
            3 if shape.len() == 2 && shape[0] == shape[1] => {
                let v = self.normal(n);
                let d = shape[0];
                of_f32(
                    shape,
                    &(0..n)
                        .map(|i| v[i] + v[i % d * d + i / d])
                        .collect::<Vec<_>>(),
                )
            }
            _ => of_f32(shape, &self.normal(n)),
        };
        self.base.insert(name.to_owned(), value);
        if self.parted && shape.first().is_some_and(|rows| *rows >= 12) && self.chance(0.1) {
            self.flatten_part(name);
        }
        name.to_owned()
    }

    /// Gives some of a tensor's rows one value: a third of them, or four.
    fn flatten_part(&mut self, name: &str) {
        let (shape, mut values) = (self.base[name].shape.clone(), numbers(&self.base[name]));
        let width = values.len() / shape[0];
        let len = self.pick(&[4, shape[0] / 3]);
        let start = self.rng.random_range(0..shape[0] / len) * len;
        let fill = self.pick(&[0.0, 0.0, 1.0]);
        values[start * width..(start + len) * width].fill(fill);
        self.base.insert(name.to_owned(), of_f32(&shape, &values));
    }

    fn is_dynamo(&self) -> bool {
        matches!(self.exporter, Exporter::Dynamo | Exporter::Bare)
    }

    fn made_up(&mut self, kind: &str) -> String {
        self.serial += 1;
        if self.is_dynamo() {
            format!("val_{}", 100 + self.serial)
        } else {
            format!("onnx::{kind}_{}", 100 + self.serial)
        }
    }

    fn add(&mut self, name: String, shape: &[usize], made: Made, dtype: Dtype) -> In {
        if let Some(at) = self.constants.iter().position(|c| c.name == name) {
            return In::Const(at);
        }
        let value = made
            .value(&self.base, dtype, shape)
            .expect("sources are there");
        let folded_from = made
            .sources()
            .iter()
            .map(|s| format!("{}{s}", self.wrapper))
            .collect();
        self.constants.push(Constant {
            name,
            value,
            made: vec![made],
            baked: false,
            inline: false,
            folded_from,
        });
        In::Const(self.constants.len() - 1)
    }

    /// A parameter that keeps its name.
    fn parameter(&mut self, source: &str) -> In {
        let (name, shape) = (
            format!("{}{source}", self.wrapper),
            self.base[source].shape.clone(),
        );
        let dtype = if self.base[source].dtype.is_float() {
            self.dtype
        } else {
            self.base[source].dtype
        };
        let at = self.add(name, &shape, Made::Whole(source.to_owned()), dtype);
        if let In::Const(c) = at {
            self.constants[c].folded_from.clear();
        }
        at
    }

    /// A value that the exporter folded.
    fn folded(&mut self, kind: &str, shape: &[usize], made: Made) -> In {
        let name = if self.is_dynamo() && matches!(kind, "Mul" | "Add") && self.chance(0.5) {
            self.serial += 1;
            format!("{}_{}", made.operator(), self.serial)
        } else {
            self.made_up(kind)
        };
        let dtype = if matches!(made, Made::Rounded8(_)) {
            Dtype::I8
        } else {
            self.dtype
        };
        self.add(name, shape, made, dtype)
    }

    /// A literal of the code, or a table that the exporter computes.
    fn own(&mut self, shape: &[usize], values: &[f32], module: &str) -> In {
        self.serial += 1;
        let name = match self.exporter {
            Exporter::TorchScript | Exporter::Simplified => {
                format!(
                    "/{}{}/Constant_{}_output_0",
                    self.wrapper.replace('.', "/"),
                    module.replace('.', "/"),
                    self.serial
                )
            }
            _ => format!("val_{}", 100 + self.serial),
        };
        let mut value = of_f32(shape, values);
        value.data = trtmut::tensor::cast(Dtype::F32, self.dtype, &value.data).unwrap();
        value.dtype = self.dtype;
        let inline = self.exporter == Exporter::TorchScript;
        self.constants.push(Constant {
            name,
            value,
            made: vec![Made::Own],
            baked: false,
            inline,
            folded_from: Vec::new(),
        });
        In::Const(self.constants.len() - 1)
    }

    fn sanitized(&self, source: &str) -> String {
        format!("{}{source}", self.wrapper)
            .replace('.', "_")
            .to_lowercase()
    }

    /// Adds a node that reads `flow` and constants; `params` are the tensors that the traced call names.
    fn op(&mut self, kind: &'static str, module: &str, inputs: Vec<In>, params: &[&str]) {
        let call = format!("{}_{}", kind.to_lowercase(), self.serial + 1);
        self.op_of(kind, module, inputs, params, call);
    }

    fn op_of(
        &mut self,
        kind: &'static str,
        module: &str,
        inputs: Vec<In>,
        params: &[&str],
        call: String,
    ) {
        self.serial += 1;
        let output = if self.is_dynamo() {
            call.clone()
        } else {
            format!("/{}_{}_output_0", module.replace('.', "/"), self.serial)
        };
        let name = match self.exporter {
            Exporter::TorchScript | Exporter::Simplified => {
                let path = format!("{}{module}", self.wrapper).replace('.', "/");
                format!("/{path}/{kind}_{}", self.serial)
            }
            _ => format!("node_{}_{}", kind.to_lowercase(), self.serial),
        };
        let mut args: Vec<String> = inputs
            .iter()
            .filter_map(|i| match i {
                In::Value(v) => Some(v.clone()),
                In::Const(_) => None,
            })
            .collect();
        // A folded value is an argument by its own name.
        let own: Vec<String> = inputs
            .iter()
            .filter_map(|i| match i {
                In::Const(c) if self.constants[*c].name.starts_with("fold_") => {
                    Some(self.constants[*c].name.clone())
                }
                _ => None,
            })
            .collect();
        let params = if own.is_empty() { params } else { &[] };
        args.extend(own);
        args.extend(params.iter().map(|p| {
            let prefix = if p.contains("running") || p.contains("index") {
                "b"
            } else {
                "p"
            };
            format!("{prefix}_{}", self.sanitized(p))
        }));
        let output = if self.ops.iter().any(|o| o.output == output) {
            format!("{output}_{}", self.serial)
        } else {
            output
        };
        self.ops.push(Op {
            kind,
            name,
            inputs,
            output: output.clone(),
            alpha: None,
            turn_b: false,
            call: (call, args),
        });
        self.flow = output;
    }

    fn x(&self) -> In {
        In::Value(self.flow.clone())
    }

    fn linear(&mut self, module: &str) {
        let (i, o) = (self.pick(&[4, D, D, 12]), self.pick(&[4, D, D, 12]));
        let w = self.tensor(&format!("{module}.weight"), &[o, i]);
        let b = self
            .chance(0.7)
            .then(|| self.tensor(&format!("{module}.bias"), &[o]));
        self.apply_linear(module, &w, b.as_deref());
    }

    fn apply_linear(&mut self, module: &str, w: &str, b: Option<&str>) {
        let shape = self.base[w].shape.clone();
        let x = self.x();
        if self.chance(0.4) {
            let mut inputs = vec![x, self.parameter(w)];
            let mut params = vec![w];
            if let Some(b) = b {
                inputs.push(self.parameter(b));
                params.push(b);
            }
            self.op("Gemm", module, inputs, &params);
            self.ops.last_mut().unwrap().turn_b = true;
            return;
        }
        let turned = self.folded("MatMul", &[shape[1], shape[0]], Made::Turned(w.to_owned()));
        let call = format!("linear_{}", self.serial + 1);
        let params: Vec<&str> = std::iter::once(w).chain(b).collect();
        self.op_of("MatMul", module, vec![x, turned], &params, call.clone());
        if let Some(b) = b {
            let shift = self.parameter(b);
            // One call of the traced graph became both nodes.
            let first = self.ops.last_mut().unwrap();
            let args = first.call.1.clone();
            first.output = format!("val_{}", 500 + self.serial);
            let inner = first.output.clone();
            self.serial += 1;
            self.op_of(
                "Add",
                module,
                vec![In::Value(inner), shift],
                &params,
                call.clone(),
            );
            self.ops.last_mut().unwrap().call.1 = args;
        }
    }

    fn conv(&mut self, module: &str) {
        let k = self.pick(&[1, 3]);
        let shape = [D, 2, k, k];
        let w = self.tensor(&format!("{module}.weight"), &shape);
        let x = self.x();
        if self.chance(0.3) {
            let b = self.tensor(&format!("{module}.bias"), &[D]);
            let inputs = vec![x, self.parameter(&w), self.parameter(&b)];
            self.op("Conv", module, inputs, &[&w, &b]);
            return;
        }
        let own = self
            .chance(0.3)
            .then(|| self.tensor(&format!("{module}.bias"), &[D]));
        let (norm, affine) = (format!("{module}_bn"), self.chance(0.7));
        let leaves: &[&str] = if affine {
            &["weight", "bias", "running_mean", "running_var"]
        } else {
            &["running_mean", "running_var"]
        };
        for leaf in leaves {
            let name = self.tensor(&format!("{norm}.{leaf}"), &[D]);
            if *leaf == "running_var" {
                let v: Vec<f32> = numbers(&self.base[&name])
                    .iter()
                    .map(|v| v.abs() + 0.25)
                    .collect();
                self.base.insert(name, of_f32(&[D], &v));
            }
        }
        self.base.insert(
            format!("{norm}.num_batches_tracked"),
            Tensor {
                dtype: Dtype::I64,
                shape: vec![],
                data: 7i64.to_le_bytes().to_vec(),
            },
        );
        let (kernel, bias) = (
            Made::Kernel(w.clone(), norm.clone(), affine),
            Made::Bias(own.clone(), norm.clone(), affine),
        );
        let (kn, bn) = if self.is_dynamo() {
            let own_name = format!("{}{w}", self.wrapper);
            (own_name.clone(), format!("{own_name}_bias"))
        } else {
            (self.made_up("Conv"), self.made_up("Conv"))
        };
        let dtype = self.dtype;
        let kernel = self.add(kn, &shape, kernel, dtype);
        let bias = self.add(bn, &[D], bias, dtype);
        let mut params = vec![w];
        params.extend(own);
        params.extend(leaves.iter().map(|l| format!("{norm}.{l}")));
        let params: Vec<&str> = params.iter().map(String::as_str).collect();
        self.op("Conv", module, vec![x, kernel, bias], &params);
    }

    /// `x · (1 + w)` or `x · w`, and more.
    fn norm(&mut self, module: &str) {
        let w = self.tensor(&format!("{module}.weight"), &[D]);
        let x = self.x();
        let c = match self.rng.random_range(0..4) {
            0 => self.folded("Mul", &[D], Made::OnePlus(w.clone())),
            1 => self.folded("Mul", &[D, 1, 1], Made::Whole(w.clone())),
            _ => self.parameter(&w),
        };
        self.op("Mul", module, vec![x, c], &[&w]);
    }

    /// Embedding and head from one parameter, written once or twice.
    fn tied(&mut self, module: &str) {
        let e = self.tensor(&format!("{module}_embed.weight"), &[12, D]);
        let c = self.parameter(&e);
        let embed = format!("{module}_embed");
        self.op("Gather", &embed, vec![c, In::Value("ids".into())], &[&e]);
        let mut h = e.clone();
        if self.chance(0.5) {
            let value = self.base[&e].clone();
            h = format!("{module}_head.weight");
            self.base.insert(h.clone(), value);
            self.tied.push((e.clone(), h.clone()));
        }
        let made = if self.chance(0.4) {
            Made::Scaled(h.clone(), self.pick(&[0.25, 0.125, 0.37, 2.0]), true)
        } else {
            Made::Turned(h.clone())
        };
        let head = self.folded("MatMul", &[D, 12], made);
        // The record knows the parameter under one name.
        if let In::Const(c) = head {
            self.constants[c].folded_from = vec![format!("{}{e}", self.wrapper)];
        }
        let x = self.x();
        self.op("MatMul", &format!("{module}_head"), vec![x, head], &[&e]);
    }

    fn attention(&mut self, module: &str) {
        let w = self.tensor(&format!("{module}.in_proj_weight"), &[3 * D, D]);
        let b = self.tensor(&format!("{module}.in_proj_bias"), &[3 * D]);
        for part in 0..3 {
            let m = self.folded("MatMul", &[D, D], Made::Slice(w.clone(), part * D, D, true));
            let x = self.x();
            self.op("MatMul", module, vec![x, m], &[&w]);
            let c = self.folded("Add", &[D], Made::Slice(b.clone(), part * D, D, false));
            let x = self.x();
            self.op("Add", module, vec![x, c], &[&b]);
        }
    }

    fn joined(&mut self, module: &str) {
        let parts: Vec<String> = ["q", "k", "v"]
            .iter()
            .map(|p| self.tensor(&format!("{module}.{p}.weight"), &[4, D]))
            .collect();
        let m = self.folded("MatMul", &[D, 12], Made::Join(parts.clone(), true));
        let x = self.x();
        let params: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.op("MatMul", module, vec![x, m], &params);
    }

    fn positions(&mut self, module: &str) {
        let p = self.tensor(&format!("{module}.position"), &[16, D]);
        let made = if self.chance(0.5) {
            Made::Slice(p.clone(), 0, 10, false)
        } else {
            Made::Gathered(p.clone(), vec![3, 1, 1, 7, 12, 0, 5, 4, 15, 2])
        };
        let c = self.folded("Add", &[10, D], made);
        let x = self.x();
        self.op("Add", module, vec![x, c], &[&p]);
    }

    /// A weight that torch keeps as a direction and a magnitude, under the names of the hook or of the parametrization.
    fn weight_normed(&mut self, module: &str) {
        let (i, o) = (self.pick(&[4, D, 12]), self.pick(&[4, D, 12]));
        let [g, v] = if self.chance(0.5) {
            [format!("{module}.weight_g"), format!("{module}.weight_v")]
        } else {
            let at = format!("{module}.parametrizations.weight.original");
            [format!("{at}0"), format!("{at}1")]
        };
        // A direction of zeros has no norm.
        let direction = self.normal(o * i);
        // Before the first step of training the magnitude is the direction's norm.
        let magnitude = if self.chance(0.3) {
            let norms = direction.chunks(i).map(|row| row.iter().map(|x| x * x));
            norms.map(|squares| squares.sum::<f32>().sqrt()).collect()
        } else {
            self.normal(o)
        };
        self.base.insert(v.clone(), of_f32(&[o, i], &direction));
        self.base.insert(g.clone(), of_f32(&[o, 1], &magnitude));
        let flip = self.chance(0.6);
        let made = Made::Normed(v.clone(), g.clone(), flip);
        let x = self.x();
        if flip {
            let c = self.folded("MatMul", &[i, o], made);
            self.op("MatMul", module, vec![x, c], &[&g, &v]);
        } else {
            let c = self.folded("Gemm", &[o, i], made);
            self.op("Gemm", module, vec![x, c], &[&g, &v]);
            self.ops.last_mut().unwrap().turn_b = true;
        }
    }

    /// A position table and a row of a type table, which exporters add up.
    fn summed(&mut self, module: &str) {
        let table = self.tensor(&format!("{module}.position.weight"), &[16, D]);
        let types = self.tensor(&format!("{module}.types.weight"), &[2, D]);
        let row = self.pick(&[0, 0, 1]);
        let made = Made::Added(table.clone(), types.clone(), row);
        let c = self.folded("Add", &[10, D], made);
        let x = self.x();
        self.op("Add", module, vec![x, c], &[&table, &types]);
    }

    fn joined_biases(&mut self, module: &str) {
        let parts: Vec<String> = ["q", "k", "v"]
            .iter()
            .map(|p| self.tensor(&format!("{module}.{p}.bias"), &[4]))
            .collect();
        let c = self.folded("Add", &[12], Made::Join(parts.clone(), false));
        let x = self.x();
        let params: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.op("Add", module, vec![x, c], &params);
    }

    /// Torch's gates in the order of ONNX: input, forget, cell, output become input, output, forget, cell; reset, update, new become
    /// update, reset, new.
    fn recurrent(&mut self, module: &str) {
        let h = 4;
        let (kind, order): (&'static str, &[usize]) = if self.chance(0.5) {
            ("LSTM", &[0, 3, 1, 2])
        } else {
            ("GRU", &[1, 0, 2])
        };
        let n = order.len() * h;
        let gates = |name: &str| -> Vec<(String, usize, usize)> {
            order.iter().map(|g| (name.to_owned(), g * h, h)).collect()
        };
        let w = self.tensor(&format!("{module}.weight_ih_l0"), &[n, D]);
        let r = self.tensor(&format!("{module}.weight_hh_l0"), &[n, h]);
        let b = self.tensor(&format!("{module}.bias_ih_l0"), &[n]);
        let c = self.tensor(&format!("{module}.bias_hh_l0"), &[n]);
        let biases = [gates(&b), gates(&c)].concat();
        let x = self.x();
        let inputs = vec![
            x,
            self.folded(kind, &[1, n, D], Made::Runs(gates(&w))),
            self.folded(kind, &[1, n, h], Made::Runs(gates(&r))),
            self.folded(kind, &[1, 2 * n], Made::Runs(biases)),
        ];
        self.op(kind, module, inputs, &[&w, &r, &b, &c]);
    }

    /// A position table for another resolution, read beside the table itself or alone.
    fn resized(&mut self, module: &str) {
        let table = self.tensor(&format!("{module}.position"), &[16, D]);
        if self.chance(0.3) {
            let whole = self.parameter(&table);
            let x = self.x();
            self.op("Add", module, vec![x, whole], &[&table]);
        }
        let c = self.folded("Add", &[10, D], Made::Resized(table.clone(), 10));
        let x = self.x();
        self.op("Add", module, vec![x, c], &[&table]);
    }

    /// Frequencies that the checkpoint has as well, and the tables that the exporter makes of them.
    fn rotary(&mut self, module: &str) {
        let name = format!("{module}.rotary.inv_freq");
        let frequencies: Vec<f32> = (0..4).map(|i| 10f32.powf(-0.25 * i as f32)).collect();
        self.base.insert(name.clone(), of_f32(&[4], &frequencies));
        let c = self.folded("Mul", &[12, D], Made::Waves(name.clone(), 12));
        let x = self.x();
        self.op("Mul", module, vec![x, c], &[&name]);
    }

    fn logit(&mut self, module: &str) {
        let name = format!("{module}.logit_scale");
        let v = self.pick(&[2.659_26f32, 1.713_98, 0.0]);
        self.base.insert(name.clone(), of_f32(&[], &[v]));
        let c = self.folded("Mul", &[], Made::Exp(name.clone()));
        let x = self.x();
        self.op("Mul", module, vec![x, c], &[&name]);
    }

    fn quantised(&mut self, module: &str) {
        let (q, s) = (format!("{module}.weight_q"), format!("{module}.scale"));
        let data: Vec<u8> = (0..D * D)
            .map(|_| self.rng.random_range(0..256u32) as u8)
            .collect();
        self.base.insert(
            q.clone(),
            Tensor {
                dtype: Dtype::I8,
                shape: vec![D, D],
                data,
            },
        );
        let v = self.normal(1)[0].abs() + 0.01;
        self.base.insert(s.clone(), of_f32(&[], &[v]));
        let inputs = vec![self.parameter(&q), self.parameter(&s)];
        let x = self.x();
        self.op("DequantizeLinear", module, inputs, &[&q, &s]);
        let w = self.x();
        self.op("MatMul", module, vec![x, w], &[]);
    }

    /// A table of indices, a bound, a slope: values of the checkpoint that no refit changes.
    fn baked(&mut self, module: &str) {
        let x = self.x();
        match self.rng.random_range(0..3) {
            0 => {
                let name = format!("{module}.index");
                let data: Vec<u8> = (0..24)
                    .flat_map(|_| self.rng.random_range(0..1000i64).to_le_bytes())
                    .collect();
                self.base.insert(
                    name.clone(),
                    Tensor {
                        dtype: Dtype::I64,
                        shape: vec![24],
                        data,
                    },
                );
                let c = self.parameter(&name);
                self.bake(&c);
                self.op("Gather", module, vec![x, c], &[&name]);
            }
            1 => {
                let name = format!("{module}.bound");
                let v = self.pick(&[0.713_94f32, -1.337_42, 0.5]);
                self.base.insert(name.clone(), of_f32(&[], &[v]));
                let c = self.parameter(&name);
                self.bake(&c);
                self.op("Clip", module, vec![x, c], &[&name]);
            }
            _ => {
                let name = format!("{module}.slope");
                let v = self.pick(&[0.1f32, 0.193_847, 0.25]);
                self.base.insert(name.clone(), of_f32(&[1], &[v]));
                self.op("LeakyRelu", module, vec![x], &[]);
                self.ops.last_mut().unwrap().alpha = Some(v);
                self.attributes.push(name);
            }
        }
    }

    fn bake(&mut self, at: &In) {
        if let In::Const(c) = at {
            self.constants[*c].baked = true;
        }
    }

    /// A tensor that the graph reads plainly is read again through something that the mapping does not know.
    fn hidden(&mut self, module: &str) {
        let w = self.tensor(&format!("{module}.weight"), &[D, D]);
        if self.chance(0.7) {
            let bias = (self.parted && self.chance(0.5))
                .then(|| self.tensor(&format!("{module}.bias"), &[D]));
            self.apply_linear(module, &w.clone(), bias.as_deref());
        }
        let made = match self.rng.random_range(0..4) {
            0 => Made::Squared(w.clone()),
            1 => Made::Normalised(w.clone()),
            2 => Made::Interpolated(w.clone()),
            _ => Made::Rounded8(w.clone()),
        };
        let x = self.x();
        if matches!(made, Made::Rounded8(_)) {
            let q = self.folded("DequantizeLinear", &[D, D], made);
            let s = self.own(&[], &[0.031_25], module);
            self.op("DequantizeLinear", module, vec![q, s], &[&w]);
            let w = self.x();
            self.op("MatMul", module, vec![x, w], &[]);
        } else {
            let c = self.folded("Mul", &[D, D], made);
            self.op("Mul", module, vec![x, c], &[&w]);
        }
    }

    fn literal(&mut self, module: &str) {
        let x = self.x();
        let c = match self.rng.random_range(0..5) {
            0 => self.own(&[D], &[0.0; D], module),
            1 => self.own(&[D], &[1.0; D], module),
            2 => self.own(&[], &[0.5], module),
            3 => self.own(
                &[D],
                &std::array::from_fn::<f32, D, _>(|i| 0.25 * i as f32 - 1.0),
                module,
            ),
            _ => {
                let v: Vec<f32> = (0..12 * 4)
                    .map(|i| {
                        let angle = (i / 4) as f32 * 0.3f32.powi(i % 4 / 2);
                        if i % 2 == 0 { angle.sin() } else { angle.cos() }
                    })
                    .collect();
                self.own(&[12, 4], &v, module)
            }
        };
        let kind = self.pick(&["Mul", "Add"]);
        self.op(kind, module, vec![x, c], &[]);
    }

    /// Two modules of equal shape read the same value; where their tensors are equal, a merging exporter leaves one node.
    fn branches(&mut self, module: &str) {
        let start = self.flow.clone();
        let (a, b) = (format!("{module}.a.weight"), format!("{module}.b.weight"));
        let first = self.tensor(&a, &[D]);
        self.tensor(&b, &[D]);
        if self.chance(0.6) {
            let value = self.base[&first].clone();
            self.base.insert(b.clone(), value);
        }
        let second_is_literal = self.chance(0.2);
        let c = self.parameter(&a);
        self.op(
            "Mul",
            &format!("{module}.a"),
            vec![In::Value(start.clone()), c],
            &[&a],
        );
        let left = self.flow.clone();
        if second_is_literal {
            self.base.remove(&b);
            let fill = self.pick(&[0.0, 1.0]);
            let c = self.own(&[D], &[fill; D], &format!("{module}.b"));
            self.op(
                "Mul",
                &format!("{module}.b"),
                vec![In::Value(start), c],
                &[],
            );
            // The traced graph has a lifted tensor there.
            self.ops
                .last_mut()
                .unwrap()
                .call
                .1
                .push("c_lifted_tensor_0".into());
        } else {
            let c = self.parameter(&b);
            self.op(
                "Mul",
                &format!("{module}.b"),
                vec![In::Value(start), c],
                &[&b],
            );
        }
        let right = self.flow.clone();
        self.op("Add", module, vec![In::Value(left), In::Value(right)], &[]);
    }

    fn unused(&mut self, layer: usize) {
        let name = self.pick(&["pooler", "ema", "head_unused"]);
        self.tensor(&format!("{name}{layer}.dense.weight"), &[D, D]);
        if self.chance(0.5) {
            self.tensor(&format!("{name}{layer}.dense.bias"), &[D]);
        }
    }

    fn layers(&mut self) {
        for layer in 0..self.rng.random_range(2..6) {
            let module = format!("blocks.{layer}.m");
            let kinds = match (self.parted, self.later) {
                (true, _) => 38,
                (_, true) => 36,
                _ => 28,
            };
            match self.rng.random_range(0..kinds) {
                0..=7 => self.linear(&module),
                8..=10 => self.conv(&module),
                11 | 12 => self.norm(&module),
                13 | 14 => self.tied(&module),
                15 | 16 => self.attention(&module),
                17 => self.joined(&module),
                18 => self.positions(&module),
                19 => self.logit(&module),
                20 => self.quantised(&module),
                21 => self.baked(&module),
                22 => self.hidden(&module),
                23 | 24 => self.branches(&module),
                25 => self.unused(layer),
                26 | 27 => self.literal(&module),
                28 | 29 => self.weight_normed(&module),
                30 => self.summed(&module),
                31 => self.joined_biases(&module),
                32 | 33 => self.recurrent(&module),
                34 | 35 => self.resized(&module),
                _ => self.rotary(&module),
            }
        }
    }

    /// Merges constants of equal bytes, and then nodes that compute the same.
    fn merge(&mut self) {
        let dynamo_merges = self.chance(0.8);
        let (all, nodes) = match self.exporter {
            Exporter::TorchScript => (false, false),
            Exporter::Simplified => (true, true),
            Exporter::Dynamo | Exporter::Bare => (dynamo_merges, dynamo_merges),
        };
        let folded_too = self.chance(0.5);
        let mut into: Vec<usize> = (0..self.constants.len()).collect();
        for c in 0..self.constants.len() {
            let own = self.constants[c].clone();
            let joins = |o: &Constant| {
                let plain =
                    |k: &Constant| !k.inline && (folded_too || !k.name.starts_with("onnx::"));
                o.value == own.value
                    && (all || (self.exporter == Exporter::TorchScript && plain(o) && plain(&own)))
            };
            if let Some(first) = (0..c).find(|&o| into[o] == o && joins(&self.constants[o])) {
                into[c] = first;
                let baked = own.baked;
                self.constants[first].made.extend(own.made);
                self.constants[first].baked |= baked;
            }
        }
        for op in &mut self.ops {
            for input in &mut op.inputs {
                if let In::Const(c) = input {
                    *c = into[*c];
                }
            }
        }
        if nodes {
            self.merge_nodes();
        }
        // What is left is what some node reads.
        let read: Vec<bool> = (0..self.constants.len())
            .map(|c| self.ops.iter().any(|o| o.inputs.contains(&In::Const(c))))
            .collect();
        let mut at = vec![0; read.len()];
        let mut kept = Vec::new();
        for (c, constant) in self.constants.drain(..).enumerate() {
            at[c] = kept.len();
            if read[c] {
                kept.push(constant);
            }
        }
        self.constants = kept;
        for op in &mut self.ops {
            for input in &mut op.inputs {
                if let In::Const(c) = input {
                    *c = at[*c];
                }
            }
        }
    }

    fn merge_nodes(&mut self) {
        let mut renamed: HashMap<String, String> = HashMap::new();
        let mut kept: Vec<Op> = Vec::new();
        for mut op in self.ops.drain(..) {
            for input in &mut op.inputs {
                if let In::Value(v) = input
                    && let Some(n) = renamed.get(v)
                {
                    *v = n.clone();
                }
            }
            let twin = kept.iter().find(|o| {
                o.kind == op.kind
                    && o.inputs == op.inputs
                    && o.alpha == op.alpha
                    && o.turn_b == op.turn_b
            });
            match twin {
                Some(twin) => {
                    renamed.insert(op.output.clone(), twin.output.clone());
                }
                None => kept.push(op),
            }
        }
        if let Some(n) = renamed.get(&self.flow) {
            self.flow = n.clone();
        }
        self.ops = kept;
    }

    fn grow(&mut self) {
        self.layers();
        if self.base.is_empty() || self.ops.is_empty() {
            self.linear("blocks.9.m");
        }
    }

    /// The same model with every tensor moved as `trtmut probe --print` moves it; tied ones together.
    fn move_all(&mut self, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x9e0b_e5ed);
        for t in self.base.values_mut().filter(|t| t.dtype.is_float()) {
            let v: Vec<f32> = numbers(t)
                .into_iter()
                .map(|x| {
                    let by = (0.05 + 0.4 * rng.random_range(0.0..1.0f32)) * (x.abs() + 0.2);
                    if x < 0.0 { x - by } else { x + by }
                })
                .collect();
            *t = of_f32(&t.shape, &v);
        }
        for (a, b) in self.tied.clone() {
            let value = self.base[&a].clone();
            self.base.insert(b, value);
        }
        for c in &mut self.constants {
            if let Some(value) = c.made[0].value(&self.base, c.value.dtype, &c.value.shape) {
                c.value = value;
            }
        }
        let slopes = self
            .attributes
            .iter()
            .map(|name| numbers(&self.base[name])[0]);
        for (op, slope) in (self.ops.iter_mut().filter(|o| o.alpha.is_some())).zip(slopes) {
            op.alpha = Some(slope);
        }
    }

    fn model(mut self) -> Exported {
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for op in &self.ops {
            for arg in &op.call.1 {
                let all = users.entry(arg.clone()).or_default();
                if !all.contains(&op.call.0) {
                    all.push(op.call.0.clone());
                }
            }
        }
        self.merge();
        let record = self.exporter == Exporter::Dynamo;
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: key.into(),
            value,
            ..StringStringEntryProto::default()
        };
        let node = |op: &Op| NodeProto {
            op_type: op.kind.into(),
            name: op.name.clone(),
            input: op
                .inputs
                .iter()
                .map(|i| match i {
                    In::Value(v) => v.clone(),
                    In::Const(c) => self.constants[*c].name.clone(),
                })
                .collect(),
            output: vec![op.output.clone()],
            attribute: op
                .alpha
                .map(|f| AttributeProto {
                    name: "alpha".into(),
                    type_: AttributeType::FLOAT.into(),
                    f,
                    ..AttributeProto::default()
                })
                .into_iter()
                .chain(op.turn_b.then(|| AttributeProto {
                    name: "transB".into(),
                    type_: AttributeType::INT.into(),
                    i: 1,
                    ..AttributeProto::default()
                }))
                .collect(),
            metadata_props: if record {
                let args: Vec<String> = op.call.1.iter().map(|a| format!("%{a}")).collect();
                let n = users.get(&op.call.0).map_or(1, |u| u.len().max(1));
                let text = format!(
                    "%{} : [num_users={n}] = call_function[target=torch.ops.aten.{}.default](args = ({}), kwargs = {{}})",
                    op.call.0,
                    op.kind.to_lowercase(),
                    args.join(", ")
                );
                vec![entry("pkg.torch.onnx.fx_node", text)]
            } else {
                Vec::new()
            },
            ..NodeProto::default()
        };
        let proto_of = |c: &Constant| TensorProto {
            name: c.name.clone(),
            data_type: match c.value.dtype {
                Dtype::F32 => 1,
                Dtype::F16 => 10,
                Dtype::Bf16 => 16,
                Dtype::I8 => 3,
                _ => 7,
            },
            dims: c.value.shape.iter().map(|&d| d as i64).collect(),
            raw_data: c.value.data.clone(),
            ..TensorProto::default()
        };
        let mut nodes: Vec<NodeProto> = (self.constants.iter().filter(|c| c.inline))
            .map(|c| NodeProto {
                op_type: "Constant".into(),
                name: c.name.replace("_output_0", ""),
                output: vec![c.name.clone()],
                attribute: vec![AttributeProto {
                    name: "value".into(),
                    type_: AttributeType::TENSOR.into(),
                    t: MessageField::some(proto_of(c)),
                    ..AttributeProto::default()
                }],
                ..NodeProto::default()
            })
            .collect();
        nodes.extend(self.ops.iter().map(node));
        let folded = self
            .constants
            .iter()
            .filter(|c| record && !c.folded_from.is_empty())
            .map(|c| {
                let names: Vec<String> = c.folded_from.iter().map(|n| format!("'{n}'")).collect();
                ValueInfoProto {
                    metadata_props: vec![entry(
                        "pkg.onnxscript.optimizer.folded_from",
                        format!("[{}]", names.join(", ")),
                    )],
                    ..declared(&c.name, 1)
                }
            });
        let proto = ModelProto {
            ir_version: 10,
            producer_name: "pytorch".into(),
            opset_import: vec![OperatorSetIdProto {
                version: 18,
                ..OperatorSetIdProto::default()
            }],
            graph: MessageField::some(GraphProto {
                name: "g".into(),
                value_info: folded.collect(),
                node: nodes,
                initializer: self
                    .constants
                    .iter()
                    .filter(|c| !c.inline)
                    .map(proto_of)
                    .collect(),
                input: vec![declared("x", 1), declared("ids", 7)],
                output: vec![declared(&self.flow, 1)],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        std::fs::write(&path, proto.write_to_bytes().unwrap()).unwrap();
        Exported {
            model: Model::open(&path).unwrap(),
            base: self.base,
            constants: self.constants,
            attributes: self.attributes,
            tied: self.tied,
            exporter: self.exporter,
        }
    }
}

fn declared(name: &str, elem_type: i32) -> ValueInfoProto {
    ValueInfoProto {
        name: name.into(),
        type_: MessageField::some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type,
                shape: MessageField::some(TensorShapeProto::default()),
                ..type_proto::Tensor::default()
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

pub fn exported(seed: u64) -> Exported {
    grown(seed).model()
}

/// A model, and the same one exported again with every tensor moved.
pub fn exported_twice(seed: u64) -> (Exported, Exported) {
    let first = grown(seed);
    let mut second = first.clone();
    second.move_all(seed);
    (first.model(), second.model())
}

fn grown(seed: u64) -> Gen {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let exporter = [
        Exporter::TorchScript,
        Exporter::Simplified,
        Exporter::Dynamo,
        Exporter::Bare,
    ][rng.random_range(0..4)];
    let wrapper = if rng.random_bool(0.5) { "m." } else { "" };
    let dtype = [
        Dtype::F32,
        Dtype::F32,
        Dtype::F32,
        Dtype::F32,
        Dtype::F16,
        Dtype::Bf16,
    ][rng.random_range(0..6)];
    let mut made = Gen {
        rng,
        exporter,
        wrapper,
        dtype,
        base: BTreeMap::new(),
        constants: Vec::new(),
        ops: Vec::new(),
        attributes: Vec::new(),
        tied: Vec::new(),
        flow: "x".into(),
        serial: 0,
        later: seed >= LATER,
        parted: seed >= PARTED,
    };
    made.grow();
    made
}
