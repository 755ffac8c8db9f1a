//! The dynamic 8-bit code. Double quantization packs the absmax of blocks with it, and 8-bit
//! optimizers their states. The first bits of a magnitude tell its power of ten, the others its
//! place between a tenth of that power and the power itself.
//!
//! Dettmers 2016, arXiv:1511.04561; for optimizers Dettmers et al. 2021, arXiv:2110.02861.

use std::iter;

/// Numbers per block.
pub const BLOCK: usize = 256;

/// The numbers of the 256 codes, ascending. 1 is among them, -1 is not.
pub static DYNAMIC_CODE: [f32; 256] = code();
static MIDPOINTS: [f32; 255] = midpoints(&DYNAMIC_CODE);
/// The numbers of the unsigned codes, which have one bit more for the place.
static UNSIGNED_CODE: [f32; 256] = unsigned_code();
static UNSIGNED_MIDPOINTS: [f32; 255] = midpoints(&UNSIGNED_CODE);

/// Steps from -1 to 1 in the table by which bitsandbytes finds codes.
const STEPS: f32 = 65535.0;

/// The numbers that the 256 codes of an optimizer's state stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DynamicMap {
    /// Signed numbers, for a mean of gradients.
    Signed,
    /// Numbers from 0 on, for a mean of squares.
    Unsigned,
}

impl DynamicMap {
    /// Returns the numbers of the codes as fractions of their block's absmax, ascending.
    pub fn numbers(self) -> &'static [f32; 256] {
        match self {
            Self::Signed => &DYNAMIC_CODE,
            Self::Unsigned => &UNSIGNED_CODE,
        }
    }

    /// Returns the midpoint between each number and the next.
    pub fn midpoints(self) -> &'static [f32; 255] {
        match self {
            Self::Signed => &MIDPOINTS,
            Self::Unsigned => &UNSIGNED_MIDPOINTS,
        }
    }

    /// Returns the code of 0.
    pub fn zero(self) -> u8 {
        match self {
            Self::Signed => 127,
            Self::Unsigned => 0,
        }
    }

    /// Writes the nearest codes of a block and returns its absmax. A tie takes the lower number; a
    /// block of zeros has the code of 0.
    pub fn pack(self, numbers: &[f32], codes: &mut [u8]) -> f32 {
        let (absmax, midpoints) = (super::absmax_of(numbers), self.midpoints());
        let divisor = if absmax == 0.0 { 1.0 } else { absmax };
        for (code, number) in codes.iter_mut().zip(numbers) {
            let share = number / divisor;
            *code = midpoints.partition_point(|midpoint| *midpoint < share) as u8;
        }
        absmax
    }

    /// Writes the numbers of a block.
    pub fn unpack(self, codes: &[u8], absmax: f32, numbers: &mut [f32]) {
        let shares = self.numbers();
        numbers
            .iter_mut()
            .zip(codes)
            .for_each(|(number, code)| *number = shares[usize::from(*code)] * absmax);
    }
}

const POWERS: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

const fn code() -> [f32; 256] {
    let (mut code, mut above, mut power) = ([0.0; 256], 128, 0);
    while power < 7 {
        let (mut item, items) = (0, 1 << power);
        while item < items {
            let magnitude = POWERS[power as usize]
                * f32::midpoint(boundary(item, items), boundary(item + 1, items));
            (code[above], code[254 - above]) = (magnitude, -magnitude);
            (above, item) = (above + 1, item + 1);
        }
        power += 1;
    }
    code[255] = 1.0;
    code
}

const fn unsigned_code() -> [f32; 256] {
    let (mut code, mut place, mut power) = ([0.0; 256], 1, 0);
    while power < 7 {
        let (mut item, items) = (0, 2 << power);
        while item < items {
            code[place] = POWERS[power as usize]
                * f32::midpoint(boundary(item, items), boundary(item + 1, items));
            (place, item) = (place + 1, item + 1);
        }
        power += 1;
    }
    code[255] = 1.0;
    code
}

/// Returns `torch.linspace(0.1, 1, items + 1)[index]`: computed from the nearer end, with one
/// rounding.
const fn boundary(index: u32, items: u32) -> f32 {
    let step = ((1.0 - 0.1_f32) / items as f32) as f64;
    if index < items.div_ceil(2) {
        (0.1_f32 as f64 + step * index as f64) as f32
    } else {
        (1.0 - step * (items - index) as f64) as f32
    }
}

const fn midpoints(code: &[f32; 256]) -> [f32; 255] {
    let (mut midpoints, mut index) = ([0.0; 255], 0);
    while index < 255 {
        midpoints[index] = f32::midpoint(code[index], code[index + 1]);
        index += 1;
    }
    midpoints
}

/// Returns codes, and the absmax of each [`BLOCK`].
pub(super) fn pack(numbers: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let absmax: Vec<f32> = numbers.chunks(BLOCK).map(super::absmax_of).collect();
    let blocks = numbers.chunks(BLOCK).zip(&absmax);
    let codes = blocks
        .flat_map(|(block, absmax)| block.iter().map(|number| nearest(*number, *absmax)))
        .collect();
    (codes, absmax)
}

/// Returns the code of a number: not the nearest one, but the nearest to the closest of 65536 equal
/// steps of [-1, 1]. A block of zeros has the code of the lowest number, and an absmax of 0.
fn nearest(number: f32, absmax: f32) -> u8 {
    if absmax == 0.0 {
        return 0;
    }
    let scaled = (number * (1.0 / absmax)).clamp(-1.0, 1.0);
    let step = ((scaled + 1.0) * 0.5 * STEPS + 0.5).trunc();
    let at = -1.0 + (2.0 * step) / STEPS;
    MIDPOINTS.partition_point(|midpoint| *midpoint < at) as u8
}

/// Returns numbers from codes and the absmax of each [`BLOCK`].
pub(super) fn unpack(codes: &[u8], absmax: &[f32]) -> Vec<f32> {
    let scales = absmax
        .iter()
        .flat_map(|absmax| iter::repeat_n(absmax, BLOCK));
    codes
        .iter()
        .zip(scales)
        .map(|(code, scale)| DYNAMIC_CODE[usize::from(*code)] * scale)
        .collect()
}
