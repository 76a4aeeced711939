//! The dynamic-shape spec: `torch.export`'s `Dim`s as JSON, tied to a model's inputs, lowered to an optimization profile.
//!
//! ```text
//! text -> ShapeSpec -- + model's inputs, --dim, --opt --> Resolved -> Profile          (what is built)
//!                                                        Resolved + shapes -> root values, or all conflicts
//! ```
//!
//! | file | purpose |
//! |---|---|
//! | `json` | JSON with lines and columns |
//! | `expr` | `A·x+B` |
//! | `spec`, `wire`, `read` | the three forms of a spec, how they are read, and from where |
//! | `args`, `trtexec` | `--dim`, `--opt`; `--minShapes`, `--optShapes`, `--maxShapes` |
//! | `hint` | `AUTO`, `DYNAMIC`, `STATIC`, with bounds |
//! | `leaves`, `fits`, `torch_names`, `alignment`, `matching`, `assign` | which tensor of a spec is which input |
//! | `unify` | which dims the model's symbols make equal |
//! | `draft`, `resolve`, `names` | a spec tied to a model: axis by axis, then as a whole |
//! | `resolved` | the result, its JSON and its profile |
//! | `profiles` | several optimization profiles: each by itself, all joined |
//! | `bind` | concrete shapes against it, and wider ranges |
//! | `compare` | one range against another |
//! | `write`, `convert` | templates; one form written as another |
//! | `quote`, `faults`, `error` | everything that can be wrong, one by one and together, with its place |

mod alignment;
mod args;
mod assign;
mod bind;
mod compare;
mod convert;
mod draft;
mod error;
mod expr;
mod faults;
mod fits;
mod hint;
mod json;
mod leaves;
mod matching;
mod names;
mod profiles;
mod quote;
mod read;
mod resolve;
mod resolved;
mod spec;
mod torch_names;
mod trtexec;
mod unify;
mod wire;
mod write;

pub use args::Overrides;
pub use bind::InputShapes;
pub use compare::Relation;
pub use convert::{Converted, Form};
pub use error::{Error, Problems};
pub use expr::{Affine, ExprError};
pub use faults::{ArgumentFault, Conflict, ModelFault, SpecFault, Witness};
pub use quote::Pos;
pub use resolved::{Axis, AxisRange, Input, Profile, ProfileInput, Resolved, Root};
pub use spec::ShapeSpec;
pub use trtexec::Profiles;
pub use write::{schema, template, template_from};

#[cfg(any(test, fuzzing))]
#[path = "tests/exercise.rs"]
pub(crate) mod exercise;
#[cfg(test)]
mod tests;
