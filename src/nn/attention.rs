//! Causal attention over grouped heads, Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245.

use std::ops::Range;

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
    /// True where a query must not look, [queries, keys]. The queries are the tokens at these positions, the keys are the tokens
    /// from the first that one of them sees to the last of them.
    ///
    /// Rows are padded on the right, so the causal mask hides padding from every real query; what a padded query sees is
    /// never used.
    pub fn hidden(self, queries: Range<usize>, device: &Device) -> Tensor<2, Bool> {
        let keys = self.first_seen(queries.start)..queries.end;
        let shape = [queries.len(), keys.len()];
        let of_query = |query: usize| keys.clone().map(move |key| key > query || key < self.first_seen(query));
        let values: Vec<bool> = queries.flat_map(of_query).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// The position of the earliest token that a query sees.
    pub fn first_seen(self, query: usize) -> usize {
        match self {
            Self::Full => 0,
            Self::Sliding { window } => (query + 1).saturating_sub(window),
        }
    }
}

/// softmax(Q Kᵀ · scale) V, every group of query heads on its key head; K and V are not repeated.
///
/// # Shapes
/// `query` [batch, heads, queries, d], `key` and `value` [batch, kv heads, keys, d], `hidden` [queries, keys], result
/// [batch, heads, queries, d]. Memory grows with queries · keys.
pub fn attend(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, hidden: &Tensor<2, Bool>, scale: f64) -> Tensor<4> {
    let [batch, heads, queries, width] = query.dims();
    let [_, kv_heads, keys, _] = key.dims();
    let group = heads / kv_heads;
    let grouped = query.mul_scalar(scale).reshape([batch, kv_heads, group * queries, width]);
    let scores = matmul(grouped, key.swap_dims(2, 3)); // [batch, kv heads, group · query, key]
    let scores: Tensor<5> = scores.reshape([batch, kv_heads, group, queries, keys]);
    let hidden: Tensor<5, Bool> = hidden.clone().unsqueeze::<5>().expand([batch, kv_heads, group, queries, keys]);
    let weights = softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 4);
    let mixed = matmul(weights.reshape([batch, kv_heads, group * queries, keys]), value);
    mixed.reshape([batch, heads, queries, width])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(span: Span, queries: Range<usize>) -> (Vec<usize>, Vec<u8>) {
        let hidden = span.hidden(queries, &Device::flex());
        (hidden.dims().to_vec(), hidden.into_data().iter::<bool>().map(|hidden| u8::from(!hidden)).collect())
    }

    #[test]
    fn a_window_of_two_sees_itself_and_the_token_before() {
        let expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]].concat();
        assert_eq!(seen(Span::Sliding { window: 2 }, 0..4), (vec![4, 4], expected));
    }

    #[test]
    fn later_queries_come_with_the_keys_that_they_see() {
        assert_eq!(seen(Span::Full, 2..4), (vec![2, 4], [[1, 1, 1, 0], [1, 1, 1, 1]].concat()));
        assert_eq!(seen(Span::Sliding { window: 2 }, 2..4), (vec![2, 3], [[1, 1, 0], [0, 1, 1]].concat()));
        assert_eq!(seen(Span::Sliding { window: 9 }, 2..3), (vec![1, 3], vec![1, 1, 1]));
    }
}
