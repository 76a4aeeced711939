//! What each kind of adapter adds to a weight, row by row, in f64.
//!
//! A weight of shape `[out, in, kernel…]` is seen as a matrix of `out` rows; a row is `in` times the kernel's elements long.
//! Sources of the formulas: PEFT 0.21 `tuners/lora/layer.py` (`get_delta_weight`), `tuners/loha`, `tuners/lokr`; kohya
//! sd-scripts `networks/lora.py` (`merge_to`); LyCORIS 4 `functional/{general,loha,lokr}.py`.

use crate::tensor::{Dtype, TensorView, to_f32};
use ndarray::{ArrayView2, linalg::general_mat_mul};
use std::ops::Range;

/// A row-major matrix of f64.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub data: Vec<f64>,
}

/// Which type intermediate results are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing in between is rounded: f64 throughout.
    Exact,
    /// After every operation of the library that is imitated, to this type.
    Rounded(Dtype),
}

impl Step {
    #[inline]
    pub(super) fn round(self, v: f64) -> f64 {
        match self {
            Step::Exact | Step::Rounded(Dtype::F64) => v,
            // By way of f32, as the libraries do (their arithmetic on half types is f32 inside).
            Step::Rounded(Dtype::F16) => half::f16::from_f32(v as f32).to_f64(),
            Step::Rounded(Dtype::Bf16) => half::bf16::from_f32(v as f32).to_f64(),
            Step::Rounded(_) => f64::from(v as f32),
        }
    }

    fn all(self, values: &mut [f64]) {
        if self != Step::Exact {
            for v in values {
                *v = self.round(*v);
            }
        }
    }
}

/// The change to a weight before its scale, ready to be computed by rows.
#[derive(Debug)]
pub(super) enum Delta<'a> {
    /// A matrix product, `up · down`.
    Product { up: Matrix, down: Matrix },
    /// `(up1 · down1) ∘ (up2 · down2)`, element by element.
    Hadamard {
        a: (Matrix, Matrix),
        b: (Matrix, Matrix),
    },
    /// `w1 ⊗ w2`. A conv's kernel belongs to `w2`, whose rows hold `inner` columns per column of `w1`.
    Kronecker { w1: Matrix, w2: Matrix },
    /// The tensor as it is.
    Full {
        columns: usize,
        dtype: Dtype,
        data: &'a [u8],
    },
    /// Computed before, all of it.
    Computed(Matrix),
}

impl Delta<'_> {
    /// Elements of a row.
    pub(super) fn columns(&self) -> usize {
        match self {
            Delta::Product { down, .. } => down.columns,
            Delta::Hadamard { a, .. } => a.1.columns,
            Delta::Kronecker { w1, w2 } => w1.columns * w2.columns,
            Delta::Full { columns, .. } => *columns,
            Delta::Computed(matrix) => matrix.columns,
        }
    }

    /// The given rows, with every intermediate result rounded as `step` says.
    pub(super) fn rows(&self, range: Range<usize>, step: Step) -> Vec<f64> {
        match self {
            Delta::Product { up, down } => product(up, down, range, step),
            Delta::Hadamard { a, b } => {
                let mut out = product(&a.0, &a.1, range.clone(), step);
                for (x, y) in out.iter_mut().zip(product(&b.0, &b.1, range, step)) {
                    *x = step.round(*x * y);
                }
                out
            }
            Delta::Kronecker { w1, w2 } => {
                let mut out = Vec::with_capacity(range.len() * self.columns());
                for row in range {
                    let (outer, inner) = (row / w2.rows, row % w2.rows);
                    let inner = &w2.data[inner * w2.columns..][..w2.columns];
                    for &x in &w1.data[outer * w1.columns..][..w1.columns] {
                        out.extend(inner.iter().map(|&y| step.round(x * y)));
                    }
                }
                out
            }
            Delta::Full {
                columns,
                dtype,
                data,
            } => {
                let width = columns * dtype.bits() / 8;
                wide(*dtype, &data[range.start * width..range.end * width])
            }
            Delta::Computed(Matrix { columns, data, .. }) => {
                data[range.start * columns..range.end * columns].to_vec()
            }
        }
    }
}

fn product(up: &Matrix, down: &Matrix, range: Range<usize>, step: Step) -> Vec<f64> {
    let rows = range.len();
    let mut out = vec![0.0; rows * down.columns];
    let lhs = &up.data[range.start * up.columns..range.end * up.columns];
    multiply(
        (lhs, rows, up.columns),
        (&down.data, down.columns),
        &mut out,
    );
    step.all(&mut out);
    out
}

/// `out = lhs · rhs` for row-major `lhs` (data, rows, inner) and `rhs` (data, columns).
fn multiply(lhs: (&[f64], usize, usize), rhs: (&[f64], usize), out: &mut [f64]) {
    let (rows, inner, columns) = (lhs.1, lhs.2, rhs.1);
    if rows == 0 || inner == 0 || columns == 0 {
        return;
    }
    let fits = "lengths follow from the shapes, which were checked when the LoRA was opened";
    let a = ArrayView2::from_shape((rows, inner), lhs.0).expect(fits);
    let b = ArrayView2::from_shape((inner, columns), rhs.0).expect(fits);
    let mut c = ndarray::ArrayViewMut2::from_shape((rows, columns), out).expect(fits);
    general_mat_mul(1.0, &a, &b, 0.0, &mut c);
}

impl Matrix {
    /// A tensor as a matrix of its first extent's rows.
    pub(super) fn of(view: TensorView<'_>) -> Matrix {
        let rows = view.shape.first().copied().unwrap_or(1);
        let data = wide(view.dtype, view.data);
        Matrix {
            rows,
            columns: data.len().checked_div(rows).unwrap_or(0),
            data,
        }
    }

    pub(super) fn transposed(&self) -> Matrix {
        let mut data = Vec::with_capacity(self.data.len());
        for c in 0..self.columns {
            data.extend((0..self.rows).map(|r| self.data[r * self.columns + c]));
        }
        Matrix {
            rows: self.columns,
            columns: self.rows,
            data,
        }
    }

    pub(super) fn times(&self, other: &Matrix, step: Step) -> Matrix {
        Matrix {
            rows: self.rows,
            columns: other.columns,
            data: product(self, other, 0..self.rows, step),
        }
    }

    pub(super) fn rounded(mut self, step: Step) -> Matrix {
        step.all(&mut self.data);
        self
    }
}

/// The right factor of a Tucker decomposition: core `[i, j, kernel]` and `[j, n]` give `[i, n × kernel]`
/// (`einsum("i j ..., j n -> i n ...")`).
pub(super) fn tucker(core: &Matrix, j: usize, right: &Matrix) -> Matrix {
    let (i, kernel, n) = (
        core.rows,
        core.columns.checked_div(j).unwrap_or(0),
        right.columns,
    );
    let mut data = vec![0.0; i * n * kernel];
    for a in 0..i {
        for b in 0..j {
            let cell = &core.data[(a * j + b) * kernel..][..kernel];
            for c in 0..n {
                let factor = right.data[b * n + c];
                let into = &mut data[(a * n + c) * kernel..][..kernel];
                for (x, y) in into.iter_mut().zip(cell) {
                    *x += factor * y;
                }
            }
        }
    }
    Matrix {
        rows: i,
        columns: n * kernel,
        data,
    }
}

/// Values as f64, exactly. The types that reach this were checked when the LoRA was opened.
pub(super) fn wide(dtype: Dtype, data: &[u8]) -> Vec<f64> {
    // By way of f32 these would lose half of their digits; every other type that factors have fits
    // into one.
    if dtype == Dtype::F64 {
        let words = data.as_chunks::<8>().0;
        return words.iter().map(|&b| f64::from_le_bytes(b)).collect();
    }
    let values = to_f32(dtype, data).unwrap_or_default();
    values.into_iter().map(f64::from).collect()
}

/// Types that a LoRA's tensors may have.
pub(super) fn is_readable(dtype: Dtype) -> bool {
    is_fusible(dtype) || is_f8(dtype)
}

/// 8-bit floats, in any of the four encodings; LoRAs have no scales for them.
pub(super) fn is_f8(dtype: Dtype) -> bool {
    use Dtype::{F8E4M3Fn, F8E4M3Fnuz, F8E5M2, F8E5M2Fnuz};
    matches!(dtype, F8E4M3Fn | F8E4M3Fnuz | F8E5M2 | F8E5M2Fnuz)
}

/// Types that the weights they change may have.
pub(super) fn is_fusible(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matrix(rows: usize, columns: usize, seed: u64) -> Matrix {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let data = (0..rows * columns)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f64 / f64::from(1 << 23) - 1.0
            })
            .collect();
        Matrix {
            rows,
            columns,
            data,
        }
    }

    fn at(m: &Matrix, r: usize, c: usize) -> f64 {
        m.data[r * m.columns + c]
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * (1.0 + b.abs())
    }

    proptest! {
        #[test]
        fn every_kind_equals_its_definition(o in 1usize..5, i in 1usize..5, k in 1usize..5, r in 1usize..4, p in 1usize..4, q in 1usize..4, seed: u64) {
            let (up, down) = (matrix(o, r, seed), matrix(r, i * k, seed ^ 1));
            let (up2, down2) = (matrix(o, r, seed ^ 2), matrix(r, i * k, seed ^ 3));
            let dot = |u: &Matrix, d: &Matrix, y: usize, x: usize| (0..r).map(|n| at(u, y, n) * at(d, n, x)).sum::<f64>();
            let plain = Delta::Product { up: up.clone(), down: down.clone() };
            let rows = plain.rows(0..o, Step::Exact);
            let hadamard = Delta::Hadamard { a: (up.clone(), down.clone()), b: (up2.clone(), down2.clone()) };
            let both = hadamard.rows(0..o, Step::Exact);
            for y in 0..o {
                for x in 0..i * k {
                    let one = dot(&up, &down, y, x);
                    prop_assert!(near(rows[y * i * k + x], one));
                    prop_assert!(near(both[y * i * k + x], one * dot(&up2, &down2, y, x)));
                }
            }
            // kron(w1 [p, q], w2 [o, i, k]) is [p·o, q·i, k].
            let (w1, w2) = (matrix(p, q, seed ^ 4), matrix(o, i * k, seed ^ 5));
            let kron = Delta::Kronecker { w1: w1.clone(), w2: w2.clone() };
            let all = kron.rows(0..p * o, Step::Exact);
            for (y, x, z) in (0..p * o).flat_map(|y| (0..q * i).flat_map(move |x| (0..k).map(move |z| (y, x, z)))) {
                let expected = at(&w1, y / o, x / i) * at(&w2, y % o, (x % i) * k + z);
                prop_assert!(near(all[(y * q * i + x) * k + z], expected));
            }
            // einsum("i j k, j n -> i n k").
            let (core, right) = (matrix(r, p * k, seed ^ 6), matrix(p, i, seed ^ 7));
            let t = tucker(&core, p, &right);
            for (a, n, z) in (0..r).flat_map(|a| (0..i).flat_map(move |n| (0..k).map(move |z| (a, n, z)))) {
                let expected = (0..p).map(|j| at(&core, a, j * k + z) * at(&right, j, n)).sum::<f64>();
                prop_assert!(near(at(&t, a, n * k + z), expected));
            }
            // Any rows are the same rows.
            prop_assert_eq!(&kron.rows(p * o - 1..p * o, Step::Exact)[..], &all[(p * o - 1) * q * i * k..]);
            prop_assert_eq!(plain.rows(o - 1..o, Step::Exact).len(), i * k);
            prop_assert_eq!(up.transposed().transposed(), up);
        }
    }

    #[test]
    fn steps_round_to_their_type() {
        let v = 1.0 + 2f64.powi(-12);
        assert_eq!(Step::Exact.round(v), v);
        assert_eq!(Step::Rounded(Dtype::F32).round(v), v);
        assert_eq!(Step::Rounded(Dtype::F16).round(v), 1.0);
        assert_eq!(Step::Rounded(Dtype::Bf16).round(1.0 + 2f64.powi(-9)), 1.0);
    }
}
