//! Generated models with planted sources, as both exporters would write them, with everything that misleads: zeros, ones,
//! equal layers, ties, symmetric and square matrices, folds under the parameter's own name, checkpoints with tensors
//! missing, added, turned, rescaled, narrowed. No weight may get bytes from the wrong tensor, and no change may be lost
//! without a word.

use super::fixtures_test::File;
use super::*;
use crate::tensor::{Dtype, Tensor, cast, from_f32, to_f32, transpose};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto,
};
use proptest::prelude::*;
use protobuf::MessageField;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::collections::BTreeMap;

/// How the exporter made a weight.
#[derive(Debug, Clone)]
enum Made {
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

struct Planted {
    model: Model,
    base: BTreeMap<String, Tensor>,
    made: BTreeMap<String, Made>,
    held: BTreeMap<String, Tensor>,
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn numbers(t: &Tensor) -> Vec<f32> {
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

fn planted(seed: u64) -> Planted {
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
fn fill(made: &Made, from: &BTreeMap<String, Tensor>) -> Option<Tensor> {
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

/// Another checkpoint: some tensors changed in some way, and sometimes the file itself is odd.
fn another(planted: &Planted, rng: &mut ChaCha8Rng) -> BTreeMap<String, Tensor> {
    let mut new = planted.base.clone();
    let intensity = [0.0, 0.2, 0.6, 1.0][rng.random_range(0..4)];
    let replaced = rng.random_bool(0.3);
    let names: Vec<String> = new.keys().cloned().collect();
    for name in &names {
        if !rng.random_bool(intensity) {
            continue;
        }
        let t = &new[name];
        let mut v = numbers(t);
        let columns = *t.shape.last().unwrap_or(&1);
        let rows = v.len() / columns.max(1);
        let mut normal = || -> f32 { StandardNormal.sample(rng) };
        let a: Vec<f32> = (0..rows.max(1)).map(|_| normal()).collect();
        let b: Vec<f32> = (0..columns).map(|_| normal()).collect();
        let full: Vec<f32> = (0..v.len()).map(|_| normal()).collect();
        match rng.random_range(0..if replaced { 7 } else { 4 }) {
            0 | 1 => v.iter_mut().enumerate().for_each(|(i, x)| {
                *x += 0.1 * a[i / columns] * b[i % columns];
            }),
            2 => v.iter_mut().enumerate().for_each(|(i, x)| {
                *x += 2.0 * a[i / columns] * b[i % columns];
            }),
            3 => v.iter_mut().zip(&full).for_each(|(x, n)| *x += 0.05 * n),
            4 => v.clone_from(&full),
            5 => v.iter_mut().for_each(|x| *x *= 1.25),
            _ => v.iter_mut().for_each(|x| *x = 0.0),
        }
        new.insert(name.clone(), tensor(&t.shape.clone(), &v));
    }
    odd(&mut new, rng);
    new
}

/// Makes a checkpoint odd: a tensor missing, added, turned, all narrowed; or leaves it.
fn odd(checkpoint: &mut BTreeMap<String, Tensor>, rng: &mut ChaCha8Rng) {
    let names: Vec<String> = checkpoint.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let one = names[rng.random_range(0..names.len())].clone();
    match rng.random_range(0..10) {
        0 => {
            checkpoint.remove(&one);
        }
        1 => {
            let copy = checkpoint[&one].clone();
            checkpoint.insert("extra.weight".into(), copy);
        }
        2 => {
            let square: Vec<&String> = (names.iter())
                .filter(|n| checkpoint[*n].shape == [8, 8])
                .collect();
            if let Some(&name) = square.first() {
                let data = transpose(checkpoint[name].view()).unwrap();
                checkpoint.get_mut(name).unwrap().data = data;
            }
        }
        3 => {
            for t in checkpoint.values_mut() {
                t.data = cast(t.dtype, Dtype::F16, &t.data).unwrap();
                t.dtype = Dtype::F16;
            }
        }
        4 => {
            let renamed: BTreeMap<String, Tensor> = (checkpoint.iter())
                .map(|(n, t)| (format!("unet.{n}"), t.clone()))
                .collect();
            *checkpoint = renamed;
        }
        _ => {}
    }
}

fn plain(checkpoint: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    (checkpoint.iter())
        .map(|(n, t)| (n.strip_prefix("unet.").unwrap_or(n).to_owned(), t.clone()))
        .collect()
}

/// What one case came to.
#[derive(Default)]
struct Tally {
    changed: usize,
    refused: usize,
    complete: usize,
}

fn check(seed: u64, tally: &mut Tally) -> Result<(), TestCaseError> {
    let planted = planted(seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let new = another(&planted, &mut rng);
    let mut base = planted.base.clone();
    if rng.random_bool(0.3) {
        odd(&mut base, &mut rng);
    }
    let base = File(base);
    let base = rng.random_bool(0.5).then_some(&base as &dyn Checkpoint);
    let inferred = infer(&planted.model, base).unwrap();
    let held = ModelValues::of(&planted.model);
    let file = File(new.clone());
    let resolved = corroborate(&inferred.mapping, &held, &file).unwrap();
    let assessment = assess(&resolved.mapping, &held, &file, false).unwrap();
    let flagged = assessment.refused().next().is_some()
        || !resolved.accounts.is_complete()
        || (base.is_some() && !inferred.accounts.is_complete());
    tally.complete += usize::from(!flagged);
    let sources = plain(&new);
    for (r, row) in resolved.mapping.rows.iter().enumerate() {
        let own = &planted.held[&row.name];
        let made = &planted.made[&row.name];
        let truth = fill(made, &sources).map_or_else(|| own.data.clone(), |t| t.data);
        match &assessment.changes[r] {
            Change::Changed { .. } => {
                tally.changed += 1;
                let bytes = bytes_of(row, &file).unwrap();
                prop_assert!(
                    *bytes == truth,
                    "seed {seed}: `{}` ({made:?}) got wrong bytes: {row:?}",
                    row.name
                );
            }
            Change::Refused { .. } => tally.refused += 1,
            kept => {
                // A narrower checkpoint may say the same at its own precision.
                let narrow = |d: &[u8]| cast(Dtype::F32, Dtype::F16, d).unwrap();
                let halves = sources.values().any(|t| t.dtype == Dtype::F16);
                let same = own.data == truth
                    || (halves && narrow(&own.data) == narrow(&truth))
                    || (halves && matches!(made, Made::Folded { .. }));
                prop_assert!(
                    same || flagged,
                    "seed {seed}: the change of `{}` ({made:?}) was lost ({kept:?}): {row:?}",
                    row.name
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_weight_gets_bytes_of_another_tensor(seed in any::<u64>()) {
        check(seed, &mut Tally::default())?;
    }
}

#[test]
fn most_generated_refits_go_through() {
    let mut tally = Tally::default();
    let failures: Vec<String> = (0..300)
        .filter_map(|seed| check(seed, &mut tally).err())
        .map(|e| e.to_string())
        .collect();
    assert!(
        failures.is_empty(),
        "{}: {:#?}",
        failures.len(),
        &failures[..failures.len().min(8)]
    );
    // Refusing everything would be safe and useless.
    assert!(
        tally.complete > 90 && tally.changed > 200,
        "{} {} {}",
        tally.complete,
        tally.changed,
        tally.refused
    );
}

#[test]
fn floats_survive_the_manifest() {
    let factor = Factor::new(0.1);
    let text = serde_json::to_string(&factor).unwrap();
    assert_eq!(serde_json::from_str::<Factor>(&text).unwrap(), factor);
    assert_eq!(
        from_f32(Dtype::F32, &[factor.get()]).unwrap(),
        0.1f32.to_le_bytes()
    );
}
