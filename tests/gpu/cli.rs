//! The trtmut binary, run in a folder of its own with a fixture's files in it.

use crate::case::{env, fixture};
use libtest_mimic::Failed;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Which backend the flows build for: `TRTMUT_TEST_BACKEND`, or `tensorrt` without it.
pub fn backend() -> String {
    std::env::var("TRTMUT_TEST_BACKEND").unwrap_or_else(|_| "tensorrt".into())
}

/// A folder to run trtmut in.
pub struct Workplace {
    binary: PathBuf,
    folder: TempDir,
}

/// What a command that ended as it should has printed.
pub struct Done {
    pub code: i32,
    /// The document on stdout.
    pub report: Value,
    /// Wall time of the process.
    pub time: Duration,
}

impl Workplace {
    /// A folder with all files of the fixture.
    pub fn new(name: &str) -> Result<Workplace, Failed> {
        // In a pack the binary lies beside this program; cargo says where it built it otherwise.
        let packed = std::env::current_exe()?.with_file_name("trtmut");
        let binary = if packed.exists() {
            packed
        } else {
            env!("CARGO_BIN_EXE_trtmut").into()
        };
        if !binary.exists() {
            return Err(format!("there is no trtmut at `{}`", binary.display()).into());
        }
        let folder = tempfile::tempdir()?;
        for entry in std::fs::read_dir(fixture(name))? {
            let from = entry?.path();
            if let Some(file) = from.file_name() {
                std::fs::copy(&from, folder.path().join(file))?;
            }
        }
        Ok(Workplace { binary, folder })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.file(name).exists()
    }

    /// Runs a command with `--json`, which must end with one of `codes`.
    pub fn run(&self, arguments: &[&str], codes: &[i32]) -> Result<Done, Failed> {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .arg("--json")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TRTMUT_") {
                command.env_remove(name);
            }
        }
        if let Some(libraries) = env("TRTMUT_TENSORRT") {
            // The command runs in another folder than the one that the path may be relative to.
            command.env("TRTMUT_TENSORRT", std::path::absolute(libraries)?);
        }
        command.env("TRTMUT_CACHE_DIR", self.file("cache"));
        let start = Instant::now();
        let output = command.output()?;
        let time = start.elapsed();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let shown = || {
            format!(
                "`trtmut {}` ended with {}, not with {codes:?}\n{stdout}{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
        };
        let code = output.status.code().ok_or_else(shown)?;
        if !codes.contains(&code) {
            return Err(shown().into());
        }
        let report = serde_json::from_str(&stdout)
            .map_err(|e| format!("stdout is not one document: {e}; {}", shown()))?;
        Ok(Done { code, report, time })
    }
}
