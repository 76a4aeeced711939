//! Puts the changes of a LoRA's modules onto the rows of the model's parameters, and checks that they fit there.

use super::super::Source;
use super::build;
use super::change::{Axis, Change, Kind};
use super::error::Problem;
use super::family_names::Within;
use super::resolve::{Found, Index, Parameter};
use super::{Chosen, NEAREST, Part, Resolved, Target};
use crate::tensor::show_shape;

/// Where rows of a change go.
struct Stretch<'a> {
    parameter: &'a Parameter,
    from: usize,
    to: usize,
    rows: usize,
}

/// Builds and places every module; what does not fit becomes a problem.
pub(super) fn place(
    source: &Source,
    index: &Index,
    modules: &[Resolved],
    alpha: Option<f64>,
) -> Chosen {
    let mut chosen = Chosen::default();
    for resolved in modules {
        match &resolved.found {
            Found::Nothing => {
                // Nearness costs a comparison with every module; more than a few say nothing new.
                let show = chosen.problems.len() < 20;
                chosen.problems.push(Problem::Unmatched {
                    module: resolved.name.clone(),
                    nearest: if show {
                        index.nearest(&resolved.path, NEAREST)
                    } else {
                        Vec::new()
                    },
                });
                continue;
            }
            Found::Ambiguous(candidates) => {
                chosen.problems.push(Problem::Ambiguous {
                    module: resolved.name.clone(),
                    candidates: candidates.clone(),
                });
                continue;
            }
            _ => {}
        }
        let config = resolved
            .module
            .config
            .as_ref()
            .map(|(c, inner)| (c, inner.as_str()));
        let parts = &resolved.module.parts;
        let changes = match build::build(source, &resolved.name, parts, config, alpha) {
            Ok(changes) => changes,
            Err(problem) => {
                chosen.problems.push(problem);
                continue;
            }
        };
        for (bias, list) in [(false, changes.weight), (true, changes.bias)] {
            for change in list {
                // IA³ scales a layer's bias with its outputs; a layer without one has nothing to scale.
                let scale = bias && matches!(change.kind, Kind::Product(_));
                if let (true, Found::Whole(module)) = (scale, &resolved.found)
                    && index.module(*module).bias.is_none()
                {
                    continue;
                }
                if let Err(problem) = put(&mut chosen, source, index, &resolved.found, change, bias)
                {
                    chosen.problems.push(problem);
                }
            }
        }
    }
    overlaps(&mut chosen, source);
    chosen
}

/// Puts one change where `found` says, or says why it does not fit there. Nothing is added to `chosen` then.
fn put(
    chosen: &mut Chosen,
    source: &Source,
    index: &Index,
    found: &Found,
    mut change: Change,
    bias: bool,
) -> Result<(), Problem> {
    let stretches = match found {
        Found::Whole(module) => {
            let parameter = parameter(index, *module, &change, bias)?;
            vec![onto_whole(source, parameter, &mut change)?]
        }
        Found::Stacked { pieces, swapped } => onto_pieces(index, pieces, *swapped, &change, bias)?,
        Found::Ambiguous(_) | Found::Nothing => return Ok(()),
    };
    // Parts name their change by its number, which it gets when it is pushed below.
    let at = chosen.changes.len();
    for s in stretches {
        let target = (chosen.targets)
            .entry(s.parameter.name.clone())
            .or_insert_with(|| Target {
                shape: s.parameter.shape.clone(),
                parts: Vec::new(),
            });
        target.parts.push(Part {
            change: at,
            from: s.from,
            to: s.to,
            rows: s.rows,
        });
    }
    chosen.changes.push(change);
    Ok(())
}

/// The parameter of a module that a change is for.
fn parameter<'i>(
    index: &'i Index,
    module: usize,
    change: &Change,
    bias: bool,
) -> Result<&'i Parameter, Problem> {
    let module = index.module(module);
    let parameter = if bias { &module.bias } else { &module.weight };
    parameter.as_ref().ok_or_else(|| Problem::Unmatched {
        module: format!("{}.{}", change.module, if bias { "bias" } else { "weight" }),
        nearest: vec![module.name.clone()],
    })
}

fn misfit(change: &Change, parameter: &Parameter) -> Problem {
    Problem::Shape {
        module: change.module.clone(),
        target: parameter.name.clone(),
        lora: change.shape.clone(),
        weight: parameter.shape.clone(),
    }
}

/// All rows of a change on all rows of one parameter. The change gets the parameter's shape where its own does not say one.
fn onto_whole<'i>(
    source: &Source,
    parameter: &'i Parameter,
    change: &mut Change,
) -> Result<Stretch<'i>, Problem> {
    if let Kind::Product(multiplier) = &change.kind {
        if !multiplier.fits(source, &parameter.shape) {
            return Err(Problem::Incomplete {
                what: format!(
                    "is {} of other extents than `{}`, which is {}",
                    multiplier.name(),
                    parameter.name,
                    show_shape(&parameter.shape)
                ),
                module: change.module.clone(),
            });
        }
        change.shape.clone_from(&parameter.shape);
    }
    // As it is before turned: a square change would fit both ways.
    let mut fits = same(&change.shape, &parameter.shape);
    if !fits && change.straight() {
        fits = same(&change.shape, &parameter.shape);
    }
    if !fits {
        return Err(misfit(change, parameter));
    }
    Ok(Stretch {
        parameter,
        from: 0,
        to: 0,
        rows: change.rows(),
    })
}

/// The rows of a change on the parameters that hold them in this model, one after the other.
fn onto_pieces<'i>(
    index: &'i Index,
    pieces: &[Within],
    swapped: bool,
    change: &Change,
    bias: bool,
) -> Result<Vec<Stretch<'i>>, Problem> {
    if let Kind::Product(multiplier) = &change.kind {
        return Err(Problem::Incomplete {
            what: format!(
                "is {}, which multiplies the whole weight, and the model has that in parts, or as a part",
                multiplier.name()
            ),
            module: change.module.clone(),
        });
    }
    let mut from = 0;
    let mut stretches = Vec::new();
    // Of parts of one stack each takes its share of the change.
    let own: usize = pieces.iter().map(|p| p.heights[p.part]).sum();
    for piece in pieces {
        let parameter = parameter(index, piece.module, change, bias)?;
        let rows = parameter.shape.first().copied().unwrap_or(1);
        if !same(inner(&change.shape), inner(&parameter.shape)) {
            return Err(misfit(change, parameter));
        }
        let (to, rows) = if piece.heights.len() == 1 {
            (0, rows)
        } else {
            let share = change.rows() * piece.heights[piece.part];
            let height = share.is_multiple_of(own).then_some(share / own);
            (height.and_then(|height| place_within(piece, height, parameter)))
                .ok_or_else(|| misfit(change, parameter))?
        };
        let one = Stretch {
            parameter,
            from,
            to,
            rows,
        };
        stretches.extend(halves(vec![one], swapped != piece.swapped));
        from += rows;
    }
    // Rows that no piece takes would be lost.
    if from != change.rows() {
        return Err(misfit(change, stretches[0].parameter));
    }
    // The norms along the inputs are those of all rows together; no part of the rows has them.
    if change.dora.as_ref().is_some_and(|d| d.axis != Axis::Rows) {
        return Err(Problem::Incomplete {
            module: change.module.clone(),
            what: "has a DoRA scale per input, which cannot be taken apart by rows".into(),
        });
    }
    Ok(stretches)
}

/// First row and height of a part of a stacked module, for `rows` of a change that are that part.
fn place_within(piece: &Within, rows: usize, parameter: &Parameter) -> Option<(usize, usize)> {
    let whole = *parameter.shape.first()?;
    let before: usize = piece.heights[..piece.part].iter().sum();
    let total: usize = piece.heights.iter().sum();
    if rows * total == whole * piece.heights[piece.part] {
        return Some((whole / total * before, rows));
    }
    // `linear1` of FLUX is q, k and v, each as long as the input is wide, and an MLP of any width.
    let hidden = parameter
        .shape
        .get(1)
        .copied()
        .filter(|_| piece.heights == [1, 1, 1, 4])?;
    let fits = if piece.part == 3 {
        3 * hidden + rows == whole
    } else {
        rows == hidden && 3 * hidden < whole
    };
    fits.then_some((hidden * before, rows))
}

/// Exchanges the two halves of a single stretch where the two namings disagree on their order.
fn halves(stretches: Vec<Stretch<'_>>, swapped: bool) -> Vec<Stretch<'_>> {
    if !swapped {
        return stretches;
    }
    let halved = stretches.into_iter().flat_map(|s| {
        let half = s.rows / 2;
        let upper = s.rows - half;
        [
            Stretch {
                parameter: s.parameter,
                from: s.from,
                to: s.to + upper,
                rows: half,
            },
            Stretch {
                parameter: s.parameter,
                from: s.from + half,
                to: s.to,
                rows: upper,
            },
        ]
    });
    halved.collect()
}

/// All extents but the first.
fn inner(shape: &[usize]) -> &[usize] {
    shape.get(1..).unwrap_or(&[])
}

/// Equal but for trailing ones (a 1×1 conv is a linear layer), or the same rows with all else flattened on either side, as in ComfyUI
/// (`LoRAAdapter.calculate_weight`).
fn same(a: &[usize], b: &[usize]) -> bool {
    let trimmed = |s: &[usize]| s[..s.iter().rposition(|&e| e != 1).map_or(0, |i| i + 1)].to_vec();
    let flat_in = |flat: &[usize], other: &[usize]| {
        let inner = other.get(1..).map(|rest| rest.iter().product());
        flat.len() == 2 && other.len() > 2 && flat[0] == other[0] && Some(flat[1]) == inner
    };
    trimmed(a) == trimmed(b) || flat_in(a, b) || flat_in(b, a)
}

/// Two modules must not change the same rows, unless they say the same, which then counts once; a replacement and a delta of one
/// module may.
fn overlaps(chosen: &mut Chosen, source: &Source) {
    let changes = &chosen.changes;
    for (name, target) in &mut chosen.targets {
        let mut parts = std::mem::take(&mut target.parts);
        // Replacements last: a replacement and a delta of one module do not clash, so each kind is
        // compared with its own neighbours.
        parts.sort_by_key(|p| (changes[p.change].replaces(), p.to));
        for part in parts {
            let (change, before) = (&changes[part.change], target.parts.last());
            let clash = before.filter(|b| {
                changes[b.change].replaces() == change.replaces() && b.to + b.rows > part.to
            });
            let Some(first) = clash else {
                target.parts.push(part);
                continue;
            };
            let other = &changes[first.change];
            let place = |p: &Part| (p.from, p.to, p.rows);
            if place(first) == place(&part) && other.equals(change, source) {
                chosen.twice.insert(change.module.clone());
                continue;
            }
            chosen.problems.push(Problem::Overlap {
                target: name.clone(),
                modules: vec![other.module.clone(), change.module.clone()],
            });
            target.parts.push(part);
        }
    }
}
