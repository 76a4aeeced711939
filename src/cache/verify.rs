//! Checking every byte of the cache, and moving away what is wrong.

use super::entry::{self, Check, Outcome};
use super::folder::{bytes_below, children};
use super::store::Store;
use super::{CacheFault, Damage, Key, Owner};
use crate::fsx;
use crate::watch::{Event, Watch};
use std::path::PathBuf;

/// An entry that is not what was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Name of its folder: its key, unless somebody renamed it.
    pub entry: String,
    pub damage: Damage,
    pub bytes: u64,
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Entries that are whole.
    pub whole: usize,
    /// Bytes of plans that were read.
    pub bytes: u64,
    /// Entries that are not.
    pub broken: Vec<Broken>,
    /// Where broken entries were moved; empty without repair.
    pub quarantined: Vec<PathBuf>,
    /// Leftovers of dead processes that were removed; 0 without repair.
    pub swept: usize,
    /// Who is building now, as far as it is known. Only with repair.
    pub building: Vec<Option<Owner>>,
    /// Entries that could not be read at all, each its own fault.
    pub faults: Vec<CacheFault>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty() && self.faults.is_empty()
    }
}

impl Store {
    /// Reads every entry whole. With `repair`, moves what is broken to quarantine, and removes what dead processes left.
    /// Others go on using the cache meanwhile; what they evict or replace is not an error.
    ///
    /// # Errors
    /// [`CacheFault::Io`] when the folder itself cannot be read.
    pub fn verify(&self, repair: bool, watch: &dyn Watch) -> Result<VerifyReport, CacheFault> {
        let places = children(&self.folder.engines())?;
        watch.event(Event::Begin {
            step: "checking cached engines",
            total: Some(places.iter().map(|p| bytes_below(p)).sum()),
        });
        let mut report = VerifyReport::default();
        for place in places {
            let mut read = 0;
            let outcome = match Key::of_path(&place) {
                Some(key) => entry::open(&place, key, Check::Full, |n| {
                    read += n;
                    watch.event(Event::Advance(n));
                }),
                None => fsx::open_folder(&self.folder.engines())
                    .map(|folder| Outcome::Damaged {
                        damage: Damage::Name,
                        folder,
                    })
                    .map_err(CacheFault::io("open", &place)),
            };
            report.bytes += read;
            match outcome {
                Ok(Outcome::Absent) => {}
                Ok(Outcome::Whole(_)) => report.whole += 1,
                Err(fault) => report.faults.push(fault),
                Ok(Outcome::Damaged { damage, folder }) => {
                    report.broken.push(Broken {
                        entry: place
                            .file_name()
                            .unwrap_or_default()
                            .to_string_lossy()
                            .into_owned(),
                        damage,
                        bytes: bytes_below(&place),
                    });
                    // What has no name of ours is not ours to move.
                    if repair && Key::of_path(&place).is_some() {
                        match self.quarantine(&place, &folder) {
                            Ok(moved) => report.quarantined.extend(moved),
                            Err(fault) => report.faults.push(fault),
                        }
                    }
                }
            }
        }
        watch.event(Event::End);
        if repair {
            let _alone = self.folder.lock_exclusive()?;
            report.swept = self.folder.sweep_tmp()?;
            report.building = self
                .folder
                .sweep_locks()?
                .into_iter()
                .map(|(_, owner)| owner)
                .collect();
        }
        Ok(report)
    }
}
