//! A decoder of drawn numbers: for speed and memory, which do not depend on what the numbers are.

use std::path::Path;

use burn::tensor::{DType, Device, TensorData};
use rayon::prelude::*;

use super::assemble::{Source, assemble};
use super::config::Config;
use super::transpose::transposed;
use super::{Decoder, DecoderSpec, Error, families};
use crate::draws::{mix, unit};
use crate::terms::ModelDtype;

/// Standard deviation of a weight, as transformers initialises most families.
const DEVIATION: f64 = 0.02;

struct Drawn {
    seed: u64,
}

impl Drawn {
    /// Norms are 1, and every other number is uniform.
    fn numbers(&self, name: &str, count: usize) -> Vec<f32> {
        if name.ends_with("norm.weight") {
            return vec![1.0; count];
        }
        let key = name.bytes().fold(mix(self.seed), |key, byte| mix(key ^ u64::from(byte)));
        let bound = DEVIATION * 3f64.sqrt();
        let draw = |index: usize| ((2.0 * unit(key.wrapping_add(index as u64)) - 1.0) * bound) as f32;
        (0..count).into_par_iter().map(draw).collect()
    }
}

impl Source for Drawn {
    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, Error> {
        Ok(self.numbers(name, length))
    }

    fn matrix(&self, name: &str, [rows, columns]: [usize; 2], dtype: DType) -> Result<TensorData, Error> {
        Ok(TensorData::new(self.numbers(name, rows * columns), [rows, columns]).convert_dtype(dtype))
    }

    fn transposed(&self, name: &str, [rows, columns]: [usize; 2], dtype: DType) -> Result<TensorData, Error> {
        let numbers = transposed(&self.numbers(name, rows * columns), rows, columns);
        Ok(TensorData::new(numbers, [columns, rows]).convert_dtype(dtype))
    }
}

impl DecoderSpec {
    /// The decoder that a config.json describes.
    ///
    /// # Errors
    /// The file is missing, or describes a model that is not known.
    pub fn read(config: &Path) -> Result<Self, Error> {
        families::spec(&Config::read(config)?)
    }

    /// A decoder with weights that follow from `seed` alone, f32 where `auto` is asked for.
    ///
    /// # Errors
    /// None; numbers from files could be missing.
    pub fn draw(&self, seed: u64, dtype: ModelDtype, device: &Device) -> Result<Decoder, Error> {
        let dtype = if dtype == ModelDtype::Bfloat16 { DType::BF16 } else { DType::F32 };
        assemble(&Drawn { seed }, self.clone(), dtype, device, &|_| {})
    }
}
