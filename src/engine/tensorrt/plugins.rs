//! Plugin libraries: TensorRT's own, and the user's. A plugin that registers itself does so when its library is opened, so all are
//! opened before a builder or a runtime is made.

use super::TensorRt;
use super::loader::open_plugin;
use super::told::STANDARD;
use crate::engine::Error;
use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};

/// The type of `initLibNvInferPlugins` in `NvInferPlugin.h`; it takes the logger and a namespace.
type Init = unsafe extern "C" fn(*mut c_void, *const c_char) -> bool;

impl TensorRt {
    /// Opens plugin libraries for good. [`STANDARD`] is TensorRT's own, which go first, as in trtexec.
    ///
    /// # Errors
    /// [`Error::Plugin`] for one that cannot be opened.
    pub fn load_plugins(&mut self, plugins: &[PathBuf]) -> Result<(), Error> {
        let (standard, files): (Vec<&PathBuf>, Vec<&PathBuf>) =
            plugins.iter().partition(|p| p.as_os_str() == STANDARD);
        if !standard.is_empty() {
            self.register_standard()?;
        }
        for path in files {
            let refuse = |reason: String| Error::Plugin {
                library: path.display().to_string(),
                reason,
            };
            // With a slash in its name, the loader looks nowhere else.
            let file = std::path::absolute(path).map_err(|e| refuse(e.to_string()))?;
            if !file.is_file() {
                return Err(refuse("there is no such file".into()));
            }
            open_plugin(file.as_os_str()).map_err(refuse)?;
            self.plugins.push(file);
        }
        Ok(())
    }

    fn register_standard(&self) -> Result<(), Error> {
        let loaded = self.loaded();
        let refuse = |reason: String| Error::Plugin {
            library: STANDARD.into(),
            reason,
        };
        let (major, minor, patch) = loaded.version.parts();
        let folder = loaded.path.parent().unwrap_or(Path::new(""));
        let names = [format!("{major}"), format!("{major}.{minor}.{patch}")];
        let names = names.map(|v| format!("libnvinfer_plugin.so.{v}"));
        let mut files = names.iter().map(|name| folder.join(name));
        let Some(file) = files.find(|f| f.exists()) else {
            return Err(refuse(format!(
                "{} has no `{}` beside `{}`",
                loaded.title(),
                names[0],
                loaded.path.display()
            )));
        };
        // Opening this library registers nothing; the call does.
        let library = open_plugin(file.as_os_str()).map_err(refuse)?;
        #[allow(unsafe_code)]
        // SAFETY: the symbol's type is the header's, the library stays open, and the logger lives as long as the core.
        let registered = unsafe {
            let init = super::loader::symbol::<Init>(&library, "initLibNvInferPlugins");
            init.map_err(refuse)?(self.core.logger(), c"".as_ptr())
        };
        if registered {
            Ok(())
        } else {
            Err(refuse("initLibNvInferPlugins failed".into()))
        }
    }
}
