//! How the bytes of a constant come from tensors, and how alike two values are.

mod apply;
mod batch;
mod close;
mod elementwise;
pub(super) mod fold;
mod literal;
mod operations;
mod rows;
mod value;

pub(in crate::mapping) use apply::apply_once;
pub use apply::{apply, apply_recipe, inverse};
pub(crate) use batch::batched;
pub(super) use close::{CLEARLY, FEWEST, LEAD, Measure, cosine, sample};
pub use close::{LARGEST_RANK, effective_rank};
pub(super) use elementwise::functions;
pub(super) use literal::{is_flat, is_flat_of, is_typed, literal, may_be_literal};
pub(super) use operations::{computes, exchanges_axes, keep_what_does, keeps_elements, may_give};
pub(super) use rows::{OneValue, RowIndex, Stack, parts_of_one_value};
pub(super) use value::{
    Look, Print, Relation, as_type, common, is_square, orders, presumed_relations, relations,
};
