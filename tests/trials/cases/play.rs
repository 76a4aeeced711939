//! Plays a case: its steps one by one, in a folder of its own, each held against its expectation.

use super::index::{self, Case, Expect};
use super::{judge, prepare};
use serde_json::Value;
use snapbox::cmd::Command;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_mins(2);

/// Every file at or under a path, with its bytes; nothing where nothing is.
type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// Runs a case to its end or its first failure, which is told with all commands and what they said.
pub fn play(case: &Case) -> Result<(), String> {
    let dir = tempfile::Builder::new().prefix("case-").tempdir().unwrap();
    let mut stage = Stage {
        case,
        tmp: dir.path().canonicalize().unwrap(),
        decided: BTreeMap::new(),
        log: String::new(),
    };
    fs::create_dir(stage.tmp.join("home")).unwrap();
    stage
        .steps()
        .map_err(|what| format!("{what}\n\nwhy: {}\n\n{}", case.why, stage.log))
}

/// A case under way.
struct Stage<'a> {
    case: &'a Case,
    tmp: PathBuf,
    /// What each step decided, for `agrees_with`.
    decided: BTreeMap<usize, String>,
    log: String,
}

/// What a command did.
struct Done {
    code: i32,
    stdout: String,
    /// stdout and stderr.
    text: String,
}

/// What comes after a step.
enum Then {
    GoOn,
    /// It was refused, which is right and leaves the steps after it without a meaning.
    End,
}

impl Stage<'_> {
    fn steps(&mut self) -> Result<(), String> {
        for (n, (step, expect)) in self.case.steps.iter().zip(&self.case.expect).enumerate() {
            let step: Vec<String> = step.iter().map(|word| self.fill(word)).collect();
            if step[0].starts_with('@') {
                prepare::prepare(&step);
                continue;
            }
            let then = self
                .step(n, &step, expect)
                .map_err(|what| format!("step {n} ({}): {what}", step[0]))?;
            if matches!(then, Then::End) {
                break;
            }
        }
        Ok(())
    }

    fn step(&mut self, n: usize, args: &[String], expect: &Expect) -> Result<Then, String> {
        let plan = self.plan(expect);
        let kept: Vec<(&String, Contents)> = expect
            .keeps
            .iter()
            .map(|path| (path, contents(self.fill(path).as_ref())))
            .collect();
        let done = self.run(args)?;
        let decision = judge::decision(done.code, &done.stdout);
        self.decided.insert(n, decision);

        for (path, before) in kept {
            if contents(self.fill(path).as_ref()) != before {
                return Err(format!("changed or removed {path}"));
            }
        }
        if let Some(refusal) = &expect.or_refused
            && refusal.codes().contains(&done.code)
        {
            judge::message(&done.text, &refusal.message_has, &refusal.message_lacks)?;
            self.same_plan(expect, &plan)?;
            return Ok(Then::End);
        }
        let codes = expect.codes();
        if !codes.contains(&done.code) {
            return Err(format!("exit {}, should be one of {codes:?}", done.code));
        }
        if expect.refused && expect.plan_unchanged.unwrap_or(true) {
            self.same_plan(expect, &plan)?;
        }
        judge::message(&done.text, &expect.message_has, &expect.message_lacks)?;
        self.said(n, &done.stdout, expect)?;
        self.left(expect)?;
        Ok(Then::GoOn)
    }

    /// Holds stdout against an expectation.
    fn said(&self, n: usize, stdout: &str, expect: &Expect) -> Result<(), String> {
        let document = judge::document(stdout);
        if expect.json && document.is_none() {
            return Err("stdout is not one JSON document".to_owned());
        }
        if let Some(want) = &expect.verdict {
            let got = judge::verdict(stdout);
            if !got.as_ref().is_some_and(|got| want.contains(got)) {
                return Err(format!("says {got:?}, should say one of {want:?}"));
            }
        }
        if let Some(other) = expect.agrees_with {
            let (got, want) = (&self.decided[&n], &self.decided[&other]);
            if got != want {
                return Err(format!("decides {got}, step {other} decided {want}"));
            }
        }
        judge::ranges(document.as_ref(), &expect.ranges)?;
        if let Some(path) = &expect.same_json {
            let text = fs::read(self.fill(path)).expect("the expected JSON can be read");
            let want: Value = serde_json::from_slice(&text).expect("the expected JSON is JSON");
            if document != Some(want) {
                return Err("stdout is other JSON than expected".to_owned());
            }
        }
        Ok(())
    }

    /// Holds modes and saved outputs against an expectation.
    fn left(&self, expect: &Expect) -> Result<(), String> {
        for (path, want) in &expect.modes {
            let meta = fs::metadata(self.fill(path)).map_err(|e| format!("{path}: {e}"))?;
            let got = meta.permissions().mode() & 0o7777;
            if got != prepare::octal(want) {
                return Err(format!("{path} has the mode {got:o}, should have {want}"));
            }
        }
        if let Some(wanted) = &expect.outputs {
            let name = expect.saved.as_deref().unwrap_or("out.safetensors");
            let wanted = self.fill(wanted);
            let error = judge::worst_error(&self.tmp.join(name), wanted.as_ref(), &expect.prefix)?;
            let limit = expect.rel_l2.unwrap_or(1e-4);
            if error > limit {
                return Err(format!(
                    "wrong outputs without a sign: relative L2 error {error:.1e}, limit {limit:.0e}"
                ));
            }
        }
        Ok(())
    }

    /// Runs trtmut with nothing of the caller's settings.
    fn run(&mut self, args: &[String]) -> Result<Done, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trtmut"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("TRTMUT") || text.starts_with("XDG_") {
                command = command.env_remove(&name);
            }
        }
        let set = self.case.env.iter().map(|(k, v)| (k, self.fill(v)));
        let started = Instant::now();
        let output = command
            .args(args)
            .current_dir(&self.tmp)
            .env("TRTMUT_CACHE_DIR", self.tmp.join("cache"))
            .env("HOME", self.tmp.join("home"))
            .env("NO_COLOR", "1")
            .envs(set)
            .stdin("")
            .timeout(LIMIT)
            .output()
            .expect("trtmut can be started");
        let status = output.status;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let text = stdout.clone() + &String::from_utf8_lossy(&output.stderr);
        writeln!(self.log, "$ trtmut {}\n{text}-> {status}", args.join(" ")).unwrap();
        // A command that is killed at the limit has no exit code, like one that dies of itself.
        let code = status.code().or(status.signal().map(|s| -s)).unwrap();
        if code < 0 && started.elapsed() >= LIMIT {
            return Err(format!("did not end in {LIMIT:?}"));
        }
        Ok(Done { code, stdout, text })
    }

    /// A word of a case with its folders.
    fn fill(&self, word: &str) -> String {
        let folder = index::folder();
        word.replace("{dir}", folder.to_str().expect("a path in UTF-8"))
            .replace("{tmp}", self.tmp.to_str().expect("a path in UTF-8"))
    }

    /// The plan and its manifest.
    fn plan(&self, expect: &Expect) -> [Contents; 2] {
        let name = expect.plan.as_deref().unwrap_or("p.plan");
        [name.to_owned(), format!("{name}.json")].map(|name| contents(&self.tmp.join(name)))
    }

    fn same_plan(&self, expect: &Expect, before: &[Contents; 2]) -> Result<(), String> {
        if self.plan(expect) == *before {
            Ok(())
        } else {
            Err("changed the plan".to_owned())
        }
    }
}

fn contents(path: &Path) -> Contents {
    let mut found = Contents::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap().path();
            // A link to a folder may lead out of what is kept.
            if !(entry.is_symlink() && entry.is_dir()) {
                found.extend(contents(&entry));
            }
        }
    } else if path.exists() || path.is_symlink() {
        found.insert(path.to_owned(), fs::read(path).unwrap());
    }
    found
}
