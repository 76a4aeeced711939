//! TensorRT as a backend: which library and GPU are used, and opening plans with them.

use super::api::Core;
use super::gpu::Gpu;
use super::loader::{self, Loaded};
use super::open::{deserialize, no_gpu};
use super::releases::Product;
use super::run::TensorRtEngine;
use super::told::{Facts, Known, Search, Settings};
use super::{build, header};
use crate::engine::{Backend, BuildJob, BuildNotes, Engine, Error, Identity};
use crate::fsx::Map;
use crate::watch::Watch;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

pub struct TensorRt {
    pub(super) core: Arc<Core>,
    gpu: OnceCell<Result<Rc<Gpu>, String>>,
    settings: Settings,
    known: Known,
    host_code_allowed: bool,
    /// Plugin libraries of the user's that are open.
    pub(super) plugins: Vec<PathBuf>,
}

impl TensorRt {
    /// Opens the first library of `product` that the search finds.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with everything that was tried.
    pub fn find(product: Product, search: &Search) -> Result<TensorRt, Error> {
        Ok(TensorRt::with(loader::find(product, search)?))
    }

    /// A backend on a library that is open already.
    pub fn with(loaded: Arc<Loaded>) -> TensorRt {
        TensorRt {
            core: Core::new(loaded),
            gpu: OnceCell::new(),
            settings: Settings::default(),
            known: Known::default(),
            host_code_allowed: false,
            plugins: Vec::new(),
        }
    }

    /// Lets plans that bring code of their own be opened: that code runs in this process.
    pub fn allow_host_code(&mut self, allowed: bool) {
        self.host_code_allowed = allowed;
    }

    pub fn loaded(&self) -> &Loaded {
        self.core.loaded()
    }

    #[must_use]
    pub fn settings(mut self, settings: Settings) -> TensorRt {
        self.settings = settings;
        self
    }

    /// Says what the manifest knows of the plans that are opened from now on.
    pub fn set_known(&mut self, known: Known) {
        self.known = known;
    }

    /// The GPU.
    ///
    /// # Errors
    /// Why there is none, in one fragment.
    pub fn gpu(&self) -> Result<&Rc<Gpu>, &str> {
        self.gpu
            .get_or_init(|| Gpu::open().map(Rc::new))
            .as_ref()
            .map_err(String::as_str)
    }

    /// As [`Backend::open`], with the type that has more to offer.
    pub fn open_plan(&self, path: &Path) -> Result<TensorRtEngine, Error> {
        // What the file says of itself comes first, because it can be told on a machine without a
        // GPU too.
        let header = header::read(path)?;
        let loaded = self.core.loaded();
        let here = loaded.title();
        if header.product != loaded.product {
            return Err(Error::Plan {
                path: path.display().to_string(),
                reason: format!(
                    "it was written by {} {}, and this is {here}",
                    header.product.title(),
                    header.version
                ),
            });
        }
        if self.known.host_code && !self.host_code_allowed {
            return Err(Error::HostCode {
                path: path.display().to_string(),
            });
        }
        let gpu = Rc::clone(
            self.gpu()
                .map_err(|reason| no_gpu(loaded, "opening an engine", reason))?,
        );
        let map = Map::open(path)?;
        let engine = deserialize(&self.core, &gpu, &map, self.known.host_code).map_err(|e| match e {
            Error::Library { library, message } => Error::Library {
                library,
                message: format!(
                    "`{}` cannot be opened: it was written by {} {}; this is {here} on {} (compute capability {}): {message}",
                    path.display(),
                    header.product.title(),
                    header.version,
                    gpu.facts().name,
                    gpu.facts().capability(),
                ),
            },
            other => other,
        })?;
        TensorRtEngine::new(engine, gpu, self.known.clone(), &self.settings, map.len())
    }
}

impl Backend for TensorRt {
    fn identity(&self) -> Identity {
        let device = self.gpu().map_or_else(
            |_| BTreeMap::new(),
            |gpu| {
                let f = gpu.facts();
                BTreeMap::from([
                    ("gpu".into(), f.name.clone()),
                    ("driver".into(), f.driver.clone()),
                    ("compute_capability".into(), f.capability()),
                ])
            },
        );
        let loaded = self.core.loaded();
        Identity {
            backend: loaded.product.backend().into(),
            library: loaded.title(),
            device,
        }
    }

    fn needs_bounds(&self) -> bool {
        true
    }

    /// TensorRT-RTX measures nothing when it builds.
    fn keep_timings(&mut self, folder: &Path) {
        let loaded = self.core.loaded();
        if self.settings.timing_cache.is_some() || loaded.product != Product::TensorRt {
            return;
        }
        if let Ok(gpu) = self.gpu() {
            let name = timing_file(&self.core.loaded().title(), gpu.facts());
            self.settings.timing_cache = Some(folder.join(name));
            self.settings.owns_timing_cache = true;
        }
    }

    fn build(
        &self,
        job: &BuildJob<'_>,
        out: &mut dyn Write,
        watch: &dyn Watch,
    ) -> Result<BuildNotes, Error> {
        build::build(
            &self.core,
            self.gpu().map(|g| &**g),
            &self.settings,
            &self.plugins,
            job,
            out,
            watch,
        )
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Engine>, Error> {
        Ok(Box::new(self.open_plan(path)?))
    }
}

/// One for each library and GPU: what was measured holds for no other, and the library refuses it there.
fn timing_file(library: &str, gpu: &Facts) -> String {
    let text = format!("{library} {} {}", gpu.name, gpu.capability()).to_lowercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let words: Vec<&str> = text
        .split(|c| !plain(c))
        .filter(|w| w.contains(|c: char| c != '.'))
        .collect();
    words.join("-") + ".timing"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timing_caches_are_named_after_library_and_gpu() {
        let gpu = |name: &str, compute_capability| Facts {
            name: name.into(),
            compute_capability,
            driver: "580.82.07".into(),
            cuda: "13.0".into(),
            memory: 1 << 34,
        };
        let name = |library, g| timing_file(library, &g);
        let rtx = "NVIDIA GeForce RTX 4090";
        assert_eq!(
            name("TensorRT 10.9.0.34", gpu(rtx, (8, 9))),
            "tensorrt-10.9.0.34-nvidia-geforce-rtx-4090-8.9.timing"
        );
        let others = [
            name("TensorRT 10.9.0.35", gpu(rtx, (8, 9))),
            name("TensorRT 10.9.0.34", gpu("NVIDIA L4", (8, 9))),
            name("TensorRT 10.9.0.34", gpu(rtx, (9, 0))),
        ];
        assert!(!others.contains(&name("TensorRT 10.9.0.34", gpu(rtx, (8, 9)))));
        // Whatever a driver calls its GPU, it stays one file in the folder.
        assert_eq!(
            name("TensorRT 8.6.0", gpu("../a b/\u{e9} ..", (8, 0))),
            "tensorrt-8.6.0-a-b-8.0.timing"
        );
    }
}
