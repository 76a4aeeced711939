//! Every environment variable that trtmut, or a library in it, obeys: what `doctor` shows, and what docs/environment.md has a row for.
//! They are read in `environment.rs`, or where they are used.

use std::ffi::OsString;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    /// Whether its value is nobody's business.
    pub secret: bool,
}

const fn plain(name: &'static str) -> Variable {
    Variable {
        name,
        secret: false,
    }
}

const fn secret(name: &'static str) -> Variable {
    Variable { name, secret: true }
}

/// All of them, in the order of docs/environment.md.
pub const VARIABLES: &[Variable] = &[
    plain("TRTMUT_CACHE_DIR"),
    plain("TRTMUT_CACHE_SIZE"),
    plain("TRTMUT_CACHE_REMOTE"),
    plain("TRTMUT_CACHE_REMOTE_TIMEOUT"),
    secret("TRTMUT_CACHE_AUTHORIZATION"),
    plain("TRTMUT_TENSORRT"),
    plain("TRTMUT_ASSUME_TENSORRT"),
    plain("TRTMUT_NO_PROGRESS"),
    plain("COLUMNS"),
    plain("NO_COLOR"),
    plain("CLICOLOR"),
    plain("CLICOLOR_FORCE"),
    plain("TERM"),
    plain("RUST_LOG"),
    plain("RUST_BACKTRACE"),
    plain("HOME"),
    plain("XDG_CACHE_HOME"),
    plain("TMPDIR"),
    plain("PATH"),
    plain("LD_LIBRARY_PATH"),
    plain("ORT_DYLIB_PATH"),
    plain("CUDA_VISIBLE_DEVICES"),
    plain("CUDA_DEVICE_ORDER"),
    plain("CUDA_MODULE_LOADING"),
    plain("ORT_DISABLE_TELEMETRY"),
    plain("RAYON_NUM_THREADS"),
    plain("RUST_MIN_STACK"),
    secret("AWS_ACCESS_KEY_ID"),
    secret("AWS_SECRET_ACCESS_KEY"),
    secret("AWS_SESSION_TOKEN"),
    plain("AWS_REGION"),
    plain("AWS_ENDPOINT"),
    plain("AWS_ALLOW_HTTP"),
    plain("GOOGLE_APPLICATION_CREDENTIALS"),
    plain("AZURE_STORAGE_ACCOUNT_NAME"),
    secret("AZURE_STORAGE_ACCOUNT_KEY"),
    plain("HTTPS_PROXY"),
    plain("NO_PROXY"),
];

impl Variable {
    /// Its value as it may be shown; `None` where it is not set.
    pub fn shown(&self) -> Option<String> {
        self.show(std::env::var_os(self.name))
    }

    fn show(&self, value: Option<OsString>) -> Option<String> {
        let value = value?;
        Some(if self.secret {
            "(set; a secret)".into()
        } else {
            without_credentials(&value.to_string_lossy())
        })
    }
}

/// Text with what may be a password taken out of the URL that it is, or that follows its `=`.
pub fn without_credentials(text: &str) -> String {
    let Some(scheme) = text.find("://") else {
        return text.to_owned();
    };
    let (before, rest) = text.split_at(scheme + 3);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    // What stands before the last `@` of the host is a user, and perhaps a password.
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    // A password with a slash in it ends up in the path.
    let path = path.rsplit('@').next().unwrap_or_default();
    format!("{before}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        for text in [
            "https://me:hunter2@host/a",
            "https://hunter2@host/a?x=hunter2",
            "--remote=https://me:hunter2@host/a#hunter2",
            "https://me:hun/hunter2@host/a",
            "s3://bucket/a?token=hunter2",
        ] {
            let shown = without_credentials(text);
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert_eq!(
            without_credentials("https://host:1/a/b"),
            "https://host:1/a/b"
        );
        assert_eq!(without_credentials("s3://bucket/a"), "s3://bucket/a");
        assert_eq!(without_credentials("model.onnx"), "model.onnx");
        let token = secret("TOKEN");
        let shown = token.show(Some("hunter2".into())).unwrap();
        assert!(!shown.contains("hunter2"));
        assert_eq!(token.show(None), None);
    }
}
