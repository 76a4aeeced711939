//! onnxruntime, the library that people in this field compare with: the only file that names the crate `ort`.
//!
//! Graph optimisations stay off: with them on, weights that were replaced from outside are silently not the ones that run. The
//! session is made from a model file that holds the weights as they are now, written to a temporary folder with the weights in
//! a data file beside it, which onnxruntime maps instead of copying.

use super::container::Container;
use super::plan::{PlanEngine, Session};
use super::{ONNXRUNTIME, take_no_options, write_plan, write_plan_into};
use crate::engine::{Backend, BuildJob, BuildNotes, Engine, Error, Identity, RunOptions, Written};
use crate::fsx;
use crate::onnx::{self, Model};
use crate::tensor::{Dtype, Tensor, element_count};
use crate::watch::Watch;
use ort::memory::Allocator;
use ort::session::Session as OrtSession;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynTensor, DynTensorValueType, TensorElementType};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Oldest version with the interface that is used (that of 1.17). What an older one than a model needs does not know, it says when
/// it loads the model, which is when a plan is built.
const OLDEST: (u32, u32) = (1, 17);

/// What the library file is called; wheels append the version.
#[cfg(target_os = "macos")]
const FILE: &str = "libonnxruntime.";
#[cfg(windows)]
const FILE: &str = "onnxruntime.dll";
#[cfg(all(unix, not(target_os = "macos")))]
const FILE: &str = "libonnxruntime.so";

/// The `onnxruntime` backend, with the library that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnnxRuntime {
    library: PathBuf,
    version: String,
}

impl OnnxRuntime {
    /// Finds the library: `explicit` (a file, or a folder that holds it) where given, else in `onnxruntime/capi` of the
    /// folders in `site_packages`, in order. Its version is checked.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is none, it cannot be loaded, or it is too old.
    pub fn locate(
        explicit: Option<&Path>,
        site_packages: &[PathBuf],
    ) -> Result<OnnxRuntime, Error> {
        let library = match explicit {
            Some(path) if path.is_dir() => library_in(path)
                .ok_or_else(|| unavailable(format!("`{}` holds no `{FILE}`", path.display())))?,
            Some(path) => path.to_owned(),
            None => site_packages
                .iter()
                .find_map(|folder| library_in(&folder.join("onnxruntime").join("capi")))
                .ok_or_else(|| unavailable("no onnxruntime was found".into()))?,
        };
        let version = version_of(&library)?;
        let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found < OLDEST {
            return Err(unavailable(format!(
                "`{}` is version {version}, older than {}.{}",
                library.display(),
                OLDEST.0,
                OLDEST.1
            )));
        }
        Ok(OnnxRuntime { library, version })
    }

    pub fn library(&self) -> &Path {
        &self.library
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    fn environment(&self) -> Result<&'static ort::environment::Environment, Error> {
        // One environment per process, and with it one library.
        static SHARED: OnceLock<Result<ort::environment::Environment, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| {
                let environment = ort::init_from(&self.library)
                    .map_err(|e| e.to_string())?
                    .with_name("trtmut")
                    .with_telemetry(false)
                    .build()
                    .map_err(|e| e.to_string())?;
                // What it has to say comes back as errors; its own printing would mix with ours.
                environment.set_log_level(ort::logging::LogLevel::Fatal);
                Ok(environment)
            })
            .as_ref()
            .map_err(|reason| unavailable(reason.clone()))
    }

    fn failed(&self, error: &ort::Error) -> Error {
        Error::Library {
            library: format!("onnxruntime {}", self.version),
            message: error.to_string(),
        }
    }

    /// A model that the library does not take is told now, not when the plan first runs.
    fn prove(&self, model: &Model) -> Result<(), Error> {
        let bytes_of = |weight: &onnx::Weight| Ok(model.bytes(weight));
        self.load(model, &bytes_of, &RunOptions::default())?;
        Ok(())
    }

    fn load(
        &self,
        model: &Model,
        bytes_of: &onnx::BytesOf<'_, '_, Error>,
        options: &RunOptions,
    ) -> Result<OrtRun, Error> {
        const DATA: &str = "weights.data";
        let environment = self.environment()?;
        let folder = tempfile::Builder::new()
            .prefix("trtmut-")
            .tempdir()
            .map_err(|e| fsx::Error::write("the temporary folder", e))?;
        let path = folder.path().join("model.onnx");
        let create = |path: &Path| {
            fsx::create_in_scratch(path).map(|f| BufWriter::with_capacity(1 << 20, f))
        };
        let mut graph = create(&path)?;
        let mut data = create(&folder.path().join(DATA))?;
        // Weights alone go there: onnxruntime loads no model whose shapes depend on external data.
        model.write_onnx_external(&mut graph, &mut data, DATA, &bytes_of)?;
        for file in [graph, data] {
            file.into_inner()
                .map_err(|e| fsx::Error::write(&path, e.into_error()))?;
        }
        crate::memory::bound_libraries();
        let mut builder = OrtSession::builder(environment)
            .map_err(|e| self.failed(&e))?
            .with_optimization_level(GraphOptimizationLevel::Disable)
            .map_err(|e| self.failed(&e.into()))?;
        if let Some(threads) = options.threads {
            builder = builder
                .with_intra_threads(threads.max(1))
                .map_err(|e| self.failed(&e.into()))?;
        }
        let session = builder
            .commit_from_file(&path)
            .map_err(|e| self.failed(&e))?;
        Ok(OrtRun {
            runtime: self.clone(),
            session,
            inputs: model.inputs().iter().map(|d| d.name.clone()).collect(),
            outputs: model.outputs().iter().map(|d| d.name.clone()).collect(),
            _folder: folder,
        })
    }
}

impl Backend for OnnxRuntime {
    fn identity(&self) -> Identity {
        Identity {
            backend: ONNXRUNTIME.into(),
            library: format!("onnxruntime {}", self.version),
            device: BTreeMap::new(),
        }
    }

    fn build(
        &self,
        job: &BuildJob<'_>,
        out: &mut dyn Write,
        watch: &dyn Watch,
    ) -> Result<BuildNotes, Error> {
        take_no_options(ONNXRUNTIME, job.options)?;
        self.prove(job.model)?;
        write_plan(ONNXRUNTIME, job.model, out, watch, Vec::new())
    }

    fn build_into(
        &self,
        job: &BuildJob<'_>,
        file: &File,
        watch: &dyn Watch,
    ) -> Result<Option<(BuildNotes, Written)>, Error> {
        take_no_options(ONNXRUNTIME, job.options)?;
        self.prove(job.model)?;
        write_plan_into(ONNXRUNTIME, job.model, file, watch, Vec::new())
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Engine>, Error> {
        let container = Container::open(path, ONNXRUNTIME)?;
        let runtime = self.clone();
        let start = Box::new(
            move |model: &Model, weights: &super::plan::Weights, options: &RunOptions| {
                let session = runtime.load(model, &|w| weights.named(&w.name), options)?;
                Ok(Box::new(session) as Box<dyn Session>)
            },
        );
        Ok(Box::new(PlanEngine::new(ONNXRUNTIME, container, start)?))
    }
}

fn unavailable(reason: String) -> Error {
    Error::Unavailable {
        backend: ONNXRUNTIME.into(),
        reason,
        hints: vec![
            "install it with `pip install -U onnxruntime`, or point ORT_DYLIB_PATH to the library"
                .into(),
        ],
    }
}

/// The library in a folder: of several, the one of the highest version in its name.
fn library_in(folder: &Path) -> Option<PathBuf> {
    (std::fs::read_dir(folder).ok()?)
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = version_in_name(path.file_name()?.to_str()?)?;
            Some((version, path))
        })
        .max()
        .map(|(_, path)| path)
}

/// The numbers in the name of a library file, none where it has no version; `None` for another file, a copy or a debug file beside it.
fn version_in_name(name: &str) -> Option<Vec<u32>> {
    let rest = name.strip_prefix(FILE)?;
    // macOS puts the version before the ending.
    let rest = rest.strip_suffix("dylib").unwrap_or(rest);
    (rest.split('.').filter(|part| !part.is_empty()))
        .map(|part| part.parse().ok())
        .collect()
}

/// Asks the library for its version, before the `ort` crate binds it for the life of the process.
#[allow(unsafe_code)]
fn version_of(library: &Path) -> Result<String, Error> {
    /// `OrtApiBase` of `onnxruntime_c_api.h`: two function pointers since version 1.0.
    #[repr(C)]
    struct ApiBase {
        get_api: unsafe extern "C" fn(u32) -> *const std::ffi::c_void,
        get_version: unsafe extern "C" fn() -> *const c_char,
    }
    let bad = |reason: String| unavailable(format!("`{}`: {reason}", library.display()));
    // SAFETY: loading runs the library's initialisers; the user or their python3 names it as onnxruntime.
    let loaded = unsafe { libloading::Library::new(library) }
        .map_err(|e| bad(format!("it cannot be loaded ({e})")))?;
    // SAFETY: the signature is that of the C header.
    let base =
        unsafe { loaded.get::<unsafe extern "C" fn() -> *const ApiBase>(b"OrtGetApiBase\0") }
            .map_err(|_| bad("it is not onnxruntime".into()))?;
    // SAFETY: it takes nothing and gives a pointer to a static table or null; the version is a static C string.
    let text = unsafe {
        let base = base();
        if base.is_null() {
            return Err(bad("it gives no interface".into()));
        }
        let version = ((*base).get_version)();
        if version.is_null() {
            return Err(bad("it tells no version".into()));
        }
        CStr::from_ptr(version).to_string_lossy().into_owned()
    };
    Ok(text)
}

struct OrtRun {
    runtime: OnnxRuntime,
    session: OrtSession,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// The session has the weights mapped from here.
    _folder: TempDir,
}

impl Session for OrtRun {
    fn run(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, Error> {
        let mut values = Vec::with_capacity(inputs.len());
        for (name, tensor) in self.inputs.iter().zip(inputs) {
            values.push((name.clone(), to_value(&self.runtime, name, tensor)?));
        }
        let runtime = &self.runtime;
        let results = self.session.run(values).map_err(|e| runtime.failed(&e))?;
        self.outputs
            .iter()
            .map(|name| {
                let value = results.get(name.as_str()).ok_or_else(|| Error::Library {
                    library: ONNXRUNTIME.into(),
                    message: format!("it gave no output `{name}`"),
                })?;
                let view = value.view();
                let tensor = view
                    .downcast::<DynTensorValueType>()
                    .map_err(|e| runtime.failed(&e))?;
                from_value(name, &tensor)
            })
            .collect()
    }
}

const TYPES: &[(Dtype, TensorElementType)] = &[
    (Dtype::F64, TensorElementType::Float64),
    (Dtype::F32, TensorElementType::Float32),
    (Dtype::F16, TensorElementType::Float16),
    (Dtype::Bf16, TensorElementType::Bfloat16),
    (Dtype::F8E4M3Fn, TensorElementType::Float8E4M3FN),
    (Dtype::F8E4M3Fnuz, TensorElementType::Float8E4M3FNUZ),
    (Dtype::F8E5M2, TensorElementType::Float8E5M2),
    (Dtype::F8E5M2Fnuz, TensorElementType::Float8E5M2FNUZ),
    (Dtype::I64, TensorElementType::Int64),
    (Dtype::I32, TensorElementType::Int32),
    (Dtype::I16, TensorElementType::Int16),
    (Dtype::I8, TensorElementType::Int8),
    (Dtype::U64, TensorElementType::Uint64),
    (Dtype::U32, TensorElementType::Uint32),
    (Dtype::U16, TensorElementType::Uint16),
    (Dtype::U8, TensorElementType::Uint8),
    (Dtype::Bool, TensorElementType::Bool),
    (Dtype::I4, TensorElementType::Int4),
    (Dtype::U4, TensorElementType::Uint4),
    (Dtype::F4E2M1, TensorElementType::Float4E2M1),
];

#[allow(unsafe_code)]
fn to_value(runtime: &OnnxRuntime, name: &str, tensor: &Tensor) -> Result<DynTensor, Error> {
    let Some((_, element)) = TYPES.iter().find(|(d, _)| *d == tensor.dtype) else {
        return Err(Error::Input {
            name: name.into(),
            reason: format!("onnxruntime cannot be given `{}`", tensor.dtype),
        });
    };
    let shape: Vec<i64> = tensor.shape.iter().map(|&d| d as i64).collect();
    let mut value =
        DynTensor::new(&Allocator::default(), *element, shape).map_err(|e| runtime.failed(&e))?;
    if !tensor.data.is_empty() {
        // SAFETY: the tensor was just made on the CPU with this type and shape, and the data has been checked to be exactly
        // as long as both say.
        unsafe {
            std::ptr::copy_nonoverlapping(
                tensor.data.as_ptr(),
                value.data_ptr_mut().cast::<u8>(),
                tensor.data.len(),
            );
        }
    }
    Ok(value)
}

#[allow(unsafe_code)]
fn from_value(name: &str, value: &ort::value::DynTensorRef<'_>) -> Result<Tensor, Error> {
    let bad = |message: String| Error::Library {
        library: ONNXRUNTIME.into(),
        message,
    };
    let dtype = TYPES
        .iter()
        .find(|(_, element)| element == value.data_type())
        .map(|(dtype, _)| *dtype)
        .ok_or_else(|| bad(format!("output `{name}` is of a type that cannot be read")))?;
    let shape: Vec<usize> = value
        .shape()
        .iter()
        .map(|&d| usize::try_from(d))
        .collect::<Result<_, _>>()
        .map_err(|_| bad(format!("output `{name}` has no definite shape")))?;
    let length = element_count(&shape)
        .and_then(|n| dtype.bytes_for(n))
        .ok_or_else(|| bad(format!("output `{name}` is too large")))?;
    let data = if length == 0 {
        Vec::new()
    } else {
        // SAFETY: the CPU provider alone is registered, so the data lies in this process's memory, as long as type and shape
        // say, and lives as long as `value`.
        unsafe { std::slice::from_raw_parts(value.data_ptr().cast::<u8>(), length) }.to_vec()
    };
    Ok(Tensor { dtype, shape, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(result: Result<OnnxRuntime, Error>) -> String {
        match result {
            Err(Error::Unavailable { reason, hints, .. }) => {
                assert!(hints[0].contains("pip install -U onnxruntime"));
                reason
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_several_libraries_the_highest_version_counts() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", ".1.9.0", ".1.20.0", ".1.20.0.bak", ".debug"] {
            std::fs::write(dir.path().join(format!("{FILE}{name}")), b"").unwrap();
        }
        let found = library_in(dir.path()).unwrap();
        assert_eq!(found.file_name().unwrap(), &*format!("{FILE}.1.20.0"));
    }

    #[test]
    fn what_is_not_there_or_no_library_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            reason(OnnxRuntime::locate(None, &[dir.path().into()])),
            "no onnxruntime was found"
        );
        assert!(reason(OnnxRuntime::locate(Some(dir.path()), &[])).contains("holds no"));
        let capi = dir.path().join("onnxruntime/capi");
        std::fs::create_dir_all(&capi).unwrap();
        std::fs::write(capi.join(format!("{FILE}.1.32.0")), b"not a library").unwrap();
        assert!(
            reason(OnnxRuntime::locate(None, &[dir.path().into()])).contains("cannot be loaded")
        );
        let missing = dir.path().join("none.so");
        assert!(reason(OnnxRuntime::locate(Some(&missing), &[])).contains("cannot be loaded"));
    }
}
