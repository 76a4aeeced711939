//! Parse, dispatch, print the failure, exit.

use clap::Parser;
use std::process::ExitCode;
use trtmut::cli::Cli;
use trtmut::commands::{self, Environment};
use trtmut::ui::{Ui, Verbosity};
use trtmut::{memory, process};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

fn main() -> ExitCode {
    process::prepare();
    commands::prepare_process();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return usage(&refused),
    };
    process::run(cli.json, cli.memory, || command(&cli))
}

/// Help and the version go to stdout and are no errors; a wrong command line is one JSON document where JSON was asked for.
fn usage(refused: &clap::Error) -> ExitCode {
    if refused.exit_code() != 0 && asks_for_json() {
        let error = commands::UsageError::refused(&refused.render().to_string());
        let failure = commands::explain(&error.into());
        Ui::new(true, Verbosity::Normal, false).failure(&failure);
        return failure.exit().into();
    }
    // Where it cannot be written there is nobody to tell.
    let _ = refused.print();
    ExitCode::from(u8::try_from(refused.exit_code()).unwrap_or(2))
}

/// Whether `--json` stands among the options; clap does not say so of a command line that it refuses.
fn asks_for_json() -> bool {
    let mut words = std::env::args_os().skip(1).take_while(|word| word != "--");
    words.any(|word| word == "--json")
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
