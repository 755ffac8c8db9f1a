//! The keyed mask on a GPU, computed where it is used: one draw of SplitMix64 per feature, in
//! halves of 32 bits, because WGSL has no larger integers.

use burn::backend::TensorMetadata;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::dropout::Mask;
use super::{Extent, element, empty, extent, units, upload};

/// Returns (x ^ (x >> shift)) · factor of 64 bits in two halves, the upper one first.
#[cube]
fn stirred(
    high: u32,
    low: u32,
    #[comptime] shift: u32,
    #[comptime] of_high: u32,
    #[comptime] of_low: u32,
) -> (u32, u32) {
    let low = low ^ ((low >> shift) | (high << comptime![32 - shift]));
    let high = high ^ (high >> shift);
    (
        low.mul_hi(of_low) + low * of_high + high * of_low,
        low * of_low,
    )
}

/// Returns the halves of the sum of two 64-bit numbers.
#[cube]
fn sum(high: u32, low: u32, of_high: u32, of_low: u32) -> (u32, u32) {
    let lower = low + of_low;
    let mut carry = 0u32;
    if lower < low {
        carry = 1u32;
    }
    (high + of_high + carry, lower)
}

/// Computes x times `kept` where the draw's upper 53 bits are no less than `threshold`, and 0
/// elsewhere.
#[cube(launch)]
fn masked<F: Float>(
    x: &[F],
    keys: &[u32],
    output: &mut [F],
    kept: f32,
    threshold_high: u32,
    threshold_low: u32,
    extent: &Extent,
    #[define(F)] _element: ElemType,
) {
    let (tokens, features) = (extent.rows as usize, extent.width as usize);
    let (token, feature) = (ABSOLUTE_POS / features, ABSOLUTE_POS % features);
    if token < tokens {
        let (high, low) = sum(keys[2 * token], keys[2 * token + 1], 0u32, feature as u32);
        let (high, low) = sum(high, low, 0x9e37_79b9u32, 0x7f4a_7c15u32);
        let (high, low) = stirred(high, low, 30u32, 0xbf58_476du32, 0x1ce4_e5b9u32);
        let (high, low) = stirred(high, low, 27u32, 0x94d0_49bbu32, 0x1331_11ebu32);
        let low = low ^ ((low >> 31u32) | (high << 1u32));
        let high = high ^ (high >> 31u32);
        // The upper 53 bits.
        let low = (low >> 11u32) | (high << 21u32);
        let high = high >> 11u32;
        let mut factor = 0.0f32;
        if high > threshold_high || (high == threshold_high && low >= threshold_low) {
            factor = kept;
        }
        output[ABSOLUTE_POS] = F::cast_from(f32::cast_from(x[ABSOLUTE_POS]) * factor);
    }
}

/// Drops features of x and scales the rest, as `Mask` says.
pub(in crate::ops) fn dropout(x: CubeTensor, mask: &Mask) -> CubeTensor {
    let x = into_contiguous(x);
    let (shape, output) = (x.shape(), empty(&x, x.shape(), x.dtype));
    let count = shape.num_elements();
    if count > 0 {
        let halves = |number: u64| [(number >> 32) as u32, number as u32];
        let keys: Vec<u32> = mask.keys().flat_map(halves).collect();
        // A draw of 53 bits is less than p · 2^53, or not, as the number in [0, 1) is less than p.
        let [high, low] = halves((mask.probability * (1u64 << 53) as f64).ceil() as u64);
        let (client, element) = (x.client.clone(), element(&x));
        let (cubes, cube) = units(&x, count);
        let args = [x.clone(), upload(&x, &keys), output.clone()].map(CubeTensor::into_buffer_arg);
        let ([x, keys, to], extent) = (args, extent(mask.tokens.len(), count / mask.tokens.len()));
        masked::launch(
            &client,
            cubes,
            cube,
            x,
            keys,
            to,
            mask.kept(),
            high,
            low,
            extent,
            element,
        );
    }
    output
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::super::tests::{device, drawn, tensor};
    use crate::ops::{Mask, dropout};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn it_is_the_mask_of_the_cpu_to_the_bit(
            tokens in prop::collection::vec(any::<u64>(), 1..40),
            (features, site) in (1usize..200, any::<u64>()),
            probability in prop_oneof![Just(0.0), Just(0.5), 0.0..0.99f64],
        ) {
            let Some(device) = device() else {
                return Ok(());
            };
            let (rows, numbers) = (tokens.len(), drawn(3, tokens.len() * features, 2.0));
            let mask = Mask {
                tokens: tokens.into(),
                site,
                probability,
            };
            let [ours, exact] = [&device, &Device::flex()].map(|device| {
                let dropped = dropout(tensor(&numbers, [rows, features], device), &mask);
                dropped.into_data().try_to_vec::<f32>().expect("f32")
            });
            prop_assert_eq!(ours, exact);
        }
    }
}
