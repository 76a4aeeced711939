//! TensorRT on a real GPU, judged by torch's own outputs. Every trial is ignored unless asked for (`--ignored`), because it
//! needs an NVIDIA GPU; `scripts/gpu-test.sh` runs them, also on machines that have no Rust.
//!
//! | variable | meaning |
//! |---|---|
//! | `TRTMUT_TENSORRT` | folder of the TensorRT libraries |
//! | `TRTMUT_TEST_RTX`, `TRTMUT_TEST_LEAN` | folders of TensorRT-RTX and of the lean runtime, where those trials are to run |
//! | `TRTMUT_TEST_FIXTURES` | the fixtures; `fixtures` of the current folder without it |
//! | `TRTMUT_TEST_CYCLES` | cycles of the memory trials; 200 without it |
//! | `TRTMUT_TEST_SECONDS` | after so long `memory/build_cycles` stops early; it fails if fewer than 50 cycles have run |
//! | `TRTMUT_TEST_BACKEND` | what the `flow` trials build for, so that they can be tried without a GPU: `cpu`; `tensorrt` without it |

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table is what this program is for, and stderr tells how far it is"
)]

mod cached;
mod case;
mod cli;
mod errors;
mod flow;
mod memory;
mod truth;

use case::{Case, distance, env, io_tensors, known, search, show, tensorrt, timed, within};
use libtest_mimic::{Arguments, Failed, Trial};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use trtmut::engine::tensorrt::{Product, TensorRt, TensorRtEngine, gpu, header};
use trtmut::engine::{Backend, BuildNotes, Engine, Error, RunOptions};
use trtmut::tensor::NamedTensors;
use trtmut::watch::Silent;

const FIXTURES: &[&str] = &["dit", "clip_text", "vae_decoder", "sd_unet"];
/// Largest relative L2 distance from torch's float32 outputs.
const EXACT: f64 = 1e-4;
/// The same when fp16 kernels are allowed.
const HALF: f64 = 2e-2;
/// First argument of the process that opens a plan anew.
const CHILD: &str = "open-in-a-new-process";

type Run = Box<dyn FnOnce(&Table) -> Result<(), Failed> + Send>;
type Table = Arc<Mutex<Vec<[String; 3]>>>;

fn main() {
    gpu::load_kernels_lazily();
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|w| w == CHILD) {
        child(&words[2], &words[3], &words[4]);
        return;
    }
    let mut arguments = Arguments::from_args();
    // One GPU, and times are reported.
    arguments.test_threads = Some(1);
    let table = Table::default();
    let mut trials = Vec::new();
    let mut add = |name: String, run: Run| {
        let table = Arc::clone(&table);
        trials.push(
            Trial::test(format!("{name} (needs an NVIDIA GPU)"), move || run(&table))
                .with_ignored_flag(true),
        );
    };
    for &fixture in FIXTURES {
        add(
            format!("{fixture}/f32"),
            Box::new(move |t| conformance(fixture, &[], EXACT, t)),
        );
        add(
            format!("{fixture}/fp16"),
            Box::new(move |t| conformance(fixture, &[("precision", "fp16")], HALF, t)),
        );
        add(
            format!("{fixture}/latency"),
            Box::new(move |t| latency(fixture, t)),
        );
        add(
            format!("{fixture}/flow"),
            Box::new(move |t| flow::exact(fixture, t)),
        );
        add(
            format!("{fixture}/flow_fp16"),
            Box::new(move |t| flow::half(fixture, t)),
        );
    }
    add("dit/cache".into(), Box::new(cached::cached));
    add("dit/fp16_truth".into(), Box::new(truth::fp16));
    add("errors/runs_and_refits".into(), Box::new(errors::errors));
    add("memory/refit_cycles".into(), Box::new(memory::refit_cycles));
    add("memory/build_cycles".into(), Box::new(memory::build_cycles));
    add("dit/constants_too".into(), Box::new(errors::constants_too));
    add("rtx/refittable_build".into(), Box::new(rtx));
    add("lean/load".into(), Box::new(lean));
    // Last, because a library that does not check its input would take the process with it.
    add("errors/half_a_plan".into(), Box::new(errors::half_a_plan));
    let conclusion = libtest_mimic::run(&arguments, trials);
    print_table(&table.lock().expect("no panic"));
    conclusion.exit();
}

fn print_table(rows: &[[String; 3]]) {
    let width = |i: usize| rows.iter().map(|r| r[i].len()).max().unwrap_or(0);
    for [what, figure, value] in rows {
        println!("{what:<0$}  {figure:<1$}  {value}", width(0), width(1));
    }
}

/// A row of the table that is printed at the end; also told at once on stderr, in case the end is never reached.
fn record(table: &Table, what: &str, figure: &str, value: impl std::fmt::Display) {
    eprintln!("{what}: {figure}: {value}");
    table
        .lock()
        .expect("no panic")
        .push([what.into(), figure.into(), value.to_string()]);
}

/// Build, run, refit, run, back, and from a file in a new process.
fn conformance(
    name: &'static str,
    options: &[(&str, &str)],
    limit: f64,
    table: &Table,
) -> Result<(), Failed> {
    let what = &match options.first() {
        Some((_, value)) => format!("{name} {value}"),
        None => format!("{name} f32"),
    };
    let case = Case::new(name)?;
    let mut backend = tensorrt()?;
    record(table, what, "library", backend.identity().library);
    let (notes, build_time) = timed(|| case.build(&mut backend, options))?;
    record(table, what, "build", show(build_time));
    let refittable = notes.slots.iter().filter(|s| s.refittable).count();
    record(
        table,
        what,
        "slots",
        format_args!("{} listed, {refittable} refittable", notes.slots.len()),
    );
    let header = header::read(&case.plan())?;
    record(
        table,
        what,
        "plan",
        format_args!(
            "{} bytes, {} {}",
            header.size,
            header.product.title(),
            header.version
        ),
    );
    let (mut engine, open_time) = timed(|| backend.open_plan(&case.plan()))?;
    record(table, what, "open", show(open_time));
    // Slots of the open engine are those that the build told.
    if engine.slots()? != notes.slots {
        return Err("the engine lists other slots than the build did".into());
    }
    engine.prepare(&RunOptions::default())?;
    within(
        table,
        what,
        "base after build",
        case.distance(&mut engine, "base")?,
        limit,
    )?;
    let fused = case.feed(true)?;
    let (_, refit_time) = timed(|| engine.refit(fused, &Silent))?;
    record(table, what, "refit", show(refit_time));
    within(
        table,
        what,
        "fused after refit",
        case.distance(&mut engine, "fused")?,
        limit,
    )?;
    if case.distance(&mut engine, "base")? <= limit {
        return Err("the refit changed nothing that the outputs show".into());
    }
    let ((), save_time) = timed(|| {
        let mut out = std::io::BufWriter::new(std::fs::File::create(case.plan())?);
        engine.serialize(&mut out)?;
        Ok(std::io::Write::flush(&mut out)?)
    })?;
    record(table, what, "serialize", show(save_time));
    record(
        table,
        what,
        "build / (refit + serialize)",
        format_args!(
            "{:.1}×",
            build_time.as_secs_f64() / (refit_time + save_time).as_secs_f64()
        ),
    );
    engine.refit(case.feed(false)?, &Silent)?;
    within(
        table,
        what,
        "base after going back",
        case.distance(&mut engine, "base")?,
        limit,
    )?;
    drop(engine);
    within(
        table,
        what,
        "fused in a new process",
        in_new_process(&case)?,
        limit,
    )?;
    // The saved plan can be refitted again.
    let mut again = backend.open_plan(&case.plan())?;
    again.refit(case.feed(false)?, &Silent)?;
    within(
        table,
        what,
        "base from the saved plan",
        case.distance(&mut again, "base")?,
        limit,
    )?;
    again.layers()?.ok_or("it tells of its layers")?;
    Ok(())
}

fn in_new_process(case: &Case) -> Result<f64, Failed> {
    let output = Command::new(std::env::current_exe()?)
        .args([CHILD, case.name, "fused"])
        .arg(case.plan())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text
        .lines()
        .find_map(|l| l.strip_prefix("distance "))
        .ok_or_else(|| {
            format!(
                "{}: {text}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
    if !output.status.success() {
        return Err(format!("the process ended with {}", output.status).into());
    }
    Ok(number.parse()?)
}

/// The other side of [`in_new_process`].
fn child(name: &str, which: &str, plan: &str) {
    let name = FIXTURES.iter().find(|f| **f == name).expect("a fixture");
    let case = Case::new(name).expect("the fixture is there");
    let mut backend = tensorrt().expect("the library is there");
    backend.set_known(known(&case.model, &BuildNotes::default()));
    let mut engine = backend.open_plan(Path::new(plan)).expect("the plan opens");
    println!(
        "distance {:e}",
        case.distance(&mut engine, which).expect("it runs")
    );
}

/// GPU time of one run at the first shape: the median of 100 after 20.
fn median(engine: &mut TensorRtEngine, inputs: &NamedTensors) -> Result<Duration, Failed> {
    let mut times = Vec::new();
    for round in 0..120 {
        engine.run(inputs)?;
        if round >= 20 {
            times.push(engine.device_time().ok_or("no time was taken")?);
        }
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn latency(name: &'static str, table: &Table) -> Result<(), Failed> {
    let what = &format!("{name} latency");
    let case = Case::new(name)?;
    let (inputs, expected) = io_tensors(name, 0, "base")?;
    for (label, refit) in [("refittable", "full"), ("not refittable", "none")] {
        let mut backend = tensorrt()?;
        let (notes, time) = timed(|| case.build(&mut backend, &[("refit", refit)]))?;
        record(table, what, &format!("{label}: build"), show(time));
        let mut engine = backend.open_plan(&case.plan())?;
        if engine.is_refittable()? != (refit == "full")
            || notes.slots.iter().any(|s| s.refittable) != (refit == "full")
        {
            return Err("it is not what it was built to be".into());
        }
        within(
            table,
            what,
            &format!("{label}: base"),
            distance(&engine.run(&inputs)?, &expected)?,
            EXACT,
        )?;
        let plain = median(&mut engine, &inputs)?;
        record(
            table,
            what,
            &format!("{label}: GPU time"),
            format_args!(
                "{:.3} ms, {} layers",
                plain.as_secs_f64() * 1e3,
                engine.layer_count()?
            ),
        );
        engine.prepare(&RunOptions {
            cuda_graph: true,
            ..RunOptions::default()
        })?;
        let graph = median(&mut engine, &inputs)?;
        within(
            table,
            what,
            &format!("{label}: base as a CUDA graph"),
            distance(&engine.run(&inputs)?, &expected)?,
            EXACT,
        )?;
        record(
            table,
            what,
            &format!("{label}: GPU time as a CUDA graph"),
            format_args!("{:.3} ms", graph.as_secs_f64() * 1e3),
        );
    }
    Ok(())
}

/// TensorRT-RTX builds refittable engines for GPUs other than this one.
fn rtx(table: &Table) -> Result<(), Failed> {
    let Some(folder) = env("TRTMUT_TEST_RTX") else {
        record(table, "rtx", "left out", "TRTMUT_TEST_RTX names no folder");
        return Ok(());
    };
    let case = Case::new("sd_unet")?;
    for (refit, extra) in [
        ("full", None),
        ("individual", None),
        ("identical", Some(("strip", "true"))),
    ] {
        let mut backend = TensorRt::find(Product::Rtx, &search(Some(folder.clone())))?;
        let mut options = vec![("refit", refit), ("compute-capability", "8.9")];
        options.extend(extra);
        let (notes, time) = timed(|| case.build(&mut backend, &options))?;
        let refittable = notes.slots.iter().filter(|s| s.refittable).count();
        let header = header::read(&case.plan())?;
        let mut text = format!(
            "{}, {} bytes, {refittable} of {} slots",
            show(time),
            header.size,
            notes.slots.len()
        );
        for note in &notes.notes {
            let _ = write!(text, "; {note}");
        }
        record(table, "rtx", &format!("refit={refit}"), text);
        if refittable < 150 || header.compute_capabilities.as_deref() != Some(&["8.9".to_owned()]) {
            return Err(format!("{refittable} refittable slots, {header:?}").into());
        }
        // This GPU may be one that the plan was not compiled for; then the refusal says so.
        if let Err(e) = backend.open(&case.plan()) {
            record(table, "rtx", "opening it here", e);
        }
    }
    Ok(())
}

/// The lean runtime loads, and says why it does not open another version's plan.
fn lean(table: &Table) -> Result<(), Failed> {
    let Some(folder) = env("TRTMUT_TEST_LEAN") else {
        record(
            table,
            "lean",
            "left out",
            "TRTMUT_TEST_LEAN names no folder",
        );
        return Ok(());
    };
    let backend = TensorRt::find(Product::TensorRt, &search(Some(folder)))?;
    record(table, "lean", "library", backend.identity().library);
    if !backend.loaded().lean || backend.loaded().can_build() {
        return Err("it is not the lean runtime".into());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("p.plan");
    let mut plan = b"ftrt".to_vec();
    plan.resize(4096, 0);
    plan[24..28].copy_from_slice(&[8, 6, 0, 12]);
    std::fs::write(&path, plan)?;
    let e = backend.open(&path).err().ok_or("it must not open")?;
    record(table, "lean", "a plan of 8.6.0", &e);
    if matches!(e, Error::Library { .. }) {
        Ok(())
    } else {
        Err(e.into())
    }
}
