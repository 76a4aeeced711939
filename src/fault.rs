//! What an error must offer beside its text, so that `ui` can print it and `exit` can choose a code.

/// Who has to act on an error. `exit.rs` maps each class to one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The files or values that the user gave are wrong.
    Input,
    /// The command line is wrong.
    Usage,
    /// The machine lacks something: library, driver, GPU, space, permission, lock.
    Environment,
    /// A refit is not enough: the engine has to be recompiled.
    NeedsRecompile,
    /// Outputs differ from what was expected.
    Differs,
    /// Our own bug: nothing that the user gave is wrong.
    Bug,
}

/// Writes [`Explain`] from an attribute at each variant.
pub use trtmut_explain_derive::Explain;

/// Implemented by every error type of this crate, by `#[derive(Explain)]`.
pub trait Explain {
    /// Stable kebab-case name of this way of failing; part of the JSON interface.
    fn code(&self) -> &'static str;
    /// Who has to act.
    fn class(&self) -> Class;
    /// What else a program may want to know, as one JSON value (the decision that stops a refit); none for most.
    fn details(&self) -> Option<serde_json::Value>;
    /// How to fix it: whole sentences without a final period, most useful first.
    fn hints(&self) -> Vec<String>;
}
