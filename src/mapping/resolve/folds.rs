//! Recognising folds by value: a normalisation folded into a convolution, a weight of a direction and a magnitude.

use super::case::{Case, NormModule, Sources, channel_axis, norms};
use crate::mapping::derive::fold::{self, Affine, EPSILONS};
use crate::mapping::derive::{apply_recipe, batched, is_flat, presumed_relations};
use crate::mapping::types::{
    Error, Evidence, Factor, Grade, Part, Recipe, Rounding, Row, held_bytes,
};
use crate::tensor::{Digest, Dtype, from_f32, to_f32};
use std::collections::{HashMap, HashSet};

fn numbers(case: &Case<'_>, row: &Row, name: &str) -> Result<Option<Vec<f32>>, Error> {
    let Some(at) = case.find(name) else {
        return Ok(None);
    };
    let source = &case.sources[at];
    if !source.dtype.is_float() {
        return Ok(None);
    }
    to_f32(source.dtype, &source.data())
        .map(Some)
        .map_err(|cause| Error::convert(row, cause))
}

/// The numbers of a tensor, or as many of one value where a module has none.
fn or_flat(
    case: &Case<'_>,
    row: &Row,
    name: Option<&str>,
    value: f32,
    count: usize,
) -> Result<Option<Vec<f32>>, Error> {
    match name {
        Some(name) => numbers(case, row, name),
        None => Ok(Some(vec![value; count])),
    }
}

/// Tries folds on `pending`; gives back those that are none.
pub(super) fn resolve(
    case: &Case<'_>,
    rows: &mut [Row],
    pending: &[usize],
) -> Result<Vec<usize>, Error> {
    let norms = norms(case);
    // Sixteen bytes an element: what is held as bytes and as numbers, a kernel, and its product.
    let kernels: Vec<(usize, Option<Found>)> = batched(
        pending,
        |&r| 16 * rows[r].count(),
        |&r| Ok::<_, Error>((r, find_kernel(case, &rows[r], r, &norms)?)),
    )?;
    let mut left = Vec::new();
    for (r, found) in kernels {
        match found {
            Some(found) => found.settle(case, &mut rows[r], r),
            None => left.push(r),
        }
    }
    // After the kernels, which say what of a bias was folded.
    let biases: Vec<(usize, Option<Found>)> = batched(
        &left,
        |&r| 16 * rows[r].count(),
        |&r| Ok::<_, Error>((r, find_bias(case, rows, r)?)),
    )?;
    let mut left = Vec::new();
    for (r, found) in biases {
        match found {
            Some(found) => found.settle(case, &mut rows[r], r),
            None => left.push(r),
        }
    }
    one_kernel_each(rows);
    Ok(left)
}

/// Adds every fold of the base that reproduces a row; biases after kernels, whose folds they share.
pub(super) fn explain(case: &Case<'_>, rows: &mut [Row], open: &[usize]) -> Result<(), Error> {
    let norms = norms(case);
    let kernels = batched(
        open,
        |&r| 16 * rows[r].count(),
        |&r| Ok::<_, Error>((r, find_kernel(case, &rows[r], r, &norms)?)),
    )?;
    add(rows, kernels);
    let biases = batched(
        open,
        |&r| 16 * rows[r].count(),
        |&r| Ok::<_, Error>((r, find_bias(case, rows, r)?)),
    )?;
    add(rows, biases);
    let normed = weight_norms(case);
    let found = batched(
        open,
        |&r| 24 * rows[r].count(),
        |&r| Ok::<_, Error>((r, find_weight_norm(case, &rows[r], &normed)?)),
    )?;
    add(rows, found);
    Ok(())
}

/// A weight that the checkpoint holds as a direction and a magnitude, by index.
struct NormedWeight {
    direction: usize,
    magnitude: usize,
    axis: Option<usize>,
}

/// Every weight that torch keeps as a direction and a magnitude: `X_g` and `X_v` of `torch.nn.utils.weight_norm`, or `original0` and
/// `original1` of its parametrization.
fn weight_norms(case: &Case<'_>) -> Vec<NormedWeight> {
    let sibling = |name: &str| {
        let other = match name.strip_suffix(".original1") {
            Some(module) => format!("{module}.original0"),
            None => format!("{}_g", name.strip_suffix("_v")?),
        };
        case.find(&other)
    };
    let all = case.sources.iter().enumerate();
    all.filter_map(|(direction, source)| {
        let magnitude = sibling(source.name)?;
        let (v, g) = (source.shape, case.sources[magnitude].shape);
        let wide = |&a: &usize| g[a] != 1;
        let axis = match g.iter().product::<usize>() {
            // One norm of all: torch's `dim=None`.
            1 => None,
            // The magnitude has the direction's axes, all but one of them of extent one.
            norms if g.len() == v.len() => {
                let axis = (0..g.len()).find(wide)?;
                (g[axis] == norms && v[axis] == norms).then_some(axis)?;
                Some(axis)
            }
            _ => return None,
        };
        Some(NormedWeight {
            direction,
            magnitude,
            axis,
        })
    })
    .collect()
}

/// The weights that a row is by their directions and magnitudes.
fn find_weight_norm(
    case: &Case<'_>,
    row: &Row,
    normed: &[NormedWeight],
) -> Result<Option<Found>, Error> {
    let fitting: Vec<&NormedWeight> = (normed.iter())
        .filter(|n| case.sources[n.direction].count() == row.count())
        .collect();
    if fitting.is_empty() || !folds_in(row.dtype) || is_flat_row(case, row)? {
        return Ok(None);
    }
    let bytes = held_bytes(row, case.held)?;
    let held = to_f32(row.dtype, &bytes).map_err(|cause| Error::convert(row, cause))?;
    let sources = Sources(case);
    let mut recipes = Vec::new();
    let mut best: Option<Rounding> = None;
    for weight in fitting {
        let shape = case.sources[weight.direction].shape;
        for relation in presumed_relations(row, shape) {
            let recipe = Recipe::WeightNorm {
                direction: case.name(weight.direction),
                magnitude: case.name(weight.magnitude),
                axis: weight.axis,
                steps: relation.steps(shape, row),
            };
            let Ok(computed) = apply_recipe(row, &recipe, &sources) else {
                continue;
            };
            let values = to_f32(row.dtype, &computed).unwrap_or_default();
            let distance = match row.dtype {
                Dtype::F32 => fold::kernel_distance(&values, &held),
                // A half type has too few places for a tolerance.
                _ => (values == held).then_some(0),
            };
            if let Some(max_ulp) = distance {
                best.get_or_insert(Rounding {
                    max_ulp,
                    recomputed: Digest::of(&computed),
                });
                recipes.push(recipe);
            }
        }
    }
    Ok(best.map(|rounding| Found { recipes, rounding }))
}

fn add(rows: &mut [Row], found: Vec<(usize, Option<Found>)>) {
    for (r, found) in found {
        let Some(found) = found else { continue };
        rows[r].evidence.push(Evidence::FoldEqual {
            max_ulp: found.rounding.max_ulp,
        });
        for recipe in found.recipes {
            rows[r].explain(recipe, Some(found.rounding.clone()));
        }
    }
}

/// A module normalises one convolution. Where two kernels claim the same, one of them has another with equal values that the
/// checkpoint lacks, and nobody can say which.
fn one_kernel_each(rows: &mut [Row]) {
    let mut kernels: HashMap<String, HashSet<String>> = HashMap::new();
    for row in rows.iter() {
        if let Some(Recipe::BatchNorm { kernel, norm, .. }) = &row.recipe {
            let all = kernels.entry(norm.mean.clone()).or_default();
            all.insert(kernel.clone());
        }
    }
    for row in rows {
        let shared = match &row.recipe {
            Some(Recipe::BatchNorm { norm, .. }) => kernels[&norm.mean].len() > 1,
            _ => false,
        };
        if shared {
            row.grade = Grade::Ambiguous;
            row.alternatives.extend(row.recipe.take());
        }
    }
}

/// Folds that reproduce a weight: more than one when modules are equal.
struct Found {
    recipes: Vec<Recipe>,
    rounding: Rounding,
}

impl Found {
    fn settle(self, case: &Case<'_>, row: &mut Row, r: usize) {
        row.evidence.push(Evidence::FoldEqual {
            max_ulp: self.rounding.max_ulp,
        });
        row.rounding = Some(self.rounding);
        // A kernel of zeros is both the fold and the tensor itself.
        let plain = (case.equal.of_row[r].iter())
            .map(|same| case.recipe(row, same.source, &same.relations[0]));
        let mut recipes = self
            .recipes
            .into_iter()
            .chain(plain)
            .collect::<Vec<_>>()
            .into_iter();
        let (first, rest) = (recipes.next(), recipes.collect::<Vec<_>>());
        if rest.is_empty() {
            row.grade = Grade::Proven;
            row.recipe = first;
        } else {
            row.grade = Grade::Ambiguous;
            row.alternatives = first.into_iter().chain(rest).collect();
        }
    }
}

/// A γ of zero makes every kernel zero: a flat kernel is no proof of a fold.
fn is_flat_row(case: &Case<'_>, row: &Row) -> Result<bool, Error> {
    Ok(is_flat(row.dtype, &held_bytes(row, case.held)?))
}

fn folds_in(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
}

/// `value` as `dtype` holds it.
fn rounded(dtype: Dtype, value: f32) -> f32 {
    let back = |bytes: Vec<u8>| to_f32(dtype, &bytes).ok()?.first().copied();
    from_f32(dtype, &[value])
        .ok()
        .and_then(back)
        .unwrap_or(value)
}

/// Whether a fold that was computed in single precision and then converted gives `held`, bit for bit: a half type has too few places
/// for a tolerance.
fn is_rounded(dtype: Dtype, computed: &[f32], held: &[f32]) -> bool {
    let back = |bytes: Vec<u8>| to_f32(dtype, &bytes).ok();
    (from_f32(dtype, computed).ok().and_then(back)).is_some_and(|values| values == held)
}

fn rounding(dtype: Dtype, values: &[f32], max_ulp: u32) -> Option<Rounding> {
    let recomputed = Digest::of(&from_f32(dtype, values).ok()?);
    Some(Rounding {
        max_ulp,
        recomputed,
    })
}

fn find_kernel(
    case: &Case<'_>,
    row: &Row,
    r: usize,
    norms: &[NormModule],
) -> Result<Option<Found>, Error> {
    let Some(axis) = channel_axis(row).filter(|_| folds_in(row.dtype) && row.shape.len() >= 2)
    else {
        return Ok(None);
    };
    if axis >= row.shape.len() {
        return Ok(None);
    }
    let fitting: Vec<&NormModule> = (norms.iter())
        .filter(|n| n.channels == row.shape[axis])
        .collect();
    if fitting.is_empty() || is_flat_row(case, row)? {
        return Ok(None);
    }
    let mut kernels: Vec<usize> = (case.named[r].iter())
        .map(|n| n.source)
        .filter(|&s| case.sources[s].shape == row.shape)
        .collect();
    // No name leads to a kernel of this shape, so any may be it that is no other row's by name and
    // value.
    if kernels.is_empty() {
        kernels = (0..case.sources.len())
            .filter(|s| case.sources[*s].shape == row.shape && !case.owned.contains(s))
            .collect();
    }
    let bytes = held_bytes(row, case.held)?;
    let held = to_f32(row.dtype, &bytes).map_err(|cause| Error::convert(row, cause))?;
    let mut recipes = Vec::new();
    let mut best: Option<Rounding> = None;
    for kernel in kernels {
        let name = case.sources[kernel].name;
        let Some(values) = numbers(case, row, name)? else {
            continue;
        };
        for module in &fitting {
            let norm = &module.norm;
            let (Some(scale), Some(variance)) = (
                or_flat(case, row, norm.scale.as_deref(), 1.0, module.channels)?,
                numbers(case, row, &norm.variance)?,
            ) else {
                continue;
            };
            let matched = EPSILONS.into_iter().find_map(|epsilon| {
                let affine = Affine {
                    scale: &scale,
                    variance: &variance,
                    epsilon,
                };
                if !fold::first_agrees(&values, &held, affine, &|v| rounded(row.dtype, v)) {
                    return None;
                }
                let computed = fold::kernel(&values, &row.shape, axis, affine)?;
                let distance = match row.dtype {
                    Dtype::F32 => fold::kernel_distance(&computed, &held)?,
                    half => is_rounded(half, &computed, &held).then_some(0)?,
                };
                Some((epsilon, rounding(row.dtype, &computed, distance)?))
            });
            if let Some((epsilon, rounding)) = matched {
                best.get_or_insert(rounding);
                recipes.push(Recipe::BatchNorm {
                    part: Part::Kernel,
                    kernel: name.to_owned(),
                    bias: None,
                    norm: norm.clone(),
                    epsilon: Factor::new(epsilon),
                    axis,
                    dtype: row.dtype,
                });
            }
        }
    }
    Ok(best.map(|rounding| Found { recipes, rounding }))
}

fn is_folded_kernel(recipe: &Recipe) -> bool {
    matches!(
        recipe,
        Recipe::BatchNorm {
            part: Part::Kernel,
            ..
        }
    )
}

fn find_bias(case: &Case<'_>, rows: &[Row], r: usize) -> Result<Option<Found>, Error> {
    let row = &rows[r];
    let partner = row.partner.as_deref();
    let Some(kernel_row) = rows.iter().find(|k| Some(k.name.as_str()) == partner) else {
        return Ok(None);
    };
    // Most partners are no folded kernels, and a kernel's partner is its bias: none of those need be read.
    let is_folded =
        (kernel_row.recipe.iter().chain(&kernel_row.alternatives)).any(is_folded_kernel);
    if !folds_in(row.dtype) || !is_folded {
        return Ok(None);
    }
    let bytes = held_bytes(row, case.held)?;
    let held = to_f32(row.dtype, &bytes).map_err(|cause| Error::convert(row, cause))?;
    let mut recipes = Vec::new();
    let mut best: Option<Rounding> = None;
    for recipe in kernel_row.recipe.iter().chain(&kernel_row.alternatives) {
        let Recipe::BatchNorm {
            part: Part::Kernel,
            kernel,
            norm,
            epsilon,
            axis,
            dtype,
            ..
        } = recipe
        else {
            continue;
        };
        let of = |name: &str| numbers(case, row, name);
        let channels = row.count();
        let (Some(scale), Some(variance), Some(shift), Some(mean)) = (
            or_flat(case, row, norm.scale.as_deref(), 1.0, channels)?,
            of(&norm.variance)?,
            or_flat(case, row, norm.shift.as_deref(), 0.0, channels)?,
            of(&norm.mean)?,
        ) else {
            continue;
        };
        let own_name = kernel.strip_suffix("weight").map(|m| format!("{m}bias"));
        let own = own_name.as_deref().map(of).transpose()?.flatten();
        // The own bias first: where it is zero, both fit.
        let candidates = [own_name.filter(|_| own.is_some()), None];
        for candidate in candidates {
            let affine = Affine {
                scale: &scale,
                variance: &variance,
                epsilon: epsilon.get(),
            };
            let own = candidate.as_ref().and(own.as_deref());
            let Some(computed) = fold::bias(own, &shift, &mean, affine) else {
                continue;
            };
            let distance = match row.dtype {
                Dtype::F32 => fold::bias_distance(&computed, &held, &shift),
                half => is_rounded(half, &computed, &held).then_some(0),
            };
            let found = distance.and_then(|d| rounding(row.dtype, &computed, d));
            if let Some(rounding) = found {
                best.get_or_insert(rounding);
                recipes.push(Recipe::BatchNorm {
                    part: Part::Bias,
                    kernel: kernel.clone(),
                    bias: candidate,
                    norm: norm.clone(),
                    epsilon: *epsilon,
                    axis: *axis,
                    dtype: *dtype,
                });
                break;
            }
        }
    }
    Ok(best.map(|rounding| Found { recipes, rounding }))
}
