//! Locks between processes; the contract is in the module above.

use super::folder::{Folder, children, is_at, make, named, nanoseconds, open_or_create};
use super::{CacheFault, KeyFields, Store};
use crate::watch::{Event, Watch};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const STORE: &str = "store";
/// How often a waiter looks again: often at first, then seldom enough to cost nothing during a build of minutes.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Who holds a build lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process number on its host.
    pub pid: u32,
    /// Name of its host.
    pub host: String,
    /// Since when, nanoseconds since 1970.
    pub since_ns: u64,
}

impl Owner {
    fn this_process() -> Owner {
        Owner {
            pid: std::process::id(),
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            since_ns: nanoseconds(SystemTime::now()),
        }
    }

    fn read(file: &File) -> Option<Owner> {
        let mut text = String::new();
        file.take(4096).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = nanoseconds(SystemTime::now());
        let since = Duration::from_secs(now.saturating_sub(self.since_ns) / 1_000_000_000);
        write!(
            f,
            "process {} on `{}` for {} so far",
            self.pid,
            self.host,
            humantime::format_duration(since)
        )
    }
}

/// The right to build what one key stands for. Others who want it wait; it ends with this value or with the process.
#[derive(Debug)]
pub struct BuildLock<'s> {
    pub(super) store: &'s Store,
    pub(super) fields: KeyFields,
    path: PathBuf,
    /// `None` where the file system has no locks.
    file: Option<File>,
}

impl Store {
    /// Takes the right to build what has these fields; waits for whoever has it, and tells `watch` who that is. Look the
    /// key up again afterwards: the other may have stored it.
    pub fn lock(&self, fields: &KeyFields, watch: &dyn Watch) -> Result<BuildLock<'_>, CacheFault> {
        BuildLock::take(self, fields, watch)
    }
}

impl<'s> BuildLock<'s> {
    fn take(
        store: &'s Store,
        fields: &KeyFields,
        watch: &dyn Watch,
    ) -> Result<BuildLock<'s>, CacheFault> {
        make(&store.folder.locks())?;
        let path = store.folder.locks().join(fields.key().to_string());
        let wrap = |e| CacheFault::io("lock", &path)(e);
        let mut told = None;
        let mut waited = Duration::ZERO;
        let mut pause = FIRST_PAUSE;
        let file = loop {
            let file = open_or_create(&path).map_err(wrap)?;
            match file.try_lock() {
                // A released lock's file is removed: then this one is nobody's any more.
                Ok(()) if is_at(&file, &path) => break Some(file),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let owner = Owner::read(&file);
                    // The owner writes its name just after it took the lock.
                    if (owner.is_some() || waited > Duration::from_secs(1))
                        && told != Some(owner.clone())
                    {
                        let whom = owner
                            .as_ref()
                            .map_or("another process".into(), Owner::to_string);
                        watch.event(Event::Warn(&format!(
                            "waiting for {whom}, which builds the same engine"
                        )));
                        told = Some(owner);
                    }
                    std::thread::sleep(pause);
                    waited += pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                    watch.event(Event::Warn(&format!(
                        "the file system of `{}` has no locks: another process may build the same engine",
                        path.display()
                    )));
                    break None;
                }
                Err(TryLockError::Error(e)) => return Err(wrap(e)),
            }
        };
        if let Some(mut file) = file.as_ref() {
            // Only for those who wait; a full disk must not cost the lock.
            let name = serde_json::to_string(&Owner::this_process()).unwrap_or_default();
            let _ = file
                .set_len(0)
                .and_then(|()| file.write_all(name.as_bytes()));
        }
        Ok(BuildLock {
            store,
            fields: fields.clone(),
            path,
            file,
        })
    }
}

impl Drop for BuildLock<'_> {
    fn drop(&mut self) {
        // Removed while it is held, so that nobody can hold a file that is not there; see `take`.
        if let Some(file) = &self.file
            && is_at(file, &self.path)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Folder {
    /// Held while entries are published: many may.
    pub(super) fn lock_shared(&self) -> Result<Option<File>, CacheFault> {
        self.lock_store(File::lock_shared)
    }

    /// Held while entries are evicted, quarantined or swept: one may, and nobody publishes meanwhile.
    pub(super) fn lock_exclusive(&self) -> Result<Option<File>, CacheFault> {
        self.lock_store(File::lock)
    }

    fn lock_store(
        &self,
        lock: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<Option<File>, CacheFault> {
        make(&self.locks())?;
        let path = self.locks().join(STORE);
        let file = open_or_create(&path).map_err(CacheFault::io("lock", &path))?;
        match lock(&file) {
            Ok(()) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(None),
            Err(e) => Err(CacheFault::io("lock", &path)(e)),
        }
    }

    /// Removes the lock files of builders that died, and says who still builds.
    pub(super) fn sweep_locks(&self) -> Result<Vec<(PathBuf, Option<Owner>)>, CacheFault> {
        let mut held = Vec::new();
        for path in children(&self.locks())? {
            if !named::entry(&path) {
                continue;
            }
            match Freed::of(&path) {
                Freed::Yes(_lock) => {
                    let _ = std::fs::remove_file(&path);
                }
                Freed::No(file) => held.push((path, Owner::read(&file))),
                Freed::Gone => {}
            }
        }
        Ok(held)
    }
}

/// Whether somebody holds a lock file.
pub(super) enum Freed {
    /// Nobody did; now this process does.
    Yes(File),
    No(File),
    /// There is no such file any more.
    Gone,
}

impl Freed {
    pub(super) fn of(path: &Path) -> Freed {
        // For writing, because NFS wants that for an exclusive lock.
        let Ok(file) = File::options().read(true).write(true).open(path) else {
            return Freed::Gone;
        };
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => Freed::Yes(file),
            Ok(()) => Freed::Gone,
            // Where locks do not work, nobody can be seen to be dead.
            Err(_) => Freed::No(file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Check, Plan};
    use crate::watch::Silent;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Watch for Heard {
        fn event(&self, event: Event<'_>) {
            if let Event::Warn(text) = event {
                self.0.lock().unwrap().push(text.to_owned());
            }
        }
    }

    #[test]
    fn a_waiter_hears_for_whom_it_waits_and_then_finds_what_was_built() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path().join("c"), 1 << 20).unwrap();
        let fields = KeyFields::new().with("a", "1");
        let heard = Heard::default();
        let lock = store.lock(&fields, &heard).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let _lock = store.lock(&fields, &heard).unwrap();
                store.lookup(&fields.key(), Check::Full).unwrap().is_some()
            });
            while heard.0.lock().unwrap().is_empty() {
                std::thread::sleep(FIRST_PAUSE);
            }
            // Another key has another lock.
            drop(
                store
                    .lock(&KeyFields::new().with("a", "2"), &Silent)
                    .unwrap(),
            );
            lock.put(Plan::Bytes(b"plan"), b"{}").unwrap();
            drop(lock);
            assert!(waiter.join().unwrap());
        });
        let owner = Owner::this_process();
        let heard = heard.0.into_inner().unwrap();
        assert_eq!(heard.len(), 1, "{heard:?}");
        let whom = format!("process {} on `{}` for ", owner.pid, owner.host);
        assert!(heard[0].contains(&whom), "{heard:?}");
        assert_eq!(
            children(&store.folder.locks()).unwrap(),
            [store.folder.locks().join(STORE)]
        );
    }

    #[test]
    fn only_locks_of_the_dead_are_swept() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path().join("c"), 1 << 20).unwrap();
        let lock = store
            .lock(&KeyFields::new().with("a", "1"), &Silent)
            .unwrap();
        let other = KeyFields::new().with("a", "2").key();
        let dead = store.folder.locks().join(other.to_string());
        std::fs::write(&dead, b"not an owner").unwrap();
        let held = store.folder.sweep_locks().unwrap();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].1.as_ref().unwrap().pid, std::process::id());
        assert!(!dead.exists());
        drop(lock);
        assert!(store.folder.sweep_locks().unwrap().is_empty());
    }
}
