//! RMS norm on a GPU: one cube per row, which is read twice and summed as a tree.
//!
//! The gradient of the weight is a sum over rows, first over pieces of [`ROWS`] rows, then over the
//! pieces, each added by one unit in order.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{
    Extent, across, cubes, element, empty, extent, owned, sharing, total, units, vector_size,
};

/// Rows that a unit adds up.
const ROWS: usize = 64;

/// Returns 1 / sqrt(mean(x²) + ε) of the row that begins there.
#[cube]
fn inverse_rms<F: Float, N: Size>(
    x: &[Vector<F, N>],
    start: usize,
    width: usize,
    epsilon: f32,
    sums: &mut Shared<[f32]>,
) -> f32 {
    let mut squares = Vector::<f32, N>::new(0.0f32);
    let mut at = UNIT_POS as usize;
    while at < width {
        let numbers = Vector::<f32, N>::cast_from(x[start + at]);
        squares += numbers * numbers;
        at += CUBE_DIM as usize;
    }
    let sum = total(across::<N>(squares), sums);
    1.0f32 / (sum / f32::cast_from(width * N::value()) + epsilon).sqrt()
}

#[cube(launch)]
fn output_of<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    output: &mut [Vector<F, N>],
    epsilon: f32,
    extent: &Extent,
    #[comptime] units: usize,
    #[define(F, W)] _elements: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= extent.rows as usize {
        terminate!();
    }
    let mut sums = Shared::<[f32]>::new_slice(units);
    let width = extent.width as usize;
    let start = row * width;
    let inverse = Vector::<f32, N>::new(inverse_rms::<F, N>(x, start, width, epsilon, &mut sums));
    let mut at = UNIT_POS as usize;
    while at < width {
        let numbers = Vector::<f32, N>::cast_from(x[start + at]);
        output[start + at] =
            Vector::cast_from(numbers * inverse * Vector::<f32, N>::cast_from(weight[at]));
        at += CUBE_DIM as usize;
    }
}

/// Replaces the gradient of y by that of x: r (w∘g) - x r³ mean(x∘w∘g).
#[cube(launch)]
fn input_of<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    gradient: &mut [Vector<F, N>],
    epsilon: f32,
    extent: &Extent,
    #[comptime] units: usize,
    #[define(F, W)] _elements: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= extent.rows as usize {
        terminate!();
    }
    let mut sums = Shared::<[f32]>::new_slice(units);
    let width = extent.width as usize;
    let start = row * width;
    let inverse = inverse_rms::<F, N>(x, start, width, epsilon, &mut sums);
    let mut products = Vector::<f32, N>::new(0.0f32);
    let mut at = UNIT_POS as usize;
    while at < width {
        let weighted = Vector::<f32, N>::cast_from(gradient[start + at])
            * Vector::<f32, N>::cast_from(weight[at]);
        products += Vector::<f32, N>::cast_from(x[start + at]) * weighted;
        at += CUBE_DIM as usize;
    }
    let mean = total(across::<N>(products), &mut sums) / f32::cast_from(width * N::value());
    let along = Vector::<f32, N>::new(mean * inverse * inverse * inverse);
    let inverse = Vector::<f32, N>::new(inverse);
    let mut at = UNIT_POS as usize;
    while at < width {
        let weighted = Vector::<f32, N>::cast_from(gradient[start + at])
            * Vector::<f32, N>::cast_from(weight[at]);
        let numbers = Vector::<f32, N>::cast_from(x[start + at]);
        gradient[start + at] = Vector::cast_from(weighted * inverse - numbers * along);
        at += CUBE_DIM as usize;
    }
}

/// Computes r of every row.
#[cube(launch)]
fn inverses_of<F: Float, N: Size>(
    x: &[Vector<F, N>],
    inverses: &mut [f32],
    epsilon: f32,
    extent: &Extent,
    #[comptime] units: usize,
    #[define(F)] _element: ElemType,
) {
    let row = CUBE_POS;
    if row >= extent.rows as usize {
        terminate!();
    }
    let mut sums = Shared::<[f32]>::new_slice(units);
    let width = extent.width as usize;
    let inverse = inverse_rms::<F, N>(x, row * width, width, epsilon, &mut sums);
    if UNIT_POS == 0 {
        inverses[row] = inverse;
    }
}

/// Computes the sums of x r ∘ g over pieces of the rows, [pieces, width].
#[cube(launch)]
fn pieces_of<F: Float, N: Size>(
    x: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    inverses: &[f32],
    pieces: &mut [Vector<f32, N>],
    extent: &Extent,
    #[comptime] rows_of_piece: usize,
    #[define(F)] _element: ElemType,
) {
    let (rows, width) = (extent.rows as usize, extent.width as usize);
    let first = ABSOLUTE_POS / width * rows_of_piece;
    if first < rows {
        let column = ABSOLUTE_POS % width;
        let end = min(first + rows_of_piece, rows);
        let mut sum = Vector::<f32, N>::new(0.0f32);
        for row in first..end {
            let normed = Vector::<f32, N>::cast_from(x[row * width + column])
                * Vector::<f32, N>::new(inverses[row]);
            sum += normed * Vector::<f32, N>::cast_from(gradient[row * width + column]);
        }
        pieces[ABSOLUTE_POS] = sum;
    }
}

/// Computes the sum over the pieces, which are the rows here.
#[cube(launch)]
fn weight_of<W: Float, N: Size>(
    pieces: &[Vector<f32, N>],
    weight: &mut [Vector<W, N>],
    extent: &Extent,
    #[define(W)] _element: ElemType,
) {
    let width = extent.width as usize;
    if ABSOLUTE_POS < width {
        let mut sum = Vector::<f32, N>::new(0.0f32);
        for piece in 0..extent.rows as usize {
            sum += pieces[piece * width + ABSOLUTE_POS];
        }
        weight[ABSOLUTE_POS] = Vector::cast_from(sum);
    }
}

/// Returns how rows are divided: number of rows, vectors per row, numbers per vector, and units of
/// a row's cube.
fn shared_out(x: &CubeTensor, weight: &CubeTensor) -> (usize, usize, usize, u32) {
    let numbers = weight.shape().num_elements();
    let size = vector_size(&[numbers]);
    let width = numbers / size;
    (
        x.shape().num_elements() / numbers.max(1),
        width,
        size,
        sharing(width),
    )
}

/// Computes x r ∘ w.
pub(in crate::ops) fn forward(x: CubeTensor, weight: CubeTensor, epsilon: f64) -> CubeTensor {
    let [x, weight] = [x, weight].map(into_contiguous);
    let (rows, width, size, units) = shared_out(&x, &weight);
    let output = empty(&x, x.shape(), x.dtype);
    if rows > 0 {
        let (client, elements) = (x.client.clone(), [element(&x), element(&weight)]);
        let [x, weight, output] = [x, weight, output.clone()].map(CubeTensor::into_buffer_arg);
        let (cubes, cube, extent) = (cubes(rows), CubeDim::new_1d(units), extent(rows, width));
        output_of::launch(
            &client,
            cubes,
            cube,
            size,
            x,
            weight,
            output,
            epsilon as f32,
            extent,
            units as usize,
            elements,
        );
    }
    output
}

/// Returns the gradient of `x`, in the place of `gradient` where no other handle holds it.
pub(in crate::ops) fn input(
    x: CubeTensor,
    weight: CubeTensor,
    gradient: CubeTensor,
    epsilon: f64,
) -> CubeTensor {
    let ([x, weight], gradient) = ([x, weight].map(into_contiguous), owned(gradient));
    let (rows, width, size, units) = shared_out(&x, &weight);
    if rows > 0 {
        let (client, elements) = (x.client.clone(), [element(&x), element(&weight)]);
        let [x, weight, of_x] = [x, weight, gradient.clone()].map(CubeTensor::into_buffer_arg);
        let (cubes, cube, extent) = (cubes(rows), CubeDim::new_1d(units), extent(rows, width));
        input_of::launch(
            &client,
            cubes,
            cube,
            size,
            x,
            weight,
            of_x,
            epsilon as f32,
            extent,
            units as usize,
            elements,
        );
    }
    gradient
}

/// Returns the gradients of `x` and of the weight.
pub(in crate::ops) fn both(
    x: CubeTensor,
    weight: CubeTensor,
    gradient: CubeTensor,
    epsilon: f64,
) -> (CubeTensor, CubeTensor) {
    let [x, weight, gradient] = [x, weight, gradient].map(into_contiguous);
    let (rows, width, size, sharing) = shared_out(&x, &weight);
    let (client, of_pieces) = (x.client.clone(), rows.div_ceil(ROWS));
    let of_weight = empty(&weight, weight.shape(), weight.dtype);
    let pieces = empty(&x, [of_pieces, width * size], DType::F32);
    if rows > 0 {
        let inverses = empty(&x, [rows], DType::F32);
        let (from, to) = (
            x.clone().into_buffer_arg(),
            inverses.clone().into_buffer_arg(),
        );
        let (cube, of_x, units_of_row) = (
            CubeDim::new_1d(sharing),
            extent(rows, width),
            sharing as usize,
        );
        inverses_of::launch(
            &client,
            cubes(rows),
            cube,
            size,
            from,
            to,
            epsilon as f32,
            of_x,
            units_of_row,
            element(&x),
        );
        let (cubes, cube) = units(&x, of_pieces * width);
        let args = [x.clone(), gradient.clone(), inverses, pieces.clone()]
            .map(CubeTensor::into_buffer_arg);
        let [from, by, inverses, to] = args;
        pieces_of::launch(
            &client,
            cubes,
            cube,
            size,
            from,
            by,
            inverses,
            to,
            extent(rows, width),
            ROWS,
            element(&x),
        );
    }
    let (cubes, cube) = units(&x, width);
    let (from, to) = (
        pieces.into_buffer_arg(),
        of_weight.clone().into_buffer_arg(),
    );
    weight_of::launch(
        &client,
        cubes,
        cube,
        size,
        from,
        to,
        extent(of_pieces, width),
        element(&weight),
    );
    (input(x, weight, gradient, epsilon), of_weight)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::super::tests::{device, drawn, tensor, worst};
    use crate::ops::{backward_from, rms_norm, rms_norm_gradients, rms_norm_input};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn it_is_what_the_cpu_computes(
            rows in 1usize..150,
            width in prop_oneof![1usize..70, Just(576), Just(1027)],
            seed in 0u64..1000,
        ) {
            let Some(device) = device() else {
                return Ok(());
            };
            let numbers = [1, 3].map(|part| drawn(seed + 1000 * part, rows * width, 2.0));
            let of_weight = drawn(seed + 2000, width, 2.0);
            let of = |device: &Device| {
                let [x, gradient] = numbers
                    .each_ref()
                    .map(|numbers| tensor(numbers, [rows, width], device));
                let weight = tensor(&of_weight, [width], device);
                let leaves = (
                    x.clone().autodiff().require_grad(),
                    weight.clone().autodiff().require_grad(),
                );
                let output = rms_norm(leaves.0.clone(), leaves.1.clone(), 1e-5);
                let gradients = backward_from(output.clone(), gradient.clone());
                let of_x = rms_norm_input(x.clone(), weight.clone(), gradient.clone(), 1e-5);
                let (again, of_weight) = rms_norm_gradients(x, weight, gradient, 1e-5);
                let taped = leaves.1.grad(&gradients).expect("tracked");
                let all = [
                    output.inner(),
                    leaves.0.grad(&gradients).expect("tracked"),
                    of_x,
                    again,
                ];
                (all, [taped, of_weight])
            };
            let ((ours, of_weights), (exact, exact_of_weights)) =
                (of(&device), of(&Device::flex()));
            for (ours, exact) in ours.into_iter().zip(exact) {
                prop_assert!(worst(ours, exact) < 2e-5);
            }
            for (ours, exact) in of_weights.into_iter().zip(exact_of_weights) {
                prop_assert!(worst(ours, exact) < 2e-5);
            }
        }
    }

    /// Rows are normalized where they are more than the cubes in a dimension of a launch.
    #[test]
    fn rows_beyond_a_dimension_of_a_launch_are_normed() {
        let Some(device) = device() else { return };
        let numbers = drawn(5, 70_001 * 3, 2.0);
        let of = |device: &Device| {
            rms_norm(
                tensor(&numbers, [70_001, 3], device),
                tensor(&[1.0, 2.0, 3.0], [3], device),
                1e-5,
            )
        };
        assert!(worst(of(&device), of(&Device::flex())) < 1e-5);
    }
}
