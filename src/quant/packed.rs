//! A weight in 4 bits per number.

use rayon::prelude::*;

use super::kind::CodeTable;
use super::{Absmax, FourBitType, QuantError, absmax_of, check_finite, check_length, count};

/// Numbers that are compared at a time; no block is smaller.
const LANES: usize = 32;
/// Numbers per piece of work of a thread.
const PIECE: usize = 1 << 14;
/// The smallest divisor that bitsandbytes uses.
const SMALLEST_ABSMAX: f32 = 1e-38;

/// Numbers per block, each block with an absmax of its own: a power of 2 from 32 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockSize(usize);

impl BlockSize {
    /// The block size of QLoRA.
    pub const DEFAULT: Self = Self(64);

    /// Makes a block size, if bitsandbytes has it.
    pub fn new(numbers: usize) -> Result<Self, QuantError> {
        let known = numbers.is_power_of_two() && (32..=4096).contains(&numbers);
        if known {
            Ok(Self(numbers))
        } else {
            Err(QuantError::BlockSize { found: numbers })
        }
    }

    /// Returns the numbers per block.
    pub fn numbers(self) -> usize {
        self.0
    }
}

/// A weight [out, in] in 4 bits: w = code\[c\] · absmax of its block. Blocks go along the rows and
/// continue into the next row; the last one may be short. Two codes share a byte, the first one in
/// its upper half.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    kind: FourBitType,
    block_size: BlockSize,
    shape: [usize; 2],
    codes: Vec<u8>,
    absmax: Absmax,
}

impl Packed {
    /// Makes it of a checkpoint's parts: half a byte for each number of the shape, and an absmax
    /// for each block.
    pub fn new(
        kind: FourBitType,
        block_size: BlockSize,
        shape: [usize; 2],
        codes: Vec<u8>,
        absmax: Absmax,
    ) -> Result<Self, QuantError> {
        check_length(
            "bytes of 4-bit codes",
            codes.len(),
            count(shape).div_ceil(2),
        )?;
        check_length(
            "absmax",
            absmax.blocks(),
            count(shape).div_ceil(block_size.numbers()),
        )?;
        Ok(Self {
            kind,
            block_size,
            shape,
            codes,
            absmax,
        })
    }

    /// Quantizes f32, bf16 or f16 numbers [out, in]. The bytes are the same for any number of
    /// threads.
    pub fn pack<T>(
        kind: FourBitType,
        block_size: BlockSize,
        shape: [usize; 2],
        numbers: &[T],
    ) -> Result<Self, QuantError>
    where
        T: Copy + Sync + Into<f32>,
    {
        check_length("numbers", numbers.len(), count(shape))?;
        let size = block_size.numbers();
        let mut codes = vec![0; numbers.len().div_ceil(2)];
        let mut absmax = vec![0.0; numbers.len().div_ceil(size)];
        let blocks = numbers
            .par_chunks(size)
            .zip(codes.par_chunks_mut(size / 2))
            .zip(&mut absmax);
        let pack = |((numbers, codes), absmax): ((&[T], &mut [u8]), &mut f32)| {
            *absmax = pack_block(kind.table(), size, numbers, codes);
        };
        blocks.with_min_len(PIECE / size).for_each(pack);
        check_finite(numbers, &absmax, size)?;
        Ok(Self {
            kind,
            block_size,
            shape,
            codes,
            absmax: Absmax::Plain(absmax),
        })
    }

    /// Quantizes the absmax again; the codes stay the same.
    #[must_use]
    pub fn nested(self) -> Self {
        Self {
            absmax: self.absmax.nested(),
            ..self
        }
    }

    /// Returns the data type of the codes.
    pub fn kind(&self) -> FourBitType {
        self.kind
    }

    /// Returns how many numbers share an absmax.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Returns the shape, [out, in].
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Returns the codes, two per byte.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Returns the absmax, one per block.
    pub fn absmax(&self) -> &Absmax {
        &self.absmax
    }

    /// Returns all numbers [out, in].
    pub fn unpack(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; count(self.shape)];
        let pieces = numbers.par_chunks_mut(PIECE).enumerate();
        pieces.for_each(|(piece, numbers)| self.unpack_range(piece * PIECE, numbers));
        numbers
    }

    /// Writes the numbers from `start` on, row after row, until `numbers` is full. Panics if there
    /// are fewer, as a slice does.
    pub fn unpack_range(&self, start: usize, mut numbers: &mut [f32]) {
        let end = start.checked_add(numbers.len());
        assert!(
            end.is_some_and(|end| end <= count(self.shape)),
            "the range ends behind the weight"
        );
        let (size, mut start) = (self.block_size.numbers(), start);
        while !numbers.is_empty() {
            let room = (size - start % size).min(numbers.len());
            let (of_block, rest) = numbers.split_at_mut(room);
            let absmax = self.absmax.at(start / size);
            let scaled = self.kind.code().map(|code| code * absmax);
            unpack_block(&scaled, &self.codes[start / 2..], start % 2 == 1, of_block);
            (numbers, start) = (rest, start + room);
        }
    }
}

/// Writes the codes of a block of `size` numbers, or fewer in the last block, and returns its
/// absmax.
fn pack_block<T: Copy + Into<f32>>(
    table: &CodeTable,
    size: usize,
    numbers: &[T],
    codes: &mut [u8],
) -> f32 {
    let absmax = absmax_of(numbers);
    if !absmax.is_finite() {
        return absmax;
    }
    let divisor = absmax.max(SMALLEST_ABSMAX);
    if numbers.len() == size {
        let factor = 1.0 / divisor;
        pack_scaled(table, numbers, codes, |number| number * factor);
        absmax
    } else {
        // bitsandbytes divides here, and keeps what it divides by.
        pack_scaled(table, numbers, codes, |number| number / divisor);
        divisor
    }
}

/// Writes the codes of numbers that `scale` brings into [-1, 1]. An odd last number shares its byte
/// with a 0.
fn pack_scaled<T: Copy + Into<f32>>(
    table: &CodeTable,
    numbers: &[T],
    codes: &mut [u8],
    scale: impl Fn(f32) -> f32,
) {
    for (numbers, codes) in numbers.chunks(LANES).zip(codes.chunks_mut(LANES / 2)) {
        let mut scaled = [0.0; LANES];
        scaled
            .iter_mut()
            .zip(numbers)
            .for_each(|(scaled, number)| *scaled = scale((*number).into()));
        let of_lanes = nearest(table, &scaled);
        codes
            .iter_mut()
            .zip(of_lanes.as_chunks().0)
            .for_each(|(byte, [first, second])| *byte = first << 4 | second);
    }
}

/// Returns the codes of numbers in [-1, 1].
fn nearest(table: &CodeTable, scaled: &[f32; LANES]) -> [u8; LANES] {
    let mut ranks = [0_u32; LANES];
    for midpoint in &table.midpoints {
        ranks
            .iter_mut()
            .zip(scaled)
            .for_each(|(rank, number)| *rank += u32::from(number > midpoint));
    }
    ranks.map(|rank| table.order[rank as usize])
}

/// Writes the numbers of one block, given the numbers of the codes. `second` tells that the first
/// one is in the lower half of its byte.
fn unpack_block(scaled: &[f32; 16], codes: &[u8], second: bool, numbers: &mut [f32]) {
    let halves = |byte: u8| {
        [
            scaled[usize::from(byte >> 4)],
            scaled[usize::from(byte & 15)],
        ]
    };
    let (first, numbers) = numbers.split_at_mut(usize::from(second));
    let (of_first, codes) = codes.split_at(usize::from(second));
    let (pairs, last) = numbers.as_chunks_mut();
    let (of_pairs, of_last) = codes.split_at(pairs.len());
    first
        .iter_mut()
        .zip(of_first)
        .for_each(|(number, byte)| *number = halves(*byte)[1]);
    pairs
        .iter_mut()
        .zip(of_pairs)
        .for_each(|(pair, byte)| *pair = halves(*byte));
    last.iter_mut()
        .zip(of_last)
        .for_each(|(number, byte)| *number = halves(*byte)[0]);
}
