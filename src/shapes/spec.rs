//! A shape spec as it was written: three JSON forms, one tree.
//!
//! | form | told by | an axis list is | names |
//! |---|---|---|---|
//! | torch's dump (`torch/_export/serde/dynamic_shapes.py`) | `dynamic_shapes` | every axis of the tensor | none for what is positional |
//! | readable | `args`, `kwargs` | every axis, or `{axis: entry}` | of `forward`'s arguments |
//! | by input | `inputs` | every axis, or `{axis: entry}` | of ONNX inputs |
//!
//! JSON does not tell a tensor from a container, so: an object of axes, or `{}`, is a tensor; an object or a list with an
//! object or a list in it is a container; a list of entries is a tensor; `{}`, `[]` and a list of nulls can be either and
//! ask for nothing, so they may be missing from the model. Torch dumps no tensor as an object.

use super::expr::Affine;
use super::hint::Hint;
use std::collections::{BTreeMap, BTreeSet};

/// A shape spec as it was written, not yet tied to a model.
#[derive(Debug, Clone)]
pub struct ShapeSpec {
    pub(super) origin: String,
    /// Root dims; with `profiles`, the smallest ranges that hold those of all.
    pub(super) dims: BTreeMap<String, DimDecl>,
    /// The dims of each of several `profiles`; empty where there is one.
    pub(super) profiles: Vec<BTreeMap<String, DimDecl>>,
    pub(super) body: Body,
}

/// A root dim as `dims` declares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DimDecl {
    pub min: u64,
    pub max: Option<u64>,
    pub opt: Option<u64>,
}

/// A dim of which nothing is known.
pub(super) const ANY: DimDecl = DimDecl {
    min: 0,
    max: None,
    opt: None,
};

/// What a spec says of tensors.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// Nothing: there is no spec, or torch's dump is of `None`.
    Nothing,
    /// `args` and `kwargs`, or torch's tree.
    Tree {
        args: Vec<Tree>,
        kwargs: Vec<(String, Tree)>,
        torch: bool,
    },
    Inputs(Vec<(String, Leaf)>),
}

#[derive(Debug, Clone)]
pub(super) enum Tree {
    Leaf(Leaf),
    List(Vec<Tree>),
    Dict(Vec<(String, Tree)>),
}

/// What a spec says of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Leaf {
    /// `null`: not a tensor, absent, or static.
    Null,
    /// `[]` or nothing but nulls: a static tensor of this rank, or a container of non-tensors.
    Nulls(usize),
    /// Some axes, negative ones from the end; the others are static.
    Sparse(BTreeMap<i32, Entry>),
    Full(Vec<Entry>),
}

/// What a spec says of one axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// `null`: static, at the size that the model has.
    Null,
    /// Static at this size.
    Size(u64),
    /// What the model decides.
    Hint(Hint),
    /// A dim or a derived dim.
    Dim(Affine),
}

impl ShapeSpec {
    /// The spec of a model that has no `--shapes`: everything as the model declares it.
    pub fn none() -> ShapeSpec {
        ShapeSpec {
            origin: String::new(),
            dims: BTreeMap::new(),
            profiles: Vec::new(),
            body: Body::Nothing,
        }
    }

    /// The root dims that some axis names.
    pub(super) fn used_dims(&self) -> BTreeSet<&str> {
        fn of_leaf<'s>(leaf: &'s Leaf, used: &mut BTreeSet<&'s str>) {
            let entries: Vec<&Entry> = match leaf {
                Leaf::Null | Leaf::Nulls(_) => Vec::new(),
                Leaf::Sparse(axes) => axes.values().collect(),
                Leaf::Full(entries) => entries.iter().collect(),
            };
            used.extend(entries.into_iter().filter_map(|e| match e {
                Entry::Dim(expr) => Some(expr.root.as_str()),
                _ => None,
            }));
        }
        fn of_tree<'s>(tree: &'s Tree, used: &mut BTreeSet<&'s str>) {
            match tree {
                Tree::Leaf(leaf) => of_leaf(leaf, used),
                Tree::List(items) => items.iter().for_each(|t| of_tree(t, used)),
                Tree::Dict(items) => items.iter().for_each(|(_, t)| of_tree(t, used)),
            }
        }
        let mut used = BTreeSet::new();
        match &self.body {
            Body::Nothing => {}
            Body::Tree { args, kwargs, .. } => {
                args.iter()
                    .chain(kwargs.iter().map(|(_, t)| t))
                    .for_each(|t| of_tree(t, &mut used));
            }
            Body::Inputs(named) => named.iter().for_each(|(_, leaf)| of_leaf(leaf, &mut used)),
        }
        used
    }

    /// Whether there is no file behind it.
    pub fn is_none(&self) -> bool {
        self.origin.is_empty()
    }
}

/// The entry that a leaf has for an axis of a tensor of this rank; `None` where it says nothing of it.
pub(super) fn entry_of(leaf: Option<&Leaf>, axis: usize, rank: usize) -> Option<&Entry> {
    match leaf? {
        Leaf::Null => None,
        Leaf::Nulls(_) => Some(&Entry::Null),
        Leaf::Sparse(axes) => {
            let axis = i32::try_from(axis).ok()?;
            let from_end = axis.checked_sub(i32::try_from(rank).ok()?)?;
            axes.get(&axis).or_else(|| axes.get(&from_end))
        }
        Leaf::Full(entries) => entries.get(axis),
    }
}
