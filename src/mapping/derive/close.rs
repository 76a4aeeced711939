//! How near a new value is to what the ONNX file holds: samples to choose among candidates cheaply, and full measures to
//! judge the chosen one.
//!
//! A changed tensor is taken for the successor of a held one when the change is small, or of low rank, or when the two
//! still point the same way far beyond chance. Independent tensors of n elements have cosines of about 1/√n, and their
//! difference has full rank.
//!
//! The effective rank of a change: a LoRA shows itself by a rank far below what the matrix could have.
//!
//! A randomised range finder (Halko, Martinsson and Tropp, "Finding structure with randomness", 2011, algorithm 4.1): the
//! change times a few random columns spans its range when its rank is smaller than their number.

use crate::mapping::types::squeezed;
use crate::tensor::{Dtype, TensorView};
use half::{bf16, f16};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

/// Elements that a sample takes; cosines of samples are off by about 1/√4096.
const SAMPLE: usize = 4096;
/// A relative change up to this is small: those of fine-tunes and of most LoRAs are.
const SMALL: f64 = 0.3;
/// Cosine from which, with [`DEVIATIONS`], two tensors are related.
const RELATED: f64 = 0.5;
/// How many standard deviations of chance the cosine must be away from 0.
const DEVIATIONS: f64 = 10.0;
/// Fewer elements are never compared by closeness.
pub(in crate::mapping) const FEWEST: usize = 4;
/// A candidate is clearly closer when its cosine is higher by this.
pub(in crate::mapping) const CLEARLY: f64 = 0.1;
/// Without a name, the best candidate must lead by this.
pub(in crate::mapping) const LEAD: f64 = 0.25;
/// Part of a change's energy that may be left when it is explained by one factor per channel.
const EXPLAINED: f64 = 0.1;

/// Positions (flat, row-major) that are sampled of a tensor of `count` elements: all, or one out of each equal stretch.
pub(in crate::mapping) fn positions(count: usize) -> Vec<usize> {
    if count <= SAMPLE {
        return (0..count).collect();
    }
    (0..SAMPLE)
        .map(|i| {
            let (from, to) = (i * count / SAMPLE, (i + 1) * count / SAMPLE);
            // At a hashed place in each: an even step may be a multiple of the rows, and would sample one column.
            let hash = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
            from + hash as usize % (to - from)
        })
        .collect()
}

/// One element as f32; none for types without a plain float.
fn element(dtype: Dtype, data: &[u8], at: usize) -> Option<f32> {
    fn word<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
        data.get(at * N..(at + 1) * N)?.try_into().ok()
    }
    Some(match dtype {
        Dtype::F32 => f32::from_le_bytes(word(data, at)?),
        Dtype::F64 => f64::from_le_bytes(word(data, at)?) as f32,
        Dtype::F16 => f16::from_le_bytes(word(data, at)?).to_f32(),
        Dtype::Bf16 => bf16::from_le_bytes(word(data, at)?).to_f32(),
        _ => return None,
    })
}

/// Samples `view` as it would stand after its squeezed axes were put in `order`.
pub(in crate::mapping) fn sample(view: TensorView<'_>, order: &[usize]) -> Option<Vec<f32>> {
    let from = squeezed(view.shape);
    let count: usize = from.iter().product();
    let mut strides = vec![1; from.len()];
    for a in (1..from.len()).rev() {
        strides[a - 1] = strides[a] * from[a];
    }
    positions(count)
        .into_iter()
        .map(|flat| {
            let (mut rest, mut at) = (flat, 0);
            for &axis in order.iter().rev() {
                at += rest % from[axis] * strides[axis];
                rest /= from[axis];
            }
            element(view.dtype, view.data, at)
        })
        .collect()
}

/// Cosine of the angle between two samples; 0 where one is zero or not finite.
pub(in crate::mapping) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let (mut aa, mut bb, mut ab) = (0f64, 0f64, 0f64);
    for (&x, &y) in a.iter().zip(b) {
        let (x, y) = (f64::from(x), f64::from(y));
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    let cosine = ab / (aa.sqrt() * bb.sqrt());
    if cosine.is_finite() { cosine } else { 0.0 }
}

/// How a new value relates to the held one, over all elements.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::mapping) struct Measure {
    /// ‖new − held‖ / ‖held‖; infinite where `held` is zero.
    pub relative: f64,
    /// Cosine of the angle.
    pub cosine: f64,
    /// The change is one factor per channel, for the most part.
    pub proportional: bool,
    /// Effective rank of the change and what it could have; looked for only when the change is not small.
    pub rank: Option<(usize, usize)>,
    count: usize,
}

impl Measure {
    /// Measures `new` against `held`, both of `shape`. Buffers: the two, nothing more of their size.
    pub fn of(held: &[f32], new: Vec<f32>, shape: &[usize]) -> Measure {
        let energy = |v: &[f32]| v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        let squares = new.iter().zip(held).map(|(n, h)| f64::from(n - h).powi(2));
        let (changed, old, now) = (squares.sum::<f64>(), energy(held), energy(&new));
        let relative = (changed / old).sqrt();
        let relative = if relative.is_nan() {
            f64::INFINITY
        } else {
            relative
        };
        let cosine = cosine(held, &new);
        let proportional = changed > 0.0 && explained(held, &new, shape, changed);
        let flat = squeezed(shape);
        let mut rank = None;
        if relative > SMALL && flat.len() >= 2 {
            let rows = flat[0];
            let columns = held.len() / rows.max(1);
            let mut change = new;
            for (n, h) in change.iter_mut().zip(held) {
                *n -= h;
            }
            // Rounding to a half type leaves noise of full rank; it is relative to the new value, not to the change.
            let noise = 4e-3 * (now / changed).sqrt();
            // Half of three is one: whether so small a matrix is of low rank says nothing.
            let full = rows.min(columns);
            rank = effective_rank(&change, rows, columns, noise.clamp(1e-3, 0.05))
                .filter(|_| full >= 4)
                .map(|r| (r, full));
        }
        Measure {
            relative,
            cosine,
            proportional,
            rank,
            count: held.len(),
        }
    }

    /// Whether the new value is recognisably a change of the held one.
    pub fn is_close(&self) -> bool {
        let related =
            self.cosine >= RELATED && self.cosine * (self.count as f64).sqrt() >= DEVIATIONS;
        self.count >= FEWEST
            && !self.proportional
            && (self.relative <= SMALL || self.rank.is_some() || related)
    }
}

/// Whether `new` is, for the most part, `held` times one factor for each index of one of the first two axes (or one factor
/// for all): what a folded scale looks like.
fn explained(held: &[f32], new: &[f32], shape: &[usize], changed: f64) -> bool {
    let mut groupings = vec![(1, held.len())];
    for axis in 0..shape.len().min(2) {
        let inner: usize = shape[axis + 1..].iter().product();
        groupings.push((shape[axis], inner));
    }
    groupings.into_iter().any(|(channels, inner)| {
        // One factor explains a few elements whatever they are.
        if channels == 0 || inner == 0 || held.len() / channels < FEWEST {
            return false;
        }
        let channel = |i: usize| {
            if channels == 1 {
                0
            } else {
                i / inner % channels
            }
        };
        let (mut hh, mut hn) = (vec![0f64; channels], vec![0f64; channels]);
        for (i, (&h, &n)) in held.iter().zip(new).enumerate() {
            let (h, n) = (f64::from(h), f64::from(n));
            hh[channel(i)] += h * h;
            hn[channel(i)] += h * n;
        }
        let left: f64 = held
            .iter()
            .zip(new)
            .enumerate()
            .map(|(i, (&h, &n))| {
                let c = channel(i);
                let factor = if hh[c] > 0.0 { hn[c] / hh[c] } else { 0.0 };
                (f64::from(n) - factor * f64::from(h)).powi(2)
            })
            .sum();
        left <= EXPLAINED * changed
    })
}

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
    if left_in_some(change, &directions[..limit.min(directions.len())], columns) > allowed {
        return None;
    }
    let mut left = total;
    for (found, q) in directions.iter().enumerate().take(limit) {
        left -= energy(change, q, columns);
        if left <= allowed {
            return Some(found + 1);
        }
    }
    None
}

/// What `directions` leave of some of the columns, as energy: no more than they leave of all. A change of full rank leaves most of it,
/// and need not be held against each direction.
fn left_in_some(change: &[f32], directions: &[Vec<f64>], columns: usize) -> f64 {
    const SOME: usize = 32;
    let some = SOME.min(columns);
    let at = |i: usize| i * columns / some;
    let mut products = vec![0f64; directions.len() * some];
    let (mut total, mut values) = (0f64, [0f64; SOME]);
    for (r, row) in change.chunks_exact(columns).enumerate() {
        for (i, value) in values[..some].iter_mut().enumerate() {
            *value = f64::from(row[at(i)]);
            total += *value * *value;
        }
        for (q, products) in directions.iter().zip(products.chunks_exact_mut(some)) {
            for (p, &value) in products.iter_mut().zip(&values) {
                *p += q[r] * value;
            }
        }
    }
    total - products.iter().map(|p| p * p).sum::<f64>()
}

/// Rows that are multiplied at a time: the random columns are far larger than a core's first cache, and are read once for all of these.
const TOGETHER: usize = 4;

/// Orthonormal directions that span `change` times `probes` random columns.
fn range(change: &[f32], rows: usize, columns: usize, probes: usize) -> Vec<Vec<f64>> {
    // A fixed seed: the same files are judged the same each time.
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0x7274_6d75_7400);
    let random: Vec<f32> = (0..columns * probes)
        .map(|_| StandardNormal.sample(&mut rng))
        .collect();
    let mut product = vec![0f32; rows * probes];
    product
        .par_chunks_mut(TOGETHER * probes)
        .zip(change.par_chunks(TOGETHER * columns))
        .for_each(|(out, some)| {
            for (c, probe) in random.chunks_exact(probes).enumerate() {
                for (out, row) in out.chunks_exact_mut(probes).zip(some.chunks_exact(columns)) {
                    let value = row[c];
                    for (o, &p) in out.iter_mut().zip(probe) {
                        *o += value * p;
                    }
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

/// ‖qᵀ·change‖²: the part of the change that lies along `q`.
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
    use rand::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| StandardNormal.sample(&mut rng)).collect()
    }

    #[test]
    fn a_large_low_rank_change_is_close_and_a_foreign_tensor_is_not() {
        let (held, a, b) = (random(48 * 48, 1), random(48 * 4, 2), random(4 * 48, 3));
        let new: Vec<f32> = (0..48 * 48)
            .map(|i| {
                let d: f32 = (0..4).map(|k| a[i / 48 * 4 + k] * b[k * 48 + i % 48]).sum();
                held[i] + 2.0 * d
            })
            .collect();
        let m = Measure::of(&held, new, &[48, 48]);
        assert!(
            m.relative > 1.0 && m.rank == Some((4, 48)) && m.is_close(),
            "{m:?}"
        );
        let foreign = random(48 * 48, 4);
        assert!(!Measure::of(&held, foreign, &[48, 48]).is_close());
        let turned: Vec<f32> = (0..48 * 48).map(|i| held[i % 48 * 48 + i / 48]).collect();
        assert!(!Measure::of(&held, turned, &[48, 48]).is_close());
    }

    #[test]
    fn a_folded_scale_is_not_close() {
        let base = random(16 * 9, 5);
        let held: Vec<f32> = base
            .iter()
            .enumerate()
            .map(|(i, v)| v * (0.9 + 0.02 * (i / 9) as f32))
            .collect();
        let m = Measure::of(&held, base, &[16, 1, 3, 3]);
        assert!(
            m.relative < SMALL && m.proportional && !m.is_close(),
            "{m:?}"
        );
    }

    #[test]
    fn a_small_change_of_full_rank_is_close() {
        let held = random(256, 6);
        let new: Vec<f32> = held
            .iter()
            .zip(random(256, 7))
            .map(|(h, n)| h + 0.05 * n)
            .collect();
        assert!(Measure::of(&held, new.clone(), &[16, 16]).is_close());
        assert!(!Measure::of(&held[..2], new[..2].to_vec(), &[2]).is_close());
        assert!(!Measure::of(&[0.0; 16], new[..16].to_vec(), &[16]).is_close());
    }

    #[test]
    fn samples_follow_the_order_of_axes() {
        let data: Vec<u8> = (0u8..6).flat_map(|v| f32::from(v).to_le_bytes()).collect();
        let view = TensorView {
            dtype: Dtype::F32,
            shape: &[2, 1, 3],
            data: &data,
        };
        assert_eq!(
            sample(view, &[0, 1]).unwrap(),
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        );
        assert_eq!(
            sample(view, &[1, 0]).unwrap(),
            [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
        );
        assert_eq!(positions(10_000).len(), SAMPLE);
        assert!(positions(10_000).is_sorted());
    }

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
