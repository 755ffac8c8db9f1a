//! Tests the update against its formula in f64, on the CPU and with other devices' operations.

use burn::tensor::{Device, TensorData};
use proptest::prelude::*;

use super::*;

type Update = fn(AdamWState, Tensor<1>, &[Segment], AdamWRule) -> Result<AdamWState, AdamWState>;
const UPDATES: [Update; 2] = [adamw, on_device];

const RULE: AdamWRule = AdamWRule {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    gradient_scale: 0.25,
    update: 1,
};

fn tensor(numbers: &[f32]) -> Tensor<1> {
    Tensor::from_data(TensorData::from(numbers), &Device::flex())
}

fn values(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.to_data().iter().collect()
}

fn bits(state: &AdamWState) -> Vec<u32> {
    state
        .weights
        .iter()
        .chain([&state.first, &state.second])
        .flat_map(values)
        .map(f32::to_bits)
        .collect()
}

/// Makes a state of zero moments whose weights are 0.1, 0.2, ..; the segments lie in the reverse
/// order of `lengths`.
fn state(lengths: &[usize]) -> (AdamWState, Vec<Segment>) {
    let count: usize = lengths.iter().sum();
    let mut end = count;
    let segments = lengths.iter().enumerate().map(|(index, length)| {
        end -= length;
        let (learning_rate, weight_decay) = ([1e-2, 1.6e-1][index % 2], [0.1, 0.0, 0.3][index % 3]);
        Segment {
            place: end..end + length,
            learning_rate,
            weight_decay,
        }
    });
    let segments: Vec<_> = segments.collect();
    let weight = |segment: &Segment| {
        tensor(
            &segment
                .place
                .clone()
                .map(|index| 0.1 * (index + 1) as f32)
                .collect::<Vec<_>>(),
        )
    };
    let zeros = || tensor(&vec![0.0; count]);
    (
        AdamWState {
            weights: segments.iter().map(weight).collect(),
            first: zeros(),
            second: zeros(),
        },
        segments,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn it_is_the_formula_in_f64(
        lengths in proptest::collection::vec(prop_oneof![1..9usize, 4090..4100usize], 1..6),
        gradients in proptest::collection::vec(-3.0..3.0f64, 37),
    ) {
        let count: usize = lengths.iter().sum();
        let gradient =
            |index: usize, update: usize| gradients[(index + 5 * update) % gradients.len()];
        for adamw in UPDATES {
            let (mut state, segments) = state(&lengths);
            let mut expected: Vec<[f64; 3]> = (0..count)
                .map(|index| [f64::from(0.1 * (index + 1) as f32), 0.0, 0.0])
                .collect();
            for update in 1..=3u16 {
                let numbers: Vec<f32> = (0..count)
                    .map(|index| gradient(index, usize::from(update)) as f32)
                    .collect();
                let rule = AdamWRule {
                    update: u64::from(update),
                    ..RULE
                };
                state = adamw(state, tensor(&numbers), &segments, rule).expect("finite");
                for segment in &segments {
                    for index in segment.place.clone() {
                        let ([w, m, v], g) =
                            (&mut expected[index], 0.25 * f64::from(numbers[index]));
                        (*m, *v) = (0.9 * *m + 0.1 * g, 0.999 * *v + 0.001 * g * g);
                        let past = |beta: f64| beta.powi(i32::from(update));
                        let (m, v) = (*m / (1.0 - past(0.9)), *v / (1.0 - past(0.999)));
                        let Segment {
                            learning_rate,
                            weight_decay,
                            ..
                        } = segment;
                        *w = *w * (1.0 - learning_rate * weight_decay)
                            - learning_rate * m / (v.sqrt() + 1e-8);
                    }
                }
            }
            for (segment, weight) in segments.iter().zip(&state.weights) {
                for (index, ours) in segment.place.clone().zip(values(weight)) {
                    let [theirs, ..] = expected[index];
                    let bound = 1e-5 * theirs.abs().max(1.0);
                    prop_assert!(
                        (f64::from(ours) - theirs).abs() <= bound,
                        "{index}: {ours} {theirs}"
                    );
                }
            }
        }
    }
}

#[test]
fn one_number_that_is_not_finite_leaves_everything_as_it_was() {
    for adamw in UPDATES {
        for gradient in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            let (state, segments) = state(&[9000, 5000]);
            let before = bits(&state);
            let mut gradients = vec![0.5; 14_000];
            gradients[13_999] = gradient;
            let state = adamw(state, tensor(&gradients), &segments, RULE).expect_err("not finite");
            assert_eq!(bits(&state), before, "{gradient}");
            gradients[13_999] = 0.5;
            let state = adamw(state, tensor(&gradients), &segments, RULE).expect("finite");
            assert_ne!(bits(&state), before);
        }
    }
}

#[test]
fn a_weight_alone_is_updated_as_it_is_among_others() {
    let (state, segments) = state(&[9000, 5000, 3]);
    let alone = segments
        .iter()
        .zip(&state.weights)
        .flat_map(|(segment, weight)| {
            let zeros = || tensor(&vec![0.0; segment.place.len()]);
            let state = AdamWState {
                weights: vec![weight.clone()],
                first: zeros(),
                second: zeros(),
            };
            let gradients = tensor(
                &segment
                    .place
                    .clone()
                    .map(|index| (index as f32).sin())
                    .collect::<Vec<_>>(),
            );
            let segment = Segment {
                place: 0..segment.place.len(),
                ..segment.clone()
            };
            values(
                &adamw(state, gradients, &[segment], RULE)
                    .expect("finite")
                    .weights[0],
            )
        });
    let alone: Vec<f32> = alone.collect();
    let gradients = tensor(
        &(0..14_003)
            .map(|index| (index as f32).sin())
            .collect::<Vec<_>>(),
    );
    let together = adamw(state, gradients, &segments, RULE).expect("finite");
    assert_eq!(
        together.weights.iter().flat_map(values).collect::<Vec<_>>(),
        alone
    );
}

#[test]
fn what_nobody_else_holds_is_updated_where_it_is() {
    let (state, segments) = state(&[9000, 5000]);
    let addresses = |state: &AdamWState| {
        let rows = state
            .weights
            .iter()
            .chain([&state.first, &state.second])
            .cloned();
        rows.map(|row| Host::of(row).expect("on the CPU").numbers().as_ptr())
            .collect::<Vec<_>>()
    };
    let (before, held) = (addresses(&state), state.first.clone());
    let state = adamw(state, tensor(&vec![0.5; 14_000]), &segments, RULE).expect("finite");
    let after = addresses(&state);
    assert_eq!((&after[..2], after[3]), (&before[..2], before[3]));
    assert_ne!(after[2], before[2], "`held` is not changed");
    assert!(values(&held).into_iter().all(|number| number == 0.0));
}
