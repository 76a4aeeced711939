//! `trtmut diff`: what a change asks for, and why.

mod html;
mod next;
mod report;
mod words;

use super::overlay::OverlayArgs;
use super::shape_args::{ShapeArgs, read_spec};
use crate::diff::Verdict;
use crate::exit::Exit;
use crate::pipeline::{self, CompareRequest, Compared, Environment, Measured, OverlayRequest};
use crate::plan;
use crate::ui::Ui;
use report::{Block, DiffReport, Measuring};
use std::path::PathBuf;

/// Arguments of `trtmut diff`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A plan compares with a checkpoint, LoRAs, a model, another plan, or shapes alone; a model with a model or a \
    checkpoint; a checkpoint with a checkpoint. The older one comes first.\n\n\
    Verdicts: LIVE (nothing to do), NEEDS_REFIT, NEEDS_RECOMPILE, UNKNOWN (cannot be decided). The verdict is the worst of all \
    reasons.\n\n\
    Examples:\n  \
    trtmut diff engine.plan lora_fused.safetensors\n  \
    trtmut diff engine.plan --lora style.safetensors:0.8\n  \
    trtmut diff engine.plan other.onnx --shapes shapes.json --exit-code"
)]
pub struct Args {
    /// What there is: a plan, an ONNX model or a checkpoint
    #[arg(value_parser = crate::commands::plan_path())]
    old: PathBuf,

    /// What is wanted: a plan, an ONNX model, or a checkpoint (several files, or an index of shards)
    #[arg(value_parser = crate::commands::plan_path())]
    new: Vec<PathBuf>,

    /// How many changed tensors to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,

    /// Also write a report for a browser: one file with every tensor in it, and with each LoRA beside the others
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Exit with 10 for `NEEDS_REFIT`, 20 for `NEEDS_RECOMPILE`, 30 for UNKNOWN
    #[arg(long)]
    exit_code: bool,

    /// Shapes that are wanted
    #[arg(short, long, value_name = "FILE", help_heading = "Shapes")]
    shapes: Option<PathBuf>,

    #[command(flatten)]
    ranges: ShapeArgs,

    /// How many changed tensors to measure as wholes; a report for a browser has all of them
    #[arg(long, value_enum, default_value_t = Measuring::Largest)]
    measure: Measuring,

    /// Read the plan and the model, though they are as they were when they were last read
    #[arg(long)]
    rehash: bool,

    #[command(flatten)]
    overlay: OverlayArgs,
}

pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    let shapes = if args.shapes.is_some() || !args.ranges.is_empty() {
        Some((read_spec(args.shapes.as_deref())?, args.ranges.overrides()?))
    } else {
        None
    };
    if args.new.is_empty() && args.overlay.lora.is_empty() && shapes.is_none() {
        return Err(super::UsageError::new(
            "nothing to compare with",
            "give a checkpoint, a model, a plan, --lora FILE or --shapes FILE",
        )
        .into());
    }
    if let Some(path) = &args.html {
        let mut inputs = vec![args.old.clone(), plan::manifest_path(&args.old)];
        inputs.extend(args.new.iter().chain(&args.shapes).cloned());
        inputs.extend(args.overlay.inputs());
        // Before the comparison, which may take minutes, and never over a file that it reads.
        html::claim(path, &inputs)?;
    }
    super::tell_other_gpu(&args.old, true, ui);
    let request = CompareRequest {
        old: args.old.clone(),
        new: args.new.clone(),
        // What each of `new` is, the comparison finds out; none of it is a checkpoint for certain.
        overlay: OverlayRequest {
            memo: super::memo(environment, args.rehash),
            ..args.overlay.request(Vec::new())
        },
        shapes,
        measure: (args.measure == Measuring::Largest && args.html.is_none()).then_some(args.top),
    };
    let Compared {
        diff,
        changed,
        blocks,
        rules,
        left,
    } = pipeline::compare(&request, ui)?;
    let verdict = diff.verdict;
    let next = next::commands(args, verdict, &diff.reasons);
    let columns = match &args.html {
        Some(_) => columns(args, &changed, ui)?,
        None => Vec::new(),
    };
    let report = DiffReport {
        html: args.html.clone(),
        old: args.old.clone(),
        new: args.new.clone(),
        verdict,
        compared: diff.compared,
        unchanged: diff.unchanged,
        counts: diff.counts(),
        reasons: diff.reasons,
        changed: changed.into_iter().map(Into::into).collect(),
        blocks: blocks
            .into_iter()
            .map(|(name, (tensors, changed))| Block {
                name,
                tensors,
                changed,
            })
            .collect(),
        rules,
        next,
        ignored: left.ignored,
        missing: left.missing,
        top: args.top,
        measure: args.measure,
    };
    if let Some(path) = &args.html {
        // Before the result, which says that the page is there.
        html::write(path, &report, &columns)?;
    }
    ui.result(&report)?;
    Ok(match (args.exit_code, verdict) {
        (false, _) | (true, Verdict::Live) => Exit::Done,
        (true, Verdict::NeedsRefit) => Exit::NeedsRefit,
        (true, Verdict::NeedsRecompile) => Exit::NeedsRecompile,
        (true, Verdict::Unknown) => Exit::Unknown,
    })
}

/// What the report shows beside one another: all that was asked for, and of several LoRAs each alone.
fn columns(args: &Args, changed: &[Measured], ui: &Ui) -> anyhow::Result<Vec<html::Column>> {
    let loras = &args.overlay.lora;
    let name = |(path, scale): &(PathBuf, f64)| {
        let file = path.file_name().unwrap_or(path.as_os_str());
        format!("{} at {scale}", file.to_string_lossy())
    };
    let together = match (&loras[..], args.new.is_empty()) {
        ([one], true) => name(one),
        ([], true) => "other shapes".into(),
        _ => "all together".into(),
    };
    let mut columns = vec![html::Column {
        name: together,
        changed: changed.to_vec(),
    }];
    // One LoRA alone is what is shown already.
    if loras.len() < 2 {
        return Ok(columns);
    }
    for lora in loras {
        let mut overlay = args.overlay.clone();
        overlay.lora = vec![lora.clone()];
        let request = CompareRequest {
            old: args.old.clone(),
            new: Vec::new(),
            overlay: overlay.request(Vec::new()),
            shapes: None,
            measure: None,
        };
        columns.push(html::Column {
            name: name(lora),
            changed: pipeline::compare(&request, ui)?.changed,
        });
    }
    Ok(columns)
}
