//! Rows that equal a tensor: names, paths and values together give each its recipe and its confidence.

use super::context::{Case, Named};
use super::equal::Equal;
use crate::mapping::derive::{Relation, is_square, presumed_relations, squeezed};
use crate::mapping::types::{Evidence, Grade, Layout, Row};

/// At most so many names are listed in one piece of evidence.
const LISTED: usize = 8;

/// Pairs of a name and an equality that point to the same source, in the order of names.
pub(super) fn by_both<'a>(
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
pub(super) fn by_value(
    case: &Case<'_>,
    rows: &mut [Row],
    r: usize,
    open: &[usize],
    unfolded: bool,
) -> bool {
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
    if !rows[r].fold_signs.is_empty() && rows[r].shape.len() == 1 && !beside_plain(case, rows, r) {
        return false;
    }
    // Sources that their own row has claimed by name are not free for others, unless the values could not be chance.
    let informative = case.equal.informative[r];
    let free: Vec<&Equal> = (equal.iter().copied())
        .filter(|e| !case.owned.contains(&e.source))
        .collect();
    if let Some(first) = named.first() {
        if informative && let Some(other) = free.first() {
            let row = &mut rows[r];
            row.evidence.push(Evidence::Disagree {
                named: case.name(first.source),
                valued: case.name(other.source),
            });
            ambiguous(case, row, &equal);
            return true;
        }
        return false;
    }
    if equal.is_empty() {
        return false;
    }
    if let ([only], true) = (&equal[..], informative) {
        let claimants: Vec<usize> = (open.iter().copied())
            .filter(|&o| {
                (case.equal.of_row[o].iter()).any(|e| e.source == only.source && !e.contrary)
            })
            .collect();
        if claimants.len() == 1 || is_tied_embedding(rows, &claimants) {
            take(case, &mut rows[r], only, 1);
            return true;
        }
        ambiguous(case, &mut rows[r], &equal);
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
    ambiguous(case, &mut rows[r], &equal);
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
    let shape = case.sources[same.source].view.shape;
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
pub(super) fn orientation_evidence(row: &mut Row) {
    if row.recipe.is_some() && row.layout != Layout::Unknown && squeezed(&row.shape).len() == 2 {
        let layout = row.layout;
        row.evidence.push(Evidence::Orientation { layout });
    }
}
