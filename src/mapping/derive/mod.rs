//! How the bytes of a constant come from tensors, and how alike two values are.

mod batch;
mod close;
pub(super) mod fold;
mod rank;
mod value;

pub(super) use batch::batched;
pub(super) use close::{CLEARLY, FEWEST, LEAD, Measure, cosine, sample};
pub use rank::{LARGEST_RANK, effective_rank};
pub(super) use value::{
    Print, Relation, as_type, common, is_square, orders, presumed_relations, relations, squeezed,
};
