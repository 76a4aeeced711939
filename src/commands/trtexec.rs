//! What trtexec's options are called here, for those who type them from habit.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Options of trtexec (and TensorRT's Python tools) that are no options here, with what does the same. Those that are spelled the
/// same here, as `--minShapes`, need no row.
const HABITS: [(&str, &str); 23] = [
    (
        "--onnx",
        "the model is the first argument: `trtmut build MODEL.onnx`",
    ),
    (
        "--saveEngine",
        "the plan is named with -o: `trtmut build MODEL.onnx -o PLAN`",
    ),
    (
        "--loadEngine",
        "the plan is the first argument: `trtmut run PLAN`",
    ),
    (
        "--engine",
        "the plan is the first argument: `trtmut run PLAN`",
    ),
    ("--buildOnly", "`trtmut build` only builds"),
    ("--skipInference", "`trtmut build` only builds"),
    (
        "--refit",
        "`trtmut build` makes refittable plans unless `--refit none` is given; `trtmut refit PLAN WEIGHTS` refits one",
    ),
    ("--stripWeights", "it is called `--strip` here"),
    (
        "--memPoolSize",
        "the limit of the workspace is `--workspace SIZE` here, as in `--workspace 4G`",
    ),
    (
        "--builderOptimizationLevel",
        "it is called `--opt-level` here",
    ),
    ("--timingCacheFile", "it is called `--timing-cache` here"),
    (
        "--versionCompatible",
        "it is called `--version-compatible` here",
    ),
    (
        "--hardwareCompatibilityLevel",
        "it is called `--hardware-compat` here",
    ),
    (
        "--profilingVerbosity",
        "it is called `--profiling-verbosity` here",
    ),
    (
        "--noTF32",
        "it is called `--no-tf32` here, and is the default",
    ),
    (
        "--shapes",
        "sizes are given as `--shape NAME=2x4x64x64` or `--dim NAME=2`",
    ),
    (
        "--loadInputs",
        "it is called `--inputs` (a .safetensors or .npz file) or `--input NAME=FILE.npy` here",
    ),
    ("--exportOutput", "it is called `--save FILE` here"),
    ("--exportTimes", "it is called `--export-times` here"),
    ("--iterations", "it is called `--iters` here"),
    ("--warmUp", "it is called `--warmup` here, and counts runs"),
    ("--infStreams", "it is called `--streams` here"),
    ("--useCudaGraph", "it is called `--cuda-graph` here"),
];

/// Puts what the option is called here in the place of clap's guess.
pub fn suggest(refused: &mut clap::Error) {
    if refused.kind() != ErrorKind::UnknownArgument {
        return;
    }
    let Some(ContextValue::String(given)) = refused.get(ContextKind::InvalidArg) else {
        return;
    };
    let name = given.split('=').next().unwrap_or_default();
    let Some((_, says)) = HABITS.iter().find(|(habit, _)| *habit == name) else {
        return;
    };
    let tip = StyledStr::from(format!("{name} is trtexec's; {says}"));
    // Clap guesses by spelling, and would name something else beside it.
    refused.remove(ContextKind::SuggestedArg);
    refused.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
}
