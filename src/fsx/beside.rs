//! What is beside an output while it is made: temporary files and folders that outlive a killed process, and the locks under
//! which files change.
//!
//! A temporary file is called `.trtmut-` and 16 letters or digits and `.tmp`, and is locked for as long as its process lives; the
//! system drops the lock with the process, however it ends. So one that can be locked was left behind, and the next write beside it
//! removes it. A temporary folder ends in `.dir` and has a locked file of a fixed name in it: of such a folder the files that are
//! made in it are removed by their names, and then the folder if it is empty. Nothing else is ever removed. Where a file system has
//! no locks, nothing is.

use super::{Error, raw};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const PREFIX: &str = ".trtmut-";
const FILE: &str = ".tmp";
const FOLDER: &str = ".dir";
const RANDOM: usize = 16;
/// The file in a temporary folder that says whose it is.
const LOCK: &str = "trtmut.lock";
/// What is made in temporary folders.
const MADE: [&str; 4] = ["model.onnx", "model.onnx.data", "engine.plan", LOCK];

/// A temporary file is created first and locked then; younger ones may be between the two.
const YOUNG: Duration = Duration::from_mins(1);

/// Temporary files and folders of this process, for [`abandon`].
static MINE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// Held between the two renames of a plan and its manifest.
static CHANGING: Mutex<()> = Mutex::new(());

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Names of temporary files: `Builder::tempfile_in` and its like do the rest.
pub fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(FILE).rand_bytes(RANDOM);
    builder
}

fn is_named(path: &Path, suffix: &str) -> bool {
    path.file_name()
        .and_then(|n| n.to_str())
        .and_then(|n| n.strip_prefix(PREFIX)?.strip_suffix(suffix))
        .is_some_and(|n| n.len() == RANDOM && n.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Whether a path has the form of our temporary files, or of what is in our temporary folders.
pub(super) fn is_temporary(path: &Path) -> bool {
    is_named(path, FILE) || path.parent().is_some_and(|p| is_named(p, FOLDER))
}

fn mine() -> MutexGuard<'static, Vec<PathBuf>> {
    MINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary file or folder that is removed should the process be told to end; forgotten when this value goes.
#[derive(Debug)]
pub struct Noted(PathBuf);

/// Notes a temporary file or folder, until the value goes.
pub fn note_temporary(path: &Path) -> Noted {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    mine().push(path.clone());
    Noted(path)
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut mine = mine();
        if let Some(at) = mine.iter().position(|p| *p == self.0) {
            mine.swap_remove(at);
        }
    }
}

/// Removes the temporary files of this process, which is about to end in the middle of its work. Waits a little for two renames
/// that belong together.
pub fn abandon() {
    // Whoever is between two renames gets so long to finish; a killed process must end some time.
    for _ in 0..50 {
        if let Ok(changing) = CHANGING.try_lock() {
            // Nobody may begin again.
            std::mem::forget(changing);
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let Ok(mine) = MINE.try_lock() else { return };
    for path in mine.iter() {
        if is_named(path, FOLDER) {
            remove_made(path);
        } else {
            let _ = fs::remove_file(path);
        }
    }
}

/// Keeps the end of the process away for a moment, between renames that belong together.
pub fn uninterrupted() -> MutexGuard<'static, ()> {
    CHANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Marks a temporary file as in use until `handle` is closed.
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
        let path = entry.path();
        if is_named(&path, FILE) && is_left_behind(&path) {
            let _ = fs::remove_file(&path);
        } else if is_named(&path, FOLDER)
            && path.symlink_metadata().is_ok_and(|m| m.is_dir())
            && is_left_behind(&path.join(LOCK))
        {
            remove_made(&path);
        }
    }
}

/// Whether this is a regular file of this user that nobody has locked for a while.
fn is_left_behind(path: &Path) -> bool {
    let Ok(meta) = path.symlink_metadata() else {
        return false;
    };
    let age = meta
        .modified()
        .ok()
        .and_then(|m| SystemTime::now().duration_since(m).ok());
    let ours = meta.is_file()
        // A file with a second name is somebody's, whatever it is called.
        && meta.nlink() == 1
        && meta.uid() == rustix::process::geteuid().as_raw()
        && age.is_some_and(|a| a >= YOUNG);
    ours && super::open_regular(path).is_ok_and(|handle| handle.try_lock().is_ok())
}

/// Removes what we make in a temporary folder, and the folder if nothing else is in it.
fn remove_made(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if is_named(&path, FILE) || MADE.iter().any(|name| entry.file_name() == *name) {
            let _ = fs::remove_file(path);
        }
    }
    let _ = fs::remove_dir(folder);
}

/// A temporary folder beside an output, for files of the names that are made there. Dropping it removes it.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    _lock: Option<File>,
    _noted: Noted,
}

impl Scratch {
    /// An empty folder beside `path`.
    ///
    /// # Errors
    /// [`Error::Write`] when the folder of `path` cannot be written.
    pub fn beside(path: impl AsRef<Path>) -> Result<Scratch, Error> {
        let target = super::resolve(path.as_ref());
        let parent = folder_of(&target);
        sweep(parent);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .suffix(FOLDER)
            .rand_bytes(RANDOM)
            .tempdir_in(parent)
            .map_err(|e| Error::write(parent, e))?;
        let lock = raw::options()
            .write(true)
            .create_new(true)
            .open(folder.path().join(LOCK))
            .ok();
        lock.iter().for_each(claim);
        Ok(Scratch {
            _noted: note_temporary(folder.path()),
            folder,
            _lock: lock,
        })
    }

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
    let target = super::resolve(path.as_ref());
    let handle = raw::open_folder(folder_of(&target)).ok();
    FolderLock(handle.filter(|h| h.lock().is_ok()))
}

/// As [`lock_folder_of`] for several paths. Each folder is locked once, by device and inode, since a second lock would wait for the
/// first; and all processes lock them in the same order, so that no two wait for each other.
pub fn lock_folders_of(paths: &[PathBuf]) -> Vec<FolderLock> {
    let mut folders = BTreeMap::new();
    for path in paths {
        let target = super::resolve(path);
        if let Ok(handle) = raw::open_folder(folder_of(&target))
            && let Ok(meta) = handle.metadata()
        {
            // By number, so that every process locks them in one order, and none twice.
            folders.insert((meta.dev(), meta.ino()), handle);
        }
    }
    (folders.into_values())
        .map(|handle| FolderLock(handle.lock().is_ok().then_some(handle)))
        .collect()
}

/// Keeps other processes from changing a file, as long as it lives.
#[derive(Debug)]
pub struct FileLock(#[allow(dead_code)] Option<File>);

/// Waits until no other process changes the file at `path`, and takes that right; `waiting` is called once where it has to wait.
/// Where there is no file yet, or the file system has no locks, there is nobody to wait for.
pub fn lock_file(path: impl AsRef<Path>, waiting: impl FnOnce()) -> FileLock {
    let path = path.as_ref();
    let mut waiting = Some(waiting);
    loop {
        let Ok(file) = super::open_regular(path) else {
            return FileLock(None);
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                if let Some(waiting) = waiting.take() {
                    waiting();
                }
                if file.lock().is_err() {
                    return FileLock(None);
                }
            }
            Err(fs::TryLockError::Error(_)) => return FileLock(None),
        }
        // The one before may have put another file in its place.
        let same = match (file.metadata(), path.metadata()) {
            (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
            _ => false,
        };
        if same {
            return FileLock(Some(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(path: &Path) {
        let long_ago = SystemTime::now() - 2 * YOUNG;
        File::open(path).unwrap().set_modified(long_ago).unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut left: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        left
    }

    #[test]
    fn only_what_was_left_behind_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let kept = [
            ".other.tmp",
            ".trtmut-0123456789abcdeF.txt",
            ".trtmut-0123456789abcdeF0.tmp",
            ".trtmut-0123456789abcde_.tmp",
            ".trtmut-backup.tmp",
            ".trtmut-linkedlinkedlink.tmp",
            ".trtmut-usedusedusedused.tmp",
            ".trtmut-youngyoungyoungy.tmp",
            "engine.plan",
        ];
        for name in kept.iter().chain(&[".trtmut-leftleftleftleft.tmp"]) {
            fs::write(at(name), b"x").unwrap();
            if !name.contains("young") {
                old(&at(name));
            }
        }
        fs::hard_link(
            at(".trtmut-linkedlinkedlink.tmp"),
            dir.path().join("linked"),
        )
        .unwrap();
        let used = File::open(at(".trtmut-usedusedusedused.tmp")).unwrap();
        claim(&used);
        sweep(dir.path());
        let mut expected: Vec<_> = kept.iter().map(ToString::to_string).collect();
        expected.push("linked".into());
        assert_eq!(names(dir.path()), expected);
        drop(used);
        sweep(dir.path());
        assert!(!at(".trtmut-usedusedusedused.tmp").exists());
    }

    #[test]
    fn folders_lose_what_was_made_in_them_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in [
            "work",
            "folderfolderfold.dir",
            "minemineminemine.dir",
            "nolocknolocknolo.dir",
        ] {
            let folder = at(&format!(".trtmut-{name}"));
            fs::create_dir(&folder).unwrap();
            for file in ["model.onnx", LOCK] {
                fs::write(folder.join(file), b"x").unwrap();
                old(&folder.join(file));
            }
        }
        fs::write(at(".trtmut-minemineminemine.dir/notes"), b"mine").unwrap();
        fs::remove_file(at(".trtmut-nolocknolocknolo.dir").join(LOCK)).unwrap();
        sweep(dir.path());
        assert_eq!(
            names(dir.path()),
            [
                ".trtmut-minemineminemine.dir",
                ".trtmut-nolocknolocknolo.dir",
                ".trtmut-work"
            ]
        );
        assert_eq!(names(&at(".trtmut-minemineminemine.dir")), ["notes"]);
        assert_eq!(names(&at(".trtmut-nolocknolocknolo.dir")), ["model.onnx"]);
    }

    #[test]
    fn a_folder_in_use_is_kept_and_removed_after() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::beside(dir.path().join("engine.plan")).unwrap();
        old(&scratch.path().join(LOCK));
        sweep(dir.path());
        assert!(scratch.path().join(LOCK).exists());
        assert!(is_temporary(&scratch.path().join("model.onnx")));
        drop(scratch);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_changes_a_file_at_a_time_also_when_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.plan");
        fs::write(&path, b"1").unwrap();
        let first = lock_file(&path, || panic!("nobody has it"));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let mut waited = false;
                let _lock = lock_file(&path, || waited = true);
                (waited, fs::read(&path).unwrap())
            });
            std::thread::sleep(Duration::from_millis(50));
            fs::write(dir.path().join("next"), b"2").unwrap();
            fs::rename(dir.path().join("next"), &path).unwrap();
            drop(first);
            assert_eq!(second.join().unwrap(), (true, b"2".to_vec()));
        });
        drop(lock_file(dir.path().join("absent"), || panic!("nobody")));
    }
}
