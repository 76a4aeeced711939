//! TensorRT and TensorRT-RTX, whichever is installed, without headers or a C++ compiler.
//!
//! | module | purpose |
//! |---|---|
//! | `loader` | find a library, open it, tell its version |
//! | [`releases`] | slot numbers, enumerators and structs of every release, as data |
//! | `api` | the library's objects as safe types |
//! | [`options`] | build options by name |
//! | `canonical` | one spelling for options that mean the same |
//! | `backend` | which library and GPU are used, and opening plans with them |
//! | `open` | what everything that opens an engine does alike |
//! | `build`, `refit`, `run` | the three things that engines are for |
//! | `adopt` | what an engine of another tool says of itself |
//! | `pinned` | what stays in f32 where half precision is allowed |
//! | `plugins` | plugin libraries |
//! | `by_parser` | weights that only the parser reaches, with the whole model |
//! | `folds` | weights that the parser computed from several of the model's |
//! | `gpu` | the GPU, its memory and streams |
//! | [`header`] | what a plan says of itself without any library |
//! | `doctor` | what is here and what it can do |
//! | `told` | what the rest of the program says and is told, as data |
//! | `absent` | what stands in for all that calls a library, in a build without the feature `tensorrt` |
//!
//! `unsafe` is confined to `loader`, `api` and the few lines of `gpu` and `run` that the driver's API asks for.

mod canonical;
pub mod header;
pub mod options;
pub mod releases;
mod told;

#[cfg(not(feature = "tensorrt"))]
mod absent;
#[cfg(feature = "tensorrt")]
mod adopt;
#[cfg(feature = "tensorrt")]
pub mod api;
#[cfg(feature = "tensorrt")]
mod backend;
#[cfg(feature = "tensorrt")]
mod build;
#[cfg(feature = "tensorrt")]
mod by_parser;
#[cfg(feature = "tensorrt")]
pub mod doctor;
#[cfg(feature = "tensorrt")]
mod folds;
#[cfg(feature = "tensorrt")]
pub mod gpu;
#[cfg(feature = "tensorrt")]
mod io;
#[cfg(feature = "tensorrt")]
pub mod loader;
#[cfg(feature = "tensorrt")]
mod open;
#[cfg(feature = "tensorrt")]
mod pinned;
#[cfg(feature = "tensorrt")]
mod plugins;
#[cfg(feature = "tensorrt")]
mod refit;
#[cfg(feature = "tensorrt")]
mod run;

pub use canonical::canonical;
pub use releases::Product;
pub use told::{
    Ability, Described, Ends, Facts, Found, Known, OWN_HEADERS, STANDARD, Search, Settings, Survey,
    Tried,
};

#[cfg(not(feature = "tensorrt"))]
pub use absent::{TensorRt, doctor, gpu};
#[cfg(feature = "tensorrt")]
pub use {
    backend::TensorRt,
    refit::{list_slots, refit_engine, refit_in_rounds},
    run::TensorRtEngine,
};
