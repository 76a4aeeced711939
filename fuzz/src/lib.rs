//! The readers of files, as the program has them, with what they stand on; and what is done with each input.

#![allow(dead_code, unused_imports, missing_docs)]

#[path = "../../src/arrays.rs"]
pub mod arrays;
#[path = "../../src/shapes/tests/exercise.rs"]
pub mod exercise;
#[path = "../../src/fault.rs"]
pub mod fault;
#[path = "../../src/fsx/mod.rs"]
pub mod fsx;
#[path = "../../src/memory.rs"]
pub mod memory;
#[path = "../../src/onnx/mod.rs"]
pub mod onnx;
#[path = "../../src/reading.rs"]
pub mod reading;
#[path = "../../src/shapes/mod.rs"]
pub mod shapes;
#[path = "../../src/tensor/mod.rs"]
pub mod tensor;
#[path = "../../src/watch.rs"]
pub mod watch;
#[path = "../../src/weights/mod.rs"]
pub mod weights;
