//! Attention that keeps its output and one number per query, and recomputes the weights in
//! backward: memory grows with the tokens, not with their square (Dao 2023, arXiv:2307.08691).
//!
//! A query sees one range of keys, so tiles outside a document, a window or the past are never
//! touched. `cpu` works on slices and GPUs have kernels; `portable` uses any backend's own
//! operations, and the tests compare with it.

mod backward;
mod cpu;
mod forward;
mod key_range;
#[cfg(test)]
mod portable;
mod score;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, Dispatch, TensorMetadata, backend_extension,
};
use burn::tensor::{Tensor, TensorData};

#[cfg(test)]
pub(crate) use cpu::in_tiles;
pub use key_range::SeenKeys;
pub(super) use key_range::Sizes;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(super) use key_range::{KeyRange, Tiles};
pub use score::Score;

use super::differentiate;

/// Computes softmax(score(Q Kᵀ)) V, every group of query heads with its key head (Vaswani et al.
/// 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245).
///
/// Query i of a row stands at key `keys - queries + i` and sees the keys of its `seen`, that one
/// among them.
///
/// # Shapes
/// `query` and the result [batch, queries, heads, d], `key` and `value` [batch, keys, kv heads, d],
/// `seen` [batch · queries].
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    seen: &Arc<[SeenKeys]>,
    score: Score,
) -> Tensor<4> {
    attention_with_sinks(query, key, value, seen, score, None)
}

/// Computes [`attention`] where every head also has a sink: a score, one number per head, that
/// takes its share of the softmax and has no value (Xiao et al. 2023, arXiv:2309.17453). It is a
/// constant.
pub fn attention_with_sinks(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    seen: &Arc<[SeenKeys]>,
    score: Score,
    sinks: Option<&Arc<[f32]>>,
) -> Tensor<4> {
    let [query, key, value] = [query, key, value].map(Tensor::into_dispatch);
    let (output, _) = <Dispatch as TiledAttention>::tiled_attention(
        query,
        key,
        value,
        seen.clone(),
        score,
        sinks.cloned(),
    );
    Tensor::from_dispatch(output)
}

/// Attention and its three gradients.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait TiledAttention: Backend {
    /// Computes [`attention_with_sinks`], and the logarithm of the sum of each query's
    /// exponentials, [batch, queries, heads].
    fn tiled_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        seen: Arc<[SeenKeys]>,
        score: Score,
        sinks: Option<Arc<[f32]>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Returns the gradients of `query`, `key` and `value`, given the results of forward and the
    /// gradient of its output.
    #[allow(
        clippy::too_many_arguments,
        reason = "the tensors of the mathematics, and the macro routes by tensors"
    )]
    fn tiled_attention_gradients(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        output: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        seen: Arc<[SeenKeys]>,
        score: Score,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Adds a sink s to each head: turns the output and the logarithms of its sums into O σ and L' =
/// log(e^L + e^s), with σ = e^(L - L'). Backward needs no more: its weights e^(S - L') and its D =
/// rowsum(dO ∘ O) are those of the softmax in which the sink has a value of 0.
fn with_sinks<B: Backend>(
    output: FloatTensor<B>,
    log_sums: FloatTensor<B>,
    sinks: Option<&[f32]>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let Some(sinks) = sinks else {
        return (output, log_sums);
    };
    let (device, [batch, queries, heads]) = (output.device(), log_sums.shape().dims());
    let sinks = TensorData::new(sinks.to_vec(), [1, 1, heads]);
    let sinks = B::float_expand(
        B::float_from_data(sinks, &device),
        [batch, queries, heads].into(),
    );
    // log(e^L + e^s) = s + log(1 + e^(L - s)), which neither number carries beyond what 32 bits
    // hold where it is said by the larger one.
    let apart = B::float_sub(log_sums.clone(), sinks.clone());
    let beyond = B::float_log1p(B::float_exp(B::float_neg(B::float_abs(apart.clone()))));
    let larger = B::float_add(sinks, B::float_clamp_min(apart, 0.0.into()));
    let joint = B::float_add(larger, beyond);
    let share = B::float_exp(B::float_sub(log_sums, joint.clone()));
    let share = B::float_cast(
        B::float_reshape(share, [batch, queries, heads, 1].into()),
        output.dtype().into(),
    );
    (B::float_mul(output, share), joint)
}

/// Returns the sizes of these tensors, and checks that there is one range of keys per query.
fn sizes<B: Backend>(query: &FloatTensor<B>, key: &FloatTensor<B>, seen: &[SeenKeys]) -> Sizes {
    let [batch, queries, heads, width] = query.shape().dims();
    let [_, keys, kv_heads, _] = key.shape().dims();
    assert_eq!(seen.len(), batch * queries, "one range of keys a query");
    Sizes {
        batch,
        queries,
        keys,
        heads,
        kv_heads,
        width,
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl TiledAttention for burn::backend::Cube {
    fn tiled_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        seen: Arc<[SeenKeys]>,
        score: Score,
        sinks: Option<Arc<[f32]>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let seen = KeyRange {
            sizes: sizes::<Self>(&query, &key, &seen),
            seen: &seen,
        };
        let (output, log_sums) = super::cube::attention::forward(query, key, value, &seen, score);
        with_sinks::<Self>(output, log_sums, sinks.as_deref())
    }

    fn tiled_attention_gradients(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        output: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        seen: Arc<[SeenKeys]>,
        score: Score,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let seen = KeyRange {
            sizes: sizes::<Self>(&query, &key, &seen),
            seen: &seen,
        };
        let given = super::cube::attention::Given {
            query,
            key,
            value,
            output,
            log_sums,
            gradient,
        };
        super::cube::attention::backward(given, &seen, score).into()
    }
}

/// The tensors that backward needs: Q, K, V, O and the logarithms of the sums.
type Kept<B> = ([FloatTensor<B>; 5], Arc<[SeenKeys]>, Score);

impl<B: Backend + TiledAttention, C: CheckpointStrategy> TiledAttention for Autodiff<B, C> {
    fn tiled_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        seen: Arc<[SeenKeys]>,
        score: Score,
        sinks: Option<Arc<[f32]>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [(query, of_query), (key, of_key), (value, of_value)] =
            [query, key, value].map(|tensor| tensor.into_parts());
        let (output, log_sums) = B::tiled_attention(
            query.clone(),
            key.clone(),
            value.clone(),
            seen.clone(),
            score,
            sinks,
        );
        let untracked = <Self as AutodiffBackend>::from_inner(log_sums.clone());
        let output = match AttentionBackward
            .prepare::<C>([of_query, of_key, of_value])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(
                ([query, key, value, output.clone(), log_sums], seen, score),
                output,
            ),
            OpsKind::UnTracked(prep) => prep.finish(output),
        };
        (output, untracked)
    }

    fn tiled_attention_gradients(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        output: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        seen: Arc<[SeenKeys]>,
        score: Score,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [query, key, value, output, log_sums, gradient] =
            [query, key, value, output, log_sums, gradient].map(|tensor| tensor.into_parts().0);
        let (dq, dk, dv) = B::tiled_attention_gradients(
            query, key, value, output, log_sums, gradient, seen, score,
        );
        let outer = <Self as AutodiffBackend>::from_inner;
        (outer(dq), outer(dk), outer(dv))
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: Backend + TiledAttention> Backward<B, 3> for AttentionBackward {
    type State = Kept<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        differentiate::<B, _, 3>(
            ops,
            grads,
            |([query, key, value, output, log_sums], seen, score), gradient| {
                B::tiled_attention_gradients(
                    query, key, value, output, log_sums, gradient, seen, score,
                )
                .into()
            },
        );
    }
}
