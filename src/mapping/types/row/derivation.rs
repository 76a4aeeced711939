//! Derivations: how the bytes of an ONNX weight come from the tensors of a checkpoint. A new one begins here, as a [`Recipe`] or, where it
//! works element by element, as a [`Step`]; ARCHITECTURE.md, "To add something", has the files that follow.
//!
//! Manifests keep it under `recipe`, so what is here stays readable.

use crate::tensor::Dtype;
use serde::{Deserialize, Serialize};

/// One step from a checkpoint's tensor to the bytes of an ONNX weight, applied in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Reorders axes: axis `i` of the result is axis `order[i]` of the input; `[1, 0]` is a transpose.
    Permute {
        /// The order of axes.
        order: Vec<usize>,
    },
    /// Gives the same elements another shape (squeeze and unsqueeze included).
    Reshape {
        /// The new shape, outermost extent first.
        shape: Vec<usize>,
    },
    /// Converts every element, rounded once to nearest even.
    Cast {
        /// The new element type.
        dtype: Dtype,
    },
    /// Multiplies every element by one factor, in f32, rounded once.
    Scale { factor: Factor },
    /// Adds one value to every element, in f32, rounded once: `1 + w` of Gemma's norms.
    Offset { value: Factor },
    /// The exponential of every element, in f32, rounded once: a logit scale is kept as its logarithm.
    Exp,
}

impl Step {
    /// Whether it moves elements and leaves their values as they are.
    pub fn moves(&self) -> bool {
        matches!(self, Step::Permute { .. } | Step::Reshape { .. })
    }
}

/// A run of rows of one tensor, seen as a matrix of rows of [`Recipe::Rows`]'s width.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Run {
    /// Name of the tensor in the checkpoint.
    pub source: String,
    pub start: usize,
    pub len: usize,
}

/// An f32 kept by its bits, so that writing and reading it loses nothing and equality is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Factor(u32);

impl Factor {
    pub fn new(value: f32) -> Factor {
        Factor(value.to_bits())
    }

    pub fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl Serialize for Factor {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f32(self.get())
    }
}

impl<'de> Deserialize<'de> for Factor {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        f32::deserialize(d).map(Factor::new)
    }
}

/// Which tensor of a convolution a `BatchNorm` fold gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// `W · γ/√(σ²+ε)`, per output channel.
    Kernel,
    /// `β + (b − μ) · γ/√(σ²+ε)`; `b` is zero where the convolution has no bias.
    Bias,
}

/// The four tensors of a `BatchNorm` module.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Norm {
    /// γ, torch's `weight`; none for a normalisation without affine parameters.
    pub scale: Option<String>,
    /// β, torch's `bias`; as γ.
    pub shift: Option<String>,
    /// μ, one for each channel: torch's `running_mean`.
    pub mean: String,
    /// σ², one for each channel: torch's `running_var`.
    pub variance: String,
}

/// How the bytes of an ONNX weight come from a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Recipe {
    /// One tensor, after steps.
    Tensor {
        /// Name of the tensor in the checkpoint.
        source: String,
        /// Applied in order; empty when the bytes are the same.
        #[serde(default)]
        steps: Vec<Step>,
    },
    /// A `BatchNorm` that the exporter folded into a convolution.
    BatchNorm {
        /// Which of the two results.
        part: Part,
        kernel: String,
        /// The convolution's own bias, where it has one.
        bias: Option<String>,
        norm: Norm,
        /// ε of the normalisation: no file holds it any more, so it was recovered by value.
        epsilon: Factor,
        /// Axis of the kernel that holds output channels: 0 for Conv, 1 for `ConvTranspose`.
        axis: usize,
        /// Element type of the result.
        dtype: Dtype,
    },
    /// Rows of one or several tensors, one below the other: slices of a stacked q/k/v, joined projections, gates in another
    /// order, a position table that was sliced or gathered.
    Rows {
        /// Elements of one row; every tensor is seen as a matrix of rows of this width.
        width: usize,
        /// In order, outermost axis.
        runs: Vec<Run>,
        /// Rows and columns are exchanged at the end.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        transposed: bool,
    },
    /// A weight that torch keeps as a direction and a magnitude (`torch.nn.utils.weight_norm`): `g · v/‖v‖`.
    WeightNorm {
        /// v, torch's `weight_v` or `parametrizations.weight.original1`.
        direction: String,
        /// g, torch's `weight_g` or `parametrizations.weight.original0`.
        magnitude: String,
        /// Axis that keeps a norm of its own; without one there is one norm of all elements.
        axis: Option<usize>,
        /// Applied afterwards, in order.
        #[serde(default)]
        steps: Vec<Step>,
    },
    /// The sum of what several derivations give, each in the weight's own type: a position table with a row of a type table.
    Sum {
        /// What is added, in order.
        terms: Vec<Recipe>,
    },
}

impl Recipe {
    /// Whether it is more than one tensor after steps, so that no inverse is known.
    pub fn is_computed(&self) -> bool {
        !matches!(self, Recipe::Tensor { .. })
    }

    /// Names of every checkpoint tensor that is read.
    pub fn sources(&self) -> Vec<&str> {
        match self {
            Recipe::Tensor { source, .. } => vec![source],
            Recipe::Rows { runs, .. } => {
                let mut all: Vec<&str> = runs.iter().map(|r| r.source.as_str()).collect();
                all.sort_unstable();
                all.dedup();
                all
            }
            Recipe::WeightNorm {
                direction,
                magnitude,
                ..
            } => vec![direction, magnitude],
            Recipe::Sum { terms } => {
                let mut all: Vec<&str> = terms.iter().flat_map(Recipe::sources).collect();
                all.sort_unstable();
                all.dedup();
                all
            }
            Recipe::BatchNorm {
                part,
                kernel,
                bias,
                norm,
                ..
            } => {
                let mut all = Vec::new();
                match part {
                    Part::Kernel => all.push(kernel.as_str()),
                    Part::Bias => {
                        all.extend(bias.as_deref());
                        all.extend(norm.shift.as_deref());
                        all.push(norm.mean.as_str());
                    }
                }
                all.extend(norm.scale.as_deref());
                all.push(norm.variance.as_str());
                all
            }
        }
    }

    /// Gives back the room that its lists do not fill.
    pub(super) fn fit(&mut self) {
        match self {
            Recipe::Tensor { steps, .. } | Recipe::WeightNorm { steps, .. } => {
                steps.shrink_to_fit();
                for step in steps {
                    if let Step::Permute { order: list } | Step::Reshape { shape: list } = step {
                        list.shrink_to_fit();
                    }
                }
            }
            Recipe::Rows { runs, .. } => runs.shrink_to_fit(),
            Recipe::Sum { terms } => {
                terms.shrink_to_fit();
                terms.iter_mut().for_each(Recipe::fit);
            }
            Recipe::BatchNorm { .. } => {}
        }
    }

    /// The same recipe with every source name changed by `rename`.
    #[must_use]
    pub fn renamed(&self, rename: impl Fn(&str) -> String) -> Recipe {
        let mut recipe = self.clone();
        recipe.each_source(&mut |name| *name = rename(name));
        recipe
    }

    fn each_source(&mut self, visit: &mut dyn FnMut(&mut String)) {
        match self {
            Recipe::Tensor { source, .. } => visit(source),
            Recipe::Rows { runs, .. } => runs.iter_mut().for_each(|r| visit(&mut r.source)),
            Recipe::WeightNorm {
                direction,
                magnitude,
                ..
            } => [direction, magnitude].into_iter().for_each(visit),
            Recipe::Sum { terms } => terms.iter_mut().for_each(|t| t.each_source(visit)),
            Recipe::BatchNorm {
                kernel, bias, norm, ..
            } => {
                [kernel, &mut norm.mean, &mut norm.variance]
                    .into_iter()
                    .chain(bias)
                    .chain(&mut norm.scale)
                    .chain(&mut norm.shift)
                    .for_each(visit);
            }
        }
    }
}
