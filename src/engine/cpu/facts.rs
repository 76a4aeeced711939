//! What is known of a graph's values before it runs: element type, extents, and the elements of small integer constants.

use super::proto::{attribute, extents, held, input, int, integers, ints, string};
use crate::tensor::Dtype;
use onnx_protobuf::{GraphProto, NodeProto, TensorProto, ValueInfoProto};
use std::collections::HashMap;

/// Extents, `None` for those that are not known.
pub type Shape = Vec<Option<usize>>;

/// What is known of one value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fact {
    /// Element type in the model.
    pub dtype: Option<Dtype>,
    /// Extents; `None` when not even the rank is known.
    pub shape: Option<Shape>,
    /// Elements of a small integer constant.
    pub ints: Option<Vec<i64>>,
    /// An `i64` in it that does not fit 32 bits.
    pub wide: Option<i64>,
}

/// Constants of more elements are not kept as facts.
const KEPT: usize = 256;

impl Fact {
    /// A fact of type and shape alone.
    pub fn new(dtype: Option<Dtype>, shape: Option<Shape>) -> Fact {
        Fact {
            dtype,
            shape,
            ..Fact::default()
        }
    }

    /// What an inline constant or the place of a weight tells.
    pub fn constant(tensor: &TensorProto) -> Fact {
        let values = integers(tensor);
        Fact {
            dtype: Dtype::from_onnx(tensor.data_type),
            shape: extents(tensor).map(|d| d.into_iter().map(Some).collect()),
            wide: values
                .iter()
                .flatten()
                .copied()
                .find(|&v| held(v).is_none()),
            ints: values.filter(|v| v.len() <= KEPT),
        }
    }

    /// What a declaration tells.
    pub fn declared(value: &ValueInfoProto) -> Fact {
        use onnx_protobuf::type_proto::Value;
        let Some(Value::TensorType(tensor)) = value.type_.as_ref().and_then(|t| t.value.as_ref())
        else {
            return Fact::default();
        };
        let shape = tensor.shape.as_ref().map(|s| {
            s.dim
                .iter()
                .map(|d| {
                    d.has_dim_value()
                        .then(|| usize::try_from(d.dim_value()).ok())
                        .flatten()
                })
                .collect()
        });
        Fact::new(Dtype::from_onnx(tensor.elem_type), shape)
    }

    /// What is known of a value that is either this or `other`. A type that only one of them has is believed: they must agree.
    pub fn or(self, other: Fact) -> Fact {
        let shape = match (self.shape, other.shape) {
            (Some(a), Some(b)) if a.len() == b.len() => Some(
                a.into_iter()
                    .zip(b)
                    .map(|(a, b)| a.filter(|_| a == b))
                    .collect(),
            ),
            _ => None,
        };
        Fact {
            dtype: self.dtype.or(other.dtype),
            shape,
            ints: self.ints.filter(|a| Some(a) == other.ints.as_ref()),
            wide: self.wide.or(other.wide),
        }
    }

    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }
}

/// The facts of one graph, with those of the graphs around it.
#[derive(Debug, Default)]
pub struct Facts<'p> {
    outer: Option<&'p Facts<'p>>,
    known: HashMap<String, Fact>,
}

impl<'p> Facts<'p> {
    /// What `graph` declares: initializers, inputs, and the declared types of inner values.
    pub fn of(graph: &GraphProto, outer: Option<&'p Facts<'p>>) -> Facts<'p> {
        let mut known: HashMap<String, Fact> = graph
            .input
            .iter()
            .chain(&graph.value_info)
            .chain(&graph.output)
            .map(|v| (v.name.clone(), Fact::declared(v)))
            .collect();
        known.extend(
            graph
                .initializer
                .iter()
                .map(|t| (t.name.clone(), Fact::constant(t))),
        );
        Facts { outer, known }
    }

    /// What is known of `name`.
    pub fn get(&self, name: &str) -> Fact {
        match (self.known.get(name), self.outer) {
            (Some(fact), _) => fact.clone(),
            (None, Some(outer)) => outer.get(name),
            (None, None) => Fact::default(),
        }
    }

    /// What is known of input `index` of `node`; the default where it is left out.
    pub fn input(&self, node: &NodeProto, index: usize) -> Fact {
        input(node, index).map(|n| self.get(n)).unwrap_or_default()
    }

    /// Records what was derived; where the derivation is silent, the declaration stays.
    pub fn learn(&mut self, name: &str, derived: Fact) {
        let declared = self.get(name);
        let shape = match (derived.shape, declared.shape) {
            (Some(a), Some(b)) if a.len() == b.len() => {
                Some(a.into_iter().zip(b).map(|(a, b)| a.or(b)).collect())
            }
            // A declaration that contradicts the derivation is not believed.
            (Some(a), _) => Some(a),
            (None, b) => b,
        };
        self.known.insert(
            name.into(),
            Fact {
                dtype: derived.dtype.or(declared.dtype),
                shape,
                ints: derived.ints,
                wide: derived.wide,
            },
        );
    }
}

/// How the shape of a node's outputs follows from its inputs.
#[derive(Debug, Clone, Copy)]
pub enum ShapeRule {
    /// That of the first input.
    Same,
    /// The first input's rank, other extents.
    SameRank,
    /// All inputs broadcast against each other.
    Broadcast,
    Rank(usize),
    /// These ranks, one an output.
    Ranks(&'static [usize]),
    By(fn(&NodeProto, &Facts<'_>) -> Option<Shape>),
    Unknown,
}

impl ShapeRule {
    /// Applies the rule to output `index`.
    pub fn apply(self, node: &NodeProto, index: usize, facts: &Facts<'_>) -> Option<Shape> {
        match self {
            ShapeRule::Same => facts.input(node, 0).shape,
            ShapeRule::SameRank => facts.input(node, 0).rank().map(|r| vec![None; r]),
            ShapeRule::Broadcast => (0..node.input.len())
                .filter(|&i| input(node, i).is_some())
                .map(|i| facts.input(node, i).shape)
                .reduce(|a, b| Some(broadcast(&a?, &b?)))?,
            ShapeRule::Rank(n) => Some(vec![None; n]),
            ShapeRule::Ranks(all) => all.get(index).map(|&n| vec![None; n]),
            ShapeRule::By(f) => f(node, facts),
            ShapeRule::Unknown => None,
        }
    }
}

/// Broadcasting as `NumPy` does it; a pair that does not fit gives an unknown extent, and the engine says so when it runs.
fn broadcast(a: &[Option<usize>], b: &[Option<usize>]) -> Shape {
    let rank = a.len().max(b.len());
    let at =
        |s: &[Option<usize>], i: usize| (i + s.len()).checked_sub(rank).map_or(Some(1), |j| s[j]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (Some(1), d) | (d, Some(1)) => d,
            (Some(x), Some(y)) if x != y => None,
            (Some(x), _) | (_, Some(x)) => Some(x),
            (None, None) => None,
        })
        .collect()
}

fn axis(value: i64, rank: usize) -> Option<usize> {
    let value = if value < 0 {
        value + rank as i64
    } else {
        value
    };
    usize::try_from(value).ok().filter(|&a| a < rank)
}

/// `axes` as an attribute (older opsets) or as input `index`.
fn axes(node: &NodeProto, facts: &Facts<'_>, index: usize) -> Option<Vec<i64>> {
    match ints(node, "axes") {
        Some(axes) => Some(axes.to_vec()),
        None => facts.input(node, index).ints,
    }
}

pub fn transpose(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let shape = facts.input(node, 0).shape?;
    match ints(node, "perm") {
        None => Some(shape.into_iter().rev().collect()),
        Some(perm) => perm
            .iter()
            .map(|&p| usize::try_from(p).ok().and_then(|p| shape.get(p).copied()))
            .collect(),
    }
}

/// The shape that a one-dimensional tensor (input `index`) of extents describes.
fn described(node: &NodeProto, facts: &Facts<'_>, index: usize) -> Option<Shape> {
    let fact = facts.input(node, index);
    match (&fact.ints, fact.shape.as_deref()) {
        (Some(values), _) => Some(values.iter().map(|&v| usize::try_from(v).ok()).collect()),
        (None, Some([Some(n)])) => Some(vec![None; *n]),
        _ => None,
    }
}

pub fn reshape(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    // An extent 0 copies the input's (or means 0 with `allowzero`): left unknown.
    let target = described(node, facts, 1)?;
    Some(target.into_iter().map(|d| d.filter(|&d| d > 0)).collect())
}

pub fn constant_of_shape(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    described(node, facts, 0)
}

pub fn expand(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let shape = facts.input(node, 0).shape?;
    Some(broadcast(&shape, &described(node, facts, 1)?))
}

pub fn unsqueeze(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let shape = facts.input(node, 0).shape?;
    let axes = axes(node, facts, 1)?;
    let rank = shape.len() + axes.len();
    let mut new = vec![false; rank];
    for a in axes {
        new[axis(a, rank)?] = true;
    }
    let mut old = shape.into_iter();
    Some(
        new.into_iter()
            .map(|is_new| {
                if is_new {
                    Some(1)
                } else {
                    old.next().flatten()
                }
            })
            .collect(),
    )
}

pub fn squeeze(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let shape = facts.input(node, 0).shape?;
    // Without axes every extent of 1 goes, which needs all of them known.
    let gone: Vec<usize> = match axes(node, facts, 1) {
        Some(axes) => axes
            .iter()
            .map(|&a| axis(a, shape.len()))
            .collect::<Option<_>>()?,
        None if input(node, 1).is_none() && shape.iter().all(Option::is_some) => {
            (0..shape.len()).filter(|&i| shape[i] == Some(1)).collect()
        }
        None => return None,
    };
    Some(
        shape
            .into_iter()
            .enumerate()
            .filter(|(i, _)| !gone.contains(i))
            .map(|(_, d)| d)
            .collect(),
    )
}

pub fn concat(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let shapes: Vec<Option<Shape>> = (0..node.input.len())
        .map(|i| facts.input(node, i).shape)
        .collect();
    let rank = shapes.iter().flatten().next()?.len();
    let along = axis(int(node, "axis")?, rank)?;
    let mut result = vec![None; rank];
    result[along] = shapes
        .iter()
        .map(|s| s.as_ref().and_then(|s| *s.get(along)?))
        .sum();
    Some(result)
}

pub fn gather(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let data = facts.input(node, 0).shape?;
    let indices = facts.input(node, 1).shape?;
    let along = axis(int(node, "axis").unwrap_or(0), data.len())?;
    Some([&data[..along], &indices, &data[along + 1..]].concat())
}

pub fn shape_of(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let rank = facts.input(node, 0).rank()?;
    let clamp = |v: i64| (if v < 0 { v + rank as i64 } else { v }).clamp(0, rank as i64);
    let start = clamp(int(node, "start").unwrap_or(0));
    let end = clamp(int(node, "end").unwrap_or(rank as i64));
    Some(vec![usize::try_from((end - start).max(0)).ok()])
}

pub fn slice(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let shape = facts.input(node, 0).shape?;
    let list = |name: &str, index: usize| match ints(node, name) {
        Some(values) => Some(values.to_vec()),
        None => facts.input(node, index).ints,
    };
    let unknown = Some(vec![None; shape.len()]);
    let (Some(starts), Some(ends)) = (list("starts", 1), list("ends", 2)) else {
        return unknown;
    };
    let axes = match (ints(node, "axes"), input(node, 3)) {
        (Some(axes), _) => axes.to_vec(),
        (None, None) => (0..starts.len() as i64).collect(),
        (None, Some(_)) => match facts.input(node, 3).ints {
            Some(axes) => axes,
            None => return unknown,
        },
    };
    let steps = match input(node, 4) {
        None => vec![1; starts.len()],
        Some(_) => match facts.input(node, 4).ints {
            Some(steps) => steps,
            None => return unknown,
        },
    };
    let mut result = shape;
    let rank = result.len();
    for (i, &a) in axes.iter().enumerate() {
        let along = axis(a, rank)?;
        let (start, end, step) = (*starts.get(i)?, *ends.get(i)?, *steps.get(i)?);
        result[along] = match (result[along], step) {
            (Some(n), 1) => {
                let n = n as i64;
                let clamp = |v: i64| (if v < 0 { v.saturating_add(n) } else { v }).clamp(0, n);
                usize::try_from((clamp(end) - clamp(start)).max(0)).ok()
            }
            _ => None,
        };
    }
    Some(result)
}

pub fn reduce(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let rank = facts.input(node, 0).rank()?;
    if int(node, "keepdims").unwrap_or(1) != 0 {
        return Some(vec![None; rank]);
    }
    let given = attribute(node, "axes").is_some() || input(node, 1).is_some();
    let none = int(node, "noop_with_empty_axes").unwrap_or(0) != 0;
    let gone = if !given && none {
        return Some(vec![None; rank]);
    } else if given {
        axes(node, facts, 1)?.len()
    } else {
        rank
    };
    // An empty list means all axes or none, as `noop_with_empty_axes` says.
    (gone > 0).then(|| vec![None; rank.saturating_sub(gone)])
}

pub fn arg_reduce(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let rank = facts.input(node, 0).rank()?;
    let kept = int(node, "keepdims").unwrap_or(1) != 0;
    Some(vec![None; if kept { rank } else { rank.checked_sub(1)? }])
}

pub fn matmul(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let a = facts.input(node, 0).rank()?;
    let b = facts.input(node, 1).rank()?;
    Some(match (a, b) {
        (1, 1) => vec![],
        (1, n) | (n, 1) => vec![None; n.saturating_sub(1)],
        (a, b) => vec![None; a.max(b)],
    })
}

pub fn convolution(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let rank = facts
        .input(node, 0)
        .rank()
        .or_else(|| facts.input(node, 1).rank())?;
    Some(vec![None; rank])
}

pub fn einsum(node: &NodeProto, _: &Facts<'_>) -> Option<Shape> {
    let (_, output) = string(node, "equation")?.split_once("->")?;
    let output = output.trim();
    output
        .chars()
        .all(|c| c.is_ascii_alphabetic())
        .then(|| vec![None; output.len()])
}

pub fn gather_nd(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    let data = facts.input(node, 0).rank()?;
    let indices = facts.input(node, 1).shape?;
    let batch = usize::try_from(int(node, "batch_dims").unwrap_or(0)).ok()?;
    let last = (*indices.last()?)?;
    let rank = (indices.len() - 1 + data).checked_sub(last + batch)?;
    Some(vec![None; rank])
}

/// The shape of the second input.
pub fn second(node: &NodeProto, facts: &Facts<'_>) -> Option<Shape> {
    facts.input(node, 1).shape
}
