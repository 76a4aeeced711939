//! Whether a checkpoint and a plan meet completely, and how to say where they do not.

use super::{Error, OverlayRequest};
use crate::mapping::{
    Accounts, Assessment, Change, Checkpoint, Evidence, Mapping, Missing, Refusal,
};
use crate::tensor::show_shape;

/// A refit must leave nothing out and guess nothing.
pub(super) fn check_complete(
    request: &OverlayRequest,
    mapping: &Mapping,
    accounts: &Accounts,
    assessment: &Assessment,
    new: &dyn Checkpoint,
) -> Result<(), Error> {
    let file = request
        .checkpoint
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let lost: Vec<&str> = accounts.unreached().collect();
    let missing: Vec<String> = accounts
        .missing
        .iter()
        .map(|m| match m.names.first() {
            Some(name) if *name != m.weight => format!("`{}` (from `{name}`)", m.weight),
            _ => format!("`{}`", m.weight),
        })
        .collect();
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
    if misfits == refused.len() && fed > 0 {
        let apart = reshaped(mapping, &accounts.missing, &lost, new);
        if (misfits > 0 && missing.is_empty()) || apart.is_some() {
            let problems = listed.into_iter().chain(apart.into_iter().flatten());
            return Err(Error::Reshaped {
                problems: problems.collect(),
            });
        }
    }
    if !request.partial {
        if !lost.is_empty() {
            problems.push(format!(
                "{} of `{file}` map to no weight: {}",
                counted(lost.len(), "tensor"),
                some(&quoted(&lost))
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
        .map(|(row, why)| {
            let row = &mapping.rows[*row];
            let text = refusal(&row.name, why);
            let against = row.evidence.iter().find_map(speaks_against);
            match against.filter(|_| matches!(why, Refusal::Contradicted { .. })) {
                Some(against) => format!("{text}: {against}"),
                None => text,
            }
        })
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

/// The first few of a list.
fn some(items: &[String]) -> String {
    let shown = items[..items.len().min(SHOWN)].join(", ");
    match items.len() {
        0..=SHOWN => shown,
        all => format!("{shown} and {} more", all - SHOWN),
    }
}

fn quoted<S: AsRef<str>>(names: &[S]) -> Vec<String> {
    names.iter().map(|n| format!("`{}`", n.as_ref())).collect()
}

/// Why a changed weight is refused, in one sentence.
pub fn refusal(weight: &str, why: &Refusal) -> String {
    let list = |names: &[String]| quoted(names).join(", ");
    match why {
        Refusal::Unproven { source } => format!(
            "weight `{weight}` changes, but only its name says that it comes from `{source}`"
        ),
        Refusal::Contradicted { sources } => {
            let sources = match sources[..] {
                [] => String::new(),
                _ => format!(" ({})", list(sources)),
            };
            format!(
                "weight `{weight}` changes, and evidence speaks against its presumed source{sources}"
            )
        }
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
            show_shape(shape)
        ),
    }
}

/// What a piece of evidence says against the presumed source of a weight.
fn speaks_against(evidence: &Evidence) -> Option<String> {
    Some(match evidence {
        Evidence::OtherCloser {
            source, transposed, ..
        } => {
            let turned = if *transposed { ", transposed," } else { "" };
            format!("the values of `{source}`{turned} are closer to those of the ONNX file")
        }
        Evidence::Proportional { .. } => {
            "it changes by one factor per channel, as when a normalisation was folded in".into()
        }
        Evidence::Disagree { valued, .. } => format!("its values are those of `{valued}`"),
        Evidence::FoldSuspected { .. } => {
            "the graph shows signs of a normalisation that was folded in".into()
        }
        Evidence::NormUnaccounted { module } => {
            format!("the normalisation `{module}`, which the graph does not have, may be folded in")
        }
        _ => return None,
    })
}

/// Weights and tensors that the names bring together and the shapes keep apart, as sentences; `None` where anything else is
/// missing or lost.
fn reshaped(
    mapping: &Mapping,
    missing: &[Missing],
    lost: &[&str],
    new: &dyn Checkpoint,
) -> Option<Vec<String>> {
    if missing.is_empty() || missing.len() != lost.len() {
        return None;
    }
    missing
        .iter()
        .map(|m| {
            let row = mapping.row(&m.weight)?;
            let same = |n: &&&str| m.names.iter().any(|looked| same_name(looked, n));
            let name = lost.iter().find(same)?;
            let tensor = new.get(name)?;
            Some(format!(
                "weight `{}` is {} and cannot be filled from `{name}`, which is {} {}",
                m.weight,
                show_shape(&row.shape),
                tensor.dtype,
                show_shape(tensor.shape)
            ))
        })
        .collect()
}

/// Whether two names are one, but for what wraps the module.
fn same_name(a: &str, b: &str) -> bool {
    let ends = |long: &str, short: &str| {
        long.strip_suffix(short)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    ends(a, b) || ends(b, a)
}
