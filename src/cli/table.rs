//! Columns of plain text.

use std::io::{self, Write};

/// Rows of cells; a column is as wide as its widest cell. Columns named in `right` are flush right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    right: &'static [usize],
}

impl Table {
    /// A table with its heading.
    pub(super) fn new(heading: &[&str], right: &'static [usize]) -> Self {
        Self { rows: vec![heading.iter().map(ToString::to_string).collect()], right }
    }

    /// Appends a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints it, without blanks at line ends.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate() {
                let gap = widths[c] - cell.chars().count();
                let (before, after) = if self.right.contains(&c) { (gap, 0) } else { (0, gap) };
                line += &format!("{:before$}{cell}{:after$}  ", "", "");
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
