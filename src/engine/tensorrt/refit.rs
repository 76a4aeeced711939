//! Replacing an engine's weights.
//!
//! The protocol with the [`Feed`]: it is asked for every refittable slot whose bytes differ from what the engine holds, and then
//! for what TensorRT computes together with those (`getMissingWeights`), until nothing is missing. That list only ever adds:
//! what differs is told by the feed. TensorRT-RTX is known to leave weights out of it (pytorch/TensorRT pull request 4198), so
//! there every slot is given.
//!
//! Where a weight differs that has no slot, or the engine wants one that the model does not have, the parser gives all of them
//! (`by_parser`).

use super::api::{CudaEngine, Refitter};
use super::{Known, Product, by_parser};
use crate::engine::{Error, Feed, Slot, Way};
use crate::tensor::Dtype;
use crate::watch::{Event, Watch};
use rayon::prelude::*;
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
    let mut refitter = Refitter::new(engine)?;
    refitter.set_max_threads(threads)?;
    let mut given = give(&mut refitter, &first, feed, watch)?;
    if given.is_empty() {
        return Ok(Way::ByName);
    }
    loop {
        let missing = refitter.missing()?;
        if missing.is_empty() {
            break;
        }
        let more: Vec<&Slot> = slots
            .iter()
            .copied()
            .filter(|s| !given.contains(s.name.as_str()))
            .filter(|s| missing.iter().flatten().any(|m| *m == s.name))
            .collect();
        let added = give(&mut refitter, &more, feed, watch)?;
        // The feed has nothing for these, and would have nothing the next time either.
        if added.is_empty() {
            if !known.by_parser.is_empty() {
                // What the parser computed is in one layer with these; nothing has been taken over yet.
                drop(refitter);
                return through_parser();
            }
            complain_about_missing(&missing)?;
        }
        given.extend(added);
    }
    watch.event(Event::Begin {
        step: "refitting",
        total: None,
    });
    refitter.refit()?;
    watch.event(Event::End);
    Ok(Way::ByName)
}

/// Gives the refitter what the feed has for `slots`, prepared on all cores. Returns the names that were given.
fn give<'s, 'b>(
    refitter: &mut Refitter<'_, 'b>,
    slots: &[&'s Slot],
    feed: &'b dyn Feed,
    watch: &dyn Watch,
) -> Result<HashSet<&'s str>, Error> {
    watch.event(Event::Begin {
        step: "preparing weights",
        total: Some(slots.len() as u64),
    });
    let prepared = slots
        .par_iter()
        .map(|&slot| {
            let bytes = feed.bytes(slot)?;
            watch.event(Event::Advance(1));
            Ok(bytes.map(|b| (slot, b)))
        })
        .filter_map(Result::transpose)
        .collect::<Result<Vec<_>, Error>>()?;
    // Only the preparing is worth threads: TensorRT notes an address here, and reads when it
    // commits.
    watch.event(Event::End);
    let mut given = HashSet::new();
    for (slot, bytes) in prepared {
        refitter.set(&slot.name, slot.dtype, slot.count, bytes)?;
        given.insert(slot.name.as_str());
    }
    Ok(given)
}

fn complain_about_missing(missing: &[Option<String>]) -> Result<(), Error> {
    const SHOWN: usize = 8;
    let names: Vec<&str> = missing
        .iter()
        .map(|n| n.as_deref().unwrap_or("(without a name)"))
        .collect();
    let Some((first, others)) = names.split_first() else {
        return Ok(());
    };
    let others = match others.len() {
        0 => String::new(),
        n if n <= SHOWN => format!("; the same holds for `{}`", others.join("`, `")),
        n => format!(
            "; the same holds for `{}` and {} more",
            others[..SHOWN].join("`, `"),
            n - SHOWN
        ),
    };
    Err(Error::Weight {
        name: (*first).into(),
        reason: format!(
            "the engine computes it together with weights that were given, so its bytes are needed too{others}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_weights_are_all_named() {
        assert!(complain_about_missing(&[]).is_ok());
        let text = complain_about_missing(&[Some("b".into()), None])
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("`b`") && text.contains("(without a name)"),
            "{text}"
        );
        let many: Vec<_> = (0..20).map(|i| Some(format!("w{i}"))).collect();
        let text = complain_about_missing(&many).unwrap_err().to_string();
        assert!(
            text.contains("`w8`") && text.contains("and 11 more"),
            "{text}"
        );
    }
}
