//! The effective rank of a change: a LoRA shows itself by a rank far below what the matrix could have.
//!
//! A randomised range finder (Halko, Martinsson and Tropp, "Finding structure with randomness", 2011, algorithm 4.1): the
//! change times a few random columns spans its range when its rank is smaller than their number.

use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

/// Ranks above this are reported as none.
pub const LARGEST_RANK: usize = 64;
/// Random columns beyond the largest rank, so that one just below is found exactly.
const SPARE: usize = 8;

/// The least number of directions that hold all of `change` (row-major, `rows` × `columns`) but the part `tolerance` of its
/// norm; none when that is more than [`LARGEST_RANK`] or more than half of what the shape allows, or when the change is zero
/// or not finite.
pub fn effective_rank(
    change: &[f32],
    rows: usize,
    columns: usize,
    tolerance: f64,
) -> Option<usize> {
    let full = rows.min(columns);
    let limit = (full / 2).min(LARGEST_RANK);
    let total: f64 = change.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    if limit == 0 || rows * columns != change.len() || total == 0.0 || !total.is_finite() {
        return None;
    }
    let allowed = tolerance * tolerance * total;
    let directions = range(change, rows, columns, (limit + SPARE).min(full));
    let mut left = total;
    for (found, q) in directions.iter().enumerate().take(limit) {
        left -= energy(change, q, columns);
        if left <= allowed {
            return Some(found + 1);
        }
    }
    None
}

/// Orthonormal directions that span `change` times `probes` random columns.
fn range(change: &[f32], rows: usize, columns: usize, probes: usize) -> Vec<Vec<f64>> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0x7274_6d75_7400);
    let random: Vec<f32> = (0..columns * probes)
        .map(|_| StandardNormal.sample(&mut rng))
        .collect();
    let mut product = vec![0f32; rows * probes];
    product
        .par_chunks_exact_mut(probes)
        .zip(change.par_chunks_exact(columns))
        .for_each(|(out, row)| {
            for (&value, probe) in row.iter().zip(random.chunks_exact(probes)) {
                for (o, &p) in out.iter_mut().zip(probe) {
                    *o += value * p;
                }
            }
        });
    let column = |p: usize| product.iter().skip(p).step_by(probes);
    orthonormal((0..probes).map(|p| column(p).map(|&v| f64::from(v)).collect()))
}

/// Modified Gram-Schmidt, twice for accuracy; columns that depend on earlier ones are dropped.
fn orthonormal(columns: impl Iterator<Item = Vec<f64>>) -> Vec<Vec<f64>> {
    let mut found: Vec<Vec<f64>> = Vec::new();
    for mut v in columns {
        let before = norm(&v);
        for _ in 0..2 {
            for q in &found {
                let d: f64 = q.iter().zip(&v).map(|(a, b)| a * b).sum();
                v.iter_mut().zip(q).for_each(|(x, y)| *x -= d * y);
            }
        }
        let after = norm(&v);
        // What is left of a dependent column is the rounding of f32 products.
        if after > 1e-5 * before {
            for x in &mut v {
                *x /= after;
            }
            found.push(v);
        }
    }
    found
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// ‖qᵀ·change‖².
fn energy(change: &[f32], q: &[f64], columns: usize) -> f64 {
    let product = change
        .par_chunks_exact(columns)
        .zip(q)
        .fold(
            || vec![0f64; columns],
            |mut sum, (row, &weight)| {
                for (s, &v) in sum.iter_mut().zip(row) {
                    *s += weight * f64::from(v);
                }
                sum
            },
        )
        .reduce(
            || vec![0f64; columns],
            |mut a, b| {
                a.iter_mut().zip(b).for_each(|(x, y)| *x += y);
                a
            },
        );
    product.iter().map(|p| p * p).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A product of random `rows × rank` and `rank × columns` factors.
    fn product(rows: usize, columns: usize, rank: usize, seed: u64) -> Vec<f32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut draw =
            |n: usize| -> Vec<f32> { (0..n).map(|_| StandardNormal.sample(&mut rng)).collect() };
        let (a, b) = (draw(rows * rank), draw(rank * columns));
        (0..rows * columns)
            .map(|i| {
                let (r, c) = (i / columns, i % columns);
                (0..rank)
                    .map(|k| a[r * rank + k] * b[k * columns + c])
                    .sum()
            })
            .collect()
    }

    #[test]
    fn planted_ranks_are_found() {
        for (rows, columns, rank) in [
            (12, 12, 4),
            (96, 48, 8),
            (8, 72, 2),
            (200, 300, 64),
            (4, 4, 1),
        ] {
            let m = product(rows, columns, rank, rank as u64);
            assert_eq!(
                effective_rank(&m, rows, columns, 1e-3),
                Some(rank),
                "{rows}x{columns}"
            );
        }
    }

    #[test]
    fn full_rank_zero_and_broken_changes_have_none() {
        let full = product(16, 16, 16, 9);
        assert_eq!(effective_rank(&full, 16, 16, 1e-3), None);
        assert_eq!(effective_rank(&[0.0; 64], 8, 8, 1e-3), None);
        assert_eq!(effective_rank(&[f32::NAN; 64], 8, 8, 1e-3), None);
        assert_eq!(effective_rank(&[1.0; 3], 3, 1, 1e-3), None);
    }
}
