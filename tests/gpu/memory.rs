//! Memory stays flat over many builds, refits and runs.

use crate::case::{Bytes, Case, distance, env, io_tensors, known, search, show, tensorrt, timed};
use crate::{EXACT, Table, record};
use libtest_mimic::Failed;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, tensor_shape_proto, type_proto,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use trtmut::engine::tensorrt::api::{Builder, Core};
use trtmut::engine::tensorrt::{Product, Settings, TensorRtEngine, loader};
use trtmut::engine::{Backend, BuildJob, Engine, Feed};
use trtmut::onnx::Model;
use trtmut::shapes::{AxisRange, Profile, ProfileInput};
use trtmut::tensor::{Dtype, Tensor, to_f32};
use trtmut::watch::Silent;

pub fn cycles() -> usize {
    std::env::var("TRTMUT_TEST_CYCLES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(200)
}

/// After so long the build cycles may stop early.
fn budget() -> Option<Duration> {
    let text = std::env::var("TRTMUT_TEST_SECONDS").ok()?;
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

/// Cycles that flat memory can be told from at all.
const LEAST_CYCLES: usize = 50;
/// Build cycles between two lines on stderr, so that a run that is cut off has told how far it came.
const PROGRESS: usize = 10;

/// Resident memory of this process in bytes (`/proc/self/statm`, second field, in pages of 4 KiB).
pub fn resident() -> Result<i64, Failed> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    Ok(text
        .split_whitespace()
        .nth(1)
        .ok_or("statm has two fields")?
        .parse::<i64>()?
        * 4096)
}

/// Fails when memory after the last cycle is above that after a tenth of them by more than 16 MiB.
pub fn flat(table: &Table, what: &str, seen: &[(i64, i64)]) -> Result<(), Failed> {
    let (early, late) = (seen[seen.len() / 10], seen[seen.len() - 1]);
    let grown = (late.0 - early.0, late.1 - early.1);
    record(table, what, "cycles", seen.len());
    record(
        table,
        what,
        "host memory grown",
        format_args!(
            "{:.1} MiB of {:.0}",
            grown.0 as f64 / 1_048_576.0,
            late.0 as f64 / 1_048_576.0
        ),
    );
    record(
        table,
        what,
        "GPU memory grown",
        format_args!(
            "{:.1} MiB of {:.0}",
            grown.1 as f64 / 1_048_576.0,
            late.1 as f64 / 1_048_576.0
        ),
    );
    if grown.0.max(grown.1) > 16 << 20 {
        Err(format!("{what}: memory grows: {grown:?}").into())
    } else {
        Ok(())
    }
}

pub fn used(engine: &TensorRtEngine) -> Result<i64, Failed> {
    let (free, total) = engine.gpu_memory()?;
    Ok(total as i64 - free as i64)
}

/// Open, refit, run, serialize, drop.
pub fn refit_cycles(table: &Table) -> Result<(), Failed> {
    let case = Case::new("dit")?;
    let mut backend = tensorrt()?;
    case.build(&mut backend, &[("opt-level", "0")])?;
    let feeds = [case.feed(true)?, case.feed(false)?];
    let (inputs, fused) = io_tensors("dit", 0, "fused")?;
    let (_, base) = io_tensors("dit", 0, "base")?;
    let mut seen = Vec::new();
    for cycle in 0..cycles() {
        let mut engine = backend.open_plan(&case.plan())?;
        engine.refit(Arc::clone(&feeds[cycle % 2]), &Silent)?;
        let outputs = engine.run(&inputs)?;
        let away = distance(&outputs, if cycle % 2 == 0 { &fused } else { &base })?;
        if away.is_nan() || away > EXACT {
            return Err(format!("cycle {cycle}: {away:e}").into());
        }
        engine.serialize(&mut std::io::sink())?;
        seen.push((resident()?, used(&engine)?));
    }
    flat(table, "refit cycles", &seen)
}

/// Build, open, refit, run, drop: on one small matrix product, so that the builds are short. All builds share a timing cache, as they
/// do through trtmut's own cache, and a builder that is never used is kept beside them: the library need not set its kernels up
/// for every one of them anew.
pub fn build_cycles(table: &Table) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("small.onnx");
    std::fs::write(&path, small_model().write_to_bytes()?)?;
    let model = Model::open(&path)?;
    let axis = |min, max| AxisRange {
        min,
        opt: max,
        max: Some(max),
    };
    let profile = Profile {
        inputs: vec![ProfileInput {
            name: "x".into(),
            dtype: Dtype::F32,
            axes: vec![axis(1, 8), axis(64, 64)],
        }],
        several: Vec::new(),
    };
    let options = BTreeMap::from([("opt-level".to_owned(), "0".to_owned())]);
    let mut backend = tensorrt()?.settings(Settings {
        timing_cache: Some(folder.path().join("timing")),
        ..Settings::default()
    });
    let library = loader::find(Product::TensorRt, &search(env("TRTMUT_TENSORRT")))?;
    let _idle = Builder::new(&Core::new(library))?;
    let plan = folder.path().join("p.plan");
    let input = Tensor {
        dtype: Dtype::F32,
        shape: vec![2, 64],
        data: 1f32.to_le_bytes().repeat(128),
    };
    let feed: Arc<dyn Feed> = Arc::new(Bytes(HashMap::from([(
        "w".to_owned(),
        0.5f32.to_le_bytes().repeat(64 * 64),
    )])));
    let mut seen = Vec::new();
    let (start, budget) = (Instant::now(), budget());
    let spent = || budget.is_some_and(|b| start.elapsed() >= b);
    let mut stretch = Instant::now();
    let mut steps = [Duration::ZERO; 3];
    for cycle in 0..cycles() {
        if spent() {
            break;
        }
        let mut out = std::fs::File::create(&plan)?;
        let job = BuildJob {
            model: &model,
            profile: &profile,
            options: &options,
            mark: None,
        };
        let (notes, build) = timed(|| backend.build(&job, &mut out, &Silent))?;
        backend.set_known(known(&model, &notes));
        let (mut engine, open) = timed(|| backend.open_plan(&plan))?;
        let (outputs, rest) = timed(|| {
            engine.refit(Arc::clone(&feed), &Silent)?;
            engine.run(&vec![("x".to_owned(), input.clone())])
        })?;
        for (sum, time) in steps.iter_mut().zip([build, open, rest]) {
            *sum += time;
        }
        let y = to_f32(Dtype::F32, &outputs[0].1.data)?;
        if y.len() != 128 || y.iter().any(|v| *v != 32.0) {
            return Err(format!("cycle {cycle}: {:?}", &y[..4]).into());
        }
        seen.push((resident()?, used(&engine)?));
        if seen.len().is_multiple_of(PROGRESS) {
            eprintln!(
                "build cycles: {} of {} in {}, the last {PROGRESS} in {} each, {} MiB resident, {} MiB of the GPU in use",
                seen.len(),
                cycles(),
                show(start.elapsed()),
                show(stretch.elapsed() / PROGRESS as u32),
                resident()? >> 20,
                used(&engine)? >> 20
            );
            stretch = Instant::now();
        }
    }
    record(
        table,
        "build cycles",
        if seen.len() < cycles() {
            "stopped early"
        } else {
            "time"
        },
        format_args!("{} cycles in {}", seen.len(), show(start.elapsed())),
    );
    let cycles = seen.len().max(1) as u32;
    let [build, open, rest] = steps.map(|sum| show(sum / cycles));
    record(
        table,
        "build cycles",
        "mean of one",
        format_args!("build {build}, open {open}, refit and run {rest}"),
    );
    if seen.len() < LEAST_CYCLES {
        return Err(format!(
            "{} cycles in {} are too few to tell; {LEAST_CYCLES} are needed",
            seen.len(),
            show(start.elapsed())
        )
        .into());
    }
    flat(table, "build cycles", &seen)
}

/// y = x · w, `w` 64×64 of ones.
pub fn small_model() -> ModelProto {
    let value = |name: &str, rows: Option<i64>| {
        let dim = |value: Option<i64>| tensor_shape_proto::Dimension {
            value: Some(match value {
                Some(n) => tensor_shape_proto::dimension::Value::DimValue(n),
                None => tensor_shape_proto::dimension::Value::DimParam("B".into()),
            }),
            ..Default::default()
        };
        let shape = TensorShapeProto {
            dim: vec![dim(rows), dim(Some(64))],
            ..Default::default()
        };
        let tensor = type_proto::Tensor {
            elem_type: 1,
            shape: Some(shape).into(),
            ..Default::default()
        };
        let kind = TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        };
        ValueInfoProto {
            name: name.into(),
            type_: Some(kind).into(),
            ..Default::default()
        }
    };
    let trans_b = AttributeProto {
        name: "transB".into(),
        i: 1,
        type_: attribute_proto::AttributeType::INT.into(),
        ..Default::default()
    };
    let node = NodeProto {
        op_type: "Gemm".into(),
        name: "product".into(),
        input: vec!["x".into(), "w".into()],
        output: vec!["y".into()],
        attribute: vec![trans_b],
        ..Default::default()
    };
    let w = TensorProto {
        name: "w".into(),
        data_type: 1,
        dims: vec![64, 64],
        raw_data: 1f32.to_le_bytes().repeat(64 * 64),
        ..Default::default()
    };
    let graph = GraphProto {
        name: "small".into(),
        node: vec![node],
        initializer: vec![w],
        input: vec![value("x", None)],
        output: vec![value("y", None)],
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
