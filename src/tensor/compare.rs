//! Statistics of a tensor, and how far one tensor is from another.

use super::{Dtype, TensorView, convert::ConvertError, to_f32};
use serde::Serialize;

/// What a report says of one tensor. `min`, `max` and `mean` are over the finite elements.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    pub count: usize,
    /// Smallest finite element; `None` when there is none.
    pub min: Option<f64>,
    /// Largest finite element; `None` when there is none.
    pub max: Option<f64>,
    /// Mean of the finite elements; `None` when there is none.
    pub mean: Option<f64>,
    pub nan: usize,
    /// Number of infinities of either sign.
    pub inf: usize,
}

/// How far `actual` is from `expected`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Largest |actual - expected|; infinite where exactly one of the two is not finite.
    pub max_abs: f64,
    /// ‖actual - expected‖₂ / ‖expected‖₂; ‖actual‖₂ where `expected` is all zero.
    pub relative_l2: f64,
    /// Cosine of the angle between them; 1 when both are all zero, 0 when one is.
    pub cosine: f64,
    /// Number of elements outside `atol + rtol·|expected|`.
    pub mismatches: usize,
    /// Row-major multi-index of the first such element.
    pub first_mismatch: Option<Vec<usize>>,
    /// The two values at that index: actual, expected.
    pub values_there: Option<(f64, f64)>,
}

impl Difference {
    /// Of two tensors that cannot be laid beside one another.
    pub const OF_OTHER_SHAPES: Difference = Difference {
        max_abs: f64::INFINITY,
        relative_l2: f64::INFINITY,
        cosine: 0.0,
        mismatches: 0,
        first_mismatch: None,
        values_there: None,
    };
}

fn to_f64(view: TensorView<'_>) -> Result<Vec<f64>, ConvertError> {
    let words = view.data.as_chunks::<8>().0;
    Ok(match view.dtype {
        Dtype::F64 => words.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        Dtype::I64 => words
            .iter()
            .map(|&b| i64::from_le_bytes(b) as f64)
            .collect(),
        Dtype::U64 => words
            .iter()
            .map(|&b| u64::from_le_bytes(b) as f64)
            .collect(),
        // Not by way of f32 as the rest: it holds 24 bits, and 32-bit integers would lose their last ones.
        Dtype::I32 => (view.data.as_chunks::<4>().0.iter())
            .map(|&b| f64::from(i32::from_le_bytes(b)))
            .collect(),
        Dtype::U32 => (view.data.as_chunks::<4>().0.iter())
            .map(|&b| f64::from(u32::from_le_bytes(b)))
            .collect(),
        d => to_f32(d, view.data)?.into_iter().map(f64::from).collect(),
    })
}

/// Statistics of `view`, accumulated in f64.
///
/// # Errors
/// [`ConvertError::Unsupported`] for types that have no number for an element here (packed, 8-bit float, complex).
pub fn statistics(view: TensorView<'_>) -> Result<Statistics, ConvertError> {
    let values = to_f64(view)?;
    let mut s = Statistics {
        count: values.len(),
        min: None,
        max: None,
        mean: None,
        nan: 0,
        inf: 0,
    };
    let (mut sum, mut finite) = (0.0, 0usize);
    for &v in &values {
        if v.is_nan() {
            s.nan += 1;
        } else if v.is_infinite() {
            s.inf += 1;
        } else {
            s.min = Some(s.min.map_or(v, |m: f64| m.min(v)));
            s.max = Some(s.max.map_or(v, |m: f64| m.max(v)));
            sum += v;
            finite += 1;
        }
    }
    if finite > 0 {
        s.mean = Some(sum / finite as f64);
    }
    Ok(s)
}

/// Compares two tensors of the same shape element by element, in f64. NaN equals NaN and an infinity equals itself.
///
/// # Errors
/// [`ConvertError::Unsupported`] as [`statistics`]; [`ConvertError::Length`] when the element counts differ.
pub fn difference(
    actual: TensorView<'_>,
    expected: TensorView<'_>,
    rtol: f64,
    atol: f64,
) -> Result<Difference, ConvertError> {
    let (mut max_abs, mut dd, mut ee, mut aa, mut ae) = (0f64, 0.0, 0.0, 0.0, 0.0);
    let (mut mismatches, mut first) = (0usize, None);
    in_pieces(actual, expected, |start, a, e| {
        for (i, (&x, &y)) in a.iter().zip(e).enumerate() {
            // Asked before the distance is taken, which of two equal infinities is no number.
            let same = x == y || (x.is_nan() && y.is_nan());
            let delta = if same {
                0.0
            } else if x.is_finite() && y.is_finite() {
                (x - y).abs()
            } else {
                f64::INFINITY
            };
            if !same && (delta.is_infinite() || delta > atol + rtol * y.abs()) {
                mismatches += 1;
                first.get_or_insert((start + i, (x, y)));
            }
            max_abs = max_abs.max(delta);
            dd += delta * delta;
            // An infinity in the sums would make the cosine no number; `max_abs` and the count tell of it.
            if x.is_finite() && y.is_finite() {
                ee += y * y;
                aa += x * x;
                ae += x * y;
            }
        }
    })?;
    let cosine = match (aa > 0.0, ee > 0.0) {
        (true, true) => ae / (aa.sqrt() * ee.sqrt()),
        (false, false) => 1.0,
        _ => 0.0,
    };
    Ok(Difference {
        max_abs,
        relative_l2: if ee > 0.0 {
            (dd / ee).sqrt()
        } else {
            dd.sqrt()
        },
        cosine,
        mismatches,
        first_mismatch: first.map(|(i, _)| unravel(i, expected.shape)),
        values_there: first.map(|(_, there)| there),
    })
}

/// Hands `each` the values of both tensors piece by piece, with the index of the first: as f64, a large tensor would take several times
/// its size.
fn in_pieces(
    actual: TensorView<'_>,
    expected: TensorView<'_>,
    mut each: impl FnMut(usize, &[f64], &[f64]),
) -> Result<(), ConvertError> {
    const PIECE: usize = 4096;
    let piece = |view: TensorView<'_>, at: usize| {
        // Types whose elements are no whole bytes are refused below, whatever part of them is asked for.
        let width = view.dtype.bits() / 8;
        let all = view.data.len();
        let (from, to) = ((at * width).min(all), ((at + PIECE) * width).min(all));
        let data = &view.data[from..to];
        to_f64(TensorView { data, ..view })
    };
    let count = |view: TensorView<'_>| view.data.len() / (view.dtype.bits() / 8).max(1);
    let mut at = 0;
    loop {
        let (a, e) = (piece(actual, at)?, piece(expected, at)?);
        if a.len() != e.len() {
            return Err(ConvertError::Length {
                dtype: actual.dtype,
                shape: expected.shape.to_vec(),
                expected: Some(count(expected)),
                actual: count(actual),
            });
        }
        each(at, &a, &e);
        if a.len() < PIECE {
            return Ok(());
        }
        at += PIECE;
    }
}

/// `actual` − `expected`, element by element, in f32.
///
/// # Errors
/// As [`difference`].
pub fn delta(actual: TensorView<'_>, expected: TensorView<'_>) -> Result<Vec<f32>, ConvertError> {
    let mut delta = Vec::with_capacity(expected.shape.iter().product());
    in_pieces(actual, expected, |_, a, e| {
        delta.extend(a.iter().zip(e).map(|(&x, &y)| x as f32 - y as f32));
    })?;
    Ok(delta)
}

fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (slot, &extent) in index.iter_mut().zip(shape).rev() {
        *slot = flat % extent;
        flat /= extent;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::super::Tensor;
    use super::*;

    fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    #[test]
    fn finds_the_first_mismatch() {
        let e = f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let a = f32s(&[2, 2], &[1.0, 2.0, 3.5, 4.0]);
        let d = difference(a.view(), e.view(), 1e-3, 0.0).unwrap();
        assert_eq!(d.mismatches, 1);
        assert_eq!(d.first_mismatch, Some(vec![1, 0]));
        assert!((d.relative_l2 - 0.5 / 30f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn long_tensors_are_compared_to_their_ends() {
        for count in [4095, 4096, 4097, 8192, 10_001] {
            let values: Vec<f32> = (0..count).map(|i| i as f32 / 7.0).collect();
            let mut other = values.clone();
            other[count - 1] += 2.0;
            let (e, a) = (f32s(&[count], &values), f32s(&[count], &other));
            let d = difference(a.view(), e.view(), 0.0, 0.0).unwrap();
            assert_eq!((d.mismatches, d.first_mismatch), (1, Some(vec![count - 1])));
            let there = (f64::from(other[count - 1]), f64::from(values[count - 1]));
            assert_eq!(d.values_there, Some(there));
            let moved = delta(a.view(), e.view()).unwrap();
            assert_eq!(moved.len(), count);
            assert_eq!(moved[count - 1], other[count - 1] - values[count - 1]);
            assert!(moved[..count - 1].iter().all(|&v| v == 0.0));
            let short = f32s(&[count - 1], &values[1..]);
            assert!(difference(short.view(), e.view(), 0.0, 0.0).is_err());
            assert!(difference(e.view(), short.view(), 0.0, 0.0).is_err());
        }
    }

    #[test]
    fn nan_is_a_difference_unless_expected() {
        let nan = f32s(&[1], &[f32::NAN]);
        let one = f32s(&[1], &[1.0]);
        assert_eq!(
            difference(nan.view(), nan.view(), 0.0, 0.0)
                .unwrap()
                .mismatches,
            0
        );
        let d = difference(nan.view(), one.view(), 1.0, 1.0).unwrap();
        assert!(d.mismatches == 1 && d.relative_l2.is_infinite());
    }

    #[test]
    fn statistics_leave_out_what_is_not_finite() {
        let s = statistics(f32s(&[4], &[1.0, f32::NAN, f32::INFINITY, 3.0]).view()).unwrap();
        assert_eq!((s.min, s.max, s.mean), (Some(1.0), Some(3.0), Some(2.0)));
        assert_eq!((s.nan, s.inf, s.count), (1, 1, 4));
    }
}
