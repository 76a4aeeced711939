//! The only door to stdout and stderr.
//!
//! stdout is the result: a table for people, or with `--json` exactly one document, errors included. stderr is talk: progress,
//! notes, warnings, errors, hints. Arguments, exit codes, JSON and file formats are interface; tables and stderr are not.

mod failure;
mod format;
mod progress;
mod table;

pub use failure::Failure;
pub use format::{bytes, count, duration, percent};
pub use progress::Progress;
pub use table::{Align, Table};

use crate::watch::{Event, Watch};
use serde::Serialize;
use std::io::{self, BufWriter, Write};

/// What a command has to say at its end.
pub trait Report: Serialize {
    /// Name and version of the JSON form, e.g. `trtmut.build/1`.
    const SCHEMA: &'static str;

    /// The form for people. Lines end with `\n`.
    ///
    /// # Errors
    /// Whatever `out` fails with.
    fn human(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// How much is said on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors and warnings.
    Quiet,
    /// Also progress.
    Normal,
    /// Also notes.
    Verbose,
}

/// stdout and stderr, with what the user wants of them.
pub struct Ui {
    json: bool,
    verbosity: Verbosity,
    progress: Option<Progress>,
}

impl Ui {
    /// Progress is drawn on a terminal only, and never with `json` or [`Verbosity::Quiet`].
    pub fn new(json: bool, verbosity: Verbosity, allow_progress: bool) -> Ui {
        let drawn = allow_progress
            && !json
            && verbosity == Verbosity::Normal
            && io::IsTerminal::is_terminal(&io::stderr());
        Ui {
            json,
            verbosity,
            progress: drawn.then(Progress::new),
        }
    }

    /// Prints a command's result.
    ///
    /// # Errors
    /// When stdout cannot be written. A reader that closed the pipe is no error.
    pub fn result<R: Report>(&self, report: &R) -> io::Result<()> {
        self.clear();
        // stdout on its own makes every line a call into the kernel, also where nobody looks on.
        let mut out = BufWriter::with_capacity(1 << 16, anstream::stdout().lock());
        let done = if self.json {
            document(R::SCHEMA, report)
                .map_err(io::Error::other)
                .and_then(|d| {
                    serde_json::to_writer_pretty(&mut out, &d)?;
                    out.write_all(b"\n")
                })
        } else {
            report.human(&mut out)
        };
        ignore_closed_pipe(done.and_then(|()| out.flush()))
    }

    /// Prints a failure: on stderr for people, as one document on stdout with `--json`.
    pub fn failure(&self, failure: &Failure) {
        self.clear();
        if self.json {
            let mut out = io::stdout().lock();
            let done = document("trtmut.error/1", failure)
                .map_err(io::Error::other)
                .and_then(|d| serde_json::to_writer_pretty(&mut out, &d).map_err(Into::into))
                .and_then(|()| out.write_all(b"\n"));
            // There is nowhere left to say that this failed.
            let _ = done;
        } else {
            let _ = failure.human(&mut anstream::stderr().lock());
        }
    }

    /// Prints plain text to stdout as it is (a template, a path).
    ///
    /// # Errors
    /// As [`Ui::result`].
    pub fn text(&self, text: &str) -> io::Result<()> {
        self.clear();
        let mut out = io::stdout().lock();
        ignore_closed_pipe(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
    }

    fn say(&self, style: anstyle::Style, label: &str, text: &str) {
        self.clear();
        let _ = writeln!(anstream::stderr().lock(), "{style}{label}{style:#}: {text}");
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

fn ignore_closed_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

impl Watch for Ui {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Warn(text) => self.say(failure::WARNING, "warning", text),
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
            Event::Advance(n) => {
                if let Some(p) = &self.progress {
                    p.advance(n);
                }
            }
            Event::End => self.clear(),
        }
    }
}
