//! `trtmut watch`: files that are replaced, written in place, half written, and gone for a while.

use crate::scene::{Scene, fixture};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_mins(2);

/// A watch that runs, and the lines that it prints.
struct Watching {
    child: Child,
    lines: Receiver<String>,
    stderr: Receiver<String>,
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

impl Watching {
    fn start(scene: &Scene, args: &[&str]) -> Watching {
        let all = [&["watch", "engine.plan", "--json"], args].concat();
        let mut command = scene.command(&all);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout: ChildStdout = child.stdout.take().unwrap();
        let stderr = child.stderr.take().unwrap();
        Watching {
            child,
            lines: lines(stdout),
            stderr: lines(stderr),
        }
    }

    /// The next document.
    #[track_caller]
    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(LONG);
        let line = line.unwrap_or_else(|e| panic!("{e}; stderr: {:?}", self.said()));
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    fn said(&self) -> Vec<String> {
        self.stderr.try_iter().collect()
    }

    /// Waits until stderr has a line with `text`.
    #[track_caller]
    fn says(&self, text: &str) {
        let begun = Instant::now();
        let mut all = Vec::new();
        while begun.elapsed() < LONG {
            if let Ok(line) = self.stderr.recv_timeout(Duration::from_millis(100)) {
                if line.contains(text) {
                    return;
                }
                all.push(line);
            }
        }
        panic!("no `{text}` in {all:?}");
    }

    /// Nothing is printed for a while.
    #[track_caller]
    fn is_silent(&self, time: Duration) {
        if let Ok(line) = self.lines.recv_timeout(time) {
            panic!("{line}");
        }
    }

    fn signal(mut self, signal: Signal) -> i32 {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

/// A plan of the text encoder, and a file that holds the weights it was exported with.
fn built() -> Scene {
    let scene = Scene::new();
    scene
        .bring("clip_text/model.ts.onnx")
        .bring("clip_text/shapes.ts.json")
        .bring("clip_text/base.safetensors");
    fs::copy(scene.file("base.safetensors"), scene.file("w.safetensors")).unwrap();
    let args = [
        "build",
        "model.ts.onnx",
        "--shapes",
        "shapes.ts.json",
        "--base-weights",
        "base.safetensors",
        "--backend",
        "cpu",
    ];
    scene.run(&args).exits(0);
    scene
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(fixture(&format!("clip_text/{name}.safetensors"))).unwrap()
}

fn verdict(document: &Value) -> (&str, &str, bool) {
    let text = |key: &str| document[key].as_str().unwrap_or_default();
    let written = document["written"].as_bool().unwrap_or_default();
    (text("schema"), text("verdict"), written)
}

/// What a refit by hand gives.
fn expected(scene: &Scene, weights: &str) -> Vec<u8> {
    let args = ["refit", "engine.plan", weights, "-o", "expected.plan"];
    scene.run(&args).exits(0);
    fs::read(scene.file("expected.plan")).unwrap()
}

const REFIT: (&str, &str, bool) = ("trtmut.refit/2", "NEEDS_REFIT", true);

#[test]
fn a_file_is_followed_however_it_changes() {
    let scene = built();
    let base = fs::read(scene.file("engine.plan")).unwrap();
    let fused = {
        scene.write("f.safetensors", bytes("fused"));
        expected(&scene, "f.safetensors")
    };
    let w = scene.file("w.safetensors");
    let plan = || fs::read(scene.file("engine.plan")).unwrap();
    let watching = Watching::start(&scene, &["--weights", "w.safetensors"]);
    let document = watching.next();
    assert_eq!(verdict(&document), ("trtmut.refit/2", "LIVE", false));
    watching.says("watching w.safetensors");

    // Replaced by a rename.
    let inode = w.metadata().unwrap().ino();
    scene.write("next", bytes("fused"));
    fs::rename(scene.file("next"), &w).unwrap();
    assert_ne!(w.metadata().unwrap().ino(), inode);
    assert_eq!(verdict(&watching.next()), REFIT);
    assert!(plan() == fused);

    // Written in place.
    let inode = w.metadata().unwrap().ino();
    fs::write(&w, bytes("base")).unwrap();
    assert_eq!(w.metadata().unwrap().ino(), inode);
    assert_eq!(verdict(&watching.next()), REFIT);
    assert!(plan() == base);

    // Touched and not changed: found to be what the plan holds.
    let file = OpenOptions::new().append(true).open(&w).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    drop(file);
    assert_eq!(verdict(&watching.next()), ("trtmut.refit/2", "LIVE", false));

    // Removed, and there again later.
    fs::remove_file(&w).unwrap();
    watching.is_silent(Duration::from_secs(2));
    fs::write(&w, bytes("fused")).unwrap();
    assert_eq!(verdict(&watching.next()), REFIT);
    assert!(plan() == fused);

    assert_eq!(watching.signal(Signal::INT), 130);
    let left = scene.files();
    assert!(
        left.keys()
            .all(|path| !path.to_str().unwrap().contains(".trtmut-")),
        "{:?}",
        left.keys()
    );
}

#[test]
fn a_file_that_is_being_written_is_waited_for() {
    let scene = built();
    let watching = Watching::start(&scene, &["--weights", "w.safetensors", "--settle", "100ms"]);
    watching.next();
    watching.says("watching");
    let (half, rest) = {
        let all = bytes("fused");
        let (half, rest) = all.split_at(all.len() / 2);
        (half.to_vec(), rest.to_vec())
    };
    let before = fs::read(scene.file("engine.plan")).unwrap();
    let mut file = File::create(scene.file("w.safetensors")).unwrap();
    file.write_all(&half).unwrap();
    // Said after more looks than one, of which each would have found it changed and, but for its being open, whole.
    watching.says("waiting for `w.safetensors`, which is being written");
    watching.is_silent(Duration::ZERO);
    assert!(before == fs::read(scene.file("engine.plan")).unwrap());
    file.write_all(&rest).unwrap();
    drop(file);
    assert_eq!(verdict(&watching.next()), REFIT);
    assert_eq!(watching.signal(Signal::TERM), 143);
}

#[test]
fn what_else_is_open_in_a_folder_is_not_waited_for() {
    let scene = built();
    scene.write("d/model.safetensors", bytes("base"));
    let watching = Watching::start(&scene, &["--weights", "d", "--settle", "100ms"]);
    watching.next();
    watching.says("watching d");
    let mut log = File::create(scene.file("d/train.log")).unwrap();
    let mut hidden = File::create(scene.file("d/.next")).unwrap();
    log.write_all(b"step 1\n").unwrap();
    hidden.write_all(b"half").unwrap();
    // Neither is a reason to look at the plan again.
    watching.is_silent(Duration::from_secs(3));
    scene.write("d/model.safetensors", bytes("fused"));
    assert_eq!(verdict(&watching.next()), REFIT);
    log.write_all(b"step 2\n").unwrap();
    scene.write("d/model.safetensors", bytes("base"));
    assert_eq!(verdict(&watching.next()), REFIT);
    assert_eq!(watching.signal(Signal::INT), 130);
}

/// Kills the refit that waits for the plan, once it says so.
fn kill_the_refit(watching: &Watching, signal: Signal) {
    watching.says("waiting for another trtmut");
    let watch = watching.child.id().to_string();
    let is_its_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name, which may hold anything: state and parent.
        let parent = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(1));
        parent == Some(&watch)
    };
    let all = fs::read_dir("/proc").unwrap();
    let mut pids = all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let refit = pids.find(is_its_child).expect("a refit runs");
    kill_process(Pid::from_raw(refit).unwrap(), signal).unwrap();
}

#[test]
fn a_refit_that_a_signal_ends_is_no_bug() {
    let scene = built();
    let plan = scene.file("engine.plan");
    let lock = || trtmut::fsx::lock_file(&plan, || panic!("somebody else has it"));
    let mut watching = Watching::start(&scene, &["--weights", "w.safetensors"]);
    watching.next();
    watching.says("watching");
    for (signal, name) in [(Signal::KILL, "SIGKILL"), (Signal::TERM, "SIGTERM")] {
        let locked = lock();
        scene.write("w.safetensors", bytes("fused"));
        kill_the_refit(&watching, signal);
        let document = watching.next();
        assert_eq!(document["schema"], "trtmut.error/1");
        assert_eq!(document["exit_code"], 3, "{document}");
        let message = document["message"].as_str().unwrap();
        assert!(message.contains(name), "{document}");
        drop(locked);
    }
    // It goes on.
    scene.write("w.safetensors", bytes("fused"));
    assert_eq!(verdict(&watching.next()), REFIT);
    watching.child.kill().unwrap();
    watching.child.wait().unwrap();
    // The first refit is what the watch begins with.
    let _locked = lock();
    let mut watching = Watching::start(&scene, &["--weights", "w.safetensors"]);
    kill_the_refit(&watching, Signal::KILL);
    assert_eq!(watching.child.wait().unwrap().code(), Some(3));
    let said: String = watching.lines.iter().collect();
    assert!(said.contains("ended by a signal: 9 (SIGKILL)"), "{said}");
}

#[test]
fn an_error_is_said_and_does_not_end_it() {
    let scene = built();
    let watching = Watching::start(&scene, &["--weights", "w.safetensors"]);
    watching.next();
    watching.says("watching");
    let before = fs::read(scene.file("engine.plan")).unwrap();
    scene.write("w.safetensors", "no checkpoint");
    let document = watching.next();
    assert_eq!(document["schema"], "trtmut.error/1");
    assert_eq!(document["exit_code"], 1);
    assert!(before == fs::read(scene.file("engine.plan")).unwrap());
    scene.write("w.safetensors", bytes("fused"));
    assert_eq!(verdict(&watching.next()), REFIT);
    assert_eq!(watching.signal(Signal::INT), 130);
}

#[test]
fn a_command_is_run_when_the_plan_became_another_one() {
    let scene = built();
    let exec = "echo ran >&2; printf '%s\\n' \"$TRTMUT_PLAN\" \"$TRTMUT_MANIFEST\" \"$TRTMUT_DIGEST\" >> ran; exit 3";
    let args = ["--weights", "w.safetensors", "--exec", exec];
    let watching = Watching::start(&scene, &args);
    watching.next();
    watching.says("watching");
    assert!(!scene.file("ran").exists(), "nothing changed at the start");
    scene.write("w.safetensors", bytes("fused"));
    let document = watching.next();
    watching.says("ended with exit status: 3");
    let ran = fs::read_to_string(scene.file("ran")).unwrap();
    let folder = scene.path().canonicalize().unwrap();
    let mut said = ran.lines();
    for name in ["engine.plan", "engine.plan.json"] {
        let path = fs::canonicalize(said.next().unwrap()).unwrap();
        assert_eq!(path, folder.join(name));
    }
    assert_eq!(said.next(), document["digest"].as_str());
    assert_eq!(said.next(), None);
    // It goes on.
    scene.write("w.safetensors", bytes("base"));
    assert_eq!(verdict(&watching.next()), REFIT);
    watching.says("ended with exit status: 3");
    assert_eq!(watching.signal(Signal::INT), 130);
}

#[test]
fn what_it_started_ends_with_it() {
    let scene = built();
    let exec = "echo $$ > pid; sleep 600; echo late > late";
    let watching = Watching::start(&scene, &["--weights", "w.safetensors", "--exec", exec]);
    watching.next();
    watching.says("watching");
    scene.write("w.safetensors", bytes("fused"));
    watching.next();
    let begun = Instant::now();
    let pid = loop {
        let text = fs::read_to_string(scene.file("pid")).unwrap_or_default();
        if let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) {
            break pid;
        }
        assert!(begun.elapsed() < LONG, "the command was not run");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(watching.signal(Signal::TERM), 143);
    // Whoever is process 1 here may not have taken note of its end yet.
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    assert!(
        stat.is_err() || stat.unwrap().contains(") Z "),
        "it lives on"
    );
    assert!(!scene.file("late").exists());
}

#[test]
fn a_folder_is_followed_with_what_is_in_it() {
    let scene = built();
    scene.write("d/model.safetensors", bytes("base"));
    let args = ["--weights", "d", "--once"];
    let mut watching = Watching::start(&scene, &args);
    assert_eq!(verdict(&watching.next()), ("trtmut.refit/2", "LIVE", false));
    watching.says("watching d");
    // The folder as a whole, which is how a checkpoint of several files is put in place at once.
    scene.write("e/model.safetensors", bytes("fused"));
    fs::rename(scene.file("d"), scene.file("old")).unwrap();
    fs::rename(scene.file("e"), scene.file("d")).unwrap();
    assert_eq!(verdict(&watching.next()), REFIT);
    assert!(watching.child.wait().unwrap().success());
}

#[test]
fn a_lora_is_followed_with_its_options() {
    let scene = built();
    let lora = fixture("clip_text/pytorch_lora_weights.safetensors");
    fs::copy(&lora, scene.file("l.safetensors")).unwrap();
    let by_hand = |scale: &str| {
        let lora = format!("l.safetensors:{scale}");
        let args = [
            "refit",
            "engine.plan",
            "--lora",
            &lora,
            "-o",
            "expected.plan",
        ];
        scene.run(&args).exits(0);
        fs::read(scene.file("expected.plan")).unwrap()
    };
    let half = by_hand("0.5");
    let args = ["--lora", "l.safetensors:0.5", "-o", "out.plan", "--once"];
    let mut watching = Watching::start(&scene, &args);
    assert_eq!(verdict(&watching.next()), REFIT);
    assert!(half == fs::read(scene.file("out.plan")).unwrap());
    watching.says("watching");
    scene.write("l.safetensors", "no LoRA");
    assert_eq!(watching.next()["exit_code"], 1);
    assert_eq!(watching.child.wait().unwrap().code(), Some(1));
    assert!(half == fs::read(scene.file("out.plan")).unwrap());
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let scene = built();
    scene.refuses(
        &["watch", "engine.plan"],
        2,
        &["nothing says which weights to follow", "--weights FILE"],
    );
    scene.refuses(
        &["watch", "none.plan", "--weights", "w.safetensors"],
        1,
        &["none.plan.json"],
    );
    let args = ["watch", "engine.plan", "--weights", "none/w.safetensors"];
    scene.refuses(&args, 3, &["cannot watch `none`", "folder exists"]);
    let args = [
        "watch",
        "engine.plan",
        "--weights",
        "w.safetensors",
        "--settle",
        "soon",
    ];
    let done = scene.run(&args);
    done.exits(2);
}
