//! Packs a block of the right matrix of a product in the order in which the kernel reads it: panels
//! of a few vectors' columns, row by row. Numbers that are stored in 16 bits become f32 here, a
//! block at a time, so that no f32 copy of a weight exists.
#![allow(
    unsafe_code,
    reason = "a square of 16 x 16 numbers is turned in registers, which takes a third of the time \
        of the safe twin"
)]
#![allow(
    clippy::inline_always,
    reason = "only what is inlined into a function with target features is compiled for them"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512, _mm256_loadu_si256, _mm512_castpd_ps, _mm512_castps_pd, _mm512_castsi512_ps,
    _mm512_cvtepu16_epi32, _mm512_loadu_ps, _mm512_shuffle_f32x4, _mm512_slli_epi32,
    _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};

use half::bf16;

use crate::ops::simd::{Arithmetic, Kernel, Level, level, run};

/// Rows and columns of a square that is transposed at a time.
const SQUARE: usize = 16;

/// A number in the stored type of a weight.
pub(super) trait StoredNumber: Copy + Sync {
    /// Returns its value.
    fn value(self) -> f32;

    /// Loads the values of 16 numbers.
    ///
    /// # Safety
    /// They must be readable.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load(from: *const Self) -> __m512;
}

impl StoredNumber for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(from: *const Self) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
}

impl StoredNumber for bf16 {
    #[inline(always)]
    fn value(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(from: *const Self) -> __m512 {
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(
                _mm256_loadu_si256(from.cast()),
            )))
        }
    }
}

/// Packs `depth` rows of some columns: row k of the panel is `columns` numbers from `from[k · row]`
/// on, and zeros up to `to.len() / depth`.
pub(super) fn straight<T: StoredNumber>(
    from: &[T],
    row: usize,
    columns: usize,
    depth: usize,
    to: &mut [f32],
) {
    run(Straight {
        from,
        row,
        columns,
        depth,
        to,
    });
}

struct Straight<'a, T> {
    from: &'a [T],
    row: usize,
    columns: usize,
    depth: usize,
    to: &'a mut [f32],
}

impl<T: StoredNumber> Kernel for Straight<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self {
            from,
            row,
            columns,
            depth,
            to,
        } = self;
        for (k, to) in to.chunks_exact_mut(to.len() / depth).enumerate() {
            let (to, rest) = to.split_at_mut(columns);
            to.iter_mut()
                .zip(&from[k * row..][..columns])
                .for_each(|(to, from)| *to = from.value());
            rest.fill(0.0);
        }
    }
}

/// Packs a matrix that lies turned: column n of the panel is `depth` numbers from `from[n · row]`
/// on.
pub(super) fn turned<T: StoredNumber>(
    from: &[T],
    row: usize,
    columns: usize,
    depth: usize,
    to: &mut [f32],
) {
    let width = to.len() / depth;
    if columns < width {
        to.chunks_exact_mut(width)
            .for_each(|to| to[columns..].fill(0.0));
    }
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        let (squares, slices) = (columns / SQUARE * SQUARE, depth / SQUARE * SQUARE);
        for n in (0..squares).step_by(SQUARE) {
            for k in (0..slices).step_by(SQUARE) {
                let (from, to) = (
                    &from[n * row + k..][..(SQUARE - 1) * row + SQUARE],
                    &mut to[k * width + n..][..(SQUARE - 1) * width + SQUARE],
                );
                // SAFETY: both hold 16 rows of 16 numbers, and the level is the processor's.
                unsafe { square(from.as_ptr(), row, to.as_mut_ptr(), width) };
            }
        }
        run(Turned {
            from,
            row,
            columns: 0..squares,
            depth: slices..depth,
            width,
            to,
        });
        run(Turned {
            from,
            row,
            columns: squares..columns,
            depth: 0..depth,
            width,
            to,
        });
        return;
    }
    run(Turned {
        from,
        row,
        columns: 0..columns,
        depth: 0..depth,
        width,
        to,
    });
}

/// The portable version, also for what does not fill a square.
struct Turned<'a, T> {
    from: &'a [T],
    row: usize,
    columns: std::ops::Range<usize>,
    depth: std::ops::Range<usize>,
    width: usize,
    to: &'a mut [f32],
}

impl<T: StoredNumber> Kernel for Turned<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self {
            from,
            row,
            columns,
            depth,
            width,
            to,
        } = self;
        for start in depth.clone().step_by(SQUARE) {
            let depth = start..depth.end.min(start + SQUARE);
            for n in columns.clone() {
                let numbers = &from[n * row..][depth.clone()];
                numbers
                    .iter()
                    .zip(depth.clone())
                    .for_each(|(number, k)| to[k * width + n] = number.value());
            }
        }
    }
}

/// Transposes 16 rows of 16 numbers: pairs, fours, eights and halves change places.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn square<T: StoredNumber>(from: *const T, row: usize, to: *mut f32, width: usize) {
    let wide = |vector| _mm512_castps_pd(vector);
    let narrow = |vector| _mm512_castpd_ps(vector);
    let rows: [__m512; SQUARE] = std::array::from_fn(|n| unsafe { T::load(from.add(n * row)) });
    let pairs: [__m512; SQUARE] = std::array::from_fn(|n| match n % 2 {
        0 => _mm512_unpacklo_ps(rows[n], rows[n + 1]),
        _ => _mm512_unpackhi_ps(rows[n - 1], rows[n]),
    });
    let fours: [__m512; SQUARE] = std::array::from_fn(|n| {
        let (first, half) = (n / 4 * 4, n % 4 / 2);
        let (one, other) = (wide(pairs[first + half]), wide(pairs[first + half + 2]));
        narrow(if n % 2 == 0 {
            _mm512_unpacklo_pd(one, other)
        } else {
            _mm512_unpackhi_pd(one, other)
        })
    });
    let eights: [__m512; SQUARE] = std::array::from_fn(|n| {
        let (one, other) = (fours[n / 8 * 8 + n % 4], fours[n / 8 * 8 + n % 4 + 4]);
        if n % 8 < 4 {
            _mm512_shuffle_f32x4::<0x88>(one, other)
        } else {
            _mm512_shuffle_f32x4::<0xdd>(one, other)
        }
    });
    for n in 0..SQUARE {
        let (one, other) = (eights[n % 8], eights[n % 8 + 8]);
        let column = if n < 8 {
            _mm512_shuffle_f32x4::<0x88>(one, other)
        } else {
            _mm512_shuffle_f32x4::<0xdd>(one, other)
        };
        unsafe { _mm512_storeu_ps(to.add(n * width), column) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::simd::at_every_level;

    #[test]
    fn a_block_is_packed_alike_straight_and_turned_at_every_level() {
        for (columns, depth) in [(1_usize, 1_usize), (16, 16), (17, 33), (48, 50), (5, 100)] {
            let (width, row) = (columns.next_multiple_of(16), 128);
            let number = |k: usize, n: usize| bf16::from_f32((k * 101 + n) as f32 * 0.5);
            let straight_from: Vec<bf16> = (0..depth * row)
                .map(|index| number(index / row, index % row))
                .collect();
            let turned_from: Vec<bf16> = (0..columns * row)
                .map(|index| number(index % row, index / row))
                .collect();
            let expected: Vec<f32> = (0..depth * width)
                .map(|index| {
                    if index % width < columns {
                        number(index / width, index % width).to_f32()
                    } else {
                        0.0
                    }
                })
                .collect();
            for packed in at_every_level(|| {
                let mut packed = [vec![7.0; depth * width], vec![7.0; depth * width]];
                straight(&straight_from, row, columns, depth, &mut packed[0]);
                turned(&turned_from, row, columns, depth, &mut packed[1]);
                packed
            }) {
                assert_eq!(
                    packed,
                    [expected.clone(), expected.clone()],
                    "{columns} columns, {depth} rows"
                );
            }
        }
    }
}
