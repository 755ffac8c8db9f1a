//! The loss of logits on a GPU: one cube per row, which reads the row once for the sum of its
//! exponentials and once to replace it by its gradient.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Extent, across, cubes, element, empty, extent, owned, sharing, upload, vector_size};

/// The use of the memory of the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops) enum Logits {
    /// The gradient replaces the logits.
    Differentiated,
    /// The logits stay as they are.
    Kept,
}

/// Returns the larger of two maxima, and the sum of both sums of exponentials relative to it.
#[cube]
fn joined(most: f32, sum: f32, other: f32, of_other: f32) -> (f32, f32) {
    let larger = max(most, other);
    (
        larger,
        sum * (most - larger).exp() + of_other * (other - larger).exp(),
    )
}

#[cube(launch)]
fn losses_of<F: Float, N: Size>(
    logits: &mut [Vector<F, N>],
    targets: &[u32],
    losses: &mut [f32],
    extent: &Extent,
    #[comptime] units: usize,
    #[comptime] what: Logits,
    #[define(F)] _element: ElemType,
) {
    let (row, unit) = (CUBE_POS, UNIT_POS as usize);
    if row >= extent.rows as usize {
        terminate!();
    }
    let (mut largest, mut sums) = (
        Shared::<[f32]>::new_slice(units),
        Shared::<[f32]>::new_slice(units),
    );
    let width = extent.width as usize;
    let start = row * width;
    // Less than any logit that counts, and one of which differences are numbers.
    let mut most = f32::new(-1e38f32);
    let mut sum = 0.0f32;
    let mut at = unit;
    while at < width {
        let numbers = Vector::<f32, N>::cast_from(logits[start + at]);
        let mut of_vector = most;
        #[unroll]
        for index in 0..N::value() {
            of_vector = max(of_vector, numbers.extract(index));
        }
        sum =
            sum * (most - of_vector).exp() + across::<N>((numbers - Vector::new(of_vector)).exp());
        most = of_vector;
        at += CUBE_DIM as usize;
    }
    largest[unit] = most;
    sums[unit] = sum;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            let (most, sum) = joined(
                largest[unit],
                sums[unit],
                largest[unit + half],
                sums[unit + half],
            );
            largest[unit] = most;
            sums[unit] = sum;
        }
        sync_cube();
        half /= 2;
    }
    let most = largest[0];
    let sum = sums[0];
    let target = targets[row] as usize;
    let place = target / N::value();
    if unit == place % CUBE_DIM as usize {
        let numbers = Vector::<f32, N>::cast_from(logits[start + place]);
        losses[row] = sum.ln() + (most - numbers.extract_dynamic(target % N::value()));
    }
    if comptime![what == Logits::Differentiated] {
        let factor = Vector::<f32, N>::new(1.0f32 / sum);
        let mut at = unit;
        while at < width {
            let numbers = Vector::<f32, N>::cast_from(logits[start + at]);
            let mut gradient = (numbers - Vector::new(most)).exp() * factor;
            if at == place {
                #[unroll]
                for index in 0..N::value() {
                    if index == target % N::value() {
                        gradient.insert(index, gradient.extract(index) - 1.0f32);
                    }
                }
            }
            logits[start + at] = Vector::cast_from(gradient);
            at += CUBE_DIM as usize;
        }
    }
}

/// Returns the losses, f32, and the logits or their gradient, which is in the logits' place where
/// no other handle holds them.
pub(in crate::ops) fn cross_entropy(
    logits: CubeTensor,
    targets: &[u32],
    what: Logits,
) -> (CubeTensor, CubeTensor) {
    let logits = match what {
        Logits::Differentiated => owned(logits),
        Logits::Kept => into_contiguous(logits),
    };
    let (rows, vocabulary) = (targets.len(), logits.shape()[1]);
    let losses = empty(&logits, [rows], DType::F32);
    if rows > 0 {
        let size = vector_size(&[vocabulary]);
        let (units, extent) = (sharing(vocabulary / size), extent(rows, vocabulary / size));
        let (client, element) = (logits.client.clone(), element(&logits));
        let args = [logits.clone(), upload(&logits, targets), losses.clone()]
            .map(CubeTensor::into_buffer_arg);
        let ([in_place, targets, to], cube) = (args, CubeDim::new_1d(units));
        losses_of::launch(
            &client,
            cubes(rows),
            cube,
            size,
            in_place,
            targets,
            to,
            extent,
            units as usize,
            what,
            element,
        );
    }
    (losses, logits)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::super::tests::{device, drawn, tensor, worst};
    use crate::ops::{cross_entropy, cross_entropy_losses};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn it_is_what_the_cpu_computes(
            rows in 1usize..30,
            vocabulary in prop_oneof![1usize..70, Just(1003), Just(5000)],
            seed in 0u64..1000,
        ) {
            let Some(device) = device() else {
                return Ok(());
            };
            let numbers = drawn(seed, rows * vocabulary, 12.0);
            let targets: Arc<[u32]> = (0..rows as u32)
                .map(|row| (row * 101 + seed as u32) % vocabulary as u32)
                .collect();
            let of = |device: &Device| {
                let logits = tensor(&numbers, [rows, vocabulary], device);
                let (losses, gradient) = cross_entropy(logits.clone(), targets.clone());
                (
                    [
                        losses,
                        cross_entropy_losses(logits.clone(), targets.clone()),
                    ],
                    [gradient, logits],
                )
            };
            let ((losses, gradient), (exact, exact_gradient)) = (of(&device), of(&Device::flex()));
            for (ours, exact) in losses.into_iter().zip(exact) {
                prop_assert!(worst(ours, exact) < 2e-6);
            }
            for (ours, exact) in gradient.into_iter().zip(exact_gradient) {
                prop_assert!(worst(ours, exact) < 2e-6);
            }
        }
    }

    #[test]
    fn a_row_may_be_far_from_zero_and_a_token_impossible_but_a_nan_shows() {
        let Some(device) = device() else { return };
        let rows = [
            [1e4f32, 1e4, 1e4 - 1.0],
            [-1e30, -1e30, -1e30 - 1.0],
            [3.0, f32::NEG_INFINITY, 2.0],
        ];
        let of = |device: &Device| {
            cross_entropy(
                tensor(rows.as_flattened(), [3, 3], device),
                [0, 0, 0].into(),
            )
        };
        let ((losses, gradient), (exact, exact_gradient)) = (of(&device), of(&Device::flex()));
        assert!(worst(losses, exact) < 1e-6 && worst(gradient, exact_gradient) < 1e-6);
        for row in [[1.0, f32::NAN, 2.0], [1.0, f32::INFINITY, 2.0]] {
            let losses = cross_entropy(tensor(&row, [1, 3], &device), [0].into())
                .0
                .into_data();
            assert!(
                losses.iter::<f32>().all(|loss| !loss.is_finite()),
                "{row:?}: {losses:?}"
            );
        }
    }
}
