//! The only door to stdout and stderr.
//!
//! stdout is the result: a table for people, or with `--json` exactly one document, errors included. stderr is talk: progress,
//! notes, warnings, errors, hints. Whatever comes from a file or an argument is escaped here (`escape`). Arguments, exit codes, JSON and file formats are interface; tables and stderr are not.

mod bare;
mod colour;
mod escape;
mod failure;
mod format;
mod github;
mod log;
mod progress;
mod screen;
mod table;

pub use bare::{check_streams, last_words};
pub use colour::Colour;
pub use failure::Failure;
pub use format::{amount, bytes, count, duration, percent};
pub use github::{Annotation, Level};
pub use log::start_log;
pub use progress::Progress;
pub use screen::{Screen, Tone};
pub use table::{Align, Table};

/// Text of a file as it may be shown anywhere: what would act on a terminal or turn the direction of writing around is written out.
pub fn shown(text: &str) -> std::borrow::Cow<'_, str> {
    escape::text(text)
}

/// A path in a sentence or a line of a report: one line, whatever is in its name.
pub fn path(path: &Path) -> String {
    line(&path.to_string_lossy())
}

/// A command with names in it: one line.
pub fn line(text: &str) -> String {
    escape::line(text).into_owned()
}

/// The text of a JSON document with the same value, in which nothing acts.
pub fn shown_json(document: &str) -> std::borrow::Cow<'_, str> {
    escape::json(document)
}

/// Prints on stderr why a command line is refused.
///
/// # Errors
/// When stderr cannot be written.
pub fn refusal(text: &str) -> io::Result<()> {
    io::stderr().lock().write_all(escape::text(text).as_bytes())
}

use crate::fault::Explain;
use crate::fsx;
use crate::watch::{Event, Watch};
use serde::Serialize;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::Stdio;

/// What a command has to say at its end.
pub trait Report: Serialize {
    /// Name and version of the JSON form, e.g. `trtmut.build/1`.
    const SCHEMA: &'static str;

    /// The form for people. Lines end with `\n`.
    ///
    /// # Errors
    /// Whatever `out` fails with.
    fn human(&self, out: &mut Screen<'_>) -> io::Result<()>;

    /// What `--format github` shows beside a workflow's run.
    fn annotations(&self) -> Vec<Annotation> {
        Vec::new()
    }
}

/// How much is said on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors and warnings: `-q`.
    Quiet,
    /// Also progress and what was done.
    Normal,
    /// Also notes and the names of steps: `-v`.
    Verbose,
}

/// stdout and stderr, with what the user wants of them.
pub struct Ui {
    json: bool,
    github: bool,
    verbosity: Verbosity,
    progress: Option<Progress>,
}

impl Ui {
    /// Progress is drawn on a terminal only, and never with `json` or [`Verbosity::Quiet`].
    pub fn new(json: bool, verbosity: Verbosity, allow_progress: bool) -> Ui {
        let drawn = allow_progress
            && !json
            // With -v every step is a line of its own, and a bar would be drawn between them.
            && verbosity == Verbosity::Normal
            && io::IsTerminal::is_terminal(&io::stderr());
        Ui {
            json,
            github: false,
            verbosity,
            progress: drawn.then(Progress::new),
        }
    }

    /// Also prints annotations for a workflow of GitHub.
    #[must_use]
    pub fn with_annotations(self, github: bool) -> Ui {
        Ui { github, ..self }
    }

    /// Prints a command's result.
    ///
    /// # Errors
    /// When stdout cannot be written; a reader that closed the pipe is no error. [`fsx::Error::Changed`] when nothing was written to
    /// disk and a file that the result is of changed meanwhile.
    pub fn result<R: Report>(&self, report: &R) -> Result<(), Error> {
        self.clear();
        // Before the first byte, so that with --json an error is the only document.
        fsx::check_report()?;
        // stdout on its own makes every line a call into the kernel, also where nobody looks on.
        let mut out = BufWriter::with_capacity(1 << 16, anstream::stdout().lock());
        let done = if self.json {
            write_document(&mut out, R::SCHEMA, report)
        } else {
            self.for_people(&mut out, |out| {
                report.human(&mut Screen::new(out, screen::width_of_stdout()))
            })
        };
        let done = done.and_then(|()| {
            let annotations = self.github.then(|| report.annotations());
            (annotations.into_iter().flatten()).try_for_each(|a| writeln!(out, "{}", a.line()))
        });
        ignore_closed_pipe(done.and_then(|()| out.flush()))
    }

    /// Prints a failure: on stderr for people, as one document on stdout with `--json`.
    pub fn failure(&self, failure: &Failure) {
        self.clear();
        if self.json {
            // There is nowhere left to say that this failed.
            let _ = write_document(&mut io::stdout().lock(), "trtmut.error/1", failure);
        } else {
            self.message(|out| failure.human(out));
        }
        if self.github {
            let rest = failure.causes.iter().chain(&failure.hints);
            let lines: Vec<&str> = std::iter::once(&failure.message)
                .chain(rest)
                .map(String::as_str)
                .collect();
            Self::annotate(&Annotation {
                level: Level::Error,
                title: format!("trtmut: {}", failure.code),
                message: lines.join("\n"),
            });
        }
    }

    /// Prints a failure that does not end the command: as [`Ui::failure`], with `--json` as one of several documents.
    pub fn passing_failure(&self, failure: &Failure) {
        if !self.json {
            return self.failure(failure);
        }
        if let Ok(document) = document("trtmut.error/1", failure) {
            // There is nowhere left to say that this failed.
            let _ = self.line(&document);
        }
    }

    /// Prints a JSON text to stdout (a template, a converted spec).
    ///
    /// # Errors
    /// As [`Ui::result`].
    pub fn text(&self, text: &str) -> Result<(), Error> {
        self.clear();
        fsx::check_report()?;
        let mut out = io::stdout().lock();
        let text = escape::json(text);
        ignore_closed_pipe(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
    }

    /// Writes text for people; where a runner of GitHub reads along, nothing in it is a command.
    fn for_people(
        &self,
        out: &mut dyn Write,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        if !self.github {
            return fill(out);
        }
        // Reports write lines in pieces, and only of a whole one can be told whether it is a
        // command.
        let mut text = Vec::new();
        fill(&mut text)?;
        out.write_all(github::harmless(&String::from_utf8_lossy(&text)).as_bytes())
    }

    /// Writes a message for people to stderr, at once: pieces of it would mix with what another process writes to the same log.
    fn message(&self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        let colours = anstream::AutoStream::choice(&io::stderr());
        let mut text = anstream::AutoStream::new(Vec::new(), colours);
        // There is nowhere left to say that this failed.
        let _ = self
            .for_people(&mut text, fill)
            .and_then(|()| io::stderr().lock().write_all(&text.into_inner()));
    }

    fn annotate(annotation: &Annotation) {
        let _ = writeln!(io::stderr().lock(), "{}", annotation.line());
    }

    /// Prints one of several JSON documents, on one line.
    ///
    /// # Errors
    /// As [`Ui::result`].
    pub fn line(&self, document: &serde_json::Value) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        let text = document.to_string();
        let done = writeln!(out, "{}", escape::json(&text));
        ignore_closed_pipe(done.and_then(|()| out.flush()))
    }

    /// Where a command of the user's may write: to stdout, which with `--json` holds nothing but documents.
    pub fn stdout_of_others(&self) -> Stdio {
        if self.json {
            io::stderr().into()
        } else {
            Stdio::inherit()
        }
    }

    /// Whether documents are printed instead of text.
    pub fn is_json(&self) -> bool {
        self.json
    }

    fn say(&self, style: anstyle::Style, label: &str, text: &str) {
        self.clear();
        let text = escape::message(text);
        self.message(|out| writeln!(out, "{style}{label}{style:#}: {text}"));
    }

    fn clear(&self) {
        if let Some(p) = &self.progress {
            p.clear();
        }
    }
}

fn document<T: Serialize>(schema: &str, body: &T) -> serde_json::Result<serde_json::Value> {
    let mut map = serde_json::Map::new();
    map.insert("schema".into(), schema.into());
    match serde_json::to_value(body)? {
        serde_json::Value::Object(fields) => map.extend(fields),
        other => {
            map.insert("value".into(), other);
        }
    }
    Ok(map.into())
}

fn write_document<T: Serialize>(out: &mut dyn Write, schema: &str, body: &T) -> io::Result<()> {
    let document = document(schema, body).map_err(io::Error::other)?;
    let text = serde_json::to_string_pretty(&document)?;
    out.write_all(escape::json(&text).as_bytes())?;
    out.write_all(b"\n")
}

fn ignore_closed_pipe(result: io::Result<()>) -> Result<(), Error> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::Stdout(e)),
        _ => Ok(()),
    }
}

/// Why a result was not printed.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    /// stdout is closed, or the disk that it goes to is full.
    #[error("the result cannot be written to stdout")]
    #[explain(code = "stdout", class = Environment, hint("see where stdout goes; what the command wrote to other files is complete"))]
    Stdout(#[source] io::Error),
    /// The result is of a file that is another one by now.
    #[error(transparent)]
    #[explain(transparent)]
    File(#[from] fsx::Error),
}

/// What is said goes into the log too.
fn log_event(event: Event<'_>) {
    match event {
        Event::Warn(text) => tracing::warn!(target: log::SAID, "{text}"),
        Event::Status(text) | Event::Note(text) => tracing::info!(target: log::SAID, "{text}"),
        Event::Begin { step, total } => tracing::info!(target: log::SAID, total, "{step}"),
        Event::BeginBytes { step, bytes } => tracing::info!(target: log::SAID, bytes, "{step}"),
        Event::End => tracing::debug!(target: log::SAID, "done"),
        Event::Advance(_) => {}
    }
}

impl Watch for Ui {
    fn event(&self, event: Event<'_>) {
        log_event(event);
        match event {
            Event::Warn(text) => {
                self.say(failure::WARNING, "warning", text);
                if self.github {
                    Self::annotate(&Annotation {
                        level: Level::Warning,
                        title: "trtmut".into(),
                        message: text.into(),
                    });
                }
            }
            Event::Status(text) => {
                if self.verbosity > Verbosity::Quiet {
                    self.say(failure::NOTE, "trtmut", text);
                }
            }
            Event::Note(text) => {
                if self.verbosity == Verbosity::Verbose {
                    self.say(failure::NOTE, "note", text);
                }
            }
            Event::Begin { step, total } => {
                if let Some(p) = &self.progress {
                    p.begin(step, total);
                } else if self.verbosity == Verbosity::Verbose {
                    self.say(failure::NOTE, "step", step);
                }
            }
            Event::BeginBytes { step, bytes } => {
                if let Some(p) = &self.progress {
                    p.begin_bytes(step, bytes);
                } else if self.verbosity == Verbosity::Verbose {
                    self.say(failure::NOTE, "step", step);
                }
            }
            Event::Advance(n) => {
                if let Some(p) = &self.progress {
                    p.advance(n);
                }
            }
            Event::End => self.clear(),
        }
    }
}
