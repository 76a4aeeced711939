//! What `trtmut diff` reports: the verdict, why, and what changed most.

use super::words::{describe, kind};
use crate::commands::tables;
use crate::diff::{Reason, Verdict};
use crate::pipeline::{Measured, ThingKind, kind_of};
use crate::tensor::show_shape;
use crate::ui::{self, Align, Annotation, Level, Report, Screen, Table};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

/// Values of `--measure`: which changed tensors are read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Measuring {
    /// Those that are listed: a sample of each changed tensor says which moved most
    Largest,
    /// Every changed tensor
    All,
}

#[derive(Debug)]
pub(super) struct DiffReport {
    pub old: PathBuf,
    pub new: Vec<PathBuf>,
    pub verdict: Verdict,
    pub compared: usize,
    pub unchanged: usize,
    pub counts: BTreeMap<String, usize>,
    pub reasons: Vec<Reason>,
    pub changed: Vec<Changed>,
    /// Tensors and weights that `--ignore` lets go.
    pub ignored: Vec<String>,
    /// Weights whose tensor is not given.
    pub missing: Vec<String>,
    pub blocks: Vec<Block>,
    pub rules: Vec<&'static str>,
    /// Commands that do what the verdict asks for, in order; words in capitals stand for files that are not known.
    pub next: Vec<String>,
    /// The report for a browser.
    pub html: Option<PathBuf>,
    pub top: usize,
    pub measure: Measuring,
}

impl Serialize for DiffReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("old", &self.old)?;
        fields.serialize_entry("new", &self.new)?;
        fields.serialize_entry("verdict", &self.verdict)?;
        fields.serialize_entry("compared", &self.compared)?;
        fields.serialize_entry("unchanged", &self.unchanged)?;
        fields.serialize_entry("counts", &self.counts)?;
        fields.serialize_entry("reasons", &self.reasons)?;
        fields.serialize_entry("changed", &self.changed)?;
        // A checkpoint may have millions of these: they are not there twice.
        fields.serialize_entry("unused", &Named(&self.reasons, Reason::unused))?;
        fields.serialize_entry("lost", &Named(&self.reasons, Reason::lost))?;
        fields.serialize_entry("ignored", &self.ignored)?;
        fields.serialize_entry("missing", &self.missing)?;
        fields.serialize_entry("blocks", &self.blocks)?;
        if !self.rules.is_empty() {
            fields.serialize_entry("rules", &self.rules)?;
        }
        fields.serialize_entry("next", &self.next)?;
        if let Some(html) = &self.html {
            fields.serialize_entry("html", html)?;
        }
        fields.end()
    }
}

/// The tensors that some of the reasons are about.
struct Named<'r>(&'r [Reason], fn(&Reason) -> Option<&str>);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().filter_map(self.1))
    }
}

/// Measures that were not taken are null.
#[derive(Debug, serde::Serialize)]
pub(super) struct Changed {
    pub name: String,
    pub source: String,
    pub shape: Vec<usize>,
    /// `relative` over a sample of the elements.
    pub estimate: Option<f64>,
    pub max_abs: Option<f64>,
    pub relative: Option<f64>,
    pub rank: Option<usize>,
    pub full_rank: Option<usize>,
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

#[derive(Debug, serde::Serialize)]
pub(super) struct Block {
    #[serde(rename = "block")]
    pub name: String,
    pub tensors: usize,
    pub changed: usize,
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
    pub(super) fn how_many(&self) -> String {
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
