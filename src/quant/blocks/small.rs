//! Quantizes blocks of 32 numbers: `Q8_0`, `Q4_0`, `Q4_1`, `Q5_0` and `Q5_1`. The code of a number
//! is that of its share of the scale before the scale is rounded to float16.

use half::f16;

use super::GROUP;

/// Returns 1 / d; 0 for 0.
pub(super) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

pub(super) fn put_half(block: &mut [u8], place: usize, number: f32) {
    block[place..place + 2].copy_from_slice(&f16::from_f32(number).to_le_bytes());
}

/// Returns the first number of the largest magnitude, and that.
pub(super) fn extreme(numbers: &[f32]) -> [f32; 2] {
    let larger = |[extreme, magnitude]: [f32; 2], number: &f32| {
        if number.abs() > magnitude {
            [*number, number.abs()]
        } else {
            [extreme, magnitude]
        }
    };
    numbers.iter().fold([0.0; 2], larger)
}

/// Returns the smallest number and the largest one.
fn bounds(numbers: &[f32; GROUP]) -> [f32; 2] {
    let wider = |[least, most]: [f32; 2], number: &f32| {
        let least = if *number < least { *number } else { least };
        [least, if *number > most { *number } else { most }]
    };
    numbers.iter().fold([f32::MAX, f32::MIN], wider)
}

/// Writes codes of 4 bits: those of the first half into the lower bits.
pub(super) fn put_halves(codes: &[u8; GROUP], to: &mut [u8]) {
    let (low, high) = codes.split_at(16);
    for (to, (low, high)) in to.iter_mut().zip(low.iter().zip(high)) {
        *to = low & 15 | high << 4;
    }
}

/// Writes the fifth bits of codes.
fn put_fifths(codes: &[u8; GROUP], to: &mut [u8]) {
    let bits = (0..)
        .zip(codes)
        .map(|(place, code)| u32::from(code >> 4 & 1) << place);
    to.copy_from_slice(&bits.sum::<u32>().to_le_bytes());
}

/// Returns the integer part of shares in [-0.5, most + 0.5], at most `most`.
fn codes(numbers: &[f32; GROUP], most: u8, share: impl Fn(f32) -> f32) -> [u8; GROUP] {
    numbers.map(|number| (share(number) as i8).cast_unsigned().min(most))
}

pub(super) fn quantize_q8_0(numbers: &[f32; GROUP], block: &mut [u8; 34]) {
    let d = extreme(numbers)[1] / 127.0;
    let factor = inverse(d);
    put_half(block, 0, d);
    for (to, number) in block[2..].iter_mut().zip(numbers) {
        *to = ((number * factor).round() as i8).cast_unsigned();
    }
}

pub(super) fn quantize_q4_0(numbers: &[f32; GROUP], block: &mut [u8; 18]) {
    let d = extreme(numbers)[0] / -8.0;
    let factor = inverse(d);
    put_half(block, 0, d);
    let codes = codes(numbers, 15, |number| number * factor + 8.5);
    put_halves(&codes, &mut block[2..]);
}

pub(super) fn quantize_q4_1(numbers: &[f32; GROUP], block: &mut [u8; 20]) {
    let [least, most] = bounds(numbers);
    let d = (most - least) / 15.0;
    let factor = inverse(d);
    put_half(block, 0, d);
    put_half(block, 2, least);
    let codes = codes(numbers, 15, |number| (number - least) * factor + 0.5);
    put_halves(&codes, &mut block[4..]);
}

pub(super) fn quantize_q5_0(numbers: &[f32; GROUP], block: &mut [u8; 22]) {
    let d = extreme(numbers)[0] / -16.0;
    let factor = inverse(d);
    put_half(block, 0, d);
    let codes = codes(numbers, 31, |number| number * factor + 16.5);
    put_fifths(&codes, &mut block[2..6]);
    put_halves(&codes, &mut block[6..]);
}

pub(super) fn quantize_q5_1(numbers: &[f32; GROUP], block: &mut [u8; 24]) {
    let [least, most] = bounds(numbers);
    let d = (most - least) / 31.0;
    let factor = inverse(d);
    put_half(block, 0, d);
    put_half(block, 2, least);
    let codes = codes(numbers, 31, |number| (number - least) * factor + 0.5);
    put_fifths(&codes, &mut block[4..8]);
    put_halves(&codes, &mut block[8..]);
}
