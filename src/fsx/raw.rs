//! The calls that the rest of the crate may not make by itself (`clippy.toml`): everything else here is built on them.

#![allow(clippy::disallowed_methods)]

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// Options to open a file with.
pub(super) fn options() -> OpenOptions {
    OpenOptions::new()
}

/// A folder, to lock it, to sync it or to make calls relative to it.
///
/// # Errors
/// As the system says; for what is no folder as well.
pub fn open_folder(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::DIRECTORY.bits() as i32;
    std::os::unix::fs::OpenOptionsExt::custom_flags(options().read(true), flags).open(path)
}

/// What the system says of itself in `/proc` and `/sys`.
pub fn read_system(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Whether `length` bytes from `start` on are in a hole of a sparse file, so that nothing of them is on disk.
pub(super) fn is_hole(file: &File, start: u64, length: u64) -> bool {
    use rustix::fs::SeekFrom;
    match rustix::fs::seek(file, SeekFrom::Data(start)) {
        Ok(data) => data >= start.saturating_add(length),
        // There is no data after it; a file that is shorter by now gives the same answer.
        Err(rustix::io::Errno::NXIO) => file
            .metadata()
            .is_ok_and(|m| m.len() >= start.saturating_add(length)),
        Err(_) => false,
    }
}
