use burn::tensor::{Device, Tolerance};
use proptest::prelude::*;

use super::super::{dropout, matmul};
use super::*;
use crate::keyed_random::{mix, unit};

fn drawn(seed: u64, shape: [usize; 2]) -> Tensor<2> {
    let numbers =
        (0..(shape[0] * shape[1]) as u64).map(|index| unit(mix(seed ^ mix(index))) as f32 - 0.5);
    Tensor::from_data(TensorData::new(numbers.collect(), shape), &Device::flex())
}

/// A group of maps, given by sizes; rank 0 means no adapter.
#[derive(Debug, Clone)]
struct Case {
    tokens: usize,
    inputs: usize,
    /// Outputs, rank and scale of each map.
    maps: Vec<(usize, usize, f64)>,
    drops: bool,
    onto: bool,
    weights_train: bool,
}

impl Case {
    /// Returns x, the tensor to which the result is added, and each map's weight, A and B, as
    /// leaves where they train.
    fn leaves(&self) -> (Tensor<2>, Tensor<2>, Vec<[Tensor<2>; 3]>) {
        let leaf = |seed: u64, shape| drawn(seed, shape).autodiff().require_grad();
        let outputs = self.maps.iter().map(|(outputs, ..)| outputs).sum();
        let map = |(index, &(outputs, rank, _)): (usize, &(usize, usize, f64))| {
            let seed = 10 * (index as u64 + 1);
            let weight = drawn(seed, [self.inputs, outputs]);
            let weight = if self.weights_train {
                weight.autodiff().require_grad()
            } else {
                weight
            };
            let rank = rank.max(1);
            [
                weight,
                leaf(seed + 1, [self.inputs, rank]),
                leaf(seed + 2, [rank, outputs]),
            ]
        };
        let maps = self.maps.iter().enumerate().map(map).collect();
        (
            leaf(1, [self.tokens, self.inputs]),
            leaf(2, [self.tokens, outputs]),
            maps,
        )
    }

    fn mask(&self) -> Option<Mask> {
        let tokens = (0..self.tokens as u64).collect();
        self.drops.then_some(Mask {
            tokens,
            site: 1,
            probability: 0.3,
        })
    }

    fn grouped(&self, x: Tensor<2>, onto: Tensor<2>, maps: &[[Tensor<2>; 3]]) -> Tensor<2> {
        let maps = maps
            .iter()
            .zip(&self.maps)
            .map(|([weight, a, b], &(_, rank, scale))| Linear {
                weight: weight.clone().into(),
                adapter: (rank > 0).then(|| Adapter {
                    a: a.clone(),
                    b: b.clone(),
                    scale,
                }),
            });
        adapted(
            x,
            Linears {
                maps: maps.collect(),
                onto: self.onto.then_some(onto),
            },
            self.mask().as_ref(),
        )
    }

    fn composed(&self, x: &Tensor<2>, onto: Tensor<2>, maps: &[[Tensor<2>; 3]]) -> Tensor<2> {
        let dropped = self
            .mask()
            .map_or(x.clone(), |mask| dropout(x.clone(), &mask));
        let parts = maps
            .iter()
            .zip(&self.maps)
            .map(|([weight, a, b], &(_, rank, scale))| {
                let y = matmul(x.clone(), weight.clone());
                if rank == 0 {
                    y
                } else {
                    y + matmul(
                        matmul(dropped.clone(), a.clone()).mul_scalar(scale),
                        b.clone(),
                    )
                }
            });
        let all = Tensor::cat(parts.collect(), 1);
        if self.onto { all + onto } else { all }
    }

    fn check(&self) {
        let close = |one: Tensor<2>, other: Tensor<2>| {
            one.into_data()
                .assert_approx_eq::<f32>(&other.into_data(), Tolerance::absolute(1e-5));
        };
        let ((x, onto, maps), (x2, onto2, maps2)) = (self.leaves(), self.leaves());
        let ours = self.grouped(x.clone(), onto.clone(), &maps);
        let theirs = self.composed(&x2, onto2.clone(), &maps2);
        close(ours.clone().inner(), theirs.clone().inner());
        let plain: Vec<_> = maps
            .iter()
            .map(|map| {
                map.clone().map(|leaf| {
                    if leaf.is_require_grad() {
                        leaf.inner()
                    } else {
                        leaf
                    }
                })
            })
            .collect();
        let untracked = self.grouped(x.clone().inner(), onto.clone().inner(), &plain);
        untracked
            .into_data()
            .assert_eq(&ours.clone().inner().into_data(), true);

        let gradient = drawn(3, ours.dims());
        let gradients = [
            (ours * gradient.clone()).sum().backward(),
            (theirs * gradient).sum().backward(),
        ];
        let leaves = |x, onto, maps: Vec<[Tensor<2>; 3]>| {
            [x, onto].into_iter().chain(maps.into_iter().flatten())
        };
        for (one, other) in leaves(x, onto, maps).zip(leaves(x2, onto2, maps2)) {
            match [one.grad(&gradients[0]), other.grad(&gradients[1])] {
                [Some(one), Some(other)] => close(one, other),
                [None, None] => {}
                one_of_two => panic!("{one_of_two:?} of {self:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_is_the_composition_of_its_parts_and_so_are_its_gradients(
        [tokens, inputs] in [1_usize..40, 1_usize..70],
        maps in proptest::collection::vec(
            (1_usize..70, 0_usize..5, prop::sample::select(vec![1.7, 2.0])),
            1..4,
        ),
        [drops, onto]: [bool; 2],
    ) {
        Case { tokens, inputs, maps, drops, onto, weights_train: false }.check();
    }

    #[test]
    fn weights_train_where_they_are_leaves(
        [tokens, inputs] in [1_usize..40, 1_usize..70],
        outputs in proptest::collection::vec(1_usize..70, 1..4),
        onto: bool,
    ) {
        let maps = outputs.into_iter().map(|outputs| (outputs, 0, 1.0)).collect();
        Case { tokens, inputs, maps, drops: false, onto, weights_train: true }.check();
    }
}
