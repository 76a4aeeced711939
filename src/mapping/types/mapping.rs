//! All rows of a model, and what resolving them gives.

use super::coverage::Accounts;
use super::inventory::Inventory;
use super::row::{Grade, Recipe, Row};
use serde::{Deserialize, Serialize};

/// Every `Role::Weight` tensor of a model with its sources.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// Whether the rows were resolved against the checkpoint that the model was exported from: then what has no source
    /// there has none at all.
    #[serde(default)]
    pub against_base: bool,
    /// One row for each weight, in the model's order.
    pub rows: Vec<Row>,
    /// Whether the exporter (or an optimizer) writes one initializer for equal values, whatever they are: then a name proves
    /// nothing about a flat value.
    #[serde(default)]
    pub merges: bool,
    /// Numbers in attributes of the graph, with the attribute's place. They are read from the model each time.
    #[serde(skip)]
    pub attributes: Vec<(String, Vec<f32>)>,
    /// Tables of integers that no tensor of the base gives and that follow no rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsourced_integers: Vec<String>,
    /// The checkpoint that the rows were proven against, where there was one.
    #[serde(default)]
    pub inventory: Option<Inventory>,
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
    /// The names that the weights' sources may have, with shapes of as many elements: those of the base, or what the graph presumes.
    pub fn wanted(&self) -> Vec<(String, Vec<usize>)> {
        if let Some(inventory) = &self.inventory {
            let all = inventory.tensors.iter();
            return all.map(|t| (t.name.clone(), t.shape.clone())).collect();
        }
        let named = |row: &Row| -> Vec<String> {
            let known: Vec<String> = (row.explanations().flat_map(Recipe::sources))
                .map(ToOwned::to_owned)
                .collect();
            if known.is_empty() {
                row.hints.iter().flat_map(|h| h.names.clone()).collect()
            } else {
                known
            }
        };
        (self.rows.iter())
            .flat_map(|row| named(row).into_iter().map(|n| (n, row.shape.clone())))
            .collect()
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

/// How far a base checkpoint explains a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Parameters: weights that the graph names as a module's own.
    pub parameters: usize,
    /// Parameters that the base gives, by some derivation.
    pub proven: usize,
    /// Parameters that it does not give.
    pub unproven: Vec<String>,
    /// Tensors of the base whose value in the model is another.
    pub contradicted: Vec<String>,
    /// Constants that nothing explains: a refit stops where a changed tensor may be in one.
    pub unsourced: Vec<String>,
}

impl Proof {
    /// Whether every constant of the model is explained.
    pub fn is_closed(&self) -> bool {
        self.unsourced.is_empty()
    }

    /// Whether every parameter comes from the base.
    pub fn is_whole(&self) -> bool {
        self.unproven.is_empty() && self.contradicted.is_empty()
    }
}

impl Mapping {
    /// What the base proves; nothing where there is none.
    pub fn proof(&self) -> Option<Proof> {
        let inventory = self.inventory.as_ref()?;
        let mut proof = Proof::default();
        for row in self.rows.iter().filter(|r| r.baked.is_none()) {
            let explained = row.explanations().next().is_some();
            if row.is_unsourced() {
                proof.unsourced.push(row.name.clone());
            }
            if !row.is_parameter() && !explained {
                continue;
            }
            proof.parameters += 1;
            if explained || row.grade == Grade::Given {
                proof.proven += 1;
            } else if row.literal.is_none() {
                proof.unproven.push(row.name.clone());
            }
        }
        let contradicted = inventory.tensors.iter().filter(|t| t.contradicted);
        proof.contradicted = contradicted.map(|t| t.name.clone()).collect();
        Some(proof)
    }
}
