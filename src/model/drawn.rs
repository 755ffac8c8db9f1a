//! A decoder with random weights, for measuring speed and memory, which do not depend on the
//! numbers.

use std::ops::Range;
use std::path::Path;

use burn::tensor::{DType, Device, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;

use super::assemble::{WeightSource, assemble};
use super::config::ConfigJson;
use super::layout::Slice;
use super::{Decoder, DecoderSpec, ModelError, Storage, families};
use crate::keyed_random::{mix, unit};
use crate::quant::{QuantFormat, Quantized};

/// Standard deviation of a weight, as transformers initializes most families.
const DEVIATION: f64 = 0.02;

struct Drawn {
    seed: u64,
    /// Weight of a norm that scales nothing.
    norm: f32,
}

impl Drawn {
    /// Returns the numbers of a matrix by index, uniformly distributed.
    fn numbers(&self, name: &str) -> impl Fn(usize) -> f32 + Send + Sync {
        let key = name
            .bytes()
            .fold(mix(self.seed), |key, byte| mix(key ^ u64::from(byte)));
        let bound = DEVIATION * 3f64.sqrt();
        move |place| ((2.0 * unit(key.wrapping_add(place as u64)) - 1.0) * bound) as f32
    }
}

/// Makes as many numbers as the shape has, each in its place: memory holds nothing else.
fn made(
    shape: [usize; 2],
    dtype: DType,
    number: impl Fn(usize) -> f32 + Send + Sync,
) -> TensorData {
    let places = (0..shape[0] * shape[1]).into_par_iter();
    match dtype {
        DType::BF16 => TensorData::new(
            places.map(|place| bf16::from_f32(number(place))).collect(),
            shape,
        ),
        DType::F16 => TensorData::new(
            places.map(|place| f16::from_f32(number(place))).collect(),
            shape,
        ),
        _ => TensorData::new(places.map(number).collect::<Vec<f32>>(), shape),
    }
}

impl WeightSource for Drawn {
    /// Returns the weights of a norm, which scale nothing, or factors of 1.
    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        let (is_norm, is_factor) = (
            name.ends_with(".weight"),
            name.ends_with("scale") || name.ends_with("_scalar"),
        );
        Ok(if is_norm {
            vec![self.norm; length]
        } else if is_factor {
            vec![1.0; length]
        } else {
            (0..length).map(self.numbers(name)).collect()
        })
    }

    fn rows(
        &self,
        name: &str,
        rows: Range<usize>,
        columns: usize,
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        let number = self.numbers(name);
        Ok(made([rows.len(), columns], dtype, |place| {
            number(rows.start * columns + place)
        }))
    }

    fn transposed(
        &self,
        name: &str,
        [rows, columns]: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        let number = self.numbers(name);
        Ok(made([columns, rows], dtype, |place| {
            number(place % rows * columns + place / rows)
        }))
    }

    fn slice(
        &self,
        slice: &Slice,
        [inputs, outputs]: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        let (number, before) = (self.numbers(&slice.tensor), slice.index * inputs * outputs);
        Ok(made([inputs, outputs], dtype, |place| {
            number(before + place)
        }))
    }

    fn packed_slice(
        &self,
        _slice: &Slice,
        _shape: [usize; 2],
    ) -> Result<Option<Quantized>, ModelError> {
        Ok(None)
    }

    fn stays_dense(&self, _name: &str, _shape: [usize; 2]) -> bool {
        false
    }

    fn packed(
        &self,
        name: &str,
        shape: [usize; 2],
        form: QuantFormat,
    ) -> Result<Quantized, ModelError> {
        let numbers: Vec<f16> = (0..shape[0] * shape[1])
            .into_par_iter()
            .map(self.numbers(name))
            .map(f16::from_f32)
            .collect();
        form.pack(shape, &numbers)
            .map_err(|cause| ModelError::Packing {
                name: name.to_owned(),
                cause,
            })
    }
}

impl DecoderSpec {
    /// Reads a config.json.
    ///
    /// # Errors
    /// The file is missing, or describes a model that is not supported.
    pub fn read(config: &Path) -> Result<Self, ModelError> {
        Ok(families::describe(ConfigJson::read(config)?)?.spec)
    }

    /// Makes a decoder whose weights depend on `seed` alone; `auto` is f32. Packed weights are
    /// quantized from f16.
    ///
    /// # Errors
    /// None; a source that reads files could miss numbers.
    pub fn draw(
        &self,
        seed: u64,
        storage: impl Into<Storage>,
        device: &Device,
    ) -> Result<Decoder, ModelError> {
        let norm = (1.0 - self.norm_offset) as f32;
        assemble(
            &Drawn { seed, norm },
            self.clone(),
            storage.into(),
            device,
            &|_| {},
        )
    }
}
