//! The largest magnitude (absmax) of each block of a packed weight, as f32 or quantized again.

use std::borrow::Cow;

use super::{QuantError, check_length, dynamic};

/// The largest magnitude of each block.
#[derive(Debug, Clone, PartialEq)]
pub enum Absmax {
    /// Not quantized: 32 bits per block.
    Plain(Vec<f32>),
    /// Quantized again: a little more than 8 bits per block.
    Nested(Nested),
}

impl Absmax {
    /// Whether the absmax are quantized again.
    pub fn is_nested(&self) -> bool {
        matches!(self, Self::Nested(_))
    }

    /// Returns the number of blocks.
    pub fn blocks(&self) -> usize {
        match self {
            Self::Plain(values) => values.len(),
            Self::Nested(nested) => nested.codes.len(),
        }
    }

    /// Returns the absmax of one block. Panics if there is no such block.
    #[inline]
    pub fn at(&self, block: usize) -> f32 {
        match self {
            Self::Plain(values) => values[block],
            Self::Nested(nested) => nested.at(block),
        }
    }

    /// Returns the absmax of every block.
    pub fn values(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Plain(values) => Cow::Borrowed(values),
            Self::Nested(nested) => Cow::Owned(nested.values()),
        }
    }

    /// Quantizes the absmax again; nested absmax stay as they are.
    #[must_use]
    pub fn nested(self) -> Self {
        match self {
            Self::Plain(values) => Self::Nested(Nested::of(&values)),
            nested @ Self::Nested(_) => nested,
        }
    }
}

/// Absmax that are quantized again: absmax = `DYNAMIC_CODE`\[code\] · (absmax of the code's block
/// of 256) + offset, the double quantization of Dettmers et al. 2023, arXiv:2305.14314, section 3.
#[derive(Debug, Clone, PartialEq)]
pub struct Nested {
    codes: Vec<u8>,
    absmax: Vec<f32>,
    offset: f32,
}

impl Nested {
    /// Numbers per block.
    pub const BLOCK: usize = dynamic::BLOCK;

    /// Makes it of a checkpoint's parts: a code for each absmax, and an absmax for each 256 codes.
    pub fn new(codes: Vec<u8>, absmax: Vec<f32>, offset: f32) -> Result<Self, QuantError> {
        check_length(
            "nested absmax",
            absmax.len(),
            codes.len().div_ceil(Self::BLOCK),
        )?;
        Ok(Self {
            codes,
            absmax,
            offset,
        })
    }

    /// Quantizes the distances from the mean, which becomes the offset.
    pub fn of(absmax: &[f32]) -> Self {
        let sum: f64 = absmax.iter().map(|absmax| f64::from(*absmax)).sum();
        Self::around((sum / absmax.len().max(1) as f64) as f32, absmax)
    }

    /// Quantizes the distances from a given offset.
    pub fn around(offset: f32, absmax: &[f32]) -> Self {
        let distances: Vec<f32> = absmax.iter().map(|absmax| absmax - offset).collect();
        let (codes, absmax) = dynamic::pack(&distances);
        Self {
            codes,
            absmax,
            offset,
        }
    }

    /// Returns the codes, one for each absmax.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Returns the largest distance from the offset in each block of codes.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// Returns the offset, which is added to every distance.
    pub fn offset(&self) -> f32 {
        self.offset
    }

    fn at(&self, index: usize) -> f32 {
        dynamic::DYNAMIC_CODE[usize::from(self.codes[index])] * self.absmax[index / Self::BLOCK]
            + self.offset
    }

    /// Returns the absmax as the codes have them.
    pub fn values(&self) -> Vec<f32> {
        let mut values = dynamic::unpack(&self.codes, &self.absmax);
        for value in &mut values {
            *value += self.offset;
        }
        values
    }
}
