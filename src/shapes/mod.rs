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
//! | `spec` | the three forms of a spec |
//! | `args` | `--dim`, `--opt` |
//! | `leaves` | which tensor of a spec is which input |
//! | `unify` | which dims the model's symbols make equal |
//! | `resolve` | a spec tied to a model |
//! | `resolved` | the result, its JSON and its profile |
//! | `bind` | concrete shapes against it, and wider ranges |
//! | `compare` | one range against another |
//! | `write` | templates and conversions |
//! | `error` | everything that can be wrong |

mod args;
mod bind;
mod compare;
mod error;
mod expr;
mod json;
mod leaves;
mod resolve;
mod resolved;
mod spec;
mod unify;
mod write;

pub use args::Overrides;
pub use bind::InputShapes;
pub use compare::Relation;
pub use error::{ArgumentFault, Conflict, Error, ModelFault, Problems, SpecFault, Witness};
pub use expr::{Affine, ExprError};
pub use json::Pos;
pub use resolved::{Axis, AxisRange, Input, Profile, ProfileInput, Resolved, Root};
pub use spec::ShapeSpec;
pub use write::{Converted, Form, schema, template};

#[cfg(test)]
mod tests;
