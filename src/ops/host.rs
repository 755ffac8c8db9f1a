//! A row of numbers in this process's memory, read without a copy and changed in place.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Tensor;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use {
    super::numbers::{read, row_major, tensor},
    burn::backend::ops::FloatTensorOps,
    burn::backend::{Cube, TensorMetadata},
    burn::tensor::{DType, TensorData},
};

/// A tensor of the CPU.
pub(super) struct Host(FloatTensor<Flex>);

impl Host {
    /// Returns the tensor if it is on the CPU.
    pub fn of(tensor: Tensor<1>) -> Option<Self> {
        let tensor = tensor.try_into_primitive::<Flex>().ok()?;
        let is_whole = tensor
            .as_slice::<f32>()
            .is_some_and(|numbers| numbers.len() == tensor.storage::<f32>().len());
        Some(Self(if is_whole {
            tensor
        } else {
            FloatTensor::<Flex>::from_data(tensor.into_data())
        }))
    }

    pub fn numbers(&self) -> &[f32] {
        self.0.storage()
    }

    /// Returns the numbers, to be changed; copies them first if another tensor holds them too.
    pub fn numbers_mut(&mut self) -> &mut [f32] {
        self.0.storage_mut()
    }

    pub fn into_tensor(self) -> Tensor<1> {
        Tensor::from_primitive::<Flex>(self.0)
    }
}

/// Returns a GPU's tensor on the CPU, in f32: the operand of an operation that has no kernel.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(super) fn brought(of: FloatTensor<Cube>) -> FloatTensor<Flex> {
    let shape = of.shape();
    let flat = Cube::float_reshape(of, [shape.num_elements()].into());
    let data = Tensor::<1>::from_primitive::<Cube>(flat)
        .cast(DType::F32)
        .into_data();
    tensor(data.iter().collect(), shape)
}

/// Returns a result of the CPU on the GPU of `like`, in its type.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(super) fn sent(of: &FloatTensor<Flex>, like: &FloatTensor<Cube>) -> FloatTensor<Cube> {
    let of = row_major(of.clone());
    let data = TensorData::new(read(&of).to_vec(), of.shape());
    Cube::float_cast(
        Cube::float_from_data(data, &like.device()),
        like.dtype().into(),
    )
}
