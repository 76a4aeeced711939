//! A plan gets other weights: resolved, checked, applied, or compiled anew.

mod complete;
mod overlay;
mod prepared;
pub(super) mod rebuild;
mod request;
mod source_model;

pub use complete::refusal;
pub use overlay::Overlay;
pub use prepared::{Opening, Prepared, Refitted, prepare};
pub(super) use rebuild::write_model;
pub use request::{OverlayRequest, Stated};
pub use source_model::{SourceModel, source_model, source_model_at};
