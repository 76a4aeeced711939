//! `label.json` beside an entry: what people know it by. Nothing depends on it, it goes with the entry, and it never leaves this machine:
//! who shares a cache with others does not tell them the names of files.

use super::folder::create;
use super::{CacheFault, Key, Store};
use crate::fsx;
use serde::{Deserialize, Serialize};
use std::io::Write;

const LABEL: &str = "label.json";
/// File names are at most a few hundred bytes.
const LONGEST: u64 = 4096;

/// What people know an entry by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// File name of the ONNX model that it was last built from, without its folder.
    pub model: String,
    /// What tells its weights apart, in the caller's form.
    pub weights: String,
}

impl Store {
    /// Notes what an entry is known by; it has to be there.
    ///
    /// # Errors
    /// [`CacheFault::Io`]: a read-only cache, an entry that was evicted meanwhile.
    pub fn set_label(&self, key: &Key, label: &Label) -> Result<(), CacheFault> {
        let (entry, tmp) = (self.folder.entry(*key), self.folder.tmp());
        let wrap = |e| CacheFault::io("write", &entry)(e);
        let json = serde_json::to_vec(label).expect("text is JSON");
        let beside = tempfile::Builder::new()
            .prefix("label-")
            .make_in(&tmp, create)
            .map_err(wrap)?;
        beside.as_file().write_all(&json).map_err(wrap)?;
        beside
            .persist(entry.join(LABEL))
            .map_err(|e| wrap(e.error))?;
        Ok(())
    }

    /// What an entry is known by; none where it came from elsewhere, or from an earlier version.
    pub fn label(&self, key: &Key) -> Option<Label> {
        let path = self.folder.entry(*key).join(LABEL);
        let bytes = fsx::read_bounded(&path, LONGEST).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}
