//! The index: the records of entries as an earlier list read them, in one file, so that a list of many opens few.
//!
//! ```text
//! trtmut.cache-index/1 <when they were read, nanoseconds since 1970>
//! <key> <device> <inode> <bytes> <mtime ns> <ctime ns> <record as JSON>
//! …
//! ```
//!
//! A row is believed as long as its `entry.json` [is the same](super::state), and its record is checked by its seal as the
//! file would be. The index is replaced by rename and can be missing, old or damaged: what it does not tell is read from the
//! entry.

use super::folder::create;
use super::record::Record;
use super::state::State;
use super::{CacheFault, Key};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

const FORMAT: &str = "trtmut.cache-index/1";
/// The index is written again when so many rows are new to it, and one in [`SHARE`] of all.
const WORTH: usize = 64;
const SHARE: usize = 16;

/// An index file, read.
#[derive(Debug, Default)]
pub(super) struct Index {
    text: String,
}

/// The rows of an [`Index`] that may be believed, by key.
pub(super) struct Rows<'i>(HashMap<&'i str, &'i str>);

impl Index {
    /// The index at `path`; an empty one where there is none that can be read.
    pub fn read(path: &Path) -> Index {
        Index {
            text: std::fs::read_to_string(path).unwrap_or_default(),
        }
    }

    /// Its rows, unless it was written later than `now_ns`, which means that the clock went back, or by another version.
    pub fn rows(&self, now_ns: u64) -> Rows<'_> {
        let mut lines = self.text.lines();
        let head = lines.next().and_then(|head| head.split_once(' '));
        let written = head.filter(|(format, _)| *format == FORMAT);
        let written: Option<u64> = written.and_then(|(_, at)| at.parse().ok());
        Rows(match written {
            Some(at) if at <= now_ns => lines.filter_map(|line| line.split_once(' ')).collect(),
            _ => HashMap::new(),
        })
    }

    /// Replaces the index by `rows`, which were read at `at_ns` or are of an index that was believed then.
    ///
    /// # Errors
    /// [`CacheFault::Io`]: a read-only cache, a full disk.
    pub fn write(
        path: &Path,
        at_ns: u64,
        rows: impl IntoIterator<Item = String>,
    ) -> Result<(), CacheFault> {
        let mut text = format!("{FORMAT} {at_ns}\n");
        for row in rows {
            text.push_str(&row);
            text.push('\n');
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let beside = tempfile::Builder::new()
            .prefix(".index-")
            .make_in(folder, create)
            .map_err(CacheFault::io("write in", folder))?;
        let wrap = |e| CacheFault::io("write", path)(e);
        beside.as_file().write_all(text.as_bytes()).map_err(wrap)?;
        beside.persist(path).map_err(|e| wrap(e.error))?;
        Ok(())
    }

    /// Whether an index of which `new` rows of `all` were missing is to be written again.
    pub fn is_worth_writing(new: usize, all: usize) -> bool {
        new >= WORTH.max(all / SHARE)
    }

    /// A row.
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

impl Rows<'_> {
    /// Whether there is a row for the entry `name`.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The record of the entry `name`, if its file is as it was.
    pub fn get(&self, name: &str, key: Key, state: &State) -> Option<Record> {
        let mut parts = self.0.get(name)?.splitn(6, ' ');
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
        Record::parse(parts.next()?.as_bytes(), key).ok()
    }

    /// The row of the entry `name`, to be written again.
    pub fn line(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|rest| format!("{name} {rest}"))
    }
}
