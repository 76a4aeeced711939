//! How an error is shown.

use super::escape::message;
use crate::exit::Exit;
use crate::fault::{Class, Explain};
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::io::{self, Write};

pub(super) const ERROR: Style = AnsiColor::Red.on_default().bold();
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
pub(super) const NOTE: Style = AnsiColor::Cyan.on_default();

/// An error with everything that a person or a script needs of it.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// [`Explain::code`]; `bug` where no link of the chain explains itself.
    pub code: String,
    /// The exit code that goes with it.
    pub exit_code: u8,
    /// The error, in one line or a few.
    pub message: String,
    /// What brought it about, outermost first.
    pub causes: Vec<String>,
    /// How to fix it.
    pub hints: Vec<String>,
    /// What was decided, where a decision stops the command: as `diff` gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<serde_json::Value>,
    #[serde(skip)]
    class: Class,
}

impl Failure {
    /// From an error chain, and what its innermost explained link says of itself.
    pub fn new(error: &anyhow::Error, explain: Option<&dyn Explain>) -> Failure {
        let mut lines: Vec<String> = Vec::new();
        for link in error.chain().map(ToString::to_string) {
            // A transparent wrapper repeats its source word for word.
            if lines.last() != Some(&link) {
                lines.push(link);
            }
        }
        let class = explain.map_or(Class::Bug, Explain::class);
        let mut hints = explain.map_or_else(Vec::new, Explain::hints);
        if explain.is_none() {
            hints.push(
                "this is a bug in trtmut; please report it with the command that led here".into(),
            );
        }
        // A chain has at least the error itself.
        let message = lines.remove(0);
        Failure {
            code: explain.map_or("bug", Explain::code).into(),
            exit_code: Exit::from(class) as u8,
            message,
            causes: lines,
            hints,
            decision: explain.and_then(Explain::details),
            class,
        }
    }

    pub fn exit(&self) -> Exit {
        self.class.into()
    }

    pub(super) fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{ERROR}error{ERROR:#}: {}", message(&self.message))?;
        for cause in &self.causes {
            writeln!(out, "  caused by: {}", message(cause))?;
        }
        for hint in &self.hints {
            writeln!(out, "{NOTE}hint{NOTE:#}: {}", message(hint))?;
        }
        Ok(())
    }
}
