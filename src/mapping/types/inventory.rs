//! What was accepted as the checkpoint that a model was exported from, tensor by tensor.
//!
//! A new file is compared with it by one digest a tensor; the base file itself is not needed again.

use crate::tensor::{Digest, Dtype, TensorView, cast};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One tensor of the base checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTensor {
    /// Its name in the base checkpoint.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Digests of its values rounded once to each narrower float type, by type: a copy in that type is known to be the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rounded: BTreeMap<String, Digest>,
    /// At most three different values: where such a tensor went cannot be seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flat: bool,
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
        _ => &[],
    }
}

impl SourceTensor {
    /// Records `view`, a tensor of the base called `name`.
    pub fn of(name: &str, view: TensorView<'_>, flat: bool) -> SourceTensor {
        let rounded = narrower(view.dtype).iter().filter_map(|&to| {
            let bytes = cast(view.dtype, to, view.data).ok()?;
            Some((to.to_string(), Digest::of(&bytes)))
        });
        SourceTensor {
            name: name.to_owned(),
            dtype: view.dtype,
            shape: view.shape.to_vec(),
            digest: Digest::of(view.data),
            rounded: rounded.collect(),
            flat,
            contradicted: false,
            attribute: None,
        }
    }

    /// Whether `view` is this tensor, or a copy of it in another float type.
    pub fn is_same(&self, view: TensorView<'_>) -> bool {
        if view.shape != self.shape {
            return false;
        }
        if view.dtype == self.dtype {
            return Digest::of(view.data) == self.digest;
        }
        if let Some(rounded) = self.rounded.get(&view.dtype.to_string()) {
            return Digest::of(view.data) == *rounded;
        }
        // A wider copy is the same only if nothing is lost on the way back.
        if !narrower(view.dtype).contains(&self.dtype) {
            return false;
        }
        let back = cast(view.dtype, self.dtype, view.data).ok();
        back.is_some_and(|b| {
            Digest::of(&b) == self.digest
                && cast(self.dtype, view.dtype, &b).is_ok_and(|again| again == view.data)
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
