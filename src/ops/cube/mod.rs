//! Kernels of our own for GPUs: one definition is compiled for CUDA and for wgpu.
//!
//! Nothing here depends on a schedule: no atomics, and sums whose order is fixed by the sizes, so that a run repeats bit for bit. A
//! kernel binds at most eight storage buffers with the one that cubecl adds for scalars and lengths, which is what WebGPU promises.
#![allow(clippy::used_underscore_binding, reason = "an element's type has no name in a kernel, and one in its launch")]
#![allow(clippy::trivially_copy_pass_by_ref, reason = "what a launch hands to a kernel comes by reference")]
#![allow(clippy::too_many_arguments, reason = "the tensors of the mathematics, and the launches that are made of the kernels")]

pub(super) mod adamw;
pub(super) mod attention;
pub(super) mod cross_entropy;
pub(super) mod dropout;
pub(super) mod gated;
pub(super) mod packed;
pub(super) mod rms_norm;
pub(super) mod rope;
pub(super) mod squares;
#[cfg(test)]
mod tests;

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

/// The largest number of cubes in a dimension of a launch that every device takes.
const MOST_CUBES: usize = 65_535;

/// The numbers' type, as kernels name it.
fn element(tensor: &CubeTensor) -> ElemType {
    ElemType::Float(match tensor.dtype {
        DType::F32 => FloatKind::F32,
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        other => panic!("a kernel has numbers of {other:?}, expected F32, F16 or BF16"),
    })
}

/// Numbers that are read and written at once: as many as divide each of these.
fn vector_size(sizes: &[usize]) -> usize {
    [4, 2].into_iter().find(|size| sizes.iter().all(|count| count.is_multiple_of(*size))).unwrap_or(1)
}

/// A tensor without numbers yet, in row-major order, beside another.
fn empty(beside: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(beside.client.clone(), beside.device.clone(), shape.into(), dtype)
}

/// The tensor in row-major order, to be overwritten: itself where no other handle has it, else a copy.
fn owned(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() {
        return tensor;
    }
    let copy = empty(&tensor, tensor.meta.shape().clone(), tensor.dtype);
    let (client, element) = (tensor.client.clone(), element(&tensor));
    cubecl::std::tensor::copy_into(&client, tensor.binding(), copy.clone().binding(), element);
    copy
}

/// Numbers of the CPU, beside a tensor.
fn upload(beside: &CubeTensor, numbers: &[u32]) -> CubeTensor {
    let handle = beside.client.create_from_slice(u32::as_bytes(numbers));
    CubeTensor::new_contiguous(beside.client.clone(), beside.device.clone(), [numbers.len()].into(), handle, DType::U32)
}

/// The product of two matrices in the numbers of the left one, with sums in f32, rounded to a type at the end. burn takes the right one's
/// numbers for those of the left.
pub(super) fn product(lhs: CubeTensor, rhs: CubeTensor, given: DType) -> CubeTensor {
    let rhs = if rhs.dtype == lhs.dtype { rhs } else { cast(rhs, lhs.dtype) };
    matmul(lhs, rhs, None, MatmulStrategy::default(), given).expect("burn has a kernel for every shape")
}

/// The cubes of a kernel in which a unit has an index of its own, and the units of a cube.
fn units(tensor: &CubeTensor, count: usize) -> (CubeCount, CubeDim) {
    let cube = CubeDim::new(&tensor.client, count);
    (calculate_cube_count_elemwise(&tensor.client, count, cube), cube)
}

/// At least so many cubes, folded where one dimension cannot hold them: a kernel takes `CUBE_POS` and leaves what is too many alone.
fn cubes(count: usize) -> CubeCount {
    let rows = count.div_ceil(MOST_CUBES).max(1);
    CubeCount::Static(count.div_ceil(rows) as u32, rows as u32, 1)
}

/// Units of a cube that shares so many items: a power of two, for [`total`].
fn sharing(items: usize) -> u32 {
    items.next_power_of_two().clamp(32, 256) as u32
}

/// The sum of the numbers of a vector.
#[cube]
fn across<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut sum = vector.extract(0usize);
    #[unroll]
    for index in 1..N::value() {
        sum += vector.extract(index);
    }
    sum
}

/// The sum of what the units of a cube have, as a tree over their places. To be called by all of them.
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
