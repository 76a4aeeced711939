//! Why a changed weight is refused, in words, and what helps.

use crate::mapping::{Evidence, Mapping, Refusal};
use crate::pipeline::error::Error;
use crate::tensor::show_shape;

/// How many names or sentences of one kind a message lists.
pub(super) const SHOWN: usize = 8;

/// Refuses what LoRAs make of the base weights, where there is something in `refused`; `mapping` is the one that it was judged by.
pub(super) fn refuse_fused(refused: &[(String, Refusal)], mapping: &Mapping) -> Result<(), Error> {
    if refused.is_empty() {
        return Ok(());
    }
    let refused: Vec<(&str, &Refusal)> = refused.iter().map(|(n, why)| (n.as_str(), why)).collect();
    Err(Error::Overlay {
        problems: listed(mapping, &refused),
        hints: ways_out(&refused, mapping.against_base),
    })
}

/// What helps against refusals of each kind, and does not make the result wrong; `based` where the mapping rests on base weights already.
pub(super) fn ways_out(refused: &[(&str, &Refusal)], based: bool) -> Vec<String> {
    let any = |kind: fn(&Refusal) -> bool| refused.iter().any(|(_, why)| kind(why));
    let mut hints: Vec<String> = Vec::new();
    let ambiguous = any(|w| matches!(w, Refusal::Ambiguous { .. }));
    if (ambiguous && !based)
        || any(|w| matches!(w, Refusal::Unproven { .. } | Refusal::Contradicted { .. }))
    {
        hints.push("give the checkpoint that the model was exported from with `--base-weights FILE` (at build or here): it proves the mapping by value".into());
    }
    if ambiguous && based {
        hints.push("export the model again from this checkpoint: of tensors that were equal in the base nothing tells which one a weight holds".into());
    }
    if any(|w| matches!(w, Refusal::Unproven { .. })) {
        hints.push("or take the names' word for it with `--trust-names`".into());
    }
    if any(|w| matches!(w, Refusal::Unsourced { .. })) {
        hints.push("export the model again from this checkpoint; or, where you know that no tensor of the checkpoint is in such a weight, say so with `--mapping FILE` (`{\"weights\": {\"NAME\": null}}`)".into());
    }
    if any(|w| matches!(w, Refusal::Merged { .. })) {
        hints.push("export the model again from this checkpoint, and build a plan from that: the exporter wrote one initializer for two values".into());
    }
    if any(|w| matches!(w, Refusal::Overflow { .. })) {
        hints.push(
            "export the model in a type that holds these values (bfloat16 or float32)".into(),
        );
    }
    if any(|w| matches!(w, Refusal::Stacked { .. })) {
        hints.push("give a checkpoint in the layout of the one that the model was exported from: some tools store these tensors whole, others head by head, under the same names".into());
    }
    if any(|w| matches!(w, Refusal::Storage { .. })) {
        hints.push("give a checkpoint that holds such tensors in a type that the model's values convert to (f32, f16 or bf16); where they were quantised, the one that they were quantised from".into());
    }
    hints
}

/// Refusals as sentences, the first few of them.
pub(super) fn listed(mapping: &Mapping, refused: &[(&str, &Refusal)]) -> Vec<String> {
    let mut lines: Vec<String> = refused
        .iter()
        .take(SHOWN)
        .map(|(row, why)| {
            let text = refusal(row, why);
            let against =
                (mapping.row(row)).and_then(|r| r.evidence.iter().find_map(speaks_against));
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
        Refusal::Unsourced { changed } => format!(
            "nothing says where weight `{weight}` comes from, and it may hold what changes in {}",
            list(changed)
        ),
        Refusal::Merged { sources, with } => format!(
            "weight `{weight}` stands for {} and for {with}, which does not change",
            list(sources)
        ),
        Refusal::Overflow {
            source,
            dtype,
            largest,
        } => format!(
            "weight `{weight}` would become infinite: `{source}` holds values up to {largest}, too large for {dtype}"
        ),
        Refusal::Stacked { source, head } => format!(
            "weight `{weight}` would be put together wrongly: `{source}` has queries, keys and values in another order than the model holds them (one after the other, or head by head; heads of {head})"
        ),
        Refusal::Storage { source, dtype } => format!(
            "weight `{weight}` cannot be filled from `{source}`, which is stored as {dtype}: these are not its values"
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

pub(super) fn quoted<S: AsRef<str>>(names: &[S]) -> Vec<String> {
    names.iter().map(|n| format!("`{}`", n.as_ref())).collect()
}

pub(super) fn counted(n: usize, noun: &str) -> String {
    if n == 1 {
        format!("1 {noun}")
    } else {
        format!("{n} {noun}s")
    }
}
