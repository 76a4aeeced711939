//! `trtmut diff`: what a change asks for, and why.

mod html;
mod next;
mod words;

use super::overlay::OverlayArgs;
use super::shape_args::{ShapeArgs, read_spec};
use super::tables;
use crate::diff::{Reason, Verdict};
use crate::exit::Exit;
use crate::pipeline::{
    self, CompareRequest, Compared, Environment, Measured, OverlayRequest, ThingKind, kind_of,
};
use crate::plan;
use crate::tensor::show_shape;
use crate::ui::{self, Align, Annotation, Level, Report, Screen, Table, Ui};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use words::{describe, kind};

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

    /// How many changed tensors to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,

    /// Also write a report for a browser: one file with every tensor in it, and with each LoRA beside the others
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Exit with 10 for `NEEDS_REFIT`, 20 for `NEEDS_RECOMPILE`, 30 for UNKNOWN
    #[arg(long)]
    exit_code: bool,

    /// Shapes that are wanted
    #[arg(short, long, value_name = "FILE", help_heading = "Shapes")]
    shapes: Option<PathBuf>,

    #[command(flatten)]
    ranges: ShapeArgs,

    /// How many changed tensors to measure as wholes; a report for a browser has all of them
    #[arg(long, value_enum, default_value_t = Measuring::Largest)]
    measure: Measuring,

    /// Read the plan and the model, though they are as they were when they were last read
    #[arg(long)]
    rehash: bool,

    #[command(flatten)]
    overlay: OverlayArgs,
}

/// Values of `--measure`: which changed tensors are read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Measuring {
    /// Those that are listed: a sample of each changed tensor says which moved most
    Largest,
    /// Every changed tensor
    All,
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
    /// The report for a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<PathBuf>,
    #[serde(skip)]
    top: usize,
    #[serde(skip)]
    measure: Measuring,
}

/// Measures that were not taken are null.
#[derive(Debug, Serialize)]
struct Changed {
    name: String,
    source: String,
    shape: Vec<usize>,
    /// `relative` over a sample of the elements.
    estimate: Option<f64>,
    max_abs: Option<f64>,
    relative: Option<f64>,
    rank: Option<usize>,
    full_rank: Option<usize>,
}

impl From<Measured> for Changed {
    fn from(m: Measured) -> Changed {
        let change = m.moved.change.as_ref();
        Changed {
            estimate: m.moved.estimate,
            max_abs: change.map(|c| c.max_abs),
            relative: change.map(|c| c.relative),
            rank: change.and_then(|c| c.rank),
            full_rank: change.and_then(|c| c.full_rank),
            name: m.name,
            source: m.source,
            shape: m.shape,
        }
    }
}

#[derive(Debug, Serialize)]
struct Block {
    #[serde(rename = "block")]
    name: String,
    tensors: usize,
    changed: usize,
}

/// Reasons of one kind that are listed before the rest is counted.
const SHOWN: usize = 3;

impl Report for DiffReport {
    const SCHEMA: &'static str = "trtmut.diff/2";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        tables::verdict(out, self.verdict)?;
        match (self.changed_count(), self.verdict) {
            // What changed is no weight; the reasons say it.
            (0, verdict) if verdict != Verdict::Live => writeln!(out)?,
            _ => writeln!(out, "  {}", self.how_many())?,
        }
        self.write_reasons(out)?;
        self.write_blocks(out)?;
        self.write_changed(out)?;
        if !self.next.is_empty() {
            writeln!(out)?;
        }
        for command in &self.next {
            writeln!(out, "next: {}", ui::line(command))?;
        }
        if let Some(path) = &self.html {
            writeln!(out)?;
            writeln!(out, "the report is in {}", ui::path(path))?;
        }
        Ok(())
    }

    fn annotations(&self) -> Vec<Annotation> {
        vec![self.annotation()]
    }
}

impl DiffReport {
    fn annotation(&self) -> Annotation {
        let level = match self.verdict {
            Verdict::Live | Verdict::NeedsRefit => Level::Notice,
            Verdict::Unknown | Verdict::NeedsRecompile => Level::Warning,
        };
        let mut lines = vec![self.how_many()];
        for (kind, reasons) in self.kinds() {
            // An annotation is read at a glance, and here nothing is to be done.
            if reasons[0].verdict() == Verdict::Live {
                continue;
            }
            lines.push(match reasons.len() {
                1 => describe(reasons[0]),
                n => format!("{} … and {} more: {kind}", describe(reasons[0]), n - 1),
            });
        }
        lines.extend(self.next.iter().map(|command| format!("next: {command}")));
        Annotation {
            level,
            title: format!("{} {}", self.verdict, self.old.display()),
            message: lines.join("\n"),
        }
    }

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

    /// `18 of 66 weights differ`.
    fn how_many(&self) -> String {
        let is_checkpoint = kind_of(&self.old) == ThingKind::Weights;
        let noun = if is_checkpoint { "tensor" } else { "weight" };
        let differ = self.changed_count();
        let verb = if differ == 1 { "differs" } else { "differ" };
        format!("{differ} of {} {verb}", ui::count(self.compared, noun))
    }

    /// Each kind of reason in the order of its first one, so many of a kind and the rest as a number.
    fn write_reasons(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let mut table = Table::list(&[Align::Right, Align::Left]);
        for (kind, reasons) in self.kinds() {
            let verdict = reasons[0].verdict();
            // What asks for nothing is told once.
            let most = if verdict == Verdict::Live { 1 } else { SHOWN };
            for (at, reason) in reasons.iter().take(most).enumerate() {
                let label = if at == 0 { verdict.name() } else { "" };
                let mut line = describe(reason);
                if at + 1 == most && reasons.len() > most {
                    let _ = write!(line, " … and {} more: {kind}", reasons.len() - most);
                }
                table.row([label.to_owned(), line]);
            }
        }
        table.write(out, 2)?;
        for rule in &self.rules {
            writeln!(out, "  names were brought in line by the rule `{rule}`")?;
        }
        Ok(())
    }

    fn kinds(&self) -> Vec<(&'static str, Vec<&Reason>)> {
        let other_model = self.reasons.contains(&Reason::NothingFits);
        let mut kinds: Vec<(&'static str, Vec<&Reason>)> = Vec::new();
        for reason in &self.reasons {
            match reason {
                // The table of changes has them.
                Reason::BytesChanged { .. } => continue,
                // Where no tensor belongs to the model, none has to be named.
                Reason::SourceMissing { .. } | Reason::NotInEngine { .. } if other_model => {
                    continue;
                }
                _ => {}
            }
            let kind = kind(reason);
            let verdict = reason.verdict();
            match kinds
                .iter_mut()
                .find(|(k, of)| *k == kind && of[0].verdict() == verdict)
            {
                Some((_, of)) => of.push(reason),
                None => kinds.push((kind, vec![reason])),
            }
        }
        kinds
    }

    fn write_blocks(&self, out: &mut Screen<'_>) -> io::Result<()> {
        const WIDTH: usize = 24;
        // More than the layers of any model; names that are all numbered would fill many screens.
        const MOST: usize = 200;
        let touched: Vec<&Block> = self.blocks.iter().filter(|b| b.changed > 0).collect();
        if touched.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        let mut table = Table::new(&[
            ("block", Align::Left),
            ("changed", Align::Right),
            ("of", Align::Right),
            ("", Align::Right),
        ]);
        for b in touched.iter().take(MOST) {
            // Rounded up, so that one changed tensor among a thousand is still seen.
            let filled = (b.changed * WIDTH).div_ceil(b.tensors.max(1));
            table.row([
                b.name.clone(),
                b.changed.to_string(),
                b.tensors.to_string(),
                format!("{}{}", "█".repeat(filled), "░".repeat(WIDTH - filled)),
            ]);
        }
        table.write(out, 2)?;
        if touched.len() > MOST {
            let more = ui::count(touched.len() - MOST, "more block");
            writeln!(out, "  … and {more}; --json lists them")?;
        }
        Ok(())
    }

    fn write_changed(&self, out: &mut Screen<'_>) -> io::Result<()> {
        if self.changed.is_empty() || self.top == 0 {
            return Ok(());
        }
        writeln!(out)?;
        // Where nothing could be measured, columns of dashes say nothing.
        let measured = self.changed.iter().any(|c| c.relative.is_some());
        let mut table = if measured {
            Table::new(&[
                ("largest changes", Align::Left),
                ("shape", Align::Right),
                ("relative", Align::Right),
                ("max abs", Align::Right),
                ("rank", Align::Right),
            ])
        } else {
            Table::new(&[("changed", Align::Left), ("shape", Align::Right)])
        };
        for c in self.changed.iter().take(self.top) {
            let amount = |v: Option<f64>| v.map_or("-".into(), ui::amount);
            let rank = match (c.rank, c.full_rank) {
                (Some(rank), Some(full)) => format!("{rank} of {full}"),
                (None, Some(_)) => "full".into(),
                _ => "-".into(),
            };
            table.row([
                c.source.clone(),
                show_shape(&c.shape),
                amount(c.relative),
                amount(c.max_abs),
                rank,
            ]);
        }
        table.write(out, 2)?;
        if self.changed.len() > self.top {
            let all = match self.measure {
                Measuring::All => "",
                // Which are the largest went by a sample of each.
                Measuring::Largest => {
                    ", smaller by a sample of each; --measure all measures every one"
                }
            };
            let more = self.changed.len() - self.top;
            writeln!(out, "  … and {more} more{all}")?;
            writeln!(out, "    (--top N or --json list them)")?;
        }
        Ok(())
    }
}

pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
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
    if let Some(path) = &args.html {
        let mut inputs = vec![args.old.clone(), plan::manifest_path(&args.old)];
        inputs.extend(args.new.iter().chain(&args.shapes).cloned());
        inputs.extend(args.overlay.inputs());
        // Before the comparison, which may take minutes, and never over a file that it reads.
        html::claim(path, &inputs)?;
    }
    super::tell_other_gpu(&args.old, true, ui);
    let request = CompareRequest {
        old: args.old.clone(),
        new: args.new.clone(),
        // What each of `new` is, the comparison finds out; none of it is a checkpoint for certain.
        overlay: OverlayRequest {
            memo: super::memo(environment, args.rehash),
            ..args.overlay.request(Vec::new())
        },
        shapes,
        measure: (args.measure == Measuring::Largest && args.html.is_none()).then_some(args.top),
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
    let columns = match &args.html {
        Some(_) => columns(args, &changed, ui)?,
        None => Vec::new(),
    };
    let report = DiffReport {
        html: args.html.clone(),
        old: args.old.clone(),
        new: args.new.clone(),
        verdict,
        compared: diff.compared,
        unchanged: diff.unchanged,
        counts: diff.counts(),
        reasons: diff.reasons,
        changed: changed.into_iter().map(Into::into).collect(),
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
        measure: args.measure,
    };
    if let Some(path) = &args.html {
        // Before the result, which says that the page is there.
        html::write(path, &report, &columns)?;
    }
    ui.result(&report)?;
    Ok(match (args.exit_code, verdict) {
        (false, _) | (true, Verdict::Live) => Exit::Done,
        (true, Verdict::NeedsRefit) => Exit::NeedsRefit,
        (true, Verdict::NeedsRecompile) => Exit::NeedsRecompile,
        (true, Verdict::Unknown) => Exit::Unknown,
    })
}

/// What the report shows beside one another: all that was asked for, and of several LoRAs each alone.
fn columns(args: &Args, changed: &[Measured], ui: &Ui) -> anyhow::Result<Vec<html::Column>> {
    let loras = &args.overlay.lora;
    let name = |(path, scale): &(PathBuf, f64)| {
        let file = path.file_name().unwrap_or(path.as_os_str());
        format!("{} at {scale}", file.to_string_lossy())
    };
    let together = match (&loras[..], args.new.is_empty()) {
        ([one], true) => name(one),
        ([], true) => "other shapes".into(),
        _ => "all together".into(),
    };
    let mut columns = vec![html::Column {
        name: together,
        changed: changed.to_vec(),
    }];
    // One LoRA alone is what is shown already.
    if loras.len() < 2 {
        return Ok(columns);
    }
    for lora in loras {
        let mut overlay = args.overlay.clone();
        overlay.lora = vec![lora.clone()];
        let request = CompareRequest {
            old: args.old.clone(),
            new: Vec::new(),
            overlay: overlay.request(Vec::new()),
            shapes: None,
            measure: None,
        };
        columns.push(html::Column {
            name: name(lora),
            changed: pipeline::compare(&request, ui)?.changed,
        });
    }
    Ok(columns)
}
