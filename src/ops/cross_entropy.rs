//! Losses of a chunk of logits and, in place of the logits, their gradient. The vocabulary is the
//! widest thing in training, and log-softmax, exponential, gather and scatter would each need a
//! tensor of that width.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::exp::exp;
use super::lanes::{LANES, largest, padded, total};
use super::numbers::{read, row_major, tensor, write};
use super::simd::{Arithmetic, vectorised};

/// Numbers that are summed in f32 before they are added to a sum in f64.
const RUN: usize = 4096;

/// Computes -log softmax(z)\[target\] of every row, nats, and the gradient of their sum.
///
/// The gradient is softmax(z) - onehot(target).
///
/// # Shapes
/// `logits` [rows, vocabulary], untracked, one target per row; results [rows] and
/// [rows, vocabulary].
pub fn cross_entropy(logits: Tensor<2>, targets: Arc<[u32]>) -> (Tensor<1>, Tensor<2>) {
    let (losses, gradient) =
        <Dispatch as CrossEntropy>::cross_entropy(logits.into_dispatch(), targets);
    (
        Tensor::from_dispatch(losses),
        Tensor::from_dispatch(gradient),
    )
}

/// Computes only the losses of [`cross_entropy`].
pub fn cross_entropy_losses(logits: Tensor<2>, targets: Arc<[u32]>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as CrossEntropy>::cross_entropy_losses(
        logits.into_dispatch(),
        targets,
    ))
}

/// The result of [`smoothed_cross_entropy`].
#[derive(Debug)]
pub struct Smoothed {
    /// -log p of each row's target, nats, [rows].
    pub losses: Tensor<1>,
    /// The mean of log p over the vocabulary, nats, [rows].
    pub mean_log_p: Tensor<1>,
    /// The gradient of the sum of smoothed losses, [rows, vocabulary].
    pub d_logits: Tensor<2>,
}

/// Computes [`cross_entropy`] of labels of which every token of the vocabulary V gets a share e
/// evenly: (1 - e) (-log p) + e mean(-log p), Szegedy et al. 2016, arXiv:1512.00567.
///
/// The gradient is softmax(z) - (1 - e) onehot(target) - e / V.
///
/// # Shapes
/// `logits` [rows, vocabulary], untracked, one target per row.
pub fn smoothed_cross_entropy(logits: Tensor<2>, targets: Arc<[u32]>, share: f64) -> Smoothed {
    let [rows, vocabulary] = logits.dims();
    let indices: Vec<i32> = targets.iter().map(|target| target.cast_signed()).collect();
    let indices =
        Tensor::<2, Int>::from_data(TensorData::new(indices, [rows, 1]), &logits.device());
    let mean = logits.clone().mean_dim(1);
    let of_target = logits.clone().gather(1, indices.clone());
    let (losses, d_logits) = cross_entropy(logits, targets);
    let of_onehot = Tensor::<2>::full([rows, 1], share, (&d_logits.device(), d_logits.dtype()));
    Smoothed {
        // The mean of z, less ln Σ e^z = loss + z[target].
        mean_log_p: (mean - of_target).squeeze_dim::<1>(1) - losses.clone(),
        losses,
        d_logits: d_logits.sub_scalar(share / vocabulary as f64).scatter(
            1,
            indices,
            of_onehot,
            IndexingUpdateOp::Add,
        ),
    }
}

/// The loss and its gradient. There is no tape: the head differentiates itself.
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")))]
pub trait CrossEntropy: Backend {
    /// See [`cross_entropy`].
    fn cross_entropy(
        logits: FloatTensor<Self>,
        targets: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// See [`cross_entropy_losses`].
    fn cross_entropy_losses(logits: FloatTensor<Self>, targets: Arc<[u32]>) -> FloatTensor<Self>;
}

vectorised! {
    /// Returns the loss of a row, and replaces the row by softmax - onehot.
    fn differentiate_row<'a, A>(row: &'a mut [f32], target: usize) -> f32 {
        let (most, of_target) = (largest(row), row[target]);
        let mut sum = 0.0;
        for run in row.chunks_mut(RUN) {
            sum += f64::from(exponentials::<A>(run, most));
        }
        let factor = (1.0 / sum) as f32;
        for number in &mut *row {
            *number *= factor;
        }
        row[target] -= 1.0;
        loss(most, sum, of_target)
    }

    /// Returns the loss of a row.
    fn loss_of_row<'a, A>(row: &'a [f32], target: usize) -> f32 {
        let most = largest(row);
        let mut sum = 0.0;
        for run in row.chunks(RUN) {
            sum += f64::from(sum_of_exponentials::<A>(run, most));
        }
        loss(most, sum, row[target])
    }
}

/// Returns ln Σ e^z - z\[target\], given Σ e^(z - most).
#[inline(always)]
fn loss(most: f32, sum: f64, of_target: f32) -> f32 {
    (sum.ln() + (f64::from(most) - f64::from(of_target))) as f32
}

/// Replaces each number by e^(z - most); returns their sum.
#[inline(always)]
fn exponentials<A: Arithmetic>(run: &mut [f32], most: f32) -> f32 {
    let (run, rest) = run.as_chunks_mut::<LANES>();
    let mut sums = [0.0; LANES];
    for z in run {
        for (sum, z) in sums.iter_mut().zip(z) {
            *z = exp::<A>(*z - most);
            *sum += *z;
        }
    }
    for z in &mut *rest {
        *z = exp::<A>(*z - most);
    }
    for (sum, z) in sums.iter_mut().zip(padded(rest, 0.0)) {
        *sum += z;
    }
    total(sums)
}

/// Returns Σ e^(z - most).
#[inline(always)]
fn sum_of_exponentials<A: Arithmetic>(run: &[f32], most: f32) -> f32 {
    let (run, rest) = run.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for z in run {
        for (sum, z) in sums.iter_mut().zip(z) {
            *sum += exp::<A>(*z - most);
        }
    }
    for (sum, z) in sums.iter_mut().zip(padded(rest, f32::NEG_INFINITY)) {
        *sum += exp::<A>(z - most);
    }
    total(sums)
}

impl CrossEntropy for Flex {
    fn cross_entropy(
        mut logits: FloatTensor<Self>,
        targets: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let vocabulary = logits.shape()[1];
        let rows = write(&mut logits)
            .par_chunks_exact_mut(vocabulary)
            .zip(&*targets);
        let losses: Vec<f32> = rows
            .map(|(row, target)| differentiate_row(row, *target as usize))
            .collect();
        (tensor(losses, [targets.len()].into()), logits)
    }

    fn cross_entropy_losses(logits: FloatTensor<Self>, targets: Arc<[u32]>) -> FloatTensor<Self> {
        let (vocabulary, logits) = (logits.shape()[1], row_major(logits));
        let rows = read(&logits).par_chunks_exact(vocabulary).zip(&*targets);
        tensor(
            rows.map(|(row, target)| loss_of_row(row, *target as usize))
                .collect(),
            [targets.len()].into(),
        )
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl CrossEntropy for burn::backend::Cube {
    fn cross_entropy(
        logits: FloatTensor<Self>,
        targets: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        super::cube::cross_entropy::cross_entropy(
            logits,
            &targets,
            super::cube::cross_entropy::Logits::Differentiated,
        )
    }

    fn cross_entropy_losses(logits: FloatTensor<Self>, targets: Arc<[u32]>) -> FloatTensor<Self> {
        super::cube::cross_entropy::cross_entropy(
            logits,
            &targets,
            super::cube::cross_entropy::Logits::Kept,
        )
        .0
    }
}

/// Computes [`cross_entropy`] with a backend's own operations.
#[cfg(test)]
fn composed<B: Backend>(
    logits: FloatTensor<B>,
    targets: &[u32],
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (device, dtype, rows) = (logits.device(), logits.dtype(), targets.len());
    let log_p = B::log_softmax(logits, 1);
    let indices: Vec<i32> = targets.iter().map(|target| target.cast_signed()).collect();
    let indices = B::int_from_data(TensorData::new(indices, [rows, 1]), &device);
    let losses = B::float_neg(B::float_gather(1, log_p.clone(), indices.clone()));
    let minus_one = B::float_neg(B::float_ones([rows, 1].into(), &device, dtype.into()));
    let gradient = B::float_scatter(
        1,
        B::float_exp(log_p),
        indices,
        minus_one,
        IndexingUpdateOp::Add,
    );
    (B::float_reshape(losses, [rows].into()), gradient)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::simd::at_every_level;
    use super::*;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count)
            .map(|index| 12.0 * (0.37 * index as f32).sin())
            .collect()
    }

    /// Returns the loss and its gradient in f64.
    fn exact(row: &[f32], target: usize) -> (f64, Vec<f64>) {
        let row: Vec<f64> = row.iter().map(|number| f64::from(*number)).collect();
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|z| (z - most).exp()).sum();
        let onehot = |at| f64::from(u8::from(at == target));
        let gradient = row
            .iter()
            .enumerate()
            .map(|(at, z)| (z - most).exp() / sum - onehot(at));
        (sum.ln() + (most - row[target]), gradient.collect())
    }

    #[test]
    fn every_level_is_the_closed_form() {
        for vocabulary in [1, 15, 16, 17, 1000, 50_001] {
            let (row, target) = (numbers(vocabulary), vocabulary / 2);
            let (loss, gradient) = exact(&row, target);
            for (ours, alone, of_row) in at_every_level(|| {
                let mut of_row = row.clone();
                (
                    differentiate_row(&mut of_row, target),
                    loss_of_row(&row, target),
                    of_row,
                )
            }) {
                assert!(
                    (f64::from(ours) - loss).abs() <= 1e-6 * (1.0 + loss),
                    "{ours}, expected {loss}"
                );
                assert!((ours - alone).abs() <= 2.0 * f32::EPSILON * ours);
                let worst = of_row
                    .iter()
                    .zip(&gradient)
                    .map(|(ours, exact)| (f64::from(*ours) - exact).abs());
                assert!(worst.fold(0.0, f64::max) < 1e-6);
            }
        }
    }

    #[test]
    fn smoothed_labels_are_the_closed_form() {
        let (rows, vocabulary, share) = (3, 1003, 0.15);
        let all = numbers(rows * vocabulary);
        let targets: Arc<[u32]> = [0, 500, 1002].into();
        let logits = TensorData::new(all.clone(), [rows, vocabulary]);
        let logits = Tensor::<2>::from_data(logits, &Device::flex());
        let smoothed = smoothed_cross_entropy(logits, targets.clone(), share);
        let of = |data: TensorData| data.try_to_vec::<f32>().expect("f32");
        let (losses, means) = (
            of(smoothed.losses.into_data()),
            of(smoothed.mean_log_p.into_data()),
        );
        let gradient = of(smoothed.d_logits.into_data());
        for (row, numbers) in all.chunks(vocabulary).enumerate() {
            let target = targets[row] as usize;
            let (loss, of_row) = exact(numbers, target);
            assert!((f64::from(losses[row]) - loss).abs() < 1e-5);
            let mean: f64 = numbers.iter().copied().map(f64::from).sum::<f64>() / 1003.0;
            let expected = mean - f64::from(numbers[target]) - loss;
            assert!((f64::from(means[row]) - expected).abs() < 1e-5);
            for (at, exact) in of_row.into_iter().enumerate() {
                let moved = if at == target { share } else { 0.0 } - share / 1003.0;
                let found = f64::from(gradient[row * vocabulary + at]);
                assert!((found - exact - moved).abs() < 1e-6, "{row}, {at}: {found}");
            }
        }
    }

    #[test]
    fn a_row_may_be_far_from_zero_and_a_token_impossible_but_a_nan_shows() {
        for row in [
            [1e4f32, 1e4, 1e4 - 1.0],
            [-1e30, -1e30, -1e30 - 1.0],
            [3.0, f32::NEG_INFINITY, 2.0],
        ] {
            let (loss, gradient) = exact(&row, 0);
            for (ours, of_row) in at_every_level(|| {
                let mut of_row = row;
                (differentiate_row(&mut of_row, 0), of_row)
            }) {
                assert!(
                    (f64::from(ours) - loss).abs() < 1e-6,
                    "{ours}, expected {loss}"
                );
                assert!(
                    of_row
                        .iter()
                        .zip(&gradient)
                        .all(|(ours, exact)| (f64::from(*ours) - exact).abs() < 1e-6)
                );
            }
        }
        for row in [[1.0, f32::NAN, 2.0], [1.0, f32::INFINITY, 2.0]] {
            let losses =
                at_every_level(|| [differentiate_row(&mut row.clone(), 0), loss_of_row(&row, 0)]);
            assert!(
                losses.into_iter().flatten().all(|loss| !loss.is_finite()),
                "{row:?}"
            );
        }
    }

    #[test]
    fn rows_keep_their_targets_and_repeat_bit_for_bit() {
        let (rows, vocabulary) = (7, 1003);
        let targets: Arc<[u32]> = (0..7u32).map(|row| row * 100).collect();
        let all = numbers(rows * vocabulary);
        let logits = Tensor::<2>::from_data(
            TensorData::new(all.clone(), [rows, vocabulary]),
            &Device::flex(),
        );
        let run = || {
            let (losses, gradient) = cross_entropy(logits.clone(), targets.clone());
            (
                losses.into_data().try_to_vec::<f32>().expect("f32"),
                gradient.into_data().try_to_vec::<f32>().expect("f32"),
            )
        };
        let (losses, gradient) = run();
        assert_eq!((losses.clone(), gradient.clone()), run());
        for (row, numbers) in all.chunks(vocabulary).enumerate() {
            let (loss, of_row) = exact(numbers, row * 100);
            assert!((f64::from(losses[row]) - loss).abs() < 1e-5);
            let ours = &gradient[row * vocabulary..][..vocabulary];
            assert!(
                ours.iter()
                    .zip(of_row)
                    .all(|(ours, exact)| (f64::from(*ours) - exact).abs() < 1e-6)
            );
        }
        let composed = composed::<Flex>(tensor(all, [rows, vocabulary].into()), &targets);
        assert!(
            losses
                .iter()
                .zip(read(&composed.0))
                .all(|(ours, theirs)| (ours - theirs).abs() < 1e-5)
        );
        assert!(
            gradient
                .iter()
                .zip(read(&composed.1))
                .all(|(ours, theirs)| (ours - theirs).abs() < 1e-6)
        );
    }
}
