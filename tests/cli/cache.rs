//! `trtmut build` through the engine cache, and `trtmut cache`.

use crate::scene::{Done, Scene};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use trtmut::onnx::{Error, Model, Role};
use trtmut::tensor::Dtype;

fn scene() -> Scene {
    let scene = Scene::new();
    scene
        .bring("sd_unet/model.ts.onnx")
        .bring("sd_unet/shapes.ts.json")
        .bring("sd_unet/io0.safetensors");
    scene
}

fn build(scene: &Scene, model: &str, plan: &str, more: &[&str]) -> Done {
    let args = ["build", model, "--shapes", "shapes.ts.json", "--json", "-o"];
    let done = scene.run(&[&args[..], &[plan], more].concat());
    done.exits(0);
    done
}

#[track_caller]
fn says(done: &Done, cache: &str) {
    assert_eq!(done.json()["cache"], cache, "{}", done.stderr);
}

/// The same model with other weights.
fn other_weights(scene: &Scene) {
    let model = Model::open(scene.file("model.ts.onnx")).unwrap();
    let mut out = File::create(scene.file("other.onnx")).unwrap();
    model
        .write_onnx::<Error>(&mut out, &|w| {
            let bytes = model.bytes(w);
            if w.dtype != Dtype::F32 || !matches!(w.role, Role::Weight) {
                return Ok(bytes);
            }
            let scaled = bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()) * 1.03);
            Ok(scaled.flat_map(f32::to_le_bytes).collect::<Vec<_>>().into())
        })
        .unwrap();
}

fn outputs(scene: &Scene, plan: &str) -> Vec<u8> {
    let io = "io0.safetensors";
    scene
        .run(&["run", plan, "--inputs", io, "--save", "out.safetensors"])
        .exits(0);
    fs::read(scene.file("out.safetensors")).unwrap()
}

fn entries(scene: &Scene) -> Vec<PathBuf> {
    let folder = scene.file(".cache/engines-v1");
    let all = fs::read_dir(folder).map(|d| d.map(|e| e.unwrap().path()).collect());
    all.unwrap_or_default()
}

#[test]
fn a_second_build_is_a_hit_with_the_same_bytes() {
    let scene = scene();
    says(&build(&scene, "model.ts.onnx", "a.plan", &[]), "miss");
    fs::create_dir(scene.file("sub")).unwrap();
    says(&build(&scene, "model.ts.onnx", "sub/b.plan", &[]), "hit");
    says(
        &build(&scene, "model.ts.onnx", "c.plan", &["--trust-cache"]),
        "hit",
    );
    let read = |n: &str| fs::read(scene.file(n)).unwrap();
    assert!(read("a.plan") == read("sub/b.plan"));
    assert!(read("a.plan.json") == read("c.plan.json"));
    let moved: serde_json::Value = serde_json::from_slice(&read("sub/b.plan.json")).unwrap();
    assert_eq!(moved["model"]["path"], "../model.ts.onnx");
    assert!(outputs(&scene, "a.plan") == outputs(&scene, "sub/b.plan"));
    // Nothing that is written into an output reaches the cache.
    scene.write("sub/b.plan", "notes");
    says(&build(&scene, "model.ts.onnx", "d.plan", &[]), "hit");
    assert_eq!(entries(&scene).len(), 1);
}

#[test]
fn other_weights_refit_a_copy_and_leave_the_entry_alone() {
    let scene = scene();
    other_weights(&scene);
    says(&build(&scene, "model.ts.onnx", "a.plan", &[]), "miss");
    let entry = entries(&scene).remove(0).join("engine.plan");
    let before = fs::read(&entry).unwrap();
    says(&build(&scene, "other.onnx", "b.plan", &[]), "refitted");
    says(
        &build(&scene, "other.onnx", "fresh.plan", &["--no-cache"]),
        "off",
    );
    let fresh = outputs(&scene, "fresh.plan");
    assert!(outputs(&scene, "b.plan") == fresh);
    assert!(outputs(&scene, "a.plan") != fresh);
    assert!(fs::read(&entry).unwrap() == before);
    let weights = |n: &str| -> serde_json::Value {
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(scene.file(n)).unwrap()).unwrap();
        json["weights"].clone()
    };
    assert_eq!(weights("b.plan.json"), weights("fresh.plan.json"));
    says(&build(&scene, "model.ts.onnx", "c.plan", &[]), "hit");
    scene.run(&["cache", "verify"]).exits(0);
}

#[test]
fn another_shape_range_is_another_engine() {
    let scene = scene();
    build(&scene, "model.ts.onnx", "a.plan", &[]);
    let wider = ["--dim", "B=1:2:4"];
    let explain = |more: &[&str]| {
        let args = ["cache", "explain", "model.ts.onnx"];
        let spec = ["--shapes", "shapes.ts.json", "--json"];
        let done = scene.run(&[&args[..], &spec, more].concat());
        done.exits(0);
        done.json()
    };
    assert_eq!(explain(&[])["hit"], true);
    let miss = explain(&wider);
    assert_eq!(miss["hit"], false);
    let differences = miss["nearest"][0]["differences"].as_array().unwrap();
    assert!(!differences.is_empty());
    for d in differences {
        let label = d["label"].as_str().unwrap();
        assert!(label.starts_with("profile of input"), "{label}");
    }
    says(&build(&scene, "model.ts.onnx", "b.plan", &wider), "miss");
    assert_eq!(explain(&wider)["hit"], true);
    assert_eq!(entries(&scene).len(), 2);
}

#[test]
fn a_damaged_entry_is_a_miss_with_a_warning() {
    let scene = scene();
    build(&scene, "model.ts.onnx", "a.plan", &[]);
    let plan = entries(&scene).remove(0).join("engine.plan");
    let mut bytes = fs::read(&plan).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&plan, bytes).unwrap();
    scene
        .run(&["cache", "verify"])
        .exits(3)
        .prints("engine.plan");
    let done = build(&scene, "model.ts.onnx", "b.plan", &[]);
    says(&done, "miss");
    assert!(done.stderr.contains("is damaged"), "{}", done.stderr);
    assert!(done.stderr.contains("quarantine"), "{}", done.stderr);
    let read = |n: &str| fs::read(scene.file(n)).unwrap();
    assert!(read("a.plan") == read("b.plan"));
    says(&build(&scene, "model.ts.onnx", "c.plan", &[]), "hit");
    scene.run(&["cache", "verify"]).exits(0);
}

#[test]
fn a_cache_that_cannot_be_used_is_a_warning() {
    let scene = scene();
    scene.write("file", "");
    let done = build(
        &scene,
        "model.ts.onnx",
        "a.plan",
        &["--cache-dir", "file/x"],
    );
    says(&done, "off");
    assert!(done.stderr.contains("warning"), "{}", done.stderr);
    let done = build(&scene, "model.ts.onnx", "b.plan", &["--cache-size", "10kB"]);
    says(&done, "miss");
    assert!(done.stderr.contains("does not fit"), "{}", done.stderr);
    assert!(entries(&scene).is_empty());
}

/// Builds with the cache in the state that a test made, and says what it does. Whatever that is, the plan is there and right.
fn build_with(scene: &Scene, command: &mut Command, cache: &str, says: &[&str]) {
    let _ = fs::remove_file(scene.file("out.plan"));
    command.args(["build", "model.ts.onnx", "--shapes", "shapes.ts.json"]);
    command.args(["--backend", "cpu", "--json", "-o", "out.plan"]);
    let output = command.output().unwrap();
    let done = scene.done(command, &output);
    done.exits(0);
    assert_eq!(done.json()["cache"], cache, "{}", done.stderr);
    for text in says {
        assert!(done.stderr.contains(text), "no `{text}` in {}", done.stderr);
    }
    assert_eq!(done.stderr.is_empty(), says.is_empty(), "{}", done.stderr);
    assert!(fs::read(scene.file("out.plan")).unwrap() == fs::read(scene.file("a.plan")).unwrap());
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, Permissions::from_mode(bits)).unwrap();
}

#[test]
fn a_folder_that_others_control_is_a_warning() {
    let scene = scene();
    build(&scene, "model.ts.onnx", "a.plan", &[]);
    let cache = scene.file(".cache");
    let with = |cache: &Path, says: &[&str]| {
        let mut command = scene.command(&[""; 0]);
        command.env("TRTMUT_CACHE_DIR", cache);
        build_with(&scene, &mut command, "off", says);
    };
    mode(&cache, 0o777);
    with(&cache, &["warning", "everybody may write"]);
    mode(&cache, 0o700);
    // Only root can give a folder away; for everybody else, root's are somebody else's.
    let foreign = if chown(&cache, Some(65534), None).is_ok() {
        cache
    } else {
        PathBuf::from("/usr")
    };
    with(&foreign, &["warning", "belongs to user"]);
}

#[test]
fn what_is_in_the_way_is_a_warning() {
    let scene = scene();
    build(&scene, "model.ts.onnx", "a.plan", &["--no-cache"]);
    for folder in ["engines-v1", "locks", "tmp"] {
        let path = scene.file(".cache").join(folder);
        let _ = fs::remove_dir_all(scene.file(".cache"));
        scene.write(&format!(".cache/{folder}"), "in the way");
        let output = scene
            .command(&["build", "model.ts.onnx", "--shapes", "shapes.ts.json"])
            .args(["--json", "-o", "out.plan"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("warning") && said.contains(folder), "{said}");
        assert!(
            fs::read(scene.file("out.plan")).unwrap() == fs::read(scene.file("a.plan")).unwrap()
        );
        fs::remove_file(path).unwrap();
    }
}

/// Gives everything at and below `path` to nobody, if this is root.
fn give_away(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten() {
        give_away(&entry.unwrap().path());
    }
    chown(path, Some(65534), Some(65534)).is_ok()
}

#[test]
fn lost_permissions_are_a_warning_and_a_read_only_cache_still_serves() {
    let scene = scene();
    build(&scene, "model.ts.onnx", "a.plan", &[]);
    let cache = scene.file(".cache");
    // Permissions mean nothing to root: then it is done as nobody, with a copy of the program that nobody can reach.
    let exe = scene.file("exe");
    fs::copy(env!("CARGO_BIN_EXE_trtmut"), &exe).unwrap();
    let root = give_away(scene.path());
    mode(scene.path(), 0o755);
    let with = |expected: &str, says: &[&str]| {
        let mut command = Command::new(&exe);
        command.current_dir(scene.path());
        command.env("TRTMUT_CACHE_DIR", &cache);
        if root {
            command.uid(65534).gid(65534);
        }
        build_with(&scene, &mut command, expected, says);
    };
    let set_all = |bits| {
        for folder in ["engines-v1", "locks", "tmp", "."] {
            mode(&cache.join(folder), bits);
        }
    };
    set_all(0o500);
    with("hit", &[]);
    // Not the same engine, so there is something to write.
    set_all(0o700);
    fs::remove_dir_all(cache.join("engines-v1")).unwrap();
    fs::create_dir(cache.join("engines-v1")).unwrap();
    give_away(&cache);
    set_all(0o500);
    with(
        "off",
        &["warning", "Permission denied", "without the cache"],
    );
    mode(&cache, 0o000);
    with("off", &["warning", "Permission denied"]);
    mode(&cache, 0o700);
}

#[test]
fn a_clock_that_went_back_is_no_fault() {
    let scene = scene();
    build(&scene, "model.ts.onnx", "a.plan", &[]);
    let future = SystemTime::now() + Duration::from_secs(1_000_000);
    let stamp = |path: &Path| File::open(path).unwrap().set_modified(future).unwrap();
    let entry = entries(&scene).remove(0);
    for file in ["entry.json", "engine.plan", "manifest.json"] {
        stamp(&entry.join(file));
    }
    stamp(&entry);
    // What was used in the future stays, and so does a model from there: neither remembered nor refused.
    stamp(&scene.file("model.ts.onnx"));
    for _ in 0..2 {
        build_with(&scene, &mut scene.command(&[""; 0]), "hit", &[]);
    }
    let used = entry.join("entry.json").metadata().unwrap().modified();
    assert!(used.unwrap() < future, "the next use brings the stamp back");
}

#[test]
#[ignore = "needs user namespaces, to mount a small tmpfs"]
fn a_full_and_a_read_only_disk_are_a_warning() {
    let scene = scene();
    build(&scene, "model.ts.onnx", "a.plan", &["--no-cache"]);
    fs::create_dir_all(scene.file(".cache")).unwrap();
    let with = |options: &str, cache: &str, says: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c"]);
        command.arg("mount -t tmpfs -o $OPTIONS none .cache && exec \"$0\" \"$@\"");
        command.arg(env!("CARGO_BIN_EXE_trtmut"));
        command.current_dir(scene.path()).env("OPTIONS", options);
        command.env("TRTMUT_CACHE_DIR", scene.file(".cache"));
        command.env("TRTMUT_CACHE_SIZE", "1GiB");
        build_with(&scene, &mut command, cache, says);
    };
    let full = ["warning", "was not stored", "No space left", "prune"];
    with("size=100k,mode=0700", "miss", &full);
    with("ro,mode=0700", "off", &["warning", "Read-only file system"]);
}

#[test]
fn without_being_asked_a_cpu_build_is_not_cached() {
    let scene = scene();
    let mut command = scene.command(&["build", "model.ts.onnx", "--shapes", "shapes.ts.json"]);
    command
        .env_remove("TRTMUT_CACHE_DIR")
        .env("XDG_CACHE_HOME", scene.file(".home"));
    let output = command.output().unwrap();
    scene
        .done(&command, &output)
        .exits(0)
        .prints("cache     off");
    assert!(!scene.file(".home").exists());
}

#[test]
fn entries_are_listed_pinned_pruned_and_cleared() {
    let scene = scene();
    let json = |args: &[&str]| {
        let done = scene.run(&[&["cache"], args, &["--json"]].concat());
        done.exits(0);
        done.json()
    };
    scene.run(&["cache", "dir"]).exits(0).prints(".cache");
    assert_eq!(json(&["list"])["entries"].as_array().unwrap().len(), 0);
    build(&scene, "model.ts.onnx", "a.plan", &[]);
    let list = json(&["list", "--sort", "size"]);
    let key = list["entries"][0]["key"].as_str().unwrap();
    assert_eq!(list["bytes"], list["entries"][0]["bytes"]);
    assert_eq!(json(&["info", &key[..8]])["key"], key);
    assert_eq!(json(&["info", "a.plan"])["fields"]["backend"], "cpu");
    scene.refuses(&["cache", "info", "ffffffff"], 1, &["ffffffff", "list"]);
    assert_eq!(json(&["pin", "a.plan"])["changed"], true);
    assert_eq!(json(&["pin", key])["changed"], false);
    let kept = json(&["prune", "--to", "0"]);
    assert_eq!(kept["pinned"][0], key);
    assert_eq!(json(&["unpin", key])["changed"], true);
    let dry = json(&["prune", "--to", "0", "--dry-run"]);
    assert_eq!(dry["removed"][0]["name"], key);
    assert_eq!(entries(&scene).len(), 1);
    json(&["prune", "--to", "0"]);
    assert!(entries(&scene).is_empty());
    build(&scene, "model.ts.onnx", "b.plan", &[]);
    scene.refuses(&["cache", "clear"], 2, &["--yes"]);
    json(&["clear", "--yes"]);
    assert!(entries(&scene).is_empty());
    scene.refuses(&["cache", "prune", "--to", "much"], 2, &["much"]);
}

#[test]
fn doctor_shows_the_cache_and_the_disk() {
    let scene = scene();
    let doctor = || {
        let done = scene.run(&["doctor", "--json"]);
        done.exits(0);
        done.json()
    };
    let before = doctor();
    assert_eq!(before["cache"]["entries"], 0);
    assert_eq!(before["cache"]["bytes"], 0);
    assert!(before["cache"]["limit"].as_u64() > Some(0));
    assert!(before["cache"]["free"].as_u64() > Some(0));
    assert!(before["current"]["free"].as_u64() > Some(0));
    assert!(!scene.file(".cache").exists(), "looking makes nothing");
    build(&scene, "model.ts.onnx", "a.plan", &[]);
    let list = scene.run(&["cache", "list", "--json"]).json();
    let after = doctor();
    assert_eq!(after["cache"]["entries"], 1);
    assert_eq!(after["cache"]["bytes"], list["bytes"]);
    assert_eq!(after["cache"]["folder"], list["folder"]);
    let shown = scene.run(&["doctor"]);
    shown.exits(0).prints(", 1 engine").prints("free");
    mode(&scene.file(".cache"), 0o777);
    let exposed = doctor();
    let problem = exposed["cache"]["problem"].as_str().unwrap();
    assert!(problem.contains("everybody may write"), "{problem}");
    scene
        .run(&["doctor"])
        .exits(0)
        .prints("cannot be used: everybody may write");
}
