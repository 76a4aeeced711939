//! What a change asks for: nothing, a refit or a recompile, with every reason.
//!
//! Pure comparison: digests and plain data in, reasons out. Nothing here reads a file, runs a model or looks at a clock.
//! The verdict is the worst of all reasons ([`Reason::verdict`]), so a further difference never makes it milder.
//!
//! | compared | by |
//! |---|---|
//! | plan or model against plan or model | [`compare`] over two [`Side`]s |
//! | plan against a checkpoint | [`Decision::of`] over what [`crate::mapping::judge`] found |
//! | checkpoint against checkpoint | [`compare_weights`] |
//!
//! [`change()`] measures one changed tensor for the report; it decides nothing.

mod change;
mod decide;
#[cfg(test)]
mod decide_test;
mod graphs;
mod reason;
mod summary;
mod weights;

pub use change::{TensorChange, block, change};
pub use decide::{Decision, Request, Told, WeightState};
pub use reason::{Port, Reason, Verdict};
pub use summary::{Graph, Kind, NodeFact, Summary, WeightFact, weight_facts};
pub use weights::compare_weights;

use crate::shapes::{Relation, Resolved};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Who compiles: what [`crate::engine::Identity`] holds, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    pub backend: String,
    pub library: String,
    /// Properties of the device.
    #[serde(default)]
    pub device: BTreeMap<String, String>,
}

/// One side of a comparison. What is `None` on the new side was not asked for and is not compared; what is `None` on the old
/// side alone cannot be decided.
#[derive(Debug, Clone, Default)]
pub struct Side {
    pub graph: Option<Graph>,
    pub weights: Vec<WeightFact>,
    /// The shape range: built on the old side, asked for on the new.
    pub shapes: Option<Resolved>,
    pub options: Option<BTreeMap<String, String>>,
    /// Who compiled it, or would.
    pub maker: Option<Maker>,
}

/// The outcome of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The worst that any reason asks for; [`Verdict::Live`] without reasons.
    pub verdict: Verdict,
    /// Every difference: first what weighs most, in the order found.
    pub reasons: Vec<Reason>,
    /// Weights (or tensors) that are the same byte for byte.
    pub unchanged: usize,
    /// Weights (or tensors) that were compared.
    pub compared: usize,
}

impl Diff {
    /// The verdict of `reasons`.
    pub fn of(mut reasons: Vec<Reason>, unchanged: usize, compared: usize) -> Diff {
        reasons.sort_by_key(|r| std::cmp::Reverse(r.verdict()));
        Diff {
            verdict: reasons.first().map_or(Verdict::Live, Reason::verdict),
            reasons,
            unchanged,
            compared,
        }
    }

    /// Both together: `self` and what else was compared. What is undecided although a recompile is sure stays so.
    #[must_use]
    pub fn and(mut self, other: Diff) -> Diff {
        // Asked before the reasons are joined: the worst of all may then be a recompile, which would hide it.
        let blocked = [&self, &other].into_iter().any(Diff::is_blocked);
        self.reasons.extend(other.reasons);
        let both = Diff::of(
            self.reasons,
            self.unchanged + other.unchanged,
            self.compared + other.compared,
        );
        if blocked { both.blocked() } else { both }
    }

    /// Undecided, whatever else is sure: nothing that a recompile could cure.
    #[must_use]
    fn blocked(mut self) -> Diff {
        self.verdict = Verdict::Unknown;
        self
    }

    /// Whether something keeps a sure recompile from being right.
    fn is_blocked(&self) -> bool {
        let worst = self.reasons.first().map(Reason::verdict);
        self.verdict == Verdict::Unknown
            && (worst.is_some_and(|w| w > self.verdict)
                || self.reasons.iter().any(Reason::outlasts_a_recompile))
    }

    /// Tensors of a checkpoint whose change would be lost.
    pub fn lost(&self) -> impl Iterator<Item = &str> {
        self.reasons.iter().filter_map(Reason::lost)
    }

    /// Tensors of a checkpoint that the model does not use.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        self.reasons.iter().filter_map(Reason::unused)
    }

    /// How many reasons there are of each kind, by the kebab-case tag that JSON uses.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts: HashMap<_, (&Reason, usize)> = HashMap::new();
        for reason in &self.reasons {
            let kind = std::mem::discriminant(reason);
            counts.entry(kind).or_insert((reason, 0)).1 += 1;
        }
        let tagged = counts.into_values().filter_map(|(reason, count)| {
            let value = serde_json::to_value(reason).ok()?;
            Some((value.get("reason")?.as_str()?.to_owned(), count))
        });
        tagged.collect()
    }
}

/// Compares what an engine was compiled from (`old`) with what is wanted (`new`).
pub fn compare(old: &Side, new: &Side) -> Diff {
    let weights = compare_weights(&old.weights, &new.weights);
    let mut reasons = weights.reasons;
    if let Some(wanted) = &new.graph {
        match &old.graph {
            Some(built) => graphs::compare(built, wanted, &mut reasons),
            None => reasons.push(Reason::GraphUnknown),
        }
        graphs::sharing(old, new, &mut reasons);
    }
    if let Some(wanted) = &new.shapes {
        match old.shapes.as_ref().map(|built| wanted.compare(built)) {
            Some(Relation::Equal) => {}
            Some(Relation::Inside) => reasons.push(Reason::ShapesInside),
            Some(Relation::Outside { reasons: details }) => {
                reasons.push(Reason::ShapesOutside { details });
            }
            None => reasons.push(Reason::ShapesUnknown),
        }
    }
    if let Some(wanted) = &new.options {
        let none = BTreeMap::new();
        let built = old.options.as_ref().unwrap_or(&none);
        for (option, old, new) in differing(built, wanted) {
            reasons.push(Reason::OptionChanged { option, old, new });
        }
    }
    if let (Some(built), Some(wanted)) = (&old.maker, &new.maker) {
        makers(built, wanted, &mut reasons);
    }
    Diff::of(reasons, weights.unchanged, weights.compared)
}

fn makers(built: &Maker, wanted: &Maker, reasons: &mut Vec<Reason>) {
    if built.backend != wanted.backend {
        reasons.push(Reason::BackendChanged {
            old: built.backend.clone(),
            new: wanted.backend.clone(),
        });
    }
    if built.library != wanted.library {
        reasons.push(Reason::LibraryChanged {
            old: built.library.clone(),
            new: wanted.library.clone(),
        });
    }
    for (property, old, new) in differing(&built.device, &wanted.device) {
        reasons.push(Reason::DeviceChanged { property, old, new });
    }
}

/// Keys whose values differ, with both.
fn differing(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> Vec<(String, Option<String>, Option<String>)> {
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter(|k| old.get(*k) != new.get(*k))
        .map(|k| (k.clone(), old.get(k).cloned(), new.get(k).cloned()))
        .collect()
}
