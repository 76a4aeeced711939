//! What can go wrong with a remote cache. For a build, all of it is a warning.

use crate::cache::{CacheFault, Damage};
use crate::fault::Explain;
use std::error::Error;
use std::time::Duration;

/// A remote operation that failed.
#[derive(Debug, thiserror::Error, Explain)]
pub enum RemoteFault {
    /// The URL cannot name a remote.
    #[error("`{url}` cannot be a remote cache: {why}")]
    #[explain(code = "remote-url", class = Usage,
        hint("write it as s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, https://host/path or file:///folder"))]
    Url {
        /// As given, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Engines are code: without TLS, whoever is on the way could plant one.
    #[error("`{url}` would be spoken to without encryption")]
    #[explain(code = "remote-plain-http", class = Usage, hint("{PLAIN_HTTP}"))]
    PlainHttp { url: String },
    /// A request failed, after retries where it could be retried.
    #[error("cannot {action} `{url}`")]
    #[explain(code = "remote-failed", class = Environment, hints = source.kind.hint())]
    Failed {
        /// What was tried, as in `cannot read …`.
        action: &'static str,
        url: String,
        source: Cause,
    },
    /// An entry on the remote is not what was once pushed. It counts as a miss.
    #[error("the entry at `{url}` is damaged")]
    #[explain(code = "remote-entry-damaged", class = Environment, hint("replace it with `trtmut cache push --force` from a machine that has it"))]
    Damaged {
        url: String,
        #[source]
        damage: Damage,
    },
    /// No entry on the remote has a key that begins so.
    #[error("no engine at `{url}` has the key `{text}`")]
    #[explain(code = "remote-unknown-key", class = Input,
        hint("`trtmut cache list` on the machine that pushed shows the keys; their beginnings are enough"))]
    UnknownKey {
        url: String,
        /// What was asked for.
        text: String,
    },
    /// This build cannot speak to one.
    #[error("this trtmut was built without the feature `remote`, and has no remote cache")]
    #[explain(code = "remote-left-out", class = Environment,
        hint("build it with the feature: `cargo install --path . --features remote` in its sources"))]
    LeftOut,
    /// The local cache's own fault.
    #[error(transparent)]
    #[explain(transparent)]
    Cache(#[from] CacheFault),
}

/// Why a request failed: the innermost reason, which is what a person can act on.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Cause {
    why: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Denied,
    /// Nothing was found in the environment, so the cloud's own machines were asked.
    NoCredentials,
    NoBucket,
    /// An endpoint without TLS, where the crate was not told that it may.
    PlainHttp,
    TimedOut,
    Other,
}

const PLAIN_HTTP: &str = "use https://, or allow http:// with AWS_ALLOW_HTTP=true";

/// A reason longer than this is a whole page of a server.
const LONGEST: usize = 300;

impl Kind {
    fn hint(self) -> Option<&'static str> {
        Some(match self {
            Kind::Denied => {
                "check the credentials and what they may do there; S3 also answers so for what is not there, unless they may list the bucket"
            }
            Kind::NoCredentials => {
                "give credentials in the environment, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS"
            }
            Kind::PlainHttp => PLAIN_HTTP,
            Kind::NoBucket => "check the bucket's name, or create it",
            Kind::TimedOut => "allow more time with TRTMUT_CACHE_REMOTE_TIMEOUT, e.g. 2min",
            Kind::Other => return None,
        })
    }
}

impl Cause {
    pub(super) fn timed_out(after: Duration) -> Cause {
        Cause {
            why: format!(
                "there was no answer within {}",
                humantime::format_duration(after)
            ),
            kind: Kind::TimedOut,
        }
    }

    pub(crate) fn of(error: &(dyn Error + 'static)) -> Cause {
        let whole = error.to_string();
        let mut innermost = error;
        while let Some(inner) = innermost.source() {
            innermost = inner;
        }
        let has = |texts: &[&str]| texts.iter().any(|t| whole.contains(t));
        let kind = if has(&["169.254.169.254", "metadata.google.internal"]) {
            Kind::NoCredentials
        } else if has(&["NoSuchBucket", "ContainerNotFound"]) {
            Kind::NoBucket
        } else if has(&["403 Forbidden", "401 Unauthorized"]) {
            Kind::Denied
        } else if innermost.to_string() == "URL scheme is not allowed" {
            Kind::PlainHttp
        } else if innermost.to_string().contains("timed out") {
            Kind::TimedOut
        } else {
            Kind::Other
        };
        let mut why = innermost
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        if let Some((at, _)) = why.char_indices().nth(LONGEST) {
            why.truncate(at);
            why.push('…');
        }
        Cause { why, kind }
    }
}

impl RemoteFault {
    /// Whether the remote itself does not answer as it should, so that asking it for something else is in vain.
    pub fn is_remotes(&self) -> bool {
        matches!(self, RemoteFault::Failed { .. })
    }
}
