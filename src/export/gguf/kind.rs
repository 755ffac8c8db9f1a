//! How a GGUF file stores numbers: the types of its tensors, and of a file as a whole.

use crate::model::gguf::TensorType;
use crate::quant::BlockFormat;

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
            (Self::Bf16, _) => TensorType::BF16,
            (Self::Q8_0, [.., width]) if width % Q8_0.numbers() == 0 => TensorType::Blocks(Q8_0),
            _ => TensorType::F16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_and_rows_that_are_no_blocks_have_types_of_their_own() {
        let q8_0 = TensorType::Blocks(BlockFormat::Q8_0);
        assert_eq!(GgmlType::Q8_0.of_tensor(&[4, 48]), TensorType::F16);
        assert_eq!(GgmlType::Q8_0.of_tensor(&[4, 64]), q8_0);
        assert_eq!(GgmlType::Bf16.of_tensor(&[64]), TensorType::F32);
    }
}
