//! The plain data of a mapping.

mod change;
mod checkpoint;
mod coverage;
mod error;
mod inventory;
mod judged;
mod mapping;
mod permissions;
mod row;
mod target;

pub use change::{Assessment, Change, Refusal};
pub(super) use checkpoint::held_bytes;
pub use checkpoint::{Checkpoint, Held, ModelValues};
pub use coverage::{Accounts, Leftover, Missing, Why};
pub use error::Error;
pub use inventory::{Inventory, SourceTensor};
pub use judged::Judged;
pub use mapping::{Mapping, Proof, Resolved};
pub use permissions::Permissions;
pub(super) use row::push_hint;
pub use row::{
    AttentionRole, Clue, Evidence, Factor, FoldSign, Grade, Hint, Layout, Literal, Meaning, Norm,
    Part, Reading, Recipe, Rounding, Row, Run, Step,
};
pub use target::{Declined, Target};
