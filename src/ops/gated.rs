//! The gated unit of a feed-forward in one pass, forward and backward: act(g) ∘ u, Shazeer 2020,
//! arXiv:2002.05202.
//!
//! As separate operations it would take six passes over the widest tensors of a block on one
//! thread, and keep three of them.

use std::f64::consts::SQRT_2;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension,
};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::differentiate;
use super::exp::sigmoid;
use super::numbers::{piece_of_rows, read, row_major, tensor, write};
#[cfg(test)]
use super::product::columns_of;
use super::simd::{Arithmetic, vectorised};

/// The activation of a gate, g σ(a(g)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// silu(g), with a = g.
    Silu,
    /// gelu(g) in its tanh form, Hendrycks and Gimpel 2016, arXiv:1606.08415, with a = 2 sqrt(2/π)
    /// (g + 0.044715 g³).
    GeluTanh,
    /// g Φ(g) with the error function, of the same paper; it is composed of operations.
    Gelu,
}

/// 2 sqrt(2/π).
pub(super) const GELU: f32 = 1.595_769_2;
/// Coefficient of the cube in it.
pub(super) const GELU_CUBE: f32 = 0.044_715;

/// Computes act(gate) ∘ up of rows in which gate and up lie side by side, as one product gives
/// them.
///
/// # Shapes
/// `gate_up` [rows, 2 · inner], result [rows, inner].
pub fn gated(gate_up: Tensor<2>, activation: Activation) -> Tensor<2> {
    if activation == Activation::Gelu {
        let inner = gate_up.dims()[1] / 2;
        let [gate, up] = [0, inner].map(|start| gate_up.clone().narrow(1, start, inner));
        return gelu(gate) * up;
    }
    Tensor::from_dispatch(<Dispatch as Gated>::gated(
        gate_up.into_dispatch(),
        activation,
    ))
}

/// Computes x Φ(x) with the error function by operations whose gradients burn has. Its own GELU has
/// on GPUs the gradient of the tanh form.
///
/// # Shapes
/// `x` of any, result the same.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let cumulative = x
        .clone()
        .div_scalar(SQRT_2)
        .erf()
        .add_scalar(1.0)
        .mul_scalar(0.5);
    x * cumulative
}

/// The gated unit and its gradients.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait Gated: Backend {
    /// See [`gated`].
    fn gated(gate_up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;

    /// Returns the gradient of `gate_up`, given that of the result.
    fn gated_gradient(
        gate_up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self>;
}

vectorised! {
    fn forward_row<'a, A>(
        output: &'a mut [f32],
        gate: &'a [f32],
        up: &'a [f32],
        activation: Activation,
    ) {
        match activation {
            Activation::Silu => forward_by::<A>(output, gate, up, |g| g),
            Activation::GeluTanh => forward_by::<A>(output, gate, up, |g| {
                GELU * A::multiply_add(GELU_CUBE * g * g, g, g)
            }),
            Activation::Gelu => unreachable!("composed of operations"),
        }
    }

    fn backward_row<'a, A>(
        gate: &'a mut [f32],
        up: &'a mut [f32],
        gradient: &'a [f32],
        activation: Activation,
    ) {
        match activation {
            Activation::Silu => backward_by::<A>(gate, up, gradient, |g| [g, g]),
            Activation::GeluTanh => backward_by::<A>(gate, up, gradient, |g| {
                let square = GELU_CUBE * g * g;
                [
                    GELU * A::multiply_add(square, g, g),
                    GELU * A::multiply_add(3.0 * square, g, g),
                ]
            }),
            Activation::Gelu => unreachable!("composed of operations"),
        }
    }
}

/// Computes u ∘ g σ(a); `argument` gives a(g).
#[inline(always)]
fn forward_by<A: Arithmetic>(
    output: &mut [f32],
    gate: &[f32],
    up: &[f32],
    argument: impl Fn(f32) -> f32,
) {
    for ((output, g), u) in output.iter_mut().zip(gate).zip(up) {
        *output = g * sigmoid::<A>(argument(*g)) * u;
    }
}

/// Computes, in place, dG = dY ∘ u σ(a) (1 + g a' (1 - σ(a))) and dU = dY ∘ g σ(a). `argument`
/// gives a(g) and g a'(g).
#[inline(always)]
fn backward_by<A: Arithmetic>(
    gate: &mut [f32],
    up: &mut [f32],
    gradient: &[f32],
    argument: impl Fn(f32) -> [f32; 2],
) {
    for ((g, u), d) in gate.iter_mut().zip(up).zip(gradient) {
        let [a, slope] = argument(*g);
        let s = sigmoid::<A>(a);
        let slope = s * A::multiply_add(slope, 1.0 - s, 1.0);
        (*g, *u) = (d * *u * slope, d * *g * s);
    }
}

// A row at a time: the halves of a row are known not to overlap only where they are arguments of a
// loop's own function, and a loop over what may overlap is not vectorised.

fn forward(output: &mut [f32], gate_up: &[f32], inner: usize, activation: Activation) {
    for (output, gate_up) in output
        .chunks_exact_mut(inner)
        .zip(gate_up.chunks_exact(2 * inner))
    {
        let (gate, up) = gate_up.split_at(inner);
        forward_row(output, gate, up, activation);
    }
}

fn backward(gate_up: &mut [f32], gradient: &[f32], inner: usize, activation: Activation) {
    for (gate_up, gradient) in gate_up
        .chunks_exact_mut(2 * inner)
        .zip(gradient.chunks_exact(inner))
    {
        let (gate, up) = gate_up.split_at_mut(inner);
        backward_row(gate, up, gradient, activation);
    }
}

impl Gated for Flex {
    fn gated(gate_up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let gate_up = row_major(gate_up);
        let [rows, width] = gate_up.shape().dims();
        let inner = width / 2;
        let (mut output, piece) = (vec![0.0; rows * inner], piece_of_rows(inner));
        let pieces = output
            .par_chunks_mut(piece)
            .zip(read(&gate_up).par_chunks(2 * piece));
        pieces.for_each(|(output, gate_up)| forward(output, gate_up, inner, activation));
        tensor(output, [rows, inner].into())
    }

    fn gated_gradient(
        mut gate_up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let gradient = row_major(gradient);
        let inner = gradient.shape()[1];
        let piece = piece_of_rows(inner);
        let pieces = write(&mut gate_up)
            .par_chunks_mut(2 * piece)
            .zip(read(&gradient).par_chunks(piece));
        pieces.for_each(|(gate_up, gradient)| backward(gate_up, gradient, inner, activation));
        gate_up
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Gated for burn::backend::Cube {
    fn gated(gate_up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        super::cube::gated::forward(gate_up, activation)
    }

    fn gated_gradient(
        gate_up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        super::cube::gated::backward(gate_up, gradient, activation)
    }
}

/// Returns gate and up.
#[cfg(test)]
fn halves<B: Backend>(gate_up: &FloatTensor<B>) -> [FloatTensor<B>; 2] {
    let width = gate_up.shape()[1];
    [0..width / 2, width / 2..width].map(|columns| columns_of::<B>(gate_up, columns))
}

/// Computes [`gated`] with silu by a backend's own operations.
#[cfg(test)]
fn composed<B: Backend>(gate_up: &FloatTensor<B>) -> FloatTensor<B> {
    let [gate, up] = halves::<B>(gate_up);
    silu_times::<B>(gate, up)
}

#[cfg(test)]
fn silu_times<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(B::float_mul(gate.clone(), B::sigmoid(gate)), up)
}

/// Computes the gradient by a backend's own operations.
#[cfg(test)]
fn composed_gradient<B: Backend>(
    gate_up: &FloatTensor<B>,
    gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    let [gate, up] = halves::<B>(gate_up);
    let sigmoid = B::sigmoid(gate.clone());
    let rest = B::float_add_scalar(B::float_neg(sigmoid.clone()), 1.0.into());
    let slope = B::float_mul(
        sigmoid,
        B::float_add_scalar(B::float_mul(gate.clone(), rest), 1.0.into()),
    );
    let of_gate = B::float_mul(B::float_mul(gradient.clone(), up), slope);
    B::float_cat(vec![of_gate, silu_times::<B>(gate, gradient)], 1)
}

impl<B: Backend + Gated, C: CheckpointStrategy> Gated for Autodiff<B, C> {
    fn gated(gate_up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let kept = gate_up.is_tracked().then(|| gate_up.primitive().clone());
        let (gate_up, node) = gate_up.into_parts();
        let output = B::gated(gate_up, activation);
        match GatedBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                prep.finish((kept.expect("it is tracked"), activation), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn gated_gradient(
        gate_up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let [gate_up, gradient] = [gate_up, gradient].map(|tensor| tensor.into_primitive());
        <Self as AutodiffBackend>::from_inner(B::gated_gradient(gate_up, gradient, activation))
    }
}

#[derive(Debug)]
struct GatedBackward;

impl<B: Backend + Gated> Backward<B, 1> for GatedBackward {
    type State = (FloatTensor<B>, Activation);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        differentiate::<B, _, 1>(ops, grads, |(gate_up, activation), gradient| {
            [B::gated_gradient(gate_up, gradient, activation)]
        });
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::super::simd::at_every_level;
    use super::*;

    /// Numbers of rows and half their widths.
    const SHAPES: [[usize; 2]; 6] = [[0, 4], [1, 1], [3, 15], [2, 16], [5, 17], [7, 1000]];

    const BOTH: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count)
            .map(|index| 8.0 * (step * index as f32).sin())
            .collect()
    }

    /// Returns the result and the gradients of gate and up in f64.
    fn exact([gate, up, gradient]: [f32; 3], activation: Activation) -> [f64; 3] {
        let [g, u, d] = [gate, up, gradient].map(f64::from);
        if activation == Activation::GeluTanh {
            let scale = std::f64::consts::FRAC_2_PI.sqrt();
            let tanh = (scale * (g + 0.044_715 * g.powi(3))).tanh();
            let slope = 0.5 * (1.0 + tanh)
                + 0.5 * g * (1.0 - tanh * tanh) * scale * (1.0 + 3.0 * 0.044_715 * g * g);
            return [
                0.5 * g * (1.0 + tanh) * u,
                d * u * slope,
                d * 0.5 * g * (1.0 + tanh),
            ];
        }
        let s = 1.0 / (1.0 + (-g).exp());
        [g * s * u, d * u * s * (1.0 + g * (1.0 - s)), d * g * s]
    }

    fn assert_exact(
        gate_up: &[f32],
        gradient: &[f32],
        [output, of_gate_up]: &[Vec<f32>; 2],
        inner: usize,
        activation: Activation,
    ) {
        for (index, output) in output.iter().enumerate() {
            let at = index / inner * 2 * inner + index % inner;
            let expected = exact(
                [gate_up[at], gate_up[at + inner], gradient[index]],
                activation,
            );
            for (ours, exact) in [*output, of_gate_up[at], of_gate_up[at + inner]]
                .map(f64::from)
                .into_iter()
                .zip(expected)
            {
                // 1 - σ(a) has lost what σ(a) is rounded by, and the slope of gelu's a is steep.
                let [relative, absolute] = if activation == Activation::Silu {
                    [1e-6, 2e-5]
                } else {
                    [5e-6, 1e-4]
                };
                assert!(
                    (ours - exact).abs() <= relative * exact.abs() + absolute,
                    "{activation:?}: {ours}, expected {exact}"
                );
            }
        }
    }

    #[test]
    fn it_is_the_closed_form_with_its_gradients_at_every_level() {
        for ([rows, inner], activation) in SHAPES
            .iter()
            .flat_map(|shape| BOTH.map(|activation| (*shape, activation)))
        {
            let (gate_up, gradient) = (numbers(rows * 2 * inner, 0.37), numbers(rows * inner, 1.1));
            let of_levels = at_every_level(|| {
                let (mut of_gate_up, mut output) = (gate_up.clone(), vec![0.0; rows * inner]);
                forward(&mut output, &gate_up, inner, activation);
                backward(&mut of_gate_up, &gradient, inner, activation);
                [output, of_gate_up]
            });
            for found in &of_levels {
                assert_exact(&gate_up, &gradient, found, inner, activation);
            }
        }
    }

    #[test]
    fn backward_is_wired_to_forward_and_repeats_bit_for_bit() {
        let (rows, inner) = (200, 201);
        let [gate_up, weight] = [(0.37, 2 * inner), (1.1, inner)].map(|(step, width)| {
            Tensor::<2>::from_data(
                TensorData::new(numbers(rows * width, step), [rows, width]),
                &Device::flex(),
            )
        });
        let read = |tensor: Tensor<2>| tensor.into_data().try_to_vec::<f32>().expect("f32");
        let run = |activation| {
            let leaf = gate_up.clone().autodiff().require_grad();
            let output = gated(leaf.clone(), activation);
            let gradients = (output.clone() * weight.clone()).sum().backward();
            [output.inner(), leaf.grad(&gradients).expect("tracked")].map(read)
        };
        for activation in BOTH {
            let found = run(activation);
            assert_eq!(found, run(activation));
            assert_exact(
                &read(gate_up.clone()),
                &read(weight.clone()),
                &found,
                inner,
                activation,
            );
        }
    }

    #[test]
    fn the_composed_form_is_the_same() {
        let [gate_up, gradient] = [(0.37, 40), (1.1, 20)]
            .map(|(step, width)| tensor(numbers(50 * width, step), [50, width].into()));
        let silu = Activation::Silu;
        let ours = [
            Flex::gated(gate_up.clone(), silu),
            Flex::gated_gradient(gate_up.clone(), gradient.clone(), silu),
        ];
        let theirs = [
            composed::<Flex>(&gate_up),
            composed_gradient::<Flex>(&gate_up, gradient),
        ];
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            let close =
                |(ours, theirs): (&f32, &f32)| (ours - theirs).abs() <= 1e-5 + 1e-5 * theirs.abs();
            assert!(read(&ours).iter().zip(read(&theirs)).all(close));
        }
    }
}
