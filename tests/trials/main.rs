//! Trials that are found at run time: in fixtures, tables, the ONNX project's own tests, and in what is installed here. What cannot be
//! run is listed as ignored, with the reason.
//!
//! `cargo test --test trials refit::` runs one room, `-- --list` names all.

#[cfg(feature = "remote")]
mod cache_remote;
mod cases;
mod conformance;
mod onnx_backend;
mod real_models;
mod refit;
mod scenarios;
#[path = "../cli/scene.rs"]
#[allow(dead_code)]
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod tensorrt;

use libtest_mimic::{Arguments, Failed};

/// A test that its room made; its name is prefixed by the room's, as a module's name is in other tests.
struct Trial {
    name: String,
    ignored: bool,
    run: Box<dyn FnOnce() -> Result<(), Failed> + Send>,
}

impl Trial {
    fn test(
        name: impl Into<String>,
        run: impl FnOnce() -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        Trial {
            name: name.into(),
            ignored: false,
            run: Box::new(run),
        }
    }

    /// Whether it is only listed; its name then says what is missing.
    fn with_ignored_flag(self, ignored: bool) -> Trial {
        Trial { ignored, ..self }
    }
}

/// The trials of one file or folder.
type Room = fn() -> Vec<Trial>;

const ROOMS: &[(&str, Room)] = &[
    #[cfg(feature = "remote")]
    ("cache_remote", cache_remote::trials),
    ("cases", cases::trials),
    ("conformance", conformance::trials),
    ("onnx_backend", onnx_backend::trials),
    ("real_models", real_models::trials),
    ("refit", refit::trials),
    ("scenarios", scenarios::trials),
    ("tensorrt", tensorrt::trials),
];

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for &(room, made) in ROOMS {
        trials.extend(made().into_iter().map(|trial| {
            let name = format!("{room}::{}", trial.name);
            libtest_mimic::Trial::test(name, trial.run).with_ignored_flag(trial.ignored)
        }));
    }
    libtest_mimic::run(&arguments, trials).exit();
}
