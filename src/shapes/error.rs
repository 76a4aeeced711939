//! Why a spec, a model, an argument or a set of shapes cannot be used: all problems of one kind together.

use super::faults::{ArgumentFault, Conflict, ModelFault, SpecFault};
use super::quote::Pos;
use crate::fault::Explain;
use std::fmt::{self, Write as _};

/// Problems shown of one spec; a hostile file can have a hundred thousand.
const SHOWN: usize = 20;

const WIDEN: &str =
    "`run --on-range widen` recompiles with the smallest range that covers the old sizes and these";
const HOLD_THE_EXAMPLE: &str =
    "give the dim a range that holds the example, with `--dim NAME=min:opt:max` or in the spec";

/// Why a spec cannot be used.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the shape spec `{path}`")]
    #[explain(code = "shapes-unreadable", class = Input)]
    Read {
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Larger than any spec is.
    #[error("the shape spec `{origin}` is larger than {limit} bytes")]
    #[explain(code = "shapes-too-large", class = Input, hint("a shape spec is a small JSON file; is this the right one?"))]
    TooLarge {
        origin: String,
        /// Largest size read, in bytes.
        limit: u64,
    },
    /// The file is no valid spec.
    #[error("the shape spec `{origin}` is not valid: {problems}")]
    #[explain(code = "shapes-invalid", class = Input)]
    Spec {
        origin: String,
        /// What is wrong, each with its place.
        problems: Problems,
    },
    /// The spec and the model contradict each other.
    #[error("{} does not fit the model: {}", .origin.as_ref().map_or_else(|| "what is given about shapes".to_owned(), |o| format!("the shape spec `{o}`")), list(.problems))]
    #[explain(code = "shapes-model-mismatch", class = Input, hints = of_model(origin.is_some(), suggestion))]
    Model {
        /// The spec's file; `None` where there is no spec.
        origin: Option<String>,
        /// What contradicts, in the order of the model's inputs.
        problems: Vec<ModelFault>,
        /// A whole spec that names the model's inputs and could be used instead.
        suggestion: String,
    },
    /// `--dim` or `--opt` is wrong.
    #[error("{}", list(.0))]
    #[explain(code = "shapes-argument", class = Usage)]
    Arguments(Vec<ArgumentFault>),
    /// Concrete shapes that the range does not hold.
    #[error("{}", list(.0))]
    #[explain(code = "shape-out-of-range", class = Input, hints = _0.iter().any(is_beyond).then_some(WIDEN))]
    Sizes(Vec<Conflict>),
    /// Concrete shapes that none of several optimization profiles holds.
    #[error("no optimization profile holds these sizes: {}{}", list(.conflicts), listed(.profiles))]
    #[explain(code = "shape-out-of-range", class = Input, hint("`run --on-range widen` recompiles with the nearest profile made wide enough"))]
    NoProfile {
        /// What the nearest profile says of them.
        conflicts: Vec<Conflict>,
        /// The ranges of each.
        profiles: Vec<String>,
    },
    /// A profile of a spec that cannot be in one engine with the others.
    #[error("profile {at} of the shape spec does not fit the others: {reason}")]
    #[explain(code = "shapes-profile", class = Input)]
    Profile {
        /// Which of the optimization profiles, counted from 1.
        at: usize,
        /// Why, in one fragment.
        reason: String,
    },
    /// Example inputs that the range does not hold.
    #[error("the example inputs do not fit: {}", list(.0))]
    #[explain(code = "shapes-example", class = Input, hints = _0.iter().any(is_beyond).then_some(HOLD_THE_EXAMPLE))]
    Call(Vec<Conflict>),
    /// Dims without a largest size, where the backend needs one.
    #[error("no largest size is given for {}, and this backend needs one", dims(.0))]
    #[explain(code = "shapes-unbounded", class = Input,
        hint("give it one: `--dim {}=min:opt:max`, or `max` in the spec's `dims`", _0.first().map_or("NAME", String::as_str)))]
    Unbounded(
        /// Root dims by name.
        Vec<String>,
    ),
    /// A recorded range (in a manifest) that cannot be one.
    #[error("the recorded shape range is damaged: {0}")]
    #[explain(code = "shapes-record", class = Input, hint("build the engine again with `trtmut build`"))]
    Record(String),
    /// The spec cannot be written in the form that was asked for.
    #[error("cannot write this spec in the form `{form}`: {reason}")]
    #[explain(code = "shapes-form", class = Input)]
    Form {
        /// `torch`, `args` or `inputs`.
        form: &'static str,
        reason: String,
    },
}

/// What is wrong with a spec's text.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<(Pos, SpecFault)>,
    more: usize,
}

impl Problems {
    pub(super) fn push(&mut self, pos: Pos, fault: SpecFault) {
        if self.found.len() < SHOWN {
            self.found.push((pos, fault));
        } else {
            self.more += 1;
        }
    }

    /// Whether a further problem would only be counted.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= SHOWN
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The problems with their places, in the order of the file; at most twenty.
    pub fn iter(&self) -> impl Iterator<Item = (Pos, &SpecFault)> {
        self.found.iter().map(|(pos, fault)| (*pos, fault))
    }

    pub(super) fn sort(&mut self) {
        self.found.sort_by_key(|(pos, _)| *pos);
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = self.iter().map(|(pos, fault)| format!("{pos}: {fault}"));
        f.write_str(&lines(texts.collect(), self.more))
    }
}

/// One problem as it is; several under a count, one per line, with the number of those that are not shown.
fn lines(mut texts: Vec<String>, more: usize) -> String {
    if let ([_], 0) = (&texts[..], more) {
        return texts.remove(0);
    }
    let mut out = format!("{} problems", texts.len() + more);
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    for text in texts {
        let _ = write!(out, "\n  {text}");
    }
    out
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    let shown = items.iter().take(SHOWN).map(ToString::to_string);
    lines(shown.collect(), items.len().saturating_sub(SHOWN))
}

/// Every profile on a line of its own.
fn listed(ranges: &[String]) -> String {
    let mut out = String::new();
    for (i, range) in ranges.iter().enumerate() {
        let _ = write!(out, "\n  profile {} has {range}", i + 1);
    }
    out
}

fn dims(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    names.join(", ")
}

/// Whether a wider range would hold the size: it is below or above the range, and not only between its steps.
fn is_beyond(conflict: &Conflict) -> bool {
    match conflict {
        Conflict::Outside { size, min, max, .. } => {
            let size = *size as u64;
            size < *min || max.is_some_and(|max| size > max)
        }
        Conflict::Dim { .. } => true,
        _ => false,
    }
}

fn of_model(has_spec: bool, suggestion: &str) -> Vec<String> {
    if has_spec {
        return vec![format!(
            "a spec that names the model's inputs and fits, to put your ranges in:\n{suggestion}"
        )];
    }
    vec![
        "give each dynamic dim a range with `--dim NAME=min:opt:max`".into(),
        format!(
            "or write a spec for `--shapes` (`--print-shapes` prints this one to fill in):\n{suggestion}"
        ),
    ]
}
