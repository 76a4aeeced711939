//! Listing: every entry, its plan unread.

use super::folder::{PLAN, RECORD, bytes_below, children, nanoseconds};
use super::index::{Index, Rows};
use super::record::{LONGEST, Record};
use super::state::State;
use super::verify::Broken;
use super::{CacheFault, Damage, Key, Store};
use crate::fsx;
use crate::tensor::Digest;
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// An entry as `list` shows it; its plan was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: Key,
    /// Fields, sizes, digests, time of creation.
    pub record: Record,
    /// Bytes on disk, all its files together.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
    /// Whether it is kept from eviction.
    pub pinned: bool,
}

/// Everything that is in the cache.
#[derive(Debug, Default)]
pub struct Listing {
    /// Entries, least recently used first.
    pub entries: Vec<Listed>,
    /// Entries whose record cannot be read or whose plan has the wrong length.
    pub broken: Vec<Broken>,
    /// Entries that could not be read at all, each its own fault.
    pub faults: Vec<CacheFault>,
    /// Bytes of timing caches.
    pub timing_bytes: u64,
    /// Bytes of runtime caches.
    pub runtime_bytes: u64,
    /// Bytes of quarantined entries.
    pub quarantine_bytes: u64,
}

impl Listing {
    /// Bytes of everything that counts against the limit.
    pub fn total_bytes(&self) -> u64 {
        let entries: u64 = self.entries.iter().map(|e| e.bytes).sum();
        let broken: u64 = self.broken.iter().map(|b| b.bytes).sum();
        entries + broken + self.timing_bytes + self.runtime_bytes + self.quarantine_bytes
    }
}

/// What was found at an entry's place.
enum Row {
    Whole {
        listed: Listed,
        state: State,
        /// Whether the index told its record.
        known: bool,
    },
    Broken(Broken),
}

impl Store {
    /// Everything in the cache, from the disk; plans are not read.
    pub fn list(&self) -> Result<Listing, CacheFault> {
        self.list_at(nanoseconds(SystemTime::now()))
    }

    /// `now_ns` is when the list begins, nanoseconds since 1970.
    fn list_at(&self, now_ns: u64) -> Result<Listing, CacheFault> {
        let engines = self.folder.engines();
        let pins = self.folder.pinned()?;
        let index = Index::read(&self.folder.index());
        // The one is parsing and the other waiting for the disk.
        let (known, places) = rayon::join(|| index.rows(now_ns), || children(&engines));
        let rows: Vec<_> = match fsx::open_folder(&engines) {
            // The files are looked at relative to the open folder, which spares the kernel the way
            // to it for each of thousands.
            Ok(opened) => places?
                .into_par_iter()
                .filter_map(|place| row(&opened, &place, &pins, &known).transpose())
                .collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(CacheFault::io("list", &engines)(e)),
        };
        self.keep_index(&rows, &known, now_ns);
        let mut listing = Listing {
            timing_bytes: bytes_below(&self.folder.timing()),
            runtime_bytes: bytes_below(&self.folder.runtime()),
            quarantine_bytes: bytes_below(&self.folder.quarantine()),
            ..Listing::default()
        };
        for row in rows {
            match row {
                Ok(Row::Whole { listed, .. }) => listing.entries.push(listed),
                Ok(Row::Broken(broken)) => listing.broken.push(broken),
                Err(fault) => listing.faults.push(fault),
            }
        }
        listing.entries.sort_by_key(|e| (e.used, e.key));
        listing.broken.sort_by(|a, b| a.entry.cmp(&b.entry));
        Ok(listing)
    }

    fn keep_index(&self, rows: &[Result<Row, CacheFault>], old: &Rows<'_>, now_ns: u64) {
        let whole = rows.iter().filter_map(|row| match row {
            Ok(Row::Whole {
                listed,
                state,
                known,
            }) => Some((listed, state, *known)),
            _ => None,
        });
        let is_new = |(_, state, known): &(&Listed, &State, bool)| !known && state.settled(now_ns);
        let new = whole.clone().filter(is_new).count();
        if !Index::is_worth_writing(new, rows.len()) {
            return;
        }
        let lines = whole.filter_map(|(listed, state, known)| {
            if known {
                old.line(&listed.key.to_string())
            } else {
                // A file that is as new as the clock is coarse may change again without looking
                // changed.
                let settled = state.settled(now_ns);
                settled.then(|| Index::row(listed.key, state, &listed.record))
            }
        });
        // A read-only cache has none, and is listed more slowly.
        let _ = Index::write(&self.folder, now_ns, lines);
    }

    /// The entry that holds a plan of this digest.
    pub fn find_plan(&self, plan: &Digest) -> Result<Option<Listed>, CacheFault> {
        let mut entries = self.list()?.entries;
        entries.retain(|e| e.record.plan.digest == *plan);
        Ok(entries.pop())
    }

    /// One row of [`Store::list`].
    ///
    /// # Errors
    /// [`CacheFault::UnknownKey`] when there is none, [`CacheFault::Damaged`] when it cannot be read; it is not moved.
    pub fn info(&self, key: &Key) -> Result<Listed, CacheFault> {
        let unknown = || CacheFault::UnknownKey {
            text: key.to_string(),
        };
        let engines = fsx::open_folder(&self.folder.engines()).map_err(|_| unknown())?;
        let pins = self.folder.pinned()?;
        let index = Index::default();
        match row(&engines, &self.folder.entry(*key), &pins, &index.rows(0))? {
            Some(Row::Whole { listed, .. }) => Ok(listed),
            Some(Row::Broken(Broken { entry, damage, .. })) => Err(CacheFault::Damaged {
                entry,
                damage,
                quarantine: None,
            }),
            None => Err(unknown()),
        }
    }
}

/// One entry from its folder, which is in `engines`; `None` when it is gone by now.
fn row(
    engines: &File,
    place: &Path,
    pins: &HashSet<OsString>,
    known: &Rows<'_>,
) -> Result<Option<Row>, CacheFault> {
    let looked = look(engines, place, pins, known);
    if let Ok(Ok(whole)) = looked {
        return Ok(Some(whole));
    }
    // Another process may have evicted it between the listing and the look; then it is not broken
    // but gone.
    if place.symlink_metadata().is_err() {
        return Ok(None);
    }
    let name = place.file_name().unwrap_or_default();
    Ok(Some(looked?.unwrap_or_else(|damage| {
        Row::Broken(Broken {
            entry: name.to_string_lossy().into_owned(),
            damage,
            bytes: bytes_below(place),
        })
    })))
}

/// Of ten thousand entries, every call into the kernel is felt, and every step of a long path in each: so paths begin at
/// `engines`, and a record that the index has is not opened.
fn look(
    engines: &File,
    place: &Path,
    pins: &HashSet<OsString>,
    known: &Rows<'_>,
) -> Result<Result<Row, Damage>, CacheFault> {
    let name = place.file_name().unwrap_or_default();
    let (Some(key), Some(text)) = (Key::of_path(place), name.to_str()) else {
        return Ok(Err(Damage::Name));
    };
    let below = Path::new(name);
    let stat = |file: &'static str| match statat(engines, below.join(file), AtFlags::empty()) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => {
            Ok(Ok(State::of_stat(&stat)))
        }
        Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(Err(Damage::Missing { file })),
        Err(e) => Err(CacheFault::io("look at", &place.join(file))(e.into())),
    };
    // Asked before the file is looked at, which costs a system call.
    let told = if known.has(text) {
        match stat(RECORD)? {
            Ok(state) => known.get(text, &state).map(|record| (record, state)),
            Err(damage) => return Ok(Err(damage)),
        }
    } else {
        None
    };
    let is_known = told.is_some();
    let (record, state) = match told {
        Some(both) => both,
        None => match read(engines, place, below, key)? {
            Ok(both) => both,
            Err(damage) => return Ok(Err(damage)),
        },
    };
    let plan = match stat(PLAN)? {
        Ok(state) => state.bytes,
        Err(damage) => return Ok(Err(damage)),
    };
    if plan != record.plan.bytes {
        return Ok(Err(Damage::Length {
            file: PLAN,
            expected: record.plan.bytes,
            found: plan,
        }));
    }
    let listed = Listed {
        key,
        bytes: state.bytes + plan + record.manifest.bytes,
        record,
        used: time(state.mtime_ns),
        pinned: pins.contains(name),
    };
    Ok(Ok(Row::Whole {
        listed,
        state,
        known: is_known,
    }))
}

/// The record of an entry, in one read, and what the file was then.
fn read(
    engines: &File,
    place: &Path,
    below: &Path,
    key: Key,
) -> Result<Result<(Record, State), Damage>, CacheFault> {
    let path = place.join(RECORD);
    let wrap = |e| CacheFault::io("read", &path)(e);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = match openat(engines, below.join(RECORD), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => {
            return Ok(Err(Damage::Missing { file: RECORD }));
        }
        Err(e) => return Err(wrap(e.into())),
    };
    let state = State::of(&file.metadata().map_err(wrap)?);
    if state.bytes > LONGEST {
        let why = format!("it has {} bytes", state.bytes);
        return Ok(Err(Damage::Record { why }));
    }
    let mut json = vec![0; state.bytes as usize];
    match file.read_exact_at(&mut json, 0) {
        // It was cut after its length was asked for: parsing the empty text says that it is
        // damaged.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => json.clear(),
        read => read.map_err(wrap)?,
    }
    Ok(Record::parse(&json, key).map(|record| (record, state)))
}

/// A time stamp of the file system.
fn time(ns: i128) -> SystemTime {
    let from_1970 = Duration::from_nanos(u64::try_from(ns.unsigned_abs()).unwrap_or(u64::MAX));
    if ns < 0 {
        SystemTime::UNIX_EPOCH - from_1970
    } else {
        SystemTime::UNIX_EPOCH + from_1970
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Check, KeyFields, Plan};
    use crate::watch::Silent;
    use std::fs;

    const ENTRIES: usize = 80;

    struct Scene {
        _temp: tempfile::TempDir,
        store: Store,
    }

    fn fields(n: usize) -> KeyFields {
        KeyFields::new().with("n", n.to_string())
    }

    impl Scene {
        fn new() -> Scene {
            let temp = tempfile::tempdir().unwrap();
            let store = Store::open(temp.path().join("c"), 1 << 30).unwrap();
            for n in 0..ENTRIES {
                let lock = store.lock(&fields(n), &Silent).unwrap();
                lock.put(Plan::Bytes(b"plan"), b"{}").unwrap();
            }
            Scene { _temp: temp, store }
        }

        /// The list some seconds from now: nobody can set a ctime back.
        fn later(&self, seconds: u64) -> Vec<Listed> {
            let now = nanoseconds(SystemTime::now()) + seconds * 1_000_000_000;
            let listing = self.store.list_at(now).unwrap();
            assert!(
                listing.broken.is_empty() && listing.faults.is_empty(),
                "{listing:?}"
            );
            listing.entries
        }

        /// What there is to say without an index.
        fn plainly(&self) -> Vec<Listed> {
            let index = self.store.folder.index();
            let kept = fs::read(&index).ok();
            let _ = fs::remove_file(&index);
            let entries = self.later(0);
            assert!(!index.exists(), "nothing is settled yet");
            if let Some(kept) = kept {
                fs::write(index, kept).unwrap();
            }
            entries
        }

        fn place(&self, n: usize) -> std::path::PathBuf {
            self.store.folder.entry(fields(n).key())
        }
    }

    #[test]
    fn an_index_says_what_the_entries_say() {
        let s = Scene::new();
        let first = s.plainly();
        assert_eq!(first.len(), ENTRIES);
        assert_eq!(s.later(10), first);
        let index = fs::read_to_string(s.store.folder.index()).unwrap();
        assert_eq!(index.lines().count(), 1 + ENTRIES);
        assert_eq!(s.later(20), first);
        // Used, pinned, gone, replaced.
        s.store.lookup(&fields(3).key(), Check::Trust).unwrap();
        s.store.pin(&fields(4).key()).unwrap();
        fs::remove_dir_all(s.place(5)).unwrap();
        let lock = s.store.lock(&fields(6), &Silent).unwrap();
        lock.put(Plan::Bytes(b"other plan"), b"{ }").unwrap();
        let changed = s.later(20);
        assert_eq!(changed, s.plainly());
        assert_ne!(changed, first);
        assert_eq!(changed.last().unwrap().record.plan.bytes, 10);
    }

    #[test]
    fn damage_is_seen_behind_an_index() {
        let s = Scene::new();
        s.later(10);
        assert!(s.store.folder.index().exists());
        fs::write(s.place(1).join(RECORD), b"{}").unwrap();
        fs::write(s.place(2).join(PLAN), b"pla").unwrap();
        fs::remove_file(s.place(3).join(RECORD)).unwrap();
        let listing = s.store.list_at(nanoseconds(SystemTime::now())).unwrap();
        assert_eq!(
            (listing.entries.len(), listing.broken.len()),
            (ENTRIES - 3, 3)
        );
    }

    #[test]
    fn a_damaged_index_is_never_believed() {
        let s = Scene::new();
        let first = s.plainly();
        s.later(10);
        let index = s.store.folder.index();
        let whole = fs::read(&index).unwrap();
        // Two rows and the head, bit by bit; then cut off.
        for bit in (0..1500 * 8).step_by(3) {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&index, flipped).unwrap();
            assert_eq!(s.later(20), first, "bit {bit}");
        }
        for length in [0, 1, 30, 500, whole.len() - 1] {
            fs::write(&index, &whole[..length]).unwrap();
            assert_eq!(s.later(20), first, "{length}");
        }
    }

    #[test]
    fn what_a_killed_list_leaves_is_swept() {
        let s = Scene::new();
        s.later(10);
        let tmp = s.store.folder.tmp();
        assert_eq!(
            fs::read_dir(&tmp).unwrap().count(),
            0,
            "the index was moved away"
        );
        fs::write(tmp.join("index-abc"), b"half").unwrap();
        let swept = s.store.prune(crate::cache::Prune::default()).unwrap().swept;
        assert_eq!((swept, fs::read_dir(&tmp).unwrap().count()), (1, 0));
    }

    #[test]
    fn an_index_from_the_future_is_not_believed() {
        let s = Scene::new();
        s.later(10);
        let text = fs::read_to_string(s.store.folder.index()).unwrap();
        let index = Index::read(&s.store.folder.index());
        let name = fields(1).key().to_string();
        let at: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(index.rows(at).has(&name) && !index.rows(at - 1).has(&name));
    }
}
