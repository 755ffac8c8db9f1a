//! Attention on the CPU, which reads the numbers of tensors in place.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};

use super::backward::{Given, backward};
use super::forward::{AttentionRows, forward};
use super::key_range::KeyRange;
use super::score::Score;
use super::{SeenKeys, TiledAttention, sizes, with_sinks};
use crate::ops::numbers::{read, row_major, tensor};

/// Number of queries and of keys in a tile: 64 · 64 scores and as many features of 64 keys stay in
/// a core's first-level cache.
const TILE: usize = 64;

#[cfg(test)]
thread_local! {
    static TILE_OF_TEST: std::cell::Cell<usize> = const { std::cell::Cell::new(TILE) };
}

/// Runs `compute` with tiles of so many queries and keys.
#[cfg(test)]
pub(crate) fn in_tiles<T>(tile: usize, compute: impl FnOnce() -> T) -> T {
    TILE_OF_TEST.set(tile);
    let result = compute();
    TILE_OF_TEST.set(TILE);
    result
}

#[cfg(test)]
fn tile() -> usize {
    TILE_OF_TEST.get()
}

#[cfg(not(test))]
const fn tile() -> usize {
    TILE
}

impl TiledAttention for Flex {
    fn tiled_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        seen: Arc<[SeenKeys]>,
        score: Score,
        sinks: Option<Arc<[f32]>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [query, key, value] = [query, key, value].map(row_major);
        let sizes = sizes::<Self>(&query, &key, &seen);
        let seen = KeyRange { sizes, seen: &seen };
        let mixed = forward(
            &AttentionRows {
                query: read(&query),
                key: read(&key),
                value: read(&value),
                seen,
                score,
            },
            tile(),
        );
        let of_queries = [sizes.batch, sizes.queries, sizes.heads].into();
        with_sinks::<Self>(
            tensor(mixed.output, query.shape()),
            tensor(mixed.log_sums, of_queries),
            sinks.as_deref(),
        )
    }

    fn tiled_attention_gradients(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        output: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        seen: Arc<[SeenKeys]>,
        score: Score,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [query, key, value, output, log_sums, gradient] =
            [query, key, value, output, log_sums, gradient].map(row_major);
        let seen = KeyRange {
            sizes: sizes::<Self>(&query, &key, &seen),
            seen: &seen,
        };
        let inputs = AttentionRows {
            query: read(&query),
            key: read(&key),
            value: read(&value),
            seen,
            score,
        };
        let given = Given {
            output: read(&output),
            log_sums: read(&log_sums),
            gradient: read(&gradient),
        };
        let [dq, dk, dv] = backward(&inputs, &given, tile());
        (
            tensor(dq, query.shape()),
            tensor(dk, key.shape()),
            tensor(dv, value.shape()),
        )
    }
}
