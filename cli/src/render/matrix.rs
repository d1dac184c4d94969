//! The latest state of every cell.

use preflight_proto::api::{Matrix, MatrixCell, State};

use super::grid::{Grid, Span};
use super::{BOLD, DIM, glyph, moment, style_of, styled, word};

/// A grid for each application and region.
pub(crate) fn render(matrix: &Matrix, width: usize) -> String {
    if matrix.cells.is_empty() {
        return "Nothing is known yet: no gate has run. `preflight gate` runs one.\n".to_owned();
    }
    let groups = matrix.cells.chunk_by(|a, b| a.application == b.application && a.region == b.region);
    groups.map(|cells| of_region(cells, width)).collect::<Vec<_>>().join("\n")
}

fn of_region(cells: &[MatrixCell], width: usize) -> String {
    let mut fleets: Vec<&str> = Vec::new();
    let mut dependencies: Vec<&str> = Vec::new();
    for cell in cells {
        if !fleets.contains(&cell.fleet.as_str()) {
            fleets.push(&cell.fleet);
        }
        if !dependencies.contains(&cell.dependency.as_str()) {
            dependencies.push(&cell.dependency);
        }
    }
    let mut grid = Grid::new(std::iter::once(String::new()).chain(fleets.iter().map(|fleet| word(fleet))));
    for dependency in dependencies {
        let of = |fleet: &&str| cells.iter().find(|c| c.dependency == dependency && c.fleet == **fleet);
        let spans = fleets.iter().map(|fleet| of(fleet).map_or_else(Span::default, span));
        grid.row(std::iter::once(Span::plain(format!("  {}", word(dependency)))).chain(spans).collect());
    }
    let title = cells.first().map(|c| format!("{}  {}", word(&c.application), word(&c.region))).unwrap_or_default();
    format!("{}  {}\n{}", styled(BOLD, &title), styled(DIM, &age(cells)), grid.matrix(width))
}

fn span(cell: &MatrixCell) -> Span {
    let text = match (&cell.reason, cell.state) {
        (Some(reason), State::Fail | State::Unknown) => word(reason),
        (_, state) => state.as_str().to_owned(),
    };
    Span::new(style_of(cell.state), format!("{} {text}", glyph(cell.state)))
}

/// From when the cells are, and from which release.
fn age(cells: &[MatrixCell]) -> String {
    let oldest = cells.iter().map(|c| c.at.as_str()).min().unwrap_or_default();
    let newest = cells.iter().max_by_key(|c| c.at.as_str());
    let release = newest.map(|c| word(&c.release)).unwrap_or_default();
    let newest = newest.map(|c| c.at.as_str()).unwrap_or_default();
    if oldest == newest {
        format!("as of {}, release {release}", moment(newest))
    } else {
        format!("as of {} to {}, latest release {release}", moment(oldest), moment(newest))
    }
}
