//! The folder: where things lie in it, who may use it, and how files in it are made.

use super::{CacheFault, Key};
use crate::fsx;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub(super) const PLAN: &str = "engine.plan";
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const RECORD: &str = "entry.json";

/// The file that says that a folder is a cache (<https://bford.info/cachedir/>), and with our text in it, ours.
const MARKER: &str = "CACHEDIR.TAG";
const SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
const OURS: &[u8] = b"This folder is trtmut's cache; it can be removed.";

const ENGINES: &str = "engines-v1";
/// All that is ever made in the folder, but for the marker.
const PARTS: [&str; 9] = [
    ENGINES,
    "pins",
    "locks",
    "timing",
    "runtime",
    "memo",
    "index",
    "quarantine",
    "tmp",
];

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|w| w == part)
}

#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Makes the folder where it is missing, and refuses one that others control or that holds other things.
    pub fn open(root: &Path) -> Result<Folder, CacheFault> {
        let root = std::path::absolute(root).map_err(CacheFault::io("find", root))?;
        make(&root)?;
        let folder = Folder { root };
        Folder::check(&folder.root)?;
        folder.own()?;
        // What somebody else made inside is as dangerous as a foreign root, and a link may lead anywhere.
        for name in PARTS {
            let part = folder.root.join(name);
            match part.symlink_metadata() {
                Ok(meta) if meta.is_symlink() => return Err(CacheFault::Link { path: part }),
                Ok(meta) if name == ENGINES || meta.is_dir() => Folder::check(&part)?,
                _ => {}
            }
        }
        Ok(folder)
    }

    /// Sees to it that the folder is a cache of ours: it says so, or it is empty and will say so from now on, or it is as version
    /// 0.1.0 made it in a folder that existed before, without the marker and with nothing else in it.
    fn own(&self) -> Result<(), CacheFault> {
        let marker = self.root.join(MARKER);
        match fsx::read_bounded(&marker, 4096) {
            Ok(text) if text.starts_with(SIGNATURE) && contains(&text, OURS) => return Ok(()),
            Ok(_) => {
                return Err(CacheFault::Foreign {
                    path: self.root.clone(),
                    found: MARKER.into(),
                });
            }
            Err(_) => {}
        }
        let names: Vec<OsString> = children(&self.root)?
            .iter()
            .filter_map(|p| p.file_name().map(ToOwned::to_owned))
            .collect();
        let foreign = names.iter().find(|n| !PARTS.iter().any(|p| n == p));
        let made_before = names.iter().any(|n| n == ENGINES);
        if let Some(found) = foreign.or(names.first().filter(|_| !made_before)) {
            return Err(CacheFault::Foreign {
                path: self.root.clone(),
                found: found.clone().into(),
            });
        }
        let text = [SIGNATURE, b"\n# ", OURS, b"\n"].concat();
        match create(&marker).and_then(|mut f| f.write_all(&text)) {
            // Another process was faster. In a cache that cannot be written, nothing can be removed either.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists || made_before => Ok(()),
            made => made.map_err(CacheFault::io("write", &marker)),
        }
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
        self.root.join(ENGINES)
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

/// Names of what the cache makes: nothing else in it is ever removed.
pub(super) mod named {
    use super::Key;
    use std::path::Path;

    fn text(path: &Path) -> &str {
        path.file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default()
    }

    fn is_random(text: &str) -> bool {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric())
    }

    /// An entry: a key.
    pub fn entry(path: &Path) -> bool {
        Key::of_path(path).is_some()
    }

    /// A damaged entry that was moved away: a key, `-` and nanoseconds. Entries whose name was no key have that name.
    pub fn quarantined(path: &Path) -> bool {
        let number = text(path).rsplit_once('-').map(|(_, n)| n);
        number.is_some_and(|n| n.len() >= 18 && n.bytes().all(|b| b.is_ascii_digit()))
    }

    /// A timing cache, a cache of a runtime, or the temporary form of one: a regular file.
    pub fn timing(path: &Path) -> bool {
        let name = text(path);
        let ours = [".timing", ".cache"].iter().any(|end| name.ends_with(end));
        let named = ours || temporary(path);
        named && path.symlink_metadata().is_ok_and(|m| m.is_file())
    }

    /// A file of our temporary form, anywhere.
    pub fn temporary(path: &Path) -> bool {
        text(path)
            .strip_prefix(".trtmut-")
            .and_then(|n| n.strip_suffix(".tmp"))
            .is_some_and(is_random)
    }

    /// What lies in `tmp/`.
    pub fn in_tmp(path: &Path) -> bool {
        let name = text(path);
        let bare = name
            .strip_suffix(".lock")
            .or_else(|| name.strip_suffix(".old"))
            .unwrap_or(name);
        let evicted = name
            .strip_prefix("evicted-")
            .is_some_and(|key| entry(Path::new(key)));
        evicted
            || ["put-", "index-", "label-"]
                .iter()
                .any(|p| bare.strip_prefix(p).is_some_and(is_random))
    }

    /// What is remembered of a file: 64 hex digits; or one that is just written.
    pub fn memo(path: &Path) -> bool {
        let name = text(path);
        let is_hex = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        is_hex || name.strip_prefix(".new-").is_some_and(is_random)
    }
}

/// Whether both are the same file or folder.
fn same(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Whether the open file or folder is still what lies at `path`.
pub(super) fn is_at(open: &File, path: &Path) -> bool {
    match (open.metadata(), path.symlink_metadata()) {
        (Ok(a), Ok(b)) => same(&a, &b),
        _ => false,
    }
}

/// Nanoseconds since 1970; a clock before that reads as 0.
pub(super) fn nanoseconds(time: std::time::SystemTime) -> u64 {
    time.duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
