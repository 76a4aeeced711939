//! What a build with fewer features says of those that it leaves out, and what it does without them.

use crate::scene::Scene;

const FEATURES: [(&str, bool); 4] = [
    ("embedded", cfg!(feature = "embedded")),
    ("onnxruntime", cfg!(feature = "onnxruntime")),
    ("remote", cfg!(feature = "remote")),
    ("tensorrt", cfg!(feature = "tensorrt")),
];

#[test]
fn a_build_says_which_features_it_has() {
    let scene = Scene::new();
    let json = scene.run(&["doctor", "--json"]).exits(0).json();
    let shown = scene.run(&["doctor"]).stdout;
    let version = scene.run(&["--version", "--verbose"]).stdout;
    let features = version.lines().find(|l| l.starts_with("features: "));
    for (name, has) in FEATURES {
        assert_eq!(json["features"][name], has, "{name}");
        let left_out = format!("without the feature `{name}`");
        assert_eq!(shown.contains(&left_out), !has, "{shown}");
        assert_eq!(features.unwrap().contains(name), has, "{version}");
    }
}

#[cfg(not(feature = "embedded"))]
#[test]
fn a_plan_of_an_engine_that_is_left_out_is_compared_and_refitted_and_not_run() {
    // One that is there although nothing here may be able to build it.
    let scene = crate::upgrade::scene();
    scene
        .run(&["diff", "p.plan", "new.safetensors"])
        .exits(0)
        .prints("NEEDS_REFIT");
    scene.run(&["refit", "p.plan", "new.safetensors"]).exits(0);
    scene
        .run(&["diff", "p.plan", "new.safetensors"])
        .exits(0)
        .prints("LIVE");
    scene.run(&["inspect", "p.plan"]).exits(0);
    let says = [
        "`cpu` is not available",
        "without the feature `embedded`",
        "cargo install --path . --features embedded",
    ];
    scene.refuses(&["run", "p.plan", "--inputs", "in.safetensors"], 3, &says);
    scene.refuses(&["build", "m.onnx", "-b", "cpu"], 3, &says);
    let can = scene.run(&["doctor"]).exits(0).stdout.clone();
    assert!(
        can.lines()
            .any(|l| l.starts_with("cpu ") && l.ends_with(": refit")),
        "{can}"
    );
}

#[cfg(not(feature = "onnxruntime"))]
#[test]
fn onnxruntime_is_refused_where_it_is_left_out() {
    let scene = Scene::new();
    scene.bring("upgrade/0.1.0/m.onnx");
    let says = [
        "`onnxruntime` is not available",
        "cargo install --path . --features onnxruntime",
    ];
    scene.refuses(&["build", "m.onnx", "-b", "onnxruntime"], 3, &says);
}

#[cfg(not(feature = "tensorrt"))]
#[test]
fn tensorrt_is_refused_where_it_is_left_out() {
    let scene = Scene::new();
    scene.bring("upgrade/0.1.0/m.onnx");
    for backend in ["tensorrt", "tensorrt-rtx"] {
        let not_there = format!("`{backend}` is not available");
        let says = [&not_there, "cargo install --path . --features tensorrt"];
        scene.refuses(&["build", "m.onnx", "-b", backend], 3, &says);
    }
    scene
        .run(&["doctor"])
        .exits(0)
        .prints("none: this trtmut was built without the feature `tensorrt`");
}

#[cfg(not(feature = "remote"))]
#[test]
fn a_remote_cache_is_refused_where_it_is_left_out() {
    let says = [
        "without the feature `remote`",
        "cargo install --path . --features remote",
    ];
    Scene::new().refuses(&["cache", "push", "--remote", "s3://bucket/a"], 3, &says);
}

#[cfg(all(feature = "embedded", not(feature = "remote")))]
#[test]
fn a_remote_cache_that_is_left_out_hinders_no_build() {
    let scene = Scene::new();
    scene
        .bring("resnet/model.ts.onnx")
        .bring("resnet/shapes.ts.json");
    let mut command = scene.command(&[
        "build",
        "model.ts.onnx",
        "-s",
        "shapes.ts.json",
        "-b",
        "cpu",
    ]);
    command.env("TRTMUT_CACHE_REMOTE", "s3://bucket/a");
    let output = command.output().unwrap();
    let done = scene.done(&command, &output);
    done.exits(0);
    assert!(
        done.stderr.contains("the remote cache is not used"),
        "{}",
        done.stderr
    );
}
