//! The types in which a GGUF file stores numbers.

use half::f16;

use crate::files::Float;

/// The numbers that share a scale in [`GgmlType::Q8_0`].
const BLOCK: usize = 32;

/// A number type of GGML.
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
}

impl GgmlType {
    /// Returns the type in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::Q8_0 => "Q8_0",
        }
    }

    /// Returns the type's name for `--dtype`.
    pub fn option(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// Rounds the numbers of a row, or of whole blocks of it, to what a file of this type holds.
    pub(in crate::export) fn nearest(self, numbers: &[f32]) -> Vec<f32> {
        let float = match self {
            Self::F32 => Float::F32,
            Self::F16 => Float::F16,
            Self::Bf16 => Float::Bf16,
            Self::Q8_0 if !numbers.len().is_multiple_of(BLOCK) => Float::F16,
            Self::Q8_0 => {
                return self
                    .encode(numbers)
                    .chunks_exact(2 + BLOCK)
                    .flat_map(of_q8_0)
                    .collect();
            }
        };
        let (mut bytes, mut nearest) = (
            vec![0; numbers.len() * float.bytes()],
            vec![0.0; numbers.len()],
        );
        float.encode(numbers, &mut bytes);
        float.decode(&bytes, &mut nearest);
        nearest
    }

    /// Returns GGML's number of the type.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
            Self::Bf16 => 30,
        }
    }

    /// Returns llama.cpp's number of a file that is mostly of this type.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Bf16 => 32,
        }
    }

    /// Returns the type of a tensor in a file of this type, as llama.cpp's converter chooses it:
    /// vectors stay in the type of computation, and rows that cannot be divided into blocks become
    /// f16.
    pub(super) fn of_tensor(self, shape: &[usize]) -> Self {
        match (self, shape) {
            (_, [_]) => Self::F32,
            (Self::Q8_0, [.., width]) if width % BLOCK != 0 => Self::F16,
            _ => self,
        }
    }

    /// Returns the bytes of this many numbers.
    pub(super) fn bytes(self, numbers: usize) -> usize {
        match self {
            Self::F32 => 4 * numbers,
            Self::F16 | Self::Bf16 => 2 * numbers,
            Self::Q8_0 => numbers / BLOCK * (2 + BLOCK),
        }
    }

    /// Returns whether the type can hold a number: f16 ends at 65504, also as the scale of a block.
    pub(super) fn holds(self, number: f32) -> bool {
        const F16_ENDS: f32 = 65520.0;
        match self {
            Self::F32 | Self::Bf16 => number.is_finite(),
            Self::F16 => number.abs() < F16_ENDS,
            Self::Q8_0 => number.abs() / 127.0 < F16_ENDS,
        }
    }

    /// Encodes whole rows.
    pub(super) fn encode(self, numbers: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes(numbers.len())];
        match self {
            Self::F32 => Float::F32.encode(numbers, &mut bytes),
            Self::F16 => Float::F16.encode(numbers, &mut bytes),
            Self::Bf16 => Float::Bf16.encode(numbers, &mut bytes),
            Self::Q8_0 => {
                numbers
                    .as_chunks()
                    .0
                    .iter()
                    .zip(bytes.chunks_exact_mut(2 + BLOCK))
                    .for_each(|(block, bytes)| q8_0(block, bytes));
            }
        }
        bytes
    }
}

/// Encodes one block like `quantize_row_q8_0_ref` of GGML: d = max |x| / 127 in f16, then x / d
/// rounded, halves away from zero.
fn q8_0(block: &[f32; BLOCK], bytes: &mut [u8]) {
    let largest = block
        .iter()
        .fold(0f32, |largest, number| largest.max(number.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    bytes[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (byte, number) in bytes[2..].iter_mut().zip(block) {
        *byte = ((number * inverse).round() as i8).cast_unsigned();
    }
}

/// Decodes one block.
fn of_q8_0(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    bytes[2..]
        .iter()
        .map(move |byte| scale * f32::from(byte.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q8_0_is_within_half_a_step() {
        let numbers: Vec<f32> = (0..64)
            .map(|index| (index as f32 * 0.7).sin() * if index < 32 { 3.0 } else { 0.01 })
            .collect();
        let bytes = GgmlType::Q8_0.encode(&numbers);
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
        assert_eq!(GgmlType::Q8_0.encode(&[0.0; 32]), [0; 34]);
        assert_eq!(GgmlType::Q8_0.of_tensor(&[4, 48]), GgmlType::F16);
        assert_eq!(GgmlType::Q8_0.of_tensor(&[4, 64]), GgmlType::Q8_0);
        assert_eq!(GgmlType::Bf16.of_tensor(&[64]), GgmlType::F32);
    }

    #[test]
    fn what_a_type_cannot_hold_is_known() {
        for kind in [GgmlType::F32, GgmlType::F16, GgmlType::Bf16, GgmlType::Q8_0] {
            assert!(
                kind.holds(-65504.0) && !kind.holds(f32::NAN) && !kind.holds(f32::INFINITY),
                "{kind:?}"
            );
        }
        assert!(
            !GgmlType::F16.holds(65520.0)
                && GgmlType::Q8_0.holds(65520.0)
                && !GgmlType::Q8_0.holds(-1e7)
        );
    }
}
