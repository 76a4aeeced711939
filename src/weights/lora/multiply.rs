//! Adapters that multiply the weight instead of adding to it: OFT, BOFT, IA³ and GLoRA. Their change depends on the weight, so it is
//! computed of all rows at a time, in f64.
//!
//! Sources of the formulas: LyCORIS 4.1 `functional/{diag_oft,boft}.py`, `modules/glora.py`; `ComfyUI` `weight_adapter/{oft,boft,glora}.py`;
//! PEFT 0.21 `tuners/{oft,boft,ia3}/layer.py`.

use super::super::Source;
use super::kinds::{Matrix, Step, wide};
use rayon::prelude::*;

/// What a module multiplies its weight by: keys of tensors, in the order in which they are applied.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Multiplier {
    /// GLoRA: `W' = W + γ (W a₀ a₁ + b₀ b₁)`. `flat` takes a kernel's elements for inputs, as `LyCORIS` did first; otherwise each
    /// place of the kernel is a matrix of its own.
    Glora {
        a: [String; 2],
        b: [String; 2],
        flat: bool,
    },
    /// IA³: every row, or every column, times its number.
    Scale { key: String, axis: Side },
    /// `LyCORIS`' OFT: neighbouring rows, in blocks, turned by `Rᵀ`, then scaled.
    RowBlocks {
        blocks: String,
        rescale: Option<String>,
    },
    /// `LyCORIS`' BOFT: the same in stages, each of which mixes rows that are further apart, turned by `R`.
    RowButterfly {
        blocks: String,
        rescale: Option<String>,
    },
    /// PEFT's OFT: neighbouring columns turned by `Rᵀ` from the right.
    ColumnBlocks { vectors: String, turning: Turning },
    /// PEFT's BOFT on a linear layer: columns in stages, then rows scaled.
    ColumnButterfly { blocks: String, scale: String },
}

/// Which axis of a weight the factors go along: rows are outputs, columns are inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Rows,
    Columns,
}

/// How PEFT's OFT makes rotations of its vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Turning {
    /// Terms of the Neumann series that stands for the Cayley transform; `None` for the transform itself.
    pub neumann: Option<usize>,
    /// COFT: the largest norm of a block.
    pub limit: Option<f64>,
    /// All blocks are one.
    pub shared: bool,
}

impl Multiplier {
    /// What messages call it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Multiplier::Glora { .. } => "GLoRA",
            Multiplier::Scale { .. } => "IA³",
            Multiplier::RowBlocks { .. } | Multiplier::ColumnBlocks { .. } => "OFT",
            Multiplier::RowButterfly { .. } | Multiplier::ColumnButterfly { .. } => "BOFT",
        }
    }

    pub(super) fn keys(&self) -> Vec<&String> {
        match self {
            Multiplier::Glora { a, b, .. } => a.iter().chain(b).collect(),
            Multiplier::Scale { key, .. } => vec![key],
            Multiplier::RowBlocks { blocks, rescale }
            | Multiplier::RowButterfly { blocks, rescale } => {
                std::iter::once(blocks).chain(rescale).collect()
            }
            Multiplier::ColumnBlocks { vectors, .. } => vec![vectors],
            Multiplier::ColumnButterfly { blocks, scale } => vec![blocks, scale],
        }
    }

    /// Whether `other` multiplies by the same formula of as many tensors, whatever these are called and hold.
    pub(super) fn has_form_of(&self, other: &Multiplier) -> bool {
        use Multiplier::{ColumnBlocks, Glora, Scale};
        let formula = match (self, other) {
            (Glora { flat: a, .. }, Glora { flat: b, .. }) => a == b,
            (Scale { axis: a, .. }, Scale { axis: b, .. }) => a == b,
            (ColumnBlocks { turning: a, .. }, ColumnBlocks { turning: b, .. }) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        };
        formula && self.keys().len() == other.keys().len()
    }

    /// Whether it can be applied to a weight of this shape, `[out, in, kernel…]`.
    pub(super) fn fits(&self, source: &Source, shape: &[usize]) -> bool {
        let (Some(&rows), true) = (shape.first(), shape.len() >= 2) else {
            // A bias, which only a scale of rows reaches.
            let rows = shape.first().copied().unwrap_or(1);
            return matches!(self, Multiplier::Scale { key, axis: Side::Rows } if count(source, key) == rows);
        };
        let columns: usize = shape[1..].iter().product();
        let of = |key: &str| source.shape(key).unwrap_or(&[]);
        match self {
            Multiplier::Glora { a, b, flat } => {
                let width = if *flat { columns } else { shape[1] };
                let [a0, a1, b0, b1] = [&a[0], &a[1], &b[0], &b[1]].map(|k| sides(of(k)));
                (a0.0, a0.1) == (width, a1.0)
                    && a1.1 == width
                    && (b0.0, b0.1) == (rows, b1.0)
                    && b1.1 == columns
            }
            Multiplier::Scale { key, axis } => {
                let n = count(source, key);
                n == match axis {
                    Side::Rows => rows,
                    Side::Columns => columns,
                }
            }
            Multiplier::RowBlocks { blocks, rescale } => {
                let scaled = rescale.as_ref().is_none_or(|k| count(source, k) == rows);
                scaled && matches!(of(blocks), [k, n, m] if n == m && k * n == rows)
            }
            Multiplier::RowButterfly { blocks, rescale } => {
                let scaled = rescale.as_ref().is_none_or(|k| count(source, k) == rows);
                scaled
                    && matches!(of(blocks), [stages, k, n, m]
                        if n == m && k * n == rows && can_mix(*stages, *n, rows))
            }
            Multiplier::ColumnBlocks { vectors, turning } => match (of(vectors), turning.shared) {
                ([_, elements], true) => columns.is_multiple_of(block_size(*elements)),
                ([blocks, elements], false) => blocks * block_size(*elements) == columns,
                _ => false,
            },
            Multiplier::ColumnButterfly { blocks, scale } => {
                count(source, scale) == rows
                    && shape.len() == 2
                    && columns > 0
                    && matches!(of(blocks), [stages, k, n, m]
                        if n == m && k * n == columns && (*stages == 1 || can_mix(*stages, *n, columns)))
            }
        }
    }

    /// The new weight, of `own`, which it fits; `width` is the second extent of its shape, `scaling` GLoRA's own scale.
    pub(super) fn apply(
        &self,
        source: &Source,
        mut own: Matrix,
        width: usize,
        scaling: f64,
    ) -> Matrix {
        let read = |key: &str| Matrix::of(source.get(key).expect("the keys came from this source"));
        match self {
            Multiplier::Glora { a, b, flat } => {
                let kernel = if *flat { 1 } else { own.columns / width.max(1) };
                let turned = kernels_apart(&own, kernel)
                    .times(&read(&a[0]), Step::Exact)
                    .times(&read(&a[1]), Step::Exact);
                let turned = kernels_together(&turned, kernel);
                let added = read(&b[0]).times(&read(&b[1]), Step::Exact);
                for ((w, t), b) in own.data.iter_mut().zip(&turned.data).zip(&added.data) {
                    *w += scaling * (t + b);
                }
            }
            Multiplier::Scale { key, axis } => scale(&mut own, &values(source, key), *axis),
            Multiplier::RowBlocks { blocks, rescale } => {
                let turns = turns(&values(source, blocks), side_of(source, blocks), 1.0);
                own = turn_rows(&own, &turns, true);
                if let Some(key) = rescale {
                    scale(&mut own, &values(source, key), Side::Rows);
                }
            }
            Multiplier::RowButterfly { blocks, rescale } => {
                let n = side_of(source, blocks);
                let turns = turns(&values(source, blocks), n, 1.0);
                let per_stage = own.rows / n;
                for (stage, turns) in turns.chunks(per_stage).enumerate() {
                    // Each stage mixes rows that are twice as far apart as those of the one before.
                    let order = interleaved(own.rows, (n / 2) << stage);
                    let mixed = turn_rows(&rows_in(&own, &order), turns, false);
                    own = rows_back(&mixed, &order);
                }
                if let Some(key) = rescale {
                    scale(&mut own, &values(source, key), Side::Rows);
                }
            }
            Multiplier::ColumnBlocks { vectors, turning } => {
                let turns = turning.turns(&read(vectors));
                turn_columns(&mut own, &turns);
            }
            Multiplier::ColumnButterfly { blocks, scale: key } => {
                let n = side_of(source, blocks);
                // The Cayley transform there is of half the difference, and its inverse.
                let turns = turns(&values(source, blocks), n, -0.5);
                let per_stage = own.columns / n;
                let stages = turns.len() / per_stage;
                for (stage, turns) in turns.chunks(per_stage).enumerate() {
                    // PEFT mixes nothing where there is but one stage.
                    let order = if stages == 1 {
                        (0..own.columns).collect()
                    } else {
                        sorted_blocks(own.columns, n << stage, n / 2)
                    };
                    let mut mixed = columns_back(&own, &order);
                    turn_columns(&mut mixed, turns);
                    own = columns_in(&mixed, &order);
                }
                scale(&mut own, &values(source, key), Side::Rows);
            }
        }
        own
    }
}

fn count(source: &Source, key: &str) -> usize {
    source.shape(key).map_or(0, |s| s.iter().product())
}

/// Rows and flattened columns.
fn sides(shape: &[usize]) -> (usize, usize) {
    (
        shape.first().copied().unwrap_or(0),
        shape.get(1..).map_or(0, |s| s.iter().product()),
    )
}

fn values(source: &Source, key: &str) -> Vec<f64> {
    let view = source.get(key).expect("the keys came from this source");
    wide(view.dtype, view.data)
}

fn side_of(source: &Source, key: &str) -> usize {
    source
        .shape(key)
        .and_then(|s| s.last().copied())
        .unwrap_or(0)
}

/// Side of a block from the number of elements above its diagonal.
pub(super) fn block_size(elements: usize) -> usize {
    // n (n - 1) / 2 = elements
    (1 + 8 * elements).isqrt().div_ceil(2)
}

/// Whether `n` rows can be mixed in so many stages of blocks of `side`.
fn can_mix(stages: usize, side: usize, n: usize) -> bool {
    let widest = (side > 0 && stages > 0).then(|| side.checked_shl(stages as u32 - 1));
    side.is_multiple_of(2)
        && stages < usize::BITS as usize
        && widest
            .flatten()
            .is_some_and(|w| w <= n && n.is_multiple_of(w))
}

/// `(I + q)(I − q)⁻¹` with `q = factor (b − bᵀ)`, for each block of `n × n`.
fn turns(blocks: &[f64], n: usize, factor: f64) -> Vec<Matrix> {
    let one = |block: &[f64]| {
        let mut q = vec![0.0; n * n];
        for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
            q[i * n + j] = factor * (block[i * n + j] - block[j * n + i]);
        }
        cayley(&q, n)
    };
    blocks.par_chunks((n * n).max(1)).map(one).collect()
}

/// `(I + q)(I − q)⁻¹`. `I − q` has an inverse, because `q = −qᵀ`.
fn cayley(q: &[f64], n: usize) -> Matrix {
    let (mut plus, mut minus) = (identity(n), identity(n));
    for ((p, m), q) in plus.data.iter_mut().zip(&mut minus.data).zip(q) {
        *p += q;
        *m -= q;
    }
    plus.times(&inverse(minus), Step::Exact)
}

fn identity(n: usize) -> Matrix {
    let mut data = vec![0.0; n * n];
    for i in 0..n {
        data[i * n + i] = 1.0;
    }
    Matrix {
        rows: n,
        columns: n,
        data,
    }
}

/// Gauss and Jordan's, with the largest pivot of a column.
fn inverse(mut a: Matrix) -> Matrix {
    let n = a.rows;
    let mut b = identity(n);
    for c in 0..n {
        let pivot = (c..n)
            .max_by(|&x, &y| a.data[x * n + c].abs().total_cmp(&a.data[y * n + c].abs()))
            .unwrap_or(c);
        for m in [&mut a, &mut b] {
            for j in 0..n {
                m.data.swap(c * n + j, pivot * n + j);
            }
        }
        let by = 1.0 / a.data[c * n + c];
        for m in [&mut a, &mut b] {
            for v in &mut m.data[c * n..][..n] {
                *v *= by;
            }
        }
        for r in (0..n).filter(|&r| r != c) {
            let by = a.data[r * n + c];
            for m in [&mut a, &mut b] {
                for j in 0..n {
                    m.data[r * n + j] -= by * m.data[c * n + j];
                }
            }
        }
    }
    b
}

impl Turning {
    /// The rotations of PEFT's vectors, one a row: `q` has them above its diagonal, and `R = (I − q)(I + q)⁻¹` or its series, in
    /// which `q` stands with the other sign.
    fn turns(&self, vectors: &Matrix) -> Vec<Matrix> {
        let n = block_size(vectors.columns);
        // PEFT shares COFT's limit out among the blocks.
        let limit = self.limit.map(|l| l / (vectors.rows as f64).sqrt());
        let one = |vector: &[f64]| {
            let mut q = vec![0.0; n * n];
            let above = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
            for ((i, j), v) in above.zip(vector) {
                q[i * n + j] = *v;
                q[j * n + i] = -*v;
            }
            let norm = q.iter().map(|v| v * v).sum::<f64>().sqrt();
            if let Some(limit) = limit.filter(|l| norm > *l) {
                for v in &mut q {
                    *v *= limit / norm;
                }
            }
            if let Some(terms) = self.neumann {
                return neumann(&q, n, terms);
            }
            let turned: Vec<f64> = q.iter().map(|v| -v).collect();
            cayley(&turned, n)
        };
        vectors
            .data
            .chunks(vectors.columns.max(1))
            .map(one)
            .collect()
    }
}

/// `I + 2q + 2q² + … + q^(terms − 1)`: the last power counts once (`_cayley_batch`).
fn neumann(q: &[f64], n: usize, terms: usize) -> Matrix {
    let mut sum = identity(n);
    let q = Matrix {
        rows: n,
        columns: n,
        data: q.to_vec(),
    };
    let mut add = |m: &Matrix, factor: f64| {
        for (s, v) in sum.data.iter_mut().zip(&m.data) {
            *s += factor * v;
        }
    };
    if terms > 1 {
        add(&q, 2.0);
    }
    if terms > 2 {
        let mut power = q.times(&q, Step::Exact);
        add(&power, 2.0);
        // As `_cayley_batch` counts: three terms end with the third power, as four do.
        for _ in 3..terms.saturating_sub(1) {
            power = power.times(&q, Step::Exact);
            add(&power, 2.0);
        }
        power = power.times(&q, Step::Exact);
        add(&power, 1.0);
    }
    sum
}

fn scale(own: &mut Matrix, by: &[f64], side: Side) {
    let columns = own.columns.max(1);
    for (r, row) in own.data.chunks_mut(columns).enumerate() {
        for (c, v) in row.iter_mut().enumerate() {
            *v *= match side {
                Side::Rows => by[r],
                Side::Columns => by[c],
            };
        }
    }
}

/// Each block of rows times its turn, or the turn's transpose, from the left.
fn turn_rows(own: &Matrix, turns: &[Matrix], transposed: bool) -> Matrix {
    let mut out = Vec::with_capacity(own.data.len());
    let n = turns.first().map_or(1, |t| t.rows);
    for (turn, rows) in turns.iter().zip(own.data.chunks(n * own.columns.max(1))) {
        let block = Matrix {
            rows: n,
            columns: own.columns,
            data: rows.to_vec(),
        };
        let turned = if transposed {
            turn.transposed().times(&block, Step::Exact)
        } else {
            turn.times(&block, Step::Exact)
        };
        out.extend(turned.data);
    }
    Matrix { data: out, ..*own }
}

/// Each block of columns times the transpose of its turn from the right; the turns go round where there are fewer.
fn turn_columns(own: &mut Matrix, turns: &[Matrix]) {
    let n = turns.first().map_or(1, |t| t.rows).max(1);
    let columns = own.columns.max(1);
    own.data.par_chunks_mut(columns).for_each(|row| {
        for (block, turn) in row.chunks_mut(n).zip(turns.iter().cycle()) {
            let old = block.to_vec();
            for (v, turn) in block.iter_mut().zip(turn.data.chunks(n)) {
                *v = turn.iter().zip(&old).map(|(t, o)| t * o).sum();
            }
        }
    });
}

/// For each place, which row stands there while a stage mixes rows that are `k` apart.
fn interleaved(rows: usize, k: usize) -> Vec<usize> {
    let chunk = 2 * k;
    (0..rows)
        .map(|at| {
            let (start, within) = (at / chunk * chunk, at % chunk);
            start + within % 2 * k + within / 2
        })
        .collect()
}

/// PEFT's `block_butterfly_perm`: in each block of `block`, the runs of `run` at even places, then those at odd ones.
fn sorted_blocks(n: usize, block: usize, run: usize) -> Vec<usize> {
    let runs = block / run;
    let order: Vec<usize> = (0..runs).step_by(2).chain((1..runs).step_by(2)).collect();
    (0..n)
        .map(|at| {
            let (start, within) = (at / block * block, at % block);
            start + order[within / run] * run + within % run
        })
        .collect()
}

fn rows_in(own: &Matrix, order: &[usize]) -> Matrix {
    let row = |&r: &usize| own.data[r * own.columns..][..own.columns].iter().copied();
    Matrix {
        data: order.iter().flat_map(row).collect(),
        ..*own
    }
}

fn rows_back(own: &Matrix, order: &[usize]) -> Matrix {
    let mut data = vec![0.0; own.data.len()];
    for (at, &r) in order.iter().enumerate() {
        data[r * own.columns..][..own.columns]
            .copy_from_slice(&own.data[at * own.columns..][..own.columns]);
    }
    Matrix { data, ..*own }
}

fn columns_in(own: &Matrix, order: &[usize]) -> Matrix {
    let rows = own.data.chunks(own.columns.max(1));
    let data = rows.flat_map(|row| order.iter().map(|&c| row[c])).collect();
    Matrix { data, ..*own }
}

fn columns_back(own: &Matrix, order: &[usize]) -> Matrix {
    let mut data = vec![0.0; own.data.len()];
    let columns = own.columns.max(1);
    for (out, row) in data.chunks_mut(columns).zip(own.data.chunks(columns)) {
        for (at, &c) in order.iter().enumerate() {
            out[c] = row[at];
        }
    }
    Matrix { data, ..*own }
}

/// `[out, in, kernel]` as a matrix of `out × kernel` rows and `in` columns.
fn kernels_apart(own: &Matrix, kernel: usize) -> Matrix {
    let width = own.columns / kernel.max(1);
    let mut data = Vec::with_capacity(own.data.len());
    for row in own.data.chunks(own.columns.max(1)) {
        for k in 0..kernel {
            data.extend((0..width).map(|i| row[i * kernel + k]));
        }
    }
    Matrix {
        rows: own.rows * kernel,
        columns: width,
        data,
    }
}

/// The other way round.
fn kernels_together(apart: &Matrix, kernel: usize) -> Matrix {
    let width = apart.columns;
    let mut data = Vec::with_capacity(apart.data.len());
    for rows in apart.data.chunks((width * kernel).max(1)) {
        for i in 0..width {
            data.extend((0..kernel).map(|k| rows[k * width + i]));
        }
    }
    Matrix {
        rows: apart.rows / kernel.max(1),
        columns: width * kernel,
        data,
    }
}
