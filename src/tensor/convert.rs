//! Changing a tensor's element type or the order of its axes.
//!
//! Every conversion is computed exactly or in f32 (f64 for f64 data) and rounded once, to nearest even.

use super::{Dtype, TensorView, element_count};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// A conversion that does not exist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConvertError {
    /// No exact or rounded conversion is defined between these types.
    #[error("cannot convert {from} to {to}")]
    Unsupported { from: Dtype, to: Dtype },
    /// A finite value would become infinite.
    #[error("it holds values up to {largest}, too large for {to}")]
    Overflow {
        to: Dtype,
        /// The largest magnitude in it.
        largest: String,
    },
    /// Data length and shape disagree.
    #[error("{dtype} data of shape {shape:?} must be {expected:?} bytes long, not {actual}")]
    Length {
        dtype: Dtype,
        shape: Vec<usize>,
        /// Length that the shape asks for; `None` when it overflows.
        expected: Option<usize>,
        /// Length that was given.
        actual: usize,
    },
    /// Not a permutation of the axes.
    #[error("{0:?} is not an order of {1} axes")]
    Permutation(Vec<usize>, usize),
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks::<N>().0.iter().copied()
}

/// `data` as f32. Exact for 8-bit floats, f16, bf16, f32, bool and integers up to 24 bits; f64 and wider integers are rounded.
///
/// # Errors
/// [`ConvertError::Unsupported`] for 4-bit floats, packed and complex types.
pub fn to_f32(dtype: Dtype, data: &[u8]) -> Result<Vec<f32>, ConvertError> {
    Ok(match dtype {
        Dtype::F32 => words(data).map(f32::from_le_bytes).collect(),
        Dtype::F16 => widened(data, f16::from_le_bytes),
        Dtype::Bf16 => widened(data, bf16::from_le_bytes),
        Dtype::F64 => words(data).map(|b| f64::from_le_bytes(b) as f32).collect(),
        Dtype::I64 => words(data).map(|b| i64::from_le_bytes(b) as f32).collect(),
        Dtype::I32 => words(data).map(|b| i32::from_le_bytes(b) as f32).collect(),
        Dtype::I16 => words(data)
            .map(|b| f32::from(i16::from_le_bytes(b)))
            .collect(),
        Dtype::I8 => data.iter().map(|&b| f32::from(b.cast_signed())).collect(),
        Dtype::U64 => words(data).map(|b| u64::from_le_bytes(b) as f32).collect(),
        Dtype::U32 => words(data).map(|b| u32::from_le_bytes(b) as f32).collect(),
        Dtype::U16 => words(data)
            .map(|b| f32::from(u16::from_le_bytes(b)))
            .collect(),
        Dtype::F8E4M3Fn => data
            .iter()
            .map(|&b| f8(b, 3, 7, b & 0x7f == 0x7f))
            .collect(),
        Dtype::F8E4M3Fnuz => data.iter().map(|&b| f8(b, 3, 8, b == 0x80)).collect(),
        // The upper half of an f16.
        Dtype::F8E5M2 => data
            .iter()
            .map(|&b| f16::from_le_bytes([0, b]).to_f32())
            .collect(),
        Dtype::F8E5M2Fnuz => data.iter().map(|&b| f8(b, 2, 16, b == 0x80)).collect(),
        Dtype::F8E8M0 => data
            .iter()
            .map(|&b| {
                if b == 0xff {
                    f32::NAN
                } else {
                    2f32.powi(i32::from(b) - 127)
                }
            })
            .collect(),
        Dtype::U8 | Dtype::Bool => data.iter().map(|&b| f32::from(b)).collect(),
        _ => {
            return Err(ConvertError::Unsupported {
                from: dtype,
                to: Dtype::F32,
            });
        }
    })
}

/// An 8-bit float without infinities: `mantissa` bits, exponents less `bias`
/// (<https://onnx.ai/onnx/technical/float8.html>).
fn f8(byte: u8, mantissa: u32, bias: i32, nan: bool) -> f32 {
    if nan {
        return f32::NAN;
    }
    let exponent = i32::from((byte & 0x7f) >> mantissa);
    let fraction = f32::from(byte & ((1 << mantissa) - 1)) / f32::from(1u8 << mantissa);
    let magnitude = if exponent == 0 {
        fraction * 2f32.powi(1 - bias)
    } else {
        (1.0 + fraction) * 2f32.powi(exponent - bias)
    };
    if byte & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// f32 values as bytes of `dtype`, each rounded once to nearest even.
///
/// # Errors
/// [`ConvertError::Unsupported`] unless `dtype` is f64, f32, f16 or bf16.
pub fn from_f32(dtype: Dtype, values: &[f32]) -> Result<Vec<u8>, ConvertError> {
    Ok(match dtype {
        Dtype::F32 => each(values, f32::to_le_bytes),
        Dtype::F64 => each(values, |v| f64::from(v).to_le_bytes()),
        Dtype::F16 => halves(values, f16::to_le_bytes),
        Dtype::Bf16 => halves(values, bf16::to_le_bytes),
        to => {
            return Err(ConvertError::Unsupported {
                from: Dtype::F32,
                to,
            });
        }
    })
}

/// Elements that are worth a task.
const TASK: usize = 1 << 14;

fn each<const N: usize>(values: &[f32], f: impl Fn(f32) -> [u8; N] + Send + Sync) -> Vec<u8> {
    let mut out = vec![[0; N]; values.len()];
    out.par_chunks_mut(TASK)
        .zip(values.par_chunks(TASK))
        .for_each(|(out, values)| {
            for (o, v) in out.iter_mut().zip(values) {
                *o = f(*v);
            }
        });
    out.into_flattened()
}

/// By slices, for which the processor has instructions.
fn halves<T: Copy + Default>(values: &[f32], bytes: impl Fn(T) -> [u8; 2] + Send + Sync) -> Vec<u8>
where
    [T]: HalfFloatSliceExt,
{
    let mut out = vec![[0; 2]; values.len()];
    out.par_chunks_mut(TASK)
        .zip(values.par_chunks(TASK))
        .for_each(|(out, values)| {
            let mut rounded = vec![T::default(); values.len()];
            rounded.convert_from_f32_slice(values);
            for (o, v) in out.iter_mut().zip(rounded) {
                *o = bytes(v);
            }
        });
    out.into_flattened()
}

/// 2-byte floats as f32, by slices.
fn widened<T: Copy + Default>(data: &[u8], of: impl Fn([u8; 2]) -> T + Send + Sync) -> Vec<f32>
where
    [T]: HalfFloatSliceExt,
{
    let data = data.as_chunks::<2>().0;
    let mut out = vec![0.0; data.len()];
    out.par_chunks_mut(TASK)
        .zip(data.par_chunks(TASK))
        .for_each(|(out, data)| {
            let narrow: Vec<T> = data.iter().map(|b| of(*b)).collect();
            narrow.convert_to_f32_slice(out);
        });
    out
}

/// `data` of type `from` as bytes of type `to`: among f64, f32, f16 and bf16, rounded once. Equal types copy.
///
/// # Errors
/// [`ConvertError::Unsupported`] for any other pair.
pub fn cast(from: Dtype, to: Dtype, data: &[u8]) -> Result<Vec<u8>, ConvertError> {
    if from == to {
        return Ok(data.to_vec());
    }
    if from == Dtype::F64 && matches!(to, Dtype::F16 | Dtype::Bf16) {
        // By way of the nearest f32, which may lie halfway between two halves, some would be rounded the wrong way.
        let odd: Vec<f32> = words(data)
            .map(|b| round_to_odd(f64::from_le_bytes(b)))
            .collect();
        return from_f32(to, &odd);
    }
    if !matches!(from, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
        return Err(ConvertError::Unsupported { from, to });
    }
    from_f32(to, &to_f32(from, data)?).map_err(|_| ConvertError::Unsupported { from, to })
}

/// f64 values as bytes of `to` (f64, f32, f16 or bf16) in `out`, each rounded once, as [`cast`] rounds them.
///
/// # Errors
/// [`ConvertError::Unsupported`] for any other type.
///
/// # Panics
/// Where `out` is not as long as that many values.
pub fn round_into(to: Dtype, values: &[f64], out: &mut [u8]) -> Result<(), ConvertError> {
    assert_eq!(Some(out.len()), to.bytes_for(values.len()), "length");
    match to {
        Dtype::F64 => {
            for (o, v) in out.as_chunks_mut::<8>().0.iter_mut().zip(values) {
                *o = v.to_le_bytes();
            }
        }
        Dtype::F32 => {
            for (o, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *o = (*v as f32).to_le_bytes();
            }
        }
        Dtype::F16 => halves_into(values, out, f16::to_le_bytes),
        Dtype::Bf16 => halves_into(values, out, bf16::to_le_bytes),
        to => {
            let from = Dtype::F64;
            return Err(ConvertError::Unsupported { from, to });
        }
    }
    Ok(())
}

fn halves_into<T: Copy + Default>(values: &[f64], out: &mut [u8], bytes: impl Fn(T) -> [u8; 2])
where
    [T]: HalfFloatSliceExt,
{
    /// Values that are rounded at a time.
    const SLICE: usize = 512;
    let (mut odd, mut rounded) = ([0f32; SLICE], [T::default(); SLICE]);
    let out = out.as_chunks_mut::<2>().0;
    for (values, out) in values.chunks(SLICE).zip(out.chunks_mut(SLICE)) {
        for (o, v) in odd.iter_mut().zip(values) {
            *o = round_to_odd(*v);
        }
        let rounded = &mut rounded[..values.len()];
        rounded.convert_from_f32_slice(&odd[..values.len()]);
        for (o, v) in out.iter_mut().zip(rounded) {
            *o = bytes(*v);
        }
    }
}

/// As [`cast`], where finite values stay finite. The largest finite f32, which exporters write for "as low as can be" into
/// attention masks, becomes the largest finite value of `to`, as it does where torch exports in that type.
///
/// # Errors
/// As [`cast`]; [`ConvertError::Overflow`].
pub fn narrow(from: Dtype, to: Dtype, data: &[u8]) -> Result<Vec<u8>, ConvertError> {
    const SIGN: u16 = 0x8000;
    let mut bytes = cast(from, to, data)?;
    let (infinite, largest_finite) = match to {
        Dtype::F16 => (f16::INFINITY.to_bits(), f16::MAX.to_bits()),
        Dtype::Bf16 => (bf16::INFINITY.to_bits(), bf16::MAX.to_bits()),
        _ => return Ok(bytes),
    };
    let is_infinite = |b: &[u8; 2]| u16::from_le_bytes(*b) & !SIGN == infinite;
    let new = bytes.as_chunks_mut::<2>().0;
    if !may_overflow(from, to) || !new.iter().any(is_infinite) {
        return Ok(bytes);
    }
    let old = to_f64(from, data)?;
    let lowest = |v: f64| v.abs() == f64::from(f32::MAX);
    let too_large = |(n, o): (&[u8; 2], &f64)| is_infinite(n) && o.is_finite() && !lowest(*o);
    if new.iter().zip(&old).any(too_large) {
        // The value of masks is none of those that do not fit, and would always be named as the largest.
        let known = old.iter().filter(|v| v.is_finite() && !lowest(**v));
        let largest = known.fold(0f64, |m, v| m.max(v.abs()));
        return Err(ConvertError::Overflow {
            to,
            largest: format!("{largest:e}"),
        });
    }
    for (new, _) in new.iter_mut().zip(&old).filter(|(_, o)| lowest(**o)) {
        let sign = u16::from_le_bytes(*new) & SIGN;
        *new = (sign | largest_finite).to_le_bytes();
    }
    Ok(bytes)
}

/// Whether a finite value of `from` can be infinite in `to`. It is no question of their widths: bf16 reaches as far as f32, and f16
/// only to 65504.
fn may_overflow(from: Dtype, to: Dtype) -> bool {
    let largest = |dtype| match dtype {
        Dtype::F64 => f64::MAX,
        Dtype::F32 => f64::from(f32::MAX),
        Dtype::Bf16 => bf16::MAX.to_f64(),
        Dtype::F16 => f16::MAX.to_f64(),
        // Types that nothing is cast between.
        _ => 0.0,
    };
    largest(from) > largest(to)
}

fn to_f64(from: Dtype, data: &[u8]) -> Result<Vec<f64>, ConvertError> {
    Ok(match from {
        Dtype::F64 => words(data).map(f64::from_le_bytes).collect(),
        _ => to_f32(from, data)?.into_iter().map(f64::from).collect(),
    })
}

/// Whether a value is infinite; types without infinities have none.
pub fn has_infinity(dtype: Dtype, data: &[u8]) -> bool {
    match dtype {
        Dtype::F64 => words(data).any(|b| f64::from_le_bytes(b).is_infinite()),
        Dtype::F32 => words(data).any(|b| f32::from_le_bytes(b).is_infinite()),
        Dtype::F16 => words(data).any(|b| f16::from_le_bytes(b).is_infinite()),
        Dtype::Bf16 => words(data).any(|b| bf16::from_le_bytes(b).is_infinite()),
        _ => false,
    }
}

/// Whether no value of a float type is infinite or not a number.
pub fn is_finite(dtype: Dtype, data: &[u8]) -> bool {
    // All at once: a search that may end early is not done by several elements at a time.
    match dtype {
        Dtype::F64 => words(data).fold(true, |all, b| all & f64::from_le_bytes(b).is_finite()),
        Dtype::F32 => words(data).fold(true, |all, b| all & f32::from_le_bytes(b).is_finite()),
        Dtype::F16 => words(data).fold(true, |all, b| all & f16::from_le_bytes(b).is_finite()),
        Dtype::Bf16 => words(data).fold(true, |all, b| all & bf16::from_le_bytes(b).is_finite()),
        _ => true,
    }
}

/// The largest magnitude of `old` (of type `from`), where one of its finite values is infinite in `new`, which is what [`cast`] to
/// `to` made of it; `None` where all that was finite is.
///
/// # Errors
/// [`ConvertError::Unsupported`] for types that [`to_f32`] does not read.
pub fn overflow(
    from: Dtype,
    to: Dtype,
    old: &[u8],
    new: &[u8],
) -> Result<Option<f64>, ConvertError> {
    if !may_overflow(from, to) {
        return Ok(None);
    }
    // Most tensors have no infinite value, and then nothing need be widened.
    if !has_infinity(to, new) {
        return Ok(None);
    }
    let (new, old) = (to_f32(to, new)?, to_f64(from, old)?);
    let lost = |(n, o): (&f32, &f64)| n.is_infinite() && o.is_finite();
    Ok((new.iter().zip(&old).any(lost)).then(|| {
        let finite = old.iter().filter(|v| v.is_finite());
        finite.fold(0f64, |m, v| m.max(v.abs()))
    }))
}

/// f64 to f32 rounding to odd, so that a second rounding to a type with at least two bits less is as if there were only one
/// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008, theorem 3).
fn round_to_odd(v: f64) -> f32 {
    let nearest = v as f32;
    let back = f64::from(nearest);
    // The bits of a float grow with its magnitude, whatever its sign: one less is its neighbour towards zero. What f32 cannot hold comes
    // from infinity to the largest f32, of which both half types make infinity again.
    let toward_zero = nearest.to_bits() - u32::from(back.abs() > v.abs());
    // Without a branch, so that several are rounded at a time.
    let is_inexact = (back != v) & !v.is_nan();
    f32::from_bits(toward_zero | u32::from(is_inexact))
}

/// Exchanges the two axes of a matrix `[rows, columns]`; the result is `[columns, rows]`.
///
/// # Errors
/// As [`permute`].
pub fn transpose(view: TensorView<'_>) -> Result<Vec<u8>, ConvertError> {
    permute(view, &[1, 0])
}

/// Reorders axes: axis `i` of the result is axis `order[i]` of `view` (as `numpy.transpose`).
///
/// # Errors
/// [`ConvertError::Permutation`] when `order` is no permutation of the axes, [`ConvertError::Length`] when the data does
/// not fit the shape, [`ConvertError::Unsupported`] for 4-bit types (elements share bytes).
pub fn permute(view: TensorView<'_>, order: &[usize]) -> Result<Vec<u8>, ConvertError> {
    let rank = view.shape.len();
    let mut seen = vec![false; rank];
    let valid = order.len() == rank
        && order
            .iter()
            .all(|&a| a < rank && !std::mem::replace(&mut seen[a], true));
    if !valid {
        return Err(ConvertError::Permutation(order.to_vec(), rank));
    }
    if view.dtype.bits() < 8 {
        return Err(ConvertError::Unsupported {
            from: view.dtype,
            to: view.dtype,
        });
    }
    let expected = element_count(view.shape).and_then(|n| view.dtype.bytes_for(n));
    if expected != Some(view.data.len()) {
        return Err(ConvertError::Length {
            dtype: view.dtype,
            shape: view.shape.to_vec(),
            expected,
            actual: view.data.len(),
        });
    }
    let mut out = vec![0u8; view.data.len()];
    // Without elements a row may be empty, and nothing can be cut into such.
    if !out.is_empty() {
        let (shape, order, width) = plain_form(view.shape, order, view.dtype.bits() / 8);
        match width {
            _ if order.is_empty() => out.copy_from_slice(view.data),
            1 => exchange::<1>(view.data, &shape, &order, &mut out),
            2 => exchange::<2>(view.data, &shape, &order, &mut out),
            4 => exchange::<4>(view.data, &shape, &order, &mut out),
            8 => exchange::<8>(view.data, &shape, &order, &mut out),
            16 => exchange::<16>(view.data, &shape, &order, &mut out),
            run => move_runs(view.data, &shape, &order, run, &mut out),
        }
    }
    Ok(out)
}

/// The same reordering with as few axes as possible: axes of one element are gone, axes that stay together are one, and what stays
/// at the end is part of the element, whose width in bytes comes last. Of the axes that are left the last one always moves; none
/// are left where nothing moves.
fn plain_form(
    shape: &[usize],
    order: &[usize],
    mut width: usize,
) -> (Vec<usize>, Vec<usize>, usize) {
    // Runs of axes that are neighbours before and after, as first axis and extent, in the new order.
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut end = usize::MAX;
    for &axis in order.iter().filter(|&&a| shape[a] != 1) {
        // Axes of one element in between do not part neighbours.
        let follows = end != usize::MAX && axis >= end && shape[end..axis].iter().all(|&n| n == 1);
        match runs.last_mut().filter(|_| follows) {
            Some((_, extent)) => *extent *= shape[axis],
            None => runs.push((axis, shape[axis])),
        }
        end = axis + 1;
    }
    let last = runs.iter().map(|(first, _)| *first).max();
    if let Some(&(first, extent)) = runs.last()
        && Some(first) == last
    {
        width *= extent;
        runs.pop();
    }
    let mut sorted = runs.clone();
    sorted.sort_unstable();
    let order = runs
        .iter()
        .map(|run| sorted.iter().position(|s| s == run).unwrap_or(0))
        .collect();
    (sorted.into_iter().map(|(_, n)| n).collect(), order, width)
}

/// Elements between neighbours of each axis.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for a in (0..shape.len().saturating_sub(1)).rev() {
        strides[a] = strides[a + 1] * shape[a + 1];
    }
    strides
}

/// Where element `index` of the axes `shape` (row-major) lies, given what each axis steps by.
fn offset(mut index: usize, shape: &[usize], steps: &[usize]) -> usize {
    let mut at = 0;
    for (extent, step) in shape.iter().zip(steps).rev() {
        at += index % extent * step;
        index /= extent;
    }
    at
}

/// Side of the square that is turned at a time, in elements of `width` bytes: whole cache lines, and a square that fits the first
/// cache.
const fn side(width: usize) -> usize {
    if width == 1 { 64 } else { 32 }
}

/// Reorders elements of `N` bytes whose last axis moves. That axis and the one that comes to be last are turned tile by tile, by way
/// of a square beside them: lines that lie a power of two apart would otherwise push each other out of the cache.
fn exchange<const N: usize>(data: &[u8], shape: &[usize], order: &[usize], out: &mut [u8]) {
    let data = data.as_chunks::<N>().0;
    let out = out.as_chunks_mut::<N>().0;
    let out_shape: Vec<usize> = order.iter().map(|&a| shape[a]).collect();
    let all_steps = strides(shape);
    let steps: Vec<usize> = order.iter().map(|&a| all_steps[a]).collect();
    let last = order.len() - 1;
    // Where the axis that lies closest in `data` comes to.
    let near = order.iter().position(|&a| a == last).unwrap_or(0);
    let row = out_shape[near + 1..].iter().product::<usize>();
    let columns = out_shape[last];
    let side = side(N);
    out.par_chunks_mut(row * out_shape[near])
        .enumerate()
        .for_each(|(outer, slab)| {
            let outer = offset(outer, &out_shape[..near], &steps[..near]);
            slab.par_chunks_mut(row * side)
                .enumerate()
                .for_each(|(tile, rows)| {
                    let count = rows.len() / row;
                    let mut square = vec![[0; N]; side * side];
                    for middle in 0..row / columns {
                        let from = outer
                            + tile * side
                            + offset(middle, &out_shape[near + 1..last], &steps[near + 1..last]);
                        for first in (0..columns).step_by(side) {
                            let wide = side.min(columns - first);
                            for (column, line) in
                                square.chunks_exact_mut(side).take(wide).enumerate()
                            {
                                let at = from + (first + column) * steps[last];
                                line[..count].copy_from_slice(&data[at..at + count]);
                            }
                            for (j, line) in rows.chunks_exact_mut(row).enumerate() {
                                let to = middle * columns + first;
                                for (column, element) in line[to..to + wide].iter_mut().enumerate()
                                {
                                    *element = square[column * side + j];
                                }
                            }
                        }
                    }
                });
        });
}

/// Reorders runs of `run` bytes each.
fn move_runs(data: &[u8], shape: &[usize], order: &[usize], run: usize, out: &mut [u8]) {
    /// Bytes that are worth a task.
    const TASK: usize = 1 << 16;
    let out_shape: Vec<usize> = order.iter().map(|&a| shape[a]).collect();
    let all_steps = strides(shape);
    let steps: Vec<usize> = order.iter().map(|&a| all_steps[a]).collect();
    let (last_extent, last_step) = (out_shape[order.len() - 1], steps[order.len() - 1]);
    let outer = &out_shape[..order.len() - 1];
    let lines = (TASK / (last_extent * run)).max(1);
    out.par_chunks_mut(last_extent * run * lines)
        .enumerate()
        .for_each(|(task, chunk)| {
            for (i, line) in chunk.chunks_exact_mut(last_extent * run).enumerate() {
                let from = offset(task * lines + i, outer, &steps[..outer.len()]);
                for (j, to) in line.chunks_exact_mut(run).enumerate() {
                    let at = (from + j * last_step) * run;
                    to.copy_from_slice(&data[at..at + run]);
                }
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_values_are_rounded_as_one_is() {
        let mut state = 1u64;
        let mut values: Vec<f64> = (0..5000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let exponent = (state % 48) as i32 - 30;
                ((state >> 11) as f64 / 2f64.powi(53) - 0.5) * 2f64.powi(exponent)
            })
            .collect();
        let special = [
            0.0,
            -0.0,
            1e300,
            -65520.0,
            65519.99,
            f64::INFINITY,
            f64::NAN,
        ];
        values.extend(special);
        // Halfway between two halves but for what f32 does not hold.
        values.extend([
            1.0 + 2f64.powi(-11) + 2f64.powi(-40),
            1.0 + 2f64.powi(-11) - 2f64.powi(-40),
        ]);
        let words: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for to in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let mut out = vec![0; to.bytes_for(values.len()).unwrap()];
            round_into(to, &values, &mut out).unwrap();
            assert!(out == cast(Dtype::F64, to, &words).unwrap(), "{to}");
            let own = to_f64(to, &out).unwrap();
            assert_eq!(is_finite(to, &out), own.iter().all(|v| v.is_finite()));
            let ones = vec![1.0; 1000];
            let mut finite = vec![0; to.bytes_for(1000).unwrap()];
            round_into(to, &ones, &mut finite).unwrap();
            assert!(is_finite(to, &finite) && to_f64(to, &finite).unwrap() == ones);
        }
    }

    #[test]
    fn finite_values_stay_finite_where_a_type_is_narrowed() {
        let bytes = |v: &[f32]| from_f32(Dtype::F32, v).unwrap();
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let all = [1.5, -f32::MAX, f32::NEG_INFINITY, f32::MAX, 0.0];
            let narrowed = to_f32(dtype, &narrow(Dtype::F32, dtype, &bytes(&all)).unwrap());
            let most = if dtype == Dtype::F16 {
                f16::MAX.to_f32()
            } else {
                bf16::MAX.to_f32()
            };
            assert_eq!(
                narrowed.unwrap(),
                [1.5, -most, f32::NEG_INFINITY, most, 0.0]
            );
        }
        let overflow = |from, to, data: &[u8]| narrow(from, to, data).unwrap_err().to_string();
        // As wide as f16, and reaching further.
        let long = from_f32(Dtype::Bf16, &[1.0, 1e30]).unwrap();
        assert!(overflow(Dtype::Bf16, Dtype::F16, &long).contains("too large for f16"));
        let text = overflow(Dtype::F32, Dtype::F16, &bytes(&[1.0, -7e4, -f32::MAX]));
        assert_eq!(text, "it holds values up to 7e4, too large for f16");
        assert!(narrow(Dtype::F32, Dtype::Bf16, &bytes(&[7e4])).is_ok());
        let wide = 1e300f64.to_le_bytes();
        assert!(overflow(Dtype::F64, Dtype::F16, &wide).contains("1e300"));
        // What is no narrowing converts as ever.
        let half = narrow(Dtype::F32, Dtype::F16, &bytes(&[65504.0])).unwrap();
        assert_eq!(
            narrow(Dtype::F16, Dtype::F32, &half).unwrap(),
            bytes(&[65504.0])
        );
    }

    #[test]
    fn every_half_survives_f32_and_back() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let back = from_f32(dtype, &to_f32(dtype, &bytes).unwrap()).unwrap();
            for (a, b) in bytes.chunks(2).zip(back.chunks(2)) {
                let nan = to_f32(dtype, a).unwrap()[0].is_nan();
                assert!(a == b || (nan && to_f32(dtype, b).unwrap()[0].is_nan()));
            }
        }
    }

    /// Extremes and steps of every 8-bit format, from the table in <https://onnx.ai/onnx/technical/float8.html>.
    #[test]
    fn f8_is_what_its_format_says() {
        let value = |dtype, byte| to_f32(dtype, &[byte]).unwrap()[0];
        for (dtype, one, largest, smallest, nan) in [
            (Dtype::F8E4M3Fn, 0x38, (0x7e, 448.0), 2f32.powi(-9), 0xff),
            (Dtype::F8E4M3Fnuz, 0x40, (0x7f, 240.0), 2f32.powi(-10), 0x80),
            (Dtype::F8E5M2, 0x3c, (0x7b, 57344.0), 2f32.powi(-16), 0x7d),
            (
                Dtype::F8E5M2Fnuz,
                0x40,
                (0x7f, 57344.0),
                2f32.powi(-17),
                0x80,
            ),
        ] {
            assert_eq!(value(dtype, one), 1.0, "{dtype}");
            assert_eq!(value(dtype, one | 0x80), -1.0, "{dtype}");
            assert_eq!(value(dtype, largest.0), largest.1, "{dtype}");
            assert_eq!(value(dtype, 1), smallest, "{dtype}");
            assert_eq!(value(dtype, 0), 0.0, "{dtype}");
            assert!(value(dtype, nan).is_nan(), "{dtype}");
        }
        assert_eq!(value(Dtype::F8E5M2, 0x7c), f32::INFINITY);
        assert_eq!(value(Dtype::F8E8M0, 128), 2.0);
    }

    #[test]
    fn f64_is_rounded_once_to_f16() {
        // Just above the tie between 1 and the next f16: rounding to f32 first would land on the tie, then on 1.
        let v = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        let out = cast(Dtype::F64, Dtype::F16, &v.to_le_bytes()).unwrap();
        assert_eq!(
            f16::from_le_bytes([out[0], out[1]]).to_f64(),
            1.0 + 2f64.powi(-10)
        );
    }

    #[test]
    fn integers_are_not_cast() {
        assert!(cast(Dtype::I64, Dtype::F32, &[0; 8]).is_err());
        assert!(cast(Dtype::F32, Dtype::I8, &[0; 4]).is_err());
    }

    /// Element by element, as `numpy.transpose` defines it.
    fn by_definition(shape: &[usize], order: &[usize], width: usize, data: &[u8]) -> Vec<u8> {
        let all = strides(shape);
        let out_shape: Vec<usize> = order.iter().map(|&a| shape[a]).collect();
        let steps: Vec<usize> = order.iter().map(|&a| all[a]).collect();
        (0..shape.iter().product())
            .flat_map(|i| {
                let at = offset(i, &out_shape, &steps) * width;
                data[at..at + width].to_vec()
            })
            .collect()
    }

    #[test]
    fn every_order_of_every_width_is_as_defined() {
        let shapes: &[&[usize]] = &[
            &[5],
            &[67, 45],
            &[1, 70, 1, 33],
            &[3, 1, 4, 2],
            &[2, 35, 3, 34],
            &[0, 3],
            &[2, 3, 2, 1, 5],
            &[],
        ];
        let widths = [Dtype::U8, Dtype::F16, Dtype::F32, Dtype::I64, Dtype::C128];
        for shape in shapes {
            let mut orders = vec![vec![]];
            for axis in 0..shape.len() {
                orders = orders
                    .iter()
                    .flat_map(|order: &Vec<usize>| {
                        (0..=order.len()).map(move |at| {
                            let mut order = order.clone();
                            order.insert(at, axis);
                            order
                        })
                    })
                    .collect();
            }
            for dtype in widths {
                let width = dtype.bits() / 8;
                let length = shape.iter().product::<usize>() * width;
                let data: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
                let view = TensorView {
                    dtype,
                    shape,
                    data: &data,
                };
                for order in &orders {
                    assert!(
                        permute(view, order).unwrap() == by_definition(shape, order, width, &data),
                        "{dtype} {shape:?} {order:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn permute_matches_its_definition() {
        let shape = [2, 3, 4];
        let data: Vec<u8> = (0..24u16).flat_map(u16::to_le_bytes).collect();
        let view = TensorView {
            dtype: Dtype::U16,
            shape: &shape,
            data: &data,
        };
        let out = permute(view, &[2, 0, 1]).unwrap();
        let at = |i: usize| u16::from_le_bytes([out[2 * i], out[2 * i + 1]]);
        for a in 0..2 {
            for b in 0..3 {
                for c in 0..4 {
                    assert_eq!(at(c * 6 + a * 3 + b), (a * 12 + b * 4 + c) as u16);
                }
            }
        }
        assert!(permute(view, &[0, 0, 1]).is_err());
        assert!(
            permute(
                TensorView {
                    data: &data[1..],
                    ..view
                },
                &[0, 1, 2]
            )
            .is_err()
        );
    }
}
