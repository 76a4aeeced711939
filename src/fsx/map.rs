//! The only door to memory maps.

use super::Error;
use std::fs::{File, Metadata};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A whole file, mapped read-only; pages come from disk when they are looked at and do not count as anonymous memory.
///
/// As with every memory map, a file that another process truncates while it is mapped raises SIGBUS on access.
/// trtmut itself never writes into a file that it may have mapped: every output is written beside and renamed.
#[derive(Debug)]
pub struct Map {
    path: PathBuf,
    /// Before the file was looked at.
    opened: SystemTime,
    meta: Metadata,
    // `None` for an empty file, which cannot be mapped.
    bytes: Option<memmap2::Mmap>,
}

impl Map {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// [`Error::Read`] when it cannot be opened or mapped, or is a folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Map, Error> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        Map::of(&file, path)
    }

    /// Maps an open file, whatever lies at `path` by now; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Read`] when it cannot be mapped or is a folder.
    #[allow(unsafe_code)]
    pub fn of(file: &File, path: impl AsRef<Path>) -> Result<Map, Error> {
        let path = path.as_ref();
        let wrap = |e| Error::read(path, e);
        let opened = SystemTime::now();
        let meta = file.metadata().map_err(wrap)?;
        if meta.is_dir() {
            return Err(wrap(std::io::ErrorKind::IsADirectory.into()));
        }
        let bytes = if meta.len() == 0 {
            None
        } else {
            // SAFETY: the map is read-only and private to this process's view; the contract on outside truncation is
            // stated on the type, and no code of this crate truncates or writes a file in place.
            Some(unsafe { memmap2::Mmap::map(file) }.map_err(wrap)?)
        };
        Ok(Map {
            path: path.to_owned(),
            opened,
            meta,
            bytes,
        })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When it was opened.
    pub fn opened(&self) -> SystemTime {
        self.opened
    }

    /// What the file was then: of the file that is mapped, whatever lies at its path by now.
    pub fn metadata(&self) -> &Metadata {
        &self.meta
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_files_are_empty_slices_and_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert!(Map::open(&path).unwrap().is_empty());
        assert!(Map::open(dir.path()).is_err());
    }
}
