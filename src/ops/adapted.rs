//! A frozen linear map with its low-rank adapter, y = x W + s · drop(x) A B, as one operation with a backward of its own.
//!
//! The adapter's product is added while a tile of y is in the cache, in backward too, and the tape keeps x and the narrow s · drop(x) A
//! only.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use super::dropout::{KeyedDropout, Mask};
use super::product::{Product, ProductSum};

/// The adapter of a linear map.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// [in, r].
    pub a: Tensor<2>,
    /// [r, out].
    pub b: Tensor<2>,
    /// What the product is multiplied by.
    pub scale: f64,
}

/// x W + scale · drop(x) A B, Hu et al. 2021, arXiv:2106.09685. W is a constant: no gradient of it is made.
///
/// # Shapes
/// `x` [tokens, in], `weight` [in, out], result [tokens, out]; a mask has as many tokens.
pub fn adapted(x: Tensor<2>, weight: Tensor<2>, adapter: Adapter, mask: Option<&Mask>) -> Tensor<2> {
    let Adapter { a, b, scale } = adapter;
    let [x, weight, a, b] = [x, weight, a, b].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Adapted>::adapted(x, weight, a, b, scale, mask.cloned()))
}

/// A linear map with an adapter.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait Adapted: Backend {
    /// See [`adapted`].
    fn adapted(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        mask: Option<Mask>,
    ) -> FloatTensor<Self>;
}

impl Adapted for Flex {
    fn adapted(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        mask: Option<Mask>,
    ) -> FloatTensor<Self> {
        let narrow = narrowed::<Self>(x.clone(), a, scale, mask);
        Self::product_sum([x, narrow], [weight, b])
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Adapted for burn::backend::Cube {
    fn adapted(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        mask: Option<Mask>,
    ) -> FloatTensor<Self> {
        let narrow = narrowed::<Self>(x.clone(), a, scale, mask);
        Self::product_sum([x, narrow], [weight, b])
    }
}

/// s · drop(x) A, [tokens, r]: the scale goes where the tensor is narrow.
fn narrowed<B: Product + KeyedDropout>(x: FloatTensor<B>, a: FloatTensor<B>, scale: f64, mask: Option<Mask>) -> FloatTensor<B> {
    B::float_mul_scalar(B::product(dropped::<B>(x, mask), a), scale.into())
}

fn dropped<B: KeyedDropout>(x: FloatTensor<B>, mask: Option<Mask>) -> FloatTensor<B> {
    match mask {
        Some(mask) => B::keyed_dropout(x, mask),
        None => x,
    }
}

/// What backward needs: x, and what is small or constant.
#[derive(Debug, Clone)]
struct Kept<B: Backend> {
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    narrow: FloatTensor<B>,
    scale: f64,
    mask: Option<Mask>,
}

impl<B: Backend + Adapted + ProductSum + KeyedDropout, C: CheckpointStrategy> Adapted for Autodiff<B, C> {
    fn adapted(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        mask: Option<Mask>,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (weight, _)) = (x.into_parts(), weight.into_parts());
        let ((a, a_node), (b, b_node)) = (a.into_parts(), b.into_parts());
        let narrow = narrowed::<B>(x.clone(), a.clone(), scale, mask.clone());
        let output = B::product_sum([x.clone(), narrow.clone()], [weight.clone(), b.clone()]);
        match AdaptedBackward.prepare::<C>([x_node, a_node, b_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(Kept::<B> { x, weight, a, b, narrow, scale, mask }, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}

/// With h = s · drop(x) A and u = s · dY Bᵀ: dB = hᵀ dY, dA = drop(x)ᵀ u, dX = dY Wᵀ + drop'(u Aᵀ).
#[derive(Debug)]
struct AdaptedBackward;

impl<B: ProductSum + KeyedDropout> Backward<B, 3> for AdaptedBackward {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let Kept { x, weight, a, b, narrow, scale, mask } = ops.state;
        let [x_node, a_node, b_node] = ops.parents;
        let turned = |tensor| B::float_transpose(tensor);
        let gradient = grads.consume::<B>(&ops.node);
        if let Some(node) = b_node {
            grads.register::<B>(node.id, B::product(turned(narrow), gradient.clone()));
        }
        let narrow = B::float_mul_scalar(B::product(gradient.clone(), turned(b)), scale.into()); // [tokens, r]
        if let Some(node) = a_node {
            grads.register::<B>(node.id, B::product(turned(dropped::<B>(x, mask.clone())), narrow.clone()));
        }
        let Some(node) = x_node else { return };
        let of_x = match mask {
            None => B::product_sum([gradient, narrow], [turned(weight), turned(a)]),
            Some(mask) => {
                let through_adapter = B::keyed_dropout(B::product(narrow, turned(a)), mask);
                B::float_add(B::product(gradient, turned(weight)), through_adapter)
            }
        };
        grads.register::<B>(node.id, of_x);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::super::{dropout, matmul};
    use super::*;
    use crate::draws::{mix, unit};

    fn drawn(seed: u64, shape: [usize; 2]) -> Tensor<2> {
        let numbers = (0..(shape[0] * shape[1]) as u64).map(|index| unit(mix(seed ^ mix(index))) as f32 - 0.5);
        Tensor::from_data(burn::tensor::TensorData::new(numbers.collect(), shape), &Device::flex())
    }

    #[test]
    fn it_is_the_composition_of_its_parts_and_so_are_its_gradients() {
        let mask = Mask { tokens: (0..9).collect(), site: 1, probability: 0.3 };
        for mask in [None, Some(&mask)] {
            let leaves = || [drawn(1, [9, 20]), drawn(2, [20, 3]), drawn(3, [3, 33])].map(|leaf| leaf.autodiff().require_grad());
            let (weight, gradient) = (drawn(4, [20, 33]), drawn(5, [9, 33]));
            let [x, a, b] = leaves();
            let y = adapted(x.clone(), weight.clone(), Adapter { a: a.clone(), b: b.clone(), scale: 1.7 }, mask);
            let [x2, a2, b2] = leaves();
            let dropped = mask.map_or(x2.clone(), |mask| dropout(x2.clone(), mask));
            let composed = matmul(x2.clone(), weight) + matmul(matmul(dropped, a2.clone()).mul_scalar(1.7), b2.clone());
            let close = |one: Tensor<2>, other: Tensor<2>| {
                one.into_data().assert_approx_eq::<f32>(&other.into_data(), Tolerance::absolute(2e-6));
            };
            close(y.clone().inner(), composed.clone().inner());
            let gradients = [(y * gradient.clone()).sum().backward(), (composed * gradient).sum().backward()];
            for (one, other) in [(x, x2), (a, a2), (b, b2)] {
                close(one.grad(&gradients[0]).expect("a leaf"), other.grad(&gradients[1]).expect("a leaf"));
            }
        }
    }
}
