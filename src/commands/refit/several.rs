//! `trtmut refit` of several plans: each takes its part of the files, and all of them change together or none.

use super::report::{RefitReport, SeveralReport};
use super::{Args, Fallback, NotEnough};
use crate::commands::{UsageError, lock_plan};
use crate::diff::WeightState;
use crate::exit::Exit;
use crate::fsx::{self, Stamp};
use crate::pipeline::{self, Environment, OverlayRequest, Prepared};
use crate::plan;
use crate::ui::Ui;
use crate::watch::{Event, Watch};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Runs the command for the plans that `args` names; there are at least two.
///
/// # Errors
/// Anything that `commands::explain` knows; no plan has changed then.
pub(super) fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    let more = &args.rest[..args.more_plans()];
    let plans: Vec<PathBuf> = std::iter::once(&args.plan).chain(more).cloned().collect();
    check_options(args)?;
    let outputs = outputs(args, &plans)?;
    let _alone = lock_in_order(&outputs, ui);
    claim(args, &plans, &outputs, ui)?;
    let start = Instant::now();
    let request = OverlayRequest {
        memo: crate::commands::memo(environment, args.rehash),
        ..args.overlay.request(args.checkpoint()?.to_vec())
    };
    let mut prepared = pipeline::prepare_all(&plans, &request, environment, ui)?;
    let resolve = start.elapsed();
    let mut report = SeveralReport {
        written: false,
        plans: (prepared.iter().zip(plans.iter().zip(&outputs)))
            .map(|(one, (plan, output))| RefitReport::one_of(one, plan, output, resolve))
            .collect(),
    };
    let rebuild = args.fallback == Fallback::Rebuild;
    // Every plan is looked at before the first is refitted: one that a refit is not enough for
    // stops all.
    for (plan, one) in plans.iter().zip(&prepared) {
        let fixed: Vec<WeightState> = one.fixed().cloned().collect();
        if fixed.is_empty() {
            continue;
        }
        if !rebuild {
            return Err(NotEnough::of(Some(plan), one, fixed).into());
        }
        ui.event(Event::Warn(&format!(
            "a refit is not enough for `{}`, so its model is compiled with these weights: {}",
            plan.display(),
            super::list(&fixed)
        )));
    }
    if !args.dry_run {
        change(args, &mut prepared, &outputs, &mut report, environment, ui)?;
    }
    ui.result(&report)?;
    Ok(Exit::Done)
}

/// Writes every plan that is to change, and puts them in place together.
fn change(
    args: &Args,
    prepared: &mut [Prepared],
    outputs: &[PathBuf],
    report: &mut SeveralReport,
    environment: &Environment,
    ui: &Ui,
) -> anyhow::Result<()> {
    let rebuild = args.fallback == Fallback::Rebuild;
    let mut ready = Vec::new();
    let all = prepared.iter_mut().zip(outputs);
    for ((one, output), report) in all.zip(&mut report.plans) {
        // A plan that already holds these weights is left alone, unless it is wanted under another name.
        if one.is_live() && args.output.is_none() {
            if args.verify {
                report.verified(one.verify(output, environment, ui)?);
            }
            continue;
        }
        let (staged, done) =
            pipeline::stage_one(one, output, args.verify, rebuild, environment, ui)?;
        match done {
            Ok(refitted) => report.refitted(refitted),
            Err(time) => report.rebuilt(time),
        }
        report.digest = staged.manifest().plan.digest;
        report.written = true;
        ready.push(staged);
    }
    report.written = !ready.is_empty();
    // Only when all are written: until here nothing has changed.
    pipeline::put_in_place(ready)?;
    Ok(())
}

/// Options that say something of one plan.
fn check_options(args: &Args) -> Result<(), UsageError> {
    let overlay = &args.overlay;
    let given = [
        (overlay.component.is_some(), "--component"),
        (overlay.mapping.is_some(), "--mapping"),
        (overlay.model.is_some(), "--model"),
    ];
    match given.iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, option)) => Err(UsageError::new(
            format!("{option} is said of one plan, and several are given"),
            "leave it out: names and shapes say which part a plan takes; or refit that plan by itself",
        )),
    }
}

/// Where each plan goes, no two to one place.
fn outputs(args: &Args, plans: &[PathBuf]) -> Result<Vec<PathBuf>, UsageError> {
    let mut inodes: BTreeMap<(u64, u64), &Path> = BTreeMap::new();
    for plan in plans {
        // A plan that is not there is told of where it is opened.
        let Ok(meta) = plan.metadata() else { continue };
        // By inode, since a plan may be named through a link, and would be written twice.
        if let Some(first) = inodes.insert(Stamp::of(&meta).file(), plan) {
            return Err(UsageError::new(
                format!(
                    "`{}` and `{}` are one plan",
                    first.display(),
                    plan.display()
                ),
                "name each plan once",
            ));
        }
    }
    let Some(folder) = &args.output else {
        return Ok(plans.to_vec());
    };
    if !folder.is_dir() {
        return Err(UsageError::new(
            format!(
                "`{}` is no folder, and several plans do not go into one file",
                folder.display()
            ),
            "name a folder that exists with -o, or leave -o out to change the plans themselves",
        ));
    }
    let mut outputs: Vec<PathBuf> = Vec::new();
    for plan in plans {
        let output = folder.join(plan.file_name().unwrap_or_default());
        if outputs.contains(&output) {
            return Err(UsageError::new(
                format!("two plans would go to `{}`", output.display()),
                "refit them one after the other, or give them names of their own",
            ));
        }
        outputs.push(output);
    }
    Ok(outputs)
}

/// The right to change each of `outputs`, taken in the order of their paths: two commands cannot then wait for each other.
fn lock_in_order(outputs: &[PathBuf], ui: &Ui) -> Vec<fsx::FileLock> {
    let place = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    let mut sorted: Vec<&PathBuf> = outputs.iter().collect();
    sorted.sort_by_cached_key(|p| place(p));
    sorted.into_iter().map(|p| lock_plan(p, ui)).collect()
}

/// Claims every output: none of them is a file that is read, but for the plan that it replaces.
fn claim(args: &Args, plans: &[PathBuf], outputs: &[PathBuf], ui: &Ui) -> anyhow::Result<()> {
    let mut inputs = args.checkpoint()?.to_vec();
    inputs.extend(args.overlay.inputs());
    for plan in plans {
        plan::settle(plan)?;
        inputs.extend(plan::read_sources(plan)?);
    }
    for (plan, output) in plans.iter().zip(outputs) {
        let in_place = fsx::resolve(plan) == fsx::resolve(output);
        let mut inputs = inputs.clone();
        // A plan may replace itself and no other one.
        let others = plans.iter().filter(|p| !(in_place && *p == plan));
        inputs.extend(others.flat_map(|p| [p.clone(), plan::manifest_path(p)]));
        let replaces = in_place.then_some(plan.as_path());
        for said in plan::claim_together(output, &inputs, replaces, args.force)? {
            ui.event(Event::Warn(&said));
        }
    }
    Ok(())
}
