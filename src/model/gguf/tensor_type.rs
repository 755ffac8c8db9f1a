//! How a tensor of a GGUF file stores its numbers, as far as it is known here.

use rayon::prelude::*;

use crate::files::Float;
use crate::quant::BlockFormat;

/// Blocks that a thread encodes at a time.
const SHARE_BLOCKS: usize = 256;

/// How a tensor of a GGUF file stores its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TensorType {
    /// Each by itself.
    Numbers(Float),
    /// In blocks of a row that share scales.
    Blocks(BlockFormat),
}

impl TensorType {
    /// 32 bits.
    pub const F32: Self = Self::Numbers(Float::F32);
    /// 16 bits (f16).
    pub const F16: Self = Self::Numbers(Float::F16);
    /// The upper half of an f32 (bfloat16).
    pub const BF16: Self = Self::Numbers(Float::Bf16);

    /// Returns GGML's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Numbers(Float::F32) => "F32",
            Self::Numbers(Float::F16) => "F16",
            Self::Numbers(Float::Bf16) => "BF16",
            Self::Blocks(format) => format.name(),
        }
    }

    /// Returns GGML's number of the type.
    pub fn id(self) -> u32 {
        match self {
            Self::Numbers(Float::F32) => 0,
            Self::Numbers(Float::F16) => 1,
            Self::Numbers(Float::Bf16) => 30,
            Self::Blocks(format) => format.ggml(),
        }
    }

    /// Returns the type of GGML's number; `None` if it is none of these.
    pub fn of_ggml(id: u32) -> Option<Self> {
        match id {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            30 => Some(Self::BF16),
            id => BlockFormat::of_ggml(id).map(Self::Blocks),
        }
    }

    /// Whether rows of this many numbers are whole blocks.
    pub fn fits(self, width: usize) -> bool {
        match self {
            Self::Blocks(format) => width.is_multiple_of(format.numbers()),
            Self::Numbers(_) => true,
        }
    }

    /// Returns the type of numbers without blocks.
    pub fn float(self) -> Option<Float> {
        match self {
            Self::Numbers(float) => Some(float),
            Self::Blocks(_) => None,
        }
    }

    /// Returns the bytes of this many numbers, which are whole blocks.
    pub fn bytes(self, numbers: usize) -> usize {
        match self {
            Self::Numbers(float) => numbers * float.bytes(),
            Self::Blocks(format) => numbers / format.numbers() * format.bytes(),
        }
    }

    /// Encodes whole rows, or whole blocks of one; `None` if the type cannot hold a number: f16
    /// ends at 65504, also as the scale of a block.
    pub fn encode(self, numbers: &[f32]) -> Option<Vec<u8>> {
        const F16_ENDS: f32 = 65520.0;
        let mut bytes = vec![0; self.bytes(numbers.len())];
        let is_held = match self {
            Self::Numbers(float) => {
                float.encode(numbers, &mut bytes);
                let ends = if float == Float::F16 {
                    F16_ENDS
                } else {
                    f32::INFINITY
                };
                numbers.iter().all(|number| number.abs() < ends)
            }
            Self::Blocks(format) => numbers
                .par_chunks(SHARE_BLOCKS * format.numbers())
                .zip(bytes.par_chunks_mut(SHARE_BLOCKS * format.bytes()))
                .all(|(numbers, bytes)| format.quantize(numbers, bytes).is_ok()),
        };
        is_held.then_some(bytes)
    }

    /// Decodes the numbers of whole blocks.
    pub fn decode(self, bytes: &[u8], numbers: &mut [f32]) {
        match self {
            Self::Numbers(float) => float.decode(bytes, numbers),
            Self::Blocks(format) => {
                let shares = bytes.par_chunks(SHARE_BLOCKS * format.bytes());
                shares
                    .zip(numbers.par_chunks_mut(SHARE_BLOCKS * format.numbers()))
                    .for_each(|(bytes, numbers)| format.unpack(bytes, numbers));
            }
        }
    }

    /// Rounds the numbers of whole blocks to what a file of this type holds; all are infinite if it
    /// cannot hold one.
    pub fn nearest(self, numbers: &[f32]) -> Vec<f32> {
        let mut nearest = vec![f32::INFINITY; numbers.len()];
        if let Some(bytes) = self.encode(numbers) {
            self.decode(&bytes, &mut nearest);
        }
        nearest
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    const Q8_0: TensorType = TensorType::Blocks(BlockFormat::Q8_0);

    #[test]
    fn q8_0_is_within_half_a_step() {
        let numbers: Vec<f32> = (0..64)
            .map(|index| (index as f32 * 0.7).sin() * if index < 32 { 3.0 } else { 0.01 })
            .collect();
        let bytes = Q8_0.encode(&numbers).expect("small numbers");
        assert_eq!(bytes.len(), 68);
        for (block, bytes) in numbers.chunks(32).zip(bytes.chunks(34)) {
            let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
            for (number, byte) in block.iter().zip(&bytes[2..]) {
                let stored = scale * f32::from(byte.cast_signed());
                assert!(
                    (stored - number).abs() <= 0.51 * scale,
                    "{number} as {stored}"
                );
            }
        }
        assert_eq!(Q8_0.encode(&[0.0; 32]), Some(vec![0; 34]));
    }

    #[test]
    fn what_a_type_cannot_hold_is_known() {
        let holds = |kind: TensorType, number: f32| kind.encode(&[number; 32]).is_some();
        for kind in [TensorType::F32, TensorType::F16, TensorType::BF16, Q8_0] {
            assert!(
                holds(kind, -65504.0) && !holds(kind, f32::NAN) && !holds(kind, f32::INFINITY),
                "{kind:?}"
            );
        }
        assert!(!holds(TensorType::F16, 65520.0) && holds(Q8_0, 65520.0) && !holds(Q8_0, -1e7));
    }
}
