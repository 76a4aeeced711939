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

/// A plan of one weight of 4 MiB, and other values for it in `1.safetensors` and `2.safetensors`.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.write("m.onnx", crate::hostile::model_with_data("w", &values(0)));
    for seed in 0..3 {
        scene.write(&format!("{seed}.safetensors"), checkpoint(seed));
    }
    let build = [
        "build",
        "m.onnx",
        "--backend",
        "cpu",
        "--weights",
        "0.safetensors",
        "-o",
        "p.plan",
    ];
    scene.run(&build).exits(0);
    scene
}

fn values(seed: u32) -> Vec<u8> {
    let value = |i: u32| ((i ^ seed << 20).wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6;
    (0..SIZE as u32)
        .flat_map(|i| value(i).to_le_bytes())
        .collect()
}

fn checkpoint(seed: u32) -> Vec<u8> {
    let header = format!(
        r#"{{"w":{{"dtype":"F32","shape":[{SIZE}],"data_offsets":[0,{}]}}}}"#,
        4 * SIZE
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(values(seed));
    bytes
}

/// Which checkpoint the plan holds, whole.
fn held(scene: &Scene) -> Option<u32> {
    let bytes = fs::read(scene.file("p.plan")).unwrap();
    let plan = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let w = plan.tensor("w").unwrap();
    (0..3).find(|seed| w.data() == values(*seed))
}

fn start(scene: &Scene, args: &[&str]) -> Child {
    let mut command = scene.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// How often something is tried: `TRTMUT_ROUNDS` says how often where figures are taken (docs/reliability.md).
fn rounds(usual: usize) -> usize {
    std::env::var("TRTMUT_ROUNDS").map_or(usual, |n| n.parse().unwrap())
}

/// Ends the disturbance when it goes out of scope, also where a check fails.
struct Stop<'a>(&'a AtomicBool);
impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Refits from a file that `disturb` changes meanwhile; returns how often it was refused.
fn refit_while(rounds: usize, disturb: impl Fn(&Path, usize) + Sync) -> usize {
    let scene = scene();
    let path = scene.file("x.safetensors");
    fs::write(&path, checkpoint(1)).unwrap();
    let stop = AtomicBool::new(false);
    let mut refused = 0;
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                disturb(&path, n);
                n += 1;
            }
        });
        for round in 0..rounds {
            scene.run(&["refit", "p.plan", "--base"]).exits(0);
            let args = ["refit", "p.plan", "x.safetensors"];
            let output = start(&scene, &args).wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.signal(), None, "round {round}: {said}");
            match output.status.code() {
                Some(0) => {}
                Some(1) => refused += 1,
                other => panic!("round {round}: {other:?} {said}"),
            }
            assert!(
                held(&scene).is_some(),
                "round {round}: a torn tensor was written"
            );
            scene.run(&["inspect", "p.plan"]).exits(0);
        }
    });
    refused
}

#[test]
fn a_source_that_is_rewritten_in_place_is_never_torn() {
    use std::os::unix::fs::FileExt;
    let contents = [checkpoint(1), checkpoint(2)];
    let refused = refit_while(rounds(12), |path, n| {
        let file = fs::File::options().write(true).open(path).unwrap();
        for (at, part) in contents[n % 2].chunks(64 << 10).enumerate() {
            file.write_all_at(part, (at * (64 << 10)) as u64).unwrap();
        }
    });
    assert!(refused > 0, "the test did not disturb anything");
}

#[test]
fn a_source_that_is_cut_off_is_an_error_and_no_signal() {
    let whole = checkpoint(1);
    let refused = refit_while(rounds(12), |path, n| {
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
    let contents = [checkpoint(1), checkpoint(2)];
    refit_while(rounds(8), |path, n| {
        let beside = path.with_extension("next");
        fs::write(&beside, &contents[n % 2]).unwrap();
        fs::rename(&beside, path).unwrap();
    });
}

#[test]
fn a_signal_ends_it_at_once_and_leaves_nothing() {
    let scene = scene();
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
    for round in 0..rounds(40) as u64 {
        let (signal, code) = [("INT", 130), ("TERM", 143)][round as usize % 2];
        let which = ["1.safetensors", "2.safetensors"][round as usize / 2 % 2];
        let mut child = start(&scene, &["refit", "p.plan", which]);
        std::thread::sleep(Duration::from_millis(5 + round % 60 * 5));
        let sent = Instant::now();
        Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status()
            .unwrap();
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
        let left: Vec<_> = names(&scene)
            .into_iter()
            .filter(|n| !before.contains(n))
            .collect();
        // The manifest that waits for its plan is no leftover: the next command finished the change.
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
    println!("{ended} of {} were ended by a signal", rounds(40));
    assert!(ended > 0, "no signal came in time");
}

#[test]
fn of_two_that_change_a_plan_the_second_waits_and_says_so() {
    let scene = scene();
    let file = fs::File::open(scene.file("p.plan")).unwrap();
    file.lock().unwrap();
    let mut child = start(&scene, &["refit", "p.plan", "1.safetensors"]);
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "it did not wait");
    // Who only reads need not wait.
    scene.run(&["inspect", "p.plan"]).exits(0);
    file.unlock().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("waiting") && said.contains("p.plan"),
        "{said}"
    );
    assert_eq!(held(&scene), Some(1));
}
