//! Digests of many stretches of files at once, on all cores and in the memory of a few pieces.
//!
//! BLAKE3 is a tree over chunks of 1 KiB, so that parts of one stretch are hashed by several threads and put together afterwards:
//! one large tensor keeps all cores busy as well as many small ones do, and the digests are those of [`Digest::of`].

use super::Digest;
use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Bytes that are read and hashed at a time. A power of two of chunks, so that every part is a subtree; it stays in the cache of a
/// core between the two.
const PART: usize = 256 << 10;

/// A stretch of one of several files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    pub file: usize,
    /// Bytes, from the beginning of that file.
    pub range: Range<usize>,
}

/// Parts of stretches that lie close together and are read in one go.
struct Piece {
    file: usize,
    range: Range<usize>,
    /// Index of the stretch, and the part of it.
    parts: Vec<(usize, Range<usize>)>,
}

impl Digest {
    /// Digest of `length` bytes that `read` gives from a place on, on all cores.
    pub fn of_length(length: usize, read: impl Fn(usize, &mut [u8]) + Sync) -> Digest {
        let whole = Stretch {
            file: 0,
            range: 0..length,
        };
        digests_of(&[whole], |_, at, into| read(at, into), |_| ())[0]
    }
}

/// The digest of every stretch. `read` fills a buffer from a place in a file; `done` is told how many bytes were hashed.
pub fn digests_of(
    stretches: &[Stretch],
    read: impl Fn(usize, usize, &mut [u8]) + Sync,
    done: impl Fn(u64) + Sync,
) -> Vec<Digest> {
    let hashed = each_piece(stretches, read, |parts| {
        let hashed = (parts.iter())
            .map(|&(stretch, offset, data)| {
                let length = stretches[stretch].range.len();
                (stretch, offset / PART, hash(data, offset, length))
            })
            .collect();
        done(parts.iter().map(|(.., data)| data.len() as u64).sum());
        hashed
    });
    together(stretches, hashed)
}

/// As [`digests_of`]; `see` is handed all bytes as well, while they are in the cache of a core: stretch, place in it and bytes, in parts
/// of at most 256 KiB that begin at multiples of it, in any order and by several threads.
pub fn digests_seeing(
    stretches: &[Stretch],
    read: impl Fn(usize, usize, &mut [u8]) + Sync,
    see: impl Fn(usize, usize, &[u8]) + Sync,
) -> Vec<Digest> {
    let hashed = each_piece(stretches, read, |parts| {
        (parts.iter())
            .map(|&(stretch, offset, data)| {
                see(stretch, offset, data);
                let length = stretches[stretch].range.len();
                (stretch, offset / PART, hash(data, offset, length))
            })
            .collect()
    });
    together(stretches, hashed)
}

/// As [`digests_seeing`], without the digests.
pub fn look_at(
    stretches: &[Stretch],
    read: impl Fn(usize, usize, &mut [u8]) + Sync,
    see: impl Fn(usize, usize, &[u8]) + Sync,
) {
    each_piece(stretches, read, |parts| {
        for &(stretch, offset, data) in parts {
            see(stretch, offset, data);
        }
    });
}

/// Stretch, place in it, and bytes.
type Seen<'b> = (usize, usize, &'b [u8]);

/// Reads all stretches and does `work` on the parts that were read in one go; results are in the order of files.
fn each_piece<R: Send>(
    stretches: &[Stretch],
    read: impl Fn(usize, usize, &mut [u8]) + Sync,
    work: impl Fn(&[Seen<'_>]) -> R + Sync,
) -> Vec<R> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    pieces(stretches)
        .par_iter()
        .map(|piece| {
            // Taken out, so that a reader that hashes itself finds another one.
            let mut buffer = BUFFER.take();
            // Never made shorter, so that a thread fills it with zeros once.
            buffer.resize(buffer.len().max(PART), 0);
            let bytes = &mut buffer[..piece.range.len()];
            read(piece.file, piece.range.start, bytes);
            let parts: Vec<Seen<'_>> = (piece.parts.iter())
                .map(|(stretch, part)| {
                    let at = part.start - piece.range.start;
                    let offset = part.start - stretches[*stretch].range.start;
                    (*stretch, offset, &bytes[at..at + part.len()])
                })
                .collect();
            let done = work(&parts);
            drop(parts);
            BUFFER.replace(buffer);
            done
        })
        .collect()
}

/// The digests of stretches from those of their parts.
fn together(stretches: &[Stretch], hashed: Vec<Vec<(usize, usize, Hashed)>>) -> Vec<Digest> {
    let mut values: Vec<Vec<ChainingValue>> = vec![Vec::new(); stretches.len()];
    // An empty stretch has no part, and keeps this.
    let mut digests = vec![Digest(*blake3::hash(&[]).as_bytes()); stretches.len()];
    // Pieces are in the order of files, and a stretch's parts follow each other.
    for (stretch, part, hashed) in hashed.into_iter().flatten() {
        match hashed {
            Hashed::Whole(digest) => digests[stretch] = digest,
            Hashed::Part(value) => {
                debug_assert_eq!(values[stretch].len(), part);
                values[stretch].push(value);
            }
        }
    }
    for (digest, values) in digests.iter_mut().zip(&values) {
        if !values.is_empty() {
            let (left, right) = halves(values);
            let root = merge_subtrees_root(&merged(left), &merged(right), Mode::Hash);
            *digest = Digest(*root.as_bytes());
        }
    }
    digests
}

enum Hashed {
    /// The stretch is no longer than a part.
    Whole(Digest),
    Part(ChainingValue),
}

fn hash(data: &[u8], offset: usize, of: usize) -> Hashed {
    let mut hasher = Hasher::new();
    // The root of a tree is finalised in its own way, and a single part is the root itself.
    if of <= PART {
        return Hashed::Whole(Digest(*hasher.update(data).finalize().as_bytes()));
    }
    hasher.set_input_offset(offset as u64).update(data);
    Hashed::Part(hasher.finalize_non_root())
}

/// The left subtree is the largest that is complete and not all of it.
fn halves(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

fn merged(values: &[ChainingValue]) -> ChainingValue {
    if let [one] = values {
        return *one;
    }
    let (left, right) = halves(values);
    merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
}

/// Cuts stretches into parts, in the order of files, and puts small neighbours together.
fn pieces(stretches: &[Stretch]) -> Vec<Piece> {
    let mut order: Vec<usize> = (0..stretches.len()).collect();
    order.sort_by_key(|&i| (stretches[i].file, stretches[i].range.start));
    let mut pieces: Vec<Piece> = Vec::new();
    for i in order {
        let Stretch { file, range } = &stretches[i];
        for start in range.clone().step_by(PART) {
            let part = start..(start + PART).min(range.end);
            match pieces.last_mut() {
                // Gaps between neighbours are alignment; what overlaps is read twice.
                Some(last)
                    if last.file == *file
                        && last.range.end <= part.start
                        && part.end - last.range.start <= PART =>
                {
                    last.range.end = part.end;
                    last.parts.push((i, part));
                }
                _ => pieces.push(Piece {
                    file: *file,
                    range: part.clone(),
                    parts: vec![(i, part)],
                }),
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn digests_are_those_of_the_bytes() {
        let files: Vec<Vec<u8>> = (0..2u64)
            .map(|f| {
                (0..9 * PART as u64 + 77)
                    .map(|i| ((i * 2_654_435_761 + f) >> 7) as u8)
                    .collect()
            })
            .collect();
        let lengths = [
            0,
            1,
            1024,
            1025,
            PART - 1,
            PART,
            PART + 1,
            2 * PART,
            2 * PART + 1,
            3 * PART - 1,
            4 * PART,
            5 * PART + 3,
            7 * PART + 1024,
            8 * PART,
            9 * PART,
        ];
        let mut stretches = Vec::new();
        for (i, length) in lengths.into_iter().enumerate() {
            for start in [0, 5, 77] {
                let range = start..start + length;
                stretches.push(Stretch { file: i % 2, range });
            }
        }
        // Small neighbours, with and without gaps.
        for i in 0..500 {
            let start = i * 301;
            let range = start..start + 300 + i % 2;
            stretches.push(Stretch { file: 0, range });
        }
        let hashed = AtomicU64::new(0);
        let found = digests_of(
            &stretches,
            |file, at, into| into.copy_from_slice(&files[file][at..at + into.len()]),
            |bytes| {
                hashed.fetch_add(bytes, Ordering::Relaxed);
            },
        );
        for (stretch, digest) in stretches.iter().zip(found) {
            let bytes = &files[stretch.file][stretch.range.clone()];
            assert_eq!(digest, Digest::of(bytes), "{stretch:?}");
        }
        assert!(hashed.into_inner() > 0);
        let sums: Vec<AtomicU64> = stretches.iter().map(|_| AtomicU64::new(0)).collect();
        let read = |file: usize, at: usize, into: &mut [u8]| {
            into.copy_from_slice(&files[file][at..at + into.len()]);
        };
        // Every byte once, with its place.
        let see = |stretch: usize, offset: usize, data: &[u8]| {
            let terms = data.iter().zip(offset as u64 + 1..);
            let sum = terms.map(|(b, at)| u64::from(*b) * at).sum();
            sums[stretch].fetch_add(sum, Ordering::Relaxed);
        };
        let digests = digests_seeing(&stretches, read, see);
        look_at(&stretches, read, see);
        for ((stretch, digest), sum) in stretches.iter().zip(digests).zip(sums) {
            let bytes = &files[stretch.file][stretch.range.clone()];
            assert_eq!(digest, Digest::of(bytes), "{stretch:?}");
            let sum_of = |bytes: &[u8]| -> u64 {
                let terms = bytes.iter().zip(1u64..);
                terms.map(|(b, at)| u64::from(*b) * at).sum()
            };
            assert_eq!(sum.into_inner(), 2 * sum_of(bytes), "{stretch:?}");
        }
        assert!(digests_of(&[], |_, _, _| (), |_| ()).is_empty());
    }
}
