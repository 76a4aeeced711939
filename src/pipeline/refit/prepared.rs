//! A plan gets other weights: verified, mapped, proven complete, applied, and only then put in place.

use super::complete::refuse_blocked;
use super::not_finite;
use super::overlay::Overlay;
use super::ready::Ready;
use super::rebuild;
use super::request::OverlayRequest;

use crate::diff::{Decision, Verdict, WeightState};
use crate::engine::{self, Engine, Feed, Fold, RunOptions, Slot, Way};
use crate::fsx::Staged;
use crate::memory;
use crate::onnx::Model;
use crate::pipeline::backends::reopen;
use crate::pipeline::environment::Environment;
use crate::pipeline::error::Error;
use crate::pipeline::facts::note_slots;
use crate::pipeline::feed::{fold_of, slot_bytes};
use crate::pipeline::look::open_plan;
use crate::pipeline::open::{OpenPlan, open_engine};
use crate::pipeline::other_gpu::check_gpu;
use crate::pipeline::verification::Verification;
use crate::pipeline::verify;
use crate::plan::{self, Manifest, PlanRef, Recipe, WeightRow};
use crate::shapes::Resolved;
use crate::tensor::Digest;
use crate::watch::{Event, Watch};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A plan and an overlay that was resolved against it; nothing is written yet.
pub struct Prepared {
    /// What the plan is now.
    pub manifest: Manifest,
    plan: PathBuf,
    /// Opened when it is first needed, unless it was opened while the overlay was resolved.
    engine: Option<Box<dyn Engine>>,
    overlay: Arc<Overlay>,
    /// What is decided; nothing blocks it.
    pub decision: Decision,
}

/// When a plan's engine is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// On this thread, while another one resolves the overlay: both take seconds on large models.
    Meanwhile,
    /// When it is needed, which for a dry run is never: it then works where the plan's library or GPU is missing.
    WhenNeeded,
}

/// What a refit did.
pub struct Refitted {
    /// Setting weights, committing; opening the engine where it was not open.
    pub apply: Duration,
    pub write: Duration,
    pub way: Way,
    /// What the check against a reference found, where it was asked for.
    pub verification: Option<Verification>,
}

/// Resolves `request` against the plan at `plan`. What it finds is all that a refit would do.
///
/// # Errors
/// See [`Error`]; nothing has changed.
pub fn prepare(
    plan: &Path,
    request: &OverlayRequest,
    opening: Opening,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Prepared, Error> {
    let manifest = open_plan(plan, request.memo.as_ref())?;
    let gpu = check_gpu(plan, &manifest.backend, &manifest.options);
    if let (Opening::Meanwhile, Ok(Some(said))) = (opening, gpu) {
        watch.event(Event::Warn(&said));
    }
    let resolve = || {
        let overlay = Overlay::survey(plan, &manifest, request, watch)?;
        let decision = overlay.decide(&manifest, &request.permissions);
        refuse_blocked(request, &overlay, &decision)?;
        if let Some(said) = not_finite::warning(&overlay.not_finite) {
            watch.event(Event::Warn(&said));
        }
        for note in &overlay.notes {
            let note = if request.shared {
                format!("`{}`: {note}", plan.display())
            } else {
                note.clone()
            };
            watch.event(Event::Status(&note));
        }
        Ok::<_, Error>((overlay, decision))
    };
    let (engine, (overlay, decision)) = match opening {
        Opening::WhenNeeded => (None, resolve()?),
        // An engine stays on the thread that opened it.
        Opening::Meanwhile => std::thread::scope(|scope| {
            let resolving = move || {
                let resolved = resolve();
                // The engine's plan is in memory meanwhile; what was laid out to be looked at is not to stand beside it.
                memory::trim();
                resolved
            };
            let Ok(resolving) = std::thread::Builder::new().spawn_scoped(scope, resolving) else {
                // Where there can be no second thread, one after the other.
                let overlay = resolve()?;
                let engine = open_engine(plan, &manifest, environment)?;
                return Ok::<_, Error>((Some(engine), overlay));
            };
            let engine = open_engine(plan, &manifest, environment);
            let overlay = resolving
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // What is wrong with the files that were given comes first: that is the user's to mend.
            let overlay = overlay?;
            Ok((Some(engine?), overlay))
        })?,
    };
    Ok(Prepared {
        manifest,
        plan: plan.to_owned(),
        engine,
        overlay: Arc::new(overlay),
        decision,
    })
}

/// What the engine of a plan holds, by name; nothing where it is stripped, or that is not proven.
fn held(manifest: &Manifest) -> HashMap<String, Digest> {
    if manifest.stripped || manifest.unproven {
        return HashMap::new();
    }
    let rows = manifest.weights.iter();
    rows.map(|w| (w.name.clone(), w.digest)).collect()
}

/// Writes an engine as it is now beside `output`.
pub(in crate::pipeline) fn stage_engine(
    output: &Path,
    engine: &dyn Engine,
    watch: &dyn Watch,
) -> Result<(Staged, PlanRef), Error> {
    let (staged, written, ()) = plan::stage::<Error, _>(
        output,
        |file| {
            let written = engine.serialize_into(file, watch);
            Ok(written.map_err(Error::writing(output))?.map(|w| ((), w)))
        },
        |out| engine.serialize(out).map_err(Error::writing(output)),
    )?;
    Ok((staged, written))
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b
        || a.canonicalize()
            .is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

impl Prepared {
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Whether the plan's engine can run with these options.
    ///
    /// # Errors
    /// [`engine::Error::Option`]; where it has to be opened first and cannot be.
    pub fn check_options(
        &mut self,
        options: &RunOptions,
        environment: &Environment,
    ) -> Result<(), Error> {
        Ok(self.engine(environment)?.check_options(options)?)
    }

    /// Whether the engine already holds exactly this.
    pub fn is_live(&self) -> bool {
        self.decision.diff.verdict == Verdict::Live
    }

    /// Whether the engine will hold the base weights, all of them.
    pub fn gives_base(&self) -> bool {
        let rows = self.manifest.weights.iter();
        let base = |w: &WeightRow| self.overlay().digest(&w.name) == Some(w.base_digest());
        rows.into_iter().all(base)
    }

    /// Changes that no refit can make.
    pub fn fixed(&self) -> impl Iterator<Item = &WeightState> {
        let changes = self.decision.changes.iter();
        changes.filter(|c| c.fixed.is_some())
    }

    /// Closes the engine; it is opened again where it is needed.
    pub(super) fn close(&mut self) {
        self.engine = None;
    }

    pub(super) fn plan(&self) -> &Path {
        &self.plan
    }

    fn engine(&mut self, environment: &Environment) -> Result<&mut dyn Engine, Error> {
        if self.engine.is_none() {
            self.engine = Some(open_engine(&self.plan, &self.manifest, environment)?);
        }
        Ok(self.engine.as_mut().expect("just opened").as_mut())
    }

    /// The open plan, to run it: with its new weights after [`Prepared::commit`].
    ///
    /// # Errors
    /// Where it has to be opened first and cannot be.
    pub fn into_open(mut self, environment: &Environment) -> Result<OpenPlan, Error> {
        self.engine(environment)?;
        Ok(OpenPlan {
            manifest: self.manifest,
            engine: self.engine.expect("just opened"),
        })
    }

    /// Gives the engine its new weights, without writing anything.
    /// Where the library takes a whole model, that is written beside `output`.
    fn apply(
        &mut self,
        output: &Path,
        environment: &Environment,
        watch: &dyn Watch,
    ) -> Result<(Duration, Way), Error> {
        watch.event(Event::Begin {
            step: "refitting",
            total: None,
        });
        let start = Instant::now();
        let feed: Arc<dyn Feed> = Arc::new(OverlayFeed {
            overlay: Arc::clone(&self.overlay),
            held: held(&self.manifest),
            folds: self.manifest.folds.clone(),
            beside: output.to_owned(),
        });
        let refitted = self.engine(environment)?.refit(feed, watch);
        if refitted.is_err() {
            // It is in no defined state.
            self.engine = None;
        }
        let way = refitted?;
        watch.event(Event::End);
        Ok((start.elapsed(), way))
    }

    /// The manifest as it will be beside `output`, but for the plan's own digest.
    pub(super) fn refitted_manifest(&self, output: &Path) -> Manifest {
        let overlay = self.overlay();
        let mut manifest = self.manifest.clone();
        manifest.stripped = false;
        manifest.unproven = false;
        for row in &mut manifest.weights {
            let to = overlay.digest(&row.name).unwrap_or(row.digest);
            let base = row.base_digest();
            row.digest = to;
            row.base = (base != to).then_some(base);
        }
        overlay.record_proof(&self.plan, &mut manifest);
        // Where every weight has its base value nothing lies over it, whatever was given.
        manifest.recipe = if manifest.weights.iter().all(|w| w.base.is_none()) {
            Recipe::default()
        } else {
            overlay.recipe().clone()
        };
        manifest.moved(&self.plan, output)
    }

    /// Applies the overlay and writes plan and manifest to `output`, both or neither. With `verify`, what the refitted engine
    /// computes is first compared with a reference, and nothing is written where it differs.
    ///
    /// # Errors
    /// See [`Error`], [`Error::Unverified`] among them; what was there is then untouched.
    pub fn commit(
        &mut self,
        output: &Path,
        verify: bool,
        environment: &Environment,
        watch: &dyn Watch,
    ) -> Result<Refitted, Error> {
        let (ready, refitted) = self.stage(output, verify, environment, watch)?;
        plan::replace(output, ready.staged, &ready.manifest)?;
        output.clone_into(&mut self.plan);
        self.manifest = ready.manifest;
        Ok(refitted)
    }

    /// As [`Prepared::commit`], but leaves the plan beside its place.
    ///
    /// # Errors
    /// As [`Prepared::commit`].
    pub fn stage(
        &mut self,
        output: &Path,
        verify: bool,
        environment: &Environment,
        watch: &dyn Watch,
    ) -> Result<(Ready, Refitted), Error> {
        let _span = tracing::info_span!("refit", output = ?output).entered();
        // What cannot be written is told before the refit, not after it.
        crate::fsx::check_output(output)?;
        let (apply, way) = self.apply(output, environment, watch)?;
        // A library may now take as much as the plan has; what the weights took is not to stand beside that.
        memory::trim();
        let verification = verify
            .then(|| self.verify(output, environment, watch))
            .transpose()?;
        let start = Instant::now();
        watch.event(Event::Begin {
            step: "writing the plan",
            total: None,
        });
        let engine = self.engine(environment)?;
        let (staged, written) = stage_engine(output, engine, watch)?;
        let mut manifest = self.refitted_manifest(output);
        manifest.plan = written;
        if self.manifest.stripped {
            // Whether a plan that was stripped can be refitted again once it is full depends on the library's version.
            let full = reopen(&manifest, environment)?.open(staged.path())?;
            let slots = full.slots()?;
            let could = manifest.weights.iter().any(|w| w.fixed.is_none());
            if could && !slots.iter().any(|s| s.refittable) && same_file(output, &self.plan) {
                // The stripped plan is then the only one that can be refitted, and it would be gone.
                return Err(Error::LastRefit {
                    plan: self.plan.clone(),
                    library: manifest.backend.library,
                });
            }
            note_slots(&mut manifest, &self.overlay().model().model, slots);
        }
        watch.event(Event::End);
        let refitted = Refitted {
            apply,
            write: start.elapsed(),
            way,
            verification,
        };
        let output = output.to_owned();
        Ok((
            Ready {
                output,
                staged,
                manifest,
            },
            refitted,
        ))
    }

    /// Compares what the open engine computes with a reference that compiles the model with the overlay's weights. Meant for a
    /// plan that is live.
    ///
    /// # Errors
    /// [`Error::Unverified`] where they differ; what either engine fails with.
    pub fn verify(
        &mut self,
        output: &Path,
        environment: &Environment,
        watch: &dyn Watch,
    ) -> Result<Verification, Error> {
        watch.event(Event::Begin {
            step: "verifying",
            total: None,
        });
        let overlay = Arc::clone(&self.overlay);
        self.engine(environment)?;
        let engine = self.engine.as_mut().expect("just opened");
        let found = verify::verify(
            engine.as_mut(),
            &self.manifest,
            &overlay,
            output,
            environment,
        )?;
        watch.event(Event::End);
        if found.is_equal() {
            Ok(found)
        } else {
            Err(Error::Unverified(found))
        }
    }

    /// Compiles the model with the overlay's weights and puts the plan in place, instead of refitting it.
    ///
    /// # Errors
    /// See [`Error`]; what was there is then untouched.
    pub fn rebuild(
        &mut self,
        output: &Path,
        environment: &Environment,
        watch: &dyn Watch,
    ) -> Result<Duration, Error> {
        let shapes = self.manifest.shapes.clone();
        self.rebuild_for(output, shapes, environment, watch)
    }

    /// As [`Prepared::rebuild`], for another shape range.
    ///
    /// # Errors
    /// As [`Prepared::rebuild`].
    pub fn rebuild_for(
        &mut self,
        output: &Path,
        shapes: Resolved,
        environment: &Environment,
        watch: &dyn Watch,
    ) -> Result<Duration, Error> {
        // Two engines of a large model at a time may not fit.
        self.engine = None;
        let manifest = Manifest {
            profile: shapes.profile(),
            shapes,
            ..self.refitted_manifest(output)
        };
        let (manifest, time) =
            rebuild::compile(self.overlay(), manifest, output, environment, watch)?;
        output.clone_into(&mut self.plan);
        self.manifest = manifest;
        Ok(time)
    }
}

/// Gives an engine the bytes of an overlay.
struct OverlayFeed {
    overlay: Arc<Overlay>,
    /// Digests of what the engine holds.
    held: HashMap<String, Digest>,
    /// Slots that are computed from several weights.
    folds: Vec<Fold>,
    /// The plan that is written, for what has to be written before it.
    beside: PathBuf,
}

impl Feed for OverlayFeed {
    fn differs(&self, slot: &Slot) -> bool {
        let differs = |name: &str| self.overlay.digest(name) != self.held.get(name).copied();
        match fold_of(&self.folds, slot) {
            Some(fold) => fold.sources().into_iter().any(differs),
            None => differs(&slot.name),
        }
    }

    fn digest(&self, slot: &Slot) -> Option<Digest> {
        let weight = self.overlay.model().model.weight(&slot.name)?;
        // What is folded or converted for the slot has another one.
        let plain = fold_of(&self.folds, slot).is_none() && weight.dtype == slot.dtype;
        self.overlay.digest(&slot.name).filter(|_| plain)
    }

    fn bytes(&self, slot: &Slot) -> Result<Option<Cow<'_, [u8]>>, engine::Error> {
        let model = &self.overlay.model().model;
        slot_bytes(slot, &self.folds, model, |name| {
            self.overlay
                .hand_out(name)
                .map_err(|e| engine::Error::Weight {
                    name: name.to_owned(),
                    reason: e.to_string(),
                })
        })
    }

    fn with_model(
        &self,
        then: &mut dyn FnMut(&Model) -> Result<(), engine::Error>,
    ) -> Result<(), engine::Error> {
        let written = rebuild::write_model(&self.overlay, &self.beside);
        let written = written.map_err(|e| match e {
            Error::File(e) => engine::Error::File(e),
            Error::Engine(e) => e,
            other => engine::Error::Library {
                library: "the model with these weights".into(),
                message: other.to_string(),
            },
        })?;
        then(&written.model)
    }
}
