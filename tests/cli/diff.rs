//! `trtmut diff` of plans, where manifests tell what made them.

use crate::scene::Scene;
use serde_json::{Value, json};

/// A plan in two copies, whose manifests say that TensorRT compiled them on these GPUs with these options.
fn two_plans(left: [&str; 3], right: [&str; 3], options: [Value; 2]) -> Scene {
    let scene = Scene::new();
    scene.bring("dit/model.ts.onnx").bring("dit/shapes.ts.json");
    let build = [
        "build",
        "model.ts.onnx",
        "--shapes",
        "shapes.ts.json",
        "--backend",
        "cpu",
        "-o",
        "a.plan",
    ];
    scene.run(&build).exits(0);
    let plan = std::fs::read(scene.file("a.plan")).unwrap();
    let text = std::fs::read(scene.file("a.plan.json")).unwrap();
    let mut manifest: Value = serde_json::from_slice(&text).unwrap();
    for ((name, [gpu, capability, driver]), options) in
        [("a", left), ("b", right)].into_iter().zip(options)
    {
        manifest["backend"] = json!({
            "backend": "tensorrt",
            "library": "TensorRT 10.13.0",
            "device": {"gpu": gpu, "compute_capability": capability, "driver": driver},
        });
        manifest["options"] = options;
        scene.write(&format!("{name}.plan"), &plan);
        scene.write(&format!("{name}.plan.json"), manifest.to_string());
    }
    scene
}

#[test]
fn machines_matter_as_far_as_engines_depend_on_them() {
    let diff = ["diff", "a.plan", "b.plan", "--exit-code"];
    let (a10, a40, t4) = (
        ["A10", "8.6", "570"],
        ["A40", "8.6", "570"],
        ["T4", "7.5", "570"],
    );
    let any = json!({"hardware-compat": "ampere-plus"});
    let same = json!({"hardware-compat": "same-compute-capability"});
    let here = json!({});
    for (left, right, options, code) in [
        (a10, a10, &here, 0),
        // An engine runs with another driver as it is.
        (a10, ["A10", "8.6", "580"], &here, 0),
        (a10, a40, &here, 20),
        (a10, a40, &same, 0),
        (a10, ["A40", "8.9", "570"], &same, 20),
        (a10, ["B200", "10.0", "570"], &any, 0),
        (a10, t4, &any, 20),
    ] {
        let scene = two_plans(left, right, [options.clone(), options.clone()]);
        let done = scene.run(&diff);
        done.exits(code);
        if code == 20 {
            done.prints("NEEDS_RECOMPILE  ");
        }
    }
}

#[test]
fn options_that_say_the_default_are_no_change() {
    let diff = ["diff", "a.plan", "b.plan", "--exit-code"];
    let gpu = ["A10", "8.6", "570"];
    let said = json!({"refit": "full", "tf32": "false", "workspace": "1G"});
    let plain = json!({"workspace": "1024M"});
    two_plans(gpu, gpu, [said, plain.clone()])
        .run(&diff)
        .exits(0);
    two_plans(gpu, gpu, [plain, json!({"tf32": "true"})])
        .run(&diff)
        .exits(20)
        .prints("tf32");
}

#[test]
fn a_lost_change_stays_undecided_beside_a_wider_range() {
    let scene = Scene::new();
    for file in ["model.ts.onnx", "shapes.ts.json", "base.safetensors"] {
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
    scene.run(&build).exits(0);
    // A bias under a name that no weight has, and with other values: its change may be lost.
    let file = std::fs::read(scene.file("base.safetensors")).unwrap();
    let base = safetensors::SafeTensors::deserialize(&file).unwrap();
    let mut views: Vec<_> = base.iter().map(|(n, v)| (n.to_owned(), v)).collect();
    let known = views
        .iter()
        .position(|(n, _)| n.ends_with("layers.0.mlp.fc1.bias"));
    let (name, view) = views.swap_remove(known.unwrap());
    let other: Vec<u8> = view.data().iter().rev().map(|b| b & 0x3f).collect();
    let other = safetensors::tensor::TensorView::new(view.dtype(), view.shape().to_vec(), &other);
    views.push((
        name.replace("fc1.bias", "fc1.bias_of_another"),
        other.unwrap(),
    ));
    let lost = safetensors::serialize(views, None).unwrap();
    scene.write("lost.safetensors", lost);
    let diff = ["diff", "engine.plan", "lost.safetensors", "--exit-code"];
    scene.run(&diff).exits(30);
    let wider = [
        &diff[..],
        &["--shapes", "shapes.ts.json", "--dim", "B=1:2:64"],
    ]
    .concat();
    let done = scene.run(&wider);
    done.exits(30);
    assert!(!done.stdout.contains("next:"), "{}", done.stdout);
}

#[test]
fn what_has_no_place_in_a_comparison_is_refused() {
    let scene = two_plans(
        ["A10", "8.6", "570"],
        ["A10", "8.6", "570"],
        [json!({}), json!({})],
    );
    scene
        .bring("dit/base.safetensors")
        .bring("dit/pytorch_lora_weights.safetensors");
    let (plan, model, lora) = (
        "a.plan",
        "model.ts.onnx",
        "pytorch_lora_weights.safetensors",
    );
    let refused: [(&[&str], &str); 5] = [
        (&[plan, "b.plan", model], "is compared alone"),
        (&[model, model, "b.plan"], "is compared alone"),
        (
            &[model, "base.safetensors", "--lora", lora],
            "LoRAs are compared",
        ),
        (&[plan, "b.plan", "--lora", lora], "LoRAs are compared"),
        (
            &[plan, "b.plan", "--shapes", "shapes.ts.json"],
            "shapes belong to",
        ),
    ];
    for (args, says) in refused {
        scene.refuses(&[&["diff"], args].concat(), 1, &[says]);
    }
    // What the hints say instead.
    scene
        .run(&["diff", plan, "--lora", lora])
        .exits(0)
        .prints("NEEDS_REFIT");
    scene.run(&["diff", plan, "b.plan"]).exits(0);
    scene
        .run(&["diff", plan, model, "--shapes", "shapes.ts.json"])
        .exits(0);
}
