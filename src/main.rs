//! Parse, dispatch, print the failure, exit.

use clap::Parser;
use std::process::ExitCode;
use trtmut::cli::Cli;
use trtmut::commands::{self, Environment};
use trtmut::ui::Ui;

fn main() -> ExitCode {
    commands::prepare_process();
    let cli = Cli::parse();
    let mut environment = Environment::from_process();
    environment.allow_host_code = cli.allow_host_code;
    if let Some(path) = &cli.tensorrt {
        environment.tensorrt = Some(path.clone());
    }
    let ui = Ui::new(cli.json, cli.verbosity(), environment.progress);
    match commands::dispatch(&cli.command, &ui, &environment) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let failure = commands::explain(&error);
            ui.failure(&failure);
            failure.exit().into()
        }
    }
}
