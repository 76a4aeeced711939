//! Whether what is asked for is inside of what was built: by meaning, not by text.

use super::expr::Affine;
use super::faults::show_range;
use super::resolved::{Axis, Resolved};
use std::collections::BTreeMap;

/// How a requested range stands to a built one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relation {
    /// The same shapes, optimised for the same sizes; names of dims do not matter.
    Equal,
    /// Every shape that is asked for is in what was built, which may hold more or be optimised for other sizes.
    Inside,
    /// Some shape that is asked for is not in what was built.
    Outside {
        /// All reasons, one sentence each without a period.
        reasons: Vec<String>,
    },
}

impl Resolved {
    /// How `self`, the range that is asked for, stands to `built`.
    pub fn compare(&self, built: &Resolved) -> Relation {
        let (wanted, had) = (self.each_profile(), built.each_profile());
        let mut reasons = Vec::new();
        for (at, one) in wanted.iter().enumerate() {
            // One profile runs at a time, so one has to hold all that is asked of one.
            let outside = had.iter().map(|h| one.outside_of(h));
            let nearest = outside.min_by_key(Vec::len).unwrap_or_default();
            let several = wanted.len() > 1;
            reasons.extend(nearest.into_iter().map(|reason| {
                if several {
                    format!("in profile {}, {reason}", at + 1)
                } else {
                    reason
                }
            }));
        }
        let equal = |(a, b): (&Resolved, &Resolved)| {
            a.profile() == b.profile() && b.outside_of(a).is_empty()
        };
        if !reasons.is_empty() {
            Relation::Outside { reasons }
        } else if wanted.len() == had.len() && wanted.iter().zip(&had).all(equal) {
            Relation::Equal
        } else {
            Relation::Inside
        }
    }

    /// Why some shape of `self` is not one of `built`; empty when all are.
    ///
    /// Both are products of arithmetic progressions tied by roots, so containment is decided axis by axis and root by
    /// root: each axis must be a part of the built one, and all axes of one built root must give it the same value.
    fn outside_of(&self, built: &Resolved) -> Vec<String> {
        let mut reasons = Vec::new();
        for input in &self.inputs {
            if !built.inputs.iter().any(|i| i.name == input.name) {
                reasons.push(format!("the input `{}` is new", input.name));
            }
        }
        // What every root of the built range is in terms of the requested roots, by the first axis that says it.
        let mut roots: BTreeMap<&str, (String, Value)> = BTreeMap::new();
        for was in &built.inputs {
            let name = &was.name;
            let Some(is) = self.inputs.iter().find(|i| i.name == *name) else {
                reasons.push(format!("the input `{name}` is gone"));
                continue;
            };
            if is.dtype != was.dtype {
                reasons.push(format!(
                    "`{name}` is {} now, and was built as {}",
                    is.dtype, was.dtype
                ));
            }
            if is.axes.len() != was.axes.len() {
                reasons.push(format!(
                    "`{name}` has {} axes now, and was built with {}",
                    is.axes.len(),
                    was.axes.len()
                ));
                continue;
            }
            for (axis, (is, was)) in is.axes.iter().zip(&was.axes).enumerate() {
                let place = format!("axis {axis} of `{name}`");
                // An axis that is no part of the built one is told alone; whether it is still tied
                // says nothing more.
                if !self.is_part(is, built, was) {
                    reasons.push(format!(
                        "{place} is asked to be {}, and was built for {}",
                        self.show(is),
                        built.show(was)
                    ));
                    continue;
                }
                let Axis::Dim(was) = was else { continue };
                let value = self.value(is).unsolve(was);
                match roots.get(was.root.as_str()) {
                    Some((other, known)) if *known != value => {
                        reasons.push(format!(
                            "{place} and {other} were built to be tied by `{}`, and now are not",
                            was.root
                        ));
                    }
                    Some(_) => {}
                    None => {
                        roots.insert(&was.root, (place, value));
                    }
                }
            }
        }
        reasons
    }

    /// Whether every size of `is` is one of `was`.
    fn is_part(&self, is: &Axis, built: &Resolved, was: &Axis) -> bool {
        let (inner, outer) = (self.range(is), built.range(was));
        let in_range = inner.min >= outer.min
            && outer
                .max
                .is_none_or(|max| inner.max.is_some_and(|inner| inner <= max));
        let on_steps = match (self.value(is), was) {
            (_, Axis::Fixed(_)) => true,
            (Value::Size(n), Axis::Dim(was)) => was.solve(n).is_some(),
            (Value::Dim(is), Axis::Dim(was)) => is.divide(was).is_some(),
        };
        in_range && on_steps
    }

    fn value(&self, axis: &Axis) -> Value {
        match axis {
            Axis::Fixed(n) => Value::Size(*n as u64),
            Axis::Dim(e) => {
                let root = self.dims[&e.root];
                match e.eval(root.min) {
                    Some(size) if root.max == Some(root.min) => Value::Size(size),
                    // A root of one value is a number: two of them can be equal where their dims
                    // have other names.
                    _ => Value::Dim(e.clone()),
                }
            }
        }
    }

    fn show(&self, axis: &Axis) -> String {
        let range = self.range(axis);
        let range = show_range(range.min as u64, range.max.map(|m| m as u64));
        match axis {
            Axis::Fixed(_) => range,
            Axis::Dim(e) => format!("`{e}` {range}"),
        }
    }
}

/// A size as a function of requested roots.
#[derive(PartialEq)]
enum Value {
    Size(u64),
    Dim(Affine),
}

impl Value {
    /// The root value that gives this size through `was`; asked only where there is one.
    fn unsolve(self, was: &Affine) -> Value {
        match self {
            Value::Size(n) => Value::Size(was.solve(n).map_or(0, i64::cast_unsigned)),
            Value::Dim(e) => Value::Dim(e.divide(was).unwrap_or(e)),
        }
    }
}
