//! Parse, dispatch, print the failure, exit.

use clap::Parser;
use clap::error::ErrorKind;
use std::process::ExitCode;
use trtmut::cli::{Cli, Format};
use trtmut::commands::{self, Environment};
use trtmut::ui::{Colour, Ui, Verbosity};
use trtmut::{memory, process};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

fn main() -> ExitCode {
    process::prepare();
    commands::prepare_process();
    Colour::asked(std::env::args_os().skip(1)).obey();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return usage(refused),
    };
    process::run(cli.is_json(), cli.memory, || command(&cli))
}

/// Help and the version go to stdout and are no errors; a wrong command line is one JSON document where JSON was asked for.
fn usage(mut refused: clap::Error) -> ExitCode {
    commands::suggest(&mut refused);
    let (json, github) = (asks_for("json"), asks_for("github"));
    if refused.exit_code() != 0 && (json || github) {
        let error = commands::UsageError::refused(&refused.render().to_string());
        let failure = commands::explain(&error.into());
        let ui = Ui::new(json, Verbosity::Normal, false);
        ui.with_annotations(github).failure(&failure);
        return failure.exit().into();
    }
    // Where it cannot be written there is nobody to tell.
    let _ = match refused.kind() {
        ErrorKind::DisplayVersion if asks_for_details() => {
            let ui = Ui::new(false, Verbosity::Normal, false);
            ui.text(&commands::shell::details()).is_ok()
        }
        _ => match harmless(&refused) {
            Some(text) => trtmut::ui::refusal(&text).is_ok(),
            None => refused.print().is_ok(),
        },
    };
    ExitCode::from(u8::try_from(refused.exit_code()).unwrap_or(2))
}

/// What clap says of a command line, where it quotes an argument that would do more than be shown; in plain letters then.
fn harmless(refused: &clap::Error) -> Option<String> {
    let said = refused.render().to_string();
    let mut text = said.clone();
    for word in std::env::args_os().skip(1) {
        let word = word.to_string_lossy();
        // clap quotes an argument, or the value in it.
        let value = word.split_once('=').map(|(_, value)| value);
        for part in std::iter::once(&*word).chain(value) {
            let shown = trtmut::ui::line(part);
            if shown != part {
                // clap takes what a terminal would obey for its own colours, and leaves it out.
                let bare = anstream::adapter::strip_str(part).to_string();
                text = text.replace(part, &shown).replace(&bare, &shown);
            }
        }
    }
    (text != said).then_some(text)
}

/// Whether a format stands among the options; clap does not say so of a command line that it refuses.
fn asks_for(format: &str) -> bool {
    let words = std::env::args_os().skip(1).take_while(|word| word != "--");
    let words: Vec<_> = words.collect();
    let joined = format!("--format={format}");
    (words.iter()).any(|word| *word == *joined || format == "json" && word == "--json")
        || words
            .windows(2)
            .any(|two| two[0] == "--format" && two[1] == *format)
}

fn start_log(cli: &Cli) -> anyhow::Result<()> {
    trtmut::ui::start_log(cli.verbose, cli.quiet, cli.log_file.as_deref())?;
    let words = std::env::args_os().skip(1);
    let words: Vec<String> = words
        .map(|w| commands::without_credentials(&w.to_string_lossy()))
        .collect();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), arguments = ?words, "started");
    Ok(())
}

/// `--version --verbose`: clap prints the version as soon as it sees the one, whatever else there is.
fn asks_for_details() -> bool {
    let mut words = std::env::args_os().skip(1);
    words.any(|word| ["--verbose", "-v", "-vV", "-Vv"].iter().any(|w| word == *w))
}

fn command(cli: &Cli) -> ExitCode {
    let mut environment = Environment::from_process();
    environment.allow_host_code = cli.allow_host_code;
    environment.plugins.clone_from(&cli.plugin);
    if let Some(path) = &cli.tensorrt {
        environment.tensorrt = Some(path.clone());
    }
    if let Some(ordinal) = cli.device {
        commands::use_device(ordinal);
    }
    let ui = Ui::new(cli.is_json(), cli.verbosity(), environment.progress)
        .with_annotations(cli.format == Some(Format::Github));
    let done = trtmut::ui::check_streams()
        .map_err(Into::into)
        .and_then(|()| start_log(cli))
        .and_then(|()| cli.command.run(&ui, &environment));
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
