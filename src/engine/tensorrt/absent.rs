//! What stands in for TensorRT in a build without the feature `tensorrt`: there is none, and no GPU. Plans, options and manifests of
//! TensorRT are read as everywhere.

use super::releases::Product;
use super::told::{Described, Known, Search, Settings};
use crate::engine::{Backend, BuildJob, BuildNotes, Engine, Error, Identity, not_built};
use crate::onnx::Model;
use crate::watch::Watch;
use std::convert::Infallible;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Cannot be had.
pub struct TensorRt(Infallible);

impl TensorRt {
    /// # Errors
    /// Always [`Error::Unavailable`].
    pub fn find(product: Product, _: &Search) -> Result<TensorRt, Error> {
        Err(not_built(product.backend(), "tensorrt"))
    }

    pub fn allow_host_code(&mut self, _: bool) {
        match self.0 {}
    }

    #[must_use]
    pub fn settings(self, _: Settings) -> TensorRt {
        match self.0 {}
    }

    pub fn set_known(&mut self, _: Known) {
        match self.0 {}
    }

    pub fn load_plugins(&mut self, _: &[PathBuf]) -> Result<(), Error> {
        match self.0 {}
    }

    pub fn describe(&self, _: &Path, _: &Model, _: bool) -> Result<Described, Error> {
        match self.0 {}
    }
}

impl Backend for TensorRt {
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

pub mod gpu {
    use super::super::told::Facts;
    use crate::engine::left_out;

    /// Cannot be had.
    pub struct Gpu(std::convert::Infallible);

    impl Gpu {
        /// # Errors
        /// Always.
        pub fn open() -> Result<Gpu, String> {
            Err(left_out("tensorrt"))
        }
    }

    pub fn choose(_: u32) {}

    /// # Errors
    /// Always.
    pub fn all() -> Result<Vec<Facts>, String> {
        Err(left_out("tensorrt"))
    }

    /// # Errors
    /// Always.
    pub fn chosen() -> Result<Facts, String> {
        Err(left_out("tensorrt"))
    }

    pub fn load_kernels_lazily() {}
}

pub mod doctor {
    use super::super::told::{Search, Survey};

    /// Finds nothing.
    pub fn look(_: &Search) -> Survey {
        Survey {
            libraries: Vec::new(),
            tried: Vec::new(),
            gpu: None,
            gpus: Vec::new(),
            gpu_problem: super::gpu::chosen().err(),
        }
    }
}
