//! Weighing the evidence: names and paths, values, folds and closeness give each row its recipe and its grade.

mod base;
mod by_value;
mod changed;
mod context;
mod copies;
mod coverage;
mod equal;
mod folds;
mod named;
mod norms;
mod readings;
mod rivals;

use super::hints::{align, is_anonymous, outline};
use super::types::{
    Checkpoint, Error, Grade, Held, Mapping, ModelValues, Recipe, Resolved, Row, held_bytes,
};
use crate::onnx::Model;
use by_value::{by_both, by_value, orientation_evidence};
use context::Case;
use equal::{Source, equalities};
use named::presume;
use std::collections::HashSet;

/// Maps `model`: from its graph alone, or proven against the checkpoint that it was exported from.
///
/// # Errors
/// [`Error::NotHeld`], [`Error::Convert`]; what cannot be decided is a grade, not an error.
pub fn infer(model: &Model, base: Option<&dyn Checkpoint>) -> Result<Mapping, Error> {
    let mut mapping = outline(model);
    let held = ModelValues::of(model);
    if let Some(base) = base {
        return prove(&mapping, &held, base);
    }
    for row in &mut mapping.rows {
        // What is named has a tensor; what is not is the graph's own, or unsourced.
        if row.hints.is_empty() && row.baked.is_none() {
            row.literal = base::literal_of(&held, row)?;
        }
    }
    Ok(mapping)
}

/// Resolves every row against the checkpoint that the model was exported from, and records that checkpoint.
///
/// # Errors
/// [`Error::NotHeld`] when `held` lacks a weight, [`Error::Convert`].
pub fn prove(mapping: &Mapping, held: &dyn Held, base: &dyn Checkpoint) -> Result<Mapping, Error> {
    base::resolve(mapping, held, base)
}

/// Resolves the rows against another checkpoint of the same architecture, where there is no base: by names, equal values and
/// closeness. Nothing of it is kept for the next file.
///
/// # Errors
/// As [`prove`].
pub fn corroborate(
    mapping: &Mapping,
    held: &dyn Held,
    checkpoint: &dyn Checkpoint,
) -> Result<Resolved, Error> {
    let (baked, mut rows): (Vec<Row>, Vec<Row>) =
        (mapping.rows.iter().cloned()).partition(|row| row.baked.is_some());
    let mut names = checkpoint.names();
    names.sort_unstable();
    let sources: Vec<Source<'_>> = (names.into_iter())
        .filter_map(|name| checkpoint.get(name).map(|view| Source { name, view }))
        .collect();
    let open: Vec<usize> = (0..rows.len())
        .filter(|&r| rows[r].grade != Grade::Given)
        .collect();
    for &r in &open {
        base::forget(&mut rows[r]);
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
        named,
        equal,
        owned,
    };
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
    changed::resolve(&case, &mut rows, &pending, &absent)?;
    copies::follow(&case, &mut rows, &open);
    for &r in &open {
        rows[r].literal = base::literal_of(held, &rows[r])?;
        orientation_evidence(&mut rows[r]);
    }
    readings::veto(&case, &mut rows, &open, mapping.merges);
    let accounts = coverage::of(&rows, &case, missing_settled);
    rivals::add(&case, &mut rows, &open);
    rows.extend(baked_by_name(baked, &sources, held)?);
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
        let same = (case
            .sources
            .binary_search_by(|s| s.name.cmp(&row.name))
            .ok())
        .filter(|&s| is_anonymous(&row.name) && case.sources[s].view.shape == row.shape);
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
        let view = sources[first.source].view;
        if view.dtype.is_float() != row.dtype.is_float() {
            continue;
        }
        held_bytes(row, held)?;
        row.grade = Grade::Corroborated;
        row.recipe = Some(Recipe::Tensor {
            source: sources[first.source].name.to_owned(),
            steps: super::derive::Relation::Reshape.steps(view.shape, row),
        });
    }
    baked.retain(|row| row.recipe.is_some());
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
