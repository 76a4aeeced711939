//! Proof by a second export of the same model with every tensor moved: a derivation holds if it gives the constants of both exports from
//! the weights of each, and a constant that stayed as it was is the graph's own. Nothing is assumed but that both exports are of one model.

use super::base;
use crate::mapping::derive::{apply_recipe, as_type, common, is_flat};
use crate::mapping::hints::{outline, pairs};
use crate::mapping::types::{
    Checkpoint, Error, Grade, Inventory, Literal, Mapping, ModelValues, Recipe, Row, held_bytes,
};
use crate::onnx::Model;
use crate::tensor::{Digest, Dtype, TensorView, to_f32};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Names that one message lists.
const SHOWN: usize = 5;
/// By this part of a tensor's largest value a fold that was computed another way may differ: four units in the last place of single
/// precision, and the tiny values that a converter lifts.
const ROUNDED: f64 = 5e-7;

/// One export of a model.
#[derive(Clone, Copy)]
pub struct Export<'a> {
    pub model: &'a Model,
    /// The checkpoint that it was exported from.
    pub weights: &'a dyn Checkpoint,
}

/// Keeps of `mapping`, which was proven from `base`, what `moved`, a second export with every tensor moved, proves as well.
///
/// # Errors
/// [`Error::Probe`] where the two are not exports of one model, or tensors were not moved; [`Error::NotHeld`], [`Error::Convert`].
pub fn probe(mapping: &Mapping, base: Export<'_>, moved: Export<'_>) -> Result<Mapping, Error> {
    let pairs = pairs(base.model, moved.model).map_err(|why| Error::Probe {
        problem: format!("it is not an export of the same model: {why}"),
    })?;
    let mut inventory = mapping.inventory.clone().unwrap_or_default();
    let complete = require_moved(mapping, &inventory, base.weights, moved.weights)?;
    let held = ModelValues::of(moved.model);
    let found = base::resolve(&outline(moved.model), &held, moved.weights)?;
    let found: HashMap<&str, &Row> = found.rows.iter().map(|r| (r.name.as_str(), r)).collect();
    let mut proven = mapping.clone();
    let listed: HashSet<&str> = mapping.rows.iter().map(|r| r.name.as_str()).collect();
    let folded_in = outline(base.model).rows.into_iter();
    let folded_in = folded_in.filter(|row| !listed.contains(row.name.as_str()));
    let mut disproved: BTreeSet<String> = BTreeSet::new();
    for mut row in std::mem::take(&mut proven.rows)
        .into_iter()
        .chain(folded_in)
    {
        let is_listed = listed.contains(row.name.as_str());
        let names = pairs.constants.get(&row.name);
        let Some(names) = names.filter(|_| row.grade != Grade::Given) else {
            proven.rows.extend(is_listed.then_some(row));
            continue;
        };
        let others: Vec<&Row> = (names.iter())
            .filter_map(|n| found.get(n.as_str()).copied())
            .collect();
        let asked = prove_row(&mut row, names, &others, [base, moved], complete)?;
        disproved.extend(asked.disproved);
        if is_listed {
            proven.rows.push(row);
        } else if asked.moves {
            // Engines fold it in, and it was taken for a part of the graph.
            let explained = row.explanations().next().is_some();
            row.baked = row.baked.filter(|_| explained);
            proven.rows.push(row);
        }
    }
    settle(&mut inventory, [base, moved], &pairs.attributes, &disproved)?;
    proven.inventory = Some(inventory);
    proven.probed = true;
    Ok(proven)
}

/// Every tensor of the base that the probe has must be another one there, and not flat. Whether the probe has them all.
fn require_moved(
    mapping: &Mapping,
    inventory: &Inventory,
    base: &dyn Checkpoint,
    moved: &dyn Checkpoint,
) -> Result<bool, Error> {
    let used: HashSet<&str> = (mapping.rows.iter().flat_map(Row::explanations))
        .flat_map(Recipe::sources)
        .collect();
    let floats = mapping.rows.iter().filter(|row| row.dtype.is_float());
    let least = floats.map(|row| epsilon(row.dtype)).fold(0f32, f32::max);
    let (mut missing, mut kept) = (Vec::new(), Vec::new());
    let mut complete = true;
    let floats = inventory.tensors.iter().filter(|t| t.dtype.is_float());
    for tensor in floats.filter(|t| t.shape.iter().product::<usize>() > 0) {
        let name = tensor.name.as_str();
        let (Some(old), Some(new)) = (base.get(name), moved.get(name)) else {
            complete = false;
            if used.contains(name) {
                missing.push(name);
            }
            continue;
        };
        let is_same = || {
            let digest = Digest::of(new.data);
            tensor.is_same(new.dtype, new.shape, digest, || Some(new.to_owned()))
        };
        let same = old.shape != new.shape || is_same() || !moves_by(least, old, new);
        let many = new.shape.iter().product::<usize>() > 1;
        if same || (many && is_flat(new.dtype, new.data)) {
            kept.push(name);
        }
    }
    complete &= brings_no_other(inventory, moved);
    let some = |names: &[&str]| {
        let shown: Vec<String> = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect();
        match names.len() {
            0..=SHOWN => shown.join(", "),
            all => format!("{} and {} more", shown.join(", "), all - SHOWN),
        }
    };
    if !missing.is_empty() {
        return Err(Error::Probe {
            problem: format!("its weights lack {}", some(&missing)),
        });
    }
    if !kept.is_empty() {
        return Err(Error::Probe {
            problem: format!(
                "every tensor has to move, each element by another amount and at least one by more than the model's types round away \
                 ({least:.0e} of itself, or of one where it is smaller); not moved: {}",
                some(&kept)
            ),
        });
    }
    Ok(complete)
}

/// The distance from one to the next number of a float type.
fn epsilon(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Bf16 => 0.007_812_5,
        Dtype::F16 => 0.000_976_562_5,
        _ => f32::EPSILON,
    }
}

/// Elements that are compared at once.
const STRETCH: usize = 1 << 12;

/// Whether some element of `old` is another one in `new` by so much that `1 + w` and `exp(w)` are others, too, after they were rounded;
/// `least` is the distance from one to the next number. Near nothing both are one, whatever the base says that the element was.
fn moves_by(least: f32, old: TensorView<'_>, new: TensorView<'_>) -> bool {
    let numbers = |dtype: Dtype, data: &[u8]| to_f32(dtype, data).unwrap_or_default();
    let stretches = |view: TensorView<'_>| STRETCH * view.dtype.bits() / 8;
    let old_parts = old.data.chunks(stretches(old).max(1));
    let mut parts = old_parts.zip(new.data.chunks(stretches(new).max(1)));
    parts.any(|(was, is)| {
        let (was, is) = (numbers(old.dtype, was), numbers(new.dtype, is));
        (was.iter().zip(&is))
            .any(|(x, y)| (y - x).abs() >= least * x.abs().max(1.0) && y.abs() >= least)
    })
}

/// Whether every tensor of the probe is one of the base's, or another name of one.
fn brings_no_other(inventory: &Inventory, moved: &dyn Checkpoint) -> bool {
    let of_base = inventory.tensors.iter();
    let known: HashSet<Digest> = of_base
        .filter_map(|t| Some(Digest::of(moved.get(&t.name)?.data)))
        .collect();
    let new = moved
        .names()
        .into_iter()
        .filter(|n| inventory.get(n).is_none());
    new.filter_map(|n| moved.get(n))
        .all(|v| !v.dtype.is_float() || known.contains(&Digest::of(v.data)))
}

/// What the probe says of a row.
#[derive(Default)]
struct Asked {
    /// It is another value in the probe.
    moves: bool,
    /// Tensors that give the probe's value by a derivation that does not give the base's: the base is not the checkpoint of the export
    /// there.
    disproved: Vec<String>,
}

/// Leaves of a row what the probe proves as well.
fn prove_row(
    row: &mut Row,
    names: &BTreeSet<String>,
    others: &[&Row],
    [base, moved]: [Export<'_>; 2],
    complete: bool,
) -> Result<Asked, Error> {
    let held = ModelValues::of(base.model);
    let own = held_bytes(row, &held)?.into_owned();
    let values = values_of(row, names, moved.model)?;
    if values.is_empty() {
        return Ok(Asked::default());
    }
    let mut candidates: Vec<Recipe> = row.explanations().cloned().collect();
    for recipe in others.iter().flat_map(|o| o.explanations()) {
        if !candidates.contains(recipe) {
            candidates.push(recipe.clone());
        }
    }
    let is_moved = |name: &str| {
        let bytes = |side: Export<'_>| side.weights.get(name).map(|v| v.data.to_vec());
        bytes(base) != bytes(moved)
    };
    let all_move = |recipe: &Recipe| recipe.sources().into_iter().all(is_moved);
    if values == [own.clone()] && !(row.dtype.is_float() && candidates.iter().all(all_move)) {
        // Integers are not moved, so what comes from them is not asked about.
        return Ok(Asked::default());
    }
    let (rounding, readers) = (row.rounding.take(), values.len());
    row.recipe = None;
    row.alternatives.clear();
    row.pinned = None;
    if values == [own.clone()] {
        // Nothing that moved is in it.
        row.literal = match row.literal {
            None if complete => Some(Literal::Unmoved),
            known => known,
        };
        row.probed = complete;
        regrade(row);
        return Ok(Asked::default());
    }
    row.literal = None;
    let mut disproved: Vec<String> = Vec::new();
    // What stayed as it was is the graph's own, if every tensor moved.
    let mut accounted: Vec<bool> = values.iter().map(|v| complete && *v == own).collect();
    for recipe in candidates {
        let gives = |side: Export<'_>, bytes: &[u8]| reproduces(row, &recipe, side.weights, bytes);
        let given: Vec<bool> = values.iter().map(|v| gives(moved, v)).collect();
        if !given.contains(&true) {
            continue;
        }
        if gives(base, &own) {
            accounted.iter_mut().zip(given).for_each(|(a, g)| *a |= g);
            let kept = rounding.clone();
            row.explain(recipe, kept);
        } else {
            disproved.extend(recipe.sources().into_iter().map(ToOwned::to_owned));
        }
    }
    let kept: Vec<String> = (row.explanations().flat_map(Recipe::sources))
        .map(ToOwned::to_owned)
        .collect();
    disproved.retain(|name| !kept.contains(name));
    if accounted.contains(&false) {
        // It stands for something that no derivation gives as well, so any change may be one of it.
        row.recipe = None;
        row.alternatives.clear();
    } else if readers > 1 {
        row.pinned = Some("another value, which the probe tells apart".into());
    }
    row.probed = row.explanations().next().is_some() && readers == 1;
    regrade(row);
    Ok(Asked {
        moves: true,
        disproved,
    })
}

/// The values that the readers of a row have in the probe.
fn values_of(row: &Row, names: &BTreeSet<String>, probe: &Model) -> Result<Vec<Vec<u8>>, Error> {
    let mut values: Vec<Vec<u8>> = Vec::new();
    for weight in names.iter().filter_map(|name| probe.weight(name)) {
        if (weight.dtype, &weight.shape) != (row.dtype, &row.shape) {
            return Err(Error::Probe {
                problem: format!("`{}` has another type or shape in it", weight.name),
            });
        }
        let bytes = probe.bytes(weight).into_owned();
        if !values.contains(&bytes) {
            values.push(bytes);
        }
    }
    Ok(values)
}

fn regrade(row: &mut Row) {
    row.grade = if row.explanations().next().is_some() {
        Grade::Proven
    } else if row.literal.is_some() {
        Grade::Constant
    } else {
        Grade::Unproven
    };
}

/// Whether a recipe gives the bytes of a row: exactly, in the narrower type of a checkpoint that stores less, or but for the rounding of a
/// fold that was computed another way.
fn reproduces(row: &Row, recipe: &Recipe, checkpoint: &dyn Checkpoint, bytes: &[u8]) -> bool {
    let Ok(computed) = apply_recipe(row, recipe, checkpoint) else {
        return false;
    };
    if *computed == *bytes {
        return true;
    }
    let stored = recipe.sources().iter().find_map(|s| checkpoint.get(s));
    let narrower = stored.and_then(|v| common(row.dtype, v.dtype));
    if let Some(to) = narrower.filter(|to| *to != row.dtype) {
        let narrow = |data| as_type(row.dtype, to, Cow::Borrowed(data)).ok();
        return narrow(&computed).is_some_and(|a| Some(a) == narrow(bytes));
    }
    let (Ok(a), Ok(b)) = (to_f32(row.dtype, &computed), to_f32(row.dtype, bytes)) else {
        return false;
    };
    let is_rounded = recipe.is_computed()
        || matches!(recipe, Recipe::Tensor { steps, .. } if steps.iter().any(|s| !s.moves()));
    let largest = b.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
    (is_rounded || row.dtype.bits() < 32)
        && (a.iter().zip(&b)).all(|(x, y)| f64::from((x - y).abs()) <= ROUNDED * largest)
}

/// Corrects what was recorded of the base: which equal tensors are one, which attributes hold a tensor, and which tensors the model has
/// another value of.
///
/// # Errors
/// [`Error::Probe`] where an attribute moves with the weights and is none of them.
fn settle(
    inventory: &mut Inventory,
    [base, moved]: [Export<'_>; 2],
    attributes: &[(String, Vec<f32>, Vec<f32>)],
    disproved: &BTreeSet<String>,
) -> Result<(), Error> {
    let mut equal: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
    for (i, tensor) in inventory.tensors.iter().enumerate() {
        equal.entry(tensor.digest).or_default().push(i);
    }
    let now = |name: &str| moved.weights.get(name).map(|v| Digest::of(v.data));
    for twins in equal.into_values().filter(|t| t.len() > 1) {
        let names = twins.iter().map(|&i| inventory.tensors[i].name.as_str());
        let digests: BTreeSet<Option<Digest>> = names.map(now).collect();
        // They were equal by chance: one says nothing about another.
        for i in twins.into_iter().filter(|_| digests.len() > 1) {
            inventory.tensors[i].flat = true;
        }
    }
    let numbers = |view: TensorView<'_>| to_f32(view.dtype, view.data).ok();
    let mut held: BTreeSet<&str> = BTreeSet::new();
    for tensor in &mut inventory.tensors {
        let of = |side: Export<'_>| side.weights.get(&tensor.name).and_then(numbers);
        let (old, new) = (of(base), of(moved));
        let found = (attributes.iter()).find(|(_, was, is)| was != is && new.as_ref() == Some(is));
        tensor.attribute = found.map(|(place, ..)| place.clone());
        tensor.contradicted |= disproved.contains(&tensor.name);
        if let Some((place, was, _)) = found {
            tensor.contradicted |= old.as_ref() != Some(was);
            held.insert(place);
        }
    }
    let other =
        (attributes.iter()).find(|(place, was, is)| was != is && !held.contains(place.as_str()));
    match other {
        None => Ok(()),
        Some((place, ..)) => Err(Error::Probe {
            problem: format!("{place} holds a function of the weights, which no refit can follow"),
        }),
    }
}
