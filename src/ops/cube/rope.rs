//! The rotation on a GPU, in place: each unit rotates a vector of pairs.

use burn::backend::TensorMetadata;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::rope::Rotation;
use super::{element, owned, units, upload, vector_size};

/// The true sizes of the rotated tensor.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Lengths {
    /// Number of tokens in all rows.
    tokens: u32,
    /// Number of tokens with a position each; the next row repeats the positions.
    positions: u32,
    heads: u32,
    /// Number of vectors in half a head.
    half: u32,
}

#[cube(launch)]
fn turn<F: Float, T: Float, N: Size>(
    x: &mut [Vector<F, N>],
    cosines: &[Vector<T, N>],
    sines: &[Vector<T, N>],
    positions: &[u32],
    sign: f32,
    lengths: &Lengths,
    #[define(F, T)] _elements: [ElemType; 2],
) {
    let half = lengths.half as usize;
    let pair = ABSOLUTE_POS % half;
    let head = ABSOLUTE_POS / half;
    let token = head / lengths.heads as usize;
    if token < lengths.tokens as usize {
        let row = positions[token % lengths.positions as usize] as usize * half;
        let cosine = Vector::<f32, N>::cast_from(cosines[row + pair]);
        let sine = Vector::<f32, N>::cast_from(sines[row + pair]) * Vector::<f32, N>::new(sign);
        let place = head * 2 * half + pair;
        let left = Vector::<f32, N>::cast_from(x[place]);
        let right = Vector::<f32, N>::cast_from(x[place + half]);
        x[place] = Vector::cast_from(left * cosine - right * sine);
        x[place + half] = Vector::cast_from(right * cosine + left * sine);
    }
}

/// Rotates every pair by the angle of its token's position, in place where no other handle holds
/// `x`.
pub(in crate::ops) fn rope(
    x: CubeTensor,
    tables: [CubeTensor; 2],
    positions: &[u32],
    rotation: Rotation,
) -> CubeTensor {
    let (x, [cosines, sines]) = (owned(x), tables.map(into_contiguous));
    let (shape, half) = (x.shape(), cosines.shape()[1]);
    if shape.num_elements() > 0 {
        let sign = match rotation {
            Rotation::Forward => 1.0,
            Rotation::Back => -1.0,
        };
        let size = vector_size(&[half]);
        let (client, elements) = (x.client.clone(), [element(&x), element(&cosines)]);
        let (cubes, cube) = units(&x, shape.num_elements() / 2 / size);
        let args =
            [x.clone(), cosines, sines, upload(&x, positions)].map(CubeTensor::into_buffer_arg);
        let [in_place, cosines, sines, of_positions] = args;
        let lengths = [shape[0] * shape[1], positions.len(), shape[2], half / size]
            .map(|length| length as u32);
        let [tokens, with_position, heads, half] = lengths;
        let lengths = LengthsLaunch::new(tokens, with_position, heads, half);
        turn::launch(
            &client,
            cubes,
            cube,
            size,
            in_place,
            cosines,
            sines,
            of_positions,
            sign,
            lengths,
            elements,
        );
    }
    x
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::super::tests::{device, drawn, tensor, worst};
    use crate::ops::{backward_from, rope};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn it_is_what_the_cpu_computes(
            (batch, sequence, heads, half) in (1usize..4, 1usize..40, 1usize..5, 1usize..40),
            seed in 0u64..1000,
            of_all_rows in any::<bool>(),
        ) {
            let Some(device) = device() else {
                return Ok(());
            };
            let shape = [batch, sequence, heads, 2 * half];
            let numbers = [1, 3].map(|part| drawn(seed + 1000 * part, shape.iter().product(), 2.0));
            let tables = [4, 5].map(|part| drawn(seed + 1000 * part, 50 * half, 1.0));
            let tokens = if of_all_rows {
                sequence
            } else {
                batch * sequence
            };
            let positions: Arc<[u32]> = (0..tokens as u32).map(|token| token * 7 % 50).collect();
            let of = |device: &Device| {
                let [x, gradient] = numbers
                    .each_ref()
                    .map(|numbers| tensor(numbers, shape, device));
                let [cosines, sines] = tables
                    .each_ref()
                    .map(|table| tensor(table, [50, half], device));
                let held = x.clone();
                let leaf = x.autodiff().require_grad();
                let turned = rope(leaf.clone(), cosines, sines, positions.clone());
                let gradients = backward_from(turned.clone(), gradient);
                [
                    turned.inner(),
                    leaf.grad(&gradients).expect("tracked"),
                    held,
                ]
            };
            for (ours, exact) in of(&device).into_iter().zip(of(&Device::flex())) {
                prop_assert!(worst(ours, exact) < 1e-6);
            }
        }
    }
}
