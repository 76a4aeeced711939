//! What a report is printed on: escaped text, the trade's few colours, and the width that tables keep to.

use super::escape::{self, Escaping};
use anstyle::AnsiColor;
use std::fmt;
use std::io::{self, Write};

/// Where a report for people goes. Text that is written is escaped; only [`Screen::paint`] styles it. What `write!` and `writeln!` fill
/// in is one line: names of tensors and files may hold line ends, and must not begin a line as if this program had said it. So a line of
/// the report's own is written by a call of its own.
pub struct Screen<'a> {
    out: Escaping<&'a mut dyn Write>,
    width: Option<usize>,
}

/// What a painted word means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Something is to be done, and is easily done.
    Busy,
    /// Something is wrong, or costly.
    Bad,
    /// It cannot be told.
    Odd,
}

/// Narrower screens are taken as this wide: a table of numbers alone needs as much.
const NARROWEST: usize = 40;

impl<'a> Screen<'a> {
    /// Over `out`; `width` is in terminal columns, none where lines may be as long as they are.
    pub fn new(out: &'a mut dyn Write, width: Option<usize>) -> Screen<'a> {
        Screen {
            out: Escaping::new(out),
            width: width.map(|w| w.max(NARROWEST)),
        }
    }

    /// How wide a table may be.
    pub fn width(&self) -> Option<usize> {
        self.width
    }

    /// Writes `text` in a tone, where the stream shows colours.
    ///
    /// # Errors
    /// Whatever the stream fails with.
    pub fn paint(&mut self, tone: Tone, text: &str) -> io::Result<()> {
        let colour = match tone {
            Tone::Good => AnsiColor::Green,
            Tone::Busy => AnsiColor::Yellow,
            Tone::Bad => AnsiColor::Red,
            Tone::Odd => AnsiColor::Magenta,
        };
        let style = colour.on_default().bold();
        // Past the escaping, which would write the colour out as text.
        write!(self.out.bare(), "{style}")?;
        self.out.write_all(escape::line(text).as_bytes())?;
        write!(self.out.bare(), "{style:#}")
    }
}

impl Write for Screen<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        match text.as_str() {
            Some(own) => self.out.write_all(own.as_bytes()),
            None => self
                .out
                .write_all(escape::inside(&text.to_string()).as_bytes()),
        }
    }
}

/// How wide stdout is: as `COLUMNS` says, else as the terminal is; none for files and pipes.
pub(super) fn width_of_stdout() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok();
    // `COLUMNS=0` asks for no limit, as a pipe has none.
    if let Some(columns) = said.and_then(|c| c.trim().parse().ok()) {
        return (columns > 0).then_some(columns);
    }
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_are_ours_alone() {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, Some(3));
        assert_eq!(screen.width(), Some(NARROWEST));
        screen.paint(Tone::Busy, "NEEDS_REFIT").unwrap();
        write!(screen, " \x1b[31mname").unwrap();
        screen.paint(Tone::Bad, "\x1b[32mx").unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("\x1b[1m\x1b[33mNEEDS_REFIT\x1b[0m \\u{1b}[31mname"),
            "{text:?}"
        );
        assert!(text.ends_with("\\u{1b}[32mx\x1b[0m"), "{text:?}");
    }

    #[test]
    fn a_name_begins_no_line() {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, None);
        let name = "w\nhint: forged\n";
        writeln!(screen, "1 weight: {name}").unwrap();
        writeln!(screen, "two\n  lines").unwrap();
        write!(&mut screen as &mut dyn Write, "`{name}`").unwrap();
        screen.paint(Tone::Odd, name).unwrap();
        let text = String::from_utf8(out).unwrap();
        let shown = "w\\nhint: forged\\n";
        assert!(
            text.starts_with(&format!("1 weight: {shown}\ntwo\n  lines\n`{shown}`")),
            "{text:?}"
        );
        assert_eq!(text.lines().count(), 4, "{text:?}");
    }
}
