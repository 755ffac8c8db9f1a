//! The gated unit of a feed-forward in one pass, forward and backward: silu(g) ∘ u with silu(g) = g σ(g), Shazeer 2020, arXiv:2002.05202.
//!
//! As separate operations it is six passes over the widest tensors of a block on one thread, and keeps three of them.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::differentiate;
use super::exp::sigmoid;
use super::numbers::{PIECE, read, row_major, tensor, write};
use super::simd::vectorised;

/// silu(gate) ∘ up, elementwise.
///
/// # Shapes
/// `gate`, `up` and the result are alike.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as SwiGlu>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// The gated unit and its gradients.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait SwiGlu: Backend {
    /// See [`swiglu`].
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradients of `gate` and `up`, given that of the result.
    fn swiglu_gradients(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

vectorised! {
    fn forward<'a, A>(output: &'a mut [f32], gate: &'a [f32], up: &'a [f32]) {
        for ((output, g), u) in output.iter_mut().zip(gate).zip(up) {
            *output = g * sigmoid::<A>(*g) * u;
        }
    }

    /// In place: dG = dY ∘ u σ(g) (1 + g (1 - σ(g))), dU = dY ∘ silu(g).
    fn backward<'a, A>(gate: &'a mut [f32], up: &'a mut [f32], gradient: &'a [f32]) {
        for ((g, u), d) in gate.iter_mut().zip(up).zip(gradient) {
            let s = sigmoid::<A>(*g);
            let slope = s * A::multiply_add(*g, 1.0 - s, 1.0);
            (*g, *u) = (d * *u * slope, d * *g * s);
        }
    }
}

impl SwiGlu for Flex {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let (gate, up) = (row_major(gate), row_major(up));
        let mut output = vec![0.0; gate.shape().num_elements()];
        let pieces = output.par_chunks_mut(PIECE).zip(read(&gate).par_chunks(PIECE)).zip(read(&up).par_chunks(PIECE));
        pieces.for_each(|((output, gate), up)| forward(output, gate, up));
        tensor(output, gate.shape())
    }

    fn swiglu_gradients(
        mut gate: FloatTensor<Self>,
        mut up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let gradient = row_major(gradient);
        let of_both = write(&mut gate).par_chunks_mut(PIECE).zip(write(&mut up).par_chunks_mut(PIECE));
        of_both.zip(read(&gradient).par_chunks(PIECE)).for_each(|((gate, up), gradient)| backward(gate, up, gradient));
        (gate, up)
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl SwiGlu for burn::backend::Cube {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::<Self>(gate, up)
    }

    fn swiglu_gradients(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed_gradients::<Self>(gate, up, gradient)
    }
}

/// [`swiglu`] of a backend's own operations.
#[cfg(any(feature = "wgpu", feature = "cuda", test))]
fn composed<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(B::float_mul(gate.clone(), B::sigmoid(gate)), up)
}

/// The gradients of a backend's own operations.
#[cfg(any(feature = "wgpu", feature = "cuda", test))]
fn composed_gradients<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    gradient: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let sigmoid = B::sigmoid(gate.clone());
    let rest = B::float_add_scalar(B::float_neg(sigmoid.clone()), 1.0.into());
    let slope = B::float_mul(sigmoid, B::float_add_scalar(B::float_mul(gate.clone(), rest), 1.0.into()));
    (B::float_mul(B::float_mul(gradient.clone(), up), slope), composed::<B>(gate, gradient))
}

impl<B: Backend + SwiGlu, C: CheckpointStrategy> SwiGlu for Autodiff<B, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let is_tracked = gate.is_tracked() || up.is_tracked();
        let kept = is_tracked.then(|| (gate.primitive().clone(), up.primitive().clone()));
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let output = B::swiglu(gate, up);
        match SwiGluBackward.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(kept.expect("one of them is tracked"), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn swiglu_gradients(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let inner = |tensor: FloatTensor<Self>| tensor.into_primitive();
        let (of_gate, of_up) = B::swiglu_gradients(inner(gate), inner(up), inner(gradient));
        (<Self as AutodiffBackend>::from_inner(of_gate), <Self as AutodiffBackend>::from_inner(of_up))
    }
}

#[derive(Debug)]
struct SwiGluBackward;

impl<B: Backend + SwiGlu> Backward<B, 2> for SwiGluBackward {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        differentiate::<B, _, 2>(ops, grads, |(gate, up), gradient| B::swiglu_gradients(gate, up, gradient).into());
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::super::simd::at_every_level;
    use super::*;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|index| 8.0 * (step * index as f32).sin()).collect()
    }

    /// The result and the gradients of gate and up in f64.
    fn exact([gate, up, gradient]: [f32; 3]) -> [f64; 3] {
        let [g, u, d] = [gate, up, gradient].map(f64::from);
        let s = 1.0 / (1.0 + (-g).exp());
        [g * s * u, d * u * s * (1.0 + g * (1.0 - s)), d * g * s]
    }

    #[test]
    fn it_is_the_closed_form_with_its_gradients_at_every_level() {
        for count in [0, 1, 15, 16, 17, 1000] {
            let inputs = [0.37, 0.73, 1.1].map(|step| numbers(count, step));
            let of_levels = at_every_level(|| {
                let [mut gate, mut up, gradient] = inputs.clone();
                let mut output = vec![0.0; count];
                forward(&mut output, &gate, &up);
                backward(&mut gate, &mut up, &gradient);
                [output, gate, up]
            });
            for (which, index) in (0..3).flat_map(|which| (0..count).map(move |index| (which, index))) {
                let exact = exact(inputs.each_ref().map(|numbers| numbers[index]))[which];
                for ours in &of_levels {
                    let ours = f64::from(ours[which][index]);
                    // 1 - σ(g) has lost what σ(g) is rounded by.
                    assert!((ours - exact).abs() <= 1e-6 * exact.abs() + 2e-5, "{ours}, expected {exact}");
                }
            }
        }
    }

    #[test]
    fn backward_is_wired_to_forward_and_repeats_bit_for_bit() {
        let device = Device::flex();
        let [gate, up, weight] =
            [0.37, 0.73, 1.1].map(|step| Tensor::<3>::from_data(TensorData::new(numbers(40_000, step), [2, 100, 200]), &device));
        let run = || {
            let [gate, up] = [&gate, &up].map(|tensor| tensor.clone().autodiff().require_grad());
            let output = swiglu(gate.clone(), up.clone());
            let gradients = (output.clone() * weight.clone()).sum().backward();
            let all = [output.inner(), gate.grad(&gradients).expect("tracked"), up.grad(&gradients).expect("tracked")];
            all.map(|tensor| tensor.into_data().try_to_vec::<f32>().expect("f32"))
        };
        let (first, inputs) = (run(), [&gate, &up, &weight].map(|tensor| tensor.to_data().try_to_vec::<f32>().expect("f32")));
        assert_eq!(first, run());
        for index in 0..40_000 {
            let exact = exact(inputs.each_ref().map(|numbers| numbers[index]));
            for (ours, exact) in first.each_ref().map(|numbers| f64::from(numbers[index])).into_iter().zip(exact) {
                assert!((ours - exact).abs() <= 1e-6 * exact.abs() + 2e-5, "{ours}, expected {exact}");
            }
        }
    }

    #[test]
    fn the_composed_form_is_the_same() {
        let [gate, up, gradient] = [0.37, 0.73, 1.1].map(|step| tensor(numbers(1000, step), [1000].into()));
        let (ours, theirs) = (Flex::swiglu(gate.clone(), up.clone()), composed::<Flex>(gate.clone(), up.clone()));
        let (our_gradients, their_gradients) =
            (Flex::swiglu_gradients(gate.clone(), up.clone(), gradient.clone()), composed_gradients::<Flex>(gate, up, gradient));
        for (ours, theirs) in [(ours, theirs), (our_gradients.0, their_gradients.0), (our_gradients.1, their_gradients.1)] {
            assert!(
                read(&ours).iter().zip(read(&theirs)).all(|(ours, theirs)| (ours - theirs).abs() <= 1e-5 + 1e-5 * theirs.abs())
            );
        }
    }
}
