//! The tiles and the ranges that meet them, in the form that kernels read.

use crate::ops::attention::{KeyRange, Tiles};

/// Numbers per tile: its row of the batch, the start and end of its places, and the start and end
/// of what meets it.
pub(super) const OF_TILE: usize = 5;

/// Numbers per query: the first key that it sees, and the place after the last.
pub(super) const OF_QUERY: usize = 2;

/// Tiles of [`OF_TILE`] numbers, and after them [`OF_QUERY`] numbers for each query.
pub(super) struct Spans {
    pub numbers: Vec<u32>,
    pub tiles: usize,
    /// Pairs of a query and a key in tiles that meet, for one head.
    pub pairs: usize,
}

impl Spans {
    /// Makes tiles of queries, which meet the keys that any of them sees.
    pub fn of_queries(seen: &KeyRange, tile: usize) -> Self {
        Self::new(seen, |row| {
            (
                seen.query_tiles(row, 1, tile),
                Box::new(move |from, to| seen.by(row, from..to)),
            )
        })
    }

    /// Makes tiles of keys, which meet the queries from the first to the last that sees one of
    /// them.
    pub fn of_keys(seen: &KeyRange, tile: usize) -> Self {
        Self::new(seen, |row| {
            let of_row = seen.of_row(row);
            let met = move |from: usize, to: usize| {
                let first = of_row.partition_point(|seen| seen.end as usize <= from);
                let end = of_row.partition_point(|seen| (seen.first as usize) < to);
                first..end.max(first)
            };
            (seen.key_tiles(row, tile), Box::new(met))
        })
    }

    #[allow(
        clippy::type_complexity,
        reason = "the tiles of a row, and what meets one of them"
    )]
    fn new<'a>(
        seen: &KeyRange,
        of_row: impl Fn(
            usize,
        ) -> (
            Tiles,
            Box<dyn Fn(usize, usize) -> std::ops::Range<usize> + 'a>,
        ),
    ) -> Self {
        let (mut numbers, mut pairs) = (Vec::new(), 0);
        for row in 0..seen.sizes.batch {
            let (tiles, met_by) = of_row(row);
            for tile in tiles.ranges {
                let met = met_by(tile.start, tile.end);
                pairs += tile.len() * met.len();
                numbers.extend(
                    [row, tile.start, tile.end, met.start, met.end].map(|number| number as u32),
                );
            }
        }
        let tiles = numbers.len() / OF_TILE;
        numbers.extend(seen.seen.iter().flat_map(|seen| [seen.first, seen.end]));
        Self {
            numbers,
            tiles,
            pairs,
        }
    }
}
