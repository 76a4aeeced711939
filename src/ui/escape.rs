//! What comes from a file is shown and never obeyed: control characters, terminal escapes and marks that turn the direction of writing
//! around are written out, and what is too long to be read is cut.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// The longest cell of a table, in characters.
const CELL: usize = 240;
/// The longest message, cause or hint, in characters.
const MESSAGE: usize = 4000;

/// Whether a terminal may do something else with a character than show it. Line ends are not among them.
fn acts(c: char) -> bool {
    matches!(c,
        '\0'..='\x08' | '\x0b'..='\x1f' | '\x7f'..='\u{9f}'
        // Marks of direction (Unicode Standard Annex 9), and line ends that are no line ends for a program.
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// Text of several lines, as it may be shown.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    escaped(text, acts)
}

/// A cell of a table of many rows: one line, which is cut where it is too long.
pub(super) fn cell(text: &str) -> Cow<'_, str> {
    cut(line(text), CELL)
}

/// A cell that is a sentence: one line, as long as a message.
pub(super) fn sentence(text: &str) -> Cow<'_, str> {
    cut(line(text), MESSAGE)
}

/// Text as one line: line ends and tabs are written out as well.
pub(super) fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| acts(c) || matches!(c, '\n' | '\t'))
}

/// A message, which is cut where it is too long. Its own further lines are indented, or a document's braces; a line end before anything
/// else stands in a name, which could begin a line as if this program had said it.
pub(super) fn message(text: &str) -> Cow<'_, str> {
    let own = |rest: &str| ["  ", "{", "}"].iter().any(|start| rest.starts_with(start));
    let mut parts = text.split('\n');
    let mut joined = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        joined += if own(part) { "\n" } else { "\\n" };
        joined += part;
    }
    cut(escaped(&joined, acts).into_owned().into(), MESSAGE)
}

/// Lines for a form that ends each of them itself.
pub(super) fn lines(text: &str) -> Cow<'_, str> {
    cut(escaped(text, acts), MESSAGE)
}

/// The text of a JSON document with the same value, in which nothing acts: such characters can only be in its strings.
pub(super) fn json(document: &str) -> Cow<'_, str> {
    if !document.contains(acts) {
        return document.into();
    }
    let mut out = String::with_capacity(document.len());
    for c in document.chars() {
        if acts(c) {
            // All of them are in the first plane, so one escape is enough.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out.into()
}

fn escaped(text: &str, which: impl Fn(char) -> bool + Copy) -> Cow<'_, str> {
    if !text.contains(which) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if which(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.into()
}

fn cut(text: Cow<'_, str>, most: usize) -> Cow<'_, str> {
    let Some((end, _)) = text.char_indices().nth(most) else {
        return text;
    };
    let rest = text[end..].chars().count();
    format!("{} … and {rest} more characters", &text[..end]).into()
}

/// Escapes what is written through it.
pub(super) struct Escaping<W: Write> {
    out: W,
    /// The beginning of a character whose end was not written yet.
    begun: Vec<u8>,
}

impl<W: Write> Escaping<W> {
    pub(super) fn new(out: W) -> Self {
        Escaping {
            out,
            begun: Vec::new(),
        }
    }

    /// The stream itself, for what is this program's own.
    pub(super) fn bare(&mut self) -> &mut W {
        &mut self.out
    }
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(good) => {
                    self.out.write_all(text(good).as_bytes())?;
                    break;
                }
                Err(e) => {
                    let (good, bad) = rest.split_at(e.valid_up_to());
                    let good = String::from_utf8_lossy(good);
                    self.out.write_all(text(&good).as_bytes())?;
                    // Without a length the text ends inside of a character, whose rest may come with the next piece.
                    let Some(length) = e.error_len() else {
                        self.begun = bad.to_vec();
                        break;
                    };
                    self.out.write_all("\u{fffd}".as_bytes())?;
                    rest = &bad[length..];
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes lines, each given to it whole, with its end: what is inside of one begins no other.
pub(super) struct Lines<W: Write>(W);

impl<W: Write> Lines<W> {
    pub(super) fn new(out: W) -> Self {
        Lines(out)
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(inside(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// One line with its end, if it has one.
pub(super) fn inside(text: &str) -> Cow<'_, str> {
    let (body, end) = match text.strip_suffix('\n') {
        Some(body) => (body, "\n"),
        None => (text, ""),
    };
    match line(body) {
        Cow::Borrowed(_) => text.into(),
        Cow::Owned(shown) => (shown + end).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_inside_of_a_line_begins_no_other() {
        let mut out = Vec::new();
        let mut lines = Lines::new(&mut out);
        lines
            .write_all(b"INFO a `w\nerror: forged\x1b[31m`\n")
            .unwrap();
        lines.write_all("and \u{202e}b\n\n".as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "INFO a `w\\nerror: forged\\u{1b}[31m`\nand \\u{202e}b\\n\n"
        );
        assert!(matches!(inside("plain, ü\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn nothing_that_acts_is_left() {
        let hostile = "a\x1b[2Jb\rc\x07\u{9b}31m\u{202e}d\u{2066}\x7f";
        for shown in [text(hostile), cell(hostile), message(hostile)] {
            assert!(!shown.contains(acts), "{shown:?}");
            assert!(shown.contains(r"\u{1b}[2Jb\rc"), "{shown:?}");
        }
        assert_eq!(cell("a\nb\tc"), r"a\nb\tc");
        assert_eq!(text("two\nlines, ü 模型"), "two\nlines, ü 模型");
        let document = serde_json::json!({"name": hostile}).to_string();
        let safe = json(&document);
        assert!(!safe.contains(acts));
        let back: serde_json::Value = serde_json::from_str(&safe).unwrap();
        assert_eq!(back["name"], hostile);
    }

    #[test]
    fn what_is_long_is_cut_and_says_so() {
        let long = "ü".repeat(MESSAGE + 7);
        assert!(message(&long).ends_with("ü … and 7 more characters"));
        let own = "two problems\n  one\n  two, in a spec:\n{\n  \"x\": 1\n}";
        assert_eq!(message(own), own);
        let forged = "`a\nhint: b\r\n` is empty\n";
        assert_eq!(message(forged), r"`a\nhint: b\r\n` is empty\n");
        assert!(cell(&long).chars().count() < CELL + 40);
        assert_eq!(message(&long[..MESSAGE]), long[..MESSAGE]);
    }

    proptest! {
        #[test]
        fn a_writer_does_the_same_however_the_bytes_come(bytes in any::<Vec<u8>>(), at in any::<usize>()) {
            let at = at % (bytes.len() + 1);
            let mut whole = Vec::new();
            Escaping::new(&mut whole).write_all(&bytes).unwrap();
            let mut parts = Vec::new();
            let mut escaping = Escaping::new(&mut parts);
            escaping.write_all(&bytes[..at]).unwrap();
            escaping.write_all(&bytes[at..]).unwrap();
            let shown = String::from_utf8(whole.clone()).unwrap();
            prop_assert!(!shown.contains(acts));
            prop_assert_eq!(whole, parts);
        }
    }
}
