//! How the bytes of a constant come from tensors, and how alike two values are.

mod batch;
mod close;
mod elementwise;
pub(super) mod fold;
mod literal;
mod rank;
mod rows;
mod value;

pub(super) use batch::batched;
pub(super) use close::{CLEARLY, FEWEST, LEAD, Measure, cosine, sample};
pub(super) use elementwise::{functions, is_equal, step as step_value};
pub(super) use literal::{is_flat, is_typed, literal};
pub use rank::{LARGEST_RANK, effective_rank};
pub(super) use rows::{RowIndex, Stack};
pub(super) use value::{
    Print, Relation, as_type, common, is_square, orders, presumed_relations, relations, squeezed,
};
