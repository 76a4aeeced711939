//! A plan runs: opened, given inputs, compiled again where they need another range.

pub(super) mod inputs;
mod recompile;

pub use inputs::{InputRequest, Inputs, PrefixedFile, TensorFile, gather_inputs, pick_expected};
pub use recompile::recompile;
