//! What the graph says about its constants before any value is looked at: presumed names, orientation, signs of folds.

mod attention;
mod graph;
mod names;
mod record;

pub(super) use graph::{frame, is_anonymous, outline, pairs};
pub(crate) use names::same_name;
pub(super) use names::{
    Prefixes, SameNames, Spelled, align, cores, inner, is_recorded, spell, wrapper,
};
pub(super) use record::{is_lifted, stem};
