//! What the cache does when nothing is wrong: hits, last uses, pins, eviction, explanations.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use trtmut::cache::{Check, Difference, Key, KeyFields, Kind, Pinned, Plan, Prune, Store};
use trtmut::fault::Explain;
use trtmut::tensor::Digest;
use trtmut::watch::Silent;

fn fields(name: &str) -> KeyFields {
    KeyFields::new()
        .with("structure", name)
        .with("options", "fp16")
}

struct Scene {
    temp: tempfile::TempDir,
    store: Store,
}

impl Scene {
    fn new(limit: u64) -> Scene {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path().join("c"), limit).unwrap();
        Scene { temp, store }
    }

    fn put(&self, name: &str, bytes: usize) -> Key {
        let lock = self.store.lock(&fields(name), &Silent).unwrap();
        let plan: Vec<u8> = name.bytes().cycle().take(bytes).collect();
        lock.put(Plan::Bytes(&plan), name.as_bytes()).unwrap().key()
    }

    fn has(&self, key: &Key) -> bool {
        self.store.inspect(key, Check::Full).unwrap().is_some()
    }

    /// Says that the entry was last used so many seconds ago.
    fn used(&self, key: &Key, ago: u64) {
        let record = self
            .store
            .dir()
            .join(format!("engines-v1/{key}/entry.json"));
        stamp(&record, ago);
    }
}

fn stamp(path: &Path, ago: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(ago))
        .unwrap();
}

#[test]
fn a_hit_gives_back_what_was_put() {
    let scene = Scene::new(1 << 20);
    let key = scene.put("a", 5000);
    let hit = scene.store.lookup(&key, Check::Full).unwrap().unwrap();
    assert_eq!(key, fields("a").key());
    assert_eq!(hit.key(), key);
    assert_eq!(hit.fields(), &fields("a"));
    assert_eq!(hit.manifest(), b"a");
    assert_eq!(&hit.plan().unwrap()[..], [b'a'; 5000]);
    assert_eq!(hit.plan_digest(), Digest::of(&[b'a'; 5000]));
    assert!(
        scene
            .store
            .lookup(&fields("b").key(), Check::Full)
            .unwrap()
            .is_none()
    );
    assert!(scene.store.dir().join("CACHEDIR.TAG").exists());
}

#[test]
fn a_plan_file_is_taken_as_it_is_and_stays_its_owners() {
    let scene = Scene::new(1 << 20);
    let path = scene.temp.path().join("built.plan");
    for bytes in [b"".as_slice(), b"some plan"] {
        fs::write(&path, bytes).unwrap();
        let lock = scene.store.lock(&fields("a"), &Silent).unwrap();
        let hit = lock.put(Plan::File(&path), b"{}").unwrap();
        fs::write(&path, b"changed later").unwrap();
        assert_eq!(&hit.plan().unwrap()[..], bytes);
        let hit = scene
            .store
            .lookup(&hit.key(), Check::Full)
            .unwrap()
            .unwrap();
        assert_eq!(&hit.plan().unwrap()[..], bytes);
    }
    let lock = scene.store.lock(&fields("b"), &Silent).unwrap();
    let fault = lock.put(Plan::File(&path.join("none")), b"{}").unwrap_err();
    assert_eq!(fault.code(), "cache-io");
}

#[test]
fn those_who_have_an_entry_open_keep_it_when_it_is_replaced() {
    let scene = Scene::new(1 << 20);
    let key = scene.put("a", 5000);
    let old = scene.store.lookup(&key, Check::Full).unwrap().unwrap();
    let lock = scene.store.lock(&fields("a"), &Silent).unwrap();
    let new = lock.put(Plan::Bytes(b"new"), b"{}").unwrap();
    assert_eq!(&new.plan().unwrap()[..], b"new");
    assert_eq!(&old.plan().unwrap()[..], [b'a'; 5000]);
    let output = scene.temp.path().join("out");
    old.copy_to(&output, trtmut::cache::Link::Allowed).unwrap();
    assert_eq!(fs::read(output).unwrap(), [b'a'; 5000]);
}

#[test]
fn the_least_recently_used_goes_first_and_a_lookup_is_a_use() {
    let scene = Scene::new(35_000);
    let keys = ["a", "b", "c"].map(|n| scene.put(n, 10_000));
    for (key, ago) in keys.iter().zip([300, 200, 100]) {
        scene.used(key, ago);
    }
    assert!(
        scene
            .store
            .lookup(&keys[0], Check::Trust)
            .unwrap()
            .is_some()
    );
    // Looking without using.
    assert!(scene.has(&keys[1]));
    scene.store.list().unwrap();
    scene.store.info(&keys[1]).unwrap();
    scene.store.explain(&fields("b")).unwrap();
    let d = scene.put("d", 10_000);
    assert!(!scene.has(&keys[1]));
    assert!(scene.has(&keys[0]) && scene.has(&keys[2]) && scene.has(&d));
    let order: Vec<_> = scene
        .store
        .list()
        .unwrap()
        .entries
        .iter()
        .map(|e| e.key)
        .collect();
    assert_eq!(order, [keys[2], keys[0], d]);
}

#[test]
fn sizes_are_those_on_disk() {
    let scene = Scene::new(1 << 30);
    let key = scene.put("a", 10_000);
    scene.put("b", 1);
    fs::write(scene.store.timing_dir().unwrap().join("t.timing"), [0; 500]).unwrap();
    fs::write(scene.store.runtime_dir().unwrap().join("r.cache"), [0; 70]).unwrap();
    let listing = scene.store.list().unwrap();
    assert_eq!((listing.timing_bytes, listing.runtime_bytes), (500, 70));
    let mut on_disk = 0;
    for entry in fs::read_dir(scene.store.dir().join("engines-v1")).unwrap() {
        for file in fs::read_dir(entry.unwrap().path()).unwrap() {
            on_disk += file.unwrap().metadata().unwrap().len();
        }
    }
    assert_eq!(listing.total_bytes(), on_disk + 570);
    assert_eq!(scene.store.info(&key).unwrap().record.plan.bytes, 10_000);
    let prune = Prune {
        dry_run: true,
        ..Prune::default()
    };
    assert_eq!(
        scene.store.prune(prune).unwrap().bytes_before,
        on_disk + 570
    );
}

#[test]
fn prune_by_size_by_age_and_dry() {
    let scene = Scene::new(1 << 20);
    let keys = ["a", "b", "c"].map(|n| scene.put(n, 10_000));
    for (key, ago) in keys.iter().zip([3000, 2000, 1000]) {
        scene.used(key, ago);
    }
    let timing = scene.store.timing_dir().unwrap().join("t.timing");
    fs::write(&timing, [0; 500]).unwrap();
    stamp(&timing, 2500);
    let age = |seconds, dry_run| Prune {
        older_than: Some(Duration::from_secs(seconds)),
        dry_run,
        ..Prune::default()
    };
    let dry = scene.store.prune(age(1500, true)).unwrap();
    let kinds: Vec<_> = dry.removed.iter().map(|r| (r.kind, r.key())).collect();
    assert_eq!(
        kinds,
        [
            (Kind::Engine, Some(keys[0])),
            (Kind::Timing, None),
            (Kind::Engine, Some(keys[1]))
        ]
    );
    assert!(keys.iter().all(|k| scene.has(k)) && timing.exists());
    assert_eq!(scene.store.prune(age(1500, false)).unwrap(), dry);
    assert!(
        !scene.has(&keys[0]) && !scene.has(&keys[1]) && scene.has(&keys[2]) && !timing.exists()
    );
    let none = Prune {
        to: Some(0),
        ..Prune::default()
    };
    assert_eq!(scene.store.prune(none).unwrap().bytes_after, 0);
    assert_eq!(scene.store.list().unwrap().total_bytes(), 0);
}

#[test]
fn pinned_and_used_entries_stay_and_are_named() {
    let scene = Scene::new(1 << 20);
    let [pinned, used] = ["a", "b"].map(|n| scene.put(n, 10_000));
    assert_eq!(scene.store.pin(&pinned).unwrap(), Pinned::Changed);
    assert_eq!(scene.store.pin(&pinned).unwrap(), Pinned::Already);
    assert!(scene.store.info(&pinned).unwrap().pinned);
    let hit = scene.store.lookup(&used, Check::Full).unwrap().unwrap();
    let all = Prune {
        to: Some(0),
        ..Prune::default()
    };
    let report = scene.store.prune(all).unwrap();
    assert_eq!(
        (report.removed.len(), report.bytes_after),
        (0, report.bytes_before)
    );
    assert_eq!(report.pinned, [pinned.to_string()]);
    assert_eq!(report.in_use, [used.to_string()]);
    // Clearing takes pinned ones too.
    let report = scene.store.clear().unwrap();
    assert_eq!((report.removed.len(), report.in_use.len()), (1, 1));
    assert!(!scene.has(&pinned) && scene.has(&used));
    drop(hit);
    assert_eq!(scene.store.unpin(&used).unwrap(), Pinned::Already);
    assert_eq!(scene.store.clear().unwrap().removed.len(), 1);
    assert_eq!(
        scene.store.pin(&used).unwrap_err().code(),
        "cache-unknown-key"
    );
}

#[test]
fn quarantine_goes_first() {
    let scene = Scene::new(1 << 20);
    let [old, damaged] = ["a", "b"].map(|n| scene.put(n, 10_000));
    scene.used(&old, 5000);
    let plan = scene
        .store
        .dir()
        .join(format!("engines-v1/{damaged}/engine.plan"));
    fs::write(plan, [1; 10_000]).unwrap();
    assert!(scene.store.lookup(&damaged, Check::Full).is_err());
    let quarantined = scene.store.list().unwrap().quarantine_bytes;
    assert!(quarantined > 10_000);
    let prune = Prune {
        to: Some(15_000),
        ..Prune::default()
    };
    let report = scene.store.prune(prune).unwrap();
    assert_eq!(report.removed.len(), 1);
    assert_eq!(report.removed[0].kind, Kind::Quarantine);
    assert!(scene.has(&old));
}

#[test]
fn keys_are_found_by_their_beginning_and_plans_by_their_digest() {
    let scene = Scene::new(1 << 20);
    let keys: Vec<_> = (0..20).map(|n| scene.put(&n.to_string(), 10)).collect();
    let store = &scene.store;
    for key in &keys {
        assert_eq!(store.resolve(&key.short()).unwrap(), *key);
        assert_eq!(
            store.resolve(&key.to_string().to_uppercase()).unwrap(),
            *key
        );
    }
    // Of 20 keys, two begin with the same of 16 digits.
    let firsts: Vec<_> = keys.iter().map(|k| k.to_string().remove(0)).collect();
    let twice = firsts
        .iter()
        .find(|c| firsts.iter().filter(|d| d == c).count() > 1)
        .unwrap();
    assert_eq!(
        store.resolve(&twice.to_string()).unwrap_err().code(),
        "cache-ambiguous-key"
    );
    for unknown in ["", "xyz", "../"] {
        assert_eq!(
            store.resolve(unknown).unwrap_err().code(),
            "cache-unknown-key"
        );
    }
    let found = store.find_plan(&Digest::of(&[b'7'; 10])).unwrap().unwrap();
    assert_eq!(found.key, keys[7]);
    assert!(store.find_plan(&Digest::of(b"none")).unwrap().is_none());
}

#[test]
fn explain_names_every_differing_field_of_the_nearest() {
    let scene = Scene::new(1 << 20);
    let base = || {
        KeyFields::new()
            .with("structure", "s")
            .with("profile", "x:1..4")
            .with("gpu", "A100")
    };
    let put = |fields: &KeyFields| {
        let lock = scene.store.lock(fields, &Silent).unwrap();
        lock.put(Plan::Bytes(b"p"), b"{}").unwrap();
    };
    assert!(scene.store.explain(&base()).unwrap().nearest.is_empty());
    let near = KeyFields::new()
        .with("structure", "s")
        .with("profile", "x:1..8")
        .with("gpu", "A100");
    let far = KeyFields::new().with("structure", "t").with("plugins", "p");
    put(&far);
    put(&near);
    let explained = scene.store.explain(&base()).unwrap();
    assert!(explained.hit.is_none());
    let keys: Vec<_> = explained.nearest.iter().map(|n| n.entry.key).collect();
    assert_eq!(keys, [near.key(), far.key()]);
    let some = |s: &str| Some(s.to_owned());
    assert_eq!(
        explained.nearest[0].differences,
        [Difference {
            label: "profile".into(),
            wanted: some("x:1..4"),
            found: some("x:1..8")
        }]
    );
    let labels: Vec<_> = explained.nearest[1]
        .differences
        .iter()
        .map(|d| d.label.as_str())
        .collect();
    assert_eq!(labels, ["structure", "profile", "gpu", "plugins"]);
    assert_eq!(explained.nearest[1].differences[3].wanted, None);
    put(&base());
    assert_eq!(
        scene.store.explain(&base()).unwrap().hit.unwrap().key,
        base().key()
    );
}

#[test]
fn a_relative_folder_stays_the_same_folder() {
    let scene = Scene::new(1 << 20);
    assert!(scene.store.dir().is_absolute());
    let relative = PathBuf::from("target").join("no-such-cache");
    let store = Store::open(&relative, 1).unwrap();
    assert!(store.dir().is_absolute());
    fs::remove_dir_all(relative).unwrap();
}
