//! The remote cache: machines that share engines, and remotes that are damaged, slow or gone. Only this machine is spoken to.

// What the memory trial found.
#![allow(clippy::print_stdout)]

mod machines;
mod memory;
mod s3;
mod server;

use crate::Trial;
use machines::Fleet;
use server::{Manner, Server};
use std::fs;
use std::path::Path;
use trtmut::cache::{Check, Existing, KeyFields, Plan, Remote, RemoteFault, RemoteSettings, Store};
use trtmut::watch::Silent;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    let tests: [(&str, fn()); 13] = [
        ("what one machine pushed is a hit on another", shared),
        (
            "what is damaged on the remote is a miss, and is replaced",
            damaged,
        ),
        ("entries swapped on the remote are found out", swapped),
        ("an entry that does not fit is not downloaded", too_large),
        ("what the remote has is not sent again", sent_once),
        ("a hit is pushed too", pushed_later),
        (
            "entries come by key, by its beginning, and all that fit",
            pulled,
        ),
        ("arguments and environment", arguments_and_environment),
        ("pushers at once leave a whole entry", pushers_at_once),
        ("damage here stays here", damage_stays_here),
        ("a web server serves a fleet", web_server),
        ("a remote that does not answer costs a warning", unreachable),
        ("a download that stops halfway leaves nothing", halfway),
    ];
    for (name, test) in tests {
        trials.push(Trial::test(name, move || {
            test();
            Ok(())
        }));
    }
    let s3 = "a bucket serves a fleet";
    trials.push(match s3::moto() {
        Ok(_) => Trial::test(s3, || {
            s3::a_bucket_serves_a_fleet();
            Ok(())
        }),
        Err(why) => Trial::test(format!("{s3} ({why})"), || Ok(())).with_ignored_flag(true),
    });
    let large = "memory of a large plan (moves gigabytes; --ignored --nocapture runs it)";
    trials.push(
        Trial::test(large, || {
            memory::of_a_large_plan();
            Ok(())
        })
        .with_ignored_flag(true),
    );
    trials
}

fn shared() {
    let fleet = Fleet::new();
    let url = fleet.folder();
    let remote = ["--remote", &url];
    let (cache, done) = fleet.build("a", "model.onnx", &["--remote", &url, "--push"]);
    assert_eq!(cache, "miss");
    assert!(done.stderr.contains("pushed"), "{}", done.stderr);
    let (cache, done) = fleet.build("b", "model.onnx", &remote);
    assert_eq!(cache, "hit");
    assert!(done.stderr.contains("pulled"), "{}", done.stderr);
    assert!(fleet.read("a.plan") == fleet.read("b.plan"));
    assert!(fleet.read("a.plan.json") == fleet.read("b.plan.json"));
    // It is an entry like any other now.
    assert_eq!(fleet.build("b", "model.onnx", &[]).0, "hit");
    let record = |of: &str| fs::read(fleet.entry(of).join("entry.json")).unwrap();
    assert!(record("a") == record("b") && record("a") == record("remote"));

    assert_eq!(fleet.build("c", "other.onnx", &remote).0, "refitted");
    assert_eq!(fleet.build("fresh", "other.onnx", &["--no-cache"]).0, "off");
    assert!(fleet.read("c.plan") == fleet.read("fresh.plan"));
    assert!(record("c") == record("a"));
    for machine in ["a", "b", "c"] {
        fleet.is_whole(machine);
    }
}

/// Damages an entry on the remote; the paths are of its record, its plan and its manifest.
type Harm = fn(&Path, &Path, &Path);

/// Ways to do so, with what is said about each.
fn damages() -> Vec<(&'static str, Harm)> {
    fn flip(path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    fn cut(path: &Path) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    }
    fn grow(path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        bytes.push(0);
        fs::write(path, bytes).unwrap();
    }
    vec![
        ("holds other bytes", |_, plan, _| flip(plan)),
        ("instead of", |_, plan, _| cut(plan)),
        ("instead of", |_, plan, _| grow(plan)),
        ("is missing", |_, plan, _| fs::remove_file(plan).unwrap()),
        ("holds other bytes", |_, _, manifest| flip(manifest)),
        ("instead of", |_, _, manifest| cut(manifest)),
        ("instead of", |_, _, manifest| grow(manifest)),
        ("is missing", |_, _, manifest| {
            fs::remove_file(manifest).unwrap();
        }),
        ("cannot be read", |record, _, _| {
            fs::write(record, b"{}").unwrap();
        }),
        ("cannot be read", |record, _, _| {
            fs::write(record, b"").unwrap();
        }),
        ("cannot be read", |record, _, _| {
            fs::write(record, vec![b' '; 5 << 20]).unwrap();
        }),
        ("was changed", |record, _, _| {
            let text = fs::read_to_string(record).unwrap();
            fs::write(record, text.replace("cpu", "gpu")).unwrap();
        }),
        ("its format is", |record, _, _| {
            let text = fs::read_to_string(record).unwrap();
            fs::write(record, text.replace("cache-entry/1", "cache-entry/9")).unwrap();
        }),
    ]
}

fn damaged() {
    let fleet = Fleet::new();
    let url = fleet.folder();
    fleet.build("a", "model.onnx", &["--remote", &url, "--push"]);
    let key = fleet.key("a");
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(fleet.entry("a").join("entry.json")).unwrap()).unwrap();
    let blob = |part: &str| {
        let digest = json[part]["digest"].as_str().unwrap();
        let digest = digest.strip_prefix("blake3:").unwrap();
        fleet.scene.file("remote/blobs").join(digest)
    };
    let (record, plan, manifest) = (
        fleet.entry("remote").join("entry.json"),
        blob("plan"),
        blob("manifest"),
    );
    for (at, (says, damage)) in damages().into_iter().enumerate() {
        damage(&record, &plan, &manifest);
        let machine = |name: &str| format!("{name}{at}");
        let (cache, done) = fleet.build(&machine("m"), "model.onnx", &["--remote", &url]);
        assert_eq!(cache, "miss", "{at}: {says}");
        for text in ["warning: ", &url, "is damaged", says] {
            assert!(
                done.stderr.contains(text),
                "{at}: no `{text}` in {}",
                done.stderr
            );
        }
        assert!(fleet.read("a.plan") == fleet.read(&format!("m{at}.plan")));
        fleet.is_whole(&machine("m"));
        let pull = fleet.cache(&machine("p"), &["pull", "--remote", &url, &key]);
        pull.exits(3);
        assert!(pull.stderr.contains(says), "{at}: {}", pull.stderr);
        fleet.is_whole(&machine("p"));
        // Whoever builds it again and pushes replaces it.
        let (cache, _) = fleet.build(&machine("n"), "model.onnx", &["--remote", &url, "--push"]);
        assert_eq!(cache, "miss", "{at}: {says}");
        let (cache, done) = fleet.build(&machine("o"), "model.onnx", &["--remote", &url]);
        assert_eq!(cache, "hit", "{at}: {says}: {}", done.stderr);
    }
}

fn swapped() {
    let fleet = Fleet::new();
    let url = fleet.folder();
    let push = ["--remote", &url, "--push"];
    fleet.build("a", "model.onnx", &push);
    let first = fleet.entry("remote");
    // Another engine: a graph of another width.
    let wide = Fleet::of(24);
    wide.build("a", "model.onnx", &push);
    let folder = fleet.scene.file("remote/engines-v1");
    let second = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| *p != first)
        .unwrap();
    let held = fleet.scene.file("held");
    fs::rename(&first, &held).unwrap();
    fs::rename(&second, &first).unwrap();
    fs::rename(&held, &second).unwrap();
    for fleet in [&fleet, &wide] {
        let (cache, done) = fleet.build("b", "model.onnx", &["--remote", &url]);
        assert_eq!(cache, "miss");
        assert!(
            done.stderr.contains("it was stored under the key"),
            "{}",
            done.stderr
        );
        assert!(fleet.read("a.plan") == fleet.read("b.plan"));
    }
}

fn too_large() {
    let fleet = Fleet::new();
    let server = Server::start(Manner::Honest);
    let url = server.url();
    fleet.build("a", "model.onnx", &["--remote", &url, "--push"]);
    let key = fleet.key("a");
    server.asked();
    let small = ["--remote", &url, "--cache-size", "500"];
    let (cache, done) = fleet.build("b", "model.onnx", &small);
    assert_eq!(cache, "miss");
    assert!(done.stderr.contains("does not fit"), "{}", done.stderr);
    let pull = fleet.cache(
        "c",
        &["pull", "--remote", &url, "--cache-size", "500", &key],
    );
    assert!(
        pull.exits(3).stderr.contains("does not fit"),
        "{}",
        pull.stderr
    );
    let asked = server.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|r| r.path.ends_with("/entry.json")),
        "{asked:?}"
    );
}

fn sent_once() {
    let fleet = Fleet::new();
    let server = Server::start(Manner::Honest);
    let url = server.url();
    let push = ["push", "--remote", &url, "--json"];
    fleet.build("a", "model.onnx", &[]);
    let outcome = |more: &[&str]| {
        let done = fleet.cache("a", &[&push[..], more].concat());
        done.exits(0);
        let json = done.json();
        assert_eq!(json["schema"], "trtmut.cache-push/1");
        assert_eq!(json["remote"], url);
        let puts = server.asked().iter().filter(|r| r.method == "PUT").count();
        (
            json["entries"][0]["outcome"].as_str().unwrap().to_owned(),
            puts,
        )
    };
    assert_eq!(outcome(&[]), ("moved".into(), 3));
    assert_eq!(outcome(&[]), ("already".into(), 0));
    assert_eq!(outcome(&["a.plan"]), ("already".into(), 0));
    assert_eq!(outcome(&["--force"]), ("moved".into(), 3));
    // One key has one entry, whatever the weights: a push after a refit has nothing to send.
    let (cache, _) = fleet.build("b", "other.onnx", &["--remote", &url, "--push"]);
    assert_eq!(cache, "refitted");
    assert!(server.asked().iter().all(|r| r.method != "PUT"));
    assert_eq!(server.files().len(), 3);
}

fn pushed_later() {
    let fleet = Fleet::new();
    let url = fleet.folder();
    assert_eq!(fleet.build("a", "model.onnx", &[]).0, "miss");
    assert!(!fleet.scene.file("remote").exists());
    assert_eq!(
        fleet
            .build("a", "model.onnx", &["--remote", &url, "--push"])
            .0,
        "hit"
    );
    assert_eq!(fleet.build("b", "model.onnx", &["--remote", &url]).0, "hit");
}

fn pulled() {
    let fleet = Fleet::new();
    let url = fleet.folder();
    let push = ["--remote", &url, "--push"];
    fleet.build("a", "model.onnx", &push);
    let key = fleet.key("a");
    let bytes = fleet.cache("a", &["list", "--json"]).json()["bytes"]
        .as_u64()
        .unwrap();
    Fleet::of(24).build("a", "model.onnx", &push);
    let pull = |machine: &str, more: &[&str]| {
        let done = fleet.cache(
            machine,
            &[&["pull", "--remote", &url, "--json"], more].concat(),
        );
        done.exits(0);
        let json = done.json();
        assert_eq!(json["schema"], "trtmut.cache-pull/1");
        let entries = json["entries"].as_array().unwrap();
        let mut outcomes: Vec<String> = entries
            .iter()
            .map(|e| e["outcome"].as_str().unwrap().into())
            .collect();
        outcomes.sort();
        outcomes
    };
    assert_eq!(pull("b", &[&key]), ["moved"]);
    assert_eq!(pull("b", &[&key[..10]]), ["already"]);
    assert_eq!(pull("b", &["--all"]), ["already", "moved"]);
    let one = (bytes + bytes / 2).to_string();
    assert_eq!(
        pull("c", &["--all", "--cache-size", &one]),
        ["moved", "skipped"]
    );
    fleet.is_whole("b");
    let none = fleet.cache("b", &["pull", "--remote", &url, "ffffffff"]);
    assert!(none.exits(1).stderr.contains("ffffffff"), "{}", none.stderr);
    let none = fleet.cache("b", &["pull", "--remote", &url, &"f".repeat(64)]);
    none.exits(1);
    // A remote of which nothing is there yet.
    let empty = format!("{url}/empty");
    let done = fleet.cache("b", &["pull", "--remote", &empty, "--all"]);
    done.exits(0).prints("pulled 0 of 0");
}

fn arguments_and_environment() {
    let fleet = Fleet::new();
    let url = fleet.folder();
    let refused = |args: &[&str], says: &str| {
        let done = fleet.run(args);
        done.exits(2);
        assert!(done.stderr.contains(says), "no `{says}` in {}", done.stderr);
    };
    let build =
        |more: &[&'static str]| [&["build", "model.onnx", "--backend", "cpu"], more].concat();
    refused(&build(&["--push"]), "TRTMUT_CACHE_REMOTE");
    refused(&build(&["--remote", "bucket/prefix"]), "it has no scheme");
    refused(
        &build(&["--remote", "http://10.0.0.1/x"]),
        "without encryption",
    );
    refused(&build(&["--no-cache", "--push"]), "--no-cache");
    refused(&["cache", "push"], "TRTMUT_CACHE_REMOTE");
    refused(&["cache", "pull", "--all"], "TRTMUT_CACHE_REMOTE");
    refused(&["cache", "pull", "--remote", &url], "<KEYS>");
    assert!(!fleet.scene.file("engine.plan").exists());

    let fleet = Fleet::new().with("TRTMUT_CACHE_REMOTE", &url);
    assert_eq!(fleet.build("a", "model.onnx", &["--push"]).0, "miss");
    assert_eq!(fleet.build("b", "model.onnx", &[]).0, "hit");
    fleet.cache("c", &["pull", "--all"]).exits(0);
    assert_eq!(fleet.build("c", "model.onnx", &[]).0, "hit");
    // Where nobody names a cache for the CPU, the environment's remote alone is no reason to use one.
    let done = fleet.run(&build(&["--json"]));
    assert_eq!(done.exits(0).json()["cache"], "off");

    for (name, value) in [
        ("TRTMUT_CACHE_REMOTE", "bucket/prefix"),
        ("TRTMUT_CACHE_REMOTE", "http://10.0.0.1/x"),
        ("TRTMUT_CACHE_REMOTE_TIMEOUT", "soon"),
    ] {
        let fleet = Fleet::new()
            .with("TRTMUT_CACHE_REMOTE", &url)
            .with(name, value);
        let (cache, done) = fleet.build("a", "model.onnx", &[]);
        assert_eq!(cache, "miss");
        assert!(
            done.stderr.contains("the remote cache is not used"),
            "{}",
            done.stderr
        );
    }
}

fn store(folder: &Path) -> Store {
    Store::open(folder, 1 << 30).unwrap()
}

fn put(store: &Store, fields: &KeyFields, plan: &[u8]) {
    let lock = store.lock(fields, &Silent).unwrap();
    lock.put(Plan::Bytes(plan), &plan[..1]).unwrap();
}

fn pushers_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let url = format!("file://{}/remote", temp.path().display());
    let fields = KeyFields::new().with("structure", "s");
    let key = fields.key();
    let open = || Remote::open(&url, RemoteSettings::default()).unwrap();
    let push = |pusher: u8, times: usize| {
        let store = store(&temp.path().join(format!("pusher{pusher}")));
        put(&store, &fields, &vec![pusher; 10_000]);
        let hit = store.inspect(&key, Check::Full).unwrap().unwrap();
        for _ in 0..times {
            open().push(&hit, Existing::Replace, &Silent).unwrap();
        }
    };
    push(0, 1);
    std::thread::scope(|scope| {
        for pusher in 1..4 {
            scope.spawn(move || push(pusher, 20));
        }
        let mut seen = [0; 4];
        for puller in 0..20 {
            let store = store(&temp.path().join(format!("puller{puller}")));
            open().pull(&store, key, &Silent).unwrap();
            let hit = store.inspect(&key, Check::Full).unwrap().unwrap();
            let pusher = hit.manifest()[0];
            assert!(hit.plan().unwrap().iter().all(|&b| b == pusher));
            seen[usize::from(pusher)] += 1;
        }
    });
}

fn damage_stays_here() {
    let temp = tempfile::tempdir().unwrap();
    let url = format!("file://{}/remote", temp.path().display());
    let fields = KeyFields::new().with("structure", "s");
    let store = store(&temp.path().join("a"));
    put(&store, &fields, b"plan");
    let plan = store
        .dir()
        .join(format!("engines-v1/{}/engine.plan", fields.key()));
    fs::write(plan, b"evil").unwrap();
    let hit = store.inspect(&fields.key(), Check::Trust).unwrap().unwrap();
    let remote = Remote::open(&url, RemoteSettings::default()).unwrap();
    let fault = remote.push(&hit, Existing::Keep, &Silent).unwrap_err();
    assert!(matches!(fault, RemoteFault::Cache(_)), "{fault}");
    assert!(!temp.path().join("remote").exists());
}

fn web_server() {
    let server = Server::start(Manner::Honest);
    let url = server.url();
    let fleet = Fleet::new().with("TRTMUT_CACHE_AUTHORIZATION", "Bearer secret");
    let remote = ["--remote", &url];
    assert_eq!(
        fleet
            .build("a", "model.onnx", &["--remote", &url, "--push"])
            .0,
        "miss"
    );
    assert_eq!(fleet.build("b", "model.onnx", &remote).0, "hit");
    assert_eq!(fleet.build("c", "other.onnx", &remote).0, "refitted");
    assert!(fleet.read("a.plan") == fleet.read("b.plan"));
    let key = fleet.key("a");
    fleet.cache("d", &["pull", "--remote", &url, &key]).exits(0);
    assert_eq!(fleet.build("d", "model.onnx", &[]).0, "hit");
    let asked = server.asked();
    assert!(
        asked
            .iter()
            .all(|r| r.authorization.as_deref() == Some("Bearer secret")),
        "{asked:?}"
    );
    // It cannot list, so the beginning of a key is not enough.
    let done = fleet.cache("e", &["pull", "--remote", &url, &key[..8]]);
    assert!(
        done.exits(3).stderr.contains("cannot list"),
        "{}",
        done.stderr
    );
    assert!(!done.stderr.contains("secret"));
}

fn unreachable() {
    let broken = Server::start(Manner::Broken);
    let silent = Server::start(Manner::Silent);
    for (url, says) in [
        // Nobody listens at a port that only the system may open.
        ("http://127.0.0.1:1/engines".into(), "refused"),
        (broken.url(), "500"),
        (silent.url(), "there was no answer within 2s"),
    ] {
        let fleet = Fleet::new().with("TRTMUT_CACHE_REMOTE_TIMEOUT", "2s");
        let (cache, done) = fleet.build("a", "model.onnx", &["--remote", &url, "--push"]);
        assert_eq!(cache, "miss");
        for text in ["warning: ", &url, says] {
            assert!(done.stderr.contains(text), "no `{text}` in {}", done.stderr);
        }
        // Said once, and not tried again for the push.
        assert_eq!(
            done.stderr.matches("warning: ").count(),
            1,
            "{}",
            done.stderr
        );
        fleet.is_whole("a");
        let push = fleet.cache("a", &["push", "--remote", &url, "--json"]);
        assert_eq!(push.exits(3).json()["code"], "remote-failed");
        let pull = fleet.cache("a", &["pull", "--remote", &url, &"f".repeat(64)]);
        assert!(pull.exits(3).stderr.contains(says), "{}", pull.stderr);
    }
    // A folder that cannot be made.
    let fleet = Fleet::new();
    fleet.scene.write("file", "");
    let url = format!("file://{}/file/remote", fleet.scene.path().display());
    let (cache, done) = fleet.build("a", "model.onnx", &["--remote", &url, "--push"]);
    assert_eq!(cache, "miss");
    assert!(done.stderr.contains(&url), "{}", done.stderr);
    fleet.cache("a", &["push", "--remote", &url]).exits(3);
}

fn halfway() {
    let honest = Server::start(Manner::Honest);
    let fleet = Fleet::new().with("TRTMUT_CACHE_REMOTE_TIMEOUT", "2s");
    fleet.build("a", "model.onnx", &["--remote", &honest.url(), "--push"]);
    for (at, manner) in [Manner::Stalling, Manner::Cutting].into_iter().enumerate() {
        let url = honest.like(manner).url();
        let machine = format!("b{at}");
        let (cache, done) = fleet.build(&machine, "model.onnx", &["--remote", &url]);
        assert_eq!(cache, "miss");
        assert!(done.stderr.contains(&url), "{}", done.stderr);
        assert!(fleet.read("a.plan") == fleet.read(&format!("{machine}.plan")));
        fleet.is_whole(&machine);
    }
}
