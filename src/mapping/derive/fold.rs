//! A `BatchNorm` folded into a convolution, and a weight of a direction and a magnitude, as the exporters compute them.
//!
//! With s = γ/√(σ²+ε), rounded to f32 after each operation: kernel `W·s`, bias `β + (b − μ)·s`. That is the order of
//! onnxscript's `fuse_batchnorm` (bit-equal to it). TorchScript's result may be a few units in the last place away; which of its
//! roundings differs was not established.

/// What scales a channel.
#[derive(Debug, Clone, Copy)]
pub(in crate::mapping) struct Affine<'a> {
    pub scale: &'a [f32],
    pub variance: &'a [f32],
    pub epsilon: f32,
}

impl Affine<'_> {
    fn factors(self) -> Vec<f32> {
        (self.scale.iter().zip(self.variance))
            .map(|(g, v)| g / (v + self.epsilon).sqrt())
            .collect()
    }
}

/// Values of ε that are tried: torch's default, TensorFlow's, and what published models use.
pub(in crate::mapping) const EPSILONS: [f32; 8] = [1e-5, 1e-3, 1e-6, 1e-4, 2e-5, 1e-8, 1e-2, 1e-12];

/// Most units in the last place by which a recomputed fold may differ and still be the same fold: TorchScript's scale is up
/// to 2 away, and each of the two roundings after it adds a half.
pub(in crate::mapping) const MAX_ULP: u32 = 4;

/// `W·s` along `axis`; none when the lengths do not fit.
pub(in crate::mapping) fn kernel(
    values: &[f32],
    shape: &[usize],
    axis: usize,
    affine: Affine<'_>,
) -> Option<Vec<f32>> {
    let channels = *shape.get(axis)?;
    let inner: usize = shape[axis + 1..].iter().product();
    let fits = affine.scale.len() == channels
        && affine.variance.len() == channels
        && values.len() == shape.iter().product::<usize>();
    if !fits || inner == 0 {
        return None;
    }
    let s = affine.factors();
    Some(
        values
            .iter()
            .enumerate()
            .map(|(i, w)| w * s[i / inner % channels])
            .collect(),
    )
}

/// `β + (b − μ)·s`, with `b` zero where the convolution has none; none when the lengths differ.
pub(in crate::mapping) fn bias(
    own: Option<&[f32]>,
    shift: &[f32],
    mean: &[f32],
    affine: Affine<'_>,
) -> Option<Vec<f32>> {
    let n = affine.scale.len();
    let fits = shift.len() == n
        && mean.len() == n
        && affine.variance.len() == n
        && own.is_none_or(|b| b.len() == n);
    fits.then(|| {
        let s = affine.factors();
        (0..n)
            .map(|i| shift[i] + (own.map_or(0.0, |b| b[i]) - mean[i]) * s[i])
            .collect()
    })
}

/// `g · v/‖v‖`, with a norm for each index of `axis`, or one of all elements: in f64 and rounded once, since libraries sum squares in
/// different orders. None where the lengths do not fit, or a norm is zero.
pub(in crate::mapping) fn weight_norm(
    direction: &[f32],
    magnitude: &[f32],
    shape: &[usize],
    axis: Option<usize>,
) -> Option<Vec<f32>> {
    let (norms, inner) = match axis {
        Some(axis) => (*shape.get(axis)?, shape[axis + 1..].iter().product()),
        None => (1, direction.len()),
    };
    let fits = magnitude.len() == norms && direction.len() == shape.iter().product::<usize>();
    if !fits || norms == 0 || inner == 0 {
        return None;
    }
    let group = |i: usize| i / inner % norms;
    let mut squares = vec![0f64; norms];
    for (i, &v) in direction.iter().enumerate() {
        squares[group(i)] += f64::from(v) * f64::from(v);
    }
    if squares.contains(&0.0) {
        return None;
    }
    let factors: Vec<f64> = (squares.iter().zip(magnitude))
        .map(|(s, &g)| f64::from(g) / s.sqrt())
        .collect();
    let each = direction.iter().enumerate();
    Some(
        each.map(|(i, &v)| (f64::from(v) * factors[group(i)]) as f32)
            .collect(),
    )
}

/// Distance of two finite floats in units in the last place; none when signs differ (other than zeros) or one is not finite.
fn ulps(a: f32, b: f32) -> Option<u32> {
    if a == b {
        return Some(0);
    }
    let comparable = a.is_finite() && b.is_finite() && a.is_sign_positive() == b.is_sign_positive();
    comparable.then(|| a.to_bits().abs_diff(b.to_bits()))
}

/// Whether the first element, which is of the first channel, agrees: rules almost every foreign fold out at once.
/// `round` gives a number as the weight's type holds it.
pub(in crate::mapping) fn first_agrees(
    values: &[f32],
    held: &[f32],
    affine: Affine<'_>,
    round: &dyn Fn(f32) -> f32,
) -> bool {
    let first = |v: &[f32]| v.first().copied();
    match (
        first(values),
        first(held),
        first(affine.scale),
        first(affine.variance),
    ) {
        (Some(w), Some(h), Some(g), Some(v)) => {
            ulps(round(w * (g / (v + affine.epsilon).sqrt())), h).is_some_and(|u| u <= MAX_ULP)
        }
        _ => false,
    }
}

/// Largest distance of two kernels; none when some element is more than [`MAX_ULP`] away.
pub(in crate::mapping) fn kernel_distance(computed: &[f32], held: &[f32]) -> Option<u32> {
    let mut worst = 0;
    for (&a, &b) in computed.iter().zip(held) {
        worst = worst.max(ulps(a, b).filter(|&u| u <= MAX_ULP)?);
    }
    (computed.len() == held.len()).then_some(worst)
}

/// As [`kernel_distance`] for a bias, in units in the last place of the larger of its two terms: they may cancel.
pub(in crate::mapping) fn bias_distance(
    computed: &[f32],
    held: &[f32],
    shift: &[f32],
) -> Option<u32> {
    let mut worst = 0;
    for ((&a, &b), &beta) in computed.iter().zip(held).zip(shift) {
        let term = beta.abs().max((a - beta).abs()).max(a.abs());
        // A unit in its last place is what lies between it and the next float.
        let unit = f64::from(f32::from_bits(term.to_bits() + 1)) - f64::from(term);
        let distance = ((f64::from(a) - f64::from(b)).abs() / unit).ceil();
        if distance.is_nan() || distance > f64::from(MAX_ULP) {
            return None;
        }
        worst = worst.max(distance as u32);
    }
    (computed.len() == held.len()).then_some(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_by_the_formula() {
        let a = Affine {
            scale: &[2.0, 3.0],
            variance: &[4.0 - 1e-5, 9.0 - 1e-5],
            epsilon: 1e-5,
        };
        assert_eq!(
            kernel(&[1.0, 2.0, 3.0, 4.0], &[2, 2], 0, a).unwrap(),
            [1.0, 2.0, 3.0, 4.0]
        );
        assert_eq!(
            kernel(&[1.0, 2.0, 3.0, 4.0], &[2, 2], 1, a).unwrap(),
            [1.0, 2.0, 3.0, 4.0]
        );
        assert_eq!(
            bias(Some(&[1.0, 1.0]), &[0.5, 0.5], &[3.0, 0.0], a).unwrap(),
            [-1.5, 1.5]
        );
        assert_eq!(kernel(&[1.0], &[2, 2], 0, a), None);
        assert_eq!(bias(None, &[0.5], &[0.5], a), None);
    }

    #[test]
    fn a_direction_has_the_norm_of_its_magnitude() {
        let v = [3.0, 4.0, 6.0, 8.0];
        let rows = weight_norm(&v, &[1.0, 5.0], &[2, 2], Some(0)).unwrap();
        assert_eq!(rows, [0.6, 0.8, 3.0, 4.0]);
        let columns = weight_norm(&[3.0, 0.0, 4.0, 2.0], &[5.0, 1.0], &[2, 2], Some(1)).unwrap();
        assert_eq!(columns, [3.0, 0.0, 4.0, 1.0]);
        let all = weight_norm(&[3.0, 4.0], &[10.0], &[2], None).unwrap();
        assert_eq!(all, [6.0, 8.0]);
        assert_eq!(weight_norm(&v, &[1.0], &[2, 2], Some(0)), None);
        assert_eq!(weight_norm(&[0.0; 4], &[1.0, 1.0], &[2, 2], Some(0)), None);
    }

    #[test]
    fn distances_are_bounded() {
        let next = f32::from_bits(1.0f32.to_bits() + 1);
        assert_eq!(kernel_distance(&[1.0], &[next]), Some(1));
        assert_eq!(kernel_distance(&[1.0], &[1.001]), None);
        assert_eq!(kernel_distance(&[0.0], &[-0.0]), Some(0));
        assert_eq!(kernel_distance(&[1.0], &[-1.0]), None);
        // 1 - 1 leaves the rounding of 1 behind.
        assert_eq!(bias_distance(&[0.0], &[1.0e-7], &[1.0]), Some(1));
        assert_eq!(bias_distance(&[0.0], &[1.0e-3], &[1.0]), None);
        assert_eq!(bias_distance(&[f32::NAN], &[1.0], &[1.0]), None);
    }
}
