//! Plan files of the CPU backends are written here: weights in parallel, each byte once, hashed as it is written.
//!
//! What a refit leaves as it is, is taken over from the old file by its place, and its digest is known from the manifest. Where the
//! file system has reflinks, nobody reads it: damage would be found when the new plan is read, which is known by that digest. Else
//! it is copied, and what was copied must have that digest.

use super::container::{self, Container, Layout};
use crate::engine::{Error, Slot, Written};
use crate::fsx::{self, Map};
use crate::tensor::{Digest, Stretch, digests_of};
use crate::watch::{Event, Watch};
use rayon::prelude::*;
use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of weights that are in memory at once, unless one alone has more.
const AT_ONCE: usize = 32 << 20;
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
    /// The digest that [`Contents::of`] gives as [`Content::Kept`] for a slot; `None` where that gives bytes.
    fn kept(&self, slot: &Slot) -> Option<Digest>;

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
    // A clone of the old file has what is kept in its place, and the rest is written over.
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
    progress: &(dyn Fn(usize) + Sync),
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
    write: impl FnOnce(&(dyn Fn(usize) + Sync)) -> Result<T, Error>,
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
        let since = AtomicUsize::new(0);
        let done = write(&|bytes| {
            if since.fetch_add(bytes, Ordering::Relaxed) + bytes >= FLUSHED {
                since.store(0, Ordering::Relaxed);
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
        sum += match contents.kept(slot) {
            Some(_) => 0,
            None => range.len(),
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
struct Runs<'s>(Vec<Run<'s>>);

struct Run<'s> {
    from: Range<usize>,
    /// Where it begins in the new file.
    to: usize,
    kept: Vec<Kept<'s>>,
}

/// A weight in the old file.
struct Kept<'s> {
    name: &'s str,
    range: Range<usize>,
    digest: Digest,
}

impl Kept<'_> {
    fn stretch(&self, file: usize) -> Stretch {
        let range = self.range.clone();
        Stretch { file, range }
    }
}

impl<'s> Runs<'s> {
    fn of(
        layout: &Layout<'s>,
        contents: &dyn Contents,
        old: Option<&Container>,
    ) -> Result<Runs<'s>, Error> {
        let mut runs: Vec<Run<'s>> = Vec::new();
        for &(slot, ref to) in &layout.places {
            let Some(digest) = contents.kept(slot) else {
                continue;
            };
            let name = slot.name.as_str();
            let range = (old.and_then(|old| old.range(name)))
                .filter(|from| from.len() == to.len())
                .ok_or_else(|| Error::Weight {
                    name: name.to_owned(),
                    reason: "the plan does not hold it".into(),
                })?;
            let kept = Kept {
                name,
                range: range.clone(),
                digest,
            };
            match runs.last_mut() {
                Some(run) if run.from.end == range.start && run.to + run.from.len() == to.start => {
                    run.from.end = range.end;
                    run.kept.push(kept);
                }
                _ => runs.push(Run {
                    from: range,
                    to: to.start,
                    kept: vec![kept],
                }),
            }
        }
        Ok(Runs(runs))
    }

    /// Whether there is something to take over, and all of it stays where it is.
    fn are_in_place(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|run| run.from.start == run.to)
    }

    /// Copies all of it from `old`, which must hold what its manifest says.
    fn take_over(
        &self,
        old: &Map,
        file: &File,
        progress: &(dyn Fn(usize) + Sync),
        watch: &dyn Watch,
    ) -> Result<(), Error> {
        let stretches: Vec<Stretch> = (self.0.iter().enumerate())
            .flat_map(|(i, run)| run.kept.iter().map(move |kept| kept.stretch(i)))
            .collect();
        let failed = OnceLock::new();
        let copy = |run: usize, at: usize, bytes: &mut [u8]| {
            old.copy_to(at, bytes);
            let run = &self.0[run];
            let to = run.to + (at - run.from.start);
            if let Err(e) = file.write_all_at(bytes, to as u64) {
                let _ = failed.set(e);
            }
        };
        let hashed = digests_of(&stretches, copy, |bytes| {
            watch.event(Event::Advance(bytes));
            progress(bytes as usize);
        });
        if let Some(e) = failed.into_inner() {
            return Err(e.into());
        }
        let kept = self.0.iter().flat_map(|run| &run.kept);
        match kept.zip(hashed).find(|(kept, found)| kept.digest != *found) {
            None => Ok(()),
            Some((kept, _)) => Err(Error::Plan {
                path: old.path().display().to_string(),
                reason: format!("`{}` has other bytes than the manifest says", kept.name),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Dtype;
    use crate::watch::Silent;
    use std::collections::HashMap;

    /// The old file's weights with their digests, and new bytes of some.
    struct Given {
        digests: HashMap<String, Digest>,
        new: HashMap<String, Vec<u8>>,
    }

    impl Contents for Given {
        fn kept(&self, slot: &Slot) -> Option<Digest> {
            let kept = !self.new.contains_key(&slot.name);
            kept.then(|| self.digests[&slot.name])
        }

        fn of(&self, slot: &Slot) -> Result<Content<'_>, Error> {
            Ok(match self.new.get(&slot.name) {
                Some(bytes) => Content::Bytes(Cow::Borrowed(bytes), Some(Digest::of(bytes))),
                None => Content::Kept(self.digests[&slot.name]),
            })
        }
    }

    /// Lengths of the weights: some longer than what is hashed at a time, and neighbours that are taken over together.
    const LENGTHS: [usize; 6] = [300, 700_000, 5, 0, 1 << 20, 40];

    fn slots() -> Vec<Slot> {
        let slot = |(i, length): (usize, &usize)| Slot {
            name: format!("w{i}"),
            dtype: Dtype::U8,
            shape: Some(vec![*length]),
            count: *length,
            refittable: true,
        };
        LENGTHS.iter().enumerate().map(slot).collect()
    }

    fn bytes(slot: &Slot, seed: usize) -> Vec<u8> {
        let value = |i| ((i + seed) * 2_654_435_761) >> 9;
        (0..slot.count).map(|i| value(i) as u8).collect()
    }

    /// A plan with `graph`, as it is written front to back.
    fn plan(graph: &[u8], new: &HashMap<String, Vec<u8>>) -> Vec<u8> {
        let mut out = Vec::new();
        container::write(&mut out, "cpu", graph, &slots(), |slot| {
            let new = new.get(&slot.name).cloned();
            Ok(Cow::Owned(new.unwrap_or_else(|| bytes(slot, 0))))
        })
        .unwrap();
        out
    }

    fn open(bytes: &[u8]) -> (tempfile::NamedTempFile, Container) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let container = Container::open(file.path(), "cpu").unwrap();
        (file, container)
    }

    fn given(changed: &[usize]) -> Given {
        let all = slots();
        let digests = all.iter().map(|s| Digest::of(&bytes(s, 0)));
        let new = changed.iter().map(|&i| bytes(&all[i], 1 + i));
        Given {
            digests: all.iter().map(|s| s.name.clone()).zip(digests).collect(),
            new: (changed.iter().map(|i| all[*i].name.clone()).zip(new)).collect(),
        }
    }

    #[test]
    fn what_is_kept_and_what_is_new_make_the_plan_that_is_written_at_once() {
        let (_kept, old) = open(&plan(b"graph", &HashMap::new()));
        let cases: [&[usize]; 6] = [&[], &[0], &[1, 4], &[2], &[5, 0], &[0, 1, 2, 3, 4, 5]];
        // A longer graph's header moves every weight.
        for graph in [&b"graph"[..], &vec![7; 123_456]] {
            for changed in cases {
                let given = given(changed);
                let file = tempfile::NamedTempFile::new().unwrap();
                let slots = slots();
                let from = Some(&old);
                let made = write(file.as_file(), "cpu", graph, &slots, &given, from, &Silent);
                let expected = plan(graph, &given.new);
                assert!(std::fs::read(file.path()).unwrap() == expected);
                let map = Map::open(file.path()).unwrap();
                let written = Written {
                    bytes: expected.len() as u64,
                    digest: container::digest_of(&map).unwrap(),
                };
                assert_eq!(made.unwrap(), written);
            }
        }
    }

    #[test]
    fn damage_is_not_taken_over() {
        let whole = plan(b"graph", &HashMap::new());
        let given = given(&[2]);
        let slots = slots();
        let layout = Layout::of("cpu", b"graph", &slots).unwrap();
        for (slot, range) in &layout.places {
            if range.is_empty() {
                continue;
            }
            for at in [range.start, range.end - 1, range.start + range.len() / 2] {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                let (_old, old) = open(&bytes);
                let runs = Runs::of(&layout, &given, Some(&old)).unwrap();
                let file = tempfile::tempfile().unwrap();
                match runs.take_over(old.map(), &file, &|_| (), &Silent) {
                    Err(Error::Plan { reason, .. }) => assert!(reason.contains(&slot.name)),
                    Ok(()) => assert_eq!(slot.name, "w2", "only this one is not taken over"),
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
}
