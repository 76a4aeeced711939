//! Many real builds on one cache at the same time, some of them killed, among prunes and checks: every build that survives has the
//! right engine, and no engine is compiled more often than it was missing.
//!
//! `TRTMUT_RACE_SECONDS` sets how long (6 by default); with `--nocapture` the figures are printed.
#![allow(clippy::print_stdout, reason = "figures are read with --nocapture")]

use crate::net::{Net, random};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use trtmut::engine::RunOptions;
use trtmut::pipeline::{Environment, open};
use trtmut::tensor::{Dtype, Tensor};

const PROCESSES: u64 = 16;
const SIDE: usize = 128;
/// The same graph with so many sets of weights.
const WEIGHTS: usize = 3;
/// Each is a key of its own.
const RANGES: [&str; 8] = [
    "N=2", "N=1:2", "N=1:4", "N=2:4", "N=2:3:4", "N=1:2:8", "N=1:4:8", "N=1:8:8",
];

struct Scene {
    dir: tempfile::TempDir,
    /// What each set of weights makes of a matrix of ones.
    expected: Vec<Vec<f32>>,
    /// By range.
    keys: Vec<String>,
}

/// What happened, over all processes.
#[derive(Debug, Default)]
struct Sum {
    /// By key.
    compiled: BTreeMap<String, u64>,
    removed: BTreeMap<String, u64>,
    copied: u64,
    refitted: u64,
    killed: u64,
    started: u64,
    prunes: u64,
    checks: u64,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        for set in 0..WEIGHTS {
            let weight = random(set as u64, &[SIDE, SIDE]);
            let side = SIDE.to_string();
            let net = Net::default()
                .input("x", &["N", &side])
                .weight("w", &weight)
                .node("p", "MatMul", &["x", "w"], "y", &[])
                .output("y", &["N", &side]);
            fs::write(dir.path().join(format!("{set}.onnx")), net.onnx("")).unwrap();
            let column = |c| (0..SIDE).map(|r| weight.1[r * SIDE + c]).sum();
            expected.push((0..SIDE).map(column).collect());
        }
        let mut scene = Scene {
            dir,
            expected,
            keys: Vec::new(),
        };
        for range in RANGES {
            let asked = [
                "cache",
                "explain",
                "0.onnx",
                "--dim",
                range,
                "--backend",
                "cpu",
            ];
            let report = scene.json(&asked);
            scene.keys.push(report["key"].as_str().unwrap().to_owned());
        }
        scene
    }

    fn spawn(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_trtmut"))
            .args(args)
            .args(["--json", "--cache-dir", "cache"])
            .current_dir(self.dir.path())
            .env_remove("TRTMUT_CACHE_SIZE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        json(&self.spawn(args).wait_with_output().unwrap())
    }

    fn worker(&self, n: u64, end: Instant, sum: &Mutex<Sum>) {
        let mut random = ChaCha8Rng::seed_from_u64(n);
        while Instant::now() < end {
            match random.random_range(0..100) {
                0..88 => self.build(n, &mut random, sum),
                88..94 => self.prune(&mut random, sum),
                94..97 => {
                    let repair = ["cache", "verify", "--repair"];
                    let checked = self.json(&repair[..random.random_range(2..=3)]);
                    assert_eq!(checked["damaged"].as_array().unwrap().len(), 0, "{checked}");
                    sum.lock().unwrap().checks += 1;
                }
                _ => {
                    let list = self.json(&["cache", "list"]);
                    assert_eq!(list["damaged"].as_array().unwrap().len(), 0, "{list}");
                }
            }
        }
    }

    fn build(&self, n: u64, random: &mut ChaCha8Rng, sum: &Mutex<Sum>) {
        let set = random.random_range(0..WEIGHTS);
        let range = random.random_range(0..RANGES.len());
        let (model, plan) = (format!("{set}.onnx"), format!("{n}.plan"));
        let mut args = vec!["build", &model, "--dim", RANGES[range], "--backend", "cpu"];
        args.extend(["--threads", "1", "-o", &plan]);
        if random.random_range(0..2) == 0 {
            args.push("--trust-cache");
        }
        let mut child = self.spawn(&args);
        if random.random_range(0..5) == 0 {
            std::thread::sleep(Duration::from_millis(random.random_range(0..400)));
            // It may have ended by now, and is then as good as any other.
            let _ = child.kill();
        }
        let output = child.wait_with_output().unwrap();
        let mut sum = sum.lock().unwrap();
        sum.started += 1;
        if output.status.signal().is_some() {
            sum.killed += 1;
            return;
        }
        let report = json(&output);
        match report["cache"].as_str().unwrap() {
            "miss" => *sum.compiled.entry(self.keys[range].clone()).or_default() += 1,
            "hit" => sum.copied += 1,
            "refitted" => sum.refitted += 1,
            other => panic!("{other}"),
        }
        drop(sum);
        let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
        let unexpected = warnings.lines().find(|l| !l.contains("waiting for"));
        assert!(unexpected.is_none(), "{warnings}");
        self.check(&self.dir.path().join(plan), set);
    }

    /// What the plan computes is what the weights of its model say.
    fn check(&self, plan: &Path, set: usize) {
        let mut opened = open(plan, &Environment::default()).unwrap();
        opened
            .engine
            .prepare(&RunOptions {
                threads: Some(1),
                ..RunOptions::default()
            })
            .unwrap();
        let ones = Tensor {
            dtype: Dtype::F32,
            shape: vec![2, SIDE],
            data: 1.0f32.to_le_bytes().repeat(2 * SIDE),
        };
        let outputs = opened.engine.run(&vec![("x".into(), ones)]).unwrap();
        let found = outputs[0].1.data.as_chunks::<4>().0.iter();
        let found: Vec<f32> = found.map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(found.len(), 2 * SIDE);
        for (f, e) in found.iter().zip(self.expected[set].iter().cycle()) {
            assert!(
                (f - e).abs() < 1e-3,
                "{f} instead of {e} with weights {set}"
            );
        }
    }

    fn prune(&self, random: &mut ChaCha8Rng, sum: &Mutex<Sum>) {
        let to = format!("{}kB", random.random_range(0..300));
        let report = self.json(&["cache", "prune", "--to", &to]);
        let mut sum = sum.lock().unwrap();
        sum.prunes += 1;
        for removed in report["removed"].as_array().unwrap() {
            assert_eq!(removed["kind"], "engine", "{report}");
            let key = removed["name"].as_str().unwrap().to_owned();
            *sum.removed.entry(key).or_default() += 1;
        }
    }

    fn names(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("cache").join(folder)).unwrap();
        entries.map(|e| e.unwrap().file_name().into()).collect()
    }
}

fn json(output: &Output) -> serde_json::Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
}

#[test]
fn killed_builds_leave_nothing_wrong() {
    let seconds = std::env::var("TRTMUT_RACE_SECONDS").map_or(6, |s| s.parse().unwrap());
    let scene = Scene::new();
    let sum = Mutex::new(Sum::default());
    let end = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        for n in 0..PROCESSES {
            let (scene, sum) = (&scene, &sum);
            scope.spawn(move || scene.worker(n, end, sum));
        }
    });
    let sum = sum.into_inner().unwrap();
    let all = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    println!(
        "{} builds by {PROCESSES} processes at a time, {} keys, {seconds} s: {} compiled, {} copied, {} refitted, {} killed; {} \
         prunes removed {}, {} checks",
        sum.started,
        RANGES.len(),
        all(&sum.compiled),
        sum.copied,
        sum.refitted,
        sum.killed,
        sum.prunes,
        all(&sum.removed),
        sum.checks,
    );
    for (key, compiled) in &sum.compiled {
        let removed = sum.removed.get(key).copied().unwrap_or(0);
        assert!(
            *compiled <= 1 + removed,
            "{key} was compiled {compiled} times and removed {removed} times"
        );
    }
    assert!(
        sum.killed > 0 && sum.copied > 0 && sum.refitted > 0,
        "{sum:?}"
    );
    assert!(all(&sum.compiled) >= RANGES.len() as u64, "{sum:?}");

    let repaired = scene.json(&["cache", "verify", "--repair"]);
    assert_eq!(repaired["damaged"].as_array().unwrap().len(), 0);
    assert_eq!(scene.names("locks"), [PathBuf::from("store")]);
    assert!(scene.names("tmp").is_empty(), "{:?}", scene.names("tmp"));
    let store = File::open(scene.dir.path().join("cache/locks/store")).unwrap();
    store.try_lock().unwrap();
}
