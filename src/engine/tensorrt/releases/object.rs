//! Structs that cross the boundary, laid out as TensorRT's headers lay them out.

use std::ffi::{c_char, c_void};

/// The most axes of a tensor: `nvinfer1::Dims::MAX_DIMS`.
pub const MAX_DIMS: usize = 8;

/// `nvinfer1::Dims32`, the `Dims` of TensorRT 8 and 9.
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

/// `nvinfer1::Weights`, which is passed and returned by value.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// A number of `nvinfer1::DataType`.
    pub dtype: i32,
    pub values: *const c_void,
    /// Number of elements; -1 where TensorRT does not know.
    pub count: i64,
}

/// `nvinfer1::InterfaceInfo`, which is returned by value.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct InterfaceInfo {
    /// Name of the interface.
    pub kind: *const c_char,
    pub major: i32,
    pub minor: i32,
}

/// `nvonnxparser::RefitRecord`. What it points to is the parser's, and lives as long as the call that hands it over.
#[repr(C)]
#[derive(Debug)]
pub struct RefitRecord {
    /// The weight's name in the network.
    pub name: *const c_char,
    /// A number of `RefitTransformKind`.
    pub kind: i32,
    /// ONNX element type of the sources.
    pub onnx_dtype: i32,
    /// `nvinfer1::DataType` of the weight.
    pub dtype: i32,
    pub count: i64,
    /// Length of `sources`, 4 at most.
    pub source_count: i32,
    pub sources: *const *const c_char,
    /// Of a `BatchNormalization`; otherwise unspecified.
    pub epsilon: f32,
    /// Bytes of a constant.
    pub fixed_data: *const c_void,
    pub fixed_data_size: usize,
}
