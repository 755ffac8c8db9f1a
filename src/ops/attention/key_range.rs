//! Which keys the queries of a batch see: always one range, from a first key to the query's own
//! place.

use std::ops::Range;

/// Sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Sizes {
    /// Rows of the batch.
    pub(in crate::ops) batch: usize,
    /// Queries of a row: the last of its keys' places.
    pub(in crate::ops) queries: usize,
    /// Keys of a row.
    pub(in crate::ops) keys: usize,
    /// Heads of the queries.
    pub(in crate::ops) heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` heads of the queries.
    pub(in crate::ops) kv_heads: usize,
    /// Features of a head.
    pub(in crate::ops) width: usize,
}

impl Sizes {
    /// Heads of the queries that a head of the keys serves.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// What the queries of a batch see.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct KeyRange<'a> {
    /// Sizes of the batch.
    pub(in crate::ops) sizes: Sizes,
    /// For every query of every row, [batch · queries], the first key that it sees; it sees all
    /// from there to itself.
    pub(in crate::ops) first: &'a [u32],
}

impl KeyRange<'_> {
    /// The keys that one of some queries of a row sees. They have no gap: neighbors stand at
    /// neighboring places.
    pub(in crate::ops) fn by(&self, row: usize, queries: Range<usize>) -> Range<usize> {
        let offset = row * self.sizes.queries;
        let first = self.first[offset + queries.start..offset + queries.end]
            .iter()
            .min()
            .copied()
            .unwrap_or(0);
        first as usize..self.sizes.keys - self.sizes.queries + queries.end
    }

    /// The keys of a row in tiles.
    pub(in crate::ops) fn key_tiles(&self, row: usize, tile: usize) -> Tiles {
        Tiles::new(self.starts(row), self.sizes.keys, tile)
    }

    /// The queries of a row in tiles, each so many times.
    pub(in crate::ops) fn query_tiles(&self, row: usize, times: usize, tile: usize) -> Tiles {
        Tiles::new(
            self.starts(row).map(|start| start * times),
            self.sizes.queries * times,
            tile,
        )
    }

    /// The places in a row at which a document begins: whoever stands there sees nothing before.
    /// Queries that follow on a cache are of one document.
    fn starts(&self, row: usize) -> impl Iterator<Item = usize> {
        let (queries, is_whole) = (self.sizes.queries, self.sizes.queries == self.sizes.keys);
        let first = &self.first[row * queries..][..queries];
        (0..queries)
            .filter(move |query| *query == 0 || (is_whole && first[*query] as usize == *query))
    }

    /// The part of some keys that a query sees, counted from the first of them.
    pub(super) fn within(&self, row: usize, query: usize, keys: &Range<usize>) -> Range<usize> {
        let seen = self.by(row, query..query + 1);
        let place = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
        place(seen.start)..place(seen.end)
    }
}

/// The places of a row in tiles, of which none holds two documents: so what attention gives a
/// document does not depend on what it is packed with.
#[derive(Debug)]
pub(in crate::ops) struct Tiles {
    /// In their order, without gaps.
    pub(in crate::ops) ranges: Vec<Range<usize>>,
    /// The tile of each place.
    tile_of: Vec<usize>,
}

impl Tiles {
    fn new(starts: impl Iterator<Item = usize>, length: usize, tile: usize) -> Self {
        let mut starts = starts.peekable();
        let (mut ranges, mut tile_of) = (Vec::new(), Vec::with_capacity(length));
        while let Some(start) = starts.next() {
            let end = starts.peek().copied().unwrap_or(length);
            for start in (start..end).step_by(tile) {
                let range = start..end.min(start + tile);
                tile_of.resize(range.end, ranges.len());
                ranges.push(range);
            }
        }
        Self { ranges, tile_of }
    }

    /// The tile of a place, and the place in it.
    pub(super) fn find(&self, place: usize) -> (usize, usize) {
        let tile = self.tile_of[place];
        (tile, place - self.ranges[tile].start)
    }

    /// The tiles that hold some places.
    pub(super) fn over(&self, places: Range<usize>) -> Range<usize> {
        self.tile_of[places.start]..self.tile_of[places.end - 1] + 1
    }
}
