//! A `BatchNormalization` that is still in the model: the parser computes two weights of its four tensors and names them itself. Where
//! its refitter takes the whole model back they can be replaced all the same.

use super::{World, random, safetensors};
use crate::support::net::{Net, Weights};
use serde_json::Value;

/// `y = relu(bn(x·a))·c`: the product and the normalisation are one layer to the library.
fn net(w: &Weights) -> Net {
    let turned = |name: &str| {
        let (shape, v) = &w[name];
        let (rows, cols) = (shape[0], shape[1]);
        let values = (0..rows * cols).map(|i| v[i % rows * cols + i / rows]);
        (vec![cols, rows], values.collect())
    };
    let bn = ["weight", "bias", "running_mean", "running_var"].map(|n| format!("bn.{n}"));
    let inputs: Vec<String> = std::iter::once("h0".to_owned())
        .chain(bn.iter().map(|n| format!("m.{n}")))
        .collect();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut net = Net::default()
        .input("x", &["B", "8"])
        .output("y", &["B", "4"])
        .weight("onnx::MatMul_1", &turned("fc1.weight"))
        .weight("onnx::MatMul_2", &turned("fc2.weight"));
    for name in &bn {
        net = net.weight(&format!("m.{name}"), &w[name]);
    }
    net.node("m/fc1", "MatMul", &["x", "onnx::MatMul_1"], "h0", &[])
        .node("m/bn", "BatchNormalization", &inputs, "h1", &[])
        .node("m/act", "Relu", &["h1"], "h2", &[])
        .node("m/fc2", "MatMul", &["h2", "onnx::MatMul_2"], "y", &[])
}

fn weights(seed: u64) -> Weights {
    let shapes: [(&str, &[usize]); 6] = [
        ("fc1.weight", &[16, 8]),
        ("bn.weight", &[16]),
        ("bn.bias", &[16]),
        ("bn.running_mean", &[16]),
        ("bn.running_var", &[16]),
        ("fc2.weight", &[4, 16]),
    ];
    let each = shapes.into_iter().enumerate();
    let mut all: Weights = each
        .map(|(i, (n, s))| (n.to_owned(), random(seed * 100 + i as u64, s)))
        .collect();
    let variance = all.get_mut("bn.running_var").expect("it is there");
    variance.1.iter_mut().for_each(|v| *v = v.abs() + 0.5);
    all
}

/// The base with those tensors of another checkpoint whose names begin so.
fn with(names: &str) -> Weights {
    let other = weights(8).into_iter();
    let mut all = weights(7);
    all.extend(other.filter(|(n, _)| n.starts_with(names)));
    all
}

/// The base, and checkpoints in which one kind of weight has moved, with what the embedded engine computes of each.
fn prepare(w: &World) {
    w.scene.write("norm.onnx", net(&weights(7)).onnx(""));
    for (name, begins) in [
        ("norm", "nothing"),
        ("moved", "bn."),
        ("product", "fc1."),
        ("alone", "fc2."),
    ] {
        let given = with(begins);
        w.scene
            .write(&format!("{name}.safetensors"), safetensors(&given));
        let model = format!("{name}.ref.onnx");
        w.scene.write(&model, net(&given).onnx(""));
        w.expected(&model, name, &["--shapes", "shapes.json"]);
    }
}

const BUILD: &[&str] = &[
    "build",
    "norm.onnx",
    "--shapes",
    "shapes.json",
    "--base-weights",
    "norm.safetensors",
    "--force",
    "-o",
    "n.plan",
];

fn build(w: &World, more: &[&str]) {
    let backend = ["--backend", w.backend()];
    w.run(&[BUILD, &backend, more].concat()).exits(0);
}

/// Which way a refit took, by its own report.
fn way(w: &World, args: &[&str]) -> Value {
    let refit = [&["refit", "n.plan", "--json"], args].concat();
    w.run(&refit).exits(0).json()["way"].clone()
}

pub fn normalised(w: &World) {
    prepare(w);
    build(w, &["--no-cache"]);
    w.computes("n.plan", "norm", &[]);
    if !w.has("vtables", "IParserRefitter", "refitFromFile") {
        return baked_in(w);
    }
    // The release whose parser tells what it computes needs no whole model.
    let told = w.has("vtables", "IParser", "setRefitObserver");
    let expected = if told { "by-name" } else { "by-parser" };
    w.run(&["diff", "n.plan", "moved.safetensors", "--exit-code"])
        .exits(10)
        .prints("NEEDS_REFIT");
    assert_eq!(way(w, &["moved.safetensors", "--verify"]), expected);
    w.computes("n.plan", "moved", &[]);
    w.run(&["diff", "n.plan", "moved.safetensors", "--exit-code"])
        .exits(0);
    let back = w.run(&["refit", "n.plan", "--base"]);
    back.exits(0)
        .prints("way back: trtmut refit n.plan moved.safetensors");
    let said = "the library's parser gave it all weights, from the whole model";
    assert_eq!(back.stdout.contains(said), !told, "{}", back.stdout);
    w.computes("n.plan", "norm", &[]);
    // What is in one layer with it, and what is not.
    assert_eq!(way(w, &["product.safetensors"]), expected);
    w.computes("n.plan", "product", &[]);
    assert_eq!(way(w, &["--base"]), expected);
    // TensorRT-RTX is given every weight, and so its normalisations too.
    let alone = if w.backend() == "tensorrt" {
        "by-name"
    } else {
        expected
    };
    assert_eq!(way(w, &["alone.safetensors"]), alone);
    w.computes("n.plan", "alone", &[]);
    assert_eq!(way(w, &["--base"]), alone);
    let run = ["run", "n.plan", "--inputs", "in.safetensors"];
    let moved = [
        "--weights",
        "moved.safetensors",
        "--expect",
        "moved.out.safetensors",
    ];
    let done = w.run(&[&run[..], &moved].concat());
    done.exits(0);
    assert!(
        done.stderr.contains("way back: trtmut refit n.plan --base"),
        "{}",
        done.stderr
    );
    let given = done.stderr.contains("given by the library's parser");
    assert_eq!(given, !told, "{}", done.stderr);
    w.run(&["refit", "n.plan", "--base"]).exits(0);
    build(w, &["--no-cache", "--strip"]);
    let full = ["moved.safetensors", "-o", "full.plan"];
    assert_eq!(way(w, &full), expected);
    w.computes("full.plan", "moved", &[]);
    if told {
        return;
    }
    refusals(w);
    not_reached(w);
    cached(w);
    adopted(w);
}

/// Before the parser takes models back: as before, compiled again.
fn baked_in(w: &World) {
    w.run(&["diff", "n.plan", "moved.safetensors", "--exit-code"])
        .exits(20);
    let before = w.scene.files();
    let refused = w.run(&["refit", "n.plan", "moved.safetensors"]);
    assert!(
        refused.code == 20 && refused.stderr.contains("--fallback rebuild"),
        "{}",
        refused.stderr
    );
    assert!(before == w.scene.files(), "files changed");
    let rebuild = [
        "refit",
        "n.plan",
        "moved.safetensors",
        "--fallback",
        "rebuild",
    ];
    w.run(&rebuild).exits(0);
    w.computes("n.plan", "moved", &[]);
}

/// What can go wrong while the parser gives weights: nothing is written, and compiling again helps.
fn refusals(w: &World) {
    build(w, &["--no-cache"]);
    let refit = ["refit", "n.plan", "moved.safetensors"];
    let gave_nothing = "the parser gave no bytes for it";
    for (fault, code, says) in [
        (
            "parser refit",
            3,
            "does not take the model back: Only successfully refitted 2 weights out of 4",
        ),
        (
            "silent parser refit",
            3,
            "does not take the model back: Failed to refit the model",
        ),
        ("parser refitter", 3, "createNvOnnxParserRefitter"),
        ("set", 3, "Failed to set named weights"),
        ("parser forgets what it computed", 1, gave_nothing),
        ("parser forgets", 1, gave_nothing),
        (
            "parser computes otherwise",
            1,
            "what the parser gave has nothing that is computed from it",
        ),
        (
            "parser gives others",
            1,
            "the parser gave it other values than the model has",
        ),
        // What cannot be read back is not known to be right.
        ("values on the device", 1, "the parser did not give it"),
        ("one less", 1, "the parser did not give it"),
        ("refit", 3, "refit went wrong"),
    ] {
        let before = w.scene.files();
        let done = w.run_with(&refit, &[("STANDIN_FAULT", fault)]);
        assert!(
            done.code == code && done.stderr.contains(says),
            "{fault}: {} {}",
            done.code,
            done.stderr
        );
        assert!(before == w.scene.files(), "{fault}: files changed");
    }
    // The plan is as it was, and is compiled where that is allowed.
    w.computes("n.plan", "norm", &[]);
    let fault = [("STANDIN_FAULT", "parser refit")];
    let rebuild = [&refit[..], &["--fallback", "rebuild"]].concat();
    let done = w.run_with(&rebuild, &fault);
    done.exits(0);
    assert!(
        done.stderr
            .contains("the refit failed, so the model is compiled"),
        "{}",
        done.stderr
    );
    w.computes("n.plan", "moved", &[]);
}

/// A trial at the build says what can be reached: where it fails, or the engine has only single weights refittable, the tensors
/// are baked in.
fn not_reached(w: &World) {
    let backend = ["--backend", w.backend(), "--no-cache"];
    let fault = [("STANDIN_FAULT", "parser refit")];
    w.run_with(&[BUILD, &backend].concat(), &fault)
        .exits(0)
        .prints("normalisations stay baked in");
    baked_in(w);
    if w.release().since([10, 2, 0]) {
        build(w, &["--no-cache", "--refit", "individual"]);
        baked_in(w);
    }
    // A tensor that another node reads too is refittable under its name, and only in part.
    let shared = net(&weights(7)).output("z", &["B", "16"]).node(
        "m/more",
        "Add",
        &["h0", "m.bn.bias"],
        "z",
        &[],
    );
    w.scene.write("shared.onnx", shared.onnx(""));
    let mut args = BUILD.to_vec();
    args[1] = "shared.onnx";
    w.run_with(&[&args[..], &backend].concat(), &fault).exits(0);
    w.run(&["diff", "n.plan", "moved.safetensors", "--exit-code"])
        .exits(20)
        .prints("m.bn.bias");
    w.run(&[&args[..], &backend].concat()).exits(0);
    assert_eq!(way(w, &["moved.safetensors", "--verify"]), "by-parser");
}

/// An engine of the cache gets another model's weights.
fn cached(w: &World) {
    w.scene.write("norm2.onnx", net(&with("bn.")).onnx(""));
    let used = |model: &str| {
        let mut args = BUILD.to_vec();
        args[1] = model;
        args.truncate(4);
        let rest = [
            "--force",
            "-o",
            "n.plan",
            "--backend",
            w.backend(),
            "--json",
            "--cache-dir",
            "kept",
        ];
        let done = w.run(&[&args[..], &rest].concat());
        done.exits(0).json()["cache"].clone()
    };
    assert_eq!(used("norm.onnx"), "miss");
    assert_eq!(used("norm2.onnx"), "refitted");
    w.computes("n.plan", "moved", &[]);
}

fn adopted(w: &World) {
    build(w, &["--no-cache"]);
    std::fs::remove_file(w.scene.file("n.plan.json")).expect("it had a manifest");
    let adopt = [
        "adopt",
        "n.plan",
        "--model",
        "norm.onnx",
        "--base-weights",
        "norm.safetensors",
    ];
    w.run(&adopt).exits(0);
    assert_eq!(way(w, &["moved.safetensors"]), "by-parser");
    w.computes("n.plan", "moved", &[]);
}
