//! Constants that are one tensor after a function of each element: scaled, shifted by one, the exponential of it.

use super::literal::is_typed;
use super::value::Relation;
use crate::mapping::types::{Factor, Step, squeezed};
use crate::tensor::{Dtype, TensorView, from_f32, permute, to_f32};

/// Elements by which a function is ruled out before all are compared.
const SAMPLE: usize = 64;
/// A factor from fewer elements may be chance.
const FEWEST: usize = 8;
/// Units in the last place by which an exponential or a quotient may differ between libraries.
const MAX_ULP: u32 = 2;

/// One function and how far its values are from the constant's.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::mapping) struct Found {
    /// After the order of axes.
    pub steps: Vec<Step>,
    /// Largest distance in units in the last place; 0 where bit-equal.
    pub max_ulp: u32,
}

/// The functions of `source`, in the order of axes that `relation` says, that give `held` (as f32 in its own order, of a constant of
/// `dtype`).
pub(in crate::mapping) fn functions(
    source: TensorView<'_>,
    relation: &Relation,
    held_values: &[f32],
    dtype: Dtype,
) -> Vec<Found> {
    let Some(values) = laid_out(source, relation) else {
        return Vec::new();
    };
    if values.len() != held_values.len() || values.is_empty() {
        return Vec::new();
    }
    let candidates = candidates(&values, held_values, dtype);
    let mut found: Vec<Found> = (candidates.into_iter())
        .filter_map(|steps| {
            let max_ulp = agrees(&values, held_values, &steps, dtype)?;
            Some(Found { steps, max_ulp })
        })
        .collect();
    found.retain(|f| !is_own_norm(&f.steps, &values, dtype));
    one_factor(&mut found);
    found
}

/// Whether a factor is one over a norm of the tensor itself: then it moves with the tensor, however simple the number looks. In a half
/// type every number is near a simple one.
fn is_own_norm(steps: &[Step], values: &[f32], dtype: Dtype) -> bool {
    let [Step::Scale { factor }] = steps else {
        return false;
    };
    let tolerance = match dtype {
        Dtype::Bf16 => 8e-3,
        // Some add a small number to a norm before they divide by it.
        _ => 1e-3,
    };
    let n = values.len() as f64;
    let sum = |f: &dyn Fn(f64) -> f64| values.iter().map(|&v| f(f64::from(v))).sum::<f64>();
    let (absolute, squares, mean) = (sum(&f64::abs), sum(&|v| v * v), sum(&|v| v) / n);
    let largest = values.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
    let spread = (squares / n - mean * mean).max(0.0).sqrt();
    let norms = [
        squares.sqrt(),
        (squares / n).sqrt(),
        spread,
        absolute,
        absolute / n,
        largest,
    ];
    let k = f64::from(factor.get().abs());
    norms
        .into_iter()
        .any(|norm| (k * norm - 1.0).abs() <= tolerance)
}

/// Of neighbouring factors, which differ by roundings, keeps the nearest, and of those the one that somebody typed.
fn one_factor(found: &mut Vec<Found>) {
    let rank = |f: &Found| match f.steps[..] {
        [Step::Scale { factor }] => Some((f.max_ulp, !is_typed(factor.get()))),
        _ => None,
    };
    let best = found.iter().filter_map(rank).min();
    let mut kept = false;
    found.retain(|f| match rank(f) {
        None => true,
        own => own == best && !std::mem::replace(&mut kept, true),
    });
}

fn laid_out(source: TensorView<'_>, relation: &Relation) -> Option<Vec<f32>> {
    match relation {
        Relation::Order(order) if !order.is_sorted() => {
            let shape = squeezed(source.shape);
            let view = TensorView {
                dtype: source.dtype,
                shape: &shape,
                data: source.data,
            };
            to_f32(source.dtype, &permute(view, order).ok()?).ok()
        }
        _ => to_f32(source.dtype, source.data).ok(),
    }
}

/// Functions that one element suggests.
fn candidates(values: &[f32], held: &[f32], dtype: Dtype) -> Vec<Vec<Step>> {
    let mut all = vec![
        vec![Step::Exp],
        vec![
            Step::Exp,
            Step::Scale {
                factor: Factor::new(-1.0),
            },
        ],
    ];
    // Norms may keep `w` and multiply by `1 + w`.
    for k in [1.0, -1.0] {
        all.push(vec![Step::Offset {
            value: Factor::new(k),
        }]);
    }
    if values.len() >= FEWEST {
        // Of the largest element, whose quotient has lost the least to rounding.
        let largest =
            (0..values.len()).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()));
        if let Some(at) = largest.filter(|&at| values[at] != 0.0) {
            let guess = held[at] / values[at];
            if guess.is_finite() && guess != 0.0 && guess != 1.0 {
                for factor in factors(guess, dtype) {
                    all.push(vec![Step::Scale {
                        factor: Factor::new(factor),
                    }]);
                }
            }
        }
    }
    all
}

/// Factors that `guess`, one quotient of a constant of `dtype`, may stand for. A factor of many digits is none of them: it may itself
/// come from the tensor, as its norm or its largest value.
fn factors(guess: f32, dtype: Dtype) -> Vec<f32> {
    let digits = match dtype {
        Dtype::F16 => 3,
        Dtype::Bf16 => 2,
        _ => return single_factors(guess),
    };
    let g = f64::from(guess);
    let short = (0..digits).filter_map(|d| format!("{g:.d$e}").parse().ok());
    let root = (g * g).round().sqrt() * g.signum();
    let inverse = 1.0 / (1.0 / (g * g)).round().sqrt() * g.signum();
    let closed = [root, inverse].into_iter().map(|f| f as f32);
    let mut all: Vec<f32> = short.chain(closed).collect();
    all.retain(|f| f.is_finite() && *f != 0.0 && *f != 1.0);
    all
}

/// As [`factors`], in single precision: a typed number, or a root, a quotient or a fourth root of a small whole number, as
/// attention scales by them. There are so few of these that a norm is hardly ever one by chance.
fn single_factors(guess: f32) -> Vec<f32> {
    const LARGEST: f64 = 4096.0;
    let near = (-2i32..=2).map(|d| f32::from_bits(guess.to_bits().wrapping_add_signed(d)));
    let mut all: Vec<f32> = near.filter(|f| is_typed(*f)).collect();
    let g = f64::from(guess.abs());
    for power in [0.5, -0.5, 1.0, -1.0, 0.25, -0.25] {
        let whole = g.powf(1.0 / power).round();
        if (2.0..=LARGEST).contains(&whole) {
            let factor = whole.powf(power) as f32 * guess.signum();
            if factor.to_bits().abs_diff(guess.to_bits()) <= 2 && !all.contains(&factor) {
                all.push(factor);
            }
        }
    }
    all
}

/// One step on one value; none for steps that move elements.
pub(in crate::mapping) fn step(step: &Step, value: f32) -> Option<f32> {
    match step {
        Step::Scale { factor } => Some(value * factor.get()),
        Step::Offset { value: k } => Some(value + k.get()),
        // In f64 and rounded once: libraries differ in the last place of a single-precision exponential.
        Step::Exp => Some(f64::from(value).exp() as f32),
        _ => None,
    }
}

fn agrees(values: &[f32], held: &[f32], steps: &[Step], dtype: Dtype) -> Option<u32> {
    // A half type has too few places for a tolerance.
    let half = matches!(dtype, Dtype::F16 | Dtype::Bf16);
    let exact = half || steps.iter().all(|s| matches!(s, Step::Offset { .. }));
    let limit = if exact { 0 } else { MAX_ULP };
    let one = |i: usize| -> Option<u32> {
        let mut value = values[i];
        for s in steps {
            value = step(s, value)?;
        }
        if half {
            let bytes = from_f32(dtype, &[value]).ok()?;
            value = *to_f32(dtype, &bytes).ok()?.first()?;
        }
        ulps(value, held[i]).filter(|&u| u <= limit)
    };
    let stride = (values.len() / SAMPLE).max(1);
    for i in (0..values.len()).step_by(stride) {
        one(i)?;
    }
    let mut worst = 0;
    for i in 0..values.len() {
        worst = worst.max(one(i)?);
    }
    Some(worst)
}

/// Distance in representable values; none where the signs differ or one is not finite.
fn ulps(a: f32, b: f32) -> Option<u32> {
    if a == b {
        return Some(0);
    }
    if !a.is_finite() || !b.is_finite() || a.is_sign_negative() != b.is_sign_negative() {
        return None;
    }
    Some(a.to_bits().abs_diff(b.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32], held: &[f32]) -> Vec<Found> {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shape = [values.len()];
        let view = TensorView {
            dtype: Dtype::F32,
            shape: &shape,
            data: &data,
        };
        functions(view, &Relation::Order(vec![0]), held, Dtype::F32)
    }

    #[test]
    fn a_factor_is_found_once() {
        let w: Vec<f32> = (0u8..32).map(|i| 0.137 * f32::from(i) - 1.77).collect();
        for k in [2.0f32, 0.25, 0.37, -1.5] {
            let held: Vec<f32> = w.iter().map(|v| v * k).collect();
            let steps = vec![Step::Scale {
                factor: Factor::new(k),
            }];
            assert_eq!(of(&w, &held), [Found { steps, max_ulp: 0 }], "{k}");
        }
    }

    #[test]
    fn scaled_shifted_and_exponential_copies_are_found() {
        let w: Vec<f32> = (0u8..16).map(|i| 0.13 * f32::from(i) - 0.77).collect();
        let by = |f: fn(f32) -> f32| w.iter().map(|&v| f(v)).collect::<Vec<f32>>();
        for (held, step) in [
            (
                by(|v| v * 0.25),
                Step::Scale {
                    factor: Factor::new(0.25),
                },
            ),
            (
                by(|v| 1.0 + v),
                Step::Offset {
                    value: Factor::new(1.0),
                },
            ),
            (by(f32::exp), Step::Exp),
        ] {
            let found = of(&w, &held);
            assert!(
                found.iter().any(|f| f.steps[0] == step),
                "{step:?}: {found:?}"
            );
        }
        assert!(of(&w, &by(|v| v * v)).is_empty());
        assert!(of(&w, &by(|v| v / 3.712_648_1)).is_empty());
        // A simple number that is the tensor's own norm is a function of it.
        let unit: Vec<f32> = (0u8..64)
            .map(|i| if i % 2 == 0 { 0.5 } else { -0.5 })
            .collect();
        let turned: Vec<f32> = unit.iter().map(|v| v / 4.0).collect();
        assert!(of(&unit, &turned).is_empty());
        assert_eq!(of(&w, &by(|v| v * 768f32.sqrt())).len(), 1);
    }
}
