//! A weight that trains, of any shape. To an optimizer every weight is a row of numbers.

use std::mem::replace;

use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};

/// A class of weights that an optimizer treats alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Matrices, which have weight decay.
    Matrix,
    /// B and the vectors of adapters, which have weight decay too and may have a learning rate of
    /// their own.
    LoraB,
    /// Norms and biases, which have no weight decay, because each has a level of its own to keep.
    Vector,
}

/// A weight in its place, with its layout in the file.
#[derive(Debug)]
pub enum Weight<'a> {
    /// A bias or a norm, [n].
    Vector(&'a mut Tensor<1>),
    /// A matrix in the order of the file.
    Matrix(&'a mut Tensor<2>),
    /// The kernel of a convolution of single channels, [channels, taps], which the file has as
    /// [channels, 1, taps].
    Kernel(&'a mut Tensor<2>),
    /// A matrix [in, out] that the file has as [out, in].
    Turned(&'a mut Tensor<2>),
    /// B of an adapter, [r, out], which the file has as [out, r].
    LoraB(&'a mut Tensor<2>),
    /// The vector of an adapter, [out].
    LoraVector(&'a mut Tensor<1>),
}

impl Weight<'_> {
    /// Returns the numbers in memory order, [n].
    pub fn numbers(&self) -> Tensor<1> {
        match self {
            Self::Vector(vector) | Self::LoraVector(vector) => (*vector).clone(),
            Self::Matrix(matrix)
            | Self::Kernel(matrix)
            | Self::Turned(matrix)
            | Self::LoraB(matrix) => (*matrix).clone().reshape([-1]),
        }
    }

    /// Takes the numbers out of their place, in memory order, so that nothing else holds them. The
    /// place keeps the shape and one number.
    pub fn take(self) -> Tensor<1> {
        match self {
            Self::Vector(vector) | Self::LoraVector(vector) => take(vector),
            Self::Matrix(matrix)
            | Self::Kernel(matrix)
            | Self::Turned(matrix)
            | Self::LoraB(matrix) => take(matrix).reshape([-1]),
        }
    }

    /// Puts other numbers into the place, in memory order.
    pub fn put(self, numbers: Tensor<1>) {
        match self {
            Self::Vector(vector) | Self::LoraVector(vector) => *vector = numbers,
            Self::Matrix(matrix)
            | Self::Kernel(matrix)
            | Self::Turned(matrix)
            | Self::LoraB(matrix) => {
                *matrix = numbers.reshape(matrix.dims());
            }
        }
    }

    /// Makes the weight a leaf of a new tape.
    pub fn track(self) {
        match self {
            Self::Vector(vector) | Self::LoraVector(vector) => {
                *vector = vector.clone().autodiff().require_grad();
            }
            Self::Matrix(matrix)
            | Self::Kernel(matrix)
            | Self::Turned(matrix)
            | Self::LoraB(matrix) => {
                *matrix = matrix.clone().autodiff().require_grad();
            }
        }
    }

    /// Returns the gradient of a leaf in memory order, [n]; `None` where nothing depends on it.
    pub fn gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        match self {
            Self::Vector(vector) | Self::LoraVector(vector) => vector.grad_remove(gradients),
            Self::Matrix(matrix)
            | Self::Kernel(matrix)
            | Self::Turned(matrix)
            | Self::LoraB(matrix) => Some(matrix.grad_remove(gradients)?.reshape([-1])),
        }
    }

    /// Returns how an optimizer treats the weight.
    pub fn group(&self) -> Group {
        match self {
            Self::Vector(_) => Group::Vector,
            Self::Matrix(_) | Self::Kernel(_) | Self::Turned(_) => Group::Matrix,
            Self::LoraB(_) | Self::LoraVector(_) => Group::LoraB,
        }
    }

    /// Returns the shape in the file.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Vector(vector) | Self::LoraVector(vector) => vector.dims().to_vec(),
            Self::Matrix(matrix) => matrix.dims().to_vec(),
            Self::Kernel(matrix) => {
                let [channels, taps] = matrix.dims();
                vec![channels, 1, taps]
            }
            Self::Turned(matrix) | Self::LoraB(matrix) => matrix.dims().into_iter().rev().collect(),
        }
    }

    /// Turns numbers in memory order, such as the weight's own or its gradient's, into the order of
    /// the file.
    pub fn to_file(&self, numbers: Tensor<1>) -> impl FnOnce() -> Vec<f32> + use<> {
        let turned = match self {
            Self::Vector(_) | Self::LoraVector(_) | Self::Matrix(_) | Self::Kernel(_) => None,
            Self::Turned(matrix) | Self::LoraB(matrix) => Some(matrix.dims()),
        };
        move || {
            let numbers = match turned {
                None => numbers,
                Some(dims) => numbers.reshape(dims).transpose().reshape([-1]),
            };
            numbers.into_data().iter().collect()
        }
    }

    /// The inverse of [`Weight::to_file`].
    pub fn from_file(&self, numbers: &[f32]) -> Tensor<1> {
        let of = |device: Device| {
            Tensor::<1>::from_data(TensorData::from(numbers), (&device, DType::F32))
        };
        match self {
            Self::Vector(vector) | Self::LoraVector(vector) => of(vector.device()),
            Self::Matrix(matrix) | Self::Kernel(matrix) => of(matrix.device()),
            Self::Turned(matrix) | Self::LoraB(matrix) => {
                let [inputs, outputs] = matrix.dims();
                of(matrix.device())
                    .reshape([outputs, inputs])
                    .transpose()
                    .reshape([-1])
            }
        }
    }
}

/// Takes a tensor and leaves one number under its shape.
fn take<const D: usize>(tensor: &mut Tensor<D>) -> Tensor<D> {
    let stand_in = Tensor::<D>::zeros([1; D], (&tensor.device(), DType::F32)).expand(tensor.dims());
    replace(tensor, stand_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_matrix_goes_to_its_file_and_back() {
        let device = Device::flex();
        let mut matrix = Tensor::<2>::from_data([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &device);
        let weight = Weight::Turned(&mut matrix);
        let stored = weight.to_file(weight.numbers())();
        assert_eq!(
            (weight.shape(), &stored[..]),
            (vec![3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0][..])
        );
        let back = weight.from_file(&stored);
        back.into_data()
            .assert_eq(&TensorData::from([1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]), true);
        let doubled = weight.numbers().mul_scalar(2.0);
        weight.put(doubled);
        matrix.to_data().assert_eq(
            &TensorData::from([[2.0f32, 4.0, 6.0], [8.0, 10.0, 12.0]]),
            true,
        );
        let taken = Weight::Turned(&mut matrix).take();
        assert_eq!(Weight::Turned(&mut matrix).shape(), [3, 2]);
        Weight::Turned(&mut matrix).put(taken);
        matrix.into_data().assert_eq(
            &TensorData::from([[2.0f32, 4.0, 6.0], [8.0, 10.0, 12.0]]),
            true,
        );
    }
}
