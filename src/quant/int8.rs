//! A weight in 8 bits per number.

use rayon::prelude::*;

use super::{QuantError, absmax_of, check_finite, check_length, count};

/// 1.5 · 2²³. A number that is added to it loses its fraction, ties going to even, and the sum ends
/// in the bits of that number.
const WHOLE: f32 = 12_582_912.0;

/// A weight [out, in] whose rows are scaled by their absmax: w = code · absmax / 127, the
/// vector-wise quantization of LLM.int8, Dettmers et al. 2022, arXiv:2208.07339, section 3.1.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8 {
    shape: [usize; 2],
    codes: Vec<i8>,
    absmax: Vec<f32>,
}

impl Int8 {
    /// 1 / 127 as bitsandbytes has it: a number is (code · absmax) · unit, rounded twice.
    pub const UNIT: f32 = 0.007_874_016;

    /// Makes it of a checkpoint's parts: a code for each number and an absmax for each row.
    pub fn new(shape: [usize; 2], codes: Vec<i8>, absmax: Vec<f32>) -> Result<Self, QuantError> {
        check_length("8-bit codes", codes.len(), count(shape))?;
        check_length("absmax", absmax.len(), shape[0])?;
        Ok(Self {
            shape,
            codes,
            absmax,
        })
    }

    /// Quantizes numbers [out, in]. The layers of bitsandbytes first round a weight to float16;
    /// callers that want the same bytes must do so too.
    pub fn pack<T: Copy + Sync + Into<f32>>(
        shape: [usize; 2],
        numbers: &[T],
    ) -> Result<Self, QuantError> {
        check_length("numbers", numbers.len(), count(shape))?;
        let [rows, columns] = [shape[0], shape[1].max(1)];
        let (mut codes, mut absmax) = (vec![0; numbers.len()], vec![0.0; rows]);
        let of_rows = numbers
            .par_chunks(columns)
            .zip(codes.par_chunks_mut(columns))
            .zip(&mut absmax);
        of_rows.for_each(|((numbers, codes), absmax)| *absmax = pack_row(numbers, codes));
        check_finite(numbers, &absmax, columns)?;
        Ok(Self {
            shape,
            codes,
            absmax,
        })
    }

    /// Returns the shape, [out, in].
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Returns the codes, one per number, row after row, from -127 to 127.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// Returns the absmax, one per row.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// Returns all numbers [out, in].
    pub fn unpack(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.codes.len()];
        let rows = numbers
            .par_chunks_mut(self.shape[1].max(1))
            .zip(self.codes.par_chunks(self.shape[1].max(1)));
        rows.zip(&self.absmax)
            .for_each(|((numbers, codes), absmax)| unpack_row(codes, *absmax, numbers));
        numbers
    }

    /// Writes the numbers from `start` on, row after row, until `numbers` is full. Panics if there
    /// are fewer, as a slice does.
    pub fn unpack_range(&self, start: usize, mut numbers: &mut [f32]) {
        let mut codes = &self.codes[start..][..numbers.len()];
        let (columns, mut start) = (self.shape[1], start);
        while !numbers.is_empty() {
            let room = (columns - start % columns).min(numbers.len());
            let (of_row, rest) = numbers.split_at_mut(room);
            unpack_row(&codes[..room], self.absmax[start / columns], of_row);
            (numbers, codes, start) = (rest, &codes[room..], start + room);
        }
    }
}

/// Writes the codes of a row and returns its absmax. A row whose absmax has no inverse becomes
/// zeros, be it 0 or below 4e-37.
fn pack_row<T: Copy + Into<f32>>(numbers: &[T], codes: &mut [i8]) -> f32 {
    let absmax = absmax_of(numbers);
    let factor = (1.0 / absmax) * 127.0;
    if factor.is_finite() {
        let code = |number: &T| ((*number).into() * factor + WHOLE).to_bits() as i8;
        codes
            .iter_mut()
            .zip(numbers)
            .for_each(|(to, number)| *to = code(number));
    }
    absmax
}

fn unpack_row(codes: &[i8], absmax: f32, numbers: &mut [f32]) {
    numbers
        .iter_mut()
        .zip(codes)
        .for_each(|(number, code)| *number = f32::from(*code) * absmax * Int8::UNIT);
}
