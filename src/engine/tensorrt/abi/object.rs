//! Structs that cross the boundary, laid out as TensorRT's headers lay them out.

use std::ffi::{c_char, c_void};

/// `nvinfer1::Dims::MAX_DIMS`.
pub const MAX_DIMS: usize = 8;

/// `nvinfer1::Dims32`, the `Dims` of TensorRT 8.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Dims32 {
    /// Rank; -1 for invalid.
    pub rank: i32,
    /// Extents, -1 for dynamic.
    pub extents: [i32; MAX_DIMS],
}

/// `nvinfer1::Dims64`, the `Dims` since TensorRT 10 and of TensorRT-RTX.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Dims64 {
    /// Rank; -1 for invalid.
    pub rank: i32,
    /// Extents, -1 for dynamic.
    pub extents: [i64; MAX_DIMS],
}

/// `nvinfer1::Weights`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// `nvinfer1::DataType`.
    pub dtype: i32,
    /// First element.
    pub values: *const c_void,
    /// Number of elements; -1 where TensorRT does not know.
    pub count: i64,
}

/// `nvinfer1::InterfaceInfo`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct InterfaceInfo {
    /// Name of the interface.
    pub kind: *const c_char,
    /// Its major version.
    pub major: i32,
    /// Its minor version.
    pub minor: i32,
}
