//! The store: looking up, pinning and moving away what is damaged.

use super::entry::{self, Check, Hit, Outcome};
use super::folder::{Folder, RECORD, children, create, is_at, make, named, nanoseconds, remove};
use super::{CacheFault, Damage, Key, Memo};
use crate::fsx;
use std::fs::File;
use std::io;
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

/// What a part of the cache is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A damaged entry, kept for a look.
    Quarantine,
    Engine,
    /// A file in [`Store::timing_dir`].
    Timing,
    /// A file in [`Store::runtime_dir`].
    Runtime,
}

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

    pub fn dir(&self) -> &Path {
        self.folder.root()
    }

    /// The most that the cache may hold, bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Folder for `TensorRT`'s timing caches, made if missing. Its files count, and are evicted by mtime like entries; write
    /// them by rename.
    pub fn timing_dir(&self) -> Result<PathBuf, CacheFault> {
        let path = self.folder.timing();
        make(&path).map(|()| path)
    }

    /// Folder for the runtime's caches; otherwise as [`Store::timing_dir`].
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
        tracing::debug!(key = key.short(), hit = hit.is_some(), "looked up");
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
        let moved = fsx::open_folder(&hit.folder).ok().and_then(|folder| {
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
        kept.retain(|p| named::quarantined(p));
        kept.sort_by_cached_key(|path| std::cmp::Reverse(modified(path)));
        for old in kept.iter().skip(MOST_QUARANTINED) {
            remove(old)?;
        }
        Ok(Some(to))
    }
}
