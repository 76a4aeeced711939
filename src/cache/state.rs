//! Whether a file is still what it was.
//!
//! A file is taken to be the same when device, inode, size, mtime and ctime are, to the nanosecond; ctime cannot be set by
//! hand. Nothing is believed of a file that was changed less than [`SETTLED`] before it was read, since a further change
//! may then leave the same time stamps: git's rule for racily clean index entries
//! (<https://git-scm.com/docs/racy-git>). A file that is written through a memory map while it is read is beyond what time
//! stamps can show.

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// The coarsest time stamps that are in use are FAT's, of two seconds; the rest is for the lag of kernel clocks.
const SETTLED: Duration = Duration::from_millis(2100);

/// What has to stay the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub device: u64,
    pub inode: u64,
    pub bytes: u64,
    pub mtime_ns: i128,
    pub ctime_ns: i128,
}

fn ns(seconds: impl Into<i128>, nanoseconds: impl Into<i128>) -> i128 {
    seconds.into() * 1_000_000_000 + nanoseconds.into()
}

impl State {
    pub fn of(meta: &Metadata) -> State {
        State {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// The same from a call that was made relative to a folder.
    pub fn of_stat(stat: &Stat) -> State {
        State {
            device: stat.st_dev,
            inode: stat.st_ino,
            bytes: stat.st_size as u64,
            mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Whether what was read of it at `at_ns` (nanoseconds since 1970) can be told from what it may be later.
    pub fn settled(&self, at_ns: u64) -> bool {
        let newest = self.mtime_ns.max(self.ctime_ns);
        newest + SETTLED.as_nanos() as i128 <= i128::from(at_ns)
    }
}
