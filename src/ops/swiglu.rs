//! The gated unit of a feed-forward in one pass, forward and backward: silu(g) ∘ u with silu(g) = g σ(g), Shazeer 2020, arXiv:2002.05202.
//!
//! As separate operations it is six passes over the widest tensors of a block on one thread, and keeps three of them.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::exp::sigmoid;
use super::simd::Separate;

/// Numbers that a thread takes at a time.
const PIECE: usize = 1 << 14;

/// silu(gate) ∘ up, elementwise.
///
/// # Shapes
/// `gate`, `up` and the result are alike.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as SwiGlu>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// The gated unit and the two gradients of it.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait SwiGlu: Backend {
    /// See [`swiglu`].
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradient of `gate`, given that of the result.
    fn swiglu_gate(gate: FloatTensor<Self>, up: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// d silu(g) / dg = σ(g) (1 + g (1 - σ(g))).
fn slope(g: f32) -> f32 {
    let s = sigmoid::<Separate>(g);
    s * (1.0 + g * (1.0 - s))
}

impl SwiGlu for Flex {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        each(gate, [up], |g, [u]| g * sigmoid::<Separate>(g) * u)
    }

    fn swiglu_gate(gate: FloatTensor<Self>, up: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        each(gate, [up, gradient], |g, [u, d]| d * u * slope(g))
    }
}

/// One number from those of several tensors at the same place.
fn each<const N: usize>(
    first: FloatTensor<Flex>,
    others: [FloatTensor<Flex>; N],
    of: impl Fn(f32, [f32; N]) -> f32 + Sync,
) -> FloatTensor<Flex> {
    let device = first.device();
    let (first, others) = (first.into_data(), others.map(|other| other.into_data()));
    let others: [&[f32]; N] = others.each_ref().map(|other| other.as_slice().expect("activations are f32 on the CPU"));
    let numbers = first.as_slice::<f32>().expect("activations are f32 on the CPU");
    let mut output = vec![0.0; numbers.len()];
    output.par_chunks_mut(PIECE).enumerate().for_each(|(piece, output)| {
        let place = piece * PIECE..piece * PIECE + output.len();
        let (numbers, others) = (&numbers[place.clone()], others.map(|other| &other[place.clone()]));
        for (index, output) in output.iter_mut().enumerate() {
            *output = of(numbers[index], others.map(|other| other[index]));
        }
    });
    Flex::float_from_data(TensorData::new(output, first.shape().clone()), &device)
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl SwiGlu for burn::backend::Cube {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::<Self>(gate, up)
    }

    fn swiglu_gate(gate: FloatTensor<Self>, up: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        composed_gate::<Self>(gate, up, gradient)
    }
}

/// [`swiglu`] of a backend's own operations.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn composed<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(B::float_mul(gate.clone(), B::sigmoid(gate)), up)
}

/// The gradient of `gate` of a backend's own operations.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn composed_gate<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>, gradient: FloatTensor<B>) -> FloatTensor<B> {
    let sigmoid = B::sigmoid(gate.clone());
    let rest = B::float_add_scalar(B::float_neg(sigmoid.clone()), 1.0.into());
    let slope = B::float_mul(sigmoid, B::float_add_scalar(B::float_mul(gate, rest), 1.0.into()));
    B::float_mul(B::float_mul(gradient, up), slope)
}

impl<B: Backend + SwiGlu, C: CheckpointStrategy> SwiGlu for Autodiff<B, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let kept = (gate.primitive().clone(), up.primitive().clone());
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let output = B::swiglu(gate, up);
        match SwiGluBackward.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(kept, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn swiglu_gate(gate: FloatTensor<Self>, up: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let inner = |tensor: FloatTensor<Self>| tensor.into_parts().0;
        <Self as AutodiffBackend>::from_inner(B::swiglu_gate(inner(gate), inner(up), inner(gradient)))
    }
}

#[derive(Debug)]
struct SwiGluBackward;

impl<B: Backend + SwiGlu> Backward<B, 2> for SwiGluBackward {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (gate, up) = ops.state;
        let of_up = gate.clone();
        binary::<B, _, _>(ops.parents, ops.node, grads, |grad| B::swiglu_gate(gate, up, grad), |grad| B::swiglu(of_up, grad));
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation::silu;
    use burn::tensor::{Device, Tolerance};

    use super::*;

    #[test]
    fn it_is_silu_times_up_with_their_gradients() {
        let device = Device::flex();
        let numbers = |seed: f32| (0..40_000).map(|index| 8.0 * (seed * index as f32).sin()).collect::<Vec<f32>>();
        let [gate, up, weight] =
            [0.37, 0.73, 1.1].map(|seed| Tensor::<3>::from_data(TensorData::new(numbers(seed), [2, 100, 200]), &device));
        let run = |of: fn(Tensor<3>, Tensor<3>) -> Tensor<3>| {
            let [gate, up] = [&gate, &up].map(|tensor| tensor.clone().autodiff().require_grad());
            let output = of(gate.clone(), up.clone());
            let gradients = (output.clone() * weight.clone()).sum().backward();
            [output.inner(), gate.grad(&gradients).expect("tracked"), up.grad(&gradients).expect("tracked")]
        };
        for (ours, theirs) in run(swiglu).into_iter().zip(run(|gate, up| silu(gate) * up)) {
            ours.into_data().assert_approx_eq::<f32>(&theirs.into_data(), Tolerance::rel_abs(1e-5, 1e-5));
        }
    }
}
