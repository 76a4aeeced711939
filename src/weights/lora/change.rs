//! The change of one parameter: what it is made of, and its delta read from the file.

use super::super::Source;
use super::key_layouts::Role;
use super::kinds::{Delta, Matrix, Step, tucker, wide};
use super::multiply::Multiplier;
use crate::tensor::TensorView;
use std::collections::BTreeMap;

/// The tensors of one module, by what they are.
pub(super) type Parts = BTreeMap<Role, String>;

/// A change of one parameter, as the LoRA gives it.
#[derive(Debug)]
pub(super) struct Change {
    /// Module as the LoRA writes it.
    pub module: String,
    pub kind: Kind,
    /// Factor of the delta, without the user's scale.
    pub scaling: f64,
    /// Rank of the factors; `None` for full tensors.
    pub rank: Option<usize>,
    /// The file's or the configuration's alpha.
    pub alpha: Option<f64>,
    pub dora: Option<Dora>,
    /// Shape of the delta: `[out, in, kernel…]`, or as flat as the factors are.
    pub shape: Vec<usize>,
    /// A table of embeddings, whose delta PEFT rounds to the table's type before it adds it.
    pub embedding: bool,
}

/// Keys of the tensors that a delta is made of.
#[derive(Debug)]
pub(super) enum Kind {
    LowRank {
        up: String,
        down: String,
        mid: Option<String>,
        transposed: bool,
    },
    Hadamard {
        w1: [String; 2],
        w2: [String; 2],
        cores: Option<[String; 2]>,
    },
    Kronecker {
        w1: Factor,
        w2: Factor,
        core: Option<String>,
    },
    Difference(String),
    Replacement(String),
    Product(Multiplier),
}

/// A matrix, whole or as a product.
#[derive(Debug)]
pub(super) enum Factor {
    Whole(String),
    Product(String, String),
}

/// `W' = m · V / ‖V‖` with `V = W + delta` (<https://arxiv.org/abs/2402.09353>).
#[derive(Debug)]
pub(super) struct Dora {
    pub key: String,
    pub axis: Axis,
    /// Added to the norm: f32's machine epsilon by LyCORIS, nothing by PEFT.
    pub epsilon: f64,
}

/// What a magnitude is the norm of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// One row of the weight.
    Rows,
    /// So many neighbouring columns, over all rows.
    Columns(usize),
}

/// The changes of a module's weight and bias.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub weight: Vec<Change>,
    pub bias: Vec<Change>,
}

impl Kind {
    /// Keys of its tensors, in an order of their own.
    fn keys(&self) -> Vec<&String> {
        match self {
            Kind::LowRank { up, down, mid, .. } => [up, down].into_iter().chain(mid).collect(),
            Kind::Hadamard { w1, w2, cores } => {
                w1.iter().chain(w2).chain(cores.iter().flatten()).collect()
            }
            Kind::Kronecker { w1, w2, core } => {
                let mut all = Vec::new();
                for factor in [w1, w2] {
                    match factor {
                        Factor::Whole(k) => all.push(k),
                        Factor::Product(a, b) => all.extend([a, b]),
                    }
                }
                all.extend(core);
                all
            }
            Kind::Difference(k) | Kind::Replacement(k) => vec![k],
            Kind::Product(multiplier) => multiplier.keys(),
        }
    }

    /// Whether `other` makes its delta by the same formula of as many tensors, whatever these are called and hold.
    fn has_form_of(&self, other: &Kind) -> bool {
        let alike = |a: &Factor, b: &Factor| std::mem::discriminant(a) == std::mem::discriminant(b);
        match (self, other) {
            (
                Kind::LowRank {
                    mid: a,
                    transposed: s,
                    ..
                },
                Kind::LowRank {
                    mid: b,
                    transposed: t,
                    ..
                },
            ) => a.is_some() == b.is_some() && s == t,
            (Kind::Hadamard { cores: a, .. }, Kind::Hadamard { cores: b, .. }) => {
                a.is_some() == b.is_some()
            }
            (
                Kind::Kronecker {
                    w1: a1,
                    w2: a2,
                    core: a,
                },
                Kind::Kronecker {
                    w1: b1,
                    w2: b2,
                    core: b,
                },
            ) => alike(a1, b1) && alike(a2, b2) && a.is_some() == b.is_some(),
            (Kind::Difference(_), Kind::Difference(_))
            | (Kind::Replacement(_), Kind::Replacement(_)) => true,
            (Kind::Product(a), Kind::Product(b)) => a.has_form_of(b),
            _ => false,
        }
    }
}

impl Change {
    /// Whether it leaves every weight as it is.
    pub(super) fn is_nothing(&self) -> bool {
        // A scale of 0 undoes what is added. A replacement and a rotation have no scale, and a
        // DoRA's magnitudes act without its factors.
        let added = !self.replaces()
            && !matches!(&self.kind, Kind::Product(m) if !matches!(m, Multiplier::Glora { .. }));
        self.scaling == 0.0 && self.dora.is_none() && added
    }

    /// Whether `other` says the same, tensor by tensor.
    pub(super) fn equals(&self, other: &Change, source: &Source) -> bool {
        let all = |c: &'_ Change| -> Vec<String> {
            let magnitude = c.dora.iter().map(|d| &d.key);
            c.kind
                .keys()
                .into_iter()
                .chain(magnitude)
                .cloned()
                .collect()
        };
        let (a, b) = (all(self), all(other));
        let same = |(a, b): (&String, &String)| source.get(a) == source.get(b);
        let dora = |c: &Change| c.dora.as_ref().map(|d| (d.axis, d.epsilon));
        self.kind.has_form_of(&other.kind)
            && self.scaling == other.scaling
            && self.shape == other.shape
            && self.embedding == other.embedding
            && dora(self) == dora(other)
            && a.len() == b.len()
            && a.iter().zip(&b).all(same)
    }

    /// The delta before its scale. The file's values are rounded as `read` says, products of factors as `step` says.
    pub(super) fn delta<'a>(&self, source: &'a Source, read: Step, step: Step) -> Delta<'a> {
        let view = |key: &str| source.get(key).expect("the keys came from this source");
        let read = |key: &str| Matrix::of(view(key)).rounded(read);
        let pair = |a: &str, b: &str, core: Option<&String>| match core {
            None => (read(a), read(b)),
            Some(core) => {
                let (left, right) = (read(a), read(b));
                let inner = tucker(&read(core), right.rows, &right);
                (left.transposed(), inner)
            }
        };
        match &self.kind {
            Kind::LowRank {
                up,
                down,
                mid,
                transposed,
            } => {
                let (up, right) = (read(up), read(down));
                let down = match mid {
                    Some(mid) => tucker(&read(mid), right.rows, &right),
                    None => right,
                };
                if *transposed {
                    let (up, down) = (down.transposed(), up.transposed());
                    return Delta::Product { up, down };
                }
                Delta::Product { up, down }
            }
            Kind::Hadamard { w1, w2, cores } => Delta::Hadamard {
                a: pair(&w1[0], &w1[1], cores.as_ref().map(|c| &c[0])),
                b: pair(&w2[0], &w2[1], cores.as_ref().map(|c| &c[1])),
            },
            Kind::Kronecker { w1, w2, core } => {
                let whole = |f: &Factor, core: Option<&String>| match f {
                    Factor::Whole(k) => read(k),
                    Factor::Product(a, b) => {
                        let (a, b) = pair(a, b, core);
                        a.times(&b, step)
                    }
                };
                Delta::Kronecker {
                    w1: whole(w1, None),
                    w2: whole(w2, core.as_ref()),
                }
            }
            // It is computed of the weight: `Change::product`.
            Kind::Product(_) => Delta::Computed(Matrix {
                rows: 0,
                columns: 0,
                data: Vec::new(),
            }),
            Kind::Difference(key) | Kind::Replacement(key) => {
                let v = view(key);
                Delta::Full {
                    columns: v.shape.get(1..).map_or(1, |s| s.iter().product()),
                    dtype: v.dtype,
                    data: v.data,
                }
            }
        }
    }

    /// What a multiplier makes of the weight `own`, of this shape.
    pub(super) fn product(&self, source: &Source, own: TensorView<'_>) -> Option<Matrix> {
        let Kind::Product(multiplier) = &self.kind else {
            return None;
        };
        let width = self.shape.get(1).copied().unwrap_or(1);
        // Only here: in f64 a weight has four times the bytes of its halves.
        Some(multiplier.apply(source, Matrix::of(own), width, self.scaling))
    }

    /// The magnitudes of a DoRA, if it is one.
    pub(super) fn magnitudes(&self, source: &Source) -> Option<Vec<f64>> {
        let view = source.get(&self.dora.as_ref()?.key)?;
        Some(wide(view.dtype, view.data))
    }

    /// Rows of the delta.
    pub(super) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The same change for a layer that keeps its weight as `[out, in]` in spite of the configuration's `fan_in_fan_out`
    /// (PEFT ignores the flag for `nn.Linear`). False when it is not transposed.
    pub(super) fn straight(&mut self) -> bool {
        let Kind::LowRank { transposed, .. } = &mut self.kind else {
            return false;
        };
        if !std::mem::take(transposed) {
            return false;
        }
        self.shape.reverse();
        // There is still one magnitude for each output, and outputs are the other axis now.
        if let Some(dora) = &mut self.dora {
            dora.axis = match dora.axis {
                Axis::Columns(_) => Axis::Rows,
                Axis::Rows => Axis::Columns(1),
            };
        }
        true
    }

    /// Whether it takes the weight's place.
    pub(super) fn replaces(&self) -> bool {
        matches!(self.kind, Kind::Replacement(_))
    }
}
