//! What was read once is not read again: bytes are counted in the real binary.
//!
//! A build is stopped at its very end, where it writes its report into a pipe that nobody empties, and asked for what it read
//! (`rchar`) and for the most that was resident (`VmHWM`).

use crate::net::{self, Net, random};
use crate::scene::Scene;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;
use trtmut::onnx::{Error, Model};

const SIDE: usize = 2048;
const MATRICES: usize = 6;
const WEIGHTS: u64 = (MATRICES * SIDE * SIDE * 4) as u64;
/// What the program itself and the small things that it reads may take.
const LITTLE: u64 = 48 << 20;

/// A file that is younger may change once more without its time stamps showing it, and is not remembered.
const SETTLED: Duration = Duration::from_millis(2300);

/// A chain of products, as one file, and with the weights in another.
fn models(scene: &Scene) {
    let mut net = Net::default().input("x0", &["1", &SIDE.to_string()]);
    for n in 0..MATRICES {
        let (name, out) = (format!("w{n}"), format!("x{}", n + 1));
        net = net.weight(&name, &random(n as u64, &[SIDE, SIDE])).node(
            &name,
            "MatMul",
            &[&format!("x{n}"), &name],
            &out,
            &[],
        );
    }
    let last = format!("x{MATRICES}");
    let net = net.output(&last, &["1", &SIDE.to_string()]);
    scene.write("one.onnx", net.onnx(""));
    let model = Model::open(scene.file("one.onnx")).unwrap();
    let create = |name| File::create(scene.file(name)).unwrap();
    let (mut out, mut data) = (create("two.onnx"), create("two.data"));
    model
        .write_onnx_external::<Error>(&mut out, &mut data, "two.data", &|w| Ok(model.bytes(w)))
        .unwrap();
    assert!(data.metadata().unwrap().len() >= WEIGHTS);
}

struct Counted {
    cache: String,
    /// The most that was resident at any time, bytes.
    resident: u64,
    /// Bytes that were read, copies inside the kernel among them.
    read: u64,
}

fn build(scene: &Scene, model: &str, more: &[&str]) -> Counted {
    let args = ["build", model, "--backend", "cpu", "--json", "-o"];
    let plan = format!("{model}.plan");
    let manifest = scene.file(&format!("{plan}.json"));
    let _ = fs::remove_file(&manifest);
    let _ = fs::remove_file(scene.file(&plan));
    // Nothing more goes in; a child that shares it waits when it writes.
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let filling = b"\n".repeat(1 << 16);
    while theirs.write(&filling).is_ok_and(|n| n > 0) {}
    while theirs.write(b"\n").is_ok() {}
    theirs.set_nonblocking(false).unwrap();
    let mut child = scene
        .command(&[&args[..], &[&plan], more].concat())
        .stdout(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let state = || {
        let stat = fs::read_to_string(proc.join("stat")).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        after_name.trim_start().chars().next().unwrap()
    };
    // It waits on nothing else for so long.
    let mut waiting = 0;
    while waiting < 10 {
        assert!(child.try_wait().unwrap().is_none(), "it failed");
        std::thread::sleep(Duration::from_millis(10));
        let waits = manifest.exists() && state() == 'S';
        waiting = if waits { waiting + 1 } else { 0 };
    }
    let number = |file: &str, label: &str| -> u64 {
        let text = fs::read_to_string(proc.join(file)).unwrap();
        let line = text.lines().find(|l| l.starts_with(label)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let resident = number("status", "VmHWM:") * 1024;
    let read = number("io", "rchar:");
    let mut report = String::new();
    ours.read_to_string(&mut report).unwrap();
    assert!(child.wait().unwrap().success());
    let report: serde_json::Value = serde_json::from_str(report.trim()).unwrap();
    let counted = Counted {
        cache: report["cache"].as_str().unwrap().to_owned(),
        resident,
        read,
    };
    #[allow(clippy::print_stdout, reason = "figures are read with --nocapture")]
    {
        println!(
            "{model} {more:?}: {}, {} MiB resident, {} MiB read",
            counted.cache,
            resident >> 20,
            read >> 20
        );
    }
    counted
}

#[test]
fn a_hit_reads_no_weights() {
    let scene = Scene::new();
    models(&scene);
    std::thread::sleep(SETTLED);
    for model in ["one.onnx", "two.onnx"] {
        // The second file holds the same model, so there is its engine already; it is only read for the first time.
        let first = build(&scene, model, &[]);
        assert_eq!(
            first.cache,
            if model == "one.onnx" { "miss" } else { "hit" }
        );
        assert!(first.read >= WEIGHTS, "{}", first.read);

        let hit = build(&scene, model, &[]);
        assert_eq!(hit.cache, "hit");
        assert!(hit.resident < LITTLE, "{}", hit.resident);
        // The plan of a CPU holds the weights: it is read once, to check it and copy it.
        assert!(hit.read < WEIGHTS + LITTLE, "{}", hit.read);
        let trusted = build(&scene, model, &["--trust-cache"]);
        assert_eq!(trusted.cache, "hit");
        assert!(trusted.resident < LITTLE, "{}", trusted.resident);
        assert!(trusted.read < WEIGHTS + LITTLE, "{}", trusted.read);

        let rehash = build(&scene, model, &["--rehash"]);
        assert_eq!(rehash.cache, "hit");
        assert!(rehash.read >= 2 * WEIGHTS, "{}", rehash.read);
    }
    // The memo was found in the way of nothing: without it, all is read, and it is no error.
    fs::remove_dir_all(scene.file(".cache/memo")).unwrap();
    scene.write(".cache/memo", "in the way");
    let hit = build(&scene, "two.onnx", &[]);
    assert_eq!(hit.cache, "hit");
    assert!(hit.read >= 2 * WEIGHTS, "{}", hit.read);
}

/// A scene with a small model that was built once, so that everything of it is remembered.
fn remembered() -> Scene {
    let scene = Scene::new();
    let net = Net::default()
        .input("x", &["N", "64"])
        .weight("w", &random(1, &[64, 64]))
        .node("p", "MatMul", &["x", "w"], "y", &[])
        .output("y", &["N", "64"]);
    scene.write("source.onnx", net.onnx(""));
    let model = Model::open(scene.file("source.onnx")).unwrap();
    let create = |name| File::create(scene.file(name)).unwrap();
    model
        .write_onnx_external::<Error>(
            &mut create("model.onnx"),
            &mut create("model.data"),
            "model.data",
            &|w| Ok(model.bytes(w)),
        )
        .unwrap();
    std::thread::sleep(SETTLED);
    let first = quick(&scene, "a.plan", &[]);
    assert_eq!(first["cache"], "miss");
    assert!(fs::read_dir(scene.file(".cache/memo")).unwrap().count() >= 2);
    scene
}

fn quick(scene: &Scene, plan: &str, more: &[&str]) -> serde_json::Value {
    let args = [
        "build",
        "model.onnx",
        "--dim",
        "N=1:4",
        "--json",
        "-o",
        plan,
    ];
    let done = scene.run(&[&args[..], more].concat());
    done.exits(0);
    done.json()
}

fn manifest(scene: &Scene, plan: &str) -> serde_json::Value {
    let path = scene.file(&format!("{plan}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn what_is_remembered_makes_the_same_manifest() {
    let scene = remembered();
    assert_eq!(quick(&scene, "b.plan", &[])["cache"], "hit");
    assert_eq!(quick(&scene, "c.plan", &["--rehash"])["cache"], "hit");
    assert_eq!(quick(&scene, "d.plan", &["--no-cache"])["cache"], "off");
    for plan in ["b.plan", "c.plan", "d.plan"] {
        assert_eq!(manifest(&scene, "a.plan"), manifest(&scene, plan));
    }
}

#[test]
fn a_change_that_keeps_length_and_mtime_is_seen() {
    let scene = remembered();
    let path = scene.file("model.data");
    let mtime = path.metadata().unwrap().modified().unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut value = [0; 4];
    file.read_exact_at(&mut value, 400).unwrap();
    let changed = f32::from_le_bytes(value) + 1.0;
    file.write_all_at(&changed.to_le_bytes(), 400).unwrap();
    file.set_modified(mtime).unwrap();
    drop(file);
    // Also long after, when the new state itself is remembered.
    for plan in ["b.plan", "c.plan", "d.plan"] {
        assert_eq!(quick(&scene, plan, &[])["cache"], "refitted");
        std::thread::sleep(SETTLED / 2);
    }
    quick(&scene, "fresh.plan", &["--no-cache"]);
    let weights = |plan| manifest(&scene, plan)["weights"].clone();
    assert_ne!(weights("a.plan"), weights("fresh.plan"));
    for plan in ["b.plan", "c.plan", "d.plan"] {
        assert_eq!(weights(plan), weights("fresh.plan"));
        assert!(fs::read(scene.file(plan)).unwrap() == fs::read(scene.file("fresh.plan")).unwrap());
    }
}

#[test]
fn a_proven_mapping_is_remembered_with_its_checkpoint() {
    let scene = remembered();
    let (shape, values) = random(1, &[64, 64]);
    let turned = (0..64 * 64).map(|i| values[i % 64 * 64 + i / 64]).collect();
    let checkpoint = |values: Vec<f32>| {
        let all = [("p.weight".to_owned(), (shape.clone(), values))].into();
        net::safetensors(&all)
    };
    scene.write("base.safetensors", checkpoint(turned));
    std::thread::sleep(SETTLED);
    let with = ["--weights", "base.safetensors"];
    for plan in ["b.plan", "c.plan"] {
        assert_eq!(quick(&scene, plan, &with)["cache"], "hit");
    }
    let mapping = |plan| manifest(&scene, plan)["weights"][0]["mapping"].clone();
    assert_eq!(manifest(&scene, "b.plan"), manifest(&scene, "c.plan"));
    assert_ne!(mapping("b.plan"), mapping("a.plan"), "it was not proven");
    // Another checkpoint in its place proves nothing: the old proof is not recalled.
    scene.write("base.safetensors", checkpoint(vec![0.5; 64 * 64]));
    let build = ["build", "model.onnx", "--dim", "N=1:4", "-o", "d.plan"];
    scene.refuses(&[&build[..], &with].concat(), 1, &["base.safetensors"]);
}

/// A plan with its base, everything of which is remembered.
fn remembered_plan() -> Scene {
    let scene = Scene::new();
    let net = Net::default()
        .input("x", &["1", "64"])
        .weight("a.weight", &random(1, &[64, 64]))
        .weight("b.weight", &random(2, &[64, 64]))
        .node("p", "MatMul", &["x", "a.weight"], "h", &[])
        .node("q", "MatMul", &["h", "b.weight"], "y", &[])
        .output("y", &["1", "64"]);
    scene.write("model.onnx", net.onnx(""));
    let checkpoint = |b: u64| {
        let all = [
            ("a.weight", random(1, &[64, 64])),
            ("b.weight", random(b, &[64, 64])),
        ];
        net::safetensors(&all.map(|(name, values)| (name.to_owned(), values)).into())
    };
    scene.write("base.safetensors", checkpoint(2));
    scene.write("new.safetensors", checkpoint(3));
    let build = ["build", "model.onnx", "--backend", "cpu", "-o", "m.plan"];
    let base = ["--weights", "base.safetensors"];
    scene.run(&[&build[..], &base].concat()).exits(0);
    std::thread::sleep(SETTLED);
    for _ in 0..2 {
        scene
            .run(&["diff", "m.plan", "new.safetensors"])
            .exits(0)
            .prints("NEEDS_REFIT");
    }
    scene
}

#[test]
fn damage_of_a_remembered_plan_is_seen_and_not_taken_over() {
    let scene = remembered_plan();
    let whole = fs::read(scene.file("m.plan")).unwrap();
    let manifest = fs::read(scene.file("m.plan.json")).unwrap();
    let mtime = scene.file("m.plan").metadata().unwrap().modified().unwrap();
    let data = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    // The header, a weight that stays, one that changes, and the graph.
    let places = [
        12,
        data - 1,
        data + 100,
        data + 64 * 64 * 4 + 100,
        whole.len() - 9,
    ];
    for at in places {
        let mut bytes = whole.clone();
        bytes[at] ^= 2;
        let file = File::options()
            .write(true)
            .open(scene.file("m.plan"))
            .unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.set_modified(mtime).unwrap();
        drop(file);
        for args in [
            &["diff", "m.plan", "new.safetensors"][..],
            &["refit", "m.plan", "new.safetensors"],
            &["refit", "m.plan", "new.safetensors", "-o", "other.plan"],
        ] {
            scene.refuses(args, 1, &["m.plan"]);
        }
        assert!(fs::read(scene.file("m.plan")).unwrap() == bytes);
        assert!(fs::read(scene.file("m.plan.json")).unwrap() == manifest);
        assert!(!scene.file("other.plan").exists());
    }
    fs::write(scene.file("m.plan"), &whole).unwrap();
    scene.run(&["refit", "m.plan", "new.safetensors"]).exits(0);
    scene
        .run(&["diff", "m.plan", "new.safetensors"])
        .exits(0)
        .prints("LIVE");
}

#[test]
fn every_flipped_bit_of_a_plan_is_seen() {
    let scene = remembered_plan();
    scene.run(&["refit", "m.plan", "new.safetensors"]).exits(0);
    let plan = scene.file("m.plan");
    trtmut::plan::open(&plan).unwrap();
    let whole = fs::read(&plan).unwrap();
    let data = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let file = File::options().write(true).open(&plan).unwrap();
    let seen = |bit: usize| {
        let byte = whole[bit / 8] ^ (1 << (bit % 8));
        file.write_all_at(&[byte], (bit / 8) as u64).unwrap();
        let opened = trtmut::plan::open(&plan);
        assert!(opened.is_err(), "bit {} of byte {}", bit % 8, bit / 8);
        file.write_all_at(&whole[bit / 8..=bit / 8], (bit / 8) as u64)
            .unwrap();
    };
    // All of the length and most of the header, and 500 of everything.
    (0..64).chain((64..data * 8).step_by(5)).for_each(seen);
    (0..500)
        .map(|i| i * (whole.len() * 8 - 1) / 499)
        .for_each(seen);
    trtmut::plan::open(&plan).unwrap();
    // Longer and shorter.
    for length in [whole.len() as u64 - 1, whole.len() as u64 + 1] {
        file.set_len(length).unwrap();
        assert!(trtmut::plan::open(&plan).is_err());
    }
}
