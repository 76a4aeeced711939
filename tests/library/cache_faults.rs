//! The fault table of the cache: whatever happens to its files, a lookup is right or a typed fault, and never a crash; and
//! after the fault the key can be built again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use trtmut::cache::{CacheFault, Check, Damage, KeyFields, Memo, Plan, Store};
use trtmut::fault::Explain;
use trtmut::fsx::Map;
use trtmut::watch::Silent;

const LIMIT: u64 = 1 << 30;
const FILES: [&str; 3] = ["engine.plan", "manifest.json", "entry.json"];

fn fields(name: &str) -> KeyFields {
    KeyFields::new()
        .with("structure", name)
        .with("profile", "x:1..4")
}

fn plan(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

fn put(store: &Store, name: &str, plan: &[u8]) -> Result<(), CacheFault> {
    let lock = store.lock(&fields(name), &Silent)?;
    lock.put(
        Plan::Bytes(plan),
        format!("{{\"of\":\"{name}\"}}").as_bytes(),
    )?;
    Ok(())
}

struct Scene {
    _temp: tempfile::TempDir,
    dir: PathBuf,
    store: Store,
    plan: Vec<u8>,
}

impl Scene {
    fn new(length: usize) -> Scene {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("cache");
        let store = Store::open(&dir, LIMIT).unwrap();
        let plan = plan(length);
        put(&store, "a", &plan).unwrap();
        Scene {
            _temp: temp,
            dir,
            store,
            plan,
        }
    }

    fn entry(&self, name: &str) -> PathBuf {
        self.dir
            .join("engines-v1")
            .join(fields(name).key().to_string())
    }

    /// The entry is reported damaged and moved away, is a miss then, and can be built again. Returns the damage.
    fn damaged(&self, what: &str) -> Damage {
        let key = fields("a").key();
        let fault = match self.store.lookup(&key, Check::Full) {
            Err(fault) => fault,
            Ok(hit) => panic!("{what}: found {}", hit.is_some()),
        };
        assert_eq!(fault.code(), "cache-entry-damaged", "{what}");
        let CacheFault::Damaged {
            damage,
            quarantine: Some(moved),
            ..
        } = fault
        else {
            panic!("{what}: {fault:?}");
        };
        assert!(moved.starts_with(self.dir.join("quarantine")), "{what}");
        assert!(moved.exists(), "{what}");
        assert!(
            self.store.lookup(&key, Check::Full).unwrap().is_none(),
            "{what}"
        );
        self.restore();
        damage
    }

    fn restore(&self) {
        put(&self.store, "a", &self.plan).unwrap();
        self.right();
    }

    fn right(&self) {
        let hit = self
            .store
            .lookup(&fields("a").key(), Check::Full)
            .unwrap()
            .unwrap();
        assert_eq!(&hit.plan().unwrap()[..], self.plan);
        assert_eq!(hit.manifest(), br#"{"of":"a"}"#);
    }
}

/// Replaces a file as a damaged disk would show it, without touching files that are open.
fn replace(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes).unwrap();
    fs::rename(beside, path).unwrap();
}

#[test]
fn truncation_at_every_kilobyte() {
    let scene = Scene::new(64 << 10);
    for length in (0..scene.plan.len()).step_by(1 << 10) {
        replace(&scene.entry("a").join("engine.plan"), &scene.plan[..length]);
        let found = length as u64;
        let expected = scene.plan.len() as u64;
        assert_eq!(
            scene.damaged("plan"),
            Damage::Length {
                file: "engine.plan",
                expected,
                found
            }
        );
    }
    for file in ["manifest.json", "entry.json"] {
        let path = scene.entry("a").join(file);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() - 1 {
            replace(&path, &whole[..length]);
            scene.damaged(file);
        }
    }
}

#[test]
fn a_thousand_flipped_bits() {
    let scene = Scene::new(10_000);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut found = [0; 3];
    for round in 0..1000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = (random % 3) as usize;
        let path = scene.entry("a").join(FILES[at]);
        let mut bytes = fs::read(&path).unwrap();
        let bit = (random >> 8) as usize % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        replace(&path, &bytes);
        match scene.store.lookup(&fields("a").key(), Check::Full) {
            // A space that became another white space, or a letter of an escape: the record says the same.
            Ok(Some(hit)) if at == 2 => {
                assert_eq!(hit.record().fields, fields("a"));
                scene.restore();
                scene.right();
            }
            Ok(hit) => panic!(
                "round {round}, bit {bit} of {}: {}",
                FILES[at],
                hit.is_some()
            ),
            Err(fault) => {
                assert_eq!(
                    fault.code(),
                    "cache-entry-damaged",
                    "round {round}: {fault}"
                );
                found[at] += 1;
                put(&scene.store, "a", &scene.plan).unwrap();
            }
        }
    }
    scene.right();
    assert!(found.iter().all(|n| *n > 200), "{found:?}");
}

#[test]
fn swapped_files_and_swapped_entries() {
    let scene = Scene::new(5000);
    let mut other = scene.plan.clone();
    other[4999] ^= 1;
    for (file, damage) in [
        (
            "engine.plan",
            Damage::Digest {
                file: "engine.plan",
            },
        ),
        (
            "manifest.json",
            Damage::Digest {
                file: "manifest.json",
            },
        ),
        (
            "entry.json",
            Damage::Key {
                found: fields("b").key().to_string(),
            },
        ),
    ] {
        put(&scene.store, "b", &other).unwrap();
        let theirs = fs::read(scene.entry("b").join(file)).unwrap();
        replace(&scene.entry("a").join(file), &theirs);
        assert_eq!(scene.damaged(file), damage);
    }
    put(&scene.store, "b", &other).unwrap();
    let aside = scene.dir.join("aside");
    fs::rename(scene.entry("a"), &aside).unwrap();
    fs::rename(scene.entry("b"), scene.entry("a")).unwrap();
    fs::rename(&aside, scene.entry("b")).unwrap();
    assert!(matches!(scene.damaged("entries"), Damage::Key { .. }));
    assert!(
        scene
            .store
            .lookup(&fields("b").key(), Check::Trust)
            .is_err()
    );
}

#[test]
fn zero_length_missing_and_misplaced_files() {
    let scene = Scene::new(3000);
    for file in FILES {
        let path = scene.entry("a").join(file);
        replace(&path, b"");
        scene.damaged(file);
        fs::remove_file(&path).unwrap();
        assert_eq!(scene.damaged(file), Damage::Missing { file });
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(scene.damaged(file), Damage::Missing { file });
    }
    // A half-written entry cannot come from here, but from a backup that was restored halfway.
    fs::remove_dir_all(scene.entry("a")).unwrap();
    fs::create_dir(scene.entry("a")).unwrap();
    assert_eq!(
        scene.damaged("empty"),
        Damage::Missing { file: "entry.json" }
    );
    fs::remove_dir_all(scene.entry("a")).unwrap();
    fs::write(scene.entry("a"), b"a file").unwrap();
    assert_eq!(
        scene.damaged("file"),
        Damage::Missing { file: "entry.json" }
    );
}

#[test]
fn another_version_of_the_format() {
    let scene = Scene::new(3000);
    let path = scene.entry("a").join("entry.json");
    let text = fs::read_to_string(&path).unwrap();
    let newer = text.replace("trtmut.cache-entry/1", "trtmut.cache-entry/7");
    replace(&path, newer.replace("\"plan\"", "\"plans\"").as_bytes());
    assert_eq!(
        scene.damaged("newer"),
        Damage::Format {
            found: "trtmut.cache-entry/7".into()
        }
    );
}

#[test]
fn what_trust_skips_and_what_it_does_not() {
    let scene = Scene::new(3000);
    let key = fields("a").key();
    let path = scene.entry("a").join("engine.plan");
    let mut bytes = scene.plan.clone();
    bytes[7] ^= 1;
    replace(&path, &bytes);
    assert!(scene.store.lookup(&key, Check::Trust).unwrap().is_some());
    assert_eq!(
        scene.damaged("full"),
        Damage::Digest {
            file: "engine.plan"
        }
    );
    replace(&path, &bytes[1..]);
    assert!(scene.store.lookup(&key, Check::Trust).is_err());
}

#[test]
fn verify_finds_all_and_repairs_only_when_asked() {
    let scene = Scene::new(3000);
    for name in ["b", "c", "d"] {
        put(&scene.store, name, &scene.plan).unwrap();
    }
    replace(&scene.entry("b").join("engine.plan"), b"short");
    replace(&scene.entry("c").join("manifest.json"), br#"{"of":"x"}"#);
    fs::create_dir(scene.dir.join("engines-v1/not-a-key")).unwrap();
    let left = scene.dir.join("tmp/put-dead");
    fs::create_dir_all(left.join("x")).unwrap();
    for repair in [false, true] {
        let report = scene.store.verify(repair, &Silent).unwrap();
        assert_eq!(report.whole, 2);
        assert_eq!(report.broken.len(), 3);
        assert_eq!(report.quarantined.len(), if repair { 2 } else { 0 });
        assert_eq!(left.exists(), !repair);
        assert!(!report.is_clean() && report.faults.is_empty());
    }
    // What has no name of the cache's is not the cache's to move.
    let left = scene.store.verify(false, &Silent).unwrap();
    assert_eq!((left.broken.len(), left.faults.len()), (1, 0));
    fs::remove_dir(scene.dir.join("engines-v1/not-a-key")).unwrap();
    assert!(scene.store.verify(false, &Silent).unwrap().is_clean());
    assert_eq!(scene.store.list().unwrap().entries.len(), 2);
    scene.right();
}

#[test]
fn missing_folders_come_back_and_misplaced_ones_are_faults() {
    let scene = Scene::new(3000);
    for folder in ["engines-v1", "locks", "tmp", "."] {
        let _ = fs::remove_dir_all(scene.dir.join(folder));
        let _ = scene.store.lookup(&fields("a").key(), Check::Full).unwrap();
        assert!(scene.store.list().unwrap().broken.is_empty());
        assert!(scene.store.verify(true, &Silent).unwrap().is_clean());
        scene.restore();
    }
    for folder in ["engines-v1", "locks", "tmp"] {
        let path = scene.dir.join(folder);
        let _ = fs::remove_dir_all(&path);
        fs::write(&path, b"in the way").unwrap();
        let fault = put(&scene.store, "a", &scene.plan).unwrap_err();
        assert_eq!(fault.code(), "cache-io", "{folder}");
        assert!(fault.to_string().contains(folder), "{fault}");
        fs::remove_file(&path).unwrap();
        scene.restore();
    }
    let file = scene.dir.join("engines-v1/file");
    fs::write(&file, b"").unwrap();
    assert_eq!(Store::open(&file, LIMIT).unwrap_err().code(), "cache-io");
    assert_eq!(
        Store::open(file.join("below"), LIMIT).unwrap_err().code(),
        "cache-io"
    );
}

#[test]
fn folders_that_others_control_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("cache");
    Store::open(&dir, LIMIT).unwrap();
    let mode = |bits| fs::set_permissions(&dir, fs::Permissions::from_mode(bits)).unwrap();
    mode(0o777);
    let fault = Store::open(&dir, LIMIT).unwrap_err();
    assert_eq!(fault.code(), "cache-exposed");
    assert!(fault.hints()[0].contains("chmod"));
    mode(0o700);
    // Only root can give a folder away; for everybody else, root's are somebody else's.
    let foreign = if chown(&dir, Some(65534), None).is_ok() {
        dir.clone()
    } else {
        PathBuf::from("/usr")
    };
    let fault = Store::open(foreign, LIMIT).unwrap_err();
    assert_eq!(fault.code(), "cache-not-owned");
}

#[test]
fn files_are_private() {
    let scene = Scene::new(10);
    scene.store.timing_dir().unwrap();
    let mut left = vec![scene.dir.clone()];
    let mut files = 0;
    while let Some(path) = left.pop() {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{path:?}");
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{path:?}");
            files += 1;
        }
    }
    assert!(files >= 4);
}

#[test]
fn entries_that_do_not_fit_are_kept_out() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path().join("c"), 10_000).unwrap();
    let fault = put(&store, "large", &plan(10_001)).unwrap_err();
    assert_eq!(fault.code(), "cache-entry-too-large");
    put(&store, "a", &plan(6000)).unwrap();
    store.pin(&fields("a").key()).unwrap();
    let fault = put(&store, "b", &plan(6000)).unwrap_err();
    assert_eq!(fault.code(), "cache-no-room");
    store.unpin(&fields("a").key()).unwrap();
    let used = store
        .lookup(&fields("a").key(), Check::Full)
        .unwrap()
        .unwrap();
    assert_eq!(
        put(&store, "b", &plan(6000)).unwrap_err().code(),
        "cache-no-room"
    );
    drop(used);
    put(&store, "b", &plan(6000)).unwrap();
    assert!(
        store
            .lookup(&fields("a").key(), Check::Full)
            .unwrap()
            .is_none()
    );
    assert!(
        store
            .lookup(&fields("b").key(), Check::Full)
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_clock_that_went_back_keeps_nothing_for_ever() {
    let scene = Scene::new(3000);
    let future = std::time::SystemTime::now() + std::time::Duration::from_secs(1_000_000);
    let stamp = |name: &str| {
        File::options()
            .write(true)
            .open(scene.entry(name).join("entry.json"))
            .unwrap()
    };
    stamp("a").set_modified(future).unwrap();
    assert_eq!(scene.store.list().unwrap().entries[0].used, future);
    // Used in the future is used now: not older than anything, and the next use brings the stamp back.
    let hour = trtmut::cache::Prune {
        older_than: Some(std::time::Duration::from_hours(1)),
        ..Default::default()
    };
    assert!(scene.store.prune(hour).unwrap().removed.is_empty());
    scene.right();
    assert!(scene.store.list().unwrap().entries[0].used < future);
    stamp("a").set_modified(future).unwrap();
    let all = trtmut::cache::Prune {
        to: Some(0),
        ..Default::default()
    };
    assert_eq!(scene.store.prune(all).unwrap().removed.len(), 1);
    scene.restore();
}

/// Runs the test `name` of this binary once more in a child that `prepare` arranges, with `dir` in its environment.
fn in_child(name: &str, dir: &Path, mut command: Command, prepare: impl FnOnce(&mut Command)) {
    command
        .args(["--exact", &format!("cache_faults::{name}"), "--nocapture"])
        .env("TRTMUT_TEST_DIR", dir)
        .current_dir("/");
    prepare(&mut command);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

fn child_dir() -> Option<PathBuf> {
    std::env::var_os("TRTMUT_TEST_DIR").map(PathBuf::from)
}

/// What a full disk must leave behind: a fault that says so, no trace of the entry, everything else untouched.
fn full_disk_child(dir: &Path, kinds: &[io::ErrorKind]) {
    let store = Store::open(dir.join("cache"), LIMIT).unwrap();
    put(&store, "small", &plan(20_000)).unwrap();
    let fault = put(&store, "large", &plan(8 << 20)).unwrap_err();
    let CacheFault::Io { source, .. } = &fault else {
        panic!("{fault:?}")
    };
    assert!(kinds.contains(&source.kind()), "{source:?}");
    assert!(fault.hints()[0].contains("prune"));
    assert!(
        store
            .lookup(&fields("large").key(), Check::Full)
            .unwrap()
            .is_none()
    );
    assert_eq!(fs::read_dir(dir.join("cache/tmp")).unwrap().count(), 0);
    let hit = store
        .lookup(&fields("small").key(), Check::Full)
        .unwrap()
        .unwrap();
    assert_eq!(&hit.plan().unwrap()[..], plan(20_000));
    let output = hit.copy_to(dir.join("out"), trtmut::cache::Link::Never);
    assert!(output.is_ok());
    put(&store, "small again", &plan(20_000)).unwrap();
    assert!(store.verify(false, &Silent).unwrap().is_clean());
}

#[test]
fn a_file_that_may_not_grow() {
    if let Some(dir) = child_dir() {
        return full_disk_child(&dir, &[io::ErrorKind::FileTooLarge]);
    }
    let temp = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    // In blocks of 512 or 1024 bytes, depending on the shell. The signal that comes with the error would kill.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\""]);
    shell.arg(std::env::current_exe().unwrap());
    in_child("a_file_that_may_not_grow", temp.path(), shell, |_| ());
}

#[test]
#[ignore = "needs user namespaces, to mount a small tmpfs"]
fn a_full_disk() {
    if let Some(dir) = child_dir() {
        return full_disk_child(&dir, &[io::ErrorKind::StorageFull]);
    }
    let temp = tempfile::tempdir().unwrap();
    let mut shell = Command::new("unshare");
    shell.args(["--map-root-user", "--mount", "sh", "-c"]);
    shell
        .arg("mount -t tmpfs -o size=1m,mode=0700 none \"$TRTMUT_TEST_DIR\" && exec \"$0\" \"$@\"");
    shell.arg(std::env::current_exe().unwrap());
    in_child("a_full_disk", temp.path(), shell, |c| {
        c.arg("--ignored");
    });
}

#[test]
fn lost_permissions() {
    if let Some(dir) = child_dir() {
        return lost_permissions_child(&dir);
    }
    let temp = tempfile::tempdir().unwrap();
    let mode =
        |path: &Path, bits| fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    mode(temp.path(), 0o755);
    // Permissions mean nothing to root: then the child runs as nobody, from a copy that nobody can reach.
    let exe = temp.path().join("exe");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    mode(&exe, 0o755);
    let dir = temp.path().join("of-nobody");
    fs::create_dir(&dir).unwrap();
    let root = chown(&dir, Some(65534), Some(65534)).is_ok();
    in_child("lost_permissions", &dir, Command::new(exe), |c| {
        if root {
            c.uid(65534).gid(65534);
        }
    });
}

fn lost_permissions_child(dir: &Path) {
    let mode =
        |path: &Path, bits| fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    let denied = |fault: CacheFault| {
        let CacheFault::Io { source, .. } = &fault else {
            panic!("{fault:?}")
        };
        assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
        assert!(fault.hints()[0].contains("permissions"));
    };
    let cache = dir.join("cache");
    let store = Store::open(&cache, LIMIT).unwrap();
    put(&store, "a", &plan(5000)).unwrap();
    let key = fields("a").key();
    let all = ["engines-v1", "locks", "tmp", "."].map(|f| cache.join(f));

    // A read-only cache still serves.
    for folder in &all {
        mode(folder, 0o500);
    }
    let store = Store::open(&cache, LIMIT).unwrap();
    let hit = store.lookup(&key, Check::Full).unwrap().unwrap();
    assert_eq!(&hit.plan().unwrap()[..], plan(5000));
    assert_eq!(store.list().unwrap().entries.len(), 1);
    denied(put(&store, "b", &plan(10)).unwrap_err());
    denied(store.timing_dir().unwrap_err());
    // A file that has been as it is for long.
    let map = Map::open("/bin/sh").unwrap();
    assert!(
        store
            .memo()
            .remember(&Memo::seen(&[&map]), "p", "v")
            .is_err()
    );
    for folder in all.iter().rev() {
        mode(folder, 0o700);
    }

    // Damage in a cache that cannot be changed is reported all the same.
    let record = cache
        .join("engines-v1")
        .join(key.to_string())
        .join("entry.json");
    let whole = fs::read(&record).unwrap();
    File::create(&record).unwrap().write_all(b"{").unwrap();
    mode(&cache.join("engines-v1"), 0o500);
    let fault = store.lookup(&key, Check::Full).unwrap_err();
    assert!(
        matches!(
            fault,
            CacheFault::Damaged {
                quarantine: None,
                ..
            }
        ),
        "{fault:?}"
    );
    mode(&cache.join("engines-v1"), 0o700);
    File::create(&record).unwrap().write_all(&whole).unwrap();

    // An entry that may not be read is its own fault, and no other's.
    mode(&record, 0o000);
    denied(store.lookup(&key, Check::Full).unwrap_err());
    put(&store, "b", &plan(10)).unwrap();
    let listing = store.list().unwrap();
    assert_eq!((listing.entries.len(), listing.faults.len()), (1, 1));
    let report = store.verify(false, &Silent).unwrap();
    assert_eq!((report.whole, report.faults.len()), (1, 1));
    mode(&record, 0o600);

    // A folder above that may not be entered.
    mode(&cache, 0o000);
    denied(store.lookup(&key, Check::Full).unwrap_err());
    denied(put(&store, "c", &plan(10)).unwrap_err());
    mode(&cache, 0o700);
    mode(dir, 0o500);
    denied(Store::open(dir.join("another"), LIMIT).unwrap_err());
    mode(dir, 0o700);
    assert!(store.lookup(&key, Check::Full).unwrap().is_some());
}
