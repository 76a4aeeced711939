//! Changing a tensor's element type or the order of its axes.
//!
//! Every conversion is computed exactly or in f32 (f64 for f64 data) and rounded once, to nearest even.

use super::{Dtype, TensorView, element_count};
use half::{bf16, f16};
use rayon::prelude::*;

/// A conversion that does not exist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConvertError {
    /// No exact or rounded conversion is defined between these types.
    #[error("cannot convert {from} to {to}")]
    Unsupported {
        /// Type of the data.
        from: Dtype,
        /// Type asked for.
        to: Dtype,
    },
    /// Data length and shape disagree.
    #[error("{dtype} data of shape {shape:?} must be {expected:?} bytes long, not {actual}")]
    Length {
        /// Element type.
        dtype: Dtype,
        /// Stated shape.
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
        Dtype::F16 => words(data)
            .map(|b| f16::from_le_bytes(b).to_f32())
            .collect(),
        Dtype::Bf16 => words(data)
            .map(|b| bf16::from_le_bytes(b).to_f32())
            .collect(),
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
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F64 => values
            .iter()
            .flat_map(|&v| f64::from(v).to_le_bytes())
            .collect(),
        Dtype::F16 => values
            .iter()
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect(),
        Dtype::Bf16 => values
            .iter()
            .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
            .collect(),
        to => {
            return Err(ConvertError::Unsupported {
                from: Dtype::F32,
                to,
            });
        }
    })
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

/// f64 to f32 rounding to odd, so that a second rounding to a type with at least two bits less is as if there were only one
/// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008, theorem 3).
fn round_to_odd(v: f64) -> f32 {
    let nearest = v as f32;
    let back = f64::from(nearest);
    if back == v || v.is_nan() {
        return nearest;
    }
    let toward_zero = if back.abs() > v.abs() {
        nearest.to_bits() - 1
    } else {
        nearest.to_bits()
    };
    f32::from_bits(toward_zero | 1)
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
    let width = view.dtype.bits() / 8;
    let mut strides = vec![width; rank];
    for a in (0..rank.saturating_sub(1)).rev() {
        strides[a] = strides[a + 1] * view.shape[a + 1];
    }
    let out_shape: Vec<usize> = order.iter().map(|&a| view.shape[a]).collect();
    let out_strides: Vec<usize> = order.iter().map(|&a| strides[a]).collect();
    let mut out = vec![0u8; view.data.len()];
    if out.is_empty() || rank == 0 {
        out.copy_from_slice(view.data);
        return Ok(out);
    }
    // One row of the result per task: the innermost loop walks a single stride.
    let row = out_shape[rank - 1] * width;
    out.par_chunks_mut(row).enumerate().for_each(|(i, chunk)| {
        let (mut rest, mut from) = (i, 0);
        for a in (0..rank - 1).rev() {
            from += rest % out_shape[a] * out_strides[a];
            rest /= out_shape[a];
        }
        for (j, cell) in chunk.chunks_exact_mut(width).enumerate() {
            let at = from + j * out_strides[rank - 1];
            cell.copy_from_slice(&view.data[at..at + width]);
        }
    });
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

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
