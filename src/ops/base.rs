//! The weight of a frozen map: plain numbers, or a few bits for each of them, which are unpacked
//! only for one tile or product at a time.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Device, Tensor};
use rayon::prelude::*;

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use super::cube::packed::OnGpu;
use crate::device;
use crate::quant::Quantized;

/// Numbers that are brought to the host at a time, rounded to whole rows.
const TILE_NUMBERS: usize = 1 << 22;

/// A weight in its storage format.
#[derive(Debug, Clone)]
pub enum Base<T = Tensor<2>> {
    /// Plain numbers, f32, bf16 or f16.
    Dense(T),
    /// 4 or 8 bits per number; it never trains.
    Packed(Packed),
}

impl<T> Base<T> {
    /// Returns the plain numbers, where it is not packed.
    pub fn dense(&self) -> Option<&T> {
        if let Self::Dense(tensor) = self {
            Some(tensor)
        } else {
            None
        }
    }

    /// Returns the plain numbers, to be changed, where it is not packed.
    pub fn dense_mut(&mut self) -> Option<&mut T> {
        if let Self::Dense(tensor) = self {
            Some(tensor)
        } else {
            None
        }
    }

    /// Applies `of` to the tensor.
    pub(super) fn map<U>(self, of: impl FnOnce(T) -> U) -> Base<U> {
        match self {
            Self::Dense(tensor) => Base::Dense(of(tensor)),
            Self::Packed(packed) => Base::Packed(packed),
        }
    }
}

impl<T> Base<T> {
    /// Returns the transpose, where `of` transposes a tensor.
    pub(super) fn transposed_by(&self, of: impl FnOnce(&T) -> T) -> Self {
        match self {
            Self::Dense(tensor) => Self::Dense(of(tensor)),
            Self::Packed(packed) => Self::Packed(packed.clone().transposed()),
        }
    }
}

impl<T: TensorMetadata> Base<T> {
    /// Returns the number of rows and of columns.
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(tensor) => tensor.shape().dims(),
            Self::Packed(packed) => packed.dims(),
        }
    }
}

impl Base {
    /// Returns the number of rows and of columns.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(tensor) => tensor.dims(),
            Self::Packed(packed) => packed.dims(),
        }
    }

    /// Returns the transpose.
    #[must_use]
    pub fn transposed(self) -> Self {
        self.transposed_by(|tensor| tensor.clone().transpose())
    }

    /// Returns the sum of the squares of each column. They are added in order and in 64 bits on the
    /// host, so that they are the same on every device.
    pub fn column_squares(&self) -> Vec<f32> {
        let is_turned = matches!(self, Self::Packed(packed) if packed.turned);
        let [rows, width] = if is_turned {
            self.clone().transposed().dims()
        } else {
            self.dims()
        };
        let mut sums = vec![0.0; self.dims()[1]];
        let square = |number: &f32| f64::from(*number) * f64::from(*number);
        let step = (TILE_NUMBERS / width).max(1);
        for first in (0..rows).step_by(step) {
            let numbers = self.numbers(first..rows.min(first + step));
            if is_turned {
                let of_rows = sums[first..].par_iter_mut().zip(numbers.par_chunks(width));
                of_rows.for_each(|(sum, row)| *sum = row.iter().map(square).sum());
            } else {
                let add = |(sum, number): (&mut f64, &f32)| *sum += square(number);
                numbers
                    .chunks(width)
                    .for_each(|row| sums.iter_mut().zip(row).for_each(add));
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    }

    /// Returns some rows on the host, in the order of the weight.
    fn numbers(&self, rows: Range<usize>) -> Vec<f32> {
        match self {
            Self::Dense(tensor) => on_host(tensor.clone().slice([rows]).cast(DType::F32)),
            Self::Packed(packed) => packed.rows(rows).numbers(),
        }
    }
}

fn on_host(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().expect("it was cast")
}

impl From<Tensor<2>> for Base {
    fn from(tensor: Tensor<2>) -> Self {
        Self::Dense(tensor)
    }
}

/// A packed matrix, or some rows of it, straight or transposed. Like a tensor it is a handle.
#[derive(Debug, Clone)]
pub struct Packed {
    kept: Placement,
    rows: Range<usize>,
    turned: bool,
}

/// The place of a packed matrix.
#[derive(Debug, Clone)]
pub(super) enum Placement {
    Host(Arc<Quantized>),
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    Gpu(Arc<OnGpu>),
}

impl Placement {
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Host(weight) => weight.shape(),
            #[cfg(any(feature = "wgpu", feature = "cuda"))]
            Self::Gpu(weight) => weight.shape(),
        }
    }
}

impl Packed {
    /// Moves a weight [out, in] to a device: unchanged on the CPU, with its absmax as f32 on a GPU.
    pub fn new(weight: Quantized, device: &Device) -> Self {
        let rows = 0..weight.shape()[0];
        let kept = if device::is_cpu(device) {
            Placement::Host(Arc::new(weight))
        } else {
            on_gpu(&weight, device)
        };
        Self {
            kept,
            rows,
            turned: false,
        }
    }

    /// Returns the number of rows and of columns.
    pub fn dims(&self) -> [usize; 2] {
        let [rows, columns] = [self.rows.len(), self.kept.shape()[1]];
        if self.turned {
            [columns, rows]
        } else {
            [rows, columns]
        }
    }

    /// Returns the transpose.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            turned: !self.turned,
            ..self
        }
    }

    /// Returns some of its stored rows.
    ///
    /// # Panics
    /// It has fewer rows.
    #[must_use]
    pub fn rows(&self, rows: Range<usize>) -> Self {
        assert!(
            rows.end <= self.rows.len(),
            "rows {rows:?} of {}",
            self.rows.len()
        );
        Self {
            rows: self.rows.start + rows.start..self.rows.start + rows.end,
            ..self.clone()
        }
    }

    /// Returns its numbers on the host, in stored order.
    fn numbers(&self) -> Vec<f32> {
        let rows = self.kept_rows();
        match &self.kept {
            Placement::Host(weight) => {
                let width = weight.shape()[1];
                let mut numbers = vec![0.0; rows.len() * width];
                weight.unpack_range(rows.start * width, &mut numbers);
                numbers
            }
            #[cfg(any(feature = "wgpu", feature = "cuda"))]
            Placement::Gpu(weight) => {
                let numbers = super::cube::packed::unpack(weight, rows, DType::F32);
                on_host(Tensor::from_primitive::<burn::backend::Cube>(numbers))
            }
        }
    }

    pub(super) fn kept(&self) -> &Placement {
        &self.kept
    }

    /// Returns the range of stored rows that it covers.
    pub(super) fn kept_rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    pub(super) fn is_turned(&self) -> bool {
        self.turned
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn on_gpu(weight: &Quantized, device: &Device) -> Placement {
    Placement::Gpu(Arc::new(OnGpu::new(weight, device)))
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn on_gpu(_: &Quantized, device: &Device) -> Placement {
    unreachable!("{device:?} is not in this build")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::QuantFormat;

    #[test]
    fn columns_have_the_squares_of_their_numbers_however_they_lie() {
        let (rows, columns) = (70, 96);
        let numbers: Vec<f32> = (0..rows * columns)
            .map(|index| ((index * 37) % 101) as f32 / 50.0 - 1.0)
            .collect();
        let device = Device::flex();
        let packed = QuantFormat::QLORA
            .pack([rows, columns], &numbers)
            .expect("finite");
        let unpacked = packed.unpack();
        let lies = |numbers: &[f32]| {
            let data = burn::tensor::TensorData::new(numbers.to_vec(), [rows, columns]);
            Base::Dense(Tensor::from_data(data, (&device, DType::F32)))
        };
        let packed = Base::Packed(Packed::new(packed, &device));
        for (base, numbers) in [(lies(&numbers), &numbers), (packed, &unpacked)] {
            let of =
                |places: &dyn Fn(usize, usize) -> usize, [count, length]: [usize; 2]| -> Vec<f32> {
                    let sum = |index| {
                        (0..length)
                            .map(|place| f64::from(numbers[places(index, place)]).powi(2))
                            .sum::<f64>() as f32
                    };
                    (0..count).map(sum).collect()
                };
            let close = |ours: Vec<f32>, theirs: Vec<f32>| {
                assert_eq!(ours.len(), theirs.len());
                assert!(
                    ours.iter()
                        .zip(&theirs)
                        .all(|(one, other)| (one / other - 1.0).abs() < 1e-6),
                    "{ours:?} {theirs:?}"
                );
            };
            close(
                base.column_squares(),
                of(&|column, row| row * columns + column, [columns, rows]),
            );
            close(
                base.transposed().column_squares(),
                of(&|row, column| row * columns + column, [rows, columns]),
            );
        }
    }
}
