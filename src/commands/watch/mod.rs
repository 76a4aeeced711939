//! `trtmut watch`: keep a plan's weights as files are.
//!
//! Every refit is `trtmut refit` in a process of its own, with the options as they were typed: what it decides, says and writes is what
//! the command does, its memory is given back, and no failure of it ends the watch.

mod files;

use super::UsageError;
use super::overlay::OverlayArgs;
use super::refit::Fallback;
use crate::children;
use crate::exit::Exit;
use crate::fault::Explain;
use crate::plan;
use crate::tensor::Digest;
use crate::ui::Ui;
use crate::watch::{Event, Watch};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use files::{Found, Input, Sources};
use std::ffi::{OsStr, OsString};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// Arguments of `trtmut watch`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The plan is refitted once at the start, and then whenever one of the files changes: is written in place, or replaced. \
    A file that is being written is waited for. An error is reported and the plan left as it is, until the next change; SIGINT and \
    SIGTERM end the watch. With --json there is one document on a line for each refit: trtmut.refit or trtmut.error.\n\n\
    Examples:\n  \
    trtmut watch engine.plan --weights checkpoints/last.safetensors\n  \
    trtmut watch engine.plan --lora style.safetensors:0.8 --exec 'kill -HUP $(cat server.pid)'"
)]
pub struct Args {
    /// The plan
    #[arg(value_parser = crate::commands::plan_path())]
    plan: PathBuf,

    /// Where the result goes (default: the plan itself)
    #[arg(short, long, value_name = "PLAN")]
    output: Option<PathBuf>,

    /// Compare what the refitted engine computes with a reference engine on drawn inputs; write nothing where it differs
    #[arg(long)]
    verify: bool,

    /// What to do where a refit is not enough, or fails
    #[arg(long, value_enum, default_value_t = Fallback::None)]
    fallback: Fallback,

    /// Read the plan and the model at each refit, though they are as they were when they were last read
    #[arg(long)]
    rehash: bool,

    /// Run this in a shell whenever the plan became another one, with `TRTMUT_PLAN`, `TRTMUT_MANIFEST` (paths) and `TRTMUT_DIGEST`
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,

    /// How long files have to be left alone before they count as whole, e.g. 5s where shards are written one after another
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = humantime::parse_duration)]
    settle: Duration,

    /// End after the first change, with the exit code of its refit
    #[arg(long)]
    once: bool,

    /// Checkpoint: a .safetensors file, an index of shards, or a folder with one (repeatable)
    #[arg(short, long, value_name = "FILE|DIR", help_heading = "Weights")]
    weights: Vec<PathBuf>,

    #[command(flatten)]
    overlay: OverlayArgs,
}

/// Why the watch, or what it was to run, ended.
#[derive(Debug, thiserror::Error, Explain)]
pub enum WatchError {
    /// A file or folder cannot be watched.
    #[error("cannot watch `{path}`", path = path.display())]
    #[explain(code = "watch", class = Environment,
        hint("check that its folder exists; where the system has no watches left, raise `fs.inotify.max_user_watches`"))]
    Watch {
        /// What is to be watched.
        path: PathBuf,
        source: notify::Error,
    },
    /// A process cannot be started.
    #[error("cannot run `{what}`")]
    #[explain(code = "start-process", class = Environment)]
    Start {
        /// What was to be run.
        what: String,
        source: std::io::Error,
    },
    /// A signal ended a refit.
    #[error("`trtmut refit` was ended by a {status}")]
    #[explain(code = "refit-cut-short", class = Environment, hints = of_signal(*status))]
    CutShort {
        /// What the system says of its end; it shows as `signal: 9 (SIGKILL)`.
        status: ExitStatus,
    },
    /// `--exec` ran and failed.
    #[error("`{command}` ended with {status}")]
    #[explain(code = "exec", class = Input, hint("the plan was refitted before, and is as it should be"))]
    Exec { command: String, status: ExitStatus },
}

fn of_signal(status: ExitStatus) -> Option<&'static str> {
    (status.signal() == Some(libc::SIGKILL)).then_some(
        "where nobody sent it, the system did because memory ran out: its log (`dmesg`) says so; end other programs, or take a larger machine",
    )
}

/// Runs the command. `cli` is the whole command line, of which `refit` is a part.
pub fn run(args: &Args, cli: clap::Command, ui: &Ui) -> anyhow::Result<Exit> {
    if args.weights.is_empty() && args.overlay.lora.is_empty() {
        return Err(UsageError::new(
            "nothing says which weights to follow",
            "give --weights FILE or --lora FILE[:SCALE]",
        )
        .into());
    }
    // A wrong path ends the watch at once, instead of being the failure of every refit.
    plan::read_manifest(&args.plan)?;
    let input = |lora| {
        move |path: &PathBuf| Input {
            path: path.clone(),
            lora,
        }
    };
    let OverlayArgs {
        lora,
        base_weights,
        mapping,
        ..
    } = &args.overlay;
    let others = args.weights.iter().chain(base_weights).chain(mapping);
    let mut inputs: Vec<Input> = others.map(input(false)).collect();
    inputs.extend(lora.iter().map(|(path, _)| path).map(input(true)));
    let ours = [&args.plan, args.output.as_ref().unwrap_or(&args.plan)];
    let ours = ours.map(|plan| [plan.clone(), plan::manifest_path(plan)]);
    let refit = Refit {
        args,
        options: typed_options(cli),
    };
    let mut sources = Sources::new(inputs, &ours.concat(), args.settle);
    let mut first = true;
    loop {
        // What changes from here on is seen, also while the refit runs.
        let found = sources.whole(ui)?;
        if let Found::Changed(names) = &found {
            if !first {
                ui.event(Event::Status(&format!("{} changed", names.join(", "))));
            }
            let done = refit.run(ui)?;
            let cut_short = cut_short(done);
            // What no change of a weight file cures ends the watch before it begins.
            let hopeless = !matches!(done.code(), Some(0 | 1 | 20 | 40));
            if (first && hopeless) || (!first && args.once) {
                return cut_short.map_or_else(|| Ok(finish(done.code())), |e| Err(e.into()));
            }
            // Other failures were said by the refit itself.
            if let Some(error) = cut_short {
                ui.passing_failure(&super::explain(&error.into()));
            }
        }
        if first {
            ui.event(Event::Status(&format!(
                "watching {}; ctrl-c ends it",
                sources.shown()
            )));
        }
        first = false;
        sources.wait();
    }
}

/// What ended a refit before it could say anything: a signal, also one that it takes notice of to tidy up.
fn cut_short(done: ExitStatus) -> Option<WatchError> {
    let of_signal = |signal| Some(ExitStatus::from_raw(signal));
    let status = match done.code() {
        None => Some(done),
        Some(code) if code == Exit::Interrupted as i32 => of_signal(libc::SIGINT),
        Some(code) if code == Exit::Terminated as i32 => of_signal(libc::SIGTERM),
        Some(_) => None,
    };
    status.map(|status| WatchError::CutShort { status })
}

/// The watch ends as a refit did, which has said why.
fn finish(code: Option<i32>) -> Exit {
    let exits = [
        Exit::Done,
        Exit::BadInput,
        Exit::Usage,
        Exit::Environment,
        Exit::NeedsRecompile,
        Exit::Differs,
    ];
    let known = exits.into_iter().find(|exit| code == Some(*exit as i32));
    known.unwrap_or(Exit::Bug)
}

/// `trtmut refit` with what this command was given.
struct Refit<'a> {
    args: &'a Args,
    options: Vec<OsString>,
}

impl Refit<'_> {
    /// Refits, and runs `--exec` where the plan became another one. Returns how the refit ended.
    fn run(&self, ui: &Ui) -> anyhow::Result<ExitStatus> {
        let before = self.digest();
        let mut command = itself();
        command
            .arg("refit")
            .args(&self.options)
            // Files may be called like options.
            .arg("--")
            .arg(&self.args.plan)
            .args(&self.args.weights)
            .stdin(Stdio::null());
        // A refit's document has many lines; a watch prints each on one, so that a reader knows
        // where it ends.
        if ui.is_json() {
            command.stdout(Stdio::piped());
        }
        let (status, printed) =
            children::finish(&mut command).map_err(|source| WatchError::Start {
                what: "trtmut refit".into(),
                source,
            })?;
        if ui.is_json()
            && let Ok(document) = serde_json::from_slice(&printed)
        {
            ui.line(&document)?;
        }
        let after = self.digest();
        if status.success() && after != before {
            match self.exec(after, ui) {
                Err(error) if self.args.once => return Err(error.into()),
                Err(error) => ui.event(Event::Warn(&error.to_string())),
                Ok(()) => {}
            }
        }
        Ok(status)
    }

    fn output(&self) -> &Path {
        self.args.output.as_ref().unwrap_or(&self.args.plan)
    }

    /// Digest of the plan that is written, as its manifest states it.
    fn digest(&self) -> Option<Digest> {
        Some(plan::read_manifest(self.output()).ok()?.plan.digest)
    }

    fn exec(&self, digest: Option<Digest>, ui: &Ui) -> Result<(), WatchError> {
        let Some(text) = &self.args.exec else {
            return Ok(());
        };
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(text)
            .env("TRTMUT_PLAN", absolute(self.output().to_owned()))
            .env(
                "TRTMUT_MANIFEST",
                absolute(plan::manifest_path(self.output())),
            )
            .env(
                "TRTMUT_DIGEST",
                digest.map(|d| d.to_string()).unwrap_or_default(),
            )
            .stdin(Stdio::null())
            .stdout(ui.stdout_of_others());
        let (status, _) = children::finish(&mut command).map_err(|source| WatchError::Start {
            what: text.clone(),
            source,
        })?;
        if status.success() {
            return Ok(());
        }
        Err(WatchError::Exec {
            command: text.clone(),
            status,
        })
    }
}

/// This program, also where another one was installed in its place meanwhile.
fn itself() -> Command {
    let running = Path::new("/proc/self/exe");
    let program = match std::env::current_exe() {
        Ok(path) if !running.exists() => path,
        _ => running.to_owned(),
    };
    let mut command = Command::new(program);
    // By its path it would be called `exe` in lists of processes.
    command.arg0("trtmut");
    command
}

/// The options on this command line that `refit` has too, so that one which `refit` gets later is not forgotten here.
fn typed_options(mut cli: clap::Command) -> Vec<OsString> {
    // [`Args`] no longer says which of its values were typed; clap's matches do.
    cli.build();
    let matches = cli.clone().try_get_matches_from(std::env::args_os());
    let (Ok(matches), Some(refit)) = (matches, cli.find_subcommand("refit")) else {
        return Vec::new();
    };
    let Some(own) = matches.subcommand_matches("watch") else {
        return Vec::new();
    };
    options(refit.get_arguments(), own)
}

fn options<'a>(known: impl Iterator<Item = &'a Arg>, given: &ArgMatches) -> Vec<OsString> {
    let mut found = Vec::new();
    for arg in known {
        let id = arg.get_id().as_str();
        let Some(long) = arg.get_long() else { continue };
        // `try_contains_id` fails for what the other command does not have.
        if !given.try_contains_id(id).is_ok_and(|there| there)
            || given.value_source(id) != Some(ValueSource::CommandLine)
        {
            continue;
        }
        let flag = OsString::from(format!("--{long}"));
        match arg.get_action() {
            ArgAction::SetTrue => found.push(flag),
            ArgAction::Count => {
                found.extend(std::iter::repeat_n(flag, usize::from(given.get_count(id))));
            }
            _ => {
                for value in given.get_raw(id).into_iter().flatten() {
                    // In one word: a value may begin as an option does.
                    let parts: [&OsStr; 3] = [&flag, OsStr::new("="), value];
                    found.push(parts.into_iter().collect());
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    fn forwarded(line: &str) -> Vec<String> {
        let mut cli = Cli::command();
        cli.build();
        let matches = cli.clone().get_matches_from(line.split(' '));
        let refit = cli.find_subcommand("refit").unwrap();
        let own = matches.subcommand_matches("watch").unwrap();
        let found = options(refit.get_arguments(), own).into_iter();
        found.map(|o| o.into_string().unwrap()).collect()
    }

    #[test]
    fn options_of_refit_are_handed_on_as_typed() {
        let mut found = forwarded(
            "trtmut --json -vv watch p.plan --weights w.safetensors --lora a:0.5 --lora=b --partial \
             --ignore *.x --fallback rebuild --exec true --settle 1s --memory 1GiB --once",
        );
        found.sort();
        let expected = [
            "--fallback=rebuild",
            "--ignore=*.x",
            "--json",
            "--lora=a:0.5",
            "--lora=b",
            "--memory=1GiB",
            "--partial",
            "--verbose",
            "--verbose",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn whatever_refit_can_be_told_watch_can_be_told() {
        let mut cli = Cli::command();
        cli.build();
        let names = |command: &str| -> Vec<String> {
            let arguments = cli.find_subcommand(command).unwrap().get_arguments();
            arguments
                .filter_map(Arg::get_long)
                .map(str::to_owned)
                .collect()
        };
        // What makes no sense for a plan that follows files.
        let left_out = ["base", "dry-run", "force"];
        let own = names("watch");
        for option in names("refit") {
            let stated = own.contains(&option) || left_out.contains(&option.as_str());
            assert!(
                stated,
                "`refit --{option}`: let `watch` have it, or list it here"
            );
        }
    }
}
