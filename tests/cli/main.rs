//! The real binary, from outside. Few cases per behaviour; depth is in the unit tests.

mod agree;
mod build;
mod cache;
mod diff;
mod first_use;
mod hostile;
mod memo;
#[path = "../support/net.rs"]
#[allow(dead_code)]
mod net;
mod onnx_weights;
mod refit;
mod run;
mod scene;
mod shapes;
