//! Tests both forms against the definition of softmax, in f64.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;

use super::backward::{Given, backward};
use super::forward::{AttentionRows, forward};
use super::key_range::{KeyRange, SeenKeys, Sizes};
use super::{Score, attention, portable};

/// An attention with the keys that its queries see.
#[derive(Debug, Clone)]
struct Case {
    sizes: Sizes,
    seen: Vec<SeenKeys>,
    score: Score,
    tile: usize,
}

impl Case {
    /// Makes a causal case; `starts` are the places, in keys, where documents after the first
    /// begin.
    fn new(sizes: Sizes, tile: usize, starts: &[usize], window: usize) -> Self {
        Self::seeing(sizes, tile, starts, |place| {
            (place + 1).saturating_sub(window)..place + 1
        })
    }

    /// Makes a case in which a query sees the tokens of its document at most `reach` away.
    fn both_sides(sizes: Sizes, tile: usize, starts: &[usize], reach: usize) -> Self {
        Self::seeing(sizes, tile, starts, |place| {
            place.saturating_sub(reach)..place + 1 + reach
        })
    }

    fn seeing(
        sizes: Sizes,
        tile: usize,
        starts: &[usize],
        near: impl Fn(usize) -> Range<usize>,
    ) -> Self {
        let seen_of = |query: usize| {
            let place = sizes.keys - sizes.queries + query;
            let (before, after): (Vec<usize>, Vec<usize>) =
                starts.iter().partition(|start| **start <= place);
            let document = before.into_iter().max().unwrap_or(0)
                ..after.into_iter().min().unwrap_or(sizes.keys);
            let near = near(place);
            SeenKeys {
                first: document.start.max(near.start) as u32,
                end: document.end.min(near.end).min(sizes.keys) as u32,
            }
        };
        let seen = (0..sizes.batch)
            .flat_map(|_| (0..sizes.queries).map(seen_of))
            .collect();
        Self {
            sizes,
            seen,
            score: Score {
                scale: 0.3,
                softcap: None,
            },
            tile,
        }
    }

    fn capped(self, softcap: f32) -> Self {
        Self {
            score: Score {
                softcap: Some(softcap),
                ..self.score
            },
            ..self
        }
    }

    /// Returns Q, K, V and the gradient of the output.
    fn tensors(&self) -> [Vec<f32>; 4] {
        let Sizes {
            batch,
            queries,
            keys,
            heads,
            kv_heads,
            width,
        } = self.sizes;
        let numbers = |rows: usize, seed: f64| -> Vec<f32> {
            (0..batch * rows * width)
                .map(|index| (2.0 * (seed * (index as f64 + 1.0)).sin()) as f32)
                .collect()
        };
        let (of_queries, of_keys) = (queries * heads, keys * kv_heads);
        [
            numbers(of_queries, 1.37),
            numbers(of_keys, 2.73),
            numbers(of_keys, 0.91),
            numbers(of_queries, 3.19),
        ]
    }

    /// Returns the output, dQ, dK and dV in f64.
    fn exact(&self) -> [Vec<f64>; 4] {
        let Sizes {
            batch,
            queries,
            keys,
            heads,
            kv_heads,
            width,
        } = self.sizes;
        let [q, k, v, g] = self
            .tensors()
            .map(|numbers| numbers.into_iter().map(f64::from).collect::<Vec<f64>>());
        let dot = |left: &[f64], right: &[f64]| {
            left.iter()
                .zip(right)
                .map(|(left, right)| left * right)
                .sum::<f64>()
        };
        let add = |to: &mut [f64], factor: f64, from: &[f64]| {
            to.iter_mut()
                .zip(from)
                .for_each(|(to, from)| *to += factor * from);
        };
        let mut all = [&q, &q, &k, &v].map(|like| vec![0.0; like.len()]);
        let [output, dq, dk, dv] = &mut all;
        for (row, query, head) in (0..batch)
            .flat_map(|b| (0..queries).flat_map(move |i| (0..heads).map(move |h| (b, i, h))))
        {
            let at = ((row * queries + query) * heads + head) * width;
            let at = at..at + width;
            let SeenKeys { first, end } = self.seen[row * queries + query];
            let seen = first as usize..end as usize;
            let key_at =
                |key: usize| ((row * keys + key) * kv_heads + head * kv_heads / heads) * width;
            let of_key = |key: usize| key_at(key)..key_at(key) + width;
            let scale = f64::from(self.score.scale);
            let scored = seen.clone().map(|key| {
                let s = scale * dot(&q[at.clone()], &k[of_key(key)]);
                self.score.softcap.map_or((s, 1.0), |cap| {
                    let share = (s / f64::from(cap)).tanh();
                    (f64::from(cap) * share, 1.0 - share * share)
                })
            });
            let (of_keys, slopes): (Vec<f64>, Vec<f64>) = scored.unzip();
            let largest = of_keys.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = of_keys.iter().map(|score| (score - largest).exp()).sum();
            let weights: Vec<f64> = of_keys
                .iter()
                .map(|score| (score - largest).exp() / sum)
                .collect();
            seen.clone()
                .zip(&weights)
                .for_each(|(key, weight)| add(&mut output[at.clone()], *weight, &v[of_key(key)]));
            let along = dot(&output[at.clone()], &g[at.clone()]);
            for ((key, weight), slope) in seen.zip(&weights).zip(&slopes) {
                let of_score =
                    weight * (dot(&g[at.clone()], &v[of_key(key)]) - along) * slope * scale;
                add(&mut dq[at.clone()], of_score, &k[of_key(key)]);
                add(&mut dk[of_key(key)], of_score, &q[at.clone()]);
                add(&mut dv[of_key(key)], *weight, &g[at.clone()]);
            }
        }
        all
    }

    fn shapes(&self) -> [[usize; 4]; 4] {
        let Sizes {
            batch,
            queries,
            keys,
            heads,
            kv_heads,
            width,
        } = self.sizes;
        let (of_queries, of_keys) = (
            [batch, queries, heads, width],
            [batch, keys, kv_heads, width],
        );
        [of_queries, of_keys, of_keys, of_queries]
    }

    /// Returns the output, dQ, dK and dV by a backend's operations.
    fn composed(&self) -> [Vec<f32>; 4] {
        let [query, key, value, gradient] = self.primitives();
        let inputs =
            portable::AttentionInputs::<Flex>::new(query, key, value, &self.seen, self.score);
        let (output, log_sums) = portable::forward(&inputs, self.tile);
        let [dq, dk, dv] =
            portable::backward(&inputs, output.clone(), log_sums, gradient, self.tile);
        [output, dq, dk, dv].map(|tensor| tensor.into_data().try_to_vec().expect("f32"))
    }

    fn primitives(&self) -> [FloatTensor<Flex>; 4] {
        let tensors = self.tensors().into_iter().zip(self.shapes());
        let tensors: Vec<_> = tensors
            .map(|(numbers, shape)| FloatTensor::<Flex>::from_data(TensorData::new(numbers, shape)))
            .collect();
        tensors.try_into().expect("four")
    }

    /// Returns the output, dQ, dK and dV by the operation on a tape.
    fn taped(&self) -> [Vec<f32>; 4] {
        let tensors: Vec<Tensor<4>> = self
            .tensors()
            .into_iter()
            .zip(self.shapes())
            .map(|(numbers, shape)| {
                Tensor::from_data(TensorData::new(numbers, shape), &Device::flex())
            })
            .collect();
        let [query, key, value] =
            [0, 1, 2].map(|index| tensors[index].clone().autodiff().require_grad());
        let output = attention(
            query.clone(),
            key.clone(),
            value.clone(),
            &self.seen.clone().into(),
            self.score,
        );
        let gradients = (output.clone() * tensors[3].clone()).sum().backward();
        let [dq, dk, dv] =
            [query, key, value].map(|tensor| tensor.grad(&gradients).expect("tracked"));
        [output.inner(), dq, dk, dv].map(|tensor| tensor.into_data().try_to_vec().expect("f32"))
    }

    fn bound(&self) -> f64 {
        let Sizes { queries, keys, .. } = self.sizes;
        let mut seen = self.seen.iter().enumerate();
        let is_causal =
            seen.all(|(query, seen)| seen.end as usize == keys - queries + query % queries + 1);
        if is_causal {
            BOUND
        } else {
            BOUND_OF_BOTH_SIDES
        }
    }

    /// Returns the output, dQ, dK and dV of the CPU's form.
    fn computed(&self) -> [Vec<f32>; 4] {
        self.of(&self.tensors())
    }

    /// Does the same as [`Case::computed`] for any numbers.
    fn of(&self, [query, key, value, gradient]: &[Vec<f32>; 4]) -> [Vec<f32>; 4] {
        let inputs = AttentionRows {
            query,
            key,
            value,
            seen: KeyRange {
                sizes: self.sizes,
                seen: &self.seen,
            },
            score: self.score,
        };
        let mixed = forward(&inputs, self.tile);
        let given = Given {
            output: &mixed.output,
            log_sums: &mixed.log_sums,
            gradient,
        };
        let [dq, dk, dv] = backward(&inputs, &given, self.tile);
        [mixed.output, dq, dk, dv]
    }

    /// Returns the largest distance of four tensors from the exact ones, in units of the largest
    /// exact number: where a query sees one key, dQ and dK are differences that vanish.
    fn distance(&self, computed: &[Vec<f32>; 4]) -> f64 {
        let exact = self.exact();
        let larger = |most: f64, number: f64| if number <= most { most } else { number };
        let unit = exact
            .iter()
            .flatten()
            .map(|number| number.abs())
            .fold(0.0, larger);
        exact
            .iter()
            .zip(computed)
            .for_each(|(exact, computed)| assert_eq!(exact.len(), computed.len()));
        let pairs = exact.iter().flatten().zip(computed.iter().flatten());
        pairs
            .map(|(exact, computed)| (exact - f64::from(*computed)).abs() / unit)
            .fold(0.0, larger)
    }
}

/// The accepted distance of causal attention. A score of 20 is rounded by 1e-6, and so is its
/// weight; the worst of the listed cases is 7e-7.
const BOUND: f64 = 1e-5;

/// The accepted distance where queries see both sides. Weights spread over all keys there, sums
/// cancel, and rounding is a larger part of them: 1e-5 in the listed cases.
const BOUND_OF_BOTH_SIDES: f64 = 1e-4;

/// Returns the sizes of a self-attention of two rows.
fn sizes(length: usize, heads: usize, kv_heads: usize, width: usize) -> Sizes {
    Sizes {
        batch: 2,
        queries: length,
        keys: length,
        heads,
        kv_heads,
        width,
    }
}

/// Returns cases: lengths around the border of a tile, groups, windows and documents that straddle
/// tiles, a cap, and queries that follow on keys.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for tile in [4, 64] {
        for length in [1, tile - 1, tile, tile + 1, 3 * tile + 5] {
            for (heads, kv_heads, width) in [(2, 2, 5), (3, 1, 16), (8, 1, 8)] {
                let sizes = sizes(length, heads, kv_heads, width);
                cases.push(Case::new(sizes, tile, &[], length));
                cases.push(Case::new(sizes, tile, &[], tile / 2 + 1));
                cases.push(Case::both_sides(sizes, tile, &[], length));
                cases.push(Case::both_sides(sizes, tile, &[], tile / 2 - 1));
                cases.push(Case::both_sides(
                    sizes,
                    tile,
                    &[tile / 2, tile + 1, tile + 2, 2 * tile],
                    tile + 1,
                ));
                cases.push(
                    Case::new(
                        sizes,
                        tile,
                        &[tile / 2, tile + 1, tile + 2, 2 * tile],
                        length,
                    )
                    .capped(2.0),
                );
                let later = Sizes {
                    keys: length + tile / 2 + 1,
                    ..sizes
                };
                cases.push(Case::new(later, tile, &[tile / 2], tile + 2));
            }
        }
    }
    cases
}

#[test]
fn the_cpus_form_is_softmax_and_its_gradients() {
    for case in cases() {
        let distance = case.distance(&case.computed());
        assert!(
            distance <= case.bound(),
            "{distance:e}: {:?} {}",
            case.sizes,
            case.tile
        );
    }
}

#[test]
fn the_form_of_a_backends_operations_is_the_same() {
    // Flex is slow in small pieces: the cases of the small tile.
    for case in cases().into_iter().filter(|case| case.tile == 4) {
        let distance = case.distance(&case.composed());
        assert!(distance <= case.bound(), "{distance:e}: {case:?}");
    }
}

#[test]
fn a_tape_gets_the_same_gradients() {
    let case = Case::new(sizes(70, 6, 2, 16), 64, &[30], 40).capped(5.0);
    assert_eq!(case.taped(), case.computed());
    let [query, key, value, _] = case.primitives();
    assert_eq!(query.shape().dims::<4>(), case.shapes()[0]);
    let [key, value] =
        [key, value].map(|tensor| Tensor::<4>::from_data(tensor.into_data(), &Device::flex()));
    let query = Tensor::<4>::from_data(query.into_data(), &Device::flex())
        .autodiff()
        .require_grad();
    let gradients = attention(
        query.clone(),
        key.clone(),
        value,
        &case.seen.into(),
        case.score,
    )
    .sum()
    .backward();
    assert!(query.grad(&gradients).is_some() && key.grad(&gradients).is_none());
}

#[test]
fn numbers_do_not_depend_on_the_threads() {
    let case = Case::new(sizes(200, 6, 2, 16), 16, &[70, 130], 90);
    let with = |threads: usize| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| case.computed())
    };
    let one = with(1).map(|numbers| numbers.into_iter().map(f32::to_bits).collect::<Vec<u32>>());
    for threads in [1, 2, 3, 8] {
        assert_eq!(
            one,
            with(threads)
                .map(|numbers| numbers.into_iter().map(f32::to_bits).collect::<Vec<u32>>()),
            "{threads} threads"
        );
    }
}

/// Returns these tokens of the first row of tensors [batch, tokens, heads, width].
fn part(numbers: &[f32], tokens: Range<usize>, heads_width: usize) -> &[f32] {
    &numbers[tokens.start * heads_width..tokens.end * heads_width]
}

#[test]
fn a_document_that_sees_both_ways_does_not_depend_on_what_it_is_packed_with() {
    let (before, length, after) = (23, 57, 30);
    let of = |tokens: usize| Sizes {
        batch: 1,
        ..sizes(tokens, 4, 2, 8)
    };
    for reach in [9, 200] {
        let starts = [before, before + length];
        let packed = Case::both_sides(of(before + length + after), 16, &starts, reach);
        let alone = Case::both_sides(of(length), 16, &[], reach);
        let numbers = packed.tensors();
        let widths = [4 * 8, 2 * 8, 2 * 8, 4 * 8];
        let own = before..before + length;
        let mut index = 0;
        let parts = numbers.each_ref().map(|numbers| {
            index += 1;
            part(numbers, own.clone(), widths[index - 1]).to_vec()
        });
        let (all, alone) = (packed.of(&numbers), alone.of(&parts));
        assert_eq!(part(&all[0], own.clone(), 32), alone[0], "reach {reach}");
        // The order in which tiles are added to gradients is that of the whole row.
        for ((all, alone), width) in all.iter().zip(&alone).zip([32, 32, 16, 16]) {
            for (packed, alone) in part(all, own.clone(), width).iter().zip(alone) {
                assert!(
                    (packed - alone).abs() < 1e-6,
                    "reach {reach}: {packed}, {alone}"
                );
            }
        }
    }
}

#[test]
fn what_is_not_a_number_shows_where_it_is_seen_and_nowhere_else() {
    let case = Case::new(sizes(12, 1, 1, 4), 4, &[6], 12);
    let [query, mut key, value, _] = case.tensors();
    key[3 * 4] = f32::NAN; // Of the first row's fourth token.
    let inputs = AttentionRows {
        query: &query,
        key: &key,
        value: &value,
        seen: KeyRange {
            sizes: case.sizes,
            seen: &case.seen,
        },
        score: case.score,
    };
    let output = forward(&inputs, case.tile).output;
    let tokens: Vec<usize> = (0..24)
        .filter(|token| {
            output[token * 4..][..4]
                .iter()
                .any(|number| number.is_nan())
        })
        .collect();
    assert_eq!(tokens, [3, 4, 5]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_sizes_documents_and_windows(
        (batch, queries, before) in (1usize..3, 1usize..40, 0usize..20),
        (kv_heads, width) in (1usize..3, 1usize..20),
        group in prop::sample::select(vec![1usize, 3, 8]),
        starts in prop::collection::vec(0usize..60, 0..5),
        (window, tile, softcap) in (1usize..70, 3usize..20, prop::option::of(0.5f32..30.0)),
        is_causal in any::<bool>(),
    ) {
        let sizes = Sizes {
            batch,
            queries,
            keys: queries + before,
            heads: kv_heads * group,
            kv_heads,
            width,
        };
        let case = if is_causal {
            Case::new(sizes, tile, &starts, window)
        } else {
            Case::both_sides(sizes, tile, &starts, window - 1)
        };
        let case = softcap.map_or_else(|| case.clone(), |softcap| case.clone().capped(softcap));
        let distance = case.distance(&case.computed());
        prop_assert!(distance <= case.bound(), "{:e}", distance);
    }
}
