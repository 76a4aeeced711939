//! Which checkpoint tensors fill which ONNX weights, by which steps, and how that is known.
//!
//! ```text
//! infer(model, None)            what the graph says: presumed names, orientation, signs of folds        (nothing is proven)
//! infer(model, Some(base))      the same, proven by value against the checkpoint it was exported from
//! corroborate(.., new)          proven or corroborated against another checkpoint and what the ONNX file holds
//! adopt(.., names)              for names without values (LoRA targets): from the graph's structure alone
//! assess(.., new)               what a refit would do to every row, and what it must refuse
//! apply(row, new)               the bytes
//! ```
//!
//! It never takes a name alone for proof, never lets a value decide between equal candidates, and refuses what stays
//! ambiguous. `docs/mapping.md` says how it decides.

mod apply;
mod assess;
mod derive;
mod hints;
mod lora_targets;
mod overrides;
mod resolve;
mod types;

#[cfg(test)]
mod tests;

pub use apply::{apply, apply_recipe, inverse};
pub use assess::{assess, bytes_of};
pub use derive::{LARGEST_RANK, effective_rank};
pub use lora_targets::Adopted;
pub use overrides::{Override, SCHEMA};
pub use resolve::{corroborate, infer, prove};
pub use types::{
    Accounts, Assessment, AttentionRole, Change, Checkpoint, Clue, Declined, Error, Evidence,
    Factor, FoldSign, Grade, Held, Hint, Layout, Leftover, Mapping, Missing, ModelValues, Norm,
    Part, Recipe, Refusal, Resolved, Rounding, Row, Step, Target, Why,
};
