//! Parse, dispatch, print the failure, exit.

use clap::Parser;
use std::process::ExitCode;
use trtmut::cli::Cli;
use trtmut::commands::{self, Environment};
use trtmut::ui::Ui;
use trtmut::{memory, process};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

fn main() -> ExitCode {
    process::prepare();
    commands::prepare_process();
    let cli = Cli::parse();
    process::run(cli.json, cli.memory, || command(&cli))
}

fn command(cli: &Cli) -> ExitCode {
    let mut environment = Environment::from_process();
    environment.allow_host_code = cli.allow_host_code;
    if let Some(path) = &cli.tensorrt {
        environment.tensorrt = Some(path.clone());
    }
    let ui = Ui::new(cli.json, cli.verbosity(), environment.progress);
    let done = trtmut::ui::check_streams()
        .map_err(Into::into)
        .and_then(|()| commands::dispatch(&cli.command, &ui, &environment));
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            // What was wrong with a file that changed meanwhile says nothing of it.
            let error = trtmut::fsx::check_report().map_or_else(Into::into, |()| error);
            let failure = commands::explain(&error);
            ui.failure(&failure);
            failure.exit().into()
        }
    }
}
