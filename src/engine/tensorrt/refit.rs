//! Replacing an engine's weights.
//!
//! The protocol with the [`Feed`]: it is asked for every refittable slot whose bytes differ from what the engine holds, and then
//! for what TensorRT computes together with those (`getMissingWeights`), until nothing is missing. That list only ever adds:
//! what differs is told by the feed. Large refits go in rounds, each of them complete in this sense, so that not all new weights are in
//! memory at once. TensorRT-RTX is known to leave weights out of it (pytorch/TensorRT pull request 4198), so
//! there every slot is given.
//!
//! Where a weight differs that has no slot, or the engine wants one that the model does not have, the parser gives all of them
//! (`by_parser`).

use super::api::{CudaEngine, Refitter};
use super::{Known, Product, by_parser};
use crate::engine::{Error, Feed, Slot, Way};
use crate::tensor::Dtype;
use crate::watch::{Event, Silent, Watch};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// The weights that `engine` holds, and those of `known` that it does not let be replaced.
///
/// A name that neither the engine (before TensorRT 10) nor `known` has a type for is listed with count 0 and as not
/// refittable: those are constants of TensorRT's own making.
///
/// # Errors
/// With TensorRT's own words.
pub fn list_slots(engine: &CudaEngine, known: &Known) -> Result<Vec<Slot>, Error> {
    if !engine.is_refittable()? {
        return Ok(known
            .slots
            .iter()
            .map(|s| Slot {
                refittable: false,
                ..s.clone()
            })
            .collect());
    }
    list(&Refitter::new(engine)?, known)
}

fn list(refitter: &Refitter<'_, '_>, known: &Known) -> Result<Vec<Slot>, Error> {
    let mut rest: HashMap<&str, &Slot> = known.slots.iter().map(|s| (s.name.as_str(), s)).collect();
    let mut slots = Vec::new();
    // Weights without a name cannot be given by name, so nothing can be said of them.
    for name in refitter.names()?.into_iter().flatten() {
        let recorded = rest.remove(name.as_str());
        let prototype = refitter.prototype(&name)?;
        let slot = match (prototype, recorded) {
            // The engine's own type: since TensorRT 10 it refuses weights of another.
            (Some(p), recorded) => Slot {
                dtype: p.dtype,
                count: p.count,
                shape: recorded
                    .filter(|s| s.count == p.count)
                    .and_then(|s| s.shape.clone()),
                refittable: recorded.is_none_or(|s| s.refittable),
                name,
            },
            (None, Some(recorded)) => recorded.clone(),
            (None, None) => Slot {
                name,
                dtype: Dtype::F32,
                shape: None,
                count: 0,
                refittable: false,
            },
        };
        slots.push(slot);
    }
    let unlisted = known
        .slots
        .iter()
        .filter(|s| rest.contains_key(s.name.as_str()));
    slots.extend(unlisted.map(|s| Slot {
        refittable: false,
        ..s.clone()
    }));
    Ok(slots)
}

/// Gives `engine` the bytes that `feed` has, and lets it take them over. After an error the engine must be thrown away.
///
/// # Errors
/// [`Error::Weight`] for bytes that do not fit and for weights that TensorRT wants besides; otherwise with its own words.
pub fn refit_engine(
    engine: &CudaEngine,
    known: &Known,
    feed: &dyn Feed,
    threads: usize,
    watch: &dyn Watch,
) -> Result<Way, Error> {
    refit_in_rounds(engine, known, feed, threads, watch, ROUND)
}

/// As [`refit_engine`], with so many bytes of weights at once, unless one has more.
///
/// # Errors
/// As [`refit_engine`].
pub fn refit_in_rounds(
    engine: &CudaEngine,
    known: &Known,
    feed: &dyn Feed,
    threads: usize,
    watch: &dyn Watch,
    round: usize,
) -> Result<Way, Error> {
    if !engine.is_refittable()? {
        return Err(Error::Library {
            library: engine.core().loaded().title(),
            message: "the engine cannot be refitted: it was built with `refit=none`".into(),
        });
    }
    let slots = list_slots(engine, known)?;
    let slots: Vec<&Slot> = slots.iter().filter(|s| s.refittable).collect();
    if slots.is_empty() {
        // Answering that all is well would leave old weights in place.
        return Err(Error::Library {
            library: engine.core().loaded().title(),
            message:
                "the engine lists no weight whose type is known; the plan's manifest has to say"
                    .into(),
        });
    }
    let through_parser =
        || by_parser::refit(engine, known, feed, threads, watch).map(|()| Way::ByParser);
    let beyond = |name: &String| {
        let slot = known.slots.iter().find(|s| s.name == *name);
        slot.is_none_or(|slot| feed.differs(slot))
    };
    if known.by_parser.iter().any(beyond) {
        return through_parser();
    }
    let everything = engine.core().loaded().product == Product::Rtx;
    let first: Vec<&Slot> = slots
        .iter()
        .copied()
        .filter(|s| everything || feed.differs(s))
        .collect();
    watch.event(Event::Begin {
        step: "refitting",
        total: Some(first.len() as u64),
    });
    // RTX is given all at once: what it does not ask for could be forgotten between two rounds. And where the parser may have to take
    // over, nothing has been committed before.
    let rounds = if everything || !known.by_parser.is_empty() {
        vec![&first[..]]
    } else {
        rounds(&first, round)
    };
    let refit = Refit {
        engine,
        slots: &slots,
        feed,
        threads,
        by_parser: !known.by_parser.is_empty(),
    };
    let way = refit.all(&rounds, watch)?;
    watch.event(Event::End);
    match way {
        Way::ByName => Ok(way),
        Way::ByParser => through_parser(),
    }
}

/// Bytes of weights that are given to TensorRT at once, unless one needs more. It takes them over when they are committed; until then
/// they are in memory, together with those of the next round and what the library needs for itself.
const ROUND: usize = 128 << 20;

/// `slots`, parted so that no part has more than `round` bytes unless it is one slot.
fn rounds<'a, 's>(slots: &'a [&'s Slot], round: usize) -> Vec<&'a [&'s Slot]> {
    let bytes = |s: &Slot| s.dtype.bytes_for(s.count).unwrap_or(usize::MAX);
    let (mut parts, mut start, mut sum) = (Vec::new(), 0, 0usize);
    for (at, slot) in slots.iter().enumerate() {
        sum = sum.saturating_add(bytes(slot));
        if sum > round && at > start {
            parts.push(&slots[start..at]);
            (start, sum) = (at, bytes(slot));
        }
    }
    if start < slots.len() {
        parts.push(&slots[start..]);
    }
    parts
}

/// Slots with their bytes.
type Ready<'s, 'b> = Vec<(&'s Slot, Cow<'b, [u8]>)>;

struct Refit<'s> {
    engine: &'s CudaEngine,
    /// All that can be replaced.
    slots: &'s [&'s Slot],
    feed: &'s dyn Feed,
    threads: usize,
    /// The parser gives what the feed cannot.
    by_parser: bool,
}

impl<'s> Refit<'s> {
    /// Commits round after round, and prepares the next one meanwhile. [`Way::ByParser`] where nothing was committed, and the parser has
    /// to do it.
    fn all(&self, rounds: &[&[&'s Slot]], watch: &dyn Watch) -> Result<Way, Error> {
        let Some((first, later)) = rounds.split_first() else {
            return Ok(Way::ByName);
        };
        let feed = self.feed;
        let mut given = HashSet::new();
        let mut ready = prepare(first, feed, watch)?;
        for next in later.iter().map(Some).chain([None]) {
            let (done, prepared) = std::thread::scope(|scope| {
                let preparing = next.map(|next| scope.spawn(move || prepare(next, feed, watch)));
                // What an earlier round took along has its new bytes.
                ready.retain(|(slot, _)| !given.contains(slot.name.as_str()));
                let done = self.round(ready)?;
                let prepared = match preparing.map(std::thread::ScopedJoinHandle::join) {
                    Some(prepared) => {
                        prepared.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?
                    }
                    None => Vec::new(),
                };
                Ok::<_, Error>((done, prepared))
            })?;
            let Some(done) = done else {
                return Ok(Way::ByParser);
            };
            given.extend(done);
            ready = prepared;
        }
        Ok(Way::ByName)
    }

    /// Gives the engine some weights with all that TensorRT computes together with them. Returns the names of all that were given;
    /// nothing where the parser has to give them, and then none was taken over.
    fn round(&self, first: Ready<'s, 's>) -> Result<Option<HashSet<&'s str>>, Error> {
        if first.is_empty() {
            return Ok(Some(HashSet::new()));
        }
        let mut refitter = Refitter::new(self.engine)?;
        refitter.set_max_threads(self.threads)?;
        let mut given = give(&mut refitter, first)?;
        loop {
            let missing = refitter.missing()?;
            if missing.is_empty() {
                break;
            }
            let asked: HashSet<&str> = missing.iter().flatten().map(String::as_str).collect();
            let more: Vec<&Slot> = (self.slots.iter().copied())
                .filter(|s| asked.contains(s.name.as_str()) && !given.contains(s.name.as_str()))
                .collect();
            let added = give(&mut refitter, prepare(&more, self.feed, &Silent)?)?;
            // The feed has nothing for these, and would have nothing the next time either. Where the parser computed something, that is in
            // one layer with them.
            if added.is_empty() && self.by_parser {
                return Ok(None);
            }
            if added.is_empty() {
                return Err(missing_weights(&missing));
            }
            given.extend(added);
        }
        refitter.refit()?;
        Ok(Some(given))
    }
}

/// What the feed has for `slots`, on all cores.
fn prepare<'s, 'b>(
    slots: &[&'s Slot],
    feed: &'b dyn Feed,
    watch: &dyn Watch,
) -> Result<Ready<'s, 'b>, Error> {
    slots
        .par_iter()
        .map(|&slot| {
            let bytes = feed.bytes(slot)?;
            watch.event(Event::Advance(1));
            Ok(bytes.map(|b| (slot, b)))
        })
        .filter_map(Result::transpose)
        .collect()
}

/// Returns the names that were given. Only the preparing is worth threads: TensorRT notes an address here, and reads when it commits.
fn give<'s, 'b>(
    refitter: &mut Refitter<'_, 'b>,
    ready: Ready<'s, 'b>,
) -> Result<HashSet<&'s str>, Error> {
    let mut given = HashSet::new();
    for (slot, bytes) in ready {
        refitter.set(&slot.name, slot.dtype, slot.count, bytes)?;
        given.insert(slot.name.as_str());
    }
    Ok(given)
}

fn missing_weights(missing: &[Option<String>]) -> Error {
    const SHOWN: usize = 8;
    let names: Vec<&str> = missing
        .iter()
        .map(|n| n.as_deref().unwrap_or("(without a name)"))
        .collect();
    let (first, others) = names.split_first().expect("there is one that is missing");
    let others = match others.len() {
        0 => String::new(),
        n if n <= SHOWN => format!("; the same holds for `{}`", others.join("`, `")),
        n => format!(
            "; the same holds for `{}` and {} more",
            others[..SHOWN].join("`, `"),
            n - SHOWN
        ),
    };
    Error::Weight {
        name: (*first).into(),
        reason: format!(
            "the engine computes it together with weights that were given, so its bytes are needed too{others}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_weights_are_all_named() {
        let text = missing_weights(&[Some("b".into()), None]).to_string();
        assert!(
            text.contains("`b`") && text.contains("(without a name)"),
            "{text}"
        );
        let many: Vec<_> = (0..20).map(|i| Some(format!("w{i}"))).collect();
        let text = missing_weights(&many).to_string();
        assert!(
            text.contains("`w8`") && text.contains("and 11 more"),
            "{text}"
        );
    }

    #[test]
    fn every_weight_is_in_one_round_and_none_is_too_large() {
        let slot = |count| Slot {
            name: "w".into(),
            dtype: Dtype::F32,
            shape: None,
            count,
            refittable: true,
        };
        let most = ROUND / 4;
        for counts in [
            vec![],
            vec![1, 2, 3],
            vec![most, most, 1],
            vec![most - 1, 1, 1],
            vec![2 * most, 1, usize::MAX, 1],
            vec![most / 3; 10],
        ] {
            let slots: Vec<Slot> = counts.iter().map(|&n| slot(n)).collect();
            let slots: Vec<&Slot> = slots.iter().collect();
            let parts = rounds(&slots, ROUND);
            let again: Vec<usize> = parts
                .iter()
                .flat_map(|p| p.iter().map(|s| s.count))
                .collect();
            assert_eq!(again, counts);
            let fits = |p: &&[&Slot]| p.iter().map(|s| s.count).sum::<usize>() <= most;
            assert!(parts.iter().all(|p| p.len() == 1 || fits(p)), "{counts:?}");
        }
        assert_eq!(rounds(&[&slot(most), &slot(1)], ROUND).len(), 2);
    }
}
