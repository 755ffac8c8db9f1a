//! The two 4-bit data types: the number of each code, and the borders between codes.

/// A 4-bit data type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FourBitType {
    /// Quantiles of the normal distribution, Dettmers et al. 2023, arXiv:2305.14314, appendix E.
    Nf4,
    /// A sign, two bits of exponent and one bit of fraction, divided by the largest number, 12.
    Fp4,
}

impl FourBitType {
    /// Returns the name in bitsandbytes, and so in config.json.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }

    /// Returns the numbers of the 16 codes, in [-1, 1].
    pub fn code(self) -> &'static [f32; 16] {
        &self.table().code
    }

    pub(super) fn table(self) -> &'static CodeTable {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }
}

/// Tables for packing and unpacking.
#[derive(Debug)]
pub(super) struct CodeTable {
    /// The number of each code.
    pub code: [f32; 16],
    /// The codes by their numbers, ascending.
    pub order: [u8; 16],
    /// Midpoints between each number and the next, ascending. A number at a midpoint takes the
    /// lower code.
    pub midpoints: [f32; 15],
}

impl CodeTable {
    const fn new(code: [f32; 16], order: [u8; 16]) -> Self {
        let (mut midpoints, mut rank) = ([0.0; 15], 0);
        while rank < 15 {
            midpoints[rank] =
                f32::midpoint(code[order[rank] as usize], code[order[rank + 1] as usize]);
            rank += 1;
        }
        Self {
            code,
            order,
            midpoints,
        }
    }
}

static NF4: CodeTable = CodeTable::new(
    [
        -1.0,
        -0.696_192_8,
        -0.525_073_05,
        -0.394_917_5,
        -0.284_441_38,
        -0.184_773_43,
        -0.091_050_036,
        0.0,
        0.079_580_3,
        0.160_930_2,
        0.246_112_3,
        0.337_915_24,
        0.440_709_83,
        0.562_617,
        0.722_956_84,
        1.0,
    ],
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
);

/// FP4. Both zeros are codes, and 0 lies halfway between them: it takes code 0, and a number a
/// little above it code 8.
static FP4: CodeTable = CodeTable::new(
    [
        0.0,
        0.0625 / 12.0,
        8.0 / 12.0,
        1.0,
        4.0 / 12.0,
        6.0 / 12.0,
        2.0 / 12.0,
        3.0 / 12.0,
        0.0,
        -0.0625 / 12.0,
        -8.0 / 12.0,
        -1.0,
        -4.0 / 12.0,
        -6.0 / 12.0,
        -2.0 / 12.0,
        -3.0 / 12.0,
    ],
    [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3],
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_numbers_and_has_every_code() {
        for table in [&NF4, &FP4] {
            let numbers = table.order.map(|code| table.code[usize::from(code)]);
            assert!(numbers.is_sorted());
            let mut codes = table.order;
            codes.sort_unstable();
            assert!(codes.into_iter().eq(0..16));
        }
    }
}
