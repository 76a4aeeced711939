//! The committed models, and what torch computed with them.

use safetensors::SafeTensors;
use std::fs;
use std::path::PathBuf;
use trtmut::onnx::Model;
use trtmut::tensor::{Dtype, NamedTensors, Tensor};

/// One export of one fixture.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// Name of its folder.
    pub name: String,
    /// `ts` or `dynamo`.
    pub exporter: String,
    /// Both, for test names.
    pub label: String,
    /// The ONNX file.
    pub model: PathBuf,
}

impl Fixture {
    /// A file of its folder, which need not be there.
    pub fn path(&self, file: &str) -> PathBuf {
        self.model.with_file_name(file)
    }

    /// The shape spec of this export.
    pub fn shapes(&self) -> PathBuf {
        self.path(&format!("shapes.{}.json", self.exporter))
    }

    /// `info.json`.
    pub fn info(&self) -> serde_json::Value {
        let text = fs::read(self.path("info.json")).expect("a fixture has its info.json");
        serde_json::from_slice(&text).expect("info.json is JSON")
    }
}

/// Every `fixtures/<name>/model.<exporter>.onnx`, by name.
pub fn all() -> Vec<Fixture> {
    let mut found = Vec::new();
    for folder in fs::read_dir(super::root().join("fixtures")).expect("the fixtures can be listed")
    {
        let folder = folder.expect("the fixtures can be listed").path();
        for exporter in ["ts", "dynamo"] {
            let model = folder.join(format!("model.{exporter}.onnx"));
            if model.is_file() {
                let name = folder.file_name().unwrap_or_default().to_string_lossy();
                found.push(Fixture {
                    label: format!("{name}/{exporter}"),
                    name: name.into_owned(),
                    exporter: exporter.to_owned(),
                    model,
                });
            }
        }
    }
    found.sort_by(|a, b| a.label.cmp(&b.label));
    found
}

/// The tensors whose names begin with `prefix`, without it, by name.
pub fn with_prefix(file: &SafeTensors<'_>, prefix: &str) -> NamedTensors {
    let mut found: NamedTensors = file
        .tensors()
        .into_iter()
        .filter_map(|(name, view)| {
            let name = name.strip_prefix(prefix)?.to_owned();
            let dtype = Dtype::from_safetensors(&view.dtype().to_string())?;
            let tensor = Tensor {
                dtype,
                shape: view.shape().to_vec(),
                data: view.data().to_vec(),
            };
            Some((name, tensor))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The model's inputs among the tensors of a file; an export may have folded one away that another keeps.
pub fn inputs(model: &Model, file: &SafeTensors<'_>) -> NamedTensors {
    let mut inputs = with_prefix(file, "in.");
    inputs.retain(|(name, _)| model.inputs().iter().any(|d| d.name == *name));
    inputs
}

/// Relative L2 distance.
pub fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    let (mut apart, mut size) = (0.0f64, 0.0f64);
    for (&g, &w) in got.iter().zip(want) {
        apart += (f64::from(g) - f64::from(w)).powi(2);
        size += f64::from(w).powi(2);
    }
    (apart / size.max(f64::MIN_POSITIVE)).sqrt()
}
