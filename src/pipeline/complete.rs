//! Whether a checkpoint and a plan meet completely, and how to say where they do not.

use super::{Error, OverlayRequest};
use crate::mapping::{Accounts, Assessment, Change, Mapping, Refusal};

/// A refit must leave nothing out and guess nothing.
pub(super) fn check_complete(
    request: &OverlayRequest,
    mapping: &Mapping,
    accounts: &Accounts,
    assessment: &Assessment,
) -> Result<(), Error> {
    let file = request
        .checkpoint
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let lost: Vec<&str> = accounts.unreached().collect();
    let missing: Vec<&str> = accounts.missing.iter().map(|m| m.weight.as_str()).collect();
    let fed = assessment
        .changes
        .iter()
        .filter(|c| {
            !matches!(
                c,
                Change::Constant | Change::NotGiven | Change::Refused { .. }
            )
        })
        .count();
    let refused: Vec<(usize, &Refusal)> = assessment.refused().collect();
    let mut problems = Vec::new();
    let mut hints = Vec::new();
    if looks_like_lora(&lost) {
        hints.push("it seems to hold a LoRA: give it with `--lora FILE`".to_owned());
    }
    if fed + refused.len() == 0 {
        problems.push(format!(
            "no tensor of `{file}` maps to a weight of the plan"
        ));
        hints.push("the file may belong to another model".to_owned());
        return Err(Error::Overlay { problems, hints });
    }
    let misfits = refused
        .iter()
        .filter(|(_, why)| matches!(why, Refusal::Misfit { .. }))
        .count();
    let listed = listed(mapping, &refused);
    // One architecture with some tensors of other shapes; a foreign file fits nowhere, and leaves most weights without a tensor.
    if misfits == refused.len() && misfits > 0 && fed > missing.len() + misfits {
        return Err(Error::Reshaped { problems: listed });
    }
    if !request.partial {
        if !lost.is_empty() {
            problems.push(format!(
                "{} of `{file}` map to no weight: {}",
                counted(lost.len(), "tensor"),
                some(&lost)
            ));
        }
        if !missing.is_empty() {
            problems.push(format!(
                "{} of the plan find no tensor in `{file}`: {}",
                counted(missing.len(), "weight"),
                some(&missing)
            ));
        }
        if missing.len() > fed {
            hints.push("the file may belong to another model".to_owned());
        } else if !lost.is_empty() || !missing.is_empty() {
            hints.push("if the file is meant to hold only some of the weights, say `--partial`: the others then have their base values".into());
        }
    }
    problems.extend(listed);
    if misfits < refused.len() {
        hints.push("give the checkpoint that the model was exported from with `--base-weights FILE` (or `--weights FILE` at build): it proves the mapping by value".into());
    }
    if refused
        .iter()
        .any(|(_, w)| matches!(w, Refusal::Unproven { .. }))
    {
        hints.push("or take the names' word for it with `--trust-names`".into());
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Overlay { problems, hints })
    }
}

/// Refusals as sentences, the first few of them.
fn listed(mapping: &Mapping, refused: &[(usize, &Refusal)]) -> Vec<String> {
    let mut lines: Vec<String> = refused
        .iter()
        .take(SHOWN)
        .map(|(row, why)| refusal(&mapping.rows[*row].name, why))
        .collect();
    if refused.len() > SHOWN {
        lines.push(format!(
            "and {} more like these",
            counted(refused.len() - SHOWN, "weight")
        ));
    }
    lines
}

/// Whether names that fit nothing are those of a LoRA's factors.
fn looks_like_lora(lost: &[&str]) -> bool {
    let factor = |n: &&str| {
        ["lora_", ".lora.", "hada_w", "lokr_w"]
            .iter()
            .any(|f| n.contains(f))
    };
    !lost.is_empty() && lost.iter().filter(|n| factor(n)).count() * 2 > lost.len()
}

/// How many names or sentences of one kind a message lists.
const SHOWN: usize = 8;

fn counted(n: usize, noun: &str) -> String {
    if n == 1 {
        format!("1 {noun}")
    } else {
        format!("{n} {noun}s")
    }
}

fn some(names: &[&str]) -> String {
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(|n| format!("`{n}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

fn refusal(weight: &str, why: &Refusal) -> String {
    let list = |names: &[String]| {
        names
            .iter()
            .map(|n| format!("`{n}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match why {
        Refusal::Unproven { source } => format!(
            "weight `{weight}` changes, but only its name says that it comes from `{source}`"
        ),
        Refusal::Contradicted { sources } => format!(
            "weight `{weight}` changes, and evidence speaks against its presumed source{}",
            if sources.is_empty() {
                String::new()
            } else {
                format!(" ({})", list(sources))
            }
        ),
        Refusal::Ambiguous { sources } => format!(
            "weight `{weight}` changes, and several tensors fit it: {}",
            list(sources)
        ),
        Refusal::PartialFold { missing } => format!(
            "weight `{weight}` is computed from several tensors, and {} are missing",
            list(missing)
        ),
        Refusal::Misfit {
            source,
            dtype,
            shape,
        } => format!(
            "weight `{weight}` cannot be filled from `{source}`, which is {dtype} {}",
            crate::tensor::show_shape(shape)
        ),
    }
}
