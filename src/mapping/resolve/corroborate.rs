//! A checkpoint where there is no base: names, paths, equal values and closeness together give each row its recipe and its grade.
//!
//! First what is equal, then folds, then what is near (`changed`), then constants that are copies of one another in the ONNX file.
//! At the end candidates that cannot be ruled out are added (rivals): where one of them would give a weight other bytes, it is not
//! written. They stand against two faults that no value shows: a base that lacked a tensor, so that another of equal values took its
//! place, and tied weights that part.

use super::case::{Case, Equal, Named, Source, names_of, norms, presume};
use super::{changed, folds, readings};
use crate::mapping::derive::{Relation, is_square, presumed_relations};
use crate::mapping::hints::{align, is_anonymous};
use crate::mapping::types::{
    Accounts, Checkpoint, Clue, Error, Evidence, Grade, Held, Layout, Leftover, Mapping, Missing,
    Recipe, Resolved, Row, Why, held_bytes, squeezed,
};
use crate::tensor::{TensorView, element_count, permute};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Resolves the rows against another checkpoint of the same architecture, where there is no base: by names, equal values and
/// closeness. Nothing of it is kept for the next file.
///
/// # Errors
/// [`Error::NotHeld`] when `held` lacks a weight, [`Error::Convert`].
pub fn corroborate(
    mapping: &Mapping,
    held: &dyn Held,
    checkpoint: &dyn Checkpoint,
) -> Result<Resolved, Error> {
    let (baked, mut rows): (Vec<Row>, Vec<Row>) =
        (mapping.rows.iter().cloned()).partition(|row| row.baked.is_some());
    let (mut case, open) = Case::open(&mut rows, checkpoint, held)?;
    let missing_settled = settle_names(&mut rows, &open, &case.sources);
    let owned = open
        .iter()
        .flat_map(|&r| by_both(&case.named[r], &case.equal.of_row[r]).map(|(n, _)| n.source))
        .collect();
    case.owned = owned;
    let open_named = by_initializer(&case, &mut rows, &open);
    let mut pending = Vec::new();
    for &r in &open_named {
        if !by_value(&case, &mut rows, r, &open, false) {
            pending.push(r);
        }
    }
    let mut pending = folds::resolve(&case, &mut rows, &pending)?;
    pending.retain(|&r| !by_value(&case, &mut rows, r, &open, true));
    changed::recheck(&case, &mut rows, &open)?;
    changed::resolve(&case, &mut rows, &pending)?;
    follow_copies(&case, &mut rows, &open);
    for &r in &open {
        let is_unknown =
            rows[r].explanations().next().is_none() && readings::is_made_of_tensors(&rows[r]);
        rows[r].literal = case.equal.literals[r].filter(|_| !is_unknown);
        orientation_evidence(&mut rows[r]);
    }
    readings::veto(&case, &mut rows, &open, mapping.merges);
    let accounts = coverage(&rows, &case, missing_settled);
    // After the accounts, because a rival reaches nothing.
    add_rivals(&case, &mut rows, &open);
    rows.extend(baked_by_name(baked, &case.sources, held)?);
    Ok(Resolved {
        mapping: Mapping {
            rows,
            ..mapping.clone()
        },
        accounts,
    })
}

/// Gives each row whose made-up name (`onnx::MatMul_12`) is a tensor of the file that tensor as it is: such a file is written
/// in the initializers' own names, as TensorRT's refitter takes it. Hands back the other rows.
fn by_initializer(case: &Case<'_>, rows: &mut [Row], open: &[usize]) -> Vec<usize> {
    let mut others = Vec::new();
    for &r in open {
        let row = &mut rows[r];
        let same = case
            .find(&row.name)
            .filter(|&s| is_anonymous(&row.name) && case.sources[s].shape == row.shape);
        if let Some(s) = same {
            row.grade = Grade::Corroborated;
            row.recipe = Some(Recipe::Tensor {
                source: case.sources[s].name.to_owned(),
                steps: Vec::new(),
            });
        } else {
            others.push(r);
        }
    }
    others
}

/// Values that engines fold in and that a tensor of the checkpoint names: an index table, a bound.
fn baked_by_name(
    mut baked: Vec<Row>,
    sources: &[Source<'_>],
    held: &dyn Held,
) -> Result<Vec<Row>, Error> {
    let (named, _) = presume(&baked, sources);
    for (row, named) in baked.iter_mut().zip(&named) {
        let Some(first) = named.first() else { continue };
        let view = &sources[first.source];
        // What was computed of a tensor is not the tensor.
        if view.dtype.is_float() != row.dtype.is_float() || first.clue == Clue::FoldedFrom {
            continue;
        }
        held_bytes(row, held)?;
        row.grade = Grade::Corroborated;
        row.recipe = Some(Recipe::Tensor {
            source: sources[first.source].name.to_owned(),
            steps: Relation::Reshape.steps(view.shape, row),
        });
    }
    baked.retain(|row| row.recipe.is_some() || row.is_folded_in());
    for row in baked.iter_mut().filter(|row| row.recipe.is_none()) {
        row.grade = Grade::Constant;
    }
    Ok(baked)
}

/// Renames the sources of settled rows as this checkpoint spells them; gives back what it does not hold, by row.
fn settle_names(rows: &mut [Row], open: &[usize], sources: &[Source<'_>]) -> Vec<usize> {
    let open: HashSet<usize> = open.iter().copied().collect();
    let known: HashSet<&str> = sources.iter().map(|s| s.name).collect();
    let settled: Vec<usize> = (0..rows.len()).filter(|r| !open.contains(r)).collect();
    let all = |row: &Row| -> Vec<String> {
        (row.recipe.iter().chain(&row.alternatives))
            .flat_map(|r| r.sources().into_iter().map(ToOwned::to_owned))
            .collect()
    };
    let used: Vec<String> = settled.iter().flat_map(|&r| all(&rows[r])).collect();
    if !used.iter().all(|n| known.contains(n.as_str())) {
        let prefixes = align(
            used.iter().map(|n| (n.as_str(), None)),
            sources.iter().map(|s| (s.name, None)),
        );
        // A name that is there is that tensor's, whatever its prefix.
        let rename = |name: &str| match prefixes.translate(name) {
            Some(new) if !known.contains(name) && known.contains(new.as_str()) => new,
            _ => name.to_owned(),
        };
        for &r in &settled {
            let row = &mut rows[r];
            row.recipe = row.recipe.as_ref().map(|x| x.renamed(rename));
            row.alternatives = row.alternatives.iter().map(|x| x.renamed(rename)).collect();
        }
    }
    (settled.into_iter())
        .filter(|&r| all(&rows[r]).iter().any(|n| !known.contains(n.as_str())))
        .collect()
}

/// At most so many names are listed in one piece of evidence.
const LISTED: usize = 8;

/// Pairs of a name and an equality that point to the same source, in the order of names.
fn by_both<'a>(
    named: &'a [Named],
    equal: &'a [Equal],
) -> impl Iterator<Item = (&'a Named, &'a Equal)> {
    named.iter().filter_map(|n| {
        (equal.iter())
            .find(|e| e.source == n.source && !e.contrary)
            .map(|e| (n, e))
    })
}

/// Decides a row by its equalities; false when they do not decide it. Where the graph shows signs of a fold, a value alone
/// decides only when no fold was found (`unfolded`): β is a fold's bias where the mean is zero.
fn by_value(case: &Case<'_>, rows: &mut [Row], r: usize, open: &[usize], unfolded: bool) -> bool {
    let named = &case.named[r];
    let equal: Vec<&Equal> = case.equal.of_row[r]
        .iter()
        .filter(|e| !e.contrary)
        .collect();
    let agreed: Vec<(&Named, &Equal)> = by_both(named, &case.equal.of_row[r]).collect();
    if !rows[r].fold_signs.is_empty() {
        // A factor near 1 is lost in a half type, and zeros stay zeros.
        let narrow = equal.iter().any(|e| e.dtype != rows[r].dtype);
        let tells = case.equal.informative[r] && !narrow;
        if !tells || (!unfolded && agreed.is_empty()) {
            return false;
        }
    }
    if let Some(&(first, same)) = agreed.first() {
        let row = &mut rows[r];
        row.evidence.push(Evidence::Hinted {
            source: case.name(first.source),
            clue: first.clue.clone(),
        });
        take(case, row, same, equal.len());
        // A tied pair: both names lead here and both have the value. Should they part, nobody can say which is meant.
        for (other, also) in &agreed[1..] {
            if other.source != first.source {
                let recipe = case.recipe(row, also.source, &also.relations[0]);
                row.alternatives.push(recipe);
            }
        }
        return true;
    }
    by_value_alone(case, rows, r, open, &equal)
}

/// As [`by_value`], where no name points to what the row equals.
fn by_value_alone(
    case: &Case<'_>,
    rows: &mut [Row],
    r: usize,
    open: &[usize],
    equal: &[&Equal],
) -> bool {
    if !rows[r].fold_signs.is_empty() && rows[r].shape.len() == 1 && !beside_plain(case, rows, r) {
        return false;
    }
    // Sources that their own row has claimed by name are not free for others, unless the values could not be chance.
    let informative = case.equal.informative[r];
    let free: Vec<&Equal> = (equal.iter().copied())
        .filter(|e| !case.owned.contains(&e.source))
        .collect();
    if let Some(first) = case.named[r].first() {
        if informative && let Some(other) = free.first() {
            let row = &mut rows[r];
            row.evidence.push(Evidence::Disagree {
                named: case.name(first.source),
                valued: case.name(other.source),
            });
            ambiguous(case, row, equal);
            // Where no weight has the value of what the name says (a few equal values say nothing), that tensor may have changed and the
            // other be one that equalled it: a change of either has to count.
            let homeless = |n: &&Named| {
                let tells = |(o, equal): (usize, &Vec<Equal>)| {
                    case.equal.informative[o] && equal.iter().any(|e| e.source == n.source)
                };
                !case.equal.of_row.iter().enumerate().any(tells)
            };
            for named in case.named[r].iter().filter(homeless) {
                for relation in presumed_relations(row, case.sources[named.source].shape) {
                    let recipe = case.recipe(row, named.source, &relation);
                    row.alternatives.push(recipe);
                }
            }
            return true;
        }
        return false;
    }
    if equal.is_empty() {
        return false;
    }
    if let ([only], true) = (equal, informative) {
        let claimants: Vec<usize> = (open.iter().copied())
            .filter(|&o| {
                (case.equal.of_row[o].iter()).any(|e| e.source == only.source && !e.contrary)
            })
            .collect();
        if claimants.len() == 1 || is_tied_embedding(rows, &claimants) {
            take(case, &mut rows[r], only, 1);
            return true;
        }
        ambiguous(case, &mut rows[r], equal);
        return true;
    }
    if !informative && free.is_empty() && rows[r].hints.is_empty() && !rows[r].is_parameter() {
        // Every tensor of these values has its own weight; this one is the exporter's (ones, zeros, a scalar).
        rows[r].grade = Grade::Constant;
        rows[r].evidence.push(Evidence::NoCandidate);
        return true;
    }
    if !informative && free.is_empty() && !rows[r].is_parameter() {
        return false;
    }
    ambiguous(case, &mut rows[r], equal);
    true
}

/// Whether the kernel that a bias belongs to is a tensor of the checkpoint as it is, so that the bias is none of a fold.
fn beside_plain(case: &Case<'_>, rows: &[Row], r: usize) -> bool {
    let partner = rows[r].partner.as_deref();
    (rows.iter().position(|k| Some(k.name.as_str()) == partner)).is_some_and(|k| {
        let exact = |e: &Equal| e.dtype == rows[k].dtype;
        case.equal.informative[k] && case.equal.of_row[k].iter().any(exact)
    })
}

/// An embedding and the projection that shares its weights, which exporters write twice: one is gathered, the other
/// multiplied.
fn is_tied_embedding(rows: &[Row], claimants: &[usize]) -> bool {
    let gathers = |r: &usize| rows[*r].operators.iter().any(|o| o == "Gather");
    let multiplies =
        |r: &usize| (rows[*r].operators.iter()).all(|o| matches!(o.as_str(), "MatMul" | "Gemm"));
    match claimants {
        [a, b] => (gathers(a) && multiplies(b)) || (gathers(b) && multiplies(a)),
        _ => false,
    }
}

/// Gives a row the source that it equals.
fn take(case: &Case<'_>, row: &mut Row, same: &Equal, equal: usize) {
    row.evidence.push(Evidence::ValueEqual {
        source: case.name(same.source),
        dtype: same.dtype,
        unique: equal == 1,
    });
    let chosen = same.relations.iter().find(|x| x.fits(row.layout));
    let shape = case.sources[same.source].shape;
    let plain = (same.relations.iter()).all(|x| matches!(x, Relation::Order(o) if o.is_sorted()));
    if row.layout == Layout::Unknown && is_square(shape) && is_square(&row.shape) && !plain {
        // A symmetric matrix, or one that is equal only transposed, and no consumer to say how it should stand: the
        // exporter may have turned it, or somebody the checkpoint's.
        row.grade = Grade::Ambiguous;
        row.alternatives = presumed_relations(row, shape)
            .iter()
            .map(|relation| case.recipe(row, same.source, relation))
            .collect();
        return;
    }
    row.grade = Grade::Proven;
    let relation = chosen.unwrap_or(&same.relations[0]);
    row.recipe = Some(case.recipe(row, same.source, relation));
}

fn ambiguous(case: &Case<'_>, row: &mut Row, equal: &[&Equal]) {
    row.grade = Grade::Ambiguous;
    row.evidence.push(Evidence::SharedValue {
        sources: (equal.iter().take(LISTED))
            .map(|e| case.name(e.source))
            .collect(),
    });
    let mut all = Vec::new();
    for same in equal {
        for relation in &same.relations {
            all.push(case.recipe(row, same.source, relation));
        }
    }
    row.alternatives.extend(all);
}

/// Notes the consumer's orientation where it supports the recipe of a matrix.
fn orientation_evidence(row: &mut Row) {
    if row.recipe.is_some() && row.layout != Layout::Unknown && squeezed(&row.shape).len() == 2 {
        let layout = row.layout;
        row.evidence.push(Evidence::Orientation { layout });
    }
}

/// Gives each row that found no source the source of the row that it is a copy of.
fn follow_copies(case: &Case<'_>, rows: &mut [Row], open: &[usize]) {
    let orphans: Vec<usize> = (open.iter().copied())
        .filter(|&r| names_of(&rows[r]).next().is_none() && rows[r].grade != Grade::Given)
        .filter(|&r| case.equal.informative[r])
        .collect();
    for r in orphans {
        let twins = open.iter().copied().filter(|&o| {
            o != r
                && rows[o].grade.is_writable()
                && rows[o].dtype == rows[r].dtype
                && case.equal.alike(r, o)
        });
        let mut found: Vec<Recipe> = Vec::new();
        for twin in twins.collect::<Vec<_>>() {
            found.extend(copied(case, &rows[r], &rows[twin]));
        }
        found.dedup();
        if let [only] = &found[..] {
            let row = &mut rows[r];
            row.evidence
                .retain(|e| !matches!(e, Evidence::SourceMissing { .. } | Evidence::NoCandidate));
            row.grade = Grade::Corroborated;
            row.recipe = Some(only.clone());
        }
    }
}

/// The twin's recipe with the steps that lead from the twin to `row`, where the bytes say so.
fn copied(case: &Case<'_>, row: &Row, twin: &Row) -> Option<Recipe> {
    let Some(Recipe::Tensor { source, steps }) = &twin.recipe else {
        return None;
    };
    let (own, other) = (
        held_bytes(row, case.held).ok()?,
        held_bytes(twin, case.held).ok()?,
    );
    let relation =
        presumed_relations(row, &twin.shape)
            .into_iter()
            .find(|relation| match relation {
                Relation::Order(order) if !order.is_sorted() => {
                    let shape = squeezed(&twin.shape);
                    let view = TensorView {
                        dtype: twin.dtype,
                        shape: &shape,
                        data: &other,
                    };
                    permute(view, order).is_ok_and(|turned| turned == *own)
                }
                _ => own == other,
            })?;
    let mut steps = steps.clone();
    steps.extend(relation.steps(&twin.shape, row));
    Some(Recipe::Tensor {
        source: source.clone(),
        steps,
    })
}

/// Adds candidates that cannot be ruled out. They count for nothing but doubt: where they would give other bytes, the row is
/// not written.
fn add_rivals(case: &Case<'_>, rows: &mut [Row], open: &[usize]) {
    let open: HashSet<usize> = open.iter().copied().collect();
    own_names(case, rows, &open);
    tied_to_strangers(case, rows, &open);
    strange_norms(case, rows);
    twins(case, rows);
}

/// A normalisation that feeds nothing, beside a fold of as many channels: the base may have left it out.
fn strange_norms(case: &Case<'_>, rows: &mut [Row]) {
    let used: HashSet<String> = (rows.iter().flat_map(names_of))
        .map(ToOwned::to_owned)
        .collect();
    let strangers: Vec<_> = (norms(case).into_iter())
        .filter(|n| !used.contains(&n.norm.mean))
        .collect();
    for row in rows {
        let Some(fold @ Recipe::BatchNorm { axis, .. }) = row.recipe.clone() else {
            continue;
        };
        let channels = if row.shape.len() == 1 { 0 } else { axis };
        for stranger in &strangers {
            let mut other = fold.clone();
            if let Recipe::BatchNorm { norm, .. } = &mut other {
                norm.clone_from(&stranger.norm);
            }
            if row.shape.get(channels) == Some(&stranger.channels) {
                row.alternatives.push(other);
            }
        }
    }
}

/// A row whose own name is in this checkpoint, though another source filled it in the base.
fn own_names(case: &Case<'_>, rows: &mut [Row], open: &HashSet<usize>) {
    for (r, row) in rows.iter_mut().enumerate() {
        if open.contains(&r) || row.grade == Grade::Given || row.recipe.is_none() {
            continue;
        }
        for named in &case.named[r] {
            let Source { name, shape, .. } = case.sources[named.source];
            if !names_of(row).any(|n| n == name) {
                for relation in presumed_relations(row, shape) {
                    let recipe = case.recipe(row, named.source, &relation);
                    row.alternatives.push(recipe);
                }
            }
        }
    }
}

/// A row that only its value resolved, or that more nodes read than its name speaks for, may be tied to another row of the same values
/// whose source has changed; that source is then a candidate too.
fn twins(case: &Case<'_>, rows: &mut [Row]) {
    for r in 0..rows.len() {
        let by_name = rows[r]
            .evidence
            .iter()
            .any(|e| matches!(e, Evidence::Hinted { .. }));
        let shared = rows[r].readings.len() > rows[r].explanations().count();
        if (by_name && !(shared && case.equal.informative[r]))
            || names_of(&rows[r]).next().is_none()
        {
            continue;
        }
        let mut others: Vec<usize> = (0..rows.len())
            .filter(|&o| o != r && case.equal.alike(r, o) && rows[o].count() == rows[r].count())
            .flat_map(|o| {
                names_of(&rows[o])
                    .map(ToOwned::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter(|name| names_of(&rows[r]).all(|own| own != name))
            .filter_map(|name| case.find(&name))
            .collect();
        others.sort_unstable();
        others.dedup();
        for s in others {
            for relation in presumed_relations(&rows[r], case.sources[s].shape) {
                let recipe = case.recipe(&rows[r], s, &relation);
                rows[r].alternatives.push(recipe);
            }
        }
    }
}

/// A row without a name that the base tied to another row's source, while this checkpoint holds a tensor that fits and feeds
/// nothing: the base may have left that one out, so it is a candidate too.
fn tied_to_strangers(case: &Case<'_>, rows: &mut [Row], open: &HashSet<usize>) {
    let mut uses: HashMap<String, usize> = HashMap::new();
    for name in rows.iter().flat_map(names_of) {
        *uses.entry(name.to_owned()).or_default() += 1;
    }
    let strangers: Vec<usize> = (0..case.sources.len())
        .filter(|&s| !uses.contains_key(case.sources[s].name))
        .collect();
    for (r, row) in rows.iter_mut().enumerate() {
        let named = row
            .evidence
            .iter()
            .any(|e| matches!(e, Evidence::Hinted { .. }));
        let tied = names_of(row).any(|n| uses.get(n).is_some_and(|&u| u > 1));
        if open.contains(&r) || named || !tied || row.grade == Grade::Given {
            continue;
        }
        for &s in &strangers {
            for relation in presumed_relations(row, case.sources[s].shape) {
                let recipe = case.recipe(row, s, &relation);
                row.alternatives.push(recipe);
            }
        }
    }
}

/// `settled_missing`: rows settled earlier whose sources this checkpoint lacks.
fn coverage(rows: &[Row], case: &Case<'_>, settled_missing: Vec<usize>) -> Accounts {
    let mut reached: HashSet<&str> = rows.iter().flat_map(names_of).collect();
    forget_look_alikes(&mut reached, rows, case);
    let mut missing: Vec<(usize, Missing)> = Vec::new();
    for r in settled_missing {
        let has = |n: &&str| case.find(n).is_none();
        missing.push((
            r,
            Missing {
                weight: rows[r].name.clone(),
                names: names_of(&rows[r])
                    .filter(has)
                    .map(ToOwned::to_owned)
                    .collect(),
            },
        ));
    }
    for (r, row) in rows.iter().enumerate() {
        if row.grade == Grade::Unproven && names_of(row).next().is_none() {
            let listed = row.evidence.iter().find_map(|e| match e {
                Evidence::SourceMissing { names } => Some(names.clone()),
                _ => None,
            });
            let presumed = || row.hints.iter().flat_map(|h| h.names.clone()).collect();
            missing.push((
                r,
                Missing {
                    weight: row.name.clone(),
                    names: listed.unwrap_or_else(presumed),
                },
            ));
        }
    }
    missing.sort_by_key(|(r, _)| *r);
    missing.dedup_by_key(|(r, _)| *r);
    // Fingerprints of reached tensors, to tell duplicates.
    let mut by_print = HashMap::new();
    for (s, source) in case.sources.iter().enumerate() {
        if let (true, Some(print)) = (
            reached.contains(source.name),
            case.equal.print(s, source.dtype),
        ) && print.informative
        {
            by_print.insert((source.dtype, print.flat), source.name);
        }
    }
    let named: HashSet<usize> = case.named.iter().flatten().map(|n| n.source).collect();
    let leftovers = (case.sources.iter().enumerate())
        .filter(|(_, source)| !reached.contains(source.name))
        .map(|(s, source)| {
            let dtype = source.dtype;
            let print = case.equal.print(s, dtype);
            let twin = print.and_then(|p| by_print.get(&(dtype, p.flat)));
            // torch counts batches in it while it trains, and no graph reads it.
            let why = if source.name.rsplit('.').next() == Some("num_batches_tracked") {
                Why::Counter
            } else if !dtype.is_float() && !named.contains(&s) {
                Why::NotFloat
            } else if let Some(of) = twin {
                Why::Duplicate {
                    of: (*of).to_owned(),
                }
            } else {
                Why::Unreached
            };
            Leftover {
                name: source.name.to_owned(),
                why,
            }
        })
        .collect();
    Accounts {
        missing: missing.into_iter().map(|(_, m)| m).collect(),
        leftovers,
    }
}

/// Takes back what is reached only because some row holds the same few values (all zeros, all ones), where another row of as many
/// elements has no source of its own: the tensor may be that one's, and a change of it would be lost.
///
/// A row has none of its own if nothing was found for it, or if more rows look like the same tensors than there are of those that no
/// other row is sure of.
fn forget_look_alikes(reached: &mut HashSet<&str>, rows: &[Row], case: &Case<'_>) {
    let looks_alike = |row: &&Row| {
        row.grade == Grade::Ambiguous
            && row.recipe.is_none()
            && (row.evidence.iter()).any(|e| matches!(e, Evidence::SharedValue { .. }))
    };
    let firmly: HashSet<&str> = rows
        .iter()
        .filter(|row| !looks_alike(row))
        .flat_map(names_of)
        .collect();
    // Elements, and the tensors that it looks like.
    let mut orphans: HashSet<(usize, BTreeSet<&str>)> = rows
        .iter()
        .filter(|row| {
            let is_constant = row.grade == Grade::Constant;
            (is_constant && row.evidence.contains(&Evidence::NoCandidate))
                || (row.grade == Grade::Unproven && names_of(row).next().is_none())
        })
        .filter_map(|row| Some((element_count(&row.shape)?, BTreeSet::new())))
        .collect();
    let mut alike: HashMap<(usize, BTreeSet<&str>), usize> = HashMap::new();
    for row in rows.iter().filter(looks_alike) {
        if let Some(count) = element_count(&row.shape) {
            *alike.entry((count, names_of(row).collect())).or_default() += 1;
        }
    }
    orphans.extend(alike.into_iter().filter_map(|(group, rows)| {
        let own = group.1.iter().filter(|name| !firmly.contains(*name));
        (rows > own.count()).then_some(group)
    }));
    orphans.retain(|(count, _)| *count > 1);
    for source in &case.sources {
        let count = element_count(source.shape);
        let may_be = |(n, names): &(usize, BTreeSet<&str>)| {
            Some(*n) == count && !names.contains(source.name)
        };
        if !firmly.contains(source.name) && orphans.iter().any(may_be) {
            reached.remove(source.name);
        }
    }
}
