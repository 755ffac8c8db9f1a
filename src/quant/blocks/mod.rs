//! The block formats of ggml, as files of GGUF have them: every 32 or 256 numbers of a row share
//! scales, and their codes have 2 to 8 bits. Unpacked numbers are those of `dequantize` of gguf-py
//! bit for bit; quantized ones are those of ggml's reference quantization without an importance
//! matrix (`quantize_row_*_ref` of `ggml-quants.c`).
//!
//! Numbers of more than one byte are little-endian. Formulas in this module name the bytes of a
//! block by their ranges. Format: <https://github.com/ggml-org/llama.cpp>,
//! `ggml/src/ggml-common.h`.

#![allow(
    clippy::inline_always,
    reason = "only what is inlined into a function with target features is compiled for them"
)]

mod fit;
mod small;
mod super_blocks;
mod table;
#[cfg(test)]
mod tests;
mod unpack;

use half::f16;
use rayon::prelude::*;

use super::{QuantError, check_length, count};

/// Numbers that are unpacked at a time, from one block.
const GROUP: usize = 32;
/// A number above which no scale in float16 is large enough; the largest that has one is below 3e8.
/// The third power of it is still a float.
const LARGEST: f32 = 1e9;
/// Numbers per piece of work of a thread.
const PIECE: usize = 1 << 14;

/// A block format of ggml.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// 32 codes of 8 bits, a scale.
    Q8_0,
    /// 32 codes of 4 bits, a scale.
    Q4_0,
    /// 32 codes of 4 bits, a scale and a minimum.
    Q4_1,
    /// 32 codes of 5 bits, a scale.
    Q5_0,
    /// 32 codes of 5 bits, a scale and a minimum.
    Q5_1,
    /// 256 codes of 2 bits; of 16 numbers each a scale and a minimum of 4 bits.
    Q2K,
    /// 256 codes of 3 bits; of 16 numbers each a scale of 6 bits.
    Q3K,
    /// 256 codes of 4 bits; of 32 numbers each a scale and a minimum of 6 bits.
    Q4K,
    /// 256 codes of 5 bits; of 32 numbers each a scale and a minimum of 6 bits.
    Q5K,
    /// 256 codes of 6 bits; of 16 numbers each a scale of 8 bits.
    Q6K,
    /// 32 codes of 4 bits into a table of 16 numbers, a scale.
    Iq4Nl,
    /// 256 codes of 4 bits into that table; of 32 numbers each a scale of 6 bits.
    Iq4Xs,
    /// 32 codes of 4 bits into the numbers of FP4 E2M1, a power of two as their scale.
    Mxfp4,
}

impl BlockFormat {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Mxfp4,
    ];

    /// Returns the format of a `ggml_type`; `None` where it is none of these.
    pub fn of_ggml(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.ggml() == id)
    }

    /// Returns the number of its `ggml_type`.
    pub fn ggml(self) -> u32 {
        match self {
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Iq4Nl => 20,
            Self::Iq4Xs => 23,
            Self::Mxfp4 => 39,
        }
    }

    /// Returns its name in ggml.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
            Self::Mxfp4 => "MXFP4",
        }
    }

    /// Returns the numbers of a block.
    pub fn numbers(self) -> usize {
        match self {
            Self::Q8_0
            | Self::Q4_0
            | Self::Q4_1
            | Self::Q5_0
            | Self::Q5_1
            | Self::Iq4Nl
            | Self::Mxfp4 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Iq4Xs => 256,
        }
    }

    /// Returns the bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Iq4Xs => 136,
            Self::Mxfp4 => 17,
        }
    }

    /// Returns the places of the scales in float16 in a block.
    fn scales(self) -> &'static [usize] {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q5_0 | Self::Iq4Nl | Self::Iq4Xs => &[0],
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => &[0, 2],
            Self::Q2K => &[80, 82],
            Self::Q3K => &[108],
            Self::Q6K => &[208],
            Self::Mxfp4 => &[],
        }
    }

    /// Returns the numbers of the codes that are places in a table, before they are scaled: 16 of 8
    /// bits, the first lowest; `None` where codes are numbers.
    pub fn table(self) -> Option<u128> {
        let table = match self {
            Self::Iq4Nl | Self::Iq4Xs => table::IQ4,
            Self::Mxfp4 => table::E2M1,
            _ => return None,
        };
        Some(u128::from_le_bytes(table.map(i8::cast_unsigned)))
    }

    /// Writes the numbers of whole blocks.
    ///
    /// # Panics
    /// The bytes are not those of as many blocks as there are numbers for.
    pub fn unpack(self, blocks: &[u8], numbers: &mut [f32]) {
        self.check_counts(blocks, numbers);
        unpack::groups(self, blocks, 0, numbers.as_chunks_mut().0);
    }

    /// Quantizes whole blocks of numbers, each block on its own.
    ///
    /// # Errors
    /// A number is not finite, or so large that the scale of its block is not.
    ///
    /// # Panics
    /// The bytes are not those of as many blocks as there are numbers for.
    pub fn quantize(self, numbers: &[f32], blocks: &mut [u8]) -> Result<(), QuantError> {
        self.check_counts(blocks, numbers);
        let infinite = |number: &f32| !number.is_finite();
        if let Some(index) = numbers.iter().position(infinite) {
            let number = numbers[index];
            return Err(QuantError::NotFinite { index, number });
        }
        let blocks = blocks.chunks_exact_mut(self.bytes());
        for (index, (numbers, block)) in numbers.chunks(self.numbers()).zip(blocks).enumerate() {
            let is_large = numbers.iter().any(|number| number.abs() > LARGEST);
            self.quantize_block(numbers, block);
            let scale = |place: &usize| f16::from_le_bytes([block[*place], block[*place + 1]]);
            let has_scales = !self.scales().is_empty();
            if (has_scales && is_large) || !self.scales().iter().map(scale).all(f16::is_finite) {
                let index = index * self.numbers();
                return Err(QuantError::Scale {
                    format: self,
                    index,
                });
            }
        }
        Ok(())
    }

    fn quantize_block(self, numbers: &[f32], block: &mut [u8]) {
        match self {
            Self::Q8_0 => small::quantize_q8_0(whole(numbers), whole_mut(block)),
            Self::Q4_0 => small::quantize_q4_0(whole(numbers), whole_mut(block)),
            Self::Q4_1 => small::quantize_q4_1(whole(numbers), whole_mut(block)),
            Self::Q5_0 => small::quantize_q5_0(whole(numbers), whole_mut(block)),
            Self::Q5_1 => small::quantize_q5_1(whole(numbers), whole_mut(block)),
            Self::Q2K => super_blocks::quantize_q2_k(whole(numbers), whole_mut(block)),
            Self::Q3K => super_blocks::quantize_q3_k(whole(numbers), whole_mut(block)),
            Self::Q4K => super_blocks::quantize_q4_k(whole(numbers), whole_mut(block)),
            Self::Q5K => super_blocks::quantize_q5_k(whole(numbers), whole_mut(block)),
            Self::Q6K => super_blocks::quantize_q6_k(whole(numbers), whole_mut(block)),
            Self::Iq4Nl => table::quantize_iq4_nl(whole(numbers), whole_mut(block)),
            Self::Iq4Xs => table::quantize_iq4_xs(whole(numbers), whole_mut(block)),
            Self::Mxfp4 => table::quantize_mxfp4(whole(numbers), whole_mut(block)),
        }
    }

    fn check_counts(self, blocks: &[u8], numbers: &[f32]) {
        let [of_bytes, of_numbers] = [blocks.len() / self.bytes(), numbers.len() / self.numbers()];
        let is_whole = blocks.len().is_multiple_of(self.bytes())
            && numbers.len().is_multiple_of(self.numbers());
        assert!(
            is_whole && of_bytes == of_numbers,
            "{} bytes and {} numbers are not as many blocks of {self}",
            blocks.len(),
            numbers.len()
        );
    }

    /// Returns the number of blocks of a weight [out, in].
    fn blocks(self, shape: [usize; 2]) -> Result<usize, QuantError> {
        if shape[1].is_multiple_of(self.numbers()) {
            Ok(count(shape) / self.numbers())
        } else {
            Err(QuantError::Rows {
                format: self,
                columns: shape[1],
            })
        }
    }
}

fn whole<const N: usize>(numbers: &[f32]) -> &[f32; N] {
    numbers.try_into().expect("the numbers of a block")
}

fn whole_mut<const N: usize>(block: &mut [u8]) -> &mut [u8; N] {
    block.try_into().expect("the bytes of a block")
}

impl std::fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A weight [out, in] in blocks of one format, row after row; no block has numbers of two rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocks {
    format: BlockFormat,
    shape: [usize; 2],
    bytes: Vec<u8>,
}

impl Blocks {
    /// Makes it of a file's bytes.
    ///
    /// # Errors
    /// The rows are not whole blocks, or there are not as many bytes as the blocks have.
    pub fn new(format: BlockFormat, shape: [usize; 2], bytes: Vec<u8>) -> Result<Self, QuantError> {
        let blocks = format.blocks(shape)?;
        check_length(
            "bytes of blocks",
            bytes.len(),
            blocks.saturating_mul(format.bytes()),
        )?;
        Ok(Self {
            format,
            shape,
            bytes,
        })
    }

    /// Quantizes numbers [out, in]. The bytes are the same for any number of threads.
    ///
    /// # Errors
    /// The rows are not whole blocks, a number is not finite, or there are not as many numbers as
    /// the shape has.
    pub fn pack<T: Copy + Sync + Into<f32>>(
        format: BlockFormat,
        shape: [usize; 2],
        numbers: &[T],
    ) -> Result<Self, QuantError> {
        check_length("numbers", numbers.len(), count(shape))?;
        let mut bytes = vec![0; format.blocks(shape)? * format.bytes()];
        let in_piece = PIECE / format.numbers();
        let pieces = numbers.par_chunks(PIECE).enumerate();
        let packed = pieces.zip(bytes.par_chunks_mut(in_piece * format.bytes()));
        let pack = |((piece, numbers), bytes): ((usize, &[T]), &mut [u8])| {
            let numbers: Vec<f32> = numbers.iter().map(|number| (*number).into()).collect();
            format
                .quantize(&numbers, bytes)
                .map_err(|fault| fault.moved(piece * PIECE))
        };
        // The first fault, whichever thread finds one first.
        let faults: Vec<QuantError> = packed.filter_map(|piece| pack(piece).err()).collect();
        match faults.into_iter().next() {
            Some(fault) => Err(fault),
            None => Ok(Self {
                format,
                shape,
                bytes,
            }),
        }
    }

    /// Returns the format.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// Returns the shape, [out, in].
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Returns the bytes of all blocks, as a file has them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
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
    pub fn unpack_range(&self, start: usize, numbers: &mut [f32]) {
        self.unpack_inlined(start, numbers);
    }

    /// Does the same, compiled for the instructions of its caller.
    #[inline(always)]
    pub(crate) fn unpack_inlined(&self, start: usize, numbers: &mut [f32]) {
        let (format, bytes) = (self.format, self.bytes.as_slice());
        let room = (start.next_multiple_of(GROUP) - start).min(numbers.len());
        let (first, numbers) = numbers.split_at_mut(room);
        let (groups, last) = numbers.as_chunks_mut::<GROUP>();
        let whole = start.div_ceil(GROUP);
        if !first.is_empty() {
            let mut group = [[0.0; GROUP]];
            unpack::groups(format, bytes, start / GROUP, &mut group);
            first.copy_from_slice(&group[0][start % GROUP..][..room]);
        }
        unpack::groups(format, bytes, whole, groups);
        if !last.is_empty() {
            let mut group = [[0.0; GROUP]];
            unpack::groups(format, bytes, whole + groups.len(), &mut group);
            last.copy_from_slice(&group[0][..last.len()]);
        }
    }
}
