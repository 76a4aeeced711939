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

mod accounts;
mod adopt;
mod apply;
mod assess;
mod attention;
mod batch;
mod changed;
mod close;
mod decide;
mod doubt;
mod equal;
mod error;
mod file;
mod fold;
mod folds;
mod graph;
mod names;
mod rank;
mod row;
mod value;

#[cfg(test)]
mod adversary_test;
#[cfg(test)]
mod fixtures_test;
#[cfg(test)]
mod planted_test;
#[cfg(test)]
mod property_test;

pub use accounts::{Accounts, Leftover, Missing, Why};
pub use adopt::{Adopted, Declined, Target};
pub use apply::{apply, apply_recipe, inverse};
pub use assess::{Assessment, Change, Refusal, assess, bytes_of};
pub use error::Error;
pub use file::{Override, SCHEMA};
pub use rank::{LARGEST_RANK, effective_rank};
pub use row::{
    AttentionRole, Clue, Evidence, Factor, FoldSign, Grade, Hint, Layout, Norm, Part, Recipe,
    Rounding, Row, Step,
};

use crate::onnx::{Model, Weight};
use crate::tensor::TensorView;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;

/// Named tensors of a checkpoint.
pub trait Checkpoint: Sync {
    /// Every name, in any order.
    fn names(&self) -> Vec<&str>;
    /// One tensor.
    fn get(&self, name: &str) -> Option<TensorView<'_>>;
}

impl Checkpoint for crate::weights::Source {
    fn names(&self) -> Vec<&str> {
        self.names().collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.get(name)
    }
}

impl Checkpoint for crate::weights::layouts::View {
    fn names(&self) -> Vec<&str> {
        self.names().collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.get(name)
    }
}

/// The values that an ONNX file (or an unrefitted plan) holds.
pub trait Held: Sync {
    /// The bytes of the weight with this ONNX name.
    fn held(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

/// A model's own values, by name.
pub struct ModelValues<'a> {
    model: &'a Model,
    index: HashMap<&'a str, &'a Weight>,
}

impl<'a> ModelValues<'a> {
    /// Indexes the weights of `model`.
    pub fn of(model: &'a Model) -> Self {
        let index = model.weights().iter().map(|w| (w.name.as_str(), w));
        ModelValues {
            model,
            index: index.collect(),
        }
    }
}

impl Held for ModelValues<'_> {
    fn held(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        Some(self.model.bytes(self.index.get(name)?))
    }
}

/// Which checkpoint a mapping is resolved against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Against {
    /// The one that the model was exported from: what does not equal is not there.
    Base,
    /// Another one: what does not equal may have changed.
    New,
}

/// Every `Role::Weight` tensor of a model with its sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// Whether the rows were resolved against the checkpoint that the model was exported from: then what has no source
    /// there has none at all.
    #[serde(default)]
    pub against_base: bool,
    /// One row for each weight, in the model's order.
    pub rows: Vec<Row>,
}

/// A mapping resolved against a checkpoint, and what of the two did not meet.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The rows, with source names as this checkpoint spells them.
    pub mapping: Mapping,
    /// Checkpoint tensors that feed nothing, weights whose source is not there.
    pub accounts: Accounts,
}

/// Maps `model`: from its graph alone, or proven against the checkpoint that it was exported from.
///
/// # Errors
/// [`Error::NotHeld`], [`Error::Convert`]; what cannot be decided is a grade, not an error.
pub fn infer(model: &Model, base: Option<&dyn Checkpoint>) -> Result<Resolved, Error> {
    let graph = model.proto().graph.as_ref();
    let mapping = Mapping {
        against_base: false,
        rows: graph.map_or_else(Vec::new, |g| graph::outline(g, model.weights())),
    };
    match base {
        None => Ok(Resolved {
            mapping,
            accounts: Accounts::default(),
        }),
        Some(base) => decide::resolve(&mapping, &ModelValues::of(model), base, Against::Base),
    }
}

/// Resolves the rows that have no recipe yet against another checkpoint of the same architecture, and checks those that
/// have one.
///
/// # Errors
/// [`Error::NotHeld`] when `held` lacks a weight, [`Error::Convert`].
pub fn corroborate(
    mapping: &Mapping,
    held: &dyn Held,
    new: &dyn Checkpoint,
) -> Result<Resolved, Error> {
    decide::resolve(mapping, held, new, Against::New)
}

/// Resolves the rows that have no recipe yet against the checkpoint that the model was exported from (`--base-weights` at
/// refit).
///
/// # Errors
/// As [`corroborate`].
pub fn prove(mapping: &Mapping, held: &dyn Held, base: &dyn Checkpoint) -> Result<Resolved, Error> {
    decide::resolve(mapping, held, base, Against::Base)
}

impl Mapping {
    /// The names that the weights' sources may have, with shapes of as many elements.
    pub fn wanted(&self) -> Vec<(String, Vec<usize>)> {
        let names = |row: &Row| -> Vec<String> {
            let known = (row.recipe.iter().chain(&row.alternatives)).flat_map(Recipe::sources);
            let known: Vec<String> = known.map(ToOwned::to_owned).collect();
            if known.is_empty() {
                row.hints.iter().flat_map(|h| h.names.clone()).collect()
            } else {
                known
            }
        };
        let all = self
            .rows
            .iter()
            .flat_map(|row| names(row).into_iter().map(|n| (n, row.shape.clone())));
        all.collect()
    }

    /// The row of an ONNX weight.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|r| r.name == name)
    }

    /// How many rows have each grade, best first.
    pub fn grades(&self) -> Vec<(Grade, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for row in &self.rows {
            *counts.entry(row.grade).or_default() += 1;
        }
        counts.into_iter().collect()
    }
}
