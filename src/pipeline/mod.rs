//! Where the parts are joined: a model becomes a plan, a plan becomes an open engine, files become inputs.
//!
//! Which value is tracked where, and what a change of it means:
//!
//! | value | structure digest | content digest | manifest | a change means |
//! |---|---|---|---|---|
//! | graph, opset, attributes, structural constants | x | x | x | recompile |
//! | dim ranges | | | x | live inside what was built, else recompile |
//! | options, backend, library, device | | | x | recompile |
//! | weight bytes | | x | x | refit where the weight is refittable, else recompile |
//! | dtype or shape of a weight | x | x | x | recompile |
//! | node names, doc strings, paths, times | | | x | nothing |

mod backends;
mod build;
mod cached;
mod compare;
mod complete;
mod draw;
mod environment;
mod feed;
mod inputs;
mod key;
mod open;
mod overlay;
mod past;
mod rebuild;
mod recompile;
mod refit;
mod verify;

pub use backends::{BackendChoice, choose, compiler, keep_timings, onnxruntime, reopen, search};
pub use build::{BuildRequest, Built, CacheUse, MappingSource, build};
pub use cached::{CacheRequest, build_cached, worth_caching};
pub use compare::{CompareRequest, Compared, Measured, compare};
pub use complete::refusal;
pub use environment::Environment;
pub use inputs::{InputRequest, PrefixedFile, TensorFile, gather_inputs, pick_expected};
pub use key::{key_fields, with_checkpoint};
pub use open::{OpenPlan, open};
pub use overlay::{Overlay, OverlayRequest};
pub use recompile::{SourceModel, recompile, source_model};
pub use refit::{Opening, Prepared, Refitted, WeightChange, prepare};
pub use verify::{Verification, Verified, VerifyRequest, verify_outputs};

use crate::fault::{Class, Explain};
use crate::{arrays, engine, fsx, mapping, onnx, plan, shapes, weights};
use std::path::PathBuf;

/// Bounds the threads that hashing and compiling use; without a bound all cores. Only the first call of a process counts.
pub fn limit_threads(threads: Option<usize>) {
    if let Some(n) = threads {
        // It fails only where the pool is up already, and then its size is settled.
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build_global();
    }
}

/// What can go wrong between the parts; the parts' own errors pass through.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The output exists and is something else.
    #[error("`{path}` {what}", path = .path.display())]
    Occupied {
        /// The output.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Inputs cannot be put together; every problem is listed.
    #[error("{}", .problems.join("\n       "))]
    Inputs {
        /// One sentence each.
        problems: Vec<String>,
        /// How to fix them.
        hints: Vec<String>,
    },
    /// What is to lie over the base weights does not fit, or only partly; every problem is listed.
    #[error("{}", .problems.join("\n       "))]
    Overlay {
        /// One sentence each.
        problems: Vec<String>,
        /// How to fix them.
        hints: Vec<String>,
    },
    /// Tensors of a checkpoint have other shapes than the model; every one is listed.
    #[error("a refit is not enough: {}", .problems.join("\n       "))]
    Reshaped {
        /// One sentence each.
        problems: Vec<String>,
    },
    /// A refitted engine computes something else than the reference; it was not written.
    #[error("the refitted engine differs from {}: {}", .0.reference, differing(.0))]
    Unverified(Verification),
    /// A mapping file cannot be used.
    #[error("`{path}` cannot be used", path = .path.display())]
    MappingFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: Box<mapping::Error>,
    },
    /// The model that a plan was compiled from cannot be used again.
    #[error("`{model}`, which `{plan}` was compiled from, {reason}", plan = .plan.display(), model = .model.display())]
    Source {
        /// The plan.
        plan: PathBuf,
        /// Where its manifest says the model is.
        model: PathBuf,
        /// What is the matter with it.
        reason: &'static str,
    },
    /// The weights of a refitted plan are needed again, and cannot be had.
    #[error("the weights that `{plan}` was refitted with cannot be put together again: {reason}", plan = .plan.display())]
    Recipe {
        /// The plan.
        plan: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The plan holds no weights.
    #[error("`{plan}` is stripped: it holds no weights, and cannot run before it is refitted", plan = .plan.display())]
    Stripped {
        /// The plan.
        plan: PathBuf,
    },
    /// The parts' own errors.
    #[error(transparent)]
    Onnx(#[from] onnx::Error),
    /// The parts' own errors.
    #[error(transparent)]
    Shapes(#[from] shapes::Error),
    /// The parts' own errors.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The parts' own errors.
    #[error(transparent)]
    Plan(#[from] plan::Error),
    /// The parts' own errors.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// The parts' own errors.
    #[error(transparent)]
    Lora(#[from] weights::lora::Error),
    /// The parts' own errors.
    #[error(transparent)]
    Mapping(#[from] mapping::Error),
    /// The parts' own errors.
    #[error(transparent)]
    Arrays(#[from] arrays::Error),
    /// The parts' own errors.
    #[error(transparent)]
    File(#[from] fsx::Error),
}

fn differing(verification: &Verification) -> String {
    let all: Vec<String> = verification
        .outputs
        .iter()
        .filter(|o| !o.equal)
        .map(|o| {
            format!(
                "output `{}` by {:.2e} (relative L2)",
                o.output, o.difference.relative_l2
            )
        })
        .collect();
    all.join(", ")
}

impl Error {
    fn part(&self) -> Option<&dyn Explain> {
        Some(match self {
            Error::Occupied { .. }
            | Error::Inputs { .. }
            | Error::Overlay { .. }
            | Error::Reshaped { .. }
            | Error::Unverified(_)
            | Error::Recipe { .. }
            | Error::Stripped { .. }
            | Error::Source { .. } => return None,
            Error::MappingFile { cause, .. } => cause.as_ref(),
            Error::Onnx(e) => e,
            Error::Shapes(e) => e,
            Error::Engine(e) => e,
            Error::Plan(e) => e,
            Error::Weights(e) => e,
            Error::Lora(e) => e,
            Error::Mapping(e) => e,
            Error::Arrays(e) => e,
            Error::File(e) => e,
        })
    }
}

impl Explain for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Occupied { .. } => "output-occupied",
            Error::Inputs { .. } => "inputs",
            Error::Overlay { .. } => "overlay-misfit",
            Error::Reshaped { .. } => "needs-recompile",
            Error::Unverified(_) => "unverified",
            Error::Source { .. } => "model-gone",
            Error::Recipe { .. } => "recipe-gone",
            Error::Stripped { .. } => "plan-stripped",
            _ => self.part().map_or("bug", Explain::code),
        }
    }

    fn class(&self) -> Class {
        match self {
            Error::Unverified(_) => Class::Differs,
            Error::Reshaped { .. } => Class::NeedsRecompile,
            _ => self.part().map_or(Class::Input, Explain::class),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Error::Occupied { .. } => {
                vec!["choose another name with -o, or overwrite it with --force".into()]
            }
            Error::Inputs { hints, .. } | Error::Overlay { hints, .. } => hints.clone(),
            Error::Reshaped { .. } => vec![
                "the architecture differs: export the model again from this checkpoint, and build a plan from that".into(),
            ],
            Error::Unverified(_) => vec![
                "the plan is as it was; build it again from the model with these weights (`refit --fallback rebuild`)".into(),
            ],
            Error::Recipe { .. } => vec![
                "put the files back that the plan's manifest names under `recipe`, or say which weights it shall hold: refit it \
                 with others, or with `--base`"
                    .into(),
            ],
            Error::Stripped { plan } => vec![format!(
                "`trtmut refit {} --base` gives it its model's weights; a checkpoint or LoRAs do as well",
                plan.display()
            )],
            Error::Source { .. } => vec![
                "put the model back where the manifest says, or build the plan again from the model that is there now"
                    .into(),
            ],
            _ => self.part().map_or_else(Vec::new, Explain::hints),
        }
    }
}
