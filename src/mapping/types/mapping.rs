//! All rows of a model, and what resolving them gives.

use super::coverage::Accounts;
use super::row::{Grade, Row};
use serde::{Deserialize, Serialize};

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

impl Mapping {
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
