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
    /// For queries at these places of a document, the index of the first key that each sees. The keys begin, at index `start`, with the
    /// first that one of the queries sees.
    pub fn first_keys(self, queries: Range<usize>, start: usize) -> impl Iterator<Item = u32> {
        let left_out = self.first_seen(queries.start);
        queries.map(move |query| (start + self.first_seen(query) - left_out) as u32)
    }

    /// The position of the earliest token that a query sees.
    pub fn first_seen(self, query: usize) -> usize {
        match self {
            Self::Full => 0,
            Self::Sliding { window } => (query + 1).saturating_sub(window),
        }
    }
}

/// softmax(Q Kᵀ · scale) V, every group of query heads on its key head; K and V are not repeated. Query i stands at key
/// `keys - queries + i` and sees the keys from `first[i]` to there.
///
/// # Shapes
/// `query` [1, heads, queries, d], `key` and `value` [1, kv heads, keys, d], `first` [queries], result [1, heads, queries, d]. Memory
/// grows with queries · keys of a document.
pub fn attend(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, first: &[u32], scale: f64) -> Tensor<4> {
    let starts = starts(first, key.dims()[2]);
    if starts.len() == 1 {
        return attend_within(query, key, value, first, scale);
    }
    let ends = starts.iter().skip(1).copied().chain([first.len()]);
    let each = starts.iter().zip(ends).map(|(start, end)| {
        let [query, key, value] = [&query, &key, &value].map(|of| of.clone().narrow(2, *start, end - start));
        let first: Vec<u32> = first[*start..end].iter().map(|key| key - *start as u32).collect();
        attend_within(query, key, value, &first, scale)
    });
    Tensor::cat(each.collect(), 2)
}

/// Where runs of queries begin that see nothing of one another: documents, or pieces of them. Queries that follow on a cache are of one.
fn starts(first: &[u32], keys: usize) -> Vec<usize> {
    let is_whole = keys == first.len();
    (0..first.len()).filter(|query| if is_whole { first[*query] as usize == *query } else { *query == 0 }).collect()
}

/// [`attend`] of one document.
fn attend_within(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, first: &[u32], scale: f64) -> Tensor<4> {
    let [batch, heads, queries, width] = query.dims();
    let [_, kv_heads, keys, _] = key.dims();
    let group = heads / kv_heads;
    let hidden = hidden(first, keys, &query.device());
    let grouped = query.mul_scalar(scale).reshape([batch, kv_heads, group * queries, width]);
    let scores = matmul(grouped, key.swap_dims(2, 3)); // [batch, kv heads, group · query, key]
    let scores: Tensor<5> = scores.reshape([batch, kv_heads, group, queries, keys]);
    let hidden: Tensor<5, Bool> = hidden.unsqueeze::<5>().expand([batch, kv_heads, group, queries, keys]);
    let weights = softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 4);
    let mixed = matmul(weights.reshape([batch, kv_heads, group * queries, keys]), value);
    mixed.reshape([batch, heads, queries, width])
}

/// True where a query must not look, [queries, keys].
fn hidden(first: &[u32], keys: usize, device: &Device) -> Tensor<2, Bool> {
    let before = keys - first.len();
    let of_query = |(query, first): (usize, &u32)| {
        let seen = *first as usize..=before + query;
        (0..keys).map(move |key| !seen.contains(&key))
    };
    let values: Vec<bool> = first.iter().enumerate().flat_map(of_query).collect();
    Tensor::from_data(TensorData::new(values, [first.len(), keys]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(span: Span, queries: Range<usize>) -> (Vec<usize>, Vec<u8>) {
        let keys = queries.end - span.first_seen(queries.start);
        let hidden = hidden(&span.first_keys(queries, 0).collect::<Vec<_>>(), keys, &Device::flex());
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

    #[test]
    fn a_window_ends_where_the_document_begins() {
        let first = |span: Span| [span.first_keys(0..3, 0), span.first_keys(0..4, 3)].into_iter().flatten().collect::<Vec<u32>>();
        assert_eq!(first(Span::Full), [0, 0, 0, 3, 3, 3, 3]);
        assert_eq!(first(Span::Sliding { window: 2 }), [0, 0, 1, 3, 3, 4, 5]);
        assert_eq!(starts(&first(Span::Sliding { window: 2 }), 7), [0, 3]);
    }

    #[test]
    fn a_document_is_read_as_if_it_were_alone() {
        let numbers = |shape: [usize; 4], seed: f32| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|index| (seed * index as f32).sin()).collect();
            Tensor::<4>::from_data(TensorData::new(values, shape), &Device::flex())
        };
        let [query, key, value] =
            [([1, 4, 9, 8], 0.37), ([1, 2, 9, 8], 0.73), ([1, 2, 9, 8], 1.1)].map(|(s, seed)| numbers(s, seed));
        for span in [Span::Full, Span::Sliding { window: 3 }] {
            let first: Vec<u32> =
                [(5, 0), (1, 5), (3, 6)].into_iter().flat_map(|(length, start)| span.first_keys(0..length, start)).collect();
            let packed = attend(query.clone(), key.clone(), value.clone(), &first, 0.5);
            for (start, length) in [(0, 5), (5, 1), (6, 3)] {
                let [query, key, value] = [&query, &key, &value].map(|of| of.clone().narrow(2, start, length));
                let first: Vec<u32> = span.first_keys(0..length, 0).collect();
                let alone = attend(query, key, value, &first, 0.5);
                packed.clone().narrow(2, start, length).into_data().assert_eq(&alone.into_data(), true);
            }
            // What a mask over all of it gives.
            let masked = attend_within(query.clone(), key.clone(), value.clone(), &first, 0.5);
            packed.into_data().assert_approx_eq::<f32>(&masked.into_data(), burn::tensor::Tolerance::rel_abs(1e-5, 1e-6));
        }
    }
}
