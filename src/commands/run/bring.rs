//! What is done to a plan before it runs: other weights, other ranges.

use super::report::Transition;
use super::{Args, OnRange};
use crate::arrays;
use crate::commands::{UsageError, refit};
use crate::diff::Verdict;
use crate::engine::Way;
use crate::pipeline::{self, Environment, Inputs, OpenPlan, Opening, OverlayRequest, Prepared};
use crate::plan::Manifest;
use crate::shapes::{self, InputShapes, Resolved};
use crate::tensor::NamedTensors;
use crate::ui::{self, Ui};
use crate::watch::{Event, Watch};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A plan that everything was checked for, and that nothing was done to yet.
pub(super) struct Ready {
    held: Held,
    pub(super) inputs: Inputs,
    pub(super) expected: Option<(NamedTensors, String)>,
    /// The range to recompile for, where the inputs are outside of the one that was built.
    moved: Option<Resolved>,
    /// The plan's model, where it is not where the manifest says.
    model: Option<PathBuf>,
}

/// The plan as it was found.
enum Held {
    /// No other weights are asked for.
    Open(Box<OpenPlan>),
    /// Other weights, resolved against it.
    Prepared(Box<Prepared>, Duration),
}

impl Held {
    fn manifest(&self) -> &Manifest {
        match self {
            Held::Open(plan) => &plan.manifest,
            Held::Prepared(prepared, _) => &prepared.manifest,
        }
    }

    /// Whether the plan will hold its base weights.
    fn is_base(&self) -> bool {
        match self {
            Held::Open(plan) => plan.manifest.recipe.ingredients.is_empty(),
            Held::Prepared(prepared, _) => prepared.gives_base(),
        }
    }
}

/// Resolves weights, inputs and expectation against the plan at `plan`. Nothing is written: whatever is wrong with what the
/// user gave comes to light here, while the plan is as it was.
pub(super) fn check(
    args: &Args,
    plan: &Path,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<Ready> {
    let request = super::input_request(args)?;
    super::super::tell_other_gpu(plan, false, ui);
    let mut held = if args.weights.is_empty() && args.overlay.lora.is_empty() {
        Held::Open(Box::new(pipeline::open(plan, environment)?))
    } else {
        let start = Instant::now();
        let asked = OverlayRequest {
            memo: crate::commands::memo(environment, args.cache.rehash),
            ..args.overlay.request(args.weights.clone())
        };
        let prepared = pipeline::prepare(plan, &asked, Opening::Meanwhile, environment, ui)?;
        Held::Prepared(Box::new(prepared), start.elapsed())
    };
    // Before inputs are drawn or a refit is made: options are quickly said and quickly wrong.
    match &mut held {
        Held::Open(open) => open.engine.check_options(&args.options())?,
        Held::Prepared(prepared, _) => prepared.check_options(&args.options(), environment)?,
    }
    let manifest = held.manifest();
    let context = || format!("the inputs do not fit `{}`", args.plan.display());
    let range = allowed(args.on_range, &manifest.shapes);
    let inputs = pipeline::gather_inputs(&request, &manifest.inputs, &manifest.outputs, &range)
        .with_context(context)?;
    let moved =
        moved_range(args.on_range, &manifest.shapes, &inputs.tensors).with_context(context)?;
    // Recorded outputs of other inputs would differ, and look like a wrong engine.
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
    let expected = match &args.expect {
        Some(file) => Some(pipeline::pick_expected(
            file,
            &manifest.outputs,
            held.is_base(),
        )?),
        None => None,
    };
    if let Some(path) = &args.save {
        arrays::check_dtypes(path, manifest.outputs.iter().map(|o| (&*o.name, o.dtype)))?;
    }
    if args.verify {
        let model = args.overlay.model.as_deref();
        pipeline::require_reference(plan, manifest, model, environment)?;
    }
    Ok(Ready {
        held,
        inputs,
        expected,
        moved,
        model: args.overlay.model.clone(),
    })
}

impl Ready {
    /// Brings the plan to the weights and the range that are asked for: nothing, a refit, or a recompile where a refit is not
    /// enough or fails. The plan is written once at most.
    pub(super) fn bring(
        self,
        plan: &Path,
        ui: &Ui,
        environment: &Environment,
    ) -> anyhow::Result<(Vec<Transition>, OpenPlan)> {
        let Ready {
            held, moved, model, ..
        } = self;
        let (mut prepared, resolved) = match held {
            Held::Prepared(prepared, time) => (prepared, time),
            Held::Open(open) => {
                let Some(shapes) = moved else {
                    return Ok((Vec::new(), *open));
                };
                return Ok((
                    Vec::new(),
                    range(plan, *open, model.as_deref(), &shapes, ui, environment)?,
                ));
            }
        };
        let start = Instant::now();
        let verdict = prepared.decision.diff.verdict;
        let fixed: Vec<_> = prepared.fixed().cloned().collect();
        let differ = format!(
            "{} of {} differ",
            prepared.decision.changes.len(),
            ui::count(prepared.manifest.weights.len(), "weight")
        );
        // A compilation for other sizes gives the new weights too, so that no refit has to come before it.
        let mut recompile = match (&moved, &fixed[..]) {
            (Some(_), _) => Some("the inputs are outside of the range that was built".into()),
            (None, []) => None,
            (None, fixed) => Some(refit::list(fixed)),
        };
        let (mut state, mut action) = (verdict, "run");
        let mut reason = "the plan holds exactly these weights".to_owned();
        if recompile.is_none() && verdict != Verdict::Live {
            // Before the refit, after which the manifest tells of the new weights.
            let back = pipeline::next::back(plan, &prepared.manifest);
            // What a stripped or an unproven plan holds is nothing that a refit could go back to.
            let held = !prepared.manifest.stripped && !prepared.manifest.unproven;
            // Without a check: `--verify` of a run is about the outputs of the run, on its own inputs.
            match prepared.commit(plan, false, environment, ui) {
                Ok(done) => {
                    let parser = match done.way {
                        Way::ByName => "",
                        Way::ByParser => ", given by the library's parser",
                    };
                    (action, reason) = ("refit", differ + parser);
                    if let Some(back) = back.filter(|_| held) {
                        ui.event(Event::Status(&format!("way back: {back}")));
                    }
                }
                Err(e) => recompile = Some(format!("the refit failed: {e}")),
            }
        }
        if let Some(why) = recompile {
            match &moved {
                Some(shapes) => {
                    let built = prepared.manifest.shapes.clone();
                    let time = prepared.rebuild_for(plan, shapes.clone(), environment, ui)?;
                    say_moved(plan, &built, shapes, time, ui);
                }
                None => drop(prepared.rebuild(plan, environment, ui)?),
            }
            (state, action, reason) = (Verdict::NeedsRecompile, "recompile", why);
        }
        let step = Transition::new(state, action, reason, resolved + start.elapsed());
        ui.event(Event::Status(&step.to_string()));
        Ok((vec![step], prepared.into_open(environment)?))
    }
}

/// Sizes that inputs may have under `policy`, for a plan that was built for `built`.
pub(super) fn allowed(policy: OnRange, built: &Resolved) -> Resolved {
    match policy {
        OnRange::Error => built.clone(),
        OnRange::Recompile | OnRange::Widen => built.unbounded(),
    }
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

/// Compiles the plan for other ranges, and opens it again.
fn range(
    path: &Path,
    plan: OpenPlan,
    model: Option<&Path>,
    shapes: &Resolved,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<OpenPlan> {
    let OpenPlan { manifest, engine } = plan;
    // Two engines of a large model at a time may not fit.
    drop(engine);
    let time = pipeline::recompile(path, &manifest, model, shapes, environment, ui)?;
    say_moved(path, &manifest.shapes, shapes, time, ui);
    Ok(pipeline::open(path, environment)?)
}

fn say_moved(plan: &Path, built: &Resolved, shapes: &Resolved, time: Duration, ui: &Ui) {
    let show = |r: &Resolved| r.show_profiles().join("; or ");
    ui.event(Event::Warn(&format!(
        "recompiled `{}` for sizes outside of its range, in {}: it was built for {}, and is now for {}",
        plan.display(),
        ui::duration(time),
        show(built),
        show(shapes)
    )));
}
