//! What a plan names, found again from another folder, and what a hint says of how a plan came to be.

use crate::scene::{Scene, fixture};
use serde_json::Value;
use std::fs;

/// Plan `a/e.plan` of the text encoder, proven by its base, with checkpoint and LoRA beside the model.
fn scene() -> Scene {
    let scene = Scene::new();
    for file in [
        "model.ts.onnx",
        "shapes.ts.json",
        "base.safetensors",
        "fused.safetensors",
    ] {
        scene.bring(&format!("clip_text/{file}"));
    }
    fs::copy(
        fixture("clip_text/lora_kohya.safetensors"),
        scene.file("lora.safetensors"),
    )
    .unwrap();
    fs::create_dir_all(scene.file("a")).unwrap();
    fs::create_dir_all(scene.file("b/deep")).unwrap();
    build(&scene, "a/e.plan", &["--base-weights", "base.safetensors"]);
    scene
}

fn build(scene: &Scene, plan: &str, more: &[&str]) {
    let args = [
        "build",
        "model.ts.onnx",
        "--shapes",
        "shapes.ts.json",
        "-o",
        plan,
    ];
    let backend = ["--backend", "cpu", "--force"];
    scene.run(&[&args[..], &backend, more].concat()).exits(0);
}

fn manifest(scene: &Scene, plan: &str) -> Value {
    serde_json::from_slice(&fs::read(scene.file(&format!("{plan}.json"))).unwrap()).unwrap()
}

fn digests(scene: &Scene, plan: &str) -> Vec<Value> {
    let rows = manifest(scene, plan)["weights"].as_array().unwrap().clone();
    rows.iter().map(|row| row["digest"].clone()).collect()
}

fn follow(scene: &Scene, diff: &[&str]) -> Vec<String> {
    let done = scene.run(&[diff, &["--json"]].concat());
    let next = done.exits(0).json()["next"].as_array().unwrap().clone();
    let next: Vec<String> = next
        .iter()
        .map(|c| c.as_str().unwrap().to_owned())
        .collect();
    assert!(!next.is_empty());
    for command in &next {
        let words = shlex::split(command).unwrap();
        assert_eq!(words[0], "trtmut");
        scene.run(&words[1..]).exits(0);
    }
    next
}

#[test]
fn a_plan_in_another_folder_names_the_same_files() {
    let scene = scene();
    let refit = |more: &[&str]| {
        let args = [&["refit", "a/e.plan"], more].concat();
        scene.run(&args).exits(0);
    };
    refit(&[
        "fused.safetensors",
        "--lora",
        "lora.safetensors",
        "-o",
        "b/deep/e.plan",
    ]);
    let moved = manifest(&scene, "b/deep/e.plan");
    assert_eq!(moved["model"]["path"], "../../model.ts.onnx");
    assert_eq!(moved["base"]["files"][0]["path"], "../../base.safetensors");
    let given = moved["recipe"]["ingredients"].as_array().unwrap();
    let given: Vec<&Value> = given.iter().map(|i| &i["file"]["path"]).collect();
    assert_eq!(given, ["../../fused.safetensors", "../../lora.safetensors"]);
    // Both ways need the model, and the second one the base.
    scene.run(&["run", "b/deep/e.plan", "--verify"]).exits(0);
    scene.run(&["refit", "b/deep/e.plan", "--base"]).exits(0);
    assert_eq!(
        digests(&scene, "b/deep/e.plan"),
        digests(&scene, "a/e.plan")
    );
    // Another file of the old name where the old path would lead from the new folder is not taken.
    scene.write("b/model.ts.onnx", "no model");
    refit(&["fused.safetensors", "-o", "b/deep/f.plan"]);
    scene.run(&["run", "b/deep/f.plan", "--verify"]).exits(0);
}

#[test]
fn several_plans_in_another_folder_name_the_same_files() {
    let scene = scene();
    build(&scene, "a/f.plan", &[]);
    let args = [
        "refit",
        "a/e.plan",
        "a/f.plan",
        "fused.safetensors",
        "-o",
        "b/deep",
        "--trust-names",
    ];
    scene.run(&args).exits(0);
    for plan in ["b/deep/e.plan", "b/deep/f.plan"] {
        assert_eq!(
            manifest(&scene, plan)["model"]["path"],
            "../../model.ts.onnx"
        );
        scene.run(&["refit", plan, "--base"]).exits(0);
    }
}

#[test]
fn a_model_that_moved_is_taken_wherever_run_needs_it() {
    let scene = scene();
    fs::rename(scene.file("model.ts.onnx"), scene.file("b/model.onnx")).unwrap();
    let run = |more: &[&str]| {
        let model = ["--model", "b/model.onnx"];
        scene.run(&[&["run", "a/e.plan"], &model[..], more].concat())
    };
    run(&["--verify"]).exits(0);
    run(&["--verify", "-w", "fused.safetensors"]).exits(0);
    run(&["--on-range", "widen", "--shape", "input_ids=4x16"]).exits(0);
}

#[test]
fn a_command_that_gives_a_plans_weights_says_how_they_were_made() {
    let scene = scene();
    build(&scene, "b.plan", &["--base-weights", "base.safetensors"]);
    scene
        .run(&[
            "refit",
            "a/e.plan",
            "--lora",
            "lora.safetensors:0.3",
            "--fuse",
            "peft-half",
        ])
        .exits(0);
    let next = follow(&scene, &["diff", "b.plan", "a/e.plan"]);
    assert!(next[0].contains("--fuse peft-half"), "{next:?}");
    assert_eq!(digests(&scene, "b.plan"), digests(&scene, "a/e.plan"));
    // And where the plan is compiled for other shapes.
    let before = digests(&scene, "b.plan");
    let next = follow(
        &scene,
        &["diff", "b.plan", "--dim", "B=1:2:5", "--dim", "T=9:16:32"],
    );
    assert!(next[1].contains("--fuse peft-half"), "{next:?}");
    assert_eq!(digests(&scene, "b.plan"), before);
}

#[test]
fn a_build_that_is_hinted_at_has_what_the_first_one_was_allowed() {
    let scene = scene();
    let whole = fs::read(scene.file("base.safetensors")).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let part = whole
        .tensors()
        .into_iter()
        .filter(|(name, _)| !name.contains("layers.1"));
    let part = safetensors::serialize(part, None).unwrap();
    scene.write("part.safetensors", part);
    build(
        &scene,
        "p.plan",
        &["--base-weights", "part.safetensors", "--partial"],
    );
    let next = follow(
        &scene,
        &["diff", "p.plan", "--dim", "B=1:2:5", "--dim", "T=9:16:32"],
    );
    assert!(next[0].contains("--partial"), "{next:?}");
}

#[test]
fn a_part_that_no_lora_can_be_for_is_refused() {
    let scene = scene();
    let args = [
        "refit",
        "a/e.plan",
        "--lora",
        "lora.safetensors",
        "--component",
        "denoizer",
    ];
    scene.refuses(&args, 1, &["`denoizer`", "text-encoder"]);
    let args = [
        "diff",
        "a/e.plan",
        "--lora",
        "lora.safetensors",
        "--component",
        "denoizer",
    ];
    scene.refuses(&args, 1, &["`denoizer`"]);
}

#[test]
fn options_that_a_comparison_has_no_place_for_are_refused() {
    let scene = scene();
    let checkpoints = ["diff", "base.safetensors", "fused.safetensors"];
    let model = ["diff", "model.ts.onnx", "fused.safetensors"];
    let plans = ["diff", "a/e.plan", "a/e.plan"];
    for (compared, option) in [
        (&checkpoints[..], &["--ignore", "*"][..]),
        (&checkpoints, &["--partial"]),
        (&checkpoints, &["--fuse", "peft"]),
        (&model, &["--mapping", "none.json"]),
        (&model, &["--base-weights", "none.safetensors"]),
        (&model, &["--component", "vae"]),
        (&plans, &["--trust-names"]),
        (&plans, &["--model", "model.ts.onnx"]),
    ] {
        scene.refuses(&[compared, option].concat(), 1, &[option[0]]);
    }
    // What allows something has its place beside a model.
    scene
        .run(&[&model[..], &["--ignore", "*"]].concat())
        .exits(0);
}
