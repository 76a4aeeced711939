//! `trtmut inspect`: what a plan or a model is, without running it and without a GPU.

use super::UsageError;
use super::inspect_model::{ModelReport, tensors};
use crate::engine::tensorrt::header::{self, Header};
use crate::exit::Exit;
use crate::onnx::Model;
use crate::pipeline::{self, Environment};
use crate::plan::{self, Ingredient, Manifest};
use crate::ui::{self, Align, Report, Table, Ui};
use serde::Serialize;
use serde_json::Value;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Arguments of `trtmut inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    trtmut inspect engine.plan --weights\n  \
    trtmut inspect unet.onnx --json")]
pub struct Args {
    /// A plan that trtmut made, any TensorRT plan, or an ONNX model
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

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(h) = &self.header {
            writeln!(
                out,
                "{} plan, written by {} {}, {}",
                self.plan.display(),
                h.product.title(),
                h.version,
                ui::bytes(h.size)
            )?;
            if let Some(cc) = &h.compute_capabilities {
                writeln!(out, "  compiled for compute capability {}", cc.join(", "))?;
            }
        }
        let Some(m) = &self.manifest else {
            return writeln!(out, "  no manifest: what it was built from is not known");
        };
        writeln!(
            out,
            "{} is {}, {} by {}",
            self.plan.display(),
            ui::bytes(m.plan.bytes),
            m.backend.library,
            m.tool
        )?;
        writeln!(out, "  plan       {}", m.plan.digest)?;
        writeln!(
            out,
            "  model      {} (structure {})",
            m.model.path,
            m.model.structure.short()
        )?;
        let refittable = m.weights.iter().filter(|w| w.fixed.is_none()).count();
        let refitted = m.weights.iter().filter(|w| w.base.is_some()).count();
        writeln!(
            out,
            "  weights    {}, {refittable} refittable, {refitted} not at their base values",
            m.weights.len()
        )?;
        for ingredient in &m.recipe.ingredients {
            match ingredient {
                Ingredient::Checkpoint { file } => writeln!(out, "  over base  {}", file.path)?,
                Ingredient::Lora { file, scale } => {
                    writeln!(out, "  over base  LoRA {} at {scale}", file.path)?;
                }
            }
        }
        for (name, value) in &m.options {
            writeln!(out, "  option     {name} = {value}")?;
        }
        if m.shapes.profile_count() > 1 {
            for (i, range) in m.shapes.show_profiles().iter().enumerate() {
                writeln!(out, "  profile {}  {range}", i + 1)?;
            }
        }
        writeln!(out)?;
        tensors(out, &m.inputs, &m.outputs)?;
        if self.list_weights {
            writeln!(out)?;
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
            table.write(out, 2)?;
        }
        if let Some(layers) = &self.layers {
            let rows = layers.get("Layers").and_then(Value::as_array);
            let rows = rows.map_or(&[][..], Vec::as_slice);
            writeln!(out, "\n  {}", ui::count(rows.len(), "layer"))?;
            for row in rows {
                let name = row.get("Name").unwrap_or(row);
                let kind = row.get("LayerType").and_then(Value::as_str);
                let name = name.as_str().unwrap_or("?");
                writeln!(out, "  {name}  {}", kind.unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// Anything that `commands::explain` knows.
pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    let header = header::read(&args.file);
    let manifest = match plan::open(&args.file) {
        Ok(m) => Some(m),
        // Plans of other tools have no manifest; their header is all there is to say.
        Err(plan::Error::NoManifest { .. }) if header.is_ok() => None,
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
                "leave --layers out, or build the plan with trtmut",
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
