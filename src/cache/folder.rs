//! The folder: where things lie in it, who may use it, and how files in it are made.

use super::{CacheFault, Key};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub(super) const PLAN: &str = "engine.plan";
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const RECORD: &str = "entry.json";

/// From <https://bford.info/cachedir/>.
const TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder is trtmut's cache; it can be removed.\n";

#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Makes the folder where it is missing and refuses one that others control.
    pub fn open(root: &Path) -> Result<Folder, CacheFault> {
        let root = std::path::absolute(root).map_err(CacheFault::io("find", root))?;
        let made = !root.exists();
        make(&root)?;
        let folder = Folder { root };
        Folder::check(&folder.root)?;
        // A bucket that somebody else made inside is as dangerous as a foreign root.
        if folder.engines().exists() {
            Folder::check(&folder.engines())?;
        }
        if made {
            // Only a courtesy to backup programs.
            let _ = create(&folder.root.join("CACHEDIR.TAG")).and_then(|mut f| f.write_all(TAG));
        }
        Ok(folder)
    }

    fn check(path: &Path) -> Result<(), CacheFault> {
        let meta = path.metadata().map_err(CacheFault::io("look at", path))?;
        if !meta.is_dir() {
            return Err(CacheFault::io("use", path)(
                io::ErrorKind::NotADirectory.into(),
            ));
        }
        let user = rustix::process::geteuid().as_raw();
        if meta.uid() != user {
            return Err(CacheFault::NotOwned {
                path: path.into(),
                owner: meta.uid(),
                user,
            });
        }
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o002 != 0 {
            return Err(CacheFault::Exposed {
                path: path.into(),
                mode,
            });
        }
        Ok(())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn engines(&self) -> PathBuf {
        self.root.join("engines-v1")
    }
    pub fn entry(&self, key: Key) -> PathBuf {
        self.engines().join(key.to_string())
    }
    pub fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }
    /// Names of what is pinned: keys of entries, which need not be there any more.
    pub fn pinned(&self) -> Result<HashSet<OsString>, CacheFault> {
        let pins = children(&self.pins())?;
        let names = pins.iter().filter_map(|p| p.file_name());
        Ok(names.map(ToOwned::to_owned).collect())
    }
    pub fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }
    pub fn timing(&self) -> PathBuf {
        self.root.join("timing")
    }
    pub fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }
    pub fn memo(&self) -> PathBuf {
        self.root.join("memo")
    }
    pub fn index(&self) -> PathBuf {
        self.root.join("index")
    }
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

/// Makes a folder that only its owner may enter, and those above it; one that exists stays as it is.
pub(super) fn make(path: &Path) -> Result<(), CacheFault> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(CacheFault::io("create the folder", path))
}

/// A new file that only its owner may read and write.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Opens a file for locking and writing, making it where it is missing.
pub(super) fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// What is in a folder, by path; a folder that is not there is empty.
pub(super) fn children(path: &Path) -> Result<Vec<PathBuf>, CacheFault> {
    let wrap = |e| CacheFault::io("list", path)(e);
    match std::fs::read_dir(path) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path()).map_err(wrap)).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(wrap(e)),
    }
}

/// Bytes of all files at or below `path`; what vanishes meanwhile counts nothing.
pub(super) fn bytes_below(path: &Path) -> u64 {
    let Ok(meta) = path.symlink_metadata() else {
        return 0;
    };
    if meta.is_dir() {
        let below = children(path).unwrap_or_default();
        below.iter().map(|p| bytes_below(p)).sum()
    } else {
        meta.len()
    }
}

/// Removes a file or a whole folder; what is gone already is fine.
pub(super) fn remove(path: &Path) -> Result<(), CacheFault> {
    let gone = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match gone {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(CacheFault::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Whether both are the same file or folder.
pub(super) fn same(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Nanoseconds since 1970; a clock before that reads as 0.
pub(super) fn nanoseconds(time: std::time::SystemTime) -> u64 {
    time.duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
