//! Floating-point numbers as files store them, little-endian. Computation is in f32. Values are
//! rounded to the nearest one that fits, ties to even.

use std::fmt;

use half::f16;
use safetensors::Dtype;

/// Type of the numbers in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    /// IEEE 754, 32 bits.
    F32,
    /// IEEE 754, 16 bits; largest value 65504.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Float {
    /// Returns the type for a safetensors dtype; `None` if it is not one of these.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Returns the bytes per number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Returns the name of the type in `PyTorch` and config.json.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// Decodes as many numbers as fit into `numbers`.
    pub fn decode(self, bytes: &[u8], numbers: &mut [f32]) {
        match self {
            Self::F32 => decode::<F32>(bytes, numbers),
            Self::F16 => decode::<F16>(bytes, numbers),
            Self::Bf16 => decode::<Bf16>(bytes, numbers),
        }
    }

    /// Encodes as many numbers as fit into `bytes`.
    pub fn encode(self, numbers: &[f32], bytes: &mut [u8]) {
        match self {
            Self::F32 => encode::<F32>(numbers, bytes),
            Self::F16 => encode::<F16>(numbers, bytes),
            Self::Bf16 => encode::<Bf16>(numbers, bytes),
        }
    }
}

/// A [`Float`] that is known at compile time, for loops that the compiler can vectorize.
pub trait Number {
    /// A number as it is stored.
    type Bytes: Copy + Default;
    /// Returns the stored numbers. Bytes after the last whole number are left out.
    fn chunks(bytes: &[u8]) -> &[Self::Bytes];
    /// Mutable form of [`Number::chunks`].
    fn chunks_mut(bytes: &mut [u8]) -> &mut [Self::Bytes];
    /// Decodes a number.
    fn get(bytes: Self::Bytes) -> f32;
    /// Rounds to the nearest number and encodes it.
    fn put(number: f32) -> Self::Bytes;
    /// Rounds to the nearest number of this type.
    fn nearest(number: f32) -> f32;
}

/// [`Float::F32`].
#[derive(Debug, Clone, Copy)]
pub struct F32;
/// [`Float::F16`].
#[derive(Debug, Clone, Copy)]
pub struct F16;
/// [`Float::Bf16`].
#[derive(Debug, Clone, Copy)]
pub struct Bf16;

/// Part of [`Number`] that is the same for all types.
macro_rules! stored_in {
    ($bytes:literal) => {
        type Bytes = [u8; $bytes];
        fn chunks(bytes: &[u8]) -> &[Self::Bytes] {
            bytes.as_chunks().0
        }
        fn chunks_mut(bytes: &mut [u8]) -> &mut [Self::Bytes] {
            bytes.as_chunks_mut().0
        }
    };
}

impl Number for F32 {
    stored_in!(4);
    #[inline]
    fn get(bytes: Self::Bytes) -> f32 {
        f32::from_le_bytes(bytes)
    }
    #[inline]
    fn put(number: f32) -> Self::Bytes {
        number.to_le_bytes()
    }
    #[inline]
    fn nearest(number: f32) -> f32 {
        number
    }
}

impl Number for F16 {
    stored_in!(2);
    #[inline]
    fn get(bytes: Self::Bytes) -> f32 {
        f16::from_le_bytes(bytes).to_f32()
    }
    #[inline]
    fn put(number: f32) -> Self::Bytes {
        f16::from_f32(number).to_le_bytes()
    }
    /// Rounds without a conversion, so that the loop can be vectorized.
    #[inline]
    fn nearest(number: f32) -> f32 {
        const LEAST_NORMAL: f32 = 6.103_515_6e-5; // 2^-14
        // numbers from 0.5 to 1 are 2^-24 apart, as those below 2^-14 in 16 bits
        const SPACED: f32 = 0.75;
        const ENDS: f32 = 65520.0;
        let (magnitude, bits) = (number.abs(), number.to_bits());
        let rounded = f32::from_bits(bits.wrapping_add(0xfff + ((bits >> 13) & 1)) & !0x1fff);
        let small = (magnitude + SPACED) - SPACED;
        let inside = if magnitude < LEAST_NORMAL {
            small.copysign(number)
        } else {
            rounded
        };
        let beyond = if number.is_nan() {
            number
        } else {
            f32::INFINITY.copysign(number)
        };
        if magnitude < ENDS { inside } else { beyond }
    }
}

/// Rounds as the `half` crate does, without a branch.
impl Number for Bf16 {
    stored_in!(2);
    #[inline]
    fn get(bytes: Self::Bytes) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
    }
    #[inline]
    fn put(number: f32) -> Self::Bytes {
        const QUIET: u32 = 0x40_0000;
        let bits = number.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        (((if number.is_nan() {
            bits | QUIET
        } else {
            rounded
        }) >> 16) as u16)
            .to_le_bytes()
    }
    #[inline]
    fn nearest(number: f32) -> f32 {
        Self::get(Self::put(number))
    }
}

fn decode<Type: Number>(bytes: &[u8], numbers: &mut [f32]) {
    for (number, bytes) in numbers.iter_mut().zip(Type::chunks(bytes)) {
        *number = Type::get(*bytes);
    }
}

fn encode<Type: Number>(numbers: &[f32], bytes: &mut [u8]) {
    for (bytes, number) in Type::chunks_mut(bytes).iter_mut().zip(numbers) {
        *bytes = Type::put(*number);
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
    use half::bf16;

    use super::*;

    fn stored(float: Float, number: f32) -> f32 {
        let (mut bytes, mut back) = (vec![0; float.bytes()], [0.0]);
        float.encode(&[number], &mut bytes);
        float.decode(&bytes, &mut back);
        back[0]
    }

    #[test]
    fn every_kind_of_number_becomes_the_bf16_that_half_makes_of_it() {
        for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            for high in 0..=u16::MAX {
                let number = f32::from_bits(u32::from(high) << 16 | low);
                assert_eq!(
                    Bf16::put(number),
                    bf16::from_f32(number).to_le_bytes(),
                    "{number} ({:08x})",
                    number.to_bits()
                );
            }
        }
    }

    #[test]
    fn the_nearest_number_is_the_one_that_is_stored() {
        let same = |one: f32, other: f32| {
            one.to_bits() == other.to_bits() || (one.is_nan() && other.is_nan())
        };
        for low in [
            0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x3000, 0x7fff, 0x8000, 0xffff,
        ] {
            for high in 0..=u16::MAX {
                let number = f32::from_bits(u32::from(high) << 16 | low);
                assert!(
                    same(F16::nearest(number), F16::get(F16::put(number))),
                    "{number:e} in f16 is {:e}",
                    F16::nearest(number)
                );
                assert!(
                    same(Bf16::nearest(number), Bf16::get(Bf16::put(number))),
                    "{number:e} in bf16"
                );
            }
        }
    }

    #[test]
    fn halves_are_rounded_to_even() {
        let at = |unit: f32, steps: f32| 1.0 + unit * steps;
        for (float, unit) in [(Float::Bf16, 2f32.powi(-7)), (Float::F16, 2f32.powi(-10))] {
            for (number, expected) in [
                (0.5, 0.0),
                (1.5, 2.0),
                (2.5, 2.0),
                (0.5001, 1.0),
                (1.4999, 1.0),
            ] {
                assert!(
                    (stored(float, at(unit, number)) - at(unit, expected)).abs() < 1e-9,
                    "{float}, {number} units"
                );
            }
            assert!(stored(float, f32::NAN).is_nan());
        }
        assert!(
            stored(Float::F16, 65520.0).is_infinite(),
            "f16 ends at 65504"
        );
        assert!((stored(Float::F32, 0.1) - 0.1).abs() == 0.0);
    }
}
