//! The index: the records of entries as an earlier list read them, in one file, so that a list of many opens few.
//!
//! ```text
//! trtmut.cache-index/1 <when they were read, nanoseconds since 1970> <digest of the lines below>
//! <key> <device> <inode> <bytes> <mtime ns> <ctime ns> <record as JSON>
//! …
//! ```
//!
//! A row is believed as long as its `entry.json` [is the same](super::state) and the digest is right. The index is replaced by
//! rename and can be missing, old or damaged: what it does not tell is read from the entry.

use super::folder::{Folder, create, make};
use super::record::Record;
use super::state::State;
use super::{CacheFault, Key};
use crate::fsx::Map;
use crate::tensor::Digest;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

const FORMAT: &str = "trtmut.cache-index/1";
/// Bytes of an entry's name, its key.
const NAME: usize = 64;
/// The index is written again when so many rows are new to it, and one in [`SHARE`] of all.
const WORTH: usize = 64;
const SHARE: usize = 16;

/// An index file, read.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Never written in place: it is replaced by rename.
    file: Option<Map>,
}

/// The rows of an [`Index`] that may be believed, by key.
pub(super) struct Rows<'i>(HashMap<&'i [u8], &'i [u8]>);

impl Index {
    /// The index at `path`; an empty one where there is none that can be read.
    pub fn read(path: &Path) -> Index {
        Index {
            file: crate::fsx::open_regular(path)
                .and_then(|file| Map::of(&file, path))
                .ok(),
        }
    }

    /// Its rows, unless it was written later than `now_ns`, which means that the clock went back, or by another version.
    pub fn rows(&self, now_ns: u64) -> Rows<'_> {
        let bytes: &[u8] = self.file.as_deref().unwrap_or_default();
        let lines = believed(bytes, now_ns).unwrap_or_default();
        let lines = lines.split(|b| *b == b'\n');
        Rows(lines.filter_map(|l| l.split_at_checked(NAME)).collect())
    }

    /// Replaces the index of `folder` by `rows`, which were read at `at_ns` or are of an index that was believed then. It is written
    /// under `tmp/`, where sweepers find what a killed process leaves; one that takes it away too early costs an index.
    ///
    /// # Errors
    /// [`CacheFault::Io`]: a read-only cache, a full disk.
    pub fn write(
        folder: &Folder,
        at_ns: u64,
        rows: impl IntoIterator<Item = String>,
    ) -> Result<(), CacheFault> {
        let mut lines = String::new();
        for row in rows {
            lines.push_str(&row);
            lines.push('\n');
        }
        let head = format!("{FORMAT} {at_ns} {}\n", Digest::of(lines.as_bytes()));
        let (tmp, path) = (folder.tmp(), folder.index());
        make(&tmp)?;
        let beside = tempfile::Builder::new()
            .prefix("index-")
            .make_in(&tmp, create)
            .map_err(CacheFault::io("write in", &tmp))?;
        let wrap = |e| CacheFault::io("write", &path)(e);
        for part in [head, lines] {
            beside.as_file().write_all(part.as_bytes()).map_err(wrap)?;
        }
        beside.persist(&path).map_err(|e| wrap(e.error))?;
        Ok(())
    }

    /// Whether an index of which `new` rows of `all` were missing is to be written again.
    pub fn is_worth_writing(new: usize, all: usize) -> bool {
        new >= WORTH.max(all / SHARE)
    }

    pub fn row(key: Key, state: &State, record: &Record) -> String {
        let State {
            device,
            inode,
            bytes,
            mtime_ns,
            ctime_ns,
        } = state;
        let json = record.to_line();
        format!("{key} {device} {inode} {bytes} {mtime_ns} {ctime_ns} {json}")
    }
}

/// The lines of an index that was not written later than `now_ns`, by this version, and is what was written.
fn believed(index: &[u8], now_ns: u64) -> Option<&[u8]> {
    let end = index.iter().position(|b| *b == b'\n')?;
    let (head, lines) = (std::str::from_utf8(&index[..end]).ok()?, &index[end + 1..]);
    let mut words = head.split(' ');
    let format = words.next()?;
    let written: u64 = words.next()?.parse().ok()?;
    let digest: Digest = words.next()?.parse().ok()?;
    (format == FORMAT && written <= now_ns && digest == Digest::of(lines)).then_some(lines)
}

impl Rows<'_> {
    /// Whether there is a row for the entry `name`.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name.as_bytes())
    }

    /// The record of the entry `name`, if its file is as it was.
    pub fn get(&self, name: &str, state: &State) -> Option<Record> {
        let rest = std::str::from_utf8(self.0.get(name.as_bytes())?).ok()?;
        let mut parts = rest.strip_prefix(' ')?.splitn(6, ' ');
        let mut number = || parts.next()?.parse::<i128>().ok();
        let known = [number()?, number()?, number()?, number()?, number()?];
        let now = [
            i128::from(state.device),
            i128::from(state.inode),
            i128::from(state.bytes),
            state.mtime_ns,
            state.ctime_ns,
        ];
        if known != now {
            return None;
        }
        Record::of_line(parts.next()?.as_bytes(), name)
    }

    /// The row of the entry `name`, to be written again.
    pub fn line(&self, name: &str) -> Option<String> {
        let rest = std::str::from_utf8(self.0.get(name.as_bytes())?).ok()?;
        Some(format!("{name}{rest}"))
    }
}
