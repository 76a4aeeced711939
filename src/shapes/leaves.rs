//! Which tensor of a spec is which ONNX input.
//!
//! In this order, each step only with what the steps before left: the exact name (a keyword argument, or the path joined
//! with `_` or `.`, as the exporters name nested arguments); the last key, where it is unique; for what is nested in a
//! positional argument, whose own name the spec does not know, the end of the input's name, where it is unique; the
//! position, for what is positional. Keyword arguments are never matched by position.

use super::faults::{ModelFault, nearest};
use super::spec::{Body, Leaf, Tree};
use crate::tensor::TensorDecl;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// A tensor of a spec, and where it is in it.
pub(super) struct Place<'s> {
    path: Path<'s>,
    pub leaf: &'s Leaf,
}

struct Path<'s> {
    /// `args`, `kwargs` or `dynamic_shapes`.
    top: &'static str,
    positional: bool,
    steps: Vec<Step<'s>>,
}

#[derive(Clone)]
enum Step<'s> {
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
    /// The names along the path, without the place of a positional argument, which is no name.
    fn names(&self) -> &[Step<'_>] {
        &self.steps[usize::from(self.positional)..]
    }

    /// What `text` has before the names along the path joined with `_` or with `.`; `None` where it does not end with
    /// them.
    fn before<'t>(&self, text: &'t str) -> Option<&'t str> {
        ["_", "."].into_iter().find_map(|separator| {
            let mut rest = text;
            for (i, step) in self.names().iter().rev().enumerate() {
                if i > 0 {
                    rest = rest.strip_suffix(separator)?;
                }
                rest = match step {
                    Step::Index(n) => rest.strip_suffix(n.to_string().as_str())?,
                    Step::Key(key) => rest.strip_suffix(key)?,
                };
            }
            Some(rest)
        })
    }

    fn last_key(&self) -> Option<&str> {
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
        let names = self.path.names();
        let text: Vec<String> = names
            .iter()
            .map(|step| match step {
                Step::Index(i) => i.to_string(),
                Step::Key(k) => (*k).to_owned(),
            })
            .collect();
        (self.path.top != "inputs" && !text.is_empty()).then(|| text.join("."))
    }

    /// Whether it can be missing from the model.
    fn is_optional(&self) -> bool {
        matches!(self.leaf, Leaf::Null | Leaf::Nulls(_))
    }
}

/// For every input its place in the spec, `None` where the spec does not speak of it; with all that could not be matched.
pub(super) fn assign<'s>(
    body: &'s Body,
    inputs: &[TensorDecl],
    faults: &mut Vec<ModelFault>,
) -> Vec<Option<Place<'s>>> {
    match body {
        Body::Nothing => inputs.iter().map(|_| None).collect(),
        Body::Inputs(named) => {
            let find = |name: &str| inputs.iter().position(|i| i.name == name);
            let mut places: Vec<Option<Place<'s>>> = inputs.iter().map(|_| None).collect();
            for (name, leaf) in named {
                let Some(at) = find(name) else {
                    let nearest = nearest(name, inputs.iter().map(|i| i.name.as_str()));
                    faults.push(ModelFault::NoInput {
                        name: name.clone(),
                        nearest,
                    });
                    continue;
                };
                let path = Path {
                    top: "inputs",
                    positional: false,
                    steps: vec![Step::Key(name)],
                };
                places[at] = Some(Place { path, leaf });
            }
            places
        }
        Body::Tree {
            args,
            kwargs,
            torch,
        } => {
            let mut leaves = Vec::new();
            let (args_top, kwargs_top) = if *torch {
                ("dynamic_shapes", "dynamic_shapes")
            } else {
                ("args", "kwargs")
            };
            for (i, tree) in args.iter().enumerate() {
                flatten(tree, args_top, true, vec![Step::Index(i)], &mut leaves);
            }
            for (name, tree) in kwargs {
                flatten(tree, kwargs_top, false, vec![Step::Key(name)], &mut leaves);
            }
            Matching::new(leaves, inputs).finish(faults)
        }
    }
}

fn flatten<'s>(
    tree: &'s Tree,
    top: &'static str,
    positional: bool,
    steps: Vec<Step<'s>>,
    out: &mut Vec<Place<'s>>,
) {
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

struct Matching<'s, 'm> {
    leaves: Vec<Place<'s>>,
    inputs: &'m [TensorDecl],
    /// Per leaf, its input.
    of_leaf: Vec<Option<usize>>,
    taken: Vec<bool>,
    faults: Vec<ModelFault>,
}

impl<'s, 'm> Matching<'s, 'm> {
    fn new(leaves: Vec<Place<'s>>, inputs: &'m [TensorDecl]) -> Self {
        let of_leaf = vec![None; leaves.len()];
        Matching {
            leaves,
            inputs,
            of_leaf,
            taken: vec![false; inputs.len()],
            faults: Vec::new(),
        }
    }

    fn finish(mut self, faults: &mut Vec<ModelFault>) -> Vec<Option<Place<'s>>> {
        self.step(|place, input| {
            !place.path.names().is_empty() && place.path.before(input) == Some("")
        });
        let mut last_keys: HashMap<String, usize> = HashMap::new();
        for key in self.leaves.iter().filter_map(|l| l.path.last_key()) {
            *last_keys.entry(key.to_owned()).or_default() += 1;
        }
        let unique = |key: &str| last_keys.get(key) == Some(&1);
        self.step(|place, input| {
            place
                .path
                .last_key()
                .is_some_and(|k| k == input && unique(k))
        });
        self.step(|place, input| {
            place.path.positional
                && !place.is_optional()
                && place.path.last_key().is_some()
                && (place.path.before(input)).is_some_and(|rest| rest.ends_with(['_', '.']))
        });
        self.by_position();
        self.report_unmatched();
        faults.append(&mut self.faults);
        let mut places: Vec<Option<Place<'s>>> = self.inputs.iter().map(|_| None).collect();
        for (place, at) in self.leaves.into_iter().zip(self.of_leaf) {
            if let Some(at) = at {
                places[at] = Some(place);
            }
        }
        places
    }

    /// Gives every free leaf the one free input that `fits`; several leaves for one input, or several inputs for one
    /// leaf, are told and left free.
    fn step(&mut self, fits: impl Fn(&Place<'s>, &str) -> bool) {
        let mut claims: Vec<Vec<usize>> = vec![Vec::new(); self.inputs.len()];
        for (l, leaf) in self.leaves.iter().enumerate() {
            if self.of_leaf[l].is_some() {
                continue;
            }
            let found: Vec<usize> = (0..self.inputs.len())
                .filter(|&i| !self.taken[i] && fits(leaf, &self.inputs[i].name))
                .collect();
            match found[..] {
                [] => {}
                [one] => claims[one].push(l),
                _ => {
                    let names: Vec<String> = found
                        .iter()
                        .map(|&i| format!("`{}`", self.inputs[i].name))
                        .collect();
                    self.faults.push(ModelFault::Ambiguous {
                        leaf: leaf.describe(),
                        inputs: names.join(", "),
                    });
                }
            }
        }
        for (i, claim) in claims.into_iter().enumerate() {
            match claim[..] {
                [] => {}
                [l] => {
                    self.of_leaf[l] = Some(i);
                    self.taken[i] = true;
                }
                _ => {
                    for l in claim {
                        let inputs = format!(
                            "`{}`, which another tensor of the spec fits as well",
                            self.inputs[i].name
                        );
                        self.faults.push(ModelFault::Ambiguous {
                            leaf: self.leaves[l].describe(),
                            inputs,
                        });
                    }
                }
            }
        }
    }

    fn by_position(&mut self) {
        let free: Vec<usize> = (0..self.inputs.len()).filter(|&i| !self.taken[i]).collect();
        let positional: Vec<usize> = (0..self.leaves.len())
            .filter(|&l| self.of_leaf[l].is_none() && self.leaves[l].path.positional)
            .collect();
        let required: Vec<usize> = positional
            .iter()
            .copied()
            .filter(|&l| !self.leaves[l].is_optional())
            .collect();
        // Leaves that ask for nothing may be in the model or not; which, is known only where the numbers decide it.
        let chosen = if required.len() == free.len() {
            required
        } else if positional.len() == free.len()
            || (required.len() == positional.len() && required.len() < free.len())
        {
            positional
        } else {
            return;
        };
        for (l, i) in chosen.into_iter().zip(free) {
            self.of_leaf[l] = Some(i);
            self.taken[i] = true;
        }
    }

    fn report_unmatched(&mut self) {
        let is_left = |l: &usize| self.of_leaf[*l].is_none() && !self.leaves[*l].is_optional();
        let left: Vec<usize> = (0..self.leaves.len()).filter(is_left).collect();
        let told: HashSet<String> = (self.faults.iter())
            .filter_map(|f| match f {
                ModelFault::Ambiguous { leaf, .. } => Some(leaf.clone()),
                _ => None,
            })
            .collect();
        let free = (self.inputs.iter().zip(&self.taken)).filter(|(_, taken)| !**taken);
        let inputs = some_of(free.map(|(i, _)| format!("`{}` {}", i.name, i.show_dims())));
        let leaves = some_of(
            left.iter()
                .map(|&l| format!("`{}`", self.leaves[l].describe())),
        );
        for &l in &left {
            let leaf = self.leaves[l].describe();
            if told.contains(&leaf) {
                continue;
            }
            let candidates = self
                .inputs
                .iter()
                .zip(&self.taken)
                .filter(|(_, t)| !**t)
                .map(|(i, _)| i.name.as_str());
            let reason = match self.leaves[l]
                .path
                .last_key()
                .and_then(|k| nearest(k, candidates))
            {
                Some(near) => format!(": is it `{near}`?"),
                None if self.leaves[l].path.positional
                    && left.len() <= self.taken.iter().filter(|t| !**t).count() =>
                {
                    ": which one is not clear from the position".to_owned()
                }
                None => String::new(),
            };
            self.faults.push(ModelFault::Unmatched {
                leaf,
                reason,
                leaves: leaves.clone(),
                inputs: inputs.clone(),
            });
        }
    }
}

/// The first names of a list that can be long.
fn some_of(names: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 12;
    let mut names = names.fuse();
    let mut text: Vec<String> = names.by_ref().take(SHOWN).collect();
    match names.count() {
        0 if text.is_empty() => "nothing".into(),
        0 => text.join(", "),
        more => {
            text.push(format!("and {more} more"));
            text.join(", ")
        }
    }
}
