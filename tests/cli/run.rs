//! `trtmut run`.

use crate::scene::{Scene, fixture};
use serde_json::{Value, json};

fn built() -> Scene {
    let scene = Scene::new();
    scene
        .bring("sd_unet/model.ts.onnx")
        .bring("sd_unet/shapes.ts.json")
        .bring("sd_unet/io0.safetensors");
    scene
        .run(&["build", "model.ts.onnx", "--shapes", "shapes.ts.json"])
        .exits(0);
    scene
}

fn manifest(scene: &Scene) -> Value {
    serde_json::from_slice(&std::fs::read(scene.file("engine.plan.json")).unwrap()).unwrap()
}

const IO: &str = "io0.safetensors";

#[test]
fn outputs_equal_what_torch_computed() {
    let scene = built();
    let done = scene.run(&[
        "run",
        "engine.plan",
        "--inputs",
        IO,
        "--expect",
        IO,
        "--json",
    ]);
    done.exits(0);
    let report = done.json();
    assert_eq!(report["schema"], "trtmut.run/1");
    let comparison = &report["comparison"];
    assert_eq!(comparison["prefix"], "base.");
    assert_eq!(comparison["equal"], true);
    let output = &comparison["outputs"][0]["difference"];
    assert!(output["relative_l2"].as_f64().unwrap() < 1e-4);
    assert_eq!(report["dims"]["B"], 1);
}

#[test]
fn a_difference_is_exit_40_and_says_where() {
    let scene = built();
    let wrong = format!("{IO}:fused.");
    let done = scene.run(&["run", "engine.plan", "--inputs", IO, "--expect", &wrong]);
    done.exits(40).prints("DIFFERS").prints("[0, ");
}

#[test]
fn missing_inputs_are_drawn_and_named() {
    let scene = built();
    let run = |seed: &str| {
        let done = scene.run(&[
            "run",
            "engine.plan",
            "--dim",
            "B=2",
            "--shape",
            "encoder_hidden_states=2x5x32",
            "--dim",
            "H=16",
            "--dim",
            "W=8",
            "--seed",
            seed,
            "--save",
            "out.safetensors",
            "--json",
        ]);
        done.exits(0);
        assert_eq!(done.json()["outputs"][0]["shape"], json!([2, 4, 16, 8]));
        assert_eq!(done.json()["inputs"][0]["random"], true);
        std::fs::read(scene.file("out.safetensors")).unwrap()
    };
    let first = run("1");
    assert!(first == run("1"), "the same seed gave other outputs");
    assert!(first != run("2"), "another seed gave the same outputs");
    scene.refuses(
        &["run", "engine.plan", "--expect", IO],
        2,
        &["sample", "--inputs"],
    );
}

#[test]
fn npz_and_npy_go_in_and_out() {
    let scene = built();
    let args = ["run", "engine.plan", "--inputs", IO];
    scene
        .run(&[&args[..], &["--save", "a.npz"]].concat())
        .exits(0);
    scene
        .run(&[&args[..], &["--save", "a.safetensors"]].concat())
        .exits(0);
    // What was saved is what the same inputs give again.
    scene
        .run(&[&args[..], &["--expect", "a.npz", "--rtol", "1e-6"]].concat())
        .exits(0);
    scene.refuses(
        &[&args[..], &["--save", "a.txt"]].concat(),
        1,
        &["a.txt", ".safetensors"],
    );
}

#[test]
fn latency_is_reported_over_the_asked_runs() {
    let scene = built();
    let done = scene.run(&[
        "run",
        "engine.plan",
        "--inputs",
        IO,
        "--iters",
        "7",
        "--warmup",
        "1",
        "--json",
    ]);
    done.exits(0);
    let latency = &done.json()["latency"];
    assert_eq!(
        (latency["iters"].as_u64(), latency["warmup"].as_u64()),
        (Some(7), Some(1))
    );
    let ns = |k: &str| latency[k].as_u64().unwrap();
    assert!(ns("min_ns") <= ns("p50_ns") && ns("p50_ns") <= ns("p99_ns") && ns("min_ns") > 0);
}

#[test]
fn inputs_that_do_not_fit_are_all_named() {
    let scene = built();
    // One input of the wrong type, one of the wrong rank, one that the model does not have.
    let f64s = [1u8; 8];
    let views = |items: Vec<(&str, safetensors::Dtype, Vec<usize>, &[u8])>| {
        let views: Vec<_> = items
            .into_iter()
            .map(|(n, d, s, b)| {
                let b: Vec<u8> = b
                    .iter()
                    .copied()
                    .cycle()
                    .take(s.iter().product::<usize>() * d.bitsize() / 8)
                    .collect();
                (n.to_owned(), d, s, b)
            })
            .collect();
        let list: Vec<_> = views
            .iter()
            .map(|(n, d, s, b)| {
                (
                    n.clone(),
                    safetensors::tensor::TensorView::new(*d, s.clone(), b).unwrap(),
                )
            })
            .collect();
        safetensors::serialize(list, None).unwrap()
    };
    let bytes = views(vec![
        ("sample", safetensors::Dtype::F64, vec![1, 4, 8, 8], &f64s),
        (
            "encoder_hidden_states",
            safetensors::Dtype::F32,
            vec![7, 32],
            &f64s,
        ),
        ("nonsense", safetensors::Dtype::F32, vec![1], &f64s),
    ]);
    scene.write("bad.safetensors", bytes);
    scene.refuses(
        &["run", "engine.plan", "--inputs", "bad.safetensors"],
        1,
        &["`sample` is f64", "rank 2", "no input `nonsense`"],
    );
}

#[test]
fn sizes_outside_the_built_range_name_the_range() {
    let scene = built();
    scene.refuses(
        &["run", "engine.plan", "--shape", "sample=1x4x64x64"],
        1,
        &["sample", "64", "32"],
    );
}

#[test]
fn sizes_outside_can_recompile_or_widen() {
    let scene = built();
    let dims = || manifest(&scene)["profile"].clone();
    let before = dims();
    let run = |policy: &str, shape: &str| {
        scene.run(&["run", "engine.plan", "--shape", shape, "--on-range", policy])
    };
    // In range: nothing is compiled.
    run("widen", "sample=1x4x16x16").exits(0);
    assert_eq!(dims(), before);
    let done = run("widen", "sample=1x4x40x16");
    done.exits(0).prints("1x4x40x16");
    assert!(
        done.stderr.contains("H 8 to 32") && done.stderr.contains("H 8 to 40"),
        "{}",
        done.stderr
    );
    assert_eq!(dims()["inputs"][0]["axes"][2]["max"], 40);
    // Still inside after widening, for the old sizes and the new.
    run("error", "sample=1x4x40x8").exits(0);
    run("error", "sample=3x4x8x8").exits(0);
    run("recompile", "sample=1x4x48x8").exits(0);
    assert_eq!(dims()["inputs"][0]["axes"][2]["min"], 48);
    run("error", "sample=1x4x8x8").exits(1);
    // Without the model there is nothing to compile.
    std::fs::remove_file(scene.file("model.ts.onnx")).unwrap();
    scene.refuses(
        &[
            "run",
            "engine.plan",
            "--shape",
            "sample=1x4x8x8",
            "--on-range",
            "widen",
        ],
        1,
        &["model.ts.onnx", "is not there"],
    );
}

#[test]
fn a_recompile_for_other_sizes_keeps_refitted_weights() {
    let scene = Scene::new();
    for file in [
        "model.ts.onnx",
        "shapes.ts.json",
        "base.safetensors",
        "fused.safetensors",
        "pytorch_lora_weights.safetensors",
        "io2.safetensors",
    ] {
        scene.bring(&format!("dit/{file}"));
    }
    let build = ["build", "model.ts.onnx", "--shapes", "shapes.ts.json"];
    let lora = ["--lora", "pytorch_lora_weights.safetensors:1"];
    let peft = [&lora[..], &["--fuse", "peft"]].concat();
    for with in [&["fused.safetensors"][..], &lora, &peft] {
        scene.run(&build).exits(0);
        scene
            .run(&[&["refit", "engine.plan"], with].concat())
            .exits(0);
        let before = manifest(&scene);
        for (policy, size) in [("widen", "B=6"), ("recompile", "B=7"), ("widen", "B=1")] {
            let wide = ["run", "engine.plan", "--dim", size, "--on-range", policy];
            scene.run(&wide).exits(0);
        }
        let after = manifest(&scene);
        assert_eq!(before["weights"], after["weights"]);
        assert_eq!(before["recipe"], after["recipe"]);
        assert_ne!(before["profile"], after["profile"]);
        let io = ["--inputs", "io2.safetensors:in."];
        let expect = ["--expect", "io2.safetensors:fused."];
        scene
            .run(&[&["run", "engine.plan"], &io[..], &expect].concat())
            .exits(0);
        scene.run(&["refit", "engine.plan", "--base"]).exits(0);
    }
    // Weights that are asked for along with the sizes.
    scene
        .run(&["run", "engine.plan", "--weights", "fused.safetensors"])
        .exits(0);
    let wide = ["run", "engine.plan", "--dim", "B=9", "--on-range", "widen"];
    let again = [&wide[..], &["--weights", "base.safetensors"]].concat();
    scene.run(&again).exits(0);
    assert_eq!(manifest(&scene)["recipe"]["ingredients"], json!([]));
    // What cannot be had again is not lost.
    scene
        .run(&["refit", "engine.plan", "fused.safetensors"])
        .exits(0);
    let wide = ["run", "engine.plan", "--dim", "B=12", "--on-range", "widen"];
    let fused = std::fs::read(scene.file("fused.safetensors")).unwrap();
    std::fs::copy(
        scene.file("base.safetensors"),
        scene.file("fused.safetensors"),
    )
    .unwrap();
    scene.refuses(&wide, 1, &["other weights than its model", "refit --base"]);
    std::fs::remove_file(scene.file("fused.safetensors")).unwrap();
    scene.refuses(&wide, 1, &["fused.safetensors", "refit --base"]);
    scene.write("fused.safetensors", fused);
    scene.run(&wide).exits(0);
}

#[test]
fn a_plan_cut_short_or_of_another_manifest_is_refused() {
    let scene = built();
    let plan = std::fs::read(scene.file("engine.plan")).unwrap();
    scene.write("cut.plan", &plan[..plan.len() / 2]);
    std::fs::copy(scene.file("engine.plan.json"), scene.file("cut.plan.json")).unwrap();
    scene.refuses(&["run", "cut.plan"], 1, &["cut.plan.json", "bytes long"]);
    let mut other = plan.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    scene.write("cut.plan", &other);
    scene.refuses(&["run", "cut.plan"], 1, &["does not belong", "digest"]);
    scene.write("alone.plan", &plan);
    scene.refuses(&["run", "alone.plan"], 1, &["alone.plan.json", "manifest"]);
    let text = std::fs::read_to_string(scene.file("engine.plan.json")).unwrap();
    scene.write(
        "alone.plan.json",
        text.replace("trtmut.manifest/1", "trtmut.manifest/9"),
    );
    scene.refuses(&["run", "alone.plan"], 1, &["trtmut.manifest/9"]);
}

#[test]
fn an_interrupted_replacement_is_finished() {
    let scene = built();
    // As a kill between the two renames leaves it: the new plan, the old manifest, the new manifest waiting.
    std::fs::rename(
        scene.file("engine.plan.json"),
        scene.file("engine.plan.json.next"),
    )
    .unwrap();
    let old = std::fs::read_to_string(scene.file("engine.plan.json.next")).unwrap();
    let digest = old.split("blake3:").nth(1).unwrap()[..64].to_owned();
    scene.write("engine.plan.json", old.replace(&digest, &"0".repeat(64)));
    scene.run(&["run", "engine.plan", "--inputs", IO]).exits(0);
    assert!(!scene.file("engine.plan.json.next").exists());
    assert_eq!(
        std::fs::read_to_string(scene.file("engine.plan.json")).unwrap(),
        old
    );
}

#[test]
fn a_plan_moves_with_its_manifest_and_runs_without_the_model() {
    let scene = built();
    std::fs::create_dir(scene.file("elsewhere")).unwrap();
    for name in ["engine.plan", "engine.plan.json"] {
        std::fs::rename(scene.file(name), scene.file("elsewhere").join(name)).unwrap();
    }
    std::fs::remove_file(scene.file("model.ts.onnx")).unwrap();
    let io = fixture("sd_unet/io1.safetensors");
    let io = io.to_str().unwrap();
    scene
        .run(&[
            "run",
            "elsewhere/engine.plan",
            "--inputs",
            io,
            "--expect",
            io,
        ])
        .exits(0);
}
