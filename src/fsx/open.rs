//! Opening and reading, where what lies at a path may be anything: only regular files are read, and never more of one than it
//! may sensibly have.

use super::Error;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// What tells one state of a file from another: device, inode, length in bytes, mtime and ctime in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    mtime_ns: i128,
    ctime_ns: i128,
    links: u64,
}

fn ns(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

impl Stamp {
    /// The stamp of a file that `meta` was just asked of.
    pub fn of(meta: &Metadata) -> Stamp {
        Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
            links: meta.nlink(),
        }
    }

    /// Device and inode: which file it is, whatever is in it.
    pub fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// When it was last changed, nanoseconds since 1970.
    pub(super) fn newest_ns(&self) -> i128 {
        self.mtime_ns.max(self.ctime_ns)
    }

    /// Whether a file with this stamp now has what it had with `earlier`. A name more or less (a hard link, a rename over it)
    /// moves ctime and changes no byte.
    pub(super) fn holds_what(&self, earlier: &Stamp) -> bool {
        (self.file(), self.bytes, self.mtime_ns)
            == (earlier.file(), earlier.bytes, earlier.mtime_ns)
            && (self.ctime_ns == earlier.ctime_ns || self.links != earlier.links)
    }
}

/// Opens a regular file for reading. A pipe, a socket or a device is refused without waiting for it.
///
/// # Errors
/// [`Error::Read`] when it cannot be opened or is a folder, [`Error::NotRegular`] for what is no file.
pub fn open_regular(path: impl AsRef<Path>) -> Result<File, Error> {
    let path = path.as_ref();
    // Without this flag, opening a pipe waits until somebody writes into it.
    let file = super::raw::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(|e| match e.raw_os_error() {
            // What a socket, or a device without a driver, answers.
            Some(code) if code == rustix::io::Errno::NXIO.raw_os_error() => Error::NotRegular {
                path: path.to_owned(),
                what: "a socket or a device",
            },
            _ => Error::read(path, e),
        })?;
    // Asked of what was opened: what is at the path may be another file by now.
    let meta = file.metadata().map_err(|e| Error::read(path, e))?;
    if meta.is_dir() {
        return Err(Error::read(path, io::ErrorKind::IsADirectory.into()));
    }
    if let Some(what) = irregular(&meta) {
        return Err(Error::NotRegular {
            path: path.to_owned(),
            what,
        });
    }
    tracing::debug!(path = ?path, bytes = meta.len(), "opened");
    Ok(file)
}

/// What a thing is that is neither a file nor a folder; `None` for a regular file and a folder.
pub(super) fn irregular(meta: &Metadata) -> Option<&'static str> {
    let kind = meta.file_type();
    if kind.is_fifo() {
        Some("a pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else if kind.is_char_device() || kind.is_block_device() {
        Some("a device")
    } else {
        None
    }
}

/// Reads a whole file that has at most `limit` bytes.
///
/// # Errors
/// As [`open_regular`]; [`Error::TooLong`], without having read more than the limit.
pub fn read_bounded(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, Error> {
    let path = path.as_ref();
    read_rest(open_regular(path)?, path, limit)
}

/// As [`read_bounded`], and also from what the shell hands over as a stream: `/dev/stdin`, `/dev/fd/3`, `/proc/self/fd/3`.
///
/// # Errors
/// As [`read_bounded`].
pub fn read_stream(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, Error> {
    let path = path.as_ref();
    // A pipe that the user's shell opened has a writer, or an end.
    let handed_over = path == Path::new("/dev/stdin")
        || path.starts_with("/dev/fd")
        || path.starts_with("/proc/self/fd");
    if !handed_over {
        return read_bounded(path, limit);
    }
    let file = super::raw::options()
        .read(true)
        .open(path)
        .map_err(|e| Error::read(path, e))?;
    read_rest(file, path, limit)
}

fn read_rest(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    // One more than allowed, which tells a file of that length from a longer one.
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Error::read(path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLong {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        let socket = dir.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [pipe.as_path(), &socket, Path::new("/dev/zero")] {
            let e = open_regular(path).unwrap_err();
            assert!(matches!(e, Error::NotRegular { .. }), "{e:?}");
            assert!(e.to_string().contains(&*path.to_string_lossy()));
        }
        assert!(open_regular(dir.path()).is_err());
    }

    #[test]
    fn no_more_is_read_than_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_bounded(&path, 5).unwrap(), b"12345");
        let e = read_bounded(&path, 4).unwrap_err();
        assert!(matches!(e, Error::TooLong { limit: 4, .. }), "{e:?}");
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero")).unwrap();
        assert!(read_bounded(dir.path().join("zero"), 4).is_err());
    }

    #[test]
    fn a_further_name_is_no_change_and_a_further_byte_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"12345").unwrap();
        let stamp = || Stamp::of(&path.metadata().unwrap());
        let first = stamp();
        std::thread::sleep(std::time::Duration::from_millis(30));
        std::fs::hard_link(&path, dir.path().join("g")).unwrap();
        assert!(stamp().holds_what(&first));
        std::fs::write(&path, b"54321").unwrap();
        assert!(!stamp().holds_what(&first));
    }
}
