//! The tokens.

use preflight_proto::api::TokenList;

use super::grid::{Grid, Span};
use super::{moment, word};

/// A line for each token.
pub(crate) fn render(list: &TokenList, width: usize) -> String {
    if list.tokens.is_empty() {
        return "There is no token.\n".to_owned();
    }
    let mut grid = Grid::new(["ID", "KIND", "NAME", "EXPIRES", "MAY"].map(str::to_owned));
    for token in &list.tokens {
        let mut may: Vec<String> = token.scopes.iter().map(|scope| word(scope)).collect();
        may.extend(token.uses_left.map(|left| format!("enrol {left} more")));
        let source = token.source.as_deref().map(|source| format!(" from {}", word(source))).unwrap_or_default();
        grid.row(vec![
            Span::plain(word(&token.id)),
            Span::plain(word(&token.kind)),
            Span::plain(word(&token.name)),
            Span::plain(moment(&token.expires_at)),
            Span::plain(may.join(", ") + &source),
        ]);
    }
    grid.list(width)
}
