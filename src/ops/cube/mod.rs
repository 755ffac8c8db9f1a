//! Our own GPU kernels: one definition is compiled for CUDA and for wgpu.
//!
//! Nothing here depends on a schedule: there are no atomics, and the sizes fix the order of sums,
//! so that a run repeats bit for bit. A kernel binds at most eight storage buffers, as WebGPU
//! promises, including the one that cubecl adds for scalars and lengths.
//!
//! No kernel asks a buffer for its `len()`: that is the length of the allocation, which CUDA pads
//! to rows of 512 bytes, and the memory behind a tensor's numbers holds anything. Every count that
//! decides something is a scalar of the launch ([`Extent`]). `tests/layers.rs` enforces this, and
//! `padding.rs` runs the kernels on allocations padded with NaN.
#![allow(
    clippy::used_underscore_binding,
    reason = "an element's type has no name in a kernel, and one in its launch"
)]
#![allow(
    clippy::collapsible_if,
    clippy::manual_is_multiple_of,
    reason = "a condition of the launch stands alone, and a kernel has few methods"
)]
#![allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "what a launch hands to a kernel comes by reference"
)]
#![allow(
    clippy::too_many_arguments,
    reason = "the tensors of the mathematics, and the launches that are made of the kernels"
)]

pub(super) mod adamw;
pub(super) mod attention;
mod blocks;
pub(super) mod cross_entropy;
pub(super) mod dropout;
pub(super) mod gated;
pub(super) mod packed;
#[cfg(test)]
mod padding;
pub(super) mod recurrence;
pub(super) mod rms_norm;
pub(super) mod rope;
pub(super) mod routines;
pub(super) mod short_conv;
pub(super) mod squares;
#[cfg(test)]
mod tests;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems, MatmulSetupError};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy;
use cubek::matmul::routine::BlueprintStrategy;
use cubek::std::InputBinding;

use super::precision;

/// The largest number of cubes in a dimension of a launch that every device accepts.
const MOST_CUBES: usize = 65_535;

/// Returns the type of a tensor's numbers in kernels.
fn element(tensor: &CubeTensor) -> ElemType {
    ElemType::Float(match tensor.dtype {
        DType::F32 => FloatKind::F32,
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        other => panic!("a kernel has numbers of {other:?}, expected F32, F16 or BF16"),
    })
}

/// Returns how many numbers are read and written at once: it divides each of these sizes.
fn vector_size(sizes: &[usize]) -> usize {
    [4, 2]
        .into_iter()
        .find(|size| sizes.iter().all(|count| count.is_multiple_of(*size)))
        .unwrap_or(1)
}

/// The true sizes of a matrix in a kernel.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Extent {
    rows: u32,
    /// Number of vectors in a row.
    width: u32,
}

/// Returns the [`Extent`] for a launch.
fn extent(rows: usize, width: usize) -> ExtentLaunch {
    ExtentLaunch::new(rows as u32, width as u32)
}

/// Makes an uninitialized tensor, in row-major order, on the device of another.
fn empty(beside: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let shape = shape.into();
    #[cfg(test)]
    if padding::is_on() {
        return padding::empty(beside, shape, dtype);
    }
    empty_device_contiguous_dtype(beside.client.clone(), beside.device.clone(), shape, dtype)
}

/// Returns the tensor in row-major order, to be overwritten: itself where no other handle holds it,
/// otherwise a copy.
fn owned(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() {
        return tensor;
    }
    let (shape, dtype) = (tensor.meta.shape().clone(), tensor.dtype);
    let copy =
        empty_device_contiguous_dtype(tensor.client.clone(), tensor.device.clone(), shape, dtype);
    let (client, element) = (tensor.client.clone(), element(&tensor));
    cubecl::std::tensor::copy_into(&client, tensor.binding(), copy.clone().binding(), element);
    #[cfg(test)] // cubecl's copy goes over padding too.
    let copy = padding::moved(copy);
    copy
}

/// Moves numbers of the CPU to the device of a tensor.
fn upload(beside: &CubeTensor, numbers: &[u32]) -> CubeTensor {
    #[cfg(test)]
    if padding::is_on() {
        return padding::upload(beside, [numbers.len()], u32::as_bytes(numbers), DType::U32);
    }
    let handle = beside.client.create_from_slice(u32::as_bytes(numbers));
    CubeTensor::new_contiguous(
        beside.client.clone(),
        beside.device.clone(),
        [numbers.len()].into(),
        handle,
        DType::U32,
    )
}

/// Returns the product of two matrices in the type of the left one, with sums in f32, rounded to a
/// type at the end.
///
/// It uses tensor cores where the device has them for this type. cubek's own choice would do the
/// same, but it panics where there are tensor cores that do not take the shape.
pub(super) fn product(lhs: CubeTensor, rhs: CubeTensor, given: DType) -> CubeTensor {
    let rhs = if rhs.dtype == lhs.dtype {
        rhs
    } else {
        cast(rhs, lhs.dtype)
    };
    let output = empty(&lhs, shape_of_product(&lhs, &rhs), given);
    let by_tensor_cores = Strategy::SimpleCyclicCmma(BlueprintStrategy::default());
    let without = Strategy::SimpleUnit(BlueprintStrategy::default());
    // Tensor cores take numbers of f32 for TF32.
    let is_exact = lhs.dtype == DType::F32 && precision::is_exact();
    if is_exact || multiply(by_tensor_cores, &lhs, &rhs, &output).is_err() {
        multiply(without, &lhs, &rhs, &output).unwrap_or_else(|error| {
            let (m_k, k_n) = (lhs.shape(), rhs.shape());
            panic!(
                "no kernel for the product of {m_k:?} and {k_n:?} in {:?} on `{:?}`: {error:?}",
                lhs.dtype, lhs.device
            )
        });
    }
    output
}

/// Returns the shape [.., m, n] of the product of [.., m, k] and [.., k, n].
fn shape_of_product(lhs: &CubeTensor, rhs: &CubeTensor) -> Shape {
    let (last, columns) = (
        lhs.shape().num_dims() - 1,
        rhs.shape().iter().last().copied(),
    );
    Shape::from(
        lhs.shape()
            .iter()
            .copied()
            .take(last)
            .chain(columns)
            .collect::<Vec<usize>>(),
    )
}

fn multiply(
    strategy: Strategy,
    lhs: &CubeTensor,
    rhs: &CubeTensor,
    output: &CubeTensor,
) -> Result<(), Box<MatmulSetupError>> {
    let [of_lhs, of_rhs, of_output] = [lhs, rhs, output].map(element);
    let mut elements = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: of_lhs,
        rhs: of_rhs,
        out: of_output,
    });
    let [lhs, rhs] = [(lhs, of_lhs), (rhs, of_rhs)]
        .map(|(side, of)| InputBinding::new(side.clone().binding(), of));
    let (strategy, to) = (strategy.into(), output.clone().binding());
    launch_ref(&strategy, &output.client, lhs, rhs, to, &mut elements).map_err(Box::new)
}

/// Returns the cubes of a kernel with one unit per index, and the units per cube.
fn units(tensor: &CubeTensor, count: usize) -> (CubeCount, CubeDim) {
    let cube = CubeDim::new(&tensor.client, count);
    (
        calculate_cube_count_elemwise(&tensor.client, count, cube),
        cube,
    )
}

/// Returns at least `count` cubes, folded where one dimension cannot hold them: a kernel uses
/// `CUBE_POS` and ignores the surplus.
fn cubes(count: usize) -> CubeCount {
    let rows = count.div_ceil(MOST_CUBES).max(1);
    CubeCount::Static(count.div_ceil(rows) as u32, rows as u32, 1)
}

/// Returns the units of a cube that shares so many items: a power of two, for [`total`].
fn sharing(items: usize) -> u32 {
    items.next_power_of_two().clamp(32, 256) as u32
}

/// Returns the sum of the numbers in a vector.
#[cube]
fn across<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut sum = vector.extract(0usize);
    #[unroll]
    for index in 1..N::value() {
        sum += vector.extract(index);
    }
    sum
}

/// Returns the sum of the units' numbers in a cube, added as a tree over their places. All units of
/// the cube must call it.
#[cube]
fn total(own: f32, sums: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    sums[unit] = own;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            let other = sums[unit + half];
            sums[unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    sums[0]
}
