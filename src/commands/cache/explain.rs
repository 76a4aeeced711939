//! `trtmut cache explain`: why a build would hit or miss.

use super::entries::{Entry, as_map};
use super::short;
use crate::cache::{Difference, KeyFields, Store};
use crate::commands::engine_args::EngineArgs;
use crate::commands::shape_args::{ShapeArgs, read_spec};
use crate::onnx::Model;
use crate::pipeline::{self, BackendChoice, Environment};
use crate::ui::{Report, Ui};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `trtmut cache explain`: those of the build.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// The ONNX model
    model: PathBuf,

    /// Dynamic-shape spec (JSON)
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,

    /// The checkpoint that the build is given (repeatable)
    #[arg(long, alias = "weights", value_name = "FILE")]
    base_weights: Vec<PathBuf>,

    /// Which part of the checkpoint is meant where several fit
    #[arg(long, value_name = "PART", requires = "base_weights")]
    component: Option<String>,

    #[command(flatten)]
    ranges: ShapeArgs,

    /// Who would compile it
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    backend: BackendChoice,

    #[command(flatten)]
    engine: EngineArgs,

    /// Read all weights, though the files are as they were when they were last read
    #[arg(long)]
    rehash: bool,
}

#[derive(Debug, Serialize)]
struct NearEntry<'l> {
    entry: Entry<'l>,
    differences: &'l [Difference],
}

#[derive(Debug, Serialize)]
struct ExplainReport<'l> {
    key: String,
    hit: bool,
    #[serde(serialize_with = "as_map")]
    fields: &'l KeyFields,
    nearest: Vec<NearEntry<'l>>,
}

impl Report for ExplainReport<'_> {
    const SCHEMA: &'static str = "trtmut.cache-explain/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let key = short(&self.key);
        if self.hit {
            return writeln!(
                out,
                "hit: the engine {key} is there; it is copied, or refitted where the weights differ"
            );
        }
        writeln!(out, "miss: there is no engine {key}")?;
        for near in &self.nearest {
            writeln!(out, "\n{} differs in", short(&near.entry.key))?;
            for d in near.differences {
                let show = |v: &Option<String>| v.clone().unwrap_or_else(|| "nothing".into());
                writeln!(out, "  {}", d.label)?;
                writeln!(out, "    wanted  {}", show(&d.wanted))?;
                writeln!(out, "    there   {}", show(&d.found))?;
            }
        }
        Ok(())
    }
}

pub(super) fn explain(
    store: &Store,
    asked: &ExplainArgs,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<()> {
    let model = Model::open(&asked.model)?;
    let spec = read_spec(asked.shapes.as_deref())?;
    let resolved = spec.resolve(model.inputs(), &asked.ranges.overrides()?)?;
    let settings = asked.engine.settings(None);
    let backend = pipeline::choose(asked.backend, &model, &settings, environment, ui)?;
    let identity = backend.identity();
    let (options, memo) = (asked.engine.options(), store.memo().rehash(asked.rehash));
    let (shapes, _) = pipeline::shapes_of_engine(&identity.backend, &options, &resolved);
    let fields = pipeline::key_fields(
        &model,
        &shapes.profile(),
        &options,
        &identity,
        Some(&memo),
        ui,
    );
    let fields = pipeline::with_checkpoint(
        fields,
        &model,
        &options,
        &asked.base_weights,
        asked.component.as_deref(),
        Some(&memo),
    )?;
    let found = store.explain(&fields)?;
    let nearest = found.nearest.iter().map(|n| NearEntry {
        entry: Entry::from(&n.entry),
        differences: &n.differences,
    });
    ui.result(&ExplainReport {
        key: found.key.to_string(),
        hit: found.hit.is_some(),
        fields: &fields,
        nearest: nearest.collect(),
    })?;
    Ok(())
}
