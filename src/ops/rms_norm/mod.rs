//! Root-mean-square normalization in one pass per row, forward and backward, Zhang and Sennrich
//! 2019, arXiv:1910.07467.
//!
//! Backward keeps only x, which the residual stream holds anyway: the root mean square is
//! recomputed while the row is at hand.

#[cfg(test)]
mod composed;
mod loops;

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
use super::numbers::{piece_of_rows, read, row_major, tensor, write};

/// Computes y = x r ∘ w with r = 1 / sqrt(mean(x²) + ε), over the last dimension.
///
/// # Shapes
/// `x` [.., width], `weight` [width], result as `x`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Norm>::rms_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        epsilon,
    ))
}

/// Returns the gradient of `x`, given that of y: r (w∘g) - x r³ mean(x∘w∘g).
///
/// # Shapes
/// `x` and `gradient` [.., width], untracked.
pub fn rms_norm_input<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    gradient: Tensor<D>,
    epsilon: f64,
) -> Tensor<D> {
    let [x, gradient] = [x, gradient].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Norm>::rms_norm_input(
        x,
        weight.into_dispatch(),
        gradient,
        epsilon,
    ))
}

/// Returns the gradient of `x` and that of `weight`, the sum over rows of x r ∘ g.
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
    let (of_x, of_weight) =
        <Dispatch as Norm>::rms_norm_gradients(x, weight.into_dispatch(), gradient, epsilon);
    (
        Tensor::from_dispatch(of_x),
        Tensor::from_dispatch(of_weight),
    )
}

/// The norm and its gradients.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait Norm: Backend {
    /// See [`rms_norm`].
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64)
    -> FloatTensor<Self>;

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

impl Norm for Flex {
    fn rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let (x, weight) = (row_major(x), row_major(weight));
        let (mut output, piece) = (
            vec![0.0; x.shape().num_elements()],
            piece_of_rows(read(&weight).len()),
        );
        let pieces = output.par_chunks_mut(piece).zip(read(&x).par_chunks(piece));
        pieces.for_each(|(output, x)| loops::forward(output, x, read(&weight), epsilon as f32));
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
        let pieces = write(&mut gradient)
            .par_chunks_mut(piece)
            .zip(read(&x).par_chunks(piece));
        pieces
            .for_each(|(gradient, x)| loops::backward(gradient, x, read(&weight), epsilon as f32));
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
        let pieces = write(&mut gradient)
            .par_chunks_mut(piece)
            .zip(read(&x).par_chunks(piece));
        let of_pieces = pieces.map(|(gradient, x)| {
            let mut of_weight = vec![0.0; width];
            loops::backward_both(gradient, &mut of_weight, x, read(&weight), epsilon as f32);
            of_weight
        });
        // Pieces are the same for any number of threads, and are added in their order.
        let mut of_weight = vec![0.0; width];
        for of_piece in of_pieces.collect::<Vec<_>>() {
            of_weight
                .iter_mut()
                .zip(of_piece)
                .for_each(|(sum, of_piece)| *sum += of_piece);
        }
        (gradient, tensor(of_weight, weight.shape()))
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Norm for burn::backend::Cube {
    fn rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        super::cube::rms_norm::forward(x, weight, epsilon)
    }

    fn rms_norm_input(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        super::cube::rms_norm::input(x, weight, gradient, epsilon)
    }

    fn rms_norm_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        super::cube::rms_norm::both(x, weight, gradient, epsilon)
    }
}

impl<B: Backend + Norm, C: CheckpointStrategy> Norm for Autodiff<B, C> {
    fn rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let trains = weight.is_tracked();
        let kept =
            (trains || x.is_tracked()).then(|| (x.primitive().clone(), weight.primitive().clone()));
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        let output = B::rms_norm(x, weight, epsilon);
        if trains {
            match NormBackward
                .prepare::<C>([x_node, weight_node])
                .compute_bound()
                .stateful()
            {
                OpsKind::Tracked(prep) => {
                    prep.finish((kept.expect("the weight is tracked"), epsilon), output)
                }
                OpsKind::UnTracked(prep) => prep.finish(output),
            }
        } else {
            match NormBackward
                .prepare::<C>([x_node])
                .compute_bound()
                .stateful()
            {
                OpsKind::Tracked(prep) => {
                    prep.finish((kept.expect("x is tracked"), epsilon), output)
                }
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
        (
            <Self as AutodiffBackend>::from_inner(of_x),
            <Self as AutodiffBackend>::from_inner(of_weight),
        )
    }
}

/// The tensors x and w, and ε.
type Kept<B> = ((FloatTensor<B>, FloatTensor<B>), f64);

/// The backward: with one operand, of x alone; with two, of x and of the weight.
#[derive(Debug)]
struct NormBackward;

impl<B: Backend + Norm> Backward<B, 1> for NormBackward {
    type State = Kept<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        differentiate::<B, _, 1>(ops, grads, |((x, weight), epsilon), gradient| {
            [B::rms_norm_input(x, weight, gradient, epsilon)]
        });
    }
}

impl<B: Backend + Norm> Backward<B, 2> for NormBackward {
    type State = Kept<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        differentiate::<B, _, 2>(ops, grads, |((x, weight), epsilon), gradient| {
            B::rms_norm_gradients(x, weight, gradient, epsilon).into()
        });
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::loops::tests::{EPSILON, assert_close, exact, numbers};
    use super::*;
    use crate::ops::backward_from;

    #[test]
    fn backward_is_wired_to_forward_whatever_is_tracked_and_repeats_bit_for_bit() {
        let device = Device::flex();
        let (x, w, g) = (
            numbers(5 * 40 * 200, 0.37),
            numbers(200, 0.73),
            numbers(5 * 40 * 200, 1.1),
        );
        let exact = exact(&x, &w, &g);
        let of = |numbers: &[f32]| {
            Tensor::<3>::from_data(TensorData::new(numbers.to_vec(), [5, 40, 200]), &device)
        };
        let (x, w, g) = (
            of(&x),
            Tensor::<1>::from_data(TensorData::from(&w[..]), &device),
            of(&g),
        );
        let run = || {
            let (x, w) = (
                x.clone().autodiff().require_grad(),
                w.clone().autodiff().require_grad(),
            );
            let gradients = backward_from(rms_norm(x.clone(), w.clone(), EPSILON), g.clone());
            let of_weight = w
                .grad(&gradients)
                .expect("tracked")
                .into_data()
                .try_to_vec::<f32>()
                .expect("f32");
            (
                x.grad(&gradients)
                    .expect("tracked")
                    .into_data()
                    .try_to_vec::<f32>()
                    .expect("f32"),
                of_weight,
            )
        };
        let first = run();
        assert_eq!(first, run());
        assert_close(&first.0, &exact[1], "of x");
        assert_close(&first.1, &exact[2], "of the weight");

        let leaf = x.clone().autodiff().require_grad();
        let gradients = backward_from(rms_norm(leaf.clone(), w.clone(), EPSILON), g.clone());
        assert_eq!(
            leaf.grad(&gradients)
                .expect("tracked")
                .into_data()
                .try_to_vec::<f32>()
                .expect("f32"),
            first.0
        );
        assert!(w.grad(&gradients).is_none());

        let weight = w.autodiff().require_grad();
        let gradients = backward_from(rms_norm(x, weight.clone(), EPSILON), g);
        assert_eq!(
            weight
                .grad(&gradients)
                .expect("tracked")
                .into_data()
                .try_to_vec::<f32>()
                .expect("f32"),
            first.1
        );
    }
}
