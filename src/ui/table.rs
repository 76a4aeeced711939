//! Borderless tables.

use comfy_table::{CellAlignment, ContentArrangement, Table as Comfy, presets};
use std::io::{self, Write};

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a head and two spaces between columns.
pub struct Table(Comfy);

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        let mut table = Comfy::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(columns.iter().map(|(name, _)| *name));
        for (i, (_, align)) in columns.iter().enumerate() {
            let column = table.column_mut(i).expect("the header made this column");
            column.set_padding((0, 2));
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        Table(table)
    }

    /// Adds a row.
    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.0.add_row(cells);
    }

    /// Writes it, each line indented by `indent` spaces and without trailing blanks.
    ///
    /// # Errors
    /// Whatever `out` fails with.
    pub fn write(&self, out: &mut dyn Write, indent: usize) -> io::Result<()> {
        for line in self.0.lines() {
            writeln!(out, "{:indent$}{}", "", line.trim_end())?;
        }
        Ok(())
    }
}
