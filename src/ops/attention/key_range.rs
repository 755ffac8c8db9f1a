//! The keys that the queries of a batch see: one range for each query, which holds its own place.

use std::ops::Range;

/// The keys of a row that one query sees. From one query of a row to the next, neither number
/// falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenKeys {
    /// The first of them.
    pub first: u32,
    /// The place after the last of them.
    pub end: u32,
}

/// The sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Sizes {
    /// Number of rows in the batch.
    pub(in crate::ops) batch: usize,
    /// Number of queries per row, which stand at the last of its keys' places.
    pub(in crate::ops) queries: usize,
    /// Number of keys per row.
    pub(in crate::ops) keys: usize,
    /// Number of query heads.
    pub(in crate::ops) heads: usize,
    /// Number of heads of keys and values; each serves `heads / kv_heads` query heads.
    pub(in crate::ops) kv_heads: usize,
    /// Number of features per head.
    pub(in crate::ops) width: usize,
}

impl Sizes {
    /// Returns the number of query heads per head of the keys.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// The keys that the queries of a batch see.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct KeyRange<'a> {
    /// Sizes of the batch.
    pub(in crate::ops) sizes: Sizes,
    /// The keys that every query of every row sees, [batch · queries].
    pub(in crate::ops) seen: &'a [SeenKeys],
}

impl KeyRange<'_> {
    /// Returns the keys that each query of a row sees.
    pub(in crate::ops) fn of_row(&self, row: usize) -> &[SeenKeys] {
        &self.seen[row * self.sizes.queries..][..self.sizes.queries]
    }

    /// Returns the keys that any of some queries of a row sees. They have no gap, because neighbors
    /// stand at neighboring places.
    pub(in crate::ops) fn by(&self, row: usize, queries: Range<usize>) -> Range<usize> {
        let seen = &self.of_row(row)[queries];
        let first = seen.iter().map(|seen| seen.first).min().unwrap_or(0);
        let end = seen.iter().map(|seen| seen.end).max().unwrap_or(0);
        first as usize..end as usize
    }

    /// Returns the keys of a row in tiles.
    pub(in crate::ops) fn key_tiles(&self, row: usize, tile: usize) -> Tiles {
        Tiles::new(self.starts(row), self.sizes.keys, tile)
    }

    /// Returns the queries of a row in tiles, each query `times` times.
    pub(in crate::ops) fn query_tiles(&self, row: usize, times: usize, tile: usize) -> Tiles {
        Tiles::new(
            self.starts(row).map(|start| start * times),
            self.sizes.queries * times,
            tile,
        )
    }

    /// Returns the places in a row at which a document begins, where a query sees nothing before
    /// itself and is not seen from there. Queries that follow on a cache belong to one document.
    fn starts(&self, row: usize) -> impl Iterator<Item = usize> {
        let (queries, is_whole) = (self.sizes.queries, self.sizes.queries == self.sizes.keys);
        let seen = self.of_row(row);
        (0..queries).filter(move |query| {
            let parts = |query: usize| {
                seen[query].first as usize == query && seen[query - 1].end as usize <= query
            };
            *query == 0 || (is_whole && parts(*query))
        })
    }

    /// Returns the part of some keys that a query sees, counted from the first of them.
    pub(super) fn within(&self, row: usize, query: usize, keys: &Range<usize>) -> Range<usize> {
        let seen = self.by(row, query..query + 1);
        let place = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
        place(seen.start)..place(seen.end)
    }
}

/// The places of a row in tiles, none of which holds two documents. So attention's result for a
/// document does not depend on what it is packed with.
#[derive(Debug)]
pub(in crate::ops) struct Tiles {
    /// Ranges of places in order, without gaps.
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

    /// Returns the tile of a place, and the place within it.
    pub(super) fn find(&self, place: usize) -> (usize, usize) {
        let tile = self.tile_of[place];
        (tile, place - self.ranges[tile].start)
    }

    /// Returns the tiles that hold some places.
    pub(super) fn over(&self, places: Range<usize>) -> Range<usize> {
        self.tile_of[places.start]..self.tile_of[places.end - 1] + 1
    }
}
