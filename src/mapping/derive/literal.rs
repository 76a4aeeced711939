//! Values that need no tensor: what exporters compute themselves, or find written in the code.

use crate::mapping::types::Literal;
use crate::tensor::{Dtype, TensorView, to_f32};

/// More different values than this are no mask and no initial value.
const FLAT: usize = 3;
/// Sizes below which only a single value counts as flat: three random numbers are three values too.
const SMALL: usize = 8;
/// Relative error that f32 tables of exporters have.
const ROUNDING: f64 = 1e-5;
/// Rows and columns that a sine table is recognised by.
const TABLE: usize = 4;
/// Absolute error that sine tables have, at least.
const WAVE: f64 = 1e-4;
/// Numbers up to this many may be a list that somebody typed.
const SHORT: usize = 4;
/// Digits of a number that somebody typed; a trained value has more.
const TYPED_DIGITS: usize = 4;

/// Whether `data` has at most three different values (one, where it is short): it equals others by chance.
pub(in crate::mapping) fn is_flat(dtype: Dtype, data: &[u8]) -> bool {
    let width = (dtype.bits() / 8).max(1);
    let mut seen: Vec<&[u8]> = Vec::with_capacity(FLAT + 1);
    for element in data.chunks(width) {
        if !seen.contains(&element) {
            seen.push(element);
            if seen.len() > FLAT {
                return false;
            }
        }
    }
    is_flat_of(seen.len(), data.len() / width)
}

/// Whether `count` elements with so many different values are flat.
pub(in crate::mapping) fn is_flat_of(different: usize, count: usize) -> bool {
    different <= FLAT && (count >= SMALL || different <= 1)
}

/// Whether a tensor of several elements that is not flat may be a literal: most are told by their first row, which is in `beginning`, to be
/// none.
pub(in crate::mapping) fn may_be_literal(dtype: Dtype, shape: &[usize], beginning: &[u8]) -> bool {
    if shape.iter().product::<usize>() <= SHORT {
        return true;
    }
    let last = shape.iter().rev().find(|d| **d != 1);
    let length = last.and_then(|last| dtype.bytes_for(*last));
    let Some(row) = length.and_then(|length| beginning.get(..length)) else {
        // It is longer than what is there.
        return true;
    };
    let Ok(row) = to_f32(dtype, row) else {
        return false;
    };
    let row: Vec<f64> = row.into_iter().map(f64::from).collect();
    let tolerance = tolerance(dtype);
    may_be_a_sequence(&row, tolerance) || may_be_a_table(&row, tolerance)
}

/// Relative error that sequences of exporters have.
fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => 2e-3,
        Dtype::Bf16 => 1.6e-2,
        _ => ROUNDING,
    }
}

/// Why `view` may be a value that no checkpoint has; none where it has to come from somewhere.
pub(in crate::mapping) fn literal(view: TensorView<'_>) -> Option<Literal> {
    let count: usize = view.shape.iter().product();
    if count == 1 {
        let closed = match to_f32(view.dtype, view.data) {
            Ok(v) => v.iter().all(|v| needs_no_tensor(view.dtype, *v)),
            Err(_) => true,
        };
        return closed.then_some(Literal::Scalar);
    }
    if is_flat(view.dtype, view.data) {
        return Some(Literal::Flat);
    }
    if !may_be_literal(view.dtype, view.shape, view.data) {
        return None;
    }
    let tolerance = tolerance(view.dtype);
    let shape: Vec<usize> = view.shape.iter().copied().filter(|&d| d != 1).collect();
    let last = *shape.last()?;
    let numbers = |data: &[u8]| -> Option<Vec<f64>> {
        let values = to_f32(view.dtype, data).ok()?;
        Some(values.into_iter().map(f64::from).collect())
    };
    let values = numbers(view.data)?;
    if values.iter().any(|v| !v.is_finite()) {
        return None;
    }
    // A sequence, or the same sequence in every row.
    let repeats = values.chunks_exact(last).all(|row| row == &values[..last]);
    // Any two numbers are a sequence.
    if repeats && last > 2 {
        if is_arithmetic(&values[..last], tolerance) {
            return Some(Literal::Arithmetic);
        }
        if is_geometric(&values[..last], tolerance) {
            return Some(Literal::Geometric);
        }
    }
    if values.len() <= SHORT && values.iter().all(|v| is_typed(*v as f32)) {
        return Some(Literal::Typed);
    }
    let tolerance = tolerance.max(WAVE);
    let table = is_sinusoidal(&values, last, tolerance) || is_grid(&values, last, tolerance);
    table.then_some(Literal::Sinusoidal)
}

/// Whether the first row of a tensor allows that every row is one sequence.
fn may_be_a_sequence(row: &[f64], tolerance: f64) -> bool {
    row.len() > 2 && (is_arithmetic(row, tolerance) || is_geometric(row, tolerance))
}

/// Whether the first row of a tensor allows that every column is a wave: sine and cosine begin with 0 and 1.
fn may_be_a_table(row: &[f64], tolerance: f64) -> bool {
    let tolerance = tolerance.max(WAVE);
    row.iter()
        .all(|v| v.abs() <= tolerance || (v - 1.0).abs() <= tolerance)
}

/// Digits of a longer number in code: `0.044715`, `0.18215`.
const CODE_DIGITS: usize = 5;

/// Whether a number needs no tensor: typed in code, a limit of a type, or a root, a quotient or a logarithm of a whole number (`1/√48`,
/// `48^(-1/4)` that scales both sides of an attention, `√(2/π)`, `ln 10000`).
fn needs_no_tensor(dtype: Dtype, value: f32) -> bool {
    let v = f64::from(value).abs();
    if !v.is_finite() || v == 0.0 || v >= 65504.0 || is_closed(value) {
        return true;
    }
    // Half types have few digits of their own.
    let digits = match dtype {
        Dtype::F16 => 3,
        Dtype::Bf16 => 2,
        _ => return digits(value) <= CODE_DIGITS,
    };
    let tolerance = if dtype == Dtype::F16 { 5e-4 } else { 4e-3 };
    let rounded: f64 = format!("{v:.*e}", digits - 1).parse().unwrap_or(f64::NAN);
    (rounded - v).abs() <= tolerance * v || !is_far_from_whole(v, tolerance)
}

/// Whether a single-precision number is a short decimal, or a closed form of a whole number.
pub(in crate::mapping) fn is_closed(value: f32) -> bool {
    is_typed(value) || !is_far_from_whole(f64::from(value).abs(), 2e-7)
}

fn is_far_from_whole(v: f64, tolerance: f64) -> bool {
    let pi = std::f64::consts::PI;
    let forms = [
        v * v,
        1.0 / (v * v),
        v * v * pi,
        1.0 / v,
        v * pi,
        v / pi,
        pi / v,
    ];
    let far = |x: f64, tolerance: f64| {
        let whole = x.round();
        !(1.0..=65536.0).contains(&whole) || (x - whole).abs() > tolerance * x
    };
    // The exponential of a rounded logarithm is off by as many times the rounding as the logarithm is large.
    forms.into_iter().all(|x| far(x, 2.0 * tolerance))
        && far(v.exp(), tolerance * v.max(1.0))
        && [v.powi(4), 1.0 / v.powi(4)]
            .into_iter()
            .all(|x| far(x, 4.0 * tolerance))
}

/// Whether `value` is a short decimal number, as people type them; a trained value has more digits.
pub(in crate::mapping) fn is_typed(value: f32) -> bool {
    digits(value) <= TYPED_DIGITS
}

/// Digits of the shortest decimal that is this number.
fn digits(value: f32) -> usize {
    let text = format!("{:e}", value.abs());
    let digits = text.split('e').next().unwrap_or_default();
    digits.bytes().filter(u8::is_ascii_digit).count()
}

fn is_arithmetic(values: &[f64], tolerance: f64) -> bool {
    // From end to end: between neighbours the rounding of both would count as many times as there are steps.
    let step = (values[values.len() - 1] - values[0]) / (values.len() - 1) as f64;
    let scale = values.iter().fold(step.abs(), |m, v| m.max(v.abs()));
    (values.iter().enumerate())
        .all(|(i, v)| (values[0] + step * i as f64 - v).abs() <= tolerance * scale)
}

fn is_geometric(values: &[f64], tolerance: f64) -> bool {
    if values.contains(&0.0) {
        return false;
    }
    let last = values.len() - 1;
    let ratio = values[last] / values[0];
    if ratio <= 0.0 {
        return false;
    }
    // Rounded exponents move every factor a little.
    (values.iter().enumerate()).all(|(i, v)| {
        let expected = values[0] * ratio.powf(i as f64 / last as f64);
        (expected - v).abs() <= 4.0 * tolerance * expected.abs()
    })
}

/// Whether `at(0)`, `at(1)`, … are sin or cos of a multiple of the index: `x[i+1] + x[i-1] = 2·cos(ω)·x[i]`.
fn is_wave(count: usize, tolerance: f64, at: impl Fn(usize) -> f64) -> bool {
    // The first value tells sine from cosine; the frequency follows from the second.
    let omega = if at(0).abs() <= tolerance {
        // A rounded value may be a little above one, of which there is no arc.
        at(1).clamp(-1.0, 1.0).asin()
    } else if (at(0) - 1.0).abs() <= tolerance {
        at(1).clamp(-1.0, 1.0).acos()
    } else {
        return false;
    };
    let twice = 2.0 * omega.cos();
    (1..count - 1).all(|r| (at(r + 1) + at(r - 1) - twice * at(r)).abs() <= 8.0 * tolerance)
}

/// Whether every column is sin or cos of a multiple of the row's index.
fn is_sinusoidal(values: &[f64], columns: usize, tolerance: f64) -> bool {
    let rows = values.len() / columns;
    if rows < TABLE || columns < 2 || values.iter().any(|v| v.abs() > 1.0 + tolerance) {
        return false;
    }
    (0..columns).all(|c| is_wave(rows, tolerance, |r| values[r * columns + c]))
}

/// Whether every column is sin or cos of a multiple of the row or of the column of a grid of positions, whose places are the
/// table's rows (the two-dimensional tables of vision transformers).
fn is_grid(values: &[f64], columns: usize, tolerance: f64) -> bool {
    let rows = values.len() / columns;
    // A wave is told by a value between two others, so that either side of a grid needs three.
    if rows < 3 * 3 || columns < 2 || values.iter().any(|v| v.abs() > 1.0 + tolerance) {
        return false;
    }
    let width_fits = |width: usize| {
        (0..columns).all(|c| {
            let at = |r: usize| values[r * columns + c];
            let same = |r: usize, s: usize| (at(r) - at(s)).abs() <= tolerance;
            let across = (0..rows).all(|r| same(r, r % width)) && is_wave(width, tolerance, at);
            let down = || {
                (0..rows).all(|r| same(r, r / width * width))
                    && is_wave(rows / width, tolerance, |r| at(r * width))
            };
            across || down()
        })
    };
    (3..=rows / 3).any(|width| rows.is_multiple_of(width) && width_fits(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shape: &[usize], values: &[f32]) -> Option<Literal> {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        literal(TensorView {
            dtype: Dtype::F32,
            shape,
            data: &data,
        })
    }

    #[test]
    fn tables_that_exporters_compute_are_known() {
        for v in [
            0.3,
            0.044_715,
            0.176_776_7,
            0.638_943_1,
            0.797_884_6,
            9.210_34,
            -3.402_823_5e38,
            1e-5,
        ] {
            assert_eq!(of(&[], &[v]), Some(Literal::Scalar), "{v}");
        }
        for v in [14.285_712, 0.193_847_3, -1.337_426_7] {
            assert_eq!(of(&[], &[v]), None, "{v}");
        }
        assert_eq!(of(&[8], &[1.0; 8]), Some(Literal::Flat));
        let steps: Vec<f32> = (0u8..16).map(|i| 0.5 * f32::from(i) - 3.0).collect();
        assert_eq!(of(&[1, 16], &steps), Some(Literal::Arithmetic));
        let frequencies: Vec<f32> = (0u8..16)
            .map(|i| (-(10000f32.ln()) * f32::from(i) / 16.0).exp())
            .collect();
        assert_eq!(of(&[1, 16], &frequencies), Some(Literal::Geometric));
        let table: Vec<f32> = (0u16..12 * 6)
            .map(|i| {
                let angle = f32::from(i / 6) * 0.3f32.powi(i32::from(i % 6 / 2));
                if i % 2 == 0 { angle.sin() } else { angle.cos() }
            })
            .collect();
        assert_eq!(of(&[12, 6], &table), Some(Literal::Sinusoidal));
    }

    #[test]
    fn typed_numbers_are_told_from_trained_ones() {
        for v in [0.5, 1.3, 0.3, 1e-5, 0.125, 2.0, 0.0, -1.0, 100.0] {
            assert!(is_typed(v), "{v}");
        }
        for v in [2.659_26, 0.129_384_7, 1.000_001, std::f32::consts::PI] {
            assert!(!is_typed(v), "{v}");
        }
    }

    #[test]
    fn trained_values_are_none() {
        let random: Vec<f32> = (0u32..32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e7 - 0.8)
            .collect();
        assert_eq!(of(&[32], &random), None);
        assert_eq!(of(&[4, 8], &random), None);
        // Three numbers are not flat because there are only three.
        assert_eq!(of(&[3], &[0.123_71, -0.517_234, 0.313_377]), None);
    }
}
