//! Constants that are copies of one another in the ONNX file: an embedding and its transpose for the head. Where a checkpoint
//! names one of them only, the other follows.

use super::context::{Case, names_of};
use crate::mapping::derive::{Relation, presumed_relations};
use crate::mapping::types::{Evidence, Grade, Recipe, Row, held_bytes};
use crate::tensor::{TensorView, permute};

/// Gives each row that found no source the source of the row that it is a copy of.
pub(super) fn follow(case: &Case<'_>, rows: &mut [Row], open: &[usize]) {
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
                    let shape = crate::mapping::derive::squeezed(&twin.shape);
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
