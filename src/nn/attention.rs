//! The tokens that a token attends to.

use std::ops::Range;

use crate::ops::SeenKeys;

/// The range of tokens of its document that a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// All earlier tokens, itself included.
    Full,
    /// The last `window` tokens, itself included.
    Sliding {
        /// Length of the window, tokens.
        window: usize,
    },
    /// All tokens, later ones too.
    Document,
    /// The tokens at most `reach` away on either side, itself included.
    Around {
        /// Number of tokens on each side.
        reach: usize,
    },
}

impl Span {
    /// Whether a query sees no later token.
    pub fn is_causal(self) -> bool {
        matches!(self, Self::Full | Self::Sliding { .. })
    }

    /// Whether a query sees only tokens near to itself.
    pub fn is_window(self) -> bool {
        matches!(self, Self::Sliding { .. } | Self::Around { .. })
    }

    /// Returns the keys that the queries at these places of a document of `length` tokens see. The
    /// keys begin, at index `start`, with the first that any of the queries sees.
    pub fn seen_keys(
        self,
        queries: Range<usize>,
        length: usize,
        start: usize,
    ) -> impl Iterator<Item = SeenKeys> {
        let left_out = self.first_seen(queries.start);
        let index = move |place: usize| (start + place - left_out) as u32;
        queries.map(move |query| SeenKeys {
            first: index(self.first_seen(query)),
            end: index(self.end_seen(query, length)),
        })
    }

    /// Returns the position of the earliest token that a query sees.
    pub fn first_seen(self, query: usize) -> usize {
        match self {
            Self::Full | Self::Document => 0,
            Self::Sliding { window } => (query + 1).saturating_sub(window),
            Self::Around { reach } => query.saturating_sub(reach),
        }
    }

    /// Returns the position after the last token that a query sees in a document of `length`
    /// tokens.
    fn end_seen(self, query: usize, length: usize) -> usize {
        match self {
            Self::Full | Self::Sliding { .. } => query + 1,
            Self::Document => length,
            Self::Around { reach } => length.min(query + 1 + reach),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(span: Span, queries: Range<usize>, length: usize, start: usize) -> Vec<Range<u32>> {
        span.seen_keys(queries, length, start)
            .map(|seen| seen.first..seen.end)
            .collect()
    }

    fn first(span: Span, queries: Range<usize>, start: usize) -> Vec<u32> {
        let length = queries.end;
        seen(span, queries, length, start)
            .into_iter()
            .map(|seen| seen.start)
            .collect()
    }

    #[test]
    fn a_window_of_two_sees_itself_and_the_token_before() {
        assert_eq!(first(Span::Sliding { window: 2 }, 0..4, 0), [0, 0, 1, 2]);
        assert_eq!(first(Span::Full, 0..4, 0), [0; 4]);
        assert_eq!(seen(Span::Sliding { window: 2 }, 0..2, 2, 0), [0..1, 0..2]);
    }

    #[test]
    fn keys_are_counted_from_the_first_that_is_there() {
        assert_eq!(first(Span::Full, 2..4, 0), [0, 0]);
        assert_eq!(first(Span::Sliding { window: 2 }, 2..4, 0), [0, 1]);
        assert_eq!(first(Span::Sliding { window: 9 }, 2..3, 0), [0]);
        assert_eq!(first(Span::Sliding { window: 2 }, 0..3, 5), [5, 5, 6]);
        assert_eq!(seen(Span::Sliding { window: 2 }, 2..4, 4, 0), [0..2, 1..3]);
    }

    #[test]
    fn a_window_ends_where_the_document_begins() {
        let first = |span: Span| [first(span, 0..3, 0), first(span, 0..4, 3)].concat();
        assert_eq!(first(Span::Full), [0, 0, 0, 3, 3, 3, 3]);
        assert_eq!(first(Span::Sliding { window: 2 }), [0, 0, 1, 3, 3, 4, 5]);
    }

    #[test]
    fn later_tokens_are_seen_up_to_the_end_of_the_document() {
        assert_eq!(seen(Span::Document, 0..3, 3, 4), [4..7, 4..7, 4..7]);
        let around = Span::Around { reach: 1 };
        assert_eq!(seen(around, 0..4, 4, 2), [2..4, 2..5, 3..6, 4..6]);
        assert_eq!(seen(Span::Around { reach: 0 }, 0..2, 2, 0), [0..1, 1..2]);
    }
}
