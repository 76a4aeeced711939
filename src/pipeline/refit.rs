//! A plan gets other weights: verified, mapped, proven complete, applied, and only then put in place.

use super::rebuild::{self, Verification};
use super::{Environment, Error, OpenPlan, Overlay, OverlayRequest, open};
use crate::engine::{self, Feed, Slot};
use crate::plan::{self, Manifest, Recipe, WeightRow};
use crate::tensor::{Digest, cast};
use crate::watch::{Event, Watch};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A plan and an overlay that was resolved against it; nothing is written yet.
pub struct Prepared {
    /// The plan as it is.
    pub plan: OpenPlan,
    overlay: Arc<OverlayFeed>,
    /// Weights whose bytes will differ from what the engine holds now.
    pub changes: Vec<WeightChange>,
}

/// One weight that gets other bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightChange {
    /// ONNX name.
    pub name: String,
    /// Digest of what the engine holds.
    pub from: Digest,
    /// Digest of what it gets.
    pub to: Digest,
    /// Why a refit cannot do it; absent where it can.
    pub fixed: Option<String>,
}

/// What a refit did.
pub struct Refitted {
    /// As written.
    pub manifest: Manifest,
    /// Opening the engine, setting weights, committing.
    pub apply: Duration,
    /// Writing the plan.
    pub write: Duration,
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
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Prepared, Error> {
    let opened = open(plan, environment)?;
    let overlay = Overlay::resolve(plan, &opened.manifest, request, watch)?;
    let changes = opened
        .manifest
        .weights
        .iter()
        .filter_map(|w| change(w, overlay.digest(&w.name)))
        .collect();
    Ok(Prepared {
        plan: opened,
        overlay: Arc::new(OverlayFeed(overlay)),
        changes,
    })
}

fn change(row: &WeightRow, to: Option<Digest>) -> Option<WeightChange> {
    let to = to.filter(|to| *to != row.digest)?;
    Some(WeightChange {
        name: row.name.clone(),
        from: row.digest,
        to,
        fixed: row.fixed.clone(),
    })
}

impl Prepared {
    /// The overlay.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay.0
    }

    /// Whether the engine already holds exactly this.
    pub fn is_live(&self) -> bool {
        self.changes.is_empty()
    }

    /// Changes that no refit can make.
    pub fn fixed(&self) -> impl Iterator<Item = &WeightChange> {
        self.changes.iter().filter(|c| c.fixed.is_some())
    }

    /// Gives the engine its new weights, without writing anything: the open plan runs with them.
    ///
    /// # Errors
    /// The engine's own; it is then in no defined state, and the file untouched.
    pub fn apply(&mut self, watch: &dyn Watch) -> Result<Duration, Error> {
        watch.event(Event::Begin {
            step: "refitting",
            total: None,
        });
        let start = Instant::now();
        let feed: Arc<dyn Feed> = self.overlay.clone();
        self.plan.engine.refit(feed, watch)?;
        watch.event(Event::End);
        Ok(start.elapsed())
    }

    /// The manifest as it will be, but for the plan's own digest.
    pub(super) fn manifest(&self) -> Manifest {
        let mut manifest = self.plan.manifest.clone();
        for row in &mut manifest.weights {
            let to = self.overlay.0.digest(&row.name).unwrap_or(row.digest);
            let base = row.base_digest();
            row.digest = to;
            row.base = (base != to).then_some(base);
        }
        for row in &self.overlay.0.mapping().rows {
            if let Some(weight) = manifest.weights.iter_mut().find(|w| w.name == row.name) {
                // Names that a LoRA's file uses are not what the model's own checkpoint calls them.
                if self.overlay.0.fused.is_empty() {
                    weight.mapping = Some(row.clone());
                }
            }
        }
        manifest.recipe = if manifest.weights.iter().all(|w| w.base.is_none()) {
            Recipe::default()
        } else {
            self.overlay.0.recipe.clone()
        };
        manifest
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
        crate::fsx::check_output(output)?;
        let apply = self.apply(watch)?;
        let verification = verify
            .then(|| self.verify(output, environment, watch))
            .transpose()?;
        let start = Instant::now();
        watch.event(Event::Begin {
            step: "writing the plan",
            total: None,
        });
        let (staged, written) =
            plan::stage::<Error>(output, |out| Ok(self.plan.engine.serialize(out)?))?;
        let mut manifest = self.manifest();
        manifest.plan = written;
        plan::replace(output, staged, &manifest)?;
        watch.event(Event::End);
        Ok(Refitted {
            manifest,
            apply,
            write: start.elapsed(),
            verification,
        })
    }

    /// Compares what the open engine computes with a reference that compiles the model with the overlay's weights. Meant for after
    /// [`Prepared::apply`], or for a plan that is live.
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
        let found = rebuild::verify(
            self.plan.engine.as_mut(),
            &self.plan.manifest,
            &self.overlay.0,
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
}

/// Gives an engine the bytes of an overlay.
struct OverlayFeed(Overlay);

impl Feed for OverlayFeed {
    fn bytes(&self, slot: &Slot) -> Result<Option<Cow<'_, [u8]>>, engine::Error> {
        let wrong = |reason: String| engine::Error::Weight {
            name: slot.name.clone(),
            reason,
        };
        let Some(bytes) = self.0.bytes(&slot.name).map_err(|e| wrong(e.to_string()))? else {
            return Ok(None);
        };
        let stored = self.0.model().model.weight(&slot.name).map(|w| w.dtype);
        match stored {
            Some(dtype) if dtype != slot.dtype => {
                let cast = cast(dtype, slot.dtype, &bytes).map_err(|e| wrong(e.to_string()))?;
                Ok(Some(Cow::Owned(cast)))
            }
            _ => Ok(Some(bytes)),
        }
    }
}
