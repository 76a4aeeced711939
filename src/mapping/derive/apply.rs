//! Computing the bytes of an ONNX weight from its sources, and a source's bytes from the weight.

use super::elementwise::step as step_value;
use super::fold::{self, Affine};
use crate::mapping::types::{Checkpoint, Error, Loaded, Part, Recipe, Row, Run, Step};
use crate::tensor::{
    Dtype, Tensor, TensorView, cast, element_count, from_f32, has_infinity, overflow, permute,
    to_f32,
};
use std::borrow::Cow;

/// The bytes of `row` from the tensors of `sources`: one tensor at a time, borrowed where they are used as they are.
///
/// # Errors
/// [`Error::NoRecipe`], [`Error::SourceMissing`], [`Error::Length`] when the result does not have the row's dtype and shape,
/// [`Error::Convert`].
pub fn apply<'a>(row: &Row, sources: &'a dyn Checkpoint) -> Result<Cow<'a, [u8]>, Error> {
    let recipe = row.recipe.as_ref().ok_or_else(|| Error::NoRecipe {
        weight: row.name.clone(),
        grade: row.grade,
    })?;
    apply_recipe(row, recipe, sources)
}

/// As [`apply`], by one of the row's [`Row::alternatives`].
///
/// # Errors
/// As [`apply`].
pub fn apply_recipe<'a>(
    row: &Row,
    recipe: &Recipe,
    sources: &'a dyn Checkpoint,
) -> Result<Cow<'a, [u8]>, Error> {
    let get = |name: &str| {
        sources.get(name).ok_or_else(|| Error::SourceMissing {
            weight: row.name.clone(),
            source_name: name.to_owned(),
        })
    };
    let (dtype, shape, data) = match recipe {
        Recipe::Tensor { source, steps } => {
            let view = get(source)?;
            follow(row, view, steps)?
        }
        Recipe::Rows {
            width,
            runs,
            transposed,
        } => stacked(row, *width, runs, *transposed, &get)?,
        Recipe::BatchNorm { .. } => folded(row, recipe, &get)?,
        Recipe::WeightNorm { .. } => normalised(row, recipe, &get)?,
        Recipe::Sum { terms } => summed(row, terms, sources)?,
    };
    let expected = element_count(&row.shape).and_then(|n| row.dtype.bytes_for(n));
    let names = recipe.sources();
    let first = names.first().copied().unwrap_or_default();
    let is_moved = dtype == row.dtype
        && matches!(recipe, Recipe::Tensor { steps, .. } if steps.iter().all(Step::moves));
    let data = to_type(row, first, dtype, data)?;
    // A sum, a fold or a factor can leave the type's range as a cast can; what is only moved cannot.
    if !is_moved && matches!(data, Cow::Owned(_)) && has_infinity(row.dtype, &data) {
        let infinite = |view: TensorView<'_>| has_infinity(view.dtype, view.data);
        if !names.iter().any(|n| sources.get(n).is_some_and(infinite)) {
            let view = get(first)?;
            let values = to_f32(view.dtype, view.data).unwrap_or_default();
            let largest = values.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
            return Err(overflowed(row, first, largest));
        }
    }
    if shape != row.shape || Some(data.len()) != expected {
        return Err(Error::length(row, dtype, &shape));
    }
    Ok(data)
}

/// As [`apply_recipe`], keeping nothing of what is read for it.
///
/// # Errors
/// As [`apply`].
pub(in crate::mapping) fn apply_once(
    row: &Row,
    recipe: &Recipe,
    sources: &dyn Checkpoint,
) -> Result<Vec<u8>, Error> {
    let names = recipe.sources();
    let loaded = Loaded::of(sources, &names);
    let computed = match apply_recipe(row, recipe, &loaded)? {
        Cow::Owned(bytes) => Some(bytes),
        Cow::Borrowed(bytes) => {
            // Borrowed as a whole, it can be handed out without another copy.
            let is_all = |view: TensorView<'_>| std::ptr::eq(view.data, bytes);
            let whole = loaded.get(names[0]).is_some_and(is_all);
            (!whole).then(|| bytes.to_vec())
        }
    };
    Ok(computed.unwrap_or_else(|| loaded.into_bytes(names[0])))
}

/// `data` in the row's type, rounded once. A cast is no step of a derivation: it depends on the file that is read.
fn to_type<'a>(
    row: &Row,
    source: &str,
    from: Dtype,
    data: Cow<'a, [u8]>,
) -> Result<Cow<'a, [u8]>, Error> {
    if from == row.dtype {
        return Ok(data);
    }
    let bytes = cast(from, row.dtype, &data).map_err(|cause| Error::convert(row, cause))?;
    let lost = overflow(from, row.dtype, &data, &bytes);
    if let Some(largest) = lost.map_err(|cause| Error::convert(row, cause))? {
        return Err(overflowed(row, source, largest));
    }
    Ok(Cow::Owned(bytes))
}

/// The weight would become infinite; `largest` is the largest magnitude of its source.
fn overflowed(row: &Row, source: &str, largest: f64) -> Error {
    Error::Overflow {
        weight: row.name.clone(),
        source_name: source.to_owned(),
        dtype: row.dtype,
        largest,
    }
}

type Get<'g, 'a> = dyn Fn(&str) -> Result<TensorView<'a>, Error> + 'g;

/// Rows of several tensors, one below the other, in the type of the first.
fn stacked<'a>(
    row: &Row,
    width: usize,
    runs: &[Run],
    transposed: bool,
    get: &Get<'_, 'a>,
) -> Result<Stage<'a>, Error> {
    let mut data = Vec::new();
    let mut dtype = row.dtype;
    for (i, run) in runs.iter().enumerate() {
        let view = get(&run.source)?;
        if i == 0 {
            dtype = view.dtype;
        }
        let own;
        let bytes = if view.dtype == dtype {
            view.data
        } else {
            own = cast(view.dtype, dtype, view.data).map_err(|cause| Error::convert(row, cause))?;
            &own
        };
        let stride = width.saturating_mul(dtype.bits()) / 8;
        let rows = bytes.len().checked_div(stride).unwrap_or_default();
        // Another number of rows would move every slice: the architecture differs.
        // A recipe may be written by hand, with any numbers.
        let end = run.start.checked_add(run.len).filter(|end| *end <= rows);
        let fits = end.filter(|_| rows * stride == bytes.len());
        match fits.and_then(|end| bytes.get(run.start * stride..end * stride)) {
            Some(taken) => data.extend_from_slice(taken),
            None => return Err(Error::length(row, view.dtype, view.shape)),
        }
    }
    if transposed {
        let count = data.len() / (width.saturating_mul(dtype.bits()) / 8).max(1);
        let view = TensorView {
            dtype,
            shape: &[count, width],
            data: &data,
        };
        data = permute(view, &[1, 0]).map_err(|cause| Error::convert(row, cause))?;
    }
    // Of another size it gets no shape that could pass for the row's.
    let fits = dtype.bytes_for(row.count()) == Some(data.len());
    let shape = if fits { row.shape.clone() } else { Vec::new() };
    Ok((dtype, shape, Cow::Owned(data)))
}

/// A normalisation folded into a convolution, computed in f32.
fn folded<'a>(row: &Row, recipe: &Recipe, get: &Get<'_, 'a>) -> Result<Stage<'a>, Error> {
    let Recipe::BatchNorm {
        part,
        kernel,
        bias,
        norm,
        epsilon,
        axis,
        dtype,
    } = recipe
    else {
        return Err(Error::not_invertible(row, recipe));
    };
    let numbers = |name: &str| -> Result<Vec<f32>, Error> {
        let view = get(name)?;
        to_f32(view.dtype, view.data).map_err(|cause| Error::convert(row, cause))
    };
    let variance = numbers(&norm.variance)?;
    let or = |name: &Option<String>, value: f32| match name {
        Some(name) => numbers(name),
        None => Ok(vec![value; variance.len()]),
    };
    let scale = or(&norm.scale, 1.0)?;
    let affine = Affine {
        scale: &scale,
        variance: &variance,
        epsilon: epsilon.get(),
    };
    let values = match part {
        Part::Kernel => {
            let view = get(kernel)?;
            if view.shape != row.shape {
                return Err(Error::length(row, view.dtype, view.shape));
            }
            fold::kernel(&numbers(kernel)?, &row.shape, *axis, affine)
        }
        Part::Bias => {
            let own = bias.as_deref().map(&numbers).transpose()?;
            let (shift, mean) = (or(&norm.shift, 0.0)?, numbers(&norm.mean)?);
            fold::bias(own.as_deref(), &shift, &mean, affine)
        }
    };
    let values = values.ok_or_else(|| Error::length(row, *dtype, &row.shape))?;
    let data = from_f32(*dtype, &values).map_err(|cause| Error::convert(row, cause))?;
    Ok((*dtype, row.shape.clone(), Cow::Owned(data)))
}

/// A direction of unit norm times its magnitude, computed in f64 and rounded once.
fn normalised<'a>(row: &Row, recipe: &Recipe, get: &Get<'_, 'a>) -> Result<Stage<'a>, Error> {
    let Recipe::WeightNorm {
        direction,
        magnitude,
        axis,
        steps,
    } = recipe
    else {
        return Err(Error::not_invertible(row, recipe));
    };
    let (v, g) = (get(direction)?, get(magnitude)?);
    let numbers = |view: TensorView<'_>| {
        to_f32(view.dtype, view.data).map_err(|cause| Error::convert(row, cause))
    };
    let values = fold::weight_norm(&numbers(v)?, &numbers(g)?, v.shape, *axis)
        .ok_or_else(|| Error::length(row, g.dtype, g.shape))?;
    let data = from_f32(Dtype::F32, &values).map_err(|cause| Error::convert(row, cause))?;
    let view = TensorView {
        dtype: Dtype::F32,
        shape: v.shape,
        data: &data,
    };
    let (dtype, shape, data) = follow(row, view, steps)?;
    Ok((dtype, shape, Cow::Owned(data.into_owned())))
}

/// A sum in the row's own type, as the exporter folds it.
fn summed<'a>(row: &Row, terms: &[Recipe], sources: &dyn Checkpoint) -> Result<Stage<'a>, Error> {
    let convert = |cause| Error::convert(row, cause);
    let mut sum: Option<Vec<f32>> = None;
    for term in terms {
        let bytes = apply_recipe(row, term, sources)?;
        let values = to_f32(row.dtype, &bytes).map_err(convert)?;
        let total = match sum {
            None => values,
            Some(so_far) => {
                let added: Vec<f32> = so_far.iter().zip(&values).map(|(a, b)| a + b).collect();
                // Every addition is rounded to the type that it is made in.
                let bytes = from_f32(row.dtype, &added).map_err(convert)?;
                to_f32(row.dtype, &bytes).map_err(convert)?
            }
        };
        sum = Some(total);
    }
    let data = from_f32(row.dtype, &sum.unwrap_or_default()).map_err(convert)?;
    Ok((row.dtype, row.shape.clone(), Cow::Owned(data)))
}

type Stage<'a> = (Dtype, Vec<usize>, Cow<'a, [u8]>);

fn follow<'a>(row: &Row, view: TensorView<'a>, steps: &[Step]) -> Result<Stage<'a>, Error> {
    let mut dtype = view.dtype;
    let mut shape = view.shape.to_vec();
    let mut data = Cow::Borrowed(view.data);
    for step in steps {
        match step {
            Step::Permute { order } => {
                let now = TensorView {
                    dtype,
                    shape: &shape,
                    data: &data,
                };
                let turned = permute(now, order).map_err(|cause| Error::convert(row, cause))?;
                shape = order.iter().map(|&a| shape[a]).collect();
                data = Cow::Owned(turned);
            }
            Step::Reshape { shape: to } => {
                if element_count(to) != element_count(&shape) {
                    return Err(Error::length(row, dtype, &shape));
                }
                shape.clone_from(to);
            }
            Step::Cast { dtype: to } => {
                if dtype != *to {
                    data = Cow::Owned(
                        cast(dtype, *to, &data).map_err(|cause| Error::convert(row, cause))?,
                    );
                    dtype = *to;
                }
            }
            Step::Scale { .. } | Step::Offset { .. } | Step::Exp => {
                let mut values =
                    to_f32(dtype, &data).map_err(|cause| Error::convert(row, cause))?;
                for value in &mut values {
                    *value = step_value(step, *value).unwrap_or(*value);
                }
                // Rounded to the row's own type at the end, once.
                dtype = Dtype::F32;
                let bytes = from_f32(dtype, &values).map_err(|cause| Error::convert(row, cause))?;
                data = Cow::Owned(bytes);
            }
        }
    }
    Ok((dtype, shape, data))
}

/// The source tensor that gives `held` (the bytes of `row`) under the row's steps, of the torch shape `shape`: what a LoRA
/// is fused onto when there is no base file. The element type stays the ONNX file's: a cast is not undone.
///
/// # Errors
/// [`Error::NotInvertible`] for folds and scales, [`Error::NoRecipe`], [`Error::Length`].
pub fn inverse(row: &Row, held: &[u8], shape: &[usize]) -> Result<Tensor, Error> {
    let steps = match &row.recipe {
        Some(Recipe::Tensor { steps, .. }) => steps,
        Some(recipe) => {
            return Err(Error::not_invertible(row, recipe));
        }
        None => {
            return Err(Error::NoRecipe {
                weight: row.name.clone(),
                grade: row.grade,
            });
        }
    };
    // Walk the shapes forward, so that each step knows what it started from.
    let mut before = Vec::with_capacity(steps.len());
    let mut now = shape.to_vec();
    for step in steps {
        before.push(now.clone());
        match step {
            Step::Permute { order } => {
                if order.len() != now.len() {
                    return Err(Error::length(row, row.dtype, shape));
                }
                now = order.iter().map(|&a| now[a]).collect();
            }
            Step::Reshape { shape } => now.clone_from(shape),
            Step::Cast { .. } => {}
            Step::Scale { .. } | Step::Offset { .. } | Step::Exp => {
                let recipe = row.recipe.as_ref().expect("matched above");
                return Err(Error::not_invertible(row, recipe));
            }
        }
    }
    let count = element_count(shape);
    let fits = now == row.shape
        && count == element_count(&row.shape)
        && count.and_then(|n| row.dtype.bytes_for(n)) == Some(held.len());
    if !fits {
        return Err(Error::length(row, row.dtype, shape));
    }
    let mut data = held.to_vec();
    for (step, from) in steps.iter().zip(&before).rev() {
        // Only a permutation moves elements: shapes are undone by the one that was asked for, and casts are not.
        if let Step::Permute { order } = step {
            let turned: Vec<usize> = order.iter().map(|&a| from[a]).collect();
            let mut back = vec![0; order.len()];
            for (i, &a) in order.iter().enumerate() {
                back[a] = i;
            }
            let view = TensorView {
                dtype: row.dtype,
                shape: &turned,
                data: &data,
            };
            data = permute(view, &back).map_err(|cause| Error::convert(row, cause))?;
        }
    }
    Ok(Tensor {
        dtype: row.dtype,
        shape: shape.to_vec(),
        data,
    })
}
