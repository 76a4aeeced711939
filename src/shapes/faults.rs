//! What can be wrong with a spec, a model, an argument or a set of shapes: each problem as data.

use super::expr::{Affine, ExprError};
use super::quote::{Pos, quoted};
use crate::tensor::Extent;

fn did_you_mean(nearest: Option<&String>) -> String {
    nearest.map_or_else(String::new, |n| format!("; did you mean `{n}`?"))
}

/// What is wrong at one place of a spec.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecFault {
    #[error("{0}")]
    Syntax(String),
    /// More tensors than any model takes.
    #[error("this is tensor {count}; a spec has at most {limit}")]
    Tensors {
        /// Which one it is.
        count: usize,
        /// How many are read.
        limit: usize,
    },
    /// Lists and objects within each other, too many.
    #[error("nested more than {limit} deep")]
    Depth {
        /// How many are read.
        limit: usize,
    },
    /// The same key twice in one object.
    #[error("the key `{key}` is here a second time; the first is at {first}")]
    DuplicateKey {
        key: String,
        /// Where it is first.
        first: Pos,
    },
    /// A key that means nothing here.
    #[error("unknown key `{key}` in {place}; expected {expected}{}", did_you_mean(.nearest.as_ref()))]
    UnknownKey {
        key: String,
        place: String,
        /// What could be there.
        expected: String,
        /// The one that is spelled most alike.
        nearest: Option<String>,
    },
    /// Something of the wrong type.
    #[error("{what} must be {expected}, not {found}")]
    Type {
        what: String,
        /// What it may be.
        expected: &'static str,
        found: String,
    },
    /// No key that tells a form.
    #[error("a shape spec needs `inputs`, `args`/`kwargs` or `dynamic_shapes`")]
    NoForm,
    /// Keys of different forms together.
    #[error("`{first}` and `{second}` belong to different forms of a spec; use one")]
    MixedForms {
        first: &'static str,
        /// A key of another form.
        second: &'static str,
    },
    /// A dim that cannot have this name.
    #[error("{} cannot name a dim: {reason}", quoted(.name))]
    DimName { name: String, reason: &'static str },
    #[error("`{dim}` has max {max}, which is less than its min {min}")]
    EmptyRange { dim: String, min: u64, max: u64 },
    /// `opt` is not in the range.
    #[error("`{dim}` has opt {opt}, which is not {}", show_range(*.min, *.max))]
    OptOutside {
        dim: String,
        opt: u64,
        min: u64,
        max: Option<u64>,
    },
    /// A string that is neither a dim, an expression nor a hint.
    #[error("{} {source}", quoted(.text))]
    Expr {
        text: String,
        /// What is wrong with it.
        source: ExprError,
    },
    /// A hint with something that is no bound.
    #[error("{} is no hint: {reason}", quoted(.text))]
    Hint {
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A dim that `dims` does not list.
    #[error("`dims` does not list `{name}`{}", did_you_mean(.nearest.as_ref()))]
    UnknownDim {
        name: String,
        /// The one that is spelled most alike.
        nearest: Option<String>,
    },
    /// A derived dim that would be negative.
    #[error(
        "`{expr}` is negative where `{root}` is {min}; give `{root}` a min of at least {needed}"
    )]
    Negative {
        expr: Affine,
        root: String,
        min: u64,
        /// The least min that works.
        needed: u64,
    },
    /// A derived dim beyond 63 bits.
    #[error("`{expr}` is beyond 63 bits where `{root}` is {value}")]
    Overflow {
        expr: Affine,
        root: String,
        value: u64,
    },
    /// A `derived` entry of another dim.
    #[error("`derived` of `{dim}` lists `{expr}`, whose root is `{root}`")]
    Derived {
        dim: String,
        expr: Affine,
        root: String,
    },
    /// A key of a tensor's object that is no axis.
    #[error("{} is not an axis; axes are numbers in quotes, from 0, or from -1 at the end", quoted(.key))]
    Axis { key: String },
    /// An object with axes and names.
    #[error(
        "this object has both axes (`{axis}`) and names (`{name}`); a tensor has axes, a dict of inputs has names"
    )]
    MixedObject {
        /// A key that is an axis.
        axis: String,
        /// A key that is none.
        name: String,
    },
    /// A list with axis entries and tensors.
    #[error(
        "this list has both axes and tensors; a tensor's list has one entry per axis, a list of inputs has lists, objects and nulls"
    )]
    MixedList,
}

/// `at least 2`, `from 2 to 24`, `7`.
pub(super) fn show_range(min: u64, max: Option<u64>) -> String {
    match max {
        None => format!("at least {min}"),
        Some(max) if max == min => min.to_string(),
        Some(max) => format!("from {min} to {max}"),
    }
}

/// One contradiction between a spec and a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelFault {
    /// A dynamic axis that the spec leaves static.
    #[error("axis {axis} of `{input}` is dynamic in the model (`{extent}`), but {}{}", if *.explicit { "the spec makes it static without a size" } else { "no dim is given for it" }, .elsewhere.as_ref().map_or_else(String::new, |e| format!("; elsewhere `{extent}` is `{e}`")))]
    Undeclared {
        input: String,
        axis: usize,
        /// What the model declares.
        extent: Extent,
        /// Whether the spec says `null` or `STATIC` itself.
        explicit: bool,
        /// What the spec gives for the same symbol on another axis.
        elsewhere: Option<String>,
    },
    /// An input whose rank neither side states.
    #[error(
        "the model does not state the rank of `{input}`; give it a list with one entry per axis"
    )]
    NoRank { input: String },
    /// Another number of axes.
    #[error("{what} has {given} axes, but `{input}` has {rank} in the model: {declared}")]
    Rank {
        /// Which part of the spec.
        what: String,
        /// Axes in the spec.
        given: usize,
        input: String,
        /// Axes in the model.
        rank: usize,
        declared: String,
    },
    /// An axis beyond the rank.
    #[error(
        "axis {axis} of `{input}` is in the spec, but the model gives it {rank} axes: {declared}"
    )]
    NoAxis {
        input: String,
        /// Axis in the spec, negative from the end.
        axis: i32,
        /// Axes in the model.
        rank: usize,
        declared: String,
    },
    /// One axis under two numbers.
    #[error("`{leaf}` of the spec has axis {axis} of `{input}` twice, once counted from the end")]
    AxisTwice {
        /// Path of the leaf.
        leaf: String,
        input: String,
        /// Axis, from the front.
        axis: usize,
    },
    /// Two dims that spec and model give to each other's axes.
    #[error(
        "axis {axis} of `{input}` is `{symbol}` in the model, but `{given}` in the spec (`{leaf}`), and both names are in both: is that another input's tensor?"
    )]
    Crossed {
        input: String,
        axis: usize,
        symbol: String,
        given: Affine,
        /// Path of the leaf.
        leaf: String,
    },
    /// A hint's bounds and what else is known of the axis.
    #[error("axis {axis} of `{input}` is `{hint}` in the spec, {reason}")]
    Hint {
        input: String,
        axis: usize,
        hint: String,
        reason: String,
    },
    #[error("axis {axis} of `{input}` is {model} in the model, but {given} in the spec")]
    Static {
        input: String,
        axis: usize,
        model: u64,
        given: String,
    },
    /// The model's own symbol does not allow it.
    #[error("axis {axis} of `{input}` is `{symbol}` in the model, which `{given}` does not always fit; it has to be a multiple of {scale} plus {offset}", scale = .symbol.scale, offset = .symbol.offset)]
    Step {
        input: String,
        axis: usize,
        /// The model's symbol, an expression.
        symbol: Affine,
        given: String,
    },
    /// Two entries for one symbol of the model that cannot be equal.
    #[error("axis {} of `{}` and axis {} of `{}` share `{symbol}` in the model, but `{}` and `{}` {reason}", .first.1, .first.0, .second.1, .second.0, .entries.0, .entries.1)]
    Shared {
        symbol: String,
        first: (String, usize),
        second: (String, usize),
        entries: (String, String),
        /// Why they cannot both hold.
        reason: String,
    },
    /// A range that the model leaves no value.
    #[error("axis {axis} of `{input}` (`{expr}`): {reason}")]
    Range {
        input: String,
        axis: usize,
        expr: Affine,
        reason: String,
    },
    /// An input name that the model does not have.
    #[error("the model has no input `{name}`{}", did_you_mean(.nearest.as_ref()))]
    NoInput {
        /// The name in the spec.
        name: String,
        /// The one that is spelled most alike.
        nearest: Option<String>,
    },
    /// A tensor of the spec that no input could be found for.
    #[error(
        "`{leaf}` of the spec has no input in the model{reason}; left of the spec: {leaves}; left of the model: {inputs}"
    )]
    Unmatched {
        /// Path of the leaf.
        leaf: String,
        /// Why, beginning with `: `, or nothing.
        reason: String,
        /// Leaves that are not matched.
        leaves: String,
        /// Inputs that are not matched.
        inputs: String,
    },
    /// A tensor of the spec that several inputs could be meant by.
    #[error("`{leaf}` of the spec could be any of {inputs}")]
    Ambiguous {
        /// Path of the leaf.
        leaf: String,
        inputs: String,
    },
    /// The spec says `null`, the model has a dynamic input.
    #[error(
        "`{leaf}` is null in the spec, but `{input}` is a dynamic input of the model: {declared}"
    )]
    NullIsDynamic {
        /// Path of the leaf.
        leaf: String,
        input: String,
        declared: String,
    },
}

/// What is wrong with `--dim` or `--opt`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentFault {
    /// Not what is expected there.
    #[error("`{option} {value}`: {reason}")]
    Value {
        option: &'static str,
        /// As it was given.
        value: String,
        reason: String,
    },
    /// A dim that nothing uses.
    #[error("`{option} {name}` names no dim of this model and spec{}", did_you_mean(.nearest.as_ref()))]
    UnknownDim {
        option: &'static str,
        name: String,
        /// The one that is spelled most alike.
        nearest: Option<String>,
    },
    /// A value outside its dim's range.
    #[error("`{option} {name}={value}` is not {}", show_range(*.min, *.max))]
    Outside {
        option: &'static str,
        name: String,
        value: u64,
        min: u64,
        max: Option<u64>,
    },
}

/// One way in which concrete shapes do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// No shape for an input.
    #[error("no shape is given for the input `{input}`")]
    Missing { input: String },
    /// A shape for something else.
    #[error("`{input}` is not an input{}", did_you_mean(.nearest.as_ref()))]
    Unknown {
        input: String,
        /// The input that is spelled most alike.
        nearest: Option<String>,
    },
    /// Two shapes for one input.
    #[error("the input `{input}` is given twice")]
    Twice { input: String },
    /// Another number of axes.
    #[error("`{input}` has {given} axes, but needs {rank}: {declared}")]
    Rank {
        input: String,
        given: usize,
        rank: usize,
        declared: String,
    },
    /// Another size than the only one.
    #[error("axis {axis} of `{input}` is {size}, but is fixed at {fixed}")]
    Fixed {
        input: String,
        axis: usize,
        size: usize,
        fixed: usize,
    },
    /// Outside of the range, or between its steps.
    #[error("axis {axis} of `{input}` is {size}, but `{expr}` needs {}; nearest: {}", needs(.expr, *.min, *.max), numbers(.nearest))]
    Outside {
        input: String,
        axis: usize,
        size: usize,
        expr: Affine,
        min: u64,
        max: Option<u64>,
        /// The sizes that fit and are nearest, ascending; one or two.
        nearest: Vec<u64>,
    },
    /// A dim's value outside of its range.
    #[error("`{dim}` is {value}, but needs {}", show_range(*.min, *.max))]
    Dim {
        dim: String,
        value: u64,
        min: u64,
        max: Option<u64>,
    },
    /// Two axes want different values of one dim.
    #[error("axis {} of `{}` is {}, which makes `{dim}` {}, but axis {} of `{}` is {}, which makes it {}; nearest: {} for the latter", .first.axis, .first.input, .first.size, .first.value, .second.axis, .second.input, .second.size, .second.value, numbers(.nearest))]
    Disagree {
        dim: String,
        /// The axis that came first.
        first: Witness,
        second: Witness,
        /// The size of the second axis that agrees with the first.
        nearest: Vec<u64>,
    },
    /// A size that another range cannot cover, however wide.
    #[error("axis {axis} of `{input}` is {size}: no range of `{dim}` covers it, since `{expr}` has steps of {}", .expr.scale)]
    Step {
        input: String,
        axis: usize,
        size: usize,
        expr: Affine,
        dim: String,
    },
}

/// An axis and what it says of a dim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    pub input: String,
    pub axis: usize,
    pub size: usize,
    /// The root value that gives this size.
    pub value: u64,
}

/// `a multiple of 4 from 64 to 128`; with an offset, the sizes themselves: `one of 7, 9, 11, ..., 31`.
fn needs(expr: &Affine, min: u64, max: Option<u64>) -> String {
    let range = show_range(min, max);
    let step = expr.scale as u64;
    if step == 1 || max == Some(min) {
        return range;
    }
    if expr.offset % expr.scale == 0 {
        return format!("a multiple of {step} {range}");
    }
    let second = min.saturating_add(step);
    match max {
        Some(max) if second == max => format!("{min} or {max}"),
        Some(max) => format!("one of {min}, {second}, ... {max}"),
        None => format!("one of {min}, {second}, ..."),
    }
}

fn numbers(sizes: &[u64]) -> String {
    sizes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The candidate that is spelled most like `name`, if one is near.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let name: String = name.chars().take(64).collect();
    let near = name.chars().count().div_ceil(3).max(1);
    candidates
        .into_iter()
        // A name of another length is not near, and need not be compared.
        .filter(|c| c.len() <= 4 * (name.len() + near))
        .map(|c| {
            (
                strsim::osa_distance(&name.to_lowercase(), &c.to_lowercase()),
                c,
            )
        })
        .filter(|&(distance, c)| distance <= near || (c.len() > 3 && name.ends_with(c)))
        .min()
        .map(|(_, c)| c.to_owned())
}
