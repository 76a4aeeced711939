//! `trtmut run` of a model: compiled on first use, and nothing is left beside it.

use crate::scene::{Scene, fixture};

const RUN: &[&str] = &["run", "model.ts.onnx", "--shapes", "shapes.ts.json"];
const IO: &[&str] = &["--inputs", "io0.safetensors", "--expect"];

fn scene() -> Scene {
    let scene = Scene::new();
    for file in [
        "model.ts.onnx",
        "shapes.ts.json",
        "io0.safetensors",
        "base.safetensors",
        "fused.safetensors",
    ] {
        scene.bring(&format!("dit/{file}"));
    }
    scene
}

#[test]
fn a_model_is_compiled_once_and_then_taken_from_the_cache() {
    let scene = scene();
    let before = scene.files();
    let run = |more: &[&str]| {
        let report = scene.run(&[RUN, IO, more, &["--json"]].concat());
        let report = report.exits(0).json();
        assert_eq!(report["comparison"]["equal"], true);
        report["transitions"].clone()
    };
    let first = run(&["io0.safetensors:base."]);
    assert_eq!(first[0]["state"], "NEEDS_RECOMPILE");
    assert_eq!(first[0]["action"], "compile");
    let second = run(&["io0.safetensors:base."]);
    assert_eq!(
        (&second[0]["state"], &second[0]["action"]),
        (&"LIVE".into(), &"copy".into())
    );
    // Other weights are put into the temporary plan, and not into the cache.
    let fused = ["io0.safetensors:fused.", "--weights", "fused.safetensors"];
    let base = ["--base-weights", "base.safetensors"];
    let third = run(&[&fused[..], &base].concat());
    assert_eq!(third[1]["state"], "NEEDS_REFIT");
    assert_eq!(run(&["io0.safetensors:base."])[0]["state"], "LIVE");
    assert!(scene.files() == before, "something was left behind");
}

#[test]
fn nothing_of_a_model_is_compiled_where_its_inputs_do_not_fit() {
    let scene = scene();
    let refuses = |more: &[&str], code, says: &[&str]| {
        scene.refuses(&[RUN, more].concat(), code, says);
        assert!(!scene.file(".cache").join("engines-v1").exists() || engines(&scene) == 0);
    };
    refuses(&["--shape", "nothing=1x2"], 1, &["no input `nothing`"]);
    refuses(&["--dim", "B=4096"], 1, &["4096"]);
    let build = "trtmut build model.ts.onnx";
    // What the second hint prints is what stands below it.
    let printed = scene.run(&["build", "model.ts.onnx", "--print-shapes"]);
    printed.exits(0);
    let hints = [
        "needs a shape spec (--shapes)",
        &format!("`{build} --dim NAME=min:opt:max`"),
        &format!("`{build} --print-shapes` prints this one"),
        printed.stdout.trim(),
    ];
    scene.refuses(&["run", "model.ts.onnx"], 1, &hints);
    // A range is no size, and the spec that is missing is not the first thing to say then.
    let range = ["run", "model.ts.onnx", "--dim", "B=1:2:3"];
    scene.refuses(&range, 2, &["`1:2:3` is not a size", "trtmut build --dim"]);
    let built = [
        "build",
        "model.ts.onnx",
        "--shapes",
        "shapes.ts.json",
        "--no-cache",
    ];
    scene.run(&built).exits(0);
    // What a model is compiled like is settled in a plan.
    for option in [
        &["--shapes", "shapes.ts.json"][..],
        &["--backend", "cpu"],
        &["--fp16"],
    ] {
        let args = [&["run", "engine.plan"], option].concat();
        scene.refuses(&args, 2, &["compiled first", "`engine.plan` is none"]);
    }
    let io = fixture("dit/io0.safetensors");
    let io = io.to_str().unwrap();
    scene.run(&["run", "engine.plan", "--inputs", io]).exits(0);
}

/// Entries of the scene's cache.
fn engines(scene: &Scene) -> usize {
    let list = scene.run(&["cache", "ls", "--json"]).exits(0).json();
    list["entries"].as_array().map_or(0, Vec::len)
}
