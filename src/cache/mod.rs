//! The engine cache: bytes under a key, shared by any number of processes. It knows no domain type: what goes into a key
//! and what a manifest says is its caller's business.
//!
//! ```text
//! <folder>/                      0700, owned by the user
//!   CACHEDIR.TAG                 backups skip it
//!   engines-v1/<key>/            one entry; appears by one rename, never changes afterwards, but for its label
//!     engine.plan                the plan's bytes
//!     manifest.json              the caller's bytes, not looked into
//!     entry.json                 record: key fields in clear text, sizes and digests, sealed; its mtime is the last use
//!     label.json                 what people know it by; may be missing
//!   pins/<key>                   present: the entry is not evicted
//!   locks/store                  shared: publishing; exclusive: evicting, quarantining, sweeping
//!   locks/<key>                  exclusive: building; holds the owner's pid, host and start
//!   timing/  runtime/            files of the caller that count and are evicted by mtime
//!   memo/                        digests of files already read
//!   index                        records of entries as they were last listed
//!   quarantine/                  damaged entries, the first to be evicted
//!   tmp/                         entries being written; each has a lock beside it that dies with its writer
//! ```
//!
//! # Locks
//! In this order, and never the other way round: a key's build lock, then the store lock, then an entry's own lock (on
//! `entry.json`: shared by every [`Hit`], exclusive for eviction). Entry locks are only *tried* while the store lock is
//! held, so there is no cycle. All are locks on open files: the kernel drops them with the process that held them, however
//! it died. Where the file system has no locks, work goes on without: renames keep entries whole, and the worst is that
//! something is built twice.
//!
//! # Faults
//! Every fault is a [`CacheFault`], which the caller turns into a warning and carries on without the cache. A damaged entry
//! is moved to `quarantine/` before the fault is reported, so the next lookup misses.

mod copy;
mod entry;
mod evict;
mod explain;
mod fault;
mod folder;
mod hash;
mod index;
mod key;
mod label;
mod list;
mod lock;
mod memo;
mod put;
mod record;
mod remote;
mod size;
mod state;
mod store;
mod verify;

pub use copy::{Copied, Link};
pub use entry::{Check, Hit};
pub use evict::{Prune, PruneReport, Removed};
pub use explain::{Difference, Explanation, Near};
pub use fault::{CacheFault, Damage};
pub use key::{Key, KeyFields};
pub use label::Label;
pub use list::{Listed, Listing};
pub use lock::{BuildLock, Owner};
pub use memo::{Memo, Seen};
pub use put::Plan;
pub use record::{Part, Record};
pub use remote::{Cause, Existing, Pulled, Pushed, Remote, RemoteFault, RemoteSettings};
pub use size::{default_limit, parse_age, parse_size};
pub use store::{Kind, Pinned, Store};
pub use verify::{Broken, VerifyReport};
