//! Real models on every CPU backend: each export of each fixture, at three shapes, against the outputs that torch gave,
//! before and after a refit.

// What SHOW_CASES and SHOW_DISTANCES ask for.
#![allow(clippy::print_stdout)]

use crate::Trial;
use crate::support::Compiled;
use crate::support::fixtures::{self, inputs, relative_l2, with_prefix};
use libtest_mimic::Failed;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::type_proto::{self, Value};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TypeProto, ValueInfoProto,
};
use safetensors::SafeTensors;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use trtmut::engine::cpu::{Cpu, OnnxRuntime};
use trtmut::engine::{Backend, Error, Feed, RunOptions, Slot};
use trtmut::onnx::Model;
use trtmut::tensor::{Dtype, NamedTensors, Tensor, to_f32};
use trtmut::watch::Silent;

/// Largest relative L2 distance from torch's outputs.
const LIMIT: f64 = 1e-4;

pub(crate) fn trials() -> Vec<Trial> {
    let runtime = crate::support::onnx_runtime();
    let mut trials = Vec::new();
    for fixture in fixtures::all() {
        let (model, name) = (fixture.model, fixture.label);
        for io in 0..3 {
            let data = model.with_file_name(format!("io{io}.safetensors"));
            add(&mut trials, &runtime, &format!("{name}/io{io}"), {
                let model = model.clone();
                move |backend| compare(backend, &model, &data)
            });
        }
        add(
            &mut trials,
            &runtime,
            &format!("{name}/refit"),
            move |backend| refit(backend, &model),
        );
    }
    add(
        &mut trials,
        &runtime,
        "a weight in a Constant node",
        constant_node,
    );
    add(&mut trials, &runtime, "every element type", element_types);
    assert!(trials.len() >= 80, "the fixtures were not found");
    trials
}

/// One trial per backend; those of a library that is not here are ignored, with the reason in the name.
fn add(
    trials: &mut Vec<Trial>,
    runtime: &Result<OnnxRuntime, String>,
    name: &str,
    test: impl Fn(&dyn Backend) -> Result<(), Failed> + Send + Clone + 'static,
) {
    let on_cpu = test.clone();
    trials.push(Trial::test(format!("cpu/{name}"), move || on_cpu(&Cpu)));
    let (label, ignored) = match runtime {
        Ok(_) => (format!("onnxruntime/{name}"), false),
        Err(why) => (format!("onnxruntime/{name} ({why})"), true),
    };
    let runtime = runtime.clone();
    trials.push(Trial::test(label, move || test(&runtime?)).with_ignored_flag(ignored));
}

fn compare(backend: &dyn Backend, model: &Path, data: &Path) -> Result<(), Failed> {
    let bytes = fs::read(data)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let model = Model::open(model)?;
    let compiled = Compiled::build(backend, &model)?;
    let mut engine = compiled.open(backend)?;
    engine.prepare(&RunOptions {
        threads: Some(1),
        ..RunOptions::default()
    })?;
    let outputs = engine.run(&inputs(&model, &file))?;
    near(backend, data, &outputs, &with_prefix(&file, "base."))
}

fn near(
    backend: &dyn Backend,
    data: &Path,
    outputs: &NamedTensors,
    expected: &NamedTensors,
) -> Result<(), Failed> {
    if outputs.len() != expected.len() {
        return Err(format!("{} outputs, not {}", outputs.len(), expected.len()).into());
    }
    for (name, got) in outputs {
        let want = &expected
            .iter()
            .find(|(n, _)| n == name)
            .ok_or_else(|| format!("torch has no output `{name}`"))?
            .1;
        if (&got.dtype, &got.shape) != (&want.dtype, &want.shape) {
            return Err(format!(
                "`{name}` is {} {:?}, not {} {:?}",
                got.dtype, got.shape, want.dtype, want.shape
            )
            .into());
        }
        let distance = relative_l2(
            &to_f32(got.dtype, &got.data)?,
            &to_f32(want.dtype, &want.data)?,
        );
        if std::env::var_os("SHOW_DISTANCES").is_some() {
            let library = backend.identity().backend;
            println!("{distance:.3e} {library} {} {name}", data.display());
        }
        // Not `distance > LIMIT`, so that NaN fails.
        if distance.is_nan() || distance > LIMIT {
            return Err(format!("`{name}` is {distance:.3e} away from torch's").into());
        }
    }
    Ok(())
}

/// The bytes that the fused model's own export holds, by ONNX name.
struct Golden(BTreeMap<String, Vec<u8>>);

impl Feed for Golden {
    fn bytes(&self, slot: &Slot) -> Result<Option<Cow<'_, [u8]>>, Error> {
        Ok(self.0.get(&slot.name).map(|b| Cow::Borrowed(b.as_slice())))
    }
}

/// Refitted with the golden bytes, a plan gives the fused model's outputs, in memory and written out; refitted with nothing, its
/// own again, to the bit.
fn refit(backend: &dyn Backend, path: &Path) -> Result<(), Failed> {
    let model = Model::open(path)?;
    let exporter = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .replace("model.", "");
    let golden = fs::read(path.with_file_name(format!("refit.{exporter}.safetensors")))?;
    let golden: BTreeMap<String, Vec<u8>> = SafeTensors::deserialize(&golden)?
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.data().to_vec()))
        .collect();
    let compiled = Compiled::build(backend, &model)?;
    let mut engine = compiled.open(backend)?;
    let known: Vec<String> = engine.slots()?.into_iter().map(|s| s.name).collect();
    if let Some(stray) = golden.keys().find(|name| !known.contains(name)) {
        return Err(format!("`{stray}` is no slot").into());
    }
    let first = fs::read(path.with_file_name("io0.safetensors"))?;
    let first = inputs(&model, &SafeTensors::deserialize(&first)?);
    let before = engine.run(&first)?;

    engine.refit(Arc::new(Golden(golden)), &Silent)?;
    let written = tempfile::NamedTempFile::new()?;
    engine.serialize(&mut written.as_file())?;
    let mut again = backend.open(written.path())?;
    for io in 0..3 {
        let data = path.with_file_name(format!("io{io}.safetensors"));
        let bytes = fs::read(&data)?;
        let file = SafeTensors::deserialize(&bytes)?;
        let outputs = engine.run(&inputs(&model, &file))?;
        near(backend, &data, &outputs, &with_prefix(&file, "fused."))?;
        if again.run(&inputs(&model, &file))? != outputs {
            return Err("the written plan gives other outputs".into());
        }
    }

    engine.refit(Arc::new(Golden(BTreeMap::new())), &Silent)?;
    if engine.run(&first)? != before {
        return Err("refitted back, it gives other outputs than before".into());
    }
    let mut plain = Vec::new();
    engine.serialize(&mut plain)?;
    if plain != fs::read(compiled.path())? {
        return Err("refitted back, it is written differently".into());
    }
    Ok(())
}

/// A model of one input `x` and one output `y`, both of `dtype`.
fn small(dtype: Dtype, nodes: Vec<NodeProto>) -> Result<Model, Failed> {
    let value = |name: &str| ValueInfoProto {
        name: name.into(),
        type_: Some(TypeProto {
            value: Some(Value::TensorType(type_proto::Tensor {
                elem_type: dtype.onnx(),
                ..type_proto::Tensor::new()
            })),
            ..TypeProto::new()
        })
        .into(),
        ..ValueInfoProto::new()
    };
    let model = ModelProto {
        ir_version: 9,
        opset_import: vec![OperatorSetIdProto {
            version: 19,
            ..OperatorSetIdProto::new()
        }],
        graph: Some(GraphProto {
            name: "g".into(),
            node: nodes,
            input: vec![value("x")],
            output: vec![value("y")],
            ..GraphProto::new()
        })
        .into(),
        ..ModelProto::new()
    };
    let file = tempfile::Builder::new().suffix(".onnx").tempfile()?;
    fs::write(file.path(), model.write_to_bytes()?)?;
    Ok(Model::open(file.path())?)
}

fn operation(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        ..NodeProto::new()
    }
}

/// A weight need not be an initializer to be refitted.
fn constant_node(backend: &dyn Backend) -> Result<(), Failed> {
    let floats = |value: f32| value.to_le_bytes().repeat(1000);
    let mut constant = operation("Constant", &[], "w");
    constant.attribute.push(AttributeProto {
        name: "value".into(),
        type_: AttributeType::TENSOR.into(),
        t: Some(TensorProto {
            dims: vec![1000],
            data_type: Dtype::F32.onnx(),
            raw_data: floats(2.0),
            ..TensorProto::new()
        })
        .into(),
        ..AttributeProto::new()
    });
    let model = small(
        Dtype::F32,
        vec![constant, operation("Mul", &["x", "w"], "y")],
    )?;
    let compiled = Compiled::build(backend, &model)?;
    let mut engine = compiled.open(backend)?;
    let tensor = |value: f32| Tensor {
        dtype: Dtype::F32,
        shape: vec![1000],
        data: floats(value),
    };
    let x = vec![("x".to_string(), tensor(3.0))];
    for (weight, want) in [(None, 6.0), (Some(5.0), 15.0)] {
        if let Some(weight) = weight {
            let new = BTreeMap::from([("w".to_string(), floats(weight))]);
            engine.refit(Arc::new(Golden(new)), &Silent)?;
        }
        if engine.run(&x)?[0].1 != tensor(want) {
            return Err(format!("{want} expected").into());
        }
    }
    Ok(())
}

/// Bytes go in and come out as they are, in every type that the backend takes.
fn element_types(backend: &dyn Backend) -> Result<(), Failed> {
    let mut taken = Vec::new();
    for &dtype in Dtype::ALL {
        let model = small(dtype, vec![operation("Identity", &["x"], "y")])?;
        let Ok(compiled) = Compiled::build(backend, &model) else {
            continue;
        };
        // 0 and 2 in the float types, numbers in the others, and both truth values.
        let one = if dtype == Dtype::Bool { 1 } else { 0x40 };
        let x = Tensor {
            dtype,
            shape: vec![2, 2],
            data: (0..4u8)
                .flat_map(|i| {
                    let mut element = vec![0; dtype.bits() / 8];
                    *element.last_mut().expect("4-bit types are not taken") = i % 2 * one;
                    element
                })
                .collect(),
        };
        let mut engine = compiled.open(backend)?;
        let wide = matches!(dtype, Dtype::I64) && backend.identity().backend == "cpu";
        match engine.run(&vec![("x".to_string(), x.clone())]) {
            Ok(outputs) if outputs[0].1 == x && !wide => taken.push(dtype),
            // 2^62 is more than the embedded engine holds.
            Err(Error::Input { .. }) if wide => taken.push(dtype),
            other => return Err(format!("{dtype}: {other:?}").into()),
        }
    }
    let least = if backend.identity().backend == "cpu" {
        9
    } else {
        13
    };
    if taken.len() < least {
        return Err(format!("only {taken:?}").into());
    }
    Ok(())
}
