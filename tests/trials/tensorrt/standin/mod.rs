//! A TensorRT whose vtables the compiler lays out from the recorded signatures of a release: the whole program runs on it, and its
//! faults are ours to choose.

pub mod faults;
mod flows;
mod header;
pub mod library;

use crate::Trial;
use library::{Release, compiler};
use libtest_mimic::Failed;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{LazyLock, Mutex};

/// Releases that the whole program runs on; every recorded one with `TRTMUT_STANDIN=all`.
const FLOWS_ON: &[&str] = &[
    "trt-8.6.0",
    "trt-9.1",
    "trt-10.3",
    "trt-10.8",
    "trt-10.16",
    "trt-11.1",
    "rtx-1.4",
    "rtx-1.7",
];
/// Which methods of which release the program calls; written anew with `TRTMUT_BLESS=1`.
const CALLED: &str = "tests/trials/tensorrt/standin/called.md";

/// A trial is ignored by name where there is no compiler, but on a machine that says that it is for checking changes it fails.
fn trial(name: String, test: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    let checking = std::env::var("CI").is_ok_and(|v| v == "true");
    if compiler() || checking {
        return Trial::test(name, move || {
            if compiler() {
                test()
            } else {
                Err("there is no `g++` on the path, and CI=true".into())
            }
        });
    }
    Trial::test(format!("{name} (there is no `g++` on the path)"), test).with_ignored_flag(true)
}

pub(crate) fn trials() -> Vec<Trial> {
    let faults = faults::TESTS.iter();
    let mut trials: Vec<Trial> = faults
        .map(|(name, test)| trial(format!("standin/{name}"), test))
        .collect();
    trials.push(flows::triton::trial());
    let all = std::env::var("TRTMUT_STANDIN").is_ok_and(|v| v == "all");
    for release in Release::all() {
        if all || FLOWS_ON.contains(&release.name.as_str()) {
            let name = format!("standin/{} runs the whole program", release.name);
            trials.push(trial(name, move || whole_program(&release)));
        }
    }
    trials
}

/// What this process saw called so far, to be written at once.
static SEEN: LazyLock<Mutex<BTreeMap<String, BTreeSet<String>>>> = LazyLock::new(Mutex::default);

fn whole_program(release: &Release) -> Result<(), Failed> {
    let called = flows::all(release);
    let path = crate::tensorrt::root().join(CALLED);
    if std::env::var_os("TRTMUT_BLESS").is_some() {
        let mut seen = SEEN.lock().expect("no panic");
        seen.insert(release.name.clone(), called);
        return Ok(std::fs::write(path, listed(&seen))?);
    }
    let listed = std::fs::read_to_string(path)?;
    let listed: BTreeSet<&str> = listed
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let method = cells.next()?.trim_end_matches('`');
            let on = cells.next()?.trim_end_matches(" |");
            on.split(' ').any(|r| r == release.name).then_some(method)
        })
        .collect();
    if listed.is_empty() {
        // Not one of those that are listed; nothing was missing and no rule was broken.
        return Ok(());
    }
    let called: BTreeSet<&str> = called.iter().map(String::as_str).collect();
    if listed == called {
        return Ok(());
    }
    let new: Vec<_> = called.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&called).collect();
    Err(format!(
        "{}: called and not listed: {new:?}; listed and not called: {gone:?}",
        release.name
    )
    .into())
}

fn listed(seen: &BTreeMap<String, BTreeSet<String>>) -> String {
    let mut text = String::from(
        "# What is called of TensorRT, by release\n\nSeen by the stand-in while the whole program runs on it. Written by \
         `TRTMUT_BLESS=1 cargo test --test trials tensorrt::standin/`; with `TRTMUT_STANDIN=all` of every \
         recorded release.\n\n| method | releases |\n| --- | --- |\n",
    );
    let methods: BTreeSet<&String> = seen.values().flatten().collect();
    for method in methods {
        let on = Release::all().into_iter().map(|r| r.name);
        let on = on.filter(|r| seen.get(r).is_some_and(|m| m.contains(method)));
        writeln!(
            text,
            "| `{method}` | {} |",
            on.collect::<Vec<_>>().join(" ")
        )
        .expect("text");
    }
    text
}
