//! Rows that equal nothing in a new checkpoint: is the source that name or path presumes the changed successor of what the
//! ONNX file holds, and is no other candidate nearer, the transposed one included?

use super::case::{Case, Sources, add_fold_evidence, channel_axis, names_of, norms};
use crate::mapping::derive::{
    CLEARLY, FEWEST, LEAD, Measure, Relation, apply, batched, cosine, is_square, orders,
    presumed_relations, sample,
};
use crate::mapping::types::{Error, Evidence, Grade, Layout, Recipe, Row, held_bytes, squeezed};
use crate::tensor::{TensorView, to_f32};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};

/// A candidate's cosine with a row, by sample.
#[derive(Debug, Clone)]
struct Candidate {
    source: usize,
    relation: Relation,
    cosine: f64,
}

type Samples = HashMap<(usize, Vec<usize>), Vec<f32>>;

fn key(shape: &[usize]) -> Vec<usize> {
    let mut key = squeezed(shape);
    // Sorted, so that a matrix meets its transpose.
    key.sort_unstable();
    key
}

/// Every order that a candidate is compared under: as it is, and transposed when it is a matrix.
fn compared_orders(from: &[usize], to: &[usize]) -> Vec<Vec<usize>> {
    let mut all = orders(from, to);
    all.retain(|o| o.len() == 2 || o.is_sorted());
    all
}

/// Resolves `pending` rows by closeness.
pub(super) fn resolve(case: &Case<'_>, rows: &mut [Row], pending: &[usize]) -> Result<(), Error> {
    let taken: HashSet<&str> = rows.iter().flat_map(names_of).collect();
    let free: Vec<usize> = (0..case.sources.len())
        .filter(|&s| case.sources[s].dtype.is_float())
        .filter(|&s| !case.owned.contains(&s) && !taken.contains(case.sources[s].name))
        .collect();
    let mut pool: HashMap<Vec<usize>, Vec<usize>> = HashMap::new();
    let named = pending
        .iter()
        .flat_map(|&r| case.named[r].iter().map(|n| n.source));
    // What a name presumes is measured even if another row has it: weights may be tied.
    for s in free.iter().copied().chain(named) {
        let all = pool.entry(key(case.sources[s].shape)).or_default();
        if !all.contains(&s) {
            all.push(s);
        }
    }
    let held = pending
        .par_iter()
        .map(|&r| {
            let row = &rows[r];
            let bytes = held_bytes(row, case.held)?;
            let view = TensorView {
                dtype: row.dtype,
                shape: &row.shape,
                data: &bytes,
            };
            let plain: Vec<usize> = (0..squeezed(&row.shape).len()).collect();
            Ok((r, sample(view, &plain).unwrap_or_default()))
        })
        .collect::<Result<HashMap<_, _>, Error>>()?;
    let samples = sample_sources(case, rows, pending, &pool);
    let unaccounted = unaccounted_norms(case, rows);
    let judged = pending
        .par_iter()
        .map(|&r| {
            let mut candidates = candidates(case, &rows[r], &held[&r], &pool, &samples);
            candidates.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
            Ok((r, candidates))
        })
        .collect::<Result<HashMap<usize, Vec<Candidate>>, Error>>()?;
    let presumed: HashSet<usize> = case.named.iter().flatten().map(|n| n.source).collect();
    let cost = |&r: &usize| 12 * rows[r].count();
    let decisions = batched(pending, cost, |&r| {
        let mut row = rows[r].clone();
        if case.named[r].is_empty() {
            unnamed(case, &mut row, r, &judged, &presumed, &case.absent[r])?;
        } else {
            by_name(case, &mut row, r, &judged[&r], &unaccounted)?;
        }
        Ok::<_, Error>((r, row))
    })?;
    for (r, row) in decisions {
        rows[r] = row;
    }
    Ok(())
}

fn sample_sources(
    case: &Case<'_>,
    rows: &[Row],
    pending: &[usize],
    pool: &HashMap<Vec<usize>, Vec<usize>>,
) -> Samples {
    let mut wanted: HashSet<(usize, Vec<usize>)> = HashSet::new();
    for &r in pending {
        for &s in pool.get(&key(&rows[r].shape)).into_iter().flatten() {
            let from = squeezed(case.sources[s].shape);
            for order in compared_orders(&from, &squeezed(&rows[r].shape)) {
                wanted.insert((s, order));
            }
        }
    }
    (wanted.into_par_iter())
        .filter_map(|(s, order)| {
            let values = sample(case.sources[s].view()?, &order)?;
            Some(((s, order), values))
        })
        .collect()
}

fn candidates(
    case: &Case<'_>,
    row: &Row,
    held: &[f32],
    pool: &HashMap<Vec<usize>, Vec<usize>>,
    samples: &Samples,
) -> Vec<Candidate> {
    let mut all = Vec::new();
    // Integers are close to nothing.
    if held.is_empty() {
        return all;
    }
    for &source in pool.get(&key(&row.shape)).into_iter().flatten() {
        let from = squeezed(case.sources[source].shape);
        for order in compared_orders(&from, &squeezed(&row.shape)) {
            if let Some(values) = samples.get(&(source, order.clone())) {
                all.push(Candidate {
                    source,
                    cosine: cosine(held, values),
                    relation: Relation::Order(order),
                });
            }
        }
    }
    all
}

/// Modules of normalisations whose statistics no row accounts for: they may have been folded into something.
fn unaccounted_norms(case: &Case<'_>, rows: &[Row]) -> Vec<(String, usize)> {
    let accounted: HashSet<&str> = rows.iter().flat_map(names_of).collect();
    let presumed: HashSet<usize> = case.named.iter().flatten().map(|n| n.source).collect();
    norms(case)
        .into_iter()
        .filter(|n| !accounted.contains(n.norm.mean.as_str()) && !presumed.contains(&n.mean))
        .map(|n| (n.module, n.channels))
        .collect()
}

/// Judges a row whose source is presumed.
fn by_name(
    case: &Case<'_>,
    row: &mut Row,
    r: usize,
    candidates: &[Candidate],
    unaccounted: &[(String, usize)],
) -> Result<(), Error> {
    let named = &case.named[r];
    // Both orders of a square matrix are candidates, and its consumer says which is meant.
    let own = candidates.iter().find(|c| {
        named.iter().any(|n| n.source == c.source)
            && (!is_square(&row.shape) || c.relation.fits(row.layout))
    });
    let first = own.map_or(named[0].source, |c| c.source);
    let clue = named
        .iter()
        .find(|n| n.source == first)
        .map(|n| n.clue.clone());
    row.evidence.extend(clue.map(|clue| Evidence::Hinted {
        source: case.name(first),
        clue,
    }));
    let against = unaccounted_in(row, unaccounted);
    add_fold_evidence(row);
    let Some(own) = own else {
        without_measure(case, row, first, against);
        return Ok(());
    };
    let others = candidates
        .iter()
        .filter(|c| c.source != own.source || c.relation != own.relation);
    let runner_up = others.max_by(|a, b| a.cosine.total_cmp(&b.cosine));
    measured(case, row, own, runner_up, against)
}

/// Normalisations that nothing accounts for, and that may be folded into `row`.
fn unaccounted_in(row: &Row, unaccounted: &[(String, usize)]) -> Vec<Evidence> {
    let channels = channel_axis(row).and_then(|a| row.shape.get(a)).copied();
    let columns = row.shape.last().copied();
    let product = row.operators.iter().any(|o| o == "MatMul");
    (unaccounted.iter())
        .filter(|(_, of)| channels == Some(*of) || (product && columns == Some(*of)))
        .map(|(module, _)| Evidence::NormUnaccounted {
            module: module.clone(),
        })
        .collect()
}

/// A presumed source that there is nothing to measure of: scalars and types without a plain float, or another shape.
fn without_measure(case: &Case<'_>, row: &mut Row, first: usize, against: Vec<Evidence>) {
    let view = &case.sources[first];
    let mut presumed = presumed_relations(row, view.shape);
    if !row.dtype.is_float() && view.shape == row.shape {
        presumed.truncate(1);
    }
    let plain = row.fold_signs.is_empty()
        && against.is_empty()
        && row.dtype.is_float() == view.dtype.is_float();
    if let ([one], true) = (&presumed[..], plain) {
        row.recipe = Some(case.recipe(row, first, one));
    } else if presumed.is_empty() {
        row.evidence.push(Evidence::ShapeMisfit {
            source: case.name(first),
            shape: view.shape.to_vec(),
        });
    }
    row.evidence.extend(against);
}

/// Judges a row by how far its presumed source is from it, and how far the next best candidate.
fn measured(
    case: &Case<'_>,
    row: &mut Row,
    own: &Candidate,
    runner_up: Option<&Candidate>,
    mut against: Vec<Evidence>,
) -> Result<(), Error> {
    let name = case.sources[own.source].name;
    // The cosine of a few elements is high by chance.
    if let Some(other) = runner_up.filter(|o| o.cosine > own.cosine + CLEARLY && row.count() > 8) {
        against.push(Evidence::OtherCloser {
            source: case.sources[other.source].name.to_owned(),
            transposed: other.source == own.source,
            cosine: other.cosine,
        });
    }
    let measure = measure(case, row, own)?;
    let close = measure.is_close();
    if measure.proportional && row.count() >= FEWEST {
        against.push(Evidence::Proportional {
            source: name.to_owned(),
        });
    } else if close {
        row.evidence.push(closeness(name, &measure, runner_up));
    } else {
        row.evidence.push(Evidence::NotClose {
            source: name.to_owned(),
            relative: measure.relative,
            cosine: measure.cosine,
        });
    }
    let recipe = case.recipe(row, own.source, &own.relation);
    let clear = row.fold_signs.is_empty() && against.is_empty();
    // Where no consumer says how a square matrix stands, only one that clearly stands as it is will do: one that is nearer
    // transposed may have been turned by the exporter or, by mistake, in the checkpoint.
    let plain = matches!(&own.relation, Relation::Order(o) if o.is_sorted());
    let oriented = row.layout != Layout::Unknown
        || !is_square(&row.shape)
        || (plain
            && runner_up.is_none_or(|o| own.source != o.source || o.cosine + LEAD <= own.cosine));
    row.evidence.extend(against);
    if clear && !oriented {
        row.grade = Grade::Ambiguous;
        for relation in presumed_relations(row, case.sources[own.source].shape) {
            row.alternatives
                .push(case.recipe(row, own.source, &relation));
        }
    } else if clear {
        row.recipe = Some(recipe);
        if close {
            row.grade = Grade::Corroborated;
        }
    } else {
        row.alternatives.push(recipe);
    }
    Ok(())
}

fn closeness(name: &str, measure: &Measure, runner_up: Option<&Candidate>) -> Evidence {
    Evidence::Close {
        source: name.to_owned(),
        relative: measure.relative,
        cosine: measure.cosine,
        rank: measure.rank,
        runner_up: runner_up.map(|c| c.cosine),
    }
}

fn measure(case: &Case<'_>, row: &Row, candidate: &Candidate) -> Result<Measure, Error> {
    let plain = Row {
        recipe: Some(case.recipe(row, candidate.source, &candidate.relation)),
        ..row.clone()
    };
    let sources = Sources(case);
    let new = apply(&plain, &sources)?;
    let held = held_bytes(row, case.held)?;
    let numbers = |data: &[u8]| to_f32(row.dtype, data).map_err(|cause| Error::convert(row, cause));
    let values = numbers(&new)?;
    // Three copies of a large weight are in memory, and no fourth.
    drop(new);
    Ok(Measure::of(&numbers(&held)?, values, &row.shape))
}

/// Judges a row that nothing names: only a candidate that is each other's best, by far, will do.
fn unnamed(
    case: &Case<'_>,
    row: &mut Row,
    r: usize,
    judged: &HashMap<usize, Vec<Candidate>>,
    presumed: &HashSet<usize>,
    absent: &[String],
) -> Result<(), Error> {
    // Nothing but the value speaks for it, so it takes many elements and no sign of a fold.
    if let Some(best) = judged[&r]
        .first()
        .filter(|c| row.count() >= 64 && row.fold_signs.is_empty() && !presumed.contains(&c.source))
    {
        let second = judged[&r].get(1);
        let leads = second.is_none_or(|s| s.cosine + LEAD <= best.cosine);
        let mutual = judged.iter().all(|(other, candidates)| {
            *other == r
                || (candidates.iter())
                    .filter(|c| c.source == best.source)
                    .all(|c| c.cosine + LEAD <= best.cosine)
        });
        let oriented = !is_square(&row.shape)
            || (row.layout != Layout::Unknown && best.relation.fits(row.layout));
        // Where a presumed name is not there, that tensor is missing; what is near is another's.
        if leads && mutual && oriented && absent.is_empty() {
            let measure = measure(case, row, best)?;
            if measure.is_close() {
                let name = case.sources[best.source].name;
                row.evidence.push(closeness(name, &measure, second));
                row.grade = Grade::Corroborated;
                row.recipe = Some(case.recipe(row, best.source, &best.relation));
                return Ok(());
            }
        }
    }
    add_fold_evidence(row);
    if row.is_parameter() {
        row.evidence.push(Evidence::SourceMissing {
            names: absent.to_vec(),
        });
    } else {
        row.grade = Grade::Constant;
        row.evidence.push(Evidence::NoCandidate);
    }
    Ok(())
}

/// Looks at rows that were settled before: a square matrix that is clearly closer transposed was turned by mistake.
pub(super) fn recheck(case: &Case<'_>, rows: &mut [Row], open: &[usize]) -> Result<(), Error> {
    let open: HashSet<usize> = open.iter().copied().collect();
    let settled: Vec<usize> = (0..rows.len())
        .filter(|r| !open.contains(r) && rows[*r].grade != Grade::Given)
        .collect();
    let turned = batched(
        &settled,
        |&r| 4 * rows[r].count(),
        |&r| Ok::<_, Error>(turned_by_mistake(case, &rows[r])?.map(|e| (r, e))),
    )?;
    for (r, evidence) in turned.into_iter().flatten() {
        let row = &mut rows[r];
        row.grade = Grade::Unproven;
        row.alternatives.extend(row.recipe.take());
        row.evidence.push(evidence);
    }
    Ok(())
}

fn turned_by_mistake(case: &Case<'_>, row: &Row) -> Result<Option<Evidence>, Error> {
    let Some(Recipe::Tensor { source, .. }) = &row.recipe else {
        return Ok(None);
    };
    let (Some(at), true) = (case.find(source), is_square(&row.shape)) else {
        return Ok(None);
    };
    if case.sources[at].count() != row.count() {
        return Ok(None);
    }
    let sources = Sources(case);
    let Ok(new) = apply(row, &sources) else {
        return Ok(None);
    };
    let bytes = held_bytes(row, case.held)?;
    // Equal as it stands, and so not turned, be it symmetric or not.
    if bytes == new {
        return Ok(None);
    }
    let view = |data| TensorView {
        dtype: row.dtype,
        shape: &row.shape,
        data,
    };
    let (Some(held), Some(plain), Some(turned)) = (
        sample(view(&bytes), &[0, 1]),
        sample(view(&new), &[0, 1]),
        sample(view(&new), &[1, 0]),
    ) else {
        return Ok(None);
    };
    let (own, other) = (cosine(&held, &plain), cosine(&held, &turned));
    Ok(
        (other > own + LEAD && row.count() > 8).then(|| Evidence::OtherCloser {
            source: source.clone(),
            transposed: true,
            cosine: other,
        }),
    )
}
