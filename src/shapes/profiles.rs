//! Several optimization profiles: each by itself, and what holds them all.
//!
//! All profiles of a spec speak of the same axes. So the axes are decided once, for the ranges that hold all profiles, and a profile is
//! a range of each root dim.

use super::args::Overrides;
use super::bind::InputShapes;
use super::error::Error;
use super::faults::{Conflict, show_range};
use super::resolved::{Axis, Resolved, Root};
use super::spec::DimDecl;
use std::collections::BTreeMap;

/// The dims of one profile with what the command line says of them. A `--dim` replaces the range in all profiles; an `--opt` is for those
/// that hold it. What is wrong with the options was told of the joined range.
pub(super) fn overridden(
    dims: &BTreeMap<String, DimDecl>,
    overrides: &Overrides,
) -> (BTreeMap<String, DimDecl>, Overrides) {
    let mut dims = dims.clone();
    for (name, range) in &overrides.dims {
        if let Ok(decl) = super::args::parse_dim(range) {
            dims.insert(name.clone(), decl);
        }
    }
    let mut overrides = overrides.clone();
    overrides.opt.retain(|name, opt| {
        let Some(decl) = dims.get_mut(name) else {
            return true;
        };
        let holds = *opt >= decl.min && decl.max.is_none_or(|max| *opt <= max);
        if holds {
            decl.opt = Some(*opt);
        }
        holds
    });
    (dims, overrides)
}

/// The ranges that `one` profile, tied to the model by itself, gives the root dims of `whole`.
///
/// By axis and not by name: a dim that a profile pins to one size may be a root there and none in the others.
///
/// # Errors
/// Why it has none, in one fragment.
pub(super) fn ranges(whole: &Resolved, one: &Resolved) -> Result<BTreeMap<String, Root>, String> {
    let mut roots = whole.dims.clone();
    for (input, of_one) in whole.inputs.iter().zip(&one.inputs) {
        for (axis, (is, of_one)) in input.axes.iter().zip(&of_one.axes).enumerate() {
            let Axis::Dim(expr) = is else { continue };
            let root = roots.get_mut(&expr.root).expect("a root of this range");
            let given = one.range(of_one);
            let solve = |size: usize| {
                let value = expr.solve(size as u64);
                value.and_then(|v| u64::try_from(v).ok()).ok_or_else(|| {
                    format!("axis {axis} of `{}` is `{expr}` in the others, and {size} is between its steps", input.name)
                })
            };
            let (min, opt) = (solve(given.min)?, solve(given.opt)?);
            let max = given.max.map(solve).transpose()?;
            root.min = root.min.max(min);
            // Several axes may speak of one root, and a profile is what all of them allow.
            root.max = [root.max, max].into_iter().flatten().min();
            if root.max.is_some_and(|max| max < root.min) {
                let range = show_range(given.min as u64, given.max.map(|m| m as u64));
                return Err(format!(
                    "axis {axis} of `{}` is {range}, and `{}`, which it is tied to, is not",
                    input.name, expr.root
                ));
            }
            root.opt = opt.clamp(root.min, root.max.unwrap_or(u64::MAX));
        }
    }
    Ok(roots)
}

impl Resolved {
    /// These ranges as those that hold all of `each`, which become its profiles. Both are of one model.
    ///
    /// # Errors
    /// [`Error::Profile`] for one that is no range of the same axes.
    pub fn with_profiles(mut self, each: &[Resolved]) -> Result<Resolved, Error> {
        self.profiles.clear();
        for (at, one) in each.iter().enumerate() {
            let ranges =
                ranges(&self, one).map_err(|reason| Error::Profile { at: at + 1, reason })?;
            self.profiles.push(ranges);
        }
        // An engine with the same profile twice would be tuned twice for nothing.
        self.profiles.dedup();
        if self.profiles.len() == 1 {
            self.profiles.clear();
        }
        Ok(self)
    }

    /// How many optimization profiles there are; 1 or more.
    pub fn profile_count(&self) -> usize {
        self.profiles.len().max(1)
    }

    /// Each optimization profile as a range by itself.
    pub fn each_profile(&self) -> Vec<Resolved> {
        if self.profiles.is_empty() {
            return vec![self.clone()];
        }
        let each = self.profiles.iter().map(|dims| Resolved {
            dims: dims.clone(),
            ..self.joined()
        });
        each.collect()
    }

    /// One range that holds all profiles, the smallest that does.
    #[must_use]
    pub fn joined(&self) -> Resolved {
        Resolved {
            profiles: Vec::new(),
            ..self.clone()
        }
    }

    /// The first profile that holds these values of root dims.
    pub(super) fn profile_of(
        &self,
        values: &BTreeMap<String, u64>,
    ) -> Option<&BTreeMap<String, Root>> {
        let holds = |dims: &&BTreeMap<String, Root>| {
            let mut each = values.iter();
            each.all(|(name, &value)| dims.get(name).is_some_and(|r| r.holds(value)))
        };
        self.profiles.iter().find(holds)
    }

    /// The profile that these shapes are least outside of: the first with the fewest conflicts. What it says of them.
    pub(super) fn nearest_profile(&self, shapes: &InputShapes) -> (usize, Vec<Conflict>) {
        let conflicts = self
            .each_profile()
            .into_iter()
            .map(|one| match one.bind(shapes) {
                Err(Error::Sizes(conflicts)) => conflicts,
                _ => Vec::new(),
            });
        // `min_by_key` gives the first of equals, so the choice does not change from run to run.
        let nearest = conflicts.enumerate().min_by_key(|(_, found)| found.len());
        nearest.unwrap_or_default()
    }

    /// This with one profile replaced, and the joined range after it.
    pub(super) fn with_profile(&self, at: usize, dims: BTreeMap<String, Root>) -> Resolved {
        let mut all = self.clone();
        all.profiles[at] = dims;
        for (name, whole) in &mut all.dims {
            let each = || all.profiles.iter().map(|dims| dims[name]);
            whole.min = each().map(|r| r.min).min().unwrap_or(whole.min);
            whole.max = each()
                .map(|r| r.max)
                .collect::<Option<Vec<_>>>()
                .and_then(|m| m.into_iter().max());
            if !whole.holds(whole.opt) {
                // The first profile's, as when a spec is read.
                whole.opt = all.profiles[0][name].opt;
            }
        }
        all
    }

    /// The ranges of the root dims in words, of each profile: `B 1 to 8, H 16 to 32`.
    pub fn show_profiles(&self) -> Vec<String> {
        let show = |one: &Resolved| {
            let dims = one.dims.iter().map(|(name, d)| match d.max {
                Some(max) if max == d.min => format!("{name} {max}"),
                Some(max) => format!("{name} {} to {max}", d.min),
                None => format!("{name} {} to any", d.min),
            });
            dims.collect::<Vec<_>>().join(", ")
        };
        self.each_profile().iter().map(show).collect()
    }
}
