//! Which commands do what a comparison found.

use super::Args;
use crate::diff::{Reason, Verdict};
use crate::pipeline::{OverlayRequest, ThingKind, kind_of, next};
use crate::plan::{self, Manifest, WeightRow};
use std::path::{Path, PathBuf};

/// A plan that was built from what is compared, where none is.
const PLAN: &str = "PLAN";
/// An export of the model from the new weights.
const EXPORT: &str = "NEW_EXPORT.onnx";

/// The commands, in order; none where nothing is to be done or it cannot be decided.
pub(super) fn commands(args: &Args, verdict: Verdict, reasons: &[Reason]) -> Vec<String> {
    if matches!(verdict, Verdict::Live | Verdict::Unknown) {
        return Vec::new();
    }
    let recompile = verdict == Verdict::NeedsRecompile;
    let asked = args.overlay.request(args.new.clone());
    let other_shapes = reasons.iter().any(Reason::is_reshaped);
    let new = args.new.first().map(PathBuf::as_path);
    let placeholder = Path::new(PLAN);
    match (kind_of(&args.old), new.map(kind_of), new) {
        (ThingKind::Plan, Some(ThingKind::Plan), Some(new)) => {
            from_plan(args, new, recompile).into_iter().collect()
        }
        (ThingKind::Plan, Some(ThingKind::Model), Some(new)) if recompile => {
            vec![build(args, new)]
        }
        // A tensor of another shape is of another graph, which only a new export is.
        (ThingKind::Plan, ..) if other_shapes => vec![next::build(&args.old, Path::new(EXPORT))],
        (ThingKind::Plan, ..) => {
            if reasons
                .iter()
                .any(|r| matches!(r, Reason::ShapesOutside { .. }))
            {
                return for_shapes(args, asked);
            }
            vec![next::refit(&args.old, &asked, recompile)]
        }
        (_, Some(ThingKind::Model), Some(new)) if recompile => {
            vec![next::build_for(placeholder, new, None, &spec(args))]
        }
        // What is baked in, or what this engine cannot change, comes with a compilation of the same
        // model; all else with another export.
        (_, Some(ThingKind::Weights), _) if recompile && !reasons.iter().all(is_fixed) => {
            vec![next::build_for(
                placeholder,
                Path::new(EXPORT),
                None,
                &spec(args),
            )]
        }
        _ => vec![next::refit(placeholder, &asked, recompile)],
    }
}

/// Whether a compilation of the same model with other weights does it.
fn is_fixed(reason: &Reason) -> bool {
    reason.verdict() < Verdict::NeedsRecompile
        || matches!(
            reason,
            Reason::FixedChanged { .. } | Reason::BakedChanged { .. }
        )
}

/// The plan is compiled for other shapes, and gets the weights that it had, or those that are asked for.
fn for_shapes(args: &Args, asked: OverlayRequest) -> Vec<String> {
    let Ok(manifest) = plan::read_manifest(&args.old) else {
        return Vec::new();
    };
    let model =
        (args.overlay.model.clone()).unwrap_or_else(|| next::model_of(&args.old, &manifest));
    // A build gives the base weights, so that what lay over them has to follow.
    let weights = if !asked.checkpoint.is_empty() || !asked.loras.is_empty() {
        Some(asked)
    } else if manifest.recipe.ingredients.is_empty() {
        None
    } else if let Some(had) = next::asked_of(&args.old, &manifest) {
        Some(had)
    } else {
        // The build alone would bring the base weights back.
        return Vec::new();
    };
    let mut commands = vec![build(args, &model)];
    commands.extend(weights.map(|w| next::refit(&args.old, &w, false)));
    commands
}

/// The old plan with the weights of another one, or the other one itself.
fn from_plan(args: &Args, new: &Path, recompile: bool) -> Option<String> {
    let run = next::run(new);
    let (Ok(old), Ok(other)) = (plan::read_manifest(&args.old), plan::read_manifest(new)) else {
        return None;
    };
    // What would be compiled is there already: it is the other plan.
    if recompile {
        return Some(run);
    }
    // The other plan's recipe gives its weights only over the same base.
    let bases = |m: &Manifest| -> Vec<_> { m.weights.iter().map(WeightRow::base_digest).collect() };
    let request = if other.recipe.ingredients.is_empty() {
        // It holds its base weights, which are those of its model.
        OverlayRequest {
            checkpoint: vec![next::model_of(new, &other)],
            ..OverlayRequest::default()
        }
    } else if let Some(request) = next::asked_of(new, &other)
        && bases(&old) == bases(&other)
    {
        request
    } else {
        return Some(run);
    };
    Some(next::refit(&args.old, &request, false))
}

fn build(args: &Args, model: &Path) -> String {
    let spec = spec(args);
    if spec.is_empty() {
        return next::build(&args.old, model);
    }
    let manifest = plan::read_manifest(&args.old).ok();
    next::build_for(&args.old, model, manifest.as_ref(), &spec)
}

/// The shapes that are asked for, as arguments.
fn spec(args: &Args) -> Vec<String> {
    let file = args.shapes.iter();
    let file = file.flat_map(|f| ["--shapes".to_owned(), f.to_string_lossy().into_owned()]);
    file.chain(args.ranges.words()).collect()
}
