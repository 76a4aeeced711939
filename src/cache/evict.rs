//! Eviction: the least recently used goes first, and what is pinned or in use stays.

use super::folder::{
    Folder, MANIFEST, PLAN, RECORD, bytes_below, children, is_at, make, named, nanoseconds, remove,
};
use super::store::{Kind, Store};
use super::{CacheFault, Key};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

#[derive(Debug, Clone, Copy, Default)]
pub struct Prune {
    /// Until the cache holds so many bytes at most.
    pub to: Option<u64>,
    /// Everything that was not used for so long.
    pub older_than: Option<Duration>,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// Something that was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    pub kind: Kind,
    /// Its key or file name.
    pub name: String,
    /// Bytes that it took.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// What was removed, in this order.
    pub removed: Vec<Removed>,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Keys that would have been removed, were they not in use.
    pub in_use: Vec<String>,
    /// Keys that would have been removed, were they not pinned.
    pub pinned: Vec<String>,
    /// Leftovers of dead processes that were removed.
    pub swept: usize,
}

/// Something that counts against the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    kind: Kind,
    path: PathBuf,
    bytes: u64,
    /// Nanoseconds since 1970.
    used_ns: u64,
    pinned: bool,
}

/// What came of the attempt to remove an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    InUse,
}

impl Store {
    /// Removes what `prune` says; without a size and an age, what exceeds the limit. Leftovers of dead processes go too.
    pub fn prune(&self, prune: Prune) -> Result<PruneReport, CacheFault> {
        let _alone = self.folder.lock_exclusive()?;
        // An age alone says nothing of how much may stay.
        let to = match prune {
            Prune { to: Some(to), .. } => to,
            Prune {
                older_than: Some(_),
                ..
            } => u64::MAX,
            _ => self.limit,
        };
        let mut report = self
            .folder
            .evict(to, prune.older_than, prune.dry_run, false)?;
        // What writers left behind is swept in the same lock: nobody publishes meanwhile.
        if !prune.dry_run {
            report.swept = self.folder.sweep_tmp()?;
            self.folder.sweep_locks()?;
        }
        Ok(report)
    }

    /// Removes everything, pinned entries too; only what is in use stays.
    pub fn clear(&self) -> Result<PruneReport, CacheFault> {
        let _alone = self.folder.lock_exclusive()?;
        let mut report = self.folder.evict(0, Some(Duration::ZERO), false, true)?;
        report.swept = self.folder.sweep_tmp()?;
        self.folder.sweep_locks()?;
        // Digests of files are no engines and count towards no limit, but they name what was read.
        for path in children(&self.folder.memo())? {
            if named::memo(&path) {
                remove(&path)?;
            }
        }
        remove(&self.folder.index())?;
        Ok(report)
    }

    /// Evicts until `bytes` more fit below the limit.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), CacheFault> {
        let limit = self.limit;
        // Before anything is evicted: an entry that can never fit costs no other one.
        let Some(to) = limit.checked_sub(bytes) else {
            return Err(CacheFault::TooLarge { bytes, limit });
        };
        let _alone = self.folder.lock_exclusive()?;
        let held = self.folder.evict(to, None, false, false)?.bytes_after;
        if held > to {
            return Err(CacheFault::NoRoom { bytes, limit, held });
        }
        Ok(())
    }
}

impl Folder {
    /// The store lock is held exclusively.
    fn evict(
        &self,
        to: u64,
        older_than: Option<Duration>,
        dry_run: bool,
        pinned_too: bool,
    ) -> Result<PruneReport, CacheFault> {
        let now = SystemTime::now();
        let mut items = self.items()?;
        if pinned_too {
            for item in &mut items {
                item.pinned = false;
            }
        }
        let before = older_than.map(|age| {
            nanoseconds(now).saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX))
        });
        choose(items, nanoseconds(now), to, before, |item| {
            self.take(item, dry_run)
        })
    }

    /// Everything that counts, from the disk.
    fn items(&self) -> Result<Vec<Item>, CacheFault> {
        let mut items = Vec::new();
        let pins = self.pinned()?;
        for (kind, folder) in [
            (Kind::Engine, self.engines()),
            (Kind::Timing, self.timing()),
            (Kind::Runtime, self.runtime()),
            (Kind::Quarantine, self.quarantine()),
        ] {
            let is_ours = match kind {
                Kind::Engine => named::entry,
                Kind::Timing | Kind::Runtime => named::timing,
                Kind::Quarantine => named::quarantined,
            };
            for path in children(&folder)?.into_iter().filter(|p| is_ours(p)) {
                // What is gone by now takes no room.
                let Ok(meta) = path.symlink_metadata() else {
                    continue;
                };
                let record = (kind == Kind::Engine)
                    .then(|| path.join(RECORD).metadata().ok())
                    .flatten();
                // The record's time and not the folder's: a lookup stamps the record.
                let used = record.as_ref().unwrap_or(&meta).modified();
                let known = record.as_ref().map(|record| {
                    let of = |name| path.join(name).metadata().map_or(0, |m| m.len());
                    record.len() + of(PLAN) + of(MANIFEST)
                });
                items.push(Item {
                    kind,
                    // Three calls for a whole entry; a walk only where the record is gone and
                    // anything may lie there.
                    bytes: known.unwrap_or_else(|| bytes_below(&path)),
                    used_ns: nanoseconds(used.unwrap_or(SystemTime::UNIX_EPOCH)),
                    pinned: kind == Kind::Engine
                        && path.file_name().is_some_and(|name| pins.contains(name)),
                    path,
                });
            }
        }
        Ok(items)
    }

    fn take(&self, item: &Item, dry_run: bool) -> Result<Taken, CacheFault> {
        // A damaged entry may have no record; then nobody can have it open.
        let record = item.path.join(RECORD);
        let lock = (item.kind == Kind::Engine)
            .then(|| File::options().read(true).write(true).open(&record).ok())
            .flatten();
        if let Some(lock) = &lock
            && is_at(lock, &record)
            && let Err(TryLockError::WouldBlock) = lock.try_lock()
        {
            return Ok(Taken::InUse);
        }
        if dry_run {
            return Ok(Taken::Yes);
        }
        if item.kind == Kind::Engine {
            // By one rename, so that no reader ever sees half of it; should this process die here, a sweeper finds it.
            let away = self.tmp();
            make(&away)?;
            let away = away.join(format!("evicted-{}", name(&item.path)));
            remove(&away)?;
            std::fs::rename(&item.path, &away).map_err(CacheFault::io("evict", &item.path))?;
            drop(lock);
            remove(&away)?;
            remove(&self.pins().join(name(&item.path)))?;
        } else {
            remove(&item.path)?;
        }
        Ok(Taken::Yes)
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Decides what goes, in which order, and lets `take` remove it: first what is quarantined, then by last use; until `to`
/// bytes are left and everything last used at `before` or earlier is gone. A use in the future, left by a clock that went
/// back since, counts as now: it would otherwise keep its entry for ever.
fn choose(
    mut items: Vec<Item>,
    now_ns: u64,
    to: u64,
    before: Option<u64>,
    mut take: impl FnMut(&Item) -> Result<Taken, CacheFault>,
) -> Result<PruneReport, CacheFault> {
    for item in &mut items {
        // A clock that was wrong once must not make an entry the newest for ever.
        item.used_ns = item.used_ns.min(now_ns);
    }
    items.sort_by(|a, b| {
        // Damaged entries go first, whatever their age: nobody can use them.
        let key = |i: &Item| (i.kind != Kind::Quarantine, i.used_ns);
        // By path in the end, so that two runs remove the same.
        key(a).cmp(&key(b)).then_with(|| a.path.cmp(&b.path))
    });
    let total = items.iter().map(|i| i.bytes).sum();
    let mut report = PruneReport {
        bytes_before: total,
        bytes_after: total,
        ..PruneReport::default()
    };
    for item in &items {
        let old = before.is_some_and(|before| item.used_ns <= before);
        if report.bytes_after <= to && !old {
            continue;
        }
        if item.pinned {
            report.pinned.push(name(&item.path));
        } else if take(item)? == Taken::InUse {
            report.in_use.push(name(&item.path));
        } else {
            report.bytes_after -= item.bytes;
            report.removed.push(Removed {
                kind: item.kind,
                name: name(&item.path),
                bytes: item.bytes,
                used: SystemTime::UNIX_EPOCH + Duration::from_nanos(item.used_ns),
            });
        }
    }
    Ok(report)
}

impl Removed {
    /// The key, where it was an entry.
    pub fn key(&self) -> Option<Key> {
        (self.kind == Kind::Engine)
            .then(|| Key::parse(&self.name))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn item() -> impl Strategy<Value = (Item, bool)> {
        let kind = prop_oneof![
            Just(Kind::Engine),
            Just(Kind::Engine),
            Just(Kind::Timing),
            Just(Kind::Quarantine)
        ];
        (kind, 0u64..100, 0u64..200, any::<bool>(), any::<bool>()).prop_map(
            |(kind, bytes, used_ns, pinned, in_use)| {
                let engine = kind == Kind::Engine;
                let item = Item {
                    kind,
                    path: PathBuf::new(),
                    bytes,
                    used_ns,
                    pinned: pinned && engine,
                };
                (item, in_use && engine)
            },
        )
    }

    /// The rule once more, as a person would do it: look for the next to go, again and again.
    fn by_hand(items: &[(Item, bool)], now: u64, to: u64, before: Option<u64>) -> Vec<String> {
        let mut left: Vec<_> = items.iter().collect();
        let mut gone = Vec::new();
        let mut skipped = BTreeSet::new();
        loop {
            let total: u64 = left.iter().map(|(i, _)| i.bytes).sum();
            let next = left
                .iter()
                .filter(|(i, _)| !skipped.contains(&i.path))
                .filter(|(i, _)| total > to || before.is_some_and(|b| i.used_ns.min(now) <= b))
                .min_by_key(|(i, _)| {
                    (
                        i.kind != Kind::Quarantine,
                        i.used_ns.min(now),
                        i.path.clone(),
                    )
                });
            let Some((item, in_use)) = next.copied() else {
                return gone;
            };
            if item.pinned || *in_use {
                skipped.insert(item.path.clone());
            } else {
                gone.push(name(&item.path));
                left.retain(|(i, _)| i.path != item.path);
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_rule_done_by_hand(
            mut items in proptest::collection::vec(item(), 0..12),
            now in 50u64..250,
            to in 0u64..600,
            before in proptest::option::of(0u64..250),
        ) {
            for (at, (item, _)) in items.iter_mut().enumerate() {
                item.path = format!("{at}").into();
            }
            let list = items.iter().map(|(i, _)| i.clone()).collect();
            let report = choose(list, now, to, before, |item| {
                let in_use = items.iter().any(|(i, used)| i.path == item.path && *used);
                Ok(if in_use { Taken::InUse } else { Taken::Yes })
            }).unwrap();
            let names: Vec<_> = report.removed.iter().map(|r| r.name.clone()).collect();
            prop_assert_eq!(&names, &by_hand(&items, now, to, before));
            let left: u64 = items.iter().filter(|(i, _)| !names.contains(&name(&i.path))).map(|(i, _)| i.bytes).sum();
            prop_assert_eq!(report.bytes_after, left);
            prop_assert!(items.iter().all(|(i, used)| !(i.pinned || *used) || !names.contains(&name(&i.path))));
        }
    }
}
