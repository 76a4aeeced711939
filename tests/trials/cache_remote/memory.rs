//! What a push and a pull of a large plan hold in memory of their own. It moves gigabytes, so it is run only when asked for.

use super::machines::Fleet;
use super::server::{Manner, Server};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;
use trtmut::cache::{KeyFields, Plan, Store};
use trtmut::watch::Silent;

const PLAN: usize = 300_000_000;

/// Far above what it takes, far below a plan.
const MOST: u64 = 64 << 20;

/// Anonymous memory of a running process, bytes: mapped files do not count.
fn anonymous(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find(|l| l.starts_with("RssAnon:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

/// Runs `trtmut cache …` to its end, and says what it held at most.
fn peak(fleet: &Fleet, args: &[&str]) -> u64 {
    let mut command = fleet.command(args);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    loop {
        peak = peak.max(anonymous(&child).unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{args:?}: {status}");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Against each of these remotes.
pub fn of_a_large_plan() {
    let fields = KeyFields::new().with("structure", "s");
    let key = fields.key().to_string();
    let server = Server::start(Manner::Honest);
    let s3 = super::s3::moto().ok().map(|_| super::s3::S3::start());
    let fleet = s3.as_ref().map_or_else(Fleet::new, |s3| s3.fleet(16));
    {
        let mut plan = vec![0; PLAN];
        ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut plan);
        let store = Store::open(fleet.scene.file("a"), 1 << 40).unwrap();
        let lock = store.lock(&fields, &Silent).unwrap();
        lock.put(Plan::Bytes(&plan), b"{}").unwrap();
    }
    let mut remotes = vec![("file", fleet.folder()), ("http", server.url())];
    if s3.is_some() {
        remotes.push(("s3", super::s3::url()));
    }
    for (name, url) in remotes {
        let common = ["--remote", &url, "--cache-size", "1TiB", "--cache-dir"];
        let push = peak(&fleet, &[&["cache", "push"][..], &common, &["a"]].concat());
        let pull = peak(
            &fleet,
            &[&["cache", "pull", &key][..], &common, &[name]].concat(),
        );
        println!("{name}: push {} KiB, pull {} KiB", push >> 10, pull >> 10);
        assert!(push < MOST && pull < MOST, "{name}: {push}, {pull}");
    }
}
