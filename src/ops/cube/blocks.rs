//! Unpacks ggml's blocks, with one unit per vector of numbers. A product of scales and code is
//! exact, so that a number has the same bits as on the CPU, whether or not a driver fuses it with
//! the sum.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::quant::BlockFormat;

/// The range of numbers to unpack.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Numbers {
    /// Place of the first number.
    first: u32,
    /// Number of vectors of numbers.
    count: u32,
}

#[cube(launch)]
pub(super) fn unpack_blocks<F: Float, N: Size>(
    blocks: &[u32],
    output: &mut [Vector<F, N>],
    which: &Numbers,
    #[comptime] format: BlockFormat,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS < which.count as usize {
        let mut numbers = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for index in 0..N::value() {
            let place = which.first as usize + ABSOLUTE_POS * N::value() + index;
            let in_block = comptime!(format.numbers());
            let block = place / in_block * comptime!(format.bytes());
            numbers.insert(index, number(blocks, block, place % in_block, format));
        }
        output[ABSOLUTE_POS] = Vector::cast_from(numbers);
    }
}

#[cube]
fn byte(blocks: &[u32], place: usize) -> u32 {
    (blocks[place / 4] >> (place % 4 * 8) as u32) & 255u32
}

#[cube]
fn signed(byte: u32) -> f32 {
    f32::cast_from(i32::cast_from(byte << 24u32) >> 24i32)
}

/// Returns a float16. Devices may take subnormal numbers for zeros, so those are made of their
/// fraction.
#[cube]
fn half(blocks: &[u32], place: usize) -> f32 {
    let bits = byte(blocks, place) | (byte(blocks, place + 1) << 8u32);
    let exponent = (bits >> 10u32) & 31u32;
    let fraction = bits & 1023u32;
    let wide = select(exponent == 31u32, 255u32, exponent + 112u32);
    let normal = f32::reinterpret((wide << 23u32) | (fraction << 13u32));
    let small = f32::cast_from(fraction) * 5.960_464_5e-8f32;
    let magnitude = select(exponent == 0u32, small, normal);
    select(bits >= 0x8000u32, -magnitude, magnitude)
}

/// Returns a code of 4 bits of 32: those of the first half are in the lower bits of their bytes.
#[cube]
fn of_halves(blocks: &[u32], codes: usize, place: usize) -> u32 {
    (byte(blocks, codes + place % 16) >> (place / 16 * 4) as u32) & 15u32
}

/// Returns the fifth bit of a code of 32, as 16.
#[cube]
fn fifth(blocks: &[u32], bits: usize, place: usize) -> u32 {
    ((byte(blocks, bits + place / 8) >> (place % 8) as u32) & 1u32) << 4u32
}

/// Returns bits of 32 bytes, which `group` chooses.
#[cube]
fn bits(blocks: &[u32], codes: usize, place: usize, shift: usize, mask: u32) -> u32 {
    (byte(blocks, codes + place % 32) >> shift as u32) & mask
}

/// Returns the number at a place of the block whose bytes begin at `block`; see `quant` for the
/// parts of blocks.
#[cube]
fn number(blocks: &[u32], block: usize, place: usize, #[comptime] format: BlockFormat) -> f32 {
    let mut number = 0.0f32;
    let group = place / 32;
    if comptime!(format == BlockFormat::Q8_0) {
        number = signed(byte(blocks, block + 2 + place)) * half(blocks, block);
    }
    if comptime!(format == BlockFormat::Q4_0) {
        let code = of_halves(blocks, block + 2, place);
        number = half(blocks, block) * (f32::cast_from(code) - 8.0f32);
    }
    if comptime!(format == BlockFormat::Q4_1) {
        let code = of_halves(blocks, block + 4, place);
        number = half(blocks, block) * f32::cast_from(code) + half(blocks, block + 2);
    }
    if comptime!(format == BlockFormat::Q5_0) {
        let code = of_halves(blocks, block + 6, place) | fifth(blocks, block + 2, place);
        number = half(blocks, block) * (f32::cast_from(code) - 16.0f32);
    }
    if comptime!(format == BlockFormat::Q5_1) {
        let code = of_halves(blocks, block + 8, place) | fifth(blocks, block + 4, place);
        number = half(blocks, block) * f32::cast_from(code) + half(blocks, block + 2);
    }
    if comptime!(format == BlockFormat::Q2K) {
        let code = bits(
            blocks,
            block + 16 + group / 4 * 32,
            place,
            group % 4 * 2,
            3u32,
        );
        let scales = byte(blocks, block + place / 16);
        let scale = half(blocks, block + 80) * f32::cast_from(scales & 15u32);
        let minimum = half(blocks, block + 82) * f32::cast_from(scales >> 4u32);
        number = scale * f32::cast_from(code) - minimum;
    }
    if comptime!(format == BlockFormat::Q3K) {
        let lower = bits(
            blocks,
            block + 32 + group / 4 * 32,
            place,
            group % 4 * 2,
            3u32,
        );
        let code = lower | (bits(blocks, block, place, group, 1u32) << 2u32);
        let run = place / 16;
        let lower = (byte(blocks, block + 96 + run % 8) >> (run / 8 * 4) as u32) & 15u32;
        let upper = (byte(blocks, block + 104 + run % 4) >> (run / 4 * 2) as u32) & 3u32;
        let scale = f32::cast_from(lower | (upper << 4u32)) - 32.0f32;
        number = half(blocks, block + 108) * scale * (f32::cast_from(code) - 4.0f32);
    }
    if comptime!(format == BlockFormat::Q4K) {
        let code = bits(
            blocks,
            block + 16 + group / 2 * 32,
            place,
            group % 2 * 4,
            15u32,
        );
        number = affine(blocks, block, group, code);
    }
    if comptime!(format == BlockFormat::Q5K) {
        let lower = bits(
            blocks,
            block + 48 + group / 2 * 32,
            place,
            group % 2 * 4,
            15u32,
        );
        let code = lower | (bits(blocks, block + 16, place, group, 1u32) << 4u32);
        number = affine(blocks, block, group, code);
    }
    if comptime!(format == BlockFormat::Q6K) {
        let codes = block + group / 4 * 64 + group % 2 * 32;
        let lower = bits(blocks, codes, place, group % 4 / 2 * 4, 15u32);
        let upper = bits(
            blocks,
            block + 128 + group / 4 * 32,
            place,
            group % 4 * 2,
            3u32,
        );
        let scale = half(blocks, block + 208) * signed(byte(blocks, block + 192 + place / 16));
        number = scale * (f32::cast_from(lower | (upper << 4u32)) - 32.0f32);
    }
    if comptime!(format.table().is_some()) {
        let code = table_code(blocks, block, place, format);
        number = table_scale(blocks, block, place, format) * of_table(code, format);
    }
    number
}

/// Returns the number of a code that is a place in the format's table.
#[cube]
fn of_table(code: u32, #[comptime] format: BlockFormat) -> f32 {
    let word = select(
        code < 8u32,
        select(
            code < 4u32,
            table_word(0usize, format),
            table_word(1usize, format),
        ),
        select(
            code < 12u32,
            table_word(2usize, format),
            table_word(3usize, format),
        ),
    );
    signed((word >> (code % 4u32 * 8u32)) & 255u32)
}

/// Returns four numbers of the format's table.
#[cube]
fn table_word(#[comptime] index: usize, #[comptime] format: BlockFormat) -> u32 {
    let word = comptime!((format.table().unwrap_or(0) >> (32 * index)) as u32);
    word.runtime()
}

/// Returns a number of `Q4_K` or `Q5_K`, given its code.
#[cube]
fn affine(blocks: &[u32], block: usize, group: usize, code: u32) -> f32 {
    let of_scale = byte(blocks, block + 4 + group % 4);
    let of_minimum = byte(blocks, block + 8 + group % 4);
    let of_both = byte(blocks, block + 12 + group % 4);
    let is_first = group < 4;
    let scale = select(
        is_first,
        of_scale & 63u32,
        (of_both & 15u32) | ((of_scale >> 6u32) << 4u32),
    );
    let minimum = select(
        is_first,
        of_minimum & 63u32,
        (of_both >> 4u32) | ((of_minimum >> 6u32) << 4u32),
    );
    let scale = half(blocks, block) * f32::cast_from(scale);
    let minimum = half(blocks, block + 2) * f32::cast_from(minimum);
    scale * f32::cast_from(code) - minimum
}

/// Returns the place in the table of a number.
#[cube]
fn table_code(blocks: &[u32], block: usize, place: usize, #[comptime] format: BlockFormat) -> u32 {
    let mut codes = block + 2;
    if comptime!(format == BlockFormat::Iq4Xs) {
        codes = block + 8 + place / 32 * 16;
    }
    if comptime!(format == BlockFormat::Mxfp4) {
        codes = block + 1;
    }
    of_halves(blocks, codes, place % 32)
}

/// Returns the scale of a number, by which that of the table is multiplied.
#[cube]
fn table_scale(blocks: &[u32], block: usize, place: usize, #[comptime] format: BlockFormat) -> f32 {
    let mut scale = 0.0f32;
    if comptime!(format == BlockFormat::Iq4Nl) {
        scale = half(blocks, block);
    }
    if comptime!(format == BlockFormat::Iq4Xs) {
        let group = place / 32;
        let lower = (byte(blocks, block + 4 + group / 2) >> (group % 2 * 4) as u32) & 15u32;
        let upper = (byte(blocks, block + 2 + group / 4) >> (group % 4 * 2) as u32) & 3u32;
        let of_group = f32::cast_from(lower | (upper << 4u32)) - 32.0f32;
        scale = half(blocks, block) * of_group;
    }
    if comptime!(format == BlockFormat::Mxfp4) {
        let exponent = byte(blocks, block);
        let bits = select(
            exponent < 2u32,
            0x0020_0000u32 << exponent,
            (exponent - 1u32) << 23u32,
        );
        scale = f32::reinterpret(bits);
    }
    scale
}
