//! What the tests of Torch-TensorRT's mutable module, refitting, weight stripping and engine cache ask for, as far as it can be asked
//! of files: 44 scenarios, numbered, each by what trtmut does instead. The rest is listed with the reason why it is not run here.

use crate::Trial;
use crate::scene::{Done, Scene};
use crate::support::net::{Net, Weights, random, safetensors};
use serde_json::Value;
use std::fs;
use trtmut::onnx::Model;

/// Why a scenario is not run here.
const STRIPPED: &str = "runs on the stand-in for TensorRT: tests/trials/tensorrt/standin/flows.rs, `stripped` and `identical`";
const CACHE: &str = "about the engine cache, which its own tests cover";

/// A scenario, or why it is not run.
enum How {
    Run(fn()),
    Not(&'static str),
}
use How::{Not, Run};

#[rustfmt::skip]
const SCENARIOS: [(u32, &str, How); 44] = [
    (1, "outputs of nested names are compared one by one: equal for a seed, different for another", Run(nested_outputs)),
    (2, "another extent of an axis needs a range in the spec", Run(axis_change_needs_a_range)),
    (3, "a shared dim: in range live, outside rebuilt, the manifest keeps what was built", Run(shared_dim)),
    (4, "a whole other checkpoint of a ResNet is a refit", Run(resnet_checkpoint_swap)),
    (5, "a plan taken elsewhere gives identical outputs", Run(plan_moves)),
    (6, "one changed tensor is a refit of one weight", Run(one_tensor)),
    (7, "the same bytes, written again, are live", Run(rewritten)),
    (8, "several inputs of nested names, and a checkpoint swap", Run(nested_inputs)),
    (9, "a convolution drawn anew is a refit", Run(conv_drawn_anew)),
    (10, "a classifier with other classes is a recompile", Run(other_classes)),
    (11, "another input is another model", Run(input_added)),
    (12, "every weight of the engine is in the map", Run(all_mapped)),
    (13, "kernel and bias of a convolution, verified", Run(conv_verified)),
    (14, "a folded BatchNorm, with and without proof", Run(folded_norm)),
    (15, "a ResNet by the other exporter", Run(resnet_dynamo)),
    (16, "only an embedding changes, under i32 indices", Run(embedding)),
    (17, "refit of a plan that another process built", Run(from_disk)),
    (18, "every runtime of this machine", Run(runtimes)),
    (19, "several engines of one model are independent", Run(several_engines)),
    (20, "CumSum and Pow between weights", Run(cumsum_pow)),
    (21, "real and imaginary parts of equal shape are not mixed up", Run(complex_parts)),
    (22, "a map with rows missing is noticed", Run(rows_missing)),
    (23, "building stripped directly and by option is the same", Not(STRIPPED)),
    (24, "a stripped engine does not run before its refit", Not(STRIPPED)),
    (25, "a stripped engine is smaller", Not(STRIPPED)),
    (26, "stripped and refitted computes what the full one does", Not(STRIPPED)),
    (27, "the cache holds stripped engines", Not(STRIPPED)),
    (28, "a miss and a hit compute the same", Not(CACHE)),
    (29, "stripping is no part of the cache key", Not(STRIPPED)),
    (30, "a scalar constant stays what it is in a refit", Run(scalar_constant)),
    (31, "a stripped engine again in another runtime", Not(STRIPPED)),
    (32, "an engine that takes only identical weights refuses others", Not(STRIPPED)),
    (33, "refitted twice, with a dynamic batch", Run(twice_dynamic)),
    (34, "the order of options does not matter to the key", Not(CACHE)),
    (35, "a re-export with other names of nodes is the same model", Run(re_export)),
    (36, "other sizes of an input are another engine", Not(CACHE)),
    (37, "another maximum of the profile is another engine", Not(CACHE)),
    (38, "off, store and hit compute the same", Not(CACHE)),
    (39, "a backend's hit happens once", Not(CACHE)),
    (40, "each batch size is an engine of its own where none is dynamic", Not(CACHE)),
    (41, "every part of a partitioned graph hits", Not("trtmut does not partition graphs")),
    (42, "renamed inputs hit", Not(CACHE)),
    (43, "a refit is quicker than a build", Not("times are no test on a shared machine; docs/measurements.md has them")),
    (44, "aliased outputs survive a hit", Not("no output of an ONNX graph shares its memory with another")),
];

pub(crate) fn trials() -> Vec<Trial> {
    let trials = SCENARIOS.into_iter().map(|(number, what, how)| match how {
        Run(test) => Trial::test(format!("{number:02} {what}"), move || {
            test();
            Ok(())
        }),
        Not(why) => {
            Trial::test(format!("{number:02} {what} ({why})"), || Ok(())).with_ignored_flag(true)
        }
    });
    trials.collect()
}

/// `y = relu(x·a + b)·c + d`, as the TorchScript exporter writes two linear layers.
fn mlp(w: &Weights) -> Net {
    let turned = |name: &str| {
        let (shape, v) = &w[name];
        let (rows, cols) = (shape[0], shape[1]);
        let values = (0..rows * cols).map(|i| v[i % rows * cols + i / rows]);
        (vec![cols, rows], values.collect())
    };
    let classes = w["fc2.bias"].0[0].to_string();
    Net::default()
        .input("x", &["B", "8"])
        .output("y", &["B", &classes])
        .weight("onnx::MatMul_1", &turned("fc1.weight"))
        .weight("m.fc1.bias", &w["fc1.bias"])
        .weight("onnx::MatMul_2", &turned("fc2.weight"))
        .weight("m.fc2.bias", &w["fc2.bias"])
        .node("m/fc1", "MatMul", &["x", "onnx::MatMul_1"], "h0", &[])
        .node("m/fc1", "Add", &["m.fc1.bias", "h0"], "h1", &[])
        .node("m/act", "Relu", &["h1"], "h2", &[])
        .node("m/fc2", "MatMul", &["h2", "onnx::MatMul_2"], "h3", &[])
        .node("m/fc2", "Add", &["m.fc2.bias", "h3"], "y", &[])
}

fn mlp_weights(seed: u64, classes: usize) -> Weights {
    let shapes: [(&str, &[usize]); 4] = [
        ("fc1.weight", &[16, 8]),
        ("fc1.bias", &[16]),
        ("fc2.weight", &[classes, 16]),
        ("fc2.bias", &[classes]),
    ];
    (shapes.into_iter().enumerate())
        .map(|(i, (n, s))| (n.to_owned(), random(seed * 100 + i as u64, s)))
        .collect()
}

const BATCH: &str = r#"{"dims": {"B": {"min": 1, "opt": 2, "max": 8}}, "inputs": {"x": ["B", 8]}}"#;

/// A plan of `net`, with the checkpoint that it was exported from.
fn built(net: &Net, weights: &Weights, shapes: Option<&str>) -> Scene {
    let scene = Scene::new();
    scene
        .write("model.onnx", net.onnx(""))
        .write("base.safetensors", safetensors(weights));
    build(
        &scene,
        "model.onnx",
        shapes,
        &["--weights", "base.safetensors"],
    )
    .exits(0);
    scene
}

fn build(scene: &Scene, model: &str, shapes: Option<&str>, more: &[&str]) -> Done {
    let mut args = vec!["build", model];
    if let Some(spec) = shapes {
        scene.write("shapes.json", spec);
        args.extend(["--shapes", "shapes.json"]);
    }
    args.extend(more);
    scene.run(&args)
}

fn built_mlp() -> (Scene, Weights) {
    let weights = mlp_weights(1, 10);
    (built(&mlp(&weights), &weights, Some(BATCH)), weights)
}

/// Refits from `weights` and tells what was reported.
fn refit(scene: &Scene, weights: &Weights, more: &[&str]) -> Value {
    scene.write("new.safetensors", safetensors(weights));
    let args = ["refit", "engine.plan", "new.safetensors", "--json"];
    scene.run(&[&args[..], more].concat()).exits(0).json()
}

fn changed(report: &Value) -> Vec<&str> {
    let names = report["changed"].as_array().unwrap();
    names.iter().map(|n| n.as_str().unwrap()).collect()
}

/// The refitted plan computes what a plan computes that is built from `net`, which holds the new weights.
fn computes_as(scene: &Scene, net: &Net, shapes: Option<&str>, run: &[&str]) {
    scene.write("fresh.onnx", net.onnx(""));
    build(scene, "fresh.onnx", shapes, &["-o", "fresh.plan"]).exits(0);
    for plan in ["fresh.plan", "engine.plan"] {
        let args = ["run", plan, "--save", "out.safetensors"];
        let saved = scene.file("out.safetensors");
        scene.run(&[&args[..], run].concat()).exits(0);
        fs::rename(saved, scene.file(&format!("{plan}.out"))).unwrap();
    }
    let out = |plan: &str| fs::read(scene.file(&format!("{plan}.out"))).unwrap();
    assert!(out("fresh.plan") == out("engine.plan"));
}

fn nested_outputs() {
    let net = Net::default()
        .input("x", &["4"])
        .output("out.a", &["4"])
        .output("out.list.0", &["4"])
        .node("m/a", "Relu", &["x"], "out.a", &[])
        .node("m/b", "Neg", &["x"], "out.list.0", &[]);
    let scene = built(
        &net,
        &Weights::from([("unused.weight".into(), random(0, &[2]))]),
        None,
    );
    let run = |seed: &str, file: &str| {
        scene
            .run(&["run", "engine.plan", "--seed", seed, "--save", file])
            .exits(0);
        fs::read(scene.file(file)).unwrap()
    };
    let first = run("1", "a.safetensors");
    assert!(first == run("1", "b.safetensors"));
    assert!(first != run("2", "c.safetensors"));
    let held = safetensors::SafeTensors::deserialize(&first).unwrap();
    assert_eq!(held.names().len(), 2);
}

fn axis_change_needs_a_range() {
    let weights = mlp_weights(1, 10);
    let run = |scene: &Scene, shape: &str| scene.run(&["run", "engine.plan", "--shape", shape]);
    let fixed = built(
        &mlp(&weights),
        &weights,
        Some(r#"{"inputs": {"x": [2, 8]}}"#),
    );
    run(&fixed, "x=2x8").exits(0);
    run(&fixed, "x=3x8").exits(1);
    let (ranged, _) = built_mlp();
    run(&ranged, "x=3x8").exits(0);
}

fn shared_dim() {
    let net = Net::default()
        .input("a.x", &["B", "4"])
        .input("a.y", &["B", "4"])
        .output("z", &["B", "4"])
        .weight("w", &random(1, &[4]))
        .node("m", "Add", &["a.x", "a.y"], "s", &[])
        .node("m", "Mul", &["s", "w"], "z", &[]);
    let spec = r#"{"dims": {"B": {"min": 1, "opt": 2, "max": 4}}, "inputs": {"a.x": ["B", 4], "a.y": ["B", 4]}}"#;
    let scene = built(
        &net,
        &Weights::from([("w".into(), random(1, &[4]))]),
        Some(spec),
    );
    let run = |x: &str, y: &str, policy: &str| {
        let shapes = [format!("a.x={x}"), format!("a.y={y}")];
        scene.run(&[
            "run",
            "engine.plan",
            "--shape",
            &shapes[0],
            "--shape",
            &shapes[1],
            "--on-range",
            policy,
        ])
    };
    let before = scene.files();
    run("3x4", "3x4", "error").exits(0);
    run("3x4", "2x4", "error").exits(1);
    run("5x4", "5x4", "error").exits(1);
    assert!(scene.files() == before);
    run("5x4", "5x4", "widen").exits(0);
    // What was built is what the manifest says, in a new process too.
    run("5x4", "5x4", "error").exits(0);
    run("1x4", "1x4", "error").exits(0);
}

fn resnet(exporter: &str) -> Scene {
    let scene = Scene::new();
    let (model, shapes) = (
        format!("model.{exporter}.onnx"),
        format!("shapes.{exporter}.json"),
    );
    for file in [
        &model,
        &shapes,
        "base.safetensors",
        "fused.safetensors",
        "io1.safetensors",
    ] {
        scene.bring(&format!("resnet/{file}"));
    }
    let args = [
        "build",
        &model,
        "--shapes",
        &shapes,
        "--weights",
        "base.safetensors",
    ];
    scene.run(&args).exits(0);
    let io = [
        "--inputs",
        "io1.safetensors",
        "--expect",
        "io1.safetensors:fused.",
        "--json",
    ];
    let args = ["run", "engine.plan", "--weights", "fused.safetensors"];
    let report = scene.run(&[&args[..], &io].concat()).exits(0).json();
    assert_eq!(report["transitions"][0]["state"], "NEEDS_REFIT");
    scene
}

fn resnet_checkpoint_swap() {
    resnet("ts");
}

fn resnet_dynamo() {
    resnet("dynamo");
}

fn plan_moves() {
    let (scene, _) = built_mlp();
    refit(&scene, &mlp_weights(2, 10), &[]);
    let run = |plan: &str, to: &str| {
        scene.run(&["run", plan, "--save", to]).exits(0);
        fs::read(scene.file(to)).unwrap()
    };
    let here = run("engine.plan", "here.safetensors");
    fs::create_dir(scene.file("there")).unwrap();
    for file in ["engine.plan", "engine.plan.json"] {
        fs::rename(scene.file(file), scene.file("there").join(file)).unwrap();
    }
    fs::remove_file(scene.file("model.onnx")).unwrap();
    assert!(here == run("there/engine.plan", "there.safetensors"));
}

fn one_tensor() {
    let (scene, mut weights) = built_mlp();
    weights.get_mut("fc2.weight").unwrap().1[3] += 1e-7;
    let report = refit(&scene, &weights, &[]);
    assert_eq!(changed(&report), ["onnx::MatMul_2"]);
    computes_as(&scene, &mlp(&weights), Some(BATCH), &[]);
}

fn rewritten() {
    let (scene, weights) = built_mlp();
    let before = fs::read(scene.file("engine.plan.json")).unwrap();
    assert_eq!(refit(&scene, &weights, &[])["verdict"], "LIVE");
    // Under a wrapper's names, with something that inference does not read.
    let mut wrapped: Weights = weights
        .iter()
        .map(|(n, t)| (format!("_orig_mod.module.{n}"), t.clone()))
        .collect();
    wrapped.insert(
        "_orig_mod.module.bn.num_batches_tracked".into(),
        random(0, &[1]),
    );
    assert_eq!(refit(&scene, &wrapped, &[])["verdict"], "LIVE");
    assert!(fs::read(scene.file("engine.plan.json")).unwrap() == before);
}

fn nested_inputs() {
    let net = |w: &Weights| {
        Net::default()
            .input("args.0", &["2", "4"])
            .input("args.1.mask", &["2", "4"])
            .output("y", &["2", "4"])
            .weight("m.scale.weight", &w["scale.weight"])
            .weight("m.shift.weight", &w["shift.weight"])
            .node("m/scale", "Mul", &["args.0", "m.scale.weight"], "a", &[])
            .node("m/shift", "Add", &["a", "m.shift.weight"], "b", &[])
            .node("m", "Mul", &["b", "args.1.mask"], "y", &[])
    };
    let weights = |seed| -> Weights {
        Weights::from([
            ("scale.weight".into(), random(seed, &[4])),
            ("shift.weight".into(), random(seed + 1, &[4])),
        ])
    };
    let scene = built(&net(&weights(1)), &weights(1), None);
    assert_eq!(changed(&refit(&scene, &weights(5), &[])).len(), 2);
    computes_as(&scene, &net(&weights(5)), None, &[]);
}

fn conv(w: &Weights) -> Net {
    Net::default()
        .input("x", &["1", "3", "8", "8"])
        .output("y", &["1", "6", "6", "6"])
        .weight("conv.weight", &w["conv.weight"])
        .weight("conv.bias", &w["conv.bias"])
        .node("conv", "Conv", &["x", "conv.weight", "conv.bias"], "y", &[])
}

fn conv_weights(seed: u64) -> Weights {
    Weights::from([
        ("conv.weight".into(), random(seed, &[6, 3, 3, 3])),
        ("conv.bias".into(), random(seed + 1, &[6])),
    ])
}

fn conv_drawn_anew() {
    let scene = built(&conv(&conv_weights(1)), &conv_weights(1), None);
    assert_eq!(
        changed(&refit(&scene, &conv_weights(9), &[])),
        ["conv.weight", "conv.bias"]
    );
    computes_as(&scene, &conv(&conv_weights(9)), None, &[]);
}

fn conv_verified() {
    let scene = built(&conv(&conv_weights(1)), &conv_weights(1), None);
    let report = refit(&scene, &conv_weights(9), &["--verify"]);
    assert!(report["error"].as_f64().unwrap() < 1e-5);
}

fn other_classes() {
    let (scene, _) = built_mlp();
    scene.write("new.safetensors", safetensors(&mlp_weights(1, 3)));
    let says = ["fc2.weight", "fc2.bias", "export the model again"];
    scene.refuses(&["refit", "engine.plan", "new.safetensors"], 20, &says);
    scene.refuses(
        &["run", "engine.plan", "--weights", "new.safetensors"],
        20,
        &says,
    );
}

fn input_added() {
    let (scene, weights) = built_mlp();
    let more = mlp(&weights).input("mask", &["B", "8"]);
    scene.write("model.onnx", more.onnx(""));
    scene.refuses(
        &["refit", "engine.plan", "base.safetensors"],
        1,
        &["another structure"],
    );
    scene.refuses(&["build", "model.onnx"], 1, &[]);
}

fn all_mapped() {
    let (scene, weights) = built_mlp();
    let map = scene.run(&["map", "engine.plan", "--json"]).exits(0).json();
    let mut sources: Vec<&str> = map["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| {
            assert_eq!(r["grade"], "proven");
            r["recipe"]["source"].as_str().unwrap()
        })
        .collect();
    sources.sort_unstable();
    assert_eq!(sources, weights.keys().collect::<Vec<_>>());
}

/// A convolution and the normalisation after it, as one convolution under the first one's names.
fn fold(w: &Weights) -> Weights {
    let of = |name: &str| &w[name].1;
    let factor: Vec<f32> = of("bn.weight")
        .iter()
        .zip(of("bn.running_var"))
        .map(|(g, v)| g / (v + 1e-5).sqrt())
        .collect();
    let (shape, kernel) = &w["conv.weight"];
    let per = kernel.len() / shape[0];
    let kernel = kernel.iter().enumerate().map(|(i, k)| k * factor[i / per]);
    let bias = (0..shape[0]).map(|c| of("bn.bias")[c] - of("bn.running_mean")[c] * factor[c]);
    Weights::from([
        ("conv.weight".into(), (shape.clone(), kernel.collect())),
        ("conv.bias".into(), (vec![shape[0]], bias.collect())),
    ])
}

fn norm_weights(seed: u64) -> Weights {
    let mut w = Weights::from([("conv.weight".into(), random(seed, &[6, 3, 3, 3]))]);
    for (i, name) in ["weight", "bias", "running_mean", "running_var"]
        .iter()
        .enumerate()
    {
        let (shape, mut values) = random(seed + 1 + i as u64, &[6]);
        if *name != "bias" {
            for v in &mut values {
                *v = v.abs() + 0.5;
            }
        }
        w.insert(format!("bn.{name}"), (shape, values));
    }
    w
}

fn folded_norm() {
    let (old, new) = (norm_weights(1), norm_weights(50));
    let scene = built(&conv(&fold(&old)), &old, None);
    assert_eq!(changed(&refit(&scene, &new, &[])).len(), 2);
    // Within rounding of the exporter's own fold.
    scene.write("fresh.onnx", conv(&fold(&new)).onnx(""));
    build(&scene, "fresh.onnx", None, &["-o", "fresh.plan"]).exits(0);
    scene
        .run(&["run", "fresh.plan", "--save", "fresh.safetensors"])
        .exits(0);
    scene
        .run(&["run", "engine.plan", "--save", "here.safetensors"])
        .exits(0);
    let read = |name: &str| -> Vec<f32> {
        let bytes = fs::read(scene.file(name)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = file.tensor("y").unwrap().data();
        data.as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect()
    };
    let apart = crate::support::fixtures::relative_l2(
        &read("here.safetensors"),
        &read("fresh.safetensors"),
    );
    assert!(apart < 1e-5, "{apart}");
    // Without the checkpoint that it was exported from, the kernel's name and shape speak for the wrong tensor.
    build(&scene, "model.onnx", None, &["-o", "blind.plan"]).exits(0);
    for more in [&[][..], &["--trust-names"], &["--trust-names", "--partial"]] {
        let args = ["refit", "blind.plan", "new.safetensors"];
        scene.refuses(&[&args[..], more].concat(), 1, &["--base-weights"]);
    }
}

fn embedding() {
    let net = |w: &Weights| {
        Net::default()
            .indices("ids", &["1", "5"])
            .output("y", &["1", "5", "8"])
            .weight("embed.weight", &w["embed.weight"])
            .weight("norm.weight", &w["norm.weight"])
            .node(
                "embed",
                "Gather",
                &["embed.weight", "ids"],
                "e",
                &[("axis", 0)],
            )
            .node("norm", "Mul", &["e", "norm.weight"], "y", &[])
    };
    let mut weights = Weights::from([
        ("embed.weight".into(), random(1, &[12, 8])),
        ("norm.weight".into(), random(2, &[8])),
    ]);
    let scene = built(&net(&weights), &weights, None);
    weights.insert("embed.weight".into(), random(3, &[12, 8]));
    assert_eq!(changed(&refit(&scene, &weights, &[])), ["embed.weight"]);
    computes_as(&scene, &net(&weights), None, &[]);
}

fn from_disk() {
    // Every command is a process of its own, so every plan is one that another process built.
    let (scene, _) = built_mlp();
    let new = mlp_weights(2, 10);
    refit(&scene, &new, &[]);
    computes_as(&scene, &mlp(&new), Some(BATCH), &["--shape", "x=5x8"]);
}

fn runtimes() {
    let backends: &[&str] = match crate::support::onnx_runtime() {
        Ok(_) => &["cpu", "onnxruntime"],
        Err(_) => &["cpu"],
    };
    let (old, new) = (mlp_weights(1, 10), mlp_weights(2, 10));
    let scene = Scene::new();
    scene
        .write("model.onnx", mlp(&old).onnx(""))
        .write("base.safetensors", safetensors(&old))
        .write("new.safetensors", safetensors(&new))
        .write("shapes.json", BATCH);
    let library = crate::support::deps().join("onnxruntime/onnxruntime/capi");
    let run = |args: &[&str]| {
        let mut command = scene.command(args);
        command.env("ORT_DYLIB_PATH", &library);
        let output = command.output().unwrap();
        scene.done(&command, &output).exits(0).json()
    };
    for backend in backends {
        let plan = format!("{backend}.plan");
        let args = ["build", "model.onnx", "--shapes", "shapes.json", "--json"];
        run(&[
            &args[..],
            &[
                "--weights",
                "base.safetensors",
                "--backend",
                backend,
                "-o",
                &plan,
            ],
        ]
        .concat());
        run(&["refit", &plan, "new.safetensors", "--verify", "--json"]);
    }
}

fn several_engines() {
    let (scene, old) = built_mlp();
    build(
        &scene,
        "model.onnx",
        Some(BATCH),
        &["-o", "other.plan", "--weights", "base.safetensors"],
    )
    .exits(0);
    let untouched = fs::read(scene.file("other.plan")).unwrap();
    refit(&scene, &mlp_weights(2, 10), &[]);
    assert!(fs::read(scene.file("other.plan")).unwrap() == untouched);
    refit(&scene, &old, &[]);
    assert!(fs::read(scene.file("engine.plan")).unwrap() == untouched);
}

fn cumsum_pow() {
    let net = |w: &Weights| {
        Net::default()
            .input("x", &["2", "4"])
            .output("y", &["2", "4"])
            .weight("scale.weight", &w["scale.weight"])
            .weight("two", &(vec![], vec![2.0]))
            .constant("axis", &[1])
            .node("scale", "Mul", &["x", "scale.weight"], "a", &[])
            .node("sum", "CumSum", &["a", "axis"], "b", &[])
            .node("power", "Pow", &["b", "two"], "y", &[])
    };
    let mut weights = Weights::from([("scale.weight".into(), random(1, &[4]))]);
    let scene = built(&net(&weights), &weights, None);
    weights.insert("scale.weight".into(), random(2, &[4]));
    assert_eq!(changed(&refit(&scene, &weights, &[])), ["scale.weight"]);
    computes_as(&scene, &net(&weights), None, &[]);
}

fn complex_parts() {
    let net = |w: &Weights| {
        Net::default()
            .input("x", &["2", "4"])
            .output("re", &["2", "4"])
            .output("im", &["2", "4"])
            .weight("rope.freqs.real", &w["rope.freqs.real"])
            .weight("rope.freqs.imag", &w["rope.freqs.imag"])
            .node("rope", "Mul", &["x", "rope.freqs.real"], "re", &[])
            .node("rope/im", "Mul", &["x", "rope.freqs.imag"], "im", &[])
    };
    let weights = |real, imag| {
        Weights::from([
            ("rope.freqs.real".into(), random(real, &[4])),
            ("rope.freqs.imag".into(), random(imag, &[4])),
        ])
    };
    let scene = built(&net(&weights(1, 2)), &weights(1, 2), None);
    // Exchanged: values that fit the other one exactly, under names that say what they are.
    let report = refit(&scene, &weights(2, 1), &[]);
    assert_eq!(changed(&report).len(), 2);
    computes_as(&scene, &net(&weights(2, 1)), None, &[]);
}

fn rows_missing() {
    let (scene, _) = built_mlp();
    let path = scene.file("engine.plan.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let rows = manifest["weights"].as_array_mut().unwrap();
    let row = rows.iter_mut().find(|w| w["name"] == "m.fc1.bias").unwrap();
    row.as_object_mut().unwrap().remove("mapping");
    fs::write(&path, manifest.to_string()).unwrap();
    scene.write("new.safetensors", safetensors(&mlp_weights(2, 10)));
    scene.refuses(
        &["refit", "engine.plan", "new.safetensors"],
        1,
        &["fc1.bias"],
    );
}

fn scalar_constant() {
    let net = |w: &Weights| {
        Net::default()
            .input("x", &["2", "4"])
            .output("y", &["2", "4"])
            .weight("half", &(vec![], vec![0.5]))
            .weight("shift.weight", &w["shift.weight"])
            .node("m", "Mul", &["x", "half"], "a", &[])
            .node("shift", "Add", &["a", "shift.weight"], "y", &[])
    };
    let mut weights = Weights::from([("shift.weight".into(), random(1, &[4]))]);
    let scene = built(&net(&weights), &weights, None);
    weights.insert("shift.weight".into(), random(2, &[4]));
    assert_eq!(changed(&refit(&scene, &weights, &[])), ["shift.weight"]);
    computes_as(&scene, &net(&weights), None, &[]);
}

fn twice_dynamic() {
    let (scene, _) = built_mlp();
    for seed in [2, 3] {
        let new = mlp_weights(seed, 10);
        refit(&scene, &new, &[]);
        for shape in ["x=1x8", "x=8x8"] {
            computes_as(&scene, &mlp(&new), Some(BATCH), &["--shape", shape]);
        }
    }
}

fn re_export() {
    let scene = Scene::new();
    let weights = mlp_weights(1, 10);
    scene
        .write("a.onnx", mlp(&weights).onnx(""))
        .write("b.onnx", mlp(&weights).onnx("exported again"))
        .write("c.onnx", mlp(&mlp_weights(2, 10)).onnx(""))
        .write("d.onnx", mlp(&mlp_weights(1, 3)).onnx(""));
    let digest = |name: &str| Model::open(scene.file(name)).unwrap().structure_digest();
    assert_eq!(digest("a.onnx"), digest("b.onnx"));
    assert_eq!(digest("a.onnx"), digest("c.onnx"));
    assert_ne!(digest("a.onnx"), digest("d.onnx"));
    let of = |file: &str| {
        let plan = format!("{file}.plan");
        build(&scene, file, Some(BATCH), &["-o", &plan]).exits(0);
        let manifest = fs::read(scene.file(&format!("{plan}.json"))).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest["model"]["content"].clone()
    };
    assert_eq!(of("a.onnx"), of("b.onnx"));
    assert_ne!(of("a.onnx"), of("c.onnx"));
}
