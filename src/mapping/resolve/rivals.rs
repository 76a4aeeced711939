//! Candidates that cannot be ruled out: where one of them would give a weight other bytes, the weight is not written.
//!
//! They stand against two faults that no value shows: a base that lacked a tensor, so that another of equal values took its
//! place, and tied weights that part.

use super::context::{Case, names_of};
use super::equal::Source;
use super::norms::norms;
use crate::mapping::derive::presumed_relations;
use crate::mapping::types::{Evidence, Grade, Recipe, Row};
use std::collections::{HashMap, HashSet};

/// Adds candidates that cannot be ruled out. They count for nothing but doubt: where they would give other bytes, the row is
/// not written.
pub(super) fn add(case: &Case<'_>, rows: &mut [Row], open: &[usize]) {
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
            let Source { name, view } = case.sources[named.source];
            if !names_of(row).any(|n| n == name) {
                for relation in presumed_relations(row, view.shape) {
                    let recipe = case.recipe(row, named.source, &relation);
                    row.alternatives.push(recipe);
                }
            }
        }
    }
}

/// A row that only its value resolved may be tied to another row of the same values whose source has changed; that source
/// is then a candidate too.
fn twins(case: &Case<'_>, rows: &mut [Row]) {
    for r in 0..rows.len() {
        let by_name = rows[r]
            .evidence
            .iter()
            .any(|e| matches!(e, Evidence::Hinted { .. }));
        if by_name || names_of(&rows[r]).next().is_none() {
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
            .filter_map(|name| case.sources.binary_search_by(|s| s.name.cmp(&name)).ok())
            .collect();
        others.sort_unstable();
        others.dedup();
        for s in others {
            for relation in presumed_relations(&rows[r], case.sources[s].view.shape) {
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
            for relation in presumed_relations(row, case.sources[s].view.shape) {
                let recipe = case.recipe(row, s, &relation);
                row.alternatives.push(recipe);
            }
        }
    }
}
