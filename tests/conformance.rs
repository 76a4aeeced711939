//! Real models on every CPU backend: each export of each fixture, at three shapes, against the outputs that torch gave.

mod support;

use libtest_mimic::{Arguments, Failed, Trial};
use safetensors::SafeTensors;
use std::fs;
use std::path::{Path, PathBuf};
use support::{Compiled, root};
use trtmut::engine::cpu::Cpu;
use trtmut::engine::{Backend, RunOptions};
use trtmut::onnx::Model;
use trtmut::tensor::{Dtype, NamedTensors, Tensor, to_f32};

/// Largest relative L2 distance from torch's outputs.
const LIMIT: f64 = 1e-4;

fn main() {
    let arguments = Arguments::from_args();
    let runtime = support::onnx_runtime();
    let mut trials = Vec::new();
    for (model, name) in models() {
        for io in 0..3 {
            let data = model.with_file_name(format!("io{io}.safetensors"));
            let (m, d) = (model.clone(), data.clone());
            trials.push(Trial::test(format!("cpu/{name}/io{io}"), move || {
                compare(&Cpu, &m, &d)
            }));
            let (m, r) = (model.clone(), runtime.clone());
            let label = match &runtime {
                Ok(_) => format!("onnxruntime/{name}/io{io}"),
                Err(why) => format!("onnxruntime/{name}/io{io} ({why})"),
            };
            trials.push(
                Trial::test(label, move || compare(&r?, &m, &data))
                    .with_ignored_flag(runtime.is_err()),
            );
        }
    }
    assert!(trials.len() >= 60, "the fixtures were not found");
    libtest_mimic::run(&arguments, trials).exit();
}

/// Every `fixtures/<name>/model.<exporter>.onnx` with its name.
fn models() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in fs::read_dir(root().join("fixtures")).expect("the fixtures can be listed") {
        let folder = folder.expect("the fixtures can be listed").path();
        for exporter in ["ts", "dynamo"] {
            let model = folder.join(format!("model.{exporter}.onnx"));
            if model.is_file() {
                let name = folder.file_name().unwrap_or_default().to_string_lossy();
                found.push((model.clone(), format!("{name}/{exporter}")));
            }
        }
    }
    found.sort();
    found
}

fn with_prefix(file: &SafeTensors<'_>, prefix: &str) -> NamedTensors {
    let mut found: NamedTensors = file
        .tensors()
        .into_iter()
        .filter_map(|(name, view)| {
            let name = name.strip_prefix(prefix)?.to_owned();
            let dtype = Dtype::from_safetensors(&view.dtype().to_string())?;
            let tensor = Tensor {
                dtype,
                shape: view.shape().to_vec(),
                data: view.data().to_vec(),
            };
            Some((name, tensor))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn compare(backend: &dyn Backend, model: &Path, data: &Path) -> Result<(), Failed> {
    let bytes = fs::read(data)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let mut inputs = with_prefix(&file, "in.");
    let expected = with_prefix(&file, "base.");
    let model = Model::open(model)?;
    // An export may have folded an input away that another keeps.
    inputs.retain(|(name, _)| model.inputs().iter().any(|d| d.name == *name));
    let compiled = Compiled::build(backend, &model)?;
    let mut engine = compiled.open(backend)?;
    engine.prepare(&RunOptions { threads: Some(1) })?;
    let outputs = engine.run(&inputs)?;
    if outputs.len() != expected.len() {
        return Err(format!("{} outputs, not {}", outputs.len(), expected.len()).into());
    }
    for (name, got) in &outputs {
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
            println!("{} {name} {distance:.3e}", data.display());
        }
        // Written so that NaN fails.
        if !(distance <= LIMIT) {
            return Err(format!("`{name}` is {distance:.3e} away from torch's").into());
        }
    }
    Ok(())
}

fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    let (mut apart, mut size) = (0.0f64, 0.0f64);
    for (&g, &w) in got.iter().zip(want) {
        apart += (f64::from(g) - f64::from(w)).powi(2);
        size += f64::from(w).powi(2);
    }
    (apart / size.max(f64::MIN_POSITIVE)).sqrt()
}
