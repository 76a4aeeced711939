//! What is done to a plan before it runs: other weights, other ranges.

use super::report::Transition;
use super::{Args, OnRange};
use crate::commands::refit;
use crate::pipeline::{self, Environment, OpenPlan, Opening};
use crate::shapes::{self, InputShapes, Resolved};
use crate::tensor::NamedTensors;
use crate::ui::{self, Ui};
use crate::watch::{Event, Watch};
use std::time::{Duration, Instant};

/// Brings the plan to the weights that are asked for: nothing, a refit, or a recompile where a refit is not enough or fails.
/// The plan is handed out open where it was opened for that.
pub(super) fn weights(
    args: &Args,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<(Vec<Transition>, Option<OpenPlan>)> {
    let mut transitions = Vec::new();
    if args.weights.is_empty() && args.overlay.lora.is_empty() {
        return Ok((transitions, None));
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
    let mut prepared =
        pipeline::prepare(&args.plan, &request, Opening::Meanwhile, environment, ui)?;
    let differ = format!(
        "{} of {} differ",
        prepared.decision.changes.len(),
        ui::count(prepared.manifest.weights.len(), "weight")
    );
    if prepared.is_live() {
        step(
            "LIVE",
            "run",
            "the plan holds exactly these weights".into(),
            start.elapsed(),
        );
        return Ok((transitions, Some(prepared.into_open(environment)?)));
    }
    let fixed: Vec<_> = prepared.fixed().cloned().collect();
    let mut recompile = None;
    if fixed.is_empty() {
        match prepared.commit(&args.plan, false, environment, ui) {
            Ok(_) => step("NEEDS_REFIT", "refit", differ, start.elapsed()),
            Err(e) => recompile = Some(format!("the refit failed: {e}")),
        }
    } else {
        recompile = Some(refit::list(&fixed));
    }
    if let Some(reason) = recompile {
        prepared.rebuild(&args.plan, environment, ui)?;
        step("NEEDS_RECOMPILE", "recompile", reason, start.elapsed());
    }
    Ok((transitions, Some(prepared.into_open(environment)?)))
}

/// The range to recompile for, where the inputs are outside of the one that was built.
pub(super) fn moved_range(
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
pub(super) fn range(
    args: &Args,
    plan: OpenPlan,
    shapes: &Resolved,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<OpenPlan> {
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
    let OpenPlan { manifest, engine } = plan;
    // Two engines of a large model at a time may not fit.
    drop(engine);
    let time = pipeline::recompile(&args.plan, &manifest, shapes, environment, ui)?;
    ui.event(Event::Warn(&format!(
        "recompiled `{}` for sizes outside of its range, in {}: it was built for {}, and is now for {}",
        args.plan.display(),
        ui::duration(time),
        show(&manifest.shapes),
        show(shapes)
    )));
    Ok(pipeline::open(&args.plan, environment)?)
}
