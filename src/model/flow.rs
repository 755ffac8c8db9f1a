//! What passes from block to block: the stream, and beside it what a block takes from the embedding
//! or from a lower block.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::block::Block;
use crate::nn::experts::Load;

/// Keys and values of a block after norm and rotation, [1, tokens, kv heads, d] each.
pub type KeyValueRows = [Tensor<4>; 2];

/// The input of a block.
#[derive(Debug, Clone)]
pub struct BlockInput {
    /// The residual stream, [1, tokens, width].
    pub stream: Tensor<3>,
    /// The block's own input of each token, [1, tokens, width of it].
    pub per_layer: Option<Tensor<3>>,
    /// The keys and values of the lower block that the block uses.
    pub key_values: Option<KeyValueRows>,
}

impl From<Tensor<3>> for BlockInput {
    /// Makes the input of a block that takes the stream alone.
    fn from(stream: Tensor<3>) -> Self {
        Self {
            stream,
            per_layer: None,
            key_values: None,
        }
    }
}

/// The output of a block.
#[derive(Debug)]
pub struct BlockOutput {
    /// The residual stream, [1, rows, width].
    pub stream: Tensor<3>,
    /// The load of the block's experts, where it has some.
    pub load: Option<Load>,
    /// Its keys and values, where a higher block uses them.
    pub key_values: Option<KeyValueRows>,
}

/// Tensors beside the stream on its way through the blocks.
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
