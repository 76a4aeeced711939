//! The one place where it is decided what new weights ask of an engine. `diff` prints it; `refit`, `run` and `--dry-run` act on it.

use super::{Diff, Reason, Verdict};
use crate::mapping::{
    Accounts, Change, Judged, Missing, Permissions, Recipe, Refusal, Row, Why, same_name,
};
use crate::tensor::{Digest, Dtype};
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// One constant tensor of an engine: what it holds and what is asked of it.
#[derive(Debug, Clone)]
pub struct WeightState {
    pub name: String,
    /// Digest of what the engine holds.
    pub holds: Digest,
    /// Digest of what it shall hold.
    pub wanted: Digest,
    /// Why a refit cannot change it; absent where it can.
    pub fixed: Option<String>,
    /// What it is computed from, as the new file spells it; none where nothing new reaches it.
    pub recipe: Option<Recipe>,
}

/// Type and shape of a tensor by name.
pub type Describe<'a> = dyn Fn(&str) -> Option<(Dtype, Vec<usize>)> + 'a;

/// What is asked of an engine.
pub struct Request<'a> {
    pub weights: Vec<WeightState>,
    /// It holds none of its refittable weights.
    pub stripped: bool,
    /// What a new checkpoint does, where there is one.
    pub judged: Option<&'a Judged>,
    /// What the user allows.
    pub permissions: &'a Permissions,
    /// Type and shape of a tensor of the new checkpoint.
    pub tensor: &'a Describe<'a>,
}

/// What is decided, with everything that it rests on.
#[derive(Debug, Clone)]
pub struct Decision {
    pub diff: Diff,
    /// Weights that get other bytes.
    pub changes: Vec<WeightState>,
    /// Tensors and weights that the user lets go.
    pub ignored: Vec<String>,
    /// Weights whose tensor is not given; with `--partial` they keep their base values.
    pub missing: Vec<Missing>,
}

/// What a program reads of a decision: the same fields for `diff`, `refit` and for an error that a decision is the reason of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    pub verdict: Verdict,
    /// All that it rests on.
    pub reasons: Vec<Reason>,
    /// Tensors that the model does not use.
    pub unused: Vec<String>,
    /// Tensors whose change would be lost.
    pub lost: Vec<String>,
    /// Tensors and weights that the user lets go.
    pub ignored: Vec<String>,
    /// Weights whose tensor is not given.
    pub missing: Vec<String>,
}

impl Decision {
    pub fn told(&self) -> Told {
        Told {
            verdict: self.diff.verdict,
            reasons: self.diff.reasons.clone(),
            unused: self.diff.unused().map(ToOwned::to_owned).collect(),
            lost: self.diff.lost().map(ToOwned::to_owned).collect(),
            ignored: self.ignored.clone(),
            missing: self.missing.iter().map(|m| m.weight.clone()).collect(),
        }
    }

    pub fn of(request: Request<'_>) -> Decision {
        let Request {
            weights,
            stripped,
            judged,
            permissions,
            tensor,
        } = request;
        let mut decision = Decision {
            diff: Diff::of(Vec::new(), 0, 0),
            changes: Vec::new(),
            ignored: Vec::new(),
            missing: Vec::new(),
        };
        let mut reasons = Vec::new();
        let compared = weights.len();
        if let Some(judged) = judged {
            decision.of_checkpoint(judged, permissions, tensor, &mut reasons);
        }
        if stripped {
            reasons.push(Reason::Stripped);
        }
        for weight in weights {
            if weight.wanted == weight.holds {
                continue;
            }
            reasons.push(changed(&weight));
            decision.changes.push(weight);
        }
        let unchanged = compared - decision.changes.len();
        decision.diff = Diff::of(reasons, unchanged, compared);
        // A recompile never brings back a change that is lost, or a tensor that is not there.
        if !decision.blocking().all(Reason::is_reshaped) {
            decision.diff = decision.diff.blocked();
        }
        decision
    }

    fn of_checkpoint(
        &mut self,
        judged: &Judged,
        permissions: &Permissions,
        tensor: &Describe<'_>,
        reasons: &mut Vec<Reason>,
    ) {
        let Judged {
            mapping,
            accounts,
            assessment,
        } = judged;
        // A refusal is of a tensor that was found for the weight; only one of another shape says
        // nothing about whose file it is.
        let fits = |c: &Change| match c {
            Change::Refused { why } => !matches!(why, Refusal::Misfit { .. }),
            change => change.is_given(),
        };
        let ignored = |row: &Row| permissions.ignores(&row.name);
        let let_go = mapping.rows.iter().any(ignored)
            && (mapping.rows.iter().zip(&assessment.changes))
                .all(|(row, change)| ignored(row) || *change == Change::Constant);
        if !assessment.changes.iter().any(fits) && !let_go {
            reasons.push(Reason::NothingFits);
        }
        for (row, change) in mapping.rows.iter().zip(&assessment.changes) {
            let weight = row.name.clone();
            match change {
                Change::Refused { why } => reasons.push(Reason::Unsure {
                    weight,
                    why: why.clone(),
                }),
                Change::UnchangedAfterCast => reasons.push(Reason::UnchangedAfterCast { weight }),
                _ => {}
            }
            if permissions.ignores(&row.name) {
                self.ignored.push(row.name.clone());
            }
        }
        let apart = apart(accounts, &mapping.rows, tensor);
        let paired: HashSet<&str> = apart.values().map(|(name, _)| name.as_str()).collect();
        for missing in &accounts.missing {
            let weight = missing.weight.clone();
            if let Some((_, why)) = apart.get(missing.weight.as_str()).cloned() {
                reasons.push(Reason::Unsure { weight, why });
                continue;
            }
            if !permissions.partial {
                reasons.push(Reason::SourceMissing {
                    weight,
                    names: missing.names.clone(),
                });
            }
            self.missing.push(missing.clone());
        }
        for leftover in &accounts.leftovers {
            let tensor = &leftover.name;
            // Told as the weight's tensor of another shape or type already.
            if paired.contains(tensor.as_str()) {
                continue;
            }
            if leftover.why == Why::Ignored {
                self.ignored.push(tensor.clone());
            }
            reasons.push(Reason::NotInEngine {
                tensor: tensor.clone(),
                why: leftover.why.clone(),
            });
        }
    }

    /// What keeps anything from being written: without it the verdict would be another.
    pub fn blocking(&self) -> impl Iterator<Item = &Reason> {
        let refused = |r: &&Reason| r.verdict() == Verdict::Unknown || r.is_reshaped();
        self.diff.reasons.iter().filter(refused)
    }

    /// Whether all that blocks is that tensors have other shapes: the checkpoint is one of another architecture.
    pub fn is_reshaped(&self) -> bool {
        self.blocking().next().is_some() && self.blocking().all(Reason::is_reshaped)
    }
}

fn changed(state: &WeightState) -> Reason {
    let weight = state.name.clone();
    let sources: Vec<String> = (state.recipe.iter())
        .flat_map(Recipe::sources)
        .map(ToOwned::to_owned)
        .collect();
    match (&state.fixed, &state.recipe) {
        (Some(why), _) => Reason::FixedChanged {
            weight,
            why: why.clone(),
        },
        (None, Some(recipe)) if recipe.is_computed() => Reason::DerivedChanged { weight, sources },
        (None, _) => Reason::BytesChanged { weight, sources },
    }
}

/// Weights and tensors without a place that the names bring together, and shapes or types keep apart: by weight, the tensor and what keeps it
/// apart.
fn apart(
    accounts: &Accounts,
    rows: &[Row],
    tensor: &Describe<'_>,
) -> HashMap<String, (String, Refusal)> {
    let by_name: HashMap<&str, &Row> = rows.iter().map(|r| (r.name.as_str(), r)).collect();
    let mut apart = HashMap::new();
    for missing in &accounts.missing {
        let Some(row) = by_name.get(missing.weight.as_str()) else {
            continue;
        };
        let same = |n: &&str| missing.names.iter().any(|looked| same_name(looked, n));
        let integers = (accounts.leftovers.iter()).filter(|l| l.why == Why::NotFloat);
        let integers = integers.map(|l| l.name.as_str());
        let Some(name) = accounts.unreached().chain(integers).find(same) else {
            continue;
        };
        let Some((dtype, shape)) = tensor(name) else {
            continue;
        };
        let source = name.to_owned();
        // One of as many elements could have been reshaped, so its shape is not why it is missing.
        let why = if shape.iter().product::<usize>() != row.count() {
            Refusal::Misfit {
                source,
                dtype,
                shape,
            }
        } else if dtype.is_float() != row.dtype.is_float() {
            Refusal::Storage { source, dtype }
        } else {
            continue;
        };
        apart.insert(missing.weight.clone(), (name.to_owned(), why));
    }
    apart
}
