//! The store: looking up, listing, pinning and clearing.

use super::entry::{self, Hit, Outcome, is_at};
use super::folder::{
    Folder, PLAN, RECORD, bytes_below, children, create, make, nanoseconds, remove,
};
use super::lock::BuildLock;
use super::record::{LONGEST, Record};
use super::verify::Broken;
use super::{CacheFault, Damage, Key, KeyFields, Memo};
use crate::tensor::Digest;
use crate::watch::Watch;
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// More damaged entries than these are not kept.
const MOST_QUARANTINED: usize = 16;

/// A cache folder. Cheap to open; holds nothing open between calls.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) folder: Folder,
    pub(super) limit: u64,
}

/// How much of an entry is checked before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The plan is read and its digest compared.
    Full,
    /// The plan's length is compared, its bytes are not read. Everything else is checked as with `Full`.
    Trust,
}

/// What a part of the cache is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A damaged entry, kept for a look.
    Quarantine,
    /// An entry.
    Engine,
    /// A file in [`Store::timing_dir`].
    Timing,
    /// A file in [`Store::runtime_dir`].
    Runtime,
}

/// An entry as `list` shows it; its plan was not read.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its key.
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

/// What pinning changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    /// It was not as asked for, and is now.
    Changed,
    /// It was as asked for already.
    Already,
}

impl Store {
    /// Opens a cache folder, making it where it is missing. `limit` is in bytes.
    ///
    /// # Errors
    /// [`CacheFault::NotOwned`] and [`CacheFault::Exposed`] when others control the folder, [`CacheFault::Io`] when it
    /// cannot be made.
    pub fn open(folder: impl AsRef<Path>, limit: u64) -> Result<Store, CacheFault> {
        let folder = Folder::open(folder.as_ref())?;
        Ok(Store { folder, limit })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.folder.root()
    }

    /// The most that the cache may hold, bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Folder for `TensorRT`'s timing caches, made if missing. Its files count, and are evicted by mtime like entries; write
    /// them by rename.
    ///
    /// # Errors
    /// [`CacheFault::Io`].
    pub fn timing_dir(&self) -> Result<PathBuf, CacheFault> {
        let path = self.folder.timing();
        make(&path).map(|()| path)
    }

    /// Folder for the runtime's caches; otherwise as [`Store::timing_dir`].
    ///
    /// # Errors
    /// [`CacheFault::Io`].
    pub fn runtime_dir(&self) -> Result<PathBuf, CacheFault> {
        let path = self.folder.runtime();
        make(&path).map(|()| path)
    }

    /// The digests of files read before.
    pub fn memo(&self) -> Memo {
        Memo::new(self.folder.memo())
    }

    /// Looks an entry up, and stamps it as used now.
    ///
    /// # Errors
    /// [`CacheFault::Damaged`] when it is not what was stored: it was then moved to quarantine, and the key is to be built
    /// as after a miss. [`CacheFault::Io`] when it cannot be read.
    pub fn lookup(&self, key: &Key, check: Check) -> Result<Option<Hit>, CacheFault> {
        let hit = self.inspect(key, check)?;
        if let Some(hit) = &hit {
            // Not in a read-only cache, where nothing is evicted either.
            let _ = hit.lock.set_modified(SystemTime::now());
        }
        Ok(hit)
    }

    /// As [`Store::lookup`], without counting as a use.
    ///
    /// # Errors
    /// As [`Store::lookup`].
    pub fn inspect(&self, key: &Key, check: Check) -> Result<Option<Hit>, CacheFault> {
        let place = self.folder.entry(*key);
        loop {
            match entry::open(&place, *key, check, |_| ())? {
                Outcome::Absent => return Ok(None),
                Outcome::Whole(hit) => return Ok(Some(*hit)),
                Outcome::Damaged { damage, folder } => match self.quarantine(&place, &folder) {
                    Ok(None) => {}
                    moved => {
                        return Err(CacheFault::Damaged {
                            entry: key.to_string(),
                            damage,
                            quarantine: moved.ok().flatten(),
                        });
                    }
                },
            }
        }
    }

    /// Takes the right to build what has these fields; waits for whoever has it, and tells `watch` who that is. Look the
    /// key up again afterwards: the other may have stored it.
    ///
    /// # Errors
    /// [`CacheFault::Io`].
    pub fn lock(&self, fields: &KeyFields, watch: &dyn Watch) -> Result<BuildLock<'_>, CacheFault> {
        BuildLock::take(self, fields, watch)
    }

    /// Everything in the cache, from the disk; plans are not read.
    ///
    /// # Errors
    /// [`CacheFault::Io`].
    pub fn list(&self) -> Result<Listing, CacheFault> {
        let engines = self.folder.engines();
        let pins = self.folder.pinned()?;
        let rows: Vec<_> = match File::open(&engines) {
            Ok(opened) => children(&engines)?
                .into_par_iter()
                .filter_map(|place| row(&opened, &place, &pins).transpose())
                .collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(CacheFault::io("list", &engines)(e)),
        };
        let mut listing = Listing {
            timing_bytes: bytes_below(&self.folder.timing()),
            runtime_bytes: bytes_below(&self.folder.runtime()),
            quarantine_bytes: bytes_below(&self.folder.quarantine()),
            ..Listing::default()
        };
        for row in rows {
            match row {
                Ok(Ok(listed)) => listing.entries.push(listed),
                Ok(Err(broken)) => listing.broken.push(broken),
                Err(fault) => listing.faults.push(fault),
            }
        }
        listing.entries.sort_by_key(|e| (e.used, e.key));
        listing.broken.sort_by(|a, b| a.entry.cmp(&b.entry));
        Ok(listing)
    }

    /// The key that begins with `text`.
    ///
    /// # Errors
    /// [`CacheFault::UnknownKey`], [`CacheFault::AmbiguousKey`].
    pub fn resolve(&self, text: &str) -> Result<Key, CacheFault> {
        let wanted = text.trim().to_ascii_lowercase();
        let mut keys = self.keys()?;
        keys.retain(|k| !wanted.is_empty() && k.to_string().starts_with(&wanted));
        keys.sort_unstable();
        match keys[..] {
            [key] => Ok(key),
            [] => Err(CacheFault::UnknownKey { text: text.into() }),
            _ => Err(CacheFault::AmbiguousKey {
                text: text.into(),
                matches: keys.iter().map(Key::short).collect(),
            }),
        }
    }

    /// The entry that holds a plan of this digest.
    ///
    /// # Errors
    /// [`CacheFault::Io`].
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
        let engines = File::open(self.folder.engines()).map_err(|_| unknown())?;
        let pins = self.folder.pinned()?;
        match row(&engines, &self.folder.entry(*key), &pins)? {
            Some(Ok(listed)) => Ok(listed),
            Some(Err(Broken { entry, damage, .. })) => Err(CacheFault::Damaged {
                entry,
                damage,
                quarantine: None,
            }),
            None => Err(unknown()),
        }
    }

    /// Keeps an entry from eviction, whatever the limit, and what replaces it under its key.
    ///
    /// # Errors
    /// [`CacheFault::UnknownKey`], [`CacheFault::Io`].
    pub fn pin(&self, key: &Key) -> Result<Pinned, CacheFault> {
        let _evicting = self.folder.lock_shared()?;
        self.must_have(key)?;
        make(&self.folder.pins())?;
        let path = self.folder.pins().join(key.to_string());
        match create(&path) {
            Ok(_) => Ok(Pinned::Changed),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Pinned::Already),
            Err(e) => Err(CacheFault::io("write", &path)(e)),
        }
    }

    /// Takes the pin away.
    ///
    /// # Errors
    /// As [`Store::pin`].
    pub fn unpin(&self, key: &Key) -> Result<Pinned, CacheFault> {
        let _evicting = self.folder.lock_shared()?;
        let path = self.folder.pins().join(key.to_string());
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(Pinned::Changed),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.must_have(key).map(|()| Pinned::Already)
            }
            Err(e) => Err(CacheFault::io("remove", &path)(e)),
        }
    }

    fn must_have(&self, key: &Key) -> Result<(), CacheFault> {
        if self.folder.entry(*key).is_dir() {
            Ok(())
        } else {
            Err(CacheFault::UnknownKey {
                text: key.to_string(),
            })
        }
    }

    fn keys(&self) -> Result<Vec<Key>, CacheFault> {
        let places = children(&self.folder.engines())?;
        Ok(places.iter().filter_map(|p| Key::of_path(p)).collect())
    }

    /// The fault for an entry whose damage was found after it was opened; moves it away, if it is still there.
    pub(super) fn damaged(&self, hit: &Hit, damage: Damage) -> CacheFault {
        let moved = File::open(&hit.folder).ok().and_then(|folder| {
            // The folder that was opened just now is that of the hit if it still holds its record.
            let same = is_at(&hit.lock, &hit.folder.join(RECORD));
            same.then(|| self.quarantine(&hit.folder, &folder).ok().flatten())
                .flatten()
        });
        CacheFault::Damaged {
            entry: hit.key.to_string(),
            damage,
            quarantine: moved,
        }
    }

    /// Moves a damaged entry away, unless something else is in its place by now (`None`).
    pub(super) fn quarantine(
        &self,
        place: &Path,
        damaged: &File,
    ) -> Result<Option<PathBuf>, CacheFault> {
        let _alone = self.folder.lock_exclusive()?;
        if !is_at(damaged, place) {
            return Ok(None);
        }
        let quarantine = self.folder.quarantine();
        make(&quarantine)?;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let to = quarantine.join(format!("{name}-{}", nanoseconds(SystemTime::now())));
        std::fs::rename(place, &to).map_err(CacheFault::io("move away", place))?;
        // For eviction, which takes the oldest first.
        let _ = damaged.set_modified(SystemTime::now());
        // A failing disk may damage many; a few are enough to look at.
        let modified = |path: &PathBuf| path.metadata().and_then(|m| m.modified()).ok();
        let mut kept = children(&quarantine)?;
        kept.sort_by_cached_key(|path| std::cmp::Reverse(modified(path)));
        for old in kept.iter().skip(MOST_QUARANTINED) {
            remove(old)?;
        }
        Ok(Some(to))
    }
}

/// One entry from its folder, which is in `engines`; `None` when it is gone by now.
fn row(
    engines: &File,
    place: &Path,
    pins: &HashSet<OsString>,
) -> Result<Option<Result<Listed, Broken>>, CacheFault> {
    let looked = look(engines, place, pins);
    if let Ok(Ok(listed)) = looked {
        return Ok(Some(Ok(listed)));
    }
    if place.symlink_metadata().is_err() {
        return Ok(None);
    }
    let name = place.file_name().unwrap_or_default();
    Ok(Some(looked?.map_err(|damage| Broken {
        entry: name.to_string_lossy().into_owned(),
        damage,
        bytes: bytes_below(place),
    })))
}

/// Of ten thousand entries, every call into the kernel is felt, and every step of a long path in each: so paths begin at
/// `engines`, and the record is one read.
fn look(
    engines: &File,
    place: &Path,
    pins: &HashSet<OsString>,
) -> Result<Result<Listed, Damage>, CacheFault> {
    let Some(key) = Key::of_path(place) else {
        return Ok(Err(Damage::Name));
    };
    let below = Path::new(place.file_name().unwrap_or_default());
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
    let meta = file.metadata().map_err(wrap)?;
    if !meta.is_file() {
        return Ok(Err(Damage::Missing { file: RECORD }));
    }
    let length = meta.len();
    if length > LONGEST {
        let why = format!("it has {length} bytes");
        return Ok(Err(Damage::Record { why }));
    }
    let mut json = vec![0; length as usize];
    match file.read_exact_at(&mut json, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => json.clear(),
        read => read.map_err(wrap)?,
    }
    let record = match Record::parse(&json, key) {
        Ok(record) => record,
        Err(damage) => return Ok(Err(damage)),
    };
    let plan = match statat(engines, below.join(PLAN), AtFlags::empty()) {
        Ok(m) if FileType::from_raw_mode(m.st_mode).is_file() => m.st_size as u64,
        _ => return Ok(Err(Damage::Missing { file: PLAN })),
    };
    if plan != record.plan.bytes {
        return Ok(Err(Damage::Length {
            file: PLAN,
            expected: record.plan.bytes,
            found: plan,
        }));
    }
    Ok(Ok(Listed {
        key,
        bytes: length + plan + record.manifest.bytes,
        record,
        used: meta.modified().map_err(wrap)?,
        pinned: pins.contains(below.as_os_str()),
    }))
}
