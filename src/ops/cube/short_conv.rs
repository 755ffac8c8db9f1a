//! The short convolution on a GPU: a unit walks over the tokens of a piece with one vector of
//! channels, and holds what the taps see.
//!
//! Backward is one walk as well. It makes again what the activation got, goes on behind its piece
//! as far as a tap sees back, and leaves the sums of the kernel's gradient by piece, which are then
//! added in order.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Cube, TensorMetadata};
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Extent, element, empty, extent, units, upload, vector_size};

/// Tokens that a unit walks over.
const ROWS: usize = 64;

/// The compile-time parameters of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct KernelShape {
    taps: usize,
    /// Whether the result is y σ(y).
    silu: bool,
    /// Whether the gradients of kernel and bias are computed.
    trains: bool,
}

/// Returns the kernel's numbers for a vector of channels, by tap.
#[cube]
fn taps_of<W: Float, N: Size>(
    kernel: &[W],
    column: usize,
    #[comptime] form: KernelShape,
) -> Array<Vector<f32, N>> {
    let mut all = Array::<Vector<f32, N>>::new(form.taps);
    #[unroll]
    for tap in 0..form.taps {
        let mut of_tap = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for index in 0..N::value() {
            let channel = column * N::value() + index;
            of_tap.insert(index, f32::cast_from(kernel[channel * form.taps + tap]));
        }
        all[tap] = of_tap;
    }
    all
}

/// Returns the bias of a vector of channels.
#[cube]
fn bias_of<B: Float, N: Size>(bias: &[B], column: usize) -> Vector<f32, N> {
    let mut of_column = Vector::<f32, N>::new(0.0f32);
    #[unroll]
    for index in 0..N::value() {
        of_column.insert(index, f32::cast_from(bias[column * N::value() + index]));
    }
    of_column
}

/// Returns what the taps of the token before `first` see, where it is in the document of `first`,
/// and zeros in the place of what is outside.
#[cube]
fn seen_before<F: Float, N: Size>(
    x: &[Vector<F, N>],
    before: &[u32],
    first: usize,
    column: usize,
    width: usize,
    #[comptime] form: KernelShape,
) -> Array<Vector<f32, N>> {
    let mut seen = Array::<Vector<f32, N>>::new(form.taps);
    let place = before[first] as usize;
    #[unroll]
    for tap in 0..form.taps {
        let back = comptime![form.taps - tap];
        let mut numbers = Vector::<f32, N>::new(0.0f32);
        if back <= place {
            numbers = Vector::<f32, N>::cast_from(x[(first - back) * width + column]);
        }
        seen[tap] = numbers;
    }
    seen
}

/// Moves the taps on to a token, the `place`th of its document.
#[cube]
fn see<N: Size>(
    seen: &mut Array<Vector<f32, N>>,
    numbers: Vector<f32, N>,
    place: usize,
    #[comptime] form: KernelShape,
) {
    #[unroll]
    for tap in 0..comptime![form.taps - 1] {
        let mut next = seen[tap + 1];
        if place == 0 {
            next = Vector::new(0.0f32);
        }
        seen[tap] = next;
    }
    seen[comptime![form.taps - 1]] = numbers;
}

/// Returns the result of a token before the activation.
#[cube]
fn convolved<N: Size>(
    seen: &Array<Vector<f32, N>>,
    kernel: &Array<Vector<f32, N>>,
    bias: Vector<f32, N>,
    #[comptime] form: KernelShape,
) -> Vector<f32, N> {
    let mut y = bias;
    #[unroll]
    for back in 0..form.taps {
        y += seen[comptime![form.taps - 1 - back]] * kernel[comptime![form.taps - 1 - back]];
    }
    y
}

/// Computes the result. `before` has the number of tokens before each in its document.
#[cube(launch)]
fn convolve<F: Float, W: Float, B: Float, N: Size>(
    x: &[Vector<F, N>],
    kernel: &[W],
    bias: &[B],
    before: &[u32],
    output: &mut [Vector<F, N>],
    extent: &Extent,
    #[comptime] form: KernelShape,
    #[define(F, W, B)] _elements: [ElemType; 3],
) {
    let (tokens, width) = (extent.rows as usize, extent.width as usize);
    let first = ABSOLUTE_POS / width * ROWS;
    let column = ABSOLUTE_POS % width;
    if first < tokens {
        let kernel = taps_of::<W, N>(kernel, column, form);
        let bias = bias_of::<B, N>(bias, column);
        let mut seen = seen_before::<F, N>(x, before, first, column, width, form);
        for token in first..min(first + ROWS, tokens) {
            let numbers = Vector::<f32, N>::cast_from(x[token * width + column]);
            see::<N>(&mut seen, numbers, before[token] as usize, form);
            let mut y = convolved::<N>(&seen, &kernel, bias, form);
            if comptime![form.silu] {
                y /= Vector::<f32, N>::new(1.0f32) + (-y).exp();
            }
            output[token * width + column] = Vector::cast_from(y);
        }
    }
}

/// Computes the gradient of x, and the sums over each piece of those of the kernel, by tap, and of
/// the bias after them: [pieces, taps + 1, channels].
#[cube(launch)]
fn convolve_back<F: Float, W: Float, B: Float, N: Size>(
    x: &[Vector<F, N>],
    kernel: &[W],
    bias: &[B],
    gradient: &[Vector<F, N>],
    before: &[u32],
    of_x: &mut [Vector<F, N>],
    sums: &mut [Vector<f32, N>],
    extent: &Extent,
    #[comptime] form: KernelShape,
    #[define(F, W, B)] _elements: [ElemType; 3],
) {
    let (tokens, width) = (extent.rows as usize, extent.width as usize);
    let piece = ABSOLUTE_POS / width;
    let first = piece * ROWS;
    let column = ABSOLUTE_POS % width;
    if first < tokens {
        let kernel = taps_of::<W, N>(kernel, column, form);
        let bias = bias_of::<B, N>(bias, column);
        let mut seen = seen_before::<F, N>(x, before, first, column, width, form);
        // Of the token at hand and those before it, as far as a tap sees back.
        let mut of_seen = Array::<Vector<f32, N>>::new(form.taps);
        // Of the taps, and of the bias.
        let mut of_taps = Array::<Vector<f32, N>>::new(comptime![form.taps + 1]);
        #[unroll]
        for tap in 0..form.taps {
            of_seen[tap] = Vector::new(0.0f32);
            of_taps[tap] = Vector::new(0.0f32);
        }
        of_taps[form.taps] = Vector::new(0.0f32);
        let end = min(first + ROWS, tokens);
        for token in first..end + comptime![form.taps - 1] {
            if token < tokens {
                let place = before[token] as usize;
                let numbers = Vector::<f32, N>::cast_from(x[token * width + column]);
                see::<N>(&mut seen, numbers, place, form);
                let mut of_y = Vector::<f32, N>::cast_from(gradient[token * width + column]);
                if comptime![form.silu] {
                    let one = Vector::<f32, N>::new(1.0f32);
                    let y = convolved::<N>(&seen, &kernel, bias, form);
                    let s = one / (one + (-y).exp());
                    of_y *= s * (one + y * (one - s));
                }
                #[unroll]
                for back in 0..form.taps {
                    if back <= place {
                        of_seen[back] += of_y * kernel[comptime![form.taps - 1 - back]];
                    }
                }
                if comptime![form.trains] {
                    if token < end {
                        #[unroll]
                        for tap in 0..form.taps {
                            of_taps[tap] += seen[tap] * of_y;
                        }
                        of_taps[form.taps] += of_y;
                    }
                }
            }
            if token + 1 >= first + form.taps {
                of_x[(token + 1 - form.taps) * width + column] =
                    Vector::cast_from(of_seen[comptime![form.taps - 1]]);
            }
            #[unroll]
            for back in 0..comptime![form.taps - 1] {
                of_seen[comptime![form.taps - 1 - back]] = of_seen[comptime![form.taps - 2 - back]];
            }
            of_seen[0] = Vector::new(0.0f32);
        }
        if comptime![form.trains] {
            #[unroll]
            for tap in 0..comptime![form.taps + 1] {
                sums[(piece * (form.taps + 1) + tap) * width + column] = of_taps[tap];
            }
        }
    }
}

/// Adds up the pieces of the gradients of kernel and bias. The extent is that of a piece, whose
/// rows are the taps and the bias.
#[cube(launch)]
fn sum_pieces<W: Float, B: Float>(
    sums: &[f32],
    of_kernel: &mut [W],
    of_bias: &mut [B],
    pieces: u32,
    extent: &Extent,
    #[define(W, B)] _elements: [ElemType; 2],
) {
    let (rows, channels) = (extent.rows as usize, extent.width as usize);
    let (row, channel) = (ABSOLUTE_POS / channels, ABSOLUTE_POS % channels);
    if row < rows {
        let mut sum = 0.0f32;
        for piece in 0..pieces as usize {
            sum += sums[(piece * rows + row) * channels + channel];
        }
        if row + 1 < rows {
            of_kernel[channel * (rows - 1) + row] = W::cast_from(sum);
        } else {
            of_bias[channel] = B::cast_from(sum);
        }
    }
}

/// Returns the number of tokens before each in its document.
fn places(documents: &[u32]) -> Vec<u32> {
    documents.iter().flat_map(|length| 0..*length).collect()
}

/// The operands of the convolution.
pub(in crate::ops) struct Given {
    /// [tokens, channels].
    pub x: CubeTensor,
    /// [channels, taps].
    pub kernel: CubeTensor,
    /// [channels].
    pub bias: CubeTensor,
}

impl Given {
    fn contiguous(self) -> Self {
        let [x, kernel, bias] = [self.x, self.kernel, self.bias].map(into_contiguous);
        Self { x, kernel, bias }
    }

    /// Returns tokens, channels and taps.
    fn sizes(&self) -> [usize; 3] {
        let [tokens, channels] = self.x.shape().dims();
        [tokens, channels, self.kernel.shape()[1]]
    }

    fn elements(&self) -> [ElemType; 3] {
        [&self.x, &self.kernel, &self.bias].map(element)
    }
}

/// Returns the result of the convolution within documents of these lengths.
pub(in crate::ops) fn forward(given: Given, documents: &[u32], silu: bool) -> CubeTensor {
    let given = given.contiguous();
    let [tokens, channels, taps] = given.sizes();
    let (client, elements) = (given.x.client.clone(), given.elements());
    let output = empty(&given.x, given.x.shape(), given.x.dtype);
    if tokens * channels > 0 {
        let size = vector_size(&[channels]);
        let width = channels / size;
        let (cubes, cube) = units(&given.x, tokens.div_ceil(ROWS) * width);
        let before = upload(&given.x, &places(documents));
        let args = [given.x, given.kernel, given.bias, before, output.clone()]
            .map(CubeTensor::into_buffer_arg);
        let [x, kernel, bias, before, to] = args;
        let form = KernelShape {
            taps,
            silu,
            trains: false,
        };
        convolve::launch(
            &client,
            cubes,
            cube,
            size,
            x,
            kernel,
            bias,
            before,
            to,
            extent(tokens, width),
            form,
            elements,
        );
    }
    output
}

/// Returns the gradients of x, of the kernel and of the bias, given that of the result; the latter
/// two are zeros unless `trains`.
pub(in crate::ops) fn backward(
    given: Given,
    gradient: CubeTensor,
    documents: &[u32],
    silu: bool,
    trains: bool,
) -> [CubeTensor; 3] {
    let (given, gradient) = (given.contiguous(), into_contiguous(gradient));
    let [tokens, channels, taps] = given.sizes();
    let (client, elements) = (given.x.client.clone(), given.elements());
    let of_x = empty(&given.x, given.x.shape(), given.x.dtype);
    let trains = trains && tokens * channels > 0;
    let [of_kernel, of_bias] = [&given.kernel, &given.bias].map(|of| {
        if trains {
            empty(of, of.shape(), of.dtype)
        } else {
            Cube::float_zeros(of.shape(), &of.device, of.dtype.into())
        }
    });
    if tokens * channels > 0 {
        let (size, pieces) = (vector_size(&[channels]), tokens.div_ceil(ROWS));
        let width = channels / size;
        let (cubes, cube) = units(&given.x, pieces * width);
        let of_pieces = if trains { pieces * (taps + 1) } else { 1 };
        let sums = empty(&given.x, [of_pieces, channels], DType::F32);
        let before = upload(&given.x, &places(documents));
        let Given { x, kernel, bias } = given;
        let args = [
            x.clone(),
            kernel,
            bias,
            gradient,
            before,
            of_x.clone(),
            sums.clone(),
        ]
        .map(CubeTensor::into_buffer_arg);
        let [from, kernel, bias, by, before, to, to_sums] = args;
        let form = KernelShape { taps, silu, trains };
        convolve_back::launch(
            &client,
            cubes,
            cube,
            size,
            from,
            kernel,
            bias,
            by,
            before,
            to,
            to_sums,
            extent(tokens, width),
            form,
            elements,
        );
        if trains {
            let (cubes, cube) = units(&x, (taps + 1) * channels);
            let args = [sums, of_kernel.clone(), of_bias.clone()].map(CubeTensor::into_buffer_arg);
            let [sums, to_kernel, to_bias] = args;
            sum_pieces::launch(
                &client,
                cubes,
                cube,
                sums,
                to_kernel,
                to_bias,
                pieces as u32,
                extent(taps + 1, channels),
                [elements[1], elements[2]],
            );
        }
    }
    [of_x, of_kernel, of_bias]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::{Device, Tensor};
    use proptest::prelude::*;

    use super::super::tests::{device, drawn, tensor, worst};
    use crate::ops::{backward_from, short_conv};

    /// Returns the result and the gradients of x, kernel and bias, each flat.
    fn results(
        [channels, taps]: [usize; 2],
        documents: &Arc<[u32]>,
        silu: bool,
        trains: bool,
        device: &Device,
    ) -> Vec<Tensor<1>> {
        let tokens = documents.iter().sum::<u32>() as usize;
        let of = |seed, shape: [usize; 2]| {
            tensor(&drawn(seed, shape.iter().product(), 2.0), shape, device)
        };
        let leaf = |of: Tensor<2>| of.autodiff().require_grad();
        let x = leaf(of(1, [tokens, channels]));
        let (kernel, bias) = (of(2, [channels, taps]), of(3, [1, channels]));
        let (kernel, bias) = if trains {
            (leaf(kernel), leaf(bias))
        } else {
            (kernel.autodiff(), bias.autodiff())
        };
        let y = short_conv(
            x.clone(),
            kernel.clone(),
            bias.clone().reshape([channels]),
            documents,
            silu,
        );
        let gradients = backward_from(y.clone(), of(4, [tokens, channels]));
        let of_leaves = [x, kernel, bias]
            .map(|leaf| leaf.grad(&gradients))
            .into_iter()
            .flatten();
        [y.inner()]
            .into_iter()
            .chain(of_leaves)
            .map(|tensor| tensor.reshape([-1]))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn it_is_what_the_cpu_computes(
            lengths in prop::collection::vec(prop_oneof![1u32..6, 1u32..150], 1..6),
            channels in prop_oneof![1usize..70, Just(136)],
            taps in prop::sample::select(vec![1usize, 2, 3, 4, 7]),
            silu: bool,
            trains: bool,
        ) {
            let Some(device) = device() else {
                return Ok(());
            };
            let documents: Arc<[u32]> = lengths.into();
            let of = |device| results([channels, taps], &documents, silu, trains, device);
            let (ours, exact) = (of(&device), of(&Device::flex()));
            prop_assert_eq!(ours.len(), if trains { 4 } else { 2 });
            for (index, (ours, exact)) in ours.into_iter().zip(exact).enumerate() {
                let distance = worst(ours, exact);
                prop_assert!(distance < 2e-5, "result {}: {:e}", index, distance);
            }
        }
    }

    #[test]
    fn a_run_repeats_bit_for_bit() {
        let Some(device) = device() else { return };
        let bits = || -> Vec<Vec<u32>> {
            results([34, 4], &[200, 3, 70].into(), true, true, &device)
                .into_iter()
                .map(|tensor| tensor.into_data().iter::<f32>().map(f32::to_bits).collect())
                .collect()
        };
        assert_eq!(bits(), bits());
    }
}
