//! The memo: what was once computed from the bytes of one or several files, remembered as long as they stay the same.
//!
//! Whether they do is told [by their time stamps](super::state). Nothing is believed that was remembered later than now, which
//! means that the clock went back.
//!
//! One small file per remembered value, replaced by rename: any number of processes may use it at once without a lock.

use super::CacheFault;
use super::folder::{children, create, make, named, nanoseconds, remove};
use super::state::State;
use crate::fsx::{self, Map};
use crate::tensor::{Digest, LabelledHasher};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::PathBuf;

const FORMAT: &str = "trtmut.memo/1";
/// The oldest go first where they are more than these, or take more bytes.
const MOST: usize = 4096;
const MOST_BYTES: u64 = 64 << 20;
/// Room for the digests of some ten thousand tensors.
const LONGEST: u64 = 8 << 20;

#[derive(Debug, Clone)]
pub struct Memo {
    folder: PathBuf,
    rehash: bool,
}

/// Files as they were before they were read.
#[derive(Debug, Clone)]
pub struct Seen {
    paths: Vec<PathBuf>,
    states: Vec<State>,
    at_ns: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: String,
    states: Vec<State>,
    purpose: String,
    /// When the first of the files was looked at, nanoseconds since 1970.
    at_ns: u64,
    value: String,
    /// Digest of everything above.
    seal: Digest,
}

impl Wire {
    fn seal(&self) -> Digest {
        let mut h = LabelledHasher::new(FORMAT);
        for s in &self.states {
            h.field("device", &s.device.to_le_bytes())
                .field("inode", &s.inode.to_le_bytes())
                .field("bytes", &s.bytes.to_le_bytes())
                .field("mtime_ns", &s.mtime_ns.to_le_bytes())
                .field("ctime_ns", &s.ctime_ns.to_le_bytes());
        }
        h.field("purpose", self.purpose.as_bytes())
            .field("at_ns", &self.at_ns.to_le_bytes())
            .field("value", self.value.as_bytes())
            .finish()
    }
}

impl Memo {
    pub(super) fn new(folder: PathBuf) -> Memo {
        Memo {
            folder,
            rehash: false,
        }
    }

    /// A memo that believes nothing and still remembers: for `--rehash`.
    #[must_use]
    pub fn rehash(mut self, rehash: bool) -> Memo {
        self.rehash = rehash;
        self
    }

    /// What the files were when they were mapped, which is before anything of them was read.
    pub fn seen(files: &[&Map]) -> Seen {
        let opened = files.iter().map(|f| nanoseconds(f.opened()));
        Seen {
            paths: files.iter().map(|f| f.path().to_owned()).collect(),
            states: files.iter().map(|f| State::of(f.metadata())).collect(),
            at_ns: opened.min().unwrap_or(0),
        }
    }

    /// What was remembered of these files for this purpose, if it is still true. Anything wrong with the memo is a `None`, and so
    /// is what depends on no file.
    pub fn recall(&self, seen: &Seen, purpose: &str) -> Option<String> {
        if self.rehash || seen.states.is_empty() {
            return None;
        }
        let path = self.place(&seen.states, purpose);
        if path.metadata().ok()?.len() > LONGEST {
            return None;
        }
        let wire: Wire = serde_json::from_slice(&fsx::read_bounded(path, LONGEST).ok()?).ok()?;
        let believed = wire.format == FORMAT
            && wire.seal == wire.seal()
            && wire.states == seen.states
            && wire.purpose == purpose
            && wire.at_ns <= seen.at_ns
            && wire.states.iter().all(|s| s.settled(wire.at_ns));
        believed.then_some(wire.value)
    }

    /// Remembers a value computed from the bytes of the files. Says whether it did: not when one of them changed meanwhile or
    /// shortly before, and not when the value is very long.
    ///
    /// # Errors
    /// [`CacheFault::Io`] when the memo cannot be written.
    pub fn remember(&self, seen: &Seen, purpose: &str, value: &str) -> Result<bool, CacheFault> {
        let mut files = seen.paths.iter().zip(&seen.states);
        let unchanged = files.all(|(path, state)| {
            state.settled(seen.at_ns) && path.metadata().is_ok_and(|m| State::of(&m) == *state)
        });
        if !unchanged || seen.states.is_empty() {
            return Ok(false);
        }
        let mut wire = Wire {
            format: FORMAT.into(),
            states: seen.states.clone(),
            purpose: purpose.into(),
            at_ns: seen.at_ns,
            value: value.into(),
            seal: Digest([0; 32]),
        };
        wire.seal = wire.seal();
        let json = serde_json::to_vec(&wire).expect("text and numbers are JSON");
        if json.len() as u64 > LONGEST {
            return Ok(false);
        }
        make(&self.folder)?;
        self.forget_oldest()?;
        let place = self.place(&seen.states, purpose);
        // Threads of one process may remember the same at the same time.
        let beside = tempfile::Builder::new()
            .prefix(".new-")
            .make_in(&self.folder, create)
            .map_err(CacheFault::io("write in", &self.folder))?;
        let wrap = |e| CacheFault::io("write", &place)(e);
        beside.as_file().write_all(&json).map_err(wrap)?;
        beside.persist(&place).map_err(|e| wrap(e.error))?;
        Ok(true)
    }

    /// By device and inode, so that a file that changes takes the place of what it was.
    fn place(&self, states: &[State], purpose: &str) -> PathBuf {
        let mut h = LabelledHasher::new(FORMAT);
        for s in states {
            h.field("device", &s.device.to_le_bytes())
                .field("inode", &s.inode.to_le_bytes());
        }
        self.folder
            .join(h.field("purpose", purpose.as_bytes()).finish().hex())
    }

    fn forget_oldest(&self) -> Result<(), CacheFault> {
        let ours = children(&self.folder)?
            .into_iter()
            .filter(|p| named::memo(p));
        let looked = ours.filter_map(|path| {
            let meta = path.metadata().ok()?;
            Some((meta.modified().ok()?, meta.len(), path))
        });
        let mut by_age: Vec<_> = looked.collect();
        let mut bytes: u64 = by_age.iter().map(|(_, n, _)| n).sum();
        if by_age.len() < MOST && bytes < MOST_BYTES {
            return Ok(());
        }
        by_age.sort();
        let mut left = by_age.len();
        for (_, length, path) in &by_age {
            // Down to three quarters, so that this is seldom done.
            if left <= MOST / 4 * 3 && bytes <= MOST_BYTES / 4 * 3 {
                break;
            }
            remove(path)?;
            left -= 1;
            bytes -= length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::SystemTime;

    struct Scene {
        temp: tempfile::TempDir,
        memo: Memo,
        file: PathBuf,
    }

    impl Scene {
        fn new() -> Scene {
            let temp = tempfile::tempdir().unwrap();
            let file = temp.path().join("weights");
            fs::write(&file, b"weights").unwrap();
            let memo = Memo::new(temp.path().join("memo"));
            Scene { temp, memo, file }
        }

        /// The file as it is seen some seconds from now; nobody can set a ctime back.
        fn later(&self, seconds: u64) -> Seen {
            let mut seen = Memo::seen(&[&Map::open(&self.file).unwrap()]);
            seen.at_ns += seconds * 1_000_000_000;
            seen
        }

        fn remembered() -> Scene {
            let scene = Scene::new();
            assert!(scene.memo.remember(&scene.later(10), "p", "v").unwrap());
            scene
        }
    }

    #[test]
    fn an_unchanged_file_is_remembered_for_its_purpose() {
        let s = Scene::remembered();
        assert_eq!(s.memo.recall(&s.later(20), "p").as_deref(), Some("v"));
        assert_eq!(s.memo.recall(&s.later(20), "q"), None);
        let rehash = s.memo.clone().rehash(true);
        assert_eq!(rehash.recall(&s.later(20), "p"), None);
        assert!(rehash.remember(&s.later(20), "p", "w").unwrap());
        assert_eq!(s.memo.recall(&s.later(30), "p").as_deref(), Some("w"));
    }

    #[test]
    fn a_file_changed_just_before_is_not_remembered() {
        let s = Scene::new();
        assert!(!s.memo.remember(&s.later(0), "p", "v").unwrap());
        assert!(!s.memo.remember(&s.later(2), "p", "v").unwrap());
        assert_eq!(s.memo.recall(&s.later(20), "p"), None);
    }

    #[test]
    fn a_change_of_the_same_length_and_mtime_is_seen() {
        let s = Scene::remembered();
        let mtime = s.file.metadata().unwrap().modified().unwrap();
        fs::write(&s.file, b"WEIGHTS").unwrap();
        fs::File::options()
            .write(true)
            .open(&s.file)
            .unwrap()
            .set_modified(mtime)
            .unwrap();
        assert_eq!(s.memo.recall(&s.later(20), "p"), None);
    }

    #[test]
    fn a_replaced_file_is_seen() {
        let s = Scene::remembered();
        let other = s.temp.path().join("other");
        fs::write(&other, b"weights").unwrap();
        fs::rename(other, &s.file).unwrap();
        assert_eq!(s.memo.recall(&s.later(20), "p"), None);
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_remembered() {
        let s = Scene::new();
        let seen = s.later(10);
        fs::write(&s.file, b"longer than it was").unwrap();
        assert!(!s.memo.remember(&seen, "p", "v").unwrap());
        fs::remove_file(&s.file).unwrap();
        assert!(!s.memo.remember(&seen, "p", "v").unwrap());
    }

    #[test]
    fn nothing_is_believed_from_before_the_clock_went_back() {
        let s = Scene::remembered();
        assert_eq!(s.memo.recall(&s.later(9), "p"), None);
        assert_eq!(s.memo.recall(&s.later(10), "p").as_deref(), Some("v"));
    }

    #[test]
    fn a_damaged_memo_is_never_believed() {
        let s = Scene::remembered();
        let seen = s.later(20);
        let place = s.memo.place(&seen.states, "p");
        let whole = fs::read(&place).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&place, flipped).unwrap();
            assert!(
                s.memo.recall(&seen, "p").is_none_or(|v| v == "v"),
                "bit {bit}"
            );
        }
        for length in 0..whole.len() {
            fs::write(&place, &whole[..length]).unwrap();
            assert_eq!(s.memo.recall(&seen, "p"), None);
        }
        fs::write(&place, vec![b' '; LONGEST as usize + 1]).unwrap();
        assert_eq!(s.memo.recall(&seen, "p"), None);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let s = Scene::remembered();
        for n in 1..MOST {
            fs::write(s.memo.folder.join(format!("{n:064x}")), b"").unwrap();
        }
        let place = s.memo.place(&s.later(0).states, "p");
        let file = fs::File::options().write(true).open(place).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(s.memo.remember(&s.later(20), "q", "v").unwrap());
        assert_eq!(children(&s.memo.folder).unwrap().len(), MOST - MOST / 4 + 1);
        assert_eq!(s.memo.recall(&s.later(30), "p"), None);
        assert_eq!(s.memo.recall(&s.later(30), "q").as_deref(), Some("v"));
    }

    #[test]
    fn very_long_values_are_not_kept() {
        let s = Scene::new();
        let value = "x".repeat(LONGEST as usize);
        assert!(!s.memo.remember(&s.later(10), "p", &value).unwrap());
    }

    #[test]
    fn no_more_bytes_are_kept_than_is_said() {
        let s = Scene::remembered();
        let long = vec![b' '; LONGEST as usize];
        for n in 0..8 {
            fs::write(s.memo.folder.join(format!("{n:064x}")), &long).unwrap();
        }
        assert!(s.memo.remember(&s.later(20), "q", "v").unwrap());
        let left = children(&s.memo.folder).unwrap();
        let bytes: u64 = left.iter().map(|p| p.metadata().unwrap().len()).sum();
        assert!(bytes <= MOST_BYTES, "{bytes}");
        assert_eq!(s.memo.recall(&s.later(30), "q").as_deref(), Some("v"));
    }

    #[test]
    fn a_change_of_one_of_several_files_is_seen() {
        let s = Scene::new();
        let data = s.temp.path().join("data");
        fs::write(&data, b"data").unwrap();
        let both = |seconds: u64| {
            let maps = [&s.file, &data].map(|p| Map::open(p).unwrap());
            let mut seen = Memo::seen(&[&maps[0], &maps[1]]);
            seen.at_ns += seconds * 1_000_000_000;
            seen
        };
        assert!(s.memo.remember(&both(10), "p", "v").unwrap());
        assert_eq!(s.memo.recall(&both(20), "p").as_deref(), Some("v"));
        assert_eq!(s.memo.recall(&s.later(20), "p"), None, "one of the two");
        fs::write(&data, b"DATA").unwrap();
        assert_eq!(s.memo.recall(&both(20), "p"), None);
        // One that has just changed keeps all of it from being remembered.
        assert!(!s.memo.remember(&both(0), "p", "w").unwrap());
    }
}
