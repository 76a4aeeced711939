//! TensorRT without a GPU: the real TensorRT-RTX, which builds ahead of time on any machine, and a stand-in for every release, which
//! runs the whole program and breaks where it is told to.

#![allow(clippy::unnecessary_wraps, reason = "all trials have one type")]

mod observer;
mod peer;
mod rtx;
mod standin;

use crate::Trial;
use std::path::{Path, PathBuf};
use trtmut::onnx::Model;
use trtmut::shapes::{Overrides, Profile, ShapeSpec};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    trials.extend(standin::trials());
    trials.extend(rtx::trials());
    trials.extend(peer::trials());
    trials
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> PathBuf {
    root().join("fixtures").join(name)
}

/// A fixture's model and the profile of its shape spec.
fn model(name: &str, exporter: &str) -> (Model, Profile) {
    let folder = fixture(name);
    let model =
        Model::open(folder.join(format!("model.{exporter}.onnx"))).expect("the fixture is a model");
    let json = std::fs::read_to_string(folder.join(format!("shapes.{exporter}.json")))
        .expect("it has a spec");
    let spec = ShapeSpec::parse(&json, "shapes.json").expect("the spec is right");
    let profile = spec
        .resolve(model.inputs(), &Overrides::default())
        .expect("it fits the model")
        .profile();
    (model, profile)
}
