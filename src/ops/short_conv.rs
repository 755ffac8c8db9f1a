//! A short causal convolution of each channel by itself, forward and backward in one pass each.
//!
//! Backward keeps the input: what the activation got is made again.

use std::sync::Arc;

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
use super::simd::vectorised;

/// Computes y\[t, c\] = b\[c\] + Σⱼ w\[c, j\] x\[t - (taps - 1) + j, c\] within each document,
/// whose lengths are given; tokens before its first count as zeros. With `silu` the result is y
/// σ(y).
///
/// # Shapes
/// `x` and the result [tokens, channels], `kernel` [channels, taps], `bias` [channels].
pub fn short_conv(
    x: Tensor<2>,
    kernel: Tensor<2>,
    bias: Tensor<1>,
    documents: &Arc<[u32]>,
    silu: bool,
) -> Tensor<2> {
    let (x, kernel) = (x.into_dispatch(), kernel.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ShortConv>::short_conv(
        x,
        kernel,
        bias.into_dispatch(),
        documents.clone(),
        silu,
    ))
}

/// The convolution and its gradients.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait ShortConv: Backend {
    /// See [`short_conv`].
    fn short_conv(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        documents: Arc<[u32]>,
        silu: bool,
    ) -> FloatTensor<Self>;

    /// Returns the gradients of `x`, `kernel` and `bias`, given that of the result; the latter two
    /// are zeros unless `trains`.
    fn short_conv_gradients(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        documents: Arc<[u32]>,
        silu: bool,
        trains: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

vectorised! {
    /// Adds x w to a row.
    fn add_product<'a, A>(sum: &'a mut [f32], x: &'a [f32], w: &'a [f32]) {
        for ((sum, x), w) in sum.iter_mut().zip(x).zip(w) {
            *sum = A::multiply_add(*x, *w, *sum);
        }
    }

    /// Replaces y by y σ(y).
    fn activate<'a, A>(y: &'a mut [f32]) {
        for y in y {
            *y *= sigmoid::<A>(*y);
        }
    }

    /// Multiplies a gradient by the slope of y σ(y).
    fn deactivate<'a, A>(gradient: &'a mut [f32], y: &'a [f32]) {
        for (gradient, y) in gradient.iter_mut().zip(y) {
            let s = sigmoid::<A>(*y);
            *gradient *= s * A::multiply_add(*y, 1.0 - s, 1.0);
        }
    }
}

/// The convolution with the kernel by tap.
struct Taps<'a> {
    /// [taps, channels].
    kernel: Vec<f32>,
    bias: &'a [f32],
    /// For each token, how many tokens of its document come before it and after it.
    places: Vec<[usize; 2]>,
}

impl<'a> Taps<'a> {
    fn new(kernel: &[f32], bias: &'a [f32], documents: &[u32]) -> Self {
        let (channels, mut by_tap) = (bias.len(), vec![0.0; kernel.len()]);
        let taps = kernel.len() / channels.max(1);
        for (channel, kernel) in kernel.chunks_exact(taps.max(1)).enumerate() {
            for (tap, number) in kernel.iter().enumerate() {
                by_tap[tap * channels + channel] = *number;
            }
        }
        let places = documents.iter().flat_map(|length| {
            let length = *length as usize;
            (0..length).map(move |place| [place, length - 1 - place])
        });
        Self {
            kernel: by_tap,
            bias,
            places: places.collect(),
        }
    }

    fn channels(&self) -> usize {
        self.bias.len()
    }

    /// Returns the taps that see back by `0..`, the last tap first.
    fn backwards(&self) -> impl Iterator<Item = &[f32]> {
        self.kernel.chunks_exact(self.channels()).rev()
    }

    /// Computes a token before the activation.
    fn token(&self, x: &[f32], token: usize, y: &mut [f32]) {
        y.copy_from_slice(self.bias);
        let [before, _] = self.places[token];
        for (back, tap) in self.backwards().enumerate().take(before + 1) {
            add_product(
                y,
                &x[(token - back) * self.channels()..][..self.channels()],
                tap,
            );
        }
    }

    /// Computes the gradient of a token, given those of what the activation got.
    fn of_token(&self, of_y: &[f32], token: usize, of_x: &mut [f32]) {
        let [_, after] = self.places[token];
        for (ahead, tap) in self.backwards().enumerate().take(after + 1) {
            let from = (token + ahead) * self.channels();
            add_product(of_x, &of_y[from..][..self.channels()], tap);
        }
    }

    /// Adds a token's part of the gradients of the kernel, [taps, channels].
    fn of_kernel(&self, x: &[f32], of_y: &[f32], token: usize, of_kernel: &mut [f32]) {
        let channels = self.channels();
        let [before, _] = self.places[token];
        let backwards = of_kernel.chunks_exact_mut(channels).rev();
        for (back, of_tap) in backwards.enumerate().take(before + 1) {
            let x = &x[(token - back) * channels..][..channels];
            add_product(of_tap, x, &of_y[token * channels..][..channels]);
        }
    }
}

impl ShortConv for Flex {
    fn short_conv(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        documents: Arc<[u32]>,
        silu: bool,
    ) -> FloatTensor<Self> {
        let [x, kernel, bias] = [x, kernel, bias].map(row_major);
        let taps = Taps::new(read(&kernel), read(&bias), &documents);
        let (numbers, channels) = (read(&x), taps.channels());
        let (mut output, piece) = (vec![0.0; numbers.len()], piece_of_rows(channels));
        output
            .par_chunks_mut(piece)
            .enumerate()
            .for_each(|(index, piece_of_y)| {
                let first = index * (piece / channels);
                for (token, y) in piece_of_y.chunks_exact_mut(channels).enumerate() {
                    taps.token(numbers, first + token, y);
                }
                if silu {
                    activate(piece_of_y);
                }
            });
        tensor(output, x.shape())
    }

    fn short_conv_gradients(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mut gradient: FloatTensor<Self>,
        documents: Arc<[u32]>,
        silu: bool,
        trains: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [x, kernel, bias] = [x, kernel, bias].map(row_major);
        let taps = Taps::new(read(&kernel), read(&bias), &documents);
        let (numbers, channels) = (read(&x), taps.channels());
        let piece = piece_of_rows(channels);
        let rows = piece / channels;
        let of_y = write(&mut gradient);
        if silu {
            of_y.par_chunks_mut(piece)
                .enumerate()
                .for_each(|(index, of_y)| {
                    let mut y = vec![0.0; channels];
                    for (token, of_y) in of_y.chunks_exact_mut(channels).enumerate() {
                        taps.token(numbers, index * rows + token, &mut y);
                        deactivate(of_y, &y);
                    }
                });
        }
        let of_y = &*of_y;
        let mut of_x = vec![0.0; numbers.len()];
        let pieces = of_x.par_chunks_mut(piece).enumerate();
        // The gradients of the kernel and below them that of the bias.
        let of_pieces: Vec<Vec<f32>> = pieces
            .map(|(index, of_x)| {
                let mut sums = vec![
                    0.0;
                    if trains {
                        taps.kernel.len() + channels
                    } else {
                        0
                    }
                ];
                for (token, of_x) in of_x.chunks_exact_mut(channels).enumerate() {
                    let token = index * rows + token;
                    taps.of_token(of_y, token, of_x);
                    if trains {
                        let (of_kernel, of_bias) = sums.split_at_mut(taps.kernel.len());
                        taps.of_kernel(numbers, of_y, token, of_kernel);
                        let of_y = &of_y[token * channels..][..channels];
                        of_bias
                            .iter_mut()
                            .zip(of_y)
                            .for_each(|(sum, of)| *sum += of);
                    }
                }
                sums
            })
            .collect();
        // Pieces are the same for any number of threads, and are added in their order.
        let mut sums = vec![0.0; taps.kernel.len() + channels];
        for of_piece in of_pieces {
            sums.iter_mut()
                .zip(of_piece)
                .for_each(|(sum, of)| *sum += of);
        }
        let (by_tap, of_bias) = sums.split_at(taps.kernel.len());
        let count = by_tap.len() / channels.max(1);
        let of_kernel = (0..by_tap.len())
            .map(|place| by_tap[place % count * channels + place / count])
            .collect();
        (
            tensor(of_x, x.shape()),
            tensor(of_kernel, kernel.shape()),
            tensor(of_bias.to_vec(), bias.shape()),
        )
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl ShortConv for burn::backend::Cube {
    fn short_conv(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        documents: Arc<[u32]>,
        silu: bool,
    ) -> FloatTensor<Self> {
        let given = super::cube::short_conv::Given { x, kernel, bias };
        super::cube::short_conv::forward(given, &documents, silu)
    }

    fn short_conv_gradients(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        documents: Arc<[u32]>,
        silu: bool,
        trains: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let given = super::cube::short_conv::Given { x, kernel, bias };
        super::cube::short_conv::backward(given, gradient, &documents, silu, trains).into()
    }
}

/// What backward needs: the operands, the documents' lengths, and whether there is an activation.
type Kept<B> = ([FloatTensor<B>; 3], Arc<[u32]>, bool);

impl<B: Backend + ShortConv, C: CheckpointStrategy> ShortConv for Autodiff<B, C> {
    fn short_conv(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        documents: Arc<[u32]>,
        silu: bool,
    ) -> FloatTensor<Self> {
        let [(x, of_x), (kernel, of_kernel), (bias, of_bias)] =
            [x, kernel, bias].map(|tensor| tensor.into_parts());
        let output = B::short_conv(
            x.clone(),
            kernel.clone(),
            bias.clone(),
            documents.clone(),
            silu,
        );
        match ShortConvBackward
            .prepare::<C>([of_x, of_kernel, of_bias])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(([x, kernel, bias], documents, silu), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn short_conv_gradients(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        documents: Arc<[u32]>,
        silu: bool,
        trains: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [x, kernel, bias, gradient] =
            [x, kernel, bias, gradient].map(|tensor| tensor.into_parts().0);
        let (of_x, of_kernel, of_bias) =
            B::short_conv_gradients(x, kernel, bias, gradient, documents, silu, trains);
        let outer = <Self as AutodiffBackend>::from_inner;
        (outer(of_x), outer(of_kernel), outer(of_bias))
    }
}

#[derive(Debug)]
struct ShortConvBackward;

impl<B: Backend + ShortConv> Backward<B, 3> for ShortConvBackward {
    type State = Kept<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let trains = ops.parents[1..].iter().any(Option::is_some);
        differentiate::<B, _, 3>(
            ops,
            grads,
            |([x, kernel, bias], documents, silu), gradient| {
                B::short_conv_gradients(x, kernel, bias, gradient, documents, silu, trains).into()
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use rayon::ThreadPoolBuilder;

    use super::*;
    use crate::ops::backward_from;

    const CHANNELS: usize = 18;

    /// x, kernel, bias and the weight of the output.
    type Operands = [Vec<f64>; 4];

    fn operands(tokens: usize, taps: usize) -> Operands {
        [
            (tokens * CHANNELS, 0.37),
            (CHANNELS * taps, 1.1),
            (CHANNELS, 0.9),
            (tokens * CHANNELS, 2.3),
        ]
        .map(|(count, step)| {
            (0..count)
                .map(|index| f64::from((step * index as f64 + 0.3).sin() as f32))
                .collect()
        })
    }

    fn exact([x, kernel, bias, _]: &Operands, documents: &[u32], silu: bool) -> Vec<f64> {
        let (taps, mut output, mut start) = (kernel.len() / CHANNELS, Vec::new(), 0);
        for length in documents {
            let end = start + *length as usize;
            for (token, channel) in
                (start..end).flat_map(|token| (0..CHANNELS).map(move |channel| (token, channel)))
            {
                let seen = (0..taps).filter(|tap| token + tap + 1 >= start + taps);
                let sum: f64 = seen
                    .map(|tap| {
                        kernel[channel * taps + tap]
                            * x[(token + tap + 1 - taps) * CHANNELS + channel]
                    })
                    .sum();
                let y = sum + bias[channel];
                output.push(if silu { y / (1.0 + (-y).exp()) } else { y });
            }
            start = end;
        }
        output
    }

    fn run(operands: &Operands, documents: &[u32], silu: bool) -> [Vec<f32>; 4] {
        let (tokens, taps) = (operands[0].len() / CHANNELS, operands[1].len() / CHANNELS);
        let device = Device::flex();
        let of = |which: usize, shape: [usize; 2]| {
            let numbers: Vec<f32> = operands[which].iter().map(|x| *x as f32).collect();
            Tensor::<2>::from_data(TensorData::new(numbers, shape), &device)
        };
        let leaf = |of: Tensor<2>| of.autodiff().require_grad();
        let (x, kernel) = (
            leaf(of(0, [tokens, CHANNELS])),
            leaf(of(1, [CHANNELS, taps])),
        );
        let bias = leaf(of(2, [1, CHANNELS]));
        let y = short_conv(
            x.clone(),
            kernel.clone(),
            bias.clone().reshape([CHANNELS]),
            &documents.to_vec().into(),
            silu,
        );
        let gradients = backward_from(y.clone(), of(3, [tokens, CHANNELS]));
        let [of_x, of_kernel, of_bias] =
            [x, kernel, bias].map(|leaf| leaf.grad(&gradients).expect("tracked"));
        [y.inner(), of_x, of_kernel, of_bias]
            .map(|of| of.into_data().try_to_vec::<f32>().expect("f32"))
    }

    #[test]
    fn it_is_the_sum_over_taps_with_its_gradients_within_each_document() {
        for taps in [1, 3, 4] {
            for silu in [false, true] {
                let documents = [1, 2, 7, 3];
                let mut operands = operands(13, taps);
                let ours = run(&operands, &documents, silu);
                let close = |ours: &[f32], exact: &[f64], what: &str| {
                    assert_eq!(ours.len(), exact.len());
                    for (ours, exact) in ours.iter().zip(exact) {
                        assert!(
                            (f64::from(*ours) - exact).abs() < 5e-6 * (1.0 + exact.abs()),
                            "{what}, {taps} taps: {ours}, expected {exact}"
                        );
                    }
                };
                close(&ours[0], &exact(&operands, &documents, silu), "result");
                for which in 0..3 {
                    let slopes: Vec<f64> = (0..operands[which].len())
                        .map(|place| {
                            let (step, given) = (1e-6, operands[which][place]);
                            let mut at = |number: f64| -> f64 {
                                operands[which][place] = number;
                                let y = exact(&operands, &documents, silu);
                                y.iter().zip(&operands[3]).map(|(y, w)| y * w).sum()
                            };
                            let slope = (at(given + step) - at(given - step)) / (2.0 * step);
                            operands[which][place] = given;
                            slope
                        })
                        .collect();
                    close(&ours[which + 1], &slopes, "gradient");
                }
            }
        }
    }

    #[test]
    fn no_number_of_threads_changes_a_bit() {
        let documents = [2000, 3, 500];
        let operands = operands(2503, 4);
        let run = |threads| {
            let pool = ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool");
            pool.install(|| run(&operands, &documents, true))
        };
        assert_eq!(run(1), run(3));
    }
}
