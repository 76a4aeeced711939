//! A whole file as one slice of memory, read from disk where it is looked at.
//!
//! The memory is anonymous and filled by `pread`, block by block, when a part is asked for. So what was read once stays what it was,
//! whatever happens to the file, and a file that another process truncates is an error. A memory map of the file would raise SIGBUS
//! then, and would change under the reader. Holes of sparse files take no memory.

use super::open::open_regular;
use super::sources::Source;
use super::{Error, raw};
use crate::memory;
use rayon::prelude::*;
use rustix::buffer::spare_capacity;
use std::fs::{File, Metadata};
use std::io;
use std::ops::{Bound, Deref, Index, Range, RangeBounds};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Length of a block in bytes: long enough that calls into the kernel cost little, short enough that the headers between the tensors
/// of a model are read without the tensors.
const BLOCK: usize = 64 << 10;

/// A file that has no more bytes is read when it is opened, and closed.
const SMALL: usize = 1 << 20;

/// Longer ranges are read by several threads, each at least so much at a time, in bytes.
const SHARED: usize = 4 << 20;

/// More blocks than these are not kept account of; those of larger files are longer.
const MOST_BLOCKS: usize = 1 << 20;

/// A whole file, read-only. `&map[a..b]` reads only what lies between, and only once.
///
/// Where reading fails later (the disk, or another process truncated the file), slicing unwinds with the [`Error`] as payload;
/// [`caught`] makes it an ordinary error again.
#[derive(Debug)]
pub struct Map {
    path: PathBuf,
    /// Before the file was looked at.
    opened: SystemTime,
    meta: Metadata,
    file: Arc<File>,
    source: Option<Arc<Source>>,
    // `None` for an empty file.
    memory: Option<Memory>,
}

#[derive(Debug)]
struct Memory {
    bytes: memmap2::MmapRaw,
    block: usize,
    sparse: bool,
    /// Which blocks were read.
    read: Box<[AtomicBool]>,
    /// Bytes that count against the limit of the process.
    taken: AtomicUsize,
    /// Held while a block is read; several, so that threads can read several.
    reading: [Mutex<()>; 16],
}

impl Map {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// [`Error::Read`] when it cannot be opened or is a folder; [`Error::NotRegular`] for pipes and devices.
    pub fn open(path: impl AsRef<Path>) -> Result<Map, Error> {
        let path = path.as_ref();
        let file = Arc::new(open_regular(path)?);
        let source = Source::note(path, &file)?;
        Map::new(file, source, path)
    }

    /// An open file, whatever lies at `path` by now; `path` is for messages. It is not checked for changes: for files of the
    /// cache, which carry their digest.
    ///
    /// # Errors
    /// [`Error::Read`] when it cannot be looked at or is a folder.
    pub fn of(file: &File, path: impl AsRef<Path>) -> Result<Map, Error> {
        let path = path.as_ref();
        let file = file.try_clone().map_err(|e| Error::read(path, e))?;
        Map::new(Arc::new(file), None, path)
    }

    fn new(file: Arc<File>, source: Option<Arc<Source>>, path: &Path) -> Result<Map, Error> {
        let wrap = |e| Error::read(path, e);
        let opened = SystemTime::now();
        let meta = file.metadata().map_err(wrap)?;
        if meta.is_dir() {
            return Err(wrap(io::ErrorKind::IsADirectory.into()));
        }
        let memory = Memory::reserve(&meta).map_err(wrap)?;
        let map = Map {
            path: path.to_owned(),
            opened,
            meta,
            file,
            source,
            memory,
        };
        // A model may have thousands of small files beside it; each that is open counts against the process's limit.
        if map.len() <= SMALL {
            map.fill(0..map.len())?;
            if let Some(source) = &map.source {
                source.close();
            }
        }
        Ok(map)
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When it was opened.
    pub fn opened(&self) -> SystemTime {
        self.opened
    }

    /// What the file was then: of the file that is read, whatever lies at its path by now.
    pub fn metadata(&self) -> &Metadata {
        &self.meta
    }

    /// Length in bytes; reads nothing.
    pub fn len(&self) -> usize {
        self.memory.as_ref().map_or(0, |m| m.bytes.len())
    }

    /// Whether it has no bytes; reads nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of a range, which must lie inside of the file.
    ///
    /// # Errors
    /// [`Error::Read`], and [`Error::Changed`] when the file is shorter by now.
    #[allow(unsafe_code)]
    pub fn get(&self, range: Range<usize>) -> Result<&[u8], Error> {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "the range {range:?} is outside of a file of {} bytes",
            self.len()
        );
        self.fill(range.clone())?;
        let Some(memory) = &self.memory else {
            return Ok(&[]);
        };
        // SAFETY: the range is inside of the memory, which is mapped for as long as `self` lives, and every block of it was filled:
        // nothing writes to a block after it was marked as read.
        Ok(unsafe {
            std::slice::from_raw_parts(memory.bytes.as_ptr().add(range.start), range.len())
        })
    }

    /// The first `length` bytes, in a slice as long as the file. What was not read before is not kept here as well.
    ///
    /// # Errors
    /// As [`Map::get`].
    pub fn beginning(&self, length: usize) -> Result<Beginning, Error> {
        if self.is_empty() {
            return Ok(Beginning(None));
        }
        let mut memory = memmap2::MmapOptions::new()
            .len(self.len())
            .no_reserve_swap()
            .map_anon()
            .map_err(|e| Error::read(&self.path, e))?;
        let length = length.min(self.len());
        self.copy(0, &mut memory[..length])?;
        Ok(Beginning(Some(memory)))
    }

    /// Fills `into` with the bytes from `at` on, without keeping what was not read before. Fails as slicing does.
    pub fn copy_to(&self, at: usize, into: &mut [u8]) {
        if let Err(e) = self.copy(at, into) {
            resume_unwind(Box::new(e));
        }
    }

    fn copy(&self, at: usize, into: &mut [u8]) -> Result<(), Error> {
        let range = at..at + into.len();
        let Some(memory) = self.memory.as_ref().filter(|_| !into.is_empty()) else {
            return Ok(());
        };
        assert!(range.end <= self.len(), "the range {range:?} is outside");
        if memory.is_read(&range) {
            into.copy_from_slice(self.get(range)?);
            return Ok(());
        }
        let read = self.file.read_exact_at(into, at as u64);
        read.map_err(|e| self.failed(e))
    }

    /// The bytes of a range, as [`Map::copy_to`] fills them.
    pub fn read(&self, range: Range<usize>) -> Vec<u8> {
        self.read_new(range)
            .unwrap_or_else(|e| resume_unwind(Box::new(e)))
    }

    fn read_new(&self, range: Range<usize>) -> Result<Vec<u8>, Error> {
        let Some(memory) = self.memory.as_ref().filter(|_| !range.is_empty()) else {
            return Ok(Vec::new());
        };
        assert!(range.end <= self.len(), "the range {range:?} is outside");
        if memory.is_read(&range) {
            return Ok(self.get(range)?.to_vec());
        }
        if range.len() > 4 * SHARED {
            // Most of the time goes into pages that are touched for the first time, as in `fill`.
            let mut bytes = vec![0; range.len()];
            let parts = bytes.par_chunks_mut(SHARED).enumerate();
            parts
                .map(|(i, part)| self.copy(range.start + i * SHARED, part))
                .collect::<Result<(), Error>>()?;
            return Ok(bytes);
        }
        // Memory that is filled with zeros before it is read into is written twice.
        let mut bytes = Vec::with_capacity(range.len());
        while bytes.len() < range.len() {
            let at = (range.start + bytes.len()) as u64;
            match rustix::io::pread(&*self.file, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(self.failed(e.into())),
            }
        }
        // More may have been allocated than was asked for.
        bytes.truncate(range.len());
        Ok(bytes)
    }

    /// Hands all of it to `take`, from its beginning on and piece by piece, without keeping what was not read before. Fails as
    /// slicing does.
    pub fn pieces(&self, take: &mut dyn FnMut(&[u8])) {
        const PIECE: usize = 8 << 20;
        let mut piece = Vec::new();
        for start in (0..self.len()).step_by(PIECE) {
            piece.resize(PIECE.min(self.len() - start), 0);
            self.copy_to(start, &mut piece);
            take(&piece);
        }
    }

    /// Reads what of `range` was not read yet.
    fn fill(&self, range: Range<usize>) -> Result<(), Error> {
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        if range.is_empty() {
            return Ok(());
        }
        let blocks = range.start / memory.block..range.end.div_ceil(memory.block);
        let read = |block| memory.read_once(block, &self.file);
        // Most of the time goes into pages that are touched for the first time, and that is work for all cores.
        let done = if range.len() > SHARED {
            (blocks.into_par_iter())
                .with_min_len((SHARED / memory.block).max(1))
                .try_for_each(read)
        } else {
            blocks.into_iter().try_for_each(read)
        };
        done.map_err(|e| self.failed(e))
    }

    fn failed(&self, e: io::Error) -> Error {
        if e.kind() == io::ErrorKind::UnexpectedEof {
            Error::Changed {
                path: self.path.clone(),
            }
        } else {
            Error::read(&self.path, e)
        }
    }

    fn sliced(&self, range: Range<usize>) -> &[u8] {
        match self.get(range) {
            Ok(bytes) => bytes,
            // Not a panic: nothing is wrong with the program, so the hook is not called.
            Err(e) => resume_unwind(Box::new(e)),
        }
    }
}

impl Memory {
    fn reserve(meta: &Metadata) -> io::Result<Option<Memory>> {
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let length = usize::try_from(meta.len()).map_err(|_| too_large())?;
        if length == 0 {
            return Ok(None);
        }
        let block = BLOCK.max(length.div_ceil(MOST_BLOCKS).next_multiple_of(BLOCK));
        let bytes = memmap2::MmapOptions::new()
            .len(length)
            .no_reserve_swap()
            .map_anon()?;
        Ok(Some(Memory {
            bytes: bytes.into(),
            block,
            sparse: meta.blocks().saturating_mul(512) < meta.len(),
            read: (0..length.div_ceil(block))
                .map(|_| AtomicBool::new(false))
                .collect(),
            taken: AtomicUsize::new(0),
            reading: Default::default(),
        }))
    }

    fn is_read(&self, range: &Range<usize>) -> bool {
        (range.start / self.block..=(range.end - 1) / self.block)
            .all(|block| self.read[block].load(Ordering::Acquire))
    }

    fn read_once(&self, block: usize, file: &File) -> io::Result<()> {
        if self.read[block].load(Ordering::Acquire) {
            return Ok(());
        }
        let lock = &self.reading[block % self.reading.len()];
        let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.read[block].load(Ordering::Acquire) {
            self.read_block(block, file)?;
            self.read[block].store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Called for each block by one thread at a time, until it succeeds once.
    #[allow(unsafe_code)]
    fn read_block(&self, block: usize, file: &File) -> io::Result<()> {
        let start = block * self.block;
        let length = self.block.min(self.bytes.len() - start);
        // SAFETY: the block is inside of the memory, and no reference to it exists: `get` hands out slices of a block only once it is
        // marked as read, which `read_once` does after this, under a lock.
        let into =
            unsafe { std::slice::from_raw_parts_mut(self.bytes.as_mut_ptr().add(start), length) };
        if self.sparse && raw::is_hole(file, start as u64, length as u64) {
            return Ok(());
        }
        memory::take(length)?;
        file.read_exact_at(into, start as u64)
            .inspect(|()| {
                self.taken.fetch_add(length, Ordering::Relaxed);
            })
            .inspect_err(|_| memory::give_back(length))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        memory::give_back(*self.taken.get_mut());
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(source) = &self.source {
            source.close();
        }
    }
}

/// All of it, which reads all of it.
impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.sliced(0..self.len())
    }
}

impl<R: RangeBounds<usize>> Index<R> for Map {
    type Output = [u8];

    fn index(&self, range: R) -> &[u8] {
        let start = match range.start_bound() {
            Bound::Included(&n) => n,
            Bound::Excluded(&n) => n + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&n) => n + 1,
            Bound::Excluded(&n) => n,
            Bound::Unbounded => self.len(),
        };
        self.sliced(start..end)
    }
}

/// As many bytes as a file has, of which only the first are the file's, and all others zero: for parsers of headers that compare the
/// length of the file with what a header says. Takes memory for the first ones only.
#[derive(Debug)]
pub struct Beginning(Option<memmap2::MmapMut>);

impl Deref for Beginning {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

/// Makes the empty file `to` share all blocks of the file in `map`: a reflink. `false` where the file system has none, or the two
/// are on different ones.
pub fn share(map: &Map, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, &*map.file).is_ok()
}

/// Runs `work`, and makes an error of a file that could not be read any further. Other panics go on.
///
/// # Errors
/// What [`Map`] unwound with.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(done) => Ok(done),
        Err(payload) => match payload.downcast::<Error>() {
            Ok(error) => Err(*error),
            Err(payload) => resume_unwind(payload),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than what is read at once.
    const PART: usize = SMALL;

    #[test]
    fn empty_files_are_empty_slices_and_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert!(Map::open(&path).unwrap().is_empty());
        assert!(Map::open(&path).unwrap()[0..0].is_empty());
        assert!(Map::open(dir.path()).is_err());
    }

    fn long(dir: &Path, length: usize) -> (PathBuf, Vec<u8>) {
        let path = dir.join("long");
        let bytes: Vec<u8> = (0..length).map(|i| (i / 7 % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        (path, bytes)
    }

    #[test]
    fn every_range_has_the_bytes_of_the_file_whoever_reads_it_first() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes) = long(dir.path(), 5 * PART + 17);
        let map = Map::open(&path).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (map, bytes) = (&map, &bytes);
                scope.spawn(move || {
                    for i in 0..200 {
                        let start = (i * 7919 + thread * 104_729) * 31 % (bytes.len() - 100);
                        let end = (start + i * 4099).min(bytes.len());
                        assert_eq!(map[start..end.max(start)], bytes[start..end.max(start)]);
                    }
                });
            }
        });
        assert_eq!(map[..], bytes[..]);
    }

    #[test]
    fn a_beginning_is_as_long_as_the_file_and_copies_are_parts_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes) = long(dir.path(), 20 << 20);
        let map = Map::open(&path).unwrap();
        let beginning = map.beginning(10).unwrap();
        assert_eq!(beginning.len(), bytes.len());
        assert_eq!(beginning[..10], bytes[..10]);
        assert!(beginning[10..].iter().all(|b| *b == 0));
        for read in [0, 9 << 20, 20 << 20] {
            assert_eq!(map[..read], bytes[..read]);
            for range in [0..0, 0..bytes.len(), 7..BLOCK - 1, read..bytes.len()] {
                let mut copy = vec![0; range.len()];
                map.copy_to(range.start, &mut copy);
                assert_eq!(copy, bytes[range.clone()]);
                assert_eq!(map.read(range.clone()), bytes[range]);
            }
        }
    }

    #[test]
    fn what_was_read_stays_and_what_was_cut_off_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes) = long(dir.path(), 4 * PART);
        let map = Map::open(&path).unwrap();
        assert_eq!(map[0..PART], bytes[0..PART]);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(100).unwrap();
        assert_eq!(map[0..PART], bytes[0..PART]);
        let cut = map.get(3 * PART..4 * PART).unwrap_err();
        assert!(matches!(cut, Error::Changed { .. }), "{cut:?}");
        // Again, since a failed read is none; and through a slice.
        assert!(map.get(3 * PART..4 * PART).is_err());
        let e = caught(|| map[3 * PART..4 * PART].len()).unwrap_err();
        assert!(e.to_string().contains("long"), "{e}");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(map[..], bytes[..]);
    }

    #[test]
    fn a_hole_reads_as_zeros_and_takes_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 32).unwrap();
        file.write_all_at(b"end", (1 << 32) - 3).unwrap();
        let map = Map::open(&path).unwrap();
        assert_eq!(map[(1 << 32) - 4..1 << 32], *b"\0end");
        assert_eq!(map[1 << 31..(1 << 31) + 4], [0; 4]);
    }
}
