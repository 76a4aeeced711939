//! Numbers for inputs that no file gives.

use crate::tensor::{Dtype, Tensor, element_count, from_f32, show_shape};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Standard normal floats, rounded to the type; 0 or 1 for integers and booleans, which are indices or flags more often than not.
pub(super) fn draw(dtype: Dtype, shape: &[usize], rng: &mut ChaCha8Rng) -> Result<Tensor, String> {
    let count =
        element_count(shape).ok_or_else(|| format!("shape {} overflows", show_shape(shape)))?;
    let complex = matches!(dtype, Dtype::C64 | Dtype::C128);
    let data = if let Some(codes) = narrow_floats(dtype) {
        let drawn: Vec<u8> = (0..count)
            .map(|_| nearest(&codes, StandardNormal.sample(rng)))
            .collect();
        if dtype.bits() == 4 {
            pack(&drawn)
        } else {
            drawn
        }
    } else if dtype.is_float() {
        let values: Vec<f32> = (0..count).map(|_| StandardNormal.sample(rng)).collect();
        from_f32(dtype, &values).map_err(|e| e.to_string())?
    } else if complex {
        return Err(format!("{dtype} values cannot be drawn; give a file"));
    } else if dtype.bits() == 4 {
        let drawn: Vec<u8> = (0..count).map(|_| rng.random::<bool>().into()).collect();
        pack(&drawn)
    } else {
        let width = dtype.bits() / 8;
        let mut data = vec![0u8; count * width];
        for element in data.chunks_exact_mut(width) {
            // Little-endian: the first byte holds the number.
            element[0] = u8::from(rng.random::<bool>());
        }
        data
    };
    Ok(Tensor {
        dtype,
        shape: shape.to_vec(),
        data,
    })
}

/// Two 4-bit elements to a byte, the first in the low half.
fn pack(codes: &[u8]) -> Vec<u8> {
    codes
        .chunks(2)
        .map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4))
        .collect()
}

/// The code of the value that is nearest.
fn nearest(codes: &[(u8, f32)], value: f32) -> u8 {
    let after = codes.partition_point(|(_, v)| *v < value);
    let around = [after.checked_sub(1), Some(after)];
    around
        .into_iter()
        .flatten()
        .filter_map(|i| codes.get(i))
        .min_by(|(_, a), (_, b)| (a - value).abs().total_cmp(&(b - value).abs()))
        .map_or(0, |(code, _)| *code)
}

/// Every finite value of a float type of 4 or 8 bits with its code, in ascending order; `None` for other types.
fn narrow_floats(dtype: Dtype) -> Option<Vec<(u8, f32)>> {
    // Bits of the mantissa, bias of the exponent, and the codes (without sign) from which on they are no finite numbers.
    let (mantissa, bias, end, signed) = match dtype {
        Dtype::F8E4M3Fn => (3, 7, 0x7f, true),
        Dtype::F8E4M3Fnuz => (3, 8, 0x80, true),
        Dtype::F8E5M2 => (2, 15, 0x7c, true),
        Dtype::F8E5M2Fnuz => (2, 16, 0x80, true),
        Dtype::F4E2M1 => (1, 1, 0x08, true),
        Dtype::F8E8M0 => (0, 127, 0xff, false),
        _ => return None,
    };
    let sign = if dtype.bits() == 4 { 0x08 } else { 0x80 };
    let magnitude = |code: u16| {
        let exponent = i32::from(code >> mantissa);
        let fraction = f32::from(code & ((1 << mantissa) - 1)) / f32::from(1u16 << mantissa);
        match exponent {
            // Powers of two have neither zero nor subnormal numbers.
            0 if signed => fraction * 2f32.powi(1 - bias),
            e => (1.0 + fraction) * 2f32.powi(e - bias),
        }
    };
    let mut codes: Vec<(u8, f32)> = (0..end)
        .flat_map(|code| {
            let value = magnitude(code);
            let negative = (signed && value > 0.0).then_some((code as u8 | sign, -value));
            std::iter::once((code as u8, value)).chain(negative)
        })
        .collect();
    codes.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    Some(codes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let draw = |seed| draw(Dtype::F32, &[4], &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn narrow_types_are_drawn() {
        for (dtype, code, value) in [
            // Highest finite values of each, and 1.
            (Dtype::F8E4M3Fn, 0x7e, 448.0),
            (Dtype::F8E4M3Fnuz, 0x7f, 240.0),
            (Dtype::F8E5M2, 0x7b, 57344.0),
            (Dtype::F8E5M2Fnuz, 0x7f, 57344.0),
            (Dtype::F8E4M3Fn, 0xb8, -1.0),
            (Dtype::F8E5M2, 0x01, 2f32.powi(-16)),
            (Dtype::F4E2M1, 0x07, 6.0),
            (Dtype::F4E2M1, 0x01, 0.5),
            (Dtype::F8E8M0, 0x7f, 1.0),
        ] {
            let codes = narrow_floats(dtype).unwrap();
            assert!(codes.contains(&(code, value)), "{dtype} {code:#x}");
            assert_eq!(nearest(&codes, value), code, "{dtype}");
        }
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for dtype in Dtype::ALL {
            let drawn = draw(*dtype, &[3, 3], &mut rng);
            if matches!(dtype, Dtype::C64 | Dtype::C128) {
                assert!(drawn.is_err());
            } else {
                assert_eq!(
                    Some(drawn.unwrap().data.len()),
                    dtype.bytes_for(9),
                    "{dtype}"
                );
            }
        }
    }
}
