//! What a refit from a checkpoint would do to every weight, decided before anything is written.

mod base;
mod integers;
mod lora_targets;
mod restack;
mod unproven;

pub use lora_targets::Adopted;

use super::derive::apply_once;
use super::types::{Checkpoint, Error, Held, Judged, Mapping, Permissions, Recipe, Row};

/// Decides what `new` does to every row of `mapping`, and what becomes of every tensor of it: against the base that was
/// accepted, where there is one; else by names, values and closeness.
///
/// # Errors
/// [`Error::NotHeld`]; everything about sources is a [`super::Refusal`].
pub fn judge(
    mapping: &Mapping,
    held: &dyn Held,
    new: &dyn Checkpoint,
    permissions: &Permissions,
) -> Result<Judged, Error> {
    judge_whole(mapping.clone(), held, new, permissions)
}

/// As [`judge`], where the mapping is not needed any more: its rows go into what is judged, and are not there twice.
///
/// # Errors
/// As [`judge`].
pub fn judge_whole(
    mut mapping: Mapping,
    held: &dyn Held,
    new: &dyn Checkpoint,
    permissions: &Permissions,
) -> Result<Judged, Error> {
    let _span = tracing::info_span!("judge", weights = mapping.rows.len()).entered();
    let Some(inventory) = mapping.inventory.take() else {
        let mut judged = unproven::judge(&mapping, held, new, permissions)?;
        integers::mark_lost(&mapping, held, new, &mut judged.accounts)?;
        return Ok(judged);
    };
    let mut judged = base::judge(mapping, &inventory, held, new, permissions)?;
    judged.mapping.inventory = Some(inventory);
    Ok(judged)
}

/// The new bytes of a row that [`judge`] found changed: by the first of its recipes whose sources are there, since all of
/// those were found to agree.
///
/// # Errors
/// As [`super::apply()`].
pub fn bytes_of(row: &Row, new: &dyn Checkpoint) -> Result<Vec<u8>, Error> {
    let given = |r: &&Recipe| r.sources().iter().all(|n| new.describe(n).is_some());
    let mut recipes = row.recipe.iter().chain(&row.alternatives);
    match recipes.find(given).or(row.recipe.as_ref()) {
        Some(recipe) => apply_once(row, recipe, new),
        None => Err(Error::NoRecipe {
            weight: row.name.clone(),
            grade: row.grade,
        }),
    }
}
