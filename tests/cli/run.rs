//! `trtmut run`.

use crate::scene::{Scene, fixture};

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
        assert_eq!(
            done.json()["outputs"][0]["shape"],
            serde_json::json!([2, 4, 16, 8])
        );
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
    let dims = || -> serde_json::Value {
        let text = std::fs::read(scene.file("engine.plan.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()["profile"].clone()
    };
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
        text.replace("trtmut.manifest/2", "trtmut.manifest/9"),
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

const FUSED: &[&str] = &["--expect", IO, "--inputs", IO, "--rtol", "1e-3"];

#[test]
fn a_range_moves_under_the_weights_that_a_plan_was_refitted_with() {
    let outside = ["run", "engine.plan", "--dim", "B=4", "--on-range", "widen"];
    let fused = [&["run", "engine.plan"], FUSED].concat();
    for weights in [
        &["fused.safetensors"][..],
        &["--lora", "lora_kohya.safetensors"],
        &["--lora", "lora_kohya.safetensors", "--fuse", "peft"],
    ] {
        let scene = built();
        for file in ["fused.safetensors", "lora_kohya.safetensors"] {
            scene.bring(&format!("sd_unet/{file}"));
        }
        scene
            .run(&[&["refit", "engine.plan"], weights].concat())
            .exits(0);
        scene.run(&fused).exits(0).prints(":fused.");
        let json = [&outside[..], &["--verify", "--json"]].concat();
        let report = scene.run(&json).exits(0).json();
        assert_eq!(report["verification"]["equal"], true);
        scene.run(&fused).exits(0).prints(":fused.");
        scene
            .run(&["refit", "engine.plan", "--base"])
            .exits(0)
            .prints("40 of 571");
        scene.run(&fused).exits(0).prints(":base.");
    }
    // Where they cannot be had again, nothing is compiled.
    let scene = built();
    scene.bring("sd_unet/lora_kohya.safetensors");
    let lora = ["refit", "engine.plan", "--lora", "lora_kohya.safetensors"];
    scene.run(&lora).exits(0);
    std::fs::rename(scene.file("lora_kohya.safetensors"), scene.file("moved")).unwrap();
    scene.refuses(&outside, 1, &["lora_kohya.safetensors", "`recipe`"]);
    // The same name with other contents is another LoRA.
    let other = fixture("sd_unet/pytorch_lora_weights.safetensors");
    let mut bytes = std::fs::read(other).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 0x7f;
    scene.write("lora_kohya.safetensors", bytes);
    scene.refuses(&outside, 1, &["another value now", "`recipe`"]);
}

#[test]
fn verify_finds_an_engine_that_holds_something_else_than_its_manifest_says() {
    let scene = built();
    let verify = ["run", "engine.plan", "--inputs", IO, "--verify", "--json"];
    let report = scene.run(&verify).exits(0).json();
    assert!(report["verification"]["error"].as_f64().unwrap() < 1e-5);
    // One weight's bytes, and the digest of the plan in its manifest, as if it had been written so.
    let plan = std::fs::read(scene.file("engine.plan")).unwrap();
    let mut other = plan.clone();
    let data = 8 + u64::from_le_bytes(*plan.first_chunk().unwrap()) as usize;
    other[data..data + 512].fill(0x3f);
    assert!(plan != other);
    let manifest = std::fs::read_to_string(scene.file("engine.plan.json")).unwrap();
    let digest = |bytes: &[u8]| {
        scene.write("engine.plan", bytes);
        let map = trtmut::fsx::Map::open(scene.file("engine.plan")).unwrap();
        trtmut::engine::digest_of(&map).to_string()
    };
    let (before, after) = (digest(&plan), digest(&other));
    assert!(manifest.contains(&before));
    scene.write("engine.plan.json", manifest.replace(&before, &after));
    let report = scene.run(&verify).exits(40).json();
    assert_eq!(report["verification"]["equal"], false);
}

#[test]
fn a_stripped_plan_is_refused_and_filled_by_a_refit() {
    let scene = built();
    let manifest = std::fs::read_to_string(scene.file("engine.plan.json")).unwrap();
    let stripped = manifest.replacen('{', "{\"stripped\":true,", 1);
    scene.write("engine.plan.json", stripped);
    scene.refuses(
        &["run", "engine.plan", "--inputs", IO],
        1,
        &["stripped", "trtmut refit engine.plan --base"],
    );
    let base = scene.bring("sd_unet/base.safetensors");
    let diff = ["diff", "engine.plan", "base.safetensors", "--exit-code"];
    base.run(&diff).exits(10).prints("stripped");
    let filled = scene.run(&["refit", "engine.plan", "--base"]);
    filled.exits(0).prints("filled engine.plan");
    scene.run(&["run", "engine.plan", "--inputs", IO]).exits(0);
    scene
        .run(&["refit", "engine.plan", "--base"])
        .exits(0)
        .prints("LIVE");
    scene.run(&diff).exits(0);
}

#[test]
fn what_is_for_gpus_says_so() {
    let scene = built();
    for option in [
        &["--cuda-graph"][..],
        &["--weight-budget", "1G"],
        &["--profile-layers"],
    ] {
        let name = option[0];
        let leave = format!("leave `{name}` out");
        let says = [&name[2..], "computes on the CPU", leave.as_str()];
        let run = ["run", "engine.plan", "--inputs", IO];
        scene.refuses(&[&run[..], option].concat(), 1, &says);
    }
}

#[test]
fn several_streams_need_a_gpu() {
    let scene = built();
    let run = ["run", "engine.plan", "--inputs", IO];
    let done = scene.run(&[&run[..], &["--streams", "2"]].concat());
    done.exits(1);
    for says in ["streams=2", "takes all cores", "leave `--streams` out"] {
        assert!(done.stderr.contains(says), "{}", done.stderr);
    }
    // What it says helps, and one stream is what there is.
    scene.run(&run).exits(0);
    let one = scene.run(&[&run[..], &["--streams", "1", "--json"]].concat());
    assert!(one.exits(0).json()["throughput"].is_null());
    for wrong in ["0", "257", "two"] {
        scene.refuses(&[&run[..], &["--streams", wrong]].concat(), 2, &[wrong]);
    }
}

#[test]
fn a_run_that_cannot_be_done_leaves_the_plan_as_it_was() {
    let scene = built();
    for file in [
        "base.safetensors",
        "fused.safetensors",
        "lora_kohya.safetensors",
    ] {
        scene.bring(&format!("sd_unet/{file}"));
    }
    scene.write("junk.safetensors", b"\x10\0\0\0\0\0\0\0{\"a\":");
    std::fs::copy(
        fixture("dit/io0.safetensors"),
        scene.file("dit.safetensors"),
    )
    .unwrap();
    let weights = [
        "run",
        "engine.plan",
        "--base-weights",
        "base.safetensors",
        "--weights",
        "fused.safetensors",
    ];
    for (more, code, says) in [
        (&["--input", "nosuch=io0.safetensors"][..], 1, "tensors"),
        (&["--shape", "nosuch=1x2"], 1, "no input `nosuch`"),
        (&["--shape", "sample=1x4"], 1, "2 axes"),
        (&["--shape", "sample=1x5x8x8"], 1, "is fixed at 4"),
        (&["--shape", "sample=1x4x64x64"], 1, "32"),
        (&["--shape", "sample=wide"], 2, "not a shape"),
        (&["--dim", "B=many"], 2, "not a size"),
        (&["--dim", "B=99"], 1, "99"),
        (&["--inputs", "dit.safetensors"], 1, "inputs"),
        (&["--inputs", "junk.safetensors"], 1, "junk.safetensors"),
        (&["--inputs", "gone.safetensors"], 1, "gone.safetensors"),
        (&["--inputs", IO, "--inputs", IO], 1, "given twice"),
        (&["--expect", IO], 2, "--inputs"),
        (
            &["--inputs", IO, "--expect", "base.safetensors"],
            1,
            "outputs",
        ),
        (
            &["--inputs", IO, "--expect", "io0.safetensors:no."],
            1,
            "`no.`",
        ),
        (&["--inputs", IO, "--expect", "gone.npz"], 1, "gone.npz"),
        (&["--inputs", IO, "--expect", "junk.safetensors"], 1, "junk"),
        (&["--inputs", IO, "--save", "out.txt"], 1, "out.txt"),
        (&["--inputs", IO, "--save", "no/out.npz"], 3, "no"),
        (&["--inputs", IO, "--save", IO], 1, "is the same file"),
        (
            &["--inputs", IO, "--save", "fused.safetensors"],
            1,
            "is the same file",
        ),
        (&["--inputs", IO, "--lora", "gone.safetensors"], 1, "gone"),
        (&["--inputs", IO, "--lora", "junk.safetensors"], 1, "junk"),
        (
            &["--inputs", IO, "--weights", "gone.safetensors"],
            1,
            "gone",
        ),
        (&["--inputs", IO, "--cuda-graph"], 1, "cuda-graph"),
        (&["--inputs", IO, "--mapping", "gone.json"], 1, "gone.json"),
    ] {
        scene.refuses(&[&weights[..], more].concat(), code, &[says]);
    }
    // A range that moves and other weights are one step, which is not done by half.
    let outside = ["--dim", "B=4", "--on-range", "widen", "--expect", IO];
    scene.refuses(&[&weights[..], &outside].concat(), 2, &["--expect"]);
    let outside = [&weights[..], &outside[..4], &["--verify", "--json"]].concat();
    let report = scene.run(&outside).exits(0).json();
    assert_eq!(report["transitions"][0]["action"], "recompile");
    assert_eq!(report["transitions"].as_array().unwrap().len(), 1);
    assert_eq!(report["verification"]["equal"], true);
    scene
        .run(&[&["run", "engine.plan"], FUSED].concat())
        .exits(0)
        .prints(":fused.");
}
