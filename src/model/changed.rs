//! A source whose numbers are changed after they are read and before they are kept or packed.

use std::cell::RefCell;
use std::ops::Range;

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};

use super::assemble::WeightSource;
use super::{LinearSpec, ModelError, Slice};
use crate::quant::{QuantFormat, Quantized};

/// A change of projections' weights.
pub trait Change {
    /// Whether it changes this weight.
    fn changes(&self, linear: &LinearSpec) -> bool;

    /// Changes a weight, f32, [out, in].
    fn change(&mut self, linear: &LinearSpec, weight: &mut [f32]);
}

/// A source that applies a change to projections.
pub(super) struct Changed<'a> {
    pub source: &'a dyn WeightSource,
    pub linears: Vec<LinearSpec>,
    pub change: RefCell<&'a mut dyn Change>,
}

impl Changed<'_> {
    /// Returns a changed weight [out, in]; `None` where it stays as it is.
    fn changed(
        &self,
        name: &str,
        [rows, columns]: [usize; 2],
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let mut change = self.change.borrow_mut();
        let is_it = |linear: &&LinearSpec| linear.weight() == name && change.changes(linear);
        let Some(linear) = self.linears.iter().find(is_it) else {
            return Ok(None);
        };
        let mut weight: Vec<f32> = self
            .source
            .rows(name, 0..rows, columns, DType::F32)?
            .iter()
            .collect();
        change.change(linear, &mut weight);
        Ok(Some(weight))
    }
}

impl WeightSource for Changed<'_> {
    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        self.source.vector(name, length)
    }

    fn rows(
        &self,
        name: &str,
        rows: Range<usize>,
        columns: usize,
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        self.source.rows(name, rows, columns, dtype)
    }

    fn transposed(
        &self,
        name: &str,
        shape: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        let Some(weight) = self.changed(name, shape)? else {
            return self.source.transposed(name, shape, dtype);
        };
        let [rows, columns] = shape;
        let turned = (0..columns).flat_map(|column| weight.iter().skip(column).step_by(columns));
        Ok(match dtype {
            DType::BF16 => TensorData::new(
                turned.map(|number| bf16::from_f32(*number)).collect(),
                [columns, rows],
            ),
            DType::F16 => TensorData::new(
                turned.map(|number| f16::from_f32(*number)).collect(),
                [columns, rows],
            ),
            _ => TensorData::new(turned.copied().collect::<Vec<f32>>(), [columns, rows]),
        })
    }

    fn slice(
        &self,
        slice: &Slice,
        shape: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        self.source.slice(slice, shape, dtype)
    }

    fn packed_slice(
        &self,
        slice: &Slice,
        shape: [usize; 2],
    ) -> Result<Option<Quantized>, ModelError> {
        self.source.packed_slice(slice, shape)
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name)
    }

    fn stays_dense(&self, name: &str, shape: [usize; 2]) -> bool {
        self.source.stays_dense(name, shape)
    }

    fn packed(
        &self,
        name: &str,
        shape: [usize; 2],
        form: QuantFormat,
    ) -> Result<Quantized, ModelError> {
        let Some(weight) = self.changed(name, shape)? else {
            return self.source.packed(name, shape, form);
        };
        let packed = match form {
            // As bitsandbytes does.
            QuantFormat::Int8 => form.pack(
                shape,
                &weight
                    .iter()
                    .map(|number| f16::from_f32(*number))
                    .collect::<Vec<_>>(),
            ),
            QuantFormat::FourBit { .. } | QuantFormat::Blocks(_) => form.pack(shape, &weight),
        };
        packed.map_err(|cause| ModelError::Packing {
            name: name.to_owned(),
            cause,
        })
    }
}
