//! `trtmut refit`: give a plan other weights.

use super::overlay::{OverlayArgs, check_asked};
use crate::diff::{Reason, Told, Verdict, WeightState};
use crate::exit::Exit;
use crate::fault::{Class, Explain};
use crate::fsx;
use crate::pipeline::{self, Environment, Opening, Verification};
use crate::plan::{self, Recipe};
use crate::tensor::Digest;
use crate::ui::{self, Report, Ui};
use crate::watch::{Event, Watch};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Arguments of `trtmut refit`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A refit is a pure function of the base weights (those of the ONNX file) and what is given here: what was \
    refitted before leaves no trace, and a LoRA given twice in two refits is applied once.\n\n\
    Examples:\n  \
    trtmut refit engine.plan fused.safetensors\n  \
    trtmut refit engine.plan --lora style.safetensors:0.8 --lora detail.safetensors:0.3\n  \
    trtmut refit engine.plan --base"
)]
pub struct Args {
    /// The plan
    plan: PathBuf,

    /// Checkpoint: one or more .safetensors files, an index of shards, or a folder with one
    weights: Vec<PathBuf>,

    #[command(flatten)]
    overlay: OverlayArgs,

    /// Go back to the base weights
    #[arg(long)]
    base: bool,

    /// Where the result goes (default: the plan itself)
    #[arg(short, long, value_name = "PLAN")]
    output: Option<PathBuf>,

    /// Compare what the refitted engine computes with a reference engine on drawn inputs; write nothing where it differs
    #[arg(long)]
    verify: bool,

    /// Write over a file that is no plan of trtmut
    #[arg(long)]
    force: bool,

    /// What to do where a refit is not enough, or fails
    #[arg(long, value_enum, default_value_t = Fallback::None)]
    fallback: Fallback,

    /// Find out what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// `--fallback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Fallback {
    /// Fail
    None,
    /// Compile the model with these weights
    Rebuild,
}

#[derive(Debug, Serialize)]
struct RefitReport {
    plan: PathBuf,
    output: PathBuf,
    verdict: Verdict,
    written: bool,
    rebuilt: bool,
    /// The plan was stripped, and held no weights before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    filled: bool,
    digest: Digest,
    weights: usize,
    /// All that the verdict rests on, as `diff` gives it.
    reasons: Vec<Reason>,
    changed: Vec<String>,
    /// Tensors of the file that the model does not use.
    unused: Vec<String>,
    /// Tensors and weights that `--ignore` lets go.
    ignored: Vec<String>,
    /// Weights whose tensor is not given: they have their base values (`--partial`).
    missing: Vec<String>,
    recipe: Recipe,
    resolve_ns: u64,
    apply_ns: u64,
    write_ns: u64,
    /// Reference that the result was verified against.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// Largest relative L2 error of an output against the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<f64>,
}

impl Report for RefitReport {
    const SCHEMA: &'static str = "trtmut.refit/2";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let show = |ns| ui::duration(Duration::from_nanos(ns));
        let what = format!(
            "{} of {} differ",
            self.changed.len(),
            ui::count(self.weights, "weight")
        );
        self.left_out(out)?;
        match (self.verdict, self.written) {
            (Verdict::Live, false) => {
                writeln!(out, "LIVE  the plan holds exactly these weights")?;
                self.verification(out)
            }
            (verdict, false) => writeln!(out, "{verdict}  {what}; nothing was written"),
            (_, true) if self.rebuilt => writeln!(
                out,
                "rebuilt {}  {what}; compiled in {}",
                self.output.display(),
                show(self.apply_ns)
            ),
            (_, true) => {
                let verb = if self.filled { "filled" } else { "refitted" };
                writeln!(
                    out,
                    "{verb} {}  {what}; found out in {}, applied in {}, written in {}",
                    self.output.display(),
                    show(self.resolve_ns),
                    show(self.apply_ns),
                    show(self.write_ns)
                )?;
                self.verification(out)
            }
        }
    }
}

impl RefitReport {
    fn verified(&mut self, found: Verification) {
        self.error = Some(found.largest_error());
        self.reference = Some(found.reference);
    }

    /// What of the file reaches nothing, in a line each.
    fn left_out(&self, out: &mut dyn Write) -> io::Result<()> {
        for (names, what) in [
            (&self.unused, "not used by the model"),
            (&self.ignored, "let go by --ignore"),
            (&self.missing, "not given, with its base value"),
        ] {
            if let [first, ..] = &names[..] {
                let more = match names.len() {
                    1 => String::new(),
                    n => format!(" and {} more", n - 1),
                };
                writeln!(out, "  {what}: `{first}`{more}")?;
            }
        }
        Ok(())
    }

    fn verification(&self, out: &mut dyn Write) -> io::Result<()> {
        match (&self.reference, self.error) {
            (Some(reference), Some(error)) => writeln!(
                out,
                "  verified against {reference}: largest relative L2 error {error:.1e}"
            ),
            _ => Ok(()),
        }
    }
}

/// A refit is not enough.
#[derive(Debug, thiserror::Error)]
#[error("a refit is not enough: {}", list(.fixed))]
pub struct NotEnough {
    fixed: Vec<WeightState>,
    decision: Box<Told>,
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

impl Explain for NotEnough {
    fn code(&self) -> &'static str {
        "needs-recompile"
    }

    fn class(&self) -> Class {
        Class::NeedsRecompile
    }

    fn details(&self) -> Option<serde_json::Value> {
        serde_json::to_value(&self.decision).ok()
    }

    fn hints(&self) -> Vec<String> {
        vec!["`--fallback rebuild` compiles the model with these weights instead".into()]
    }
}

/// Claims the output, and the right to change the plan.
fn claim(args: &Args, output: &Path, ui: &Ui) -> anyhow::Result<fsx::FileLock> {
    let mut inputs = args.weights.clone();
    inputs.extend(args.overlay.inputs());
    let alone = super::lock_plan(output, ui);
    inputs.extend(plan::sources(&args.plan, &plan::read_manifest(&args.plan)?));
    let in_place = fsx::resolve(&args.plan) == fsx::resolve(output);
    if !in_place {
        inputs.extend([args.plan.clone(), plan::manifest_path(&args.plan)]);
    }
    let replaces = in_place.then_some(args.plan.as_path());
    for said in plan::claim(output, &inputs, replaces, args.force)? {
        ui.event(Event::Warn(&said));
    }
    Ok(alone)
}

/// Runs the command.
///
/// # Errors
/// Anything that `commands::explain` knows.
pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    check_asked(&args.weights, &args.overlay, args.base)?;
    let output = args.output.as_ref().unwrap_or(&args.plan);
    let _alone = claim(args, output, ui)?;
    let start = Instant::now();
    let request = args.overlay.request(args.weights.clone());
    let opening = if args.dry_run {
        Opening::WhenNeeded
    } else {
        Opening::Meanwhile
    };
    let mut prepared = pipeline::prepare(&args.plan, &request, opening, environment, ui)?;
    let resolve = start.elapsed();
    let fixed: Vec<WeightState> = prepared.fixed().cloned().collect();
    let live = prepared.is_live();
    let mut report = RefitReport {
        plan: args.plan.clone(),
        output: output.clone(),
        verdict: prepared.decision.diff.verdict,
        written: false,
        rebuilt: false,
        filled: prepared.manifest.stripped,
        digest: prepared.manifest.plan.digest,
        weights: prepared.manifest.weights.len(),
        reasons: prepared.decision.diff.reasons.clone(),
        changed: prepared
            .decision
            .changes
            .iter()
            .map(|c| c.name.clone())
            .collect(),
        unused: prepared.decision.unused.clone(),
        ignored: prepared.decision.ignored.clone(),
        missing: (prepared.decision.missing.iter())
            .map(|m| m.weight.clone())
            .collect(),
        recipe: prepared.overlay().recipe.clone(),
        resolve_ns: resolve.as_nanos() as u64,
        apply_ns: 0,
        write_ns: 0,
        reference: None,
        error: None,
    };
    let rebuild_allowed = args.fallback == Fallback::Rebuild;
    if !fixed.is_empty() && !rebuild_allowed {
        let decision = Box::new(prepared.decision.told());
        return Err(NotEnough { fixed, decision }.into());
    }
    // A plan that already holds these weights is left alone, unless it is wanted under another name.
    if args.dry_run || (live && args.output.is_none()) {
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
    if let Some(done) = refitted {
        report.apply_ns = done.apply.as_nanos() as u64;
        report.write_ns = done.write.as_nanos() as u64;
        if let Some(v) = done.verification {
            report.verified(v);
        }
    } else {
        let time = prepared.rebuild(output, environment, ui)?;
        report.rebuilt = true;
        report.apply_ns = time.as_nanos() as u64;
    }
    report.digest = prepared.manifest.plan.digest;
    ui.result(&report)?;
    Ok(Exit::Done)
}
