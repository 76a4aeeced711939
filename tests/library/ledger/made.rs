//! How an exporter makes a constant from tensors of a checkpoint: the true derivations, those that the mapping does not know among
//! them, computed apart from it.

use std::collections::BTreeMap;
use trtmut::tensor::{Dtype, Tensor, cast, to_f32};

pub type Checkpoint = BTreeMap<String, Tensor>;

/// The true origin of a constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Made {
    /// The graph's own: a literal, or a table that the exporter computes.
    Own,
    /// One tensor, element by element in order.
    Whole(String),
    Turned(String),
    /// `k · w`, turned or not.
    Scaled(String, f32, bool),
    /// `1 + w`.
    OnePlus(String),
    Exp(String),
    /// Rows `[start, start + len)`, turned or not.
    Slice(String, usize, usize, bool),
    /// One below the other, turned or not.
    Join(Vec<String>, bool),
    Gathered(String, Vec<usize>),
    /// Runs of rows of several tensors (start and length): gates in the order of another library.
    Runs(Vec<(String, usize, usize)>),
    /// `g · v/‖v‖`, one norm a row: direction, magnitude; turned or not.
    Normed(String, String, bool),
    /// The first rows of a table, and one row of another added to each.
    Added(String, String, usize),
    /// A `BatchNorm` folded into a convolution: kernel or bias; module of the normalisation; whether it is affine.
    Kernel(String, String, bool),
    Bias(Option<String>, String, bool),
    /// Outside of what the mapping knows.
    Squared(String),
    Normalised(String),
    Interpolated(String),
    /// A table of so many rows, laid between those of the tensor.
    Resized(String, usize),
    Rounded8(String),
    /// Sines and cosines of multiples of frequencies, so many rows: what rotary embeddings are made of.
    Waves(String, usize),
}

pub const EPSILON: f32 = 1e-5;

pub fn of_f32(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

pub fn numbers(t: &Tensor) -> Vec<f32> {
    to_f32(t.dtype, &t.data).unwrap()
}

fn turned(rows: usize, v: &[f32]) -> Vec<f32> {
    let columns = v.len() / rows.max(1);
    (0..v.len())
        .map(|i| v[i % rows * columns + i / rows])
        .collect()
}

impl Made {
    /// The operator that gave the value last, as the traced graph calls it.
    pub fn operator(&self) -> &'static str {
        match self {
            Made::Scaled(..) | Made::Squared(_) | Made::Normed(..) | Made::Normalised(_) => "mul",
            Made::OnePlus(_) | Made::Added(..) | Made::Interpolated(_) => "add",
            Made::Exp(_) => "exp",
            Made::Slice(..) => "slice",
            Made::Join(..) | Made::Runs(_) | Made::Waves(..) => "cat",
            Made::Gathered(..) => "embedding",
            Made::Own
            | Made::Whole(_)
            | Made::Turned(_)
            | Made::Kernel(..)
            | Made::Bias(..)
            | Made::Resized(..)
            | Made::Rounded8(_) => "view",
        }
    }

    pub fn sources(&self) -> Vec<String> {
        let norm = |module: &str, affine: bool, part: &[&str]| {
            let mut all = vec![format!("{module}.running_var")];
            all.extend(part.iter().map(|p| format!("{module}.{p}")));
            if affine {
                all.push(format!("{module}.weight"));
            }
            all
        };
        match self {
            Made::Own => Vec::new(),
            Made::Join(all, _) => all.clone(),
            Made::Runs(runs) => {
                let mut all: Vec<String> = runs.iter().map(|r| r.0.clone()).collect();
                all.dedup();
                all
            }
            Made::Normed(v, g, _) => vec![v.clone(), g.clone()],
            Made::Added(table, other, _) => vec![table.clone(), other.clone()],
            Made::Kernel(w, module, affine) => {
                let mut all = norm(module, *affine, &[]);
                all.push(w.clone());
                all
            }
            Made::Bias(own, module, affine) => {
                let part: &[&str] = if *affine {
                    &["running_mean", "bias"]
                } else {
                    &["running_mean"]
                };
                let mut all = norm(module, *affine, part);
                all.extend(own.clone());
                all
            }
            Made::Whole(s)
            | Made::Turned(s)
            | Made::Scaled(s, ..)
            | Made::OnePlus(s)
            | Made::Exp(s)
            | Made::Slice(s, ..)
            | Made::Gathered(s, _)
            | Made::Squared(s)
            | Made::Normalised(s)
            | Made::Interpolated(s)
            | Made::Resized(s, _)
            | Made::Waves(s, _)
            | Made::Rounded8(s) => vec![s.clone()],
        }
    }

    /// Whether the mapping is meant to know this derivation.
    pub fn is_in_family(&self) -> bool {
        !matches!(
            self,
            Made::Squared(_)
                | Made::Normalised(_)
                | Made::Interpolated(_)
                | Made::Resized(..)
                | Made::Waves(..)
                | Made::Rounded8(_)
        )
    }

    /// Whether the value is rounded on the way, so that two right computations may differ in the last places.
    pub fn is_computed(&self) -> bool {
        matches!(
            self,
            Made::Scaled(..)
                | Made::OnePlus(_)
                | Made::Exp(_)
                | Made::Normed(..)
                | Made::Added(..)
                | Made::Kernel(..)
                | Made::Bias(..)
        )
    }

    /// The value of the constant, of `dtype` and `shape`; none where a source is missing. The graph's own values are no tensor's.
    pub fn value(&self, from: &Checkpoint, dtype: Dtype, shape: &[usize]) -> Option<Tensor> {
        if let Made::Whole(s) = self {
            let t = from.get(s)?;
            let data = cast(t.dtype, dtype, &t.data).ok()?;
            return Some(Tensor {
                dtype,
                shape: shape.to_vec(),
                data,
            });
        }
        let of = |name: &str| from.get(name).map(numbers);
        let rows = |name: &str| {
            from.get(name)
                .map(|t| t.shape.first().copied().unwrap_or(1))
        };
        let turn = |flip: bool, rows: usize, v: Vec<f32>| if flip { turned(rows, &v) } else { v };
        let values = match self {
            Made::Own | Made::Whole(_) => return None,
            Made::Turned(s) => turned(rows(s)?, &of(s)?),
            Made::Scaled(s, k, flip) => {
                turn(*flip, rows(s)?, of(s)?.into_iter().map(|v| v * k).collect())
            }
            Made::OnePlus(s) => of(s)?.into_iter().map(|v| 1.0 + v).collect(),
            Made::Exp(s) => of(s)?.into_iter().map(f32::exp).collect(),
            Made::Slice(s, start, len, flip) => {
                let width = of(s)?.len() / rows(s)?;
                turn(
                    *flip,
                    *len,
                    of(s)?[start * width..(start + len) * width].to_vec(),
                )
            }
            Made::Join(all, flip) => {
                let mut joined = Vec::new();
                let mut height = 0;
                for s in all {
                    joined.extend(of(s)?);
                    height += rows(s)?;
                }
                turn(*flip, height, joined)
            }
            Made::Gathered(s, picked) => {
                let (v, width) = (of(s)?, of(s)?.len() / rows(s)?);
                picked
                    .iter()
                    .flat_map(|r| v[r * width..(r + 1) * width].to_vec())
                    .collect()
            }
            Made::Runs(runs) => {
                let mut all = Vec::new();
                for (s, start, len) in runs {
                    let width = of(s)?.len() / rows(s)?;
                    all.extend_from_slice(&of(s)?[start * width..(start + len) * width]);
                }
                all
            }
            Made::Normed(v, g, flip) => {
                let (values, g, height) = (of(v)?, of(g)?, rows(v)?);
                let width = values.len() / height;
                let normed = values.chunks(width).zip(g).flat_map(|(row, g)| {
                    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                    row.iter().map(move |x| g * (x / norm)).collect::<Vec<_>>()
                });
                turn(*flip, height, normed.collect())
            }
            Made::Added(table, other, row) => {
                // Each is converted before it is added.
                let of = |name: &str| {
                    let t = from.get(name)?;
                    let data = cast(t.dtype, dtype, &t.data).ok()?;
                    to_f32(dtype, &data).ok()
                };
                let (t, o) = (of(table)?, of(other)?);
                let width = *shape.last()?;
                let count = shape.iter().product();
                (0..count)
                    .map(|i| t[i] + o[row * width + i % width])
                    .collect()
            }
            Made::Kernel(w, module, affine) => {
                let (v, factor) = (of(w)?, factors(from, module, *affine)?);
                let inner = v.len() / factor.len();
                v.iter()
                    .enumerate()
                    .map(|(i, x)| x * factor[i / inner])
                    .collect()
            }
            Made::Bias(own, module, affine) => {
                let (factor, mean) = (
                    factors(from, module, *affine)?,
                    of(&format!("{module}.running_mean"))?,
                );
                let shift = match affine {
                    true => of(&format!("{module}.bias"))?,
                    false => vec![0.0; mean.len()],
                };
                let own = match own {
                    Some(name) => of(name)?,
                    None => vec![0.0; mean.len()],
                };
                (0..mean.len())
                    .map(|c| shift[c] + (own[c] - mean[c]) * factor[c])
                    .collect()
            }
            Made::Squared(s) => of(s)?.into_iter().map(|v| v * v).collect(),
            Made::Normalised(s) => {
                let v = of(s)?;
                let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt() + 1e-3;
                v.into_iter().map(|x| x / norm).collect()
            }
            Made::Interpolated(s) => {
                let v = of(s)?;
                (0..v.len())
                    .map(|i| 0.5 * (v[i] + v[(i + 1) % v.len()]))
                    .collect()
            }
            Made::Resized(s, height) => {
                let (v, from) = (of(s)?, rows(s)?);
                let width = v.len() / from;
                let at = |i: usize| {
                    let y = (i as f32 + 0.5) * from as f32 / *height as f32 - 0.5;
                    (y.floor() as usize, y.fract())
                };
                let row = |i: usize| {
                    let (y, part) = at(i);
                    let below = (y + 1).min(from - 1);
                    let v = &v;
                    (0..width)
                        .map(move |x| (1.0 - part) * v[y * width + x] + part * v[below * width + x])
                };
                (0..*height)
                    .flat_map(|i| row(i).collect::<Vec<_>>())
                    .collect()
            }
            Made::Waves(s, height) => {
                let frequencies = of(s)?;
                let row = |i: usize| {
                    let angles = frequencies.iter().map(move |f| i as f32 * f);
                    angles.flat_map(|a| [a.sin(), a.cos()]).collect::<Vec<_>>()
                };
                (0..*height).flat_map(row).collect()
            }
            Made::Rounded8(s) => {
                let v = of(s)?;
                let scale = v.iter().fold(1e-6f32, |m, x| m.max(x.abs())) / 127.0;
                let data = v.iter().map(|x| (x / scale).round() as i8 as u8).collect();
                return Some(Tensor {
                    dtype: Dtype::I8,
                    shape: shape.to_vec(),
                    data,
                });
            }
        };
        let data = cast(Dtype::F32, dtype, &of_f32(&[values.len()], &values).data).ok()?;
        Some(Tensor {
            dtype,
            shape: shape.to_vec(),
            data,
        })
    }
}

fn factors(from: &Checkpoint, module: &str, affine: bool) -> Option<Vec<f32>> {
    let of = |leaf: &str| from.get(&format!("{module}.{leaf}")).map(numbers);
    let variance = of("running_var")?;
    let scale = if affine {
        of("weight")?
    } else {
        vec![1.0; variance.len()]
    };
    Some(
        (0..variance.len())
            .map(|c| scale[c] / (variance[c] + EPSILON).sqrt())
            .collect(),
    )
}
