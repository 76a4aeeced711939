//! What stands in for a CPU engine that a build leaves out. Plans are read, written and refitted without it; only computing needs it.

use crate::engine::{Error, not_built};

/// What the embedded engine is without the feature `embedded`.
#[cfg(not(feature = "embedded"))]
pub mod rten {
    use super::super::CPU;
    use super::super::lower::Lowered;
    use super::super::plan::{Session, Weights};
    use super::{Error, not_built};
    use crate::engine::{RunOptions, Slot};
    use crate::onnx::Model;
    use std::borrow::Cow;
    use std::convert::Infallible;

    /// Cannot be had.
    pub struct RtenSession(Infallible);

    type BytesOf<'a, 'b> = dyn Fn(&Slot) -> Result<Option<Cow<'b, [u8]>>, Error> + 'a;

    impl RtenSession {
        /// # Errors
        /// Always [`Error::Unavailable`].
        pub fn start(_: &Model, _: &Weights, _: &RunOptions) -> Result<Box<dyn Session>, Error> {
            Err(not_built(CPU, "embedded"))
        }

        /// # Errors
        /// Always [`Error::Unavailable`].
        pub fn load(
            _: &Model,
            _: Lowered,
            _: &[Slot],
            _: &BytesOf<'_, '_>,
            _: &RunOptions,
        ) -> Result<RtenSession, Error> {
            Err(not_built(CPU, "embedded"))
        }
    }
}

/// What onnxruntime is without the feature `onnxruntime`.
#[cfg(not(feature = "onnxruntime"))]
pub mod ort {
    use super::super::ONNXRUNTIME;
    use super::{Error, not_built};
    use crate::engine::{Backend, BuildJob, BuildNotes, Engine, Identity};
    use crate::watch::Watch;
    use std::convert::Infallible;
    use std::io::Write;
    use std::path::{Path, PathBuf};

    /// Cannot be had.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct OnnxRuntime(Infallible);

    impl OnnxRuntime {
        /// # Errors
        /// Always [`Error::Unavailable`].
        pub fn locate(_: Option<&Path>, _: &[PathBuf]) -> Result<OnnxRuntime, Error> {
            Err(not_built(ONNXRUNTIME, "onnxruntime"))
        }

        pub fn library(&self) -> &Path {
            match self.0 {}
        }

        pub fn version(&self) -> &str {
            match self.0 {}
        }
    }

    impl Backend for OnnxRuntime {
        fn identity(&self) -> Identity {
            match self.0 {}
        }

        fn build(
            &self,
            _: &BuildJob<'_>,
            _: &mut dyn Write,
            _: &dyn Watch,
        ) -> Result<BuildNotes, Error> {
            match self.0 {}
        }

        fn open(&self, _: &Path) -> Result<Box<dyn Engine>, Error> {
            match self.0 {}
        }
    }
}
