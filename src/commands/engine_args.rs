//! Options of `build` that change what TensorRT compiles. Defaults are TensorRT's own, but for TF32, which is off: torch
//! multiplies matrices in full f32 too.

use crate::engine::Options;
use crate::engine::tensorrt::Settings;
use crate::fsx;
use std::path::PathBuf;

/// What a plan for TensorRT is compiled like; the CPU backends take none of these.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "TensorRT (the CPU backends take none of these)")]
pub struct EngineArgs {
    /// Which weights stay replaceable [default: full]
    #[arg(long, value_enum)]
    refit: Option<RefitMode>,

    /// Leave refittable weights out of the plan; it has to be refitted before it runs
    #[arg(long)]
    strip: bool,

    /// Convert the model to half precision before it is compiled, whoever compiles it; inputs and outputs stay as they are
    #[arg(
        long,
        value_enum,
        value_name = "TYPE",
        conflicts_with_all = ["fp16", "bf16", "int8"],
        help_heading = "Half precision (on every backend)"
    )]
    convert: Option<Convert>,

    /// Allow fp16 (8.x to 10.x; later versions compute in the model's own types, see --convert)
    #[arg(long)]
    fp16: bool,

    /// Allow bf16 (10.x)
    #[arg(long)]
    bf16: bool,

    /// Allow int8 (8.x and 10.x)
    #[arg(long)]
    int8: bool,

    /// Keep nodes of these names in f32 where less is allowed, or the model is converted: patterns with * and ?, e.g. '*norm*,/out/*'
    #[arg(long, value_name = "NAMES")]
    f32_layers: Option<String>,

    /// Allow TF32
    #[arg(long, overrides_with = "no_tf32")]
    tf32: bool,

    /// Compute in full f32 (the default)
    #[arg(long)]
    no_tf32: bool,

    /// How hard the builder searches, 0 to 5
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=5))]
    opt_level: Option<u8>,

    /// Scratch memory limit: bytes, or with K, M, G
    #[arg(long, value_name = "SIZE")]
    workspace: Option<String>,

    /// Other GPUs that the plan is to run on
    #[arg(long, value_enum)]
    hardware_compat: Option<HardwareCompat>,

    /// Let later versions of TensorRT run the plan
    #[arg(long)]
    version_compatible: bool,

    /// Write the libraries of --plugin into the plan, which then brings their code (with --version-compatible)
    #[arg(long)]
    serialize_plugins: bool,

    /// Let weights stay in host memory at run time, with `run --weight-budget` (TensorRT 10.1; with refit 10.8)
    #[arg(long)]
    weight_streaming: bool,

    /// Look for 2:4 sparse weights
    #[arg(long)]
    sparsity: bool,

    /// Compute capabilities to compile for, e.g. 8.9,12.0 (TensorRT-RTX)
    #[arg(long, value_name = "CC")]
    compute_capability: Option<String>,

    /// What the plan says of its layers
    #[arg(long, value_enum)]
    profiling_verbosity: Option<ProfilingVerbosity>,

    /// File that keeps what builds measured, so that the next one is faster [default: one in the cache]
    #[arg(long, value_name = "FILE")]
    timing_cache: Option<PathBuf>,
}

/// Values of `--refit`: which weights can be given other values later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RefitMode {
    /// All weights; some fusions are not done
    Full,
    /// All, but only with the build's own values
    Identical,
    /// Those that the mapping knows
    Individual,
    /// None
    None,
}

/// Values of `--convert`: the type that the model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Convert {
    /// IEEE half precision: up to 65504
    Fp16,
    /// bfloat16: the range of f32, and less precision
    Bf16,
}

/// Values of `--hardware-compat`: the GPUs that a plan may move to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum HardwareCompat {
    None,
    AmperePlus,
    SameComputeCapability,
}

/// Values of `--profiling-verbosity`: what a plan keeps of its layers' names and parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ProfilingVerbosity {
    None,
    LayerNames,
    Detailed,
}

fn name<T: clap::ValueEnum>(value: &T) -> String {
    let known = value.to_possible_value();
    known.map_or_else(String::new, |v| v.get_name().to_owned())
}

impl EngineArgs {
    /// By canonical name; only what was given.
    pub fn options(&self) -> Options {
        let mut options = Options::new();
        let mut set = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                options.insert(key.to_owned(), value);
            }
        };
        let flag = |given: bool| given.then(|| "true".to_owned());
        let precision: Vec<&str> = [
            (self.fp16, "fp16"),
            (self.bf16, "bf16"),
            (self.int8, "int8"),
        ]
        .into_iter()
        .filter_map(|(given, name)| given.then_some(name))
        .collect();
        set("refit", self.refit.as_ref().map(name));
        set("strip", flag(self.strip));
        set(
            "precision",
            (!precision.is_empty()).then(|| precision.join(",")),
        );
        set("convert", self.convert.as_ref().map(name));
        set("f32-layers", self.f32_layers.clone());
        // `--no-tf32` only takes back a `--tf32` before it: that is the default.
        set("tf32", flag(self.tf32));
        set("opt-level", self.opt_level.map(|n| n.to_string()));
        set("workspace", self.workspace.clone());
        set("hardware-compat", self.hardware_compat.as_ref().map(name));
        set("version-compatible", flag(self.version_compatible));
        set("serialize-plugins", flag(self.serialize_plugins));
        set("weight-streaming", flag(self.weight_streaming));
        set("sparsity", flag(self.sparsity));
        set("compute-capability", self.compute_capability.clone());
        set(
            "profiling-verbosity",
            self.profiling_verbosity.as_ref().map(name),
        );
        options
    }

    /// The file of `--timing-cache`, which a build writes.
    pub fn timing_cache(&self) -> Option<&PathBuf> {
        self.timing_cache.as_ref()
    }

    /// Claims the file of `--timing-cache`: it is none of `inputs`.
    ///
    /// # Errors
    /// As [`fsx::claim_output`].
    pub fn claim(&self, inputs: &[PathBuf]) -> Result<(), fsx::Error> {
        match &self.timing_cache {
            Some(path) => fsx::claim_output(path, inputs).map(drop),
            None => Ok(()),
        }
    }

    /// What does not change the plan.
    pub fn settings(&self, threads: Option<usize>) -> Settings {
        Settings {
            timing_cache: self.timing_cache.clone(),
            threads,
            ..Settings::default()
        }
    }
}
