//! Attention on a GPU that keeps its output and one number a query: a cube a tile of a document and
//! a head, keys and values by tiles in shared memory, f32 sums (Dao 2023, arXiv:2307.08691).
//!
//! Tiles begin where documents do, so what a document gets does not depend on what it is packed
//! with, and what no query sees is never read. Backward is two passes, one that owns queries and
//! one that owns keys: no sum has two owners, so nothing is added atomically.

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

/// Units that share a query or a key: each has every eighth vector of its features.
const LANES: usize = 8;

/// The largest tile: with [`LANES`] units a row it fills a cube.
const LARGEST_TILE: usize = 32;

/// Sizes that a launch may change without a new compilation.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Lengths {
    /// Tiles of all rows of the batch.
    tiles: u32,
    queries: u32,
    keys: u32,
    heads: u32,
    kv_heads: u32,
    /// Vectors of all keys: dV begins behind so many of dK.
    all_keys: u32,
}

/// The score's constants; `softcap` counts where a kernel is compiled for one.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Scoring {
    scale: f32,
    softcap: f32,
}

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct KernelShape {
    /// Rows of a tile.
    tile: usize,
    /// Vectors of a head's features.
    width: usize,
    /// Vectors of them that a unit has.
    own: usize,
    /// Whether scores are capped.
    capped: bool,
}

impl KernelShape {
    /// The largest tiles of which so many, with so many square ones of scores, fit into a cube's
    /// memory.
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

    /// The cube of a tile.
    fn cube(&self) -> CubeDim {
        CubeDim::new_1d((self.tile * LANES) as u32)
    }
}

/// [`Lengths`] of these sizes, in heads of so many vectors.
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
