//! Tests the kernels against the CPU's form, which is tested against the definition of softmax.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::Cube;
use burn::tensor::{Device, Tensor};
use cubecl::MemoryScope;
use proptest::prelude::*;

use super::super::tests::{device, drawn, tensor, worst};
use crate::ops::{Score, SeenKeys, attention, backward_from};

/// An attention with the keys that its queries see.
#[derive(Debug, Clone)]
struct Case {
    /// Batch, queries, keys, heads, kv heads, features.
    sizes: [usize; 6],
    seen: Arc<[SeenKeys]>,
    score: Score,
}

impl Case {
    /// Makes a causal case; `starts` are the places, in keys, where documents after the first
    /// begin.
    fn new(sizes: [usize; 6], starts: &[usize], window: usize, softcap: Option<f32>) -> Self {
        Self::seeing(sizes, starts, softcap, |place| {
            (place + 1).saturating_sub(window)..place + 1
        })
    }

    /// Makes a case in which a query sees the tokens of its document at most `reach` away.
    fn both_sides(sizes: [usize; 6], starts: &[usize], reach: usize, softcap: Option<f32>) -> Self {
        Self::seeing(sizes, starts, softcap, |place| {
            place.saturating_sub(reach)..place + 1 + reach
        })
    }

    fn seeing(
        sizes: [usize; 6],
        starts: &[usize],
        softcap: Option<f32>,
        near: impl Fn(usize) -> Range<usize>,
    ) -> Self {
        let [batch, queries, keys, ..] = sizes;
        let seen_of = |query: usize| {
            let place = keys - queries + query;
            let (before, after): (Vec<usize>, Vec<usize>) =
                starts.iter().partition(|start| **start <= place);
            let document =
                before.into_iter().max().unwrap_or(0)..after.into_iter().min().unwrap_or(keys);
            let near = near(place);
            SeenKeys {
                first: document.start.max(near.start) as u32,
                end: document.end.min(near.end).min(keys) as u32,
            }
        };
        let seen = (0..batch).flat_map(|_| (0..queries).map(seen_of)).collect();
        Self {
            sizes,
            seen,
            score: Score {
                scale: 0.3,
                softcap,
            },
        }
    }

    /// Returns Q, K, V and the gradient of the output, in [`Case::shapes`].
    fn numbers(&self) -> [Vec<f32>; 4] {
        let mut seed = 0;
        self.shapes().map(|shape| {
            seed += 1;
            drawn(seed, shape.iter().product(), 2.0)
        })
    }

    fn shapes(&self) -> [[usize; 4]; 4] {
        let [batch, queries, keys, heads, kv_heads, features] = self.sizes;
        let (of_queries, of_keys) = (
            [batch, queries, heads, features],
            [batch, keys, kv_heads, features],
        );
        [of_queries, of_keys, of_keys, of_queries]
    }

    /// Returns the output, dQ, dK and dV.
    fn of(&self, numbers: &[Vec<f32>; 4], device: &Device) -> [Tensor<4>; 4] {
        let shapes = self.shapes();
        let leaf = |index: usize| {
            tensor(&numbers[index], shapes[index], device)
                .autodiff()
                .require_grad()
        };
        let [query, key, value] = [0, 1, 2].map(leaf);
        let output = attention(
            query.clone(),
            key.clone(),
            value.clone(),
            &self.seen,
            self.score,
        );
        let gradients = backward_from(output.clone(), tensor(&numbers[3], shapes[3], device));
        let [dq, dk, dv] = [query, key, value].map(|leaf| leaf.grad(&gradients).expect("tracked"));
        [output.inner(), dq, dk, dv]
    }

    /// Returns the largest distance from the CPU's.
    fn distance(&self, device: &Device) -> f64 {
        let numbers = self.numbers();
        let pairs = self
            .of(&numbers, device)
            .into_iter()
            .zip(self.of(&numbers, &Device::flex()));
        pairs
            .map(|(ours, exact)| worst(ours, exact))
            .fold(
                0.0,
                |most, number| if number <= most { most } else { number },
            )
    }
}

const BOUND: f64 = 2e-5;

#[test]
fn lengths_around_a_tile_groups_windows_documents_and_wide_heads() {
    let Some(device) = device() else { return };
    for length in [1, 15, 16, 17, 33, 70] {
        for [heads, kv_heads, features] in [[2, 2, 5], [3, 1, 16], [8, 2, 6]] {
            let sizes = [2, length, length, heads, kv_heads, features];
            let later = [2, length, length + 21, heads, kv_heads, features];
            let cases = [
                Case::new(sizes, &[], length, None),
                Case::new(sizes, &[8, 17, 18, 40], 13, Some(2.0)),
                Case::new(later, &[9], 30, None),
                Case::both_sides(sizes, &[], length, None),
                Case::both_sides(sizes, &[8, 17, 18, 40], 13, Some(2.0)),
                Case::both_sides(later, &[9], 30, None),
            ];
            for case in cases {
                let distance = case.distance(&device);
                assert!(distance < BOUND, "{distance:e}: {case:?}");
            }
        }
    }
    for features in [64, 80, 128, 256] {
        let case = Case::new([1, 40, 40, 2, 1, features], &[11], 40, None);
        let distance = case.distance(&device);
        assert!(distance < 4.0 * BOUND, "{distance:e}: {features} features");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_sizes_documents_and_windows(
        (batch, queries, before) in (1usize..3, 1usize..50, 0usize..20),
        kv_heads in 1usize..3,
        group in prop::sample::select(vec![1usize, 3]),
        features in prop::sample::select(vec![1usize, 4, 7, 18]),
        starts in prop::collection::vec(0usize..60, 0..5),
        (window, softcap) in (1usize..70, prop::option::of(0.5f32..30.0)),
        is_causal in any::<bool>(),
    ) {
        let Some(device) = device() else { return Ok(()) };
        let sizes = [batch, queries, queries + before, kv_heads * group, kv_heads, features];
        let case = if is_causal {
            Case::new(sizes, &starts, window, softcap)
        } else {
            Case::both_sides(sizes, &starts, window - 1, softcap)
        };
        let distance = case.distance(&device);
        prop_assert!(distance < BOUND, "{:e}", distance);
    }
}

fn bits(tensors: [Tensor<4>; 4]) -> [Vec<u32>; 4] {
    tensors.map(|tensor| tensor.into_data().iter::<f32>().map(f32::to_bits).collect())
}

#[test]
fn a_run_repeats_bit_for_bit_and_a_document_does_not_depend_on_what_it_is_packed_with() {
    let Some(device) = device() else { return };
    for make in [Case::new, Case::both_sides] {
        is_the_same_packed(&device, make);
    }
}

fn is_the_same_packed(device: &Device, make: fn([usize; 6], &[usize], usize, Option<f32>) -> Case) {
    let [before, length] = [23, 57];
    let packed = make(
        [1, before + length, before + length, 4, 2, 8],
        &[before],
        40,
        None,
    );
    let numbers = packed.numbers();
    let all = bits(packed.of(&numbers, device));
    assert_eq!(all, bits(packed.of(&numbers, device)));
    let alone = make([1, length, length, 4, 2, 8], &[], 40, None);
    let widths = [4 * 8, 2 * 8, 2 * 8, 4 * 8];
    let mut part = numbers;
    part.iter_mut()
        .zip(widths)
        .for_each(|(numbers, width)| drop(numbers.drain(..before * width)));
    // Output and dQ have the width of queries, dK and dV that of keys.
    let widths = [widths[0], widths[0], widths[1], widths[1]];
    for ((alone, packed), width) in bits(alone.of(&part, device)).iter().zip(&all).zip(widths) {
        assert!(
            *alone == packed[before * width..],
            "the document is another beside others"
        );
    }
}

#[test]
fn what_is_not_a_number_shows_where_it_is_seen_and_nowhere_else() {
    let Some(device) = device() else { return };
    let case = Case::new([2, 12, 12, 1, 1, 4], &[6], 12, None);
    let open = |numbers: &[Vec<f32>; 4]| {
        case.of(numbers, &device).map(|tensor| {
            let numbers: Vec<f32> = tensor.into_data().iter().collect();
            let is_open = |token: &usize| {
                numbers[token * 4..][..4]
                    .iter()
                    .any(|number| number.is_nan())
            };
            (0..24).filter(is_open).collect::<Vec<usize>>()
        })
    };
    let mut numbers = case.numbers();
    numbers[1][3 * 4] = f32::NAN; // The key of the first row's fourth token.
    assert_eq!(open(&numbers)[0], [3, 4, 5]);
    let mut numbers = case.numbers();
    numbers[2][3 * 4] = f32::NAN; // Its value.
    let [output, of_queries, ..] = open(&numbers);
    assert_eq!([output, of_queries], [[3, 4, 5]; 2]);
    let mut numbers = case.numbers();
    numbers[3][3 * 4] = f32::NAN; // The gradient of its output.
    let [output, of_queries, of_keys, of_values] = open(&numbers);
    assert_eq!((output, of_queries), (vec![], vec![3]));
    assert_eq!([of_keys, of_values], [[0, 1, 2, 3]; 2]);
}

/// Returns the largest allocation and the sum of all, for an attention of so many tokens while the
/// results of forward and backward are all held. A thread has a stream of its own, and a stream its
/// own memory.
fn bytes_of(tokens: usize, device: &Device) -> [u64; 2] {
    let device = device.clone();
    let measured = std::thread::spawn(move || {
        let case = Case::new([1, tokens, tokens, 4, 2, 32], &[tokens / 2], tokens, None);
        let held = case.of(&case.numbers(), &device);
        let client = held[0]
            .clone()
            .try_into_primitive::<Cube>()
            .expect("of a kernel")
            .client;
        let report = client.memory_report(MemoryScope::CurrentStream);
        let pools = report
            .streams
            .iter()
            .flat_map(|stream| &stream.pools.dynamic);
        [
            pools.map(|pool| pool.largest_alloc).max().unwrap_or(0),
            report.usage().bytes_in_use,
        ]
    });
    measured.join().expect("attention is computed")
}

#[test]
fn memory_grows_with_the_tokens_and_not_with_their_square() {
    let Some(device) = device() else { return };
    let [short, long] = [768, 1536].map(|tokens| bytes_of(tokens, &device));
    for (short, long) in short.into_iter().zip(long) {
        assert!(
            short > 0 && long as f64 <= 2.05 * short as f64,
            "{short} bytes, {long} of twice the tokens"
        );
    }
}
