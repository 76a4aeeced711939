//! A folder of its own for each test, with the binary to run in it. A failing check shows the whole scene.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A temporary folder that commands run in.
pub struct Scene {
    dir: tempfile::TempDir,
}

/// What a command did.
pub struct Done {
    /// Exit code.
    pub code: i32,
    /// Everything on stdout.
    pub stdout: String,
    /// Everything on stderr.
    pub stderr: String,
    shown: String,
}

/// Path of a committed fixture.
pub fn fixture(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name);
    assert!(path.exists(), "fixture {} is missing", path.display());
    path
}

impl Scene {
    /// An empty folder.
    pub fn new() -> Scene {
        Scene {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Copies a fixture into it, under its own file name.
    pub fn bring(&self, name: &str) -> &Self {
        let from = fixture(name);
        fs::copy(
            &from,
            self.file(from.file_name().unwrap().to_str().unwrap()),
        )
        .unwrap();
        self
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> &Self {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
        self
    }

    /// A command that is ready to run in it, with nothing of the caller's settings.
    pub fn command<S: AsRef<str>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trtmut"));
        command
            .args(args.iter().map(AsRef::as_ref))
            .current_dir(self.path())
            .stdin(Stdio::null());
        for name in ["ORT_DYLIB_PATH", "RUST_BACKTRACE", "RUST_LOG", "COLUMNS"] {
            command.env_remove(name);
        }
        for (name, _) in std::env::vars() {
            if name.starts_with("TRTMUT_") {
                command.env_remove(name);
            }
        }
        command.env("TRTMUT_CACHE_DIR", self.path().join(".cache"));
        command
    }

    /// Runs trtmut in it.
    pub fn run<S: AsRef<str>>(&self, args: &[S]) -> Done {
        let mut command = self.command(args);
        let output = command.output().unwrap();
        self.done(&command, &output)
    }

    /// What a finished command did.
    pub fn done(&self, command: &Command, output: &Output) -> Done {
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        let shown = format!(
            "{command:?}\nexit: {}\nfiles: {:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}",
            output.status,
            self.files().keys().collect::<Vec<_>>()
        );
        Done {
            code: output.status.code().unwrap_or(-1),
            stdout,
            stderr,
            shown,
        }
    }

    /// Every file and its bytes, to see that nothing changed; without the cache, whose folders any command may make.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(dir: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.ends_with(".cache") {
                    continue;
                }
                if path.is_dir() && !path.is_symlink() {
                    walk(&path, out);
                } else {
                    // A pipe would be waited for.
                    let bytes = match path.metadata() {
                        Ok(meta) if meta.is_file() => fs::read(&path).unwrap_or_default(),
                        _ => Vec::new(),
                    };
                    out.insert(path, bytes);
                }
            }
        }
        let mut out = BTreeMap::new();
        walk(self.path(), &mut out);
        out
    }

    /// Runs a command that must be refused with `code`, say all of `says` on stderr, print nothing, and change nothing.
    pub fn refuses<S: AsRef<str>>(&self, args: &[S], code: i32, says: &[&str]) {
        let before = self.files();
        let done = self.run(args);
        done.exits(code);
        for text in says {
            assert!(done.stderr.contains(text), "no `{text}` in\n{}", done.shown);
        }
        assert!(done.stderr.starts_with("error: "), "{}", done.shown);
        assert!(done.stdout.is_empty(), "{}", done.shown);
        let after = self.files();
        assert!(
            before == after,
            "files changed: {:?} -> {:?}\n{}",
            before.keys(),
            after.keys(),
            done.shown
        );
    }
}

impl Done {
    /// Checks the exit code.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{}", self.shown);
        self
    }

    /// Checks that stdout has `text`.
    #[track_caller]
    pub fn prints(&self, text: &str) -> &Self {
        assert!(self.stdout.contains(text), "no `{text}` in\n{}", self.shown);
        self
    }

    /// stdout as one JSON document.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}\n{}", self.shown))
    }
}
