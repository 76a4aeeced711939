//! Which ONNX input each tensor of a spec is, and what to say where that is not clear. How it is decided: `matching`; what must
//! agree: `fits`.

use super::faults::{ModelFault, nearest};
use super::fits::Fits;
use super::leaves::{Path, Place, Step, leaves_of};
use super::matching::{Matching, Outcome};
use super::spec::{Body, DimDecl, Leaf};
use crate::tensor::TensorDecl;
use std::collections::BTreeMap;

/// Which tensor of a spec is which input.
pub(super) struct Assigned<'s> {
    /// For every input its place in the spec, `None` where the spec does not speak of it.
    pub places: Vec<Option<Place<'s>>>,
    /// Whether the places can be right as they are: nothing in them contradicts the model.
    pub agrees: bool,
    pub faults: Vec<ModelFault>,
    pub warnings: Vec<String>,
}

/// Finds the input of every tensor of a spec, whose dims have the ranges `dims`.
pub(super) fn assign<'s>(
    body: &'s Body,
    dims: &BTreeMap<String, DimDecl>,
    inputs: &[TensorDecl],
) -> Assigned<'s> {
    let mut out = Assigned {
        places: inputs.iter().map(|_| None).collect(),
        agrees: true,
        faults: Vec::new(),
        warnings: Vec::new(),
    };
    match body {
        Body::Nothing => {}
        Body::Inputs(named) => by_input(named, inputs, &mut out),
        Body::Tree { .. } => {
            let leaves = leaves_of(body);
            let fits = Fits::new(dims, inputs);
            let matching = Matching::new(&leaves, inputs, &fits);
            let of_leaf = match matching.solve() {
                Outcome::One(of_leaf) => {
                    out.warnings.extend(left_out(&leaves, &of_leaf));
                    for (place, &input) in leaves.iter().zip(&of_leaf) {
                        let Some(input) = input else { continue };
                        out.faults.extend(fits.crossing(place, input));
                        out.agrees &= fits.fits(place.leaf, input);
                    }
                    of_leaf
                }
                Outcome::Several(one, other) => {
                    out.faults = ambiguous(&leaves, inputs, &one, &other);
                    (one.iter().zip(&other))
                        .map(|(a, b)| a.filter(|_| a == b))
                        .collect()
                }
                Outcome::None { rivals } => {
                    let named = matching.named();
                    // Rivals first: that several claim one input explains why others were left
                    // without.
                    out.faults = claimed_twice(&leaves, inputs, &rivals);
                    if out.faults.is_empty() {
                        out.faults = unmatched(&leaves, inputs, &named);
                    }
                    named
                }
            };
            for (place, at) in leaves.into_iter().zip(of_leaf) {
                if let Some(at) = at {
                    out.places[at] = Some(place);
                }
            }
        }
    }
    out
}

fn by_input<'s>(named: &'s [(String, Leaf)], inputs: &[TensorDecl], out: &mut Assigned<'s>) {
    for (name, leaf) in named {
        let Some(at) = inputs.iter().position(|i| i.name == *name) else {
            out.faults.push(ModelFault::NoInput {
                name: name.clone(),
                nearest: nearest(name, inputs.iter().map(|i| i.name.as_str())),
            });
            continue;
        };
        let path = Path {
            top: "inputs",
            positional: false,
            steps: vec![Step::Key(name)],
        };
        out.places[at] = Some(Place { path, leaf });
    }
}

fn left_out(leaves: &[Place<'_>], of_leaf: &[Option<usize>]) -> Option<String> {
    let left = (leaves.iter().zip(of_leaf)).filter(|(l, i)| i.is_none() && !l.is_optional());
    let left: Vec<String> = left.map(|(l, _)| format!("`{}`", l.describe())).collect();
    (!left.is_empty()).then(|| {
        format!(
            "no input of the model is {} of the spec: an exporter leaves out what is not used",
            some_of(left.into_iter())
        )
    })
}

/// What could be several inputs: two ways to match a spec, leaf by leaf.
fn ambiguous(
    leaves: &[Place<'_>],
    inputs: &[TensorDecl],
    one: &[Option<usize>],
    other: &[Option<usize>],
) -> Vec<ModelFault> {
    let mut differing: Vec<usize> = (0..leaves.len()).filter(|&l| one[l] != other[l]).collect();
    // A null that is here or there matters less than the tensor that is.
    if differing.iter().any(|&l| !leaves[l].is_optional()) {
        differing.retain(|&l| !leaves[l].is_optional());
    }
    let name = |i: usize| format!("`{}`", inputs[i].name);
    (differing.into_iter())
        .map(|l| ModelFault::Ambiguous {
            leaf: leaves[l].describe(),
            inputs: match [one[l], other[l]].map(|i| i.map(name)) {
                [Some(a), Some(b)] => format!("{a}, {b}"),
                [Some(a), None] | [None, Some(a)] => format!("{a}, or none"),
                [None, None] => unreachable!("they differ"),
            },
        })
        .collect()
}

/// Named arguments that all claim one input.
fn claimed_twice(
    leaves: &[Place<'_>],
    inputs: &[TensorDecl],
    rivals: &[(usize, usize)],
) -> Vec<ModelFault> {
    (rivals.iter())
        .map(|&(l, i)| ModelFault::Ambiguous {
            leaf: leaves[l].describe(),
            inputs: format!(
                "`{}`, which another tensor of the spec fits as well",
                inputs[i].name
            ),
        })
        .collect()
}

/// What has no input, after all that has one by name.
fn unmatched(
    leaves: &[Place<'_>],
    inputs: &[TensorDecl],
    named: &[Option<usize>],
) -> Vec<ModelFault> {
    let mut taken = vec![false; inputs.len()];
    named.iter().flatten().for_each(|&i| taken[i] = true);
    let left = |l: &usize| named[*l].is_none() && !leaves[*l].is_optional();
    let of = |positional: bool| -> Vec<usize> {
        (0..leaves.len())
            .filter(|&l| left(&l) && leaves[l].path.positional == positional)
            .collect()
    };
    let (keywords, positional) = (of(false), of(true));
    let free = taken.iter().filter(|t| !**t).count();
    // What is positional is not the trouble where a keyword without an input is, and there is a place for each.
    let told = if keywords.is_empty() || positional.len() > free {
        [positional.as_slice(), &keywords].concat()
    } else {
        for at in taken.iter_mut().filter(|t| !**t).take(positional.len()) {
            *at = true;
        }
        keywords
    };
    let free = || inputs.iter().zip(&taken).filter(|(_, taken)| !**taken);
    let inputs_left = some_of(free().map(|(i, _)| format!("`{}` {}", i.name, i.show_dims())));
    let leaves_left = some_of(told.iter().map(|&l| format!("`{}`", leaves[l].describe())));
    (told.iter())
        .map(|&l| {
            let candidates = free().map(|(i, _)| i.name.as_str());
            let near = leaves[l]
                .path
                .last_key()
                .and_then(|k| nearest(k, candidates));
            let reason = match near {
                Some(near) => format!(": is it `{near}`?"),
                None if leaves[l].path.positional && told.len() <= free().count() => {
                    ": which one is not clear from the position".to_owned()
                }
                None => String::new(),
            };
            ModelFault::Unmatched {
                leaf: leaves[l].describe(),
                reason,
                leaves: leaves_left.clone(),
                inputs: inputs_left.clone(),
            }
        })
        .collect()
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
