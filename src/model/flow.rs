//! What passes from block to block beside the stream: what a block takes from the embedding or from
//! a lower block.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::block::Block;
use super::block_io::{BlockInput, BlockOutput, KeyValueRows};
use crate::nn::experts::Load;

/// Tensors that accompany the residual stream through the blocks.
#[derive(Debug, Default)]
pub struct Context {
    /// The inputs of all layers, [1, tokens, layers, width of one].
    per_layer: Option<Tensor<4>>,
    /// Keys and values that higher blocks use, by the index of their block.
    key_values: BTreeMap<usize, KeyValueRows>,
}

impl Context {
    /// Makes the context of the lowest block, given the inputs of all layers.
    pub(super) fn of(per_layer: Option<Tensor<4>>) -> Self {
        Self {
            per_layer,
            ..Self::default()
        }
    }

    /// Returns what a block computes from, given the stream.
    pub fn input(&self, block: &Block, stream: Tensor<3>) -> BlockInput {
        let of_block = |all: &Tensor<4>| {
            let [batch, tokens, _, width] = all.dims();
            all.clone()
                .narrow(2, block.place.layer, 1)
                .reshape([batch, tokens, width])
        };
        BlockInput {
            stream,
            per_layer: self.per_layer.as_ref().map(of_block),
            key_values: block
                .source()
                .and_then(|source| self.key_values.get(&source).cloned()),
        }
    }

    /// Keeps what higher blocks use of a block's output; returns the rest of it.
    pub fn keep(&mut self, block: &Block, output: BlockOutput) -> (Tensor<3>, Option<Load>) {
        if let Some(key_values) = output.key_values {
            self.key_values.insert(block.place.layer, key_values);
        }
        (output.stream, output.load)
    }
}
