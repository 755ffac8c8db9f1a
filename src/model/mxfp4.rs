//! Stacks of matrices in MXFP4, four bits per number and one power of two for every 32 of them, as
//! `OpenAI`'s open-weight models are stored. They are unpacked when they are loaded.
//!
//! Format: OCP Microscaling Formats (MX) v1.0; order of the parts: `convert_moe_packed_tensors` of
//! <https://github.com/huggingface/transformers>, `integrations/mxfp4.py`.

use rayon::prelude::*;

/// Numbers that share a scale.
const BLOCK: usize = 32;
/// Bytes of a block.
const BLOCK_BYTES: usize = BLOCK / 2;
/// Bias of the exponent: a scale of 0 stands for 2 to the power of -127.
const BIAS: i32 = 127;
/// Numbers by code: E2M1 with the sign in the highest bit.
const CODE: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// Returns the tensors of a stack `name`: codes [count, out, in / 32, 16] and scales [count, out,
/// in / 32].
pub(super) fn parts(name: &str) -> [String; 2] {
    ["blocks", "scales"].map(|part| format!("{name}_{part}"))
}

/// Returns the shapes of the parts of a stack [count, in, out].
pub(super) fn shapes(shape: [usize; 3]) -> [Vec<usize>; 2] {
    let [count, inputs, outputs] = shape;
    let blocks = inputs.div_ceil(BLOCK);
    [
        vec![count, outputs, blocks, BLOCK_BYTES],
        vec![count, outputs, blocks],
    ]
}

/// Reads one matrix [in, out] of a stack.
///
/// # Panics
/// The parts have other shapes.
pub(super) fn read(
    [codes, scales]: [&[u8]; 2],
    index: usize,
    [inputs, outputs]: [usize; 2],
) -> Vec<f32> {
    let blocks = inputs.div_ceil(BLOCK);
    let own = |bytes: usize| index * outputs * bytes..(index + 1) * outputs * bytes;
    let (codes, scales) = (&codes[own(blocks * BLOCK_BYTES)], &scales[own(blocks)]);
    let number = |input: usize, output: usize| {
        let block = output * blocks + input / BLOCK;
        let byte = codes[block * BLOCK_BYTES + input % BLOCK / 2];
        let code = if input.is_multiple_of(2) {
            byte & 0xf
        } else {
            byte >> 4
        };
        CODE[usize::from(code)] * 2_f32.powi(i32::from(scales[block]) - BIAS)
    };
    (0..inputs * outputs)
        .into_par_iter()
        .map(|place| number(place / outputs, place % outputs))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_scales_and_the_order_of_a_stack_are_read() {
        // Two matrices of 64 inputs and 3 outputs: codes count up, and each block has a scale of
        // its own.
        let (inputs, outputs, blocks) = (64, 3, 2);
        let codes: Vec<u8> = (0..2 * outputs * blocks * BLOCK_BYTES)
            .map(|byte| (byte * 7 % 256) as u8)
            .collect();
        let scales: Vec<u8> = (0..2 * outputs * blocks)
            .map(|block| (121 + block) as u8)
            .collect();
        for index in 0..2 {
            let numbers = read([&codes, &scales], index, [inputs, outputs]);
            for output in 0..outputs {
                for input in 0..inputs {
                    let block = (index * outputs + output) * blocks + input / 32;
                    let byte = codes[block * 16 + input % 32 / 2];
                    let code = if input % 2 == 0 { byte % 16 } else { byte / 16 };
                    let (sign, exponent, mantissa) = (code / 8, code / 2 % 4, f64::from(code % 2));
                    let size = match exponent {
                        0 => mantissa / 2.0,
                        _ => (1.0 + mantissa / 2.0) * f64::from(1 << (exponent - 1)),
                    };
                    let expected = if sign == 1 { -size } else { size }
                        * 2_f64.powi(i32::from(scales[block]) - 127);
                    let off = f64::from(numbers[input * outputs + output]) - expected;
                    assert!(off == 0.0, "{index}, {output}, {input}: {off}");
                }
            }
        }
        assert_eq!(shapes([2, 64, 3]), [vec![2, 3, 2, 16], vec![2, 3, 2]]);
    }
}
