//! A remote cache of a build that can speak to one.

use super::connect::{Purpose, Target};
use super::transfer::{self, Trouble};
use super::{Cause, Existing, Pulled, Pushed, RemoteFault, RemoteSettings};
use crate::cache::folder::{MANIFEST, PLAN, RECORD};
use crate::cache::put::part;
use crate::cache::record::LONGEST;
use crate::cache::{BuildLock, CacheFault, Check, Damage, Hit, Key, Part, Record, Store};
use crate::tensor::Digest;
use crate::watch::{Event, Watch};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::runtime::Runtime;

const ENGINES: &str = "engines-v1";
const BLOBS: &str = "blobs";

/// A transfer that is slower than this for long is given up: compiling again is faster.
const SLOWEST: u64 = 512 << 10;

/// No manifest is larger; it is read into memory.
const LARGEST_MANIFEST: u64 = 256 << 20;

/// A remote cache. Opening it says nothing about whether it can be reached.
#[derive(Debug)]
pub struct Remote {
    target: Target,
    settings: RemoteSettings,
    runtime: Runtime,
    objects: Box<dyn ObjectStore>,
}

/// Where an object lies.
struct Place {
    path: Path,
    url: String,
}

impl Remote {
    /// Understands a URL: `s3://bucket/prefix`, `gs://…`, `az://…`, `https://…`, `file:///…`.
    ///
    /// # Errors
    /// [`RemoteFault::Url`], [`RemoteFault::PlainHttp`]; [`RemoteFault::Failed`] when the environment's settings for it
    /// contradict each other.
    pub fn open(url: &str, settings: RemoteSettings) -> Result<Remote, RemoteFault> {
        let target = Target::parse(url, &settings)?;
        let objects = target.connect(&settings, Purpose::Read)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| RemoteFault::Failed {
                action: "use",
                url: target.shown().into(),
                source: Cause::of(&e),
            })?;
        Ok(Remote {
            target,
            settings,
            runtime,
            objects,
        })
    }

    pub fn url(&self) -> &str {
        self.target.shown()
    }

    /// Keys of all entries, in order.
    ///
    /// # Errors
    /// [`RemoteFault::Failed`], also where a web server cannot list.
    pub fn keys(&self) -> Result<Vec<Key>, RemoteFault> {
        let folder = self.place(&[ENGINES]);
        let listed = self
            .wait(0, async {
                Ok(self.objects.list_with_delimiter(Some(&folder.path)).await?)
            })
            .map_err(|e| failed("list", &folder, e))?;
        // With a delimiter one request gives the keys alone, not the objects under each.
        let names = listed.common_prefixes.iter();
        let mut keys: Vec<Key> = names
            .filter_map(|p| p.filename().and_then(Key::parse))
            .collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// The key that begins with `text`. A whole key is taken as it is, without asking.
    ///
    /// # Errors
    /// [`RemoteFault::UnknownKey`], [`CacheFault::AmbiguousKey`], and those of [`Remote::keys`].
    pub fn resolve(&self, text: &str) -> Result<Key, RemoteFault> {
        let wanted = text.trim().to_ascii_lowercase();
        // A whole key needs no listing, which not every web server has.
        if let Some(key) = Key::parse(&wanted) {
            return Ok(key);
        }
        let mut keys = self.keys()?;
        keys.retain(|k| !wanted.is_empty() && k.to_string().starts_with(&wanted));
        match keys[..] {
            [key] => Ok(key),
            [] => Err(self.unknown(text)),
            _ => Err(RemoteFault::Cache(CacheFault::AmbiguousKey {
                text: text.into(),
                matches: keys.iter().map(Key::short).collect(),
            })),
        }
    }

    /// What the remote says about an entry; `None` where it has none.
    ///
    /// # Errors
    /// [`RemoteFault::Damaged`], [`RemoteFault::Failed`].
    pub fn record(&self, key: Key) -> Result<Option<Record>, RemoteFault> {
        let place = self.record_place(key);
        let damage = match self.wait(0, transfer::read(&*self.objects, &place.path, LONGEST)) {
            Ok(json) => match Record::parse(&json, key) {
                Ok(record) => return Ok(Some(record)),
                Err(damage) => damage,
            },
            Err(Trouble::Length(found)) => Damage::Record {
                why: format!("it has {found} bytes"),
            },
            Err(e) if e.is_absence() => return Ok(None),
            Err(e) => return Err(failed("read", &place, e)),
        };
        Err(self.damaged(key, damage))
    }

    /// Brings the entry of the lock's key into the local cache, which makes it a hit like any other; `None` where the remote
    /// has none. An entry that does not fit is not downloaded.
    ///
    /// # Errors
    /// [`RemoteFault::Damaged`] when what arrived is not what was pushed; [`RemoteFault::Failed`]; [`RemoteFault::Cache`] when
    /// it cannot be stored here.
    pub fn fetch(
        &self,
        lock: &BuildLock<'_>,
        watch: &dyn Watch,
    ) -> Result<Option<Hit>, RemoteFault> {
        match self.record(lock.fields.key())? {
            Some(record) => self.bring(&record, lock, watch).map(Some),
            None => Ok(None),
        }
    }

    /// As [`Remote::fetch`], for a key alone; what the local cache has is left alone.
    ///
    /// # Errors
    /// As [`Remote::fetch`]; [`RemoteFault::UnknownKey`] where the remote has none.
    pub fn pull(&self, store: &Store, key: Key, watch: &dyn Watch) -> Result<Pulled, RemoteFault> {
        if present(store, key, watch)? {
            return Ok(Pulled::Already);
        }
        let record = self.record(key)?;
        let record = record.ok_or_else(|| self.unknown(&key.to_string()))?;
        let lock = store.lock(&record.fields, watch)?;
        if present(store, key, watch)? {
            return Ok(Pulled::Already);
        }
        self.bring(&record, &lock, watch)?;
        Ok(Pulled::Brought(record.plan.bytes + record.manifest.bytes))
    }

    fn bring(
        &self,
        record: &Record,
        lock: &BuildLock<'_>,
        watch: &dyn Watch,
    ) -> Result<Hit, RemoteFault> {
        let key = record.key();
        // Before the download, and not after a plan of gigabytes has arrived.
        let limit = lock.store.limit();
        let bytes = record.plan.bytes.saturating_add(record.manifest.bytes);
        if bytes > limit {
            return Err(RemoteFault::Cache(CacheFault::TooLarge { bytes, limit }));
        }

        let place = self.blob_place(&record.manifest.digest);
        // The record comes from outside: its word alone must not make this process take memory.
        let longest = record.manifest.bytes.min(LARGEST_MANIFEST);
        let read = self.wait(
            longest,
            transfer::read(&*self.objects, &place.path, longest),
        );
        let mut manifest = Vec::new();
        let found = read.map(|bytes| {
            manifest = bytes;
            part(&manifest)
        });
        self.arrived(key, MANIFEST, &record.manifest, &place, found)?;

        let place = self.blob_place(&record.plan.digest);
        let length = record.plan.bytes;
        watch.event(Event::Begin {
            step: "fetching the engine from the remote cache",
            total: Some(length),
        });
        let hit = lock.put_with(length, &manifest, record.created_ns, |out, staged| {
            let download = transfer::download(&*self.objects, &place.path, length, out, watch);
            match self.wait(length, download) {
                Err(Trouble::Disk(e)) => {
                    Err(RemoteFault::Cache(CacheFault::io("write", staged)(e)))
                }
                found => self.arrived(key, PLAN, &record.plan, &place, found),
            }
        });
        watch.event(Event::End);
        hit
    }

    /// Holds what arrived against what was pushed.
    fn arrived(
        &self,
        key: Key,
        file: &'static str,
        expected: &Part,
        place: &Place,
        found: Result<Part, Trouble>,
    ) -> Result<Part, RemoteFault> {
        let damage = match found {
            Ok(found) if found == *expected => return Ok(found),
            Ok(found) if found.bytes == expected.bytes => Damage::Digest { file },
            Ok(Part { bytes: found, .. }) | Err(Trouble::Length(found)) => Damage::Length {
                file,
                expected: expected.bytes,
                found,
            },
            Err(e) if e.is_absence() => Damage::Missing { file },
            Err(e) => return Err(failed("read", place, e)),
        };
        Err(self.damaged(key, damage))
    }

    /// Copies an entry to the remote. Its bytes are read and compared first, so that damage here stays here.
    ///
    /// # Errors
    /// [`RemoteFault::Failed`]; [`RemoteFault::Cache`] when the entry cannot be read or is damaged.
    pub fn push(
        &self,
        hit: &Hit,
        existing: Existing,
        watch: &dyn Watch,
    ) -> Result<Pushed, RemoteFault> {
        let record = hit.record();
        if existing == Existing::Keep && self.has(hit.key())? {
            return Ok(Pushed::Already);
        }
        let plan = hit.plan().map_err(|e| {
            let path = hit.plan_path();
            CacheFault::io("read", &path)(io::Error::other(e))
        })?;
        // An entry may have been opened with `Check::Trust`, and what is sent is used by others.
        if Digest::of(&plan) != record.plan.digest {
            return Err(RemoteFault::Cache(CacheFault::Damaged {
                entry: hit.key().to_string(),
                damage: Damage::Digest { file: PLAN },
                quarantine: None,
            }));
        }
        watch.event(Event::Begin {
            step: "sending the engine to the remote cache",
            total: Some(record.plan.bytes),
        });
        let manifest = Bytes::copy_from_slice(hit.manifest());
        let blobs = [
            (transfer::mapped(plan), record.plan),
            (manifest, record.manifest),
        ];
        let sent = self.send_all(hit, blobs, existing, watch);
        watch.event(Event::End);
        sent.map(Pushed::Sent)
    }

    fn send_all(
        &self,
        hit: &Hit,
        blobs: [(Bytes, Part); 2],
        existing: Existing,
        watch: &dyn Watch,
    ) -> Result<u64, RemoteFault> {
        let mut sent = 0;
        for (bytes, part) in blobs {
            let place = self.blob_place(&part.digest);
            // Blobs are named by their bytes, so one of the right length is the right one unless it
            // is damaged.
            if existing == Existing::Replace || self.length(&place)? != Some(part.bytes) {
                self.send(&place, bytes, watch)?;
                sent += part.bytes;
            }
        }
        // Last, since whoever sees it looks for what it names.
        let json = Bytes::from(hit.record().to_json());
        sent += json.len() as u64;
        self.send(&self.record_place(hit.key()), json, watch)?;
        Ok(sent)
    }

    /// Whether the remote has an entry of this key, and what it names.
    fn has(&self, key: Key) -> Result<bool, RemoteFault> {
        let record = match self.record(key) {
            Ok(Some(record)) => record,
            // What is damaged there is replaced by what is here.
            Ok(None) | Err(RemoteFault::Damaged { .. }) => return Ok(false),
            Err(fault) => return Err(fault),
        };
        for part in [record.plan, record.manifest] {
            if self.length(&self.blob_place(&part.digest))? != Some(part.bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn length(&self, place: &Place) -> Result<Option<u64>, RemoteFault> {
        let found = self.wait(0, async { Ok(self.objects.head(&place.path).await?) });
        match found {
            Ok(meta) => Ok(Some(meta.size)),
            Err(e) if e.is_absence() => Ok(None),
            Err(e) => Err(failed("look for", place, e)),
        }
    }

    fn send(&self, place: &Place, bytes: Bytes, watch: &dyn Watch) -> Result<(), RemoteFault> {
        let length = bytes.len() as u64;
        // A web server takes a PUT of the whole or nothing.
        let request = if self.target.whole_only() {
            length
        } else {
            transfer::part_size(length)
        };
        // A connection of its own, whose limit is what one request of this upload may take.
        let limit = self.bound(request.min(length));
        let objects = self.target.connect(&self.settings, Purpose::Write(limit))?;
        let upload = transfer::upload(&*objects, &place.path, bytes, request, watch);
        self.wait(length, upload)
            .map_err(|e| failed("write", place, e))
    }

    /// Runs one operation that moves so many bytes, within the time that they may take.
    fn wait<T>(
        &self,
        bytes: u64,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let bound = self.bound(bytes);
        self.runtime.block_on(async {
            tokio::time::timeout(bound, work)
                .await
                .unwrap_or(Err(Trouble::TimedOut(bound)))
        })
    }

    fn bound(&self, bytes: u64) -> Duration {
        self.settings.timeout + Duration::from_secs(bytes / SLOWEST)
    }

    fn place(&self, names: &[&str]) -> Place {
        let mut path = self.target.prefix.clone();
        for &name in names {
            path = path.join(name);
        }
        Place {
            path,
            url: format!("{}/{}", self.url(), names.join("/")),
        }
    }

    fn record_place(&self, key: Key) -> Place {
        self.place(&[ENGINES, &key.to_string(), RECORD])
    }

    fn blob_place(&self, digest: &Digest) -> Place {
        self.place(&[BLOBS, &digest.hex()])
    }

    fn damaged(&self, key: Key, damage: Damage) -> RemoteFault {
        RemoteFault::Damaged {
            url: self.record_place(key).url,
            damage,
        }
    }

    fn unknown(&self, text: &str) -> RemoteFault {
        RemoteFault::UnknownKey {
            url: self.url().into(),
            text: text.into(),
        }
    }
}

fn failed(action: &'static str, place: &Place, trouble: Trouble) -> RemoteFault {
    RemoteFault::Failed {
        action,
        url: place.url.clone(),
        source: match trouble {
            Trouble::Store(e) => Cause::of(&e),
            Trouble::Disk(e) => Cause::of(&e),
            Trouble::TimedOut(after) => Cause::timed_out(after),
            Trouble::Length(found) => Cause::of(&io::Error::other(format!("it has {found} bytes"))),
        },
    }
}

/// Whether the local cache has an entry; a damaged one has been moved away by the look.
fn present(store: &Store, key: Key, watch: &dyn Watch) -> Result<bool, CacheFault> {
    match store.inspect(&key, Check::Trust) {
        Ok(hit) => Ok(hit.is_some()),
        Err(fault @ CacheFault::Damaged { .. }) => {
            watch.event(Event::Warn(&fault.to_string()));
            Ok(false)
        }
        Err(fault) => Err(fault),
    }
}
