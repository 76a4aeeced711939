//! `trtmut shapes`: check a dynamic-shape spec against a model, write it in another form, begin one.

use super::shape_args::{CallArgs, ShapeArgs, misfit, read_spec};
use crate::exit::Exit;
use crate::onnx::Model;
use crate::pipeline::{self, Environment, PrefixedFile};
use crate::shapes::{self, Axis, AxisRange, Form, Resolved, Root};
use crate::tensor::Dtype;
use crate::ui::{Align, Report, Screen, Table, Ui};
use crate::watch::{Event, Watch};
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `trtmut shapes`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check a spec against a model, and show the range of every axis
    Check(CheckArgs),
    /// Write a spec in another form
    Convert(ConvertArgs),
    /// Print a spec to fill in for a model, from the model's own symbols
    Init(InitArgs),
    /// Print the JSON Schema of all forms of a spec, for editors
    Schema,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    trtmut shapes check shapes.json unet.onnx\n  \
    trtmut shapes check shapes.json unet.onnx --dim BATCH=1:2:8 --opt _H=24 --bounded")]
struct CheckArgs {
    /// The spec (JSON), in any form
    spec: PathBuf,

    /// The ONNX model
    model: PathBuf,

    #[command(flatten)]
    ranges: ShapeArgs,

    #[command(flatten)]
    call: CallArgs,

    /// Fail where a dim has no max, which TensorRT needs
    #[arg(long)]
    bounded: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The model says which tensor is which input, and which axes are static. What a form cannot say is told on \
    stderr.\n\n\
    Examples:\n  \
    trtmut shapes convert torch.json unet.onnx --to inputs > shapes.json\n  \
    trtmut shapes convert shapes.json unet.onnx --to torch > dynamic_shapes.json"
)]
struct ConvertArgs {
    /// The spec (JSON), in any form
    spec: PathBuf,

    /// The ONNX model
    model: PathBuf,

    /// The form to write
    #[arg(long, value_enum, value_name = "FORM")]
    to: To,

    #[command(flatten)]
    ranges: ShapeArgs,

    #[command(flatten)]
    call: CallArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    trtmut shapes init unet.onnx > shapes.json\n  \
    trtmut shapes init unet.onnx --from io.safetensors > shapes.json")]
struct InitArgs {
    /// The ONNX model
    model: PathBuf,

    /// Example inputs (.safetensors or .npz), whose sizes become the opt of each dim
    #[arg(long, value_name = "FILE[:PREFIX]")]
    from: Option<PrefixedFile>,
}

/// Values of `--to`: the forms that a spec can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum To {
    /// Torch's own dump of `dynamic_shapes`
    Torch,
    /// `dims`, `args` and `kwargs`, as `forward` takes its arguments
    Args,
    /// `dims` and `inputs`, by ONNX input name
    Inputs,
}

impl From<To> for Form {
    fn from(to: To) -> Form {
        match to {
            To::Torch => Form::Torch,
            To::Args => Form::Args,
            To::Inputs => Form::Inputs,
        }
    }
}

/// A spec tied to a model.
#[derive(Debug, Serialize)]
struct CheckReport {
    spec: PathBuf,
    model: PathBuf,
    dims: BTreeMap<String, Root>,
    inputs: Vec<CheckedInput>,
    /// Each of several optimization profiles, by dims; `dims` and `inputs` are what holds them all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    profiles: Vec<BTreeMap<String, Root>>,
    warnings: Vec<String>,
    #[serde(skip)]
    shown: Vec<String>,
}

#[derive(Debug, Serialize)]
struct CheckedInput {
    name: String,
    dtype: Dtype,
    axes: Vec<CheckedAxis>,
}

/// One axis: a dim or an expression (none where it is static), and its range.
#[derive(Debug, Serialize)]
struct CheckedAxis {
    dim: Option<String>,
    #[serde(flatten)]
    range: AxisRange,
}

impl CheckReport {
    fn new(args: &CheckArgs, resolved: &Resolved) -> CheckReport {
        let axes = |axes: &[Axis], ranges: Vec<AxisRange>| {
            let dims = axes.iter().map(|axis| match axis {
                Axis::Fixed(_) => None,
                Axis::Dim(expr) => Some(expr.to_string()),
            });
            dims.zip(ranges)
                .map(|(dim, range)| CheckedAxis { dim, range })
                .collect()
        };
        let ranges = resolved.profile().inputs.into_iter().map(|i| i.axes);
        CheckReport {
            spec: args.spec.clone(),
            model: args.model.clone(),
            dims: resolved.dims().clone(),
            inputs: (resolved.inputs().iter().zip(ranges))
                .map(|(input, ranges)| CheckedInput {
                    name: input.name.clone(),
                    dtype: input.dtype,
                    axes: axes(&input.axes, ranges),
                })
                .collect(),
            profiles: match resolved.profile_count() {
                1 => Vec::new(),
                _ => (resolved.each_profile().iter())
                    .map(|one| one.dims().clone())
                    .collect(),
            },
            warnings: resolved.warnings().to_vec(),
            shown: resolved.show_profiles(),
        }
    }
}

impl Report for CheckReport {
    const SCHEMA: &'static str = "trtmut.shapes-check/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let mut table = Table::new(&[
            ("input", Align::Left),
            ("axis", Align::Right),
            ("dim", Align::Left),
            ("min", Align::Right),
            ("opt", Align::Right),
            ("max", Align::Right),
        ]);
        for input in &self.inputs {
            if input.axes.is_empty() {
                let cells = [&input.name, "", "scalar", "", "", ""];
                table.row(cells.map(ToOwned::to_owned));
            }
            for (i, axis) in input.axes.iter().enumerate() {
                let AxisRange { min, opt, max } = axis.range;
                table.row([
                    if i == 0 { &input.name } else { "" }.to_owned(),
                    i.to_string(),
                    axis.dim.clone().unwrap_or_else(|| "static".into()),
                    min.to_string(),
                    opt.to_string(),
                    max.map_or("any".into(), |max| max.to_string()),
                ]);
            }
        }
        table.write(out, 0)?;
        if !self.profiles.is_empty() {
            writeln!(out)?;
            writeln!(
                out,
                "{} optimization profiles in a TensorRT engine that is built with `--refit none`:",
                self.profiles.len()
            )?;
            for (i, ranges) in self.shown.iter().enumerate() {
                writeln!(out, "  profile {}: {ranges}", i + 1)?;
            }
            writeln!(
                out,
                "every other engine holds them all in one range, which is the table's"
            )?;
        }
        let open = self.dims.iter().filter(|(_, root)| root.max.is_none());
        let open: Vec<String> = open.map(|(name, _)| format!("`{name}`")).collect();
        if !open.is_empty() {
            writeln!(out)?;
            writeln!(
                out,
                "no max for {}: the CPU engines need none, TensorRT does",
                open.join(", ")
            )?;
        }
        Ok(())
    }
}

/// A spec that was written.
#[derive(Debug, Serialize)]
struct SpecReport<'a> {
    form: To,
    spec: serde_json::Value,
    lost: &'a [String],
    #[serde(skip)]
    text: &'a str,
}

impl<'a> SpecReport<'a> {
    fn new(form: To, text: &'a str, lost: &'a [String]) -> anyhow::Result<Self> {
        Ok(SpecReport {
            form,
            spec: serde_json::from_str(text)?,
            lost,
            text,
        })
    }
}

impl Report for SpecReport<'_> {
    const SCHEMA: &'static str = "trtmut.shapes-spec/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        // Not by `write!`, which makes one line of all that it fills in.
        out.write_all(self.text.as_bytes())
    }
}

/// The JSON Schema; under a key of its own, since a report's `schema` is its name.
#[derive(Debug, Serialize)]
struct SchemaReport {
    json_schema: serde_json::Value,
}

impl Report for SchemaReport {
    const SCHEMA: &'static str = "trtmut.shapes-schema/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        out.write_all(shapes::schema().as_bytes())
    }
}

pub fn run(args: &Args, ui: &Ui, _environment: &Environment) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Check(args) => check(args, ui)?,
        Command::Convert(args) => convert(args, ui)?,
        Command::Init(args) => {
            let model = Model::open(&args.model)?;
            let text = match &args.from {
                None => shapes::template(model.inputs()),
                Some(file) => {
                    let call = pipeline::example_shapes(file, model.inputs())?;
                    shapes::template_from(model.inputs(), &call)
                        .with_context(|| format!("--from {}", file.path.display()))?
                }
            };
            ui.result(&SpecReport::new(To::Inputs, &text, &[])?)?;
        }
        Command::Schema => ui.result(&SchemaReport {
            json_schema: serde_json::from_str(shapes::schema())?,
        })?,
    }
    Ok(Exit::Done)
}

fn check(args: &CheckArgs, ui: &Ui) -> anyhow::Result<()> {
    let spec = read_spec(Some(&args.spec))?;
    let overrides = args.ranges.overrides()?;
    let model = Model::open(&args.model)?;
    let resolved = (args.call)
        .resolve(&spec, model.inputs(), &overrides)
        .with_context(|| misfit(&args.spec, &args.model))?;
    if args.bounded {
        resolved
            .require_bounded()
            .with_context(|| misfit(&args.spec, &args.model))?;
    }
    for warning in resolved.warnings() {
        ui.event(Event::Warn(warning));
    }
    ui.result(&CheckReport::new(args, &resolved))?;
    Ok(())
}

fn convert(args: &ConvertArgs, ui: &Ui) -> anyhow::Result<()> {
    let spec = read_spec(Some(&args.spec))?;
    let mut overrides = args.ranges.overrides()?;
    let model = Model::open(&args.model)?;
    let resolved = (args.call)
        .resolve(&spec, model.inputs(), &overrides)
        .with_context(|| format!("`{}` cannot be converted", args.spec.display()))?;
    // The spec is converted from its own text, where the call's sizes are not: they go in as
    // `--opt` would.
    if !args.call.is_empty() {
        let opts = resolved.dims().iter();
        overrides.opt = opts.map(|(name, dim)| (name.clone(), dim.opt)).collect();
    }
    let converted = spec
        .convert(model.inputs(), &overrides, args.to.into())
        .with_context(|| format!("`{}` cannot be converted", args.spec.display()))?;
    for lost in &converted.lost {
        ui.event(Event::Warn(lost));
    }
    ui.result(&SpecReport::new(args.to, &converted.text, &converted.lost)?)?;
    Ok(())
}
