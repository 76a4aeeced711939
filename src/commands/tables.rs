//! Tables and words that several commands print.

use crate::diff::Verdict;
use crate::shapes::{AxisRange, Profile, ProfileInput};
use crate::tensor::TensorDecl;
use crate::ui::{Align, Screen, Table, Tone};
use std::io::{self, Write};

/// A verdict in its colour.
pub(super) fn verdict(out: &mut Screen<'_>, verdict: Verdict) -> io::Result<()> {
    let tone = match verdict {
        Verdict::Live => Tone::Good,
        Verdict::NeedsRefit => Tone::Busy,
        Verdict::NeedsRecompile => Tone::Bad,
        Verdict::Unknown => Tone::Odd,
    };
    out.paint(tone, verdict.name())
}

/// Inputs and outputs, as a model declares them.
pub(super) fn tensors(inputs: &[TensorDecl], outputs: &[TensorDecl]) -> Table {
    let mut table = Table::new(&[
        ("", Align::Left),
        ("name", Align::Left),
        ("type", Align::Left),
        ("dims", Align::Left),
    ]);
    for (side, all) in [("input", inputs), ("output", outputs)] {
        for t in all {
            table.row([
                side.into(),
                t.name.clone(),
                t.dtype.to_string(),
                t.show_dims(),
            ]);
        }
    }
    table
}

/// The shapes that a plan takes, a table for each of its optimization profiles.
pub(super) fn write_ranges(out: &mut Screen<'_>, profile: &Profile) -> io::Result<()> {
    if profile.several.is_empty() {
        return ranges(&profile.inputs).write(out, 2);
    }
    for (i, inputs) in profile.several.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        writeln!(out, "  optimization profile {}", i + 1)?;
        ranges(inputs).write(out, 2)?;
    }
    Ok(())
}

/// The range of each input, one row an input.
fn ranges(inputs: &[ProfileInput]) -> Table {
    let mut table = Table::new(&[
        ("input", Align::Left),
        ("type", Align::Left),
        ("min", Align::Left),
        ("opt", Align::Left),
        ("max", Align::Left),
    ]);
    for input in inputs {
        let side = |f: &dyn Fn(&AxisRange) -> String| {
            let cells: Vec<String> = input.axes.iter().map(f).collect();
            if cells.is_empty() {
                "scalar".into()
            } else {
                cells.join("x")
            }
        };
        table.row([
            input.name.clone(),
            input.dtype.to_string(),
            side(&|a| a.min.to_string()),
            side(&|a| a.opt.to_string()),
            side(&|a| a.max.map_or("any".into(), |m| m.to_string())),
        ]);
    }
    table
}
