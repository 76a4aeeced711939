//! What stands beside an output while it is made: temporary files and folders that outlive a killed process, and the lock under
//! which several files change together.
//!
//! Everything temporary is called `.trtmut-*` and is locked for as long as its process lives; the system drops the lock with the
//! process, however it ends. So what can be locked was left behind, and the next write beside it removes it. Where a file system
//! has no locks, nothing is removed.

use super::Error;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

pub(super) const PREFIX: &str = ".trtmut-";

/// A temporary file is created first and locked then; younger ones may be between the two.
const YOUNG: Duration = Duration::from_mins(1);

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Marks a temporary file or folder as in use until `handle` is closed.
pub(super) fn claim(handle: &File) {
    // Without locks on this file system nobody takes it for left behind either.
    let _ = handle.try_lock();
}

/// Removes what killed processes left in `folder`. Whatever cannot be removed stays: that is no reason to fail.
pub(super) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        let age = meta
            .modified()
            .ok()
            .and_then(|m| SystemTime::now().duration_since(m).ok());
        if meta.is_symlink() || age.is_none_or(|a| a < YOUNG) {
            continue;
        }
        let Ok(handle) = File::open(&path) else {
            continue;
        };
        if handle.try_lock().is_ok() {
            let _ = if meta.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
        }
    }
}

/// A temporary folder beside an output. Dropping it removes it.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    _claim: Option<File>,
}

impl Scratch {
    /// An empty folder beside `path`.
    ///
    /// # Errors
    /// [`Error::Write`] when the folder of `path` cannot be written.
    pub fn beside(path: impl AsRef<Path>) -> Result<Scratch, Error> {
        let parent = folder_of(path.as_ref());
        sweep(parent);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(parent)
            .map_err(|e| Error::write(parent, e))?;
        let handle = File::open(folder.path()).ok();
        handle.iter().for_each(claim);
        Ok(Scratch {
            folder,
            _claim: handle,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Keeps other processes from changing the files of a folder together, as long as it lives.
#[derive(Debug)]
pub struct FolderLock(#[allow(dead_code)] Option<File>);

/// Waits until no other process holds the lock of the folder of `path`, and takes it. Where the file system has no locks, there is
/// none to wait for: a single process is then still right.
pub fn lock_folder_of(path: impl AsRef<Path>) -> FolderLock {
    let handle = File::open(folder_of(path.as_ref())).ok();
    FolderLock(handle.filter(|h| h.lock().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(path: &Path) {
        let long_ago = SystemTime::now() - 2 * YOUNG;
        File::open(path).unwrap().set_modified(long_ago).unwrap();
    }

    #[test]
    fn only_what_was_left_behind_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in [
            ".trtmut-left.tmp",
            ".trtmut-young.tmp",
            ".trtmut-used.tmp",
            "engine.plan",
            ".other.tmp",
        ] {
            fs::write(at(name), b"x").unwrap();
        }
        fs::create_dir(at(".trtmut-folder")).unwrap();
        fs::write(at(".trtmut-folder/model.onnx"), b"x").unwrap();
        for name in [
            ".trtmut-left.tmp",
            ".trtmut-used.tmp",
            "engine.plan",
            ".other.tmp",
            ".trtmut-folder",
        ] {
            old(&at(name));
        }
        let used = File::open(at(".trtmut-used.tmp")).unwrap();
        claim(&used);
        sweep(dir.path());
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                ".other.tmp",
                ".trtmut-used.tmp",
                ".trtmut-young.tmp",
                "engine.plan"
            ]
        );
        drop(used);
        sweep(dir.path());
        assert!(!at(".trtmut-used.tmp").exists());
    }

    #[test]
    fn a_folder_in_use_is_kept_and_removed_after() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::beside(dir.path().join("engine.plan")).unwrap();
        old(scratch.path());
        sweep(dir.path());
        assert!(scratch.path().exists());
        drop(scratch);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
