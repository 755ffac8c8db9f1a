//! The input and the output of a block.

use burn::tensor::Tensor;

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
