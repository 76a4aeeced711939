//! Ties a spec to a model's inputs.

use super::args::{Overrides, parse_dim};
use super::assign::assign;
use super::draft::{Draft, Meaning, Witness, Work};
use super::error::Error;
use super::expr::{Affine, MAX_SIZE};
use super::faults::{ArgumentFault, ModelFault, nearest};
use super::names::{default_opt, identifier, model_symbol};
use super::profiles;
use super::resolved::{Axis, Input, Resolved, Root};
use super::spec::{ANY, DimDecl, ShapeSpec};
use super::unify::System;
use super::write;
use crate::tensor::{Extent, TensorDecl};
use std::collections::{BTreeMap, BTreeSet};

impl ShapeSpec {
    /// Ties the spec to a model's inputs.
    ///
    /// Dims that the model's symbols make equal are made one (with a warning); see [`Error`] for what is refused.
    ///
    /// # Errors
    /// All conflicts together; see [`Error`].
    pub fn resolve(&self, inputs: &[TensorDecl], overrides: &Overrides) -> Result<Resolved, Error> {
        let dims = self.with_overrides(overrides)?;
        let (resolved, work) =
            (self.tie_to(inputs, overrides, dims)).map_err(|problems| Error::Model {
                origin: (!self.is_none()).then(|| self.origin.clone()),
                problems,
                suggestion: write::suggestion(self, inputs),
            })?;
        // Only now: an option may name a dim that the spec lacks and the model's symbol makes.
        work.check_overrides(&resolved)?;
        let mut each = Vec::new();
        for (at, dims) in self.profiles.iter().enumerate() {
            let (dims, overrides) = profiles::overridden(dims, overrides);
            // Each profile is tied by itself: a range of one value may pin a symbol that is free in
            // the others.
            let tied = self.tie_to(inputs, &overrides, dims);
            let (one, _) = tied.map_err(|problems| Error::Model {
                origin: Some(format!("{}, profile {}", self.origin, at + 1)),
                problems,
                suggestion: write::suggestion(self, inputs),
            })?;
            each.push(one);
        }
        resolved.with_profiles(&each)
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
        let assigned = assign(&self.body, &dims, inputs);
        let mut work = Work {
            inputs,
            overrides,
            declared: dims.clone(),
            system: System::new(dims),
            faults: assigned.faults,
            warnings: assigned.warnings,
            symbols: BTreeMap::new(),
            named: BTreeMap::new(),
            made: BTreeSet::new(),
            bounds: Vec::new(),
        };
        let drafts = work.drafts(&assigned.places);
        // Before the bounds of hints, which narrow what ties have already made one dim.
        work.tie();
        work.bound();
        // Last, since every tie may have replaced a root that an earlier axis names.
        let axes = work.finish(drafts);
        if !work.faults.is_empty() {
            return Err(work.faults);
        }
        let used = self.used_dims();
        let unused = self
            .dims
            .keys()
            .filter(|n| !used.contains(n.as_str()) && !work.made.contains(*n));
        let told: Vec<String> = unused
            .map(|n| format!("nothing uses the dim `{n}` of the spec"))
            .collect();
        work.warnings.extend(told);
        let mut resolved = work.assemble(axes);
        for (input, place) in resolved.inputs.iter_mut().zip(&assigned.places) {
            input.argument = place
                .as_ref()
                .and_then(super::leaves::Place::argument)
                // Recorded only where it says something: most exporters keep the argument's name.
                .filter(|argument| *argument != input.name);
        }
        Ok((resolved, work))
    }

    /// The declared dims with what the command line says of them.
    pub(super) fn with_overrides(
        &self,
        overrides: &Overrides,
    ) -> Result<BTreeMap<String, DimDecl>, Error> {
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

impl Work<'_> {
    /// Makes all that the spec says of one symbol equal.
    fn tie(&mut self) {
        for (symbol, witnesses) in &self.symbols {
            // All are held against the first, which is the earliest axis: messages then name the
            // same place each time.
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
        // An axis that is not declared may have a symbol that another axis gives a meaning; the
        // message can then say what to write.
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

    /// Narrows what axes with a symbol can be to the bounds of their hints.
    fn bound(&mut self) {
        for bound in std::mem::take(&mut self.bounds) {
            let root = &bound.symbol.root;
            let meaning = match self.symbols.get(root).and_then(|w| w.first()) {
                Some(Witness {
                    meaning: Meaning::Size(n),
                    ..
                }) => Err(bound.symbol.eval(*n)),
                Some(Witness {
                    meaning: Meaning::Dim(e),
                    ..
                }) => Ok(bound.symbol.compose(e)),
                // A range from the command line replaces the hint's.
                None if self.overrides.dims.contains_key(&identifier(root)) => continue,
                None => Ok(bound.symbol.compose(&self.symbol_root(root))),
            };
            let narrowed = match meaning {
                Err(size) if size.is_some_and(|n| bound.hint.holds(n)) => Ok(()),
                Err(size) => Err(format!(
                    "but {} elsewhere",
                    size.map_or("beyond 63 bits".into(), |n| n.to_string())
                )),
                Ok(None) => Err("which is beyond 63 bits".into()),
                Ok(Some(expr)) => self.system.narrow(&expr, bound.hint.min, bound.hint.max),
            };
            if let Err(reason) = narrowed {
                self.faults.push(ModelFault::Hint {
                    input: self.inputs[bound.input].name.clone(),
                    axis: bound.axis,
                    hint: bound.hint.to_string(),
                    reason,
                });
            }
        }
    }

    /// A root for what the spec does not name: `wanted` with its declared range if that is meant for it, else a new one.
    fn fresh(&mut self, wanted: String, range: DimDecl) -> String {
        let used = self.made.contains(&wanted) || self.is_meaning(&wanted);
        // A dim that the spec declares and uses nowhere, with the symbol's name, is meant for the
        // symbol.
        if self.declared.contains_key(&wanted) && !used {
            self.made.insert(wanted.clone());
            return wanted;
        }
        let numbered = (2u64..).map(|n| format!("{wanted}_{n}"));
        let mut names = std::iter::once(wanted.clone()).chain(numbered);
        let name = names
            .find(|n| !self.system.contains(n))
            .expect("one of endlessly many names is free");
        self.system.insert(name.clone(), range);
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
            None => self.fresh(identifier(symbol), ANY),
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
            Draft::Own(name, range) => {
                return Ok(Axis::Dim(Affine::root(self.fresh(name, range))));
            }
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
            // The first witness stands for all: the ties have made them equal.
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
        // In 128 bits, where the product of two 64-bit numbers cannot overflow.
        if i128::from(reduced.scale) * i128::from(min) + i128::from(reduced.offset) < 0 {
            return Err((
                reduced.clone(),
                format!("is negative where `{}` is {min}", reduced.root),
            ));
        }
        // Without a max any size may come; the least must be one that can be counted.
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
                argument: None,
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
            // A tie may have narrowed the range after the option was checked; `check_overrides`
            // says so.
            let given = given.filter(|&o| o >= min && max.is_none_or(|max| o <= max));
            let opt = given.or(opt).unwrap_or_else(|| default_opt(min, max));
            (name.to_owned(), Root { min, max, opt })
        });
        let dims = dims.collect();
        Resolved {
            dims,
            profiles: Vec::new(),
            inputs,
            warnings: std::mem::take(&mut self.warnings),
        }
    }

    /// `--dim` and `--opt` must have named something.
    fn check_overrides(&self, resolved: &Resolved) -> Result<(), Error> {
        // A dim that a tie replaced by another is gone from the result, but was no mistake.
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
