//! The words that every other module shares: element types, tensors as bytes, declared shapes, digests and conversions.
//!
//! A tensor here is little-endian bytes with a [`Dtype`] and a shape; nothing in this module does I/O.

mod compare;
mod convert;
mod decl;
mod digest;
mod dtype;
mod stretches;

pub use compare::{Difference, Statistics, delta, difference, statistics};
pub use convert::{
    ConvertError, cast, from_f32, has_infinity, is_finite, narrow, overflow, permute, round_into,
    to_f32, transpose,
};
pub use decl::{Extent, TensorDecl};
pub use digest::{Digest, DigestWriter, LabelledHasher, ParseDigestError};
pub use dtype::Dtype;
pub use stretches::{Stretch, digests_of, digests_seeing, look_at};

/// Number of elements of `shape`, or `None` when it does not fit in a `usize`.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Shape as people write it on a command line: `2x4x64x64`; a scalar is `scalar`.
pub fn show_shape(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "scalar".into();
    }
    shape
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("x")
}

/// An owned tensor: `data` is row-major, little-endian and exactly as long as `dtype` and `shape` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub dtype: Dtype,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Tensor {
    /// A view of this tensor.
    pub fn view(&self) -> TensorView<'_> {
        TensorView {
            dtype: self.dtype,
            shape: &self.shape,
            data: &self.data,
        }
    }
}

/// A borrowed tensor, laid out as [`Tensor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorView<'a> {
    pub dtype: Dtype,
    /// Extents, outermost first; empty for a scalar.
    pub shape: &'a [usize],
    pub data: &'a [u8],
}

impl TensorView<'_> {
    /// A copy that outlives what it was borrowed from.
    pub fn to_owned(&self) -> Tensor {
        Tensor {
            dtype: self.dtype,
            shape: self.shape.to_vec(),
            data: self.data.to_vec(),
        }
    }
}

/// Named tensors in a meaningful order (graph order for inputs and outputs).
pub type NamedTensors = Vec<(String, Tensor)>;
