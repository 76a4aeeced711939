//! The memo: what was once computed from a file's bytes, remembered as long as the file stays the same.
//!
//! A file is taken to be the same when device, inode, size, mtime and ctime are, to the nanosecond; ctime cannot be set by
//! hand. Nothing is remembered of a file that was changed less than [`SETTLED`] before it was read, since a further change
//! may then leave the same time stamps: git's rule for racily clean index entries
//! (<https://git-scm.com/docs/racy-git>). Nor is anything believed that was remembered later than now, which means that
//! the clock went back. A file that is written through a memory map while it is read is beyond what time stamps can show.
//!
//! One small file per remembered value, replaced by rename: any number of processes may use it at once without a lock.

use super::CacheFault;
use super::folder::{children, create, make, nanoseconds, remove};
use crate::tensor::{Digest, LabelledHasher};
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const FORMAT: &str = "trtmut.memo/1";
/// The coarsest time stamps that are in use are FAT's, of two seconds; the rest is for the lag of kernel clocks.
const SETTLED: Duration = Duration::from_millis(2100);
/// Some megabytes at most; the oldest go first.
const MOST: usize = 4096;
/// Room for the digests of some ten thousand tensors.
const LONGEST: u64 = 8 << 20;

/// See the module.
#[derive(Debug, Clone)]
pub struct Memo {
    folder: PathBuf,
    rehash: bool,
}

/// A file as it was before it was read.
#[derive(Debug, Clone)]
pub struct Seen {
    path: PathBuf,
    state: State,
    at_ns: u64,
}

/// What has to stay the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    device: u64,
    inode: u64,
    bytes: u64,
    mtime_ns: i128,
    ctime_ns: i128,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: String,
    state: State,
    purpose: String,
    /// When the file was looked at, nanoseconds since 1970.
    at_ns: u64,
    value: String,
    /// Digest of everything above.
    seal: Digest,
}

impl State {
    fn of(meta: &Metadata) -> State {
        let ns = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        State {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn settled(&self, at_ns: u64) -> bool {
        let newest = self.mtime_ns.max(self.ctime_ns);
        newest + SETTLED.as_nanos() as i128 <= i128::from(at_ns)
    }
}

impl Wire {
    fn seal(&self) -> Digest {
        let State {
            device,
            inode,
            bytes,
            mtime_ns,
            ctime_ns,
        } = self.state;
        LabelledHasher::new(FORMAT)
            .field("device", &device.to_le_bytes())
            .field("inode", &inode.to_le_bytes())
            .field("bytes", &bytes.to_le_bytes())
            .field("mtime_ns", &mtime_ns.to_le_bytes())
            .field("ctime_ns", &ctime_ns.to_le_bytes())
            .field("purpose", self.purpose.as_bytes())
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

    /// Looks at a file before it is read.
    ///
    /// # Errors
    /// [`CacheFault::Io`] when it cannot be looked at.
    pub fn look(&self, path: impl AsRef<Path>) -> Result<Seen, CacheFault> {
        let path = path.as_ref();
        let at_ns = nanoseconds(SystemTime::now());
        let meta = path.metadata().map_err(CacheFault::io("read", path))?;
        Ok(Seen {
            path: path.to_owned(),
            state: State::of(&meta),
            at_ns,
        })
    }

    /// What was remembered of this file for this purpose, if it is still true. Anything wrong with the memo is a `None`.
    pub fn recall(&self, seen: &Seen, purpose: &str) -> Option<String> {
        if self.rehash {
            return None;
        }
        let path = self.place(&seen.state, purpose);
        if path.metadata().ok()?.len() > LONGEST {
            return None;
        }
        let wire: Wire = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let believed = wire.format == FORMAT
            && wire.seal == wire.seal()
            && wire.state == seen.state
            && wire.purpose == purpose
            && wire.at_ns <= seen.at_ns
            && wire.state.settled(wire.at_ns);
        believed.then_some(wire.value)
    }

    /// Remembers a value computed from the file's bytes after [`Memo::look`]. Says whether it did: not when the file changed
    /// meanwhile or shortly before, and not when the value is very long.
    ///
    /// # Errors
    /// [`CacheFault::Io`] when the memo cannot be written.
    pub fn remember(&self, seen: &Seen, purpose: &str, value: &str) -> Result<bool, CacheFault> {
        let unchanged = seen
            .path
            .metadata()
            .is_ok_and(|m| State::of(&m) == seen.state);
        if !unchanged || !seen.state.settled(seen.at_ns) {
            return Ok(false);
        }
        let mut wire = Wire {
            format: FORMAT.into(),
            state: seen.state,
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
        let place = self.place(&seen.state, purpose);
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

    /// Digest of a file's bytes, remembered or computed.
    ///
    /// # Errors
    /// [`CacheFault::Io`] when the file cannot be read. A memo that cannot be written is no error.
    pub fn digest(&self, path: impl AsRef<Path>) -> Result<Digest, CacheFault> {
        const PURPOSE: &str = "blake3 of the file";
        let path = path.as_ref();
        let seen = self.look(path)?;
        if let Some(digest) = self.recall(&seen, PURPOSE).and_then(|v| v.parse().ok()) {
            return Ok(digest);
        }
        let file = std::fs::File::open(path).map_err(CacheFault::io("read", path))?;
        let (_, digest) =
            super::hash::digest(&file, |_| ()).map_err(CacheFault::io("read", path))?;
        let _ = self.remember(&seen, PURPOSE, &digest.to_string());
        Ok(digest)
    }

    /// By device and inode, so that a file that changes takes the place of what it was.
    fn place(&self, state: &State, purpose: &str) -> PathBuf {
        let digest = LabelledHasher::new(FORMAT)
            .field("device", &state.device.to_le_bytes())
            .field("inode", &state.inode.to_le_bytes())
            .field("purpose", purpose.as_bytes())
            .finish();
        self.folder.join(digest.hex())
    }

    fn forget_oldest(&self) -> Result<(), CacheFault> {
        let paths = children(&self.folder)?;
        if paths.len() < MOST {
            return Ok(());
        }
        let mut by_age: Vec<_> = paths
            .into_iter()
            .filter_map(|p| Some((p.metadata().ok()?.modified().ok()?, p)))
            .collect();
        by_age.sort();
        // A quarter at once, so that this is seldom done.
        for (_, path) in by_age.iter().take(MOST / 4) {
            remove(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
            let mut seen = self.memo.look(&self.file).unwrap();
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
        let place = s.memo.place(&seen.state, "p");
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
            fs::write(s.memo.folder.join(n.to_string()), b"").unwrap();
        }
        let place = s.memo.place(&s.later(0).state, "p");
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
    fn the_digest_is_the_file_s_with_and_without_a_memo() {
        let s = Scene::new();
        assert_eq!(s.memo.digest(&s.file).unwrap(), Digest::of(b"weights"));
        // In the memo's place: the digest is still computed.
        fs::write(&s.memo.folder, b"").unwrap();
        assert_eq!(s.memo.digest(&s.file).unwrap(), Digest::of(b"weights"));
        assert!(s.memo.digest(s.temp.path().join("none")).is_err());
    }
}
