//! `trtmut build`.

use crate::scene::Scene;
use serde_json::json;

fn sd_unet() -> Scene {
    let scene = Scene::new();
    scene
        .bring("sd_unet/model.ts.onnx")
        .bring("sd_unet/shapes.ts.json");
    scene
}

#[test]
fn a_build_leaves_a_plan_and_its_manifest() {
    let scene = sd_unet();
    let done = scene.run(&[
        "build",
        "model.ts.onnx",
        "--shapes",
        "shapes.ts.json",
        "--json",
    ]);
    done.exits(0);
    let report = done.json();
    assert_eq!(report["schema"], "trtmut.build/1");
    assert_eq!(report["plan"], "engine.plan");
    assert!(report["weights"]["refittable"].as_u64().unwrap() >= 208);
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(scene.file("engine.plan.json")).unwrap()).unwrap();
    assert_eq!(manifest["format"], "trtmut.manifest/2");
    assert_eq!(manifest["model"]["path"], "model.ts.onnx");
    assert_eq!(manifest["plan"]["digest"], report["digest"]);
    let text = manifest.to_string();
    assert!(
        !text.contains(scene.path().to_str().unwrap()),
        "an absolute path in {text}"
    );
}

#[test]
fn the_same_build_gives_the_same_bytes() {
    let scene = sd_unet();
    for name in ["a.plan", "b.plan"] {
        scene
            .run(&[
                "build",
                "model.ts.onnx",
                "--shapes",
                "shapes.ts.json",
                "-o",
                name,
            ])
            .exits(0);
    }
    let read = |n| std::fs::read(scene.file(n)).unwrap();
    assert!(read("a.plan") == read("b.plan"));
    assert!(read("a.plan.json") == read("b.plan.json"));
}

#[test]
fn dynamic_axes_without_a_spec_are_listed_with_a_template_that_works() {
    let scene = sd_unet();
    scene.refuses(
        &["build", "model.ts.onnx"],
        1,
        &["sample", "encoder_hidden_states", "--print-shapes"],
    );
    let done = scene.run(&["build", "model.ts.onnx", "--print-shapes"]);
    done.exits(0);
    scene.write("filled.json", &done.stdout);
    assert!(!scene.file("engine.plan").exists());
    let spec = done.json();
    let dims = spec["dims"].as_object().unwrap();
    assert!(!dims.is_empty());
    let ranges: Vec<String> = dims.keys().map(|d| format!("--dim={d}=1:2:64")).collect();
    let mut args = vec!["build", "model.ts.onnx", "--shapes", "filled.json"];
    args.extend(ranges.iter().map(String::as_str));
    scene.run(&args).exits(0);
}

#[test]
fn a_plan_of_another_model_is_not_overwritten() {
    let scene = sd_unet();
    scene
        .bring("resnet/model.dynamo.onnx")
        .bring("resnet/shapes.dynamo.json");
    let other = [
        "build",
        "model.dynamo.onnx",
        "--shapes",
        "shapes.dynamo.json",
    ];
    scene
        .run(&["build", "model.ts.onnx", "--shapes", "shapes.ts.json"])
        .exits(0);
    scene.refuses(&other, 1, &["engine.plan", "another model", "--force"]);
    scene.run(&[&other[..], &["--force"]].concat()).exits(0);
    scene.write("engine.plan", "notes, not a plan");
    std::fs::remove_file(scene.file("engine.plan.json")).unwrap();
    scene.refuses(&other, 1, &["engine.plan", "not a plan"]);
}

#[test]
fn errors_are_one_json_document_too() {
    let scene = Scene::new();
    let done = scene.run(&["build", "none.onnx", "--json"]);
    done.exits(1);
    let e = done.json();
    assert_eq!(e["schema"], "trtmut.error/1");
    assert_eq!(e["code"], "file-read");
    assert_eq!(e["exit_code"], json!(1));
    assert!(done.stderr.is_empty());
}

#[test]
fn backends_that_are_not_here_say_so() {
    let scene = sd_unet();
    let args = |b| {
        [
            "build",
            "model.ts.onnx",
            "--shapes",
            "shapes.ts.json",
            "--backend",
            b,
        ]
    };
    scene.refuses(&args("tensorrt"), 3, &["tensorrt"]);
    scene.refuses(&args("tensorrt-rtx"), 3, &["tensorrt-rtx"]);
    let done = scene.run(&args("tensorflow"));
    done.exits(2);
}
