//! Attention on a GPU that keeps its output and one number per query: one cube per tile of a
//! document and head, keys and values by tiles in shared memory, f32 sums (Dao 2023,
//! arXiv:2307.08691).
//!
//! Tiles begin where documents do, so the result of a document does not depend on what it is packed
//! with, and keys that no query sees are never read. Backward is two passes, one that owns queries
//! and one that owns keys: no sum has two owners, so nothing is added atomically.

mod backward;
mod forward;
mod spans;
#[cfg(test)]
mod tests;
mod tile;

use burn::backend::TensorMetadata;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

pub(in crate::ops) use backward::{Given, backward};
pub(in crate::ops) use forward::forward;

use spans::Spans;

use super::super::attention::{Score, Sizes};
use super::vector_size;

/// Units that share a query or a key; each has every eighth vector of its features.
const LANES: usize = 8;

/// The largest tile: with [`LANES`] units per row it fills a cube.
const LARGEST_TILE: usize = 32;

/// Sizes that can change between launches without a new compilation.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Lengths {
    /// Number of tiles in all rows of the batch.
    tiles: u32,
    queries: u32,
    keys: u32,
    heads: u32,
    kv_heads: u32,
    /// Number of vectors in all keys: dV begins after that many vectors of dK.
    all_keys: u32,
}

/// The score's constants; `softcap` is used only by a kernel compiled for one.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Scoring {
    scale: f32,
    softcap: f32,
}

/// The compile-time parameters of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct KernelShape {
    /// Number of rows in a tile.
    tile: usize,
    /// Number of vectors in a head's features.
    width: usize,
    /// Number of these vectors per unit.
    own: usize,
    /// Whether scores are capped.
    capped: bool,
}

impl KernelShape {
    /// Returns the largest tiles for which `of_features` tiles of features and `of_scores` square
    /// tiles of scores fit into a cube's memory.
    fn new(
        query: &CubeTensor,
        score: &Score,
        of_features: usize,
        of_scores: usize,
    ) -> (Self, usize) {
        let features = query.shape()[3];
        let size = vector_size(&[features]);
        let width = features / size;
        let room = query.client.properties().hardware.max_shared_memory_size;
        let fits = |tile: &usize| {
            4 * tile * (of_features * (width + 1) * size + of_scores * (tile + 1)) <= room
        };
        let tile = [LARGEST_TILE, 16, 8, 4, 2]
            .into_iter()
            .find(fits)
            .unwrap_or(1);
        (
            Self {
                tile,
                width,
                own: width.div_ceil(LANES),
                capped: score.softcap.is_some(),
            },
            size,
        )
    }

    /// Returns the cube of a tile.
    fn cube(&self) -> CubeDim {
        CubeDim::new_1d((self.tile * LANES) as u32)
    }
}

/// Returns [`Lengths`] for these sizes, in heads of so many vectors.
fn lengths(spans: &Spans, sizes: Sizes, form: KernelShape) -> LengthsLaunch {
    let Sizes {
        batch,
        queries,
        keys,
        heads,
        kv_heads,
        ..
    } = sizes;
    let all_keys = batch * keys * kv_heads * form.width;
    let [tiles, queries, keys, heads, kv_heads, all_keys] =
        [spans.tiles, queries, keys, heads, kv_heads, all_keys].map(|length| length as u32);
    LengthsLaunch::new(tiles, queries, keys, heads, kv_heads, all_keys)
}

fn scoring(score: &Score) -> ScoringLaunch {
    ScoringLaunch::new(score.scale, score.softcap.unwrap_or(1.0))
}
