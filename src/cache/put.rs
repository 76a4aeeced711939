//! Storing an entry: written under `tmp/`, synced, renamed into place.

use super::copy::reflink;
use super::entry::Hit;
use super::folder::{
    Folder, MANIFEST, PLAN, RECORD, children, create, make, named, nanoseconds, remove,
};
use super::lock::{BuildLock, Freed};
use super::record::{Part, Record};
use super::{CacheFault, hash};
use crate::fsx::{self, Map};
use crate::tensor::Digest;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where a plan's bytes come from.
#[derive(Clone, Copy)]
pub enum Plan<'a> {
    Bytes(&'a [u8]),
    /// A file, which is reflinked or copied, never linked: it is its owner's to write into.
    File(&'a Path),
    /// As [`Plan::File`], and the copy is stored only if this says that it is the plan that was meant.
    Checked(&'a Path, &'a dyn Fn(&Map) -> bool),
}

impl BuildLock<'_> {
    /// Stores a plan and its manifest under this lock's key, evicts what exceeds the limit, and hands the entry out as a
    /// lookup would. An entry that is there already is replaced; those who have it open keep it.
    ///
    /// # Errors
    /// [`CacheFault::TooLarge`] and [`CacheFault::NoRoom`] when it does not fit; [`CacheFault::Io`] on a full disk, a
    /// read-only folder and the like. The cache is then as it was, less what was evicted.
    pub fn put(&self, plan: Plan<'_>, manifest: &[u8]) -> Result<Hit, CacheFault> {
        let length = match plan {
            Plan::Bytes(bytes) => bytes.len() as u64,
            Plan::File(path) | Plan::Checked(path, _) => {
                let meta = path.metadata().map_err(CacheFault::io("read", path))?;
                meta.len()
            }
        };
        let now = nanoseconds(SystemTime::now());
        self.put_with(length, manifest, now, |mut out, path| {
            let written = match plan {
                Plan::Bytes(bytes) => out.write_all(bytes).map(|()| part(bytes)),
                Plan::File(from) => copy_in(from, out),
                Plan::Checked(from, is_right) => copy_in(from, out).and_then(|part| {
                    let map = Map::of(out, path).map_err(io::Error::other)?;
                    let other = || io::Error::other("another plan was put in its place");
                    is_right(&map).then_some(part).ok_or_else(other)
                }),
            };
            written.map_err(CacheFault::io("write", path))
        })
    }

    /// As [`BuildLock::put`], for a plan of so many bytes that `write` writes into the file that it is given, and that was
    /// first stored at `created_ns`, here or elsewhere.
    pub(super) fn put_with<E: From<CacheFault>>(
        &self,
        length: u64,
        manifest: &[u8],
        created_ns: u64,
        write: impl FnOnce(&File, &Path) -> Result<Part, E>,
    ) -> Result<Hit, E> {
        let folder = &self.store.folder;
        self.store
            .make_room(length.saturating_add(manifest.len() as u64))?;
        let staging = Staging::new(folder)?;
        let (plan, plan_part) = staging.fill(PLAN, write)?;
        let (_, manifest_part) = staging.fill_with(MANIFEST, manifest)?;
        let record = Record {
            fields: self.fields.clone(),
            plan: plan_part,
            manifest: manifest_part,
            created_ns,
        };
        let (lock, _) = staging.fill_with(RECORD, &record.to_json())?;
        // Before others can see it, so that it cannot be evicted before the caller has it.
        let _ = lock.lock_shared();

        let key = record.key();
        staging.publish(folder, &folder.entry(key))?;
        let hit = Hit {
            key,
            folder: folder.entry(key),
            record,
            manifest: manifest.to_vec(),
            plan,
            lock,
        };
        // Others may have published meanwhile. What cannot be evicted now is evicted by the next one.
        let _ = self.store.make_room(0);
        Ok(hit)
    }
}

fn copy_in(from: &Path, out: &File) -> io::Result<Part> {
    let from = fsx::open_regular(from).map_err(io::Error::other)?;
    let (bytes, digest) = match reflink(&from, out) {
        // A reflink copies no bytes, so they are read once to know them; a copy hashes what passes
        // through.
        Ok(()) => hash::digest(out, |_| ())?,
        Err(_) => hash::copy(&from, out, hash::Next::Sync)?,
    };
    Ok(Part { bytes, digest })
}

pub(super) fn part(bytes: &[u8]) -> Part {
    Part {
        bytes: bytes.len() as u64,
        digest: Digest::of(bytes),
    }
}

/// A folder under `tmp/` that goes when this value does. A lock beside it tells sweepers that its writer lives.
struct Staging {
    folder: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Staging {
    fn new(cache: &Folder) -> Result<Staging, CacheFault> {
        let tmp = cache.tmp();
        make(&tmp)?;
        // Sweepers want this lock exclusively, so none sees the lock file before it is locked.
        let _publishing = cache.lock_shared()?;
        let (lock, lock_path) = tempfile::Builder::new()
            .prefix("put-")
            .suffix(".lock")
            .tempfile_in(&tmp)
            .and_then(|f| f.keep().map_err(|e| e.error))
            .map_err(CacheFault::io("write in", &tmp))?;
        let _ = lock.lock();
        let staging = Staging {
            folder: lock_path.with_extension(""),
            lock_path,
            _lock: lock,
        };
        make(&staging.folder)?;
        Ok(staging)
    }

    /// Writes one file with `fill`, and syncs it.
    fn fill<T, E: From<CacheFault>>(
        &self,
        name: &str,
        fill: impl FnOnce(&File, &Path) -> Result<T, E>,
    ) -> Result<(File, T), E> {
        let path = self.folder.join(name);
        let file = create(&path).map_err(CacheFault::io("write", &path))?;
        let told = fill(&file, &path)?;
        file.sync_all().map_err(CacheFault::io("write", &path))?;
        Ok((file, told))
    }

    fn fill_with(&self, name: &str, bytes: &[u8]) -> Result<(File, Part), CacheFault> {
        self.fill(name, |mut out, path| {
            out.write_all(bytes)
                .map_err(CacheFault::io("write", path))?;
            Ok(part(bytes))
        })
    }

    /// Renames it to `place`.
    fn publish(self, cache: &Folder, place: &Path) -> Result<(), CacheFault> {
        // Before the rename: after a power cut an entry that is there must be whole.
        sync(&self.folder);
        make(&cache.engines())?;
        let _publishing = cache.lock_shared()?;
        // A folder cannot be renamed over another one that has files in it, so the old one steps
        // aside first.
        let old = self.folder.with_extension("old");
        match std::fs::rename(place, &old) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(CacheFault::io("replace", place)(e)),
        }
        let renamed = std::fs::rename(&self.folder, place);
        sync(&cache.engines());
        // Should this process die here, a sweeper finds it.
        let _ = remove(&old);
        renamed.map_err(CacheFault::io("write", place))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After `publish` the folder has moved, and nothing is left here to remove.
        let _ = remove(&self.folder);
        let _ = remove(&self.lock_path);
    }
}

/// A file system that cannot sync folders has still renamed.
fn sync(folder: &Path) {
    if let Ok(folder) = fsx::open_folder(folder) {
        let _ = folder.sync_all();
    }
}

impl Folder {
    /// Removes what dead writers and evictors left under `tmp/`; the store lock is held exclusively. Returns how many.
    pub(super) fn sweep_tmp(&self) -> Result<usize, CacheFault> {
        let mut swept = 0;
        // Locks last: a lock that is gone says that its folder is nobody's.
        let is_lock = |path: &Path| path.extension() == Some(OsStr::new("lock"));
        let ours = children(&self.tmp())?
            .into_iter()
            .filter(|p| named::in_tmp(p));
        let (locks, others): (Vec<_>, Vec<_>) = ours.partition(|p| is_lock(p));
        for path in others {
            if let Freed::No(_) = Freed::of(&path.with_extension("lock")) {
                continue;
            }
            remove(&path)?;
            swept += 1;
        }
        for path in locks {
            if let Freed::Yes(_lock) = Freed::of(&path) {
                remove(&path)?;
            }
        }
        Ok(swept)
    }
}
