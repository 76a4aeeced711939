//! `trtmut probe`: how to make a second export that proves a mapping.

use crate::exit::Exit;
use crate::ui::{Report, Screen, Ui};
use serde::Serialize;
use std::io::{self, Write};

/// Arguments of `trtmut probe`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A probe is a second export of the same model with every tensor moved. `build --probe probe.onnx --probe-weights \
    probe.safetensors` keeps of the mapping only what both exports prove, so that what is left rests on no assumption."
)]
pub struct Args {
    /// Print the lines of Python that make a probe of `model`
    #[arg(long, required = true)]
    print: bool,
}

/// Every element is moved away from zero, by another part of itself and a little more: signs of variances stay, flat tensors and equal ones
/// become different, and no move is rounded away in a half type. Tied parameters are one object, and move once.
const PYTHON: &str = "\
import torch, safetensors.torch
with torch.no_grad():
    for t in filter(torch.is_floating_point, {id(t): t for t in [*model.parameters(), *model.buffers()]}.values()):
        t.add_(torch.where(t < 0, -1, 1) * (0.05 + 0.4 * torch.rand_like(t.float())) * (t.abs() + 0.2))
safetensors.torch.save_file({n: t.clone().contiguous() for n, t in model.state_dict().items()}, \"probe.safetensors\")
";

#[derive(Debug, Serialize)]
struct ProbeReport {
    python: &'static str,
    then: &'static str,
}

const THEN: &str = "export `model` again exactly as before, into probe.onnx";

impl Report for ProbeReport {
    const SCHEMA: &'static str = "trtmut.probe/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        // Not by `write!`, which makes one line of all that it fills in.
        out.write_all(self.python.as_bytes())?;
        writeln!(out, "# then {}", self.then)
    }
}

/// Runs the command.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    debug_assert!(args.print, "clap requires it");
    ui.result(&ProbeReport {
        python: PYTHON,
        then: THEN,
    })?;
    Ok(Exit::Done)
}
