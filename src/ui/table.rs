//! Borderless tables that fit the screen: where it is narrower than their rows, words wrap inside their columns.

use super::Screen;
use super::escape;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, presets};
use std::borrow::Cow;
use std::io::{self, Write};

const GAP: u16 = 2;

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    /// Numbers, which are never broken over two lines.
    Right,
}

/// A table with a head and two spaces between columns.
pub struct Table {
    /// Whether its cells are sentences.
    is_list: bool,
    aligns: Vec<Align>,
    inner: comfy_table::Table,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        let mut table = Table::list(&columns.iter().map(|(_, align)| *align).collect::<Vec<_>>());
        table.is_list = false;
        table
            .inner
            .set_header(columns.iter().map(|(name, _)| *name));
        table
    }

    /// A table without a head: labels and what they label.
    pub fn list(aligns: &[Align]) -> Table {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        Table {
            is_list: true,
            aligns: aligns.to_vec(),
            inner: table,
        }
    }

    /// Adds a row. Cells are single lines; those beyond the last column are dropped, and missing ones are empty.
    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        let cells = cells.into_iter().take(self.aligns.len());
        let show = if self.is_list {
            escape::sentence
        } else {
            escape::cell
        };
        let cells = cells.map(|cell| match show(&cell) {
            Cow::Borrowed(_) => cell,
            Cow::Owned(shown) => shown,
        });
        self.inner.add_row(cells.collect::<Vec<_>>());
    }

    /// Writes it, each line indented by `indent` spaces and without trailing blanks.
    ///
    /// # Errors
    /// Whatever `out` fails with.
    pub fn write(&mut self, out: &mut Screen<'_>, indent: usize) -> io::Result<()> {
        match out.width() {
            // Whoever reads a pipe wants one line for each row.
            None => self
                .inner
                .set_content_arrangement(ContentArrangement::Disabled),
            Some(width) => {
                let width = u16::try_from(width.saturating_sub(indent)).unwrap_or(u16::MAX);
                self.inner
                    .set_content_arrangement(ContentArrangement::Dynamic)
                    .set_width(width)
            }
        };
        let last = self.aligns.len().saturating_sub(1);
        for (at, column) in self.inner.column_iter_mut().enumerate() {
            column.set_padding((0, if at < last { GAP } else { 0 }));
            if self.aligns.get(at) == Some(&Align::Right) {
                column.set_cell_alignment(CellAlignment::Right);
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        let blanks = " ".repeat(indent);
        for line in self.inner.lines() {
            writeln!(out, "{}", format!("{blanks}{line}").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;

    fn shown(table: &mut Table, width: Option<usize>) -> String {
        let mut out = Vec::new();
        table.write(&mut Screen::new(&mut out, width), 1).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_they_look() {
        let mut table = Table::new(&[
            ("name", Align::Left),
            ("n", Align::Right),
            ("", Align::Left),
        ]);
        table.row(["a".into(), "1".into(), "x".into()]);
        table.row(["模型".into(), "1234".into()]);
        let text = " name     n\n a        1  x\n 模型  1234\n";
        assert_eq!(shown(&mut table, None), text);
        assert_eq!(shown(&mut table, Some(80)), text);
    }

    #[test]
    fn a_narrow_screen_holds_every_character_and_every_number_whole() {
        let name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight";
        let mut table = Table::new(&[
            ("weight", Align::Left),
            ("relative", Align::Right),
            ("source", Align::Left),
        ]);
        table.row([name.into(), "1.23e-1".into(), name.into()]);
        let text = shown(&mut table, Some(60));
        assert!(text.lines().all(|l| l.width() <= 60), "{text}");
        assert!(text.contains("1.23e-1"), "{text}");
        let letters = |text: &str| -> usize { text.matches(|c: char| c.is_alphanumeric()).count() };
        let heads = letters("weight relative source 1.23e-1");
        assert_eq!(letters(&text), 2 * letters(name) + heads, "{text}");
        assert_eq!(shown(&mut table, None).lines().count(), 2);
    }
}
