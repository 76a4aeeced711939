//! What of a checkpoint and an engine did not meet.

use serde::{Deserialize, Serialize};

/// Why a checkpoint tensor feeds no weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Why {
    /// A counter of training steps (`num_batches_tracked`): inference does not read it.
    Counter,
    /// Integers or booleans (`position_ids`): part of a graph's structure, if anything.
    NotFloat,
    /// The same bytes as a tensor that does feed a weight: tied weights, written twice.
    Duplicate {
        /// The other tensor.
        of: String,
    },
    /// It is as it was in the base checkpoint, where the model did not use it.
    Unchanged,
    /// The model does not use it: every constant of the model is explained without it.
    Unused,
    /// It belongs to another component of the same file.
    Component {
        /// Which.
        component: String,
    },
    /// The user lets it go (`--ignore`).
    Ignored,
    /// An attribute of the graph has its base value, and no refit changes an attribute.
    InAttribute {
        /// Which.
        attribute: String,
    },
    /// Nothing in the engine is known to take it.
    Unreached,
}

impl Why {
    /// Whether a change of the tensor would be lost.
    pub fn is_lost(&self) -> bool {
        matches!(self, Why::Unreached | Why::InAttribute { .. })
    }
}

/// A checkpoint tensor that feeds no weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// Its name.
    pub name: String,
    /// Why.
    #[serde(flatten)]
    pub why: Why,
}

/// A weight whose source the checkpoint does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// ONNX name.
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
