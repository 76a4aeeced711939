//! What a refit from a checkpoint would do to every weight, decided before anything is written.

use super::apply::apply_recipe;
use super::derive::{as_type, batched};
use super::ledger;
use super::resolve::corroborate;
use super::types::{
    Assessment, Change, Checkpoint, Error, Evidence, Grade, Held, Judged, Mapping, Permissions,
    Recipe, Refusal, Resolved, Row, Step, Why, held_bytes,
};
use crate::tensor::Digest;

/// Decides what `new` does to every row of `mapping`, and what becomes of every tensor of it: against the base that was
/// accepted, where there is one; else by names, values and closeness.
///
/// # Errors
/// [`Error::NotHeld`]; everything about sources is a [`Refusal`].
pub fn judge(
    mapping: &Mapping,
    held: &dyn Held,
    new: &dyn Checkpoint,
    permissions: &Permissions,
) -> Result<Judged, Error> {
    if let Some(inventory) = &mapping.inventory {
        return ledger::judge(mapping, inventory, held, new, permissions);
    }
    let Resolved {
        mapping,
        mut accounts,
    } = corroborate(mapping, held, new)?;
    let mut assessment = assess(&mapping, held, new, permissions.trust_names)?;
    let changed = changed_sources(&mapping, &assessment);
    for (row, change) in mapping.rows.iter().zip(&mut assessment.changes) {
        if permissions.ignores(&row.name) {
            *change = Change::Constant;
        } else if row.is_unsourced()
            && (*change == Change::Constant || !row.dtype.is_float() || row.hints.is_empty())
        {
            *change = ledger::unexplained(row, changed.iter().map(String::as_str));
        }
    }
    for leftover in &mut accounts.leftovers {
        if permissions.ignores(&leftover.name) {
            leftover.why = Why::Ignored;
        }
    }
    accounts.missing.retain(|m| !permissions.ignores(&m.weight));
    Ok(Judged {
        mapping,
        accounts,
        assessment,
    })
}

/// Sources of all rows that change.
fn changed_sources(mapping: &Mapping, assessment: &Assessment) -> Vec<String> {
    let mut names: Vec<String> = (assessment.changed())
        .flat_map(|r| mapping.rows[r].explanations().flat_map(Recipe::sources))
        .map(ToOwned::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

fn assess(
    mapping: &Mapping,
    held: &dyn Held,
    new: &dyn Checkpoint,
    trust_names: bool,
) -> Result<Assessment, Error> {
    let cost = |row: &Row| 8 * row.count();
    let changes = batched(&mapping.rows, cost, |row| {
        of_row(row, held, new, trust_names)
    })?;
    Ok(Assessment { changes })
}

fn of_row(
    row: &Row,
    held: &dyn Held,
    new: &dyn Checkpoint,
    trust_names: bool,
) -> Result<Change, Error> {
    if row.grade == Grade::Constant {
        return Ok(Change::Constant);
    }
    let recipes: Vec<&Recipe> = row.recipe.iter().chain(&row.alternatives).collect();
    let sources = || -> Vec<String> {
        let mut all: Vec<String> = (recipes.iter())
            .flat_map(|r| r.sources())
            .map(ToOwned::to_owned)
            .collect();
        all.sort();
        all.dedup();
        all
    };
    let mut outcomes: Vec<Change> = Vec::new();
    for recipe in &recipes {
        let outcome = of_recipe(row, recipe, held, new)?;
        if !outcomes.contains(&outcome) {
            outcomes.push(outcome);
        }
    }
    let Some(first) = outcomes.first().cloned() else {
        return Ok(Change::NotGiven);
    };
    if outcomes.len() > 1 {
        let given = (outcomes.iter())
            .filter(|o| **o != Change::NotGiven)
            .count();
        // Of tied tensors a checkpoint may hold one only; that one speaks for both when the row is proven.
        if given == 1 && row.grade.is_writable() {
            let only = outcomes.into_iter().find(|o| *o != Change::NotGiven);
            return Ok(only.unwrap_or(Change::NotGiven));
        }
        return Ok(Change::Refused {
            why: Refusal::Ambiguous { sources: sources() },
        });
    }
    if let (Change::Changed { .. }, Some(with)) = (&first, &row.pinned) {
        return Ok(Change::Refused {
            why: Refusal::Merged {
                sources: sources(),
                with: with.clone(),
            },
        });
    }
    if !matches!(first, Change::Changed { .. }) || row.grade.is_writable() {
        return Ok(first);
    }
    let why = match (row.grade, &row.recipe) {
        (Grade::Ambiguous, _) => Refusal::Ambiguous { sources: sources() },
        (_, Some(Recipe::Tensor { source, steps }))
            if !is_contradicted(row) && may_be_plain(row, source, steps) =>
        {
            if trust_names {
                return Ok(first);
            }
            Refusal::Unproven {
                source: source.clone(),
            }
        }
        _ => Refusal::Contradicted { sources: sources() },
    };
    Ok(Change::Refused { why })
}

/// Whether a name may be trusted to mean the tensor itself. Exporters keep a parameter's name where they keep its value; under a
/// made-up name and in the tensor's own shape stands something that was computed from it (`1 + w`, `exp(w)`).
fn may_be_plain(row: &Row, source: &str, steps: &[Step]) -> bool {
    !steps.is_empty() || ledger::same_name(&row.name, source)
}

/// Whether something speaks against what the name says.
fn is_contradicted(row: &Row) -> bool {
    row.evidence.iter().any(|e| {
        matches!(
            e,
            Evidence::OtherCloser { .. }
                | Evidence::Proportional { .. }
                | Evidence::Disagree { .. }
                | Evidence::FoldSuspected { .. }
                | Evidence::NormUnaccounted { .. }
                | Evidence::ShapeMisfit { .. }
        )
    })
}

fn of_recipe(
    row: &Row,
    recipe: &Recipe,
    held: &dyn Held,
    new: &dyn Checkpoint,
) -> Result<Change, Error> {
    let wanted = recipe.sources();
    let missing: Vec<&str> = (wanted.iter().copied())
        .filter(|n| new.get(n).is_none())
        .collect();
    if missing.len() == wanted.len() {
        return Ok(Change::NotGiven);
    }
    if !missing.is_empty() {
        return Ok(Change::Refused {
            why: Refusal::PartialFold {
                missing: missing.into_iter().map(ToOwned::to_owned).collect(),
            },
        });
    }
    let computed = apply_recipe(row, recipe, new);
    if let Err(Error::Overflow {
        source_name,
        dtype,
        largest,
        ..
    }) = &computed
    {
        return Ok(Change::Refused {
            why: Refusal::Overflow {
                source: source_name.clone(),
                dtype: *dtype,
                largest: format!("{largest:e}"),
            },
        });
    }
    let Ok(bytes) = computed else {
        let source = wanted[0];
        let view = new.get(source).expect("none of the sources is missing");
        return Ok(Change::Refused {
            why: Refusal::Misfit {
                source: source.to_owned(),
                dtype: view.dtype,
                shape: view.shape.to_vec(),
            },
        });
    };
    let own = held_bytes(row, held)?;
    if own == bytes {
        return Ok(Change::Unchanged);
    }
    if same_at_storage_type(row, recipe, &own, &bytes, new) {
        return Ok(Change::UnchangedAfterCast);
    }
    let digest = Digest::of(&bytes);
    let as_recorded = row
        .rounding
        .as_ref()
        .is_some_and(|r| r.recomputed == digest);
    Ok(if as_recorded {
        Change::Unchanged
    } else {
        Change::Changed { digest }
    })
}

/// Whether both are the same once rounded to the narrower type that the checkpoint stores.
fn same_at_storage_type(
    row: &Row,
    recipe: &Recipe,
    own: &[u8],
    bytes: &[u8],
    new: &dyn Checkpoint,
) -> bool {
    let Recipe::Tensor { source, .. } = recipe else {
        return false;
    };
    let Some(stored) = new.get(source).map(|v| v.dtype) else {
        return false;
    };
    if stored.bits() >= row.dtype.bits() || !stored.is_float() || !row.dtype.is_float() {
        return false;
    }
    let narrow = |data| as_type(row.dtype, stored, std::borrow::Cow::Borrowed(data)).ok();
    match (narrow(own), narrow(bytes)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// The new bytes of a row that [`assess`] found changed: by the first of its recipes whose sources are there, since all of
/// those were found to agree.
///
/// # Errors
/// As [`super::apply()`].
pub fn bytes_of<'a>(
    row: &Row,
    new: &'a dyn Checkpoint,
) -> Result<std::borrow::Cow<'a, [u8]>, Error> {
    let given = |r: &&Recipe| r.sources().iter().all(|n| new.get(n).is_some());
    let mut recipes = row.recipe.iter().chain(&row.alternatives);
    match recipes.find(given).or(row.recipe.as_ref()) {
        Some(recipe) => apply_recipe(row, recipe, new),
        None => Err(Error::NoRecipe {
            weight: row.name.clone(),
            grade: row.grade,
        }),
    }
}
