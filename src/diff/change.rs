//! How far one tensor moved: for the report, it decides nothing.

use crate::mapping::effective_rank;
use crate::tensor::{ConvertError, TensorView, delta, difference};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorChange {
    /// Largest |new − old|; infinite where one of the two is not finite.
    pub max_abs: f64,
    /// ‖new − old‖ / ‖old‖ (Frobenius); ‖new‖ where `old` is zero.
    pub relative: f64,
    /// Effective rank of the change as a matrix of `[first extent, the rest]`, where it is at most half of what it could
    /// be: a LoRA shows itself by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// The largest rank that the change could have; none for vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_rank: Option<usize>,
}

/// Measures `new` against `old`, two tensors of the same shape (their types may differ). Memory: their difference as f32.
///
/// # Errors
/// As [`difference`].
pub fn change(old: TensorView<'_>, new: TensorView<'_>) -> Result<TensorChange, ConvertError> {
    let found = difference(new, old, 0.0, 0.0)?;
    let rows = old.shape.first().copied().unwrap_or(1);
    let count: usize = old.shape.iter().product();
    let columns = count.checked_div(rows).unwrap_or(0);
    let full_rank = rows.min(columns);
    let mut rank = None;
    // Every change of a vector has rank one, and where nothing moved there is none.
    if full_rank > 1 && found.max_abs > 0.0 {
        let delta = delta(new, old)?;
        // A half type rounds every element by up to 2⁻⁹ of it; that noise has full rank.
        let narrow = old.dtype.bits().min(new.dtype.bits()) < 32;
        let noise = if narrow { 4e-3 } else { 1e-6 };
        let tolerance = (noise / found.relative_l2.max(1e-12)).clamp(1e-3, 0.1);
        rank = effective_rank(&delta, rows, columns, tolerance);
    }
    Ok(TensorChange {
        max_abs: found.max_abs,
        relative: found.relative_l2,
        rank,
        full_rank: (full_rank > 1).then_some(full_rank),
    })
}

/// The block that a tensor sits in: its name up to the first number, `down_blocks.0` of
/// `down_blocks.0.attentions.1.to_q.weight`; without a number the first component.
pub fn block(name: &str) -> &str {
    let mut end = 0;
    for part in name.split('.') {
        let start = end;
        end = start + part.len();
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            return &name[..end];
        }
        end += 1;
    }
    name.split('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Dtype, Tensor};

    #[test]
    fn blocks_end_at_the_first_number() {
        assert_eq!(
            block("down_blocks.0.attentions.1.to_q.weight"),
            "down_blocks.0"
        );
        assert_eq!(block("encoder.layers.11.mlp.fc1.bias"), "encoder.layers.11");
        assert_eq!(block("conv_in.weight"), "conv_in");
        assert_eq!(block("scale"), "scale");
    }

    #[test]
    fn a_change_of_rank_one_is_seen_as_such() {
        let f32s = |v: Vec<f32>| Tensor {
            dtype: Dtype::F32,
            shape: vec![8, 8],
            data: v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        let old: Vec<f32> = (0..64u8).map(|i| f32::from(i % 7)).collect();
        let new = (old.iter().enumerate())
            .map(|(i, v)| v + (i / 8 + 1) as f32 * (i % 8 + 1) as f32)
            .collect();
        let (old, new) = (f32s(old), f32s(new));
        let found = change(old.view(), new.view()).unwrap();
        assert_eq!((found.rank, found.full_rank), (Some(1), Some(8)));
        assert_eq!(found.max_abs, 64.0);
        let same = change(old.view(), old.view()).unwrap();
        assert_eq!((same.max_abs, same.rank), (0.0, None));
    }
}
