//! TensorRT and TensorRT-RTX, whichever is installed, without headers or a C++ compiler.
//!
//! | module | purpose |
//! |---|---|
//! | [`loader`] | find a library, open it, tell its version |
//! | [`abi`] | slot numbers, enumerators and structs of every release, as data |
//! | [`api`] | the library's objects as safe types |
//! | [`options`] | build options by name |
//! | `canonical` | one spelling for options that mean the same |
//! | `build`, `refit`, `run` | the three things that engines are for |
//! | `adopt` | what an engine of another tool says of itself |
//! | `pinned` | what stays in f32 where half precision is allowed |
//! | [`plugins`] | plugin libraries |
//! | `by_parser` | weights that only the parser reaches, with the whole model |
//! | `folds` | weights that the parser computed from several of the model's |
//! | [`gpu`] | the GPU, its memory and streams |
//! | [`header`] | what a plan says of itself without any library |
//! | [`doctor`] | what is here and what it can do |
//!
//! `unsafe` is confined to `loader`, `api` and the few lines of `gpu` and `run` that the driver's API asks for.

pub mod abi;
mod adopt;
pub mod api;
mod build;
mod by_parser;
mod canonical;
pub mod doctor;
mod folds;
pub mod gpu;
pub mod header;
mod io;
pub mod loader;
pub mod options;
mod pinned;
pub mod plugins;
mod refit;
mod run;

pub use abi::Product;
pub use adopt::{Described, Ends};
pub use canonical::canonical;
pub use refit::{list_slots, refit_engine, refit_in_rounds};
pub use run::TensorRtEngine;

use super::{Backend, BuildJob, BuildNotes, Engine, Error, Identity, Slot};
use crate::fsx::Map;
use crate::tensor::TensorDecl;
use crate::watch::Watch;
use api::{Core, Runtime};
use gpu::Gpu;
use loader::{Loaded, Search};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Choices that do not change what is compiled, and so are no [`super::Options`].
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where to keep what builds measured; one file per library and GPU.
    pub timing_cache: Option<PathBuf>,
    /// Threads for builds and refits; `None` takes what the machine has.
    pub threads: Option<usize>,
}

/// What a plan's manifest knows and the plan does not say.
///
/// TensorRT 8 tells the names of an engine's weights but neither their types nor their counts, and no version tells the types
/// that the ONNX model declares where they differ from the engine's (64-bit integers before TensorRT 10).
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The slots as [`BuildNotes::slots`] gave them after the build.
    pub slots: Vec<Slot>,
    pub inputs: Vec<TensorDecl>,
    pub outputs: Vec<TensorDecl>,
    /// Weights of the model that only the parser reaches.
    pub by_parser: Vec<String>,
    /// The plan holds none of its refittable weights.
    pub stripped: bool,
    /// The plan was built to be version-compatible, so it brings code that runs when it is opened.
    pub host_code: bool,
}

pub struct TensorRt {
    core: Arc<Core>,
    gpu: OnceCell<Result<Rc<Gpu>, String>>,
    settings: Settings,
    known: Known,
    host_code_allowed: bool,
    /// Plugin libraries of the user's that are open.
    plugins: Vec<PathBuf>,
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

/// Opens plan bytes, with the GPU's context current. `host_code`: they bring code of their own, and it may run.
fn deserialize(
    core: &Arc<Core>,
    gpu: &Gpu,
    plan: &[u8],
    host_code: bool,
) -> Result<api::CudaEngine, Error> {
    gpu.context().map_err(run::cuda)?;
    drop(core.take_messages());
    let runtime = Runtime::new(core)?;
    // Said to the runtime before it opens anything: by default it refuses code that a plan brings.
    if host_code {
        runtime.allow_host_code()?;
    }
    runtime.deserialize(plan)
}

fn no_gpu(loaded: &Loaded, what: &str, reason: &str) -> Error {
    Error::Unavailable {
        backend: loaded.product.backend().into(),
        reason: format!(
            "{what} with {} needs a CUDA device, and {reason}",
            loaded.title()
        ),
        hints: vec!["use a machine with an NVIDIA GPU, or `--backend cpu`".into()],
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
fn timing_file(library: &str, gpu: &gpu::Facts) -> String {
    let text = format!("{library} {} {}", gpu.name, gpu.capability()).to_lowercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let words: Vec<&str> = text
        .split(|c| !plain(c))
        .filter(|w| w.contains(|c: char| c != '.'))
        .collect();
    words.join("-") + ".timing"
}

/// Threads to use where nothing else is said.
fn default_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timing_caches_are_named_after_library_and_gpu() {
        let gpu = |name: &str, compute_capability| gpu::Facts {
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
