//! Unpacks numbers of a packed weight for the panel of a product. They are equal to those of
//! `quant` bit for bit: a number of the table, or a whole number, times the absmax; those of ggml's
//! blocks are unpacked by the same code.
#![allow(
    unsafe_code,
    reason = "sixteen numbers are looked up in a register, an instruction where \
        a loop has sixteen loads"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, __m256, __m512, _mm_cvtsi32_si128, _mm_loadl_epi64, _mm_srli_epi16, _mm_unpacklo_epi8,
    _mm256_blendv_ps, _mm256_castsi256_ps, _mm256_cvtepu8_epi32, _mm256_loadu_ps, _mm256_mul_ps,
    _mm256_permutevar8x32_ps, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps,
    _mm512_cvtepu8_epi32, _mm512_loadu_ps, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_set1_ps,
    _mm512_storeu_ps,
};

use crate::ops::simd::{Arithmetic, Kernel, Level, level, run};
use crate::quant::{Blocks, Int8, Packed, Quantized};

/// Writes the numbers of a weight from `start` on, row after row.
pub(super) fn numbers(weight: &Quantized, start: usize, to: &mut [f32]) {
    match weight {
        Quantized::FourBit(packed) => four_bits(packed, start, to),
        Quantized::Int8(packed) => int8(packed, start, to),
        Quantized::Blocks(packed) => blocks(packed, start, to),
    }
}

/// Writes int8 numbers of a single row: a product asks for no more.
fn int8(packed: &Int8, start: usize, to: &mut [f32]) {
    let absmax = packed.absmax()[start / packed.shape()[1]];
    run(UnpackedRow {
        codes: &packed.codes()[start..][..to.len()],
        absmax,
        to,
    });
}

struct UnpackedRow<'a> {
    codes: &'a [i8],
    absmax: f32,
    to: &'a mut [f32],
}

impl Kernel for UnpackedRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { codes, absmax, to } = self;
        to.iter_mut()
            .zip(codes)
            .for_each(|(to, code)| *to = f32::from(*code) * absmax * Int8::UNIT);
    }
}

fn blocks(packed: &Blocks, start: usize, to: &mut [f32]) {
    run(UnpackedBlocks { packed, start, to });
}

struct UnpackedBlocks<'a> {
    packed: &'a Blocks,
    start: usize,
    to: &'a mut [f32],
}

impl Kernel for UnpackedBlocks<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        self.packed.unpack_inlined(self.start, self.to);
    }
}

fn four_bits(packed: &Packed, start: usize, to: &mut [f32]) {
    // A byte begins with an even number.
    let odd = start % 2;
    if odd == 1 {
        packed.unpack_range(start, &mut to[..1]);
    }
    let (to, mut start, size) = (&mut to[odd..], start + odd, packed.block_size().numbers());
    let mut rest = to;
    while !rest.is_empty() {
        let room = (size - start % size).min(rest.len());
        let (of_block, behind) = rest.split_at_mut(room);
        let done = match level() {
            // SAFETY: the level is the processor's.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { sixteens(packed, start, of_block) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { eights(packed, start, of_block) },
            Level::Portable => 0,
        };
        packed.unpack_range(start + done, &mut of_block[done..]);
        (rest, start) = (behind, start + room);
    }
}

/// Writes numbers of one block in sixteens, from an even place on; returns how many.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw")]
fn sixteens(packed: &Packed, start: usize, to: &mut [f32]) -> usize {
    let (to, _) = to.as_chunks_mut::<16>();
    let (codes, _) = packed.codes()[start / 2..][..to.len() * 8].as_chunks::<8>();
    let absmax = packed.absmax().at(start / packed.block_size().numbers());
    // SAFETY: the table has sixteen numbers, eight bytes have the codes of sixteen, and there is
    // room for them.
    unsafe {
        let table: __m512 = _mm512_mul_ps(
            _mm512_loadu_ps(packed.kind().code().as_ptr()),
            _mm512_set1_ps(absmax),
        );
        for (codes, to) in codes.iter().zip(to.iter_mut()) {
            let codes: __m128i = _mm_loadl_epi64(codes.as_ptr().cast());
            // Of a lane the lowest four bits count.
            let lanes = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(_mm_srli_epi16::<4>(codes), codes));
            _mm512_storeu_ps(to.as_mut_ptr(), _mm512_permutexvar_ps(lanes, table));
        }
    }
    to.len() * 16
}

/// Does the same in eights: it looks up both halves of the table, and the fourth bit chooses.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn eights(packed: &Packed, start: usize, to: &mut [f32]) -> usize {
    let (to, _) = to.as_chunks_mut::<8>();
    let (codes, _) = packed.codes()[start / 2..][..to.len() * 4].as_chunks::<4>();
    let absmax = packed.absmax().at(start / packed.block_size().numbers());
    // SAFETY: the table has sixteen numbers, and there is room for the eight of four bytes.
    unsafe {
        let half = |from: usize| {
            _mm256_mul_ps(
                _mm256_loadu_ps(packed.kind().code()[from..].as_ptr()),
                _mm256_set1_ps(absmax),
            )
        };
        let (low, high): (__m256, __m256) = (half(0), half(8));
        for (codes, to) in codes.iter().zip(to.iter_mut()) {
            let codes = _mm_cvtsi32_si128(i32::from_le_bytes(*codes));
            let lanes = _mm256_cvtepu8_epi32(_mm_unpacklo_epi8(_mm_srli_epi16::<4>(codes), codes));
            let of_half = |half| _mm256_permutevar8x32_ps(half, lanes);
            let is_high = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(lanes));
            _mm256_storeu_ps(
                to.as_mut_ptr(),
                _mm256_blendv_ps(of_half(low), of_half(high), is_high),
            );
        }
    }
    to.len() * 8
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;

    use super::*;
    use crate::keyed_random::{mix, unit};
    use crate::ops::simd::at_every_level;
    use crate::quant::{BlockFormat, BlockSize, FourBitType, QuantFormat};

    fn is_run_of(
        weight: &Quantized,
        whole: &[f32],
        run: Range<usize>,
    ) -> Result<(), TestCaseError> {
        let bits = |numbers: &[f32]| {
            let bits = numbers.iter().map(|number| number.to_bits());
            bits.collect::<Vec<_>>()
        };
        for found in at_every_level(|| {
            let mut found = vec![7.0; run.len()];
            numbers(weight, run.start, &mut found);
            found
        }) {
            prop_assert_eq!(bits(&found), bits(&whole[run.clone()]));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn runs_of_blocks_are_those_of_the_whole_weight_at_every_level(
            rows in 1_usize..5,
            blocks in 1_usize..3,
            format in prop::sample::select(BlockFormat::ALL.to_vec()),
            seed: u64,
        ) {
            let columns = blocks * format.numbers();
            let drawn = |index: usize| unit(mix(seed ^ mix(index as u64))) as f32 - 0.5;
            let numbers_of: Vec<f32> = (0..rows * columns).map(drawn).collect();
            let weight = QuantFormat::Blocks(format).pack([rows, columns], &numbers_of);
            let weight = weight.expect("finite");
            let whole = weight.unpack();
            for row in 0..rows {
                let first = mix(seed ^ row as u64) as usize % columns;
                let count = 1 + mix(seed + row as u64) as usize % (columns - first);
                let start = row * columns + first;
                is_run_of(&weight, &whole, start..start + count)?;
            }
        }

        #[test]
        fn runs_are_those_of_the_whole_weight_at_every_level(
            shape in [1_usize..9, 1_usize..200],
            form in prop::sample::select(vec![0, 1, 2, 3]),
            seed: u64,
        ) {
            let four_bit = |kind, double_quant| QuantFormat::FourBit {
                kind,
                block_size: BlockSize::new(32).expect("a size"),
                double_quant,
            };
            let form = [
                QuantFormat::QLORA,
                four_bit(FourBitType::Fp4, false),
                four_bit(FourBitType::Nf4, false),
                QuantFormat::Int8,
            ][form];
            let drawn = |index: usize| unit(mix(seed ^ mix(index as u64))) as f32 - 0.5;
            let numbers_of: Vec<f32> = (0..shape[0] * shape[1]).map(drawn).collect();
            let weight = form.pack(shape, &numbers_of).expect("finite");
            let whole = weight.unpack();
            for row in 0..shape[0] {
                let first = mix(seed ^ row as u64) as usize % shape[1];
                let (start, count) = (row * shape[1] + first, shape[1] - first);
                is_run_of(&weight, &whole, start..start + count)?;
            }
        }
    }
}
