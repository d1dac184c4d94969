//! Columns that line up, without borders: nothing to break when a line is cut or copied.

use anstyle::Style;

use super::{BOLD, PLAIN, columns, styled};

/// Between two columns.
const GAP: usize = 2;
/// The narrowest that a column is wrapped to.
const NARROW: usize = 16;

/// Text in one style.
#[derive(Debug, Clone, Default)]
pub(super) struct Span {
    text: String,
    style: Style,
}

impl Span {
    pub(super) fn new(style: Style, text: impl Into<String>) -> Self {
        Self { text: text.into(), style }
    }

    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::new(PLAIN, text)
    }

    /// At most `width` columns.
    fn cut(&self, width: usize) -> Self {
        if columns(&self.text) <= width {
            return self.clone();
        }
        let mut text = String::new();
        for c in self.text.chars() {
            if columns(&text) + columns(c.encode_utf8(&mut [0; 4])) + 1 > width {
                break;
            }
            text.push(c);
        }
        Self::new(self.style, text + "…")
    }
}

/// A grid with a header.
#[derive(Debug, Default)]
pub(super) struct Grid {
    header: Vec<String>,
    rows: Vec<Vec<Span>>,
}

impl Grid {
    pub(super) fn new(header: impl IntoIterator<Item = String>) -> Self {
        Self { header: header.into_iter().collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<Span>) {
        self.rows.push(cells);
    }

    fn width_of(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|span| columns(&span.text));
        cells.chain(self.header.get(column).map(|text| columns(text))).max().unwrap_or(0)
    }

    /// As a matrix: where the columns do not fit side by side, several grids one under the other, each with the first
    /// column again.
    pub(super) fn matrix(&self, width: usize) -> String {
        let first = self.width_of(0).min(width / 2);
        let mut out = String::new();
        let mut page: Vec<(usize, usize)> = vec![(0, first)];
        let mut used = first;
        for column in 1..self.header.len() {
            let needed = self.width_of(column).min(width.saturating_sub(first + GAP).max(NARROW));
            if page.len() > 1 && used + GAP + needed > width {
                out.push_str(&self.page(&page));
                out.push('\n');
                page.truncate(1);
                used = first;
            }
            page.push((column, needed));
            used += GAP + needed;
        }
        out + &self.page(&page)
    }

    /// As a list: where the columns do not fit, the last one is wrapped under itself.
    pub(super) fn list(&self, width: usize) -> String {
        let last = self.header.len().saturating_sub(1);
        let mut page: Vec<(usize, usize)> = (0..=last).map(|column| (column, self.width_of(column))).collect();
        let before: usize = page.iter().take(last).map(|(_, width)| width + GAP).sum();
        let room = width.saturating_sub(before).max(NARROW);
        if let Some((_, needed)) = page.last_mut()
            && *needed > room
        {
            *needed = room;
            return self.wrapped(&page, before, room);
        }
        self.page(&page)
    }

    fn wrapped(&self, page: &[(usize, usize)], before: usize, room: usize) -> String {
        let mut out = self.header_line(page);
        let (last, head) = page.split_last().map_or((0, page), |((last, _), head)| (*last, head));
        for row in &self.rows {
            let cell = row.get(last).cloned().unwrap_or_default();
            let lines = super::paragraph("", &cell.text, room);
            let mut lines = lines.lines();
            let mut text = line(head, row);
            text.push_str(&" ".repeat(before.saturating_sub(line_width(head, row))));
            text.push_str(&styled(cell.style, lines.next().unwrap_or_default()));
            out.push_str(text.trim_end());
            out.push('\n');
            for more in lines {
                out.push_str(&" ".repeat(before));
                out.push_str(&styled(cell.style, more));
                out.push('\n');
            }
        }
        out
    }

    fn header_line(&self, page: &[(usize, usize)]) -> String {
        let header: Vec<Span> = self.header.iter().map(|text| Span::new(BOLD, text.clone())).collect();
        let text = line(page, &header);
        if text.trim().is_empty() { String::new() } else { text + "\n" }
    }

    fn page(&self, page: &[(usize, usize)]) -> String {
        let mut out = self.header_line(page);
        for row in &self.rows {
            out.push_str(&line(page, row));
            out.push('\n');
        }
        out
    }
}

/// The columns of a page side by side; nothing is written after the last one that is not empty.
fn line(page: &[(usize, usize)], row: &[Span]) -> String {
    let mut out = String::new();
    let mut owed = 0;
    for (column, width) in page {
        let span = row.get(*column).cloned().unwrap_or_default().cut(*width);
        let used = columns(&span.text);
        if used > 0 {
            out.push_str(&" ".repeat(owed));
            out.push_str(&styled(span.style, &span.text));
            owed = 0;
        }
        owed += width - used + GAP;
    }
    out
}

/// The columns that [`line`] takes.
fn line_width(page: &[(usize, usize)], row: &[Span]) -> usize {
    let mut at = 0;
    let mut end = 0;
    for (column, width) in page {
        let used = row.get(*column).map_or(0, |span| columns(&span.text)).min(*width);
        if used > 0 {
            end = at + used;
        }
        at += width + GAP;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(columns: usize) -> Grid {
        let mut grid = Grid::new(std::iter::once(String::new()).chain((1..columns).map(|i| format!("fleet-{i}"))));
        for dependency in ["cache", "a-much-longer-name"] {
            let cells = (1..columns).map(|_| Span::plain("✗ connect_timeout"));
            grid.row(std::iter::once(Span::plain(dependency)).chain(cells).collect());
        }
        grid
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_column_is_lost() {
        for width in [40, 80, 160] {
            let text = grid(9).matrix(width);
            assert!(
                text.lines().all(|line| columns(&anstream::adapter::strip_str(line).to_string()) <= width),
                "{text}"
            );
            for i in 1..9 {
                assert_eq!(text.matches(&format!("fleet-{i}")).count(), 1, "{text}");
            }
            assert_eq!(text.matches("connect_timeout").count(), 16);
        }
    }

    #[test]
    fn the_last_column_of_a_list_wraps_under_itself() {
        let mut grid = Grid::new(["A".to_owned(), "B".to_owned()]);
        grid.row(vec![Span::plain("x"), Span::plain("one two three four five six")]);
        let text = anstream::adapter::strip_str(&grid.list(20)).to_string();
        assert_eq!(text, "A  B\nx  one two three\n   four five six\n");
    }

    #[test]
    fn wide_characters_count_as_two_columns() {
        let span = Span::plain("日本語日本語").cut(7);
        assert_eq!(span.text, "日本語…");
    }
}
