//! Dropout with a mask that is a function of the data, not of a random stream.
//!
//! A mask is a counter hash of (seed, epoch, row, token in its document, layer, projection group,
//! feature). It is recomputed in backward and never stored, so micro-batching, packing and
//! recomputation change nothing.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::keyed_random::{mix, unit};

/// The choice of dropped features for each token.
#[derive(Debug, Clone)]
pub struct Mask {
    /// One key per token, made from seed, epoch, row and place in the document.
    pub tokens: Arc<[u64]>,
    /// Layer and projection group: projections that share an input share the mask.
    pub site: u64,
    /// Probability with which a feature is zeroed, in [0, 1).
    pub probability: f64,
}

impl Mask {
    /// Returns the mask of some of the tokens.
    pub(super) fn of(&self, tokens: Range<usize>) -> Self {
        if tokens.len() == self.tokens.len() {
            self.clone()
        } else {
            Self {
                tokens: self.tokens[tokens].into(),
                ..*self
            }
        }
    }

    /// Returns the mask of rows each of which is one of the tokens, such as the rows of experts.
    #[must_use]
    pub fn gathered(&self, tokens: impl Iterator<Item = usize>) -> Self {
        Self {
            tokens: tokens.map(|token| self.tokens[token]).collect(),
            ..*self
        }
    }

    /// Returns the factor of features that are kept.
    pub(super) fn kept(&self) -> f32 {
        (1.0 / (1.0 - self.probability)) as f32
    }

    /// Returns the key of each token's first feature.
    pub(super) fn keys(&self) -> impl Iterator<Item = u64> {
        self.tokens.iter().map(|token| mix(token ^ mix(self.site)))
    }

    /// Returns 0 where a feature is dropped and 1 / (1 - p) elsewhere, [tokens, features] row by
    /// row.
    fn values(&self, features: usize) -> Vec<f32> {
        let (kept, keys) = (self.kept(), self.keys().collect::<Vec<u64>>());
        let mut values = vec![0.0f32; self.tokens.len() * features];
        values
            .par_chunks_mut(features.max(1))
            .zip(keys)
            .for_each(|(row, key)| {
                for (feature, value) in row.iter_mut().enumerate() {
                    if unit(key.wrapping_add(feature as u64)) >= self.probability {
                        *value = kept;
                    }
                }
            });
        values
    }
}

/// Drops features of x and scales the rest by 1 / (1 - p), Srivastava et al. 2014.
///
/// # Shapes
/// `x` [tokens, features] with as many tokens as the mask has.
pub fn dropout(x: Tensor<2>, mask: &Mask) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as KeyedDropout>::keyed_dropout(
        x.into_dispatch(),
        mask.clone(),
    ))
}

/// Dropout with a keyed mask.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait KeyedDropout: Backend {
    /// See [`dropout`].
    fn keyed_dropout(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self>;
}

impl KeyedDropout for Flex {
    fn keyed_dropout(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self> {
        masked::<Self>(x, &mask)
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl KeyedDropout for burn::backend::Cube {
    fn keyed_dropout(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self> {
        super::cube::dropout::dropout(x, &mask)
    }
}

impl<B: Backend + KeyedDropout, C: CheckpointStrategy> KeyedDropout for Autodiff<B, C> {
    fn keyed_dropout(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let output = B::keyed_dropout(x, mask.clone());
        match DropoutBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(mask, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}

/// The backward: dX = dY with the same mask, recomputed from its key.
#[derive(Debug)]
struct DropoutBackward;

impl<B: Backend + KeyedDropout> Backward<B, 1> for DropoutBackward {
    type State = Mask;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        unary::<B, _>(ops.parents, ops.node, grads, |grad| {
            B::keyed_dropout(grad, ops.state)
        });
    }
}

fn masked<B: Backend>(x: FloatTensor<B>, mask: &Mask) -> FloatTensor<B> {
    let shape = x.shape();
    let features = *shape.iter().next_back().expect("x has two dimensions");
    let values = TensorData::new(mask.values(features), shape);
    let values = B::float_cast(B::float_from_data(values, &x.device()), x.dtype().into());
    B::float_mul(x, values)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn mask(tokens: &[u64]) -> Mask {
        Mask {
            tokens: tokens.into(),
            site: 3,
            probability: 0.25,
        }
    }

    #[test]
    fn a_token_keeps_its_mask_wherever_it_stands() {
        let (both, one) = (mask(&[5, 9]).values(64), mask(&[9]).values(64));
        assert_eq!(both[64..], one);
        assert_ne!(both[..64], one);
    }

    #[test]
    fn the_share_of_dropped_features_and_the_scale_are_right() {
        let values = mask(&(0..1000).collect::<Vec<_>>()).values(100);
        let dropped = values.iter().filter(|v| **v == 0.0).count();
        assert!((24_000..26_000).contains(&dropped), "{dropped} of 100000");
        assert!(
            values
                .iter()
                .all(|v| *v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-6)
        );
    }

    #[test]
    fn backward_uses_the_mask_of_forward() {
        let x = Tensor::<2>::ones([2, 8], &Device::flex())
            .autodiff()
            .require_grad();
        let y = dropout(x.clone(), &mask(&[1, 2]));
        let forward = y.clone().inner().into_data();
        let gradients = y.sum().backward();
        x.grad(&gradients)
            .expect("tracked")
            .into_data()
            .assert_eq(&forward, true);
    }
}
