//! `trtmut export triton`, and what Triton's own protobuf definition makes of the configuration.

use super::World;
use crate::Trial;
use crate::tensorrt::standin::library::{Release, compiler};
use libtest_mimic::Failed;
use std::path::PathBuf;
use std::process::Command;

/// Reads a configuration with the message that Triton reads it with, and prints it as JSON.
const PARSE: &str = "
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tritonclient/grpc']
from google.protobuf import json_format, text_format
import model_config_pb2
config = text_format.Parse(open(sys.argv[2]).read(), model_config_pb2.ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True))
";

/// Where the definitions are, brought by `scripts/fetch-test-deps.sh`.
fn definitions() -> Option<PathBuf> {
    let folder = crate::tensorrt::root().join(".deps/triton");
    let python = Command::new("python3").arg("--version").output();
    let there = folder.join("version").exists() && python.is_ok_and(|o| o.status.success());
    there.then_some(folder)
}

/// Ignored by name where the definitions are missing, but on a machine that says that it is for checking changes it fails.
pub fn trial() -> Trial {
    let name = "standin/Triton reads what is exported";
    let checking = std::env::var("CI").is_ok_and(|v| v == "true");
    let missing = if !compiler() {
        "there is no `g++` on the path"
    } else if definitions().is_none() {
        "scripts/fetch-test-deps.sh could not bring Triton's client"
    } else {
        return Trial::test(name, parsed);
    };
    if checking {
        return Trial::test(name, move || Err(format!("{missing}, and CI=true").into()));
    }
    Trial::test(format!("{name} ({missing})"), || Ok(())).with_ignored_flag(true)
}

fn read(world: &World, file: &str) -> Result<serde_json::Value, Failed> {
    let definitions = definitions().ok_or("the definitions are gone")?;
    let output = Command::new("python3")
        .args(["-c", PARSE])
        .arg(definitions)
        .arg(world.scene.file(file))
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn parsed() -> Result<(), Failed> {
    let world = World::new(&Release::named("trt-10.16"));
    world.build(&["--no-cache"]).exits(0);
    world
        .run(&["export", "triton", "e.plan", "models/m.1"])
        .exits(0);
    let tensor = |name: &str, dims: [&str; 2]| serde_json::json!({"name": name, "data_type": "TYPE_FP32", "dims": dims});
    let expected = serde_json::json!({
        "name": "m.1",
        "platform": "tensorrt_plan",
        "input": [tensor("x", ["-1", "8"])],
        "output": [tensor("y", ["-1", "4"])],
    });
    let mut found = read(&world, "models/m.1/config.pbtxt")?;
    // Not every version of protobuf prints what is 0.
    if found["max_batch_size"] == 0 {
        found
            .as_object_mut()
            .ok_or("no object")?
            .remove("max_batch_size");
    }
    assert_eq!(found, expected);
    world
        .run(&["export", "triton", "e.plan", "models/m.1", "--batch"])
        .exits(0);
    let found = read(&world, "models/m.1/config.pbtxt")?;
    assert_eq!(found["max_batch_size"], 8);
    assert_eq!(found["input"][0]["dims"], serde_json::json!(["8"]));
    assert_eq!(found["output"][0]["dims"], serde_json::json!(["4"]));
    assert!(found["dynamic_batching"].is_object());
    let several = r#"{"dims": {"B": {"min": 1, "max": 8}}, "profiles": [{"B": {"max": 2}}, {"B": {"min": 4}}], "inputs": {"x": ["B", 8]}}"#;
    world.scene.write("shapes.json", several);
    world.build(&["--no-cache", "--refit", "none"]).exits(0);
    world
        .run(&["export", "triton", "e.plan", "models/m.1"])
        .exits(0);
    let found = read(&world, "models/m.1/config.pbtxt")?;
    assert_eq!(
        found["instance_group"][0]["profile"],
        serde_json::json!(["0", "1"])
    );
    Ok(())
}

/// The files on every release, and what is refused.
pub fn exported(w: &World) {
    if w.backend() != "tensorrt" {
        w.build(&["--no-cache"]).exits(0);
        w.refuses(
            &["export", "triton", "e.plan", "models/m"],
            1,
            &["Triton loads plans of TensorRT", "TensorRT-RTX"],
        );
        return;
    }
    w.build(&["--no-cache"]).exits(0);
    let done = w.run(&["export", "triton", "e.plan", "models/m", "--json"]);
    let document = done.exits(0).json();
    assert_eq!(document["schema"], "trtmut.export/1");
    assert_eq!(document["max_batch_size"], 0);
    let schema = std::fs::read(crate::tensorrt::root().join("docs/schema/trtmut.export-1.json"));
    let schema: serde_json::Value =
        serde_json::from_slice(&schema.expect("it is published")).expect("it is JSON");
    let keys = |value: &serde_json::Value| -> Vec<String> {
        let object = value.as_object().expect("an object");
        object.keys().cloned().collect()
    };
    assert_eq!(keys(&document), keys(&schema["properties"]));
    let read = |name: &str| std::fs::read(w.scene.file(name)).expect("it was written");
    assert!(read("e.plan") == read("models/m/1/model.plan"));
    // After a refit, again; and a second version beside the first.
    w.run(&["refit", "e.plan", "other.safetensors"]).exits(0);
    w.run(&["export", "triton", "e.plan", "models/m"]).exits(0);
    assert!(read("e.plan") == read("models/m/1/model.plan"));
    w.run(&["refit", "e.plan", "--base"]).exits(0);
    let second = [
        "export",
        "triton",
        "e.plan",
        "models/m",
        "--model-version",
        "2",
    ];
    w.run(&second).exits(0);
    assert!(read("e.plan") == read("models/m/2/model.plan"));
    assert!(read("e.plan") != read("models/m/1/model.plan"));
    // What others wrote stays.
    w.scene.write("models/n/config.pbtxt", "name: \"n\"\n");
    let foreign = ["export", "triton", "e.plan", "models/n"];
    w.refuses(
        &foreign,
        1,
        &["was not written by `trtmut export`", "--force"],
    );
    w.run(&[&foreign[..], &["--force"]].concat()).exits(0);
    // Also beside what this command wrote, and in its place.
    w.scene.write("models/m/3/model.plan", "theirs");
    let third = [&second[..5], &["3"]].concat();
    let says = ["models/m/3/model.plan", "--force"];
    w.refuses(&third, 1, &says);
    w.run(&[&third[..], &["--force"]].concat()).exits(0);
    w.run(&third).exits(0);
    w.scene.write("models/m/2/model.plan", "theirs");
    w.refuses(&second, 1, &["models/m/2/model.plan"]);
    // What somebody added to the configuration, or took out of it.
    let config = String::from_utf8(read("models/m/config.pbtxt")).expect("it is text");
    for edited in [
        format!("{config}dynamic_batching {{ }}\n"),
        config.replace("max_batch_size: 0", "max_batch_size: 4"),
        config.replacen("# contents ", "# of ", 1),
    ] {
        assert_ne!(edited, config);
        w.scene.write("models/m/config.pbtxt", &edited);
        let again = [
            "export",
            "triton",
            "e.plan",
            "models/m",
            "--model-version",
            "3",
        ];
        w.refuses(
            &again,
            1,
            &["models/m/config.pbtxt", "was edited", "--force"],
        );
        w.run(&[&again[..], &["--force"]].concat()).exits(0);
        w.run(&again).exits(0);
    }
    // A refusal leaves no folder behind.
    let config = w.scene.file("models/q/config.pbtxt");
    std::fs::create_dir_all(w.scene.file("models/q")).expect("it can be made");
    std::os::unix::fs::symlink("../../e.plan", config).expect("it can be linked");
    let over_input = ["export", "triton", "e.plan", "models/q", "--force"];
    w.refuses(&over_input, 1, &["models/q/config.pbtxt", "same file"]);
    assert!(!w.scene.file("models/q/1").exists());
    w.refuses(
        &["export", "triton", "e.plan", "models/not a name"],
        1,
        &["gives the model no name"],
    );
    assert!(!w.scene.file("models/not a name").exists());
    if w.release().since([10, 0, 0]) {
        w.build(&["--no-cache", "--strip"]).exits(0);
        w.refuses(
            &["export", "triton", "e.plan", "models/s"],
            1,
            &["is stripped", "trtmut refit e.plan --base -o filled.plan"],
        );
        w.run(&["refit", "e.plan", "--base", "-o", "filled.plan"])
            .exits(0);
        w.run(&["export", "triton", "filled.plan", "models/s"])
            .exits(0);
    }
}
