//! A quantized weight of any format, and the choice of a format.

use super::{BlockFormat, BlockSize, Blocks, FourBitType, Int8, Packed, QuantError};
use crate::terms::Quantization;

/// The format of a packed weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuantFormat {
    /// 4 bits per number, in blocks with an absmax each.
    FourBit {
        /// The data type.
        kind: FourBitType,
        /// Numbers per block.
        block_size: BlockSize,
        /// Whether the absmax are quantized again.
        double_quant: bool,
    },
    /// 8 bits per number, in rows with an absmax each.
    Int8,
    /// A block format of ggml.
    Blocks(BlockFormat),
}

impl QuantFormat {
    /// The format of QLoRA: NF4 in blocks of 64 with double quantization, arXiv:2305.14314.
    pub const QLORA: Self = Self::FourBit {
        kind: FourBitType::Nf4,
        block_size: BlockSize::DEFAULT,
        double_quant: true,
    };

    /// Returns the format that a recipe's settings name; `None` where weights are not packed, or
    /// stay as the base's files have them.
    pub fn of(word: Quantization, block_size: BlockSize, double_quant: bool) -> Option<Self> {
        match word {
            Quantization::None | Quantization::Gguf => None,
            Quantization::Nf4 => Some(Self::FourBit {
                kind: FourBitType::Nf4,
                block_size,
                double_quant,
            }),
            Quantization::Fp4 => Some(Self::FourBit {
                kind: FourBitType::Fp4,
                block_size,
                double_quant,
            }),
            Quantization::Int8 => Some(Self::Int8),
        }
    }

    /// Returns the recipe's word for the format.
    pub fn word(self) -> Quantization {
        match self {
            Self::FourBit {
                kind: FourBitType::Nf4,
                ..
            } => Quantization::Nf4,
            Self::FourBit {
                kind: FourBitType::Fp4,
                ..
            } => Quantization::Fp4,
            Self::Int8 => Quantization::Int8,
            Self::Blocks(_) => Quantization::Gguf,
        }
    }

    /// Quantizes numbers [out, in]. For int8 they should be rounded to float16 first, see
    /// [`Int8::pack`].
    ///
    /// # Errors
    /// A number is not finite, or the count does not fit the shape.
    pub fn pack<T: Copy + Sync + Into<f32>>(
        self,
        shape: [usize; 2],
        numbers: &[T],
    ) -> Result<Quantized, QuantError> {
        Ok(match self {
            Self::FourBit {
                kind,
                block_size,
                double_quant,
            } => {
                let packed = Packed::pack(kind, block_size, shape, numbers)?;
                Quantized::FourBit(if double_quant {
                    packed.nested()
                } else {
                    packed
                })
            }
            Self::Int8 => Quantized::Int8(Int8::pack(shape, numbers)?),
            Self::Blocks(format) => Quantized::Blocks(Blocks::pack(format, shape, numbers)?),
        })
    }

    /// Returns the bytes of a packed weight [out, in].
    pub fn bytes(self, [rows, columns]: [usize; 2]) -> u64 {
        let numbers = rows as u64 * columns as u64;
        match self {
            Self::FourBit {
                block_size,
                double_quant,
                ..
            } => {
                let blocks = numbers.div_ceil(block_size.numbers() as u64);
                numbers.div_ceil(2)
                    + if double_quant {
                        blocks + 4 * blocks.div_ceil(256)
                    } else {
                        4 * blocks
                    }
            }
            Self::Int8 => numbers + 4 * rows as u64,
            Self::Blocks(format) => {
                let in_row = columns.div_ceil(format.numbers()) * format.bytes();
                rows as u64 * in_row as u64
            }
        }
    }
}

impl std::fmt::Display for QuantFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FourBit {
                kind,
                block_size,
                double_quant,
            } => {
                let nested = if *double_quant {
                    ", double quantization"
                } else {
                    ""
                };
                write!(
                    f,
                    "{} in blocks of {}{nested}",
                    kind.name(),
                    block_size.numbers()
                )
            }
            Self::Int8 => f.write_str("int8 in rows"),
            Self::Blocks(format) => f.write_str(format.name()),
        }
    }
}

/// A quantized weight [out, in].
#[derive(Debug, Clone, PartialEq)]
pub enum Quantized {
    /// A weight in 4 bits per number.
    FourBit(Packed),
    /// A weight in 8 bits per number.
    Int8(Int8),
    /// A weight in blocks of ggml.
    Blocks(Blocks),
}

impl Quantized {
    /// Returns the shape, [out, in].
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::FourBit(packed) => packed.shape(),
            Self::Int8(packed) => packed.shape(),
            Self::Blocks(packed) => packed.shape(),
        }
    }

    /// Returns the format.
    pub fn form(&self) -> QuantFormat {
        match self {
            Self::FourBit(packed) => QuantFormat::FourBit {
                kind: packed.kind(),
                block_size: packed.block_size(),
                double_quant: packed.absmax().is_nested(),
            },
            Self::Int8(_) => QuantFormat::Int8,
            Self::Blocks(packed) => QuantFormat::Blocks(packed.format()),
        }
    }

    /// Writes the numbers from `start` on, row after row, until `numbers` is full. Panics if there
    /// are fewer, as a slice does.
    pub fn unpack_range(&self, start: usize, numbers: &mut [f32]) {
        match self {
            Self::FourBit(packed) => packed.unpack_range(start, numbers),
            Self::Int8(packed) => packed.unpack_range(start, numbers),
            Self::Blocks(packed) => packed.unpack_range(start, numbers),
        }
    }

    /// Returns all numbers [out, in].
    pub fn unpack(&self) -> Vec<f32> {
        match self {
            Self::FourBit(packed) => packed.unpack(),
            Self::Int8(packed) => packed.unpack(),
            Self::Blocks(packed) => packed.unpack(),
        }
    }
}
