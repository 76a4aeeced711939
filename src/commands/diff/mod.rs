//! `trtmut diff`: what a change asks for, and why.

mod next;

use super::overlay::OverlayArgs;
use super::shape_args::{ShapeArgs, read_spec};
use crate::diff::{Reason, TensorChange, Verdict};
use crate::exit::Exit;
use crate::pipeline::{self, CompareRequest, Compared};
use crate::tensor::show_shape;
use crate::ui::{self, Align, Report, Table, Ui};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `trtmut diff`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A plan compares with a checkpoint, LoRAs, a model, another plan, or shapes alone; a model with a model or a \
    checkpoint; a checkpoint with a checkpoint. The older one comes first.\n\n\
    Verdicts: LIVE (nothing to do), NEEDS_REFIT, NEEDS_RECOMPILE, UNKNOWN (cannot be decided). The verdict is the worst of all \
    reasons.\n\n\
    Examples:\n  \
    trtmut diff engine.plan lora_fused.safetensors\n  \
    trtmut diff engine.plan --lora style.safetensors:0.8\n  \
    trtmut diff engine.plan other.onnx --shapes shapes.json --exit-code"
)]
pub struct Args {
    /// What there is: a plan, an ONNX model or a checkpoint
    old: PathBuf,

    /// What is wanted: a plan, an ONNX model, or a checkpoint (several files, or an index of shards)
    new: Vec<PathBuf>,

    #[command(flatten)]
    overlay: OverlayArgs,

    /// Shapes that are wanted
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,

    #[command(flatten)]
    ranges: ShapeArgs,

    /// How many changed tensors to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,

    /// Exit with 10 for `NEEDS_REFIT`, 20 for `NEEDS_RECOMPILE`, 30 for UNKNOWN
    #[arg(long)]
    exit_code: bool,
}

#[derive(Debug, Serialize)]
struct DiffReport {
    old: PathBuf,
    new: Vec<PathBuf>,
    verdict: Verdict,
    compared: usize,
    unchanged: usize,
    counts: BTreeMap<String, usize>,
    reasons: Vec<Reason>,
    changed: Vec<Changed>,
    /// Tensors that the model does not use.
    unused: Vec<String>,
    /// Tensors whose change would be lost.
    lost: Vec<String>,
    /// Tensors and weights that `--ignore` lets go.
    ignored: Vec<String>,
    /// Weights whose tensor is not given.
    missing: Vec<String>,
    blocks: Vec<Block>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<&'static str>,
    /// Commands that do what the verdict asks for, in order; words in capitals stand for files that are not known.
    next: Vec<String>,
    #[serde(skip)]
    top: usize,
}

#[derive(Debug, Serialize)]
struct Changed {
    name: String,
    source: String,
    shape: Vec<usize>,
    #[serde(flatten)]
    change: Option<TensorChange>,
}

#[derive(Debug, Serialize)]
struct Block {
    #[serde(rename = "block")]
    name: String,
    tensors: usize,
    changed: usize,
}

/// Reasons of one kind that are listed before the rest is counted.
const SHOWN: usize = 5;

impl Report for DiffReport {
    const SCHEMA: &'static str = "trtmut.diff/2";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let differ = self.changed_count();
        let noun = if self.old.extension().is_some_and(|e| e == "safetensors") {
            "tensor"
        } else {
            "weight"
        };
        writeln!(
            out,
            "{}  {differ} of {} differ",
            self.verdict,
            ui::count(self.compared, noun)
        )?;
        self.write_reasons(out)?;
        self.write_blocks(out)?;
        self.write_changed(out)?;
        if !self.next.is_empty() {
            writeln!(out)?;
        }
        for command in &self.next {
            writeln!(out, "next: {command}")?;
        }
        Ok(())
    }
}

impl DiffReport {
    fn changed_count(&self) -> usize {
        let of = |tag: &str| self.counts.get(tag).copied().unwrap_or_default();
        [
            "bytes-changed",
            "derived-changed",
            "baked-changed",
            "shape-like-changed",
            "fixed-changed",
            "shape-changed",
            "dtype-changed",
        ]
        .iter()
        .map(|t| of(t))
        .sum()
    }

    fn write_reasons(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut shown: BTreeMap<&'static str, usize> = BTreeMap::new();
        for reason in &self.reasons {
            if matches!(reason, Reason::BytesChanged { .. }) {
                continue;
            }
            let (kind, line) = describe(reason);
            let count = shown.entry(kind).or_default();
            *count += 1;
            if *count <= SHOWN {
                writeln!(out, "  {:<15}  {line}", reason.verdict().name())?;
            }
        }
        for (kind, count) in shown.iter().filter(|(_, n)| **n > SHOWN) {
            writeln!(out, "  {:<15}  … and {} more: {kind}", "", count - SHOWN)?;
        }
        for rule in &self.rules {
            writeln!(out, "  names were brought in line by the rule `{rule}`")?;
        }
        Ok(())
    }

    fn write_blocks(&self, out: &mut dyn Write) -> io::Result<()> {
        const WIDTH: usize = 24;
        let touched: Vec<&Block> = self.blocks.iter().filter(|b| b.changed > 0).collect();
        if touched.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        let mut table = Table::new(&[
            ("block", Align::Left),
            ("changed", Align::Right),
            ("of", Align::Right),
            ("", Align::Left),
        ]);
        for b in touched {
            let filled = (b.changed * WIDTH).div_ceil(b.tensors.max(1));
            table.row([
                b.name.clone(),
                b.changed.to_string(),
                b.tensors.to_string(),
                format!("{}{}", "█".repeat(filled), "░".repeat(WIDTH - filled)),
            ]);
        }
        table.write(out, 2)
    }

    fn write_changed(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.changed.is_empty() || self.top == 0 {
            return Ok(());
        }
        writeln!(out)?;
        let mut table = Table::new(&[
            ("largest changes", Align::Left),
            ("shape", Align::Left),
            ("relative", Align::Right),
            ("max abs", Align::Right),
            ("rank", Align::Left),
        ]);
        for c in self.changed.iter().take(self.top) {
            let number = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.2e}"));
            let m = c.change.as_ref();
            let rank = match m.map(|m| (m.rank, m.full_rank)) {
                Some((Some(rank), Some(full))) => format!("{rank} of {full}"),
                Some((None, Some(_))) => "full".into(),
                _ => "-".into(),
            };
            table.row([
                c.source.clone(),
                show_shape(&c.shape),
                number(m.map(|m| m.relative)),
                number(m.map(|m| m.max_abs)),
                rank,
            ]);
        }
        table.write(out, 2)?;
        if self.changed.len() > self.top {
            writeln!(
                out,
                "  … and {} more; --top N or --json list them",
                self.changed.len() - self.top
            )?;
        }
        Ok(())
    }
}

/// The kind of a reason in words, and the reason in one line.
fn describe(reason: &Reason) -> (&'static str, String) {
    let list = |names: &[String]| {
        names
            .iter()
            .map(|n| format!("`{n}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let or_none = |v: &Option<String>| v.clone().unwrap_or_else(|| "unset".into());
    match reason {
        Reason::BytesChanged { weight, .. } => {
            ("other bytes", format!("`{weight}` has other bytes"))
        }
        Reason::DerivedChanged { weight, sources } => (
            "computed from changed tensors",
            format!("`{weight}` is computed from {}", list(sources)),
        ),
        Reason::Stripped => (
            "stripped",
            "the plan is stripped: it holds none of its refittable weights".into(),
        ),
        Reason::UnchangedAfterCast { weight } => (
            "the same after a cast",
            format!("`{weight}` is the same in the checkpoint's narrower type"),
        ),
        Reason::BakedChanged { weight, why } => (
            "constants folded into the engine",
            format!("`{weight}` is folded into the engine ({why})"),
        ),
        Reason::ShapeLikeChanged { weight, why } => (
            "integer constants that shapes may depend on",
            format!("`{weight}` may decide shapes ({why})"),
        ),
        Reason::FixedChanged { weight, why } => (
            "weights that this engine cannot change",
            format!("`{weight}` cannot be refitted ({why})"),
        ),
        Reason::DtypeChanged { weight, old, new } => (
            "other types",
            format!("`{weight}` is {new} instead of {old}"),
        ),
        Reason::ShapeChanged { weight, old, new } => (
            "other shapes",
            format!(
                "`{weight}` is {} instead of {}",
                show_shape(new),
                show_shape(old)
            ),
        ),
        Reason::WeightAdded { weight } => ("new weights", format!("`{weight}` is new")),
        Reason::WeightRemoved { weight } => {
            ("weights that are gone", format!("`{weight}` is gone"))
        }
        Reason::WeightRenamed { old, new } => {
            ("renamed weights", format!("`{old}` is called `{new}` now"))
        }
        Reason::SharingChanged { weight, old, new } => (
            "other sharing",
            format!("`{weight}` feeds {new} nodes instead of {old}"),
        ),
        Reason::Unsure { weight, why } => ("unsure", pipeline::refusal(weight, why)),
        Reason::SourceMissing { weight, names } => (
            "weights without their source",
            format!(
                "the checkpoint has nothing for `{weight}` (looked for {})",
                list(names)
            ),
        ),
        Reason::NothingFits => (
            "another model",
            "no tensor of the checkpoint belongs to a weight".into(),
        ),
        Reason::NotInEngine { tensor, why } => (
            "tensors that feed no weight",
            format!("`{tensor}` feeds no weight ({})", leftover(why)),
        ),
        Reason::MetadataChanged => ("metadata", "names or documentation differ".into()),
        Reason::TopologyChanged { added, removed } => {
            let side = |items: &[(String, usize)], sign: &str| {
                items
                    .iter()
                    .map(|(op, n)| format!("{sign}{n} {op}"))
                    .collect::<Vec<_>>()
            };
            let all = [side(added, "+"), side(removed, "-")].concat();
            let what = if all.is_empty() {
                "connections differ".into()
            } else {
                all.join(", ")
            };
            ("topology", format!("the graph differs: {what}"))
        }
        Reason::AttributeChanged {
            operator,
            node,
            attributes,
        } => (
            "attributes",
            format!("{operator} `{node}` has other {}", list(attributes)),
        ),
        Reason::OpsetChanged { domain, old, new } => {
            let name = if domain.is_empty() { "ai.onnx" } else { domain };
            let version = |v: &Option<i64>| v.map_or("none".into(), |v| v.to_string());
            (
                "opsets",
                format!(
                    "opset of {name} is {} instead of {}",
                    version(new),
                    version(old)
                ),
            )
        }
        Reason::InterfaceChanged { details, .. } => ("inputs or outputs", details.join("; ")),
        Reason::StructureChanged => ("structure", "the graph's structure differs".into()),
        Reason::GraphUnknown => ("graph", "nothing is known of the old graph".into()),
        Reason::ShapesInside => ("shapes", "the shapes are within what was built".into()),
        Reason::ShapesOutside { details } => ("shapes", details.join("; ")),
        Reason::ShapesUnknown => ("shapes", "the old shapes are not known".into()),
        Reason::OptionChanged { option, old, new } => (
            "options",
            format!(
                "option `{option}` is {} instead of {}",
                or_none(new),
                or_none(old)
            ),
        ),
        Reason::BackendChanged { old, new } => {
            ("backend", format!("the backend is {new} instead of {old}"))
        }
        Reason::LibraryChanged { old, new } => {
            ("library", format!("the library is {new} instead of {old}"))
        }
        Reason::DeviceChanged { property, old, new } => (
            "device",
            format!("{property} is {} instead of {}", or_none(new), or_none(old)),
        ),
    }
}

fn leftover(why: &crate::mapping::Why) -> String {
    use crate::mapping::Why;
    match why {
        Why::Counter => "a training counter".into(),
        Why::NotFloat => "no floating-point data".into(),
        Why::Duplicate { of } => format!("the same as `{of}`"),
        Why::Unchanged => "as in the base weights, and not used by the model".into(),
        Why::Unused => "not used by the model".into(),
        Why::Component { component } => format!("part of {component}"),
        Why::Ignored => "let go by --ignore".into(),
        Why::InAttribute { attribute } => format!("its value stands in {attribute}"),
        Why::Unreached => "nothing in the engine is known to take it".into(),
    }
}

/// Runs the command.
///
/// # Errors
/// Anything that `commands::explain` knows.
pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    let shapes = if args.shapes.is_some() || !args.ranges.is_empty() {
        Some((read_spec(args.shapes.as_deref())?, args.ranges.overrides()?))
    } else {
        None
    };
    if args.new.is_empty() && args.overlay.lora.is_empty() && shapes.is_none() {
        return Err(super::UsageError::new(
            "nothing to compare with",
            "give a checkpoint, a model, a plan, --lora FILE or --shapes FILE",
        )
        .into());
    }
    let request = CompareRequest {
        old: args.old.clone(),
        new: args.new.clone(),
        overlay: args.overlay.request(Vec::new()),
        shapes,
        measure: None,
    };
    let Compared {
        diff,
        changed,
        blocks,
        rules,
        left,
    } = pipeline::compare(&request, ui)?;
    let verdict = diff.verdict;
    let next = next::commands(args, verdict, &diff.reasons);
    let report = DiffReport {
        old: args.old.clone(),
        new: args.new.clone(),
        verdict,
        compared: diff.compared,
        unchanged: diff.unchanged,
        counts: diff.counts(),
        reasons: diff.reasons,
        changed: changed
            .into_iter()
            .map(|m| Changed {
                name: m.name,
                source: m.source,
                shape: m.shape,
                change: m.change,
            })
            .collect(),
        blocks: blocks
            .into_iter()
            .map(|(name, (tensors, changed))| Block {
                name,
                tensors,
                changed,
            })
            .collect(),
        rules,
        next,
        unused: left.unused,
        lost: left.lost,
        ignored: left.ignored,
        missing: left.missing,
        top: args.top,
    };
    ui.result(&report)?;
    Ok(match (args.exit_code, verdict) {
        (false, _) | (true, Verdict::Live) => Exit::Done,
        (true, Verdict::NeedsRefit) => Exit::NeedsRefit,
        (true, Verdict::NeedsRecompile) => Exit::NeedsRecompile,
        (true, Verdict::Unknown) => Exit::Unknown,
    })
}
