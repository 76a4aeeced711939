//! Ties a spec to a model's inputs.

use super::args::{Overrides, parse_dim};
use super::error::{ArgumentFault, Error, ModelFault, nearest};
use super::expr::{Affine, is_identifier};
use super::leaves::{Place, assign};
use super::resolved::{Axis, Input, Resolved, Root};
use super::spec::{DimDecl, Entry, Leaf, MAX_SIZE, ShapeSpec};
use super::unify::System;
use super::write;
use crate::tensor::{Extent, TensorDecl};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of an axis on the way: its final form, or the symbol that will give it.
enum Draft {
    Done(Axis),
    /// As the model's symbol says, whose root will be found.
    Symbol(Affine),
    /// Dynamic, with a root of its own that will have this name.
    Own(String),
}

/// What a spec says of a symbol of the model.
enum Meaning {
    Size(u64),
    Dim(Affine),
}

/// One axis that says what a symbol means.
struct Witness {
    input: usize,
    axis: usize,
    /// The entry as written.
    entry: String,
    meaning: Meaning,
}

impl ShapeSpec {
    /// Ties the spec to a model's inputs.
    ///
    /// Dims that the model's symbols make equal are made one (with a warning); see [`Error`] for what is refused.
    ///
    /// # Errors
    /// All conflicts together; see [`Error`].
    pub fn resolve(&self, inputs: &[TensorDecl], overrides: &Overrides) -> Result<Resolved, Error> {
        let dims = self.with_overrides(overrides)?;
        match self.tie_to(inputs, overrides, dims) {
            Ok((resolved, work)) => work.check_overrides(&resolved).map(|()| resolved),
            Err(problems) => Err(Error::Model {
                origin: (!self.is_none()).then(|| self.origin.clone()),
                problems,
                suggestion: write::suggestion(self, inputs),
            }),
        }
    }

    /// Whether the spec alone can be tied to a model's inputs.
    pub(super) fn fits(&self, inputs: &[TensorDecl]) -> bool {
        self.tie_to(inputs, &Overrides::default(), self.dims.clone())
            .is_ok()
    }

    fn tie_to<'a>(
        &self,
        inputs: &'a [TensorDecl],
        overrides: &'a Overrides,
        dims: BTreeMap<String, DimDecl>,
    ) -> Result<(Resolved, Work<'a>), Vec<ModelFault>> {
        let mut faults = Vec::new();
        let places = assign(&self.body, inputs, &mut faults);
        let mut work = Work {
            inputs,
            overrides,
            declared: dims.clone(),
            system: System::new(dims),
            faults,
            warnings: Vec::new(),
            symbols: BTreeMap::new(),
            named: BTreeMap::new(),
            made: BTreeSet::new(),
        };
        let drafts = work.drafts(&places);
        work.tie();
        let axes = work.finish(drafts);
        if !work.faults.is_empty() {
            return Err(work.faults);
        }
        Ok((work.assemble(axes), work))
    }

    /// The declared dims with what the command line says of them.
    fn with_overrides(&self, overrides: &Overrides) -> Result<BTreeMap<String, DimDecl>, Error> {
        let mut dims = self.dims.clone();
        let mut faults = Vec::new();
        for (name, range) in &overrides.dims {
            match parse_dim(range) {
                Ok(decl) => {
                    dims.insert(name.clone(), decl);
                }
                Err(reason) => {
                    faults.push(ArgumentFault::Value {
                        option: "--dim",
                        value: format!("{name}={range}"),
                        reason,
                    });
                }
            }
        }
        for (name, decl) in &mut dims {
            if let Some(&opt) = overrides.opt.get(name) {
                if opt < decl.min || decl.max.is_some_and(|max| opt > max) {
                    let (name, DimDecl { min, max, .. }) = (name.clone(), *decl);
                    faults.push(ArgumentFault::Outside {
                        option: "--opt",
                        name,
                        value: opt,
                        min,
                        max,
                    });
                }
                decl.opt = Some(opt);
            }
        }
        if faults.is_empty() {
            Ok(dims)
        } else {
            Err(Error::Arguments(faults))
        }
    }
}

struct Work<'a> {
    inputs: &'a [TensorDecl],
    overrides: &'a Overrides,
    /// `dims` of the spec and `--dim`, as they were before any was tied.
    declared: BTreeMap<String, DimDecl>,
    system: System,
    faults: Vec<ModelFault>,
    warnings: Vec<String>,
    /// What the spec says of each of the model's symbols.
    symbols: BTreeMap<String, Vec<Witness>>,
    /// Roots that were made for symbols that the spec says nothing of.
    named: BTreeMap<String, String>,
    /// The names of all roots that the spec does not name.
    made: BTreeSet<String>,
}

/// The model's symbol as `A·symbol+B`; what is no such expression is a symbol as a whole.
pub(super) fn model_symbol(symbol: &str) -> Affine {
    symbol.parse().unwrap_or_else(|_| Affine::root(symbol))
}

/// The entry that a leaf has for an axis; `None` where it says nothing of it.
pub(super) fn entry_of(leaf: Option<&Leaf>, axis: usize) -> Option<&Entry> {
    match leaf? {
        Leaf::Null => None,
        Leaf::Nulls(_) => Some(&Entry::Static),
        Leaf::Sparse(axes) => axes.get(&axis),
        Leaf::Full(entries) => entries.get(axis),
    }
}

impl Work<'_> {
    /// Every axis of every input, as far as it can be said before symbols are tied.
    fn drafts(&mut self, places: &[Option<Place<'_>>]) -> Vec<Vec<Draft>> {
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
                    .filter_map(|(axis, extent)| self.draft(i, axis, extent, place))
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
        if let Some(Leaf::Sparse(axes)) = place.map(|p| p.leaf) {
            for &axis in axes.keys().filter(|&&a| a >= rank) {
                let (input, declared) = (decl.name.clone(), declared.clone());
                self.faults.push(ModelFault::NoAxis {
                    input,
                    axis,
                    rank,
                    declared,
                });
            }
        }
        Some(extents.clone())
    }

    fn draft(
        &mut self,
        i: usize,
        axis: usize,
        extent: &Extent,
        place: Option<&Place<'_>>,
    ) -> Option<Draft> {
        let input = self.inputs[i].name.clone();
        let entry = entry_of(place.map(|p| p.leaf), axis);
        let contradicts = |model: usize, given: String| ModelFault::Static {
            input: input.clone(),
            axis,
            model: model as u64,
            given,
        };
        match (entry, extent) {
            (None | Some(Entry::Static | Entry::Auto), &Extent::Fixed(n)) => {
                Some(Draft::Done(Axis::Fixed(n)))
            }
            (Some(Entry::Dynamic), &Extent::Fixed(n)) => {
                self.faults.push(contradicts(n, "`DYNAMIC`".into()));
                None
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
            (Some(Entry::Auto | Entry::Dynamic), Extent::Unknown) => {
                Some(Draft::Own(axis_name(&input, axis)))
            }
            (Some(Entry::Auto | Entry::Dynamic), Extent::Symbol(s)) => {
                Some(Draft::Symbol(model_symbol(s)))
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
                Some(Draft::Own(axis_name(&input, axis)))
            }
            (None | Some(Entry::Static), Extent::Symbol(_) | Extent::Unknown) => {
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

    fn witness(
        &mut self,
        symbol: &Affine,
        input: usize,
        axis: usize,
        entry: String,
        meaning: Option<Meaning>,
    ) {
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

    /// Makes all that the spec says of one symbol equal.
    fn tie(&mut self) {
        for (symbol, witnesses) in &self.symbols {
            let [first, others @ ..] = witnesses.as_slice() else {
                continue;
            };
            for other in others {
                let tied = match (&first.meaning, &other.meaning) {
                    (Meaning::Size(a), Meaning::Size(b)) if a == b => Ok(None),
                    (Meaning::Size(_), Meaning::Size(_)) => Err("are two sizes".into()),
                    (Meaning::Size(n), Meaning::Dim(e)) | (Meaning::Dim(e), Meaning::Size(n)) => {
                        self.system.pin(e, *n)
                    }
                    (Meaning::Dim(a), Meaning::Dim(b)) => self.system.equate(a, b),
                };
                let place = |w: &Witness| (self.inputs[w.input].name.clone(), w.axis);
                match tied {
                    Ok(None) => {}
                    Ok(Some(told)) => {
                        let ((a, i), (b, j)) = (place(first), place(other));
                        self.warnings.push(format!(
                            "axis {i} of `{a}` and axis {j} of `{b}` share `{symbol}` in the model, so {told}"
                        ));
                    }
                    Err(reason) => self.faults.push(ModelFault::Shared {
                        symbol: symbol.clone(),
                        first: place(first),
                        second: place(other),
                        entries: (first.entry.clone(), other.entry.clone()),
                        reason,
                    }),
                }
            }
        }
        for fault in &mut self.faults {
            if let ModelFault::Undeclared {
                extent: Extent::Symbol(s),
                elsewhere,
                ..
            } = fault
            {
                let meaning = self
                    .symbols
                    .get(&model_symbol(s).root)
                    .and_then(|w| w.first())
                    .map(|w| &w.meaning);
                *elsewhere = meaning.and_then(|meaning| match meaning {
                    Meaning::Size(n) => model_symbol(s).eval(*n).map(|n| n.to_string()),
                    Meaning::Dim(e) => model_symbol(s).compose(e).map(|e| e.to_string()),
                });
            }
        }
    }

    /// A root for what the spec does not name: `wanted` with its declared range if that is meant for it, else a new one.
    fn fresh(&mut self, wanted: String) -> String {
        let used = self.made.contains(&wanted) || self.is_meaning(&wanted);
        if self.declared.contains_key(&wanted) && !used {
            self.made.insert(wanted.clone());
            return wanted;
        }
        let numbered = (2u64..).map(|n| format!("{wanted}_{n}"));
        let mut names = std::iter::once(wanted.clone()).chain(numbered);
        let name = names
            .find(|n| !self.system.contains(n))
            .expect("one of endlessly many names is free");
        self.system.insert(
            name.clone(),
            DimDecl {
                min: 0,
                max: None,
                opt: None,
            },
        );
        self.made.insert(name.clone());
        name
    }

    /// Whether the spec uses the dim `name` on an axis that has a symbol in the model.
    fn is_meaning(&self, name: &str) -> bool {
        (self.symbols.values().flatten())
            .any(|w| matches!(&w.meaning, Meaning::Dim(e) if e.root == name))
    }

    /// The root that stands for a symbol of the model which the spec does not name.
    fn symbol_root(&mut self, symbol: &str) -> Affine {
        let name = match self.named.get(symbol) {
            Some(name) => name.clone(),
            None => self.fresh(identifier(symbol)),
        };
        self.named.insert(symbol.to_owned(), name.clone());
        Affine::root(name)
    }

    fn finish(&mut self, drafts: Vec<Vec<Draft>>) -> Vec<Vec<Axis>> {
        let mut out = Vec::with_capacity(drafts.len());
        for (i, input) in drafts.into_iter().enumerate() {
            let mut axes = Vec::with_capacity(input.len());
            for (axis, draft) in input.into_iter().enumerate() {
                match self.settle(draft).and_then(|a| self.checked(a)) {
                    Ok(done) => axes.push(done),
                    Err((expr, reason)) => {
                        let input = self.inputs[i].name.clone();
                        self.faults.push(ModelFault::Range {
                            input,
                            axis,
                            expr,
                            reason,
                        });
                    }
                }
            }
            out.push(axes);
        }
        out
    }

    fn settle(&mut self, draft: Draft) -> Result<Axis, (Affine, String)> {
        let symbol = match draft {
            Draft::Done(axis) => return Ok(axis),
            Draft::Own(name) => return Ok(Axis::Dim(Affine::root(self.fresh(name)))),
            Draft::Symbol(symbol) => symbol,
        };
        let meaning = match self
            .symbols
            .get(&symbol.root)
            .and_then(|w| w.first())
            .map(|w| &w.meaning)
        {
            Some(Meaning::Size(n)) => {
                let size = symbol
                    .eval(*n)
                    .ok_or_else(|| (symbol.clone(), format!("has no size where it is {n}")))?;
                return Ok(Axis::Fixed(size as usize));
            }
            Some(Meaning::Dim(e)) => e.clone(),
            None => self.symbol_root(&symbol.root),
        };
        let expr = symbol
            .compose(&meaning)
            .ok_or_else(|| (symbol, "is beyond 63 bits".to_owned()))?;
        Ok(Axis::Dim(expr))
    }

    /// The axis in terms of roots that stand for themselves, with a size everywhere in their ranges.
    fn checked(&self, axis: Axis) -> Result<Axis, (Affine, String)> {
        let Axis::Dim(expr) = axis else {
            return Ok(axis);
        };
        let overflow = |expr: &Affine| (expr.clone(), "is beyond 63 bits".to_owned());
        let reduced = self.system.reduce(&expr).ok_or_else(|| overflow(&expr))?;
        let DimDecl { min, max, .. } = self.system.range(&reduced.root);
        if i128::from(reduced.scale) * i128::from(min) + i128::from(reduced.offset) < 0 {
            return Err((
                reduced.clone(),
                format!("is negative where `{}` is {min}", reduced.root),
            ));
        }
        let top = max.unwrap_or(min);
        match reduced.eval(top).filter(|&n| n <= MAX_SIZE) {
            Some(_) => Ok(Axis::Dim(reduced)),
            None => Err(overflow(&reduced)),
        }
    }

    fn assemble(&mut self, axes: Vec<Vec<Axis>>) -> Resolved {
        let inputs: Vec<Input> = (self.inputs.iter().zip(axes))
            .map(|(decl, axes)| Input {
                name: decl.name.clone(),
                dtype: decl.dtype,
                axes,
            })
            .collect();
        let used: BTreeSet<&str> = (inputs.iter().flat_map(|i| &i.axes))
            .filter_map(|a| match a {
                Axis::Dim(e) => Some(e.root.as_str()),
                Axis::Fixed(_) => None,
            })
            .collect();
        let dims = used.into_iter().map(|name| {
            let DimDecl { min, max, opt } = self.system.range(name);
            let given = self.overrides.opt.get(name).copied();
            let given = given.filter(|&o| o >= min && max.is_none_or(|max| o <= max));
            let opt = given.or(opt).unwrap_or_else(|| default_opt(min, max));
            (name.to_owned(), Root { min, max, opt })
        });
        let dims = dims.collect();
        Resolved {
            dims,
            inputs,
            warnings: std::mem::take(&mut self.warnings),
        }
    }

    /// `--dim` and `--opt` must have named something.
    fn check_overrides(&self, resolved: &Resolved) -> Result<(), Error> {
        let known = |name: &str| resolved.dims.contains_key(name) || self.is_meaning(name);
        let given = (self.overrides.dims.keys().map(|n| ("--dim", n)))
            .chain(self.overrides.opt.keys().map(|n| ("--opt", n)));
        let mut faults = Vec::new();
        for (option, name) in given.filter(|(_, n)| !known(n)) {
            let nearest = nearest(name, resolved.dims.keys().map(String::as_str));
            faults.push(ArgumentFault::UnknownDim {
                option,
                name: name.clone(),
                nearest,
            });
        }
        for (name, &opt) in &self.overrides.opt {
            if let Some(root) = resolved.dims.get(name).filter(|r| r.opt != opt) {
                let (name, min, max) = (name.clone(), root.min, root.max);
                faults.push(ArgumentFault::Outside {
                    option: "--opt",
                    name,
                    value: opt,
                    min,
                    max,
                });
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Error::Arguments(faults))
        }
    }
}

/// The size to optimise for where none is given: the midpoint rounded down; without a max the min, and at least 1.
pub(super) fn default_opt(min: u64, max: Option<u64>) -> u64 {
    max.map_or(min.max(1), |max| min + (max - min) / 2)
}

/// `sample_2` for axis 2 of `sample`.
pub(super) fn axis_name(input: &str, axis: usize) -> String {
    format!("{}_{axis}", identifier(input))
}

/// `symbol` as a name that a dim can have.
pub(super) fn identifier(symbol: &str) -> String {
    let mut name: String = symbol
        .chars()
        .map(|c| {
            if c == '_' || c.is_alphanumeric() {
                c
            } else {
                '_'
            }
        })
        .collect();
    if !is_identifier(&name) || matches!(name.as_str(), "AUTO" | "DYNAMIC" | "STATIC") {
        name.insert_str(0, "d_");
    }
    name
}
