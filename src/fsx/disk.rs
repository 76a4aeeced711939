//! How much room there is.

use std::io;
use std::path::Path;

/// A disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// All of it.
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
}
