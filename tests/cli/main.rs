//! The real binary, from outside. Few cases per behaviour; depth is in the unit tests.

mod agree;
mod build;
mod cache;
mod cache_builds;
mod containers;
mod diff;
mod elsewhere;
mod files;
mod first_use;
mod forged;
mod half;
mod hostile;
mod kill;
mod left_out;
mod look;
mod memo;
mod names;
#[path = "../support/net.rs"]
#[allow(dead_code)]
mod net;
mod onnx_weights;
mod probe;
mod reading;
mod refit;
mod rules;
mod run;
mod scene;
// It empties the cache and takes its entries from a remote again.
#[cfg(feature = "remote")]
mod schemas;
mod several;
mod shapes;
mod shell;
mod surroundings;
mod upgrade;
mod watch;
mod workflows;
