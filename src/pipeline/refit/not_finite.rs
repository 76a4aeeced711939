//! NaN and infinite values that a checkpoint brings where the base has numbers. Torch loads them, and a fresh export would have them, so they are
//! written; but hardly anybody means them (a half-precision file that overflowed), so they are told.

use crate::diff::Reason;
use crate::fsx::Map;
use crate::mapping::{Held, Judged, Recipe};
use crate::tensor::Dtype;
use crate::weights::layouts::View;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::{AddAssign, Range};

/// Bytes that are looked at at a time. No element is cut by it.
const BLOCK: usize = 256 << 10;

/// Tensors that one note lists.
const SHOWN: usize = 4;

/// How many values are no finite numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Count {
    nan: usize,
    infinite: usize,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.nan += other.nan;
        self.infinite += other.infinite;
    }
}

/// One [`Reason::NotFinite`] for each tensor of `new` that changes a weight and has more such values than what the weight has in `held`.
pub(super) fn not_finite(judged: &Judged, new: &View, held: &dyn Held) -> Vec<Reason> {
    let mut sources: BTreeMap<&str, usize> = BTreeMap::new();
    for r in judged.assessment.changed() {
        for source in judged.mapping.rows[r]
            .explanations()
            .flat_map(Recipe::sources)
        {
            sources.entry(source).or_insert(r);
        }
    }
    let found = sources.into_par_iter().filter_map(|(source, r)| {
        let count = of_tensor(new, source).filter(|c| *c != Count::default())?;
        let row = &judged.mapping.rows[r];
        let base = held.held(&row.name).map(|data| of_bytes(row.dtype, &data));
        let base = base.unwrap_or_default();
        (count.nan > base.nan || count.infinite > base.infinite).then(|| Reason::NotFinite {
            weight: row.name.clone(),
            tensor: source.to_owned(),
            nan: count.nan,
            infinite: count.infinite,
        })
    });
    found.collect()
}

/// What to tell of them; none where there are none.
pub(super) fn warning(found: &[Reason]) -> Option<String> {
    let listed = found.iter().filter_map(|reason| match reason {
        Reason::NotFinite {
            tensor,
            nan,
            infinite,
            ..
        } => Some(format!("`{tensor}` ({})", counted(*nan, *infinite))),
        _ => None,
    });
    let mut listed: Vec<String> = listed.take(SHOWN).collect();
    match found.len() {
        0 => return None,
        all if all > SHOWN => listed.push(format!("and {} more tensors", all - SHOWN)),
        _ => {}
    }
    Some(format!(
        "the checkpoint has NaN or infinite values where the base has numbers, and what is computed from them is no number either: {}",
        listed.join(", ")
    ))
}

/// How many are NaN and how many infinite, in words.
pub fn counted(nan: usize, infinite: usize) -> String {
    match (nan, infinite) {
        (nan, 0) => format!("{nan} NaN"),
        (0, infinite) => format!("{infinite} infinite"),
        (nan, infinite) => format!("{nan} NaN, {infinite} infinite"),
    }
}

fn of_tensor(new: &View, name: &str) -> Option<Count> {
    let (dtype, _) = new.describe(name)?;
    if !dtype.is_float() {
        return None;
    }
    // Nothing is kept of what is only looked at.
    Some(match new.place(name) {
        Some((map, range)) => of_place(dtype, map, &range),
        None => of_bytes(dtype, &new.read(name)?.data),
    })
}

fn of_place(dtype: Dtype, map: &Map, range: &Range<usize>) -> Count {
    let mut count = Count::default();
    let mut buffer = vec![0; BLOCK.min(range.len())];
    for start in range.clone().step_by(BLOCK) {
        let block = &mut buffer[..BLOCK.min(range.end - start)];
        map.copy_to(start, block);
        count += of_bytes(dtype, block);
    }
    count
}

/// By the bits: the exponent of what is no number is all ones.
fn of_bytes(dtype: Dtype, data: &[u8]) -> Count {
    match dtype {
        Dtype::F16 => beyond(data, |b| u16::from_le_bytes(b) & 0x7fff, 0x7c00),
        Dtype::Bf16 => beyond(data, |b| u16::from_le_bytes(b) & 0x7fff, 0x7f80),
        Dtype::F32 => beyond(data, |b| u32::from_le_bytes(b) & 0x7fff_ffff, 0x7f80_0000),
        Dtype::F64 => beyond(
            data,
            |b| u64::from_le_bytes(b) & (u64::MAX >> 1),
            0x7ff << 52,
        ),
        _ => Count::default(),
    }
}

/// `magnitude` gives the bits without the sign, which are in the order of the values; `infinite` are those of infinity.
fn beyond<const N: usize, T: Ord + Copy>(
    data: &[u8],
    magnitude: impl Fn([u8; N]) -> T,
    infinite: T,
) -> Count {
    let mut count = Count::default();
    for bytes in data.as_chunks::<N>().0 {
        let value = magnitude(*bytes);
        count.nan += usize::from(value > infinite);
        count.infinite += usize::from(value == infinite);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::from_f32;

    #[test]
    fn what_is_no_number_is_counted_in_every_type() {
        let values = [
            1.0,
            f32::NAN,
            -0.0,
            f32::INFINITY,
            -f32::NAN,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        let expected = Count {
            nan: 3,
            infinite: 2,
        };
        for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64] {
            let data = from_f32(dtype, &values).unwrap();
            assert_eq!(of_bytes(dtype, &data), expected, "{dtype}");
            let largest = from_f32(dtype, &[60000.0, -60000.0, 1e-7, 0.0]).unwrap();
            assert_eq!(of_bytes(dtype, &largest), Count::default(), "{dtype}");
        }
        assert_eq!(of_bytes(Dtype::I32, &[0xff; 8]), Count::default());
    }
}
