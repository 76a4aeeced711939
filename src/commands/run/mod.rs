//! `trtmut run`: outputs, latencies, comparison.

mod bring;
mod compare;
mod compile;
mod report;
mod timed;
mod times;

use super::UsageError;
use super::build::CacheArgs;
use super::engine_args::EngineArgs;
use super::overlay::OverlayArgs;
use crate::arrays;
use crate::engine::RunOptions;
use crate::exit::Exit;
use crate::fsx;
use crate::pipeline::{self, BackendChoice, Environment, InputRequest, PrefixedFile, TensorFile};
use crate::plan;
use crate::tensor::{NamedTensors, Tensor, statistics};
use crate::ui::Ui;
use crate::watch::{Event, Watch};
pub use compile::Unranged;
use report::{LayerLine, OutputLine, RunReport, TensorLine};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Arguments of `trtmut run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Inputs that no file gives are drawn from --seed: standard normal floats, 0 or 1 for integers \
    and booleans; their shapes come from --shape, from --dim, or from the spec's opt.\n\n\
    A file may hold several sets under prefixes that end in `.` or `/`. FILE:PREFIX takes one. Without it, names are \
    taken as they are if the file has any of them (expected outputs beside them are let be), else the one prefix that has \
    the most of them; two equally good ones are an error. An input goes by the model's name, or by the one that `forward` \
    has for it where the shape spec was written with `kwargs`. --expect prefers `base.` for a plan that holds its base weights, and any other for a refitted one.\n\n\
    Examples:\n  \
    trtmut run engine.plan --inputs io.safetensors --expect io.safetensors\n  \
    trtmut run engine.plan --dim BATCH=2 --iters 50 --warmup 5\n  \
    trtmut run engine.plan --input sample=x.npy --shape timestep=1 --save out.npz\n  \
    trtmut run unet.onnx --shapes shapes.json --inputs io.safetensors"
)]
pub struct Args {
    /// The plan; or an ONNX model, which is compiled first, and kept in the cache only
    #[arg(value_parser = crate::commands::plan_path())]
    plan: PathBuf,

    /// Who compiles a model
    #[arg(short, long, value_enum, default_value_t = BackendChoice::Auto)]
    backend: BackendChoice,

    /// What to do with sizes outside of the range that the plan was built for: fail, recompile with every dim that is
    /// outside moved to the size asked for, or recompile with the smallest range that covers old and new
    #[arg(long, value_enum, default_value_t = OnRange::Error)]
    on_range: OnRange,

    /// Threads for CPU engines (default: all cores)
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,

    /// Inputs: a .safetensors or .npz file, with :PREFIX where names have one (repeatable)
    #[arg(
        short = 'i',
        long,
        value_name = "FILE[:PREFIX]",
        help_heading = "Inputs and shapes"
    )]
    inputs: Vec<PrefixedFile>,

    /// One input from a file that holds one tensor: NAME=FILE.npy (repeatable)
    #[arg(long, value_name = "NAME=FILE", value_parser = super::build::name_value, help_heading = "Inputs and shapes")]
    input: Vec<(String, String)>,

    /// Shape of an input that no file gives: NAME=2x4x64x64 (repeatable)
    #[arg(long, value_name = "NAME=SHAPE", value_parser = super::build::name_value, help_heading = "Inputs and shapes")]
    shape: Vec<(String, String)>,

    /// Size of a named dim, for inputs that no file gives: NAME=N (repeatable)
    #[arg(short = 'd', long, value_name = "NAME=N", value_parser = super::build::name_value, help_heading = "Inputs and shapes")]
    dim: Vec<(String, String)>,

    /// Dynamic-shape spec (JSON) to compile a model for
    #[arg(
        short = 's',
        long,
        value_name = "FILE",
        help_heading = "Inputs and shapes"
    )]
    shapes: Option<PathBuf>,

    /// Seed for inputs that no file gives
    #[arg(long, default_value_t = 0, help_heading = "Inputs and shapes")]
    seed: u64,

    /// Write the outputs to a .safetensors or .npz file
    #[arg(long, value_name = "FILE", help_heading = "Outputs")]
    save: Option<PathBuf>,

    /// Write the outputs also over a file that holds no tensors
    #[arg(short = 'f', long, requires = "save", help_heading = "Outputs")]
    force: bool,

    /// Compare the outputs with a file; exit 40 where they differ
    #[arg(long, value_name = "FILE[:PREFIX]", help_heading = "Outputs")]
    expect: Option<PrefixedFile>,

    /// Relative tolerance of --expect, per element
    #[arg(long, default_value_t = 1e-3, help_heading = "Outputs")]
    rtol: f64,

    /// Absolute tolerance of --expect, per element
    #[arg(long, default_value_t = 1e-4, help_heading = "Outputs")]
    atol: f64,

    /// Compare the outputs with those of onnxruntime, or else of the embedded engine, with the same weights; exit 40 where they differ
    #[arg(long, help_heading = "Outputs")]
    verify: bool,

    /// The most that the GPU may hold of the weights of a plan that was built with --weight-streaming: bytes, or with K, M, G; the
    /// others are brought when they are needed (TensorRT 10.1)
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = weight_budget,
        help_heading = "Timing"
    )]
    weight_budget: Option<u64>,

    /// Also measure each layer (TensorRT); the runs themselves are slower then
    #[arg(long, help_heading = "Timing")]
    profile_layers: bool,

    /// Keep so many runs under way at a time, each in an execution context and on a CUDA stream of its own (TensorRT), and tell the
    /// throughput; --iters and --warmup then count for each of them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "Timing")]
    streams: u16,

    /// Runs before the timed ones
    #[arg(long, default_value_t = 0, help_heading = "Timing")]
    warmup: u32,

    /// Timed runs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Timing")]
    iters: u32,

    /// Time runs for at least so many seconds, and at least --iters of them
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Timing")]
    duration: Option<Duration>,

    /// Write the time of every timed run to a file: CSV, or JSON where its name ends so
    #[arg(long, value_name = "FILE", help_heading = "Timing")]
    export_times: Option<PathBuf>,

    /// Replay the timed runs as a CUDA graph (TensorRT): many small kernels then start without the CPU
    #[arg(long, help_heading = "Timing")]
    cuda_graph: bool,

    /// Run with these weights: the plan is refitted (or recompiled where that is not enough) if it holds others (repeatable)
    #[arg(short = 'w', long, value_name = "FILE", help_heading = "Weights")]
    weights: Vec<PathBuf>,

    #[command(flatten)]
    overlay: OverlayArgs,

    #[command(flatten)]
    engine: EngineArgs,

    #[command(flatten)]
    cache: CacheArgs,
}

/// A number of seconds: `10`, `0.5`.
fn seconds(text: &str) -> Result<Duration, String> {
    // Longer ones are mistyped, and a `Duration` of a huge number panics.
    const DAY: f64 = 86_400.0;
    match text.trim().trim_end_matches('s').parse::<f64>() {
        Ok(s) if s > 0.0 && s <= DAY => Ok(Duration::from_secs_f64(s)),
        _ => Err("it is a number of seconds, at most a day's".into()),
    }
}

/// Values of `--on-range`: what is done where sizes are outside of what the plan was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnRange {
    Error,
    Recompile,
    Widen,
}

impl Args {
    fn options(&self) -> RunOptions {
        RunOptions {
            threads: self.threads.map(usize::from),
            cuda_graph: self.cuda_graph,
            weight_budget: self.weight_budget,
            profile: self.profile_layers,
            streams: usize::from(self.streams),
        }
    }
}

/// 0 keeps as little on the GPU as can be.
fn weight_budget(text: &str) -> Result<u64, String> {
    match text {
        "0" => Ok(0),
        text => crate::engine::tensorrt::options::bytes(text).map(|n| n as u64),
    }
}

pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    let outputs = args.save.iter().chain(&args.export_times);
    fsx::claim_apart(outputs.chain(args.engine.timing_cache()))?;
    args.engine.claim(&sources(args))?;
    if let Some(path) = &args.save {
        arrays::check_name(path)?;
        claim_save(args, path, ui)?;
    }
    if let Some(path) = &args.export_times {
        times::claim(path, &sources(args))?;
    }
    // After all outputs are claimed, since it may compile for minutes.
    let place = compile::place(args, ui, environment)?;
    // Several processes may run one plan at a time, so only those that change it wait for each
    // other.
    let changes_plan = !args.weights.is_empty()
        || !args.overlay.lora.is_empty()
        || args.on_range != OnRange::Error;
    let _alone = changes_plan.then(|| super::lock_plan(&place.plan, ui));
    let mut ready = bring::check(args, &place.plan, ui, environment)?;
    let expected = ready.expected.take();
    let inputs = std::mem::take(&mut ready.inputs);
    let (brought, mut plan) = ready.bring(&place.plan, ui, environment)?;
    let transitions = place.compiled.into_iter().chain(brought).collect();

    ui.event(Event::Begin {
        step: "loading",
        total: None,
    });
    let start = Instant::now();
    // Timed by itself: the first run must not carry what happens once.
    plan.engine.prepare(&args.options())?;
    let prepare = start.elapsed();
    ui.event(Event::End);
    let timed::Measured {
        mut outputs,
        latency,
        gpu,
        throughput,
    } = timed::measure(plan.engine.as_mut(), &inputs.tensors, args, ui)?;
    // What runs beside others waits for them, now longer and now shorter.
    if latency.noisy && throughput.is_none() {
        ui.event(Event::Warn(
            "the runs differ by so much that these latencies say little; close other programs, or raise --iters and --warmup",
        ));
    }

    let comparison = match (&args.expect, expected) {
        (Some(file), Some((expected, prefix))) => {
            let tolerances = (args.rtol, args.atol);
            compare::of_streams(&file.path, &prefix, tolerances, &mut outputs, &expected)
        }
        _ => None,
    };
    let outputs = outputs.swap_remove(0);
    if let Some(path) = &args.save {
        arrays::write(path, &outputs)?;
    }
    let verification: Option<compare::Verification> = if args.verify {
        let request = pipeline::VerifyRequest {
            plan: &place.plan,
            manifest: &plan.manifest,
            model: args.overlay.model.as_deref(),
            inputs: &inputs.tensors,
            outputs: &outputs,
        };
        Some(pipeline::verify_outputs(&request, environment, ui)?.into())
    } else {
        None
    };
    let equal = comparison.as_ref().is_none_or(|c| c.equal)
        && verification.as_ref().is_none_or(|v| v.equal);
    if let Some(path) = &args.export_times {
        times::write(path, &latency, gpu.as_ref())?;
    }
    let report = RunReport {
        times: args.export_times.clone(),
        plan: args.plan.clone(),
        backend: plan.manifest.backend.library.clone(),
        transitions,
        inputs: input_lines(&inputs),
        dims: inputs.dims,
        outputs: output_lines(&outputs),
        prepare_ns: prepare.as_nanos() as u64,
        latency,
        gpu,
        throughput,
        layers: plan
            .engine
            .layer_times()
            .into_iter()
            .map(|(name, times)| LayerLine::new(name, times, args.warmup))
            .collect(),
        comparison,
        verification,
        saved: args.save.clone(),
    };
    ui.result(&report)?;
    Ok(if equal { Exit::Done } else { Exit::Differs })
}

fn input_lines(inputs: &pipeline::Inputs) -> Vec<TensorLine> {
    let line = |(name, t): &(String, Tensor)| TensorLine {
        name: name.clone(),
        dtype: t.dtype,
        shape: t.shape.clone(),
        random: inputs.random.contains(name),
    };
    inputs.tensors.iter().map(line).collect()
}

fn output_lines(outputs: &NamedTensors) -> Vec<OutputLine> {
    let line = |(name, t): &(String, Tensor)| OutputLine {
        name: name.clone(),
        dtype: t.dtype,
        shape: t.shape.clone(),
        statistics: statistics(t.view()).ok(),
    };
    outputs.iter().map(line).collect()
}

/// Claims the file that the outputs go to: none that is read, and none that holds something else.
fn claim_save(args: &Args, path: &Path, ui: &Ui) -> anyhow::Result<()> {
    let inputs = sources(args);
    if fsx::claim_output(path, &inputs)?.other_names > 0 {
        ui.event(Event::Warn(&format!(
            "`{}` has other names; what they lead to stays as it is",
            path.display()
        )));
    }
    if !args.force {
        arrays::refuse_foreign(path)?;
    }
    Ok(())
}

/// Every file that is read.
fn sources(args: &Args) -> Vec<PathBuf> {
    let manifest = plan::manifest_path(&args.plan);
    let mut inputs = vec![args.plan.clone(), manifest];
    // A model has no manifest. That of a plan which cannot be read is told of where the plan is opened.
    inputs.extend(plan::read_sources(&args.plan).unwrap_or_default());
    inputs.extend(args.inputs.iter().map(|f| f.path.clone()));
    inputs.extend(args.expect.iter().map(|f| f.path.clone()));
    inputs.extend(args.input.iter().map(|(_, path)| PathBuf::from(path)));
    inputs.extend(args.weights.iter().cloned());
    inputs.extend(args.overlay.inputs());
    inputs
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
                format!("write it as --dim {name}=2; a range is stated with `trtmut build --dim`, or by a spec"),
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
