//! Constant tensors, by name and digest.

use super::{Diff, Kind, Reason, WeightFact};
use crate::tensor::{Digest, Dtype};
use std::collections::BTreeMap;

/// Compares two lists of constant tensors; those that nothing reads are left out.
pub fn compare_weights(old: &[WeightFact], new: &[WeightFact]) -> Diff {
    let (mut old, mut new) = (by_name(old), by_name(new));
    let compared = old.len().max(new.len());
    let mut reasons = Vec::new();
    let mut unchanged = 0;
    old.retain(|name, was| {
        let Some(is) = new.remove(name) else {
            return true;
        };
        let before = reasons.len();
        one(was, is, &mut reasons);
        unchanged += usize::from(reasons.len() == before);
        false
    });
    // After those that kept their names: what is still there was not renamed, whatever has the same bytes.
    unchanged += renamed(&mut old, &mut new, &mut reasons);
    reasons.extend(old.into_keys().map(|weight| Reason::WeightRemoved {
        weight: weight.to_owned(),
    }));
    reasons.extend(new.into_keys().map(|weight| Reason::WeightAdded {
        weight: weight.to_owned(),
    }));
    Diff::of(reasons, unchanged, compared)
}

/// Those that something reads.
fn by_name(facts: &[WeightFact]) -> BTreeMap<&str, &WeightFact> {
    (facts.iter())
        .filter(|w| w.kind != Kind::Unused)
        .map(|w| (w.name.as_str(), w))
        .collect()
}

fn one(was: &WeightFact, is: &WeightFact, reasons: &mut Vec<Reason>) {
    if (was.digest, was.dtype) == (is.digest, is.dtype) && was.shape == is.shape {
        return;
    }
    let weight = was.name.clone();
    // From either side: a plan whose model is gone says of a baked constant only that it is fixed.
    let baked = match (&was.kind, &is.kind) {
        (Kind::Baked { why }, _) | (_, Kind::Baked { why }) => Some(why.clone()),
        _ => None,
    };
    if was.dtype != is.dtype {
        reasons.push(Reason::DtypeChanged {
            weight: weight.clone(),
            old: was.dtype,
            new: is.dtype,
        });
    }
    if was.shape != is.shape {
        reasons.push(Reason::ShapeChanged {
            weight: weight.clone(),
            old: was.shape.clone(),
            new: is.shape.clone(),
        });
    }
    // Of another type or shape its bytes differ anyway, which is no second reason.
    if was.dtype != is.dtype || was.shape != is.shape || was.digest == is.digest {
        return;
    }
    // The engine at hand, the old side, says what can be changed in it.
    reasons.push(match (baked, &was.kind) {
        (Some(why), _) if !was.dtype.is_float() => Reason::ShapeLikeChanged { weight, why },
        (Some(why), _) => Reason::BakedChanged { weight, why },
        (None, Kind::Fixed { why }) => Reason::FixedChanged {
            weight,
            why: why.clone(),
        },
        (None, _) if was.derived_from.len() > 1 => Reason::DerivedChanged {
            weight,
            sources: was.derived_from.clone(),
        },
        (None, _) => Reason::BytesChanged {
            weight,
            sources: was.derived_from.clone(),
        },
    });
}

/// Takes out pairs of a removed and an added tensor that are the same but for the name, where each has only one partner.
fn renamed(
    old: &mut BTreeMap<&str, &WeightFact>,
    new: &mut BTreeMap<&str, &WeightFact>,
    reasons: &mut Vec<Reason>,
) -> usize {
    type Key = (Digest, Dtype, Vec<usize>, bool);
    let key = |w: &WeightFact| -> Key {
        // A plan whose model is gone says of a baked constant only that it is fixed; the structure digest knows the rest.
        let refittable = w.kind == Kind::Weight;
        (w.digest, w.dtype, w.shape.clone(), refittable)
    };
    let group = |facts: &BTreeMap<&str, &WeightFact>| {
        let mut groups: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for (name, w) in facts {
            groups.entry(key(w)).or_default().push((*name).to_owned());
        }
        groups
    };
    let (before, after) = (group(old), group(new));
    let mut pairs = 0;
    for (key, names) in before {
        // Several tensors of equal bytes that all changed names are still the same tensors, whichever is which.
        let others = after.get(&key).map_or(&[][..], Vec::as_slice);
        if names.len() != others.len() {
            continue;
        }
        for (was, is) in names.into_iter().zip(others) {
            old.remove(was.as_str());
            new.remove(is.as_str());
            pairs += 1;
            reasons.push(Reason::WeightRenamed {
                old: was,
                new: is.clone(),
            });
        }
    }
    pairs
}
