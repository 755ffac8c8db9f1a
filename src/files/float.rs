//! Floating-point numbers as files store them, little end first. Computation is in f32; what does not fit is rounded to the nearest,
//! ties to even.

use std::fmt;

use half::{bf16, f16};
use safetensors::Dtype;

/// A type in which a checkpoint stores its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    /// IEEE 754, 32 bits.
    F32,
    /// IEEE 754, 16 bits; nothing above 65504.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Float {
    /// The type that a safetensors header names; `None` if it is not one of these.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name in `PyTorch`, and so in config.json.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// Numbers from bytes, as many as there is room for.
    pub fn decode(self, bytes: &[u8], numbers: &mut [f32]) {
        match self {
            Self::F32 => fill(numbers, bytes.as_chunks().0, f32::from_le_bytes),
            Self::F16 => fill(numbers, bytes.as_chunks().0, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16 => fill(numbers, bytes.as_chunks().0, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        }
    }

    /// Bytes from numbers, as many as there is room for.
    pub fn encode(self, numbers: &[f32], bytes: &mut [u8]) {
        match self {
            Self::F32 => fill(bytes.as_chunks_mut().0, numbers, f32::to_le_bytes),
            Self::F16 => fill(bytes.as_chunks_mut().0, numbers, |number| f16::from_f32(number).to_le_bytes()),
            Self::Bf16 => fill(bytes.as_chunks_mut().0, numbers, |number| bf16::from_f32(number).to_le_bytes()),
        }
    }
}

fn fill<Old: Copy, New>(to: &mut [New], from: &[Old], convert: impl Fn(Old) -> New) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = convert(*from);
    }
}

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(float: Float, number: f32) -> f32 {
        let (mut bytes, mut back) = (vec![0; float.bytes()], [0.0]);
        float.encode(&[number], &mut bytes);
        float.decode(&bytes, &mut back);
        back[0]
    }

    #[test]
    fn halves_are_rounded_to_even() {
        let at = |unit: f32, steps: f32| 1.0 + unit * steps;
        for (float, unit) in [(Float::Bf16, 2f32.powi(-7)), (Float::F16, 2f32.powi(-10))] {
            for (number, expected) in [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (0.5001, 1.0), (1.4999, 1.0)] {
                assert!((stored(float, at(unit, number)) - at(unit, expected)).abs() < 1e-9, "{float}, {number} units");
            }
            assert!(stored(float, f32::NAN).is_nan());
        }
        assert!(stored(Float::F16, 65520.0).is_infinite(), "f16 ends at 65504");
        assert!((stored(Float::F32, 0.1) - 0.1).abs() == 0.0);
    }
}
