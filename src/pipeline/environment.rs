//! What the process was started with, read once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Environment variables that trtmut obeys, and what follows from them.
#[derive(Debug, Default)]
pub struct Environment {
    /// `ORT_DYLIB_PATH`: the onnxruntime library, or a folder that holds it.
    pub ort_dylib: Option<PathBuf>,
    /// `TRTMUT_TENSORRT`: the TensorRT library, or a folder that holds it.
    pub tensorrt: Option<PathBuf>,
    /// Unless `TRTMUT_NO_PROGRESS` is set.
    pub progress: bool,
    site_packages: OnceLock<Vec<PathBuf>>,
}

impl Environment {
    /// Reads the variables of this process.
    pub fn from_process() -> Environment {
        let path = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        Environment {
            ort_dylib: path("ORT_DYLIB_PATH"),
            tensorrt: path("TRTMUT_TENSORRT"),
            progress: path("TRTMUT_NO_PROGRESS").is_none(),
            site_packages: OnceLock::new(),
        }
    }

    /// The folders that the `python3` on the path imports packages from; empty where there is none. Asked for only when a
    /// library is looked for, since starting Python takes longer than most of what trtmut does.
    pub fn site_packages(&self) -> &[PathBuf] {
        self.site_packages.get_or_init(|| {
            let script = "import sys; print('\\n'.join(p for p in sys.path if p))";
            let output = Command::new("python3")
                .args(["-c", script])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .output();
            match output {
                Ok(o) if o.status.success() => String::from_utf8_lossy(&o.stdout)
                    .lines()
                    .map(PathBuf::from)
                    .filter(|p: &PathBuf| Path::is_dir(p))
                    .collect(),
                _ => Vec::new(),
            }
        })
    }
}
