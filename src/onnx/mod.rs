//! ONNX models: reading them without copying their weights, and telling structure from weight bytes.

use crate::fault::{Class, Explain};
use crate::fsx;
use crate::tensor::{Digest, Dtype, TensorDecl};
use onnx_protobuf::ModelProto;
use std::borrow::Cow;
use std::path::Path;

/// An ONNX model. Opening validates every tensor once; later access to weight bytes cannot fail.
pub struct Model {}

/// What a constant tensor is to an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Data that a refit may change: floating-point or quantised values that only reach data inputs.
    Weight,
    /// A value that engines fold into the network when it is built; a change of it is a change of structure.
    Structural {
        /// Operator that reads it.
        operator: String,
        /// Which of its inputs.
        input: usize,
        /// Why, e.g. `integer constant`, `Clip bound`, `Reshape target`.
        why: &'static str,
    },
    /// No node reads it.
    Unused,
}

/// Where a constant tensor stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// In a graph's `initializer` list.
    Initializer,
    /// The `value` of a `Constant` node.
    ConstantNode,
}

/// A constant tensor of a model: an initializer, or the value of a Constant node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// Initializer name, or the Constant node's output name. Unique in the model: one inside a subgraph whose plain name is
    /// taken is written `path/of/subgraph::name`.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Where it stands in the file.
    pub origin: Origin,
    /// What it is to an engine.
    pub role: Role,
}

impl Model {
    /// Reads the model at `path`; weights stay in the memory map.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(_path: impl AsRef<Path>) -> Result<Model, Error> {
        todo!()
    }

    /// Rebuilds a model from a graph without weights (as [`Model::graph_bytes`] gives it) and a source of weight bytes.
    /// `weights(name)` gives dtype, shape and bytes.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn from_graph(_graph: &[u8], _origin: &Path) -> Result<Model, Error> {
        todo!()
    }

    /// The graph as protobuf bytes, `Role::Weight` tensors without their bytes.
    pub fn graph_bytes(&self) -> Vec<u8> {
        todo!()
    }

    /// The parsed model. Tensors with `Role::Weight` carry no bytes here; all others are inline in `raw_data`.
    pub fn proto(&self) -> &ModelProto {
        todo!()
    }

    /// Every constant tensor, in file order, subgraphs included.
    pub fn weights(&self) -> &[Weight] {
        todo!()
    }

    /// The bytes of one of [`Model::weights`]: row-major, little-endian.
    pub fn bytes(&self, _weight: &Weight) -> Cow<'_, [u8]> {
        todo!()
    }

    /// Inputs that are not initializers, in graph order.
    pub fn inputs(&self) -> &[TensorDecl] {
        todo!()
    }

    /// Outputs, in graph order.
    pub fn outputs(&self) -> &[TensorDecl] {
        todo!()
    }

    /// Digest of all that an engine depends on except weight bytes.
    pub fn structure_digest(&self) -> Digest {
        todo!()
    }
}

/// Why a model could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] fsx::Error),
}

impl Explain for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::File(e) => e.code(),
        }
    }

    fn class(&self) -> Class {
        match self {
            Error::File(e) => e.class(),
        }
    }
}
