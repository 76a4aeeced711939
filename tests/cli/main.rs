//! The real binary, from outside. Few cases per behaviour; depth is in the unit tests.

mod build;
mod cache;
mod diff;
mod files;
mod hostile;
mod memo;
mod names;
mod reading;
mod refit;
mod rules;
mod run;
mod scene;
mod shapes;
mod upgrade;
