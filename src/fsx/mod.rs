//! The only door to files: what may be opened, how much is read, what may be written over, outputs that appear whole or not at all,
//! and the room that there is for them.

mod atomic;
mod beside;
mod claim;
mod disk;
mod log;
mod map;
mod open;
mod raw;
mod sources;

pub use atomic::{Staged, check_output, create_in_scratch, remove, rename, write_atomic};
pub use beside::{
    FileLock, FolderLock, Noted, Scratch, abandon, lock_file, lock_folder_of, lock_folders_of,
    note_temporary, temporary, uninterrupted,
};
pub use claim::{Claim, claim_apart, claim_output};
pub use disk::{Disk, check_room, disk};
pub use log::open_log;
pub use map::{Beginning, Map, caught, share};
pub use open::{Stamp, open_regular, read_bounded, read_stream};
pub use raw::{open_folder, read_system};
pub use sources::{check_report, check_sources, expect_plan, guard_sources, note_replaced};

use crate::fault::{Class, Explain};
use std::io;
use std::path::{Component, Path, PathBuf};

/// A file operation that failed, with its path.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    #[error("cannot read `{path}`", path = path.display())]
    #[explain(code = read_code(source), class = read_class(source), hints = of_system(path, source.kind(), false))]
    Read { path: PathBuf, source: io::Error },
    /// Writing failed; nothing changed under the final name.
    #[error("cannot write `{path}`", path = path.display())]
    #[explain(code = "file-write", class = Environment, hints = of_system(path, source.kind(), true))]
    Write { path: PathBuf, source: io::Error },
    /// A pipe, a socket or a device is where a file is expected.
    #[error("`{path}` is {what}, not a file", path = path.display())]
    #[explain(code = "file-kind", class = Input, hint("name a regular file; what comes through a pipe has to be written into one first"))]
    NotRegular {
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// A file is longer than one of its kind can be.
    #[error("`{path}` has more than {limit} bytes, which no file of its kind has", path = path.display())]
    #[explain(code = "file-too-long", class = Input, hint("check that it is the file you mean"))]
    TooLong {
        path: PathBuf,
        /// The most that is read, bytes.
        limit: u64,
    },
    /// A source is not what it was when its reading began; nothing was written.
    #[error("`{path}` changed while it was read", path = path.display())]
    #[explain(code = "file-changed", class = Input, hint("wait until it is complete, and run the command again"))]
    Changed { path: PathBuf },
    /// An output is one of the files that the command reads.
    #[error("`{path}` is to be written, and `{input}`, which is read, is the same file", path = path.display(), input = input.display())]
    #[explain(code = "output-is-input", class = Input, hint("name another file to write; `--force` does not allow this"))]
    IsInput { path: PathBuf, input: PathBuf },
    /// Two outputs of a command are one file, of which the second would replace the first.
    #[error("`{path}` and `{other}` are both to be written, and are the same file", path = path.display(), other = other.display())]
    #[explain(code = "outputs-same", class = Input, hint("give each a file of its own"))]
    SameOutput { path: PathBuf, other: PathBuf },
}

/// Where a path leads when the symbolic links at its end are followed, also to what is not there yet. A circle of links leads to one
/// of them.
pub fn resolve(path: &Path) -> PathBuf {
    // As many as the kernel follows.
    const MOST: usize = 40;
    let mut at = path.to_owned();
    for _ in 0..MOST {
        match std::fs::read_link(&at) {
            Ok(to) => at = beside::folder_of(&at).join(to),
            Err(_) => break,
        }
    }
    at
}

/// `to` as seen from the folder of `from`, with `..` where needed; as it is where the two share no root.
pub fn relative(from: &Path, to: &Path) -> PathBuf {
    let absolute = |p: &Path| -> PathBuf {
        std::fs::canonicalize(p)
            .or_else(|_| std::path::absolute(p))
            .unwrap_or_else(|_| p.to_owned())
    };
    let folder = absolute(beside::folder_of(from));
    let to = absolute(to);
    let shared = (folder.components().zip(to.components()))
        .take_while(|(a, b)| a == b)
        .count();
    let up = folder.components().count() - shared;
    std::iter::repeat_n(Component::ParentDir, up)
        .chain(to.components().skip(shared))
        .collect()
}

impl Error {
    /// A read error of `path`.
    pub fn read(path: impl AsRef<Path>, source: io::Error) -> Self {
        Error::Read {
            path: path.as_ref().to_owned(),
            source,
        }
    }

    /// A write error of `path`.
    pub fn write(path: impl AsRef<Path>, source: io::Error) -> Self {
        Error::Write {
            path: path.as_ref().to_owned(),
            source,
        }
    }
}

fn read_code(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::OutOfMemory => "out-of-memory",
        _ => "file-read",
    }
}

fn read_class(source: &io::Error) -> Class {
    match source.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::InvalidData => Class::Input,
        _ => Class::Environment,
    }
}

fn of_system(path: &Path, kind: io::ErrorKind, writing: bool) -> Option<String> {
    let path = path.display();
    Some(match kind {
        io::ErrorKind::NotFound if writing => "create the folder first, or name another".into(),
        io::ErrorKind::NotFound => format!("check the path `{path}`"),
        io::ErrorKind::PermissionDenied => format!("check the permissions of `{path}`"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space, or write to another disk".into()
        }
        io::ErrorKind::OutOfMemory => "free some memory, or raise the limit with --memory".into(),
        io::ErrorKind::ReadOnlyFilesystem => "write to another folder".into(),
        io::ErrorKind::IsADirectory => format!("`{path}` is a folder; name a file"),
        _ => return None,
    })
}
