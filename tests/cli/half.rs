//! `build --convert`: fixtures in half precision, refitted from checkpoints in f32.

use crate::scene::{Scene, fixture};
use std::fs;

fn path(name: &str) -> String {
    fixture(name).display().to_string()
}

/// A scene with a plan of a fixture, built of its base.
fn built(name: &str, exporter: &str, more: &[&str]) -> Scene {
    let scene = Scene::new();
    let model = path(&format!("{name}/model.{exporter}.onnx"));
    let shapes = path(&format!("{name}/shapes.{exporter}.json"));
    let base = path(&format!("{name}/base.safetensors"));
    let args = ["build", &model, "-s", &shapes, "-w", &base, "-b", "cpu"];
    let done = scene.run(&[&args[..], more].concat());
    done.exits(0)
        .prints("converted to ")
        .prints("every constant explained");
    scene
}

fn outputs(scene: &Scene, name: &str, prefix: &str, tolerance: &str) {
    let io = path(&format!("{name}/io0.safetensors"));
    let expect = format!("{io}:{prefix}.");
    let args = ["run", "engine.plan", "--inputs", &io, "--expect", &expect];
    let near = ["--rtol", tolerance, "--atol", tolerance];
    scene.run(&[&args[..], &near].concat()).exits(0);
}

#[test]
fn fixtures_compute_and_are_refitted_in_half_precision() {
    let cases = [
        ("resnet", "ts", "fp16"),
        ("dit", "dynamo", "fp16"),
        ("clip_text", "ts", "fp16"),
        ("sd_unet", "dynamo", "fp16"),
        ("vae_decoder", "ts", "bf16"),
    ];
    for (name, exporter, half) in cases {
        let scene = built(name, exporter, &["--convert", half]);
        let built = fs::read(scene.file("engine.plan")).unwrap();
        let live = |checkpoint: &str| {
            let done = scene.run(&["diff", "engine.plan", &path(checkpoint), "--exit-code"]);
            done.exits(0).prints("LIVE");
        };
        let (base, fused) = (
            format!("{name}/base.safetensors"),
            format!("{name}/fused.safetensors"),
        );
        live(&base);
        live(&format!("{name}/model.{exporter}.onnx"));
        scene.run(&["run", "engine.plan", "--verify"]).exits(0);
        scene
            .run(&["refit", "engine.plan", &path(&fused), "--verify"])
            .exits(0);
        live(&fused);
        scene.run(&["refit", "engine.plan", "--base"]).exits(0);
        assert!(
            fs::read(scene.file("engine.plan")).unwrap() == built,
            "{name}: other bytes"
        );
    }
}

#[test]
fn what_torch_computes_is_met_before_and_after_a_refit() {
    let scene = built("dit", "dynamo", &["--convert", "fp16"]);
    outputs(&scene, "dit", "base", "2e-2");
    scene
        .run(&["refit", "engine.plan", &path("dit/fused.safetensors")])
        .exits(0);
    outputs(&scene, "dit", "fused", "2e-2");
}

#[test]
fn arguments_of_sines_stay_in_f32_whoever_exported_them() {
    for exporter in ["dynamo", "ts"] {
        let scene = Scene::new();
        let model = path(&format!("sd_unet/model.{exporter}.onnx"));
        let shapes = path(&format!("sd_unet/shapes.{exporter}.json"));
        let args = [
            "build",
            &model,
            "-s",
            &shapes,
            "-b",
            "cpu",
            "--convert",
            "fp16",
        ];
        scene
            .run(&args)
            .exits(0)
            .prints("between the inputs and a sine");
    }
}

#[test]
fn what_cannot_be_converted_is_refused_and_changes_nothing() {
    let scene = Scene::new();
    let half = path("cases/half_model/h.onnx");
    let (model, shapes) = (path("resnet/model.ts.onnx"), path("resnet/shapes.ts.json"));
    scene.refuses(
        &["build", &half, "-b", "cpu", "--convert", "fp16"],
        1,
        &[
            "the model cannot be converted to fp16",
            "f16 values already",
            "leave `--convert` out",
        ],
    );
    let of_resnet = |more: &[&'static str]| -> Vec<String> {
        let args = ["build", &model, "-s", &shapes, "-b", "cpu"];
        args.iter().chain(more).map(|a| (*a).to_owned()).collect()
    };
    scene.refuses(
        &of_resnet(&["--convert", "fp16", "--f32-layers", "*nothing*"]),
        1,
        &["--f32-layers *nothing*", "no node has a name like it"],
    );
    scene.refuses(
        &of_resnet(&["--opt-level", "3"]),
        1,
        &[
            "its only options are --convert and, with it, --f32-layers",
            "leave `--opt-level` out",
        ],
    );
    scene.refuses(&of_resnet(&["--convert", "fp16", "--fp16"]), 2, &["--fp16"]);
    let adopt = ["adopt", "e.plan", "--model", &model, "--convert", "fp16"];
    scene
        .write("e.plan", "")
        .refuses(&adopt, 2, &["`adopt` takes no `--convert`"]);
}

#[test]
fn what_is_only_for_converted_models_says_so_and_its_hints_work() {
    let (model, shapes) = (path("resnet/model.ts.onnx"), path("resnet/shapes.ts.json"));
    for (given, kept) in [
        (&["--f32-layers", "*conv1*"][..], true),
        (&["--fp16"], false),
        (&["--bf16"], false),
    ] {
        let scene = Scene::new();
        let build = ["build", &model, "-s", &shapes, "-b", "cpu", "-o", "e.plan"];
        let refused = scene.run(&[&build[..], given].concat());
        refused.exits(1);
        let hints = refused.stderr.split('`');
        let hints: Vec<&str> = hints.filter(|h| h.starts_with("--convert ")).collect();
        assert!(!hints.is_empty(), "{}", refused.stderr);
        for hint in hints {
            let hint: Vec<&str> = hint.split(' ').collect();
            let given = if kept { given } else { &[] };
            let all = [&build[..], given, &hint, &["--force"]].concat();
            scene.run(&all).exits(0).prints("converted to");
        }
    }
}

#[test]
fn every_way_to_a_plan_converts_alike() {
    let scene = built(
        "resnet",
        "ts",
        &["--convert", "fp16", "--f32-layers", "*conv1*"],
    );
    let sizes = |plan: &str| fs::metadata(scene.file(plan)).unwrap().len();
    let half = sizes("engine.plan");
    // Compiled again, with other weights.
    let fused = path("resnet/fused.safetensors");
    let io = path("resnet/io0.safetensors");
    let widen = ["run", "engine.plan", "--dim", "B=5", "--on-range", "widen"];
    scene.run(&widen).exits(0);
    assert_eq!(sizes("engine.plan"), half);
    scene.run(&["refit", "engine.plan", &fused]).exits(0);
    let further = ["run", "engine.plan", "--dim", "B=6", "--on-range", "widen"];
    scene.run(&further).exits(0);
    assert_eq!(sizes("engine.plan"), half);
    scene
        .run(&["diff", "engine.plan", &fused, "--exit-code"])
        .exits(0)
        .prints("LIVE");
    // As a step of a run.
    let (model, shapes) = (path("resnet/model.ts.onnx"), path("resnet/shapes.ts.json"));
    let once = [
        "run",
        &model,
        "-s",
        &shapes,
        "-b",
        "cpu",
        "--convert",
        "fp16",
        "--inputs",
        &io,
    ];
    scene.run(&once).exits(0);
}

/// `clip_text`'s base in bf16, with `value` as the first number of a matrix that the plan has in f16.
fn in_bf16(value: f32) -> Vec<u8> {
    use safetensors::{Dtype, SafeTensors, tensor::TensorView};
    let file = fs::read(fixture("clip_text/base.safetensors")).unwrap();
    let base = SafeTensors::deserialize(&file).unwrap();
    let halves: Vec<(String, Vec<usize>, Vec<u8>)> = base
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), Dtype::F32, "{name}");
            let mut values: Vec<f32> = (view.data().as_chunks::<4>().0.iter())
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            if name.ends_with("layers.0.mlp.fc1.weight") {
                values[0] = value;
            }
            let bytes = values
                .iter()
                .map(|v| half::bf16::from_f32(*v).to_le_bytes());
            (
                name.to_owned(),
                view.shape().to_vec(),
                bytes.flatten().collect(),
            )
        })
        .collect();
    let views =
        (halves.iter()).map(|(n, s, b)| (n, TensorView::new(Dtype::BF16, s.clone(), b).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn a_type_as_wide_that_reaches_further_is_not_written_as_infinity() {
    let scene = built("clip_text", "ts", &["--convert", "fp16"]);
    scene.write("small.safetensors", in_bf16(2.5));
    scene
        .run(&["refit", "engine.plan", "small.safetensors"])
        .exits(0);
    let before = fs::read(scene.file("engine.plan")).unwrap();
    scene.write("large.safetensors", in_bf16(1e30));
    scene.refuses(
        &["refit", "engine.plan", "large.safetensors"],
        1,
        &["too large for f16"],
    );
    assert!(before == fs::read(scene.file("engine.plan")).unwrap());
}
