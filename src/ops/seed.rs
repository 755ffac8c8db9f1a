//! Backward from a known gradient, which starts the tape of a block.
//!
//! A tape starts at a number. The usual number, the sum of output ∘ gradient, takes two passes over
//! the output, and two more in backward.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

use super::differentiate;

/// Returns the gradients of everything tracked that `output` depends on, given that of `output`,
/// which is untracked.
///
/// # Shapes
/// `output` and `gradient` have the same shape.
pub fn backward_from<const D: usize>(
    output: Tensor<D>,
    gradient: Tensor<D>,
) -> burn::tensor::Gradients {
    root_of(output, gradient).backward()
}

/// Returns a zero, [1], whose backward gives `gradient` to `output`. The backward of a sum of such
/// goes back from all of their outputs at once.
pub fn root_of<const D: usize>(output: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    let root = <Dispatch as Seed>::seed(output.into_dispatch(), gradient.into_dispatch());
    Tensor::<1>::from_dispatch(root)
}

/// The root of a tape.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait Seed: Backend {
    /// Returns a zero, [1], whose backward gives `gradient` to `output`, whatever its own gradient
    /// is. Only [`root_of`] uses it.
    fn seed(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Seed for Flex {
    fn seed(output: FloatTensor<Self>, _gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        zero::<Self>(&output)
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Seed for burn::backend::Cube {
    fn seed(output: FloatTensor<Self>, _gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        zero::<Self>(&output)
    }
}

fn zero<B: Backend>(like: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_zeros([1].into(), &like.device(), like.dtype().into())
}

impl<B: Backend + Seed, C: CheckpointStrategy> Seed for Autodiff<B, C> {
    fn seed(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let (root, (_, node)) = (zero::<B>(output.primitive()), output.into_parts());
        match SeedBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(gradient.into_primitive(), root),
            OpsKind::UnTracked(prep) => prep.finish(root),
        }
    }
}

#[derive(Debug)]
struct SeedBackward;

impl<B: Backend> Backward<B, 1> for SeedBackward {
    type State = FloatTensor<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        differentiate::<B, _, 1>(ops, grads, |gradient, _| [gradient]);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn gradients_are_those_of_the_sum_of_products() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device);
        let gradient = Tensor::<2>::from_data([[0.5, -1.0], [2.0, 0.25]], &device);
        let of = |backward: fn(Tensor<2>, Tensor<2>) -> burn::tensor::Gradients| {
            let leaf = x.clone().autodiff().require_grad();
            let gradients = backward(leaf.clone() * leaf.clone() + leaf.clone(), gradient.clone());
            leaf.grad(&gradients).expect("tracked").into_data()
        };
        of(backward_from).assert_eq(
            &of(|output, gradient| (output * gradient).sum().backward()),
            true,
        );
    }
}
