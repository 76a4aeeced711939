//! What was read is what was decided: every source that this process reads is noted with its [`Stamp`], and looked at again before
//! anything is put in place or reported.
//!
//! The notes are of the process, and are only taken after [`guard_sources`]: the program runs one command in a process, while tests
//! run many things side by side, which rewrite each other's files on purpose.

use super::Error;
use super::open::Stamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time stamps of files move with the kernel's tick, 10 ms at the slowest. A file that was changed within one may be changed again
/// without a trace, so reading begins after it.
const TICK: Duration = Duration::from_millis(20);

static GUARDED: AtomicBool = AtomicBool::new(false);
static COMMITTED: AtomicBool = AtomicBool::new(false);
static NOTES: Mutex<Notes> = Mutex::new(Notes {
    sources: Vec::new(),
    files: BTreeMap::new(),
    replaceable: BTreeSet::new(),
});

struct Notes {
    sources: Vec<Arc<Source>>,
    /// Which file each path led to when it was first read.
    files: BTreeMap<PathBuf, (u64, u64)>,
    /// Those that the command may replace: plans.
    replaceable: BTreeSet<PathBuf>,
}

/// A file that is being read, or was.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    stamp: Stamp,
    /// While it may still be read.
    file: Mutex<Option<Arc<File>>>,
    changed: AtomicBool,
}

/// From now on every source is noted.
pub fn guard_sources() {
    GUARDED.store(true, Ordering::Relaxed);
}

fn notes() -> MutexGuard<'static, Notes> {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn changed(path: &Path) -> Error {
    Error::Changed {
        path: path.to_owned(),
    }
}

/// Waits until a change of the file would show, and returns its stamp.
fn settled(file: &File, path: &Path) -> Result<Stamp, Error> {
    let look = || {
        let meta = file.metadata().map_err(|e| Error::read(path, e))?;
        Ok(Stamp::of(&meta))
    };
    for _ in 0..50 {
        let stamp: Stamp = look()?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as i128);
        let age = now - stamp.newest_ns();
        // A stamp in the future says nothing of when it was made; a network's clock may be ahead for hours.
        if age < 0 || age >= TICK.as_nanos() as i128 {
            return Ok(stamp);
        }
        std::thread::sleep(TICK);
    }
    Err(changed(path))
}

impl Source {
    /// Notes a file before anything of it is read.
    pub fn note(path: &Path, file: &Arc<File>) -> Result<Option<Arc<Source>>, Error> {
        if !GUARDED.load(Ordering::Relaxed) || super::beside::is_temporary(path) {
            return Ok(None);
        }
        // A file that was written a moment ago may be written again within one step of the file
        // system's clock, and keep its stamp.
        let stamp = settled(file, path)?;
        let mut notes = notes();
        if *notes
            .files
            .entry(path.to_owned())
            .or_insert_with(|| stamp.file())
            != stamp.file()
        {
            return Err(changed(path));
        }
        let source = Arc::new(Source {
            path: path.to_owned(),
            stamp,
            file: Mutex::new(Some(Arc::clone(file))),
            changed: AtomicBool::new(false),
        });
        notes.sources.push(Arc::clone(&source));
        Ok(Some(source))
    }

    /// Looks at it once more, and lets go of it: everything was read.
    pub fn close(&self) {
        let file = (self.file.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(file) = file {
            self.look(&file);
        }
    }

    fn look(&self, file: &File) {
        let same = file
            .metadata()
            .is_ok_and(|m| Stamp::of(&m).holds_what(&self.stamp));
        if !same {
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    fn is_changed(&self) -> bool {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*file {
            self.look(file);
        }
        self.changed.load(Ordering::Relaxed)
    }
}

/// Says that a plan is at this path, of which the manifest says what it is: another file that is read there later is a change, and
/// so is one that is there when the plan is replaced.
///
/// # Errors
/// [`Error::Changed`] when the path led to another file before.
pub fn expect_plan(path: &Path, stamp: &Stamp) -> Result<(), Error> {
    if !GUARDED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut notes = notes();
    notes.replaceable.insert(path.to_owned());
    let known = notes.files.entry(path.to_owned());
    if *known.or_insert_with(|| stamp.file()) == stamp.file() {
        Ok(())
    } else {
        Err(changed(path))
    }
}

/// Checks every source that was read so far.
///
/// # Errors
/// [`Error::Changed`] for the first one that is not what it was when its reading began.
pub fn check_sources() -> Result<(), Error> {
    let sources = notes().sources.clone();
    match sources.iter().find(|s| s.is_changed()) {
        Some(source) => Err(changed(&source.path)),
        None => Ok(()),
    }
}

/// As [`check_sources`], for a report: what was put in place already was checked then, and is right.
///
/// # Errors
/// As [`check_sources`].
pub fn check_report() -> Result<(), Error> {
    if COMMITTED.load(Ordering::Relaxed) {
        Ok(())
    } else {
        check_sources()
    }
}

/// Checks, before `to` is replaced, that nothing that was read has changed, and that `to` is not a source itself. A plan that is
/// refitted in its place is one: then it must still be the file that was read.
pub(super) fn check_commit(to: &Path, named: &Path) -> Result<(), Error> {
    if !GUARDED.load(Ordering::Relaxed) {
        return Ok(());
    }
    check_sources()?;
    let there = to.symlink_metadata().ok().map(|m| Stamp::of(&m).file());
    let notes = notes();
    let replaced = [named, to]
        .into_iter()
        .find(|p| notes.replaceable.contains(*p));
    if let Some(path) = replaced {
        return match notes.files.get(path) {
            Some(read) if there != Some(*read) => Err(changed(named)),
            _ => Ok(()),
        };
    }
    let input = notes.sources.iter().find(|s| Some(s.stamp.file()) == there);
    match input {
        Some(source) => Err(Error::IsInput {
            path: named.to_owned(),
            input: source.path.clone(),
        }),
        None => Ok(()),
    }
}

/// Notes that a plan was put in place by a rename of its own.
pub fn note_replaced(path: &Path) {
    committed(&super::resolve(path), path);
}

/// Notes that `to` is ours now.
pub(super) fn committed(to: &Path, named: &Path) {
    COMMITTED.store(true, Ordering::Relaxed);
    let mut notes = notes();
    for path in [to, named] {
        notes.files.remove(path);
    }
}
