//! A mixer that looks at no other token: a gate of the token's own values.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use super::frame::{BlockPlace, Frame, Site};
use super::spec::TokenGateSpec;
use crate::nn::footprint::RowShape;
use crate::nn::projection::Projection;

/// See [`TokenGateSpec`].
#[derive(Debug, Clone)]
pub(super) struct TokenGate {
    /// The projection to gate and values.
    pub(super) input: Projection,
    pub(super) output: Projection,
}

impl TokenGate {
    pub(super) fn mix(&self, x: Tensor<3>, place: BlockPlace, frame: &Frame) -> Tensor<3> {
        let mask = frame.mask(place.layer, Site::AttentionInput);
        let all = self.input.forward(x, mask.as_ref()); // [batch, tokens, 2 * channels]
        let channels = all.dims()[2] / 2;
        let [gate, values] = [0, channels].map(|start| all.clone().narrow(2, start, channels));
        sigmoid(gate) * values
    }
}

impl TokenGateSpec {
    /// Returns the bytes that [`TokenGate::mix`] keeps for its backward in addition to the input:
    /// both projections, the sigmoid and the result.
    pub(super) fn saved_bytes(&self, rows: RowShape) -> u64 {
        rows.bytes(4 * self.channels as u64)
    }
}
