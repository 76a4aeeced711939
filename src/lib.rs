//! trtmut: compile once, keep the engine, refit it when weights change, recompile only when it must be.
//!
//! This is the map of the code. Imports point down, and `tests/library/layers.rs` says so.
//!
//! | layer | modules |
//! |---|---|
//! | 7 | `main` |
//! | 6 | [`cli`], [`commands`], [`process`] |
//! | 5 | [`pipeline`]; [`ui`], [`exit`] |
//! | 4 | [`diff`]; in tests and under fuzzing, `reading` |
//! | 3 | [`plan`] |
//! | 2 | [`mapping`], [`engine`] |
//! | 1 | [`shapes`], [`onnx`], [`weights`], [`cache`], [`arrays`]; in tests, `reading` |
//! | 0 | [`tensor`], [`fsx`], [`maps`], [`memory`], [`fault`], [`watch`], [`children`] |

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod arrays;
pub mod cache;
pub mod children;
pub mod cli;
pub mod commands;
pub mod diff;
pub mod engine;
pub mod exit;
pub mod fault;
pub mod fsx;
pub mod mapping;
pub mod maps;
pub mod memory;
pub mod onnx;
pub mod pipeline;
pub mod plan;
pub mod process;
#[cfg(any(test, fuzzing))]
pub mod reading;
pub mod shapes;
pub mod tensor;
pub mod ui;
pub mod watch;
pub mod weights;
