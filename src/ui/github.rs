//! `--format github`: annotations that GitHub shows beside a workflow's run, as its runner reads them from the output.
//!
//! The syntax of these lines:
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>

use super::escape;
use std::fmt::Write as _;

/// How an annotation is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For what is as it should be, or is easily made so.
    Notice,
    /// To be looked at.
    Warning,
    /// What fails the run.
    Error,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// How it is shown.
    pub level: Level,
    pub title: String,
    pub message: String,
}

impl Annotation {
    /// The line that makes it.
    pub(super) fn line(&self) -> String {
        let command = match self.level {
            Level::Notice => "notice",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let title = property(&escape::line(&self.title));
        let message = data(&escape::lines(&self.message));
        format!("::{command} title={title}::{message}")
    }
}

/// Text for people in which no line is a command to the runner: names of files and tensors may hold line ends.
pub(super) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let bare = line.trim_start();
        if bare.starts_with("::") || line.contains("##[") {
            // What the runner looks for is no longer at the beginning, or not there.
            let blanks = &line[..line.len() - bare.len()];
            out.push_str(blanks);
            out.push('\\');
            out.push_str(&bare.replace("##[", "##\\["));
        } else {
            out.push_str(line);
        }
    }
    out
}

/// A message: whatever is in it, the line ends with it.
fn data(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' | '\r' | '\n' => {
                let _ = write!(out, "%{:02X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_holds_no_commands() {
        let text = "a\n::error::x\n  ::set-env::y\nfine :: text\nz ##[group]\n";
        let shown = harmless(text);
        assert_eq!(
            shown,
            "a\n\\::error::x\n  \\::set-env::y\nfine :: text\n\\z ##\\[group]\n"
        );
    }

    #[test]
    fn a_name_cannot_make_an_annotation_of_its_own() {
        let annotation = Annotation {
            level: Level::Error,
            title: "a, b: c".into(),
            message: "100 %\n::error::mine\r::add-mask::x".into(),
        };
        let line = annotation.line();
        assert_eq!(
            line,
            "::error title=a%2C b%3A c::100 %25%0A::error::mine\\r::add-mask::x"
        );
        assert_eq!(line.lines().count(), 1);
    }
}
