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
use super::numbers::{piece_of_rows, read, row_major, tensor, write};
#[cfg(test)]
use super::product::columns_of;
use super::simd::vectorised;

/// silu(gate) ∘ up of rows in which gate and up lie side by side, as one product gives them.
///
/// # Shapes
/// `gate_up` [rows, 2 · inner], result [rows, inner].
pub fn swiglu(gate_up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as SwiGlu>::swiglu(gate_up.into_dispatch()))
}

/// The gated unit and its gradients.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait SwiGlu: Backend {
    /// See [`swiglu`].
    fn swiglu(gate_up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradient of `gate_up`, given that of the result.
    fn swiglu_gradient(gate_up: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

vectorised! {
    fn forward_row<'a, A>(output: &'a mut [f32], gate: &'a [f32], up: &'a [f32]) {
        for ((output, g), u) in output.iter_mut().zip(gate).zip(up) {
            *output = g * sigmoid::<A>(*g) * u;
        }
    }

    /// In place: dG = dY ∘ u σ(g) (1 + g (1 - σ(g))), dU = dY ∘ silu(g).
    fn backward_row<'a, A>(gate: &'a mut [f32], up: &'a mut [f32], gradient: &'a [f32]) {
        for ((g, u), d) in gate.iter_mut().zip(up).zip(gradient) {
            let s = sigmoid::<A>(*g);
            let slope = s * A::multiply_add(*g, 1.0 - s, 1.0);
            (*g, *u) = (d * *u * slope, d * *g * s);
        }
    }
}

// A row at a time: the halves of a row are known not to overlap only where they are arguments of a loop's own function, and a loop over
// what may overlap is not vectorised.

fn forward(output: &mut [f32], gate_up: &[f32], inner: usize) {
    for (output, gate_up) in output.chunks_exact_mut(inner).zip(gate_up.chunks_exact(2 * inner)) {
        let (gate, up) = gate_up.split_at(inner);
        forward_row(output, gate, up);
    }
}

fn backward(gate_up: &mut [f32], gradient: &[f32], inner: usize) {
    for (gate_up, gradient) in gate_up.chunks_exact_mut(2 * inner).zip(gradient.chunks_exact(inner)) {
        let (gate, up) = gate_up.split_at_mut(inner);
        backward_row(gate, up, gradient);
    }
}

impl SwiGlu for Flex {
    fn swiglu(gate_up: FloatTensor<Self>) -> FloatTensor<Self> {
        let gate_up = row_major(gate_up);
        let [rows, width] = gate_up.shape().dims();
        let inner = width / 2;
        let (mut output, piece) = (vec![0.0; rows * inner], piece_of_rows(inner));
        let pieces = output.par_chunks_mut(piece).zip(read(&gate_up).par_chunks(2 * piece));
        pieces.for_each(|(output, gate_up)| forward(output, gate_up, inner));
        tensor(output, [rows, inner].into())
    }

    fn swiglu_gradient(mut gate_up: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let gradient = row_major(gradient);
        let inner = gradient.shape()[1];
        let piece = piece_of_rows(inner);
        let pieces = write(&mut gate_up).par_chunks_mut(2 * piece).zip(read(&gradient).par_chunks(piece));
        pieces.for_each(|(gate_up, gradient)| backward(gate_up, gradient, inner));
        gate_up
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl SwiGlu for burn::backend::Cube {
    fn swiglu(gate_up: FloatTensor<Self>) -> FloatTensor<Self> {
        super::cube::swiglu::forward(gate_up)
    }

    fn swiglu_gradient(gate_up: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        super::cube::swiglu::backward(gate_up, gradient)
    }
}

/// Gate and up.
#[cfg(test)]
fn halves<B: Backend>(gate_up: &FloatTensor<B>) -> [FloatTensor<B>; 2] {
    let width = gate_up.shape()[1];
    [0..width / 2, width / 2..width].map(|columns| columns_of::<B>(gate_up, columns))
}

/// [`swiglu`] of a backend's own operations.
#[cfg(test)]
fn composed<B: Backend>(gate_up: &FloatTensor<B>) -> FloatTensor<B> {
    let [gate, up] = halves::<B>(gate_up);
    silu_times::<B>(gate, up)
}

#[cfg(test)]
fn silu_times<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(B::float_mul(gate.clone(), B::sigmoid(gate)), up)
}

/// The gradient of a backend's own operations.
#[cfg(test)]
fn composed_gradient<B: Backend>(gate_up: &FloatTensor<B>, gradient: FloatTensor<B>) -> FloatTensor<B> {
    let [gate, up] = halves::<B>(gate_up);
    let sigmoid = B::sigmoid(gate.clone());
    let rest = B::float_add_scalar(B::float_neg(sigmoid.clone()), 1.0.into());
    let slope = B::float_mul(sigmoid, B::float_add_scalar(B::float_mul(gate.clone(), rest), 1.0.into()));
    let of_gate = B::float_mul(B::float_mul(gradient.clone(), up), slope);
    B::float_cat(vec![of_gate, silu_times::<B>(gate, gradient)], 1)
}

impl<B: Backend + SwiGlu, C: CheckpointStrategy> SwiGlu for Autodiff<B, C> {
    fn swiglu(gate_up: FloatTensor<Self>) -> FloatTensor<Self> {
        let kept = gate_up.is_tracked().then(|| gate_up.primitive().clone());
        let (gate_up, node) = gate_up.into_parts();
        let output = B::swiglu(gate_up);
        match SwiGluBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(kept.expect("it is tracked"), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn swiglu_gradient(gate_up: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        <Self as AutodiffBackend>::from_inner(B::swiglu_gradient(gate_up.into_primitive(), gradient.into_primitive()))
    }
}

#[derive(Debug)]
struct SwiGluBackward;

impl<B: Backend + SwiGlu> Backward<B, 1> for SwiGluBackward {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        differentiate::<B, _, 1>(ops, grads, |gate_up, gradient| [B::swiglu_gradient(gate_up, gradient)]);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::super::simd::at_every_level;
    use super::*;

    /// Rows and half their width.
    const SHAPES: [[usize; 2]; 6] = [[0, 4], [1, 1], [3, 15], [2, 16], [5, 17], [7, 1000]];

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|index| 8.0 * (step * index as f32).sin()).collect()
    }

    /// The result and the gradients of gate and up in f64.
    fn exact([gate, up, gradient]: [f32; 3]) -> [f64; 3] {
        let [g, u, d] = [gate, up, gradient].map(f64::from);
        let s = 1.0 / (1.0 + (-g).exp());
        [g * s * u, d * u * s * (1.0 + g * (1.0 - s)), d * g * s]
    }

    fn assert_exact(gate_up: &[f32], gradient: &[f32], output: &[f32], of_gate_up: &[f32], inner: usize) {
        for (index, output) in output.iter().enumerate() {
            let at = index / inner * 2 * inner + index % inner;
            let expected = exact([gate_up[at], gate_up[at + inner], gradient[index]]);
            for (ours, exact) in [*output, of_gate_up[at], of_gate_up[at + inner]].map(f64::from).into_iter().zip(expected) {
                // 1 - σ(g) has lost what σ(g) is rounded by.
                assert!((ours - exact).abs() <= 1e-6 * exact.abs() + 2e-5, "{ours}, expected {exact}");
            }
        }
    }

    #[test]
    fn it_is_the_closed_form_with_its_gradients_at_every_level() {
        for [rows, inner] in SHAPES {
            let (gate_up, gradient) = (numbers(rows * 2 * inner, 0.37), numbers(rows * inner, 1.1));
            let of_levels = at_every_level(|| {
                let (mut of_gate_up, mut output) = (gate_up.clone(), vec![0.0; rows * inner]);
                forward(&mut output, &gate_up, inner);
                backward(&mut of_gate_up, &gradient, inner);
                [output, of_gate_up]
            });
            for [output, of_gate_up] in &of_levels {
                assert_exact(&gate_up, &gradient, output, of_gate_up, inner);
            }
        }
    }

    #[test]
    fn backward_is_wired_to_forward_and_repeats_bit_for_bit() {
        let (rows, inner) = (200, 201);
        let [gate_up, weight] = [(0.37, 2 * inner), (1.1, inner)].map(|(step, width)| {
            Tensor::<2>::from_data(TensorData::new(numbers(rows * width, step), [rows, width]), &Device::flex())
        });
        let read = |tensor: Tensor<2>| tensor.into_data().try_to_vec::<f32>().expect("f32");
        let run = || {
            let leaf = gate_up.clone().autodiff().require_grad();
            let output = swiglu(leaf.clone());
            let gradients = (output.clone() * weight.clone()).sum().backward();
            [output.inner(), leaf.grad(&gradients).expect("tracked")].map(read)
        };
        let [output, of_gate_up] = run();
        assert_eq!([output.clone(), of_gate_up.clone()], run());
        assert_exact(&read(gate_up.clone()), &read(weight.clone()), &output, &of_gate_up, inner);
    }

    #[test]
    fn the_composed_form_is_the_same() {
        let [gate_up, gradient] =
            [(0.37, 40), (1.1, 20)].map(|(step, width)| tensor(numbers(50 * width, step), [50, width].into()));
        let ours = [Flex::swiglu(gate_up.clone()), Flex::swiglu_gradient(gate_up.clone(), gradient.clone())];
        let theirs = [composed::<Flex>(&gate_up), composed_gradient::<Flex>(&gate_up, gradient)];
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            let close = |(ours, theirs): (&f32, &f32)| (ours - theirs).abs() <= 1e-5 + 1e-5 * theirs.abs();
            assert!(read(&ours).iter().zip(read(&theirs)).all(close));
        }
    }
}
