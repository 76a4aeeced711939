//! `trtmut refit`: give a plan other weights, or several plans their parts of the same files.

mod report;
mod several;

use super::UsageError;
use super::overlay::{OverlayArgs, check_asked};
use crate::diff::{Told, WeightState};
use crate::exit::Exit;
use crate::fault::Explain;
use crate::fsx;
use crate::pipeline::{self, Environment, Opening, OverlayRequest, Prepared};
use crate::plan;
use crate::ui::Ui;
use crate::watch::{Event, Watch};
use report::RefitReport;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `trtmut refit`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A refit is a pure function of the base weights (those of the ONNX file) and what is given here: what was \
    refitted before leaves no trace, and a LoRA given twice in two refits is applied once.\n\n\
    Examples:\n  \
    trtmut refit engine.plan fused.safetensors\n  \
    trtmut refit engine.plan --lora style.safetensors:0.8 --lora detail.safetensors:0.3\n  \
    trtmut refit unet.plan te1.plan te2.plan --lora style.safetensors:0.8\n  \
    trtmut refit engine.plan --base"
)]
pub struct Args {
    /// The plan
    #[arg(value_parser = crate::commands::plan_path())]
    plan: PathBuf,

    /// Further plans that get their parts of the same files; then the checkpoint: one or more .safetensors files, an index of
    /// shards, or a folder with one
    #[arg(value_name = "PLAN|CHECKPOINT", value_parser = crate::commands::plan_path())]
    rest: Vec<PathBuf>,

    /// Go back to the base weights
    #[arg(long)]
    base: bool,

    /// Where the result goes (default: the plan itself); for several plans a folder that exists
    #[arg(short, long, value_name = "PLAN|FOLDER", value_parser = crate::commands::plan_path())]
    output: Option<PathBuf>,

    /// Compare what the refitted engine computes with a reference engine on drawn inputs; write nothing where it differs
    #[arg(long)]
    verify: bool,

    /// Write over a file that is no plan of trtmut
    #[arg(short, long)]
    force: bool,

    /// What to do where a refit is not enough, or fails
    #[arg(long, value_enum, default_value_t = Fallback::None)]
    fallback: Fallback,

    /// Find out what would be done, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Read the plan and the model, though they are as they were when they were last read
    #[arg(long)]
    rehash: bool,

    #[command(flatten)]
    overlay: OverlayArgs,
}

/// Values of `--fallback`: what follows where a refit is not enough, or fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Fallback {
    /// Fail
    None,
    /// Compile the model with these weights
    Rebuild,
}

/// A refit is not enough.
#[derive(Debug, thiserror::Error, Explain)]
#[error("a refit is not enough{}: {}", of(.plan.as_deref()), list(.fixed))]
#[explain(code = "needs-recompile", class = NeedsRecompile, details = serde_json::to_value(decision).ok(),
    hint("`--fallback rebuild` compiles the model with these weights instead"))]
pub struct NotEnough {
    /// Which plan it is, where several were given.
    pub(super) plan: Option<PathBuf>,
    pub(super) fixed: Vec<WeightState>,
    pub(super) decision: Box<Told>,
}

impl NotEnough {
    /// Of what is decided, for `plan` where several were given.
    fn of(plan: Option<&Path>, prepared: &Prepared, fixed: Vec<WeightState>) -> NotEnough {
        NotEnough {
            plan: plan.map(Path::to_owned),
            fixed,
            decision: Box::new(prepared.decision.told()),
        }
    }
}

fn of(plan: Option<&Path>) -> String {
    plan.map_or_else(String::new, |p| format!(" for `{}`", p.display()))
}

/// The changes that a refit cannot make, for a message.
pub(super) fn list(fixed: &[WeightState]) -> String {
    const SHOWN: usize = 5;
    let mut text = fixed
        .iter()
        .take(SHOWN)
        .map(|c| {
            let why = c.fixed.as_deref().unwrap_or_default();
            format!("`{}` changes ({why})", c.name)
        })
        .collect::<Vec<_>>()
        .join(", ");
    if fixed.len() > SHOWN {
        text.push_str(", …");
    }
    text
}

/// Claims the output, and the right to change the plan.
fn claim(args: &Args, output: &Path, ui: &Ui) -> anyhow::Result<fsx::FileLock> {
    let plan = &args.plan;
    let mut inputs = args.checkpoint()?.to_vec();
    inputs.extend(args.overlay.inputs());
    let alone = super::lock_plan(output, ui);
    // An interrupted change is finished first, since the manifest that is read next may not be the
    // plan's yet.
    plan::settle(plan)?;
    inputs.extend(plan::read_sources(plan)?);
    // Through links: the plan under another name is still the plan that is read.
    let in_place = fsx::resolve(plan) == fsx::resolve(output);
    if !in_place {
        inputs.extend([plan.clone(), plan::manifest_path(plan)]);
    }
    let replaces = in_place.then_some(plan.as_path());
    for said in plan::claim(output, &inputs, replaces, args.force)? {
        ui.event(Event::Warn(&said));
    }
    Ok(alone)
}

impl Args {
    /// How many of the positional arguments after the first are plans as well.
    fn more_plans(&self) -> usize {
        let plans = self.rest.iter().take_while(|p| pipeline::is_plan(p));
        plans.count()
    }

    /// The files of the checkpoint: all from the first on that is no plan.
    fn checkpoint(&self) -> Result<&[PathBuf], UsageError> {
        let files = &self.rest[self.more_plans()..];
        match files.iter().find(|p| pipeline::is_plan(p)) {
            None => Ok(files),
            Some(plan) => Err(UsageError::new(
                format!(
                    "`{}` is a plan, and stands behind a checkpoint",
                    plan.display()
                ),
                "name the plans first, and then the files that they get",
            )),
        }
    }
}

pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    let checkpoint = args.checkpoint()?;
    check_asked(checkpoint, &args.overlay, args.base)?;
    if args.more_plans() > 0 {
        return several::run(args, ui, environment);
    }
    let output = args.output.as_ref().unwrap_or(&args.plan);
    let _alone = claim(args, output, ui)?;
    let start = Instant::now();
    let request = OverlayRequest {
        memo: super::memo(environment, args.rehash),
        ..args.overlay.request(checkpoint.to_vec())
    };
    // The engine is loaded while the files are read, unless it will not be used.
    let opening = if args.dry_run {
        Opening::WhenNeeded
    } else {
        Opening::Meanwhile
    };
    let mut prepared = pipeline::prepare(&args.plan, &request, opening, environment, ui)?;
    let fixed: Vec<WeightState> = prepared.fixed().cloned().collect();
    let live = prepared.is_live();
    let mut report = RefitReport::of(&prepared, &args.plan, output, start.elapsed());
    let rebuild_allowed = args.fallback == Fallback::Rebuild;
    // Said before the engine is touched: a refit of the rest alone would be neither the old model
    // nor the new one.
    if !fixed.is_empty() && !rebuild_allowed {
        return Err(NotEnough::of(None, &prepared, fixed).into());
    }
    // A plan that already holds these weights is left alone, unless it is wanted under another name.
    if args.dry_run || (live && args.output.is_none()) {
        // There is nothing to write, but whether the engine computes what it should was asked.
        if args.verify && !args.dry_run {
            report.verified(prepared.verify(output, environment, ui)?);
        }
        ui.result(&report)?;
        return Ok(Exit::Done);
    }
    let refitted = if fixed.is_empty() {
        match prepared.commit(output, args.verify, environment, ui) {
            Ok(done) => Some(done),
            Err(e) if rebuild_allowed => {
                ui.event(Event::Warn(&format!(
                    "the refit failed, so the model is compiled with these weights: {e}"
                )));
                None
            }
            Err(e) => return Err(e.into()),
        }
    } else {
        ui.event(Event::Warn(&format!(
            "a refit is not enough, so the model is compiled with these weights: {}",
            list(&fixed)
        )));
        None
    };
    report.written = true;
    match refitted {
        Some(done) => report.refitted(done),
        None => report.rebuilt(prepared.rebuild(output, environment, ui)?),
    }
    report.digest = prepared.manifest.plan.digest;
    ui.result(&report)?;
    Ok(Exit::Done)
}
