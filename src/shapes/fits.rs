//! What a tensor of a spec and an input of a model must agree on: rank, fixed sizes, the model's own symbols.

use super::expr::Affine;
use super::faults::ModelFault;
use super::hint::HintKind;
use super::leaves::Place;
use super::names::model_symbol;
use super::spec::{DimDecl, Entry, Leaf, entry_of};
use crate::tensor::{Extent, TensorDecl};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

pub(super) struct Fits<'a> {
    dims: &'a BTreeMap<String, DimDecl>,
    inputs: &'a [TensorDecl],
    /// The roots of the model's symbols.
    symbols: BTreeSet<String>,
}

impl<'a> Fits<'a> {
    pub fn new(dims: &'a BTreeMap<String, DimDecl>, inputs: &'a [TensorDecl]) -> Fits<'a> {
        let extents = inputs.iter().flat_map(|i| i.dims.iter().flatten());
        let symbols = extents.filter_map(|e| match e {
            Extent::Symbol(s) => Some(model_symbol(s).root),
            Extent::Fixed(_) | Extent::Unknown => None,
        });
        Fits {
            symbols: symbols.collect(),
            dims,
            inputs,
        }
    }

    /// Whether `leaf` can speak of input `i`, and says all that has to be said of it.
    pub fn fits(&self, leaf: &Leaf, i: usize) -> bool {
        let Some(extents) = &self.inputs[i].dims else {
            return true;
        };
        // From here on the rank is known; an input of unknown rank takes any tensor.
        let rank = extents.len();
        let ranks = match leaf {
            Leaf::Null => true,
            Leaf::Nulls(n) => *n == rank,
            Leaf::Sparse(axes) => (axes.keys()).all(|&a| super::draft::axis_of(a, rank).is_some()),
            Leaf::Full(entries) => entries.len() == rank,
        };
        ranks
            && (extents.iter().enumerate())
                .all(|(axis, extent)| self.entry_fits(entry_of(Some(leaf), axis, rank), extent))
    }

    fn entry_fits(&self, entry: Option<&Entry>, extent: &Extent) -> bool {
        match (entry, extent) {
            // What the spec leaves static the model must have as a number: a range is not invented
            // for it.
            (None | Some(Entry::Null), extent) => matches!(extent, Extent::Fixed(_)),
            (Some(Entry::Hint(hint)), Extent::Fixed(n)) => {
                hint.kind != HintKind::Dynamic && hint.holds(*n as u64)
            }
            (Some(Entry::Hint(hint)), _) => hint.kind != HintKind::Static,
            (Some(Entry::Size(size)), Extent::Fixed(n)) => *size == *n as u64,
            // An axis without a symbol says nothing that could contradict.
            (Some(Entry::Size(_) | Entry::Dim(_)), Extent::Unknown) => true,
            (Some(Entry::Size(size)), Extent::Symbol(s)) => {
                model_symbol(s).solve(*size).is_some_and(|v| v >= 0)
            }
            (Some(Entry::Dim(e)), Extent::Fixed(n)) => self.only_size(e) == Some(*n as u64),
            (Some(Entry::Dim(e)), Extent::Symbol(s)) => {
                let symbol = model_symbol(s);
                e.divide(&symbol).is_some() && !self.is_crossed(e, &symbol)
            }
        }
    }

    fn only_size(&self, expr: &Affine) -> Option<u64> {
        let dim = self.dims.get(&expr.root)?;
        (dim.max == Some(dim.min)).then(|| expr.eval(dim.min))?
    }

    /// Whether spec and model both know both names, and each gives this axis the other's.
    fn is_crossed(&self, expr: &Affine, symbol: &Affine) -> bool {
        expr.root != symbol.root
            && self.dims.contains_key(&symbol.root)
            // Both names have to be known on both sides: exporters rename dims, and another name
            // alone says nothing.
            && self.symbols.contains(&expr.root)
    }

    /// The first axis of input `i` that the model calls by another name of the spec's.
    pub fn crossing(&self, place: &Place<'_>, i: usize) -> Option<ModelFault> {
        let extents = self.inputs[i].dims.as_ref()?;
        (extents.iter().enumerate()).find_map(|(axis, extent)| {
            let Extent::Symbol(s) = extent else {
                return None;
            };
            let Some(Entry::Dim(given)) = entry_of(Some(place.leaf), axis, extents.len()) else {
                return None;
            };
            (self.is_crossed(given, &model_symbol(s))).then(|| ModelFault::Crossed {
                input: self.inputs[i].name.clone(),
                axis,
                symbol: s.clone(),
                given: given.clone(),
                leaf: place.describe(),
            })
        })
    }

    /// A digest of what `leaf` says of the dynamic axes of input `i`; 0 where it says nothing, so that two ways to match
    /// a spec that mean the same are the same.
    pub fn effect(&self, leaf: &Leaf, i: usize) -> u64 {
        let Some(extents) = &self.inputs[i].dims else {
            return Self::digest(i, 0, &format!("{leaf:?}"));
        };
        (extents.iter().enumerate())
            // What is said of a fixed axis cannot make a difference where it fits.
            .filter(|(_, e)| !matches!(e, Extent::Fixed(_)))
            .filter_map(|(axis, _)| Some((axis, entry_of(Some(leaf), axis, extents.len())?)))
            .map(|(axis, entry)| Self::digest(i, axis, &format!("{entry:?}")))
            // A sum does not depend on the order in which tensors are matched.
            .fold(0, u64::wrapping_add)
    }

    fn digest(input: usize, axis: usize, text: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (input, axis, text).hash(&mut hasher);
        hasher.finish()
    }
}
