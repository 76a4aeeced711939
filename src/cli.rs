//! The command line, as clap types, and which command it runs. What a flag means is said here; what it does is in `commands`.

use crate::commands::{
    Environment, adopt, build, cache, diff, doctor, export, inspect, map, probe, refit, run,
    shapes, shell, watch,
};
use crate::exit::Exit;
use crate::ui::{Colour, Ui, Verbosity};
use clap::{ArgAction, CommandFactory, Parser, Subcommand};

/// Build, diff, refit and run engines from ONNX graphs and safetensors weights.
#[derive(Debug, Parser)]
#[command(
    name = "trtmut",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(
    after_help = "Exit codes: 0 done, 1 bad input, 2 usage, 3 environment, 10/20/30 verdicts of `diff \
                        --exit-code` (20 also when `refit` is not enough), 40 outputs differ, 70 a bug in trtmut, 130/143 ended by a signal."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// The TensorRT library, or a folder that holds it (default: `TRTMUT_TENSORRT`, the loader's path, python3's packages, the
    /// system's folders)
    #[arg(long, global = true, value_name = "PATH", help_heading = "Global")]
    pub tensorrt: Option<std::path::PathBuf>,

    /// The GPU to use, by its number in `trtmut doctor` [default: 0]
    #[arg(long, global = true, value_name = "N", help_heading = "Global")]
    pub device: Option<u32>,

    /// A plugin library of TensorRT, which is loaded before anything else; `standard` for those that come with TensorRT (repeatable)
    #[arg(long, global = true, value_name = "LIB", help_heading = "Global")]
    pub plugin: Vec<std::path::PathBuf>,

    /// Let plans that were built with --version-compatible run the code that they bring (TensorRT); only for plans that you trust
    #[arg(long, global = true, help_heading = "Global")]
    pub allow_host_code: bool,

    /// Print one JSON document on stdout instead of a table, errors included; the same as --format json
    #[arg(long, global = true, help_heading = "Global")]
    pub json: bool,

    /// What to print: tables, one JSON document, or tables and annotations for a workflow of GitHub
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        conflicts_with = "json",
        help_heading = "Global"
    )]
    pub format: Option<Format>,

    /// When to use colours; `auto` obeys `NO_COLOR`, `CLICOLOR` and `CLICOLOR_FORCE`, and else looks for a terminal
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        help_heading = "Global"
    )]
    pub color: Colour,

    /// The most memory that this process may take: bytes, or with a unit as in 8GiB (default: what is free)
    #[arg(long, global = true, value_name = "SIZE", value_parser = size, help_heading = "Global")]
    pub memory: Option<u64>,

    /// Say more on stderr; -vv also which files are opened and what the cache answers
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Global")]
    pub verbose: u8,

    /// Append what is done to a file: steps, files, answers of the cache, and how long each took; nothing secret
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global")]
    pub log_file: Option<std::path::PathBuf>,

    /// Say nothing on stderr but warnings and errors
    #[arg(short, long, global = true, help_heading = "Global")]
    pub quiet: bool,
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Tables
    Text,
    /// One JSON document
    Json,
    /// Tables, and annotations for a workflow of GitHub
    Github,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    // Boxed, because an enum is as large as its largest variant, and a command may have dozens of options.
    /// Compile an ONNX model into a plan
    Build(Box<build::Args>),
    /// Tell whether a change needs nothing, a refit or a recompile, and why
    Diff(Box<diff::Args>),
    /// Give a plan other weights: a checkpoint, LoRAs, or its base
    Refit(Box<refit::Args>),
    /// Take over a plan that trtexec or another tool built, to diff, refit and run it
    Adopt(Box<adopt::Args>),
    /// Keep a plan's weights as files are: refit whenever they change
    Watch(Box<watch::Args>),
    /// Show what a plan or a model is, without running it
    Inspect(Box<inspect::Args>),
    /// Show what is on this machine, and what each backend can do with it
    Doctor(Box<doctor::Args>),
    /// Show which checkpoint tensor fills which weight of a plan, and how that is known
    Map(Box<map::Args>),
    /// Show how to make a second export that proves a mapping
    Probe(Box<probe::Args>),
    /// See, check and clean the engine cache
    Cache(Box<cache::Args>),
    /// Run a plan: outputs, latencies, comparison
    Run(Box<run::Args>),
    /// Check, convert or begin a dynamic-shape spec
    Shapes(Box<shapes::Args>),
    /// Put a plan where a server expects it, with its configuration
    Export(Box<export::Args>),
    /// Print a completion script for a shell
    Completions(shell::CompletionsArgs),
    /// Write the man pages
    #[command(hide = true)]
    Man(shell::ManArgs),
}

impl Command {
    /// Runs the command that was asked for.
    ///
    /// # Errors
    /// Whatever the command fails with; [`explain`](crate::commands::explain) knows how to show it.
    pub fn run(&self, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
        match self {
            Command::Adopt(args) => adopt::run(args, ui, environment),
            Command::Build(args) => build::run(args, ui, environment),
            Command::Inspect(args) => inspect::run(args, ui, environment),
            Command::Doctor(args) => doctor::run(args, ui, environment),
            Command::Diff(args) => diff::run(args, ui, environment),
            Command::Map(args) => map::run(args, ui, environment),
            Command::Probe(args) => probe::run(args, ui),
            Command::Refit(args) => refit::run(args, ui, environment),
            Command::Cache(args) => cache::run(args, ui, environment),
            Command::Run(args) => run::run(args, ui, environment),
            Command::Shapes(args) => shapes::run(args, ui, environment),
            // It hands on what was typed, which parsed arguments no longer tell from defaults.
            Command::Watch(args) => watch::run(args, Cli::command(), ui),
            Command::Export(args) => export::run(args, ui),
            Command::Completions(args) => shell::completions(args, Cli::command(), ui),
            Command::Man(args) => shell::man(args, Cli::command()),
        }
    }
}

fn size(text: &str) -> Result<u64, String> {
    (text.trim().parse::<bytesize::ByteSize>()).map(|size| size.as_u64())
}

impl Cli {
    /// Whether stdout is one JSON document.
    pub fn is_json(&self) -> bool {
        self.json || self.format == Some(Format::Json)
    }

    /// How much to say on stderr.
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            _ => Verbosity::Verbose,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
