//! The update of AdamW on a GPU, in place: one launch per weight checks that all results are
//! finite, another one writes them.

use burn::backend::Cube;
use burn::tensor::{DType, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::adamw::{AdamWRule, AdamWState, Constants, Segment};
use super::super::flat::PIECE;
use super::{cubes, empty, owned, total, units};

/// Units of the cube for a piece.
const UNITS: u32 = 256;

/// The rates of an update, see [`Constants`].
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Rates {
    scale: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    root2: f32,
    epsilon: f32,
    step: f32,
    keep: f32,
}

/// The range of a weight's numbers in the flat rows.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Place {
    start: u32,
    count: u32,
}

fn place(segment: &Segment) -> PlaceLaunch {
    PlaceLaunch::new(segment.place.start as u32, segment.place.len() as u32)
}

/// Returns w, m and v after the update.
#[cube]
fn updated(rates: &Rates, weight: f32, gradient: f32, first: f32, second: f32) -> (f32, f32, f32) {
    let gradient = gradient * rates.scale;
    let first = first * rates.beta1 + gradient * rates.rest1;
    let second = second * rates.beta2 + gradient * gradient * rates.rest2;
    let denominator = second.sqrt() / rates.root2 + rates.epsilon;
    (
        weight * rates.keep - first * rates.step / denominator,
        first,
        second,
    )
}

/// Returns 1 where a number is infinite or NaN. It tests the bits, because compilers may assume
/// that there are no such numbers.
#[cube]
fn open(number: f32) -> f32 {
    let mut open = 0.0f32;
    if (u32::reinterpret(number) & 0x7f80_0000u32) == 0x7f80_0000u32 {
        open = 1.0f32;
    }
    open
}

/// Counts, for every piece of a weight, the numbers that would not be finite.
#[cube(launch)]
fn count_open(
    weight: &[f32],
    gradients: &[f32],
    first: &[f32],
    second: &[f32],
    counts: &mut [f32],
    rates: &Rates,
    place: &Place,
    before: u32,
    #[comptime] size: usize,
    #[comptime] units: usize,
) {
    let (piece, numbers) = (CUBE_POS, place.count as usize);
    if piece * size >= numbers {
        terminate!();
    }
    let mut sums = Shared::<[f32]>::new_slice(units);
    let end = min(piece * size + size, numbers);
    let mut count = 0.0f32;
    let mut at = piece * size + UNIT_POS as usize;
    while at < end {
        let flat = place.start as usize + at;
        let (weight, first, second) = updated(
            rates,
            weight[at],
            gradients[flat],
            first[flat],
            second[flat],
        );
        count += open(weight) + open(first) + open(second);
        at += units;
    }
    let count = total(count, &mut sums);
    if UNIT_POS == 0 {
        counts[before as usize + piece] = count;
    }
}

#[cube(launch)]
fn update(
    weight: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    rates: &Rates,
    place: &Place,
) {
    if ABSOLUTE_POS < place.count as usize {
        let flat = place.start as usize + ABSOLUTE_POS;
        let (w, m, v) = updated(
            rates,
            weight[ABSOLUTE_POS],
            gradients[flat],
            first[flat],
            second[flat],
        );
        weight[ABSOLUTE_POS] = w;
        first[flat] = m;
        second[flat] = v;
    }
}

fn rates(constants: &Constants) -> RatesLaunch {
    let Constants {
        scale,
        beta1,
        rest1,
        beta2,
        rest2,
        root2,
        epsilon,
        step,
        keep,
    } = *constants;
    RatesLaunch::new(
        scale, beta1, rest1, beta2, rest2, root2, epsilon, step, keep,
    )
}

/// Whether every number of the state after the update is finite.
fn stays_finite(
    weights: &[CubeTensor],
    rows: &[CubeTensor; 3],
    segments: &[Segment],
    rule: &AdamWRule,
) -> bool {
    let pieces: usize = segments
        .iter()
        .map(|segment| segment.place.len().div_ceil(PIECE))
        .sum();
    if pieces == 0 {
        return true;
    }
    let (client, counts) = (&rows[0].client, empty(&rows[0], [pieces], DType::F32));
    let mut before = 0;
    for (segment, weight) in segments
        .iter()
        .zip(weights)
        .filter(|(segment, _)| !segment.place.is_empty())
    {
        let own = segment.place.len().div_ceil(PIECE);
        let [gradients, first, second] = rows.clone().map(CubeTensor::into_buffer_arg);
        let (weight, counts) = (
            weight.clone().into_buffer_arg(),
            counts.clone().into_buffer_arg(),
        );
        let (rates, cube) = (rates(&rule.constants(segment)), CubeDim::new_1d(UNITS));
        let (place, all_before) = (place(segment), before as u32);
        let (size, units) = (PIECE, UNITS as usize);
        count_open::launch(
            client,
            cubes(own),
            cube,
            weight,
            gradients,
            first,
            second,
            counts,
            rates,
            place,
            all_before,
            size,
            units,
        );
        before += own;
    }
    Tensor::<1>::from_primitive::<Cube>(counts)
        .into_data()
        .iter::<f32>()
        .all(|count| count == 0.0)
}

/// Returns the state after an update, or the unchanged state where one of its numbers would not be
/// finite.
#[allow(
    clippy::result_large_err,
    reason = "what is handed back is the state, not the story of an error"
)]
pub(in crate::ops) fn adamw(
    state: AdamWState,
    gradients: Tensor<1>,
    segments: &[Segment],
    rule: AdamWRule,
) -> Result<AdamWState, AdamWState> {
    let device = |tensor: Tensor<1>| {
        into_contiguous(
            tensor
                .try_into_primitive::<Cube>()
                .expect("a GPU's, for it is not the CPU's"),
        )
    };
    let tensor = Tensor::<1>::from_primitive::<Cube>;
    let mut weights: Vec<CubeTensor> = state.weights.into_iter().map(device).collect();
    let rows = [gradients, state.first, state.second].map(device);
    let is_finite = stays_finite(&weights, &rows, segments, &rule);
    let [gradients, mut first, mut second] = rows;
    let client = gradients.client.clone();
    if is_finite {
        [first, second] = [first, second].map(owned);
        weights = weights.into_iter().map(owned).collect();
        for (segment, weight) in segments
            .iter()
            .zip(&weights)
            .filter(|(segment, _)| !segment.place.is_empty())
        {
            let (cubes, cube) = units(weight, segment.place.len());
            let args =
                [weight, &gradients, &first, &second].map(|row| row.clone().into_buffer_arg());
            let ([weight, gradients, first, second], rates) =
                (args, rates(&rule.constants(segment)));
            update::launch(
                &client,
                cubes,
                cube,
                weight,
                gradients,
                first,
                second,
                rates,
                place(segment),
            );
        }
    }
    let state = AdamWState {
        weights: weights.into_iter().map(tensor).collect(),
        first: tensor(first),
        second: tensor(second),
    };
    if is_finite { Ok(state) } else { Err(state) }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::tests::{device, drawn, tensor, worst};
    use crate::ops::{AdamWRule, AdamWState, Segment, adamw};

    const LENGTHS: [usize; 4] = [9000, 5, 4096, 1];
    const COUNT: usize = 13_102;

    fn state(device: &Device) -> (AdamWState, Vec<Segment>) {
        let mut end = COUNT;
        let segments = LENGTHS.iter().enumerate().map(|(index, length)| {
            end -= length;
            Segment {
                place: end..end + length,
                learning_rate: [1e-2, 1.6e-1][index % 2],
                weight_decay: [0.1, 0.0][index % 2],
            }
        });
        let segments: Vec<_> = segments.collect();
        let weights = LENGTHS
            .iter()
            .map(|length| tensor(&drawn(*length as u64, *length, 1.0), [*length], device));
        let zeros = || tensor(&vec![0.0; COUNT], [COUNT], device);
        (
            AdamWState {
                weights: weights.collect(),
                first: zeros(),
                second: zeros(),
            },
            segments,
        )
    }

    fn rule(update: u64) -> AdamWRule {
        AdamWRule {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            gradient_scale: 0.25,
            update,
        }
    }

    #[test]
    fn three_updates_are_those_of_the_cpu() {
        let Some(device) = device() else { return };
        let of = |device: &Device| {
            let (mut state, segments) = state(device);
            for update in 1..=3 {
                let gradients = tensor(&drawn(100 + update, COUNT, 3.0), [COUNT], device);
                state = adamw(state, gradients, &segments, rule(update)).expect("finite");
            }
            state
        };
        let (ours, exact) = (of(&device), of(&Device::flex()));
        let rows = |state: AdamWState| state.weights.into_iter().chain([state.first, state.second]);
        for (ours, exact) in rows(ours).zip(rows(exact)) {
            assert!(worst(ours, exact) < 1e-5);
        }
    }

    #[test]
    fn one_number_that_is_not_finite_leaves_everything_as_it_was_and_what_is_held_is_not_changed() {
        let Some(device) = device() else { return };
        let bits = |state: &AdamWState| {
            let rows = state.weights.iter().chain([&state.first, &state.second]);
            rows.flat_map(|row| {
                row.to_data()
                    .iter::<f32>()
                    .map(f32::to_bits)
                    .collect::<Vec<_>>()
            })
            .collect::<Vec<u32>>()
        };
        for gradient in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            let (state, segments) = state(&device);
            let before = bits(&state);
            let mut gradients = vec![0.5; COUNT];
            gradients[COUNT - 1] = gradient;
            let state = adamw(
                state,
                tensor(&gradients, [COUNT], &device),
                &segments,
                rule(1),
            )
            .expect_err("not finite");
            assert_eq!(bits(&state), before, "{gradient}");
            gradients[COUNT - 1] = 0.5;
            let held = (state.first.clone(), state.weights[0].clone());
            let values = held.1.to_data();
            let state = adamw(
                state,
                tensor(&gradients, [COUNT], &device),
                &segments,
                rule(1),
            )
            .expect("finite");
            assert_ne!(bits(&state), before);
            assert!(held.0.into_data().iter::<f32>().all(|number| number == 0.0));
            held.1.into_data().assert_eq(&values, true);
        }
    }
}
