//! Attention of the CPU's tensors: their numbers are read where they lie.

use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::TensorData;

use super::backward::{Given, backward};
use super::forward::{Inputs, forward};
use super::score::Score;
use super::seen::Seen;
use super::{TiledAttention, sizes};

/// Queries and keys of a tile: 64 · 64 scores and as many features of 64 keys stay in a core's nearest cache.
const TILE: usize = 64;

fn numbers(tensor: &FloatTensor<Flex>) -> &[f32] {
    tensor.as_slice().expect("activations are f32 on the CPU, and were made contiguous")
}

fn tensor(numbers: Vec<f32>, like: &FloatTensor<Flex>) -> FloatTensor<Flex> {
    Flex::float_from_data(TensorData::new(numbers, like.shape()), &like.device())
}

impl TiledAttention for Flex {
    fn tiled_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        first: Arc<[u32]>,
        score: Score,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [query, key, value] = [query, key, value].map(|tensor| tensor.to_contiguous());
        let sizes = sizes::<Self>(&query, &key, &first);
        let seen = Seen { sizes, first: &first };
        let mixed = forward(&Inputs { query: numbers(&query), key: numbers(&key), value: numbers(&value), seen, score }, TILE);
        let log_sums = TensorData::new(mixed.log_sums, [sizes.batch, sizes.queries, sizes.heads]);
        (tensor(mixed.output, &query), Self::float_from_data(log_sums, &query.device()))
    }

    fn tiled_attention_gradients(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        output: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: Arc<[u32]>,
        score: Score,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [query, key, value, output, log_sums, gradient] =
            [query, key, value, output, log_sums, gradient].map(|tensor| tensor.to_contiguous());
        let seen = Seen { sizes: sizes::<Self>(&query, &key, &first), first: &first };
        let inputs = Inputs { query: numbers(&query), key: numbers(&key), value: numbers(&value), seen, score };
        let given = Given { output: numbers(&output), log_sums: numbers(&log_sums), gradient: numbers(&gradient) };
        let [dq, dk, dv] = backward(&inputs, &given, TILE);
        (tensor(dq, &query), tensor(dk, &key), tensor(dv, &value))
    }
}
