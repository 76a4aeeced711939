//! The rows of a mapping: which source tensors fill an ONNX weight, by which steps, and how that is known.

mod derivation;

pub use derivation::{Factor, Norm, Part, Recipe, Run, Step};

use crate::tensor::{Digest, Dtype};
use serde::{Deserialize, Serialize};

/// A distance from nothing is infinite, which JSON writes as `null`.
fn or_infinite<'de, D: serde::Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or(f64::INFINITY))
}

/// How sure a row is. The order is from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// A person said so (`--mapping`).
    Given,
    /// The source, under its steps, has exactly the bytes that the ONNX file holds.
    Proven,
    /// Name or path says so, and the value is close or the graph's structure agrees.
    Corroborated,
    /// Belongs to the graph: no tensor of the checkpoint feeds it.
    Constant,
    /// Several sources fit equally well.
    Ambiguous,
    /// At most a name speaks for it.
    Unproven,
}

impl Grade {
    /// Whether a refit may write changed bytes through a row of this grade without being told to trust names.
    pub fn is_writable(self) -> bool {
        matches!(self, Grade::Given | Grade::Proven | Grade::Corroborated)
    }

    /// The kebab-case word that reports and manifests use.
    pub fn name(self) -> &'static str {
        match self {
            Grade::Given => "given",
            Grade::Proven => "proven",
            Grade::Corroborated => "corroborated",
            Grade::Constant => "constant",
            Grade::Ambiguous => "ambiguous",
            Grade::Unproven => "unproven",
        }
    }
}

/// How a matrix stands in the graph, seen from its consumer. Torch's `Linear` computes `x·Wᵀ` with `W` of `[out, in]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// As torch holds it.
    AsIs,
    /// Rows and columns exchanged: the exporter folded the transpose of a `Linear` into the initializer.
    Transposed,
    /// The graph does not say.
    Unknown,
}

/// Where a presumed source name comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Clue {
    /// The initializer's own name.
    Name,
    /// The module path in the name of the node that reads it.
    NodePath { node: String },
    /// The exporter's record of what the value was folded from.
    FoldedFrom,
    /// The named bias that is added to the product.
    BiasPartner { bias: String },
    /// The dataflow of attention: softmax(q·kᵀ)·v, then an output projection whose name is known.
    AttentionRole {
        /// `query`, `key` or `value`.
        role: AttentionRole,
        /// Module of the output projection.
        output: String,
    },
}

/// The three inputs of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionRole {
    /// Left factor of the scores.
    Query,
    /// Right factor of the scores.
    Key,
    /// What the scores weigh.
    Value,
}

/// A presumed source: what the graph alone says about where a weight came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hint {
    /// Where it comes from.
    #[serde(flatten)]
    pub clue: Clue,
    /// Names that the source may have, best first, before prefixes are brought in line.
    pub names: Vec<String>,
}

/// Why a convolution's weights are thought to hold a folded normalisation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "sign", rename_all = "kebab-case")]
pub enum FoldSign {
    /// Kernel and bias are both anonymous (`onnx::Conv_88`): exporters rename a kernel only when they compute a new one.
    AnonymousKernel,
    /// The bias is named after the kernel (`conv1.weight_bias`).
    DerivedBias { bias: String },
    /// The node was made by a rewriter (`node_Conv_133` in place of `node_conv2d`).
    RewrittenNode { node: String },
}

/// One reason for or against a row. Those after [`Evidence::OtherCloser`] speak against it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "evidence", rename_all = "kebab-case")]
pub enum Evidence {
    /// The graph presumes this source.
    Hinted {
        /// The source's name in the checkpoint.
        source: String,
        clue: Clue,
    },
    /// The consumer's orientation and the shape agree with the steps.
    Orientation {
        /// What the consumer says.
        layout: Layout,
    },
    /// The values agree, every element, at this type.
    ValueEqual {
        source: String,
        /// The narrower of the two storage types; equality is exact in it.
        dtype: Dtype,
        /// Whether no other tensor of the checkpoint has these values.
        unique: bool,
    },
    /// The fold, recomputed, agrees.
    FoldEqual {
        /// Largest distance in units in the last place; 0 when bit-equal.
        max_ulp: u32,
    },
    /// The new value is a small or low-rank change of what the ONNX file holds.
    Close {
        source: String,
        /// ‖new − held‖ / ‖held‖ over all elements; infinite where nothing but zeros is held.
        #[serde(deserialize_with = "or_infinite")]
        relative: f64,
        /// Cosine of the angle between the two.
        cosine: f64,
        /// Effective rank of the change and the largest it could have, where the change is of low rank.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rank: Option<(usize, usize)>,
        /// Cosine of the next best candidate, the transposed included.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runner_up: Option<f64>,
    },
    /// Another candidate's value is clearly closer than the named one's.
    OtherCloser {
        source: String,
        /// Whether it is closer transposed.
        transposed: bool,
        cosine: f64,
    },
    /// The new value is not recognisable as a change of what the ONNX file holds.
    NotClose {
        source: String,
        /// ‖new − held‖ / ‖held‖ over all elements; infinite where nothing but zeros is held.
        #[serde(deserialize_with = "or_infinite")]
        relative: f64,
        /// Cosine of the angle between the two.
        cosine: f64,
    },
    /// The new value is, channel by channel, a multiple of the held one: a scale was folded in.
    Proportional { source: String },
    /// Name and value point to different sources.
    Disagree {
        /// By name or path.
        named: String,
        valued: String,
    },
    /// The graph shows that a normalisation may have been folded in.
    FoldSuspected {
        #[serde(flatten)]
        sign: FoldSign,
    },
    /// The checkpoint holds a normalisation that nothing in the graph accounts for and that would fit.
    NormUnaccounted { module: String },
    /// Several sources have these values.
    SharedValue { sources: Vec<String> },
    /// None of the presumed sources is in the checkpoint.
    SourceMissing { names: Vec<String> },
    /// The presumed source has a shape that does not fit.
    ShapeMisfit { source: String, shape: Vec<usize> },
    /// Nothing in the checkpoint fits.
    NoCandidate,
}

/// Why the value of a constant needs no tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Literal {
    /// At most three different values: masks, ones, zeros.
    Flat,
    Scalar,
    /// A few numbers that somebody may have typed.
    Typed,
    /// Every element is the one before plus the same step.
    Arithmetic,
    /// Every element is the one before times the same factor: frequencies.
    Geometric,
    /// Every column is a sine or cosine of the row's index: position tables.
    Sinusoidal,
    /// A second export with every tensor moved has the same value.
    Unmoved,
}

impl Literal {
    /// Whether it is a sequence or a table of floats that follows a rule.
    pub fn is_table(self) -> bool {
        matches!(
            self,
            Literal::Arithmetic | Literal::Geometric | Literal::Sinusoidal
        )
    }
}

/// What one node that reads a constant says about where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reading {
    pub node: String,
    #[serde(flatten)]
    pub meaning: Meaning,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "kebab-case")]
pub enum Meaning {
    /// The exporter's record (`pkg.torch.onnx.fx_node`) lists what the node read before anything was merged.
    Record {
        /// Arguments that are parameters, buffers or lifted constants, as the record spells them (`p_fc_weight`).
        placeholders: Vec<String>,
        /// Arguments that are values of other nodes.
        values: Vec<String>,
        /// Whether every argument is accounted for: none is a value that no node makes.
        complete: bool,
        /// How many inputs of the node are this constant.
        inputs: usize,
        /// Where not every argument is accounted for: those that no node makes. One of them was folded, and is what the node reads.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        folded: Vec<String>,
    },
    /// The module path in the node's name (TorchScript).
    Path {
        module: String,
    },
    Nothing,
    /// The record shows that a second node like this one was merged into it: what that one read is not known.
    MergedAway,
}

/// How far a recomputed fold is from what the exporter wrote.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rounding {
    /// Largest distance in units in the last place.
    pub max_ulp: u32,
    /// Digest of the bytes that this code computes from the base: equal again means unchanged.
    pub recomputed: Digest,
}

/// What is known of one ONNX weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// ONNX name, as [`crate::onnx::Weight::name`].
    pub name: String,
    /// Element type in the ONNX file.
    pub dtype: Dtype,
    /// Shape in the ONNX file.
    pub shape: Vec<usize>,
    /// How sure the row is.
    pub grade: Grade,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Recipe>,
    /// Other recipes that fit as well; when they give different bytes, nobody can say which is meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<Recipe>,
    /// What the graph presumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<Hint>,
    pub layout: Layout,
    /// Signs of a folded normalisation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fold_signs: Vec<FoldSign>,
    /// The other constant of the same convolution or Gemm: a kernel's bias, a bias's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner: Option<String>,
    /// Operators that read it, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<String>,
    /// Why the grade is what it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// For folds that are not bit-equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
    /// Why the value may need no tensor at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub literal: Option<Literal>,
    /// Set where one initializer stands for the sources of this row and for something else: it may keep its value and must not
    /// change. The text names the other reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
    /// It stands in a `Constant` node, where the older exporter keeps literals and never parameters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inline: bool,
    /// A second export with every tensor moved proves what the row says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probed: bool,
    /// Set where engines fold the value in: what it is to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baked: Option<String>,
    /// What its readers say about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readings: Vec<Reading>,
    /// Tensors and values that the exporter made it from, by its record (`pkg.onnxscript.optimizer.folded_from`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folded_from: Vec<String>,
}

impl Row {
    /// All derivations that reproduce the value: they have to agree before it is written.
    pub fn explanations(&self) -> impl Iterator<Item = &Recipe> {
        self.recipe.iter().chain(&self.alternatives)
    }

    /// Adds a derivation that reproduces the row; the first is its recipe.
    pub(in crate::mapping) fn explain(&mut self, recipe: Recipe, rounding: Option<Rounding>) {
        if self.explanations().any(|r| *r == recipe) {
            return;
        }
        if rounding.is_some() && self.rounding.is_none() {
            self.rounding = rounding;
        }
        if self.recipe.is_none() {
            self.recipe = Some(recipe);
        } else {
            self.alternatives.push(recipe);
        }
    }

    /// Gives back the room that its lists do not fill.
    pub fn fit(&mut self) {
        self.shape.shrink_to_fit();
        self.alternatives.shrink_to_fit();
        let recipes = self.recipe.iter_mut().chain(&mut self.alternatives);
        recipes.for_each(Recipe::fit);
        self.hints.shrink_to_fit();
        for hint in &mut self.hints {
            hint.names.shrink_to_fit();
        }
        self.fold_signs.shrink_to_fit();
        self.operators.shrink_to_fit();
        self.evidence.shrink_to_fit();
        self.readings.shrink_to_fit();
        self.folded_from.shrink_to_fit();
    }

    /// Whether nothing says where the value comes from: a change of any tensor could be a change of it.
    pub fn is_unsourced(&self) -> bool {
        self.explanations().next().is_none()
            && self.literal.is_none()
            && self.baked.is_none()
            && self.grade != Grade::Given
    }

    /// Whether engines fold the value in, the exporter recorded what it was made from, and nothing says how: a change of one of
    /// those could be a change of it.
    pub fn is_folded_in(&self) -> bool {
        self.baked.is_some()
            && !self.folded_from.is_empty()
            && self.explanations().next().is_none()
            && self.literal.is_none()
            && self.grade != Grade::Given
    }

    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn bytes(&self) -> usize {
        self.dtype.bytes_for(self.count()).unwrap_or(usize::MAX)
    }

    /// Whether the graph names this weight as a module's own parameter, so that a checkpoint without it is incomplete.
    pub fn is_parameter(&self) -> bool {
        let parameter = |name: &String| {
            name.rsplit_once('.').is_some_and(|(_, leaf)| {
                leaf == "weight"
                    || leaf == "bias"
                    || leaf.ends_with("_weight")
                    || leaf.ends_with("_bias")
            })
        };
        // Without a name as well: exporters transpose the matrix of a `Linear`, and rename a kernel
        // only where they fold something into it.
        self.hints.iter().any(|h| match h.clue {
            Clue::Name => h.names.iter().any(parameter),
            Clue::BiasPartner { .. } | Clue::AttentionRole { .. } | Clue::FoldedFrom => true,
            Clue::NodePath { .. } => false,
        }) || (self.shape.len() == 2 && self.layout == Layout::Transposed)
            || !self.fold_signs.is_empty()
    }
}

/// Adds a hint unless one of the same names is there.
pub(in crate::mapping) fn push_hint(row: &mut Row, clue: Clue, names: Vec<String>) {
    if !row.hints.iter().any(|h| h.names == names) {
        row.hints.push(Hint { clue, names });
    }
}

/// A shape without its extents of one.
pub(in crate::mapping) fn squeezed(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|&d| d != 1).collect()
}
