//! How a GGUF file stores numbers: the types of its tensors, and of a file as a whole.

use rayon::prelude::*;

use crate::files::Float;
use crate::quant::BlockFormat;

/// Blocks that a thread encodes at a time.
const SHARE_BLOCKS: usize = 256;

/// How a GGUF file stores the matrices of a model: in one number type, or in a mix of those of
/// llama.cpp, whose name is that of most of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgmlType {
    /// 32 bits.
    F32,
    /// 16 bits (f16).
    F16,
    /// The upper half of an f32 (bfloat16).
    Bf16,
    /// 8-bit integers in blocks of 32 that share an f16 scale.
    Q8_0,
    /// 4-bit integers in blocks of 32 that share an f16 scale.
    Q4_0,
    /// 4-bit integers in blocks of 256 with scales and minima, and more bits where they matter.
    Q4KM,
    /// 5-bit integers in blocks of 256 with scales and minima, and more bits where they matter.
    Q5KM,
    /// 6-bit integers in blocks of 256 with scales.
    Q6K,
}

/// How a tensor of a GGUF file is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::export) enum TensorType {
    /// 32 bits.
    F32,
    /// 16 bits (f16).
    F16,
    /// The upper half of an f32 (bfloat16).
    Bf16,
    /// Blocks of a row that share scales.
    Blocks(BlockFormat),
}

impl GgmlType {
    /// Returns the type in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4KM => "Q4_K_M",
            Self::Q5KM => "Q5_K_M",
            Self::Q6K => "Q6_K",
        }
    }

    /// Returns the type's name for `--dtype`.
    pub fn option(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4KM => "q4_k_m",
            Self::Q5KM => "q5_k_m",
            Self::Q6K => "q6_k",
        }
    }

    /// Whether numbers share scales in blocks.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Returns llama.cpp's number of a file that is mostly of this type.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Q5KM => 17,
            Self::Q6K => 18,
            Self::Bf16 => 32,
        }
    }

    /// Returns the type of a tensor in a file of this type, as llama.cpp's converter chooses it:
    /// vectors stay in the type of computation, and rows that cannot be divided into blocks become
    /// f16. Mixes start at f16: [`super::mix`] chooses the types of their matrices.
    pub(super) fn of_tensor(self, shape: &[usize]) -> TensorType {
        const Q8_0: BlockFormat = BlockFormat::Q8_0;
        match (self, shape) {
            (_, [_]) | (Self::F32, _) => TensorType::F32,
            (Self::Bf16, _) => TensorType::Bf16,
            (Self::Q8_0, [.., width]) if width % Q8_0.numbers() == 0 => TensorType::Blocks(Q8_0),
            _ => TensorType::F16,
        }
    }
}

impl TensorType {
    /// Returns GGML's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Blocks(format) => format.name(),
        }
    }

    /// Returns GGML's number of the type.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 30,
            Self::Blocks(format) => format.ggml(),
        }
    }

    /// Returns the type of GGML's number; `None` if it is none of these.
    pub fn of_ggml(id: u32) -> Option<Self> {
        match id {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            30 => Some(Self::Bf16),
            id => BlockFormat::of_ggml(id).map(Self::Blocks),
        }
    }

    /// Whether rows of this many numbers are whole blocks.
    pub fn fits(self, width: usize) -> bool {
        match self {
            Self::Blocks(format) => width.is_multiple_of(format.numbers()),
            _ => true,
        }
    }

    /// Returns the type of numbers without blocks.
    pub fn float(self) -> Option<Float> {
        match self {
            Self::F32 => Some(Float::F32),
            Self::F16 => Some(Float::F16),
            Self::Bf16 => Some(Float::Bf16),
            Self::Blocks(_) => None,
        }
    }

    /// Returns the bytes of this many numbers, which are whole blocks.
    pub fn bytes(self, numbers: usize) -> usize {
        match self {
            Self::F32 => 4 * numbers,
            Self::F16 | Self::Bf16 => 2 * numbers,
            Self::Blocks(format) => numbers / format.numbers() * format.bytes(),
        }
    }

    /// Encodes whole rows, or whole blocks of one; `None` if the type cannot hold a number: f16 ends
    /// at 65504, also as the scale of a block.
    pub fn encode(self, numbers: &[f32]) -> Option<Vec<u8>> {
        const F16_ENDS: f32 = 65520.0;
        let mut bytes = vec![0; self.bytes(numbers.len())];
        let Some(float) = self.float() else {
            return self.quantized(numbers, &mut bytes).then_some(bytes);
        };
        let ends = if float == Float::F16 {
            F16_ENDS
        } else {
            f32::INFINITY
        };
        let is_held = numbers.iter().all(|number| number.abs() < ends);
        float.encode(numbers, &mut bytes);
        is_held.then_some(bytes)
    }

    /// Quantizes whole blocks; false if a number does not fit.
    fn quantized(self, numbers: &[f32], bytes: &mut [u8]) -> bool {
        let Self::Blocks(format) = self else {
            return false;
        };
        numbers
            .par_chunks(SHARE_BLOCKS * format.numbers())
            .zip(bytes.par_chunks_mut(SHARE_BLOCKS * format.bytes()))
            .all(|(numbers, bytes)| format.quantize(numbers, bytes).is_ok())
    }

    /// Decodes the numbers of whole blocks.
    pub fn decode(self, bytes: &[u8], numbers: &mut [f32]) {
        match self {
            Self::Blocks(format) => {
                let shares = bytes.par_chunks(SHARE_BLOCKS * format.bytes());
                shares
                    .zip(numbers.par_chunks_mut(SHARE_BLOCKS * format.numbers()))
                    .for_each(|(bytes, numbers)| format.unpack(bytes, numbers));
            }
            _ => self
                .float()
                .expect("a type without blocks")
                .decode(bytes, numbers),
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
        assert_eq!(GgmlType::Q8_0.of_tensor(&[4, 48]), TensorType::F16);
        assert_eq!(GgmlType::Q8_0.of_tensor(&[4, 64]), Q8_0);
        assert_eq!(GgmlType::Bf16.of_tensor(&[64]), TensorType::F32);
    }

    #[test]
    fn what_a_type_cannot_hold_is_known() {
        let holds = |kind: TensorType, number: f32| kind.encode(&[number; 32]).is_some();
        for kind in [TensorType::F32, TensorType::F16, TensorType::Bf16, Q8_0] {
            assert!(
                holds(kind, -65504.0) && !holds(kind, f32::NAN) && !holds(kind, f32::INFINITY),
                "{kind:?}"
            );
        }
        assert!(!holds(TensorType::F16, 65520.0) && holds(Q8_0, 65520.0) && !holds(Q8_0, -1e7));
    }
}
