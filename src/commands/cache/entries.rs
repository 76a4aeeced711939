//! `trtmut cache list`, `info`, `pin`, `unpin`: one row per entry.

use super::{ago, find, seconds, short};
use crate::cache::{Broken, KeyFields, Listed, Pinned, Store};
use crate::tensor::Digest;
use crate::ui::{self, Align, Report, Table, Ui};
use crate::watch::{Event, Watch};
use serde::{Serialize, Serializer};
use std::io::{self, Write};
use std::path::PathBuf;

/// `--sort`.
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
    #[serde(serialize_with = "as_map")]
    fields: &'l KeyFields,
}

/// Labels and values as one object.
pub(super) fn as_map<S: Serializer>(fields: &KeyFields, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(fields.iter())
}

impl<'l> From<&'l Listed> for Entry<'l> {
    fn from(listed: &'l Listed) -> Entry<'l> {
        Entry {
            key: listed.key.to_string(),
            bytes: listed.bytes,
            used: seconds(listed.used),
            created: listed.record.created_ns / 1_000_000_000,
            pinned: listed.pinned,
            plan: listed.record.plan.digest,
            fields: &listed.record.fields,
        }
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

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.entries.is_empty() {
            let mut table = Table::new(&[
                ("key", Align::Left),
                ("size", Align::Right),
                ("used", Align::Right),
                ("built", Align::Right),
                ("library", Align::Left),
                ("", Align::Left),
            ]);
            for e in &self.entries {
                table.row([
                    short(&e.key).to_owned(),
                    ui::bytes(e.bytes),
                    ago(e.used),
                    ago(e.created),
                    e.fields.get("library").unwrap_or_default().to_owned(),
                    if e.pinned { "pinned" } else { "" }.into(),
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
            self.folder.display()
        )
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct InfoReport<'l>(Entry<'l>);

impl Report for InfoReport<'_> {
    const SCHEMA: &'static str = "trtmut.cache-info/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let e = &self.0;
        let pinned = if e.pinned { ", pinned" } else { "" };
        writeln!(out, "{}\n  {}{pinned}", e.key, ui::bytes(e.bytes))?;
        writeln!(out, "  used {}, built {}", ago(e.used), ago(e.created))?;
        writeln!(out, "  plan {}\n", e.plan)?;
        for (label, value) in e.fields.iter() {
            writeln!(out, "  {label}: {value}")?;
        }
        Ok(())
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

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
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
        entries: listing.entries.iter().map(Entry::from).collect(),
        damaged: damaged(listing.broken),
    })?;
    Ok(())
}

pub(super) fn info(store: &Store, entry: &str, ui: &Ui) -> anyhow::Result<()> {
    let listed = store.info(&find(store, entry)?)?;
    ui.result(&InfoReport(Entry::from(&listed)))?;
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
