//! A plan and its manifest: two files that stand and change together.
//!
//! ```text
//! engine.plan        what an engine loads: TensorRT's own serialized engine, or the CPU container
//! engine.plan.json   the manifest: where it came from, what it holds, how it may change
//! ```
//!
//! A manifest names the digest of its plan, and one that does not match is refused. Two files cannot be renamed in one step,
//! so a change goes: new manifest to `engine.plan.json.next`, rename of the plan, rename of the manifest. Whoever finds a plan
//! that `engine.plan.json` does not match but `engine.plan.json.next` does, finishes that last rename; a process killed
//! at any moment leaves the old pair or the new pair. Both renames are made under a lock of the folder, so that
//! several processes that refit one plan end in the pair of one of them. Plans that change together leave a journal meanwhile
//! (`journal.rs`).

mod claim;
mod journal;
mod lines;
mod manifest;
mod pair;
mod text;

pub use claim::{claim, claim_manifest, claim_together};
pub use journal::{Pair, settle};
pub use manifest::{
    Asked, BaseSource, FORMAT, FORMAT_1, FileRef, Ingredient, Manifest, ModelRef, PlanRef,
    ProbeSource, Recipe, WeightRow,
};
pub use pair::{adopt, open, open_with, reference, replace, replace_all, stage};
pub use text::{Maker, behind_link, manifest_path, read_maker, read_manifest, read_sources};

use crate::engine::tensorrt::header;
use crate::fault::Explain;
use crate::fsx;
use std::path::{Path, PathBuf};

/// Why a plan or its manifest cannot be used.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    /// The plan stands alone.
    #[error("`{plan}` has no manifest: `{manifest}` is not there", plan = .plan.display(), manifest = .manifest.display())]
    #[explain(code = "manifest-missing", class = Input, hints = of_no_manifest(plan, manifest))]
    NoManifest {
        plan: PathBuf,
        /// Where its manifest should be.
        manifest: PathBuf,
    },
    /// The manifest is not what this version writes.
    #[error("`{path}` is not a manifest that this version reads: {reason}", path = .path.display())]
    #[explain(code = "manifest-unreadable", class = Input, hint("build the plan again with `trtmut build` of this version"))]
    Manifest {
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The manifest belongs to other bytes.
    #[error("`{manifest}` does not belong to `{plan}`: {reason}", plan = .plan.display(), manifest = .manifest.display())]
    #[explain(code = "manifest-mismatch", class = Input,
        hint("the plan was cut short, or one of the two files was replaced: restore the pair, or build it again with `trtmut build`"))]
    Mismatch {
        plan: PathBuf,
        manifest: PathBuf,
        reason: String,
    },
    /// The plan has a manifest, and was to get one.
    #[error("`{plan}` has a manifest: `{manifest}`", plan = .plan.display(), manifest = .manifest.display())]
    #[explain(code = "manifest-there", class = Input, hint("`trtmut inspect` shows it, and `--force` replaces it"))]
    HasManifest { plan: PathBuf, manifest: PathBuf },
    /// Something else is where a plan or its manifest goes.
    #[error("`{path}` {what}", path = .path.display())]
    #[explain(code = "output-occupied", class = Input, hint("choose another name with -o, or overwrite it with --force"))]
    Occupied { path: PathBuf, what: &'static str },
    /// Plans were changing together when a process died, and nothing says how far it came.
    #[error("`{journal}` tells of a change that a killed trtmut began, and `{folder}`, where the rest of it stands, is not there", journal = .journal.display(), folder = .folder.display())]
    #[explain(code = "change-unfinished", class = Input,
        hint("bring `{}` back; or remove `{}` to keep this plan as it is", folder.display(), journal.display()))]
    Unfinished {
        /// The journal beside the plan.
        journal: PathBuf,
        /// Where the change's lead is.
        folder: PathBuf,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    #[explain(transparent)]
    File(#[from] fsx::Error),
}

fn of_no_manifest(plan: &Path, manifest: &Path) -> Vec<String> {
    let shown = plan.display();
    if plan.extension().is_some_and(|e| e == "onnx") {
        return vec![format!(
            "it is a model: `trtmut build {shown}` makes a plan of it"
        )];
    }
    let copy = format!("copy `{}` along with the plan", manifest.display());
    // `adopt` takes TensorRT's plans only; another engine's plan has no maker but trtmut.
    let make = if header::read(plan).is_ok() {
        format!("where another tool built it: `trtmut adopt {shown} --model MODEL.onnx`")
    } else {
        "where it is lost: `trtmut build MODEL.onnx` makes plan and manifest anew".into()
    };
    vec![copy, make]
}
