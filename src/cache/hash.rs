//! Digests of open files, read block by block: unlike a memory map, a file that shrinks meanwhile is only a short read.

use crate::tensor::Digest;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Large enough that all cores have work, small enough to stay in the processor's cache.
const BLOCK: usize = 4 << 20;

/// Digest and length of everything in `file`, whatever its position; `seen` hears of every block.
pub(super) fn digest(file: &File, mut seen: impl FnMut(u64)) -> io::Result<(u64, Digest)> {
    let length = file.metadata()?.len();
    let mut block = vec![0; BLOCK.min(usize::try_from(length).unwrap_or(BLOCK).max(1))];
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    loop {
        let n = match file.read_at(&mut block, at) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hasher.update_rayon(&block[..n]);
        at += n as u64;
        seen(n as u64);
    }
    Ok((at, Digest(*hasher.finalize().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

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
