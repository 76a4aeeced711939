//! What `trtmut refit` reports of a plan, and of several.

use crate::commands::tables;
use crate::diff::{Reason, Verdict};
use crate::engine::Way;
use crate::fsx;
use crate::pipeline::{Prepared, Refitted, Verification, next};
use crate::plan::Recipe;
use crate::tensor::Digest;
use crate::ui::{self, Report, Screen};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Said of a refit that did not go by the names of single weights.
const BY_PARSER: &str = "the library's parser gave it all weights, from the whole model; they were read back and compared";

/// What became of one plan.
#[derive(Debug, Serialize)]
pub(super) struct RefitReport {
    plan: PathBuf,
    output: PathBuf,
    /// Parts of the files that it takes, where several plans were given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<String>,
    verdict: Verdict,
    pub written: bool,
    pub rebuilt: bool,
    /// The plan was stripped, and held no weights before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    filled: bool,
    pub digest: Digest,
    weights: usize,
    /// All that the verdict rests on, as `diff` gives it.
    reasons: Vec<Reason>,
    changed: Vec<String>,
    /// Tensors of the file that the model does not use.
    unused: Vec<String>,
    /// Tensors and weights that `--ignore` lets go.
    ignored: Vec<String>,
    /// Weights whose tensor is not given: they have their base values (`--partial`).
    missing: Vec<String>,
    recipe: Recipe,
    resolve_ns: u64,
    /// How the engine got its weights; none where it was not refitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    way: Option<Way>,
    pub apply_ns: u64,
    pub write_ns: u64,
    /// Reference that the result was verified against.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// Largest relative L2 error of an output against the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<f64>,
    /// The command that gives the plan back what it held.
    #[serde(skip_serializing_if = "Option::is_none")]
    back: Option<String>,
}

impl Report for RefitReport {
    const SCHEMA: &'static str = "trtmut.refit/2";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let show = |ns| ui::duration(Duration::from_nanos(ns));
        let what = format!(
            "{} of {} differ",
            self.changed.len(),
            ui::count(self.weights, "weight")
        );
        self.left_out(out)?;
        match (self.verdict, self.written) {
            (Verdict::Live, false) => {
                tables::verdict(out, Verdict::Live)?;
                writeln!(out, "  the plan holds exactly these weights")?;
                self.verification(out)
            }
            (verdict, false) => {
                tables::verdict(out, verdict)?;
                writeln!(out, "  {what}; nothing was written")
            }
            (_, true) if self.rebuilt => {
                writeln!(out, "rebuilt {}  {what}", ui::path(&self.output))?;
                writeln!(out, "  compiled in {}", show(self.apply_ns))
            }
            (_, true) => {
                let verb = if self.filled { "filled" } else { "refitted" };
                writeln!(out, "{verb} {}  {what}", ui::path(&self.output))?;
                writeln!(
                    out,
                    "  found out in {}, applied in {}, written in {}",
                    show(self.resolve_ns),
                    show(self.apply_ns),
                    show(self.write_ns)
                )?;
                if self.way == Some(Way::ByParser) {
                    writeln!(out, "  {BY_PARSER}")?;
                }
                self.verification(out)?;
                match &self.back {
                    Some(back) => writeln!(out, "  way back: {}", ui::line(back)),
                    None => Ok(()),
                }
            }
        }
    }
}

impl RefitReport {
    /// What a refit that is prepared would do.
    pub fn of(prepared: &Prepared, plan: &Path, output: &Path, resolve: Duration) -> Self {
        let decision = &prepared.decision;
        // What a plan held that was stripped, or that is not proven, is nothing to go back to.
        let held = !prepared.manifest.stripped && !prepared.manifest.unproven;
        let replaced = held && fsx::resolve(plan) == fsx::resolve(output);
        Self {
            back: replaced
                .then(|| next::back(plan, &prepared.manifest))
                .flatten(),
            plan: plan.to_owned(),
            output: output.to_owned(),
            parts: Vec::new(),
            verdict: decision.diff.verdict,
            written: false,
            rebuilt: false,
            filled: prepared.manifest.stripped,
            digest: prepared.manifest.plan.digest,
            weights: prepared.manifest.weights.len(),
            reasons: decision.diff.reasons.clone(),
            changed: decision.changes.iter().map(|c| c.name.clone()).collect(),
            unused: decision.diff.unused().map(ToOwned::to_owned).collect(),
            ignored: decision.ignored.clone(),
            missing: (decision.missing.iter())
                .map(|m| m.weight.clone())
                .collect(),
            recipe: prepared.overlay().recipe().clone(),
            resolve_ns: resolve.as_nanos() as u64,
            way: None,
            apply_ns: 0,
            write_ns: 0,
            reference: None,
            error: None,
        }
    }

    /// As [`RefitReport::of`], with the parts that the plan takes of files for several.
    pub fn one_of(prepared: &Prepared, plan: &Path, output: &Path, resolve: Duration) -> Self {
        let taken = (prepared.overlay().parts.iter()).filter(|p| p.taken);
        let mut parts: Vec<String> = taken.map(|p| p.name.clone()).collect();
        parts.sort_unstable();
        parts.dedup();
        Self {
            parts,
            ..Self::of(prepared, plan, output, resolve)
        }
    }

    /// The refit was done.
    pub fn refitted(&mut self, done: Refitted) {
        self.apply_ns = done.apply.as_nanos() as u64;
        self.write_ns = done.write.as_nanos() as u64;
        self.way = Some(done.way);
        if let Some(v) = done.verification {
            self.verified(v);
        }
    }

    /// The model was compiled instead.
    pub fn rebuilt(&mut self, time: Duration) {
        self.rebuilt = true;
        self.apply_ns = time.as_nanos() as u64;
    }

    pub fn verified(&mut self, found: Verification) {
        self.error = Some(found.largest_error());
        self.reference = Some(found.reference);
    }

    /// What of the file reaches nothing, in a line each.
    fn left_out(&self, out: &mut Screen<'_>) -> io::Result<()> {
        for (names, what) in [
            (&self.unused, "not used by the model"),
            (&self.ignored, "let go by --ignore"),
            (&self.missing, "not given, with its base value"),
        ] {
            if let [first, ..] = &names[..] {
                let more = match names.len() {
                    1 => String::new(),
                    n => format!(" and {} more", n - 1),
                };
                writeln!(out, "  {what}: `{first}`{more}")?;
            }
        }
        Ok(())
    }

    fn verification(&self, out: &mut Screen<'_>) -> io::Result<()> {
        match (&self.reference, self.error) {
            (Some(reference), Some(error)) => writeln!(
                out,
                "  verified against {reference}: largest relative L2 error {error:.1e}"
            ),
            _ => Ok(()),
        }
    }
}

/// What became of several plans.
#[derive(Debug, Serialize)]
pub(super) struct SeveralReport {
    pub written: bool,
    pub plans: Vec<RefitReport>,
}

impl Report for SeveralReport {
    const SCHEMA: &'static str = "trtmut.refit-several/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        for one in &self.plans {
            let parts = match one.parts.as_slice() {
                [] => String::new(),
                parts => format!(" takes {}", parts.join(", ")),
            };
            writeln!(out, "`{}`{parts}", ui::path(&one.plan))?;
            one.human(out)?;
        }
        Ok(())
    }
}
