//! What the rest of the program tells TensorRT's rooms and is told by them: plain data, which is there also in a build that leaves
//! TensorRT out.

use super::releases::Product;
use crate::engine::{Fold, Slot};
use crate::tensor::{Digest, TensorDecl};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Choices that do not change what is compiled, and so are no [`crate::engine::Options`].
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where to keep what builds measured; one file per library and GPU.
    pub timing_cache: Option<PathBuf>,
    /// That file is in the engine cache, which holds nothing but what was made for it.
    pub owns_timing_cache: bool,
    /// Threads for builds and refits; `None` takes what the machine has.
    pub threads: Option<usize>,
}

/// What a plan's manifest knows and the plan does not say.
///
/// TensorRT 8 tells the names of an engine's weights but neither their types nor their counts, and no version tells the types
/// that the ONNX model declares where they differ from the engine's (64-bit integers before TensorRT 10).
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The slots as [`crate::engine::BuildNotes::slots`] gave them after the build.
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

/// Where to look. Given by the caller, who knows the environment.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// `--tensorrt` or `TRTMUT_TENSORRT`: a library, or a folder that holds one. Where it is given, nothing else is tried.
    pub explicit: Option<PathBuf>,
    /// `site-packages` folders of the Python on PATH.
    pub site_packages: Vec<PathBuf>,
    /// Whether to try the loader's own path and the system's folders.
    pub system: bool,
    /// `TRTMUT_ASSUME_TENSORRT`: the release as which one is called that is newer than every known one.
    pub assume: Option<String>,
}

/// One place that was tried, and why it did not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// Path or bare library name.
    pub place: String,
    /// Why not, in one fragment.
    pub reason: String,
}

/// The word for the plugins that come with TensorRT.
pub const STANDARD: &str = "standard";

/// What is known of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    pub name: String,
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// Driver version, e.g. `580.82.07`; where the system does not tell, the CUDA version that it supports.
    pub driver: String,
    /// CUDA version that the driver supports, e.g. `13.0`.
    pub cuda: String,
    pub memory: u64,
}

impl Facts {
    /// The compute capability as text: `9.0`.
    pub fn capability(&self) -> String {
        format!(
            "{}.{}",
            self.compute_capability.0, self.compute_capability.1
        )
    }
}

/// [`Found::known_by`] of a release whose own headers were read.
pub const OWN_HEADERS: &str = "its own headers";

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Survey {
    /// Usable libraries, in the order in which a search takes them.
    pub libraries: Vec<Found>,
    /// What was tried in vain, and why.
    pub tried: Vec<Tried>,
    /// The GPU that is used.
    pub gpu: Option<Facts>,
    /// All GPUs, where there are several; `--device` takes their places in this list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Facts>,
    /// Why there is no GPU.
    pub gpu_problem: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Found {
    pub product: Product,
    pub version: String,
    /// How it is known how to call it: `its own headers`, or what stands in for them.
    pub known_by: String,
    pub path: PathBuf,
    /// The runtime without a builder.
    pub lean: bool,
    /// Why it has no ONNX parser.
    pub parser_problem: Option<String>,
    /// What it can do here.
    pub can: Vec<Ability>,
}

/// Something that a library may be able to do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ability {
    /// `build`, `build (not refittable)`, `refit`, `run`.
    pub what: &'static str,
    /// Why not, or `None` where it can.
    pub problem: Option<String>,
}

/// Least, best and greatest shape of an input.
pub type Ends = [Vec<usize>; 3];

/// What an engine says of itself.
#[derive(Debug, Clone)]
pub struct Described {
    /// Inputs, in the engine's order.
    pub inputs: Vec<TensorDecl>,
    /// Outputs, in the engine's order.
    pub outputs: Vec<TensorDecl>,
    /// The shapes of each input in each optimization profile; one profile at least.
    pub profiles: Vec<Vec<Ends>>,
    /// Whether some weights can be replaced.
    pub refittable: bool,
    /// It holds none of its refittable weights.
    pub stripped: bool,
    /// Its weights by name, those of the model that it does not list among them.
    pub slots: Vec<Slot>,
    /// Weights that the parser computes from several of the model's.
    pub folds: Vec<Fold>,
    /// Weights of the model that only the parser reaches.
    pub by_parser: Vec<String>,
    /// The engine's weights that the parser computes of them.
    pub computed: Vec<String>,
    /// Digests of the values that it gave back, by name; most libraries give none.
    pub values: BTreeMap<String, Digest>,
}
