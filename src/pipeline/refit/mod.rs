//! A plan gets other weights: resolved, checked, applied, or compiled anew.

mod complete;
mod fused;
mod idle;
mod not_finite;
mod overlay;
mod part;
mod prepared;
mod ready;
pub(super) mod rebuild;
mod refusals;
mod request;
mod several;
mod source_model;

pub use not_finite::counted;
pub use overlay::Overlay;
pub use part::Part;
pub(super) use prepared::stage_engine;
pub use prepared::{Opening, Prepared, Refitted, prepare};
pub use ready::{Ready, put_in_place};
pub(super) use rebuild::write_model;
pub use refusals::refusal;
pub use request::{OverlayRequest, Stated};
pub use several::{prepare_all, stage_one};
pub use source_model::{SourceModel, source_model, source_model_at};
