//! Plan files of the CPU backends are written here: weights in parallel, each byte once, hashed as it is written.
//!
//! What a refit leaves as it is, is taken over from the old file by its place: as a reflink where the file system has them, else as
//! a copy; its digest is known from the manifest, so that nobody reads it.

use super::container::{self, Container, Layout};
use crate::engine::{Error, Slot, Written};
use crate::fsx::{self, Map};
use crate::tensor::Digest;
use crate::watch::{Event, Watch};
use rayon::prelude::*;
use std::borrow::Cow;
use std::cell::Cell;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of weights that are in memory at once, unless one alone has more.
const AT_ONCE: usize = 32 << 20;
/// Bytes that one thread takes over from the old file at a time.
const STRETCH: usize = 8 << 20;
/// The disk is set to work after so many bytes.
const FLUSHED: usize = 64 << 20;

/// The bytes of a weight.
pub enum Content<'b> {
    /// New ones, and their digest where it was decided on before.
    Bytes(Cow<'b, [u8]>, Option<Digest>),
    /// As the old file has them, with their digest.
    Kept(Digest),
}

/// Where weights come from.
pub trait Contents: Sync {
    /// Whether [`Contents::of`] gives [`Content::Kept`] for a slot.
    fn is_kept(&self, slot: &Slot) -> bool;

    /// The content of a slot.
    ///
    /// # Errors
    /// Why there is none.
    fn of(&self, slot: &Slot) -> Result<Content<'_>, Error>;
}

/// Writes a plan of `backend` to an empty file. `old` is the file that what is kept is taken over from.
///
/// # Errors
/// What `contents` reports, a weight whose bytes do not fit its slot or are not those that were decided on, or a failed write.
pub fn write(
    file: &File,
    backend: &str,
    graph: &[u8],
    slots: &[Slot],
    contents: &dyn Contents,
    old: Option<&Container>,
    watch: &dyn Watch,
) -> Result<Written, Error> {
    let layout = Layout::of(backend, graph, slots)?;
    watch.event(Event::BeginBytes {
        step: "writing weights",
        bytes: layout.length as u64,
    });
    let runs = Runs::of(&layout, contents, old)?;
    let shared = old.is_some_and(|old| runs.are_in_place() && fsx::share(old.map(), file));
    if !shared {
        fsx::check_room(file, layout.length as u64)?;
    }
    file.set_len(layout.length as u64)?;
    file.write_all_at(&layout.start, 0)?;
    file.write_all_at(graph, layout.graph.start as u64)?;
    let mut digests = flushed(file, |progress| {
        if let (Some(old), false) = (old, shared) {
            runs.take_over(old.map(), file, progress, watch)?;
        }
        weights(file, &layout, contents, progress, watch)
    })?;
    digests.push(Digest::of(graph));
    watch.event(Event::End);
    Ok(Written {
        bytes: layout.length as u64,
        digest: container::digest(&layout.start[size_of::<u64>()..], &digests),
    })
}

/// Writes all weights that are not kept, and gives the digests of all.
fn weights(
    file: &File,
    layout: &Layout<'_>,
    contents: &dyn Contents,
    progress: &dyn Fn(usize),
    watch: &dyn Watch,
) -> Result<Vec<Digest>, Error> {
    let mut digests: Vec<Digest> = Vec::with_capacity(layout.places.len() + 1);
    let mut rest = &layout.places[..];
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(fit(rest, contents));
        let written: Vec<Result<(Digest, usize), Error>> = (batch.par_iter())
            .map(|(slot, range)| one(file, slot, range, contents, watch))
            .collect();
        for written in written {
            let (digest, bytes) = written?;
            digests.push(digest);
            progress(bytes);
        }
        rest = later;
    }
    Ok(digests)
}

/// Runs `write`, which says how many bytes it wrote; the disk begins with them meanwhile, so that less is left to wait for at the
/// end.
fn flushed<T>(
    file: &File,
    write: impl FnOnce(&dyn Fn(usize)) -> Result<T, Error>,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let (written, to_flush) = std::sync::mpsc::channel::<()>();
        let flush = move || {
            while to_flush.recv().is_ok() {
                // Once for all that was written meanwhile.
                while to_flush.try_recv().is_ok() {}
                file.sync_data()?;
            }
            Ok::<_, std::io::Error>(())
        };
        // Where there can be no second thread, the disk begins when everything is written.
        let flushing = std::thread::Builder::new().spawn_scoped(scope, flush);
        let since = Cell::new(0);
        let done = write(&|bytes| {
            since.set(since.get() + bytes);
            if since.get() >= FLUSHED {
                since.set(0);
                let _ = written.send(());
            }
        });
        drop(written);
        if let Ok(flushing) = flushing {
            // The system tells of a failure once: later syncs would succeed.
            let flushed = flushing.join();
            flushed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        done
    })
}

/// How many of `places` are written at once.
fn fit(places: &[(&Slot, Range<usize>)], contents: &dyn Contents) -> usize {
    let mut sum = 0;
    let count = places.iter().take_while(|(slot, range)| {
        sum += if contents.is_kept(slot) {
            0
        } else {
            range.len()
        };
        sum <= AT_ONCE
    });
    count.count().max(1)
}

/// Writes one weight; its digest and how many bytes were written.
fn one(
    file: &File,
    slot: &Slot,
    range: &Range<usize>,
    contents: &dyn Contents,
    watch: &dyn Watch,
) -> Result<(Digest, usize), Error> {
    let (bytes, decided) = match contents.of(slot)? {
        Content::Kept(digest) => return Ok((digest, 0)),
        Content::Bytes(bytes, decided) => (bytes, decided),
    };
    container::fits(slot, &bytes)?;
    let digest = Digest::of(&bytes);
    if decided.is_some_and(|d| d != digest) {
        return Err(Error::Weight {
            name: slot.name.clone(),
            reason: "a file that it comes from changed while it was read".into(),
        });
    }
    file.write_all_at(&bytes, range.start as u64)?;
    watch.event(Event::Advance(bytes.len() as u64));
    Ok((digest, bytes.len()))
}

/// Stretches of the old file and where they go, neighbours as one.
struct Runs(Vec<(Range<usize>, usize)>);

impl Runs {
    fn of(
        layout: &Layout<'_>,
        contents: &dyn Contents,
        old: Option<&Container>,
    ) -> Result<Runs, Error> {
        let mut runs: Vec<(Range<usize>, usize)> = Vec::new();
        for (slot, to) in &layout.places {
            if !contents.is_kept(slot) {
                continue;
            }
            let from = (old.and_then(|old| old.range(&slot.name)))
                .filter(|from| from.len() == to.len())
                .ok_or_else(|| Error::Weight {
                    name: slot.name.clone(),
                    reason: "the plan does not hold it".into(),
                })?;
            match runs.last_mut() {
                Some((last, start))
                    if last.end == from.start && *start + last.len() == to.start =>
                {
                    last.end = from.end;
                }
                _ => runs.push((from, to.start)),
            }
        }
        Ok(Runs(runs))
    }

    /// Whether there is something to take over, and all of it stays where it is.
    fn are_in_place(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(from, to)| from.start == *to)
    }

    fn take_over(
        &self,
        old: &Map,
        file: &File,
        progress: &dyn Fn(usize),
        watch: &dyn Watch,
    ) -> Result<(), Error> {
        let parts = self.0.iter().flat_map(|(from, to)| {
            let (end, moved) = (from.end, to.wrapping_sub(from.start));
            (from.clone().step_by(STRETCH))
                .map(move |at| (at..(at + STRETCH).min(end), at.wrapping_add(moved)))
        });
        let parts: Vec<(Range<usize>, usize)> = parts.collect();
        // A few at a time, so that the disk hears of them.
        for some in parts.chunks(AT_ONCE / STRETCH) {
            some.par_iter().try_for_each(|(from, to)| {
                let mut bytes = vec![0; from.len()];
                old.copy_to(from.start, &mut bytes);
                file.write_all_at(&bytes, *to as u64)?;
                watch.event(Event::Advance(from.len() as u64));
                Ok::<_, Error>(())
            })?;
            progress(some.iter().map(|(from, _)| from.len()).sum());
        }
        Ok(())
    }
}
