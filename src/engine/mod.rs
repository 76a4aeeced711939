//! The narrow waist: a [`Backend`] compiles a model into a plan and opens plans; an [`Engine`] is an open plan.
//!
//! Plain data on both sides. An engine is asked for its slots and given bytes; it knows nothing of safetensors, mappings,
//! manifests, caches or verdicts.

// What only one of the two engines calls stays in a build that leaves it out.
#[cfg_attr(
    not(all(feature = "embedded", feature = "onnxruntime")),
    allow(dead_code)
)]
pub mod cpu;
mod fold;
pub mod tensorrt;

pub use fold::{Fold, FoldPart};

use crate::fault::Explain;
use crate::fsx;
use crate::onnx::Model;
use crate::shapes::Profile;
use crate::tensor::{Digest, Dtype, NamedTensors, TensorDecl};
use crate::watch::Watch;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Who compiled a plan. Everything here goes into the engine key: plans of different identities are not exchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `cpu`, `onnxruntime`, `tensorrt`, `tensorrt-rtx`.
    pub backend: String,
    /// Library and version that did the work, e.g. `rten 0.27.0`, `TensorRT 8.6.0`.
    pub library: String,
    /// GPU name, driver and compute capability where there are any: `gpu`, `driver`, `compute_capability`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub device: BTreeMap<String, String>,
}

/// Choices that change what is compiled, by canonical name (`precision`, `opt-level`, `refit`, …).
/// Backends refuse a name or value that they do not know.
pub type Options = BTreeMap<String, String>;

pub struct BuildJob<'a> {
    /// The model; its weights are read through it.
    pub model: &'a Model,
    /// Shape range of every input.
    pub profile: &'a Profile,
    pub options: &'a Options,
    /// Where only some weights are to stay replaceable (`refit=individual`): which; `None` is all that can.
    pub mark: Option<&'a BTreeSet<String>>,
}

/// What a build has to say beside the plan's bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BuildNotes {
    /// What was rewritten or decided on the way, one sentence each (`f16 graph computed in f32`).
    pub notes: Vec<String>,
    /// The weights that the engine holds, as [`Engine::slots`] lists them.
    pub slots: Vec<Slot>,
    /// Slots that are computed from several of the model's weights.
    #[serde(default)]
    pub folds: Vec<Fold>,
    /// Weights of the model that only the library's own parser can give it, from the whole model.
    #[serde(default)]
    pub by_parser: Vec<String>,
    /// The plan holds none of its refittable weights, and cannot run before it is given them.
    #[serde(default)]
    pub stripped: bool,
}

/// How a refit gave an engine its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// One by one, under their names.
    ByName,
    /// The library's own parser gave them all, from the whole model.
    ByParser,
}

/// A weight that an engine holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The engine's name for it; the ONNX initializer's name wherever the engine keeps it.
    pub name: String,
    /// Element type that the engine wants to be given.
    pub dtype: Dtype,
    /// Extents; `None` where the engine only knows a count.
    pub shape: Option<Vec<usize>>,
    pub count: usize,
    /// Whether new bytes can be given for it.
    pub refittable: bool,
}

/// Supplies the bytes of slots during a refit, in the slot's own dtype and shape, row-major and little-endian.
pub trait Feed: Send + Sync {
    /// The bytes to put into `slot`, or `None` where the engine keeps what it holds.
    ///
    /// # Errors
    /// Why the bytes cannot be had.
    fn bytes(&self, slot: &Slot) -> Result<Option<Cow<'_, [u8]>>, Error>;

    /// Whether the slot's bytes are others than the engine holds now. Where a library can be trusted to name what it computes
    /// together with these, it is asked for the rest only as far as that.
    fn differs(&self, slot: &Slot) -> bool {
        let _ = slot;
        true
    }

    /// The digest of the slot's bytes, where it was decided on.
    fn digest(&self, slot: &Slot) -> Option<Digest> {
        let _ = slot;
        None
    }

    /// Lends the model with all these weights, in a file that is there until `then` has returned: for libraries that take whole models.
    ///
    /// # Errors
    /// Why there is none; those of `then`.
    fn with_model(&self, then: &mut dyn FnMut(&Model) -> Result<(), Error>) -> Result<(), Error> {
        let _ = then;
        Err(Error::Library {
            library: "the refit".into(),
            message: "it has single weights, and not a whole model".into(),
        })
    }
}

/// A plan that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    /// The digest that [`digest_of`] gives.
    pub digest: Digest,
}

/// The digest by which a plan is known: of the whole file, or for the CPU backends of its tensors' digests. Reads all of it, on
/// all cores, and keeps nothing.
pub fn digest_of(map: &fsx::Map) -> Digest {
    cpu::digest_of(map)
        .unwrap_or_else(|| Digest::of_length(map.len(), |at, into| map.copy_to(at, into)))
}

/// Whether [`digest_of`] a plan is made of its tensors' digests; reads its header only.
pub fn is_known_by_tensors(map: &fsx::Map) -> bool {
    cpu::is_known_by_tensors(map)
}

/// Compiles and opens plans.
pub trait Backend {
    fn identity(&self) -> Identity;

    /// Whether every dynamic axis needs a largest size.
    fn needs_bounds(&self) -> bool {
        false
    }

    /// Keeps what builds measure in this folder, unless it was told another place. Nothing, for those that measure nothing.
    fn keep_timings(&mut self, _folder: &Path) {}

    /// Compiles `job` and writes the plan to `out`.
    ///
    /// # Errors
    /// See [`Error`]; what was written to `out` is then worthless.
    fn build(
        &self,
        job: &BuildJob<'_>,
        out: &mut dyn Write,
        watch: &dyn Watch,
    ) -> Result<BuildNotes, Error>;

    /// As [`Backend::build`], into an empty file in whichever order is fastest; `None` where it only writes front to back.
    ///
    /// # Errors
    /// See [`Error`]; what was written is then worthless.
    fn build_into(
        &self,
        _job: &BuildJob<'_>,
        _file: &File,
        _watch: &dyn Watch,
    ) -> Result<Option<(BuildNotes, Written)>, Error> {
        Ok(None)
    }

    /// Opens the plan at `path`.
    fn open(&self, path: &Path) -> Result<Box<dyn Engine>, Error>;
}

#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Threads for CPU engines; `None` leaves it to the engine.
    pub threads: Option<usize>,
    /// Replay runs as a CUDA graph. What has no GPU refuses.
    pub cuda_graph: bool,
    /// The most bytes of weights that the GPU may hold; the others are brought when they are needed. What has no GPU refuses.
    pub weight_budget: Option<u64>,
    /// Measure each layer. What has no GPU refuses.
    pub profile: bool,
    /// How many runs may be under way at a time ([`Engine::run_at_once`]); 0 is 1. What has no GPU refuses more.
    pub streams: usize,
}

/// What several runs at a time gave.
#[derive(Debug, Clone, Default)]
pub struct AtOnce {
    /// Of the last run of each stream.
    pub outputs: Vec<NamedTensors>,
    /// From handing a run over to having its outputs.
    pub latencies: Vec<Duration>,
    /// Of the GPU alone, copies not counted; in the same order.
    pub on_gpu: Vec<Duration>,
    /// From the first to the last.
    pub elapsed: Duration,
}

pub trait Engine {
    /// Inputs, in graph order.
    fn inputs(&self) -> &[TensorDecl];

    /// Outputs, in graph order.
    fn outputs(&self) -> &[TensorDecl];

    /// The weights that it holds.
    fn slots(&self) -> Result<Vec<Slot>, Error>;

    /// Replaces weights. After an error the engine is in no defined state and must be dropped.
    /// The feed is kept as long as the engine needs it.
    fn refit(&mut self, feed: Arc<dyn Feed>, watch: &dyn Watch) -> Result<Way, Error>;

    /// Writes the plan, with the weights that it holds now.
    fn serialize(&self, out: &mut dyn Write) -> Result<(), Error>;

    /// As [`Engine::serialize`], into an empty file in whichever order is fastest; `None` where it only writes front to back.
    ///
    /// # Errors
    /// See [`Error`]; what was written is then worthless.
    fn serialize_into(&self, _file: &File, _watch: &dyn Watch) -> Result<Option<Written>, Error> {
        Ok(None)
    }

    /// Whether it can run with these options; said before anything is done for a run.
    ///
    /// # Errors
    /// [`Error::Option`].
    fn check_options(&self, _options: &RunOptions) -> Result<(), Error> {
        Ok(())
    }

    /// Makes ready to run (loads, allocates), so that the first [`Engine::run`] is not charged with it.
    fn prepare(&mut self, options: &RunOptions) -> Result<(), Error>;

    /// Runs once. Inputs come in any order, one for every [`Engine::inputs`]; outputs are in graph order with the
    /// dtypes that the model declares.
    fn run(&mut self, inputs: &NamedTensors) -> Result<NamedTensors, Error>;

    /// Runs on all [`RunOptions::streams`] that it was prepared for, for as long as `more` says so: it is asked before each run, and
    /// told how many were begun. Once a stream at least.
    ///
    /// # Errors
    /// As [`Engine::run`]; [`Error::Library`] where one run at a time is all there is.
    fn run_at_once(
        &mut self,
        _inputs: &NamedTensors,
        _more: &mut dyn FnMut(usize) -> bool,
    ) -> Result<AtOnce, Error> {
        Err(Error::Library {
            library: "the engine".into(),
            message: "it computes one run at a time".into(),
        })
    }

    /// What the library tells of its layers after fusing, as JSON in the library's own form; `None` where it tells nothing.
    fn layers(&self) -> Result<Option<serde_json::Value>, Error> {
        Ok(None)
    }

    /// What each layer took in the runs since [`Engine::prepare`] with `profile`, in the order of the first run: name, and one time a
    /// run.
    fn layer_times(&self) -> Vec<(String, Vec<Duration>)> {
        Vec::new()
    }

    /// How long the GPU took for the last run, copies not counted; `None` where no GPU ran anything.
    fn device_time(&self) -> Option<Duration> {
        None
    }
}

const NO_SPACE: &str = "free some space, or write to another disk";

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    /// The backend is not in this build or its library is not on this machine.
    #[error("the backend `{backend}` is not available: {reason}")]
    #[explain(code = "backend-unavailable", class = Environment, hints = hints.clone())]
    Unavailable {
        backend: String,
        /// Why, in one sentence without a period.
        reason: String,
        /// How to get it.
        hints: Vec<String>,
    },
    /// The backend knows that it cannot compute this graph right, and refuses. All places are listed.
    #[error("the backend `{backend}` refuses this model: {}", list(.refusals))]
    #[explain(code = "backend-refuses", class = Input,
        hints = (backend == "cpu").then_some("use `--backend onnxruntime`, which computes every ONNX operator"))]
    Refused {
        backend: String,
        refusals: Vec<Refusal>,
    },
    /// An option that the backend does not know, or a value that it does not take.
    #[error("the backend `{backend}` does not take `{option}`: {reason}")]
    #[explain(code = "backend-option", class = Input, hints = without(option, reason))]
    Option {
        backend: String,
        /// `name=value`, or the bare name of what was not given a value.
        option: String,
        reason: String,
    },
    /// The plan is not one of this backend's, is cut short, or is damaged.
    #[error("`{path}` is not a usable plan: {reason}")]
    #[explain(code = "plan-unusable", class = Input, hint("build it again with `trtmut build`"))]
    Plan {
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The plan brings code of its own, which runs in this process when it is opened, and nobody said that it may.
    #[error(
        "`{path}` is version-compatible: it brings code of its own, which runs when it is opened"
    )]
    #[explain(code = "plan-code", class = Input, hint("where you trust the plan, pass `--allow-host-code`"))]
    HostCode { path: String },
    /// A plugin library cannot be used, or one is missing.
    #[error("the plugin library `{library}`: {reason}")]
    #[explain(code = "plugin", class = Input)]
    Plugin {
        library: String,
        /// Why, in one fragment.
        reason: String,
    },
    /// The engine wants a weight that it was not given, or got one that does not fit.
    #[error("weight `{name}`: {reason}")]
    #[explain(code = "weight-mismatch", class = Input)]
    Weight { name: String, reason: String },
    /// An input is missing, unknown, or of the wrong type or shape.
    #[error("input `{name}`: {reason}")]
    #[explain(code = "input-mismatch", class = Input)]
    Input { name: String, reason: String },
    /// The library behind the backend failed; the text is the library's own.
    #[error("{library}: {message}")]
    #[explain(code = "backend-failed", class = Environment)]
    Library { library: String, message: String },
    /// The model's bytes could not be read.
    #[error(transparent)]
    #[explain(transparent)]
    Onnx(#[from] crate::onnx::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    #[explain(transparent)]
    File(#[from] fsx::Error),
    /// Writing the plan failed.
    #[error("cannot write the plan")]
    #[explain(code = "file-write", class = Environment, hints = (_0.kind() == std::io::ErrorKind::StorageFull).then_some(NO_SPACE))]
    Write(#[from] std::io::Error),
}

/// One place in a model that a backend refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Node name, or its first output where it has none.
    pub node: String,
    /// Operator, with its domain where it is not ONNX's own.
    pub operator: String,
    pub reason: String,
}

/// What is said of a part that this build leaves out.
#[cfg_attr(
    all(feature = "embedded", feature = "onnxruntime", feature = "tensorrt"),
    allow(dead_code)
)]
fn left_out(feature: &str) -> String {
    format!("this trtmut was built without the feature `{feature}`")
}

/// The error of a backend that this build leaves out, with the feature that brings it.
#[cfg_attr(
    all(feature = "embedded", feature = "onnxruntime", feature = "tensorrt"),
    allow(dead_code)
)]
fn not_built(backend: &str, feature: &str) -> Error {
    Error::Unavailable {
        backend: backend.into(),
        reason: left_out(feature),
        hints: vec![format!(
            "build it with the feature: `cargo install --path . --features {feature}` in its sources"
        )],
    }
}

fn list(refusals: &[Refusal]) -> String {
    const SHOWN: usize = 5;
    let mut text = refusals
        .iter()
        .take(SHOWN)
        .map(|r| format!("{} (node `{}`): {}", r.operator, r.node, r.reason))
        .collect::<Vec<_>>()
        .join("; ");
    if refusals.len() > SHOWN {
        let _ = write!(text, "; and {} more", refusals.len() - SHOWN);
    }
    text
}

/// Why `f32-layers` is refused where it is the model that has to be converted.
const NOTHING_CONVERTED: &str = "it says what stays in f32 of a model that is converted; pass `--convert fp16` or `--convert bf16` too, or leave it out";

/// What to do about an option that is not taken; none where the reason says it.
fn without(option: &str, reason: &str) -> Option<String> {
    if reason.contains('`') {
        return None;
    }
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let flags: Vec<String> = match name {
        // On the command line each precision is a flag of its own.
        "precision" => value.split(',').map(|p| format!("`--{p}`")).collect(),
        _ => vec![format!("`--{name}`")],
    };
    Some(match name {
        // It is asked of a plan, whose backend is what it is.
        "cuda-graph" | "weight-budget" | "profile-layers" => format!("leave `--{name}` out"),
        // Not given, and needed.
        _ if value.is_empty() => return None,
        _ => format!(
            "leave {} out, or choose a backend that takes it with `--backend`",
            flags.join(" and ")
        ),
    })
}
