//! Building through the engine cache: an engine of the same structure is copied or refitted instead of compiled.
//!
//! The key holds all that a compiled engine depends on but the weights, which the entry's manifest names by digest. Names of
//! initializers are part of the structure digest, so entry and model agree on what each weight is called. What cannot be
//! refitted (`refit=none`), only with its own values (`refit=identical`), or holds no weights at all (`strip`) has the
//! weights in its key. A fault of the cache never fails a build.

use super::draft::{BuildRequest, Built, CacheUse, Draft};
use super::key;
use crate::cache::{
    BuildLock, CacheFault, Check, Existing, Hit, KeyFields, Label, Link, Memo, Plan, Pushed,
    Remote, RemoteFault, Store,
};
use crate::engine::{self, Feed, Fold, Slot};
use crate::fault::Explain;
use crate::fsx::{self, Staged};
use crate::onnx::Model;
use crate::pipeline::backends::reopen;
use crate::pipeline::environment::Environment;
use crate::pipeline::error::Error;
use crate::pipeline::feed::{fold_of, slot_bytes};
use crate::pipeline::refit::stage_engine;
use crate::plan::{self, Manifest, PlanRef};
use crate::tensor::Digest;
use crate::watch::{Event, Watch};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

/// How to use the cache.
#[derive(Debug)]
pub struct CacheRequest {
    /// Where engines are kept.
    pub store: Store,
    /// How much of an entry is checked.
    pub check: Check,
    /// Where engines of other machines are.
    pub remote: Option<Remote>,
    /// Whether the remote gets what this machine has.
    pub push: bool,
    /// What is remembered of files that were read before.
    pub memo: Memo,
}

/// As [`super::build()`], with what the cache has. Without a cache, exactly that.
///
/// # Errors
/// See [`Error`]; nothing on disk has changed then, but for the cache.
pub fn build_cached(
    request: &BuildRequest<'_>,
    cache: Option<&CacheRequest>,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Built, Error> {
    let draft = Draft::new(request, cache.map(|c| &c.memo), watch)?;
    let Some(cache) = cache else {
        return draft.compile(watch);
    };
    let fields = key::fields_of(&draft);
    let cached = Cached {
        draft: &draft,
        cache,
        fields: &fields,
        environment,
    };
    match cached.build(watch)? {
        Ok(built) => Ok(built),
        Err(fault) => {
            warn(watch, "the engine is built without the cache", &fault);
            draft.compile(watch)
        }
    }
}

fn warn<F: Explain + std::error::Error>(watch: &dyn Watch, so: &str, fault: &F) {
    let mut text = format!("{so}: {fault}");
    let mut cause = std::error::Error::source(fault);
    while let Some(c) = cause {
        let _ = write!(text, ": {c}");
        cause = c.source();
    }
    for hint in fault.hints() {
        let _ = write!(text, "; {hint}");
    }
    watch.event(Event::Warn(&text));
}

/// A damaged entry counts as none.
fn damaged<T>(fault: CacheFault, watch: &dyn Watch) -> Result<Option<T>, CacheFault> {
    match fault {
        CacheFault::Damaged { .. } => {
            warn(watch, "the engine is built again", &fault);
            Ok(None)
        }
        _ => Err(fault),
    }
}

/// Brings the engine from the remote into the local cache, and decides whether the remote is to get one.
fn fetch(
    remote: &Remote,
    lock: &BuildLock<'_>,
    push: &mut Option<Existing>,
    watch: &dyn Watch,
) -> Option<Hit> {
    let fault = match remote.fetch(lock, watch) {
        Ok(None) => return None,
        Ok(Some(hit)) => {
            let text = format!("pulled {} from {}", hit.key().short(), remote.url());
            watch.event(Event::Status(&text));
            *push = None;
            return Some(hit);
        }
        Err(fault) => fault,
    };
    // A damaged engine is replaced, a remote that cannot be asked gets none, and any other fault
    // leaves it what it has.
    *push = match &fault {
        RemoteFault::Damaged { .. } => Some(Existing::Replace),
        fault if fault.is_remotes() => None,
        _ => Some(Existing::Keep),
    };
    let so = match push {
        None => "the remote cache is not used",
        Some(_) => "the engine of the remote cache is not used",
    };
    warn(watch, so, &fault);
    None
}

/// Why an engine that the cache has did not become a plan.
enum Missed {
    /// Of the cache's doing: as if it had none.
    Cache(CacheFault),
    Build(Error),
}

impl From<CacheFault> for Missed {
    fn from(fault: CacheFault) -> Missed {
        Missed::Cache(fault)
    }
}

impl From<Error> for Missed {
    fn from(error: Error) -> Missed {
        Missed::Build(error)
    }
}

impl From<fsx::Error> for Missed {
    fn from(error: fsx::Error) -> Missed {
        Missed::Build(error.into())
    }
}

struct Cached<'a> {
    draft: &'a Draft<'a>,
    cache: &'a CacheRequest,
    fields: &'a KeyFields,
    environment: &'a Environment,
}

impl Cached<'_> {
    /// The inner error is the cache's; nothing was built then.
    fn build(&self, watch: &dyn Watch) -> Result<Result<Built, CacheFault>, Error> {
        // What to do with the remote afterwards; without the lock, for which others wait.
        let mut push = Some(Existing::Keep);
        let built = self.obtain(&mut push, watch)?;
        if let Ok(built) = &built {
            self.label(built);
        }
        if let (true, Some(remote), Some(existing), Ok(_)) =
            (self.cache.push, &self.cache.remote, push, &built)
        {
            self.push(remote, existing, watch);
        }
        Ok(built)
    }

    /// Notes beside the entry what people know it by. A cache that cannot be written has no labels, which `cache list` shows.
    fn label(&self, built: &Built) {
        let name = self.draft.request.model_path.file_name();
        let label = Label {
            model: name.unwrap_or_default().to_string_lossy().into_owned(),
            weights: built.manifest.model.content.short(),
        };
        let key = self.fields.key();
        if self.cache.store.label(&key).as_ref() != Some(&label) {
            let _ = self.cache.store.set_label(&key, &label);
        }
    }

    fn obtain(
        &self,
        push: &mut Option<Existing>,
        watch: &dyn Watch,
    ) -> Result<Result<Built, CacheFault>, Error> {
        // Without the lock first: what is there already waits for no other build.
        match self.find(watch) {
            Ok(Some(built)) => return Ok(Ok(built?)),
            Ok(None) => {}
            Err(fault) => return Ok(Err(fault)),
        }
        let lock = match self.cache.store.lock(self.fields, watch) {
            Ok(lock) => lock,
            Err(fault) => return Ok(Err(fault)),
        };
        // Whoever had the lock may have stored it meanwhile.
        match self.find(watch) {
            Ok(Some(built)) => return Ok(Ok(built?)),
            Ok(None) => {}
            Err(fault) => return Ok(Err(fault)),
        }
        if let Some(remote) = &self.cache.remote
            && let Some(hit) = fetch(remote, &lock, push, watch)
        {
            match self.take(&hit, watch) {
                Ok(Some(built)) => return Ok(Ok(built?)),
                Ok(None) => {}
                Err(fault) => return Ok(Err(fault)),
            }
        }
        let mut built = self.draft.compile(watch)?;
        built.cache = CacheUse::Miss;
        let manifest = serde_json::to_vec(&anonymous(&built.manifest))
            .expect("a manifest that was written can be written");
        // The manifest must be this plan's, whoever replaced it meanwhile.
        let is_right = |map: &fsx::Map| engine::digest_of(map) == built.manifest.plan.digest;
        let plan = Plan::Checked(self.draft.request.output, &is_right);
        if let Err(fault) = lock.put(plan, &manifest) {
            warn(watch, "the engine was not stored in the cache", &fault);
        }
        Ok(Ok(built))
    }

    /// Gives the remote what the local cache has.
    fn push(&self, remote: &Remote, existing: Existing, watch: &dyn Watch) {
        let so = "the engine was not pushed to the remote cache";
        let key = self.fields.key();
        match self.cache.store.inspect(&key, Check::Trust) {
            Ok(Some(hit)) => match remote.push(&hit, existing, watch) {
                Ok(Pushed::Sent(_)) => {
                    let text = format!("pushed {} to {}", key.short(), remote.url());
                    watch.event(Event::Status(&text));
                }
                Ok(Pushed::Already) => {
                    let text = format!("{} has {} already", remote.url(), key.short());
                    watch.event(Event::Note(&text));
                }
                Err(fault) => warn(watch, so, &fault),
            },
            Ok(None) => watch.event(Event::Warn(&format!(
                "{so}: the local cache did not keep it"
            ))),
            Err(fault) => warn(watch, so, &fault),
        }
    }

    /// The engine out of the cache; `None` where there is none of use.
    fn find(&self, watch: &dyn Watch) -> Result<Option<Result<Built, Error>>, CacheFault> {
        // The plan itself is checked when it is taken out.
        let hit = match self.cache.store.lookup(&self.fields.key(), Check::Trust) {
            Ok(Some(hit)) => hit,
            Ok(None) => return Ok(None),
            Err(fault) => return damaged(fault, watch),
        };
        self.take(&hit, watch)
    }

    /// The engine out of an entry; `None` where it is of no use.
    fn take(
        &self,
        hit: &Hit,
        watch: &dyn Watch,
    ) -> Result<Option<Result<Built, Error>>, CacheFault> {
        let useless = |why: &str| {
            watch.event(Event::Note(&format!(
                "the cached engine {} is of no use: {why}",
                hit.key().short()
            )));
            Ok(None)
        };
        let entry = match serde_json::from_slice::<Manifest>(hit.manifest()) {
            Ok(m) if m.model.structure == self.draft.structure && belongs(&m.plan, hit) => m,
            Ok(_) => return useless("its manifest belongs to another plan"),
            Err(e) => return useless(&e.to_string()),
        };
        let rows: HashMap<_, _> = entry.weights.iter().map(|w| (w.name.as_str(), w)).collect();
        let mut same = true;
        // What cannot be refitted has to be the same already; of all else one difference asks for a
        // refit.
        for (name, digest) in &self.draft.digests {
            match rows.get(name) {
                Some(row) if row.digest == *digest => {}
                Some(row) if row.fixed.is_none() => same = false,
                Some(_) => return useless(&format!("`{name}` differs and cannot be refitted")),
                None => return useless(&format!("it has no weight `{name}`")),
            }
        }
        let built = if same {
            self.copy(hit, &entry)
        } else {
            self.refit(hit, &entry, watch)
        };
        match built {
            Ok(built) => Ok(Some(Ok(built))),
            Err(Missed::Cache(fault)) => damaged(fault, watch),
            // The disk of the output is full, or the like: compiling would not help.
            Err(Missed::Build(e)) if same || matches!(e, Error::File(_)) => Ok(Some(Err(e))),
            Err(Missed::Build(e)) => {
                watch.event(Event::Warn(&format!(
                    "the cached engine could not be refitted, so the model is compiled: {e}"
                )));
                Ok(None)
            }
        }
    }

    /// The manifest for a plan that came from `entry`.
    fn manifest(&self, plan: PlanRef, entry: &Manifest) -> Manifest {
        let fixed: HashMap<&str, &Option<String>> = entry
            .weights
            .iter()
            .map(|w| (w.name.as_str(), &w.fixed))
            .collect();
        let mut manifest = Manifest {
            slots: entry.slots.clone(),
            notes: entry.notes.clone(),
            stripped: entry.stripped,
            folds: entry.folds.clone(),
            by_parser: entry.by_parser.clone(),
            ..self.draft.manifest(plan, entry.backend.clone())
        };
        for row in &mut manifest.weights {
            row.fixed = fixed.get(row.name.as_str()).and_then(|&f| f.clone());
        }
        manifest
    }

    fn copy(&self, hit: &Hit, entry: &Manifest) -> Result<Built, Missed> {
        let output = self.draft.request.output;
        let start = Instant::now();
        // Never a hard link: whatever writes into an output would reach the cache and other outputs.
        let CacheRequest { store, check, .. } = self.cache;
        let staged = Staged::place::<Missed>(output, |path| {
            store.take(hit, path, Link::Never, *check)??;
            Ok(())
        })?;
        let manifest = self.manifest(entry.plan.clone(), entry);
        plan::replace(output, staged, &manifest).map_err(Error::from)?;
        Ok(Built {
            manifest,
            compile: start.elapsed(),
            cache: CacheUse::Hit,
        })
    }

    fn refit(&self, hit: &Hit, entry: &Manifest, watch: &dyn Watch) -> Result<Built, Missed> {
        let output = self.draft.request.output;
        let start = Instant::now();
        let folder = fsx::Scratch::beside(output)?;
        // Opened from a name of its own, since another process may replace the entry at any time.
        let own = folder.path().join("engine.plan");
        let CacheRequest { store, check, .. } = self.cache;
        // A link will do, since the copy is only read: what is refitted is written elsewhere.
        store.take(hit, &own, Link::Allowed, *check)??;
        let backend = reopen(entry, self.environment)?;
        let mut engine = backend.open(&own).map_err(Error::from)?;
        watch.event(Event::Begin {
            step: "refitting the cached engine",
            total: None,
        });
        let feed = Arc::new(ModelFeed::open(self.draft, entry)?);
        engine.refit(feed, watch).map_err(Error::from)?;
        let (staged, plan) = stage_engine(output, engine.as_ref(), watch)?;
        watch.event(Event::End);
        let manifest = self.manifest(plan, entry);
        plan::replace(output, staged, &manifest).map_err(Error::from)?;
        Ok(Built {
            manifest,
            compile: start.elapsed(),
            cache: CacheUse::Refitted,
        })
    }
}

/// Whether `plan` is the plan of an entry. The cache knows it by the digest of the file; where a manifest knows it by another, the
/// two were compared when the entry was stored.
fn belongs(plan: &PlanRef, hit: &Hit) -> bool {
    let by_tensors = || {
        hit.plan()
            .is_ok_and(|map| engine::is_known_by_tensors(&map))
    };
    plan.bytes == hit.record().plan.bytes && (plan.digest == hit.plan_digest() || by_tensors())
}

/// An entry's manifest: nothing of who built it from where.
fn anonymous(manifest: &Manifest) -> Manifest {
    let mut manifest = manifest.clone();
    manifest.model.path = String::new();
    manifest.base = None;
    for row in &mut manifest.weights {
        row.mapping = None;
    }
    manifest
}

/// Gives an engine the model's own weights. Opened anew, as an engine may keep its feed; so every tensor is checked against
/// the digest that the manifest will state.
struct ModelFeed {
    model: Model,
    digests: HashMap<String, Digest>,
    /// Those of what the engine holds; none where it is stripped.
    held: HashMap<String, Digest>,
    folds: Vec<Fold>,
}

impl ModelFeed {
    fn open(draft: &Draft<'_>, entry: &Manifest) -> Result<ModelFeed, Error> {
        let digests = draft.digests.iter();
        let held = entry.weights.iter().filter(|_| !entry.stripped);
        Ok(ModelFeed {
            model: Model::open(draft.request.model_path)?,
            digests: digests.map(|(n, d)| ((*n).to_owned(), *d)).collect(),
            held: held.map(|w| (w.name.clone(), w.digest)).collect(),
            folds: entry.folds.clone(),
        })
    }

    fn weight(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>, engine::Error> {
        let (Some(weight), Some(digest)) = (self.model.weight(name), self.digests.get(name)) else {
            return Ok(None);
        };
        let bytes = self.model.read(weight);
        if Digest::of(&bytes) == *digest {
            return Ok(Some(bytes));
        }
        Err(engine::Error::Weight {
            name: name.to_owned(),
            reason: "the model's file changed while it was read".into(),
        })
    }
}

impl Feed for ModelFeed {
    fn differs(&self, slot: &Slot) -> bool {
        let differs = |name: &str| self.digests.get(name) != self.held.get(name);
        match fold_of(&self.folds, slot) {
            Some(fold) => fold.sources().into_iter().any(differs),
            None => differs(&slot.name),
        }
    }

    fn digest(&self, slot: &Slot) -> Option<Digest> {
        let weight = self.model.weight(&slot.name)?;
        let plain = fold_of(&self.folds, slot).is_none() && weight.dtype == slot.dtype;
        (self.digests.get(&slot.name).copied()).filter(|_| plain)
    }

    fn bytes(&self, slot: &Slot) -> Result<Option<Cow<'_, [u8]>>, engine::Error> {
        slot_bytes(slot, &self.folds, &self.model, |name| self.weight(name))
    }

    fn with_model(
        &self,
        then: &mut dyn FnMut(&Model) -> Result<(), engine::Error>,
    ) -> Result<(), engine::Error> {
        then(&self.model)
    }
}
