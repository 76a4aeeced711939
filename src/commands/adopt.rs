//! `trtmut adopt`: a manifest for a plan that another tool built.

use super::UsageError;
use super::engine_args::EngineArgs;
use super::shape_args::{ShapeArgs, misfit, read_spec};
use crate::engine::Identity;
use crate::exit::Exit;
use crate::pipeline::{self, AdoptRequest, Adopted, Environment};
use crate::plan;
use crate::ui::{self, Report, Screen, Ui};
use anyhow::Context;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `trtmut adopt`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Inputs, optimization profiles and refittable weights are read off the engine, and have to fit the model. What the \
    engine's constants hold is not: the first refit gives it all refittable weights.\n\n\
    Examples:\n  \
    trtmut adopt engine.plan --model unet.onnx --base-weights unet.safetensors\n  \
    trtmut adopt engine.plan --model unet.onnx --shapes shapes.json --fp16"
)]
pub struct Args {
    /// The plan, built by trtexec, Polygraphy or any other program with TensorRT or TensorRT-RTX
    #[arg(value_parser = crate::commands::plan_path())]
    plan: PathBuf,

    /// The ONNX model that it was built from
    #[arg(long, value_name = "FILE")]
    model: PathBuf,

    /// The checkpoint that the model was exported from: every constant is proven by it, and refits rest on that (repeatable)
    #[arg(short = 'w', long, alias = "weights", value_name = "FILE")]
    base_weights: Vec<PathBuf>,

    /// The base weights are known to hold only some of the model's parameters
    #[arg(long)]
    partial: bool,

    /// Replace a manifest that the plan has
    #[arg(short, long)]
    force: bool,

    /// Dynamic-shape spec (JSON), within what the engine was built for [default: all that it was built for]
    #[arg(short, long, value_name = "FILE", help_heading = "Shapes")]
    shapes: Option<PathBuf>,

    #[command(flatten)]
    ranges: ShapeArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Debug, Serialize)]
struct AdoptReport {
    plan: PathBuf,
    manifest: PathBuf,
    backend: Identity,
    profiles: Vec<String>,
    weights: usize,
    refittable: usize,
    /// Weights that the engine lists and the model does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<String>,
    stripped: bool,
    /// That the engine holds the model's values is not proven.
    unproven: bool,
}

impl Report for AdoptReport {
    const SCHEMA: &'static str = "trtmut.adopt/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        writeln!(
            out,
            "adopted {} ({})",
            ui::path(&self.plan),
            self.backend.library
        )?;
        writeln!(
            out,
            "  weights   {}, {} refittable",
            self.weights, self.refittable
        )?;
        for (i, ranges) in self.profiles.iter().enumerate() {
            writeln!(out, "  profile {} {ranges}", i + 1)?;
        }
        writeln!(out, "  manifest  {}", ui::path(&self.manifest))?;
        if let Some(first) = self.unknown.first() {
            writeln!(
                out,
                "  note      {}, `{first}` the first, is not the model's and keeps its values",
                ui::count(self.unknown.len(), "weight of the engine")
            )?;
        }
        match (self.stripped, self.unproven, self.refittable) {
            (true, ..) => writeln!(
                out,
                "  note      it holds none of its refittable weights, and has to be refitted before it runs"
            ),
            (_, true, 0) => writeln!(
                out,
                "  note      that it holds the model's values is not proven, and nothing of it can be replaced"
            ),
            (_, true, _) => writeln!(
                out,
                "  note      that it holds the model's values is not proven before the first refit, which gives it all of them"
            ),
            _ => Ok(()),
        }
    }
}

pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    let options = args.engine.options();
    if options.contains_key("convert") {
        return Err(UsageError::new(
            "`adopt` takes no `--convert`: the engine is there, and is of the model that its weights have the types of",
            "give the model that it was built from with --model",
        )
        .into());
    }
    let shapes = if args.shapes.is_some() || !args.ranges.is_empty() {
        Some((read_spec(args.shapes.as_deref())?, args.ranges.overrides()?))
    } else {
        None
    };
    let _alone = super::lock_plan(&args.plan, ui);
    let adopted = pipeline::adopt(
        &AdoptRequest {
            plan: &args.plan,
            model: &args.model,
            shapes,
            base: &args.base_weights,
            partial: args.partial,
            options: &pipeline::with_plugins(options, environment)?,
            force: args.force,
        },
        environment,
        ui,
    );
    let Adopted { manifest, unknown } = match &args.shapes {
        Some(spec) => adopted.with_context(|| misfit(spec, &args.model))?,
        None => adopted?,
    };
    ui.result(&AdoptReport {
        plan: args.plan.clone(),
        manifest: plan::manifest_path(&args.plan),
        // Of fixed sizes there is one profile, which says no more than the model does.
        profiles: if manifest.shapes.dims().is_empty() {
            Vec::new()
        } else {
            manifest.shapes.show_profiles()
        },
        weights: manifest.weights.len(),
        refittable: manifest
            .weights
            .iter()
            .filter(|w| w.fixed.is_none())
            .count(),
        unknown,
        stripped: manifest.stripped,
        unproven: manifest.unproven,
        backend: manifest.backend,
    })?;
    Ok(Exit::Done)
}
