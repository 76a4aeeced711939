//! What can go wrong with the cache. None of it may fail a build.

use crate::fault::Explain;
use bytesize::ByteSize;
use std::io;
use std::path::{Path, PathBuf};

/// A cache operation that failed. The caller warns and goes on without the cache.
#[derive(Debug, thiserror::Error, Explain)]
pub enum CacheFault {
    /// The folder belongs to somebody else, who could plant engines in it.
    #[error("the cache folder `{path}` belongs to user {owner}, not to user {user}", path = path.display())]
    #[explain(code = "cache-not-owned", class = Environment, hint("choose a folder of your own with --cache-dir or TRTMUT_CACHE_DIR"))]
    NotOwned {
        path: PathBuf,
        owner: u32,
        /// Who runs this process.
        user: u32,
    },
    /// Everybody may write into the folder, and so plant engines in it.
    #[error("everybody may write into the cache folder `{path}` (mode {mode:o})", path = path.display())]
    #[explain(code = "cache-exposed", class = Environment,
        hint("take the permission away: chmod go-w `{}`", path.display()),
        hint("or choose another folder with --cache-dir or TRTMUT_CACHE_DIR"))]
    Exposed {
        path: PathBuf,
        /// Permission bits of the folder.
        mode: u32,
    },
    /// The folder holds things that the cache did not make.
    #[error("`{path}` is no cache of trtmut: it holds `{found}`", path = path.display(), found = found.display())]
    #[explain(code = "cache-foreign", class = Input, hint("name an empty folder, or one that does not exist yet, with --cache-dir or TRTMUT_CACHE_DIR"))]
    Foreign {
        path: PathBuf,
        /// One of the things.
        found: PathBuf,
    },
    /// A part of the folder is a symbolic link.
    #[error("`{path}` is a symbolic link, which the cache does not follow", path = path.display())]
    #[explain(code = "cache-link", class = Input, hint("move what it leads to in its place, or remove `{}`", path.display()))]
    Link { path: PathBuf },
    /// A file operation failed.
    #[error("cannot {action} `{path}`", path = path.display())]
    #[explain(code = "cache-io", class = Environment, hints = of_system(path, source.kind()))]
    Io {
        /// What was tried, as in `cannot write …`.
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// An entry is not what was once stored. It counts as a miss.
    #[error("the cache entry `{entry}` is damaged")]
    #[explain(code = "cache-entry-damaged", class = Environment, hint("{}", of_damaged(quarantine.as_deref())))]
    Damaged {
        /// Name of the entry's folder: its key, unless somebody renamed it.
        entry: String,
        /// What is wrong with it.
        #[source]
        damage: Damage,
        /// Where it was moved; `None` when it could not be moved.
        quarantine: Option<PathBuf>,
    },
    /// An entry would be larger than the whole cache may be; it was not stored.
    #[error("an entry of {} does not fit into a cache of {}", ByteSize(*bytes), ByteSize(*limit))]
    #[explain(code = "cache-entry-too-large", class = Environment, hint("raise the limit with --cache-size or TRTMUT_CACHE_SIZE"))]
    TooLarge {
        /// Size of the entry, bytes.
        bytes: u64,
        /// Limit of the cache, bytes.
        limit: u64,
    },
    /// What is in use or pinned leaves too little room for an entry; it was not stored.
    #[error(
        "no room for an entry of {} in a cache of {}: {} are pinned or in use",
        ByteSize(*bytes), ByteSize(*limit), ByteSize(*held)
    )]
    #[explain(code = "cache-no-room", class = Environment,
        hint("unpin entries with `trtmut cache unpin KEY`"),
        hint("or raise the limit with --cache-size or TRTMUT_CACHE_SIZE"))]
    NoRoom {
        /// Size of the entry, bytes.
        bytes: u64,
        /// Limit of the cache, bytes.
        limit: u64,
        /// What could not be evicted, bytes.
        held: u64,
    },
    /// No entry's key begins so.
    #[error("no cache entry has the key `{text}`")]
    #[explain(code = "cache-unknown-key", class = Input, hint("`trtmut cache list` shows the keys; their beginnings are enough"))]
    UnknownKey {
        /// What was asked for.
        text: String,
    },
    /// Several entries' keys begin so.
    #[error("`{text}` is the beginning of {} cache keys", matches.len())]
    #[explain(code = "cache-ambiguous-key", class = Input, hint("give more digits of one of {}", matches.join(", ")))]
    AmbiguousKey {
        /// What was asked for.
        text: String,
        /// The keys that begin so, 12 digits each.
        matches: Vec<String>,
    },
    #[error("`{text}` is not a size")]
    #[explain(code = "size-invalid", class = Usage, hint("write a number of bytes, or a number with a unit: 500MB, 20GiB"))]
    Size { text: String },
    #[error("`{text}` is not an age")]
    #[explain(code = "age-invalid", class = Usage, hint("write a number with a unit: 12h, 30d, 8weeks"))]
    Age { text: String },
}

/// How an entry differs from what was once stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The folder's name is no key.
    #[error("its name is not a key")]
    Name,
    /// A file is not there, or is no file.
    #[error("`{file}` is missing")]
    Missing { file: &'static str },
    /// The record is not JSON, lacks a field, or is far too long.
    #[error("`entry.json` cannot be read: {why}")]
    Record {
        /// What the parser says.
        why: String,
    },
    /// The record does not match its own seal.
    #[error("`entry.json` was changed after it was written")]
    Seal,
    /// The record is of another version of the format.
    #[error("its format is `{found}`")]
    Format {
        /// What the record says.
        found: String,
    },
    /// The record belongs to another key: entries were swapped or renamed.
    #[error("it was stored under the key `{found}`")]
    Key {
        /// The key in the record.
        found: String,
    },
    /// A file is shorter or longer than it was.
    #[error("`{file}` has {found} bytes instead of {expected}")]
    Length {
        file: &'static str,
        /// Bytes that were stored.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A file's bytes are not what was stored.
    #[error("`{file}` holds other bytes than were stored")]
    Digest { file: &'static str },
}

impl CacheFault {
    /// For `map_err`: wraps an I/O error with what was tried on which path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheFault {
        let path = path.to_owned();
        move |source| CacheFault::Io {
            action,
            path,
            source,
        }
    }
}

fn of_system(path: &Path, kind: io::ErrorKind) -> Vec<String> {
    let path = path.display();
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            vec![
                "free some space, e.g. with `trtmut cache prune --to 1GiB`".into(),
                "or choose a folder on another disk with --cache-dir or TRTMUT_CACHE_DIR".into(),
            ]
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => vec![
            format!("check the permissions of `{path}`"),
            "or choose another folder with --cache-dir or TRTMUT_CACHE_DIR, or use --no-cache"
                .into(),
        ],
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            vec![format!("something else is at `{path}`; move it away")]
        }
        _ => Vec::new(),
    }
}

fn of_damaged(quarantine: Option<&Path>) -> String {
    quarantine.map_or_else(
        || "remove it with `trtmut cache verify --repair`".into(),
        |path| {
            format!(
                "it was moved to `{}` and will be built again; if this comes back, check the disk",
                path.display()
            )
        },
    )
}
