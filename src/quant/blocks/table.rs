//! Blocks whose codes are places in a table: `IQ4_NL`, `IQ4_XS` and MXFP4.

use super::fit::{EPSILON, nearest};
use super::small::{extreme, inverse, put_half, put_halves};
use super::{GROUP, whole};

/// Numbers of the codes of `IQ4_NL` and `IQ4_XS`.
pub(super) const IQ4: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Twice the numbers of E2M1: a sign, two bits of exponent and one of fraction.
pub(super) const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Steps of the largest number's code that are tried to either side.
const STEPS: i8 = 7;

/// Returns 2^(e - 128).
pub(super) fn power_of_two(e: u8) -> f32 {
    f32::from_bits(if e < 2 {
        1 << (21 + u32::from(e))
    } else {
        u32::from(e - 1) << 23
    })
}

/// Returns the code of the number nearest to x, of two as near the upper one.
fn code(x: f32) -> u8 {
    let above = IQ4.partition_point(|number| f32::from(*number) <= x);
    if above == 0 || above == 16 {
        return above.min(15) as u8;
    }
    let [below, beyond] = [IQ4[above - 1], IQ4[above]].map(f32::from);
    (if x - below < beyond - x {
        above - 1
    } else {
        above
    }) as u8
}

/// Sums of w q x and of w q q, with w = x x and the numbers q of the nearest codes.
fn sums(numbers: &[f32; GROUP], factor: f32) -> [f32; 2] {
    let add = |[of_x, of_q]: [f32; 2], x: &f32| {
        let q = f32::from(IQ4[usize::from(code(factor * x))]);
        let w = x * x;
        [of_x + w * q * x, of_q + w * q * q]
    };
    numbers.iter().fold([0.0; 2], add)
}

/// Returns the scale of least squares, of several roundings.
fn scale(numbers: &[f32; GROUP]) -> f32 {
    let [extreme, magnitude] = extreme(numbers);
    if magnitude < EPSILON {
        return 0.0;
    }
    let lowest = f32::from(IQ4[0]);
    let [of_x, of_q] = sums(numbers, 1.0 / (-extreme / lowest));
    let mut scale = if of_q > 0.0 { of_x / of_q } else { 0.0 };
    let mut best = scale * of_x;
    for step in -STEPS..=STEPS {
        let [of_x, of_q] = sums(numbers, (f32::from(step) + lowest) / extreme);
        if of_q > 0.0 && of_x * of_x > best * of_q {
            scale = of_x / of_q;
            best = scale * of_x;
        }
    }
    scale
}

/// Quantizes as `quantize_iq4_nl` of ggml does, which writes files of models.
pub(super) fn quantize_iq4_nl(numbers: &[f32; GROUP], block: &mut [u8; 18]) {
    let scale = scale(numbers);
    put_half(block, 0, scale);
    let factor = inverse(scale);
    put_halves(&numbers.map(|x| code(factor * x)), &mut block[2..]);
}

pub(super) fn quantize_iq4_xs(numbers: &[f32; 256], block: &mut [u8; 136]) {
    let mut scales = [0.0; 8];
    for (to, numbers) in scales.iter_mut().zip(numbers.chunks_exact(GROUP)) {
        *to = scale(whole(numbers));
    }
    let d = -extreme(&scales)[0] / 32.0;
    let factor = inverse(d);
    block.fill(0);
    put_half(block, 0, d);
    let mut upper = 0_u16;
    for (group, (scale, numbers)) in scales.iter().zip(numbers.chunks_exact(GROUP)).enumerate() {
        let step = nearest(factor * scale).clamp(-32, 31);
        let factor = inverse(d * step as f32);
        let codes = whole(numbers).map(|x| code(factor * x));
        put_halves(&codes, &mut block[8 + 16 * group..]);
        let step = (step + 32) as u8;
        block[4 + group / 2] |= (step & 15) << (group % 2 * 4);
        upper |= u16::from(step >> 4) << (2 * group);
    }
    block[2..4].copy_from_slice(&upper.to_le_bytes());
}

pub(super) fn quantize_mxfp4(numbers: &[f32; GROUP], block: &mut [u8; 17]) {
    let magnitude = extreme(numbers)[1];
    let exponent = if magnitude > 0.0 {
        // As float32 rounds a logarithm.
        ((f64::from(magnitude).log2() as f32).floor() + 125.0) as u8
    } else {
        0
    };
    let scale = power_of_two(exponent);
    let code = |x: f32| {
        let distance = |code: &u8| (f32::from(E2M1[usize::from(*code)]) * scale - x).abs();
        let nearer = |best: u8, code: u8| {
            if distance(&code) < distance(&best) {
                code
            } else {
                best
            }
        };
        (1..16).fold(0, nearer)
    };
    block[0] = exponent;
    put_halves(&numbers.map(code), &mut block[1..]);
}
