//! Weights in safetensors files: one file, several, or an index of shards; names that other tools decorate; LoRAs.
//!
//! It refuses what it cannot read exactly: pickles, damaged headers, element types without a number, a name that two files
//! hold, an index that its shards contradict.

mod entries;
mod error;
mod file;
mod finder;
mod index;
pub mod layouts;
pub mod lora;
mod names;
mod source;

pub use error::{Error, IndexProblem};
pub use file::SourceFile;
pub(crate) use names::undecorated;
pub use names::{NameError, Normalised, RULES, Rule, normalise};
pub use source::{Source, files_of};
