//! A spec tied to a model: what a manifest records.
//!
//! As JSON: `{"format": "trtmut.shapes/1", "dims": {"_H": {"min": 16, "max": 32, "opt": 24}}, "inputs": [{"name": "sample",
//! "dtype": "F16", "axes": [2, 4, "4*_H", 64]}], "warnings": [...]}`. `dims` are the root dims in use, `max` null is
//! unbounded, `axes` are sizes and expressions, outermost first, an input has an `argument` where `forward` calls it otherwise, and
//! `warnings` may be missing; where there are several
//! optimization profiles, `profiles` has the ranges of all dims in each, and `dims` what holds them all. What is read back is
//! checked, so that every value of this type has a size for every axis everywhere in its range.

use super::error::Error;
use super::expr::Affine;
use crate::tensor::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

const FORMAT: &str = "trtmut.shapes/1";

/// A spec tied to a model's inputs: every axis is fixed or `A·root+B`. This is what a manifest records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Record", into = "Record")]
pub struct Resolved {
    /// With several optimization profiles, the smallest ranges that hold those of all.
    pub(super) dims: BTreeMap<String, Root>,
    /// The ranges of each of several optimization profiles; empty where there is one.
    pub(super) profiles: Vec<BTreeMap<String, Root>>,
    pub(super) inputs: Vec<Input>,
    pub(super) warnings: Vec<String>,
}

/// Range of a root dim; `min ≤ opt ≤ max` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    pub min: u64,
    /// Greatest value; `None` is unbounded.
    pub max: Option<u64>,
    /// Value to optimise for.
    pub opt: u64,
}

impl Root {
    /// Whether `value` is in the range.
    pub fn holds(self, value: u64) -> bool {
        value >= self.min && self.max.is_none_or(|max| value <= max)
    }

    /// Whether all of `other` is in the range.
    pub(super) fn holds_range(self, other: Root) -> bool {
        other.min >= self.min
            && (self.max).is_none_or(|max| other.max.is_some_and(|other| other <= max))
    }
}

/// One input of the model. Equal where the ranges are, whatever `forward` calls it.
#[derive(Debug, Clone, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Name in the graph.
    pub name: String,
    pub dtype: Dtype,
    /// Every axis, outermost first.
    pub axes: Vec<Axis>,
    /// What `forward` calls it, where the spec says so and it is another name: keys joined with `.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argument: Option<String>,
}

impl PartialEq for Input {
    fn eq(&self, other: &Input) -> bool {
        (&self.name, self.dtype, &self.axes) == (&other.name, other.dtype, &other.axes)
    }
}

/// One axis of an input; in JSON a number or an expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AxisRecord", into = "AxisRecord")]
pub enum Axis {
    Fixed(usize),
    /// A root dim, or derived from one.
    Dim(Affine),
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Axis::Fixed(n) => n.fmt(f),
            Axis::Dim(e) => e.fmt(f),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum AxisRecord {
    Fixed(usize),
    Dim(String),
}

impl From<Axis> for AxisRecord {
    fn from(axis: Axis) -> AxisRecord {
        match axis {
            Axis::Fixed(n) => AxisRecord::Fixed(n),
            Axis::Dim(e) => AxisRecord::Dim(e.to_string()),
        }
    }
}

impl TryFrom<AxisRecord> for Axis {
    type Error = Error;

    fn try_from(record: AxisRecord) -> Result<Axis, Error> {
        match record {
            AxisRecord::Fixed(n) => Ok(Axis::Fixed(n)),
            AxisRecord::Dim(text) => match text.parse() {
                Ok(e) => Ok(Axis::Dim(e)),
                Err(e) => Err(Error::Record(format!("the axis `{text}` {e}"))),
            },
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: String,
    dims: BTreeMap<String, Root>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    profiles: Vec<BTreeMap<String, Root>>,
    inputs: Vec<Input>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl From<Resolved> for Record {
    fn from(resolved: Resolved) -> Record {
        let Resolved {
            dims,
            profiles,
            inputs,
            warnings,
        } = resolved;
        Record {
            format: FORMAT.into(),
            dims,
            profiles,
            inputs,
            warnings,
        }
    }
}

impl TryFrom<Record> for Resolved {
    type Error = Error;

    fn try_from(record: Record) -> Result<Resolved, Error> {
        let damaged = |reason: String| Err(Error::Record(reason));
        if record.format != FORMAT {
            return damaged(format!(
                "its format is `{}`, this version reads `{FORMAT}`",
                record.format
            ));
        }
        if record.profiles.len() == 1 {
            return damaged("one profile is not several".into());
        }
        for profile in &record.profiles {
            let inside = |(name, r): (&String, &Root)| {
                let whole = record.dims.get(name);
                whole.is_some_and(|whole| whole.holds_range(*r) && r.holds(r.opt))
            };
            if profile.len() != record.dims.len() || !profile.iter().all(inside) {
                return damaged("a profile is not within the ranges of the dims".into());
            }
        }
        for (name, r) in &record.dims {
            if r.opt < r.min || r.max.is_some_and(|max| r.opt > max) {
                return damaged(format!("`{name}` has opt {} outside of its range", r.opt));
            }
        }
        let mut used = BTreeSet::new();
        let mut names = BTreeSet::new();
        for input in &record.inputs {
            if !names.insert(&input.name) {
                return damaged(format!("the input `{}` is there twice", input.name));
            }
            for axis in &input.axes {
                let Axis::Dim(expr) = axis else { continue };
                let Some(root) = record.dims.get(&expr.root) else {
                    return damaged(format!("`{expr}` has no dim `{}`", expr.root));
                };
                if [Some(root.min), root.max, Some(root.opt)]
                    .into_iter()
                    .flatten()
                    .any(|x| expr.eval(x).is_none())
                {
                    return damaged(format!(
                        "`{expr}` has no size everywhere in the range of `{}`",
                        expr.root
                    ));
                }
                used.insert(&expr.root);
            }
        }
        if let Some(unused) = record.dims.keys().find(|n| !used.contains(n)) {
            return damaged(format!("no axis uses the dim `{unused}`"));
        }
        Ok(Resolved {
            dims: record.dims,
            profiles: record.profiles,
            inputs: record.inputs,
            warnings: record.warnings,
        })
    }
}

/// Range of one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AxisRange {
    pub min: usize,
    /// Size to optimise for.
    pub opt: usize,
    /// Largest size; `None` is unbounded.
    pub max: Option<usize>,
}

/// One input of an optimization profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileInput {
    pub name: String,
    pub dtype: Dtype,
    /// Range of every axis, outermost first; `min ≤ opt ≤ max` always.
    pub axes: Vec<AxisRange>,
}

/// What an engine is built for: one range per axis of every input, in graph order; several such where the engine has several
/// optimization profiles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Inputs in graph order, with the smallest ranges that hold those of all profiles.
    pub inputs: Vec<ProfileInput>,
    /// The inputs in each of several optimization profiles; empty where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub several: Vec<Vec<ProfileInput>>,
}

impl Profile {
    /// Axes without a largest size, as input and axis.
    pub fn unbounded(&self) -> Vec<(&str, usize)> {
        let axes = self.inputs.iter().flat_map(|i| {
            i.axes
                .iter()
                .enumerate()
                .map(|(a, r)| (i.name.as_str(), a, r))
        });
        axes.filter(|(_, _, r)| r.max.is_none())
            .map(|(name, axis, _)| (name, axis))
            .collect()
    }
}

impl Resolved {
    pub fn profile(&self) -> Profile {
        let ranges = |of: &Resolved| {
            let inputs = of.inputs.iter().map(|input| ProfileInput {
                name: input.name.clone(),
                dtype: input.dtype,
                axes: input.axes.iter().map(|a| of.range(a)).collect(),
            });
            inputs.collect()
        };
        Profile {
            inputs: ranges(self),
            several: match self.profiles[..] {
                [] => Vec::new(),
                _ => self.each_profile().iter().map(ranges).collect(),
            },
        }
    }

    /// Range of one of this value's axes.
    pub(super) fn range(&self, axis: &Axis) -> AxisRange {
        match axis {
            Axis::Fixed(n) => AxisRange {
                min: *n,
                opt: *n,
                max: Some(*n),
            },
            Axis::Dim(e) => {
                let root = self.dims[&e.root];
                let size = |x| {
                    e.eval(x)
                        .expect("every axis has a size everywhere in its range")
                        as usize
                };
                AxisRange {
                    min: size(root.min),
                    opt: size(root.opt),
                    max: root.max.map(size),
                }
            }
        }
    }

    /// `sample F16[BATCH, 4, 4*_H, 64]` for every input, in the words of the spec.
    pub fn show_inputs(&self) -> String {
        let inputs = self.inputs.iter().map(|i| {
            let axes: Vec<String> = i.axes.iter().map(ToString::to_string).collect();
            format!("{} {}[{}]", i.name, i.dtype, axes.join(", "))
        });
        inputs.collect::<Vec<_>>().join("; ")
    }

    /// Things worth telling although they are no errors.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Root dims in use, by name.
    pub fn dims(&self) -> &BTreeMap<String, Root> {
        &self.dims
    }

    /// Inputs in graph order.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// Fails where a root dim has no largest size; for backends that need one.
    ///
    /// # Errors
    /// [`Error::Unbounded`], which says how to give one.
    pub fn require_bounded(&self) -> Result<(), Error> {
        let open: Vec<String> = self
            .dims
            .iter()
            .filter(|(_, r)| r.max.is_none())
            .map(|(n, _)| n.clone())
            .collect();
        if open.is_empty() {
            Ok(())
        } else {
            Err(Error::Unbounded(open))
        }
    }
}
