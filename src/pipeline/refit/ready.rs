//! Plans with other weights that are written and wait to be put in place together.

use crate::fsx::Staged;
use crate::pipeline::error::Error;
use crate::plan::{self, Manifest, Pair};
use std::path::PathBuf;

/// A plan with other weights that is written beside its place, and not there yet.
pub struct Ready {
    pub(super) output: PathBuf,
    pub(super) staged: Staged,
    pub(super) manifest: Manifest,
}

impl Ready {
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// Puts plans in place: all of them or none, also where the process is killed.
///
/// # Errors
/// [`plan::Error`].
pub fn put_in_place(ready: Vec<Ready>) -> Result<(), Error> {
    let pair = |ready: Ready| Pair {
        to: ready.output,
        staged: ready.staged,
        manifest: ready.manifest,
    };
    Ok(plan::replace_all(ready.into_iter().map(pair).collect())?)
}
