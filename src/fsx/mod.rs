//! Files: read-only memory maps, outputs that appear whole or not at all, and the room that there is for them.

mod atomic;
mod beside;
mod disk;
mod map;

pub use atomic::{Staged, check_output, write_atomic};
pub use beside::{FolderLock, Scratch, lock_folder_of};
pub use disk::{Disk, disk};
pub use map::Map;

use crate::fault::{Class, Explain};
use std::io;
use std::path::{Path, PathBuf};

/// A file operation that failed, with its path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("cannot read `{path}`", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing failed; nothing changed under the final name.
    #[error("cannot write `{path}`", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
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

impl Explain for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Read { .. } => "file-read",
            Error::Write { .. } => "file-write",
        }
    }

    fn class(&self) -> Class {
        match self {
            Error::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::InvalidData => Class::Input,
                _ => Class::Environment,
            },
            Error::Write { .. } => Class::Environment,
        }
    }

    fn hints(&self) -> Vec<String> {
        let (path, source) = match self {
            Error::Read { path, source } | Error::Write { path, source } => (path, source),
        };
        let hint = match source.kind() {
            io::ErrorKind::NotFound if matches!(self, Error::Write { .. }) => {
                "create the folder first, or choose another with -o".into()
            }
            io::ErrorKind::NotFound => format!("check the path `{}`", path.display()),
            io::ErrorKind::PermissionDenied => {
                format!("check the permissions of `{}`", path.display())
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free some space, or write to another disk with -o".into()
            }
            io::ErrorKind::ReadOnlyFilesystem => "write to another folder with -o".into(),
            io::ErrorKind::IsADirectory => {
                format!("`{}` is a folder; name a file", path.display())
            }
            _ => return Vec::new(),
        };
        vec![hint]
    }
}
