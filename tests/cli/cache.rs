//! `trtmut build` through the engine cache, and `trtmut cache`.

use crate::scene::{Done, Scene};
use std::fs;
use std::path::PathBuf;
use trtmut::onnx::{Error, Model, Role};
use trtmut::tensor::Dtype;

fn scene() -> Scene {
    let scene = Scene::new();
    scene
        .bring("sd_unet/model.ts.onnx")
        .bring("sd_unet/shapes.ts.json")
        .bring("sd_unet/io0.safetensors");
    scene
}

fn build(scene: &Scene, model: &str, plan: &str, more: &[&str]) -> Done {
    let args = ["build", model, "--shapes", "shapes.ts.json", "--json", "-o"];
    let done = scene.run(&[&args[..], &[plan], more].concat());
    done.exits(0);
    done
}

#[track_caller]
fn says(done: &Done, cache: &str) {
    assert_eq!(done.json()["cache"], cache, "{}", done.stderr);
}

/// The same model with other weights.
fn other_weights(scene: &Scene) {
    let model = Model::open(scene.file("model.ts.onnx")).unwrap();
    let mut out = fs::File::create(scene.file("other.onnx")).unwrap();
    model
        .write_onnx::<Error>(&mut out, &|w| {
            let bytes = model.bytes(w);
            if w.dtype != Dtype::F32 || !matches!(w.role, Role::Weight) {
                return Ok(bytes);
            }
            let scaled = bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()) * 1.03);
            Ok(scaled.flat_map(f32::to_le_bytes).collect::<Vec<_>>().into())
        })
        .unwrap();
}

fn outputs(scene: &Scene, plan: &str) -> Vec<u8> {
    let io = "io0.safetensors";
    scene
        .run(&["run", plan, "--inputs", io, "--save", "out.safetensors"])
        .exits(0);
    fs::read(scene.file("out.safetensors")).unwrap()
}

fn entries(scene: &Scene) -> Vec<PathBuf> {
    let folder = scene.file(".cache/engines-v1");
    let all = fs::read_dir(folder).map(|d| d.map(|e| e.unwrap().path()).collect());
    all.unwrap_or_default()
}

#[test]
fn a_second_build_is_a_hit_with_the_same_bytes() {
    let scene = scene();
    says(&build(&scene, "model.ts.onnx", "a.plan", &[]), "miss");
    fs::create_dir(scene.file("sub")).unwrap();
    says(&build(&scene, "model.ts.onnx", "sub/b.plan", &[]), "hit");
    says(
        &build(&scene, "model.ts.onnx", "c.plan", &["--trust-cache"]),
        "hit",
    );
    let read = |n: &str| fs::read(scene.file(n)).unwrap();
    assert!(read("a.plan") == read("sub/b.plan"));
    assert!(read("a.plan.json") == read("c.plan.json"));
    let moved: serde_json::Value = serde_json::from_slice(&read("sub/b.plan.json")).unwrap();
    assert_eq!(moved["model"]["path"], "../model.ts.onnx");
    assert!(outputs(&scene, "a.plan") == outputs(&scene, "sub/b.plan"));
    // Nothing that is written into an output reaches the cache.
    scene.write("sub/b.plan", "notes");
    says(&build(&scene, "model.ts.onnx", "d.plan", &[]), "hit");
    assert_eq!(entries(&scene).len(), 1);
}

#[test]
fn other_weights_refit_a_copy_and_leave_the_entry_alone() {
    let scene = scene();
    other_weights(&scene);
    says(&build(&scene, "model.ts.onnx", "a.plan", &[]), "miss");
    let entry = entries(&scene).remove(0).join("engine.plan");
    let before = fs::read(&entry).unwrap();
    says(&build(&scene, "other.onnx", "b.plan", &[]), "refitted");
    says(
        &build(&scene, "other.onnx", "fresh.plan", &["--no-cache"]),
        "off",
    );
    let fresh = outputs(&scene, "fresh.plan");
    assert!(outputs(&scene, "b.plan") == fresh);
    assert!(outputs(&scene, "a.plan") != fresh);
    assert!(fs::read(&entry).unwrap() == before);
    let weights = |n: &str| -> serde_json::Value {
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(scene.file(n)).unwrap()).unwrap();
        json["weights"].clone()
    };
    assert_eq!(weights("b.plan.json"), weights("fresh.plan.json"));
    says(&build(&scene, "model.ts.onnx", "c.plan", &[]), "hit");
    scene.run(&["cache", "verify"]).exits(0);
}

#[test]
fn another_shape_range_is_another_engine() {
    let scene = scene();
    build(&scene, "model.ts.onnx", "a.plan", &[]);
    let wider = ["--dim", "B=1:2:4"];
    let explain = |more: &[&str]| {
        let args = ["cache", "explain", "model.ts.onnx"];
        let spec = ["--shapes", "shapes.ts.json", "--json"];
        let done = scene.run(&[&args[..], &spec, more].concat());
        done.exits(0);
        done.json()
    };
    assert_eq!(explain(&[])["hit"], true);
    let miss = explain(&wider);
    assert_eq!(miss["hit"], false);
    let differences = miss["nearest"][0]["differences"].as_array().unwrap();
    assert!(!differences.is_empty());
    for d in differences {
        let label = d["label"].as_str().unwrap();
        assert!(label.starts_with("profile of input"), "{label}");
    }
    says(&build(&scene, "model.ts.onnx", "b.plan", &wider), "miss");
    assert_eq!(explain(&wider)["hit"], true);
    assert_eq!(entries(&scene).len(), 2);
}

#[test]
fn a_damaged_entry_is_a_miss_with_a_warning() {
    let scene = scene();
    build(&scene, "model.ts.onnx", "a.plan", &[]);
    let plan = entries(&scene).remove(0).join("engine.plan");
    let mut bytes = fs::read(&plan).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&plan, bytes).unwrap();
    scene
        .run(&["cache", "verify"])
        .exits(3)
        .prints("engine.plan");
    let done = build(&scene, "model.ts.onnx", "b.plan", &[]);
    says(&done, "miss");
    assert!(done.stderr.contains("is damaged"), "{}", done.stderr);
    assert!(done.stderr.contains("quarantine"), "{}", done.stderr);
    let read = |n: &str| fs::read(scene.file(n)).unwrap();
    assert!(read("a.plan") == read("b.plan"));
    says(&build(&scene, "model.ts.onnx", "c.plan", &[]), "hit");
    scene.run(&["cache", "verify"]).exits(0);
}

#[test]
fn a_cache_that_cannot_be_used_is_a_warning() {
    let scene = scene();
    scene.write("file", "");
    let done = build(
        &scene,
        "model.ts.onnx",
        "a.plan",
        &["--cache-dir", "file/x"],
    );
    says(&done, "off");
    assert!(done.stderr.contains("warning"), "{}", done.stderr);
    let done = build(&scene, "model.ts.onnx", "b.plan", &["--cache-size", "10kB"]);
    says(&done, "miss");
    assert!(done.stderr.contains("does not fit"), "{}", done.stderr);
    assert!(entries(&scene).is_empty());
}

#[test]
fn without_being_asked_a_cpu_build_is_not_cached() {
    let scene = scene();
    let mut command = scene.command(&["build", "model.ts.onnx", "--shapes", "shapes.ts.json"]);
    command
        .env_remove("TRTMUT_CACHE_DIR")
        .env("XDG_CACHE_HOME", scene.file(".home"));
    let output = command.output().unwrap();
    scene
        .done(&command, &output)
        .exits(0)
        .prints("cache     off");
    assert!(!scene.file(".home").exists());
}

#[test]
fn entries_are_listed_pinned_pruned_and_cleared() {
    let scene = scene();
    let json = |args: &[&str]| {
        let done = scene.run(&[&["cache"], args, &["--json"]].concat());
        done.exits(0);
        done.json()
    };
    scene.run(&["cache", "dir"]).exits(0).prints(".cache");
    assert_eq!(json(&["list"])["entries"].as_array().unwrap().len(), 0);
    build(&scene, "model.ts.onnx", "a.plan", &[]);
    let list = json(&["list", "--sort", "size"]);
    let key = list["entries"][0]["key"].as_str().unwrap();
    assert_eq!(list["bytes"], list["entries"][0]["bytes"]);
    assert_eq!(json(&["info", &key[..8]])["key"], key);
    assert_eq!(json(&["info", "a.plan"])["fields"]["backend"], "cpu");
    scene.refuses(&["cache", "info", "ffffffff"], 1, &["ffffffff", "list"]);
    assert_eq!(json(&["pin", "a.plan"])["changed"], true);
    assert_eq!(json(&["pin", key])["changed"], false);
    let kept = json(&["prune", "--to", "0"]);
    assert_eq!(kept["pinned"][0], key);
    assert_eq!(json(&["unpin", key])["changed"], true);
    let dry = json(&["prune", "--to", "0", "--dry-run"]);
    assert_eq!(dry["removed"][0]["name"], key);
    assert_eq!(entries(&scene).len(), 1);
    json(&["prune", "--to", "0"]);
    assert!(entries(&scene).is_empty());
    build(&scene, "model.ts.onnx", "b.plan", &[]);
    scene.refuses(&["cache", "clear"], 2, &["--yes"]);
    json(&["clear", "--yes"]);
    assert!(entries(&scene).is_empty());
    scene.refuses(&["cache", "prune", "--to", "much"], 2, &["much"]);
}
