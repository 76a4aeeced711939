//! The plain data of a mapping.

mod checkpoint;
mod error;
mod judgement;
mod mapping;
mod row;

pub use checkpoint::{Checkpoint, Held, ModelValues, See};
pub(super) use checkpoint::{Loaded, held_bytes};
pub use error::{Declined, Error};
pub use judgement::{
    Accounts, Assessment, Change, Judged, Leftover, Missing, Permissions, Refusal, Resolved, Why,
};
pub(super) use mapping::rounded;
pub use mapping::{Inventory, Mapping, Override, Proof, SCHEMA, SourceTensor, Target};
pub use row::{
    AttentionRole, Clue, Evidence, Factor, FoldSign, Grade, Hint, Layout, Literal, Meaning, Norm,
    Part, Reading, Recipe, Rounding, Row, Run, Step,
};
pub(super) use row::{push_hint, squeezed};
