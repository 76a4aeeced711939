//! The dynamic-shape spec: `torch.export`'s `Dim`s as JSON, tied to a model's inputs, lowered to an optimization profile.

use crate::fault::{Class, Explain};
use crate::tensor::{Dtype, TensorDecl};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A shape spec as it was written, not yet tied to a model.
#[derive(Debug, Clone)]
pub struct ShapeSpec {}

/// Values and ranges from the command line that complete a spec.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--dim NAME=min:opt:max`, as written after `NAME=`.
    pub dims: BTreeMap<String, String>,
    /// `--opt NAME=value`, for root dims.
    pub opt: BTreeMap<String, u64>,
}

/// A spec tied to a model's inputs: every axis is fixed or `A·root+B`. This is what a manifest records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolved {}

/// Range of one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AxisRange {
    /// Smallest size.
    pub min: usize,
    /// Size to optimise for.
    pub opt: usize,
    /// Largest size; `None` is unbounded.
    pub max: Option<usize>,
}

/// One input of an optimization profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileInput {
    /// Input name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Range of every axis, outermost first; `min ≤ opt ≤ max` always.
    pub axes: Vec<AxisRange>,
}

/// An optimization profile: one range per axis of every input, in graph order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Inputs in graph order.
    pub inputs: Vec<ProfileInput>,
}

/// A concrete shape per input.
pub type InputShapes = Vec<(String, Vec<usize>)>;

impl ShapeSpec {
    /// Reads a spec. `origin` is its file name, for messages.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn parse(_json: &str, _origin: &str) -> Result<ShapeSpec, Error> {
        todo!()
    }

    /// The spec of a model that has no `--shapes`: everything as the model declares it.
    pub fn none() -> ShapeSpec {
        todo!()
    }

    /// Ties the spec to a model's inputs.
    ///
    /// # Errors
    /// All conflicts together; see [`Error`].
    pub fn resolve(
        &self,
        _inputs: &[TensorDecl],
        _overrides: &Overrides,
    ) -> Result<Resolved, Error> {
        todo!()
    }
}

impl Resolved {
    /// The optimization profile.
    pub fn profile(&self) -> Profile {
        todo!()
    }

    /// Things worth telling although they are no errors.
    pub fn warnings(&self) -> &[String] {
        todo!()
    }

    /// Root dims by name with the values that `shapes` (one per input) ask for.
    ///
    /// # Errors
    /// All conflicts together, with the nearest sizes that fit.
    pub fn bind(&self, _shapes: &InputShapes) -> Result<BTreeMap<String, u64>, Error> {
        todo!()
    }

    /// Shapes of all inputs for the given root values; a root that is not given takes its `opt`.
    ///
    /// # Errors
    /// An unknown root, or a value outside its range.
    pub fn shapes_for(&self, _dims: &BTreeMap<String, u64>) -> Result<InputShapes, Error> {
        todo!()
    }
}

/// A `shapes.json` to fill in for a model with these inputs (the form that names ONNX inputs).
pub fn template(_inputs: &[TensorDecl]) -> String {
    todo!()
}

/// Why a spec cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

impl Explain for Error {
    fn code(&self) -> &'static str {
        match *self {}
    }

    fn class(&self) -> Class {
        match *self {}
    }
}
