//! Digests of open files, read block by block: unlike a memory map, a file that shrinks meanwhile is only a short read. And copies
//! whose digest is found on the way.

use crate::tensor::Digest;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::ScopedJoinHandle;

/// Large enough that all cores have work, small enough to stay in the processor's cache.
const BLOCK: usize = 4 << 20;

/// One read, again where a signal came between. Nothing is read at the end only.
fn read_at(file: &File, block: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(block, at) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Digest and length of everything in `file`, whatever its position; `seen` hears of every block.
pub(super) fn digest(file: &File, mut seen: impl FnMut(u64)) -> io::Result<(u64, Digest)> {
    let length = file.metadata()?.len();
    let mut block = vec![0; BLOCK.min(usize::try_from(length).unwrap_or(BLOCK).max(1))];
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    loop {
        let n = read_at(file, &mut block, at)?;
        if n == 0 {
            break;
        }
        hasher.update_rayon(&block[..n]);
        at += n as u64;
        seen(n as u64);
    }
    Ok((at, Digest(*hasher.finalize().as_bytes())))
}

/// A block that is copied and hashed at the same time stays in the processor's cache between the two.
const COPIED: usize = 1 << 20;
/// Blocks that are under way between the copying thread and the hashing one.
const UNDER_WAY: usize = 4;
/// After so many bytes the disk is set to work, so that less is left to wait for at the end.
const FLUSHED: u64 = 64 << 20;

/// Which side of a copy failed.
#[derive(Debug)]
pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

impl From<CopyError> for io::Error {
    fn from(error: CopyError) -> io::Error {
        match error {
            CopyError::Read(e) | CopyError::Write(e) => e,
        }
    }
}

/// Copies everything in `from` to the beginning of `to`, and tells its length. By hand, because the kernel's own copying is the
/// slower one on ext4 (`benches/cache.rs`).
pub(super) fn copy_unseen(from: &File, to: &File) -> io::Result<u64> {
    let mut block = vec![0; COPIED];
    let mut at = 0;
    loop {
        let n = read_at(from, &mut block, at)?;
        if n == 0 {
            return Ok(at);
        }
        to.write_all_at(&block[..n], at)?;
        at += n as u64;
    }
}

/// What comes after a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The caller syncs the copy, so the disk begins while it is made.
    Sync,
    /// The system writes it when it likes.
    Nothing,
}

/// Copies everything in `from` to the beginning of `to`, and tells length and digest of what was copied. Reading, hashing and the
/// disk go on at the same time, and each byte is read once. What was copied last is not synced yet.
pub(super) fn copy(from: &File, to: &File, next: Next) -> Result<(u64, Digest), CopyError> {
    let (filled, to_hash) = sync_channel::<(Vec<u8>, usize)>(UNDER_WAY);
    let (emptied, to_fill) = channel();
    let (written, to_flush) = channel();
    for _ in 0..UNDER_WAY {
        let _ = emptied.send(Vec::new());
    }
    std::thread::scope(|scope| {
        let thread = || std::thread::Builder::new();
        let Ok(flushing) = thread().spawn_scoped(scope, move || flush(to, &to_flush)) else {
            return copy_alone(from, to);
        };
        let copying = thread().spawn_scoped(scope, move || {
            copy_blocks(from, to, next, &to_fill, &filled, &written)
        });
        let Ok(copying) = copying else {
            return copy_alone(from, to);
        };
        let mut hasher = blake3::Hasher::new();
        for (block, n) in to_hash {
            hasher.update_rayon(&block[..n]);
            let _ = emptied.send(block);
        }
        let copied = joined(copying)?;
        // The system tells of a failure once: later syncs would succeed.
        joined(flushing).map_err(CopyError::Write)?;
        Ok((copied, Digest(*hasher.finalize().as_bytes())))
    })
}

/// As [`copy`], where no threads can be made.
fn copy_alone(from: &File, to: &File) -> Result<(u64, Digest), CopyError> {
    copy_unseen(from, to).map_err(CopyError::Write)?;
    digest(to, |_| ()).map_err(CopyError::Read)
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Each block is written by this thread and then handed on to be hashed.
fn copy_blocks(
    from: &File,
    to: &File,
    next: Next,
    to_fill: &Receiver<Vec<u8>>,
    filled: &SyncSender<(Vec<u8>, usize)>,
    written: &Sender<()>,
) -> Result<u64, CopyError> {
    let (mut at, mut flushed) = (0, 0);
    // The other ends are there until these are dropped.
    while let Ok(mut block) = to_fill.recv() {
        block.resize(COPIED, 0);
        let n = read_at(from, &mut block, at).map_err(CopyError::Read)?;
        if n == 0 {
            break;
        }
        to.write_all_at(&block[..n], at).map_err(CopyError::Write)?;
        at += n as u64;
        let _ = filled.send((block, n));
        if next == Next::Sync && at - flushed >= FLUSHED {
            flushed = at;
            let _ = written.send(());
        }
    }
    Ok(at)
}

fn flush(to: &File, written: &Receiver<()>) -> io::Result<()> {
    while written.recv().is_ok() {
        // Once for all that was written meanwhile.
        while written.try_recv().is_ok() {}
        to.sync_data()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_copy_is_the_same_and_so_is_its_digest() {
        for length in [0, 1, COPIED, 7 * COPIED + 11, 2 * FLUSHED as usize] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 249) as u8).collect();
            let (mut from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            from.write_all(&bytes).unwrap();
            for next in [Next::Sync, Next::Nothing] {
                to.set_len(0).unwrap();
                let got = copy(&from, &to, next).unwrap();
                assert_eq!(got, (length as u64, Digest::of(&bytes)));
                assert_eq!(digest(&to, |_| ()).unwrap(), got);
            }
        }
    }

    #[test]
    fn a_copy_that_cannot_be_written_is_an_error() {
        let mut from = tempfile::NamedTempFile::new().unwrap();
        from.write_all(&vec![1; 6 * COPIED]).unwrap();
        let read_only = File::open(from.path()).unwrap();
        let failed = copy(from.as_file(), &read_only, Next::Sync);
        assert!(matches!(failed, Err(CopyError::Write(_))), "{failed:?}");
    }

    #[test]
    fn agrees_with_the_digest_of_the_bytes() {
        for length in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 7] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            let mut heard = 0;
            let got = digest(&file, |n| heard += n).unwrap();
            assert_eq!(got, (length as u64, Digest::of(&bytes)));
            assert_eq!(heard, length as u64);
        }
    }
}
