//! What is to lie over a plan's base weights, resolved against the plan before anything is written.
//!
//! A refit is a pure function: the engine holds base ⊕ overlay afterwards, whatever was refitted before. Weights that the overlay does
//! not reach have their base values, which are those of the ONNX file that the manifest names.

use super::fused::Fused;
use super::part::Part;
use super::refusals::refuse_fused;
use super::request::{OverlayRequest, Stated};
use super::source_model::{SourceModel, source_model_at};
use crate::cache::Memo;
use crate::diff::{Decision, Diff, Reason, Request, WeightState};
use crate::mapping::{
    self, Assessment, Change, Checkpoint, Inventory, Judged, Mapping, ModelValues, Override,
    Permissions, Recipe as How, Refusal, Row,
};
use crate::memory;
use crate::onnx::Model;
use crate::pipeline::converted::refuse_overflow;
use crate::pipeline::error::Error;
use crate::pipeline::facts::{relative, require_proof};
use crate::pipeline::look::is_model;
use crate::pipeline::measure::{self, Placed};
use crate::pipeline::past;
use crate::pipeline::watched::Watched;
use crate::plan::{Asked, BaseSource, FileRef, Ingredient, Manifest, Recipe};
use crate::tensor::{Digest, Tensor, TensorView};
use crate::watch::{Event, Watch};
use crate::weights::layouts::{View, open_in_layout};
use crate::weights::lora::{self, Fuse, Fusion, Lora};
use crate::weights::{self, Source};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// No mapping file is longer, in bytes: it has at most a line for each weight.
const LONGEST_MAPPING: u64 = 64 << 20;

/// Bytes of fused tensors that are kept between finding out what changes and writing it.
const KEPT_BYTES: usize = 16 << 20;

/// Where a weight's new bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Base,
    Checkpoint,
    Lora,
}

/// Whether the graph of the model is asked for once the overlay is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Graph {
    Kept,
    Forgotten,
}

/// Shapes of tensors by name.
type Shapes = BTreeMap<String, Vec<usize>>;

/// An overlay that was resolved: every weight of the plan has its bytes, and what they are is known.
pub struct Overlay {
    source: SourceModel,
    checkpoint: Option<View>,
    base: Option<View>,
    /// Which part of the base weights was asked for.
    base_part: Option<String>,
    /// What the base weights of the request prove, under their own names.
    proven: Option<Mapping>,
    fusion: Option<Fusion>,
    /// The mapping as it is resolved, unless it is that of `judged`.
    mapping: Option<Mapping>,
    /// By ONNX name: row of the mapping, where its bytes come from, their digest.
    weights: HashMap<String, (usize, From, Digest)>,
    kept: Mutex<HashMap<usize, Vec<u8>>>,
    /// How every row and every tensor fares, where there is a checkpoint.
    pub judged: Option<Judged>,
    plan: PathBuf,
    asked: Asked,
    memo: Option<Memo>,
    recipe: OnceLock<Recipe>,
    /// Tensors with NaN or infinite values where the base has numbers.
    pub not_finite: Vec<Reason>,
    /// What is to be said about the files: parts that are left out, types that are decoded.
    pub notes: Vec<String>,
    /// Names of fused tensors, where there are LoRAs.
    pub fused: Vec<String>,
    /// The parts of the files, and which of them this plan takes.
    pub parts: Vec<Part>,
    /// Every weight comes from an ONNX file of the same structure; [`Overlay::model`] is that one, and not the base.
    pub whole: bool,
}

impl Overlay {
    /// Resolves `request` against the plan at `plan`. What is missing or unsure is recorded, for [`Overlay::decide`].
    ///
    /// # Errors
    /// What cannot be read; LoRAs that do not fit; [`Error::OtherStructure`] for an ONNX file of another structure.
    pub fn survey(
        plan: &Path,
        manifest: &Manifest,
        request: &OverlayRequest,
        watch: &dyn Watch,
    ) -> Result<Overlay, Error> {
        // Evidence decided the rows when they were proven; nothing asks for it any more, and it is most of what a row takes.
        let bare = |row: &Row| Row {
            evidence: Vec::new(),
            ..row.clone()
        };
        let rows = (manifest.weights.iter()).filter_map(|w| w.mapping.as_deref().map(bare));
        Self::resolve(plan, manifest, rows.collect(), Graph::Kept, request, watch)
    }

    /// As [`Overlay::survey`], where only the decision and bytes of weights are wanted: the manifest's rows are taken out of it, and the
    /// graph is let go, so that neither is in memory beside what is made of it.
    ///
    /// # Errors
    /// As [`Overlay::survey`].
    pub fn look(
        plan: &Path,
        manifest: &mut Manifest,
        request: &OverlayRequest,
        watch: &dyn Watch,
    ) -> Result<Overlay, Error> {
        let bare = |row: Box<Row>| Row {
            evidence: Vec::new(),
            ..*row
        };
        let rows = (manifest.weights.iter_mut()).filter_map(|w| w.mapping.take().map(bare));
        let rows = rows.collect();
        Self::resolve(plan, manifest, rows, Graph::Forgotten, request, watch)
    }

    fn resolve(
        plan: &Path,
        manifest: &Manifest,
        rows: Vec<Row>,
        graph: Graph,
        request: &OverlayRequest,
        watch: &dyn Watch,
    ) -> Result<Overlay, Error> {
        let _span = tracing::info_span!("survey", plan = ?plan).entered();
        check_ignored(request)?;
        if let Some(model) = whole_model(plan, manifest, request)? {
            let memo = request.memo.as_ref();
            let overlay = Overlay::of_model(plan, manifest, rows, model, memo, watch);
            overlay.refuse_overflow(plan, manifest)?;
            return Ok(overlay);
        }
        let mut source = source_model_at(plan, manifest, request.model.as_deref())?;
        let digests = check_base(plan, manifest, &source, request.memo.as_ref(), watch)?;
        let component = request.component.as_deref();
        let outline = outline(manifest, &source.model, request)?;
        let base = open_view(&request.base_weights, &outline, component)?;
        let proven = prove_again(manifest, &source.model, base.as_ref(), request)?;
        let first = || known(manifest, rows, outline);
        let mut mapping = proven.clone().unwrap_or_else(first);
        if graph == Graph::Forgotten {
            source.model.forget_graph();
            memory::release();
        }
        let by_hand = put_by_hand(plan, request, &mut mapping)?;
        let checkpoint = open_view(&request.checkpoint, &mapping, component)?;
        let (mut judged, mut not_finite) = (None, Vec::new());
        let as_based = (!request.loras.is_empty()).then(|| mapping.clone());
        if let Some(new) = &checkpoint {
            let mapping = std::mem::take(&mut mapping);
            let model = &source.model;
            let (found, lost) = judge_checkpoint(request, mapping, model, digests, new, watch)?;
            (judged, not_finite) = (Some(found), lost);
        }
        let (weights, mapping) = match &judged {
            Some(found) => {
                let weights = initial(manifest, &found.mapping, Some(&found.assessment));
                (weights, None)
            }
            None => (initial(manifest, &mapping, None), Some(mapping)),
        };
        let mut overlay = Overlay {
            weights,
            source,
            checkpoint,
            base,
            base_part: request.component.clone(),
            proven,
            fusion: None,
            mapping,
            kept: Mutex::default(),
            judged,
            plan: plan.to_owned(),
            asked: asked(request, by_hand),
            memo: request.memo.clone(),
            recipe: OnceLock::new(),
            not_finite,
            notes: Vec::new(),
            fused: Vec::new(),
            parts: Vec::new(),
            whole: false,
        };
        overlay.notes = overlay.checkpoint.as_ref().map_or_else(Vec::new, notes_of);
        let of_checkpoint = (overlay.checkpoint.iter())
            .flat_map(|view| Part::of_checkpoint(&request.checkpoint, view));
        overlay.parts = of_checkpoint.collect();
        overlay.add_loras(request, as_based, watch)?;
        // After the LoRAs: their sums may be too large as well.
        overlay.refuse_overflow(plan, manifest)?;
        Ok(overlay)
    }

    fn refuse_overflow(&self, plan: &Path, manifest: &Manifest) -> Result<(), Error> {
        let (digest, bytes) = (
            |name: &str| self.digest(name),
            |name: &str| self.bytes(name),
        );
        refuse_overflow(plan, manifest, &digest, &bytes)
    }

    /// The weights of an ONNX file with the plan's structure, every one under its own name. Nothing of the base is left, so its
    /// file is not needed.
    fn of_model(
        plan: &Path,
        manifest: &Manifest,
        rows: Vec<Row>,
        source: SourceModel,
        memo: Option<&Memo>,
        watch: &dyn Watch,
    ) -> Overlay {
        let found = past::weights(&source.model, memo, watch);
        let weights = manifest.weights.iter().filter_map(|w| {
            let digest = *found.get(w.name.as_str())?;
            // Without a row: the bytes are those of the file under the same name.
            Some((w.name.clone(), (usize::MAX, From::Base, digest)))
        });
        let weights = weights.collect();
        let file = FileRef {
            path: relative(plan, &source.path),
            digest: Digest::of(&source.model.files()[0]),
        };
        Overlay {
            weights,
            mapping: Some(Mapping {
                rows,
                ..Mapping::default()
            }),
            source,
            checkpoint: None,
            base: None,
            base_part: None,
            fusion: None,
            kept: Mutex::default(),
            judged: None,
            plan: plan.to_owned(),
            asked: Asked::default(),
            memo: memo.cloned(),
            recipe: OnceLock::from(Recipe {
                ingredients: vec![Ingredient::Checkpoint { file }],
                asked: Asked::default(),
            }),
            proven: None,
            not_finite: Vec::new(),
            notes: Vec::new(),
            fused: Vec::new(),
            parts: Vec::new(),
            whole: true,
        }
    }

    /// The overlay that a plan holds now, put together again from what its recipe names. Whether it is the same is told by the
    /// digests of all weights, so nothing else of the request that made it needs to be known.
    ///
    /// # Errors
    /// [`Error::Recipe`] where files are gone or give other weights now.
    pub fn again(
        plan: &Path,
        manifest: &Manifest,
        moved: Option<&Path>,
        watch: &dyn Watch,
    ) -> Result<Overlay, Error> {
        let asked = &manifest.recipe.asked;
        let recorded = OverlayRequest::of_recipe(plan, manifest);
        let mut request = OverlayRequest {
            // A LoRA may have been given to several plans; the digests tell whether this one takes of it what it took.
            shared: true,
            model: moved.map(Path::to_owned),
            // What the request was allowed was judged when the plan was made; here the digests
            // decide.
            permissions: Permissions {
                trust_names: true,
                ..recorded.permissions
            },
            ..recorded
        };
        let refuse = |reason: String| Error::Recipe {
            plan: plan.to_owned(),
            reason,
        };
        let mut other = None;
        // Recipes of earlier versions do not say how LoRAs were rounded.
        let recorded = asked.fuse.as_deref().and_then(Fuse::from_name);
        let modes = recorded.map_or(vec![Fuse::Exact, Fuse::Peft, Fuse::PeftHalf], |f| vec![f]);
        for fuse in modes {
            request.fuse = fuse;
            let overlay = Overlay::survey(plan, manifest, &request, watch)
                .map_err(|e| refuse(e.to_string()))?;
            other = manifest
                .weights
                .iter()
                .find(|w| overlay.digest(&w.name) != Some(w.digest));
            if other.is_none() {
                return Ok(overlay);
            }
            // Only LoRAs are rounded in more ways than one.
            if request.loras.is_empty() {
                break;
            }
        }
        let name = other.map_or("", |w| w.name.as_str());
        Err(refuse(format!(
            "the files that its recipe names give `{name}` another value now"
        )))
    }

    /// What this overlay asks of the engine whose manifest is `manifest`.
    pub fn decide(&self, manifest: &Manifest, permissions: &Permissions) -> Decision {
        let rows: HashMap<&str, &Row> = self
            .mapping()
            .rows
            .iter()
            .map(|r| (r.name.as_str(), r))
            .collect();
        let weights = manifest.weights.iter().map(|w| WeightState {
            name: w.name.clone(),
            holds: w.digest,
            // No output depends on what no node reads: other bytes change nothing.
            wanted: (self.digest(&w.name).filter(|_| !w.unread)).unwrap_or(w.digest),
            fixed: w.fixed.clone(),
            recipe: rows
                .get(w.name.as_str())
                .and_then(|r| r.explanations().next().cloned()),
        });
        let mut decision = Decision::of(Request {
            weights: weights.collect(),
            stripped: manifest.stripped,
            judged: self.judged.as_ref(),
            permissions,
            tensor: &|name| {
                let (dtype, shape) = self.checkpoint.as_ref()?.describe(name)?;
                Some((dtype, shape.to_vec()))
            },
        });
        if !self.not_finite.is_empty() {
            let reasons = Diff::of(self.not_finite.clone(), 0, 0);
            decision.diff = decision.diff.and(reasons);
        }
        if manifest.unproven {
            let refittable = manifest.weights.iter().any(|w| w.fixed.is_none());
            let reasons = Diff::of(vec![Reason::Unproven { refittable }], 0, 0);
            decision.diff = decision.diff.and(reasons);
        }
        decision
    }

    /// Digest of the bytes that `weight` gets; `None` for a name that the plan does not have.
    pub fn digest(&self, weight: &str) -> Option<Digest> {
        self.weights.get(weight).map(|(_, _, digest)| *digest)
    }

    /// Whether nothing is put over the base weights.
    pub fn is_base(&self) -> bool {
        !self.whole && self.checkpoint.is_none() && self.fusion.is_none()
    }

    /// What is put over the base weights, for the manifest. The files are hashed as wholes when it is first asked for.
    pub fn recipe(&self) -> &Recipe {
        self.recipe.get_or_init(|| Recipe {
            ingredients: self.ingredients(),
            asked: self.asked.clone(),
        })
    }

    /// The mapping as this overlay resolved it.
    pub fn mapping(&self) -> &Mapping {
        let judged = || self.judged.as_ref().map(|j| &j.mapping);
        let found = self.mapping.as_ref().or_else(judged);
        found.expect("what is judged has a mapping")
    }

    /// Puts what the base weights of the request prove into a manifest: a fact about the model, and not about what it was refitted
    /// with.
    pub(super) fn record_proof(&self, plan: &Path, manifest: &mut Manifest) {
        let (Some(proven), Some(base)) = (&self.proven, &self.base) else {
            return;
        };
        let rows: HashMap<&str, &Row> =
            (proven.rows.iter()).map(|r| (r.name.as_str(), r)).collect();
        for weight in &mut manifest.weights {
            weight.mapping = (rows.get(weight.name.as_str())).map(|&r| Box::new(r.clone()));
        }
        let files = base.source().files().iter().map(|f| FileRef {
            path: relative(plan, f.path()),
            digest: f.digest(),
        });
        manifest.base = Some(BaseSource {
            files: files.collect(),
            component: self.base_part.clone(),
            inventory: proven.inventory.clone().unwrap_or_default(),
            unsourced_integers: proven.unsourced_integers.clone(),
            probe: None,
        });
    }

    /// The model that the base values come from.
    pub fn model(&self) -> &SourceModel {
        &self.source
    }

    /// The bytes that `weight` gets; `None` for a name that the plan does not have.
    ///
    /// # Errors
    /// [`mapping::Error`], and what fusing fails with. None is expected: resolving has computed the same bytes.
    pub fn bytes(&self, weight: &str) -> Result<Option<Cow<'_, [u8]>>, Error> {
        let Some(&(row, from, _)) = self.weights.get(weight) else {
            return Ok(None);
        };
        Ok(Some(match from {
            From::Base => self.held(weight)?,
            From::Checkpoint => {
                let new = self
                    .checkpoint
                    .as_ref()
                    .expect("only a checkpoint gives rows of this kind");
                Cow::Owned(mapping::bytes_of(&self.mapping().rows[row], new)?)
            }
            From::Lora => Cow::Owned(self.fuse(row)?),
        }))
    }

    /// As [`Overlay::bytes`], for an engine that takes them over: what was kept of fusing is not kept any longer.
    ///
    /// # Errors
    /// As [`Overlay::bytes`].
    pub fn hand_out(&self, weight: &str) -> Result<Option<Cow<'_, [u8]>>, Error> {
        if let Some(&(row, From::Lora, _)) = self.weights.get(weight)
            && let Some(bytes) = self.keep().remove(&row)
        {
            return Ok(Some(Cow::Owned(bytes)));
        }
        self.bytes(weight)
    }

    /// Where the bytes that `weight` gets are in the checkpoint, where they stand there as they are or as a matrix transposed.
    pub(in crate::pipeline) fn placed(&self, weight: &str) -> Option<Placed<'_>> {
        let &(row, From::Checkpoint, _) = self.weights.get(weight)? else {
            return None;
        };
        let row = &self.mapping().rows[row];
        let (source, transposed) = measure::turned(row.recipe.as_ref()?, &row.shape)?;
        let new = self.checkpoint.as_ref()?;
        let (map, range) = new.place(&source)?;
        Some(Placed {
            map,
            range,
            dtype: new.describe(&source)?.0,
            transposed,
        })
    }

    /// Fuses the LoRAs of `request`. `before` is the mapping in the names of the base: judging a checkpoint puts its names there.
    fn add_loras(
        &mut self,
        request: &OverlayRequest,
        before: Option<Mapping>,
        watch: &dyn Watch,
    ) -> Result<(), Error> {
        let Some(before) = before else {
            return Ok(());
        };
        let named = request.component.as_deref();
        let of_lora = named.and_then(lora::Component::from_name);
        // A part of a checkpoint may be named by any prefix; where there is a LoRA alone, it is a mistake.
        if let (Some(name), None) = (named, of_lora)
            && request.checkpoint.is_empty()
            && request.base_weights.is_empty()
        {
            return Err(Error::Overlay {
                problems: vec![format!("`{name}` is no part of a model that a LoRA is for")],
                hints: vec![format!(
                    "--component takes {}",
                    lora::Component::NAMED.map(lora::Component::name).join(", ")
                )],
            });
        }
        let over = self.checkpoint.as_ref().or(self.base.as_ref());
        let (shapes, wrapped) = self.names_of_targets();
        let options = lora::Options {
            component: of_lora,
            alpha: request.lora_alpha,
            shared: request.shared,
        };
        let mut loras = Vec::new();
        for (path, scale) in &request.loras {
            let lora = open_lora(path, &shapes, &wrapped, &options)?;
            self.parts.extend(Part::of_lora(&lora));
            // Given to several plans, it may be for the others.
            if lora.targets().len() == 0 && request.shared {
                continue;
            }
            self.notes.extend(lora.notes().iter().cloned());
            loras.push((lora, *scale));
        }
        if loras.is_empty() {
            return Ok(());
        }
        let fusion = Fusion::new(loras, request.fuse)?;
        // In order, as `fuse` looks them up.
        self.fused = fusion
            .targets()
            .into_iter()
            .map(ToOwned::to_owned)
            .collect();
        let wanted: Vec<(String, Vec<usize>)> = self
            .fused
            .iter()
            .map(|n| {
                let shape = shapes.get(n).or_else(|| wrapped.get(n));
                (n.clone(), shape.cloned().unwrap_or_default())
            })
            .collect();
        let held = ModelValues::of(&self.source.model);
        self.mapping().holds_all_of(&self.fused, &held)?;
        let adopted = self.mapping().adopt(&wanted, over.is_some());
        let rows = adopted.rows.clone();
        let touched: Vec<usize> = rows.values().flatten().copied().collect();
        self.mapping = Some(adopted.all()?);
        self.fusion = Some(fusion);
        self.fuse_all(&touched, watch)?;
        self.judge_fused(&before, &rows, request)
    }

    /// Judges what the LoRAs make of the tensors below them against the base weights, where there are such: each weight has to get what it
    /// was given here. `before` is the mapping in the base's names, `rows` are those of each target.
    fn judge_fused(
        &self,
        before: &Mapping,
        rows: &BTreeMap<String, Vec<usize>>,
        request: &OverlayRequest,
    ) -> Result<(), Error> {
        let held = ModelValues::of(&self.source.model);
        let (Some(inventory), Some(fusion)) = (&before.inventory, &self.fusion) else {
            let touched: Vec<usize> = rows.values().flatten().copied().collect();
            let tied = self.mapping().tied_to(&touched, &held)?;
            return refuse_fused(&tied, before);
        };
        let over = self.checkpoint.as_ref().or(self.base.as_ref());
        let mut changed: BTreeMap<&str, &str> = BTreeMap::new();
        let mut of_row: HashMap<&str, usize> = HashMap::new();
        for (name, rows) in rows {
            // Without a file the ONNX file's weight is the tensor, by the name that the base has for it.
            let own = rows.iter().find_map(|&r| match &before.rows[r].recipe {
                Some(How::Tensor { source, .. }) => Some((source.as_str(), r)),
                _ => None,
            });
            match (over, own) {
                (Some(_), _) => changed.insert(name, name),
                (None, Some((source, row))) => {
                    of_row.insert(source, row);
                    changed.insert(source, name)
                }
                (None, None) => None,
            };
        }
        let tensor = |name: &str| match over {
            Some(over) => over.read(name),
            None => self.torch_tensor(&before.rows[*of_row.get(name)?]).ok(),
        };
        let fused_rows = rows.values().flatten().filter_map(|&r| {
            let row = &before.rows[r];
            Some((
                row.name.as_str(),
                (row.recipe.as_ref()?, self.digest(&row.name)?),
            ))
        });
        let fused = Fused::new(
            over,
            inventory,
            fusion,
            changed,
            tensor,
            fused_rows.collect(),
        );
        let permissions = Permissions {
            partial: request.checkpoint.is_empty() || request.permissions.partial,
            ..request.permissions.clone()
        };
        let judged = mapping::judge(before, &held, &fused, &permissions)?;
        let first = (self.judged.iter())
            .flat_map(|j| j.mapping.rows.iter().zip(&j.assessment.changes))
            .filter(|(_, change)| matches!(change, Change::Refused { .. }));
        let first: HashSet<&str> = first.map(|(row, _)| row.name.as_str()).collect();
        let mut refused = Vec::new();
        for (row, change) in judged.mapping.rows.iter().zip(&judged.assessment.changes) {
            match change {
                Change::Refused { why } if !first.contains(row.name.as_str()) => {
                    refused.push((row.name.clone(), why.clone()));
                }
                // Another derivation than the one by which it was fused.
                Change::Changed { digest } if self.digest(&row.name) != Some(*digest) => {
                    let sources = row.explanations().flat_map(How::sources);
                    let sources = sources.map(ToOwned::to_owned).collect();
                    refused.push((row.name.clone(), Refusal::Ambiguous { sources }));
                }
                _ => {}
            }
        }
        refuse_fused(&refused, before)
    }

    /// Computes the rows that LoRAs change, and keeps of their bytes what fits.
    fn fuse_all(&mut self, touched: &[usize], watch: &dyn Watch) -> Result<(), Error> {
        watch.event(Event::Begin {
            step: "fusing",
            total: Some(touched.len() as u64),
        });
        let length = |&row: &usize| {
            let row = &self.mapping().rows[row];
            row.dtype.bytes_for(row.count()).unwrap_or(usize::MAX / 8)
        };
        let mut budget = KEPT_BYTES;
        let kept: HashSet<usize> = (touched.iter().copied())
            .filter(|row| {
                let fits = length(row) <= budget;
                budget -= if fits { length(row) } else { 0 };
                fits
            })
            .collect();
        // The base as it is read and as torch has it, and the result as torch and as the graph have it; and as much that the allocator keeps
        // of what others took.
        let cost = |row: &usize| 8 * length(row);
        let fused = mapping::batched(touched, cost, |&row| {
            let bytes = self.fuse(row)?;
            let digest = Digest::of(&bytes);
            if kept.contains(&row) {
                self.keep().insert(row, bytes);
            }
            watch.event(Event::Advance(1));
            Ok::<_, Error>((row, digest))
        })?;
        for (row, digest) in fused {
            let name = self.mapping().rows[row].name.clone();
            self.weights.insert(name, (row, From::Lora, digest));
        }
        watch.event(Event::End);
        Ok(())
    }

    /// What a LoRA may name, with shapes: tensors of the file that it is put over, or what the mapping knows of the graph; and the latter
    /// as a wrapper's export calls it, since the first component that all names share may be a wrapper's or the model's own.
    fn names_of_targets(&self) -> (Shapes, Shapes) {
        if let Some(file) = self.checkpoint.as_ref().or(self.base.as_ref()) {
            let shape = |n: &str| Some((n.to_owned(), file.describe(n)?.1.to_vec()));
            return (file.names().filter_map(shape).collect(), Shapes::new());
        }
        let targets = || self.mapping().targets().into_iter();
        let wrapped =
            |t: mapping::Target| (t.aliases.into_iter().next().unwrap_or(t.name), t.shape);
        (
            targets().map(|t| (t.name, t.shape)).collect(),
            targets().map(wrapped).collect(),
        )
    }

    fn keep(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Vec<u8>>> {
        // Entries are whole or absent: a panic elsewhere leaves nothing inconsistent.
        self.kept
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The bytes of a row one or more of whose sources a LoRA changes.
    fn fuse(&self, row: usize) -> Result<Vec<u8>, Error> {
        if let Some(bytes) = self.keep().get(&row) {
            return Ok(bytes.clone());
        }
        let fusion = self
            .fusion
            .as_ref()
            .expect("only LoRAs give rows of this kind");
        let row = &self.mapping().rows[row];
        let over = self.checkpoint.as_ref().or(self.base.as_ref());
        let mut changed = Patched(BTreeMap::new());
        let sources = row.recipe.as_ref().map_or_else(Vec::new, How::sources);
        for name in sources {
            let is_fused = (self.fused.binary_search_by(|f| f.as_str().cmp(name))).is_ok();
            let base = match over.and_then(|o| o.read(name)) {
                Some(tensor) => tensor,
                // Without base weights the ONNX file has the tensor, laid out as the graph wants
                // it.
                None if is_fused => self.torch_tensor(row)?,
                None => continue,
            };
            let data = if is_fused {
                fusion.fuse(name, base.view())?
            } else {
                base.data
            };
            let Tensor { dtype, shape, .. } = base;
            changed
                .0
                .insert(name.to_owned(), Tensor { dtype, shape, data });
        }
        Ok(mapping::apply(row, &changed)?.into_owned())
    }

    /// The bytes of a weight in the ONNX file.
    fn held(&self, weight: &str) -> Result<Cow<'_, [u8]>, Error> {
        let model = &self.source.model;
        let found = model.weight(weight);
        let found = found.ok_or_else(|| mapping::Error::NotHeld {
            weight: weight.to_owned(),
        })?;
        Ok(model.read(found))
    }

    /// The base tensor of a row as torch holds it, from the ONNX file.
    fn torch_tensor(&self, row: &Row) -> Result<Tensor, Error> {
        let bytes = self.held(&row.name)?;
        Ok(mapping::inverse(row, &bytes, &row.source_shape())?)
    }

    fn ingredients(&self) -> Vec<Ingredient> {
        let plan = &self.plan;
        let mut ingredients = Vec::new();
        for file in self.checkpoint.iter().flat_map(|v| v.source().files()) {
            ingredients.push(Ingredient::Checkpoint {
                file: FileRef {
                    path: relative(plan, file.path()),
                    digest: past::file(file.map(), self.memo.as_ref()),
                },
            });
        }
        for (lora, scale) in self.fusion.iter().flat_map(Fusion::loras) {
            ingredients.push(Ingredient::Lora {
                file: FileRef {
                    path: relative(plan, lora.path()),
                    digest: lora.digest(),
                },
                scale,
            });
        }
        ingredients
    }
}

/// What `new` does to every weight of a model with these digests, and which of its values are no numbers.
fn judge_checkpoint(
    request: &OverlayRequest,
    mapping: Mapping,
    model: &Model,
    digests: Vec<Digest>,
    new: &View,
    watch: &dyn Watch,
) -> Result<(Judged, Vec<Reason>), Error> {
    let names = model.weights().iter().map(|w| w.name.as_str());
    let held = ModelValues::knowing(model, names.zip(digests).collect());
    let watched = Watched::begin(new, "mapping the checkpoint", watch);
    let found = mapping::judge_whole(mapping, &held, &watched, &request.permissions)?;
    watch.event(Event::End);
    super::idle::warn(request, &found, new, watch);
    let not_finite = super::not_finite::not_finite(&found, new, &held);
    Ok((found, not_finite))
}

/// The tensors that a row is made of, those that LoRAs change with their new values.
struct Patched(BTreeMap<String, Tensor>);

impl Checkpoint for Patched {
    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.0.get(name).map(Tensor::view)
    }
}

/// What a request asks for beside its files, as a manifest records it.
fn asked(request: &OverlayRequest, mapping: Option<Override>) -> Asked {
    let permissions = &request.permissions;
    Asked {
        fuse: (!request.loras.is_empty() && request.fuse != Fuse::Exact)
            .then(|| request.fuse.name().to_owned()),
        component: request.component.clone(),
        lora_alpha: request.lora_alpha,
        partial: permissions.partial,
        trust_names: permissions.trust_names,
        ignore: (permissions.ignore.iter())
            .map(|p| p.as_str().to_owned())
            .collect(),
        mapping,
    }
}

/// Puts the rows that were stated by hand over the others; gives them back.
fn put_by_hand(
    plan: &Path,
    request: &OverlayRequest,
    mapping: &mut Mapping,
) -> Result<Option<Override>, Error> {
    let (path, by_hand) = match &request.mapping {
        Some(Stated::File(file)) => (file.as_path(), read_override(file)?),
        Some(Stated::Recorded(by_hand)) => (plan, by_hand.clone()),
        None => return Ok(None),
    };
    mapping
        .override_with(&by_hand)
        .map_err(|cause| Error::MappingFile {
            path: path.to_owned(),
            cause: Box::new(cause),
        })?;
    Ok(Some(by_hand))
}

fn read_override(file: &Path) -> Result<Override, Error> {
    let text = crate::fsx::read_bounded(file, LONGEST_MAPPING)?;
    Override::parse(&String::from_utf8_lossy(&text)).map_err(|cause| Error::MappingFile {
        path: file.to_owned(),
        cause: Box::new(cause),
    })
}

/// A LoRA over tensors by name; where it does not fit those, over the same tensors as a wrapper's export calls them.
fn open_lora(
    path: &Path,
    shapes: &BTreeMap<String, Vec<usize>>,
    wrapped: &BTreeMap<String, Vec<usize>>,
    options: &lora::Options,
) -> Result<Lora, Error> {
    let plain = Lora::open_with(path, shapes, options);
    let fits = plain.as_ref().is_ok_and(|l| l.targets().len() > 0);
    if fits || wrapped.is_empty() {
        return Ok(plain?);
    }
    Lora::open_with(path, wrapped, options)
        // Where neither fits, the reason is told in the names that the graph itself has.
        .or(plain)
        .map_err(Into::into)
}

/// That what is to be let go is in a checkpoint: of a LoRA, only whole parts can be, where several plans take parts of it.
fn check_ignored(request: &OverlayRequest) -> Result<(), Error> {
    let only_loras = request.checkpoint.is_empty() && !request.loras.is_empty();
    if !only_loras || request.shared || request.permissions.ignore.is_empty() {
        return Ok(());
    }
    Err(Error::Overlay {
        problems: vec![
            "`--ignore` lets tensors of a checkpoint go, and a LoRA is fused whole".into(),
        ],
        hints: vec!["leave `--ignore` out, or give a LoRA without those modules".into()],
    })
}

/// The ONNX file that gives all weights, where one is asked for.
fn whole_model(
    plan: &Path,
    manifest: &Manifest,
    request: &OverlayRequest,
) -> Result<Option<SourceModel>, Error> {
    let Some(path) = request.checkpoint.iter().find(|p| is_model(p)) else {
        return Ok(None);
    };
    let alone = request.checkpoint.len() == 1
        && request.loras.is_empty()
        && request.base_weights.is_empty()
        && request.mapping.is_none()
        && request.permissions.ignore.is_empty();
    if !alone {
        return Err(Error::Overlay {
            problems: vec![format!(
                "`{}` is an ONNX model: it gives every weight under its own name, and goes with no other file and no option of \
                 the mapping",
                path.display()
            )],
            hints: vec![
                "give it alone; or give the checkpoint that it was exported from instead".into(),
            ],
        });
    }
    let model = Model::open(path)?;
    if model.structure_digest() != manifest.model.structure {
        return Err(Error::OtherStructure {
            plan: plan.to_owned(),
            model: path.clone(),
        });
    }
    Ok(Some(SourceModel {
        model,
        path: path.clone(),
    }))
}

fn open_view(
    paths: &[PathBuf],
    mapping: &Mapping,
    component: Option<&str>,
) -> Result<Option<View>, Error> {
    if paths.is_empty() {
        return Ok(None);
    }
    let source = Arc::new(Source::open_all(paths)?);
    let view = open_in_layout(source, &mapping.wanted(), component);
    Ok(Some(view.map_err(weights::Error::from)?))
}

/// What of a checkpoint is for other parts of a pipeline, and what was made of it.
fn notes_of(view: &View) -> Vec<String> {
    let parts: Vec<String> = (view.components().iter())
        .map(|(component, n)| format!("{component} ({n})"))
        .collect();
    let left_out = (!parts.is_empty())
        .then(|| format!("tensors of other parts are left out: {}", parts.join(", ")));
    left_out
        .into_iter()
        .chain(view.notes().iter().cloned())
        .collect()
}

/// What the graph alone says; without rows where a base was accepted, whose rows are in the manifest.
fn outline(manifest: &Manifest, model: &Model, request: &OverlayRequest) -> Result<Mapping, Error> {
    if manifest.base.is_some() && request.base_weights.is_empty() {
        return Ok(mapping::frame(model));
    }
    Ok(mapping::infer(model, None)?)
}

/// What is known of the model's constants: the base that was accepted at the build, or what the graph alone says. Nothing that a
/// later file showed is part of it. `rows` are the manifest's.
fn known(manifest: &Manifest, rows: Vec<Row>, outline: Mapping) -> Mapping {
    let Some(base) = &manifest.base else {
        return outline;
    };
    Mapping {
        against_base: true,
        rows,
        inventory: Some(base.inventory.clone()),
        unsourced_integers: base.unsourced_integers.clone(),
        probed: base.probe.is_some(),
        ..outline
    }
}

/// What the base weights of a request prove; nothing where there are none, or where the plan was built with the same and a probe, which
/// proves more.
fn prove_again(
    manifest: &Manifest,
    model: &Model,
    base: Option<&View>,
    request: &OverlayRequest,
) -> Result<Option<Mapping>, Error> {
    let Some(base) = base else {
        return Ok(None);
    };
    let mapping = mapping::infer(model, Some(base))?;
    if is_probed_base(manifest, &mapping) {
        return Ok(None);
    }
    require_proof(&mapping, &request.base_weights, request.permissions.partial)?;
    Ok(Some(mapping))
}

/// Whether `mapping` was proven against the very base that the plan was built with, together with a probe.
fn is_probed_base(manifest: &Manifest, mapping: &Mapping) -> bool {
    let digests = |inventory: &Inventory| -> Vec<(String, Digest)> {
        let all = inventory.tensors.iter();
        all.map(|t| (t.name.clone(), t.digest)).collect()
    };
    match (&manifest.base, &mapping.inventory) {
        (Some(base), Some(inventory)) => {
            base.probe.is_some() && digests(&base.inventory) == digests(inventory)
        }
        _ => false,
    }
}

/// The base values must be those that the plan was built from. Gives their digests, in the order of the model's weights.
fn check_base(
    plan: &Path,
    manifest: &Manifest,
    source: &SourceModel,
    memo: Option<&Memo>,
    watch: &dyn Watch,
) -> Result<Vec<Digest>, Error> {
    let rows = past::weights(&source.model, memo, watch);
    let changed = manifest
        .weights
        .iter()
        .any(|w| rows.get(w.name.as_str()) != Some(&w.base_digest()));
    if changed {
        return Err(Error::Source {
            plan: plan.to_owned(),
            model: source.path.clone(),
            reason: "has other weights now than the plan was built from",
        });
    }
    let names = source.model.weights().iter().map(|w| w.name.as_str());
    Ok(names.map(|name| rows[name]).collect())
}

fn initial(
    manifest: &Manifest,
    mapping: &Mapping,
    assessment: Option<&Assessment>,
) -> HashMap<String, (usize, From, Digest)> {
    let rows: HashMap<&str, usize> = mapping
        .rows
        .iter()
        .enumerate()
        .map(|(i, r)| (r.name.as_str(), i))
        .collect();
    manifest
        .weights
        .iter()
        .map(|w| {
            let row = rows.get(w.name.as_str()).copied();
            let change = row.and_then(|r| Some(&assessment?.changes[r]));
            let (from, digest) = match change {
                Some(Change::Changed { digest }) => (From::Checkpoint, *digest),
                _ => (From::Base, w.base_digest()),
            };
            // A structural constant has no row; it never leaves its base.
            (w.name.clone(), (row.unwrap_or(usize::MAX), from, digest))
        })
        .collect()
}
