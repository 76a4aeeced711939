//! `trtmut refit`, `map`, and `run` with other weights.

use crate::net::{Net, random, safetensors};
use crate::scene::{Done, Scene, fixture};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

/// Tensors by name: element type, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A plan of the small transformer: in it without a base file, since that is how most people come.
fn built() -> Scene {
    built_with(&[])
}

fn built_with(more: &[&str]) -> Scene {
    let scene = Scene::new();
    scene
        .bring("dit/model.ts.onnx")
        .bring("dit/shapes.ts.json")
        .bring("dit/base.safetensors")
        .bring("dit/fused.safetensors");
    fs::copy(
        fixture("dit/pytorch_lora_weights.safetensors"),
        scene.file("lora.safetensors"),
    )
    .unwrap();
    let args = ["build", "model.ts.onnx", "--shapes", "shapes.ts.json"];
    scene.run(&[&args[..], more].concat()).exits(0);
    scene
}

fn plan(scene: &Scene) -> Vec<u8> {
    fs::read(scene.file("engine.plan")).unwrap()
}

fn manifest(scene: &Scene, plan: &str) -> Value {
    serde_json::from_slice(&fs::read(scene.file(&format!("{plan}.json"))).unwrap()).unwrap()
}

fn refit(scene: &Scene, args: &[&str]) -> Done {
    scene.run(&[&["refit", "engine.plan"], args].concat())
}

fn tensors(scene: &Scene, name: &str) -> Tensors {
    let bytes = fs::read(scene.file(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(n, v)| (n, (v.dtype(), v.shape().to_vec(), v.data().to_vec())))
        .collect()
}

fn save(scene: &Scene, name: &str, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    scene.write(name, safetensors::serialize(views, None).unwrap());
}

/// The fused checkpoint with something done to it.
fn altered(scene: &Scene, name: &str, alter: impl FnOnce(&mut Tensors)) {
    let mut all = tensors(scene, "fused.safetensors");
    alter(&mut all);
    save(scene, name, &all);
}

#[test]
fn in_place_and_elsewhere_give_the_same_plan() {
    let scene = built();
    let before = plan(&scene);
    let first = manifest(&scene, "engine.plan");
    refit(&scene, &["fused.safetensors", "-o", "other.plan"])
        .exits(0)
        .prints("refitted other.plan")
        .prints("12 of ");
    assert!(plan(&scene) == before && manifest(&scene, "engine.plan") == first);
    let done = refit(&scene, &["fused.safetensors", "--json"]);
    let report = done.exits(0).json();
    assert_eq!(report["schema"], "trtmut.refit/2");
    assert_eq!(report["verdict"], "NEEDS_REFIT");
    assert_eq!(report["changed"].as_array().unwrap().len(), 12);
    assert_eq!(
        (&report["written"], &report["rebuilt"]),
        (&json!(true), &json!(false))
    );
    assert!(plan(&scene) != before);
    assert!(plan(&scene) == fs::read(scene.file("other.plan")).unwrap());
    let after = manifest(&scene, "engine.plan");
    assert_eq!(after, manifest(&scene, "other.plan"));
    assert_eq!(after["plan"]["digest"], report["digest"]);
    assert_eq!(
        after["recipe"]["ingredients"][0]["file"]["path"],
        "fused.safetensors"
    );
    assert_eq!(after["model"], first["model"]);
}

#[test]
fn a_plan_that_holds_the_weights_is_left_alone() {
    let scene = built();
    refit(&scene, &["fused.safetensors"]).exits(0);
    let before = scene.files();
    refit(&scene, &["fused.safetensors"])
        .exits(0)
        .prints("LIVE");
    // The same weights by another way.
    refit(&scene, &["--lora", "lora.safetensors", "--dry-run"]).exits(0);
    fs::copy(
        scene.file("fused.safetensors"),
        scene.file("same.safetensors"),
    )
    .unwrap();
    let done = refit(&scene, &["same.safetensors", "--json"]);
    assert_eq!(done.exits(0).json()["verdict"], "LIVE");
    fs::remove_file(scene.file("same.safetensors")).unwrap();
    assert!(scene.files() == before, "a live plan was written");
    // Verified all the same, where that is asked for.
    refit(&scene, &["fused.safetensors", "--verify"])
        .exits(0)
        .prints("LIVE")
        .prints("verified against");
    assert!(scene.files() == before, "a live plan was written");
}

#[test]
fn a_dry_run_writes_nothing() {
    let scene = built();
    let before = scene.files();
    refit(&scene, &["fused.safetensors", "--dry-run"])
        .exits(0)
        .prints("NEEDS_REFIT")
        .prints("nothing was written");
    let done = refit(
        &scene,
        &["--lora", "lora.safetensors", "--dry-run", "--json"],
    );
    let report = done.exits(0).json();
    assert_eq!(report["written"], false);
    assert_eq!(report["changed"].as_array().unwrap().len(), 12);
    assert!(scene.files() == before);
}

#[test]
fn there_and_back_leaves_nothing() {
    for flow in [&[][..], &["--weights", "base.safetensors"]] {
        let scene = built_with(flow);
        let (first, first_manifest) = (plan(&scene), manifest(&scene, "engine.plan"));
        refit(&scene, &["--lora", "lora.safetensors:0.5"]).exits(0);
        let half = plan(&scene);
        refit(&scene, &["fused.safetensors"]).exits(0);
        assert!(plan(&scene) != half);
        // What was refitted in between leaves no trace.
        refit(&scene, &["--lora", "lora.safetensors:0.5"]).exits(0);
        assert!(plan(&scene) == half);
        refit(&scene, &["--base"]).exits(0);
        assert!(plan(&scene) == first);
        let mut back = manifest(&scene, "engine.plan");
        if flow.is_empty() {
            // The checkpoint has taught where weights come from; that stays.
            for (row, old) in back["weights"]
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .zip(first_manifest["weights"].as_array().unwrap())
            {
                row["mapping"] = old["mapping"].clone();
            }
        }
        back["weights"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|w| {
                let row = w.as_object_mut().unwrap();
                row.retain(|_, v| !v.is_null());
            });
        assert_eq!(back, first_manifest);
        refit(&scene, &["base.safetensors"]).exits(0).prints("LIVE");
        // Only LoRAs in between: the manifest is the first one, byte for byte.
    }
    let scene = built();
    let before = scene.files();
    refit(&scene, &["--lora", "lora.safetensors"]).exits(0);
    refit(&scene, &["--base"]).exits(0);
    assert!(scene.files() == before);
}

#[test]
fn a_lora_counts_once_and_loras_commute() {
    let scene = built();
    let first = plan(&scene);
    fs::copy(
        fixture("dit/adapter_model.safetensors"),
        scene.file("peft.safetensors"),
    )
    .unwrap();
    scene.bring("dit/adapter_config.json");
    let (a, b) = ("lora.safetensors:0.8", "peft.safetensors:-0.3");
    refit(&scene, &["--lora", a]).exits(0);
    let once = plan(&scene);
    refit(&scene, &["--lora", a]).exits(0).prints("LIVE");
    assert!(plan(&scene) == once);
    refit(&scene, &["--lora", a, "--lora", b]).exits(0);
    let both = plan(&scene);
    assert!(both != once);
    let recipe = manifest(&scene, "engine.plan")["recipe"]["ingredients"].clone();
    assert_eq!(
        (&recipe[0]["scale"], &recipe[1]["scale"]),
        (&json!(0.8), &json!(-0.3))
    );
    refit(&scene, &["--lora", b, "--lora", a])
        .exits(0)
        .prints("LIVE");
    refit(&scene, &["--lora", b, "--lora", a, "-o", "turned.plan"]).exits(0);
    assert!(fs::read(scene.file("turned.plan")).unwrap() == both);
    refit(&scene, &["--lora", "lora.safetensors:0"]).exits(0);
    assert!(
        plan(&scene) == first,
        "at scale 0 a LoRA still changes something"
    );
    // A checkpoint below, and the opposite of what it was fused from on top: the base within rounding.
    refit(
        &scene,
        &[
            "fused.safetensors",
            "--lora",
            "lora.safetensors:-1",
            "--verify",
        ],
    )
    .exits(0);
    assert_eq!(
        manifest(&scene, "engine.plan")["recipe"]["ingredients"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn verified_refits_say_against_what() {
    let scene = built();
    let done = refit(
        &scene,
        &["--lora", "lora.safetensors", "--verify", "--json"],
    );
    let report = done.exits(0).json();
    assert!(report["reference"].is_string());
    assert!(report["error"].as_f64().unwrap() < 1e-5);
    refit(&scene, &["--base", "--verify"])
        .exits(0)
        .prints("verified against");
}

#[test]
fn nothing_or_too_much_asked_is_a_usage_error() {
    let scene = built();
    scene.refuses(&["refit", "engine.plan"], 2, &["--lora", "--base"]);
    scene.refuses(
        &["refit", "engine.plan", "fused.safetensors", "--base"],
        2,
        &["--base", "leave out"],
    );
    let done = refit(&scene, &["--lora", "lora.safetensors:inf"]);
    done.exits(2);
    let done = refit(&scene, &["nothing.safetensors", "--json"]);
    assert_eq!(done.exits(1).json()["code"], "file-read");
}

#[test]
fn files_of_another_model_are_refused_briefly() {
    let scene = built();
    for (name, from) in [
        ("unet.safetensors", "sd_unet/fused.safetensors"),
        ("clip.safetensors", "clip_text/fused.safetensors"),
        ("resnet.safetensors", "resnet/fused.safetensors"),
        (
            "unet_lora.safetensors",
            "sd_unet/pytorch_lora_weights.safetensors",
        ),
        ("clip_lora.safetensors", "clip_text/lora_kohya.safetensors"),
    ] {
        fs::copy(fixture(from), scene.file(name)).unwrap();
        let args = if name.contains("lora") {
            vec!["refit", "engine.plan", "--lora", name]
        } else {
            vec!["refit", "engine.plan", name]
        };
        scene.refuses(&args, 1, &[name, "another model"]);
        let lines = scene.run(&args).stderr.lines().count();
        assert!(lines <= 16, "{lines} lines for {name}");
        // Nor may it be forced in.
        if !name.contains("lora") {
            scene.refuses(
                &[&args[..], &["--partial", "--trust-names"]].concat(),
                1,
                &[],
            );
        }
    }
    scene.refuses(
        &["refit", "engine.plan", "lora.safetensors"],
        1,
        &["--lora FILE"],
    );
    scene.refuses(
        &["refit", "engine.plan", "--lora", "fused.safetensors"],
        1,
        &["fused.safetensors", "no LoRA", "without --lora"],
    );
}

#[test]
fn a_partial_file_must_be_meant() {
    let scene = built();
    let lost = "transformer_blocks.1.attn1.to_v.weight";
    altered(&scene, "part.safetensors", |t| {
        t.remove(lost).unwrap();
    });
    scene.refuses(
        &["refit", "engine.plan", "part.safetensors"],
        1,
        &["part.safetensors", "1 weight of the plan", "--partial"],
    );
    let done = refit(&scene, &["part.safetensors", "--partial", "--json"]);
    assert_eq!(
        done.exits(0).json()["changed"].as_array().unwrap().len(),
        11
    );
    altered(&scene, "more.safetensors", |t| {
        let twin = t[lost].clone();
        t.insert(
            "adaptor.weight".into(),
            (twin.0, twin.1, twin.2.iter().rev().copied().collect()),
        );
    });
    scene.refuses(
        &["refit", "engine.plan", "more.safetensors"],
        1,
        &[
            "1 tensor of `more.safetensors`",
            "`adaptor.weight`",
            "--ignore",
        ],
    );
    // It says that tensors are missing, and lets none of those go that are there.
    scene.refuses(
        &["refit", "engine.plan", "more.safetensors", "--partial"],
        1,
        &["`adaptor.weight`"],
    );
    refit(&scene, &["--base"]).exits(0);
    refit(&scene, &["more.safetensors", "--ignore", "adaptor.*"])
        .exits(0)
        .prints("let go by --ignore: `adaptor.weight`");
    let extra = plan(&scene);
    refit(&scene, &["fused.safetensors"])
        .exits(0)
        .prints("LIVE");
    assert!(plan(&scene) == extra);
}

#[test]
fn a_square_matrix_transposed_by_mistake_is_refused() {
    let scene = built();
    let name = "transformer_blocks.0.attn1.to_q.weight";
    altered(&scene, "turned.safetensors", |t| {
        let (_, shape, data) = t.get_mut(name).unwrap();
        let n = shape[0];
        assert_eq!(shape, &[n, n]);
        let old = data.clone();
        for i in 0..n {
            for j in 0..n {
                data[4 * (i * n + j)..][..4].copy_from_slice(&old[4 * (j * n + i)..][..4]);
            }
        }
    });
    scene.refuses(&["refit", "engine.plan", "turned.safetensors"], 1, &[name]);
}

#[test]
fn half_precision_and_shards_hold_the_same_model() {
    let scene = built();
    // In f16: values that are equal at f16 are left as they are, the others are widened.
    altered(&scene, "half.safetensors", |t| {
        for (dtype, _, data) in t.values_mut() {
            let wide = data.as_chunks::<4>().0;
            let narrow = wide
                .iter()
                .flat_map(|b| half::f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes());
            *data = narrow.collect();
            *dtype = Dtype::F16;
        }
    });
    let done = refit(&scene, &["half.safetensors", "--json"]);
    assert_eq!(
        done.exits(0).json()["changed"].as_array().unwrap().len(),
        12
    );
    // In shards, named by an index, from a folder, under a prefix.
    let all = tensors(&scene, "fused.safetensors");
    let mut shards = [Tensors::new(), Tensors::new()];
    let mut index = serde_json::Map::new();
    for (i, (name, tensor)) in all.into_iter().enumerate() {
        let name = format!("transformer.{name}");
        index.insert(
            name.clone(),
            json!(format!("model-0000{}-of-00002.safetensors", i % 2 + 1)),
        );
        shards[i % 2].insert(name, tensor);
    }
    fs::create_dir(scene.file("sharded")).unwrap();
    for (i, shard) in shards.iter().enumerate() {
        save(
            &scene,
            &format!("sharded/model-0000{}-of-00002.safetensors", i + 1),
            shard,
        );
    }
    scene.write(
        "sharded/model.safetensors.index.json",
        json!({"metadata": {}, "weight_map": index}).to_string(),
    );
    refit(&scene, &["fused.safetensors"]).exits(0);
    let whole = plan(&scene);
    for source in ["sharded", "sharded/model.safetensors.index.json"] {
        refit(&scene, &["--base"]).exits(0);
        refit(&scene, &[source]).exits(0);
        assert!(plan(&scene) == whole, "{source}");
    }
    fs::remove_file(scene.file("sharded/model-00002-of-00002.safetensors")).unwrap();
    scene.refuses(
        &["refit", "engine.plan", "sharded"],
        1,
        &["model-00002-of-00002.safetensors"],
    );
}

#[test]
fn a_tensor_of_another_shape_needs_a_recompile() {
    let scene = built();
    altered(&scene, "wide.safetensors", |t| {
        let (_, shape, data) = t.get_mut("proj_out_2.weight").unwrap();
        shape[0] *= 2;
        data.extend(data.clone());
    });
    for command in [
        &["refit", "engine.plan", "wide.safetensors"][..],
        &["run", "engine.plan", "--weights", "wide.safetensors"],
    ] {
        scene.refuses(
            command,
            20,
            &["a refit is not enough", "proj_out_2.weight", "export"],
        );
    }
}

#[test]
fn a_model_that_is_gone_or_another_is_said() {
    let scene = built();
    let model = scene.file("model.ts.onnx");
    let bytes = fs::read(&model).unwrap();
    fs::remove_file(&model).unwrap();
    let refit = ["refit", "engine.plan", "fused.safetensors"];
    scene.refuses(&refit, 1, &["model.ts.onnx", "is not there"]);
    // The same graph with other weights: one float of an initializer.
    let value = tensors(&scene, "base.safetensors")["proj_out_2.bias"].2[..16].to_vec();
    let at = bytes.windows(16).position(|w| w == value).unwrap();
    let mut other = bytes.clone();
    other[at + 1] ^= 1;
    fs::write(&model, &other).unwrap();
    scene.refuses(&refit, 1, &["model.ts.onnx", "other weights"]);
    scene.refuses(&["refit", "engine.plan", "--base"], 1, &["other weights"]);
    // Another graph.
    fs::copy(fixture("resnet/model.ts.onnx"), &model).unwrap();
    scene.refuses(&refit, 1, &["model.ts.onnx", "another structure"]);
    fs::write(&model, bytes).unwrap();
    scene.run(&refit).exits(0);
}

#[test]
fn an_output_that_cannot_be_written_is_found_out_first() {
    let scene = built();
    let to = |output: &str, says: &[&str]| {
        let args = ["refit", "engine.plan", "fused.safetensors", "-o", output];
        scene.refuses(&args, 3, says);
    };
    to("nowhere/x.plan", &["nowhere/x.plan", "create the folder"]);
    fs::create_dir(scene.file("folder")).unwrap();
    to("folder", &["folder", "name a file"]);
}

#[test]
fn a_weight_that_cannot_be_refitted_is_a_recompile() {
    let scene = built_with(&["--weights", "base.safetensors"]);
    // No CPU engine bakes a weight in; a manifest that says so stands for one that does.
    let bake_in = || {
        let mut m = manifest(&scene, "engine.plan");
        let row = m["weights"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .find(|w| w["name"].as_str().unwrap().ends_with("proj_out_2.bias"))
            .unwrap();
        let old = std::mem::replace(&mut row["fixed"], json!("folded into Conv"));
        scene.write("engine.plan.json", m.to_string());
        old
    };
    bake_in();
    altered(&scene, "bias.safetensors", |t| {
        let data = &mut t.get_mut("proj_out_2.bias").unwrap().2;
        for b in data.as_chunks_mut::<4>().0 {
            *b = (f32::from_le_bytes(*b) * 1.001).to_le_bytes();
        }
    });
    let refit = ["refit", "engine.plan", "bias.safetensors"];
    scene.refuses(
        &refit,
        20,
        &["proj_out_2.bias", "folded into Conv", "--fallback rebuild"],
    );
    // Weights that it can take are still refitted.
    scene
        .run(&["refit", "engine.plan", "fused.safetensors"])
        .exits(0);
    let done = scene.run(&[&refit[..], &["--fallback", "rebuild", "--json"]].concat());
    let report = done.exits(0).json();
    assert_eq!(
        (&report["rebuilt"], &report["verdict"]),
        (&json!(true), &json!("NEEDS_RECOMPILE"))
    );
    assert!(
        done.stderr.is_empty() || done.stderr.contains("compiled"),
        "{}",
        done.stderr
    );
    let rebuilt = plan(&scene);
    scene.run(&refit).exits(0).prints("LIVE");
    // The new engine is asked anew what it bakes in.
    assert!(bake_in().is_null());
    scene
        .run(&["refit", "engine.plan", "--base", "--fallback", "rebuild"])
        .exits(0);
    assert!(plan(&scene) != rebuilt);
    bake_in();
    // `run` recompiles without being asked, and says why.
    let done = scene.run(&[
        "run",
        "engine.plan",
        "--weights",
        "bias.safetensors",
        "--json",
    ]);
    let steps = done.exits(0).json()["transitions"].clone();
    assert_eq!(
        (&steps[0]["state"], &steps[0]["action"]),
        (&json!("NEEDS_RECOMPILE"), &json!("recompile"))
    );
    assert!(plan(&scene) == rebuilt);
}

#[test]
fn run_brings_the_plan_to_the_weights() {
    let scene = built();
    scene.bring("dit/io0.safetensors");
    let run = |more: &[&str]| {
        let args = ["run", "engine.plan", "--inputs", "io0.safetensors"];
        scene.run(&[&args[..], more].concat())
    };
    let expect = ["--expect", "io0.safetensors:fused.", "--json"];
    for source in [
        &["--weights", "fused.safetensors"],
        &["--lora", "lora.safetensors"],
    ] {
        run(&["--weights", "base.safetensors"]).exits(0);
        let (first, second) = (
            run(&[&source[..], &expect].concat()),
            run(&[&source[..], &expect].concat()),
        );
        let step = |done: &Done| done.exits(0).json()["transitions"][0].clone();
        assert_eq!(step(&first)["state"], "NEEDS_REFIT");
        assert_eq!(step(&first)["action"], "refit");
        assert!(
            step(&first)["reason"]
                .as_str()
                .unwrap()
                .starts_with("12 of ")
        );
        assert_eq!(step(&second)["state"], "LIVE");
        assert_eq!(first.json()["comparison"]["equal"], true);
    }
    let done = run(&[
        "--weights",
        "base.safetensors",
        "--expect",
        "io0.safetensors:base.",
    ]);
    done.exits(0);
    assert!(
        done.stderr.contains("NEEDS_REFIT: refit in "),
        "{}",
        done.stderr
    );
    let done = run(&["--weights", "base.safetensors"]);
    assert!(done.stderr.contains("LIVE"), "{}", done.stderr);
    // What does not fit stops it before it runs.
    fs::copy(
        fixture("resnet/fused.safetensors"),
        scene.file("resnet.safetensors"),
    )
    .unwrap();
    scene.refuses(
        &["run", "engine.plan", "--weights", "resnet.safetensors"],
        1,
        &["another model"],
    );
}

#[test]
fn the_map_is_printed_with_grades() {
    let scene = built_with(&["--weights", "base.safetensors"]);
    scene
        .run(&["map", "engine.plan"])
        .exits(0)
        .prints("transformer_blocks.0.attn1.to_q.weight | transpose")
        .prints("proven");
    let all = scene.run(&["map", "engine.plan", "--json"]).exits(0).json();
    assert_eq!(all["schema"], "trtmut.map/1");
    let rows = all["rows"].as_array().unwrap();
    assert!(
        rows.iter()
            .all(|r| r["grade"] == "proven" || r["grade"] == "constant")
    );
    assert_eq!(all["grades"]["proven"].as_u64().unwrap(), 44);
    let some = scene
        .run(&["map", "engine.plan", "--grade", "constant", "--json"])
        .exits(0)
        .json();
    assert!(
        some["rows"]
            .as_array()
            .unwrap()
            .iter()
            .all(|r| r["grade"] == "constant")
    );
    scene.refuses(
        &["map", "engine.plan", "--grade", "certain"],
        2,
        &["certain", "proven"],
    );
}

#[test]
fn rows_said_by_hand_are_taken_and_checked() {
    let scene = built_with(&["--base-weights", "base.safetensors"]);
    refit(&scene, &["fused.safetensors"]).exits(0);
    let whole = plan(&scene);
    // A name and values that nothing ties to the weight.
    altered(&scene, "odd.safetensors", |t| {
        let tensor = t.remove("transformer_blocks.0.attn1.to_q.weight").unwrap();
        t.insert("w17".into(), tensor);
    });
    let proving = [
        "build",
        "model.ts.onnx",
        "--shapes",
        "shapes.ts.json",
        "-o",
        "proven.plan",
    ];
    let proving = [&proving[..], &["--base-weights", "base.safetensors"]].concat();
    scene.run(&proving).exits(0);
    let weight = manifest(&scene, "proven.plan")["weights"]
        .as_array()
        .unwrap()
        .iter()
        .find(|w| w["mapping"]["recipe"]["source"] == "transformer_blocks.0.attn1.to_q.weight")
        .unwrap()["name"]
        .as_str()
        .unwrap()
        .to_owned();
    for file in ["engine.plan", "engine.plan.json"] {
        fs::remove_file(scene.file(file)).unwrap();
    }
    let build = ["build", "model.ts.onnx", "--shapes", "shapes.ts.json"];
    scene.run(&build).exits(0);
    let by_hand = |source: &str| {
        let recipe = json!({"kind": "tensor", "source": source, "steps": [{"step": "permute", "order": [1, 0]}]});
        let document =
            json!({"schema": "trtmut.mapping-override/1", "weights": {weight.clone(): recipe}});
        scene.write("map.json", document.to_string());
        [
            "refit",
            "engine.plan",
            "odd.safetensors",
            "--mapping",
            "map.json",
        ]
    };
    scene.run(&by_hand("w17")).exits(0);
    assert!(plan(&scene) == whole);
    // A tensor that is not there, one that does not fit, a document that is none.
    scene.refuses(&by_hand("w18"), 1, &["w18"]);
    scene.refuses(
        &by_hand("pos_embed.proj.weight"),
        1,
        &["pos_embed.proj.weight", "w17"],
    );
    let args = by_hand("w17");
    scene.write("map.json", "{");
    scene.refuses(&args, 1, &["map.json"]);
    fs::remove_file(scene.file("map.json")).unwrap();
    scene.refuses(&args, 1, &["map.json", "check the path"]);
}

#[test]
fn a_function_of_a_tensor_is_not_the_tensor_where_both_are_equal_in_the_base() {
    for (function, weight) in [
        ("tanh", "tanh"),
        ("clamp", "clamp"),
        ("relu", "relu"),
        ("clamp_exp", "exp"),
        ("beside", ""),
    ] {
        let scene = Scene::new();
        for file in ["model.onnx", "base.safetensors", "new.safetensors"] {
            scene.bring(&format!("functions/{function}/{file}"));
        }
        let build = ["build", "model.onnx", "-b", "cpu", "-o", "m.plan"];
        let own = [&build[..], &["--base-weights", "base.safetensors"]].concat();
        scene.run(&own).exits(0);
        scene
            .run(&["diff", "m.plan", "base.safetensors"])
            .exits(0)
            .prints("LIVE");
        let says = match function {
            // The tensor is read as it is, too, and both are one initializer.
            "beside" => "weight `a` stands for `a` and for what node `node_mul_1` reads".to_owned(),
            _ => format!("where weight `{weight}` comes from"),
        };
        let refit = ["refit", "m.plan", "new.safetensors"];
        scene.refuses(&refit, 1, &["`a`", &says]);
    }
}

#[test]
fn a_lora_gives_no_value_to_what_the_exporter_computed_of_its_tensor() {
    let scene = Scene::new();
    for file in ["dyn.onnx", "base.safetensors"] {
        scene.bring(&format!("cases/one_plus_w/{file}"));
    }
    scene
        .run(&["build", "dyn.onnx", "-b", "cpu", "-o", "m.plan"])
        .exits(0);
    // `1 + w` is a constant of the graph, and the record names `w`.
    let key = "input_layernorm.set_weight".to_owned();
    let lora = [(key, random(1, &[16]))].into_iter().collect();
    scene.write("lora.safetensors", safetensors(&lora));
    let refit = ["refit", "m.plan", "--lora", "lora.safetensors"];
    scene.refuses(&refit, 1, &["is computed from", "input_layernorm.weight"]);
}

#[test]
fn what_is_to_be_let_go_is_in_a_checkpoint_and_not_in_a_lora() {
    let scene = Scene::new();
    for file in [
        "model.ts.onnx",
        "shapes.ts.json",
        "base.safetensors",
        "lora_kohya.safetensors",
    ] {
        scene.bring(&format!("clip_text/{file}"));
    }
    let build = [
        "build",
        "model.ts.onnx",
        "-s",
        "shapes.ts.json",
        "-b",
        "cpu",
    ];
    let base = ["--base-weights", "base.safetensors", "-o", "te.plan"];
    scene.run(&[&build[..], &base].concat()).exits(0);
    let lora = ["te.plan", "--lora", "lora_kohya.safetensors"];
    let ignore = ["--ignore", "*q_proj*"];
    for command in ["refit", "diff"] {
        let args = [&[command][..], &lora, &ignore].concat();
        scene.refuses(&args, 1, &["a LoRA is fused whole", "leave `--ignore` out"]);
        scene.run(&[&[command][..], &lora].concat()).exits(0);
    }
    // Beside a checkpoint it is meant for that one's tensors.
    let both = [
        "refit",
        "te.plan",
        "base.safetensors",
        "--lora",
        "lora_kohya.safetensors",
    ];
    scene
        .run(&[&both[..], &["--ignore", "nothing.*"]].concat())
        .exits(0);
    // A pattern that lets nothing go is said to be one, and one that does is not.
    let file = "base.safetensors";
    for (pattern, idle) in [("nothing.*", true), ("*q_proj*", false)] {
        let run = ["run", "te.plan", "--weights", file, "--ignore", pattern];
        for args in [
            &["refit", "te.plan", file, "--ignore", pattern][..],
            &["diff", "te.plan", file, "--ignore", pattern],
            &run,
        ] {
            let done = scene.run(args);
            done.exits(0);
            let said = format!("`--ignore {pattern}` matches no tensor");
            assert_eq!(done.stderr.contains(&said), idle, "{}", done.stderr);
        }
    }
}

/// Exporters write equal values once: a LoRA of one of two layers would change both.
#[test]
fn a_lora_of_one_of_equal_tensors_is_refused() {
    for model in ["dynamo", "torchscript", "tied"] {
        let scene = Scene::new();
        for file in ["model.onnx", "base.safetensors", "lora.safetensors"] {
            scene.bring(&format!("equal/{model}/{file}"));
        }
        let build = ["build", "model.onnx", "--backend", "cpu"];
        scene
            .run(&[&build[..], &["-o", "plain.plan"]].concat())
            .exits(0);
        let proven = ["--base-weights", "base.safetensors", "-o", "proven.plan"];
        scene.run(&[&build[..], &proven].concat()).exits(0);
        let lora = ["--lora", "lora.safetensors"];
        for files in [
            &["plain.plan"][..],
            &["plain.plan", "base.safetensors"],
            &["proven.plan"],
            &["proven.plan", "base.safetensors"],
        ] {
            scene.refuses(&[&["refit"], files, &lora[..]].concat(), 1, &["weight `"]);
        }
    }
}

/// A file that is said to be a part says nothing of the other of two equal tensors.
#[test]
fn part_of_a_checkpoint_with_one_of_equal_tensors_is_refused() {
    let scene = Scene::new();
    for file in ["model.onnx", "base.safetensors"] {
        scene.bring(&format!("equal/torchscript/{file}"));
    }
    let base = ["--base-weights", "base.safetensors"];
    let build = ["build", "model.onnx", "--backend", "cpu", "-o", "p.plan"];
    scene.run(&[&build[..], &base].concat()).exits(0);
    let values: Vec<u8> = (0..64u8).flat_map(|v| f32::from(v).to_le_bytes()).collect();
    let part = TensorView::new(Dtype::F32, vec![8, 8], &values).unwrap();
    let part = safetensors::serialize([("a.weight", part)], None).unwrap();
    scene.write("part.safetensors", part);
    // The hint about base weights would lead in a circle.
    let says = [
        "several tensors fit it: `a.weight`, `b.weight`",
        "export the model again",
    ];
    scene.refuses(
        &["refit", "p.plan", "part.safetensors", "--partial"],
        1,
        &says,
    );
}

/// Without a base, too, a mask of the checkpoint is not called unused where the graph holds one with other values.
#[test]
fn another_mask_is_refused_without_a_base() {
    let scene = Scene::new();
    for file in ["model.onnx", "base.safetensors", "new.safetensors"] {
        scene.bring(&format!("equal/mask/{file}"));
    }
    scene
        .run(&["build", "model.onnx", "--backend", "cpu", "-o", "p.plan"])
        .exits(0);
    scene.run(&["refit", "p.plan", "base.safetensors"]).exits(0);
    scene.refuses(&["refit", "p.plan", "new.safetensors"], 1, &["`mask`"]);
}

/// A shape and its values.
type Numbers = (Vec<usize>, Vec<f32>);

/// A stack of `[3, heads, size]` rows as one of `[heads, 3, size]`, or the other way round.
fn restacked((shape, values): &Numbers, heads: usize, whole: bool) -> Numbers {
    let (rows, columns) = (shape[0], values.len() / shape[0]);
    let size = rows / 3 / heads;
    let mut out = vec![0.0; values.len()];
    for part in 0..3 {
        for head in 0..heads {
            for at in 0..size {
                let (a, b) = (
                    (part * heads + head) * size + at,
                    (head * 3 + part) * size + at,
                );
                let (from, to) = if whole { (b, a) } else { (a, b) };
                let row = &values[from * columns..(from + 1) * columns];
                out[to * columns..(to + 1) * columns].copy_from_slice(row);
            }
        }
    }
    (shape.clone(), out)
}

#[test]
fn a_stack_of_queries_keys_and_values_in_another_order_is_refused() {
    let (weight, bias) = (random(5, &[48, 24]), random(6, &[192]));
    let held = [("qkv.weight", weight), ("to_qkv.bias", bias)];
    let scene = Scene::new();
    let turned = |(shape, values): &Numbers| {
        let (rows, columns) = (shape[0], shape[1]);
        let at = |i: usize| values[i % rows * columns + i / rows];
        (vec![columns, rows], (0..values.len()).map(at).collect())
    };
    let net = Net::default()
        .input("x", &["2", "24"])
        .input("z", &["2", "192"])
        .output("y", &["2", "48"])
        .output("v", &["2", "192"])
        .weight("onnx::MatMul_1", &turned(&held[0].1))
        .weight("to_qkv.bias", &held[1].1)
        .node("qkv", "MatMul", &["x", "onnx::MatMul_1"], "y", &[])
        .node("to_qkv", "Add", &["z", "to_qkv.bias"], "v", &[]);
    scene.write("m.onnx", net.onnx(""));
    let file = |of: &dyn Fn(&Numbers) -> Numbers| {
        let all = held
            .iter()
            .map(|(name, tensor)| ((*name).to_owned(), of(tensor)));
        safetensors(&all.collect())
    };
    let tuned = |tensor: &Numbers| {
        let by = random(7, &tensor.0).1;
        let values = tensor.1.iter().zip(by).map(|(v, d)| v + 0.2 * d).collect();
        (tensor.0.clone(), values)
    };
    scene.write("base.safetensors", file(&Clone::clone));
    scene.write("tuned.safetensors", file(&tuned));
    scene.write("other.safetensors", file(&|tensor| random(8, &tensor.0)));
    let build = ["build", "m.onnx", "-b", "cpu", "-o", "m.plan"];
    scene
        .run(&[&build[..], &["--base-weights", "base.safetensors"]].concat())
        .exits(0);
    for whole in [false, true] {
        for of in [&Clone::clone as &dyn Fn(&_) -> _, &tuned] {
            // Two heads of 8 in the matrix, and of 32 in the vector.
            scene.write(
                "new.safetensors",
                file(&|tensor| restacked(&of(tensor), 2, whole)),
            );
            let says = [
                "`qkv.weight` has queries, keys and values in another order",
                "heads of 8",
                "heads of 32",
            ];
            scene.refuses(&["refit", "m.plan", "new.safetensors"], 1, &says);
        }
    }
    // In the model's own order any change is written.
    for new in ["tuned.safetensors", "other.safetensors"] {
        scene
            .run(&["refit", "m.plan", new, "-o", "new.plan", "--force"])
            .exits(0);
    }
}

/// `where(a > 0, x, x * w)` as an exporter folds it, with or without its record; `a` gives a weight too where it is `read`.
fn masked(record: bool, read: bool) -> Scene {
    let scene = Scene::new();
    let a: Vec<f32> = random(3, &[8]).1.iter().map(|v| v - 1.1).collect();
    let above: Vec<f32> = a.iter().map(|v| v + 1.3).collect();
    let (w, shape) = (random(1, &[8]), vec![8usize]);
    let mut net = Net::default()
        .input("x", &["batch", "8"])
        .output("y", &["batch", "8"])
        .weight("fc.w", &w)
        .mask("gt", &[false; 8])
        .node("scale", "Mul", &["x", "fc.w"], "wx", &[])
        .node("choose", "Where", &["gt", "x", "wx"], "z", &[]);
    net = if read {
        let net = net.weight("gate.a", &(shape.clone(), a.clone()));
        net.node("shift", "Add", &["z", "gate.a"], "y", &[])
    } else {
        net.node("end", "Identity", &["z"], "y", &[])
    };
    if record {
        net = net.folded_from("gt", &["gate.a", "val_0"]);
    }
    scene.write("m.onnx", net.onnx(""));
    let file = |a: &[f32], w: &(Vec<usize>, Vec<f32>)| {
        let all = [("gate.a", (shape.clone(), a.to_vec())), ("fc.w", w.clone())];
        safetensors(&all.map(|(n, t)| (n.to_owned(), t)).into_iter().collect())
    };
    scene.write("base.safetensors", file(&a, &w));
    scene.write("a.safetensors", file(&above, &w));
    scene.write("w.safetensors", file(&a, &random(2, &[8])));
    // Near enough to be known as a change of it where there is no base.
    let by = random(4, &[8]).1;
    let near: Vec<f32> = a.iter().zip(by).map(|(v, d)| v + 0.1 * d).collect();
    scene.write("near.safetensors", file(&near, &w));
    scene
}

#[test]
fn a_change_of_what_a_folded_mask_was_compared_for_is_not_lost() {
    for (record, read) in [(true, false), (true, true), (false, false)] {
        let scene = masked(record, read);
        let build = "build m.onnx --backend cpu --dim batch=1:2:4 -o m.plan --base-weights base.safetensors";
        let build: Vec<&str> = build.split(' ').collect();
        scene.run(&build).exits(0);
        (scene.run(&["diff", "m.plan", "base.safetensors"]).exits(0)).prints("LIVE");
        // What the mask is not made of is refitted as before.
        (scene.run(&["diff", "m.plan", "w.safetensors"]).exits(0)).prints("NEEDS_REFIT");
        (scene.run(&["diff", "m.plan", "a.safetensors"]).exits(0)).prints("UNKNOWN");
        let refit = ["refit", "m.plan", "a.safetensors"];
        scene.refuses(&refit, 1, &["`gate.a`"]);
        let rebuild = [&refit[..], &["--fallback", "rebuild"]].concat();
        scene.refuses(&rebuild, 1, &["`gate.a`"]);
        // What the messages offer works.
        let plan = fs::read(scene.file("m.plan")).unwrap();
        if record {
            let null = r#"{"schema": "trtmut.mapping-override/1", "weights": {"gt": null}}"#;
            scene.write("map.json", null);
            let by_hand = [&refit[..], &["--mapping", "map.json", "-o", "hand.plan"]].concat();
            scene.run(&by_hand).exits(0);
        }
        if !read {
            let ignore = [&refit[..], &["--ignore", "gate.a"]].concat();
            scene.run(&ignore).exits(0);
            assert!(plan == fs::read(scene.file("m.plan")).unwrap());
        }
    }
    // Without a base, too.
    let scene = masked(true, true);
    let build = "build m.onnx --backend cpu --dim batch=1:2:4 -o m.plan";
    scene.run(&build.split(' ').collect::<Vec<_>>()).exits(0);
    let refit = ["refit", "m.plan", "near.safetensors", "--trust-names"];
    scene.refuses(&refit, 1, &["where weight `gt` comes from", "`gate.a`"]);
}
