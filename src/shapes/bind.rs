//! Concrete shapes against a range: the values of all roots, or everything that does not fit.

use super::args::{Overrides, parse_dim};
use super::error::Error;
use super::expr::Affine;
use super::faults::{ArgumentFault, Conflict, Witness, nearest};
use super::resolved::{Axis, Resolved, Root};
use std::collections::{BTreeMap, BTreeSet};

/// A concrete shape per input.
pub type InputShapes = Vec<(String, Vec<usize>)>;

/// An axis in concrete shapes.
struct Sized<'a> {
    input: &'a str,
    axis: usize,
    size: usize,
    expr: &'a Affine,
}

/// The root values that axes ask for, and all that does not fit.
#[derive(Default)]
struct Solution {
    values: BTreeMap<String, u64>,
    conflicts: Vec<Conflict>,
}

impl Resolved {
    /// Root dims by name with the values that `shapes` (one per input, in any order) ask for.
    ///
    /// # Errors
    /// All conflicts together, with the nearest sizes that fit.
    pub fn bind(&self, shapes: &InputShapes) -> Result<BTreeMap<String, u64>, Error> {
        let bound = self.solve(self.sized(shapes));
        if self.profiles.is_empty() {
            return bound;
        }
        match bound {
            Ok(values) if self.profile_of(&values).is_some() => return Ok(values),
            // No range would hold these.
            Err(Error::Sizes(conflicts))
                if !(conflicts.iter()).all(|c| matches!(c, Conflict::Outside { .. })) =>
            {
                return Err(Error::Sizes(conflicts));
            }
            _ => {}
        }
        Err(Error::NoProfile {
            conflicts: self.nearest_profile(shapes).1,
            profiles: self.show_profiles(),
        })
    }

    /// As [`Resolved::bind`], for shapes of some of the inputs: the roots that these determine.
    ///
    /// # Errors
    /// All conflicts together, with the nearest sizes that fit.
    pub fn bind_some(&self, shapes: &InputShapes) -> Result<BTreeMap<String, u64>, Error> {
        let (axes, mut conflicts) = self.sized(shapes);
        // The other inputs are not asked about.
        conflicts.retain(|c| !matches!(c, Conflict::Missing { .. }));
        self.solve((axes, conflicts))
    }

    /// As [`Resolved::bind_some`], for the sizes of example inputs, which no range is made wider for.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn sizes_of_call(&self, call: &InputShapes) -> Result<BTreeMap<String, u64>, Error> {
        self.bind_some(call).map_err(|e| match e {
            Error::Sizes(conflicts) => Error::Call(conflicts),
            other => other,
        })
    }

    /// This range, optimised for the sizes of example inputs where `overrides` give no opt.
    ///
    /// # Errors
    /// [`Error::Call`] for sizes that it does not hold.
    pub fn optimised_for(
        &self,
        call: &InputShapes,
        overrides: &Overrides,
    ) -> Result<Resolved, Error> {
        let mut optimised = self.clone();
        let sizes = self.sizes_of_call(call)?;
        // The joined range holds combinations that no single profile does, and the engine has only
        // those.
        if !self.profiles.is_empty() && self.profile_of(&sizes).is_none() {
            return Err(Error::Call(self.nearest_profile(call).1));
        }
        for (name, opt) in sizes {
            let ranged = || {
                overrides
                    .dims
                    .get(&name)
                    .and_then(|range| parse_dim(range).ok())
            };
            // What the user said outright counts more than what an example happens to have.
            if !overrides.opt.contains_key(&name) && ranged().is_none_or(|d| d.opt.is_none()) {
                // The joined range too: it is the one that messages and manifests show first.
                let profiles = optimised.profiles.iter_mut();
                for dims in profiles.chain([&mut optimised.dims]) {
                    let root = dims.get_mut(&name);
                    let root = root.expect("bind gives the roots of this range");
                    if root.holds(opt) {
                        root.opt = opt;
                    }
                }
            }
        }
        Ok(optimised)
    }

    fn solve(
        &self,
        (axes, conflicts): (Vec<Sized<'_>>, Vec<Conflict>),
    ) -> Result<BTreeMap<String, u64>, Error> {
        let mut solution = Solution {
            conflicts,
            ..Solution::default()
        };
        let mut first: BTreeMap<&str, Witness> = BTreeMap::new();
        for a in axes {
            let root = self.dims[&a.expr.root];
            let value = a
                .expr
                .solve(a.size as u64)
                .and_then(|v| u64::try_from(v).ok());
            // An axis out of range gives no root value: else one bad size would be told again by
            // every axis that shares the root.
            let value = value.filter(|&v| v >= root.min && root.max.is_none_or(|max| v <= max));
            let Some(value) = value else {
                solution.conflicts.push(outside(&a, root));
                continue;
            };
            let witness = Witness {
                input: a.input.to_owned(),
                axis: a.axis,
                size: a.size,
                value,
            };
            match first.get(a.expr.root.as_str()) {
                Some(first) if first.value != value => {
                    let conflict = Conflict::Disagree {
                        dim: a.expr.root.clone(),
                        nearest: a.expr.eval(first.value).into_iter().collect(),
                        first: first.clone(),
                        second: witness,
                    };
                    solution.conflicts.push(conflict);
                }
                Some(_) => {}
                None => {
                    first.insert(&a.expr.root, witness);
                    solution.values.insert(a.expr.root.clone(), value);
                }
            }
        }
        if solution.conflicts.is_empty() {
            Ok(solution.values)
        } else {
            Err(Error::Sizes(solution.conflicts))
        }
    }

    /// The axes that have a dim, with their sizes; and what is wrong with inputs, ranks and fixed axes.
    fn sized<'a>(&'a self, shapes: &'a InputShapes) -> (Vec<Sized<'a>>, Vec<Conflict>) {
        let mut axes = Vec::new();
        let mut conflicts = Vec::new();
        let mut seen = BTreeSet::new();
        for (name, _) in shapes {
            if !seen.insert(name.as_str()) {
                conflicts.push(Conflict::Twice {
                    input: name.clone(),
                });
            } else if !self.inputs.iter().any(|i| i.name == *name) {
                let nearest = nearest(name, self.inputs.iter().map(|i| i.name.as_str()));
                conflicts.push(Conflict::Unknown {
                    input: name.clone(),
                    nearest,
                });
            }
        }
        for input in &self.inputs {
            let Some((_, shape)) = shapes.iter().find(|(name, _)| *name == input.name) else {
                conflicts.push(Conflict::Missing {
                    input: input.name.clone(),
                });
                continue;
            };
            // Axes of another rank cannot be laid beside the declared ones, so nothing more is said
            // of this input.
            if shape.len() != input.axes.len() {
                let declared: Vec<String> = input.axes.iter().map(ToString::to_string).collect();
                conflicts.push(Conflict::Rank {
                    input: input.name.clone(),
                    given: shape.len(),
                    rank: input.axes.len(),
                    declared: format!("[{}]", declared.join(", ")),
                });
                continue;
            }
            for (axis, (declared, &size)) in input.axes.iter().zip(shape).enumerate() {
                match declared {
                    Axis::Fixed(fixed) if *fixed != size => {
                        conflicts.push(Conflict::Fixed {
                            input: input.name.clone(),
                            axis,
                            size,
                            fixed: *fixed,
                        });
                    }
                    Axis::Fixed(_) => {}
                    Axis::Dim(expr) => axes.push(Sized {
                        input: &input.name,
                        axis,
                        size,
                        expr,
                    }),
                }
            }
        }
        (axes, conflicts)
    }

    /// Shapes of all inputs for the given root values; a root that is not given takes its `opt`.
    ///
    /// # Errors
    /// Unknown roots, all of them together; else values outside of their ranges, as shapes with these values would be.
    pub fn shapes_for(&self, dims: &BTreeMap<String, u64>) -> Result<InputShapes, Error> {
        let mut faults = Vec::new();
        let mut outside = Vec::new();
        for (name, &value) in dims {
            match self.dims.get(name) {
                None => {
                    let nearest = nearest(name, self.dims.keys().map(String::as_str));
                    faults.push(ArgumentFault::UnknownDim {
                        option: "--dim",
                        name: name.clone(),
                        nearest,
                    });
                }
                Some(&Root { min, max, .. })
                    if value < min || max.is_some_and(|max| value > max) =>
                {
                    outside.push(Conflict::Dim {
                        dim: name.clone(),
                        value,
                        min,
                        max,
                    });
                }
                Some(_) => {}
            }
        }
        // A misspelled name comes first: with it mended, other values may be out of range.
        if faults.is_empty() && !outside.is_empty() {
            return Err(Error::Sizes(outside));
        }
        // Of several profiles, one that holds what is given.
        let ranges = self.profile_of(dims).unwrap_or(&self.dims);
        let size = |axis: &Axis| match axis {
            Axis::Fixed(n) => Some(*n),
            // Only a value beyond any size overflows, and only where its dim is unbounded.
            Axis::Dim(e) => {
                let value = dims.get(&e.root).copied().unwrap_or(ranges[&e.root].opt);
                e.eval(value).map(|n| n as usize)
            }
        };
        let mut shapes = InputShapes::new();
        for input in &self.inputs {
            match input.axes.iter().map(size).collect::<Option<Vec<usize>>>() {
                Some(shape) => shapes.push((input.name.clone(), shape)),
                None if faults.is_empty() => faults.push(ArgumentFault::Value {
                    option: "--dim",
                    value: input.name.clone(),
                    reason: "a size is beyond 63 bits".into(),
                }),
                None => {}
            }
        }
        if faults.is_empty() {
            Ok(shapes)
        } else {
            Err(Error::Arguments(faults))
        }
    }

    /// The smallest range that covers this one and `shapes`: every root reaches as far as the shapes ask. `opt` stays. Of
    /// several profiles, the nearest one becomes wider.
    ///
    /// # Errors
    /// What no range of the same dims can cover: another rank, a fixed axis, a size between the steps of a derived dim,
    /// two axes that want different values of one dim.
    pub fn widen(&self, shapes: &InputShapes) -> Result<Resolved, Error> {
        self.reach(shapes, |root, value| Root {
            min: root.min.min(value),
            max: root.max.map(|max| max.max(value)),
            opt: root.opt,
        })
    }

    /// This range with every root that `shapes` are outside of moved to exactly the value that they ask for. The others
    /// keep their ranges, and so do all profiles but the nearest one.
    ///
    /// # Errors
    /// As [`Resolved::widen`].
    pub fn move_to(&self, shapes: &InputShapes) -> Result<Resolved, Error> {
        self.reach(shapes, |_, value| Root {
            min: value,
            max: Some(value),
            opt: value,
        })
    }

    /// This range with every root free to take any value: what ties axes together is kept.
    #[must_use]
    pub fn unbounded(&self) -> Resolved {
        let mut free = self.joined();
        for root in free.dims.values_mut() {
            root.min = 0;
            root.max = None;
        }
        free
    }

    /// With `change` done to every root whose value in `shapes` is out of its range.
    fn reach(
        &self,
        shapes: &InputShapes,
        change: impl Fn(Root, u64) -> Root,
    ) -> Result<Resolved, Error> {
        // An engine's profiles are tuned one by one; widening the joined range would change them
        // all.
        if !self.profiles.is_empty() {
            let (at, _) = self.nearest_profile(shapes);
            let one = self.each_profile().swap_remove(at);
            return Ok(self.with_profile(at, one.reach(shapes, change)?.dims));
        }
        let (axes, mut conflicts) = self.sized(shapes);
        let free = self.unbounded();
        for a in &axes {
            if a.expr.solve(a.size as u64).is_none_or(|v| v < 0) {
                let (input, dim) = (a.input.to_owned(), a.expr.root.clone());
                conflicts.push(Conflict::Step {
                    input,
                    axis: a.axis,
                    size: a.size,
                    expr: a.expr.clone(),
                    dim,
                });
            }
        }
        if !conflicts.is_empty() {
            return Err(Error::Sizes(conflicts));
        }
        let values = free.bind(shapes)?;
        let mut reached = self.clone();
        for (name, value) in values {
            let root = reached
                .dims
                .get_mut(&name)
                .expect("bind gives the roots of this range");
            if value < root.min || root.max.is_some_and(|max| value > max) {
                *root = change(*root, value);
            }
        }
        reached.check_sizes(shapes)?;
        Ok(reached)
    }

    /// Every axis must have a size at the ends of a changed range.
    fn check_sizes(&self, shapes: &InputShapes) -> Result<(), Error> {
        let mut conflicts = Vec::new();
        for input in &self.inputs {
            for (axis, declared) in input.axes.iter().enumerate() {
                let Axis::Dim(expr) = declared else { continue };
                let root = self.dims[&expr.root];
                if [Some(root.min), root.max]
                    .into_iter()
                    .flatten()
                    .any(|x| expr.eval(x).is_none())
                {
                    let size = shapes
                        .iter()
                        .find(|(n, _)| *n == input.name)
                        .map_or(0, |(_, s)| s[axis]);
                    let (input, dim) = (input.name.clone(), expr.root.clone());
                    conflicts.push(Conflict::Step {
                        input,
                        axis,
                        size,
                        expr: expr.clone(),
                        dim,
                    });
                }
            }
        }
        if conflicts.is_empty() {
            Ok(())
        } else {
            Err(Error::Sizes(conflicts))
        }
    }
}

fn outside(a: &Sized<'_>, root: Root) -> Conflict {
    let eval = |x: u64| a.expr.eval(x);
    let (size, scale, offset) = (
        a.size as i128,
        i128::from(a.expr.scale),
        i128::from(a.expr.offset),
    );
    let low = i128::from(root.min);
    let high = root.max.map_or(i128::from(i64::MAX), i128::from).max(low);
    let below = (size - offset).div_euclid(scale).clamp(low, high);
    let above = (size - offset + scale - 1)
        .div_euclid(scale)
        .clamp(low, high);
    let mut near: Vec<u64> = [below, above]
        .into_iter()
        .filter_map(|x| eval(x as u64))
        .collect();
    near.dedup();
    Conflict::Outside {
        input: a.input.to_owned(),
        axis: a.axis,
        size: a.size,
        expr: a.expr.clone(),
        min: eval(root.min).unwrap_or(0),
        max: root.max.and_then(eval),
        nearest: near,
    }
}
