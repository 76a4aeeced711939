//! `trtmut cache push` and `pull`: entries go to and come from a remote cache.

use super::{find, short};
use crate::cache::{
    CacheFault, Check, Existing, Key, Pulled, Pushed, Remote, RemoteFault, RemoteSettings, Store,
    parse_age,
};
use crate::commands::UsageError;
use crate::exit::Exit;
use crate::pipeline::Environment;
use crate::ui::{self, Report, Screen, Ui};
use crate::watch::{Event, Watch};
use anyhow::Context;
use serde::Serialize;
use std::error::Error;
use std::io::{self, Write};
use std::time::Duration;

/// Which remote cache.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RemoteArgs {
    /// The remote cache: `s3://BUCKET/PREFIX`, `gs://…`, `az://…`, `https://…`, `file:///…` (default: `TRTMUT_CACHE_REMOTE`)
    #[arg(long, value_name = "URL")]
    pub remote: Option<String>,
}

impl RemoteArgs {
    /// The remote that the command line or the environment names; `None` where neither does.
    ///
    /// # Errors
    /// [`RemoteFault`] where it cannot be one, [`CacheFault::Age`] for a wrong time limit.
    pub fn open(&self, environment: &Environment) -> anyhow::Result<Option<Remote>> {
        let Some(url) = self.remote.as_ref().or(environment.cache_remote.as_ref()) else {
            return Ok(None);
        };
        let mut settings = RemoteSettings {
            allow_http: environment.allow_http,
            authorization: environment.cache_authorization.clone(),
            ..RemoteSettings::default()
        };
        if let Some(text) = &environment.cache_remote_timeout {
            // A number alone is seconds, which `parse_age` would refuse for want of a unit.
            settings.timeout = match text.trim().parse() {
                Ok(seconds) => Duration::from_secs(seconds),
                Err(_) => parse_age(text).context("TRTMUT_CACHE_REMOTE_TIMEOUT")?,
            };
        }
        Ok(Some(Remote::open(url, settings)?))
    }

    fn needed(&self, environment: &Environment) -> anyhow::Result<Remote> {
        let missing = || {
            UsageError::new(
                "no remote cache is named",
                "name one with --remote or TRTMUT_CACHE_REMOTE",
            )
        };
        Ok(self.open(environment)?.ok_or_else(missing)?)
    }
}

/// Arguments of `trtmut cache push`.
#[derive(Debug, clap::Args)]
pub(super) struct PushArgs {
    /// Beginnings of keys, or plan files (default: every entry)
    entries: Vec<String>,

    #[command(flatten)]
    remote: RemoteArgs,

    /// Send also what the remote has already
    #[arg(long)]
    force: bool,
}

/// Arguments of `trtmut cache pull`.
#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// Keys; their beginnings are enough where the remote can list
    #[arg(required_unless_present = "all")]
    keys: Vec<String>,

    /// Every entry that fits without removing another
    #[arg(long, conflicts_with = "keys")]
    all: bool,

    #[command(flatten)]
    remote: RemoteArgs,
}

/// What became of one entry.
#[derive(Debug, Serialize)]
struct Moved {
    key: String,
    /// `moved`, `already`, `skipped` (it did not fit), `failed`.
    outcome: &'static str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Moved {
    fn new(key: Key, outcome: &'static str, bytes: u64) -> Moved {
        Moved {
            key: key.to_string(),
            outcome,
            bytes,
            reason: None,
        }
    }

    fn failed(key: Key, fault: &RemoteFault, ui: &Ui) -> Moved {
        let mut why = fault.to_string();
        let mut cause = fault.source();
        while let Some(c) = cause {
            why = format!("{why}: {c}");
            cause = c.source();
        }
        ui.event(Event::Warn(&format!("{}: {why}", key.short())));
        Moved {
            reason: Some(why),
            ..Moved::new(key, "failed", 0)
        }
    }
}

fn human(verb: &str, remote: &str, entries: &[Moved], out: &mut Screen<'_>) -> io::Result<()> {
    for e in entries {
        let key = short(&e.key);
        match e.outcome {
            "moved" => writeln!(out, "{verb} {key}, {}", ui::bytes(e.bytes))?,
            "already" => writeln!(out, "{key} was there already")?,
            _ => {
                let reason = e.reason.as_deref().unwrap_or_default();
                writeln!(out, "{} {key}: {reason}", e.outcome)?;
            }
        }
    }
    let moved = entries.iter().filter(|e| e.outcome == "moved").count();
    writeln!(
        out,
        "{verb} {moved} of {}; the remote is {remote}",
        entries.len()
    )
}

fn exit(entries: &[Moved]) -> Exit {
    if entries.iter().any(|e| e.outcome == "failed") {
        Exit::Environment
    } else {
        Exit::Done
    }
}

#[derive(Debug, Serialize)]
struct PushReport {
    remote: String,
    entries: Vec<Moved>,
}

impl Report for PushReport {
    const SCHEMA: &'static str = "trtmut.cache-push/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        human("pushed", &self.remote, &self.entries, out)
    }
}

#[derive(Debug, Serialize)]
struct PullReport {
    remote: String,
    entries: Vec<Moved>,
}

impl Report for PullReport {
    const SCHEMA: &'static str = "trtmut.cache-pull/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        human("pulled", &self.remote, &self.entries, out)
    }
}

pub(super) fn push(
    store: &Store,
    asked: &PushArgs,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let remote = asked.remote.needed(environment)?;
    let keys: Vec<Key> = if asked.entries.is_empty() {
        store.list()?.entries.iter().map(|e| e.key).collect()
    } else {
        let all = asked.entries.iter().map(|e| find(store, e));
        all.collect::<Result<_, _>>()?
    };
    let existing = if asked.force {
        Existing::Replace
    } else {
        Existing::Keep
    };
    let mut entries = Vec::new();
    for key in keys {
        // The push reads the plan's bytes itself.
        let hit = match store.inspect(&key, Check::Trust) {
            Ok(Some(hit)) => hit,
            // Evicted since it was listed.
            Ok(None) => continue,
            Err(fault) => {
                entries.push(Moved::failed(key, &RemoteFault::Cache(fault), ui));
                continue;
            }
        };
        entries.push(match remote.push(&hit, existing, ui) {
            Ok(Pushed::Sent(bytes)) => Moved::new(key, "moved", bytes),
            Ok(Pushed::Already) => Moved::new(key, "already", 0),
            // One that does not answer is asked in vain for the others as well, each time until its time limit.
            Err(fault) if fault.is_remotes() => return Err(fault.into()),
            Err(fault) => Moved::failed(key, &fault, ui),
        });
    }
    let exit = exit(&entries);
    ui.result(&PushReport {
        remote: remote.url().to_owned(),
        entries,
    })?;
    Ok(exit)
}

pub(super) fn pull(
    store: &Store,
    asked: &PullArgs,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let remote = asked.remote.needed(environment)?;
    let keys: Vec<Key> = if asked.all {
        remote.keys()?
    } else {
        let all = asked.keys.iter().map(|k| remote.resolve(k));
        all.collect::<Result<_, _>>()?
    };
    let mut entries = Vec::new();
    for key in keys {
        // An entry that is named is brought whatever has to go for it: that was asked for.
        if asked.all
            && let Some(reason) = crowded(&remote, store, key)?
        {
            entries.push(Moved {
                reason: Some(reason),
                ..Moved::new(key, "skipped", 0)
            });
            continue;
        }
        entries.push(match remote.pull(store, key, ui) {
            Ok(Pulled::Brought(bytes)) => Moved::new(key, "moved", bytes),
            Ok(Pulled::Already) => Moved::new(key, "already", 0),
            // It is this entry's fault alone; the others may be whole.
            Err(fault @ (RemoteFault::Damaged { .. } | RemoteFault::Cache(_))) => {
                Moved::failed(key, &fault, ui)
            }
            Err(fault) => return Err(fault.into()),
        });
    }
    let exit = exit(&entries);
    ui.result(&PullReport {
        remote: remote.url().to_owned(),
        entries,
    })?;
    Ok(exit)
}

/// Why an entry of `pull --all` is left where it is: bringing it would remove another.
fn crowded(remote: &Remote, store: &Store, key: Key) -> anyhow::Result<Option<String>> {
    // Whatever is wrong with the record, the pull itself will say.
    let Ok(Some(record)) = remote.record(key) else {
        return Ok(None);
    };
    let bytes = record.plan.bytes.saturating_add(record.manifest.bytes);
    let listing = store.list()?;
    let there = listing.entries.iter().any(|e| e.key == key);
    let (held, limit) = (listing.total_bytes(), store.limit());
    if there || held.saturating_add(bytes) <= limit {
        return Ok(None);
    }
    Ok(Some(CacheFault::NoRoom { bytes, limit, held }.to_string()))
}
