//! Reasons: every difference that counts, and what it means for an engine.

use crate::mapping::{Refusal, Why};
use crate::tensor::Dtype;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a difference asks for. The order is by cost: a difference that is sure to need a recompile settles the matter even
/// where something else cannot be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// Nothing: the engine holds this already.
    Live,
    NeedsRefit,
    /// It cannot be decided, and nothing is done: a recompile might lose the change as well.
    Unknown,
    NeedsRecompile,
}

impl Verdict {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Live => "LIVE",
            Verdict::NeedsRefit => "NEEDS_REFIT",
            Verdict::Unknown => "UNKNOWN",
            Verdict::NeedsRecompile => "NEEDS_RECOMPILE",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which interface of a graph a difference is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Port {
    Inputs,
    Outputs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// A refittable weight has other bytes.
    BytesChanged {
        /// ONNX name (or the checkpoint's, where no engine is compared).
        weight: String,
        /// The checkpoint tensors that it comes from, where they are known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sources: Vec<String>,
    },
    /// A refittable weight that is computed from several tensors has other bytes.
    DerivedChanged {
        weight: String,
        /// What it is computed from.
        sources: Vec<String>,
    },
    /// The plan is stripped: it holds none of its refittable weights.
    Stripped,
    /// Another tool built the plan, and that it holds the model's weights is not proven.
    Unproven {
        /// Whether a refit can give it them.
        refittable: bool,
    },
    /// The checkpoint stores a weight in a narrower type, at which it is the same.
    UnchangedAfterCast {
        weight: String,
    },
    /// A constant that engines fold in when they are built has another value.
    BakedChanged {
        weight: String,
        /// Which operator's input, and why it is baked.
        why: String,
    },
    /// An integer constant that shapes may depend on has another value.
    ShapeLikeChanged {
        weight: String,
        /// Which operator's input, and why it is baked.
        why: String,
    },
    /// A weight that this engine cannot change has other bytes.
    FixedChanged {
        weight: String,
        /// Why this engine cannot change it.
        why: String,
    },
    /// A weight has another element type.
    DtypeChanged {
        weight: String,
        old: Dtype,
        new: Dtype,
    },
    /// A weight has another shape.
    ShapeChanged {
        weight: String,
        old: Vec<usize>,
        new: Vec<usize>,
    },
    /// A weight is new.
    WeightAdded {
        weight: String,
    },
    /// A weight is gone.
    WeightRemoved {
        weight: String,
    },
    /// A weight has another name and nothing else.
    WeightRenamed {
        old: String,
        new: String,
    },
    /// Nodes that shared one constant have their own now, or the other way round.
    SharingChanged {
        /// The constant that is shared on one side.
        weight: String,
        old: usize,
        new: usize,
    },
    /// A weight would get other bytes, but the mapping is not sure of them.
    Unsure {
        weight: String,
        #[serde(flatten)]
        why: Refusal,
    },
    /// The checkpoint does not hold what a weight comes from.
    SourceMissing {
        weight: String,
        /// Names that were looked for.
        names: Vec<String>,
    },
    /// A tensor of the checkpoint has values that are no finite numbers, and what it changes has fewer.
    NotFinite {
        weight: String,
        /// Its name in the checkpoint.
        tensor: String,
        /// How many values are NaN.
        nan: usize,
        /// How many are infinite.
        infinite: usize,
    },
    /// No tensor of the checkpoint belongs to any weight.
    NothingFits,
    /// A checkpoint tensor feeds no weight of the engine.
    NotInEngine {
        tensor: String,
        #[serde(flatten)]
        why: Why,
    },
    /// Names, documentation or other metadata of the graph differ.
    MetadataChanged,
    /// The nodes or how they are connected differ.
    TopologyChanged {
        /// Operators that there are more of now, with how many more.
        added: Vec<(String, usize)>,
        /// Operators that there are fewer of now, with how many fewer.
        removed: Vec<(String, usize)>,
    },
    /// An attribute of a node differs.
    AttributeChanged {
        operator: String,
        /// Node name, where it has one.
        node: String,
        attributes: Vec<String>,
    },
    /// An operator set has another version.
    OpsetChanged {
        /// Domain; empty for ONNX's own.
        domain: String,
        old: Option<i64>,
        new: Option<i64>,
    },
    /// Declared inputs or outputs differ.
    InterfaceChanged {
        port: Port,
        /// One sentence fragment each.
        details: Vec<String>,
    },
    /// The structure differs in something that no summary shows, or of which there is no summary.
    StructureChanged,
    /// Nothing is known of one side's graph.
    GraphUnknown,
    /// The shapes that are asked for are within what was built.
    ShapesInside,
    /// Some shape that is asked for is outside of what was built.
    ShapesOutside {
        details: Vec<String>,
    },
    /// The shapes of one side are not known.
    ShapesUnknown,
    /// A build option differs.
    OptionChanged {
        option: String,
        /// Before; none where it was not set.
        old: Option<String>,
        /// After; none where it is not set.
        new: Option<String>,
    },
    BackendChanged {
        old: String,
        new: String,
    },
    /// Another library or version of it.
    LibraryChanged {
        old: String,
        new: String,
    },
    DeviceChanged {
        /// Which property: `gpu`, `compute_capability`, `driver`.
        property: String,
        old: Option<String>,
        new: Option<String>,
    },
}

impl Reason {
    /// Whether it stays undecided when the engine is compiled anew: a change that may be lost, or a tensor that is not there. What an
    /// old manifest does not say is answered by a recompile.
    pub fn outlasts_a_recompile(&self) -> bool {
        let unsaid = matches!(self, Reason::GraphUnknown | Reason::ShapesUnknown);
        self.verdict() == Verdict::Unknown && !unsaid
    }

    /// What it asks for.
    pub fn verdict(&self) -> Verdict {
        match self {
            // What reaches no weight may be a change that would be lost.
            Reason::NotInEngine { why, .. } if why.is_lost() => Verdict::Unknown,
            Reason::UnchangedAfterCast { .. }
            | Reason::WeightRenamed { .. }
            | Reason::NotInEngine { .. }
            | Reason::NotFinite { .. }
            | Reason::MetadataChanged
            | Reason::ShapesInside => Verdict::Live,
            Reason::BytesChanged { .. }
            | Reason::DerivedChanged { .. }
            | Reason::Stripped
            | Reason::Unproven { refittable: true } => Verdict::NeedsRefit,
            Reason::Unsure { why, .. } => match why {
                // The architecture differs, which no refit changes.
                Refusal::Misfit { .. } => Verdict::NeedsRecompile,
                _ => Verdict::Unknown,
            },
            Reason::NothingFits
            | Reason::SourceMissing { .. }
            | Reason::GraphUnknown
            | Reason::ShapesUnknown => Verdict::Unknown,
            Reason::Unproven { refittable: false }
            | Reason::BakedChanged { .. }
            | Reason::ShapeLikeChanged { .. }
            | Reason::FixedChanged { .. }
            | Reason::DtypeChanged { .. }
            | Reason::ShapeChanged { .. }
            | Reason::WeightAdded { .. }
            | Reason::WeightRemoved { .. }
            | Reason::SharingChanged { .. }
            | Reason::TopologyChanged { .. }
            | Reason::AttributeChanged { .. }
            | Reason::StructureChanged
            | Reason::OpsetChanged { .. }
            | Reason::InterfaceChanged { .. }
            | Reason::ShapesOutside { .. }
            | Reason::OptionChanged { .. }
            | Reason::BackendChanged { .. }
            | Reason::LibraryChanged { .. }
            | Reason::DeviceChanged { .. } => Verdict::NeedsRecompile,
        }
    }

    /// The tensor whose change would be lost, where it is about one.
    pub fn lost(&self) -> Option<&str> {
        match self {
            Reason::NotInEngine { tensor, why } if why.is_lost() => Some(tensor),
            _ => None,
        }
    }

    /// The tensor that the model does not use, where it is about one.
    pub fn unused(&self) -> Option<&str> {
        match self {
            Reason::NotInEngine { why, .. } if why.is_lost() || *why == Why::Ignored => None,
            Reason::NotInEngine { tensor, .. } => Some(tensor),
            _ => None,
        }
    }

    /// Whether it is a tensor whose shape is not that of its weight.
    pub fn is_reshaped(&self) -> bool {
        let misfit = |why: &Refusal| matches!(why, Refusal::Misfit { .. });
        matches!(self, Reason::Unsure { why, .. } if misfit(why))
    }

    /// The weight or tensor that it is about.
    pub fn subject(&self) -> Option<&str> {
        match self {
            Reason::BytesChanged { weight, .. }
            | Reason::DerivedChanged { weight, .. }
            | Reason::UnchangedAfterCast { weight }
            | Reason::BakedChanged { weight, .. }
            | Reason::ShapeLikeChanged { weight, .. }
            | Reason::FixedChanged { weight, .. }
            | Reason::DtypeChanged { weight, .. }
            | Reason::ShapeChanged { weight, .. }
            | Reason::WeightAdded { weight }
            | Reason::WeightRemoved { weight }
            | Reason::WeightRenamed { new: weight, .. }
            | Reason::SharingChanged { weight, .. }
            | Reason::Unsure { weight, .. }
            | Reason::SourceMissing { weight, .. } => Some(weight),
            Reason::NotInEngine { tensor, .. } | Reason::NotFinite { tensor, .. } => Some(tensor),
            _ => None,
        }
    }
}
