//! A plan runs: opened, given inputs, compiled again where they need another range.

mod draw;
pub(super) mod inputs;
mod recompile;

pub use inputs::{
    InputRequest, Inputs, PrefixedFile, TensorFile, example_shapes, gather_inputs, pick_expected,
};
pub use recompile::recompile;
