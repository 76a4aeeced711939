//! What can go wrong between the parts.

use super::verification::Verification;
use crate::diff::Told;
use crate::fault::Explain;
use crate::onnx::half::{self, Half};
use crate::tensor::ConvertError;
use crate::{arrays, engine, fsx, mapping, onnx, plan, shapes, weights};
use std::path::{Path, PathBuf};

const IN_RANGE: &str = "build the plan again with `--convert bf16`, which has the range of f32; or with `--f32-layers`, which keeps \
    the nodes that read it in f32";
const PUT_BACK: &str = "put the files back that the plan's manifest names under `recipe`, or say which weights it shall hold: refit it \
    with others, or with `--base`";

/// What can go wrong between the parts; the parts' own errors pass through.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    /// The output exists and is something else.
    #[error("`{path}` {what}", path = .path.display())]
    #[explain(code = "output-occupied", class = Input, hint("choose another name with -o, or overwrite it with --force"))]
    Occupied { path: PathBuf, what: &'static str },
    /// Inputs cannot be put together; every problem is listed.
    #[error("{}", .problems.join("\n       "))]
    #[explain(code = "inputs", class = Input, hints = hints.clone())]
    Inputs {
        /// A sentence for each of them.
        problems: Vec<String>,
        /// How to fix them.
        hints: Vec<String>,
    },
    /// What is to lie over the base weights does not fit, or only partly; every problem is listed.
    #[error("{}", .problems.join("\n       "))]
    #[explain(code = "overlay-misfit", class = Input, hints = hints.clone())]
    Overlay {
        /// A sentence for each of them.
        problems: Vec<String>,
        /// How to fix them.
        hints: Vec<String>,
    },
    /// What is decided of a checkpoint lets nothing be written; every problem is listed.
    #[error("{}", .problems.join("\n       "))]
    #[explain(code = "overlay-misfit", class = Input, hints = hints.clone(), details = serde_json::to_value(decision).ok())]
    Blocked {
        /// A sentence for each of them.
        problems: Vec<String>,
        /// How to fix them.
        hints: Vec<String>,
        decision: Box<Told>,
    },
    /// Tensors of a checkpoint have other shapes than the model; every one is listed.
    #[error("a refit is not enough: {}", .problems.join("\n       "))]
    #[explain(code = "needs-recompile", class = NeedsRecompile,
        details = serde_json::to_value(decision).ok(),
        hint("the architecture differs: export the model again from this checkpoint, and build a plan from that"))]
    Reshaped {
        /// A sentence for each of them.
        problems: Vec<String>,
        decision: Box<Told>,
    },
    /// A refitted engine computes something else than the reference; it was not written.
    #[error("the refitted engine differs from {}: {}", .0.reference, differing(.0))]
    #[explain(code = "unverified", class = Differs,
        hint("the plan is as it was; build it again from the model with these weights (`refit --fallback rebuild`)"))]
    Unverified(Verification),
    /// A mapping file cannot be used.
    #[error("`{path}` cannot be used", path = .path.display())]
    #[explain(transparent = cause)]
    MappingFile {
        path: PathBuf,
        #[source]
        cause: Box<mapping::Error>,
    },
    /// The model that a plan was compiled from cannot be used again.
    #[error("`{model}`, which `{plan}` was compiled from, {reason}", plan = .plan.display(), model = .model.display())]
    #[explain(code = "model-gone", class = Input,
        hint("put the model back where the manifest says, or build the plan again from the model that is there now"))]
    Source {
        plan: PathBuf,
        /// Where its manifest says the model is.
        model: PathBuf,
        /// What is the matter with it.
        reason: &'static str,
    },
    /// An ONNX file whose weights a plan is to get is not the same model.
    #[error("a refit is not enough: `{model}` has another structure than the model that `{plan}` was compiled from", plan = .plan.display(), model = .model.display())]
    #[explain(code = "needs-recompile", class = NeedsRecompile, hint("`{}` builds a plan from it", super::next::build(plan, model)))]
    OtherStructure { plan: PathBuf, model: PathBuf },
    /// A model cannot be converted to half precision.
    #[error("the model cannot be converted to {}", .half.name())]
    #[explain(transparent = cause)]
    Convert {
        /// What was asked for.
        half: Half,
        #[source]
        cause: Box<half::Fault>,
    },
    /// A plan in half precision cannot hold what it is to get.
    #[error("weight `{weight}` would become infinite in `{plan}`: {cause}", plan = .plan.display())]
    #[explain(code = "weight-overflow", class = Input, hints = [IN_RANGE])]
    TooLarge {
        plan: PathBuf,
        weight: String,
        cause: ConvertError,
    },
    /// The weights of a refitted plan are needed again, and cannot be had.
    #[error("the weights that `{plan}` was refitted with cannot be put together again: {reason}", plan = .plan.display())]
    #[explain(code = "recipe-gone", class = Input, hints = [PUT_BACK])]
    Recipe { plan: PathBuf, reason: String },
    /// The file given as base weights is not what the model was exported from.
    #[error("{}", unproven(.files, .proof))]
    #[explain(code = "base-unproven", class = Input, hints = of_unproven(proof))]
    BaseUnproven {
        files: Vec<PathBuf>,
        proof: mapping::Proof,
    },
    /// The plan holds no weights.
    #[error("`{plan}` is stripped: it holds no weights, and cannot run before it is refitted", plan = .plan.display())]
    #[explain(code = "plan-stripped", class = Input,
        hint("`trtmut refit {} --base -o FULL.plan` writes one with its model's weights; a checkpoint or LoRAs do as well", plan.display()))]
    Stripped { plan: PathBuf },
    /// Filling a stripped plan in its place would leave one that nothing can be changed in.
    #[error("`{plan}` is stripped, and {library} writes a filled plan so that it cannot be refitted again", plan = .plan.display())]
    #[explain(code = "last-refit", class = Input,
        hint("write the filled plan beside it with `-o FULL.plan`, and keep the stripped one for the next refit"))]
    LastRefit {
        plan: PathBuf,
        /// The library that compiled it.
        library: String,
    },
    /// One of several plans cannot be refitted.
    #[error("`{plan}` cannot be refitted, so none of the plans was changed", plan = .plan.display())]
    #[explain(transparent = cause, hints = of_one_of_several(plan, cause))]
    OfPlan {
        plan: PathBuf,
        #[source]
        cause: Box<Error>,
    },
    /// A plan for another GPU than the one that is used.
    #[error("`{plan}` was built on {built}, and this is {here}", plan = .plan.display())]
    #[explain(code = "plan-of-another-gpu", class = Input, hint("{}", on_another_gpu(*device)))]
    OtherGpu {
        plan: PathBuf,
        /// The GPU that it was built on.
        built: String,
        /// The GPU that is used.
        here: String,
        /// The number of one that it runs on.
        device: Option<usize>,
    },
    /// A plan of another tool is not of the model that it is said to be of.
    #[error("`{plan}` is not of `{model}`: {problems}", plan = .plan.display(), model = .model.display(), problems = join(.problems))]
    #[explain(code = "plan-of-another-model", class = Input, hint("give the ONNX file that the plan was built from, as it was then"))]
    NotOfModel {
        plan: PathBuf,
        model: PathBuf,
        /// Every difference, one fragment each.
        problems: Vec<String>,
    },
    /// The parts' own errors.
    #[error(transparent)]
    #[explain(transparent)]
    Onnx(#[from] onnx::Error),
    #[error(transparent)]
    #[explain(transparent)]
    Shapes(#[from] shapes::Error),
    #[error(transparent)]
    #[explain(transparent)]
    Engine(#[from] engine::Error),
    #[error(transparent)]
    #[explain(transparent)]
    Plan(#[from] plan::Error),
    #[error(transparent)]
    #[explain(transparent)]
    Weights(#[from] weights::Error),
    #[error(transparent)]
    #[explain(transparent)]
    Lora(#[from] weights::lora::Error),
    #[error(transparent)]
    #[explain(transparent)]
    Mapping(#[from] mapping::Error),
    #[error(transparent)]
    #[explain(transparent)]
    Arrays(#[from] arrays::Error),
    #[error(transparent)]
    #[explain(transparent)]
    File(#[from] fsx::Error),
}

fn join(problems: &[String]) -> String {
    match problems {
        [one] => one.clone(),
        all => format!("{} problems\n  {}", all.len(), all.join("\n  ")),
    }
}

fn unproven(files: &[PathBuf], proof: &mapping::Proof) -> String {
    const SHOWN: usize = 4;
    let files: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    let of_parameters = proof.contradicted.iter().chain(&proof.unproven);
    let mut names: Vec<&String> = of_parameters.collect();
    // A function that is not known of a base that is the right one leaves constants, and no parameter.
    let (whose, all) = if names.is_empty() {
        names.extend(&proof.unsourced);
        ("constants", proof.proven + names.len())
    } else {
        ("parameters", proof.parameters)
    };
    let mut shown: Vec<String> = (names.iter().take(SHOWN))
        .map(|n| format!("`{n}`"))
        .collect();
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    format!(
        "`{}` is not what the model was exported from: it gives {} of {all} {whose}; not {}",
        files.join("`, `"),
        proof.proven,
        shown.join(", ")
    )
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
    /// An engine's error while it wrote `output`, which it does not know by name.
    pub(super) fn writing(output: &Path) -> impl Fn(engine::Error) -> Error {
        move |error| match error {
            engine::Error::Write(e) => fsx::Error::write(output, e).into(),
            other => other.into(),
        }
    }

    /// This error, with the plan that it is about.
    pub(super) fn of_plan(self, plan: &Path) -> Error {
        Error::OfPlan {
            plan: plan.to_owned(),
            cause: Box::new(self),
        }
    }

    /// Whether its way out is an option that several plans cannot have together.
    fn is_of_one_plan(&self) -> bool {
        matches!(self, Error::LastRefit { .. })
            || ["lora-components", "weights-components"].contains(&self.code())
    }
}

fn of_unproven(proof: &mapping::Proof) -> Vec<String> {
    let mut hints = vec![
        "give the whole checkpoint that the model was exported from (all its shards), or leave the option out".into(),
        "to run with other weights, build first and `refit` then".into(),
    ];
    if proof.proven > 0 {
        hints.push("if these files are meant to hold only some of its parameters, say `--partial`: refits then stop where an unproven weight may change".into());
    }
    hints
}

/// What the cause hints at may go for a plan that is refitted by itself.
fn of_one_of_several(plan: &Path, cause: &Error) -> Vec<String> {
    if cause.is_of_one_plan() {
        return vec![format!(
            "refit `{}` by itself; the message then says how",
            plan.display()
        )];
    }
    cause.hints()
}

fn on_another_gpu(device: Option<usize>) -> String {
    device.map_or_else(
        || "build it again on this GPU, or with `--hardware-compat` on the other one".into(),
        |n| format!("`--device {n}` is a GPU that it runs on"),
    )
}
