//! `trtmut cache list`, `info`, `pin`, `unpin`: one row per entry.

use super::{ago, find, seconds, short};
use crate::cache::{Broken, KeyFields, Label, Listed, Pinned, Store};
use crate::shapes::ProfileInput;
use crate::tensor::Digest;
use crate::ui::{self, Align, Report, Screen, Table, Ui};
use crate::watch::{Event, Watch};
use rayon::prelude::*;
use serde::{Serialize, Serializer};
use std::io::{self, Write};
use std::path::PathBuf;

/// Values of `--sort`: which entries come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Sort {
    Size,
    Used,
    Age,
}

/// An entry; times are seconds since 1970.
#[derive(Debug, Serialize)]
pub(super) struct Entry<'l> {
    pub(super) key: String,
    bytes: u64,
    used: u64,
    created: u64,
    pinned: bool,
    plan: Digest,
    /// What it was last built from here; none for what came from elsewhere.
    #[serde(flatten)]
    label: Option<Label>,
    #[serde(serialize_with = "as_map")]
    fields: &'l KeyFields,
}

/// Labels and values as one object.
pub(super) fn as_map<S: Serializer>(fields: &KeyFields, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(fields.iter())
}

impl<'l> Entry<'l> {
    pub(super) fn new(store: &Store, listed: &'l Listed) -> Entry<'l> {
        Entry {
            label: store.label(&listed.key),
            key: listed.key.to_string(),
            bytes: listed.bytes,
            used: seconds(listed.used),
            created: listed.record.created_ns / 1_000_000_000,
            pinned: listed.pinned,
            plan: listed.record.plan.digest,
            fields: &listed.record.fields,
        }
    }

    /// The model's file name, or the beginning of its structure's digest.
    fn model(&self) -> String {
        let structure = || {
            let text = self.fields.get("structure").unwrap_or_default();
            let digits = text.rsplit(':').next().unwrap_or_default();
            format!("structure {}", short(digits))
        };
        (self.label.as_ref()).map_or_else(structure, |label| label.model.clone())
    }

    /// Who runs it, and on what.
    fn runs_on(&self) -> String {
        // A key names this GPU, or in its place the hardware that the engine was asked to run on.
        let gpu = ["gpu", "hardware", "compute_capability"];
        let gpu = gpu.iter().find_map(|name| self.fields.get(name));
        let gpu = gpu.or_else(|| self.fields.get("option compute-capability"));
        let library = self.fields.get("library").unwrap_or_default();
        gpu.map_or_else(|| library.to_owned(), |gpu| format!("{library}, {gpu}"))
    }

    /// The shapes that it takes: `sample 1..3x4x8..32x8..32`, input by input.
    fn shapes(&self) -> String {
        let labels = (0..).map(|at| format!("profile of input {at}"));
        let inputs = labels.map_while(|label| self.fields.get(&label));
        let inputs = inputs.filter_map(|text| serde_json::from_str::<ProfileInput>(text).ok());
        let shown = inputs.map(|input| {
            let axes = input.axes.iter().map(|axis| match axis.max {
                Some(max) if max == axis.min => max.to_string(),
                Some(max) => format!("{}..{max}", axis.min),
                None => format!("{}..", axis.min),
            });
            let axes = axes.collect::<Vec<_>>().join("x");
            let axes = if axes.is_empty() { "scalar" } else { &axes };
            format!("{} {axes}", input.name)
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Damaged {
    pub(super) entry: String,
    pub(super) damage: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct ListReport<'l> {
    folder: PathBuf,
    limit: u64,
    bytes: u64,
    entries: Vec<Entry<'l>>,
    damaged: Vec<Damaged>,
}

impl Report for ListReport<'_> {
    const SCHEMA: &'static str = "trtmut.cache-list/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        if !self.entries.is_empty() {
            let mut table = Table::new(&[
                ("key", Align::Right),
                ("size", Align::Right),
                ("used", Align::Right),
                ("weights", Align::Right),
                ("model, shapes", Align::Left),
                ("runs on", Align::Left),
            ]);
            for e in &self.entries {
                let pinned = if e.pinned { " (pinned)" } else { "" };
                let weights = e.label.as_ref().map_or("-", |label| {
                    label.weights.get(..8).unwrap_or(&label.weights)
                });
                table.row([
                    short(&e.key).to_owned(),
                    ui::bytes(e.bytes),
                    ago(e.used),
                    weights.to_owned(),
                    format!("{}{pinned}, {}", e.model(), e.shapes()),
                    e.runs_on(),
                ]);
            }
            table.write(out, 0)?;
        }
        for d in &self.damaged {
            writeln!(out, "{}  damaged: {}", d.entry, d.damage)?;
        }
        writeln!(
            out,
            "{} of {} in {}",
            ui::bytes(self.bytes),
            ui::bytes(self.limit),
            ui::path(&self.folder)
        )
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct InfoReport<'l>(Entry<'l>);

impl Report for InfoReport<'_> {
    const SCHEMA: &'static str = "trtmut.cache-info/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let e = &self.0;
        let pinned = if e.pinned { ", pinned" } else { "" };
        writeln!(out, "{}", e.key)?;
        writeln!(out, "  {}{pinned}", ui::bytes(e.bytes))?;
        writeln!(out, "  used {}, built {}", ago(e.used), ago(e.created))?;
        writeln!(out, "  plan {}", e.plan)?;
        if let Some(label) = &e.label {
            writeln!(out, "  model {}, weights {}", label.model, label.weights)?;
        }
        writeln!(out)?;
        let mut table = Table::list(&[Align::Left, Align::Left]);
        for (label, value) in e.fields.iter() {
            table.row([label.to_owned(), value.to_owned()]);
        }
        table.write(out, 2)
    }
}

#[derive(Debug, Serialize)]
struct PinReport {
    key: String,
    pinned: bool,
    changed: bool,
}

impl Report for PinReport {
    const SCHEMA: &'static str = "trtmut.cache-pin/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let state = if self.pinned { "pinned" } else { "not pinned" };
        let already = if self.changed { "" } else { " already" };
        writeln!(out, "{} is{already} {state}", short(&self.key))
    }
}

pub(super) fn list(store: &Store, sort: Sort, ui: &Ui) -> anyhow::Result<()> {
    let mut listing = store.list()?;
    for fault in &listing.faults {
        ui.event(Event::Warn(&fault.to_string()));
    }
    let bytes = listing.total_bytes();
    // They come least recently used first, and the sorts are stable.
    listing.entries.reverse();
    match sort {
        Sort::Used => {}
        Sort::Size => listing.entries.sort_by_key(|e| std::cmp::Reverse(e.bytes)),
        Sort::Age => {
            let newest = |e: &Listed| std::cmp::Reverse(e.record.created_ns);
            listing.entries.sort_by_key(newest);
        }
    }
    ui.result(&ListReport {
        folder: store.dir().to_owned(),
        limit: store.limit(),
        bytes,
        // The label of each is a file of its own, and there may be thousands.
        entries: (listing.entries.par_iter())
            .map(|listed| Entry::new(store, listed))
            .collect(),
        damaged: damaged(listing.broken),
    })?;
    Ok(())
}

pub(super) fn info(store: &Store, entry: &str, ui: &Ui) -> anyhow::Result<()> {
    let listed = store.info(&find(store, entry)?)?;
    ui.result(&InfoReport(Entry::new(store, &listed)))?;
    Ok(())
}

pub(super) fn damaged(broken: Vec<Broken>) -> Vec<Damaged> {
    let all = broken.into_iter().map(|b| Damaged {
        entry: b.entry,
        damage: b.damage.to_string(),
        bytes: b.bytes,
    });
    all.collect()
}

pub(super) fn pin(store: &Store, entry: &str, pinned: bool, ui: &Ui) -> anyhow::Result<()> {
    let key = find(store, entry)?;
    let done = if pinned {
        store.pin(&key)?
    } else {
        store.unpin(&key)?
    };
    ui.result(&PinReport {
        key: key.to_string(),
        pinned,
        changed: done == Pinned::Changed,
    })?;
    Ok(())
}
