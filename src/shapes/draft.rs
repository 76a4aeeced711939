//! What a spec and a model say of one axis, before the model's symbols are tied.

use super::args::Overrides;
use super::expr::Affine;
use super::faults::ModelFault;
use super::hint::{Hint, HintKind};
use super::leaves::Place;
use super::names::{axis_name, identifier, model_symbol};
use super::resolved::Axis;
use super::spec::{ANY, DimDecl, Entry, Leaf, entry_of};
use super::unify::System;
use crate::tensor::{Extent, TensorDecl};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of an axis on the way: its final form, or the symbol that will give it.
pub(super) enum Draft {
    Done(Axis),
    /// As the model's symbol says, whose root will be found.
    Symbol(Affine),
    /// Dynamic, with a root of its own that will have this name and range.
    Own(String, DimDecl),
}

/// What a spec says of a symbol of the model.
pub(super) enum Meaning {
    Size(u64),
    Dim(Affine),
}

/// One axis that says what a symbol means.
pub(super) struct Witness {
    pub input: usize,
    pub axis: usize,
    /// The entry as written.
    pub entry: String,
    pub meaning: Meaning,
}

pub(super) struct Work<'a> {
    pub inputs: &'a [TensorDecl],
    pub overrides: &'a Overrides,
    /// `dims` of the spec and `--dim`, as they were before any was tied.
    pub declared: BTreeMap<String, DimDecl>,
    pub system: System,
    pub faults: Vec<ModelFault>,
    pub warnings: Vec<String>,
    /// What the spec says of each of the model's symbols.
    pub symbols: BTreeMap<String, Vec<Witness>>,
    /// Roots that were made for symbols that the spec says nothing of.
    pub named: BTreeMap<String, String>,
    /// The names of all roots that the spec does not name.
    pub made: BTreeSet<String>,
    /// Bounds of hints on axes that the model has a symbol for.
    pub bounds: Vec<Bound>,
}

/// A hint with bounds.
pub(super) struct Bound {
    pub symbol: Affine,
    pub hint: Hint,
    pub input: usize,
    pub axis: usize,
}

/// A number of an axis, counted from the front.
pub(super) fn axis_of(number: i32, rank: usize) -> Option<usize> {
    let axis = if number < 0 {
        i64::from(number) + rank as i64
    } else {
        i64::from(number)
    };
    usize::try_from(axis).ok().filter(|&a| a < rank)
}

impl Work<'_> {
    /// Every axis of every input, as far as it can be said before symbols are tied.
    pub fn drafts(&mut self, places: &[Option<Place<'_>>]) -> Vec<Vec<Draft>> {
        (0..self.inputs.len())
            .map(|i| {
                let place = places[i].as_ref();
                let Some(extents) = self.extents(i, place) else {
                    return Vec::new();
                };
                if matches!(place.map(|p| p.leaf), Some(Leaf::Null)) && self.inputs[i].is_dynamic()
                {
                    self.faults.push(ModelFault::NullIsDynamic {
                        leaf: place.map(Place::describe).unwrap_or_default(),
                        input: self.inputs[i].name.clone(),
                        declared: self.inputs[i].show_dims(),
                    });
                    return Vec::new();
                }
                let entries = extents.iter().enumerate();
                entries
                    .filter_map(|(axis, extent)| {
                        let leaf = place.map(|p| p.leaf);
                        self.draft(i, axis, extent, entry_of(leaf, axis, extents.len()))
                    })
                    .collect()
            })
            .collect()
    }

    /// The model's extents, as many as both sides agree on.
    fn extents(&mut self, i: usize, place: Option<&Place<'_>>) -> Option<Vec<Extent>> {
        let decl = &self.inputs[i];
        let given = place.and_then(|p| match p.leaf {
            Leaf::Full(entries) => Some(entries.len()),
            Leaf::Nulls(n) => Some(*n),
            Leaf::Null | Leaf::Sparse(_) => None,
        });
        let Some(extents) = &decl.dims else {
            if given.is_none() {
                self.faults.push(ModelFault::NoRank {
                    input: decl.name.clone(),
                });
            }
            return given.map(|n| vec![Extent::Unknown; n]);
        };
        let (rank, declared) = (extents.len(), decl.show_dims());
        if let Some(given) = given.filter(|&g| g != rank) {
            let what =
                place.map_or_else(String::new, |p| format!("`{}` of the spec", p.describe()));
            self.faults.push(ModelFault::Rank {
                what,
                given,
                input: decl.name.clone(),
                rank,
                declared,
            });
            return None;
        }
        let extents = extents.clone();
        self.check_axes(i, place, rank);
        Some(extents)
    }

    /// Every axis that the spec numbers must be one of the model's, once.
    fn check_axes(&mut self, i: usize, place: Option<&Place<'_>>, rank: usize) {
        let Some((place, Leaf::Sparse(axes))) = place.map(|p| (p, p.leaf)) else {
            return;
        };
        let decl = &self.inputs[i];
        let mut seen = BTreeSet::new();
        for &number in axes.keys() {
            match axis_of(number, rank) {
                None => self.faults.push(ModelFault::NoAxis {
                    input: decl.name.clone(),
                    axis: number,
                    rank,
                    declared: decl.show_dims(),
                }),
                Some(axis) if !seen.insert(axis) => self.faults.push(ModelFault::AxisTwice {
                    leaf: place.describe(),
                    input: decl.name.clone(),
                    axis,
                }),
                Some(_) => {}
            }
        }
    }

    fn draft(
        &mut self,
        i: usize,
        axis: usize,
        extent: &Extent,
        entry: Option<&Entry>,
    ) -> Option<Draft> {
        let input = self.inputs[i].name.clone();
        let contradicts = |model: usize, given: String| ModelFault::Static {
            input: input.clone(),
            axis,
            model: model as u64,
            given,
        };
        match (entry, extent) {
            (None | Some(Entry::Null), &Extent::Fixed(n)) => Some(Draft::Done(Axis::Fixed(n))),
            (Some(Entry::Hint(hint)), &Extent::Fixed(n)) => {
                if hint.kind == HintKind::Dynamic || !hint.holds(n as u64) {
                    self.faults.push(contradicts(n, format!("`{hint}`")));
                }
                Some(Draft::Done(Axis::Fixed(n)))
            }
            (Some(&Entry::Size(size)), &Extent::Fixed(n)) => {
                if size != n as u64 {
                    self.faults.push(contradicts(n, size.to_string()));
                }
                Some(Draft::Done(Axis::Fixed(n)))
            }
            (Some(Entry::Dim(expr)), &Extent::Fixed(n)) => {
                if self.system.only_size(expr) != Some(n as u64) {
                    self.faults.push(contradicts(n, format!("`{expr}`")));
                }
                Some(Draft::Done(Axis::Fixed(n)))
            }
            (Some(&Entry::Size(size)), Extent::Unknown) => {
                Some(Draft::Done(Axis::Fixed(size as usize)))
            }
            (Some(Entry::Dim(expr)), Extent::Unknown) => Some(Draft::Done(Axis::Dim(expr.clone()))),
            (Some(Entry::Hint(hint)), _) if hint.kind != HintKind::Static => {
                Some(self.hinted(*hint, i, axis, extent))
            }
            (Some(Entry::Size(size)), Extent::Symbol(s)) => {
                let symbol = model_symbol(s);
                let value = symbol.solve(*size).and_then(|v| u64::try_from(v).ok());
                self.witness(&symbol, i, axis, size.to_string(), value.map(Meaning::Size));
                Some(Draft::Done(Axis::Fixed(*size as usize)))
            }
            (Some(Entry::Dim(expr)), Extent::Symbol(s)) => {
                let symbol = model_symbol(s);
                self.witness(
                    &symbol,
                    i,
                    axis,
                    expr.to_string(),
                    expr.divide(&symbol).map(Meaning::Dim),
                );
                Some(Draft::Done(Axis::Dim(expr.clone())))
            }
            (None, Extent::Symbol(s))
                if self
                    .overrides
                    .dims
                    .contains_key(&identifier(&model_symbol(s).root)) =>
            {
                Some(Draft::Symbol(model_symbol(s)))
            }
            (None, Extent::Unknown)
                if self.overrides.dims.contains_key(&axis_name(&input, axis)) =>
            {
                Some(Draft::Own(axis_name(&input, axis), ANY))
            }
            (None | Some(Entry::Null | Entry::Hint(_)), Extent::Symbol(_) | Extent::Unknown) => {
                let explicit = entry.is_some();
                let extent = extent.clone();
                self.faults.push(ModelFault::Undeclared {
                    input,
                    axis,
                    extent,
                    explicit,
                    elsewhere: None,
                });
                None
            }
        }
    }

    /// A dynamic axis with a hint.
    fn hinted(&mut self, hint: Hint, input: usize, axis: usize, extent: &Extent) -> Draft {
        let Extent::Symbol(s) = extent else {
            let name = axis_name(&self.inputs[input].name, axis);
            let range = DimDecl {
                min: hint.min.unwrap_or(0),
                max: hint.max,
                opt: None,
            };
            return Draft::Own(name, range);
        };
        let symbol = model_symbol(s);
        // Kept until all meanings of the symbol are known: only then it is clear which dim the
        // bounds narrow.
        if hint.is_bounded() {
            self.bounds.push(Bound {
                symbol: symbol.clone(),
                hint,
                input,
                axis,
            });
        }
        Draft::Symbol(symbol)
    }

    fn witness(
        &mut self,
        symbol: &Affine,
        input: usize,
        axis: usize,
        entry: String,
        meaning: Option<Meaning>,
    ) {
        // An entry that the model's symbol cannot have, such as an odd size of `2*s`, is no meaning
        // of it.
        match meaning {
            Some(meaning) => {
                self.symbols
                    .entry(symbol.root.clone())
                    .or_default()
                    .push(Witness {
                        input,
                        axis,
                        entry,
                        meaning,
                    });
            }
            None => self.faults.push(ModelFault::Step {
                input: self.inputs[input].name.clone(),
                axis,
                symbol: symbol.clone(),
                given: entry,
            }),
        }
    }
}
