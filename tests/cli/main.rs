//! The real binary, from outside. Few cases per behaviour; depth is in the unit tests.

mod build;
mod cache;
mod diff;
mod hostile;
mod memo;
mod names;
mod refit;
mod run;
mod scene;
mod shapes;
