//! Names and shapes of mixers that carry something from token to token.

use super::{DecoderSpec, LinearSpec};
use crate::model::spec::{ConvolutionSpec, RecurrentSpec};

/// The convolution of a recurrence.
pub(in crate::model) const CONVOLUTION: &str = "conv1d";

/// The convolution of a mixer that is nothing else.
pub(in crate::model) const LONE_CONVOLUTION: &str = "conv";

impl DecoderSpec {
    /// Returns the projections from the stream, and the one back to it.
    pub(super) fn recurrent(&self, index: usize, spec: &RecurrentSpec) -> Vec<LinearSpec> {
        let of = |name: &str, shape| {
            self.linear(index, &format!("{}.{name}", spec.module), shape, spec.bias)
        };
        let inputs = spec
            .inputs()
            .into_iter()
            .map(|(name, outputs)| of(name, [self.width, outputs]));
        let output = of("out_proj", [spec.form.values(), self.width]);
        inputs.chain([output]).collect()
    }

    /// Returns the convolution, the vectors and the gated norm.
    pub(super) fn recurrent_tensors(
        &self,
        index: usize,
        spec: &RecurrentSpec,
    ) -> Vec<(String, Vec<usize>)> {
        let name = |name: &str| {
            self.names
                .in_layer(index, &format!("{}.{name}", spec.module))
        };
        let channels = spec.form.channels();
        let mut tensors = vec![(
            name(&format!("{CONVOLUTION}.weight")),
            vec![channels, 1, spec.taps],
        )];
        if spec.conv_bias {
            tensors.push((name(&format!("{CONVOLUTION}.bias")), vec![channels]));
        }
        let heads = spec.form.value_heads;
        tensors.extend(spec.vectors().iter().map(|of| (name(of), vec![heads])));
        tensors.push((name("norm.weight"), vec![spec.norm_width()]));
        tensors
    }

    /// Returns the projections of a convolution between gates.
    pub(super) fn convolution(&self, index: usize, spec: &ConvolutionSpec) -> Vec<LinearSpec> {
        let of = |name: &str, shape| {
            self.linear(index, &format!("{}.{name}", spec.module), shape, spec.bias)
        };
        vec![
            of("in_proj", [self.width, 3 * spec.channels]),
            of("out_proj", [spec.channels, self.width]),
        ]
    }

    /// Returns the tensors of that convolution.
    pub(super) fn convolution_tensors(
        &self,
        index: usize,
        spec: &ConvolutionSpec,
    ) -> Vec<(String, Vec<usize>)> {
        let name = format!("{}.{LONE_CONVOLUTION}", spec.module);
        let name = self.names.in_layer(index, &name);
        let bias = (format!("{name}.bias"), vec![spec.channels]);
        let mut tensors = vec![(format!("{name}.weight"), vec![spec.channels, 1, spec.taps])];
        tensors.extend(spec.bias.then_some(bias));
        tensors
    }
}
