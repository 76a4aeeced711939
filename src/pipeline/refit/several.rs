//! One checkpoint or LoRA for several plans: what each takes of it.

use super::prepared::{Opening, Prepared, Refitted, prepare};
use super::ready::Ready;
use super::rebuild;
use super::request::OverlayRequest;
use crate::pipeline::environment::Environment;
use crate::pipeline::error::Error;
use crate::watch::{Event, Watch};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Resolves `request` against each of `plans`. The names and shapes of a plan's weights say which part of a file it takes.
/// No engine is opened.
///
/// # Errors
/// [`Error::OfPlan`]; [`Error::Overlay`] for a part that no plan takes, unless it is ignored, and for a plan that takes none.
pub fn prepare_all(
    plans: &[PathBuf],
    request: &OverlayRequest,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Vec<Prepared>, Error> {
    let request = OverlayRequest {
        shared: true,
        ..request.clone()
    };
    let one = |plan: &PathBuf| {
        prepare(plan, &request, Opening::WhenNeeded, environment, watch)
            .map_err(|cause| cause.of_plan(plan))
    };
    let prepared: Vec<Prepared> = plans.iter().map(one).collect::<Result<_, _>>()?;
    check_parts(plans, &request, &prepared)?;
    Ok(prepared)
}

/// Writes one of several plans beside its place. Its engine is closed then, since all of them at a time may not fit into memory.
/// Where no refit is enough, or it fails and `rebuild` is allowed, the model is compiled; then there is no [`Refitted`], but the
/// time that took.
///
/// # Errors
/// As [`Prepared::stage`], with the plan.
pub fn stage_one(
    prepared: &mut Prepared,
    output: &Path,
    verify: bool,
    rebuild: bool,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<(Ready, Result<Refitted, Duration>), Error> {
    let plan = prepared.plan().to_owned();
    if prepared.fixed().next().is_none() {
        let staged = prepared.stage(output, verify, environment, watch);
        prepared.close();
        match staged {
            Ok((ready, refitted)) => return Ok((ready, Ok(refitted))),
            Err(e) if rebuild => watch.event(Event::Warn(&format!(
                "the refit of `{}` failed, so its model is compiled with these weights: {e}",
                plan.display()
            ))),
            Err(e) => return Err(e.of_plan(&plan)),
        }
    }
    let manifest = prepared.refitted_manifest(output);
    let (ready, time) = rebuild::stage(prepared.overlay(), manifest, output, environment, watch)
        .map_err(|e| e.of_plan(&plan))?;
    Ok((ready, Err(time)))
}

/// Every part is taken by some plan, and every plan takes some part.
fn check_parts(
    plans: &[PathBuf],
    request: &OverlayRequest,
    prepared: &[Prepared],
) -> Result<(), Error> {
    let (mut problems, mut hints) = (Vec::new(), Vec::new());
    let mut parts: BTreeMap<(&Path, &str), (bool, usize, Vec<String>)> = BTreeMap::new();
    for (plan, one) in plans.iter().zip(prepared) {
        let own = &one.overlay().parts;
        for part in own {
            let entry = parts.entry((&part.file, &part.name)).or_default();
            entry.0 |= part.taken;
            entry.1 = entry.1.max(part.size);
            let why = part.why.as_ref();
            entry
                .2
                .extend(why.map(|why| format!("it is not for `{}`: {why}", plan.display())));
        }
        // A checkpoint that gives a plan nothing was refused when that plan's decision was made.
        if request.checkpoint.is_empty() && !own.is_empty() && !own.iter().any(|p| p.taken) {
            problems.push(format!(
                "nothing of what is given is for `{}`",
                plan.display()
            ));
            hints.push(format!(
                "leave `{}` out of the command: its weights then stay as they are",
                plan.display()
            ));
        }
    }
    for ((file, name), (taken, size, why)) in parts {
        if taken || request.permissions.ignores(name) {
            continue;
        }
        problems.push(format!(
            "none of the plans takes the part `{name}` of `{}` ({size} {})",
            file.display(),
            if request.loras.iter().any(|(f, _)| f == file) {
                "modules"
            } else {
                "tensors"
            }
        ));
        hints.extend(why);
        hints.push(format!(
            "give the plan that it is for as well, or let it go with `--ignore {name}`"
        ));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Overlay { problems, hints })
    }
}
