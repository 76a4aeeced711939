//! Outputs of a run beside what was expected of them.

use crate::tensor::{Difference, NamedTensors, difference, show_shape};
use crate::ui::{self, Align, Screen, Table, Tone};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize)]
pub struct Comparison {
    pub file: PathBuf,
    pub prefix: String,
    pub rtol: f64,
    pub atol: f64,
    pub equal: bool,
    pub outputs: Vec<ComparedOutput>,
    /// Outputs that the file does not have.
    pub missing: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct ComparedOutput {
    pub name: String,
    pub equal: bool,
    /// Why the two cannot be compared element by element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
}

/// Outputs beside those of a reference engine that holds the same weights.
#[derive(Debug, Serialize)]
pub struct Verification {
    pub reference: String,
    pub equal: bool,
    /// Largest relative L2 error of an output.
    pub error: f64,
}

fn tone(good: bool) -> Tone {
    if good { Tone::Good } else { Tone::Bad }
}

impl Verification {
    pub(super) fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        writeln!(out)?;
        let verdict = if self.equal {
            "equal to"
        } else {
            "DIFFERS from"
        };
        out.paint(tone(self.equal), verdict)?;
        writeln!(
            out,
            " {} with the same weights: largest relative L2 error {:.1e}",
            self.reference, self.error
        )
    }
}

impl From<crate::pipeline::Verification> for Verification {
    fn from(found: crate::pipeline::Verification) -> Verification {
        Verification {
            equal: found.is_equal(),
            error: found.largest_error(),
            reference: found.reference,
        }
    }
}

impl Comparison {
    pub(super) fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        writeln!(out)?;
        writeln!(
            out,
            "against {}:{} (rtol {}, atol {})",
            ui::path(&self.file),
            self.prefix,
            self.rtol,
            self.atol
        )?;
        let mut table = Table::new(&[
            ("output", Align::Left),
            ("", Align::Left),
            ("max abs", Align::Right),
            ("relative L2", Align::Right),
            ("cosine", Align::Right),
            ("first mismatch", Align::Left),
        ]);
        for o in &self.outputs {
            let verdict = if o.equal { "equal" } else { "DIFFERS" };
            let d = o.difference.as_ref();
            let number = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.2e}"));
            let place = match (&o.reason, d) {
                (Some(reason), _) => reason.clone(),
                (None, Some(d)) => d.first_mismatch.as_ref().map_or(String::new(), |at| {
                    let (a, e) = d.values_there.unwrap_or_default();
                    format!("{at:?}: {a:.6} instead of {e:.6} ({} in all)", d.mismatches)
                }),
                (None, None) => String::new(),
            };
            table.row([
                o.name.clone(),
                verdict.into(),
                number(d.map(|d| d.max_abs)),
                number(d.map(|d| d.relative_l2)),
                d.map_or("-".into(), |d| format!("{:.6}", d.cosine)),
                place,
            ]);
        }
        table.write(out, 0)?;
        let (same, all) = (
            self.outputs.iter().filter(|o| o.equal).count(),
            self.outputs.len(),
        );
        let verdict = if same == all { "equal" } else { "DIFFERS" };
        out.paint(tone(same == all), verdict)?;
        writeln!(out, ": {same} of {}", ui::count(all, "output"))?;
        for name in &self.missing {
            writeln!(out, "{name}: not in the file, not compared")?;
        }
        Ok(())
    }
}

/// Compares the outputs of each stream, one at least. The first stream whose outputs differ stands for all, and is put first.
pub(super) fn of_streams(
    file: &Path,
    prefix: &str,
    tolerances: (f64, f64),
    outputs: &mut [NamedTensors],
    expected: &NamedTensors,
) -> Option<Comparison> {
    let of = |outputs: &NamedTensors| compare(file, prefix, tolerances, outputs, expected);
    let each: Vec<Comparison> = outputs.iter().map(of).collect();
    let at = each.iter().position(|c| !c.equal).unwrap_or(0);
    outputs.swap(0, at);
    each.into_iter().nth(at)
}

fn compare(
    file: &Path,
    prefix: &str,
    (rtol, atol): (f64, f64),
    outputs: &NamedTensors,
    expected: &NamedTensors,
) -> Comparison {
    let mut compared = Vec::new();
    let mut missing = Vec::new();
    for (name, actual) in outputs {
        let Some((_, want)) = expected.iter().find(|(n, _)| n == name) else {
            missing.push(name.clone());
            continue;
        };
        let refuse = |reason: String| ComparedOutput {
            name: name.clone(),
            equal: false,
            reason: Some(reason),
            difference: None,
        };
        compared.push(if actual.dtype != want.dtype {
            refuse(format!("{} instead of {}", actual.dtype, want.dtype))
        } else if actual.shape != want.shape {
            refuse(format!(
                "shape {} instead of {}",
                show_shape(&actual.shape),
                show_shape(&want.shape)
            ))
        } else {
            match difference(actual.view(), want.view(), rtol, atol) {
                Ok(d) => ComparedOutput {
                    name: name.clone(),
                    equal: d.mismatches == 0,
                    reason: None,
                    difference: Some(d),
                },
                Err(e) => refuse(e.to_string()),
            }
        });
    }
    Comparison {
        file: file.to_owned(),
        prefix: prefix.to_owned(),
        rtol,
        atol,
        equal: compared.iter().all(|o| o.equal),
        outputs: compared,
        missing,
    }
}
