//! Where containers put a command: a root that cannot be written, no home, a user without a name, paths that are no text or go over
//! two lines. What needs a namespace or another user is skipped, and says so, where the system does not allow it.

// What was skipped.
#![allow(clippy::print_stdout)]

use crate::scene::{Done, Scene, fixture};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A folder of a name, with a small model and its files in it.
fn furnished(scene: &Scene, folder: &OsStr) -> std::path::PathBuf {
    let at = scene.path().join(folder);
    fs::create_dir_all(&at).unwrap();
    for file in [
        "model.ts.onnx",
        "shapes.ts.json",
        "base.safetensors",
        "fused.safetensors",
    ] {
        fs::copy(fixture(&format!("dit/{file}")), at.join(file)).unwrap();
    }
    at
}

fn run(scene: &Scene, command: &mut Command) -> Done {
    let output = command.stdin(Stdio::null()).output().unwrap();
    scene.done(command, &output)
}

/// Builds, refits, compares and runs in a folder.
fn whole_way(scene: &Scene, at: &Path, start: &dyn Fn() -> Command) {
    let step = |args: &[&str]| run(scene, start().args(args).current_dir(at));
    step(&[
        "build",
        "model.ts.onnx",
        "--shapes",
        "shapes.ts.json",
        "--weights",
        "base.safetensors",
    ])
    .exits(0);
    step(&["diff", "engine.plan", "fused.safetensors"])
        .exits(0)
        .prints("NEEDS_REFIT");
    step(&["refit", "engine.plan", "fused.safetensors"]).exits(0);
    step(&["run", "engine.plan"]).exits(0);
    step(&["inspect", "engine.plan"]).exits(0);
    step(&["refit", "engine.plan", "--base"]).exits(0);
    step(&["doctor"]).exits(0);
}

fn plain() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trtmut"));
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command
}

/// Whether another user can be taken; says what is skipped where not.
fn can(what: &str, command: &mut Command) -> bool {
    let done = command.stdin(Stdio::null()).output();
    let can = done.is_ok_and(|d| d.status.success());
    if !can {
        println!("skipped: {what} is not allowed here");
    }
    can
}

#[test]
fn paths_need_not_be_text_or_one_line() {
    for name in [
        &b"two\nlines"[..],
        b"\xff\xfe not utf-8",
        b"\x1b[31m red",
        b"-o",
        b" ",
    ] {
        let scene = Scene::new();
        let at = furnished(&scene, OsStr::from_bytes(name));
        whole_way(&scene, &at, &plain);
        // From outside, by its path.
        let plan = at.join("engine.plan");
        let done = run(&scene, plain().arg("inspect").arg(&plan));
        done.exits(0);
        assert!(!done.stdout.contains('\u{1b}'));
        // A model whose own name is like that.
        let model: OsString = [OsStr::from_bytes(name), OsStr::new(".onnx")]
            .into_iter()
            .collect();
        let model = Path::new(".").join(model);
        fs::rename(at.join("model.ts.onnx"), at.join(&model)).unwrap();
        let mut build = plain();
        build
            .arg("build")
            .arg(&model)
            .args(["--shapes", "shapes.ts.json", "-o", "own.plan"]);
        run(&scene, build.current_dir(&at)).exits(0);
        let mut refit = plain();
        refit
            .args(["refit", "own.plan", "fused.safetensors", "--model"])
            .arg(&model);
        run(&scene, refit.current_dir(&at)).exits(0);
    }
}

#[test]
fn nothing_needs_a_home_or_a_name() {
    let scene = Scene::new();
    let at = furnished(&scene, OsStr::new("work"));
    whole_way(&scene, &at, &plain);
    // Where the cache would be is not known then, and that is said.
    run(&scene, plain().args(["cache", "dir"])).exits(2);
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=54321", "--regid=54321", "--clear-groups"]);
        command.env_clear().env("PATH", "/usr/bin:/bin");
        command
    };
    if !can("to be another user (setpriv)", as_nobody().arg("true")) {
        return;
    }
    // The binary and the folders above it may be closed to others.
    let binary = scene.file("trtmut");
    fs::copy(env!("CARGO_BIN_EXE_trtmut"), &binary).unwrap();
    let theirs = furnished(&scene, OsStr::new("theirs"));
    let mut give = Command::new("chown");
    assert!(
        give.args(["-R", "54321:54321"])
            .arg(scene.path())
            .status()
            .unwrap()
            .success()
    );
    whole_way(&scene, &theirs, &|| {
        let mut command = as_nobody();
        command.arg(&binary);
        command
    });
    // A plan of somebody else in a folder of somebody else: it runs, and cannot be changed.
    let mut take = Command::new("chown");
    assert!(
        take.args(["-R", "0:0"])
            .arg(&at)
            .status()
            .unwrap()
            .success()
    );
    let mut command = as_nobody();
    command.arg(&binary);
    run(
        &scene,
        command.args(["run", "engine.plan"]).current_dir(&at),
    )
    .exits(0);
    let before = scene.files();
    let mut command = as_nobody();
    command
        .arg(&binary)
        .args(["refit", "engine.plan", "fused.safetensors"]);
    let done = run(&scene, command.current_dir(&at));
    done.exits(3);
    assert!(
        done.stderr.contains("permission") || done.stderr.contains("Permission"),
        "{}",
        done.stderr
    );
    assert!(scene.files() == before);
}

#[test]
fn a_root_that_cannot_be_written_is_enough_for_what_writes_nothing() {
    let scene = Scene::new();
    let at = furnished(&scene, OsStr::new("work"));
    let build = ["build", "model.ts.onnx", "--shapes", "shapes.ts.json"];
    run(&scene, plain().args(build).current_dir(&at)).exits(0);
    // Everything read-only but a file system of its own.
    let inside = |script: &str| {
        let mut command = Command::new("unshare");
        let setup = "mount --make-rprivate / && mount -t tmpfs none /mnt && mount -o remount,bind,ro / && cd \"$1\" && T=\"$2\"";
        command
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg(format!("{setup} && {script}"))
            .arg("sh")
            .arg(&at)
            .arg(env!("CARGO_BIN_EXE_trtmut"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    };
    if !can(
        "a mount namespace (unshare)",
        &mut inside("! touch probe 2>/dev/null && touch /mnt/probe"),
    ) {
        return;
    }
    let before = scene.files();
    for script in [
        "\"$T\" run engine.plan",
        "\"$T\" inspect engine.plan",
        "\"$T\" diff engine.plan fused.safetensors",
        "\"$T\" doctor",
    ] {
        run(&scene, &mut inside(script)).exits(0);
    }
    for script in [
        "\"$T\" refit engine.plan fused.safetensors",
        "\"$T\" build model.ts.onnx --shapes shapes.ts.json -o new.plan",
    ] {
        let done = run(&scene, &mut inside(script));
        done.exits(3);
        assert!(
            done.stderr.contains("Read-only file system") && done.stderr.contains("-o"),
            "{}",
            done.stderr
        );
    }
    // To where it can be written, it is.
    let elsewhere = "\"$T\" refit engine.plan fused.safetensors -o /mnt/e.plan && \"$T\" run /mnt/e.plan && ls -A /mnt | wc -l";
    run(&scene, &mut inside(elsewhere)).exits(0).prints("\n2\n");
    assert!(scene.files() == before);
}
