//! A shape spec as it was written: three JSON forms, read into one tree.
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

use super::error::{Error, Problems};
use super::expr::Affine;
use super::faults::SpecFault;
use super::hint::Hint;
use super::json::{self, Pos};
use super::wire;
use crate::fsx;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Largest spec that is read, in bytes. Real ones have a few thousand.
const MAX_BYTES: u64 = 1 << 20;
/// Largest size or bound: what fits in the signed 64 bits of ONNX and `TensorRT`.
pub(super) const MAX_SIZE: u64 = i64::MAX as u64;

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
    /// `inputs`.
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
    /// Every axis.
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
    /// Reads a spec. `origin` is its file name, for messages.
    ///
    /// # Errors
    /// All that is wrong with it, each with line and column; see [`Error`].
    pub fn parse(json: &str, origin: &str) -> Result<ShapeSpec, Error> {
        if json.len() as u64 > MAX_BYTES {
            return Err(Error::TooLarge {
                origin: origin.to_owned(),
                limit: MAX_BYTES,
            });
        }
        let mut problems = Problems::default();
        let root = json::parse(json, &mut problems);
        let read = root.and_then(|root| wire::read(&root, origin, &mut problems));
        match read {
            Some(spec) if problems.is_empty() => Ok(spec),
            _ => {
                problems.sort();
                Err(Error::Spec {
                    origin: origin.to_owned(),
                    problems,
                })
            }
        }
    }

    /// Reads the spec in the file at `path`, without reading more than a spec can be.
    ///
    /// # Errors
    /// As [`ShapeSpec::parse`]; and when the file cannot be read.
    pub fn open(path: &Path) -> Result<ShapeSpec, Error> {
        let origin = path.display().to_string();
        let unreadable = |source| Error::Read {
            path: origin.clone(),
            source,
        };
        let bytes = fsx::read_stream(path, MAX_BYTES).map_err(|e| match e {
            fsx::Error::TooLong { limit, .. } => Error::TooLarge {
                origin: origin.clone(),
                limit,
            },
            fsx::Error::Read { source, .. } => unreadable(source),
            other => unreadable(std::io::Error::other(other)),
        })?;
        match String::from_utf8(bytes) {
            Ok(text) => ShapeSpec::parse(&text, &origin),
            Err(e) => Err(not_text(
                origin.clone(),
                e.as_bytes(),
                e.utf8_error().valid_up_to(),
            )),
        }
    }

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

fn not_text(origin: String, bytes: &[u8], valid: usize) -> Error {
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let line = before.matches('\n').count() as u32 + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) as u32 + 1;
    let mut problems = Problems::default();
    problems.push(
        Pos { line, column },
        SpecFault::Syntax("this is not UTF-8 text".into()),
    );
    Error::Spec { origin, problems }
}
