//! Integers and booleans of a checkpoint that no constant is filled from: whether the graph holds them with other values.
//!
//! A mask or a table of indices is written into the graph when the model is exported, by which engines fold it into what reads it. Without
//! a base nothing says whose it is; where the graph has one of its extents and none with its values, a change of it would be lost.

use crate::mapping::types::{
    Accounts, Checkpoint, Error, Held, Mapping, Row, Why, held_bytes, squeezed,
};
use crate::tensor::{Dtype, TensorView, to_f32};

/// Fewer elements may be sizes or axes that a graph happens to hold as many of.
const FEWEST: usize = 8;

/// Marks the leftovers that are lost.
///
/// # Errors
/// [`Error::NotHeld`].
pub(super) fn mark_lost(
    mapping: &Mapping,
    held: &dyn Held,
    new: &dyn Checkpoint,
    accounts: &mut Accounts,
) -> Result<(), Error> {
    let integers = |row: &&Row| !row.dtype.is_float() && row.count() >= FEWEST;
    let rows: Vec<&Row> = mapping.rows.iter().filter(integers).collect();
    for leftover in &mut accounts.leftovers {
        if leftover.why != Why::NotFloat {
            continue;
        }
        let Some((_, shape)) = new.describe(&leftover.name) else {
            continue;
        };
        let mut alike = rows
            .iter()
            .filter(|row| is_corner(&row.shape, shape))
            .peekable();
        if alike.peek().is_none() {
            continue;
        }
        let Some(tensor) = new.read(&leftover.name) else {
            continue;
        };
        let mut found = false;
        for row in alike {
            found |= has_values(row, held, tensor.view())?;
        }
        if !found {
            leftover.why = Why::Unreached;
        }
    }
    Ok(())
}

/// Whether a constant of the extents `own` may be what an export took of a tensor: all of it, or of a matrix the first rows and columns, as
/// of a mask for longer inputs.
fn is_corner(own: &[usize], tensor: &[usize]) -> bool {
    let (own, tensor) = (squeezed(own), squeezed(tensor));
    own == tensor
        || (own.len() > 1
            && own.len() == tensor.len()
            && own.iter().zip(&tensor).all(|(a, b)| a <= b))
}

/// Whether the corner of `tensor` that is as large as `row` has its values; as truth values where it holds such.
fn has_values(row: &Row, held: &dyn Held, tensor: TensorView<'_>) -> Result<bool, Error> {
    let bytes = held_bytes(row, held)?;
    let (Ok(own), Ok(all)) = (to_f32(row.dtype, &bytes), to_f32(tensor.dtype, tensor.data)) else {
        // Packed integers are not read: they may be anything.
        return Ok(true);
    };
    let (extents, whole) = (squeezed(&row.shape), squeezed(tensor.shape));
    let place = |mut i: usize| {
        let (mut at, mut step) = (0, 1);
        for (extent, of) in extents.iter().zip(&whole).rev() {
            at += i % extent * step;
            i /= extent;
            step *= of;
        }
        at
    };
    let same = |a: f32, b: f32| match row.dtype {
        Dtype::Bool => (a != 0.0) == (b != 0.0),
        _ => a == b,
    };
    Ok((own.iter().enumerate()).all(|(i, v)| same(*v, all[place(i)])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corner_is_all_or_the_first_of_a_matrix() {
        assert!(is_corner(&[1, 6, 6], &[6, 6]));
        assert!(is_corner(&[6, 4], &[1, 1, 8, 8]));
        assert!(!is_corner(&[9, 4], &[8, 8]));
        // A shorter vector of indices is another's.
        assert!(is_corner(&[8], &[8]) && !is_corner(&[8], &[16]));
    }
}
