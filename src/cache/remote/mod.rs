//! A cache that machines share: entries of the local cache in an object store, a web server or a mounted folder.
//!
//! ```text
//! <prefix>/engines-v1/<key>/entry.json   the local entry's record, sealed; written last
//!          blobs/<digest>                plans and manifests, under the BLAKE3 of their bytes
//! ```
//!
//! Nothing but `entry.json` is ever replaced, and that as a whole: whichever of two pushers comes last, its record names
//! bytes that are there, never one's plan with the other's manifest. What arrives is checked against the record, and the
//! record against the key that was asked for, before it becomes an entry of the local cache by the same way as one that was
//! built here.
//!
//! Whoever may write to a remote can run code on the machines that read it: engines are code. Digests find damage, not
//! intent.
//!
//! The runtime that the object store needs lives and dies in here; nothing outside is asynchronous.

#[cfg(not(feature = "remote"))]
mod absent;
#[cfg(feature = "remote")]
mod client;
#[cfg(feature = "remote")]
mod connect;
// Callers name what can go wrong with a remote also where nothing can.
#[cfg_attr(not(feature = "remote"), allow(dead_code))]
mod fault;
#[cfg(feature = "remote")]
mod transfer;

#[cfg(not(feature = "remote"))]
pub use absent::Remote;
#[cfg(feature = "remote")]
pub use client::Remote;
pub use fault::{Cause, RemoteFault};

use std::time::Duration;

/// How a remote is spoken to. Credentials of the clouds are read from the process's environment by the crate that speaks to
/// them.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// How long it may take to answer; transfers get more, by their size.
    pub timeout: Duration,
    /// Whether other machines may be spoken to without TLS.
    pub allow_http: bool,
    /// The header `Authorization` for `https://` remotes.
    pub authorization: Option<String>,
}

impl Default for RemoteSettings {
    fn default() -> RemoteSettings {
        RemoteSettings {
            timeout: Duration::from_secs(30),
            allow_http: false,
            authorization: None,
        }
    }
}

/// What a push does where the remote has the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leaves it, where it looks whole.
    Keep,
    Replace,
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The remote has the entry now; so many bytes were sent.
    Sent(u64),
    /// It had one already.
    Already,
}

/// What a pull did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulled {
    /// The local cache has the entry now; so many bytes came.
    Brought(u64),
    /// It had one already.
    Already,
}
