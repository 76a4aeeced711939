//! How much room there is.

use std::fs::File;
use std::io;
use std::path::Path;

/// A disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub total: u64,
    /// What this user may still write.
    pub free: u64,
}

/// The disk that holds `path`, which need not exist yet.
///
/// # Errors
/// When it cannot be asked.
pub fn disk(path: impl AsRef<Path>) -> io::Result<Disk> {
    let absolute = std::path::absolute(path)?;
    let there = absolute
        .ancestors()
        .find(|p| p.exists())
        .unwrap_or(Path::new("/"));
    let disk = rustix::fs::statvfs(there)?;
    Ok(Disk {
        total: disk.f_blocks.saturating_mul(disk.f_frsize),
        free: disk.f_bavail.saturating_mul(disk.f_frsize),
    })
}

/// Less is not looked for: a disk that is as full as that fails soon enough.
const LARGE: u64 = 64 << 20;

/// Finds out before a large write whether the disk of `file` has room for it.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`], with both numbers.
pub fn check_room(file: &File, bytes: u64) -> io::Result<()> {
    let Ok(disk) = rustix::fs::fstatvfs(file) else {
        return Ok(());
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if bytes < LARGE || bytes <= free {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(io::Error::new(
        io::ErrorKind::StorageFull,
        format!(
            "it takes {} MiB, and the disk has {} MiB left",
            mib(bytes),
            mib(free)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_yet_will_be_on_the_disk_of_what_is_above() {
        let dir = tempfile::tempdir().unwrap();
        let here = disk(dir.path()).unwrap();
        let below = disk(dir.path().join("not/yet/there")).unwrap();
        assert_eq!(here.total, below.total);
        assert!(here.total > 0 && here.free <= here.total);
    }

    #[test]
    fn more_than_there_is_room_for_is_refused() {
        let file = tempfile::tempfile().unwrap();
        check_room(&file, 0).unwrap();
        check_room(&file, LARGE - 1).unwrap();
        let full = check_room(&file, u64::MAX).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(full.to_string().contains("MiB left"), "{full}");
    }
}
