//! The trtmut binary, run in a folder of its own with a fixture's files in it.

use crate::case::{env, fixture, io_tensors, worst};
use libtest_mimic::Failed;
use serde_json::{Value, json};
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
    name: &'static str,
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
    pub fn new(name: &'static str) -> Result<Workplace, Failed> {
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
        Ok(Workplace {
            name,
            binary,
            folder,
        })
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

    /// Runs a plan on the fixture's inputs of one size: relative L2 distance from torch's `which` outputs, the largest over all of
    /// them.
    pub fn distance(
        &self,
        plan: &str,
        more: &[&str],
        which: &str,
        io: usize,
    ) -> Result<(f64, Done), Failed> {
        let inputs = format!("io{io}.safetensors:in.");
        let expected = format!("io{io}.safetensors:{which}.");
        let arguments = ["run", plan, "--inputs", &inputs, "--expect", &expected];
        // 40: some element is outside of the tolerance of `--expect`, which is not what is judged here.
        let done = self.run(&[&arguments[..], more].concat(), &[0, 40])?;
        expect(&done.report, "schema", &json!("trtmut.run/1"))?;
        let comparison = &done.report["comparison"];
        let equal = done.code == 0;
        expect(comparison, "equal", &json!(equal))?;
        expect(comparison, "missing", &json!([]))?;
        let outputs = comparison["outputs"].as_array().ok_or("no outputs")?;
        let (_, wanted) = io_tensors(self.name, io, which)?;
        if outputs.len() != wanted.len() {
            return Err(format!("{} outputs, not {}", outputs.len(), wanted.len()).into());
        }
        let each = outputs.iter().map(|o| {
            // JSON has no NaN; what has no number cannot be near.
            o["difference"]["relative_l2"].as_f64().unwrap_or(f64::NAN)
        });
        Ok((worst(each), done))
    }
}

/// Checks one member of a document.
pub fn expect(object: &Value, key: &str, wanted: &Value) -> Result<(), Failed> {
    if &object[key] == wanted {
        Ok(())
    } else {
        Err(format!("`{key}` is {}, not {wanted}, in {object}", object[key]).into())
    }
}
