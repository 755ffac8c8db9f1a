//! Which keys the queries of a batch see: always one range, from a first key to the query's own place.

use std::ops::Range;

/// Sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Rows of the batch.
    pub(super) batch: usize,
    /// Queries of a row: the last of its keys' places.
    pub(super) queries: usize,
    /// Keys of a row.
    pub(super) keys: usize,
    /// Heads of the queries.
    pub(super) heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` heads of the queries.
    pub(super) kv_heads: usize,
    /// Features of a head.
    pub(super) width: usize,
}

impl Sizes {
    /// Heads of the queries that a head of the keys serves.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// What the queries of a batch see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// Sizes of the batch.
    pub(super) sizes: Sizes,
    /// For every query of every row, [batch · queries], the first key that it sees; it sees all from there to itself.
    pub(super) first: &'a [u32],
}

impl Seen<'_> {
    /// The keys that one of some queries of a row sees. They have no gap: neighbours stand at neighbouring places.
    pub(super) fn by(&self, row: usize, queries: Range<usize>) -> Range<usize> {
        let offset = row * self.sizes.queries;
        let first = self.first[offset + queries.start..offset + queries.end].iter().min().copied().unwrap_or(0);
        first as usize..self.sizes.keys - self.sizes.queries + queries.end
    }

    /// The tiles of keys in which some queries of a row see something.
    pub(super) fn tiles_by(&self, row: usize, queries: Range<usize>, tile: usize) -> Range<usize> {
        let keys = self.by(row, queries);
        keys.start / tile..keys.end.div_ceil(tile)
    }

    /// The part of some keys that a query sees, counted from the first of them.
    pub(super) fn within(&self, row: usize, query: usize, keys: &Range<usize>) -> Range<usize> {
        let seen = self.by(row, query..query + 1);
        let place = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
        place(seen.start)..place(seen.end)
    }
}
