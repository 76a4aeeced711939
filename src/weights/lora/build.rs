//! Builds a module's changes from its tensors: which kind it is, whether the factors fit each other, and its scale.

use super::super::Source;
use super::change::{Axis, Change, Changes, Dora, Factor, Kind, Parts};
use super::config::Config;
use super::error::Problem;
use super::key_layouts::Role;
use super::kinds::{is_readable, wide};
use super::multiply::{Multiplier, Side, block_size};

/// Builds the changes of `module`. `config` and the module's path inside it, where there is a configuration; `alpha` of the user, for
/// a file that states none.
pub(super) fn build(
    source: &Source,
    module: &str,
    parts: &Parts,
    config: Option<(&Config, &str)>,
    alpha: Option<f64>,
) -> Result<Changes, Problem> {
    Builder {
        source,
        module,
        parts,
        config,
        alpha,
    }
    .build()
}

const LOHA: &[Role] = &[
    Role::HadaW1A,
    Role::HadaW1B,
    Role::HadaW2A,
    Role::HadaW2B,
    Role::HadaT1,
    Role::HadaT2,
];

const LOKR: &[Role] = &[
    Role::LokrW1,
    Role::LokrW1A,
    Role::LokrW1B,
    Role::LokrW2,
    Role::LokrW2A,
    Role::LokrW2B,
    Role::LokrT2,
];

/// Tensors of adapters that multiply the weight.
const MULTIPLIERS: &[Role] = &[
    Role::A1,
    Role::A2,
    Role::B1,
    Role::B2,
    Role::OftBlocks,
    Role::Rescale,
    Role::OftVectors,
    Role::BoftBlocks,
    Role::BoftScale,
    Role::Ia3,
];

struct Builder<'a> {
    source: &'a Source,
    module: &'a str,
    parts: &'a Parts,
    config: Option<(&'a Config, &'a str)>,
    alpha: Option<f64>,
}

impl Builder<'_> {
    fn build(&self) -> Result<Changes, Problem> {
        for (role, key) in self.parts {
            let view = self.view(key);
            // An alpha is one number, of whatever type.
            if *role != Role::Alpha && !is_readable(view.dtype) {
                return Err(value(
                    key,
                    format!(
                        "is {}; only floats of 8 bits and more can be fused",
                        view.dtype
                    ),
                ));
            }
        }
        let families: [(&[Role], &'static str); 6] = [
            (
                &[Role::Down, Role::Up, Role::Mid, Role::UpBias],
                "low-rank factors",
            ),
            (&[Role::EmbeddingA, Role::EmbeddingB], "embedding factors"),
            (LOHA, "LoHa factors"),
            (LOKR, "LoKr factors"),
            (&[Role::Difference], "a difference"),
            (MULTIPLIERS, "what multiplies the weight"),
        ];
        let present: Vec<usize> = (0..families.len())
            .filter(|&f| families[f].0.iter().any(|r| self.parts.contains_key(r)))
            .collect();
        // Two families of factors would be two changes of one weight.
        if present.len() > 1 {
            let all: Vec<_> = present.iter().map(|&f| families[f].1).collect();
            return Err(self.incomplete(format!("has {} at once", all.join(" and "))));
        }
        let mut changes = Changes::default();
        match present.first() {
            Some(0) => {
                changes.weight.push(self.low_rank()?);
                changes.bias.extend(self.up_bias(&changes.weight[0]));
            }
            Some(1) => changes.weight.push(self.embedding()?),
            Some(2) => changes.weight.push(self.hadamard()?),
            Some(3) => changes.weight.push(self.kronecker()?),
            Some(4) => changes.weight.push(self.full(Role::Difference)?),
            Some(_) => return self.product(),
            None => {}
        }
        let scaled = matches!(present.first(), Some(0..=3));
        for (role, what) in [
            (Role::Alpha, "an alpha"),
            (Role::DoraScale, "a DoRA scale"),
            (Role::Magnitude, "a magnitude vector"),
        ] {
            // What scales factors says nothing without them: a part of the file is missing.
            if !scaled && self.parts.contains_key(&role) {
                return Err(self.incomplete(format!("has {what} and no factors")));
            }
        }
        if let Some(key) = self.parts.get(&Role::Replacement) {
            // ComfyUI takes the weight then, and drops what would be added to it.
            if key.ends_with(".set_weight") && !changes.weight.is_empty() {
                return Err(
                    self.incomplete("is replaced by `set_weight` and changed as well".into())
                );
            }
            changes.weight.push(self.full(Role::Replacement)?);
        }
        for role in [Role::BiasDifference, Role::BiasReplacement] {
            if self.parts.contains_key(&role) {
                changes.bias.push(self.full(role)?);
            }
        }
        Ok(changes)
    }

    /// OFT, BOFT, IA³ and GLoRA: alone in their module.
    fn product(&self) -> Result<Changes, Problem> {
        let other = |r: &&Role| !MULTIPLIERS.contains(r) && **r != Role::Alpha;
        if let Some(role) = self.parts.keys().find(other) {
            return Err(self.incomplete(format!(
                "multiplies the weight and has {} as well",
                role.name()
            )));
        }
        // The side that is multiplied would be the other one.
        if self.config.is_some_and(|(c, _)| c.fan_in_fan_out) {
            return Err(self.incomplete("multiplies the weight, with `fan_in_fan_out` set".into()));
        }
        let has = |r: Role| self.parts.contains_key(&r);
        let (multiplier, biased) = if has(Role::Ia3) {
            let key = self.key(Role::Ia3)?;
            let axis = match self.shape(&key) {
                [_, 1] => Side::Rows,
                [1, _] => Side::Columns,
                _ => return Err(self.factors(&[Role::Ia3])),
            };
            (Multiplier::Scale { key, axis }, axis == Side::Rows)
        } else if has(Role::OftVectors) {
            (self.peft_oft()?, false)
        } else if has(Role::BoftBlocks) || has(Role::BoftScale) {
            let multiplier = Multiplier::ColumnButterfly {
                blocks: self.key(Role::BoftBlocks)?,
                scale: self.key(Role::BoftScale)?,
            };
            (multiplier, false)
        } else if has(Role::OftBlocks) || has(Role::Rescale) {
            (self.lycoris_oft()?, false)
        } else {
            return self.glora();
        };
        let change = |multiplier: &Multiplier| Change {
            module: self.module.to_owned(),
            kind: Kind::Product(multiplier.clone()),
            scaling: 1.0,
            rank: None,
            alpha: None,
            dora: None,
            shape: Vec::new(),
            embedding: false,
        };
        Ok(Changes {
            bias: (biased.then(|| change(&multiplier))).into_iter().collect(),
            weight: vec![change(&multiplier)],
        })
    }

    /// Only the configuration says how PEFT's vectors become rotations.
    fn peft_oft(&self) -> Result<Multiplier, Problem> {
        let vectors = self.key(Role::OftVectors)?;
        let Some(turning) = self.config.and_then(|(c, _)| c.turning) else {
            return Err(
                self.incomplete("is OFT of PEFT, and has no configuration of that kind".into())
            );
        };
        let [blocks, elements] = *self.shape(&vectors) else {
            return Err(self.factors(&[Role::OftVectors]));
        };
        let n = block_size(elements);
        // The vector is the part above the diagonal of a square block, and not every length is one.
        if n * (n - 1) / 2 != elements || (turning.shared && blocks != 1) {
            return Err(self.factors(&[Role::OftVectors]));
        }
        Ok(Multiplier::ColumnBlocks { vectors, turning })
    }

    /// An alpha is here the largest norm of all blocks together: of the file's number for `ComfyUI`, of that times the outputs for
    /// `LyCORIS` and kohya. Below the smaller of the two nothing is constrained.
    fn lycoris_oft(&self) -> Result<Multiplier, Problem> {
        let blocks = self.key(Role::OftBlocks)?;
        let rescale = self.parts.get(&Role::Rescale).cloned();
        let shape = self.shape(&blocks);
        let n = shape.last().copied().unwrap_or(0);
        if let Some(key) = self.parts.get(&Role::Alpha) {
            let limit = match self.values(key).as_slice() {
                [v] if v.is_finite() => *v,
                _ => return Err(value(key, "is not one finite number".into())),
            };
            let values = self.values(&blocks);
            let squares = values.chunks((n * n).max(1)).flat_map(|block| {
                (0..n * n).map(move |at| (block[at] - block[at % n * n + at / n]).powi(2))
            });
            if shape.len() >= 3 && shape[shape.len() - 2] == n && limit > 0.0 {
                let norm = squares.sum::<f64>().sqrt();
                // Below the limit nothing is constrained, and both give the same.
                if norm > limit {
                    return Err(value(
                        key,
                        format!(
                            "constrains blocks of norm {norm:.3} to {limit}, which ComfyUI and LyCORIS do in different ways"
                        ),
                    ));
                }
            }
        }
        match *shape {
            [_, a, b] if a == b => Ok(Multiplier::RowBlocks { blocks, rescale }),
            [_, _, a, b] if a == b => Ok(Multiplier::RowButterfly { blocks, rescale }),
            _ => Err(self.factors(&[Role::OftBlocks])),
        }
    }

    fn glora(&self) -> Result<Changes, Problem> {
        let roles = [Role::A1, Role::A2, Role::B1, Role::B2];
        let [a1, a2, b1, b2] = roles.map(|r| self.key(r));
        let (a1, a2, b1, b2) = (a1?, a2?, b1?, b2?);
        let sides = |key: &str| -> (usize, usize) {
            let shape = self.shape(key);
            let rows = shape.first().copied().unwrap_or(0);
            (rows, shape.iter().skip(1).product())
        };
        let (sa1, sa2, sb1, sb2) = (sides(&a1), sides(&a2), sides(&b1), sides(&b2));
        // The rank is outside in the one and inside in the other.
        let new = [sa2.0, sb1.1, sb2.0].iter().all(|r| *r == sa1.1);
        let old = [sa2.1, sb1.0, sb2.1].iter().all(|r| *r == sa1.0);
        let (a, b, flat, rank) = match (new, old) {
            (true, false) => ([a1, a2], [b1, b2], false, sa1.1),
            (false, true) => ([a2, a1], [b2, b1], true, sa1.0),
            // Square factors fit both forms, which give different weights.
            (true, true) => {
                return Err(self.incomplete(
                    "is GLoRA of full rank, which may be of the old form or of the new one".into(),
                ));
            }
            (false, false) => return Err(self.factors(&roles)),
        };
        let kind = Kind::Product(Multiplier::Glora { a, b, flat });
        let change = self.scaled(kind, Some(rank), Vec::new(), None)?;
        Ok(Changes {
            weight: vec![change],
            bias: Vec::new(),
        })
    }

    fn low_rank(&self) -> Result<Change, Problem> {
        let (up, down) = (self.key(Role::Up)?, self.key(Role::Down)?);
        let mid = self.parts.get(&Role::Mid).cloned();
        let (u, d) = (self.shape(&up), self.shape(&down));
        let m = mid.as_deref().map(|k| self.shape(k));
        let fits = match (u, d, m) {
            ([_, r, ones @ ..], [rank, _, ..], None) => r == rank && flat(ones),
            ([_, r, ones @ ..], [n, _, down_ones @ ..], Some([i, j, ..])) => {
                r == i && n == j && flat(ones) && flat(down_ones)
            }
            _ => false,
        };
        if !fits {
            return Err(self.factors(&[Role::Up, Role::Down, Role::Mid]));
        }
        let rank = d[0];
        let mut shape = vec![u[0], d[1]];
        shape.extend(&m.unwrap_or(d)[2..]);
        let transposed =
            // `fan_in_fan_out` is of PEFT's linear layers; a convolution has none.
            mid.is_none() && shape.len() == 2 && self.config.is_some_and(|(c, _)| c.fan_in_fan_out);
        let dora = self.dora(&shape, transposed)?;
        if transposed {
            shape.reverse();
        }
        let kind = Kind::LowRank {
            up,
            down,
            mid,
            transposed,
        };
        self.scaled(kind, Some(rank), shape, dora)
    }

    /// `lora_B · lora_A` is `[width, entries]`; the table is `[entries, width]`.
    fn embedding(&self) -> Result<Change, Problem> {
        let (up, down) = (self.key(Role::EmbeddingB)?, self.key(Role::EmbeddingA)?);
        let ([width, r], [rank, entries]) = (self.shape(&up), self.shape(&down)) else {
            return Err(self.factors(&[Role::EmbeddingA, Role::EmbeddingB]));
        };
        if r != rank {
            return Err(self.factors(&[Role::EmbeddingA, Role::EmbeddingB]));
        }
        let (rank, shape) = (*rank, vec![*entries, *width]);
        let dora = self.dora(&[*width, *entries], true)?;
        let kind = Kind::LowRank {
            up,
            down,
            mid: None,
            transposed: true,
        };
        self.scaled(kind, Some(rank), shape, dora)
    }

    fn hadamard(&self) -> Result<Change, Problem> {
        let roles = [Role::HadaW1A, Role::HadaW1B, Role::HadaW2A, Role::HadaW2B];
        let [w1a, w1b, w2a, w2b] = roles.map(|r| self.key(r));
        let (w1, w2) = ([w1a?, w1b?], [w2a?, w2b?]);
        let cores = match (self.parts.get(&Role::HadaT1), self.parts.get(&Role::HadaT2)) {
            (None, None) => None,
            (Some(a), Some(b)) => Some([a.clone(), b.clone()]),
            _ => return Err(self.incomplete("has one of two Tucker cores".into())),
        };
        let half = |w: &[String; 2], core: Option<&String>| {
            pair_shape(
                self.shape(&w[0]),
                self.shape(&w[1]),
                core.map(|c| self.shape(c)),
            )
        };
        let first = half(&w1, cores.as_ref().map(|c| &c[0]));
        let shape = match first {
            Some(shape) if first == half(&w2, cores.as_ref().map(|c| &c[1])) => shape,
            _ => return Err(self.factors(LOHA)),
        };
        let rank = self.shape(&w1[1])[0];
        let dora = self.dora(&shape, false)?;
        self.scaled(Kind::Hadamard { w1, w2, cores }, Some(rank), shape, dora)
    }

    fn kronecker(&self) -> Result<Change, Problem> {
        let factor = |whole, a, b| match self.parts.get(&whole) {
            Some(k) if !self.parts.contains_key(&a) && !self.parts.contains_key(&b) => {
                Ok(Factor::Whole(k.clone()))
            }
            Some(_) => Err(self.incomplete("has a LoKr factor both whole and as a product".into())),
            None => Ok(Factor::Product(self.key(a)?, self.key(b)?)),
        };
        let w1 = factor(Role::LokrW1, Role::LokrW1A, Role::LokrW1B)?;
        let w2 = factor(Role::LokrW2, Role::LokrW2A, Role::LokrW2B)?;
        let core = self.parts.get(&Role::LokrT2).cloned();
        let wrong = || self.factors(LOKR);
        let shape_of = |f: &Factor, core: Option<&str>| match (f, core) {
            (Factor::Whole(k), None) => (self.shape(k).len() >= 2).then(|| self.shape(k).to_vec()),
            (Factor::Whole(_), Some(_)) => None,
            (Factor::Product(a, b), c) => {
                pair_shape(self.shape(a), self.shape(b), c.map(|c| self.shape(c)))
            }
        };
        let (Some(a), Some(b)) = (shape_of(&w1, None), shape_of(&w2, core.as_deref())) else {
            return Err(wrong());
        };
        // Only the second factor has a kernel (LyCORIS' `make_kron`).
        if !flat(&a[2..]) {
            return Err(wrong());
        }
        let mut shape = vec![a[0] * b[0], a[1] * b[1]];
        shape.extend(&b[2..]);
        let ranks: Vec<usize> = [&w1, &w2]
            .iter()
            .filter_map(|f| match f {
                Factor::Product(_, b) => Some(self.shape(b)[0]),
                Factor::Whole(_) => None,
            })
            .collect();
        // The scale is alpha by rank, which has to be one rank.
        if ranks.windows(2).any(|w| w[0] != w[1]) {
            return Err(wrong());
        }
        let dora = self.dora(&shape, false)?;
        self.scaled(
            Kind::Kronecker { w1, w2, core },
            ranks.first().copied(),
            shape,
            dora,
        )
    }

    fn full(&self, role: Role) -> Result<Change, Problem> {
        let key = self.key(role)?;
        let shape = self.shape(&key).to_vec();
        let kind = match role {
            Role::Replacement | Role::BiasReplacement => Kind::Replacement(key),
            _ => Kind::Difference(key),
        };
        Ok(Change {
            module: self.module.to_owned(),
            kind,
            scaling: 1.0,
            rank: None,
            alpha: None,
            dora: None,
            shape,
            embedding: false,
        })
    }

    /// PEFT's `lora_bias`: the up projection's bias goes to the module's, with the same scale.
    fn up_bias(&self, weight: &Change) -> Option<Change> {
        let key = self.parts.get(&Role::UpBias)?;
        Some(Change {
            module: self.module.to_owned(),
            kind: Kind::Difference(key.clone()),
            scaling: weight.scaling,
            rank: None,
            alpha: weight.alpha,
            dora: None,
            shape: self.shape(key).to_vec(),
            embedding: false,
        })
    }

    /// With a configuration `alpha / r` (or `alpha / √r`). Without one `alpha / rank`, where a missing alpha is the user's or
    /// else the rank, and 1 for a LoKr of two whole factors (`modules/lokr.py`). An alpha of 0 is 0 (`comfy/weight_adapter/lora.py`;
    /// diffusers' converters): kohya's trainer means the rank by it when it makes a network, but never writes it.
    fn scaled(
        &self,
        kind: Kind,
        rank: Option<usize>,
        shape: Vec<usize>,
        dora: Option<Dora>,
    ) -> Result<Change, Problem> {
        let stated = match self.parts.get(&Role::Alpha) {
            None => None,
            Some(key) => match self.values(key).as_slice() {
                [v] if v.is_finite() => Some(*v),
                _ => return Err(value(key, "is not one finite number".into())),
            },
        };
        // Alpha by rank would be infinite.
        if rank == Some(0) {
            return Err(self.incomplete("has rank 0".into()));
        }
        let (scaling, alpha) = if let Some((config, path)) = self.config {
            let (r, alpha) = config.of(path);
            let conflict = |what, file, config| Problem::Config {
                module: self.module.to_owned(),
                what,
                file,
                config,
            };
            if let Some(rank) = rank
                && rank as f64 != r
            {
                return Err(conflict("rank", rank as f64, r));
            }
            if let Some(stated) = stated
                && stated != alpha
            {
                return Err(conflict("alpha", stated, alpha));
            }
            // Without the magnitude the same factors are a plain LoRA, which is another change.
            if config.dora && dora.is_none() {
                return Err(self
                    .incomplete("has no DoRA magnitude, which the configuration promises".into()));
            }
            (
                alpha / if config.rslora { r.sqrt() } else { r },
                Some(alpha),
            )
        } else {
            // Where neither says one, the alpha is taken to be the rank, and the scale is 1.
            let alpha = stated.or(self.alpha);
            let scaling = match (alpha, rank) {
                (Some(alpha), Some(rank)) => alpha / rank as f64,
                _ => 1.0,
            };
            (scaling, alpha)
        };
        Ok(Change {
            module: self.module.to_owned(),
            kind,
            scaling,
            rank,
            alpha,
            dora,
            shape,
            embedding: self.parts.contains_key(&Role::EmbeddingA),
        })
    }

    /// `shape` is `[out, in, kernel…]` before a transposition.
    fn dora(&self, shape: &[usize], transposed: bool) -> Result<Option<Dora>, Problem> {
        let (out, input) = (shape[0], shape[1]);
        let kernel: usize = shape[2..].iter().product();
        match (
            self.parts.get(&Role::Magnitude),
            self.parts.get(&Role::DoraScale),
        ) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(self.incomplete("has two DoRA magnitudes".into())),
            (Some(key), None) => {
                // PEFT's magnitude is one number for each output.
                if self.shape(key).iter().product::<usize>() != out {
                    return Err(self.factors(&[Role::Up, Role::Down, Role::Magnitude]));
                }
                Ok(Some(Dora {
                    key: key.clone(),
                    axis: if transposed {
                        Axis::Columns(1)
                    } else {
                        Axis::Rows
                    },
                    epsilon: 0.0,
                }))
            }
            (None, Some(key)) => {
                // `[out, 1…]` or `[1, in, 1…]`: where both could be meant, the tensor's own first extent decides.
                let axis = match self.shape(key) {
                    [n, rest @ ..]
                        if *n == out && flat(rest) && (!rest.is_empty() || out != input) =>
                    {
                        Axis::Rows
                    }
                    [1, n, rest @ ..] if *n == input && flat(rest) => Axis::Columns(kernel),
                    _ => return Err(self.factors(&[Role::Up, Role::Down, Role::DoraScale])),
                };
                Ok(Some(Dora {
                    key: key.clone(),
                    axis,
                    epsilon: f64::from(f32::EPSILON),
                }))
            }
        }
    }

    fn view(&self, key: &str) -> crate::tensor::TensorView<'_> {
        self.source
            .get(key)
            .expect("the keys came from this source")
    }

    fn shape(&self, key: &str) -> &[usize] {
        self.view(key).shape
    }

    fn values(&self, key: &str) -> Vec<f64> {
        let view = self.view(key);
        wide(view.dtype, view.data)
    }

    fn key(&self, role: Role) -> Result<String, Problem> {
        let missing = || self.incomplete(format!("has no {}", role.name()));
        self.parts.get(&role).cloned().ok_or_else(missing)
    }

    fn incomplete(&self, what: String) -> Problem {
        Problem::Incomplete {
            module: self.module.to_owned(),
            what,
        }
    }

    fn factors(&self, roles: &[Role]) -> Problem {
        let keys = roles.iter().filter_map(|r| self.parts.get(r));
        Problem::Factors {
            module: self.module.to_owned(),
            shapes: keys.map(|k| (k.clone(), self.shape(k).to_vec())).collect(),
        }
    }
}

/// Shape of `a · b` with `a` `[out, r]` and `b` `[r, in, kernel…]`, or with a core `[r, r, kernel…]` of
/// `einsum("i j ..., i p, j q -> p q ...")`.
fn pair_shape(a: &[usize], b: &[usize], core: Option<&[usize]>) -> Option<Vec<usize>> {
    match (a, b, core) {
        ([out, r], [rank, rest @ ..], None) if r == rank && !rest.is_empty() => {
            Some([&[*out], rest].concat())
        }
        ([i, out], [j, input], Some([ci, cj, kernel @ ..])) if i == ci && j == cj => {
            Some([&[*out, *input], kernel].concat())
        }
        _ => None,
    }
}

fn flat(extents: &[usize]) -> bool {
    extents.iter().all(|&e| e == 1)
}

fn value(key: &str, what: String) -> Problem {
    Problem::Value {
        key: key.to_owned(),
        what,
    }
}
