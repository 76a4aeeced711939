//! A new checkpoint where there is no base: names, values and closeness decide, and what they leave open is refused.

use super::base::{is_blank, is_sized_as_of, may_hold, unexplained};
use crate::mapping::derive::{apply_once, apply_recipe, as_type, batched, cosine, sample};
use crate::mapping::hints::same_name;
use crate::mapping::resolve::corroborate;
use crate::mapping::types::{
    Assessment, Change, Checkpoint, Error, Evidence, Grade, Held, Judged, Literal, Mapping,
    Permissions, Recipe, Refusal, Resolved, Row, Step, Why, held_bytes,
};
use crate::tensor::{Digest, TensorView, to_f32};

/// Fewer elements say nothing about the size of a weight.
const FEW: usize = 8;
/// Cosine of two matrices of which one is a multiple of the other; bfloat16 takes a hundred thousandth off.
const MULTIPLE: f64 = 0.999;
/// Operators whose constants are gates, one below the other.
const GATED: [&str; 2] = ["LSTM", "GRU"];
/// Operators that take each element of a constant by itself.
const BY_ELEMENT: [&str; 5] = ["Mul", "Add", "Sub", "Div", "Pow"];
/// Root mean squares of one weight in two checkpoints seldom differ by such a factor.
const UNLIKE: f64 = 1.7;

/// Decides for every row, and for every tensor of the new file, what `new` does.
///
/// # Errors
/// [`Error::NotHeld`]; everything about sources is a [`Refusal`].
pub(super) fn judge(
    mapping: &Mapping,
    held: &dyn Held,
    new: &dyn Checkpoint,
    permissions: &Permissions,
) -> Result<Judged, Error> {
    let Resolved {
        mapping,
        mut accounts,
    } = corroborate(mapping, held, new)?;
    let mut assessment = assess(&mapping, held, new, permissions.trust_names)?;
    let changed = changed_sources(&mapping, &assessment);
    for (row, change) in mapping.rows.iter().zip(&mut assessment.changes) {
        if permissions.ignores(&row.name) {
            *change = Change::Constant;
        } else if row.is_folded_in()
            || row.is_unsourced()
                && (*change == Change::Constant || !row.dtype.is_float() || row.hints.is_empty())
        {
            *change = unexplained(row, changed.iter().map(String::as_str));
        }
    }
    for (r, why) in made_of_flat(&mapping, &assessment) {
        assessment.changes[r] = Change::Refused { why };
    }
    for (r, why) in tied(&mapping, held, &assessment, false)? {
        assessment.changes[r] = Change::Refused { why };
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

/// Blanks that keep their value although a tensor of a few values changes that they may be made of. An exporter that keeps literals apart
/// made such a constant of some tensor, of whatever size.
fn made_of_flat(mapping: &Mapping, assessment: &Assessment) -> Vec<(usize, Refusal)> {
    let changed: Vec<(&[usize], &str)> = (assessment.changed())
        .map(|r| &mapping.rows[r])
        .filter(|row| row.literal == Some(Literal::Flat) && row.count() > 1)
        .flat_map(|row| {
            let sources = row.explanations().flat_map(Recipe::sources);
            sources.map(|s| (row.shape.as_slice(), s))
        })
        .collect();
    let mut found = Vec::new();
    let blanks = mapping.rows.iter().enumerate();
    for (r, row) in blanks.filter(|(_, row)| is_blank(row)) {
        let mut of: Vec<String> = (changed.iter())
            .filter(|(shape, name)| {
                may_hold(row, name) && (!mapping.merges || is_sized_as_of(row, shape))
            })
            .map(|(_, name)| (*name).to_owned())
            .collect();
        of.dedup();
        if !of.is_empty() && assessment.changes[r] == Change::Constant {
            found.push((r, Refusal::Unsourced { changed: of }));
        }
    }
    found
}

impl Mapping {
    /// Without a base: rows that keep their value although the rows `touched`, which change, are tied to them; and why that is refused.
    ///
    /// # Errors
    /// [`Error::NotHeld`].
    pub fn tied_to(
        &self,
        touched: &[usize],
        held: &dyn Held,
    ) -> Result<Vec<(String, Refusal)>, Error> {
        let mut changes = vec![Change::NotGiven; self.rows.len()];
        for &r in touched {
            let digest = Digest::of(self.rows[r].name.as_bytes());
            changes[r] = Change::Changed { digest };
        }
        let found = tied(self, held, &Assessment { changes }, true)?;
        let named = found
            .into_iter()
            .map(|(r, why)| (self.rows[r].name.clone(), why));
        Ok(named.collect())
    }
}

/// Rows that keep their value although what they are tied to changes: an embedding and its transpose (or a multiple of it) for the
/// head, of which the file names one. With `named`, also where it names both: of equal ones a LoRA changes both if they are tied, and a file
/// does not say whether they are.
fn tied(
    mapping: &Mapping,
    held: &dyn Held,
    assessment: &Assessment,
    named: bool,
) -> Result<Vec<(usize, Refusal)>, Error> {
    let reads = |row: &Row, operators: &[&str]| {
        row.operators
            .iter()
            .any(|o| operators.contains(&o.as_str()))
    };
    let mut found = Vec::new();
    for (r, row) in mapping.rows.iter().enumerate() {
        let kept = matches!(assessment.changes[r], Change::NotGiven | Change::Constant);
        let is_sourced =
            row.grade == Grade::Given || (!named && row.explanations().next().is_some());
        if !kept || is_sourced || row.shape.len() != 2 {
            continue;
        }
        for o in assessment.changed() {
            let other = &mapping.rows[o];
            let pair = |a: &Row, b: &Row| reads(a, &["Gather"]) && reads(b, &["MatMul", "Gemm"]);
            if other.count() == row.count()
                && (pair(row, other) || pair(other, row))
                && is_multiple(row, other, held)?
            {
                let sources = other.explanations().flat_map(Recipe::sources);
                let changed = sources.map(ToOwned::to_owned).collect();
                found.push((r, Refusal::Unsourced { changed }));
                break;
            }
        }
    }
    Ok(found)
}

/// Whether `row` is `other` or a multiple of it, as it is or transposed, but for rounding.
fn is_multiple(row: &Row, other: &Row, held: &dyn Held) -> Result<bool, Error> {
    let (own, data) = (held_bytes(row, held)?, held_bytes(other, held)?);
    let view = TensorView {
        dtype: row.dtype,
        shape: &row.shape,
        data: &own,
    };
    let twin = TensorView {
        dtype: other.dtype,
        shape: &other.shape,
        data: &data,
    };
    // Zeros have no angle.
    if own == data {
        return Ok(true);
    }
    // A single row or column has no other orientation.
    let Some(values) = (!row.shape.contains(&1))
        .then(|| sample(view, &[0, 1]))
        .flatten()
    else {
        return Ok(false);
    };
    let turned =
        |order: &[usize]| sample(twin, order).is_some_and(|v| cosine(&values, &v).abs() > MULTIPLE);
    let is_plain = row.shape == other.shape;
    let is_turned = row.shape.iter().eq(other.shape.iter().rev());
    Ok((is_plain && turned(&[0, 1])) || (is_turned && turned(&[1, 0])))
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
    // What it holds and what is computed for it, in f32 at most.
    let cost = |row: &Row| 8 * row.count();
    let changes = batched(&mapping.rows, cost, |row| {
        // An initializer of few values may stand for a literal as well.
        let may_be_merged = mapping.merges && row.literal == Some(Literal::Flat);
        of_row(row, held, new, trust_names, may_be_merged)
    })?;
    Ok(Assessment { changes })
}

fn of_row(
    row: &Row,
    held: &dyn Held,
    new: &dyn Checkpoint,
    trust_names: bool,
    may_be_merged: bool,
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
    let writable = row.grade.is_writable() && !is_function_nearby(row);
    if !matches!(first, Change::Changed { .. }) || writable {
        return Ok(first);
    }
    let why = match (row.grade, &row.recipe) {
        (Grade::Ambiguous, _) => Refusal::Ambiguous { sources: sources() },
        (_, Some(Recipe::Tensor { source, steps }))
            if !is_contradicted(row) && may_be_plain(row, source, steps) =>
        {
            if trust_names && !may_be_merged && is_of_like_size(row, recipes[0], held, new)? {
                return Ok(first);
            }
            if trust_names {
                return Ok(Change::Refused {
                    why: Refusal::Contradicted { sources: sources() },
                });
            }
            Refusal::Unproven {
                source: source.clone(),
            }
        }
        _ => Refusal::Contradicted { sources: sources() },
    };
    Ok(Change::Refused { why })
}

/// Whether the values are of the size of those that they replace: a multiple of the tensor is under its name too.
fn is_of_like_size(
    row: &Row,
    recipe: &Recipe,
    held: &dyn Held,
    new: &dyn Checkpoint,
) -> Result<bool, Error> {
    let energy = |data: &[u8]| {
        let values = to_f32(row.dtype, data).unwrap_or_default();
        values
            .iter()
            .map(|&v| f64::from(v) * f64::from(v))
            .sum::<f64>()
    };
    let (old, now) = (
        energy(&held_bytes(row, held)?),
        energy(&apply_recipe(row, recipe, new)?),
    );
    let ratio = (now / old).sqrt();
    if old == 0.0 {
        return Ok(recipe.sources().iter().any(|s| same_name(&row.name, s)));
    }
    Ok(row.count() < FEW || (1.0 / UNLIKE..=UNLIKE).contains(&ratio))
}

/// Whether a name may be trusted to mean the tensor itself. Exporters keep a parameter's name where they keep its value; under a
/// made-up name and in the tensor's own shape stands something that was computed from it (`1 + w`, `exp(w)`). Recurrent operators have
/// their gates in another order than torch.
fn may_be_plain(row: &Row, source: &str, steps: &[Step]) -> bool {
    !row.operators.iter().any(|o| GATED.contains(&o.as_str()))
        && (!steps.is_empty() || same_name(&row.name, source))
}

/// Whether closeness alone speaks for what is probably a function of the tensor: near ones a square is near the tensor itself.
fn is_function_nearby(row: &Row) -> bool {
    let is_close = (row.evidence.iter()).any(|e| matches!(e, Evidence::Close { .. }));
    let by_element = |o: &String| BY_ELEMENT.contains(&o.as_str());
    match &row.recipe {
        Some(Recipe::Tensor { source, steps }) if is_close => {
            row.operators.iter().all(by_element) && !may_be_plain(row, source, steps)
        }
        _ => false,
    }
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
        .filter(|n| new.describe(n).is_none())
        .collect();
    if missing.len() == wanted.len() {
        return Ok(Change::NotGiven);
    }
    // What old and new tensors give together is in neither file.
    if !missing.is_empty() {
        return Ok(Change::Refused {
            why: Refusal::PartialFold {
                missing: missing.into_iter().map(ToOwned::to_owned).collect(),
            },
        });
    }
    let computed = apply_once(row, recipe, new);
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
        let (dtype, shape) = (new.describe(source)).expect("none of the sources is missing");
        let source = source.to_owned();
        let is_sized = shape.iter().product::<usize>() == row.count();
        let why = if is_sized && dtype.is_float() != row.dtype.is_float() {
            Refusal::Storage { source, dtype }
        } else {
            Refusal::Misfit {
                source,
                dtype,
                shape: shape.to_vec(),
            }
        };
        return Ok(Change::Refused { why });
    };
    let own = held_bytes(row, held)?;
    if *own == bytes[..] {
        return Ok(Change::Unchanged);
    }
    if same_at_storage_type(row, recipe, &own, &bytes, new) {
        return Ok(Change::UnchangedAfterCast);
    }
    let digest = Digest::of(&bytes);
    // A fold is recomputed a few roundings away from the exporter's, so what it gave at first is no
    // change.
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
    let Some(stored) = new.describe(source).map(|(dtype, _)| dtype) else {
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
