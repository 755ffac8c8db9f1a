//! Root-mean-square normalisation in one pass a row, forward and backward, Zhang and Sennrich 2019, arXiv:1910.07467.
//!
//! Backward keeps x alone, which the residual stream holds anyway: the root mean square is computed again while the row is at hand.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::differentiate;
use super::lanes::sum_of_products;
use super::numbers::{piece_of_rows, read, row_major, tensor, write};
use super::simd::{Arithmetic, vectorised};

/// y = x r ∘ w with r = 1 / sqrt(mean(x²) + ε), over the last dimension.
///
/// # Shapes
/// `x` [.., width], `weight` [width], result as `x`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Norm>::rms_norm(x.into_dispatch(), weight.into_dispatch(), epsilon))
}

/// The gradient of `x`, given that of y: r (w∘g) - x r³ mean(x∘w∘g).
///
/// # Shapes
/// `x` and `gradient` [.., width], untracked.
pub fn rms_norm_input<const D: usize>(x: Tensor<D>, weight: Tensor<1>, gradient: Tensor<D>, epsilon: f64) -> Tensor<D> {
    let [x, gradient] = [x, gradient].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Norm>::rms_norm_input(x, weight.into_dispatch(), gradient, epsilon))
}

/// The gradient of `x` and that of `weight`, the sum over rows of x r ∘ g.
///
/// # Shapes
/// `x` and `gradient` [.., width], untracked.
pub fn rms_norm_gradients<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    gradient: Tensor<D>,
    epsilon: f64,
) -> (Tensor<D>, Tensor<1>) {
    let [x, gradient] = [x, gradient].map(Tensor::into_dispatch);
    let (of_x, of_weight) = <Dispatch as Norm>::rms_norm_gradients(x, weight.into_dispatch(), gradient, epsilon);
    (Tensor::from_dispatch(of_x), Tensor::from_dispatch(of_weight))
}

/// The norm and its gradients.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait Norm: Backend {
    /// See [`rms_norm`].
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;

    /// See [`rms_norm_input`].
    fn rms_norm_input(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;

    /// See [`rms_norm_gradients`].
    fn rms_norm_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// 1 / sqrt(mean(x²) + ε).
#[inline(always)]
fn inverse_rms<A: Arithmetic>(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum_of_products::<A>(x, x) / x.len() as f32 + epsilon).sqrt()
}

vectorised! {
    fn forward<'a, A>(output: &'a mut [f32], x: &'a [f32], weight: &'a [f32], epsilon: f32) {
        for (output, x) in output.chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len())) {
            let inverse = inverse_rms::<A>(x, epsilon);
            output.iter_mut().zip(x).zip(weight).for_each(|((output, x), w)| *output = x * inverse * w);
        }
    }

    /// In place of the gradient of y.
    fn backward<'a, A>(gradient: &'a mut [f32], x: &'a [f32], weight: &'a [f32], epsilon: f32) {
        for (gradient, x) in gradient.chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len())) {
            backward_row::<A>(gradient, x, weight, inverse_rms::<A>(x, epsilon));
        }
    }

    /// The same, and the gradient of the weight added to `of_weight`.
    fn backward_both<'a, A>(gradient: &'a mut [f32], of_weight: &'a mut [f32], x: &'a [f32], weight: &'a [f32], epsilon: f32) {
        for (gradient, x) in gradient.chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len())) {
            let inverse = inverse_rms::<A>(x, epsilon);
            of_weight.iter_mut().zip(x).zip(&*gradient).for_each(|((sum, x), g)| *sum = A::multiply_add(x * inverse, *g, *sum));
            backward_row::<A>(gradient, x, weight, inverse);
        }
    }
}

#[inline(always)]
fn backward_row<A: Arithmetic>(gradient: &mut [f32], x: &[f32], weight: &[f32], inverse: f32) {
    gradient.iter_mut().zip(weight).for_each(|(g, w)| *g *= w);
    let along = -(sum_of_products::<A>(x, gradient) / x.len() as f32 * inverse * inverse * inverse);
    gradient.iter_mut().zip(x).for_each(|(g, x)| *g = A::multiply_add(*x, along, *g * inverse));
}

impl Norm for Flex {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let (x, weight) = (row_major(x), row_major(weight));
        let (mut output, piece) = (vec![0.0; x.shape().num_elements()], piece_of_rows(read(&weight).len()));
        let pieces = output.par_chunks_mut(piece).zip(read(&x).par_chunks(piece));
        pieces.for_each(|(output, x)| forward(output, x, read(&weight), epsilon as f32));
        tensor(output, x.shape())
    }

    fn rms_norm_input(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mut gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let (x, weight) = (row_major(x), row_major(weight));
        let piece = piece_of_rows(read(&weight).len());
        let pieces = write(&mut gradient).par_chunks_mut(piece).zip(read(&x).par_chunks(piece));
        pieces.for_each(|(gradient, x)| backward(gradient, x, read(&weight), epsilon as f32));
        gradient
    }

    fn rms_norm_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mut gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, weight) = (row_major(x), row_major(weight));
        let width = read(&weight).len();
        let piece = piece_of_rows(width);
        let pieces = write(&mut gradient).par_chunks_mut(piece).zip(read(&x).par_chunks(piece));
        let of_pieces = pieces.map(|(gradient, x)| {
            let mut of_weight = vec![0.0; width];
            backward_both(gradient, &mut of_weight, x, read(&weight), epsilon as f32);
            of_weight
        });
        // Pieces are the same for any number of threads, and are added in their order.
        let mut of_weight = vec![0.0; width];
        for of_piece in of_pieces.collect::<Vec<_>>() {
            of_weight.iter_mut().zip(of_piece).for_each(|(sum, of_piece)| *sum += of_piece);
        }
        (gradient, tensor(of_weight, weight.shape()))
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Norm for burn::backend::Cube {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        composed::<Self>(x, weight, epsilon)
    }

    fn rms_norm_input(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        composed_gradients::<Self>(x, weight, gradient, epsilon).0
    }

    fn rms_norm_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed_gradients::<Self>(x, weight, gradient, epsilon)
    }
}

/// A tensor as rows of its last dimension, [rows, width].
#[cfg(any(feature = "wgpu", feature = "cuda", test))]
fn rows<B: Backend>(x: FloatTensor<B>, width: usize) -> FloatTensor<B> {
    let count = x.shape().num_elements() / width;
    B::float_reshape(x, [count, width].into())
}

/// 1 / sqrt(mean(x²) + ε) of rows, [rows, 1].
#[cfg(any(feature = "wgpu", feature = "cuda", test))]
fn composed_inverse<B: Backend>(x: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x), 1);
    B::float_recip(B::float_sqrt(B::float_add_scalar(mean, epsilon.into())))
}

/// [`rms_norm`] of a backend's own operations.
#[cfg(any(feature = "wgpu", feature = "cuda", test))]
fn composed<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
    let (shape, width) = (x.shape(), weight.shape().num_elements());
    let (x, weight) = (rows::<B>(x, width), rows::<B>(weight, width));
    let inverse = composed_inverse::<B>(x.clone(), epsilon);
    B::float_reshape(B::float_mul(B::float_mul(x, inverse), weight), shape)
}

/// [`rms_norm_gradients`] of a backend's own operations.
#[cfg(any(feature = "wgpu", feature = "cuda", test))]
fn composed_gradients<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (shape, width) = (x.shape(), weight.shape().num_elements());
    let [x, gradient] = [x, gradient].map(|tensor| rows::<B>(tensor, width));
    let inverse = composed_inverse::<B>(x.clone(), epsilon);
    let weighted = B::float_mul(gradient.clone(), rows::<B>(weight.clone(), width));
    let normed = B::float_mul(x, inverse.clone());
    let along = B::float_mean_dim(B::float_mul(normed.clone(), weighted.clone()), 1);
    let of_x = B::float_mul(B::float_sub(weighted, B::float_mul(normed.clone(), along)), inverse);
    let of_weight = B::float_sum_dim(B::float_mul(normed, gradient), 0);
    (B::float_reshape(of_x, shape), B::float_reshape(of_weight, weight.shape()))
}

impl<B: Backend + Norm, C: CheckpointStrategy> Norm for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let trains = weight.is_tracked();
        let kept = (trains || x.is_tracked()).then(|| (x.primitive().clone(), weight.primitive().clone()));
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        let output = B::rms_norm(x, weight, epsilon);
        if trains {
            match NormBackward.prepare::<C>([x_node, weight_node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((kept.expect("the weight is tracked"), epsilon), output),
                OpsKind::UnTracked(prep) => prep.finish(output),
            }
        } else {
            match NormBackward.prepare::<C>([x_node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((kept.expect("x is tracked"), epsilon), output),
                OpsKind::UnTracked(prep) => prep.finish(output),
            }
        }
    }

    fn rms_norm_input(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let [x, weight, gradient] = [x, weight, gradient].map(|tensor| tensor.into_primitive());
        <Self as AutodiffBackend>::from_inner(B::rms_norm_input(x, weight, gradient, epsilon))
    }

    fn rms_norm_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [x, weight, gradient] = [x, weight, gradient].map(|tensor| tensor.into_primitive());
        let (of_x, of_weight) = B::rms_norm_gradients(x, weight, gradient, epsilon);
        (<Self as AutodiffBackend>::from_inner(of_x), <Self as AutodiffBackend>::from_inner(of_weight))
    }
}

/// x and w, and ε.
type Kept<B> = ((FloatTensor<B>, FloatTensor<B>), f64);

/// With one operand, of x alone; with two, of x and of the weight.
#[derive(Debug)]
struct NormBackward;

impl<B: Backend + Norm> Backward<B, 1> for NormBackward {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        differentiate::<B, _, 1>(ops, grads, |((x, weight), epsilon), gradient| {
            [B::rms_norm_input(x, weight, gradient, epsilon)]
        });
    }
}

impl<B: Backend + Norm> Backward<B, 2> for NormBackward {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        differentiate::<B, _, 2>(ops, grads, |((x, weight), epsilon), gradient| {
            B::rms_norm_gradients(x, weight, gradient, epsilon).into()
        });
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::super::simd::at_every_level;
    use super::*;

    const EPSILON: f64 = 1e-5;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|index| 2.0 * (step * index as f32 + 1.0).sin()).collect()
    }

    /// The result, the gradient of x and that of the weight in f64.
    fn exact(x: &[f32], weight: &[f32], gradient: &[f32]) -> [Vec<f64>; 3] {
        let (width, mut all) = (weight.len(), [vec![], vec![], vec![0.0; weight.len()]]);
        let wide = |numbers: &[f32]| numbers.iter().map(|number| f64::from(*number)).collect::<Vec<_>>();
        let w = wide(weight);
        for (x, g) in x.chunks(width).zip(gradient.chunks(width)) {
            let (x, g) = (wide(x), wide(g));
            let r = (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + EPSILON).sqrt().recip();
            let along = (0..width).map(|at| x[at] * w[at] * g[at]).sum::<f64>() / width as f64;
            all[0].extend((0..width).map(|at| x[at] * r * w[at]));
            all[1].extend((0..width).map(|at| r * w[at] * g[at] - x[at] * r.powi(3) * along));
            (0..width).for_each(|at| all[2][at] += x[at] * r * g[at]);
        }
        all
    }

    fn assert_close(ours: &[f32], exact: &[f64], name: &str) {
        assert_eq!(ours.len(), exact.len());
        for (ours, exact) in ours.iter().zip(exact) {
            assert!((f64::from(*ours) - exact).abs() <= 1e-5 * (1.0 + exact.abs()), "{name}: {ours}, expected {exact}");
        }
    }

    #[test]
    fn every_level_is_the_closed_form() {
        for width in [1, 15, 16, 17, 1000] {
            let (x, weight, gradient) = (numbers(3 * width, 0.37), numbers(width, 0.73), numbers(3 * width, 1.1));
            let exact = exact(&x, &weight, &gradient);
            let of_levels = at_every_level(|| {
                let (mut output, mut of_x, mut of_weight) = (vec![0.0; 3 * width], gradient.clone(), vec![0.0; width]);
                forward(&mut output, &x, &weight, EPSILON as f32);
                backward(&mut of_x, &x, &weight, EPSILON as f32);
                let mut again = gradient.clone();
                backward_both(&mut again, &mut of_weight, &x, &weight, EPSILON as f32);
                assert_eq!(of_x, again);
                [output, of_x, of_weight]
            });
            for ours in &of_levels {
                for (which, name) in ["result", "of x", "of the weight"].into_iter().enumerate() {
                    assert_close(&ours[which], &exact[which], name);
                }
            }
        }
    }

    #[test]
    fn backward_is_wired_to_forward_whatever_is_tracked_and_repeats_bit_for_bit() {
        let device = Device::flex();
        let (x, w, g) = (numbers(5 * 40 * 200, 0.37), numbers(200, 0.73), numbers(5 * 40 * 200, 1.1));
        let exact = exact(&x, &w, &g);
        let of = |numbers: &[f32]| Tensor::<3>::from_data(TensorData::new(numbers.to_vec(), [5, 40, 200]), &device);
        let (x, w, g) = (of(&x), Tensor::<1>::from_data(TensorData::from(&w[..]), &device), of(&g));
        let run = || {
            let (x, w) = (x.clone().autodiff().require_grad(), w.clone().autodiff().require_grad());
            let gradients = super::super::backward_from(rms_norm(x.clone(), w.clone(), EPSILON), g.clone());
            let of_weight = w.grad(&gradients).expect("tracked").into_data().try_to_vec::<f32>().expect("f32");
            (x.grad(&gradients).expect("tracked").into_data().try_to_vec::<f32>().expect("f32"), of_weight)
        };
        let first = run();
        assert_eq!(first, run());
        assert_close(&first.0, &exact[1], "of x");
        assert_close(&first.1, &exact[2], "of the weight");

        let leaf = x.clone().autodiff().require_grad();
        let gradients = super::super::backward_from(rms_norm(leaf.clone(), w.clone(), EPSILON), g.clone());
        assert_eq!(leaf.grad(&gradients).expect("tracked").into_data().try_to_vec::<f32>().expect("f32"), first.0);
        assert!(w.grad(&gradients).is_none());

        let weight = w.autodiff().require_grad();
        let gradients = super::super::backward_from(rms_norm(x, weight.clone(), EPSILON), g);
        assert_eq!(weight.grad(&gradients).expect("tracked").into_data().try_to_vec::<f32>().expect("f32"), first.1);
    }

    #[test]
    fn a_nan_stays_in_its_row() {
        let mut x = vec![1.0; 40];
        x[3] = f32::NAN;
        for (output, of_x) in at_every_level(|| {
            let (mut output, mut of_x) = (vec![0.0; 40], vec![1.0; 40]);
            forward(&mut output, &x, &[1.0; 20], EPSILON as f32);
            backward(&mut of_x, &x, &[1.0; 20], EPSILON as f32);
            (output, of_x)
        }) {
            assert!(output[..20].iter().chain(&of_x[..20]).all(|number| number.is_nan()));
            assert!(output[20..].iter().chain(&of_x[20..]).all(|number| number.is_finite()));
        }
    }

    #[test]
    fn the_composed_form_is_the_same() {
        let of = |numbers: Vec<f32>, shape: [usize; 2]| tensor(numbers, shape.into());
        let (x, g) = (of(numbers(300, 0.37), [3, 100]), of(numbers(300, 1.1), [3, 100]));
        let weight = tensor(numbers(100, 0.73), [100].into());
        let (of_x, of_weight) = Flex::rms_norm_gradients(x.clone(), weight.clone(), g.clone(), EPSILON);
        let ours = [Flex::rms_norm(x.clone(), weight.clone(), EPSILON), of_x, of_weight];
        let (of_x, of_weight) = composed_gradients::<Flex>(x.clone(), weight.clone(), g, EPSILON);
        for (ours, theirs) in ours.iter().zip([composed::<Flex>(x, weight, EPSILON), of_x, of_weight]) {
            let theirs: Vec<f64> = read(&theirs).iter().map(|number| f64::from(*number)).collect();
            assert_close(read(ours), &theirs, "composed");
        }
    }
}
