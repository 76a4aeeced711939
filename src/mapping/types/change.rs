//! What a refit does to each weight, or why it must not.

use crate::tensor::{Digest, Dtype};
use serde::{Deserialize, Serialize};

/// Why a changed weight must not be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "refusal", rename_all = "kebab-case")]
pub enum Refusal {
    /// Only a name speaks for the source: `--trust-names` allows it.
    Unproven {
        /// The named source.
        source: String,
    },
    /// Evidence speaks against the source, or for a fold that could not be recognised: nothing allows it but a mapping by
    /// hand or the base weights.
    Contradicted {
        /// Sources that were considered.
        sources: Vec<String>,
    },
    /// Several sources fit and give different bytes.
    Ambiguous {
        /// The sources.
        sources: Vec<String>,
    },
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
    Merged {
        /// The sources.
        sources: Vec<String>,
        /// The other reading.
        with: String,
    },
    /// A finite value becomes infinite in the weight's type.
    Overflow {
        /// The source.
        source: String,
        /// The weight's type.
        dtype: Dtype,
        /// The largest magnitude in the source.
        largest: String,
    },
    /// The source has another shape or a type that does not convert: the architecture differs.
    Misfit {
        /// The source.
        source: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
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
    /// The same bytes.
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
        /// Why.
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
    /// By row.
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
