//! The plain data of a mapping.

mod change;
mod checkpoint;
mod coverage;
mod error;
mod mapping;
mod row;
mod target;

pub use change::{Assessment, Change, Refusal};
pub(super) use checkpoint::held_bytes;
pub use checkpoint::{Checkpoint, Held, ModelValues};
pub use coverage::{Accounts, Leftover, Missing, Why};
pub use error::Error;
pub use mapping::{Mapping, Resolved};
pub(super) use row::push_hint;
pub use row::{
    AttentionRole, Clue, Evidence, Factor, FoldSign, Grade, Hint, Layout, Norm, Part, Recipe,
    Rounding, Row, Step,
};
pub use target::{Declined, Target};
