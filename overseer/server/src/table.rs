//! Text in columns.

use console::{Style, measure_text_width, truncate_str};

use crate::output::Target;

/// A cell: its text and how it looks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) style: Option<Style>,
}

impl Cell {
    /// Plain text.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: None }
    }

    /// Styled text.
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style: Some(style) }
    }
}

/// Renders rows as lines of at most `width` columns: every column is as wide as its widest cell,
/// the columns in `shrink` give way in that order when the line is too long, down to the width
/// beside them; what is longer than its column is cut with `…`.
pub(crate) fn render(rows: &[Vec<Cell>], width: usize, shrink: &[(usize, usize)], target: Target) -> String {
    const GAP: usize = 2;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| measure_text_width(&cell.text)).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..columns).map(widest).collect();
    for (column, least) in shrink {
        let all = widths.iter().sum::<usize>() + GAP * columns.saturating_sub(1);
        if let Some(own) = widths.get_mut(*column) {
            *own = own.saturating_sub(all.saturating_sub(width)).max((*least).min(*own));
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let cut = truncate_str(&cell.text, widths[column], "…");
            let padding = widths[column].saturating_sub(measure_text_width(&cut));
            match &cell.style {
                Some(style) => line.push_str(&target.style(style, &cut)),
                None => line.push_str(&cut),
            }
            line.push_str(&" ".repeat(padding + GAP));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_no_wider_than_it_may_be() {
        let row = |cells: [&str; 3]| cells.map(Cell::plain).to_vec();
        let rows = [row(["job", "result", "artifacts"]), row(["b", "passed", &"x".repeat(100)])];
        let text = render(&rows, 40, &[(2, 8), (0, 8)], Target::Stdout);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "job  result  artifacts");
        assert_eq!(lines[1], format!("b    passed  {}…", "x".repeat(26)));
        assert_eq!(measure_text_width(lines[1]), 40);
    }

    #[test]
    fn when_one_column_is_not_enough_the_next_gives_way() {
        let row = |cells: [&str; 2]| cells.map(Cell::plain).to_vec();
        let text = render(&[row([&"ä".repeat(50), &"y".repeat(50)])], 30, &[(1, 8), (0, 8)], Target::Stdout);
        assert_eq!(text, format!("{}…  {}…\n", "ä".repeat(19), "y".repeat(7)));
    }
}
