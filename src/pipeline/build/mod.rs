//! A model becomes a plan and a manifest, with what the engine cache has.

mod cached;
mod draft;
pub(super) mod key;

pub use cached::{CacheRequest, build_cached};
pub use draft::{BuildRequest, Built, CacheUse, MappingSource, Probe, build, describe};
pub use key::{key_fields, with_checkpoint};
