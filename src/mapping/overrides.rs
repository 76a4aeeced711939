//! The document of `--mapping FILE`: rows said by hand, over those that were inferred.

use super::types::{Error, Evidence, Grade, Layout, Mapping, Recipe};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Format of the document.
pub const SCHEMA: &str = "trtmut.mapping-override/1";

/// Rows said by hand: `{"schema": "trtmut.mapping-override/1", "weights": {"onnx::MatMul_12": {"kind": "tensor", "source":
/// "a.weight", "steps": [{"step": "permute", "order": [1, 0]}]}, "val_7": null}}`. A recipe is used as it stands, without
/// asking the evidence; null says that no checkpoint tensor feeds the weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// [`SCHEMA`].
    pub schema: String,
    /// By ONNX name.
    pub weights: BTreeMap<String, Option<Recipe>>,
}

impl Override {
    /// Reads the document.
    ///
    /// # Errors
    /// [`Error::Document`], [`Error::Schema`].
    pub fn parse(text: &str) -> Result<Override, Error> {
        let document: Override = serde_json::from_str(text).map_err(Error::Document)?;
        if document.schema != SCHEMA {
            return Err(Error::Schema {
                found: document.schema,
                expected: SCHEMA,
            });
        }
        Ok(document)
    }
}

impl Mapping {
    /// Puts rows said by hand over the inferred ones; they get [`Grade::Given`].
    ///
    /// # Errors
    /// [`Error::UnknownWeights`] with every name that the model does not have.
    pub fn override_with(&mut self, by_hand: &Override) -> Result<(), Error> {
        let unknown: Vec<String> = (by_hand.weights.keys())
            .filter(|name| self.row(name).is_none())
            .map(|name| format!("`{name}`"))
            .collect();
        if !unknown.is_empty() {
            return Err(Error::UnknownWeights { weights: unknown });
        }
        for row in &mut self.rows {
            if let Some(recipe) = by_hand.weights.get(&row.name) {
                row.grade = Grade::Given;
                row.recipe.clone_from(recipe);
                row.alternatives.clear();
                row.rounding = None;
                row.layout = Layout::Unknown;
                row.evidence = Vec::<Evidence>::new();
            }
        }
        Ok(())
    }
}
