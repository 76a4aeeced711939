//! `trtmut run`: outputs, latencies, comparison.

use super::UsageError;
use super::overlay::OverlayArgs;
use crate::arrays;
use crate::engine::{Engine, RunOptions};
use crate::exit::Exit;
use crate::pipeline::{self, Environment, InputRequest, PrefixedFile, TensorFile};
use crate::plan::Manifest;
use crate::shapes::{self, InputShapes, Resolved};
use crate::tensor::{
    Difference, Dtype, NamedTensors, Statistics, difference, show_shape, statistics,
};
use crate::ui::{self, Align, Report, Table, Ui};
use crate::watch::{Event, Watch};
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Arguments of `trtmut run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Inputs that no file gives are drawn from --seed: standard normal floats, 0 or 1 for integers \
    and booleans; their shapes come from --shape, from --dim, or from the spec's opt.\n\n\
    A file may hold several sets under prefixes that end in `.` or `/`. FILE:PREFIX takes one. Without it, names are \
    taken as they are if the file has any of them, else the one prefix that has the most of them; two equally good ones \
    are an error. --expect prefers `base.` for a plan that holds its base weights, and any other for a refitted one.\n\n\
    Examples:\n  \
    trtmut run engine.plan --inputs io.safetensors --expect io.safetensors\n  \
    trtmut run engine.plan --dim BATCH=2 --iters 50 --warmup 5\n  \
    trtmut run engine.plan --input sample=x.npy --shape timestep=1 --save out.npz"
)]
pub struct Args {
    /// The plan
    plan: PathBuf,

    /// Inputs: a .safetensors or .npz file, with :PREFIX where names have one (repeatable)
    #[arg(long, value_name = "FILE[:PREFIX]")]
    inputs: Vec<PrefixedFile>,

    /// One input from a file that holds one tensor: NAME=FILE.npy (repeatable)
    #[arg(long, value_name = "NAME=FILE", value_parser = super::build::name_value)]
    input: Vec<(String, String)>,

    /// Run with these weights: the plan is refitted (or recompiled where that is not enough) if it holds others (repeatable)
    #[arg(long, value_name = "FILE")]
    weights: Vec<PathBuf>,

    #[command(flatten)]
    overlay: OverlayArgs,

    /// Shape of an input that no file gives: NAME=2x4x64x64 (repeatable)
    #[arg(long, value_name = "NAME=SHAPE", value_parser = super::build::name_value)]
    shape: Vec<(String, String)>,

    /// Size of a named dim, for inputs that no file gives: NAME=N (repeatable)
    #[arg(long, value_name = "NAME=N", value_parser = super::build::name_value)]
    dim: Vec<(String, String)>,

    /// What to do with sizes outside of the range that the plan was built for: fail, recompile with every dim that is
    /// outside moved to the size asked for, or recompile with the smallest range that covers old and new
    #[arg(long, value_enum, default_value_t = OnRange::Error)]
    on_range: OnRange,

    /// Seed for inputs that no file gives
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Write the outputs to a .safetensors or .npz file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,

    /// Compare the outputs with a file; exit 40 where they differ
    #[arg(long, value_name = "FILE[:PREFIX]")]
    expect: Option<PrefixedFile>,

    /// Relative tolerance of --expect, per element
    #[arg(long, default_value_t = 1e-3)]
    rtol: f64,

    /// Absolute tolerance of --expect, per element
    #[arg(long, default_value_t = 1e-4)]
    atol: f64,

    /// Runs before the timed ones
    #[arg(long, default_value_t = 0)]
    warmup: u32,

    /// Timed runs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    iters: u32,

    /// Threads for CPU engines (default: all cores)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

/// `--on-range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnRange {
    Error,
    Recompile,
    Widen,
}

#[derive(Debug, Serialize)]
struct RunReport {
    plan: PathBuf,
    backend: String,
    /// What was done to the plan before it ran, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    transitions: Vec<Transition>,
    dims: BTreeMap<String, u64>,
    inputs: Vec<TensorLine>,
    outputs: Vec<OutputLine>,
    prepare_ns: u64,
    latency: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Comparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    saved: Option<PathBuf>,
}

/// One step of the state machine.
#[derive(Debug, Serialize)]
struct Transition {
    /// `LIVE`, `NEEDS_REFIT`, `NEEDS_RECOMPILE`.
    state: &'static str,
    /// `run`, `refit`, `recompile`.
    action: &'static str,
    reason: String,
    ns: u64,
}

#[derive(Debug, Serialize)]
struct TensorLine {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    random: bool,
}

#[derive(Debug, Serialize)]
struct OutputLine {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Absent for types that have no numbers to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Statistics>,
}

/// Latency of the timed runs, in nanoseconds.
#[derive(Debug, Serialize)]
struct Latency {
    iters: u32,
    warmup: u32,
    min_ns: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    mean_ns: u64,
    runs_per_second: f64,
    /// Whether the spread makes the figures worth little.
    noisy: bool,
}

#[derive(Debug, Serialize)]
struct Comparison {
    file: PathBuf,
    prefix: String,
    rtol: f64,
    atol: f64,
    equal: bool,
    outputs: Vec<ComparedOutput>,
    /// Outputs that the file does not have.
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ComparedOutput {
    name: String,
    equal: bool,
    /// Why the two cannot be compared element by element.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Difference>,
}

impl Latency {
    /// Percentiles are of the nearest rank: the smallest run that at least so many percent do not exceed.
    fn of(mut runs: Vec<Duration>, warmup: u32) -> Latency {
        runs.sort();
        let rank = |p: f64| {
            let at = (p * runs.len() as f64).ceil() as usize;
            runs[at.clamp(1, runs.len()) - 1].as_nanos() as u64
        };
        let total: Duration = runs.iter().sum();
        let mean = total / runs.len() as u32;
        let (min, p50, p90) = (rank(0.0), rank(0.5), rank(0.9));
        Latency {
            iters: runs.len() as u32,
            warmup,
            min_ns: min,
            p50_ns: p50,
            p90_ns: p90,
            p99_ns: rank(0.99),
            mean_ns: mean.as_nanos() as u64,
            runs_per_second: 1.0 / mean.as_secs_f64().max(1e-12),
            noisy: runs.len() >= 5 && (p90 - min) as f64 > 0.3 * p50 as f64,
        }
    }
}

impl Report for RunReport {
    const SCHEMA: &'static str = "trtmut.run/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&[
            ("output", Align::Left),
            ("type", Align::Left),
            ("shape", Align::Left),
            ("min", Align::Right),
            ("max", Align::Right),
            ("mean", Align::Right),
            ("NaN", Align::Right),
            ("inf", Align::Right),
        ]);
        for o in &self.outputs {
            let number = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.5}"));
            let s = o.statistics.as_ref();
            table.row([
                o.name.clone(),
                o.dtype.to_string(),
                show_shape(&o.shape),
                number(s.and_then(|s| s.min)),
                number(s.and_then(|s| s.max)),
                number(s.and_then(|s| s.mean)),
                s.map_or("-".into(), |s| s.nan.to_string()),
                s.map_or("-".into(), |s| s.inf.to_string()),
            ]);
        }
        table.write(out, 0)?;
        let drawn: Vec<&str> = self
            .inputs
            .iter()
            .filter(|i| i.random)
            .map(|i| i.name.as_str())
            .collect();
        if !drawn.is_empty() {
            writeln!(out, "\ninputs drawn from the seed: {}", drawn.join(", "))?;
        }
        self.latency.human(out)?;
        if let Some(c) = &self.comparison {
            c.human(out)?;
        }
        if let Some(path) = &self.saved {
            writeln!(out, "\nsaved {}", path.display())?;
        }
        Ok(())
    }
}

impl Latency {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let show = |ns| ui::duration(Duration::from_nanos(ns));
        if self.iters == 1 {
            return writeln!(out, "\nlatency  {} (one run)", show(self.mean_ns));
        }
        writeln!(
            out,
            "\nlatency  min {}  p50 {}  p90 {}  p99 {}  mean {}  ({} runs, {:.1}/s)",
            show(self.min_ns),
            show(self.p50_ns),
            show(self.p90_ns),
            show(self.p99_ns),
            show(self.mean_ns),
            self.iters,
            self.runs_per_second
        )
    }
}

impl Comparison {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "\nagainst {}:{} (rtol {}, atol {})",
            self.file.display(),
            self.prefix,
            self.rtol,
            self.atol
        )?;
        let mut table = Table::new(&[
            ("output", Align::Left),
            ("", Align::Left),
            ("max abs", Align::Right),
            ("relative L2", Align::Right),
            ("cosine", Align::Right),
            ("first mismatch", Align::Left),
        ]);
        for o in &self.outputs {
            let verdict = if o.equal { "equal" } else { "DIFFERS" };
            let d = o.difference.as_ref();
            let number = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.2e}"));
            let place = match (&o.reason, d) {
                (Some(reason), _) => reason.clone(),
                (None, Some(d)) => d.first_mismatch.as_ref().map_or(String::new(), |at| {
                    let (a, e) = d.values_there.unwrap_or_default();
                    format!("{at:?}: {a:.6} instead of {e:.6} ({} in all)", d.mismatches)
                }),
                (None, None) => String::new(),
            };
            table.row([
                o.name.clone(),
                verdict.into(),
                number(d.map(|d| d.max_abs)),
                number(d.map(|d| d.relative_l2)),
                d.map_or("-".into(), |d| format!("{:.6}", d.cosine)),
                place,
            ]);
        }
        table.write(out, 0)?;
        for name in &self.missing {
            writeln!(out, "{name}: not in the file, not compared")?;
        }
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// Anything that `commands::explain` knows.
pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    let request = input_request(args)?;
    if let Some(path) = &args.save {
        arrays::check_name(path)?;
        crate::fsx::check_output(path)?;
    }
    let transitions = bring_weights(args, ui, environment)?;
    let mut plan = pipeline::open(&args.plan, environment)?;
    let range = match args.on_range {
        OnRange::Error => plan.manifest.shapes.clone(),
        OnRange::Recompile | OnRange::Widen => plan.manifest.shapes.unbounded(),
    };
    let context = || format!("the inputs do not fit `{}`", args.plan.display());
    let inputs =
        pipeline::gather_inputs(&request, &plan.manifest.inputs, &range).with_context(context)?;
    if let Some(shapes) =
        moved_range(args.on_range, &plan.manifest.shapes, &inputs.tensors).with_context(context)?
    {
        recompile(args, &plan.manifest, &shapes, ui, environment)?;
        plan = pipeline::open(&args.plan, environment)?;
    }
    let manifest = &plan.manifest;
    if args.expect.is_some() && !inputs.random.is_empty() {
        let drawn: Vec<&str> = inputs.random.iter().map(String::as_str).collect();
        return Err(UsageError::new(
            format!(
                "--expect needs every input from a file; nothing gives {}",
                drawn.join(", ")
            ),
            "add --inputs FILE or --input NAME=FILE",
        )
        .into());
    }
    let is_base = manifest.recipe.ingredients.is_empty();
    let expected = match &args.expect {
        Some(file) => Some(pipeline::pick_expected(file, &manifest.outputs, is_base)?),
        None => None,
    };

    let options = RunOptions {
        threads: args.threads.map(usize::from),
    };
    ui.event(Event::Begin {
        step: "loading",
        total: None,
    });
    let start = Instant::now();
    plan.engine.prepare(&options)?;
    let prepare = start.elapsed();
    ui.event(Event::End);
    let (outputs, latency) = measure(plan.engine.as_mut(), &inputs.tensors, args, ui)?;
    if latency.noisy {
        ui.event(Event::Warn(
            "the runs differ by so much that these latencies say little; close other programs, or raise --iters and --warmup",
        ));
    }

    let comparison = match (&args.expect, expected) {
        (Some(file), Some((expected, prefix))) => {
            Some(compare(args, &file.path, prefix, &outputs, &expected))
        }
        _ => None,
    };
    if let Some(path) = &args.save {
        arrays::write(path, &outputs)?;
    }
    let equal = comparison.as_ref().is_none_or(|c| c.equal);
    let report = RunReport {
        plan: args.plan.clone(),
        backend: plan.manifest.backend.library.clone(),
        transitions,
        dims: inputs.dims,
        inputs: inputs
            .tensors
            .iter()
            .map(|(name, t)| TensorLine {
                name: name.clone(),
                dtype: t.dtype,
                shape: t.shape.clone(),
                random: inputs.random.contains(name),
            })
            .collect(),
        outputs: outputs
            .iter()
            .map(|(name, t)| OutputLine {
                name: name.clone(),
                dtype: t.dtype,
                shape: t.shape.clone(),
                statistics: statistics(t.view()).ok(),
            })
            .collect(),
        prepare_ns: prepare.as_nanos() as u64,
        latency,
        comparison,
        saved: args.save.clone(),
    };
    ui.result(&report)?;
    Ok(if equal { Exit::Done } else { Exit::Differs })
}

/// Brings the plan to the weights that are asked for: nothing, a refit, or a recompile where a refit is not enough or fails.
fn bring_weights(
    args: &Args,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<Vec<Transition>> {
    let mut transitions = Vec::new();
    if args.weights.is_empty() && args.overlay.lora.is_empty() {
        return Ok(transitions);
    }
    let mut step = |state, action, reason: String, time: Duration| {
        let shown = ui::duration(time);
        ui.event(Event::Status(&format!(
            "{state}: {action} in {shown} ({reason})"
        )));
        transitions.push(Transition {
            state,
            action,
            reason,
            ns: time.as_nanos() as u64,
        });
    };
    let start = Instant::now();
    let request = args.overlay.request(args.weights.clone());
    let mut prepared = pipeline::prepare(&args.plan, &request, environment, ui)?;
    let differ = format!(
        "{} of {} differ",
        prepared.changes.len(),
        ui::count(prepared.plan.manifest.weights.len(), "weight")
    );
    if prepared.is_live() {
        step(
            "LIVE",
            "run",
            "the plan holds exactly these weights".into(),
            start.elapsed(),
        );
        return Ok(transitions);
    }
    let fixed: Vec<_> = prepared.fixed().cloned().collect();
    let mut recompile = None;
    if fixed.is_empty() {
        match prepared.commit(&args.plan, false, environment, ui) {
            Ok(_) => step("NEEDS_REFIT", "refit", differ, start.elapsed()),
            Err(e) => recompile = Some(format!("the refit failed: {e}")),
        }
    } else {
        recompile = Some(super::refit::list(&fixed));
    }
    if let Some(reason) = recompile {
        prepared.rebuild(&args.plan, environment, ui)?;
        step("NEEDS_RECOMPILE", "recompile", reason, start.elapsed());
    }
    Ok(transitions)
}

/// The range to recompile for, where the inputs are outside of the one that was built.
fn moved_range(
    policy: OnRange,
    built: &Resolved,
    inputs: &NamedTensors,
) -> Result<Option<Resolved>, shapes::Error> {
    let asked: InputShapes = inputs
        .iter()
        .map(|(name, t)| (name.clone(), t.shape.clone()))
        .collect();
    match (policy, built.bind(&asked)) {
        (_, Ok(_)) => Ok(None),
        (OnRange::Error, Err(e)) => Err(e),
        (OnRange::Recompile, Err(_)) => built.move_to(&asked).map(Some),
        (OnRange::Widen, Err(_)) => built.widen(&asked).map(Some),
    }
}

fn recompile(
    args: &Args,
    manifest: &Manifest,
    shapes: &Resolved,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<()> {
    let show = |r: &Resolved| {
        let dims: Vec<String> = r
            .dims()
            .iter()
            .map(|(name, d)| {
                let max = d.max.map_or("any".into(), |m| m.to_string());
                format!("{name} {} to {max}", d.min)
            })
            .collect();
        dims.join(", ")
    };
    let built = pipeline::recompile(&args.plan, manifest, shapes, environment, ui)?;
    ui.event(Event::Warn(&format!(
        "recompiled `{}` for sizes outside of its range, in {}: it was built for {}, and is now for {}",
        args.plan.display(),
        ui::duration(built.compile),
        show(&manifest.shapes),
        show(shapes)
    )));
    Ok(())
}

fn measure(
    engine: &mut dyn Engine,
    inputs: &NamedTensors,
    args: &Args,
    ui: &Ui,
) -> anyhow::Result<(NamedTensors, Latency)> {
    ui.event(Event::Begin {
        step: "running",
        total: Some(u64::from(args.warmup) + u64::from(args.iters)),
    });
    for _ in 0..args.warmup {
        engine.run(inputs)?;
        ui.event(Event::Advance(1));
    }
    let mut runs = Vec::with_capacity(args.iters as usize);
    let mut outputs = NamedTensors::new();
    for _ in 0..args.iters {
        let start = Instant::now();
        outputs = engine.run(inputs)?;
        runs.push(start.elapsed());
        ui.event(Event::Advance(1));
    }
    ui.event(Event::End);
    Ok((outputs, Latency::of(runs, args.warmup)))
}

fn compare(
    args: &Args,
    file: &std::path::Path,
    prefix: String,
    outputs: &NamedTensors,
    expected: &NamedTensors,
) -> Comparison {
    let mut compared = Vec::new();
    let mut missing = Vec::new();
    for (name, actual) in outputs {
        let Some((_, want)) = expected.iter().find(|(n, _)| n == name) else {
            missing.push(name.clone());
            continue;
        };
        let refuse = |reason: String| ComparedOutput {
            name: name.clone(),
            equal: false,
            reason: Some(reason),
            difference: None,
        };
        compared.push(if actual.dtype != want.dtype {
            refuse(format!("{} instead of {}", actual.dtype, want.dtype))
        } else if actual.shape != want.shape {
            refuse(format!(
                "shape {} instead of {}",
                show_shape(&actual.shape),
                show_shape(&want.shape)
            ))
        } else {
            match difference(actual.view(), want.view(), args.rtol, args.atol) {
                Ok(d) => ComparedOutput {
                    name: name.clone(),
                    equal: d.mismatches == 0,
                    reason: None,
                    difference: Some(d),
                },
                Err(e) => refuse(e.to_string()),
            }
        });
    }
    Comparison {
        file: file.to_owned(),
        prefix,
        rtol: args.rtol,
        atol: args.atol,
        equal: compared.iter().all(|o| o.equal),
        outputs: compared,
        missing,
    }
}

fn input_request(args: &Args) -> Result<InputRequest, UsageError> {
    let mut shapes = Vec::new();
    for (name, text) in &args.shape {
        let shape: Result<Vec<usize>, _> = match text.as_str() {
            "scalar" => Ok(Vec::new()),
            t => t.split('x').map(str::parse).collect(),
        };
        let shape = shape.map_err(|_| {
            UsageError::new(
                format!("--shape {name}={text}: `{text}` is not a shape"),
                format!("write it as --shape {name}=2x4x64x64 (or `scalar`)"),
            )
        })?;
        shapes.push((name.clone(), shape));
    }
    let mut dims = BTreeMap::new();
    for (name, text) in &args.dim {
        let size = text.parse().map_err(|_| {
            UsageError::new(
                format!("--dim {name}={text}: `{text}` is not a size"),
                format!("write it as --dim {name}=2"),
            )
        })?;
        dims.insert(name.clone(), size);
    }
    Ok(InputRequest {
        files: args.inputs.clone(),
        single: args
            .input
            .iter()
            .map(|(name, path)| TensorFile {
                name: name.clone(),
                path: path.into(),
            })
            .collect(),
        shapes,
        dims,
        seed: args.seed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let runs = (1..=100).map(Duration::from_millis).collect();
        let l = Latency::of(runs, 0);
        assert_eq!(l.min_ns, 1_000_000);
        assert_eq!(l.p50_ns, 50_000_000);
        assert_eq!(l.p90_ns, 90_000_000);
        assert_eq!(l.p99_ns, 99_000_000);
        assert!(l.noisy);
        let one = Latency::of(vec![Duration::from_millis(7)], 0);
        assert_eq!((one.min_ns, one.p99_ns), (7_000_000, 7_000_000));
    }
}
