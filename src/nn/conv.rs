//! A short causal convolution of each channel by itself.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::weight::Weight;
use crate::ops::short_conv;

/// A convolution of each channel by itself over the last tokens of a document, see [`short_conv`].
#[derive(Debug, Clone)]
pub struct Conv {
    /// Name of the module.
    pub name: String,
    /// Kernel, [channels, taps], f32.
    pub kernel: Tensor<2>,
    /// Bias, [channels].
    pub bias: Option<Tensor<1>>,
    /// Whether the result is y σ(y).
    pub silu: bool,
    /// Whether kernel and bias train.
    pub trains: bool,
}

impl Conv {
    /// Convolves the tokens of documents, whose lengths are given. `window` has the tokens just
    /// before the first document, where it goes on.
    ///
    /// # Shapes
    /// `x` and the result [tokens, channels], `window` [at most taps - 1, channels].
    pub fn forward(
        &self,
        x: Tensor<2>,
        window: Option<Tensor<2>>,
        documents: &Arc<[u32]>,
    ) -> Tensor<2> {
        let bias = self.bias.clone();
        let bias =
            bias.unwrap_or_else(|| Tensor::zeros([self.kernel.dims()[0]], &self.kernel.device()));
        let convolve = |x, documents: &Arc<[u32]>| {
            short_conv(x, self.kernel.clone(), bias, documents, self.silu)
        };
        let Some(window) = window else {
            return convolve(x, documents);
        };
        let (before, tokens) = (window.dims()[0], x.dims()[0]);
        let mut lengths = documents.to_vec();
        if let Some(first) = lengths.first_mut() {
            *first += before as u32;
        }
        convolve(Tensor::cat(vec![window, x], 0), &lengths.into()).narrow(0, before, tokens)
    }

    /// Returns the tokens that the next one sees, given those before `x` and `x`, [at most taps -
    /// 1, channels].
    pub fn window_after(&self, window: Option<Tensor<2>>, x: Tensor<2>) -> Tensor<2> {
        let x = match window {
            Some(window) => Tensor::cat(vec![window, x], 0),
            None => x,
        };
        let ([rows, _], [_, taps]) = (x.dims(), self.kernel.dims());
        let seen = rows.min(taps - 1);
        x.narrow(0, rows - seen, seen)
    }

    /// Visits kernel and bias where they train.
    pub fn visit(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        if !self.trains {
            return;
        }
        let name = &self.name;
        visit(&format!("{name}.weight"), Weight::Kernel(&mut self.kernel));
        if let Some(bias) = &mut self.bias {
            visit(&format!("{name}.bias"), Weight::Vector(bias));
        }
    }
}
