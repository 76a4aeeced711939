//! What was read is what was decided: sources that other programs rewrite, cut off or replace while a command reads them; signals;
//! two commands on one plan.

use crate::scene::Scene;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SIZE: usize = 1 << 20;

/// `y = x * 0 + w` would read the weights back; here a plan of one weight of 4 MiB is compared as bytes.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.write("m.onnx", crate::hostile::model_of_length("w", SIZE));
    for n in 0..2 {
        scene.write(&format!("{n}.safetensors"), checkpoint(n as f32 + 1.0));
    }
    scene.run(&["build", "m.onnx", "--backend", "cpu", "-o", "p.plan"]).exits(0);
    scene
}

fn checkpoint(value: f32) -> Vec<u8> {
    let header = format!(
        r#"{{"w":{{"dtype":"F32","shape":[{SIZE}],"data_offsets":[0,{}]}}}}"#,
        4 * SIZE
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(value.to_le_bytes().repeat(SIZE));
    bytes
}

/// Whether the plan holds one checkpoint, whole: which.
fn held(scene: &Scene) -> Option<u8> {
    let bytes = fs::read(scene.file("p.plan")).unwrap();
    let plan = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let w = plan.tensor("w").unwrap();
    let first = f32::from_le_bytes(w.data()[..4].try_into().unwrap());
    let whole = w.data().chunks(4).all(|c| c == &w.data()[..4]);
    whole.then_some(first as u8)
}

fn start(scene: &Scene, args: &[&str]) -> Child {
    let mut command = scene.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Refits from a file that `disturb` changes meanwhile; returns how often it was refused.
fn refit_while(rounds: usize, disturb: impl Fn(&Path, usize) + Sync) -> usize {
    let scene = scene();
    let path = scene.file("x.safetensors");
    fs::write(&path, checkpoint(1.0)).unwrap();
    let stop = AtomicBool::new(false);
    let mut refused = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                disturb(&path, n);
                n += 1;
            }
        });
        for round in 0..rounds {
            let args = ["refit", "p.plan", "x.safetensors", "--trust-names"];
            let output = start(&scene, &args).wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.signal(), None, "round {round}: {said}");
            match output.status.code() {
                Some(0) => {}
                Some(1) => refused += 1,
                other => panic!("round {round}: {other:?} {said}"),
            }
            assert!(held(&scene).is_some(), "round {round}: a torn tensor was written");
            scene.run(&["inspect", "p.plan"]).exits(0);
        }
        stop.store(true, Ordering::Relaxed);
    });
    refused
}

#[test]
fn a_source_that_is_rewritten_in_place_is_never_torn() {
    use std::os::unix::fs::FileExt;
    let contents = [checkpoint(1.0), checkpoint(2.0)];
    let refused = refit_while(12, |path, n| {
        let file = fs::File::options().write(true).open(path).unwrap();
        for (at, part) in contents[n % 2].chunks(64 << 10).enumerate() {
            file.write_all_at(part, (at * (64 << 10)) as u64).unwrap();
        }
    });
    assert!(refused > 0, "the test did not disturb anything");
}

#[test]
fn a_source_that_is_cut_off_is_an_error_and_no_signal() {
    let whole = checkpoint(1.0);
    let refused = refit_while(12, |path, n| {
        if n % 2 == 0 {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(1000).unwrap();
        } else {
            fs::write(path, &whole).unwrap();
        }
    });
    assert!(refused > 0, "the test did not disturb anything");
}

#[test]
fn a_source_that_is_replaced_by_rename_is_one_or_the_other() {
    let contents = [checkpoint(1.0), checkpoint(2.0)];
    refit_while(8, |path, n| {
        let beside = path.with_extension("next");
        fs::write(&beside, &contents[n % 2]).unwrap();
        fs::rename(&beside, path).unwrap();
    });
}

#[test]
fn a_signal_ends_it_at_once_and_leaves_nothing() {
    let scene = scene();
    for name in ["a", "b"] {
        scene.run(&["refit", "p.plan", "0.safetensors", "--trust-names", "-o", name]).exits(0);
    }
    let names = |scene: &Scene| -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(scene.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let before = names(&scene);
    let mut ended = 0;
    for round in 0..40u64 {
        let (signal, code) = [("INT", 130), ("TERM", 143)][round as usize % 2];
        let which = ["0.safetensors", "1.safetensors"][round as usize / 2 % 2];
        let mut child = start(&scene, &["refit", "p.plan", which, "--trust-names"]);
        std::thread::sleep(Duration::from_millis(5 + round * 5));
        let sent = Instant::now();
        Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        let status = child.wait().unwrap();
        match status.code() {
            Some(0) => {}
            Some(c) if c == code => ended += 1,
            // Before the program has begun, the system ends it.
            None if status.signal() == Some(code - 128) => {}
            other => panic!("round {round}: {other:?}"),
        }
        // On a machine with other work; the promise is 100 ms on an idle one.
        assert!(sent.elapsed() < Duration::from_secs(5), "round {round}");
        assert!(held(&scene).is_some(), "round {round}");
        scene.run(&["inspect", "p.plan"]).exits(0);
        let left: Vec<_> = names(&scene).into_iter().filter(|n| !before.contains(n)).collect();
        // The manifest that waits for its plan is no leftover: the next command finished the change.
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
    assert!(ended > 0, "no signal came in time");
}

#[test]
fn of_two_that_change_a_plan_the_second_waits_and_says_so() {
    let scene = scene();
    let file = fs::File::open(scene.file("p.plan")).unwrap();
    file.lock().unwrap();
    let mut child = start(&scene, &["refit", "p.plan", "0.safetensors", "--trust-names"]);
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "it did not wait");
    // Who only reads need not wait.
    scene.run(&["inspect", "p.plan"]).exits(0);
    file.unlock().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("waiting") && said.contains("p.plan"), "{said}");
    assert_eq!(held(&scene), Some(1));
}
