//! A mixer that is a short convolution between two gates.

use burn::tensor::Tensor;

use super::frame::{BlockPlace, Frame, Site};
use super::past::Past;
use super::spec::ConvolutionSpec;
use crate::nn::conv::Conv;
use crate::nn::footprint::RowShape;
use crate::nn::projection::Projection;

/// See [`ConvolutionSpec`].
#[derive(Debug, Clone)]
pub(super) struct Convolution {
    /// The projection to the gate of the input, that of the result, and the input.
    pub(super) input: Projection,
    pub(super) conv: Conv,
    pub(super) output: Projection,
}

impl Convolution {
    pub(super) fn mix(
        &self,
        x: Tensor<3>,
        place: BlockPlace,
        frame: &Frame,
        past: Option<&mut Past>,
    ) -> Tensor<3> {
        let [batch, length, _] = x.dims();
        let mask = frame.mask(place.layer, Site::AttentionInput);
        let all = self.input.forward(x, mask.as_ref());
        let width = all.dims()[2] / 3;
        let all = all.reshape([batch * length, 3 * width]);
        let [of_input, of_result, input] =
            [0, width, 2 * width].map(|start| all.clone().narrow(1, start, width));
        let input = of_input * input; // [tokens, width]
        let window = past.as_deref().and_then(Past::window);
        if let Some(past) = past {
            let seen = self.conv.window_after(window.clone(), input.clone());
            past.carry(seen, None, length);
        }
        let y = of_result * self.conv.forward(input, window, &frame.documents);
        y.reshape([batch, length, width])
    }
}

impl ConvolutionSpec {
    /// Returns the bytes that [`Convolution::mix`] keeps for its backward in addition to the input:
    /// all three projections, what the convolution gets and gives, and the result.
    pub(super) fn saved_bytes(&self, rows: RowShape) -> u64 {
        rows.bytes(6 * self.channels as u64)
    }
}
