//! `trtmut cache verify`, `prune`, `clear`: what is damaged or too much goes.

use super::entries::{Damaged, damaged};
use super::{ago, seconds, short};
use crate::cache::{Kind, PruneReport, Store};
use crate::exit::Exit;
use crate::ui::{self, Report, Screen, Ui};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Serialize)]
struct VerifyOutcome {
    whole: usize,
    bytes: u64,
    damaged: Vec<Damaged>,
    quarantined: Vec<PathBuf>,
    faults: Vec<String>,
    swept: usize,
}

impl Report for VerifyOutcome {
    const SCHEMA: &'static str = "trtmut.cache-verify/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        for d in &self.damaged {
            writeln!(out, "{}  damaged: {}", d.entry, d.damage)?;
        }
        for fault in &self.faults {
            writeln!(out, "unreadable: {fault}")?;
        }
        for path in &self.quarantined {
            writeln!(out, "moved to {}", ui::path(path))?;
        }
        writeln!(
            out,
            "{} whole, {} damaged; {} read",
            self.whole,
            self.damaged.len(),
            ui::bytes(self.bytes)
        )
    }
}

#[derive(Debug, Serialize)]
struct RemovedItem {
    kind: &'static str,
    name: String,
    bytes: u64,
    used: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct PruneOutcome {
    dry_run: bool,
    removed: Vec<RemovedItem>,
    bytes_before: u64,
    bytes_after: u64,
    in_use: Vec<String>,
    pinned: Vec<String>,
    swept: usize,
}

impl PruneOutcome {
    pub(super) fn new(report: PruneReport, dry_run: bool) -> PruneOutcome {
        let removed = report.removed.into_iter().map(|r| RemovedItem {
            kind: match r.kind {
                Kind::Quarantine => "quarantine",
                Kind::Engine => "engine",
                Kind::Timing => "timing",
                Kind::Runtime => "runtime",
            },
            name: r.name,
            bytes: r.bytes,
            used: seconds(r.used),
        });
        PruneOutcome {
            dry_run,
            removed: removed.collect(),
            bytes_before: report.bytes_before,
            bytes_after: report.bytes_after,
            in_use: report.in_use,
            pinned: report.pinned,
            swept: report.swept,
        }
    }
}

impl Report for PruneOutcome {
    const SCHEMA: &'static str = "trtmut.cache-prune/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let verb = if self.dry_run {
            "would remove"
        } else {
            "removed"
        };
        for r in &self.removed {
            let (name, size) = (short(&r.name), ui::bytes(r.bytes));
            writeln!(
                out,
                "{verb} {} {name}, {size}, used {}",
                r.kind,
                ago(r.used)
            )?;
        }
        for (keys, why) in [(&self.in_use, "in use"), (&self.pinned, "pinned")] {
            for key in keys {
                writeln!(out, "kept {}: {why}", short(key))?;
            }
        }
        let (before, after) = (ui::bytes(self.bytes_before), ui::bytes(self.bytes_after));
        writeln!(out, "{before} before, {after} after")
    }
}

pub(super) fn verify(store: &Store, repair: bool, ui: &Ui) -> anyhow::Result<Exit> {
    let report = store.verify(repair, ui)?;
    let clean = report.is_clean();
    ui.result(&VerifyOutcome {
        whole: report.whole,
        bytes: report.bytes,
        damaged: damaged(report.broken),
        quarantined: report.quarantined,
        faults: report.faults.iter().map(ToString::to_string).collect(),
        swept: report.swept,
    })?;
    Ok(if clean { Exit::Done } else { Exit::Environment })
}
