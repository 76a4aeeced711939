//! Saying why a decision keeps a refit from being done, and what helps.

use super::overlay::Overlay;
use super::refusals::{SHOWN, counted, listed, quoted, ways_out};
use super::request::OverlayRequest;
use crate::diff::{Decision, Reason};
use crate::mapping::{Judged, Refusal, Why};
use crate::pipeline::error::Error;

/// Refuses what [`crate::diff::Decision`] does not allow to be written.
pub(super) fn refuse_blocked(
    request: &OverlayRequest,
    overlay: &Overlay,
    decision: &Decision,
) -> Result<(), Error> {
    // Only a checkpoint is judged; a LoRA that does not fit is an error before.
    let Some(judged) = &overlay.judged else {
        return Ok(());
    };
    let files = request.checkpoint.iter().map(|p| p.display().to_string());
    let blocked = Blocked::of(files.collect::<Vec<_>>().join(", "), judged, decision);
    let listed = listed(&judged.mapping, &blocked.refused);
    let decided = Box::new(decision.told());
    if decision.is_reshaped() && !blocked.nothing_fits {
        return Err(Error::Reshaped {
            problems: listed,
            decision: decided,
        });
    }
    let (mut problems, mut hints) = blocked.said();
    problems.extend(listed);
    if !blocked.nothing_fits {
        hints.extend(ways_out(&blocked.refused, judged.mapping.against_base));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Blocked {
        problems,
        hints,
        decision: decided,
    })
}

/// What of a decision blocks, by kind.
struct Blocked<'d> {
    file: String,
    refused: Vec<(&'d str, &'d Refusal)>,
    /// Weights without their tensor, with its name.
    missing: Vec<String>,
    lost: Vec<&'d str>,
    /// Those of them that say of a tensor what another one does not, with the other one.
    restated: Vec<(&'d str, &'d str)>,
    /// Some weight has no tensor, allowed or not.
    lacks: bool,
    nothing_fits: bool,
    /// Weights that the file gives.
    given: usize,
}

impl<'d> Blocked<'d> {
    fn of(file: String, judged: &Judged, decision: &'d Decision) -> Blocked<'d> {
        let given = judged.assessment.changes.iter().filter(|c| c.is_given());
        let mut blocked = Blocked {
            file,
            refused: Vec::new(),
            missing: Vec::new(),
            lost: Vec::new(),
            restated: Vec::new(),
            lacks: !decision.missing.is_empty(),
            nothing_fits: decision.diff.reasons.contains(&Reason::NothingFits),
            given: given.count(),
        };
        for reason in decision.blocking() {
            match reason {
                Reason::Unsure { weight, why } => blocked.refused.push((weight.as_str(), why)),
                Reason::SourceMissing { weight, names } => {
                    blocked.missing.push(match names.first() {
                        Some(name) if name != weight => format!("`{weight}` (from `{name}`)"),
                        _ => format!("`{weight}`"),
                    });
                }
                Reason::NotInEngine {
                    tensor,
                    why: Why::Restated { of },
                } => blocked.restated.push((tensor, of)),
                Reason::NotInEngine { tensor, .. } => blocked.lost.push(tensor),
                _ => {}
            }
        }
        blocked
    }

    /// Problems but for refusals, and what helps against them.
    fn said(&self) -> (Vec<String>, Vec<String>) {
        let (mut problems, mut hints) = (Vec::new(), Vec::new());
        if looks_like_lora(&self.lost) {
            hints.push("it seems to hold a LoRA: give it with `--lora FILE`".to_owned());
        }
        let file = &self.file;
        if self.nothing_fits {
            problems.push(format!(
                "no tensor of `{file}` maps to a weight of the plan"
            ));
            hints.push(FOREIGN.to_owned());
            return (problems, hints);
        }
        // Letting go what another model has, and keeping what it lacks, would leave a mixture of two models.
        let foreign = self.missing.len() > self.given;
        if !self.restated.is_empty() {
            let pair = |(tensor, of): &(&str, &str)| format!("`{tensor}` and `{of}`");
            problems.push(format!(
                "{} of `{file}` {} a tensor twice, and not alike: {}",
                counted(self.restated.len(), "name"),
                if self.restated.len() == 1 {
                    "gives"
                } else {
                    "give"
                },
                some(&self.restated.iter().map(pair).collect::<Vec<_>>())
            ));
            hints.push("save the file again with one of them".into());
        }
        // One may be the other, under another name: letting go the tensor and keeping the base value would lose the change.
        let perhaps_renamed = self.lacks && !self.lost.is_empty();
        if !self.lost.is_empty() {
            problems.push(format!(
                "{} of `{file}` {} to no weight: {}",
                counted(self.lost.len(), "tensor"),
                if self.lost.len() == 1 { "maps" } else { "map" },
                some(&quoted(&self.lost))
            ));
            if perhaps_renamed && !foreign {
                hints.push(
                    "such a tensor may be what a weight has no tensor for, under another name: save the file with the model's names (`trtmut map` shows them), and without what the model does not need".into(),
                );
            } else if !foreign {
                hints.push(
                    "a change of such a tensor would be lost; `--ignore PATTERN` lets those go that the model does not need".into(),
                );
            }
        }
        if !self.missing.is_empty() {
            problems.push(format!(
                "{} of the plan {} no tensor in `{file}`: {}",
                counted(self.missing.len(), "weight"),
                if self.missing.len() == 1 {
                    "has"
                } else {
                    "have"
                },
                some(&self.missing)
            ));
            if foreign {
                hints.push(FOREIGN.to_owned());
            } else if !perhaps_renamed {
                hints.push("if the file is meant to hold only some of the weights, say `--partial`: the others then have their base values".into());
            }
        }
        (problems, hints)
    }
}

const FOREIGN: &str = "the file may belong to another model";

/// Whether names that fit nothing are those of a LoRA's factors.
fn looks_like_lora(lost: &[&str]) -> bool {
    let factor = |n: &&str| {
        // LoRA as PEFT, kohya and diffusers name it, LoHa and LoKr.
        ["lora_", ".lora.", "hada_w", "lokr_w"]
            .iter()
            .any(|f| n.contains(f))
    };
    !lost.is_empty() && lost.iter().filter(|n| factor(n)).count() * 2 > lost.len()
}

/// The first few of a list.
fn some(items: &[String]) -> String {
    let shown = items[..items.len().min(SHOWN)].join(", ");
    match items.len() {
        0..=SHOWN => shown,
        all => format!("{shown} and {} more", all - SHOWN),
    }
}
