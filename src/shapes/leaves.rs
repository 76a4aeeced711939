//! The tensors of a spec, each with its path.

use super::spec::{Body, Leaf, Tree};
use std::fmt;

/// A tensor of a spec, and where it is in it.
#[derive(Clone)]
pub(super) struct Place<'s> {
    pub path: Path<'s>,
    pub leaf: &'s Leaf,
}

#[derive(Clone)]
pub(super) struct Path<'s> {
    /// `args`, `kwargs`, `dynamic_shapes` or `inputs`.
    pub top: &'static str,
    /// Whether the name of the argument is not in the spec, only its place.
    pub positional: bool,
    /// The argument (its place or name), and the way from it to the tensor.
    pub steps: Vec<Step<'s>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'s> {
    Index(usize),
    Key(&'s str),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.top)?;
        self.steps.iter().try_for_each(|step| match step {
            Step::Index(i) => write!(f, "[{i}]"),
            Step::Key(k) => write!(f, ".{k}"),
        })
    }
}

impl Path<'_> {
    pub fn last_key(&self) -> Option<&str> {
        match self.steps.last() {
            Some(Step::Key(k)) => Some(k),
            _ => None,
        }
    }
}

impl Place<'_> {
    pub fn describe(&self) -> String {
        self.path.to_string()
    }

    /// The name that `forward` has for it: keys joined with `.`; `None` where there is none.
    pub fn argument(&self) -> Option<String> {
        // The place of a positional argument is no name.
        let names = &self.path.steps[usize::from(self.path.positional)..];
        let text: Vec<String> = names
            .iter()
            .map(|step| match step {
                Step::Index(i) => i.to_string(),
                Step::Key(k) => (*k).to_owned(),
            })
            .collect();
        (self.path.top != "inputs" && !text.is_empty()).then(|| text.join("."))
    }

    /// Whether it can be missing from the model: no tensor, or a container of none.
    pub fn is_optional(&self) -> bool {
        match self.leaf {
            Leaf::Null | Leaf::Nulls(_) => true,
            Leaf::Sparse(axes) => axes.is_empty(),
            Leaf::Full(_) => false,
        }
    }
}

/// The tensors of a tree, args before kwargs, in the order in which they are written.
pub(super) fn leaves_of(body: &Body) -> Vec<Place<'_>> {
    let mut leaves = Vec::new();
    let Body::Tree {
        args,
        kwargs,
        torch,
    } = body
    else {
        return leaves;
    };
    let (args_top, kwargs_top) = tops(*torch);
    for (i, tree) in args.iter().enumerate() {
        flatten(tree, args_top, true, vec![Step::Index(i)], &mut leaves);
    }
    for (name, tree) in kwargs {
        flatten(tree, kwargs_top, false, vec![Step::Key(name)], &mut leaves);
    }
    leaves
}

/// What paths to positional and to named arguments begin with.
pub(super) fn tops(torch: bool) -> (&'static str, &'static str) {
    if torch {
        ("dynamic_shapes", "dynamic_shapes")
    } else {
        ("args", "kwargs")
    }
}

fn flatten<'s>(
    tree: &'s Tree,
    top: &'static str,
    positional: bool,
    steps: Vec<Step<'s>>,
    out: &mut Vec<Place<'s>>,
) {
    // A copy for each branch: paths are short, and each tensor keeps its own.
    let below = |step: Step<'s>| [steps.as_slice(), &[step]].concat();
    match tree {
        Tree::Leaf(leaf) => out.push(Place {
            path: Path {
                top,
                positional,
                steps,
            },
            leaf,
        }),
        Tree::List(items) => {
            for (i, item) in items.iter().enumerate() {
                flatten(item, top, positional, below(Step::Index(i)), out);
            }
        }
        Tree::Dict(items) => {
            for (name, item) in items {
                flatten(item, top, positional, below(Step::Key(name)), out);
            }
        }
    }
}
