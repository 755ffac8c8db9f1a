//! RMS norm by a backend's own operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};

/// Returns a tensor as rows of its last dimension, [rows, width].
fn rows<B: Backend>(x: FloatTensor<B>, width: usize) -> FloatTensor<B> {
    let count = x.shape().num_elements() / width;
    B::float_reshape(x, [count, width].into())
}

/// Returns 1 / sqrt(mean(x²) + ε) of rows, [rows, 1].
fn inverse_rms<B: Backend>(x: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x), 1);
    B::float_recip(B::float_sqrt(B::float_add_scalar(mean, epsilon.into())))
}

/// Computes [`super::rms_norm`] by a backend's own operations.
pub(super) fn norm<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let (shape, width) = (x.shape(), weight.shape().num_elements());
    let (x, weight) = (rows::<B>(x, width), rows::<B>(weight, width));
    let inverse = inverse_rms::<B>(x.clone(), epsilon);
    B::float_reshape(B::float_mul(B::float_mul(x, inverse), weight), shape)
}

/// Computes [`super::rms_norm_gradients`] by a backend's own operations.
pub(super) fn gradients<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (shape, width) = (x.shape(), weight.shape().num_elements());
    let [x, gradient] = [x, gradient].map(|tensor| rows::<B>(tensor, width));
    let inverse = inverse_rms::<B>(x.clone(), epsilon);
    let weighted = B::float_mul(gradient.clone(), rows::<B>(weight.clone(), width));
    let normed = B::float_mul(x, inverse.clone());
    let along = B::float_mean_dim(B::float_mul(normed.clone(), weighted.clone()), 1);
    let of_x = B::float_mul(
        B::float_sub(weighted, B::float_mul(normed.clone(), along)),
        inverse,
    );
    let of_weight = B::float_sum_dim(B::float_mul(normed, gradient), 0);
    (
        B::float_reshape(of_x, shape),
        B::float_reshape(of_weight, weight.shape()),
    )
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::super::Norm;
    use super::super::loops::tests::{EPSILON, assert_close, numbers};
    use super::*;
    use crate::ops::numbers::{read, tensor};

    #[test]
    fn the_composed_form_is_the_same() {
        let of = |numbers: Vec<f32>, shape: [usize; 2]| tensor(numbers, shape.into());
        let (x, g) = (
            of(numbers(300, 0.37), [3, 100]),
            of(numbers(300, 1.1), [3, 100]),
        );
        let weight = tensor(numbers(100, 0.73), [100].into());
        let (of_x, of_weight) =
            Flex::rms_norm_gradients(x.clone(), weight.clone(), g.clone(), EPSILON);
        let ours = [
            Flex::rms_norm(x.clone(), weight.clone(), EPSILON),
            of_x,
            of_weight,
        ];
        let (of_x, of_weight) = gradients::<Flex>(x.clone(), weight.clone(), g, EPSILON);
        for (ours, theirs) in ours
            .iter()
            .zip([norm::<Flex>(x, weight, EPSILON), of_x, of_weight])
        {
            let theirs: Vec<f64> = read(&theirs)
                .iter()
                .map(|number| f64::from(*number))
                .collect();
            assert_close(read(ours), &theirs, "composed");
        }
    }
}
