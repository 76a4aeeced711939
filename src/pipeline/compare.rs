//! Two things that users hold (plans, models, checkpoints, LoRAs) become a comparison.

use super::build::key;
use super::error::Error;
use super::facts::{digests, shapes_of_engine};
use super::look::{Thing, ThingKind, kind_of, look};
use super::measure::{self, Moved, Pair, Placed};
use super::refit::{Overlay, OverlayRequest, source_model};
use crate::diff::{
    self, Decision, Diff, Graph, Kind, Maker, Reason, Side, TensorChange, Verdict, WeightFact,
    WeightState, weight_facts,
};
use crate::engine::{Identity, Options};
use crate::mapping::{self, Change, ModelValues};
use crate::maps::QuickMap;
use crate::onnx::{Model, Weight};
use crate::plan::{self, Manifest};
use crate::shapes::{Overrides, Resolved, ShapeSpec};
use crate::tensor::{Digest, TensorView};
use crate::watch::{Event, Watch};
use crate::weights::{Source, normalise};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// What is compared with what.
#[derive(Debug, Default)]
pub struct CompareRequest {
    /// What there is: a plan, a model or a checkpoint.
    pub old: PathBuf,
    /// What is wanted: a plan, a model, or checkpoints.
    pub new: Vec<PathBuf>,
    /// LoRAs and options of the mapping, where the old side is a plan or a model.
    pub overlay: OverlayRequest,
    /// Shapes that are wanted.
    pub shapes: Option<(ShapeSpec, Overrides)>,
    /// How many changed tensors to measure, those that a sample says moved most; all of them unless given.
    pub measure: Option<usize>,
}

/// A changed tensor, measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The weight (or tensor).
    pub name: String,
    /// Name by which its block is told: the source tensor's, where one is known.
    pub source: String,
    pub shape: Vec<usize>,
    /// How far it moved; nothing is known where the old bytes are not at hand.
    pub moved: Moved,
}

/// What a comparison found.
#[derive(Debug)]
pub struct Compared {
    pub diff: Diff,
    /// Tensors with other bytes, largest relative change first.
    pub changed: Vec<Measured>,
    /// Blocks with the number of their tensors that were compared and that changed.
    pub blocks: BTreeMap<String, (usize, usize)>,
    /// Rules that were used to bring names in line.
    pub rules: Vec<&'static str>,
    pub left: Left,
}

/// What of a checkpoint is let go, and what it does not give. What else of it reaches nothing is among the reasons.
#[derive(Debug, Clone, Default)]
pub struct Left {
    /// Tensors and weights that are let go.
    pub ignored: Vec<String>,
    /// Weights whose tensor is not given.
    pub missing: Vec<String>,
}

impl Left {
    fn of(decision: &Decision) -> Left {
        Left {
            ignored: decision.ignored.clone(),
            missing: (decision.missing.iter())
                .map(|m| m.weight.clone())
                .collect(),
        }
    }
}

/// Compares.
///
/// # Errors
/// What cannot be read, or cannot be compared at all; differences are no errors.
pub fn compare(request: &CompareRequest, watch: &dyn Watch) -> Result<Compared, Error> {
    let (old, new) = look_at_both(request)?;
    let stripped = matches!(&old, Thing::Plan(m) if m.stripped);
    let unproven = match &old {
        // Shapes alone say nothing of weights.
        Thing::Plan(m) if m.unproven && !request.new.is_empty() => Some(Reason::Unproven {
            refittable: m.weights.iter().any(|w| w.fixed.is_none()),
        }),
        _ => None,
    };
    let mut compared = compare_with(request, old, new, watch)?;
    if let Some(reason) = unproven.filter(|r| !compared.diff.reasons.contains(r)) {
        compared.diff = compared.diff.and(Diff::of(vec![reason], 0, 0));
    }
    if stripped && !compared.diff.reasons.contains(&Reason::Stripped) {
        let reasons = Diff::of(vec![Reason::Stripped], 0, 0);
        compared.diff = compared.diff.and(reasons);
    }
    Ok(compared)
}

/// Refuses what was asked for and has no place in the comparison: left aside without a word, it would be taken for compared.
fn refuse_what_is_not_compared(
    request: &CompareRequest,
    old: &Thing,
    new: Option<&Thing>,
) -> Result<(), Error> {
    let refused = |problem: String, hint: &str| {
        Err(Error::Overlay {
            problems: vec![problem],
            hints: vec![hint.into()],
        })
    };
    if let [first, more @ ..] = &request.new[..]
        && !more.is_empty()
        && !matches!(new, Some(Thing::Weights))
    {
        return refused(
            format!(
                "`{}` is compared alone, and {} more stood beside it",
                first.display(),
                more.len()
            ),
            "only the files of one checkpoint are given together; compare the others one by one",
        );
    }
    let with_plan = match (old, new) {
        (Thing::Plan(_), None | Some(Thing::Weights)) => true,
        // Of the plan's own structure a model is a source of weights.
        (Thing::Plan(m), Some(Thing::Model(model))) => {
            model.structure_digest() == m.model.structure
        }
        _ => false,
    };
    if !request.overlay.loras.is_empty() && !with_plan {
        return refused(
            "LoRAs are compared with the weights of a plan, alone or with a checkpoint".into(),
            "build a plan of the model, then `trtmut diff PLAN --lora FILE`; `--backend cpu` needs no GPU",
        );
    }
    let no_shapes = matches!(
        (old, new),
        (Thing::Weights, _) | (_, Some(Thing::Plan(_))) | (Thing::Model(_), Some(Thing::Weights))
    );
    // Where no mapping is made, there is nothing that these could be said of.
    let mapped = matches!((old, new), (Thing::Model(_), Some(Thing::Weights)));
    if let Some(option) = request
        .overlay
        .first_of_a_mapping(mapped)
        .filter(|_| !with_plan)
    {
        return refused(
            format!(
                "{option} is said of a plan and the weights that it gets, and none of that is compared"
            ),
            if mapped {
                "build a plan of the model and compare that; or leave the option out"
            } else {
                "leave it out"
            },
        );
    }
    if request.shapes.is_some() && no_shapes {
        return refused(
            "shapes belong to a plan or a model: plans bring their own, and a checkpoint has none"
                .into(),
            "leave --shapes and --dim out, or compare a plan or a model with the model that they are for",
        );
    }
    Ok(())
}

/// What the two sides are. Errors of the older one come first.
fn look_at_both(request: &CompareRequest) -> Result<(Thing, Option<Thing>), Error> {
    let memo = request.overlay.memo.as_ref();
    let old = || look(&request.old, memo);
    let new = || request.new.first().map(|path| look(path, memo)).transpose();
    let models = [Some(&request.old), request.new.first()]
        .into_iter()
        .all(|path| path.is_some_and(|path| kind_of(path) == ThingKind::Model));
    // Models only: whoever opens a plan may wait for the lock of its folder, and a thread of the pool that holds one while it waits
    // for its own work could be handed the other plan.
    let (old, new) = if models {
        rayon::join(old, new)
    } else {
        let old = old()?;
        (Ok(old), new())
    };
    Ok((old?, new?))
}

fn compare_with(
    request: &CompareRequest,
    old: Thing,
    new: Option<Thing>,
    watch: &dyn Watch,
) -> Result<Compared, Error> {
    let wants_weights = !request.overlay.loras.is_empty();
    refuse_what_is_not_compared(request, &old, new.as_ref())?;
    match (old, new) {
        (Thing::Plan(mut m), None) if wants_weights => {
            plan_with(request, &mut m, Vec::new(), watch)
        }
        (Thing::Plan(mut m), Some(Thing::Weights)) => {
            plan_with(request, &mut m, request.new.clone(), watch)
        }
        (Thing::Plan(m), None) => {
            let side = plan_side(&request.old, &m);
            let new = Side {
                shapes: wanted_of_engine(request, &m, &m.inputs)?,
                ..Side::default()
            };
            // Only the shapes are asked about: the weights are their own.
            let new = Side {
                weights: side.weights.clone(),
                ..new
            };
            Ok(plain(diff::compare(&side, &new)))
        }
        (Thing::Plan(mut m), Some(Thing::Model(model))) => {
            // Of the same structure it is a source of weights, and decided as one.
            if model.structure_digest() == m.model.structure {
                return plan_with_model(request, &mut m, &model, watch);
            }
            let old = plan_side(&request.old, &m);
            let mut new = model_side(&model, request, watch)?;
            new.shapes = wanted_of_engine(request, &m, model.inputs())?;
            Ok(plain(diff::compare(&old, &new)))
        }
        (Thing::Plan(a), Some(Thing::Plan(b))) => {
            let old = plan_side(&request.old, &a);
            let mut new = plan_side(&request.new[0], &b);
            let options = key::spelled(&b.backend, &b.options);
            new.maker = Some(maker(&b.backend, &options));
            new.options = Some(options);
            new.shapes = Some(b.shapes.clone());
            Ok(plain(diff::compare(&old, &new)))
        }
        (Thing::Model(a), Some(Thing::Model(b))) => {
            // Of two graphs of many nodes, freeing all of this is a tenth of the command, which ends after it.
            let (a, b): (&Model, &Model) = (Box::leak(a), Box::leak(b));
            // One after the other, each on all cores and with its own progress; what follows has neither.
            let known = [digests(a, watch), digests(b, watch)];
            let (old, new) = rayon::join(
                || side_of(a, &known[0], Some(b.structure_digest()), request),
                || side_of(b, &known[1], Some(a.structure_digest()), request),
            );
            let (old, new) = (old?, new?);
            let found = plain(diff::compare(&old, &new));
            std::mem::forget((old, new, known));
            Ok(found)
        }
        (Thing::Model(model), Some(Thing::Weights)) => model_with(&model, request, watch),
        (Thing::Weights, Some(Thing::Weights)) => checkpoints(request, watch),
        (Thing::Weights | Thing::Model(_), _) => Err(Error::Overlay {
            problems: vec![format!(
                "`{}` cannot be compared with {}",
                request.old.display(),
                request.new.first().map_or("nothing".into(), |p| format!("`{}`", p.display()))
            )],
            hints: vec!["a plan compares with a plan, a model, checkpoints, LoRAs or shapes; a model with a model or a \
                         checkpoint; a checkpoint with a checkpoint; the older one comes first"
                .into()],
        }),
    }
}

fn plain(diff: Diff) -> Compared {
    Compared {
        diff,
        changed: Vec::new(),
        blocks: BTreeMap::new(),
        rules: Vec::new(),
        left: Left::default(),
    }
}

/// Who compiled, as far as the engine depends on it: what would be in its cache key.
fn maker(identity: &Identity, options: &Options) -> Maker {
    let device = key::hardware(identity, options);
    let device = device.into_iter().map(|(n, v)| (n.into(), v.into()));
    Maker {
        backend: identity.backend.clone(),
        library: identity.library.clone(),
        device: device.collect(),
    }
}

/// What a plan holds: from its model where that is still there, else from its manifest alone.
fn plan_side(plan: &Path, manifest: &Manifest) -> Side {
    let model = source_model(plan, manifest).ok().map(|s| s.model);
    let rows: BTreeMap<&str, &plan::WeightRow> = manifest
        .weights
        .iter()
        .map(|w| (w.name.as_str(), w))
        .collect();
    let mut weights = match &model {
        Some(model) => weight_facts(model, |name| rows.get(name).map(|r| r.digest)),
        None => manifest.weights.iter().map(fact).collect(),
    };
    for fact in &mut weights {
        let Some(row) = rows.get(fact.name.as_str()) else {
            continue;
        };
        // What the engine says of a weight counts where the graph would let it change.
        if let (Kind::Weight, Some(why)) = (&fact.kind, &row.fixed) {
            fact.kind = Kind::Fixed { why: why.clone() };
        }
        let recipe = row.mapping.as_ref().and_then(|m| m.recipe.as_ref());
        if let Some(recipe) = recipe.filter(|r| r.is_computed()) {
            fact.derived_from = recipe
                .sources()
                .into_iter()
                .map(ToOwned::to_owned)
                .collect();
        }
    }
    let options = key::spelled(&manifest.backend, &manifest.options);
    Side {
        graph: Some(match &model {
            Some(model) => Graph::of(model),
            None => Graph {
                structure: manifest.model.structure,
                summary: None,
            },
        }),
        weights,
        shapes: Some(manifest.shapes.clone()),
        maker: Some(maker(&manifest.backend, &options)),
        options: Some(options),
    }
}

fn fact(row: &plan::WeightRow) -> WeightFact {
    WeightFact {
        name: row.name.clone(),
        dtype: row.dtype,
        shape: row.shape.clone(),
        digest: row.digest,
        kind: match &row.fixed {
            // Models have it as unused too, and it counts on neither side.
            _ if row.unread => Kind::Unused,
            None => Kind::Weight,
            Some(why) => Kind::Fixed { why: why.clone() },
        },
        uses: None,
        derived_from: Vec::new(),
    }
}

fn model_side(model: &Model, request: &CompareRequest, watch: &dyn Watch) -> Result<Side, Error> {
    side_of(model, &digests(model, watch), None, request)
}

/// A model whose weights have the digests in `known`, beside one of the structure `other`.
fn side_of(
    model: &Model,
    known: &QuickMap<&str, Digest>,
    other: Option<Digest>,
    request: &CompareRequest,
) -> Result<Side, Error> {
    Ok(Side {
        graph: Some(match other {
            Some(other) => Graph::beside(model, other),
            None => Graph::of(model),
        }),
        weights: weight_facts(model, |name| known.get(name).copied()),
        shapes: wanted_shapes(request, model.inputs())?,
        options: None,
        maker: None,
    })
}

fn wanted_shapes(
    request: &CompareRequest,
    inputs: &[crate::tensor::TensorDecl],
) -> Result<Option<Resolved>, Error> {
    match &request.shapes {
        Some((spec, overrides)) => Ok(Some(spec.resolve(inputs, overrides)?)),
        None => Ok(None),
    }
}

/// The shapes that are wanted of the engine that `manifest` describes.
fn wanted_of_engine(
    request: &CompareRequest,
    manifest: &Manifest,
    inputs: &[crate::tensor::TensorDecl],
) -> Result<Option<Resolved>, Error> {
    let wanted = wanted_shapes(request, inputs)?;
    Ok(wanted
        .map(|shapes| shapes_of_engine(&manifest.backend.backend, &manifest.options, &shapes).0))
}

/// A plan against checkpoints and LoRAs. Takes the rows of the mapping out of the manifest.
fn plan_with(
    request: &CompareRequest,
    manifest: &mut Manifest,
    checkpoint: Vec<PathBuf>,
    watch: &dyn Watch,
) -> Result<Compared, Error> {
    let asked = OverlayRequest {
        checkpoint,
        ..request.overlay.clone()
    };
    let overlay = Overlay::look(&request.old, manifest, &asked, watch)?;
    let manifest = &*manifest;
    let decision = overlay.decide(manifest, &asked.permissions);
    let names: Vec<(String, Option<String>)> = (decision.changes.iter())
        .map(|w| {
            let first = w
                .recipe
                .as_ref()
                .and_then(|r| r.sources().first().map(|s| (*s).to_owned()));
            (w.name.clone(), first)
        })
        .collect();
    let left = Left::of(&decision);
    let mut diff = decision.diff;
    if let Some(wanted) = wanted_of_engine(request, manifest, &manifest.inputs)? {
        // Shapes alone: the decision above has all else.
        let side = |shapes| Side {
            shapes: Some(shapes),
            ..Side::default()
        };
        diff = diff.and(diff::compare(&side(manifest.shapes.clone()), &side(wanted)));
    }
    let changed = measure_all(request, manifest, &overlay, &names, watch);
    let mapped: HashMap<&str, &mapping::Row> = (overlay.mapping().rows.iter())
        .map(|row| (row.name.as_str(), row))
        .collect();
    let all = manifest.weights.iter().filter_map(|w| {
        let recipe = mapped.get(w.name.as_str())?.recipe.as_ref()?;
        Some((
            w.name.clone(),
            recipe.sources().first().map(|s| (*s).to_owned()),
        ))
    });
    let blocks = blocks(all, &names);
    Ok(Compared {
        diff,
        changed: sorted(changed),
        blocks,
        rules: Vec::new(),
        left,
    })
}

/// How far each of `names` (a weight, and the tensor that it comes from) moves, as many as are asked for.
fn measure_all(
    request: &CompareRequest,
    manifest: &Manifest,
    overlay: &Overlay,
    names: &[(String, Option<String>)],
    watch: &dyn Watch,
) -> Vec<Measured> {
    let rows: BTreeMap<&str, &plan::WeightRow> = manifest
        .weights
        .iter()
        .map(|w| (w.name.as_str(), w))
        .collect();
    // The overlay of a whole model has no base values.
    let base = if overlay.whole {
        source_model(&request.old, manifest).ok()
    } else {
        None
    };
    watch.event(Event::Begin {
        step: "measuring",
        total: None,
    });
    let base_model = base.as_ref().unwrap_or(overlay.model());
    let pairs: Vec<OfPlan<'_>> = (names.iter())
        .map(|(name, _)| OfPlan {
            row: rows[name.as_str()],
            // Only the base values are at hand; where the engine holds others, the distance from those is not known.
            base: (base.is_some() || !overlay.whole).then_some(&base_model.model),
            overlay,
        })
        .collect();
    let changed = (names.iter().zip(&pairs))
        .zip(measure::measure(&pairs, request.measure))
        .map(|(((name, source), pair), moved)| Measured {
            name: name.clone(),
            source: source.clone().unwrap_or_else(|| name.clone()),
            shape: pair.row.shape.clone(),
            moved,
        })
        .collect();
    watch.event(Event::End);
    changed
}

/// A weight of a plan, as the model has it and as it shall be.
struct OfPlan<'a> {
    row: &'a plan::WeightRow,
    base: Option<&'a Model>,
    overlay: &'a Overlay,
}

impl OfPlan<'_> {
    fn old(&self) -> Option<(&Model, &Weight)> {
        let model = self.base.filter(|_| self.row.base.is_none())?;
        Some((model, model.weight(&self.row.name)?))
    }

    /// Both versions whole, for `use_them`.
    fn both<T>(&self, use_them: impl FnOnce(TensorView<'_>, TensorView<'_>) -> T) -> Option<T> {
        let (model, weight) = self.old()?;
        let old = model.read(weight);
        // What cannot be computed was refused before.
        let new = self.overlay.bytes(&self.row.name).ok()??;
        let (dtype, shape) = (self.row.dtype, &self.row.shape[..]);
        let view = |data| TensorView { dtype, shape, data };
        Some(use_them(view(&old), view(&new)))
    }

    fn by_places(&self) -> Option<f64> {
        let (model, weight) = self.old()?;
        let (map, range) = model.place_of(weight)?;
        let old = Placed {
            map,
            range,
            dtype: self.row.dtype,
            transposed: false,
        };
        measure::by_places(&self.row.shape, &old, &self.overlay.placed(&self.row.name)?)
    }
}

impl Pair for OfPlan<'_> {
    fn count(&self) -> usize {
        self.row.shape.iter().product()
    }

    fn estimate(&self) -> Option<f64> {
        self.by_places()
            .or_else(|| self.both(measure::by_values).flatten())
    }

    fn measure(&self) -> Option<TensorChange> {
        self.both(measure::whole).flatten()
    }
}

/// A tensor of two checkpoints.
struct OfSources<'a> {
    old: (&'a Source, &'a str),
    new: (&'a Source, &'a str),
}

impl Pair for OfSources<'_> {
    fn count(&self) -> usize {
        self.old
            .0
            .shape(self.old.1)
            .unwrap_or_default()
            .iter()
            .product()
    }

    fn estimate(&self) -> Option<f64> {
        fn place<'s>((source, name): (&'s Source, &str)) -> Option<Placed<'s>> {
            let stretch = source.stretch(name)?;
            Some(Placed {
                map: source.files()[stretch.file].map(),
                range: stretch.range,
                dtype: source.describe(name)?.0,
                transposed: false,
            })
        }
        let shape = self.old.0.shape(self.old.1)?;
        let by_places = || measure::by_places(shape, &place(self.old)?, &place(self.new)?);
        by_places().or_else(|| self.both(measure::by_values).flatten())
    }

    fn measure(&self) -> Option<TensorChange> {
        self.both(measure::whole).flatten()
    }
}

impl OfSources<'_> {
    fn both<T>(&self, use_them: impl FnOnce(TensorView<'_>, TensorView<'_>) -> T) -> Option<T> {
        let (old, new) = (self.old.0.read(self.old.1)?, self.new.0.read(self.new.1)?);
        (old.shape == new.shape).then(|| use_them(old.view(), new.view()))
    }
}

/// A plan against a model of the same structure: what a refit with its weights does, and what else differs.
fn plan_with_model(
    request: &CompareRequest,
    manifest: &mut Manifest,
    model: &Model,
    watch: &dyn Watch,
) -> Result<Compared, Error> {
    let mut compared = plan_with(request, manifest, request.new.clone(), watch)?;
    let graph = |graph| Side {
        graph: Some(graph),
        ..Side::default()
    };
    // Names and documentation may differ under one structure; without the old file that cannot be
    // said.
    if let Ok(source) = source_model(&request.old, manifest) {
        let structures = [&source.model, model].map(Model::structure_digest);
        let old = graph(Graph::beside(&source.model, structures[1]));
        let other = diff::compare(&old, &graph(Graph::beside(model, structures[0])));
        compared.diff = compared.diff.and(other);
    }
    Ok(compared)
}

/// A model against a checkpoint, without a plan.
fn model_with(
    model: &Model,
    request: &CompareRequest,
    watch: &dyn Watch,
) -> Result<Compared, Error> {
    let new = Source::open_all(&request.new)?;
    let inferred = mapping::infer(model, None)?;
    let held = ModelValues::of(model);
    watch.event(Event::Begin {
        step: "mapping the checkpoint",
        total: None,
    });
    let judged = mapping::judge(&inferred, &held, &new, &request.overlay.permissions)?;
    watch.event(Event::End);
    let known = digests(model, watch);
    let weights = judged
        .mapping
        .rows
        .iter()
        .zip(&judged.assessment.changes)
        .map(|(row, change)| {
            let holds = known[row.name.as_str()];
            WeightState {
                name: row.name.clone(),
                holds,
                wanted: match change {
                    Change::Changed { digest } => *digest,
                    _ => holds,
                },
                fixed: row.baked.clone(),
                recipe: row.explanations().next().cloned(),
            }
        });
    let decision = Decision::of(diff::Request {
        weights: weights.collect(),
        stripped: false,
        judged: Some(&judged),
        permissions: &request.overlay.permissions,
        tensor: &|name| {
            let (dtype, shape) = new.describe(name)?;
            Some((dtype, shape.to_vec()))
        },
    });
    let left = Left::of(&decision);
    Ok(Compared {
        left,
        ..plain(decision.diff)
    })
}

/// A checkpoint against another.
fn checkpoints(request: &CompareRequest, watch: &dyn Watch) -> Result<Compared, Error> {
    let old = Source::open(&request.old)?;
    let new = Source::open_all(&request.new)?;
    let targets: std::collections::BTreeSet<&str> = old.names().collect();
    let named = normalise(new.names(), &targets).map_err(|e| Error::Overlay {
        hints: crate::fault::Explain::hints(&e),
        problems: vec![e.to_string()],
    })?;
    let (a, b) = (old.digests(watch), new.digests(watch));
    let facts =
        |source: &Source, digests: &BTreeMap<String, Digest>, rename: &dyn Fn(&str) -> String| {
            let all = source.names().filter_map(|name| {
                let (dtype, shape) = source.describe(name)?;
                Some(WeightFact {
                    name: rename(name),
                    dtype,
                    shape: shape.to_vec(),
                    digest: *digests.get(name)?,
                    kind: Kind::Weight,
                    uses: None,
                    derived_from: Vec::new(),
                })
            });
            all.collect::<Vec<_>>()
        };
    let renamed = |n: &str| named.map.get(n).cloned().unwrap_or_else(|| n.to_owned());
    let new_names: BTreeMap<String, &str> = new.names().map(|n| (renamed(n), n)).collect();
    let diff = diff::compare_weights(
        &facts(&old, &a, &ToOwned::to_owned),
        &facts(&new, &b, &renamed),
    );
    let changed: Vec<(String, Option<String>)> = diff
        .reasons
        .iter()
        .filter(|r| r.verdict() == Verdict::NeedsRefit)
        .filter_map(|r| Some((r.subject()?.to_owned(), None)))
        .collect();
    let pairs: Vec<OfSources<'_>> = (changed.iter())
        .filter_map(|(name, _)| {
            Some(OfSources {
                old: (&old, name),
                new: (&new, new_names.get(name)?),
            })
        })
        .collect();
    let measured = (pairs.iter().zip(measure::measure(&pairs, request.measure)))
        .map(|(pair, moved)| Measured {
            name: pair.old.1.to_owned(),
            source: pair.old.1.to_owned(),
            shape: old.shape(pair.old.1).unwrap_or_default().to_vec(),
            moved,
        })
        .collect();
    let blocks = blocks(old.names().map(|n| (n.to_owned(), None)), &changed);
    Ok(Compared {
        diff,
        changed: sorted(measured),
        blocks,
        rules: named.rules,
        left: Left::default(),
    })
}

fn blocks(
    all: impl Iterator<Item = (String, Option<String>)>,
    changed: &[(String, Option<String>)],
) -> BTreeMap<String, (usize, usize)> {
    let block = |name: &str, source: &Option<String>| {
        diff::block(source.as_deref().unwrap_or(name)).to_owned()
    };
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (name, source) in all {
        counts.entry(block(&name, &source)).or_default().0 += 1;
    }
    for (name, source) in changed {
        let entry = counts.entry(block(name, source)).or_default();
        entry.1 += 1;
        // What changed may go by another tensor than in the list of all; a block never has fewer
        // than changed.
        entry.0 = entry.0.max(entry.1);
    }
    counts
}

fn sorted(mut changed: Vec<Measured>) -> Vec<Measured> {
    // Those that were measured come first; a sample may be off.
    let size = |m: &Measured| match (&m.moved.change, m.moved.estimate) {
        (Some(change), _) => (1, change.relative),
        (None, estimate) => (0, estimate.unwrap_or(-1.0)),
    };
    changed.sort_by(|a, b| {
        let ((first, larger), (second, other)) = (size(b), size(a));
        (first.cmp(&second))
            .then(larger.total_cmp(&other))
            .then_with(|| a.name.cmp(&b.name))
    });
    changed
}
