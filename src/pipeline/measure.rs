//! How far changed tensors moved: a fixed sample of each says which moved most, and those are measured whole.
//!
//! A sample is some small tiles of the tensor as a matrix of `[first extent, the rest]`, always the same ones, so that a report does
//! not change from run to run. It reads a few hundred stretches of both files instead of all of them.

use crate::diff::{self, TensorChange};
use crate::fsx::Map;
use crate::mapping::{Recipe, Step};
use crate::tensor::{Dtype, TensorView, to_f32};
use rayon::prelude::*;
use std::ops::Range;

/// Tensors of no more elements are looked at as wholes.
const SMALL: usize = 1 << 14;
/// Tiles of a sample: every one of so many parts of either axis has one.
const TILES: usize = 6;
/// Rows and columns of a tile.
const SIDE: usize = 24;
/// Bytes of buffers of tensors that are measured at the same time, unless one alone needs more.
const AT_ONCE: usize = 128 << 20;
/// What measuring one element takes, in bytes: both versions, the new one before it was laid out, and their difference as f32.
const PER_ELEMENT: usize = 16;

/// A tensor, by which its size and its estimate are known, and how to get at both versions of it.
pub(super) trait Pair: Sync {
    fn count(&self) -> usize;

    /// ‖new − old‖ / ‖old‖ over the sample; `None` where the old bytes are not at hand.
    fn estimate(&self) -> Option<f64>;

    /// Both versions whole, measured.
    fn measure(&self) -> Option<TensorChange>;
}

/// What is known of how far a tensor moved.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Moved {
    /// ‖new − old‖ / ‖old‖ over a sample of the elements.
    pub estimate: Option<f64>,
    /// Over all of them, for those that were measured.
    pub change: Option<TensorChange>,
}

/// Measures the `most` pairs that moved most by their samples, all of them without a number.
pub(super) fn measure<P: Pair>(pairs: &[P], most: Option<usize>) -> Vec<Moved> {
    if most == Some(0) {
        return vec![Moved::default(); pairs.len()];
    }
    let estimates: Vec<Option<f64>> = match most {
        Some(_) => pairs.par_iter().map(Pair::estimate).collect(),
        // Where all are measured there is nothing to choose.
        None => vec![None; pairs.len()],
    };
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    // Those without an estimate come last: their old bytes are not at hand.
    order.sort_by(|&a, &b| {
        let size = |i: usize| estimates[i].unwrap_or(-1.0);
        size(b).total_cmp(&size(a))
    });
    order.truncate(most.unwrap_or(usize::MAX));
    let mut moved: Vec<Moved> = (estimates.into_iter())
        .map(|estimate| Moved {
            estimate,
            change: None,
        })
        .collect();
    let mut rest = &order[..];
    while !rest.is_empty() {
        let mut sum = 0;
        let fit = rest.iter().take_while(|&&i| {
            sum += PER_ELEMENT * pairs[i].count();
            sum <= AT_ONCE
        });
        let (run, later) = rest.split_at(fit.count().max(1));
        let changes: Vec<Option<TensorChange>> =
            run.par_iter().map(|&i| pairs[i].measure()).collect();
        for (&i, change) in run.iter().zip(changes) {
            moved[i].change = change;
        }
        rest = later;
    }
    moved
}

pub(super) fn whole(old: TensorView<'_>, new: TensorView<'_>) -> Option<TensorChange> {
    diff::change(old, new).ok()
}

/// The estimate from two versions that are at hand.
pub(super) fn by_values(old: TensorView<'_>, new: TensorView<'_>) -> Option<f64> {
    let (rows, columns) = as_matrix(old.shape);
    if rows * columns <= SMALL {
        return Some(ratio(
            &to_f32(old.dtype, old.data).ok()?,
            &to_f32(new.dtype, new.data).ok()?,
        ));
    }
    let (mut was, mut is) = (Vec::new(), Vec::new());
    for tile in tiles(rows, columns) {
        for (view, into) in [(old, &mut was), (new, &mut is)] {
            let width = view.dtype.bits() / 8;
            for row in tile.0.clone() {
                let at = (row * columns + tile.1.start) * width;
                let bytes = view.data.get(at..at + tile.1.len() * width)?;
                into.extend(to_f32(view.dtype, bytes).ok()?);
            }
        }
    }
    Some(ratio(&was, &is))
}

/// A tensor in a file, as the matrix `[rows, columns]` or as that transposed.
pub(super) struct Placed<'m> {
    pub map: &'m Map,
    pub range: Range<usize>,
    pub dtype: Dtype,
    pub transposed: bool,
}

/// The estimate from two files, of which only the sample is read. `None` where `shape` is small, or its elements have no bytes of
/// their own.
pub(super) fn by_places(shape: &[usize], old: &Placed<'_>, new: &Placed<'_>) -> Option<f64> {
    let (rows, columns) = as_matrix(shape);
    let fits = |p: &Placed<'_>| p.dtype.bytes_for(rows * columns) == Some(p.range.len());
    if rows * columns <= SMALL || old.dtype.bits() < 8 || !fits(old) || !fits(new) {
        return None;
    }
    let (mut was, mut is) = (Vec::new(), Vec::new());
    for tile in tiles(rows, columns) {
        was.extend(old.tile(&tile, rows, columns)?);
        is.extend(new.tile(&tile, rows, columns)?);
    }
    Some(ratio(&was, &is))
}

type Tile = (Range<usize>, Range<usize>);

impl Placed<'_> {
    /// The values of a tile, row by row.
    fn tile(&self, tile: &Tile, rows: usize, columns: usize) -> Option<Vec<f32>> {
        let width = self.dtype.bits() / 8;
        let (lines, along, stride) = if self.transposed {
            (&tile.1, &tile.0, rows)
        } else {
            (&tile.0, &tile.1, columns)
        };
        let mut bytes = vec![0; along.len() * width];
        let mut values = Vec::with_capacity(tile.0.len() * tile.1.len());
        for line in lines.clone() {
            let at = self.range.start + (line * stride + along.start) * width;
            self.map.copy_to(at, &mut bytes);
            values.extend(to_f32(self.dtype, &bytes).ok()?);
        }
        if !self.transposed {
            return Some(values);
        }
        let (wide, high) = (tile.1.len(), tile.0.len());
        let turned = (0..high).flat_map(|r| (0..wide).map(move |c| (r, c)));
        Some(turned.map(|(r, c)| values[c * high + r]).collect())
    }
}

/// Whether a derivation is the tensor as it is, or a matrix transposed; `None` for any other.
pub(super) fn turned(recipe: &Recipe, shape: &[usize]) -> Option<(String, bool)> {
    let Recipe::Tensor { source, steps } = recipe else {
        return None;
    };
    let squeezed = |s: &[usize]| -> Vec<usize> { s.iter().copied().filter(|&d| d != 1).collect() };
    let mut transposed = false;
    for step in steps {
        match step {
            Step::Reshape { .. } => {}
            Step::Permute { order } if order.is_sorted() => {}
            Step::Permute { order } if order[..] == [1, 0] => transposed = !transposed,
            _ => return None,
        }
    }
    // What is transposed and then laid out under another shape is no matrix any more.
    (!transposed || squeezed(shape).len() == 2).then(|| (source.clone(), transposed))
}

fn as_matrix(shape: &[usize]) -> (usize, usize) {
    let count: usize = shape.iter().product();
    let rows = (shape.iter().copied().find(|&d| d != 1))
        .unwrap_or(1)
        .max(1);
    (rows, count / rows)
}

/// Tiles of a matrix: their rows and columns.
fn tiles(rows: usize, columns: usize) -> impl Iterator<Item = Tile> {
    let part = |extent: usize, numerator: usize| {
        let side = SIDE.min(extent);
        let start = (extent - side) * numerator / (TILES - 1);
        start..start + side
    };
    // Five and six have no common divisor, so that every part of both axes has one tile.
    (0..TILES).map(move |i| (part(rows, i), part(columns, (i * 5 + 2) % TILES)))
}

fn ratio(old: &[f32], new: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let moved: f64 = (old.iter().zip(new))
        .map(|(&o, &n)| square(f64::from(n) - f64::from(o)))
        .sum();
    let size: f64 = old.iter().map(|&o| square(f64::from(o))).sum();
    let ratio = (moved / if size > 0.0 { size } else { 1.0 }).sqrt();
    // What became no number moved most of all.
    if ratio.is_nan() { f64::INFINITY } else { ratio }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Tensor, transpose};

    fn matrix(rows: usize, columns: usize, factor: f32) -> Tensor {
        let value = |i: usize| ((i * 2_654_435_761) % 1000) as f32 * factor;
        Tensor {
            dtype: Dtype::F32,
            shape: vec![rows, columns],
            data: (0..rows * columns)
                .flat_map(|i| value(i).to_le_bytes())
                .collect(),
        }
    }

    #[test]
    fn a_sample_is_inside_and_the_same_wherever_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for (rows, columns) in [(300, 200), (20, 4000), (100_000, 1), (1, 70_000)] {
            let (old, new) = (matrix(rows, columns, 1.0), matrix(rows, columns, 1.5));
            let by_values = by_values(old.view(), new.view()).unwrap();
            assert!(
                (by_values - 0.5).abs() < 1e-6,
                "{rows}x{columns}: {by_values}"
            );
            let (a, b) = (dir.path().join("a"), dir.path().join("b"));
            std::fs::write(&a, &old.data).unwrap();
            std::fs::write(&b, transpose(new.view()).unwrap()).unwrap();
            let (a, b) = (Map::open(a).unwrap(), Map::open(b).unwrap());
            let place = |map, transposed| Placed {
                map,
                range: 0..old.data.len(),
                dtype: Dtype::F32,
                transposed,
            };
            let by_places = by_places(&old.shape, &place(&a, false), &place(&b, true)).unwrap();
            assert!((by_places - by_values).abs() < 1e-12);
        }
    }

    #[test]
    fn those_that_moved_most_are_measured() {
        struct Of(Tensor, Tensor);
        impl Pair for Of {
            fn count(&self) -> usize {
                1
            }
            fn estimate(&self) -> Option<f64> {
                by_values(self.0.view(), self.1.view())
            }
            fn measure(&self) -> Option<TensorChange> {
                whole(self.0.view(), self.1.view())
            }
        }
        let pairs: Vec<Of> = [1.1, 3.0, 1.0, 2.0]
            .map(|factor| Of(matrix(8, 9, 1.0), matrix(8, 9, factor)))
            .into();
        let measured = |most| -> Vec<bool> {
            let moved = measure(&pairs, most);
            moved.iter().map(|m| m.change.is_some()).collect()
        };
        assert_eq!(measured(Some(2)), [false, true, false, true]);
        assert_eq!(measured(Some(0)), [false; 4]);
        assert_eq!(measured(None), [true; 4]);
    }
}
