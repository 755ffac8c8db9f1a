//! The weight of a frozen map: numbers, or a few bits for each of them, which only ever become numbers a tile or a product at a time.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::tensor::{Device, Tensor};

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use super::cube::packed::OnGpu;
use crate::device;
use crate::quant::Quantized;

/// A weight, as it is kept.
#[derive(Debug, Clone)]
pub enum Base<T = Tensor<2>> {
    /// f32, bf16 or f16.
    Dense(T),
    /// 4 or 8 bits a number; it never trains.
    Packed(Packed),
}

impl<T> Base<T> {
    /// Its numbers, where they are kept as such.
    pub fn dense(&self) -> Option<&T> {
        if let Self::Dense(tensor) = self { Some(tensor) } else { None }
    }

    /// Its numbers, to be changed, where they are kept as such.
    pub fn dense_mut(&mut self) -> Option<&mut T> {
        if let Self::Dense(tensor) = self { Some(tensor) } else { None }
    }

    /// The same of another tensor.
    pub(super) fn map<U>(self, of: impl FnOnce(T) -> U) -> Base<U> {
        match self {
            Self::Dense(tensor) => Base::Dense(of(tensor)),
            Self::Packed(packed) => Base::Packed(packed),
        }
    }
}

impl<T> Base<T> {
    /// The other way round, where `of` turns a tensor.
    pub(super) fn transposed_by(&self, of: impl FnOnce(&T) -> T) -> Self {
        match self {
            Self::Dense(tensor) => Self::Dense(of(tensor)),
            Self::Packed(packed) => Self::Packed(packed.clone().transposed()),
        }
    }
}

impl<T: TensorMetadata> Base<T> {
    /// Rows and columns.
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(tensor) => tensor.shape().dims(),
            Self::Packed(packed) => packed.dims(),
        }
    }
}

impl Base {
    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(tensor) => tensor.dims(),
            Self::Packed(packed) => packed.dims(),
        }
    }

    /// The other way round.
    #[must_use]
    pub fn transposed(self) -> Self {
        self.transposed_by(|tensor| tensor.clone().transpose())
    }
}

impl From<Tensor<2>> for Base {
    fn from(tensor: Tensor<2>) -> Self {
        Self::Dense(tensor)
    }
}

/// A packed matrix, or some rows of it, as it lies or the other way round. A handle, as tensors are.
#[derive(Debug, Clone)]
pub struct Packed {
    kept: Kept,
    rows: Range<usize>,
    turned: bool,
}

/// Where it is.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    Host(Arc<Quantized>),
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    Gpu(Arc<OnGpu>),
}

impl Kept {
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Host(weight) => weight.shape(),
            #[cfg(any(feature = "wgpu", feature = "cuda"))]
            Self::Gpu(weight) => weight.shape(),
        }
    }
}

impl Packed {
    /// [out, in] on a device: on the CPU as it is, on a GPU with its absmax as f32.
    pub fn new(weight: Quantized, device: &Device) -> Self {
        let rows = 0..weight.shape()[0];
        let kept = if device::is_cpu(device) { Kept::Host(Arc::new(weight)) } else { on_gpu(&weight, device) };
        Self { kept, rows, turned: false }
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        let [rows, columns] = [self.rows.len(), self.kept.shape()[1]];
        if self.turned { [columns, rows] } else { [rows, columns] }
    }

    /// The other way round.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { turned: !self.turned, ..self }
    }

    /// Some of its rows, as it lies.
    ///
    /// # Panics
    /// It has not so many.
    #[must_use]
    pub fn rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.rows.len(), "rows {rows:?} of {}", self.rows.len());
        Self { rows: self.rows.start + rows.start..self.rows.start + rows.end, ..self.clone() }
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Which rows of what is kept.
    pub(super) fn kept_rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    pub(super) fn is_turned(&self) -> bool {
        self.turned
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn on_gpu(weight: &Quantized, device: &Device) -> Kept {
    Kept::Gpu(Arc::new(OnGpu::new(weight, device)))
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn on_gpu(_: &Quantized, device: &Device) -> Kept {
    unreachable!("{device:?} is not in this build")
}
