//! `trtmut export`: put a plan where a server expects it, with what the server has to be told of it.

mod triton;

use crate::exit::Exit;
use crate::ui::Ui;

/// Arguments of `trtmut export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    target: Target,
}

/// For whom.
#[derive(Debug, clap::Subcommand)]
enum Target {
    /// A model of NVIDIA Triton Inference Server: `config.pbtxt` and the plan
    Triton(triton::Args),
}

pub use triton::ExportError;

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    match &args.target {
        Target::Triton(args) => triton::run(args, ui),
    }
}
