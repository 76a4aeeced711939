//! Borderless tables.

use super::escape;
use std::borrow::Cow;
use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

/// Blanks between columns.
const GAP: usize = 2;

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a head and two spaces between columns.
pub struct Table {
    aligns: Vec<Align>,
    /// Widest cell of each column, in terminal columns.
    widths: Vec<usize>,
    /// Head and rows, cell by cell.
    cells: Vec<String>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        let mut table = Table {
            aligns: columns.iter().map(|(_, align)| *align).collect(),
            widths: vec![0; columns.len()],
            cells: Vec::new(),
        };
        table.row(columns.iter().map(|(name, _)| (*name).to_owned()));
        table
    }

    /// Adds a row. Cells are single lines; those beyond the last column are dropped, and missing ones are empty.
    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        let mut cells = cells.into_iter();
        for width in &mut self.widths {
            let cell = cells.next().unwrap_or_default();
            let cell = match escape::cell(&cell) {
                Cow::Borrowed(_) => cell,
                Cow::Owned(shown) => shown,
            };
            *width = (*width).max(cell.width());
            self.cells.push(cell);
        }
    }

    /// Writes it, each line indented by `indent` spaces and without trailing blanks.
    ///
    /// # Errors
    /// Whatever `out` fails with.
    pub fn write(&self, out: &mut dyn Write, indent: usize) -> io::Result<()> {
        let mut line = String::new();
        for row in self.cells.chunks(self.aligns.len().max(1)) {
            line.clear();
            line.extend(std::iter::repeat_n(' ', indent));
            for ((cell, align), width) in row.iter().zip(&self.aligns).zip(&self.widths) {
                let blanks = width - cell.width();
                let (before, after) = match align {
                    Align::Left => (0, blanks),
                    Align::Right => (blanks, 0),
                };
                line.extend(std::iter::repeat_n(' ', before));
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', after + GAP));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_look() {
        let mut table = Table::new(&[
            ("name", Align::Left),
            ("n", Align::Right),
            ("", Align::Left),
        ]);
        table.row(["a".into(), "1".into(), "x".into()]);
        table.row(["模型".into(), "1234".into()]);
        let mut out = Vec::new();
        table.write(&mut out, 1).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, " name     n\n a        1  x\n 模型  1234\n");
    }
}
