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
