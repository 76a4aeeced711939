//! Weights from an ONNX file, constants that engines fold in, and the commands that `diff` names.

use crate::net::{Net, Weights, random, safetensors};
use crate::scene::{Done, Scene};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// `y = (x · w)[:, perm] + b`.
fn model(weights: &Weights, perm: &[i64]) -> Net {
    Net::default()
        .input("x", &["N", "8"])
        .weight("lin.weight", &weights["lin.weight"])
        .constant("perm", perm)
        .weight("bias", &weights["bias"])
        .node("lin", "MatMul", &["x", "lin.weight"], "a", &[])
        .node("take", "Gather", &["a", "perm"], "p", &[("axis", 1)])
        .node("add", "Add", &["p", "bias"], "y", &[])
        .output("y", &["N", "8"])
}

fn weights(seed: u64) -> Weights {
    Weights::from([
        ("lin.weight".into(), random(seed, &[8, 8])),
        ("bias".into(), random(seed + 1, &[8])),
    ])
}

pub const OLD: [i64; 8] = [3, 1, 2, 0, 7, 6, 4, 5];
pub const NEW: [i64; 8] = [7, 6, 5, 4, 3, 2, 1, 0];

/// A checkpoint with the index table in it.
fn checkpoint(weights: &Weights, perm: &[i64]) -> Vec<u8> {
    let plain = safetensors(weights);
    let plain = ::safetensors::SafeTensors::deserialize(&plain).unwrap();
    let table: Vec<u8> = perm.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut views = plain.tensors();
    views.push((
        "perm".into(),
        TensorView::new(Dtype::I64, vec![perm.len()], &table).unwrap(),
    ));
    ::safetensors::serialize(views, None).unwrap()
}

/// A plan of the old model with its base, the new one as checkpoint and as ONNX file, and inputs with what the new one gives.
pub fn scene(perm: &[i64]) -> Scene {
    let scene = Scene::new();
    let (old, new) = (weights(1), weights(7));
    let x = random(3, &[2, 8]);
    let (w, b) = (&new["lin.weight"].1, &new["bias"].1);
    let want: Vec<f32> = (0..2)
        .flat_map(|n| (0..8).map(move |j| (n, j)))
        .map(|(n, j)| {
            let column = perm[j] as usize;
            let sum: f32 = (0..8).map(|k| x.1[n * 8 + k] * w[k * 8 + column]).sum();
            sum + b[j]
        })
        .collect();
    let io = Weights::from([("in.x".into(), x), ("out.y".into(), (vec![2, 8], want))]);
    scene
        .write("model.onnx", model(&old, &OLD).onnx(""))
        .write("new.onnx", model(&new, perm).onnx(""))
        .write("base.safetensors", checkpoint(&old, &OLD))
        .write("new.safetensors", checkpoint(&new, perm))
        .write("io.safetensors", safetensors(&io));
    let args = ["--base-weights", "base.safetensors", "--dim", "N=1:2:4"];
    scene
        .run(&[&["build", "model.onnx", "--backend", "cpu"], &args[..]].concat())
        .exits(0);
    scene
}

fn right(scene: &Scene) {
    let io = "io.safetensors";
    let args = ["run", "engine.plan", "--inputs", io, "--expect", io];
    scene.run(&args).exits(0).prints("equal");
}

/// The commands that a comparison names.
fn next(done: &Done) -> Vec<String> {
    let list = done.json()["next"].as_array().unwrap().clone();
    list.iter()
        .map(|c| c.as_str().unwrap().to_owned())
        .collect()
}

/// Does what a comparison names, as a shell would.
fn follow(scene: &Scene, commands: &[String]) {
    assert!(!commands.is_empty());
    for command in commands {
        let words = shlex::split(command).unwrap();
        assert_eq!(words[0], "trtmut");
        scene.run(&words[1..]).exits(0);
    }
}

#[test]
fn weights_come_from_an_onnx_file_of_the_same_structure() {
    let scene = scene(&OLD);
    let diff = ["diff", "engine.plan", "new.onnx", "--exit-code"];
    scene
        .run(&diff)
        .exits(10)
        .prints("next: trtmut refit engine.plan new.onnx");
    let dry = ["refit", "engine.plan", "new.onnx", "--dry-run", "--json"];
    assert_eq!(scene.run(&dry).exits(0).json()["verdict"], "NEEDS_REFIT");
    follow(
        &scene,
        &next(&scene.run(&[&diff[..], &["--json"]].concat())),
    );
    right(&scene);
    scene.run(&diff).exits(0).prints("LIVE");
    // The same weights as the checkpoint has, whose change was recorded against the base.
    let args = ["diff", "engine.plan", "new.safetensors", "--exit-code"];
    scene.run(&args).exits(0).prints("LIVE");
    // They can be had again for another range, and be verified.
    let wide = ["run", "engine.plan", "--dim", "N=9", "--on-range", "widen"];
    scene.run(&[&wide[..], &["--verify"]].concat()).exits(0);
    right(&scene);
    scene.run(&["refit", "engine.plan", "--base"]).exits(0);
    scene
        .run(&["run", "engine.plan", "--weights", "new.onnx"])
        .exits(0);
    right(&scene);
    // The base is not needed for it.
    std::fs::rename(scene.file("model.onnx"), scene.file("moved.onnx")).unwrap();
    scene.run(&diff).exits(0).prints("LIVE");
    scene.refuses(
        &[
            "refit",
            "engine.plan",
            "new.onnx",
            "--lora",
            "l.safetensors",
        ],
        1,
        &["ONNX model", "no other file"],
    );
}

#[test]
fn an_onnx_file_of_another_structure_is_built_as_it_says() {
    for file in ["new.onnx", "wider.onnx"] {
        let scene = scene(&NEW);
        let mut other = weights(7);
        other.insert("bias".into(), random(9, &[8]));
        let wide = model(&other, &NEW).node("more", "Relu", &["y"], "z", &[]);
        scene.write("wider.onnx", wide.output("z", &["N", "8"]).onnx(""));
        let refit = ["refit", "engine.plan", file];
        scene.refuses(&refit, 20, &["another structure", "trtmut build"]);
        scene.refuses(
            &["run", "engine.plan", "--weights", file],
            20,
            &["trtmut build"],
        );
        let diff = ["diff", "engine.plan", file, "--exit-code", "--json"];
        let done = scene.run(&diff);
        follow(&scene, &next(done.exits(20)));
        scene.run(&diff).exits(0);
        if file == "new.onnx" {
            right(&scene);
        }
    }
}

#[test]
fn a_rebuild_takes_the_new_value_of_what_engines_fold_in() {
    let scene = scene(&NEW);
    let refit = ["refit", "engine.plan", "new.safetensors"];
    scene.refuses(&refit, 20, &["`perm` changes", "--fallback rebuild"]);
    let diff = [
        "diff",
        "engine.plan",
        "new.safetensors",
        "--exit-code",
        "--json",
    ];
    let done = scene.run(&diff);
    assert_eq!(done.exits(20).json()["verdict"], "NEEDS_RECOMPILE");
    follow(&scene, &next(&done));
    right(&scene);
    scene.run(&diff).exits(0);
    scene
        .run(&[
            "run",
            "engine.plan",
            "--inputs",
            "io.safetensors",
            "--verify",
        ])
        .exits(0);
    // And back again.
    scene.refuses(&["refit", "engine.plan", "--base"], 20, &["`perm`"]);
    let back = ["refit", "engine.plan", "--base", "--fallback", "rebuild"];
    scene.run(&back).exits(0);
    let base = ["diff", "engine.plan", "base.safetensors", "--exit-code"];
    scene.run(&base).exits(0).prints("LIVE");
    // `run` does it by itself.
    let run = [
        "run",
        "engine.plan",
        "--weights",
        "new.safetensors",
        "--json",
    ];
    let step = scene.run(&run).exits(0).json()["transitions"][0].clone();
    assert_eq!(step["state"], "NEEDS_RECOMPILE");
    right(&scene);
}

#[test]
fn no_recompile_follows_a_lost_change() {
    let scene = scene(&NEW);
    // The index table changes too, so that a recompile would be sure but for the tensor that is nowhere.
    let mut lost = weights(7);
    lost.insert("lin.lora_A".into(), random(5, &[2, 8]));
    scene.write("lost.safetensors", checkpoint(&lost, &NEW));
    let diff = ["diff", "engine.plan", "lost.safetensors", "--json"];
    let report = scene.run(&diff).exits(0).json();
    assert_eq!(report["verdict"], "UNKNOWN", "{report}");
    assert_eq!(report["lost"], serde_json::json!(["lin.lora_A"]));
    assert_eq!(report["next"], serde_json::json!([]));
    let rebuild = [
        "refit",
        "engine.plan",
        "lost.safetensors",
        "--fallback",
        "rebuild",
    ];
    scene.refuses(&rebuild, 1, &["lin.lora_A", "--ignore"]);
    scene.refuses(
        &["run", "engine.plan", "--weights", "lost.safetensors"],
        1,
        &["lin.lora_A"],
    );
    let let_go = [&rebuild[..], &["--ignore", "lin.lora_A"]].concat();
    scene.run(&let_go).exits(0);
    right(&scene);
}

#[test]
fn what_changes_the_shapes_is_built_and_keeps_the_weights() {
    let scene = scene(&OLD);
    let refit = ["refit", "engine.plan", "new.safetensors"];
    scene.run(&refit).exits(0);
    let diff = ["diff", "engine.plan", "--dim", "N=1:8:16", "--json"];
    let done = scene.run(&diff);
    assert_eq!(done.exits(0).json()["verdict"], "NEEDS_RECOMPILE");
    let commands = next(&done);
    assert_eq!(commands.len(), 2, "{commands:?}");
    follow(&scene, &commands);
    assert_eq!(scene.run(&diff).exits(0).json()["verdict"], "LIVE");
    right(&scene);
}

#[test]
fn what_no_node_reads_changes_nothing() {
    let (scene, values) = (Scene::new(), weights(1));
    let with = |spare: u64| {
        let net = model(&values, &OLD).weight("spare", &random(spare, &[4]));
        net.onnx("")
    };
    scene
        .write("model.onnx", with(2))
        .write("other.onnx", with(9));
    let args = "build model.onnx --backend cpu --dim N=1:2:4";
    let args: Vec<&str> = args.split(' ').collect();
    scene.run(&args).exits(0);
    let is_live = || {
        let args = ["diff", "engine.plan", "other.onnx", "--json"];
        assert_eq!(scene.run(&args).exits(0).json()["verdict"], "LIVE");
        let args = ["refit", "engine.plan", "other.onnx", "--dry-run", "--json"];
        assert_eq!(scene.run(&args).exits(0).json()["verdict"], "LIVE");
    };
    is_live();
    // Earlier manifests said it in words only.
    let path = scene.file("engine.plan.json");
    let text = std::fs::read(&path).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let rows = manifest["weights"].as_array_mut().unwrap();
    let spare = rows.iter_mut().find(|r| r["name"] == "spare").unwrap();
    let kind = spare.as_object_mut().unwrap().remove("unread");
    assert_eq!(kind, Some(true.into()));
    assert_eq!(spare["fixed"], "no node reads it");
    scene.write("engine.plan.json", manifest.to_string());
    is_live();
}
