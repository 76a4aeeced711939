//! Hints: an axis that the model decides, within bounds or not.

use super::expr::MAX_SIZE;
use std::fmt;

/// `Dim.AUTO`, `Dim.DYNAMIC` or `Dim.STATIC`, with bounds as in `Dim.AUTO(min=2, max=8)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hint {
    pub kind: HintKind,
    pub min: Option<u64>,
    pub max: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HintKind {
    /// Dynamic where the model is.
    Auto,
    /// Dynamic, or an error.
    Dynamic,
    /// Static, at the size that the model has.
    Static,
}

impl HintKind {
    pub fn name(self) -> &'static str {
        match self {
            HintKind::Auto => "AUTO",
            HintKind::Dynamic => "DYNAMIC",
            HintKind::Static => "STATIC",
        }
    }
}

impl Hint {
    /// Whether `size` is in the bounds.
    pub fn holds(&self, size: u64) -> bool {
        size >= self.min.unwrap_or(0) && self.max.is_none_or(|max| size <= max)
    }

    pub fn is_bounded(&self) -> bool {
        self.min.is_some() || self.max.is_some()
    }
}

/// As Python writes it, without the module.
impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dim.{}", self.kind.name())?;
        match (self.min, self.max) {
            (None, None) => Ok(()),
            (Some(min), None) => write!(f, "(min={min})"),
            (None, Some(max)) => write!(f, "(max={max})"),
            (Some(min), Some(max)) => write!(f, "(min={min}, max={max})"),
        }
    }
}

/// The hint that a string is, in any of torch's spellings: `AUTO`, `Dim.AUTO`, `_DimHint.AUTO`, `DimHint(AUTO)`, and with
/// bounds `Dim.AUTO(min=2, max=8)`, `Dim.AUTO(2, 8)`, `DimHint(AUTO, min=2)`. `None` where it is none.
pub(super) fn hint(text: &str) -> Option<Result<Hint, String>> {
    let text = text.trim();
    let text = text.strip_prefix("torch.export.").unwrap_or(text);
    let (name, bounds) = match text.split_once('(') {
        None => (text, None),
        Some(("DimHint" | "_DimHint", inner)) => {
            let (name, bounds) = inner.split_once(',').unwrap_or((inner, ")"));
            (name.trim_end_matches(')'), Some(bounds))
        }
        Some((name, bounds)) => (name, Some(bounds)),
    };
    let bare = ["_DimHint.", "DimHint.", "Dim."]
        .iter()
        .find_map(|p| name.strip_prefix(p))
        .unwrap_or(name);
    let kind = match bare.trim() {
        "AUTO" => HintKind::Auto,
        "DYNAMIC" => HintKind::Dynamic,
        "STATIC" => HintKind::Static,
        _ => return None,
    };
    let none = Hint {
        kind,
        min: None,
        max: None,
    };
    Some(match bounds {
        None => Ok(none),
        Some(bounds) => with_bounds(none, bounds),
    })
}

fn with_bounds(mut hint: Hint, text: &str) -> Result<Hint, String> {
    const EXPECTED: &str = "expected bounds like `(min=2, max=8)`";
    let inner = text.trim_end().strip_suffix(')').ok_or(EXPECTED)?;
    for (place, part) in inner.split(',').map(str::trim).enumerate() {
        if part.is_empty() {
            continue;
        }
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), value.trim()),
            None => (*["min", "max"].get(place).ok_or(EXPECTED)?, part),
        };
        let size = match value {
            "None" => None,
            n => Some((n.parse().ok().filter(|&n| n <= MAX_SIZE)).ok_or(EXPECTED)?),
        };
        match name {
            "min" => hint.min = size,
            // The largest size is what Python has for no bound (`sys.maxsize`).
            "max" => hint.max = size.filter(|&max| max < MAX_SIZE),
            _ => return Err(EXPECTED.into()),
        }
    }
    match (hint.min, hint.max) {
        (Some(min), Some(max)) if max < min => Err(format!("max {max} is less than min {min}")),
        _ => Ok(hint),
    }
}
