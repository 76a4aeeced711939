//! Which checkpoint tensors fill which ONNX weights, by which steps, and how that is known.
//!
//! ```text
//! infer(model, None)            what the graph says: presumed names, orientation, signs of folds        (nothing is proven)
//! infer(model, Some(base))      every constant with all its explanations from the checkpoint that it was exported from
//! judge(.., new, permissions)   what a refit would do to every row and every tensor, and what it must refuse
//! adopt(.., names)              for names without values (LoRA targets): from the graph's structure alone
//! apply(row, new)               the bytes
//! ```
//!
//! It never takes a name alone for proof, never lets a value decide between equal candidates, and refuses what stays
//! ambiguous. `docs/mapping.md` says how it decides.

mod derive;
mod hints;
mod judge;
mod resolve;
mod types;

#[cfg(test)]
mod tests;

pub(crate) use derive::batched;
pub use derive::{LARGEST_RANK, apply, apply_recipe, effective_rank, inverse};
pub(crate) use hints::same_name;
pub use judge::{Adopted, bytes_of, judge, judge_whole};
pub use resolve::{Export, frame, infer, probe, prove};
pub use types::{
    Accounts, Assessment, AttentionRole, Change, Checkpoint, Clue, Declined, Error, Evidence,
    Factor, FoldSign, Grade, Held, Hint, Inventory, Judged, Layout, Leftover, Literal, Mapping,
    Meaning, Missing, ModelValues, Norm, Override, Part, Permissions, Proof, Reading, Recipe,
    Refusal, Resolved, Rounding, Row, Run, SCHEMA, See, SourceTensor, Step, Target, Why,
};
