//! The earlier tokens that a token attends to.

use std::ops::Range;

/// The range of earlier tokens that a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// All earlier tokens.
    Full,
    /// The last `window` tokens, itself included.
    Sliding {
        /// Length of the window, tokens.
        window: usize,
    },
}

impl Span {
    /// Returns, for the queries at these places of a document, the index of the first key that each
    /// sees. The keys begin, at index `start`, with the first that any of the queries sees.
    pub fn first_keys(self, queries: Range<usize>, start: usize) -> impl Iterator<Item = u32> {
        let left_out = self.first_seen(queries.start);
        queries.map(move |query| (start + self.first_seen(query) - left_out) as u32)
    }

    /// Returns the position of the earliest token that a query sees.
    pub fn first_seen(self, query: usize) -> usize {
        match self {
            Self::Full => 0,
            Self::Sliding { window } => (query + 1).saturating_sub(window),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(span: Span, queries: Range<usize>, start: usize) -> Vec<u32> {
        span.first_keys(queries, start).collect()
    }

    #[test]
    fn a_window_of_two_sees_itself_and_the_token_before() {
        assert_eq!(first(Span::Sliding { window: 2 }, 0..4, 0), [0, 0, 1, 2]);
        assert_eq!(first(Span::Full, 0..4, 0), [0; 4]);
    }

    #[test]
    fn keys_are_counted_from_the_first_that_is_there() {
        assert_eq!(first(Span::Full, 2..4, 0), [0, 0]);
        assert_eq!(first(Span::Sliding { window: 2 }, 2..4, 0), [0, 1]);
        assert_eq!(first(Span::Sliding { window: 9 }, 2..3, 0), [0]);
        assert_eq!(first(Span::Sliding { window: 2 }, 0..3, 5), [5, 5, 6]);
    }

    #[test]
    fn a_window_ends_where_the_document_begins() {
        let first = |span: Span| {
            [span.first_keys(0..3, 0), span.first_keys(0..4, 3)]
                .into_iter()
                .flatten()
                .collect::<Vec<u32>>()
        };
        assert_eq!(first(Span::Full), [0, 0, 0, 3, 3, 3, 3]);
        assert_eq!(first(Span::Sliding { window: 2 }), [0, 0, 1, 3, 3, 4, 5]);
    }
}
