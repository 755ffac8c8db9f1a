//! The gated unit on a GPU: act(g) ∘ u and its gradients, with one unit per vector of numbers.

use burn::backend::TensorMetadata;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Extent, element, empty, extent, owned, units, vector_size};
use crate::ops::gated::{Activation, GELU, GELU_CUBE};

/// Returns σ(x).
#[cube]
fn sigmoid<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::<f32, N>::new(1.0f32);
    one / (one + (-x).exp())
}

/// Returns a(g).
#[cube]
fn argument<N: Size>(g: Vector<f32, N>, #[comptime] activation: Activation) -> Vector<f32, N> {
    let cubic = Vector::<f32, N>::new(GELU) * (g + Vector::<f32, N>::new(GELU_CUBE) * g * g * g);
    if comptime![activation == Activation::GeluTanh] {
        cubic
    } else {
        g
    }
}

/// Returns a'(g).
#[cube]
fn slope<N: Size>(g: Vector<f32, N>, #[comptime] activation: Activation) -> Vector<f32, N> {
    let one = Vector::<f32, N>::new(1.0f32);
    let of_cubic = Vector::<f32, N>::new(GELU)
        * (one + Vector::<f32, N>::new(3.0f32) * Vector::<f32, N>::new(GELU_CUBE) * g * g);
    if comptime![activation == Activation::GeluTanh] {
        of_cubic
    } else {
        one
    }
}

/// Computes the output. The extent is that of the output, whose rows have half the width.
#[cube(launch)]
fn output_of<F: Float, N: Size>(
    gate_up: &[Vector<F, N>],
    output: &mut [Vector<F, N>],
    extent: &Extent,
    #[comptime] activation: Activation,
    #[define(F)] _element: ElemType,
) {
    let inner = extent.width as usize;
    let row = ABSOLUTE_POS / inner;
    if row < extent.rows as usize {
        let gate = row * inner + ABSOLUTE_POS;
        let g = Vector::<f32, N>::cast_from(gate_up[gate]);
        let u = Vector::<f32, N>::cast_from(gate_up[gate + inner]);
        output[ABSOLUTE_POS] =
            Vector::cast_from(g * sigmoid::<N>(argument::<N>(g, activation)) * u);
    }
}

/// Computes, in place, dG = dY ∘ u σ(a) (1 + g a' (1 - σ(a))) and dU = dY ∘ g σ(a).
#[cube(launch)]
fn gradients_of<F: Float, N: Size>(
    gate_up: &mut [Vector<F, N>],
    gradient: &[Vector<F, N>],
    extent: &Extent,
    #[comptime] activation: Activation,
    #[define(F)] _element: ElemType,
) {
    let inner = extent.width as usize;
    let row = ABSOLUTE_POS / inner;
    if row < extent.rows as usize {
        let gate = row * inner + ABSOLUTE_POS;
        let one = Vector::<f32, N>::new(1.0f32);
        let g = Vector::<f32, N>::cast_from(gate_up[gate]);
        let u = Vector::<f32, N>::cast_from(gate_up[gate + inner]);
        let d = Vector::<f32, N>::cast_from(gradient[ABSOLUTE_POS]);
        let s = sigmoid::<N>(argument::<N>(g, activation));
        gate_up[gate] =
            Vector::cast_from(d * u * s * (one + g * slope::<N>(g, activation) * (one - s)));
        gate_up[gate + inner] = Vector::cast_from(d * g * s);
    }
}

/// Returns act(gate) ∘ up of rows [rows, 2 · inner] in which they lie side by side.
pub(in crate::ops) fn forward(gate_up: CubeTensor, activation: Activation) -> CubeTensor {
    let gate_up = into_contiguous(gate_up);
    let [rows, width] = gate_up.shape().dims();
    let (client, element, inner) = (gate_up.client.clone(), element(&gate_up), width / 2);
    let output = empty(&gate_up, [rows, inner], gate_up.dtype);
    if rows * inner > 0 {
        let size = vector_size(&[inner]);
        let (cubes, cube) = units(&gate_up, rows * inner / size);
        let [gate_up, output] = [gate_up, output.clone()].map(CubeTensor::into_buffer_arg);
        output_of::launch(
            &client,
            cubes,
            cube,
            size,
            gate_up,
            output,
            extent(rows, inner / size),
            activation,
            element,
        );
    }
    output
}

/// Returns the gradient of `gate_up`, in its place where no other handle holds it.
pub(in crate::ops) fn backward(
    gate_up: CubeTensor,
    gradient: CubeTensor,
    activation: Activation,
) -> CubeTensor {
    let (gate_up, gradient) = (owned(gate_up), into_contiguous(gradient));
    let [rows, inner] = gradient.shape().dims();
    let (client, element) = (gate_up.client.clone(), element(&gate_up));
    if rows * inner > 0 {
        let size = vector_size(&[inner]);
        let (cubes, cube) = units(&gate_up, rows * inner / size);
        let [gate_up, gradient] = [gate_up.clone(), gradient].map(CubeTensor::into_buffer_arg);
        gradients_of::launch(
            &client,
            cubes,
            cube,
            size,
            gate_up,
            gradient,
            extent(rows, inner / size),
            activation,
            element,
        );
    }
    gate_up
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{device, drawn, tensor, worst};
    use crate::ops::{Activation, backward_from, gated};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn it_is_what_the_cpu_computes(
            rows in 1usize..70,
            width in 1usize..70,
            seed in 0u64..1000,
            is_gelu: bool,
        ) {
            let activation = if is_gelu {
                Activation::GeluTanh
            } else {
                Activation::Silu
            };
            let Some(device) = device() else {
                return Ok(());
            };
            let gate_up = drawn(seed, rows * 2 * width, 8.0);
            let gradient = drawn(seed + 1000, rows * width, 8.0);
            let of = |device| {
                let gate_up = tensor(&gate_up, [rows, 2 * width], device)
                    .autodiff()
                    .require_grad();
                let output = gated(gate_up.clone(), activation);
                let gradient = tensor(&gradient, [rows, width], device);
                let gradients = backward_from(output.clone(), gradient);
                [output.inner(), gate_up.grad(&gradients).expect("tracked")]
            };
            let (ours, exact) = (of(&device), of(&burn::tensor::Device::flex()));
            for (ours, exact) in ours.into_iter().zip(exact) {
                prop_assert!(worst(ours, exact) < 2e-5);
            }
        }
    }
}
