//! Causal attention over grouped heads, Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Tensor, TensorData};

use crate::ops::matmul;

/// Which earlier tokens a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// All of them.
    Full,
    /// The last `window` tokens, itself included.
    Sliding {
        /// In tokens.
        window: usize,
    },
}

impl Span {
    /// True where a query must not look, [length, length] (query, key).
    ///
    /// Rows are padded on the right, so the causal mask hides padding from every real query; what a padded query sees is
    /// never used.
    pub fn hidden(self, length: usize, device: &Device) -> Tensor<2, Bool> {
        let sees = |query: usize, key: usize| match self {
            Self::Full => key <= query,
            Self::Sliding { window } => key <= query && key + window > query,
        };
        let values: Vec<bool> = (0..length).flat_map(|query| (0..length).map(move |key| !sees(query, key))).collect();
        Tensor::from_data(TensorData::new(values, [length, length]), device)
    }
}

/// softmax(Q Kᵀ · scale) V, every group of query heads on its key head; K and V are not repeated.
///
/// # Shapes
/// `query` [batch, heads, length, d], `key` and `value` [batch, kv heads, length, d], `hidden` [length, length], result
/// [batch, heads, length, d]. Memory grows with length².
pub fn attend(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, hidden: &Tensor<2, Bool>, scale: f64) -> Tensor<4> {
    let [batch, heads, length, width] = query.dims();
    let kv_heads = key.dims()[1];
    let group = heads / kv_heads;
    let grouped = query.mul_scalar(scale).reshape([batch, kv_heads, group * length, width]);
    let scores = matmul(grouped, key.swap_dims(2, 3)); // [batch, kv heads, group · query, key]
    let scores: Tensor<5> = scores.reshape([batch, kv_heads, group, length, length]);
    let hidden: Tensor<5, Bool> = hidden.clone().unsqueeze::<5>().expand([batch, kv_heads, group, length, length]);
    let weights = softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 4);
    let mixed = matmul(weights.reshape([batch, kv_heads, group * length, length]), value);
    mixed.reshape([batch, heads, length, width])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_two_sees_itself_and_the_token_before() {
        let hidden = Span::Sliding { window: 2 }.hidden(4, &Device::flex()).into_data();
        let seen: Vec<bool> = hidden.iter::<bool>().map(|hidden| !hidden).collect();
        let expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]].concat();
        assert_eq!(seen, expected.into_iter().map(|v| v == 1).collect::<Vec<_>>());
    }
}
