//! The manifest's contents, version 2.
//!
//! It holds no weights and no absolute paths: paths are relative to the folder that the manifest stands in, so that a
//! folder can be moved as a whole.

use crate::engine::{Fold, Identity, Options, Slot};
use crate::fsx;
use crate::mapping::{Inventory, Mapping, Override, Proof, Row};
use crate::shapes::{Profile, Resolved};
use crate::tensor::{Digest, Dtype, LabelledHasher, TensorDecl};
use serde::{Deserialize, Deserializer, Serialize};
use std::path::Path;

/// Value of [`Manifest::format`] that this version writes and reads.
pub const FORMAT: &str = "trtmut.manifest/2";
/// The format of 0.1.0: read as if there were no base, since what it says of one was learned in another way.
pub const FORMAT_1: &str = "trtmut.manifest/1";

/// What a plan is, where it came from and what it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    /// Tool and version that wrote it, e.g. `trtmut 0.1.0`.
    pub tool: String,
    pub plan: PlanRef,
    pub backend: Identity,
    /// What it was compiled from.
    pub model: ModelRef,
    /// The shape spec, tied to the model's inputs.
    pub shapes: Resolved,
    /// What the spec was lowered to.
    pub profile: Profile,
    /// Choices that change what is compiled.
    pub options: Options,
    /// Inputs, in graph order.
    pub inputs: Vec<TensorDecl>,
    /// Outputs, in graph order.
    pub outputs: Vec<TensorDecl>,
    /// What the backend decided on the way.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The engine's own list of what it holds, where its names or types are not the graph's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<Slot>,
    /// Slots that are computed from several rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folds: Vec<Fold>,
    /// Rows that only the library's own parser can give the engine, from the whole model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_parser: Vec<String>,
    /// The plan holds none of its refittable weights, and has to be refitted before it runs. The rows say what it was built for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stripped: bool,
    /// Another tool built the plan, and that it holds what the rows say is not proven: the next refit gives it every refittable weight.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unproven: bool,
    /// One row per constant tensor of the graph.
    pub weights: Vec<WeightRow>,
    /// Checkpoint that the mapping was proven against, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseSource>,
    /// What was put over the base weights; empty after a build.
    #[serde(default)]
    pub recipe: Recipe,
}

/// The plan that a manifest belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRef {
    pub bytes: u64,
    /// As [`crate::engine::digest_of`] gives it; of a plan of the CPU backends it is made of the
    /// tensors' digests.
    pub digest: Digest,
}

/// The model that a plan was compiled from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// The ONNX file, relative to the manifest's folder.
    pub path: String,
    /// Digest of the ONNX file itself (external data not included).
    pub file: Digest,
    /// Digest of everything that an engine depends on except weight bytes.
    pub structure: Digest,
    /// Digest of structure and base weight bytes together.
    pub content: Digest,
}

/// One constant tensor of the graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightRow {
    pub name: String,
    pub dtype: Dtype,
    /// Extents as the graph has them, outermost first.
    pub shape: Vec<usize>,
    /// Digest of the bytes that the engine holds now.
    pub digest: Digest,
    /// Digest of the bytes in the ONNX file, where the engine holds others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
    /// Why a refit cannot change it; absent where it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
    /// No node reads it: other bytes change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
    /// Which checkpoint tensor it comes from, and how that is known.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "fitted"
    )]
    pub mapping: Option<Box<Row>>,
}

/// Without the room that a parser leaves in lists: of many weights it would be more than what is in them.
fn fitted<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<Row>>, D::Error> {
    let mut row = Option::<Box<Row>>::deserialize(from)?;
    if let Some(row) = &mut row {
        row.fit();
    }
    Ok(row)
}

impl WeightRow {
    /// What [`WeightRow::fixed`] says of a constant that no node reads.
    pub const UNREAD: &str = "no node reads it";

    /// Digest of the bytes in the ONNX file.
    pub fn base_digest(&self) -> Digest {
        self.base.unwrap_or(self.digest)
    }
}

/// A file by name and content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Path relative to the manifest's folder.
    pub path: String,
    /// Digest of the whole file.
    pub digest: Digest,
}

/// The checkpoint that the base weights come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseSource {
    /// Its files, in the order given.
    pub files: Vec<FileRef>,
    /// Which part of them was meant, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    #[serde(default)]
    pub inventory: Inventory,
    /// Tables of integers in the model that none of its tensors gives and that follow no rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsourced_integers: Vec<String>,
    /// The second export that proved the mapping as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeSource>,
}

/// A second export of the model with every tensor moved, and its weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSource {
    pub model: FileRef,
    /// The checkpoint that it was exported from, in the order given.
    pub weights: Vec<FileRef>,
}

/// What was put over the base weights, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// In the order given, which matters only where LoRAs are rounded one after the other.
    pub ingredients: Vec<Ingredient>,
    /// What else was asked for, so that the same can be put together again.
    #[serde(default, skip_serializing_if = "Asked::is_plain")]
    pub asked: Asked,
}

/// Everything of a request but its files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// How LoRAs were rounded (`exact`, `peft`, `peft-half`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuse: Option<String>,
    /// Which part of the files was meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The alpha of LoRA modules that state none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// The file holds some of the tensors only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Names were taken for proof.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trust_names: bool,
    /// Tensors and weights whose change was let go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Derivations that were stated by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Override>,
}

impl Asked {
    /// Whether nothing but files was given.
    pub fn is_plain(&self) -> bool {
        *self == Asked::default()
    }
}

/// One part of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Ingredient {
    Checkpoint {
        file: FileRef,
    },
    /// A LoRA, fused with a scale.
    Lora {
        file: FileRef,
        /// Factor on top of the file's own alpha/rank.
        scale: f64,
    },
}

impl Manifest {
    /// As it stands beside the plan `to` instead of beside `from`: its paths, which are relative, lead to the same files.
    #[must_use]
    pub fn moved(mut self, from: &Path, to: &Path) -> Manifest {
        let folder = |plan: &Path| plan.parent().unwrap_or(Path::new("")).to_owned();
        let old = folder(from);
        if old == folder(to) {
            return self;
        }
        let base = self.base.iter_mut().flat_map(|base| {
            let probe = base.probe.iter_mut();
            let probe = probe.flat_map(|p| std::iter::once(&mut p.model).chain(&mut p.weights));
            base.files.iter_mut().chain(probe)
        });
        let recipe = self.recipe.ingredients.iter_mut().map(|i| match i {
            Ingredient::Checkpoint { file } | Ingredient::Lora { file, .. } => file,
        });
        let files = base.chain(recipe).map(|file| &mut file.path);
        for path in std::iter::once(&mut self.model.path).chain(files) {
            let there = fsx::relative(to, &old.join(&*path));
            *path = there.to_string_lossy().into_owned();
        }
        self
    }

    /// What the base weights prove, as they were when the plan was built; nothing where there were none.
    pub fn proof(&self) -> Option<Proof> {
        let base = self.base.as_ref()?;
        let rows = self.weights.iter().filter_map(|w| w.mapping.as_deref());
        let mapping = Mapping {
            against_base: true,
            rows: rows.cloned().collect(),
            inventory: Some(base.inventory.clone()),
            ..Mapping::default()
        };
        mapping.proof()
    }

    /// Digest of structure and base weight bytes: equal for a re-export of the same model.
    pub fn content_digest(structure: Digest, weights: &[WeightRow]) -> Digest {
        let mut h = LabelledHasher::new("trtmut.content/1");
        h.field("structure", &structure.0);
        // Another export of the same model may list them in another order.
        let mut rows: Vec<_> = weights.iter().collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        for row in rows {
            h.field(&row.name, &row.base_digest().0);
        }
        h.finish()
    }

    /// Marks what no node reads in a manifest that was written when only the text said so.
    pub(super) fn mark_unread(&mut self) {
        for row in &mut self.weights {
            row.unread |= row.fixed.as_deref() == Some(WeightRow::UNREAD);
        }
    }

    /// The row of the weight called `name`.
    pub fn weight(&self, name: &str) -> Option<&WeightRow> {
        self.weights.iter().find(|w| w.name == name)
    }
}
