//! What is refused or fails, where no other flow meets it: each error says what is wrong, and changes nothing.

use super::{World, mlp, orphan, weights};
use crate::support::net::{Net, random};

/// Models that are not those of an engine, and what is no engine.
pub fn adoptions(w: &World) {
    w.build(&["--no-cache"]).exits(0);
    orphan(w, "e.plan");
    let model = |name: &str, net: Net| {
        w.scene.write(name, net.onnx(""));
    };
    let mut wider = weights(1);
    for (name, shape) in [
        ("fc1.weight", &[17, 8][..]),
        ("fc1.bias", &[17]),
        ("fc2.weight", &[4, 17]),
    ] {
        wider.insert(name.into(), random(3, shape));
    }
    model("wider.onnx", mlp(&wider));
    let renamed = Net::default()
        .input("x", &["B", "8"])
        .output("y", &["B", "4"])
        .weight("w", &random(4, &[8, 4]))
        .node("m", "MatMul", &["x", "w"], "y", &[]);
    model("renamed.onnx", renamed);
    let whole = Net::default()
        .indices("x", &["B", "4"])
        .output("y", &["B", "4"])
        .node("m", "Cast", &["x"], "y", &[("to", 1)]);
    model("whole.onnx", whole);
    for (model, says) in [
        (
            "wider.onnx",
            "the weight `onnx::MatMul_1` has 128 elements in the engine and 136 in the model",
        ),
        (
            "renamed.onnx",
            "none of the engine's 4 refittable weights has the name of a constant of the model",
        ),
        (
            "whole.onnx",
            "the input `x` is f32 in the engine and i32 in the model",
        ),
    ] {
        // Before TensorRT 10 an engine tells the names of its weights, and not how long they are.
        if model == "wider.onnx" && !w.release().since([10, 0, 0]) {
            continue;
        }
        w.refuses(&["adopt", "e.plan", "--model", model], 1, &[says]);
    }
    let adopt = |plan: &str| ["adopt", plan, "--model", "model.onnx"].map(str::to_owned);
    w.scene.write("text.plan", "this is no engine");
    for plan in ["text.plan", "model.onnx"] {
        let args = adopt(plan);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        w.refuses(&args, 1, &[plan]);
    }
    let whole = std::fs::read(w.scene.file("e.plan")).expect("it is there");
    w.scene.write("cut.plan", &whole[..whole.len() / 2]);
    let before = w.scene.files();
    let cut = w.run(&["adopt", "cut.plan", "--model", "model.onnx"]);
    assert!(
        [1, 3].contains(&cut.code) && cut.stderr.contains("cut.plan"),
        "{}",
        cut.stderr
    );
    let here = ["adopt", "e.plan", "--model", "model.onnx"];
    let gone = w.run_with(&here, &[("STANDIN_GPUS", "0")]);
    assert!(
        gone.code == 3 && gone.stderr.contains("finds no GPU"),
        "{}",
        gone.stderr
    );
    let odd = w.run_with(&here, &[("STANDIN_FAULT", "refitter")]);
    assert!(
        odd.code == 3 && odd.stderr.contains("createInferRefitter"),
        "{}",
        odd.stderr
    );
    assert!(before == w.scene.files(), "files changed");
}

/// Outputs whose size TensorRT has to say, and does not.
pub fn outputs_that_grow(w: &World) {
    let net = Net::default()
        .input("x", &["B", "8"])
        .whole("found", &["2", "N"])
        .node("m", "NonZero", &["x"], "found", &[]);
    w.scene.write("found.onnx", net.onnx(""));
    let build = [
        "build",
        "found.onnx",
        "--shapes",
        "shapes.json",
        "--no-cache",
    ];
    let rest = ["--backend", w.backend(), "-o", "f.plan"];
    w.run(&[&build[..], &rest].concat()).exits(0);
    let run = ["run", "f.plan", "--inputs", "in.safetensors"];
    w.run(&run).exits(0);
    for (fault, says) in [
        (
            "shape is not told",
            "it said nothing of the shape of the output `found`",
        ),
        (
            "too little memory",
            "it asked for less memory than `found` takes",
        ),
    ] {
        let done = w.run_with(&run, &[("STANDIN_FAULT", fault)]);
        assert!(
            done.code == 3 && done.stderr.contains(says),
            "{fault}: {}",
            done.stderr
        );
    }
}

/// The library's own plugins do not register.
pub fn standard_plugins(w: &World) {
    if w.backend() != "tensorrt" {
        return;
    }
    let build = [
        "build",
        "model.onnx",
        "--shapes",
        "shapes.json",
        "--no-cache",
    ];
    let rest = [
        "--backend",
        w.backend(),
        "--plugin",
        "standard",
        "-o",
        "s.plan",
    ];
    let before = w.scene.files();
    let done = w.run_with(
        &[&build[..], &rest].concat(),
        &[("STANDIN_FAULT", "plugins")],
    );
    assert!(
        done.code == 1 && done.stderr.contains("initLibNvInferPlugins failed"),
        "{}",
        done.stderr
    );
    assert!(before == w.scene.files(), "files changed");
}
