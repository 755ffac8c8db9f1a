//! Keys and values of tokens that a block has read.

use std::ops::Range;

use burn::tensor::Tensor;

/// Keys and values of a block, [1, tokens, kv heads, d] each, as far as the next token sees them.
#[derive(Debug, Clone, Default)]
pub(super) struct Past(Option<[Tensor<4>; 2]>);

impl Past {
    /// Appends those of further tokens; returns all.
    pub(super) fn extend(&mut self, new: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
        let all = match self.0.take() {
            None => new,
            Some([keys, values]) => {
                let [key, value] = new;
                [
                    Tensor::cat(vec![keys, key], 1),
                    Tensor::cat(vec![values, value], 1),
                ]
            }
        };
        self.0.insert(all).clone()
    }

    /// Returns the number of tokens.
    pub(super) fn tokens(&self) -> usize {
        self.0.as_ref().map_or(0, |[keys, _]| keys.dims()[1])
    }

    /// Keeps only some tokens, counted from the first that is there.
    pub(super) fn keep(&mut self, tokens: Range<usize>) {
        if tokens.len() < self.tokens() {
            let kept = self.0.take().filter(|_| !tokens.is_empty());
            self.0 = kept.map(|both| both.map(|of| of.narrow(1, tokens.start, tokens.len())));
        }
    }
}
