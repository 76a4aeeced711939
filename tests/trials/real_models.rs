//! Real ONNX files out of public packages (`tests/models/models.tsv`, brought by `scripts/fetch-models.sh`): what the embedded engine
//! builds runs and equals onnxruntime, what it does not compute it refuses when it is built, and `auto` takes all of them.

// What SHOW_DISTANCES asks for.
#![allow(clippy::print_stdout)]

use crate::Trial;
use crate::support::fixtures::relative_l2;
use crate::support::{Compiled, deps, root};
use libtest_mimic::Failed;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use trtmut::engine::cpu::{Cpu, OnnxRuntime, auto};
use trtmut::engine::{Backend, Error, RunOptions};
use trtmut::onnx::Model;
use trtmut::tensor::{Dtype, Extent, NamedTensors, Tensor, from_f32, to_f32};

/// Largest relative L2 distance from onnxruntime's outputs.
const LIMIT: f64 = 1e-4;
/// Differences that say nothing, whatever the relative distance: onnxruntime's sigmoid never gives less than 1.5e-8, and a detector that
/// sees nothing gives nothing else.
const ATOL: f32 = 1e-6;

/// A line of the table.
#[derive(Debug, Clone)]
struct Row {
    name: String,
    path: PathBuf,
    /// Shapes as `2x3`, values as `=16000`.
    inputs: BTreeMap<String, String>,
    /// Whether the embedded engine computes it.
    on_cpu: bool,
}

pub(crate) fn trials() -> Vec<Trial> {
    let runtime = crate::support::onnx_runtime();
    let rows = rows();
    assert!(rows.len() >= 50, "the table was not read");
    assert!(
        rows.iter().filter(|r| r.on_cpu).count() >= 40,
        "the embedded engine must compute at least 40 of them"
    );
    rows.into_iter()
        .map(|row| {
            let here = row.path.is_file() && runtime.is_ok();
            let name = if here {
                row.name.clone()
            } else {
                format!("{} (scripts/fetch-models.sh brings it)", row.name)
            };
            let runtime = runtime.clone();
            Trial::test(name, move || check(&row, &runtime?)).with_ignored_flag(!here)
        })
        .collect()
}

fn rows() -> Vec<Row> {
    let table =
        fs::read_to_string(root().join("tests/models/models.tsv")).expect("the table is there");
    table
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let [package, version, file, inputs, backend] = columns[..] else {
                panic!("five columns: {line}");
            };
            let folder: String = format!("{package}-{version}")
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() || c == '.' {
                        c
                    } else {
                        '-'
                    }
                })
                .collect();
            Row {
                name: format!("{package}/{file}"),
                path: deps().join("models").join(folder).join(file),
                inputs: inputs
                    .split(' ')
                    .filter_map(|i| {
                        i.rsplit_once(":=").map_or_else(
                            || {
                                i.rsplit_once('=')
                                    .map(|(n, s)| (n.to_owned(), s.to_owned()))
                            },
                            |(n, v)| Some((n.to_owned(), format!("={v}"))),
                        )
                    })
                    .collect(),
                on_cpu: match backend {
                    "cpu" => true,
                    "onnxruntime" => false,
                    other => panic!("`{other}` is no backend"),
                },
            }
        })
        .collect()
}

fn check(row: &Row, runtime: &OnnxRuntime) -> Result<(), Failed> {
    let model = Model::open(&row.path)?;
    let inputs = inputs(row, &model)?;
    let (backend, refusals) = auto(&model, || Ok(runtime.clone()))?;
    if row.on_cpu != refusals.is_empty() {
        return Err(format!(
            "`auto` takes {}, because of {refusals:?}",
            backend.identity().backend
        )
        .into());
    }
    run(backend.as_ref(), &model, &inputs)?;
    match run(&Cpu, &model, &inputs) {
        Ok(outputs) if row.on_cpu => same(row, &outputs, &run(runtime, &model, &inputs)?),
        Ok(_) => Err("it is computed; the table says that it is refused".into()),
        Err(Error::Refused { .. }) if !row.on_cpu => Ok(()),
        Err(e) => Err(e.to_string().into()),
    }
}

fn run(backend: &dyn Backend, model: &Model, inputs: &NamedTensors) -> Result<NamedTensors, Error> {
    let mut engine = Compiled::build(backend, model)?.open(backend)?;
    engine.prepare(&RunOptions::default())?;
    engine.run(inputs)
}

fn inputs(row: &Row, model: &Model) -> Result<NamedTensors, Failed> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    model
        .inputs()
        .iter()
        .map(|decl| {
            let given = row.inputs.get(&decl.name).map(String::as_str);
            if let Some(value) = given.and_then(|g| g.strip_prefix('=')) {
                let value: f32 = value.parse()?;
                return Ok((decl.name.clone(), tensor(decl.dtype, vec![], &[value])?));
            }
            let flags = decl.dtype == Dtype::Bool || decl.name.contains("mask");
            let shape: Vec<usize> = match given {
                Some(shape) => shape.split('x').map(str::parse).collect::<Result<_, _>>()?,
                None => decl
                    .dims
                    .iter()
                    .flatten()
                    .map(|d| match d {
                        Extent::Fixed(n) => Ok(*n),
                        _ => Err(format!("nothing gives a shape for `{}`", decl.name)),
                    })
                    .collect::<Result<_, _>>()?,
            };
            let count = shape.iter().product();
            let values: Vec<f32> = (0..count)
                .map(|_| match decl.dtype {
                    _ if flags => f32::from(u8::from(rng.random::<bool>())),
                    d if d.is_float() => StandardNormal.sample(&mut rng),
                    // Indices, which every vocabulary has.
                    _ => rng.random_range(0..4u8).into(),
                })
                .collect();
            Ok((decl.name.clone(), tensor(decl.dtype, shape, &values)?))
        })
        .collect()
}

fn tensor(dtype: Dtype, shape: Vec<usize>, values: &[f32]) -> Result<Tensor, Failed> {
    let data = match dtype {
        d if d.is_float() => from_f32(d, values)?,
        Dtype::I64 => values
            .iter()
            .flat_map(|v| (*v as i64).to_le_bytes())
            .collect(),
        Dtype::I32 => values
            .iter()
            .flat_map(|v| (*v as i32).to_le_bytes())
            .collect(),
        Dtype::Bool => values.iter().map(|v| *v as u8).collect(),
        other => return Err(format!("`{other}` is not drawn").into()),
    };
    Ok(Tensor { dtype, shape, data })
}

fn same(row: &Row, got: &NamedTensors, want: &NamedTensors) -> Result<(), Failed> {
    for ((name, got), (_, want)) in got.iter().zip(want) {
        if (got.dtype, &got.shape) != (want.dtype, &want.shape) {
            return Err(format!(
                "`{name}` is {} {:?}, not {} {:?}",
                got.dtype, got.shape, want.dtype, want.shape
            )
            .into());
        }
        if !got.dtype.is_float() {
            if got.data != want.data {
                return Err(format!("`{name}` has other values").into());
            }
            continue;
        }
        let (got, want) = (
            to_f32(got.dtype, &got.data)?,
            to_f32(want.dtype, &want.data)?,
        );
        let distance = relative_l2(&got, &want);
        let apart = got
            .iter()
            .zip(&want)
            .map(|(g, w)| (g - w).abs())
            .fold(0.0, f32::max);
        if std::env::var_os("SHOW_DISTANCES").is_some() {
            println!("{} {name}: {distance:.1e}, at most {apart:.1e}", row.name);
        }
        // Neither holds of a NaN.
        if !(distance <= LIMIT || apart <= ATOL) || distance.is_nan() {
            return Err(format!("`{name}` is {distance:.1e} away, at most {apart:.1e}").into());
        }
    }
    Ok(())
}
