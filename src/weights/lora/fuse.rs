//! Fusing: base weight and deltas to new weight, one weight at a time and a few rows of it at a time.
//!
//! Anonymous memory while one weight is fused: the result, and per thread a few blocks of about [`BLOCK`] f64 values, and the
//! factors of the LoRAs for this weight in f64; for adapters that multiply the weight, three times the weight in f64. The base and
//! the LoRA files stay in their memory maps.

use super::change::Axis;
use super::error::Error;
use super::kinds::{Delta, Step, is_fusible, wide};
use super::{Lora, Part, Target};
use crate::tensor::{Digest, Dtype, TensorView, is_finite, round_into};
use rayon::prelude::*;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

/// Values of a block of rows: few enough that what is computed of one stays in the cache of a core.
const BLOCK: usize = 1 << 15;

/// In how many stripes the columns' norms are summed. Fixed, so that the sum does not depend on the number of threads.
const STRIPES: usize = 16;

/// Where results are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fuse {
    /// Once: everything is computed in f64 and rounded to the base's type at the end. The order of the LoRAs does not matter.
    #[default]
    Exact,
    /// As `PeftModel.from_pretrained(…).merge_and_unload()` rounds: adapter weights and deltas in f32, and the weight rounded
    /// to its own type after each adapter, in the order given.
    Peft,
    /// As PEFT rounds when adapter weights are kept in the base's type (`autocast_adapter_dtype=False`, and diffusers'
    /// `fuse_lora`): they and the delta are rounded to it as well.
    PeftHalf,
}

impl Fuse {
    /// The word that options and manifests use.
    pub fn name(self) -> &'static str {
        match self {
            Fuse::Exact => "exact",
            Fuse::Peft => "peft",
            Fuse::PeftHalf => "peft-half",
        }
    }

    /// The mode of a [`Fuse::name`].
    pub fn from_name(name: &str) -> Option<Fuse> {
        let all = [Fuse::Exact, Fuse::Peft, Fuse::PeftHalf];
        all.into_iter().find(|f| f.name() == name)
    }
}

/// LoRAs with their scales, ready to be fused into weights.
#[derive(Debug)]
pub struct Fusion {
    loras: Vec<(Lora, f64)>,
    mode: Fuse,
}

/// What a manifest records of one LoRA.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Digest of the whole file.
    pub digest: Digest,
    /// Names of the formats that its keys are in.
    pub formats: Vec<&'static str>,
    pub scale: f64,
    /// How many weights and biases it changes.
    pub targets: usize,
    /// Components of the file that were left out.
    pub skipped: Vec<&'static str>,
}

impl Fusion {
    /// LoRAs with the user's scales (0 takes a LoRA out, 1 is full strength, negative values subtract).
    ///
    /// # Errors
    /// [`Error::Scale`] when a scale is not finite.
    pub fn new(mut loras: Vec<(Lora, f64)>, mode: Fuse) -> Result<Fusion, Error> {
        if let Some((lora, scale)) = loras.iter().find(|(_, s)| !s.is_finite()) {
            return Err(Error::Scale {
                path: lora.path.clone(),
                scale: *scale,
            });
        }
        if mode == Fuse::Exact {
            loras.retain(|(_, scale)| *scale != 0.0);
            // Sums of f64 depend on their order in the last bit: the same files give the same bytes in any order.
            loras.sort_by(|a, b| a.0.digest.cmp(&b.0.digest).then(a.1.total_cmp(&b.1)));
        }
        Ok(Fusion { loras, mode })
    }

    /// Every weight and bias that may change, sorted.
    pub fn targets(&self) -> BTreeSet<&str> {
        self.loras.iter().flat_map(|(l, _)| l.targets()).collect()
    }

    /// The LoRAs in the order in which they are applied.
    pub fn loras(&self) -> impl ExactSizeIterator<Item = (&Lora, f64)> {
        self.loras.iter().map(|(l, s)| (l, *s))
    }

    /// What a manifest records.
    pub fn recipe(&self) -> Vec<Recipe> {
        let row = |(lora, scale): &(Lora, f64)| Recipe {
            file: lora.path.clone(),
            digest: lora.digest,
            formats: lora.formats().map(super::Format::name).collect(),
            scale: *scale,
            targets: lora.targets().len(),
            skipped: lora.skipped().map(|(c, _)| c.name()).collect(),
        };
        self.loras.iter().map(row).collect()
    }

    /// The new bytes of `name`, in the type and shape of `base` (torch's layout: `[out, in]`, `[out, in, kernel…]`).
    /// A weight that no LoRA changes keeps its bytes.
    ///
    /// # Errors
    /// [`Error::BaseShape`] when `base` has not the shape that the LoRAs were opened for, [`Error::BaseDtype`] when its type
    /// is not f64, f32, f16 or bf16, [`Error::NotFinite`] when a finite value becomes infinite or NaN,
    /// [`Error::NoPeftOrder`] when PEFT's order of roundings is asked for where it has none.
    pub fn fuse(&self, name: &str, base: TensorView<'_>) -> Result<Vec<u8>, Error> {
        let mut ops = Vec::new();
        for (i, (lora, scale)) in self.loras.iter().enumerate() {
            let Some(target) = lora.targets.get(name) else {
                continue;
            };
            check(name, target, base)?;
            ops.extend(self.ops(i, lora, *scale, target, base));
        }
        if ops.is_empty() || base.data.is_empty() {
            return Ok(base.data.to_vec());
        }
        if self.mode != Fuse::Exact {
            peft_defines(name, &ops, self.mode)?;
        }
        let columns = base.shape.get(1..).map_or(1, |s| s.iter().product());
        let mut work = Work {
            base,
            columns,
            row: columns * base.dtype.bits() / 8,
            ops,
            mode: self.mode,
        };
        work.column_factors();
        let block = (BLOCK / columns).max(1);
        let mut out = vec![0; base.data.len()];
        let spoiled = (out.par_chunks_mut(block * work.row))
            .enumerate()
            .map(|(i, chunk)| work.block(i * block, chunk))
            .sum();
        if spoiled > 0 {
            return Err(Error::NotFinite {
                name: name.to_owned(),
                dtype: base.dtype,
                count: spoiled,
            });
        }
        Ok(out)
    }

    /// The operations of one LoRA on one weight: its replacement first, because deltas are trained on top of it.
    fn ops<'a>(
        &self,
        index: usize,
        lora: &'a Lora,
        scale: f64,
        target: &Target,
        base: TensorView<'_>,
    ) -> Vec<Op<'a>> {
        let dtype = base.dtype;
        let wide_type = if dtype == Dtype::F64 {
            Dtype::F64
        } else {
            Dtype::F32
        };
        let (read, step) = match self.mode {
            Fuse::Exact => (Step::Exact, Step::Exact),
            Fuse::Peft => (Step::Rounded(wide_type), Step::Rounded(wide_type)),
            Fuse::PeftHalf => (Step::Rounded(dtype), Step::Rounded(wide_type)),
        };
        let does_something = |part: &&Part| !lora.changes[part.change].is_nothing();
        let mut ops: Vec<Op<'a>> = (target.parts.iter().filter(does_something))
            .map(|part| {
                let change = &lora.changes[part.change];
                let product = change.product(&lora.source, base);
                Op {
                    lora: index,
                    part: *part,
                    multiplies: product.is_some(),
                    delta: match product {
                        Some(new) => Delta::Computed(new),
                        None => change.delta(&lora.source, read, step),
                    },
                    step,
                    scaling: change.scaling,
                    scale,
                    replaces: change.replaces(),
                    dora: change
                        .magnitudes(&lora.source)
                        .zip(change.dora.as_ref())
                        .map(|(magnitudes, dora)| Magnitudes {
                            values: magnitudes,
                            axis: dora.axis,
                            epsilon: dora.epsilon,
                        }),
                    rounds_delta: self.mode == Fuse::PeftHalf
                        || (change.embedding && change.dora.is_none()),
                    plain: change.rank.is_none()
                        || matches!(change.kind, super::change::Kind::LowRank { .. }),
                }
            })
            .collect();
        ops.sort_by_key(|op| !op.replaces);
        ops
    }
}

fn check(name: &str, target: &Target, base: TensorView<'_>) -> Result<(), Error> {
    if !is_fusible(base.dtype) {
        return Err(Error::BaseDtype {
            name: name.to_owned(),
            dtype: base.dtype,
        });
    }
    let length = crate::tensor::element_count(base.shape).and_then(|n| base.dtype.bytes_for(n));
    if target.shape != base.shape || length != Some(base.data.len()) {
        return Err(Error::BaseShape {
            name: name.to_owned(),
            expected: target.shape.clone(),
            actual: base.shape.to_vec(),
        });
    }
    Ok(())
}

fn peft_defines(name: &str, ops: &[Op<'_>], mode: Fuse) -> Result<(), Error> {
    let adapters = ops.iter().filter(|op| !op.replaces).count();
    let dora = ops.iter().any(|op| op.dora.is_some());
    let why = if ops.iter().any(|op| op.multiplies) {
        "OFT, BOFT, IA³ and GLoRA multiply the weight, and are computed exactly only"
    } else if dora && adapters > 1 {
        "PEFT's versions disagree on what DoRA does after another adapter"
    } else if mode == Fuse::PeftHalf && (dora || ops.iter().any(|op| !op.plain)) {
        "with adapters in a half type only plain low-rank factors have a fixed order"
    } else {
        return Ok(());
    };
    Err(Error::NoPeftOrder {
        name: name.to_owned(),
        why,
    })
}

/// One change on one weight.
struct Op<'a> {
    /// Which LoRA it is of.
    lora: usize,
    part: Part,
    delta: Delta<'a>,
    step: Step,
    scaling: f64,
    scale: f64,
    replaces: bool,
    /// Its delta is what it makes of the weight.
    multiplies: bool,
    dora: Option<Magnitudes>,
    /// Low-rank factors or a full tensor.
    plain: bool,
    /// PEFT rounds the delta to the weight's type before it adds it.
    rounds_delta: bool,
}

/// A DoRA's magnitudes; for [`Axis::Columns`] replaced by the factors `m / ‖column‖` before rows are computed.
struct Magnitudes {
    values: Vec<f64>,
    axis: Axis,
    epsilon: f64,
}

impl Op<'_> {
    /// Rows of the weight among `rows` that it changes.
    fn touched(&self, rows: &Range<usize>) -> Range<usize> {
        let (from, to) = (self.part.to, self.part.to + self.part.rows);
        rows.start.max(from)..rows.end.min(to)
    }

    /// Its delta for rows of the weight that it touches, with the LoRA's own scale but without the user's.
    fn rows(&self, touched: &Range<usize>, factor: f64) -> Vec<f64> {
        let first = self.part.from + (touched.start - self.part.to);
        let mut values = self.delta.rows(first..first + touched.len(), self.step);
        if !self.replaces && !self.multiplies {
            let factor = self.step.round(factor);
            match self.step {
                // Times one is itself.
                Step::Exact if factor == 1.0 => {}
                Step::Exact => values.iter_mut().for_each(|v| *v *= factor),
                Step::Rounded(_) => {
                    for v in &mut values {
                        *v = self.step.round(*v * factor);
                    }
                }
            }
        }
        values
    }
}

struct Work<'a> {
    base: TensorView<'a>,
    columns: usize,
    /// Bytes of a row.
    row: usize,
    ops: Vec<Op<'a>>,
    mode: Fuse,
}

impl Work<'_> {
    fn base(&self, rows: &Range<usize>) -> Vec<f64> {
        let bytes = &self.base.data[rows.start * self.row..rows.end * self.row];
        wide(self.base.dtype, bytes)
    }

    /// The weight that a LoRA's deltas were trained on: the base, or what the LoRA replaces it with.
    fn own(&self, lora: usize, rows: &Range<usize>) -> Vec<f64> {
        let mut own = self.base(rows);
        for op in self.ops.iter().filter(|op| op.replaces && op.lora == lora) {
            let touched = op.touched(rows);
            if !touched.is_empty() {
                own[self.within(rows, &touched)].copy_from_slice(&op.rows(&touched, 1.0));
            }
        }
        own
    }

    fn replaces(&self, lora: usize) -> bool {
        self.ops.iter().any(|op| op.replaces && op.lora == lora)
    }

    /// Whether all that `op` does to the base is adding its delta to it.
    fn only_adds(&self, op: &Op<'_>) -> bool {
        op.dora.is_none() && !op.multiplies && !self.replaces(op.lora)
    }

    fn within(&self, rows: &Range<usize>, touched: &Range<usize>) -> Range<usize> {
        (touched.start - rows.start) * self.columns..(touched.end - rows.start) * self.columns
    }

    /// Turns magnitudes of columns into factors, which needs all rows.
    fn column_factors(&mut self) {
        for i in 0..self.ops.len() {
            let Some(Magnitudes {
                axis: Axis::Columns(span),
                epsilon,
                ..
            }) = self.ops[i].dora
            else {
                continue;
            };
            let op = &self.ops[i];
            let total = op.part.rows;
            let stripe = total.div_ceil(STRIPES).max(1);
            let block = (BLOCK / self.columns).max(1);
            let groups = self.columns / span;
            let sums: Vec<Vec<f64>> = (0..total.div_ceil(stripe))
                .into_par_iter()
                .map(|s| {
                    let mut squares = vec![0.0; groups];
                    let end = ((s + 1) * stripe).min(total);
                    for start in (s * stripe..end).step_by(block) {
                        let rows = op.part.to + start..op.part.to + (start + block).min(end);
                        let delta = op.rows(&rows, self.factor(op));
                        for (at, (w, d)) in self.own(op.lora, &rows).iter().zip(&delta).enumerate()
                        {
                            let v = op.step.round(w + d);
                            squares[at % self.columns / span] += v * v;
                        }
                    }
                    squares
                })
                .collect();
            let mut squares = vec![0.0; groups];
            for sum in sums {
                for (a, b) in squares.iter_mut().zip(sum) {
                    *a += b;
                }
            }
            let step = op.step;
            if let Some(m) = &mut self.ops[i].dora {
                for (value, square) in m.values.iter_mut().zip(squares) {
                    *value = ratio(*value, square, epsilon, step);
                }
            }
        }
    }

    /// PEFT multiplies the user's scale into the adapter's; otherwise it weighs the finished change.
    fn factor(&self, op: &Op<'_>) -> f64 {
        match self.mode {
            Fuse::Exact => op.scaling,
            Fuse::Peft | Fuse::PeftHalf => op.scaling * op.scale,
        }
    }

    /// Computes the rows from `first` on into `out`; how many values stopped being finite.
    fn block(&self, first: usize, out: &mut [u8]) -> usize {
        let rows = first..first + out.len() / self.row;
        let base = self.base(&rows);
        let mut result = base.clone();
        for op in &self.ops {
            let touched = op.touched(&rows);
            if touched.is_empty() {
                continue;
            }
            let at = self.within(&rows, &touched);
            let delta = op.rows(&touched, self.factor(op));
            match self.mode {
                Fuse::Exact if self.only_adds(op) => {
                    for ((r, own), d) in result[at.clone()].iter_mut().zip(&base[at]).zip(&delta) {
                        *r = combined(*r, *own, own + d, op.scale);
                    }
                }
                Fuse::Exact => {
                    let replaced = !op.replaces && self.replaces(op.lora);
                    // Each LoRA is a change of the base alone, whatever the others made of it.
                    let own = if replaced {
                        Cow::Owned(self.own(op.lora, &rows))
                    } else {
                        Cow::Borrowed(&base[..])
                    };
                    let new = self.changed(op, touched.start, &own[at.clone()], &delta);
                    for ((r, own), new) in result[at.clone()].iter_mut().zip(&own[at]).zip(new) {
                        *r = combined(*r, *own, new, op.scale);
                    }
                }
                Fuse::Peft | Fuse::PeftHalf => {
                    let half = Step::Rounded(self.base.dtype);
                    let mut delta = delta;
                    if op.rounds_delta {
                        for d in &mut delta {
                            *d = half.round(*d);
                        }
                    }
                    let new = self.changed(op, touched.start, &result[at.clone()], &delta);
                    for (r, new) in result[at].iter_mut().zip(new) {
                        *r = half.round(new);
                    }
                }
            }
        }
        // Types that are none of those it rounds to were refused before.
        round_into(self.base.dtype, &result, out).unwrap_or_default();
        if is_finite(self.base.dtype, out) {
            return 0;
        }
        let after = wide(self.base.dtype, out);
        let lost = base
            .iter()
            .zip(&after)
            .filter(|(b, a)| b.is_finite() && !a.is_finite());
        lost.count()
    }

    /// What `op` alone makes of rows that are `own`, the first of which is `first` in the weight.
    fn changed(&self, op: &Op<'_>, first: usize, own: &[f64], delta: &[f64]) -> Vec<f64> {
        if op.replaces || op.multiplies {
            return delta.to_vec();
        }
        let step = op.step;
        let mut new: Vec<f64> = own
            .iter()
            .zip(delta)
            .map(|(w, d)| step.round(w + d))
            .collect();
        match &op.dora {
            None => {}
            Some(m) => match m.axis {
                Axis::Rows => {
                    for (i, row) in new.chunks_mut(self.columns).enumerate() {
                        let magnitude = m.values[op.part.from + (first + i - op.part.to)];
                        let square = row.iter().map(|v| v * v).sum();
                        let factor = ratio(magnitude, square, m.epsilon, step);
                        for v in row {
                            *v = step.round(factor * *v);
                        }
                    }
                }
                Axis::Columns(span) => {
                    for row in new.chunks_mut(self.columns) {
                        for (c, v) in row.iter_mut().enumerate() {
                            *v = step.round(m.values[c / span] * *v);
                        }
                    }
                }
            },
        }
        new
    }
}

/// The result so far with one LoRA more, which alone makes `new` of the base's `own`.
fn combined(so_far: f64, own: f64, new: f64, scale: f64) -> f64 {
    // At full strength the new value itself, free of the cancellation in (new - own).
    if scale == 1.0 {
        (so_far - own) + new
    } else {
        so_far + scale * (new - own)
    }
}

/// `m / (√square + epsilon)`, where the root and the quotient are each rounded.
fn ratio(magnitude: f64, square: f64, epsilon: f64, step: Step) -> f64 {
    let norm = step.round(square.sqrt()) + epsilon;
    step.round(magnitude / norm)
}

#[cfg(test)]
mod tests;
