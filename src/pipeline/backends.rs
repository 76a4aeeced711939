//! Which backend compiles a model, and which one opens a plan again.

use super::environment::Environment;
use super::error::Error;
use super::plugins;
use crate::cache::Store;
use crate::engine::cpu::{self, CPU, Cpu, ONNXRUNTIME, OnnxRuntime};
use crate::engine::tensorrt::gpu::Gpu;
use crate::engine::tensorrt::{Known, Product, Search, Settings, TensorRt};
use crate::engine::{self, Backend, Identity, Slot};
use crate::onnx::Model;
use crate::plan::{Manifest, WeightRow};
use crate::tensor::element_count;
use crate::watch::{Event, Watch};

/// Values of `--backend`: who compiles a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendChoice {
    /// TensorRT where there is a GPU and the library; else the embedded engine where it computes the model right; else
    /// onnxruntime where it is installed
    Auto,
    /// The embedded engine: nothing to install
    Cpu,
    /// onnxruntime's CPU provider, from `ORT_DYLIB_PATH` or python3's packages; `ort` for short
    #[value(name = "onnxruntime", alias = "ort")]
    OnnxRuntime,
    /// NVIDIA TensorRT, any of 8.5, 8.6, 10.x, 11.x; `trt` for short
    #[value(name = "tensorrt", alias = "trt")]
    TensorRt,
    /// NVIDIA TensorRT for RTX, 1.3 to 1.7; `rtx` for short
    #[value(name = "tensorrt-rtx", alias = "rtx")]
    TensorRtRtx,
}

/// The backend that compiles `model`.
///
/// # Errors
/// [`engine::Error::Unavailable`] where it is not on this machine, [`engine::Error::Refused`] where `auto` finds none that
/// computes the model.
pub fn choose(
    choice: BackendChoice,
    model: &Model,
    settings: &Settings,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Box<dyn Backend>, Error> {
    let tensorrt = |product| -> Result<Box<dyn Backend>, Error> {
        let mut found = TensorRt::find(product, &search(environment))?;
        found.load_plugins(&environment.plugins)?;
        Ok(Box::new(found.settings(settings.clone())))
    };
    let on_the_cpu = matches!(choice, BackendChoice::Cpu | BackendChoice::OnnxRuntime);
    if let (true, Some(plugin)) = (on_the_cpu, environment.plugins.first()) {
        return Err(engine::Error::Plugin {
            library: plugin.display().to_string(),
            reason: "only TensorRT has plugins; leave it out, or pass `--backend tensorrt`".into(),
        }
        .into());
    }
    match choice {
        BackendChoice::Auto => {
            // Looking for a library means starting Python and opening gigabytes: only where a GPU makes it worth while.
            if Gpu::open().is_ok()
                && let Ok(backend) = tensorrt(Product::TensorRt).or_else(|_| tensorrt(Product::Rtx))
            {
                return Ok(backend);
            }
            let (backend, refusals) = cpu::auto(model, || onnxruntime(environment))?;
            if let Some(first) = refusals.first() {
                watch.event(Event::Warn(&format!(
                    "onnxruntime is used, because the embedded engine refuses {} in node `{}`: {}",
                    first.operator, first.node, first.reason
                )));
            }
            Ok(backend)
        }
        BackendChoice::Cpu => Ok(Box::new(Cpu)),
        BackendChoice::OnnxRuntime => Ok(Box::new(onnxruntime(environment)?)),
        BackendChoice::TensorRt => tensorrt(Product::TensorRt),
        BackendChoice::TensorRtRtx => tensorrt(Product::Rtx),
    }
}

/// The backend that compiled a plan, to open it or compile it again.
///
/// # Errors
/// As [`choose`].
pub fn reopen(manifest: &Manifest, environment: &Environment) -> Result<Box<dyn Backend>, Error> {
    let product = match manifest.backend.backend.as_str() {
        CPU => return Ok(Box::new(Cpu)),
        ONNXRUNTIME => return Ok(Box::new(onnxruntime(environment)?)),
        b if b == Product::TensorRt.backend() => Product::TensorRt,
        b if b == Product::Rtx.backend() => Product::Rtx,
        other => {
            return Err(engine::Error::Unavailable {
                backend: other.into(),
                reason: "this version of trtmut does not know it".into(),
                hints: vec!["use the version that the manifest names as its tool".into()],
            }
            .into());
        }
    };
    let mut backend = TensorRt::find(product, &search(environment))?;
    backend.set_known(Known {
        slots: slots_of(manifest),
        inputs: manifest.inputs.clone(),
        outputs: manifest.outputs.clone(),
        by_parser: manifest.by_parser.clone(),
        stripped: manifest.stripped,
        host_code: manifest
            .options
            .get("version-compatible")
            .is_some_and(|v| v == "true"),
    });
    backend.allow_host_code(environment.allow_host_code);
    plugins::load(&mut backend, manifest, environment)?;
    Ok(Box::new(backend))
}

/// As [`reopen`], to compile with.
///
/// # Errors
/// As [`choose`].
pub fn compiler(manifest: &Manifest, environment: &Environment) -> Result<Box<dyn Backend>, Error> {
    let mut backend = reopen(manifest, environment)?;
    // A fault of the cache is no reason not to compile, only to measure again.
    if worth_caching(&manifest.backend)
        && let Ok(Some(store)) = environment.open_cache(None, None)
    {
        keep_timings(backend.as_mut(), &store);
    }
    Ok(backend)
}

/// Keeps what builds measure in the cache, where the backend is one that measures and was not told another place.
pub fn keep_timings(backend: &mut dyn Backend, store: &Store) {
    if worth_caching(&backend.identity())
        && let Ok(folder) = store.timing_dir()
    {
        backend.keep_timings(&folder);
    }
}

/// The slots as the build told them: recorded apart only where they differ from the graph's weights.
fn slots_of(manifest: &Manifest) -> Vec<Slot> {
    if !manifest.slots.is_empty() {
        return manifest.slots.clone();
    }
    let of_row = |row: &WeightRow| Slot {
        name: row.name.clone(),
        dtype: row.dtype,
        count: element_count(&row.shape).unwrap_or(0),
        shape: Some(row.shape.clone()),
        refittable: row.fixed.is_none(),
    };
    manifest.weights.iter().map(of_row).collect()
}

/// Where TensorRT is looked for.
pub fn search(environment: &Environment) -> Search {
    Search {
        explicit: environment.tensorrt.clone(),
        // A library that is named is the one that is meant, and Python need not be started for it.
        site_packages: match environment.tensorrt {
            Some(_) => Vec::new(),
            None => environment.site_packages().to_vec(),
        },
        system: true,
        assume: environment.assume_tensorrt.clone(),
    }
}

/// onnxruntime, where it is installed.
///
/// # Errors
/// [`engine::Error::Unavailable`] where it is not, or is too old.
pub fn onnxruntime(environment: &Environment) -> Result<OnnxRuntime, engine::Error> {
    match &environment.ort_dylib {
        Some(explicit) => OnnxRuntime::locate(Some(explicit), &[]),
        None => OnnxRuntime::locate(None, environment.site_packages()),
    }
}

/// Whether engines of a backend are cached without being asked: a "build" for a CPU is little more than a copy.
pub fn worth_caching(backend: &Identity) -> bool {
    backend.backend.starts_with("tensorrt")
}
