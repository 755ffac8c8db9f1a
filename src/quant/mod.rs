//! Weights in 4 or 8 bits, byte for byte as bitsandbytes 0.50 packs them on a CPU: NF4 and FP4 by
//! blocks, their absmax quantized again where asked for, and the rows of LLM.int8. Pure functions
//! of numbers; whoever reads a file or owns a device calls them.
//!
//! NF4, FP4 and double quantization: Dettmers et al. 2023, arXiv:2305.14314. The dynamic 8-bit
//! code: Dettmers 2016, arXiv:1511.04561. Rows of int8: Dettmers et al. 2022, arXiv:2208.07339.
//! Where a paper leaves a rounding open, the source of bitsandbytes decides:
//! <https://github.com/bitsandbytes-foundation/bitsandbytes>,
//! `bitsandbytes/backends/default/ops.py` and `csrc/cpu_ops.cpp`. One of its loops is not followed:
//! where a processor has AVX-512, 0.50.2 unpacks rows of a multiple of 16 numbers that is none of
//! the block size by the absmax of other blocks.

mod absmax;
mod dynamic;
mod int8;
mod kind;
mod packed;
#[cfg(test)]
mod tests;
mod weight;

pub use absmax::{Absmax, Nested};
pub use dynamic::{BLOCK as STATE_BLOCK, DYNAMIC_CODE, DynamicMap};
pub use int8::Int8;
pub use kind::FourBitType;
pub use packed::{BlockSize, Packed};
pub use weight::{QuantFormat, Quantized};

/// Numbers that cannot be packed, or packed parts that do not belong together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantError {
    /// Infinite, or not a number: one of them leaves nothing of its block or row.
    #[error("number {index} of the weight is {number}, expected a finite one")]
    NotFinite {
        /// Its place, row after row.
        index: usize,
        /// The number.
        number: f32,
    },
    /// A block size that bitsandbytes does not have.
    #[error("the block size is {found}, expected a power of 2 from 32 to 4096")]
    BlockSize {
        /// Numbers of a block.
        found: usize,
    },
    /// A part is longer or shorter than the others say.
    #[error("there are {found} {part}, expected {expected}")]
    Length {
        /// What is counted.
        part: &'static str,
        /// How many there are.
        found: usize,
        /// How many the shape and the block size ask for.
        expected: usize,
    },
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

/// Numbers of a matrix; more than memory can hold if the product does not fit.
fn count([rows, columns]: [usize; 2]) -> usize {
    rows.saturating_mul(columns)
}

/// The largest magnitude; infinite or not a number if one of the numbers is, which no comparison of
/// floats would keep.
fn absmax_of<T: Copy + Into<f32>>(numbers: &[T]) -> f32 {
    let magnitude = |number: &T| (*number).into().abs().to_bits();
    f32::from_bits(numbers.iter().map(magnitude).fold(0, u32::max))
}

/// Refuses numbers of which some absmax is not finite. `group` is how many numbers an absmax is of.
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
