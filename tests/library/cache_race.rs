//! Many processes on one cache folder, some of them killed: everyone who survives has the right bytes, nothing is built
//! twice, and nothing is left behind.
//!
//! `TRTMUT_RACE_SECONDS` sets how long (6 by default); with `--nocapture` the figures are printed.
#![allow(clippy::print_stdout, reason = "figures are read with --nocapture")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use trtmut::cache::{CacheFault, Check, Hit, KeyFields, Link, Plan, Prune, Store};
use trtmut::tensor::Digest;
use trtmut::watch::Silent;

const PROCESSES: usize = 16;
const KEYS: u64 = 8;
const LIMIT: u64 = 3 << 20;

fn fields(n: u64) -> KeyFields {
    KeyFields::new().with("n", n.to_string())
}

/// Between 100 kB and 800 kB, so that the limit holds some of the eight and not all.
fn plan(n: u64) -> Vec<u8> {
    let seed = Digest::of(&n.to_le_bytes()).0;
    seed.iter()
        .copied()
        .cycle()
        .take(100_000 * (n as usize + 1))
        .collect()
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn pause(&mut self, most_ms: u64) {
        std::thread::sleep(Duration::from_micros(self.below(most_ms * 1000)));
    }
}

struct Worker {
    dir: PathBuf,
    store: Store,
    random: Random,
    /// Whether workers also damage entries.
    damage: bool,
    built: u64,
    hits: u64,
    prunes: u64,
    checks: u64,
}

impl Worker {
    fn round(&mut self) {
        let n = self.random.below(KEYS);
        let key = fields(n).key();
        match self.random.below(100) {
            0..75 => self.want(n),
            75..82 => {
                let prune = Prune {
                    to: Some(self.random.below(LIMIT)),
                    ..Prune::default()
                };
                self.store.prune(prune).unwrap();
                self.prunes += 1;
            }
            82..88 => {
                let repair = self.random.below(2) == 0;
                let report = self.store.verify(repair, &Silent).unwrap();
                assert!(report.is_clean() || self.damage, "{report:?}");
                self.checks += 1;
            }
            88..93 => {
                let listing = self.store.list().unwrap();
                assert!(listing.broken.is_empty() || self.damage, "{listing:?}");
                assert!(listing.faults.is_empty(), "{listing:?}");
            }
            93..95 => {
                let _ = self.store.pin(&key);
            }
            95..98 => {
                let _ = self.store.unpin(&key);
            }
            98 => {
                self.store.clear().unwrap();
            }
            _ if self.damage => self.spoil(n),
            _ => {}
        }
    }

    /// Gets an engine, building it if it is not there.
    fn want(&mut self, n: u64) {
        let fields = fields(n);
        if let Some(hit) = self.look(&fields) {
            return self.check(n, &hit);
        }
        // A lock of the test's own, which the cache does not know of. It is opened before the cache's lock, because the
        // kernel closes a killed process's files in the order of their numbers, and it has to be free first.
        let alone = File::create(self.dir.join(format!("building-{n}"))).unwrap();
        let store = self.store.clone();
        let lock = store.lock(&fields, &Silent).unwrap();
        alone.try_lock().expect("two processes build the same key");
        let hit = self.look(&fields).or_else(|| {
            self.random.pause(10);
            let again = self.look(&fields);
            assert!(
                again.is_none(),
                "it was built while this process had the lock"
            );
            match lock.put(Plan::Bytes(&plan(n)), format!("manifest {n}").as_bytes()) {
                Ok(hit) => {
                    self.built += 1;
                    Some(hit)
                }
                // What others have in use or pinned leaves no room: the engine is there all the same.
                Err(CacheFault::NoRoom { .. }) => None,
                Err(fault) => panic!("{fault:?}"),
            }
        });
        drop(alone);
        drop(lock);
        if let Some(hit) = hit {
            self.check(n, &hit);
        }
    }

    fn look(&mut self, fields: &KeyFields) -> Option<Hit> {
        match self.store.lookup(&fields.key(), Check::Full) {
            Ok(hit) => {
                self.hits += u64::from(hit.is_some());
                hit
            }
            Err(CacheFault::Damaged { .. }) if self.damage => None,
            Err(fault) => panic!("{fault:?}"),
        }
    }

    /// The bytes are right now, after a while, and in a copy.
    fn check(&mut self, n: u64, hit: &Hit) {
        let expected = plan(n);
        let map = hit.plan().unwrap();
        assert!(map[..] == expected);
        self.random.pause(5);
        assert!(map[..] == expected);
        assert_eq!(hit.manifest(), format!("manifest {n}").as_bytes());
        let output = self.dir.join(format!("out-{}", std::process::id()));
        let link = if self.random.below(2) == 0 {
            Link::Allowed
        } else {
            Link::Never
        };
        let taken = self.store.take(hit, &output, link, Check::Full);
        taken.unwrap().unwrap();
        assert!(fs::read(&output).unwrap() == expected);
        fs::remove_file(&output).unwrap();
    }

    /// Damages an entry as a disk would: those who have it open keep what they checked.
    fn spoil(&mut self, n: u64) {
        let folder = self
            .store
            .dir()
            .join("engines-v1")
            .join(fields(n).key().to_string());
        let beside = self.dir.join(format!("spoilt-{}", std::process::id()));
        let mut bytes = plan(n);
        bytes[self.random.below(100_000) as usize] ^= 4;
        fs::write(&beside, bytes).unwrap();
        let _ = fs::rename(&beside, folder.join("engine.plan"));
    }
}

fn race(test: &str, damage: bool) {
    if let Some(dir) = std::env::var_os("TRTMUT_RACE_DIR").map(PathBuf::from) {
        return work(dir, damage);
    }
    let seconds = std::env::var("TRTMUT_RACE_SECONDS").map_or(6, |s| s.parse().unwrap());
    let temp = tempfile::tempdir().unwrap();
    let mut random = Random(seconds ^ u64::from(std::process::id()));
    let spawn = |until: Instant| {
        let left = until.saturating_duration_since(Instant::now());
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("cache_race::{test}"), "--nocapture"])
            .stdout(Stdio::null())
            .env("TRTMUT_RACE_DIR", temp.path())
            .env("TRTMUT_RACE_MS", left.as_millis().to_string())
            .spawn()
            .unwrap()
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut children: Vec<Child> = (0..PROCESSES).map(|_| spawn(end)).collect();
    let mut killed = 0;
    while Instant::now() < end {
        // Each is replaced, so that there are always as many.
        std::thread::sleep(Duration::from_millis(100 + random.below(200)));
        let victim = random.below(PROCESSES as u64) as usize;
        children[victim].kill().unwrap();
        children[victim].wait().unwrap();
        children[victim] = spawn(end);
        killed += 1;
    }
    for mut child in children {
        assert!(
            child.wait().unwrap().success(),
            "a worker failed; see above"
        );
    }
    assert!(killed * 5 >= PROCESSES, "only {killed} were killed");
    let started = PROCESSES + killed;
    println!(
        "{test}: {seconds} s, {PROCESSES} processes at a time, {started} in all, {killed} of them killed, {KEYS} keys"
    );
    afterwards(temp.path(), damage);
}

fn work(dir: PathBuf, damage: bool) {
    let ms = std::env::var("TRTMUT_RACE_MS").unwrap().parse().unwrap();
    let end = Instant::now() + Duration::from_millis(ms);
    let mut worker = Worker {
        store: Store::open(dir.join("cache"), LIMIT).unwrap(),
        random: Random(u64::from(std::process::id()) << 20),
        dir,
        damage,
        built: 0,
        hits: 0,
        prunes: 0,
        checks: 0,
    };
    let sum = worker.dir.join(format!("sum-{}", std::process::id()));
    while Instant::now() < end {
        worker.round();
        let Worker {
            built,
            hits,
            prunes,
            checks,
            ..
        } = worker;
        // By rename, so that a killed process has told whole numbers.
        let beside = sum.with_extension("new");
        fs::write(&beside, format!("{built} {hits} {prunes} {checks}")).unwrap();
        fs::rename(beside, &sum).unwrap();
    }
}

fn afterwards(dir: &Path, damage: bool) {
    let cache = dir.join("cache");
    let store = Store::open(&cache, LIMIT).unwrap();
    let first = store.verify(true, &Silent).unwrap();
    assert!(first.is_clean() || damage, "{first:?}");
    assert!(first.building.is_empty(), "{first:?}");
    let second = store.verify(false, &Silent).unwrap();
    assert!(second.is_clean(), "{second:?}");
    assert!(damage || !cache.join("quarantine").exists());
    let names = |folder: &str| -> Vec<_> {
        let entries = fs::read_dir(cache.join(folder)).unwrap();
        entries.map(|e| e.unwrap().file_name()).collect()
    };
    assert_eq!(names("locks"), ["store"]);
    assert!(names("tmp").is_empty(), "{:?}", names("tmp"));
    File::open(cache.join("locks/store"))
        .unwrap()
        .try_lock()
        .unwrap();
    store.prune(Prune::default()).unwrap();
    let listing = store.list().unwrap();
    let pinned: u64 = listing
        .entries
        .iter()
        .filter(|e| e.pinned)
        .map(|e| e.bytes)
        .sum();
    assert!(listing.total_bytes() <= LIMIT.max(pinned), "{listing:?}");
    let mut sums = [0u64; 4];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if name.starts_with("sum-") && path.extension().is_none() {
            let text = fs::read_to_string(&path).unwrap();
            for (sum, n) in sums.iter_mut().zip(text.split(' ')) {
                *sum += n.parse::<u64>().unwrap();
            }
        }
    }
    let [built, hits, prunes, checks] = sums;
    println!("  {built} built, {hits} hits, {prunes} prunes, {checks} checks");
    // Otherwise nothing was raced for.
    assert!(built >= KEYS && hits >= KEYS, "{built} built, {hits} hits");
}

#[test]
fn killed_processes_leave_nothing_wrong() {
    race("killed_processes_leave_nothing_wrong", false);
}

#[test]
fn damage_is_never_handed_out() {
    race("damage_is_never_handed_out", true);
}
