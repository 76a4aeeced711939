//! Weighing the evidence: names and paths, values, folds and closeness give each row its recipe and its grade.

mod base;
mod case;
mod changed;
mod corroborate;
mod folds;
mod probe;
mod readings;

pub use corroborate::corroborate;
pub use probe::{Export, probe};

use super::hints::{self, outline};
use super::types::{Checkpoint, Error, Held, Mapping, ModelValues};
use crate::onnx::Model;
use case::literal_of;

/// What the graph says of the model as a whole, for rows that are known: [`infer`] without its rows, which take more memory than the graph.
pub fn frame(model: &Model) -> Mapping {
    hints::frame(model)
}

/// Maps `model`: from its graph alone, or proven against the checkpoint that it was exported from.
///
/// # Errors
/// [`Error::NotHeld`], [`Error::Convert`]; what cannot be decided is a grade, not an error.
pub fn infer(model: &Model, base: Option<&dyn Checkpoint>) -> Result<Mapping, Error> {
    let _span = tracing::info_span!("infer the mapping", base = base.is_some()).entered();
    let mut mapping = outline(model);
    let held = ModelValues::of(model);
    if let Some(base) = base {
        return prove(&mapping, &held, base);
    }
    for row in &mut mapping.rows {
        // What is named has a tensor; what is not is the graph's own, or unsourced.
        if row.hints.is_empty() && row.baked.is_none() {
            row.literal = literal_of(&held, row)?;
        }
    }
    Ok(mapping)
}

/// Resolves every row against the checkpoint that the model was exported from, and records that checkpoint.
///
/// # Errors
/// [`Error::NotHeld`] when `held` lacks a weight, [`Error::Convert`].
pub fn prove(mapping: &Mapping, held: &dyn Held, base: &dyn Checkpoint) -> Result<Mapping, Error> {
    base::resolve(mapping, held, base)
}
