//! What becomes of every weight and of every tensor of a new checkpoint, and what the user allows.

use super::mapping::Mapping;
use crate::tensor::{Digest, Dtype};
use serde::{Deserialize, Serialize};

/// A mapping resolved against a checkpoint, and what of the two did not meet.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The rows, with source names as this checkpoint spells them.
    pub mapping: Mapping,
    /// Checkpoint tensors that feed nothing, weights whose source is not there.
    pub accounts: Accounts,
}

/// The judgement of a whole checkpoint.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The rows, with source names as this checkpoint spells them.
    pub mapping: Mapping,
    /// Checkpoint tensors that no weight takes, weights whose source is not there.
    pub accounts: Accounts,
    /// What happens to every row.
    pub assessment: Assessment,
}

/// Permissions of a refit; `diff` asks with the same ones.
#[derive(Debug, Clone, Default)]
pub struct Permissions {
    /// The file is meant to hold some of the tensors only: weights that it does not reach have their base values.
    pub partial: bool,
    /// Take a name's word where there is no base and nothing speaks against it.
    pub trust_names: bool,
    /// Tensors or weights whose change is let go.
    pub ignore: Vec<glob::Pattern>,
}

impl Permissions {
    /// Whether the user lets a change of `name` go.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignore.iter().any(|p| p.matches(name))
    }
}

/// Why a changed weight must not be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "refusal", rename_all = "kebab-case")]
pub enum Refusal {
    /// Only a name speaks for the source: `--trust-names` allows it.
    Unproven { source: String },
    /// Evidence speaks against the source, or for a fold that could not be recognised: nothing allows it but a mapping by
    /// hand or the base weights.
    Contradicted {
        /// Sources that were considered.
        sources: Vec<String>,
    },
    /// Several sources fit and give different bytes.
    Ambiguous { sources: Vec<String> },
    /// Some of a fold's sources are in the checkpoint and others are not.
    PartialFold {
        /// Those that are not.
        missing: Vec<String>,
    },
    /// Nothing says where the weight comes from, so a changed tensor may be in it.
    Unsourced {
        /// Changed tensors that may be in it, the first few.
        changed: Vec<String>,
    },
    /// One initializer stands for the source and for something else, which does not change.
    Merged { sources: Vec<String>, with: String },
    /// A finite value becomes infinite in the weight's type.
    Overflow {
        source: String,
        dtype: Dtype,
        /// The largest magnitude in the source.
        largest: String,
    },
    /// The source is stored in a type whose values are not the weight's: integers, as of a quantised tensor.
    Storage { source: String, dtype: Dtype },
    /// The source has queries, keys and values in another order than the model: one after the other, or head by head.
    Stacked {
        source: String,
        /// Elements of a head.
        head: usize,
    },
    /// The source has another shape: the architecture differs.
    Misfit {
        source: String,
        dtype: Dtype,
        shape: Vec<usize>,
    },
}

/// What happens to one weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// No checkpoint tensor feeds it: it keeps its value.
    Constant,
    /// The checkpoint does not hold its source: it keeps (or gets back) its base value.
    NotGiven,
    Unchanged,
    /// The checkpoint stores it in a narrower type, and at that type it is the same: it keeps the wider value.
    UnchangedAfterCast,
    /// Other bytes, and the mapping is sure.
    Changed {
        /// Digest of the bytes that it gets.
        digest: Digest,
    },
    /// Other bytes, and the mapping is not sure (or they do not fit).
    Refused {
        #[serde(flatten)]
        why: Refusal,
    },
}

impl Change {
    /// Whether the checkpoint gives it a value, its own or another.
    pub fn is_given(&self) -> bool {
        matches!(
            self,
            Change::Unchanged | Change::UnchangedAfterCast | Change::Changed { .. }
        )
    }
}

/// What happens to every weight, in the order of [`super::Mapping::rows`].
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment {
    pub changes: Vec<Change>,
}

impl Assessment {
    /// Indices of rows that get new bytes.
    pub fn changed(&self) -> impl Iterator<Item = usize> + '_ {
        (self.changes.iter().enumerate())
            .filter(|(_, c)| matches!(c, Change::Changed { .. }))
            .map(|(r, _)| r)
    }

    /// Rows that must not be written, and why.
    pub fn refused(&self) -> impl Iterator<Item = (usize, &Refusal)> {
        (self.changes.iter().enumerate()).filter_map(|(r, c)| match c {
            Change::Refused { why } => Some((r, why)),
            _ => None,
        })
    }
}

/// Why a checkpoint tensor feeds no weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Why {
    /// A counter of training steps (`num_batches_tracked`): inference does not read it.
    Counter,
    /// Integers or booleans (`position_ids`): part of a graph's structure, if anything.
    NotFloat,
    /// The same bytes as a tensor that does feed a weight: tied weights, written twice.
    Duplicate { of: String },
    /// It is as it was in the base checkpoint, where the model did not use it.
    Unchanged,
    /// The model does not use it: every constant of the model is explained without it.
    Unused,
    /// It belongs to another component of the same file.
    Component { component: String },
    /// The user lets it go (`--ignore`).
    Ignored,
    /// An attribute of the graph has its base value, and no refit changes an attribute.
    InAttribute { attribute: String },
    /// It is the tensor `of` once more, in a wrapper (`model.`, `module.`), and says something else of it.
    Restated { of: String },
    /// Nothing in the engine is known to take it.
    Unreached,
}

impl Why {
    /// Whether a change of the tensor would be lost.
    pub fn is_lost(&self) -> bool {
        matches!(
            self,
            Why::Unreached | Why::InAttribute { .. } | Why::Restated { .. }
        )
    }
}

/// A checkpoint tensor that feeds no weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    pub name: String,
    #[serde(flatten)]
    pub why: Why,
}

/// A weight whose source the checkpoint does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub weight: String,
    /// Names that were looked for.
    pub names: Vec<String>,
}

/// What of a checkpoint and an engine did not meet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Accounts {
    /// Weights without their source, in the model's order.
    pub missing: Vec<Missing>,
    /// Checkpoint tensors that feed nothing, by name.
    pub leftovers: Vec<Leftover>,
}

impl Accounts {
    /// Leftovers that cannot be explained: a change of them would be lost.
    pub fn unreached(&self) -> impl Iterator<Item = &str> {
        (self.leftovers.iter())
            .filter(|l| l.why.is_lost())
            .map(|l| l.name.as_str())
    }

    /// Whether every weight has its source and every tensor its weight, so that a refit from this checkpoint leaves nothing
    /// out.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unreached().next().is_none()
    }
}
