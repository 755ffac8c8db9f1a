//! Unpacks groups of 32 numbers. A product of a block's scales and a code has at most 24 bits, so
//! that it is exact, and a number is rounded at most once, where a minimum is added.

use half::f16;

use super::{BlockFormat, GROUP, super_blocks, table};

/// Writes whole groups, from the group `first` of the blocks on.
#[inline(always)]
pub(super) fn groups(
    format: BlockFormat,
    blocks: &[u8],
    first: usize,
    numbers: &mut [[f32; GROUP]],
) {
    match format {
        BlockFormat::Q8_0 => each(blocks, first, numbers, |block, _, to| q8_0(block, to)),
        BlockFormat::Q4_0 => each(blocks, first, numbers, |block, _, to| q4_0(block, to)),
        BlockFormat::Q4_1 => each(blocks, first, numbers, |block, _, to| q4_1(block, to)),
        BlockFormat::Q5_0 => each(blocks, first, numbers, |block, _, to| q5_0(block, to)),
        BlockFormat::Q5_1 => each(blocks, first, numbers, |block, _, to| q5_1(block, to)),
        BlockFormat::Q2K => each(blocks, first, numbers, q2_k),
        BlockFormat::Q3K => each(blocks, first, numbers, q3_k),
        BlockFormat::Q4K => each(blocks, first, numbers, q4_k),
        BlockFormat::Q5K => each(blocks, first, numbers, q5_k),
        BlockFormat::Q6K => each(blocks, first, numbers, q6_k),
        BlockFormat::Iq4Nl => each(blocks, first, numbers, |block, _, to| iq4_nl(block, to)),
        BlockFormat::Iq4Xs => each(blocks, first, numbers, iq4_xs),
        BlockFormat::Mxfp4 => each(blocks, first, numbers, |block, _, to| mxfp4(block, to)),
    }
}

/// Applies `unpack` to each group: its block, its place in it, and where its numbers go.
#[inline(always)]
fn each<const BYTES: usize>(
    blocks: &[u8],
    first: usize,
    numbers: &mut [[f32; GROUP]],
    unpack: impl Fn(&[u8; BYTES], usize, &mut [f32; GROUP]),
) {
    // Only blocks of 256 numbers are of more than 34 bytes.
    let in_block = if BYTES > 34 { 8 } else { 1 };
    for (index, numbers) in numbers.iter_mut().enumerate() {
        let (block, place) = ((first + index) / in_block, (first + index) % in_block);
        let block = blocks[block * BYTES..]
            .first_chunk()
            .expect("the block is there");
        unpack(block, place, numbers);
    }
}

#[inline(always)]
fn half(block: &[u8], place: usize) -> f32 {
    f16::from_le_bytes([block[place], block[place + 1]]).to_f32_const()
}

/// Writes the numbers of two codes to a byte: those of the first half are in the lower bits.
#[inline(always)]
fn halves(codes: &[u8; 16], to: &mut [f32; GROUP], of: impl Fn(u8, usize) -> f32) {
    let (low, high) = to.split_at_mut(16);
    for (place, (low, code)) in low.iter_mut().zip(codes).enumerate() {
        *low = of(code & 15, place);
    }
    for (place, (high, code)) in high.iter_mut().zip(codes).enumerate() {
        *high = of(code >> 4, 16 + place);
    }
}

/// Returns N bytes of a block.
#[inline(always)]
fn part<const N: usize>(block: &[u8], start: usize) -> &[u8; N] {
    block[start..].first_chunk().expect("a part of the block")
}

/// w = d q; d 0..2, q of 8 bits 2..34.
#[inline(always)]
fn q8_0(block: &[u8; 34], to: &mut [f32; GROUP]) {
    let d = half(block, 0);
    for (to, code) in to.iter_mut().zip(part::<GROUP>(block, 2)) {
        *to = f32::from(code.cast_signed()) * d;
    }
}

/// w = d (q - 8); d 0..2, q 2..18.
#[inline(always)]
fn q4_0(block: &[u8; 18], to: &mut [f32; GROUP]) {
    let d = half(block, 0);
    halves(part(block, 2), to, |code, _| d * (f32::from(code) - 8.0));
}

/// w = d q + m; d 0..2, m 2..4, q 4..20.
#[inline(always)]
fn q4_1(block: &[u8; 20], to: &mut [f32; GROUP]) {
    let (d, m) = (half(block, 0), half(block, 2));
    halves(part(block, 4), to, |code, _| d * f32::from(code) + m);
}

/// Returns the number of a code of 5 bits, of which the fifth is in a word.
#[inline(always)]
fn five_bits(code: u8, fifth: u32, place: usize) -> f32 {
    (u32::from(code) | (fifth >> place & 1) << 4) as f32
}

/// w = d (q - 16); d 0..2, fifth bits of q 2..6, the others 6..22.
#[inline(always)]
fn q5_0(block: &[u8; 22], to: &mut [f32; GROUP]) {
    let (d, fifth) = (half(block, 0), u32::from_le_bytes(*part(block, 2)));
    halves(part(block, 6), to, |code, place| {
        d * (five_bits(code, fifth, place) - 16.0)
    });
}

/// w = d q + m; d 0..2, m 2..4, fifth bits of q 4..8, the others 8..24.
#[inline(always)]
fn q5_1(block: &[u8; 24], to: &mut [f32; GROUP]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let fifth = u32::from_le_bytes(*part(block, 4));
    halves(part(block, 8), to, |code, place| {
        d * five_bits(code, fifth, place) + m
    });
}

/// w = d s q - e t; s and t of 16 numbers 0..16, q 16..80, d 80..82, e 82..84.
#[inline(always)]
fn q2_k(block: &[u8; 84], group: usize, to: &mut [f32; GROUP]) {
    let (d, e) = (half(block, 80), half(block, 82));
    let codes = part::<GROUP>(block, 16 + group / 4 * GROUP);
    let shift = group % 4 * 2;
    for (part, (to, codes)) in to
        .chunks_exact_mut(16)
        .zip(codes.chunks_exact(16))
        .enumerate()
    {
        let scale = block[2 * group + part];
        let (scale, minimum) = (d * f32::from(scale & 15), e * f32::from(scale >> 4));
        for (to, code) in to.iter_mut().zip(codes) {
            *to = scale * f32::from(code >> shift & 3) - minimum;
        }
    }
}

/// w = d (s - 32) (q - 4); third bits of q 0..32, the others 32..96, s of 16 numbers 96..108, d
/// 108..110.
#[inline(always)]
fn q3_k(block: &[u8; 110], group: usize, to: &mut [f32; GROUP]) {
    let d = half(block, 108);
    let thirds = part::<GROUP>(block, 0);
    let codes = part::<GROUP>(block, 32 + group / 4 * GROUP);
    let shift = group % 4 * 2;
    for half in 0..2 {
        let scale = super_blocks::six_bits_of_q3_k(part(block, 96), 2 * group + half);
        let scale = d * f32::from(scale.cast_signed() - 32);
        let range = 16 * half..16 * half + 16;
        let codes = codes[range.clone()].iter().zip(&thirds[range.clone()]);
        for (to, (code, third)) in to[range].iter_mut().zip(codes) {
            let code = (code >> shift & 3) | (third >> group & 1) << 2;
            *to = scale * (f32::from(code) - 4.0);
        }
    }
}

/// w = d s q - e t; d 0..2, e 2..4, s and t of 32 numbers 4..16, q 16..144.
#[inline(always)]
fn q4_k(block: &[u8; 144], group: usize, to: &mut [f32; GROUP]) {
    let [scale, minimum] = super_blocks::six_bits(part(block, 4), group);
    let scale = half(block, 0) * f32::from(scale);
    let minimum = half(block, 2) * f32::from(minimum);
    let codes = part::<GROUP>(block, 16 + group / 2 * GROUP);
    let shift = group % 2 * 4;
    for (to, code) in to.iter_mut().zip(codes) {
        *to = scale * f32::from(code >> shift & 15) - minimum;
    }
}

/// As [`q4_k`]; fifth bits of q 16..48, the others 48..176.
#[inline(always)]
fn q5_k(block: &[u8; 176], group: usize, to: &mut [f32; GROUP]) {
    let [scale, minimum] = super_blocks::six_bits(part(block, 4), group);
    let scale = half(block, 0) * f32::from(scale);
    let minimum = half(block, 2) * f32::from(minimum);
    let fifths = part::<GROUP>(block, 16);
    let codes = part::<GROUP>(block, 48 + group / 2 * GROUP);
    let shift = group % 2 * 4;
    for (to, (code, fifth)) in to.iter_mut().zip(codes.iter().zip(fifths)) {
        let code = (code >> shift & 15) | (fifth >> group & 1) << 4;
        *to = scale * f32::from(code) - minimum;
    }
}

/// w = d s (q - 32); the lower four bits of q 0..128, the others 128..192, s of 16 numbers
/// 192..208, d 208..210.
#[inline(always)]
fn q6_k(block: &[u8; 210], group: usize, to: &mut [f32; GROUP]) {
    let d = half(block, 208);
    let (of_half, quarter) = (group / 4, group % 4);
    let lower = part::<GROUP>(block, 64 * of_half + quarter % 2 * GROUP);
    let upper = part::<GROUP>(block, 128 + of_half * GROUP);
    let (shift, shift_of_upper) = (quarter / 2 * 4, 2 * quarter);
    for half in 0..2 {
        let scale = d * f32::from(block[192 + 2 * group + half].cast_signed());
        let range = 16 * half..16 * half + 16;
        let codes = lower[range.clone()].iter().zip(&upper[range.clone()]);
        for (to, (lower, upper)) in to[range].iter_mut().zip(codes) {
            let code = (lower >> shift & 15) | (upper >> shift_of_upper & 3) << 4;
            *to = scale * (f32::from(code) - 32.0);
        }
    }
}

/// w = d k(q); d 0..2, q 2..18.
#[inline(always)]
fn iq4_nl(block: &[u8; 18], to: &mut [f32; GROUP]) {
    let numbers = table::IQ4.map(|number| half(block, 0) * f32::from(number));
    halves(part(block, 2), to, |code, _| numbers[usize::from(code)]);
}

/// w = d (s - 32) k(q); d 0..2, upper bits of s of 32 numbers 2..4, its others 4..8, q 8..136.
#[inline(always)]
fn iq4_xs(block: &[u8; 136], group: usize, to: &mut [f32; GROUP]) {
    let upper = u16::from_le_bytes(*part(block, 2)) >> (2 * group) & 3;
    let scale = (block[4 + group / 2] >> (group % 2 * 4) & 15) | (upper as u8) << 4;
    let scale = half(block, 0) * f32::from(scale.cast_signed() - 32);
    let numbers = table::IQ4.map(|number| scale * f32::from(number));
    halves(part(block, 8 + 16 * group), to, |code, _| {
        numbers[usize::from(code)]
    });
}

/// w = 2^(e - 128) k(q), where k are twice the numbers of E2M1; e 0, q 1..17.
#[inline(always)]
fn mxfp4(block: &[u8; 17], to: &mut [f32; GROUP]) {
    let scale = table::power_of_two(block[0]);
    let numbers = table::E2M1.map(|number| scale * f32::from(number));
    halves(part(block, 1), to, |code, _| numbers[usize::from(code)]);
}
