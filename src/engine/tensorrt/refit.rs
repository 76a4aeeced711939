//! Replacing an engine's weights.
//!
//! The protocol with the [`Feed`]: it is asked once for every slot that [`list_slots`] gives as refittable. Where it has
//! nothing, the engine keeps what it holds; but TensorRT computes some layers' weights together, and then wants all of them as
//! soon as it is given one. Which those are is only known afterwards (`getMissingWeights`), so a feed that answers for every
//! slot always works, and one that leaves out what did not change may be refused with the names that it has to add.

use super::Known;
use super::api::{CudaEngine, Refitter};
use crate::engine::{Error, Feed, Slot};
use crate::tensor::Dtype;
use crate::watch::{Event, Watch};
use rayon::prelude::*;
use std::collections::HashMap;

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
) -> Result<(), Error> {
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
    watch.event(Event::Begin {
        step: "preparing weights",
        total: Some(slots.len() as u64),
    });
    let given = slots
        .par_iter()
        .map(|&slot| {
            let bytes = feed.bytes(slot)?;
            watch.event(Event::Advance(1));
            Ok(bytes.map(|b| (slot, b)))
        })
        .filter_map(Result::transpose)
        .collect::<Result<Vec<_>, Error>>()?;
    watch.event(Event::End);
    if given.is_empty() {
        return Ok(());
    }
    let mut refitter = Refitter::new(engine)?;
    refitter.set_max_threads(threads)?;
    watch.event(Event::Begin {
        step: "refitting",
        total: None,
    });
    for (slot, bytes) in &given {
        refitter.set(&slot.name, slot.dtype, slot.count, bytes)?;
    }
    complain_about_missing(&refitter.missing()?)?;
    refitter.commit()?;
    watch.event(Event::End);
    Ok(())
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
