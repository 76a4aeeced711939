//! What the engine's test suites share: paths, compiled plans, and tensors from protobuf.

#![allow(dead_code)]

pub mod fixtures;
pub mod net;

use onnx_protobuf::TensorProto;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use trtmut::engine::cpu::OnnxRuntime;
use trtmut::engine::{Backend, BuildJob, BuildNotes, Engine, Error};
use trtmut::onnx::Model;
use trtmut::shapes::Profile;
use trtmut::tensor::{Dtype, Tensor, element_count};
use trtmut::watch::Silent;

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where `scripts/fetch-test-deps.sh` puts what tests need from elsewhere.
pub fn deps() -> PathBuf {
    root().join(".deps")
}

/// A plan in a temporary folder.
pub struct Compiled {
    folder: TempDir,
    /// What the build said.
    pub notes: BuildNotes,
}

impl Compiled {
    /// Compiles `model`.
    pub fn build(backend: &dyn Backend, model: &Model) -> Result<Compiled, Error> {
        let folder = tempfile::tempdir()?;
        let mut file =
            std::io::BufWriter::new(std::fs::File::create(folder.path().join("p.plan"))?);
        let job = BuildJob {
            model,
            profile: &Profile::default(),
            options: &BTreeMap::new(),
            mark: None,
        };
        let notes = backend.build(&job, &mut file, &Silent)?;
        std::io::Write::flush(&mut file)?;
        Ok(Compiled { folder, notes })
    }

    /// The plan file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("p.plan")
    }

    /// Opens it.
    pub fn open(&self, backend: &dyn Backend) -> Result<Box<dyn Engine>, Error> {
        backend.open(&self.path())
    }
}

/// A protobuf tensor, `None` for strings and types that have no name here.
pub fn tensor(proto: &TensorProto) -> Option<Tensor> {
    let dtype = Dtype::from_onnx(proto.data_type)?;
    let shape: Vec<usize> = proto.dims.iter().map(|&d| d as usize).collect();
    let small = |v: &i32| match dtype.bits() {
        32 => v.to_le_bytes().to_vec(),
        16 => (*v as u16).to_le_bytes().to_vec(),
        _ => vec![*v as u8],
    };
    let data = if !proto.raw_data.is_empty() {
        proto.raw_data.clone()
    } else if dtype == Dtype::F32 {
        proto
            .float_data
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect()
    } else if dtype == Dtype::F64 {
        proto
            .double_data
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect()
    } else if dtype == Dtype::I64 {
        proto
            .int64_data
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect()
    } else {
        proto.int32_data.iter().flat_map(small).collect()
    };
    let fits = element_count(&shape).and_then(|n| dtype.bytes_for(n)) == Some(data.len());
    fits.then_some(Tensor { dtype, shape, data })
}

/// The `onnxruntime` backend, or why it cannot be tried here.
pub fn onnx_runtime() -> Result<OnnxRuntime, String> {
    OnnxRuntime::locate(None, &[deps().join("onnxruntime")]).map_err(|e| {
        format!("ignored: {e}; scripts/fetch-test-deps.sh brings it where python3 and pip are")
    })
}
