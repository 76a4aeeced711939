//! Figures of the engine cache, as ratios in one run, so that they can be compared between machines:
//! taking a plan out of the cache against `cp`, and listing many entries.
//!
//! `cargo bench --bench cache [-- FOLDER [PLAN_BYTES]]`; the folder (a temporary one by default) says which file system is
//! measured, and needs room for three plans. Everything is read once before, so that all readers find it in memory.
#![allow(clippy::print_stdout, reason = "the figures are the output")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use trtmut::cache::{Check, KeyFields, Link, Plan, Store};
use trtmut::watch::Silent;

const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let temp = match arguments.first() {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    }
    .expect("a folder to work in");
    let bytes = arguments
        .get(1)
        .map_or(1_000_000_000, |a| a.parse().expect("a number of bytes"));
    copy_out(temp.path(), bytes);
    list(temp.path(), 10_000);
}

/// The median of some rounds.
fn time(mut work: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

fn copy_out(folder: &Path, bytes: usize) {
    let store = Store::open(folder.join("cache"), u64::MAX).expect("a cache");
    let fields = KeyFields::new().with("plan", "large");
    let key = fields.key();
    // No two blocks alike, in case that the file system knows what is alike.
    let plan: Vec<u8> = (0..bytes as u64 / 8)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes())
        .collect();
    let lock = store.lock(&fields, &Silent).expect("a lock");
    let source = lock
        .put(Plan::Bytes(&plan), b"{}")
        .expect("room for the plan")
        .plan_path();
    drop((lock, plan));

    let output: PathBuf = folder.join("out.plan");
    let cp = |sync: bool| {
        time(|| {
            let _ = std::fs::remove_file(&output);
            let mut command = Command::new("cp");
            let done = command
                .arg("--reflink=never")
                .arg(&source)
                .arg(&output)
                .status();
            assert!(done.expect("cp").success());
            if sync {
                std::fs::File::open(&output)
                    .and_then(|f| f.sync_all())
                    .expect("sync");
            }
        })
    };
    let (plain, synced) = (cp(false), cp(true));
    println!("{} MB plan", bytes / 1_000_000);
    println!("  cp              {plain:>10.1?}   1.00");
    println!(
        "  cp, synced      {synced:>10.1?}   {:.2}",
        ratio(synced, plain)
    );
    for (check, link) in [
        (Check::Full, Link::Never),
        (Check::Trust, Link::Never),
        (Check::Full, Link::Allowed),
        (Check::Trust, Link::Allowed),
    ] {
        let mut how = None;
        let took = time(|| {
            let _ = std::fs::remove_file(&output);
            // As a build does it: checked when it is taken out.
            let hit = store.lookup(&key, Check::Trust).expect("no fault");
            let hit = hit.expect("a hit");
            let taken = store.take(&hit, &output, link, check).expect("no damage");
            how = Some(taken.expect("an output"));
        });
        let how = how.map_or(String::new(), |h| format!("{h:?}"));
        println!(
            "  hit {check:?} {how:<9} {took:>10.1?}   {:.3} of cp, {:.3} of cp synced",
            ratio(took, plain),
            ratio(took, synced)
        );
    }
    let _ = std::fs::remove_file(&output);
}

/// Of this process so far, user and system, from `/proc/self/stat` in ticks of 10 ms: a busy machine does not change it.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |n| {
        after_name
            .split_whitespace()
            .nth(n)
            .and_then(|t| t.parse().ok())
    };
    let ticks: u64 = ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0);
    Duration::from_millis(10 * ticks)
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

fn list(folder: &Path, entries: usize) {
    let cache = folder.join("many");
    let store = Store::open(&cache, u64::MAX).expect("a cache");
    // As real ones are: a profile of some inputs, and some options. Written by hand from one real entry each, because
    // storing syncs.
    let fields = |n: usize| {
        KeyFields::new()
            .with("structure", format!("blake3:{n:064}"))
            .with("profile", "sample:1x4x64x64..8x4x128x128,timestep:1..8,encoder_hidden_states:1x77x2048..8x77x2048")
            .with("options", "precision=fp16 opt-level=3 refit=all workspace=4294967296")
            .with("identity", "tensorrt 10.9.0 sm_89 NVIDIA GeForce RTX 4090")
    };
    let first = fields(0);
    let lock = store.lock(&first, &Silent).expect("a lock");
    let hit = lock
        .put(Plan::Bytes(b"plan"), &vec![b' '; 20_000])
        .expect("room");
    let template = hit.plan_path().parent().expect("an entry").to_owned();
    for n in 1..entries {
        let place = template.with_file_name(fields(n).key().to_string());
        std::fs::create_dir(&place).expect("a folder");
        for file in ["engine.plan", "manifest.json"] {
            std::fs::hard_link(template.join(file), place.join(file)).expect("a link");
        }
        let record = trtmut::cache::Record {
            fields: fields(n),
            ..hit.record().clone()
        };
        std::fs::write(place.join("entry.json"), record.to_json()).expect("a record");
    }
    // The first list keeps an index of what has not changed for two seconds.
    let list = || {
        let start = Instant::now();
        assert_eq!(store.list().expect("a list").entries.len(), entries);
        start.elapsed()
    };
    std::thread::sleep(Duration::from_millis(2500));
    let first = list();
    let before = processor_time();
    let took = time(|| assert_eq!(store.list().expect("a list").entries.len(), entries));
    let spent = processor_time().saturating_sub(before) / ROUNDS as u32;
    // What any list has to do at least: find the folders and look at one file in each.
    let least = time(|| {
        let folders = std::fs::read_dir(cache.join("engines-v1")).expect("a folder");
        let bytes: u64 = folders
            .map(|e| {
                e.expect("an entry")
                    .path()
                    .join("engine.plan")
                    .metadata()
                    .expect("a plan")
                    .len()
            })
            .sum();
        assert!(bytes > 0);
    });
    println!("{entries} entries");
    println!("  readdir, stat   {least:>10.1?}   1.00");
    println!(
        "  first list      {first:>10.1?}   {:.2}",
        ratio(first, least)
    );
    println!(
        "  list            {took:>10.1?}   {:.2}",
        ratio(took, least)
    );
    println!("  of the processor{spent:>10.1?}, on all cores together");
    for (name, more) in [("cache list", &[][..]), ("… --json", &["--json"][..])] {
        let took = time(|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_trtmut"));
            command.args(["cache", "list", "--cache-dir"]).arg(&cache);
            let done = command.args(more).stdout(Stdio::null()).status();
            assert!(done.expect("trtmut").success());
        });
        println!("  {name:<15} {took:>10.1?}   {:.2}", ratio(took, least));
    }
}
