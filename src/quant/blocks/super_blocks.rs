//! Quantizes blocks of 256 numbers, whose scales are codes too: `Q2_K` to `Q6_K`.

use half::f16;

use super::GROUP;
use super::fit::{Affine, Centered, EPSILON, Search, clamped, nearest};
use super::small::{extreme, put_half};

/// Returns the float16 scale at a place of a block.
fn half(block: &[u8], place: usize) -> f32 {
    f16::from_le_bytes([block[place], block[place + 1]]).to_f32()
}

/// Returns scale and minimum of a group of `Q4_K` and `Q5_K`. Of the first four groups they are the
/// lower six bits of a byte each; those of the others share a byte, and have their upper two bits
/// with them.
#[inline(always)]
pub(super) fn six_bits(scales: &[u8; 12], group: usize) -> [u8; 2] {
    if group < 4 {
        return [scales[group] & 63, scales[group + 4] & 63];
    }
    let lower = scales[group + 4];
    [
        lower & 15 | scales[group - 4] >> 6 << 4,
        lower >> 4 | scales[group] >> 6 << 4,
    ]
}

fn put_six_bits(scales: &mut [u8], group: usize, [scale, minimum]: [u8; 2]) {
    if group < 4 {
        scales[group] = scale;
        scales[group + 4] = minimum;
    } else {
        scales[group + 4] = scale & 15 | (minimum & 15) << 4;
        scales[group - 4] |= scale >> 4 << 6;
        scales[group] |= minimum >> 4 << 6;
    }
}

/// Returns the scale of 16 numbers of `Q3_K`.
#[inline(always)]
pub(super) fn six_bits_of_q3_k(scales: &[u8; 12], place: usize) -> u8 {
    let lower = scales[place % 8] >> (place / 8 * 4) & 15;
    lower | (scales[8 + place % 4] >> (place / 4 * 2) & 3) << 4
}

/// Writes codes of 2 bits: bytes have a number of each quarter of 128 numbers.
fn put_two_bits(codes: &[u8; 256], to: &mut [u8]) {
    for (to, codes) in to.chunks_exact_mut(32).zip(codes.chunks_exact(128)) {
        for (place, to) in to.iter_mut().enumerate() {
            let at = |quarter: usize| (codes[place + 32 * quarter] & 3) << (2 * quarter);
            *to = at(0) | at(1) | at(2) | at(3);
        }
    }
}

/// Writes codes of 4 bits: bytes have a number of each half of 64 numbers.
fn put_four_bits(codes: &[u8; 256], to: &mut [u8]) {
    for (to, codes) in to.chunks_exact_mut(32).zip(codes.chunks_exact(64)) {
        let (low, high) = codes.split_at(32);
        for (to, (low, high)) in to.iter_mut().zip(low.iter().zip(high)) {
            *to = low & 15 | high << 4;
        }
    }
}

/// Writes a bit of each code: bytes have one of each group of 32 numbers.
fn put_bits(codes: &[u8; 256], bit: u32, to: &mut [u8]) {
    for (group, codes) in codes.chunks_exact(GROUP).enumerate() {
        for (to, code) in to.iter_mut().zip(codes) {
            *to |= (code >> bit & 1) << group;
        }
    }
}

/// Finds scale and minimum of each run of numbers, given their weights.
fn affine<const N: usize, const RUNS: usize>(
    numbers: &[f32; 256],
    search: Search,
    weights: impl Fn(&[f32; N]) -> [f32; N],
) -> [Affine<N>; RUNS] {
    let runs = numbers.as_chunks::<N>().0;
    std::array::from_fn(|run| search.find(&runs[run], &weights(&runs[run])))
}

fn largest(numbers: impl Iterator<Item = f32>) -> f32 {
    numbers.fold(
        0.0,
        |largest, number| {
            if number > largest { number } else { largest }
        },
    )
}

/// Writes the codes that are nearest, given scale and minimum as they are stored; codes of a run
/// without scale stay.
fn round_again<const N: usize>(
    numbers: &[f32; N],
    codes: &mut [u8; N],
    [scale, minimum]: [f32; 2],
    most: i32,
) {
    if scale != 0.0 {
        *codes = numbers.map(|x| nearest((x + minimum) / scale).clamp(0, most) as u8);
    }
}

/// Does the same where codes stand for numbers to both sides of 0.
fn round_centered(numbers: &[f32; 16], codes: &mut [u8; 16], scale: f32, half: u8) {
    if scale != 0.0 {
        *codes = numbers.map(|x| (clamped(x / scale, half) + i32::from(half)) as u8);
    }
}

pub(super) fn quantize_q2_k(numbers: &[f32; 256], block: &mut [u8; 84]) {
    let search = Search {
        most: 3,
        from: -0.5,
        steps: 15,
        by_magnitude: true,
    };
    let mut runs: [Affine<16>; 16] = affine(numbers, search, |run| run.map(f32::abs));
    let scale = largest(runs.iter().map(|run| run.scale));
    let minimum = largest(runs.iter().map(|run| run.minimum));
    let code = |of: f32, largest: f32| {
        if largest > 0.0 {
            nearest(15.0 / largest * of) as u8
        } else {
            0
        }
    };
    block.fill(0);
    put_half(block, 80, scale / 15.0);
    put_half(block, 82, minimum / 15.0);
    let [scale_as_stored, minimum_as_stored] = [half(block, 80), half(block, 82)];
    let mut codes = [0; 256];
    let of_runs = codes
        .as_chunks_mut::<16>()
        .0
        .iter_mut()
        .zip(numbers.as_chunks::<16>().0);
    for ((run, (codes, numbers)), of_run) in runs.iter_mut().zip(of_runs).zip(&mut block[..16]) {
        *of_run = code(run.scale, scale) | code(run.minimum, minimum) << 4;
        let scale = scale_as_stored * f32::from(*of_run & 15);
        let minimum = minimum_as_stored * f32::from(*of_run >> 4);
        round_again(numbers, &mut run.codes, [scale, minimum], 3);
        *codes = run.codes;
    }
    put_two_bits(&codes, &mut block[16..80]);
}

pub(super) fn quantize_q3_k(numbers: &[f32; 256], block: &mut [u8; 110]) {
    let of_runs = numbers.as_chunks::<16>().0;
    let mut runs: [Centered; 16] =
        std::array::from_fn(|run| Centered::of_changes(&of_runs[run], 4));
    let scale = extreme(&runs.map(|run| run.scale))[0];
    block.fill(0);
    let mut codes = [0; 256];
    if scale != 0.0 {
        let factor = -32.0 / scale;
        put_half(block, 108, 1.0 / factor);
        for (place, run) in runs.iter().enumerate() {
            // The reference keeps 8 bits of it before it clamps.
            let step = (nearest(factor * run.scale) as i8).clamp(-32, 31);
            let step = (step + 32).cast_unsigned();
            block[96 + place % 8] |= (step & 15) << (place / 8 * 4);
            block[104 + place % 4] |= step >> 4 << (place / 4 * 2);
        }
    }
    let d = half(block, 108);
    let scales: [u8; 12] = std::array::from_fn(|place| block[96 + place]);
    for (place, (run, codes)) in runs
        .iter_mut()
        .zip(codes.as_chunks_mut::<16>().0)
        .enumerate()
    {
        let step = six_bits_of_q3_k(&scales, place).cast_signed() - 32;
        round_centered(&of_runs[place], &mut run.codes, d * f32::from(step), 4);
        *codes = run.codes;
    }
    put_bits(&codes, 2, &mut block[..32]);
    put_two_bits(&codes, &mut block[32..96]);
}

/// Writes the scales of `Q4_K` and `Q5_K`, and returns the codes.
fn quantize_groups(numbers: &[f32; 256], search: Search, block: &mut [u8]) -> [u8; 256] {
    let weights = |group: &[f32; GROUP]| {
        let squares = group.iter().fold(0.0, |sum, x| sum + x * x);
        let mean = (squares / 32.0_f32).sqrt();
        group.map(|x| mean + x.abs())
    };
    let mut groups: [Affine<GROUP>; 8] = affine(numbers, search, weights);
    let scale = largest(groups.iter().map(|group| group.scale));
    let minimum = largest(groups.iter().map(|group| group.minimum));
    let factor = |largest: f32| if largest > 0.0 { 63.0 / largest } else { 0.0 };
    let code = |of: f32, largest: f32| (nearest(factor(largest) * of) as u8).min(63);
    block.fill(0);
    put_half(block, 0, scale / 63.0);
    put_half(block, 2, minimum / 63.0);
    let [scale_as_stored, minimum_as_stored] = [half(block, 0), half(block, 2)];
    let mut codes = [0; 256];
    let of_groups = numbers.as_chunks::<GROUP>().0;
    for (place, (group, codes)) in groups
        .iter_mut()
        .zip(codes.as_chunks_mut::<GROUP>().0)
        .enumerate()
    {
        let of_group = [code(group.scale, scale), code(group.minimum, minimum)];
        put_six_bits(&mut block[4..16], place, of_group);
        let stored = [
            scale_as_stored * f32::from(of_group[0]),
            minimum_as_stored * f32::from(of_group[1]),
        ];
        round_again(
            &of_groups[place],
            &mut group.codes,
            stored,
            i32::from(search.most),
        );
        *codes = group.codes;
    }
    codes
}

pub(super) fn quantize_q4_k(numbers: &[f32; 256], block: &mut [u8; 144]) {
    let search = Search {
        most: 15,
        from: -1.0,
        steps: 20,
        by_magnitude: false,
    };
    let codes = quantize_groups(numbers, search, block);
    put_four_bits(&codes, &mut block[16..]);
}

pub(super) fn quantize_q5_k(numbers: &[f32; 256], block: &mut [u8; 176]) {
    let search = Search {
        most: 31,
        from: -0.5,
        steps: 15,
        by_magnitude: false,
    };
    let codes = quantize_groups(numbers, search, block);
    put_bits(&codes, 4, &mut block[16..48]);
    put_four_bits(&codes, &mut block[48..]);
}

pub(super) fn quantize_q6_k(numbers: &[f32; 256], block: &mut [u8; 210]) {
    let of_runs = numbers.as_chunks::<16>().0;
    let mut runs: [Centered; 16] =
        std::array::from_fn(|run| Centered::of_roundings(&of_runs[run], 32));
    let [scale, magnitude] = extreme(&runs.map(|run| run.scale));
    block.fill(0);
    if magnitude < EPSILON {
        return;
    }
    let factor = -128.0 / scale;
    put_half(block, 208, 1.0 / factor);
    let d = half(block, 208);
    let mut codes = [0; 256];
    for (place, (run, codes)) in runs
        .iter_mut()
        .zip(codes.as_chunks_mut::<16>().0)
        .enumerate()
    {
        let step = nearest(factor * run.scale).min(127) as i8;
        block[192 + place] = step.cast_unsigned();
        round_centered(&of_runs[place], &mut run.codes, d * f32::from(step), 32);
        *codes = run.codes;
    }
    for (half, codes) in codes.chunks_exact(128).enumerate() {
        for place in 0..32 {
            let at = |quarter: usize| codes[place + 32 * quarter];
            block[64 * half + place] = at(0) & 15 | at(2) << 4;
            block[64 * half + 32 + place] = at(1) & 15 | at(3) << 4;
            block[128 + 32 * half + place] =
                at(0) >> 4 | at(1) >> 4 << 2 | at(2) >> 4 << 4 | at(3) >> 4 << 6;
        }
    }
}
