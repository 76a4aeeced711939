//! `trtmut inspect`: what a plan or a model is, without running it and without a GPU.

use super::UsageError;
use super::inspect_model::ModelReport;
use super::tables;
use crate::engine::tensorrt::header::{self, Header};
use crate::exit::Exit;
use crate::onnx::Model;
use crate::pipeline::{self, Environment};
use crate::plan::{self, Ingredient, Manifest};
use crate::shapes::Axis;
use crate::ui::{self, Align, Report, Screen, Table, Ui};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Arguments of `trtmut inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    trtmut inspect engine.plan --weights\n  \
    trtmut inspect unet.onnx --json")]
pub struct Args {
    /// A plan that trtmut made, any TensorRT plan, or an ONNX model
    #[arg(value_parser = crate::commands::plan_path())]
    file: PathBuf,

    /// Also list every weight (of a model: every constant)
    #[arg(long)]
    weights: bool,

    /// Also open the engine and list its layers after fusing (TensorRT, on its GPU); how much each tells depends on
    /// `build --profiling-verbosity`
    #[arg(long)]
    layers: bool,
}

#[derive(Debug, Serialize)]
struct InspectReport {
    plan: PathBuf,
    /// What a TensorRT plan's header says.
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
    /// Absent for a plan that stands alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Manifest>,
    /// What the engine inspector says, in TensorRT's own form.
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Value>,
    #[serde(skip)]
    list_weights: bool,
}

impl Report for InspectReport {
    const SCHEMA: &'static str = "trtmut.inspect/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        if let Some(h) = &self.header {
            writeln!(
                out,
                "{} plan, written by {} {}, {}",
                ui::path(&self.plan),
                h.product.title(),
                h.version,
                ui::bytes(h.size)
            )?;
            if let Some(cc) = &h.compute_capabilities {
                writeln!(out, "  compiled for compute capability {}", cc.join(", "))?;
            }
        }
        let Some(m) = &self.manifest else {
            return writeln!(
                out,
                "  no manifest: what it was built from is not known; `trtmut adopt {} --model MODEL.onnx` says it",
                ui::path(&self.plan)
            );
        };
        writeln!(
            out,
            "{} is {}, {} by {}",
            ui::path(&self.plan),
            ui::bytes(m.plan.bytes),
            m.backend.library,
            m.tool
        )?;
        facts(m).write(out, 2)?;
        writeln!(out)?;
        tables::write_ranges(out, &m.profile)?;
        if !m.shapes.dims().is_empty() {
            writeln!(out)?;
            dims(m).write(out, 2)?;
        }
        writeln!(out)?;
        tables::tensors(&[], &m.outputs).write(out, 2)?;
        if self.list_weights {
            writeln!(out)?;
            weights(m).write(out, 2)?;
        }
        if let Some(layers) = &self.layers {
            let rows = layers.get("Layers").and_then(Value::as_array);
            let rows = rows.map_or(&[][..], Vec::as_slice);
            writeln!(out)?;
            writeln!(out, "  {}", ui::count(rows.len(), "layer"))?;
            let mut table = Table::list(&[Align::Left, Align::Left]);
            for row in rows {
                let name = row.get("Name").unwrap_or(row);
                let kind = row.get("LayerType").and_then(Value::as_str);
                table.row([
                    name.as_str().unwrap_or("?").to_owned(),
                    kind.unwrap_or_default().to_owned(),
                ]);
            }
            table.write(out, 2)?;
        }
        Ok(())
    }
}

/// What a manifest says of a plan, label by label.
fn facts(m: &Manifest) -> Table {
    let mut table = Table::list(&[Align::Left, Align::Left]);
    let mut row = |label: &str, text: String| table.row([label.to_owned(), text]);
    row("plan", m.plan.digest.to_string());
    row(
        "model",
        format!("{} (structure {})", m.model.path, m.model.structure.short()),
    );
    let on: Vec<&str> = ["gpu", "compute_capability", "driver"]
        .into_iter()
        .filter_map(|name| m.backend.device.get(name).map(String::as_str))
        .collect();
    if !on.is_empty() {
        row("GPU", on.join(", "));
    }
    let refittable = m.weights.iter().filter(|w| w.fixed.is_none()).count();
    row("weights", ui::count(m.weights.len(), "constant"));
    row("refittable", format!("{refittable} of them"));
    for (why, count) in most_common(m) {
        row("fixed", format!("{count}: {why}"));
    }
    row(
        "values",
        match m.weights.iter().filter(|w| w.base.is_some()).count() {
            _ if m.stripped => "nothing: the plan is stripped, and a refit fills it".into(),
            0 => "those of the base weights".into(),
            n => format!("others than those of the base weights in {n}"),
        },
    );
    if let Some(probe) = m.base.as_ref().and_then(|base| base.probe.as_ref()) {
        let rows = m.weights.iter().filter_map(|w| w.mapping.as_ref());
        let probed = ui::count(rows.filter(|r| r.probed).count(), "constant");
        let model = &probe.model.path;
        row("probe", format!("{model}, which proves {probed}"));
    }
    for ingredient in &m.recipe.ingredients {
        match ingredient {
            Ingredient::Checkpoint { file } => row("over base", file.path.clone()),
            Ingredient::Lora { file, scale } => {
                row("over base", format!("LoRA {} at {scale}", file.path));
            }
        }
    }
    if m.options.is_empty() {
        row("options", "as by default".into());
    }
    for (name, value) in &m.options {
        row("option", format!("{name} = {value}"));
    }
    for note in &m.notes {
        row("note", note.clone());
    }
    table
}

/// Why weights cannot be refitted, the most common reasons first, the rest as one.
fn most_common(m: &Manifest) -> Vec<(String, usize)> {
    const SHOWN: usize = 6;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for why in m.weights.iter().filter_map(|w| w.fixed.as_deref()) {
        *counts.entry(why).or_default() += 1;
    }
    let mut counts: Vec<(String, usize)> = (counts.into_iter())
        .map(|(why, n)| (why.to_owned(), n))
        .collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    if counts.len() > SHOWN {
        let rest: usize = counts.drain(SHOWN - 1..).map(|(_, n)| n).sum();
        counts.push(("other reasons; --weights lists each".into(), rest));
    }
    counts
}

/// The named dims that the shapes are made of.
fn dims(m: &Manifest) -> Table {
    let mut table = Table::new(&[
        ("dim", Align::Left),
        ("min", Align::Right),
        ("opt", Align::Right),
        ("max", Align::Right),
        ("", Align::Left),
    ]);
    for (name, root) in m.shapes.dims() {
        let is_own = |axis: &Axis| matches!(axis, Axis::Dim(expr) if expr.to_string() == *name);
        let used = m
            .shapes
            .inputs()
            .iter()
            .filter(|i| i.axes.iter().any(is_own));
        table.row([
            name.clone(),
            root.min.to_string(),
            root.opt.to_string(),
            root.max.map_or("any".into(), |max| max.to_string()),
            used.map(|i| i.name.clone()).collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

fn weights(m: &Manifest) -> Table {
    let mut table = Table::new(&[
        ("weight", Align::Left),
        ("type", Align::Left),
        ("shape", Align::Left),
        ("digest", Align::Left),
        ("", Align::Left),
    ]);
    for w in &m.weights {
        table.row([
            w.name.clone(),
            w.dtype.to_string(),
            crate::tensor::show_shape(&w.shape),
            w.digest.short(),
            w.fixed.clone().unwrap_or_default(),
        ]);
    }
    table
}

pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    // No error yet: plans of the CPU backends, and models, have none.
    let header = header::read(&args.file);
    let manifest = match plan::open(&args.file) {
        Ok(m) => Some(m),
        // Plans of other tools have no manifest; their header is all there is to say.
        Err(plan::Error::NoManifest { .. }) if header.is_ok() => None,
        // What calls itself a plan has lost its manifest, and is read as no model.
        Err(plan::Error::NoManifest { .. })
            if args.file.extension().is_none_or(|e| e != "plan") =>
        {
            let model = Model::open(&args.file)?;
            ui.result(&ModelReport::new(&args.file, &model, args.weights))?;
            return Ok(Exit::Done);
        }
        Err(e) => return Err(e.into()),
    };
    let layers = match (args.layers, &manifest) {
        (false, _) => None,
        (true, Some(_)) => Some(layers(&args.file, environment)?),
        (true, None) => {
            return Err(UsageError::new(
                format!(
                    "`{}` has no manifest, so its engine is not opened",
                    args.file.display()
                ),
                format!(
                    "leave --layers out, or `trtmut adopt {} --model MODEL.onnx`",
                    args.file.display()
                ),
            )
            .into());
        }
    };
    ui.result(&InspectReport {
        plan: args.file.clone(),
        header: header.ok(),
        manifest,
        layers,
        list_weights: args.weights,
    })?;
    Ok(Exit::Done)
}

fn layers(plan: &Path, environment: &Environment) -> anyhow::Result<Value> {
    let opened = pipeline::open(plan, environment)?;
    opened.engine.layers()?.ok_or_else(|| {
        UsageError::new(
            format!(
                "{} does not tell the layers of its engines",
                opened.manifest.backend.library
            ),
            "leave --layers out: only TensorRT fuses layers",
        )
        .into()
    })
}
