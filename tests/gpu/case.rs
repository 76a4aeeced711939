//! A fixture's export, its engines, and how far their outputs are from torch's.

use crate::{Table, record};
use libtest_mimic::Failed;
use safetensors::SafeTensors;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use trtmut::engine::tensorrt::Search;
use trtmut::engine::tensorrt::{Known, Product, TensorRt};
use trtmut::engine::{Backend, BuildJob, BuildNotes, Engine, Error, Feed, Slot};
use trtmut::onnx::{Model, Origin};
use trtmut::shapes::{Overrides, Profile, ShapeSpec};
use trtmut::tensor::{Dtype, NamedTensors, Tensor, to_f32};
use trtmut::watch::Silent;

pub fn env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

pub fn fixture(name: &str) -> PathBuf {
    env("TRTMUT_TEST_FIXTURES")
        .unwrap_or_else(|| "fixtures".into())
        .join(name)
}

pub fn search(folder: Option<PathBuf>) -> Search {
    Search {
        system: folder.is_none(),
        explicit: folder,
        ..Search::default()
    }
}

pub fn tensorrt() -> Result<TensorRt, Error> {
    TensorRt::find(Product::TensorRt, &search(env("TRTMUT_TENSORRT")))
}

pub fn timed<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<(T, Duration), Error> {
    let start = Instant::now();
    Ok((work()?, start.elapsed()))
}

pub fn show(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}

/// A fixture's export by torch's older exporter, and what is needed to judge engines of it.
pub struct Case {
    pub name: &'static str,
    pub model: Model,
    pub profile: Profile,
    pub folder: TempDir,
}

impl Case {
    pub fn new(name: &'static str) -> Result<Case, Failed> {
        let model = Model::open(fixture(name).join("model.ts.onnx"))?;
        let json = std::fs::read_to_string(fixture(name).join("shapes.ts.json"))?;
        let profile = ShapeSpec::parse(&json, "shapes.ts.json")?
            .resolve(model.inputs(), &Overrides::default())?
            .profile();
        Ok(Case {
            name,
            model,
            profile,
            folder: tempfile::tempdir()?,
        })
    }

    pub fn plan(&self) -> PathBuf {
        self.folder.path().join("p.plan")
    }

    pub fn build(
        &self,
        backend: &mut TensorRt,
        options: &[(&str, &str)],
    ) -> Result<BuildNotes, Error> {
        let options: BTreeMap<String, String> = options
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        let mut out = std::io::BufWriter::new(std::fs::File::create(self.plan())?);
        let job = BuildJob {
            model: &self.model,
            profile: &self.profile,
            options: &options,
            mark: None,
        };
        let notes = backend.build(&job, &mut out, &Silent)?;
        std::io::Write::flush(&mut out)?;
        backend.set_known(known(&self.model, &notes));
        Ok(notes)
    }

    /// What a refit is given: see [`Case::weights`].
    pub fn feed(&self, fused: bool) -> Result<Arc<dyn Feed>, Failed> {
        Ok(Arc::new(Bytes(self.weights(fused)?)))
    }

    /// The initializers' own bytes, or those of the export of the fused model. Values of Constant nodes are left alone.
    fn weights(&self, fused: bool) -> Result<HashMap<String, Vec<u8>>, Failed> {
        let mut bytes: HashMap<String, Vec<u8>> = self
            .model
            .weights()
            .iter()
            .filter(|w| w.origin == Origin::Initializer)
            .map(|w| (w.name.clone(), self.model.bytes(w).into_owned()))
            .collect();
        if fused {
            let file = std::fs::read(fixture(self.name).join("refit.ts.safetensors"))?;
            let changed = SafeTensors::deserialize(&file)?;
            if changed.is_empty() {
                return Err("nothing changes".into());
            }
            for (name, tensor) in changed.tensors() {
                if bytes.insert(name.clone(), tensor.data().to_vec()).is_none() {
                    return Err(format!("the model has no weight `{name}`").into());
                }
            }
        }
        Ok(bytes)
    }

    /// The same case, with the model file written anew with the fused weights.
    pub fn fused(&self) -> Result<Case, Failed> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("fused.onnx");
        let fused = self.weights(true)?;
        let mut out = std::io::BufWriter::new(std::fs::File::create(&path)?);
        self.model
            .write_onnx::<trtmut::onnx::Error>(&mut out, &|w| {
                Ok(match fused.get(&w.name) {
                    Some(bytes) => Cow::Borrowed(bytes.as_slice()),
                    None => self.model.bytes(w),
                })
            })?;
        std::io::Write::flush(&mut out)?;
        Ok(Case {
            name: self.name,
            model: Model::open(&path)?,
            profile: self.profile.clone(),
            folder,
        })
    }

    /// Largest distance from torch over the three shapes.
    pub fn distance(&self, engine: &mut dyn Engine, which: &str) -> Result<f64, Failed> {
        let each = (0..3).map(|io| {
            let (inputs, expected) = io_tensors(self.name, io, which)?;
            distance(&engine.run(&inputs)?, &expected)
        });
        Ok(worst(each.collect::<Result<Vec<_>, Failed>>()?))
    }
}

pub fn known(model: &Model, notes: &BuildNotes) -> Known {
    Known {
        by_parser: Vec::new(),
        stripped: false,
        host_code: false,
        slots: notes.slots.clone(),
        inputs: model.inputs().to_vec(),
        outputs: model.outputs().to_vec(),
    }
}

/// Weight bytes by ONNX name.
pub struct Bytes(pub HashMap<String, Vec<u8>>);

impl Feed for Bytes {
    fn bytes(&self, slot: &Slot) -> Result<Option<Cow<'_, [u8]>>, Error> {
        Ok(self.0.get(&slot.name).map(|b| Cow::Borrowed(b.as_slice())))
    }
}

pub fn io_tensors(
    name: &str,
    io: usize,
    which: &str,
) -> Result<(NamedTensors, NamedTensors), Failed> {
    let bytes = std::fs::read(fixture(name).join(format!("io{io}.safetensors")))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let with_prefix = |prefix: String| {
        file.tensors()
            .into_iter()
            .filter_map(|(name, view)| {
                let dtype = Dtype::from_safetensors(&view.dtype().to_string())?;
                let tensor = Tensor {
                    dtype,
                    shape: view.shape().to_vec(),
                    data: view.data().to_vec(),
                };
                Some((name.strip_prefix(&prefix)?.to_owned(), tensor))
            })
            .collect::<NamedTensors>()
    };
    Ok((with_prefix("in.".into()), with_prefix(format!("{which}."))))
}

/// Relative L2 distance, the largest over all outputs.
pub fn distance(outputs: &NamedTensors, expected: &NamedTensors) -> Result<f64, Failed> {
    if outputs.len() != expected.len() || outputs.is_empty() {
        return Err(format!("{} outputs, not {}", outputs.len(), expected.len()).into());
    }
    let each = expected.iter().map(|(name, want)| {
        let (_, got) = outputs
            .iter()
            .find(|(n, _)| n == name)
            .ok_or_else(|| format!("no output `{name}`"))?;
        if (got.dtype, &got.shape) != (want.dtype, &want.shape) {
            return Err(format!(
                "`{name}` is {} {:?}, not {} {:?}",
                got.dtype, got.shape, want.dtype, want.shape
            )
            .into());
        }
        let (got, want) = (
            to_f32(got.dtype, &got.data)?,
            to_f32(want.dtype, &want.data)?,
        );
        let apart: f64 = got
            .iter()
            .zip(&want)
            .map(|(g, w)| (f64::from(*g) - f64::from(*w)).powi(2))
            .sum();
        let size: f64 = want.iter().map(|w| f64::from(*w).powi(2)).sum();
        Ok((apart / size.max(f64::MIN_POSITIVE)).sqrt())
    });
    Ok(worst(each.collect::<Result<Vec<_>, Failed>>()?))
}

/// The largest; NaN where one is NaN, which `f64::max` would hide.
pub fn worst(distances: impl IntoIterator<Item = f64>) -> f64 {
    distances.into_iter().fold(
        0.0,
        |worst, d| if d.is_nan() || d > worst { d } else { worst },
    )
}

/// NaN is not within any limit.
pub fn within(
    table: &Table,
    what: &str,
    figure: &str,
    distance: f64,
    limit: f64,
) -> Result<(), Failed> {
    record(
        table,
        what,
        figure,
        format_args!("{distance:.2e} (limit {limit:.0e})"),
    );
    if distance <= limit {
        Ok(())
    } else {
        Err(format!("{what}: {figure} is {distance:.3e}, over {limit:.0e}").into())
    }
}
