//! Derivations of several tensors, and a second export that proves a mapping: models as torch exported them.

use crate::look::{fits, on_screen};
use crate::scene::{Done, Scene, fixture};
use std::fs;

fn scene() -> Scene {
    let scene = Scene::new();
    for name in [
        "model.onnx",
        "base.safetensors",
        "new.safetensors",
        "probe.onnx",
        "probe.safetensors",
        "io.safetensors",
    ] {
        scene.bring(&format!("probe/{name}"));
    }
    scene
}

const BUILD: [&str; 8] = [
    "build",
    "model.onnx",
    "--backend",
    "cpu",
    "--dim",
    "batch=1:2:4",
    "--base-weights",
    "base.safetensors",
];
const PROBE: [&str; 4] = [
    "--probe",
    "probe.onnx",
    "--probe-weights",
    "probe.safetensors",
];

fn build(scene: &Scene, more: &[&str]) -> Done {
    scene.run(&[&BUILD, more].concat())
}

fn refits_as_torch(scene: &Scene) {
    let refit = ["refit", "engine.plan", "new.safetensors"];
    scene.run(&refit).exits(0);
    let io = "io.safetensors";
    let run = ["run", "engine.plan", "--inputs", io, "--expect", io];
    scene.run(&run).exits(0);
    let diff = ["diff", "engine.plan", "new.safetensors", "--json"];
    assert_eq!(scene.run(&diff).exits(0).json()["verdict"], "LIVE");
}

#[test]
fn weight_norms_and_sums_are_refitted_as_torch_computes_them() {
    let scene = scene();
    build(&scene, &[])
        .exits(0)
        .prints("every constant explained");
    let map = scene.run(&["map", "engine.plan"]);
    map.exits(0)
        .prints("weight norm(conv.weight_g, conv.weight_v)")
        .prints(
            "weight norm(fc.parametrizations.weight.original0, fc.parametrizations.weight.original1) | transpose",
        )
        .prints("position.weight[0:8]")
        .prints("kind.weight[1:2]");
    refits_as_torch(&scene);
    // Half of a weight is none.
    let new = fs::read(scene.file("new.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&new).unwrap();
    let part = all
        .tensors()
        .into_iter()
        .filter(|(n, _)| n != "conv.weight_g");
    scene.write(
        "part.safetensors",
        safetensors::serialize(part, None).unwrap(),
    );
    let refit = ["refit", "engine.plan", "part.safetensors", "--partial"];
    scene.refuses(&refit, 1, &["conv.weight_g"]);
}

#[test]
fn a_probe_proves_the_mapping() {
    let scene = scene();
    let report = build(&scene, &[&PROBE[..], &["--json"]].concat());
    let report = report.exits(0).json();
    assert_eq!(
        report["proof"]["probed"], report["proof"]["parameters"],
        "{report}"
    );
    let manifest = fs::read(scene.file("engine.plan.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["base"]["probe"]["model"]["path"], "probe.onnx");
    let map = scene.run(&["map", "engine.plan", "--json"]).exits(0).json();
    let rows = map["rows"].as_array().unwrap();
    assert!(rows.iter().all(|r| r["probed"] == true), "{map}");
    assert_eq!(map["probed"], rows.len());
    scene
        .run(&["map", "engine.plan"])
        .exits(0)
        .prints("proven, probed");
    scene
        .run(&["inspect", "engine.plan"])
        .exits(0)
        .prints("probe.onnx");
    for args in [["map", "engine.plan"], ["inspect", "engine.plan"]] {
        fits(&on_screen(&scene, &args), args[0]);
    }
    refits_as_torch(&scene);
    // The same base, given again, takes nothing of the proof away.
    let again = [
        "refit",
        "engine.plan",
        "--base-weights",
        "base.safetensors",
        "base.safetensors",
    ];
    scene.run(&again).exits(0);
    let map = scene.run(&["map", "engine.plan", "--json"]).exits(0).json();
    assert_eq!(map["probed"], rows.len());
}

#[test]
fn the_key_of_a_build_is_given_for_whatever_a_build_takes() {
    let scene = scene();
    let part = {
        let all = fs::read(scene.file("base.safetensors")).unwrap();
        let all = safetensors::SafeTensors::deserialize(&all).unwrap();
        let some = all.tensors().into_iter().filter(|(n, _)| n != "conv.bias");
        safetensors::serialize(some, None).unwrap()
    };
    scene.write("part.safetensors", part);
    let base = ["--base-weights", "base.safetensors"];
    let part = ["--base-weights", "part.safetensors", "--partial"];
    let range = ["--dim", "batch=1:2:4"];
    let (least, most) = ("x:1x8x16", "x:3x8x16");
    let shapes = [
        "--minShapes",
        least,
        "--optShapes",
        most,
        "--maxShapes",
        most,
    ];
    // Two are in the file: as in `range`.
    let call = ["--dim", "batch=1:4", "--opt-from", "io.safetensors"];
    let mut keys = std::collections::BTreeSet::new();
    for more in [
        [&range[..], &base].concat(),
        [&range[..], &base, &PROBE].concat(),
        [&range[..], &part].concat(),
        shapes.to_vec(),
        call.to_vec(),
    ] {
        let run = |words: &[&str]| {
            let all = [words, &["model.onnx", "--backend", "cpu", "--json"], &more];
            scene.run(&all.concat()).exits(0).json()
        };
        let asked = run(&["cache", "explain"]);
        // Weights, and what proves a mapping, are no part of the key here.
        let is_new = keys.insert(asked["key"].as_str().unwrap().to_owned());
        assert_eq!(asked["hit"], !is_new, "{more:?}");
        let built = run(&["build"]);
        assert_eq!(
            built["cache"],
            if is_new { "miss" } else { "hit" },
            "{more:?}"
        );
        assert_eq!(run(&["cache", "explain"])["hit"], true, "{more:?}");
    }
    assert_eq!(keys.len(), 2);
    // What a build refuses has no key.
    let asked = ["cache", "explain", "model.onnx", "--backend", "cpu"];
    let asked = [&asked[..], &range].concat();
    let probe = [
        "--probe",
        "model.onnx",
        "--probe-weights",
        "base.safetensors",
    ];
    scene.refuses(&[&asked[..], &base, &probe].concat(), 1, &["has to move"]);
    scene.refuses(&[&asked[..], &part[..2]].concat(), 1, &["part.safetensors"]);
}

#[test]
fn what_is_no_probe_is_refused() {
    let scene = scene();
    let refuses = |probe: [&str; 2], says: &[&str]| {
        let more = ["--probe", probe[0], "--probe-weights", probe[1]];
        scene.refuses(&[&BUILD[..], &more].concat(), 1, says);
    };
    refuses(
        ["model.onnx", "base.safetensors"],
        &["has to move", "conv.bias"],
    );
    // Weights of another export prove nothing.
    refuses(["probe.onnx", "new.safetensors"], &["base.safetensors"]);
    fs::copy(
        fixture("resnet/model.dynamo.onnx"),
        scene.file("resnet.onnx"),
    )
    .unwrap();
    refuses(
        ["resnet.onnx", "probe.safetensors"],
        &["not an export of the same model"],
    );
    let half = [&BUILD[..], &["--probe", "probe.onnx"]].concat();
    scene.run(&half).exits(2);
}

#[test]
fn the_lines_that_are_printed_made_the_probe() {
    let scene = scene();
    let printed = scene.run(&["probe", "--print"]);
    let lines: Vec<&str> = printed.exits(0).stdout.lines().collect();
    assert_eq!(lines.len(), 6);
    let made = fs::read_to_string(fixture("make_probe.py")).unwrap();
    assert!(made.contains(&lines[..5].join("\n")));
    assert!(lines[5].starts_with("# "));
    scene.run(&["probe"]).exits(2);
}
