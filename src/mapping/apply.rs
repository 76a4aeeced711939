//! Computing the bytes of an ONNX weight from its sources, and a source's bytes from the weight.

use super::derive::fold::{self, Affine};
use super::types::{Checkpoint, Error, Part, Recipe, Row, Step};
use crate::tensor::{Dtype, Tensor, TensorView, cast, element_count, from_f32, permute, to_f32};
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
        Recipe::BatchNorm {
            part,
            kernel,
            bias,
            norm,
            epsilon,
            axis,
            dtype,
        } => {
            let numbers = |name: &str| -> Result<Vec<f32>, Error> {
                let view = get(name)?;
                to_f32(view.dtype, view.data).map_err(|cause| Error::convert(row, cause))
            };
            let affine = Affine {
                scale: &numbers(&norm.scale)?,
                variance: &numbers(&norm.variance)?,
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
                    let (shift, mean) = (numbers(&norm.shift)?, numbers(&norm.mean)?);
                    fold::bias(own.as_deref(), &shift, &mean, affine)
                }
            };
            let values = values.ok_or_else(|| Error::length(row, *dtype, &row.shape))?;
            let data = from_f32(*dtype, &values).map_err(|cause| Error::convert(row, cause))?;
            (*dtype, row.shape.clone(), Cow::Owned(data))
        }
    };
    let expected = element_count(&row.shape).and_then(|n| row.dtype.bytes_for(n));
    if dtype != row.dtype || shape != row.shape || Some(data.len()) != expected {
        return Err(Error::length(row, dtype, &shape));
    }
    Ok(data)
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
            Step::Scale { factor } => {
                let values = to_f32(dtype, &data).map_err(|cause| Error::convert(row, cause))?;
                let scaled: Vec<f32> = values.iter().map(|v| v * factor.get()).collect();
                let bytes = from_f32(dtype, &scaled).map_err(|cause| Error::convert(row, cause))?;
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
        Some(recipe @ Recipe::BatchNorm { .. }) => {
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
            Step::Scale { .. } => {
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
