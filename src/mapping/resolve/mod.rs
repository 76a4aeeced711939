//! Weighing the evidence: names and paths, values, folds and closeness give each row its recipe and its grade.

mod by_value;
mod changed;
mod context;
mod coverage;
mod equal;
mod folds;
mod norms;
mod rivals;

use super::hints::{Prefixes, align, outline};
use super::types::{Accounts, Checkpoint, Error, Grade, Held, Mapping, ModelValues, Resolved, Row};
use crate::onnx::Model;
use by_value::{by_both, by_value, orientation_evidence, unmatched_in_base};
use context::{Against, Case, Named};
use equal::{Source, equalities};
use std::collections::{HashMap, HashSet};

/// Maps `model`: from its graph alone, or proven against the checkpoint that it was exported from.
///
/// # Errors
/// [`Error::NotHeld`], [`Error::Convert`]; what cannot be decided is a grade, not an error.
pub fn infer(model: &Model, base: Option<&dyn Checkpoint>) -> Result<Resolved, Error> {
    let graph = model.proto().graph.as_ref();
    let mapping = Mapping {
        against_base: false,
        rows: graph.map_or_else(Vec::new, |g| outline(g, model.weights())),
    };
    match base {
        None => Ok(Resolved {
            mapping,
            accounts: Accounts::default(),
        }),
        Some(base) => resolve(&mapping, &ModelValues::of(model), base, Against::Base),
    }
}

/// Resolves the rows that have no recipe yet against another checkpoint of the same architecture, and checks those that
/// have one.
///
/// # Errors
/// [`Error::NotHeld`] when `held` lacks a weight, [`Error::Convert`].
pub fn corroborate(
    mapping: &Mapping,
    held: &dyn Held,
    new: &dyn Checkpoint,
) -> Result<Resolved, Error> {
    resolve(mapping, held, new, Against::New)
}

/// Resolves the rows that have no recipe yet against the checkpoint that the model was exported from (`--base-weights` at
/// refit).
///
/// # Errors
/// As [`corroborate`].
pub fn prove(mapping: &Mapping, held: &dyn Held, base: &dyn Checkpoint) -> Result<Resolved, Error> {
    resolve(mapping, held, base, Against::Base)
}

/// Resolves every open row of `mapping` against a checkpoint.
fn resolve(
    mapping: &Mapping,
    held: &dyn Held,
    checkpoint: &dyn Checkpoint,
    against: Against,
) -> Result<Resolved, Error> {
    let mut rows = mapping.rows.clone();
    let mut names = checkpoint.names();
    names.sort_unstable();
    let sources: Vec<Source<'_>> = (names.into_iter())
        .filter_map(|name| checkpoint.get(name).map(|view| Source { name, view }))
        .collect();
    let open: Vec<usize> = (0..rows.len())
        .filter(|&r| match against {
            Against::Base => rows[r].grade != Grade::Given,
            Against::New => {
                !mapping.against_base
                    && !matches!(
                        rows[r].grade,
                        Grade::Given | Grade::Proven | Grade::Corroborated
                    )
            }
        })
        .collect();
    for &r in &open {
        let row = &mut rows[r];
        row.grade = Grade::Unproven;
        row.recipe = None;
        row.rounding = None;
        row.alternatives.clear();
        row.evidence.clear();
    }
    let missing_settled = settle_names(&mut rows, &open, &sources);
    let (named, absent) = presume(&rows, &sources);
    let equal = equalities(&rows, &open, &sources, held)?;
    let owned = open
        .iter()
        .flat_map(|&r| by_both(&named[r], &equal.of_row[r]).map(|(n, _)| n.source))
        .collect();
    let case = Case {
        sources: &sources,
        held,
        against,
        named,
        equal,
        owned,
    };
    let mut pending = Vec::new();
    for &r in &open {
        if !by_value(&case, &mut rows, r, &open, false) {
            pending.push(r);
        }
    }
    let mut pending = folds::resolve(&case, &mut rows, &pending)?;
    pending.retain(|&r| !by_value(&case, &mut rows, r, &open, true));
    match against {
        Against::Base => {
            for r in pending {
                unmatched_in_base(&case, &mut rows[r], r);
            }
        }
        Against::New => {
            changed::recheck(&case, &mut rows, &open)?;
            changed::resolve(&case, &mut rows, &pending, &absent)?;
        }
    }
    for &r in &open {
        orientation_evidence(&mut rows[r]);
    }
    let accounts = coverage::of(&rows, &case, missing_settled);
    if against == Against::New {
        rivals::add(&case, &mut rows, &open);
    }
    Ok(Resolved {
        mapping: Mapping {
            against_base: mapping.against_base || against == Against::Base,
            rows,
        },
        accounts,
    })
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

/// The presumed sources of every row, and by row those names that the checkpoint does not have.
fn presume(rows: &[Row], sources: &[Source<'_>]) -> (Vec<Vec<Named>>, Vec<Vec<String>>) {
    let prefixes = hint_prefixes(rows, sources);
    let index: HashMap<&str, usize> = (sources.iter().enumerate())
        .map(|(i, s)| (s.name, i))
        .collect();
    let mut named = vec![Vec::new(); rows.len()];
    let mut absent = vec![Vec::new(); rows.len()];
    for r in 0..rows.len() {
        for hint in &rows[r].hints {
            for name in &hint.names {
                let translated = prefixes.translate(name);
                let found = (translated.as_deref().and_then(|n| index.get(n)))
                    .or_else(|| index.get(name.as_str()));
                match found {
                    Some(&source) if sources[source].count() == rows[r].count() => {
                        if !named[r].iter().any(|n: &Named| n.source == source) {
                            let clue = hint.clue.clone();
                            named[r].push(Named { source, clue });
                        }
                    }
                    _ => absent[r].push(translated.unwrap_or_else(|| name.clone())),
                }
            }
        }
    }
    (named, absent)
}

fn hint_prefixes(rows: &[Row], sources: &[Source<'_>]) -> Prefixes {
    let presumed = rows.iter().flat_map(|row| {
        let count = row.count();
        (row.hints.iter().flat_map(|h| &h.names)).map(move |n| (n.as_str(), Some(count)))
    });
    align(presumed, sources.iter().map(|s| (s.name, Some(s.count()))))
}
