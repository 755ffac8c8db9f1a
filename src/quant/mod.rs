//! Weights in 4 or 8 bits, byte for byte as bitsandbytes 0.50 packs them on a CPU: NF4 and FP4 by
//! blocks, optionally with double quantization, and the rows of LLM.int8. These are pure functions
//! of numbers; the callers read files and own devices.
//!
//! NF4, FP4 and double quantization: Dettmers et al. 2023, arXiv:2305.14314. The dynamic 8-bit
//! code: Dettmers 2016, arXiv:1511.04561. Rows of int8: Dettmers et al. 2022, arXiv:2208.07339.
//! Where a paper leaves a rounding open, the source of bitsandbytes decides:
//! <https://github.com/bitsandbytes-foundation/bitsandbytes>,
//! `bitsandbytes/backends/default/ops.py` and `csrc/cpu_ops.cpp`. One of its loops is not followed:
//! where a processor has AVX-512, 0.50.2 unpacks rows of a multiple of 16 numbers that is none of
//! the block size by the absmax of other blocks.

mod absmax;
mod blocks;
mod dynamic;
mod int8;
mod kind;
mod packed;
#[cfg(test)]
mod tests;
mod weight;

pub use absmax::{Absmax, Nested};
pub use blocks::{BlockFormat, Blocks};
pub use dynamic::{BLOCK as STATE_BLOCK, DYNAMIC_CODE, DynamicMap};
pub use int8::Int8;
pub use kind::FourBitType;
pub use packed::{BlockSize, Packed};
pub use weight::{QuantFormat, Quantized};

/// Numbers that cannot be packed, or packed parts that do not fit together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantError {
    /// A number is infinite or NaN: it would spoil its whole block or row.
    #[error("number {index} of the weight is {number}, expected a finite one")]
    NotFinite {
        /// Index of the number, row after row.
        index: usize,
        /// The number.
        number: f32,
    },
    /// A block size that bitsandbytes does not have.
    #[error("the block size is {found}, expected a power of 2 from 32 to 4096")]
    BlockSize {
        /// Numbers per block that were asked for.
        found: usize,
    },
    /// Rows that are not whole blocks.
    #[error(
        "a row has {columns} numbers, expected a multiple of {}, the numbers of a block of \
        {format}",
        format.numbers()
    )]
    Rows {
        /// The format of the blocks.
        format: BlockFormat,
        /// Numbers in a row.
        columns: usize,
    },
    /// Numbers so large that the scale of their block is infinite in float16.
    #[error(
        "the numbers from {index} on are too large for a block of {format}: its scale is above \
        65504, the largest number of float16"
    )]
    Scale {
        /// The format of the block.
        format: BlockFormat,
        /// Index of the block's first number, row after row.
        index: usize,
    },
    /// A part has another length than the others imply.
    #[error("there are {found} {part}, expected {expected}")]
    Length {
        /// The part that is counted.
        part: &'static str,
        /// Its length.
        found: usize,
        /// The length that shape and block size ask for.
        expected: usize,
    },
}

impl QuantError {
    /// Returns the fault of a part whose first number has this index.
    fn moved(self, first: usize) -> Self {
        match self {
            Self::NotFinite { index, number } => Self::NotFinite {
                index: first + index,
                number,
            },
            Self::Scale { format, index } => Self::Scale {
                format,
                index: first + index,
            },
            other => other,
        }
    }
}

fn check_length(part: &'static str, found: usize, expected: usize) -> Result<(), QuantError> {
    if found == expected {
        Ok(())
    } else {
        Err(QuantError::Length {
            part,
            found,
            expected,
        })
    }
}

/// Returns the number of elements of a matrix, saturated where the product does not fit.
fn count([rows, columns]: [usize; 2]) -> usize {
    rows.saturating_mul(columns)
}

/// Returns the largest magnitude; infinite or NaN if one of the numbers is, which a comparison of
/// floats would not keep.
fn absmax_of<T: Copy + Into<f32>>(numbers: &[T]) -> f32 {
    let magnitude = |number: &T| (*number).into().abs().to_bits();
    f32::from_bits(numbers.iter().map(magnitude).fold(0, u32::max))
}

/// Refuses numbers whose absmax is not finite somewhere. `group` is how many numbers share an
/// absmax.
fn check_finite<T: Copy + Into<f32>>(
    numbers: &[T],
    absmax: &[f32],
    group: usize,
) -> Result<(), QuantError> {
    let Some(first) = absmax.iter().position(|absmax| !absmax.is_finite()) else {
        return Ok(());
    };
    let numbers = numbers
        .iter()
        .map(|number| (*number).into())
        .enumerate()
        .skip(first * group);
    let found = numbers.into_iter().find(|(_, number)| !number.is_finite());
    found.map_or(Ok(()), |(index, number)| {
        Err(QuantError::NotFinite { index, number })
    })
}
