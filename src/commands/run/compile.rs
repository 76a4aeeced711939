//! A model instead of a plan: compiled on first use, through the cache, into a temporary place. Nothing is written beside it.

use super::bring::allowed;
use super::report::Transition;
use super::{Args, input_request};
use crate::commands::UsageError;
use crate::commands::shape_args::{misfit, read_spec};
use crate::diff::Verdict;
use crate::fault::Explain;
use crate::fsx;
use crate::onnx::Model;
use crate::pipeline::{self, BackendChoice, BuildRequest, CacheUse, Environment, MappingSource};
use crate::shapes::{self, Overrides, Resolved};
use crate::ui::Ui;
use crate::watch::{Event, Watch};
use anyhow::Context;
use std::path::{Path, PathBuf};

/// Where the plan is that runs.
pub(super) struct Place {
    pub(super) plan: PathBuf,
    /// What was done to have it.
    pub(super) compiled: Option<Transition>,
    // Held as long as the plan is: it is removed with what is in it.
    _folder: Option<fsx::Scratch>,
}

/// The plan that was given, or one that was compiled from the model that was given.
pub(super) fn place(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Place> {
    if !pipeline::is_model(&args.plan) {
        let given = [
            (args.shapes.is_some(), "--shapes is"),
            (args.backend != BackendChoice::Auto, "--backend is"),
            (
                !args.engine.options().is_empty(),
                "options of the compilation are",
            ),
        ];
        if let Some((_, what)) = given.iter().find(|(given, _)| *given) {
            return Err(UsageError::new(
                format!(
                    "{what} for a model that is compiled first; `{}` is none",
                    args.plan.display()
                ),
                "give sizes with --shape or --dim; a plan takes others than it was built for with --on-range",
            )
            .into());
        }
        return Ok(Place {
            plan: args.plan.clone(),
            compiled: None,
            _folder: None,
        });
    }
    let inputs = input_request(args)?;
    let model = Model::open(&args.plan)?;
    let resolved = resolve(args, &model)?;
    // Compiling may take minutes; inputs that do not fit are known before.
    let range = allowed(args.on_range, &resolved);
    pipeline::gather_inputs(&inputs, model.inputs(), model.outputs(), &range)
        .with_context(|| format!("the inputs do not fit `{}`", args.plan.display()))?;
    compile(args, &model, &resolved, ui, environment)
}

/// The range to compile for.
fn resolve(args: &Args, model: &Model) -> anyhow::Result<Resolved> {
    let resolved =
        read_spec(args.shapes.as_deref())?.resolve(model.inputs(), &Overrides::default());
    if let Err(source @ shapes::Error::Model { origin: None, .. }) = resolved {
        let model = args.plan.clone();
        return Err(Unranged { model, source }.into());
    }
    match &args.shapes {
        Some(spec) => resolved.with_context(|| misfit(spec, &args.plan)),
        None => Ok(resolved?),
    }
}

/// Nothing says for which sizes a dynamic model is to be compiled. `--dim` of `run` is one size and no range, so that what `build`
/// would hint at does not help.
#[derive(Debug, thiserror::Error, Explain)]
#[error("`{}` has dynamic sizes, and needs a shape spec (--shapes) to be compiled", .model.display())]
#[explain(code = "shapes-model-mismatch", class = Input, hints = with_a_range(model, source))]
pub struct Unranged {
    /// The model.
    pub(in crate::commands) model: PathBuf,
    /// The axes without a range, and a spec to fill in.
    pub(in crate::commands) source: shapes::Error,
}

fn with_a_range(model: &Path, source: &shapes::Error) -> Vec<String> {
    let build = shlex::try_join(["trtmut", "build", &model.to_string_lossy()]);
    let build = build.unwrap_or_else(|_| "trtmut build MODEL.onnx".into());
    let mut hints = vec![format!(
        "build a plan with a range for each dim, `{build} --dim NAME=min:opt:max`, and run that"
    )];
    if let shapes::Error::Model { suggestion, .. } = source {
        hints.push(format!(
            "or write a spec for --shapes (`{build} --print-shapes` prints this one to fill in):\n{suggestion}"
        ));
    }
    hints
}

fn compile(
    args: &Args,
    model: &Model,
    shapes: &Resolved,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<Place> {
    let settings = args.engine.settings(args.threads.map(usize::from));
    let mut backend = pipeline::choose(args.backend, model, &settings, environment, ui)?;
    let cache = args.cache.request(backend.as_ref(), environment, ui)?;
    if let Some(cache) = &cache {
        pipeline::keep_timings(backend.as_mut(), &cache.store);
    }
    let folder = fsx::Scratch::beside(std::env::temp_dir().join("engine.plan"))?;
    // In a folder of its own: that of the scratch is locked, and so is a plan's while it is replaced.
    let inner = folder.path().join("plan");
    std::fs::create_dir(&inner).map_err(|e| fsx::Error::write(&inner, e))?;
    let plan = inner.join("engine.plan");
    let built = pipeline::build_cached(
        &BuildRequest {
            model,
            model_path: &args.plan,
            shapes,
            mapping: MappingSource::Infer {
                files: &args.overlay.base_weights,
                partial: args.overlay.partial,
                component: args.overlay.component.as_deref(),
                probe: None,
            },
            options: &pipeline::with_plugins(args.engine.options(), environment)?,
            backend: backend.as_ref(),
            output: &plan,
            force: false,
        },
        cache.as_ref(),
        environment,
        ui,
    )?;
    let (state, action, reason) = match built.cache {
        CacheUse::Off => (
            Verdict::NeedsRecompile,
            "compile",
            "into a temporary place; `trtmut build` keeps a plan",
        ),
        CacheUse::Miss => (
            Verdict::NeedsRecompile,
            "compile",
            "the cache did not have it, and has it now",
        ),
        CacheUse::Hit => (Verdict::Live, "copy", "the cache had it"),
        CacheUse::Refitted => (
            Verdict::NeedsRefit,
            "refit",
            "the cache had it with other weights",
        ),
    };
    let step = Transition::new(state, action, reason.into(), built.compile);
    ui.event(Event::Status(&step.to_string()));
    Ok(Place {
        plan,
        compiled: Some(step),
        _folder: Some(folder),
    })
}
