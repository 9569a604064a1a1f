//! Aligned tables without borders, for people and for `awk`.

use crate::output::visible;
use comfy_table::{ContentArrangement, Table, presets};
use std::io::IsTerminal;

/// A table with a header. On a terminal, long cells are wrapped; elsewhere each row is one line. An empty cell is printed as
/// `-`, so that each row has the same number of columns for `awk`.
pub(crate) fn render(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let stdout = std::io::stdout();
    let width = if stdout.is_terminal() { bailiwick_sys::terminal::size(&stdout).ok() } else { None };
    render_within(header, rows, width.map(|size| size.columns).filter(|columns| *columns > 0))
}

fn render_within(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| if cell.is_empty() { "-".into() } else { visible(cell) }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Names and values, one pair per line.
pub(crate) fn pairs(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    render(&[], rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]))
}

/// Indents text by two spaces.
pub(crate) fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_cells_are_dashes() {
        let rows = [vec!["alice".to_owned(), String::new()], vec!["bob".to_owned(), "a\u{1b}b".to_owned()]];
        assert_eq!(render_within(&["NAME", "PLAN"], rows, None), "NAME   PLAN\nalice  -\nbob    a\\u{1b}b\n");
    }

    #[test]
    fn long_cells_are_wrapped_on_a_terminal_only() {
        let row = || [vec!["x".to_owned(), "many words ".repeat(20)]];
        assert_eq!(render_within(&["A", "B"], row(), None).lines().count(), 2);
        let narrow = render_within(&["A", "B"], row(), Some(40));
        assert!(narrow.lines().count() > 4 && narrow.lines().all(|line| line.len() <= 40), "{narrow}");
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(render_within(&["A", "B"], [], None), "A  B\n");
    }

    #[test]
    fn indentation_leaves_no_trailing_blanks() {
        assert_eq!(indented("a\n\nb\n"), "  a\n\n  b\n");
    }
}
