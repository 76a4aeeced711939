//! Completeness: what of a checkpoint feeds nothing, and what of an engine finds no source.

use super::context::{Case, names_of};
use crate::mapping::types::{Accounts, Evidence, Grade, Leftover, Missing, Row, Why};
use crate::tensor::element_count;
use std::collections::{BTreeSet, HashMap, HashSet};

/// `settled_missing`: rows settled earlier whose sources this checkpoint lacks.
pub(super) fn of(rows: &[Row], case: &Case<'_>, settled_missing: Vec<usize>) -> Accounts {
    let mut reached: HashSet<&str> = rows.iter().flat_map(names_of).collect();
    forget_look_alikes(&mut reached, rows, case);
    let mut missing: Vec<(usize, Missing)> = Vec::new();
    for r in settled_missing {
        let has = |n: &&str| case.sources.binary_search_by(|s| s.name.cmp(n)).is_err();
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
            case.equal.print(s, source.view.dtype),
        ) && print.informative
        {
            by_print.insert((source.view.dtype, print.flat), source.name);
        }
    }
    let named: HashSet<usize> = case.named.iter().flatten().map(|n| n.source).collect();
    let leftovers = (case.sources.iter().enumerate())
        .filter(|(_, source)| !reached.contains(source.name))
        .map(|(s, source)| {
            let dtype = source.view.dtype;
            let print = case.equal.print(s, dtype);
            let twin = print.and_then(|p| by_print.get(&(dtype, p.flat)));
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
        .filter(|row| row.grade == Grade::Constant && row.evidence.contains(&Evidence::NoCandidate))
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
    for source in case.sources {
        let count = element_count(source.view.shape);
        let may_be = |(n, names): &(usize, BTreeSet<&str>)| {
            Some(*n) == count && !names.contains(source.name)
        };
        if !firmly.contains(source.name) && orphans.iter().any(may_be) {
            reached.remove(source.name);
        }
    }
}
