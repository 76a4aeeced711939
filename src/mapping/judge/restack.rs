//! Queries, keys and values that are stacked in another order than the model's: whole (`[3, heads, size]`) or head by head (`[heads, 3,
//! size]`). Names and shapes are the same, so that only the values tell.

use crate::mapping::derive::cosine;
use crate::mapping::types::{Recipe, Row, Step};
use crate::tensor::to_f32;

/// What names of such tensors have in them.
const STACKED: [&str; 4] = ["qkv", "query_key_value", "in_proj", "c_attn"];
/// Sizes that heads have.
const SIZES: [usize; 14] = [8, 16, 24, 32, 40, 48, 64, 72, 80, 96, 112, 128, 160, 256];
/// A change of the held value has such a cosine with it, and what was restacked has in the right order.
const ALIKE: f64 = 0.5;
/// By so much one order has to be nearer than the other. Of unrelated values both cosines are near 0.
const NEARER: f64 = 0.25;
/// Of fewer elements a cosine says nothing.
const FEWEST: usize = 192;
/// Columns of a matrix that are compared: each has all rows.
const COLUMNS: usize = 16;

/// Whether a derivation reads one tensor that may be such a stack, as far as its name tells.
pub(super) fn may_be_stacked(recipe: &Recipe) -> bool {
    let Recipe::Tensor { source, .. } = recipe else {
        return false;
    };
    let name = source.to_ascii_lowercase();
    STACKED.iter().any(|stacked| name.contains(stacked))
}

/// The size of a head where `new` is clearly nearer to `held`, the values of `row`, in the other order of the stack.
pub(super) fn other_order(row: &Row, recipe: &Recipe, held: &[u8], new: &[u8]) -> Option<usize> {
    let is_turned = match recipe {
        Recipe::Tensor { steps, .. } => {
            let orders = steps.iter().filter(|s| matches!(s, Step::Permute { .. }));
            orders.count() % 2 == 1
        }
        _ => return None,
    };
    let (rows, columns, turned) = match (row.shape[..].as_ref(), is_turned) {
        (&[rows], false) => (rows, 1, false),
        (&[rows, columns], false) => (rows, columns, false),
        (&[columns, rows], true) => (rows, columns, true),
        _ => return None,
    };
    if !rows.is_multiple_of(3) || rows * columns.min(COLUMNS) < FEWEST {
        return None;
    }
    let values = |bytes: &[u8]| sampled(row, bytes, rows, columns, turned);
    let (held, new) = (values(held)?, values(new)?);
    let plain = cosine(&held, &new);
    let each = rows / 3;
    let sizes = SIZES
        .into_iter()
        .filter(|d| each.is_multiple_of(*d) && each > *d);
    let near = sizes.map(|d| {
        let heads = each / d;
        // Where the head by head order has the rows of the whole one.
        let from: Vec<usize> = (0..rows)
            .map(|row| {
                let (part, head, at) = (row / each, row % each / d, row % d);
                (head * 3 + part) * d + at
            })
            .collect();
        debug_assert_eq!(heads * d, each);
        let restacked = |of: &[f32]| -> Vec<f32> {
            let column = |c: usize| from.iter().map(move |&r| c * rows + r);
            let all = (0..of.len() / rows).flat_map(column);
            all.map(|at| of[at]).collect()
        };
        let (a, b) = (restacked(&new), restacked(&held));
        (d, cosine(&held, &a).max(cosine(&b, &new)))
    });
    let (size, best) = near.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (best >= ALIKE && best >= plain + NEARER).then_some(size)
}

/// Some columns of a matrix of `rows` rows, each after the other.
fn sampled(row: &Row, bytes: &[u8], rows: usize, columns: usize, turned: bool) -> Option<Vec<f32>> {
    let width = row.dtype.bits() / 8;
    let count = columns.min(COLUMNS);
    let mut picked = Vec::with_capacity(rows * count * width);
    for column in (0..count).map(|i| i * columns / count) {
        for r in 0..rows {
            let at = if turned {
                column * rows + r
            } else {
                r * columns + column
            };
            picked.extend_from_slice(bytes.get(at * width..(at + 1) * width)?);
        }
    }
    to_f32(row.dtype, &picked).ok()
}
