//! What the process was started with, read once.

use crate::cache::{CacheFault, Store, default_limit, parse_size};
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
    /// `TRTMUT_ASSUME_TENSORRT`: as which release to call one that is newer than every known one.
    pub assume_tensorrt: Option<String>,
    /// `--allow-host-code`: plans that bring code of their own may be opened.
    pub allow_host_code: bool,
    /// `--plugin`: plugin libraries of TensorRT, and `standard` for its own.
    pub plugins: Vec<PathBuf>,
    /// `TRTMUT_CACHE_DIR`: the cache folder.
    pub cache_dir: Option<PathBuf>,
    /// Where this user's programs keep their caches: `XDG_CACHE_HOME`, which counts only where it is absolute, else
    /// `HOME`'s `.cache`.
    pub cache_home: Option<PathBuf>,
    /// `TRTMUT_CACHE_SIZE`: the most that the cache may hold.
    pub cache_size: Option<String>,
    /// `TRTMUT_CACHE_REMOTE`: the URL of the remote cache.
    pub cache_remote: Option<String>,
    /// `TRTMUT_CACHE_REMOTE_TIMEOUT`: how long the remote cache may take to answer.
    pub cache_remote_timeout: Option<String>,
    /// `TRTMUT_CACHE_AUTHORIZATION`: the header `Authorization` for a remote cache on a web server.
    pub cache_authorization: Option<String>,
    /// `AWS_ALLOW_HTTP`, which the libraries for object stores obey too: other machines may be spoken to without TLS.
    pub allow_http: bool,
    /// Unless `TRTMUT_NO_PROGRESS` is set.
    pub progress: bool,
    site_packages: OnceLock<Vec<PathBuf>>,
}

impl Environment {
    /// Reads the variables of this process.
    pub fn from_process() -> Environment {
        let path = |name| {
            std::env::var_os(name)
                // Set to nothing is not set, as `VAR= command` in a shell means it.
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let text = |name| path(name).map(|v| v.to_string_lossy().into_owned());
        Environment {
            ort_dylib: path("ORT_DYLIB_PATH"),
            tensorrt: path("TRTMUT_TENSORRT"),
            allow_host_code: false,
            plugins: Vec::new(),
            assume_tensorrt: text("TRTMUT_ASSUME_TENSORRT"),
            cache_dir: path("TRTMUT_CACHE_DIR"),
            cache_home: path("XDG_CACHE_HOME")
                .filter(|p| p.is_absolute())
                .or_else(|| path("HOME").map(|home| home.join(".cache"))),
            cache_size: text("TRTMUT_CACHE_SIZE"),
            cache_remote: text("TRTMUT_CACHE_REMOTE"),
            cache_remote_timeout: text("TRTMUT_CACHE_REMOTE_TIMEOUT"),
            cache_authorization: text("TRTMUT_CACHE_AUTHORIZATION"),
            allow_http: text("AWS_ALLOW_HTTP")
                .is_some_and(|v| v.eq_ignore_ascii_case("true") || v == "1"),
            progress: path("TRTMUT_NO_PROGRESS").is_none(),
            site_packages: OnceLock::new(),
        }
    }

    /// The cache folder, `explicit` being what the command line says; `None` where nothing names one.
    pub fn cache_folder(&self, explicit: Option<&Path>) -> Option<PathBuf> {
        explicit
            .map(Path::to_owned)
            .or_else(|| self.cache_dir.clone())
            .or_else(|| self.cache_home.as_ref().map(|home| home.join("trtmut")))
    }

    /// The most that the cache in `folder` may hold, `explicit` being what the command line says.
    ///
    /// # Errors
    /// [`CacheFault::Size`] for what is no size, [`CacheFault::Io`] when the disk cannot be asked.
    pub fn cache_limit(&self, folder: &Path, explicit: Option<&str>) -> Result<u64, CacheFault> {
        match explicit.or(self.cache_size.as_deref()) {
            Some(text) => parse_size(text),
            None => default_limit(folder),
        }
    }

    /// Opens the cache, making its folder where it is missing; `None` where nothing names one.
    ///
    /// # Errors
    /// As [`Environment::cache_limit`] and [`Store::open`].
    pub fn open_cache(
        &self,
        dir: Option<&Path>,
        size: Option<&str>,
    ) -> Result<Option<Store>, CacheFault> {
        let Some(folder) = self.cache_folder(dir) else {
            return Ok(None);
        };
        let limit = self.cache_limit(&folder, size)?;
        Store::open(folder, limit).map(Some)
    }

    /// The folders that the `python3` on the path imports packages from; empty where there is none. Asked for only when a
    /// library is looked for, since starting Python takes longer than most of what trtmut does.
    pub fn site_packages(&self) -> &[PathBuf] {
        self.site_packages.get_or_init(|| {
            // The empty entry is the folder that the program was started in, where no library is
            // looked for.
            let script = "import sys; print('\\n'.join(p for p in sys.path if p))";
            tracing::debug!("asking python3 where its packages are");
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
