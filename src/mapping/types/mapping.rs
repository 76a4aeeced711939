//! All rows of a model, the base that they were proven against, and rows that were stated by hand.

use super::error::Error;
use super::row::{Evidence, Grade, Layout, Recipe, Row};
use crate::tensor::{Digest, Dtype, Tensor, cast};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

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
    /// A second export with every tensor moved was asked too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probed: bool,
    /// The checkpoint that the rows were proven against, where there was one.
    #[serde(default)]
    pub inventory: Option<Inventory>,
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
        let mut counts = BTreeMap::new();
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
    /// Parameters that a probe proves as well.
    #[serde(default)]
    pub probed: usize,
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
            proof.probed += usize::from(row.probed);
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

/// A weight that a LoRA may name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The source's name: of the checkpoint where one was seen, else as the graph presumes it without the wrapper.
    pub name: String,
    pub aliases: Vec<String>,
    /// Shape as torch holds it, where it is known: extents of one may be missing, and a matrix whose orientation is not
    /// known stands as in the ONNX file.
    pub shape: Vec<usize>,
    /// Element type in the ONNX file.
    pub dtype: Dtype,
    /// Index of the row.
    pub row: usize,
    /// Whether it is computed from several tensors, so that a change of this one needs the others too.
    pub folded: bool,
}

/// One tensor of the base checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTensor {
    /// Its name in the base checkpoint.
    pub name: String,
    pub dtype: Dtype,
    /// Extents as the file has them, outermost first.
    pub shape: Vec<usize>,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Digests of its values rounded once to each narrower float type, by type: a copy in that type is known to be the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rounded: BTreeMap<String, Digest>,
    /// At most three different values: where such a tensor went cannot be seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flat: bool,
    /// A sequence or a sine table: constants that are one, too, may be made of it, and nobody sees that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub regular: bool,
    /// The model has another value under this name, or may have one, so the base value of this tensor is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contradicted: bool,
    /// An attribute of the graph has exactly this value: `alpha` of `LeakyRelu` `node`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
}

/// All tensors of the base checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inventory {
    /// In order of names.
    pub tensors: Vec<SourceTensor>,
}

/// Narrower float types that copies of a checkpoint are made in, for each type.
fn narrower(dtype: Dtype) -> &'static [Dtype] {
    match dtype {
        Dtype::F64 => &[Dtype::F32, Dtype::F16, Dtype::Bf16],
        Dtype::F32 => &[Dtype::F16, Dtype::Bf16],
        // Neither half type holds the values of the other, so that there is no narrower copy of one.
        _ => &[],
    }
}

/// [`SourceTensor::rounded`] of a tensor. `known` has the digests in types that it was looked at in already, `read` gives its bytes where
/// that is not all.
pub(in crate::mapping) fn rounded<'d>(
    dtype: Dtype,
    known: impl Fn(Dtype) -> Option<Digest>,
    read: impl Fn() -> Cow<'d, [u8]>,
) -> BTreeMap<String, Digest> {
    let mut data = None;
    let digests = narrower(dtype).iter().filter_map(|&to| {
        let digest = match known(to) {
            Some(digest) => digest,
            None => Digest::of(&cast(dtype, to, data.get_or_insert_with(&read)).ok()?),
        };
        Some((to.to_string(), digest))
    });
    digests.collect()
}

impl SourceTensor {
    /// Records a tensor of the base; `digest` is that of its bytes, `rounded` those of its values in narrower types.
    pub fn of(
        name: &str,
        (dtype, shape): (Dtype, &[usize]),
        digest: Digest,
        rounded: BTreeMap<String, Digest>,
    ) -> SourceTensor {
        SourceTensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            digest,
            rounded,
            flat: false,
            regular: false,
            contradicted: false,
            attribute: None,
        }
    }

    /// Whether a tensor of this type and shape is this one, or a copy of it in another float type. `digest` is that of its bytes;
    /// `read` gives them where they have to be looked at.
    pub fn is_same(
        &self,
        dtype: Dtype,
        shape: &[usize],
        digest: Digest,
        read: impl FnOnce() -> Option<Tensor>,
    ) -> bool {
        if shape != self.shape {
            return false;
        }
        if dtype == self.dtype {
            return digest == self.digest;
        }
        if let Some(rounded) = self.rounded.get(&dtype.to_string()) {
            return digest == *rounded;
        }
        // A wider copy is the same only if nothing is lost on the way back.
        if !narrower(dtype).contains(&self.dtype) {
            return false;
        }
        let Some(wide) = read() else { return false };
        let back = cast(dtype, self.dtype, &wide.data).ok();
        back.is_some_and(|b| {
            Digest::of(&b) == self.digest
                && cast(self.dtype, dtype, &b).is_ok_and(|again| again == wide.data)
        })
    }
}

impl Inventory {
    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&SourceTensor> {
        let at = self.tensors.binary_search_by(|t| t.name.as_str().cmp(name));
        at.ok().map(|i| &self.tensors[i])
    }
}

/// Format of the document.
pub const SCHEMA: &str = "trtmut.mapping-override/1";

/// Rows said by hand: `{"schema": "trtmut.mapping-override/1", "weights": {"onnx::MatMul_12": {"kind": "tensor", "source":
/// "a.weight", "steps": [{"step": "permute", "order": [1, 0]}]}, "val_7": null}}`. A recipe is used as it stands, without
/// asking the evidence; null says that no checkpoint tensor feeds the weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    pub schema: String,
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
                // What is stated stands alone: explanations beside it would have to agree before anything is written.
                row.alternatives.clear();
                row.rounding = None;
                // What the value may be by itself was a guess, and may have stopped changes of what else it may be.
                row.literal = None;
                // A recipe by hand stands as it is, whatever the consumer says.
                row.layout = Layout::Unknown;
                row.evidence = Vec::<Evidence>::new();
            }
        }
        Ok(())
    }
}
