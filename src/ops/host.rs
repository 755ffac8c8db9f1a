//! A row of numbers in this process's memory, read without a copy and changed in place.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Tensor;

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
