//! Faults that devices have had, put into real steps: each is refused, with its place named.

use std::sync::OnceLock;

use burn::tensor::{Device, Tensor, TensorData};

use super::*;
use crate::device;
use crate::terms::{Method, ModelDtype};
use crate::train::{AdamWConfig, Border};

/// Kinds of faults.
#[derive(Debug, Clone, Copy)]
enum FaultKind {
    /// One number is NaN.
    NotANumber,
    /// All numbers are zero.
    Zeroed,
    /// One element in the middle has twice the largest value.
    OneElement,
    /// The numbers are those of the step before, as in a buffer that was not written.
    Stale,
}

/// Places of faults.
#[derive(Debug, Clone, Copy, PartialEq)]
enum FaultSite {
    Border(Border),
    /// The weight at an index.
    Weight(usize),
}

/// A fault in one place, in the second micro-batch of the second step.
struct InjectedFault {
    kind: FaultKind,
    place: FaultSite,
    turns: usize,
    last: Option<Vec<f32>>,
}

impl InjectedFault {
    fn pass<const D: usize>(&mut self, value: Tensor<D>) -> Tensor<D> {
        self.turns += 1;
        let (shape, device) = (value.dims(), value.device());
        let mut values: Vec<f32> = value.to_data().iter().collect();
        let middle = values.len() / 2;
        match (self.turns, self.kind) {
            // The same micro-batch a step before.
            (2, _) => self.last = Some(values.clone()),
            (4, FaultKind::NotANumber) => values[middle] = f32::NAN,
            (4, FaultKind::Zeroed) => values.fill(0.0),
            (4, FaultKind::OneElement) => {
                values[middle] = 2.0
                    * values
                        .iter()
                        .fold(0.0, |largest, value| value.abs().max(largest));
            }
            (4, FaultKind::Stale) => values = self.last.take().expect("a step before"),
            _ => {}
        }
        Tensor::from_data(TensorData::new(values, shape), &device)
    }
}

impl Observer for InjectedFault {
    fn border(&mut self, border: Border, value: Tensor<3>) -> Tensor<3> {
        if self.place == FaultSite::Border(border) {
            self.pass(value)
        } else {
            value
        }
    }

    fn weights(&mut self, first: usize, mut gradients: Vec<Tensor<1>>) -> Vec<Tensor<1>> {
        if let FaultSite::Weight(index) = self.place
            && (first..first + gradients.len()).contains(&index)
        {
            let gradient = gradients.remove(index - first);
            gradients.insert(index - first, self.pass(gradient));
        }
        gradients
    }
}

fn tiny() -> ProbeModel {
    ProbeModel::of_all_mechanisms(ModelDtype::Auto, Method::Lora)
}

/// Returns the verdict on a device with a fault in one pass.
fn verdict(pass: usize, mut fault: InjectedFault, bound: Bound) -> Verdict {
    static RIGHT: [OnceLock<Vec<Site>>; 3] = [const { OnceLock::new() }; 3];
    let passes = &PASSES[pass..=pass];
    let right = RIGHT[pass].get_or_init(|| trace(&tiny(), &Device::flex(), passes, &mut ()));
    let wrong = on_device(&tiny(), &Device::flex(), passes, &mut fault).expect("no panic");
    Verdict::of(&wrong, right, bound)
}

#[test]
fn the_cpu_is_itself_to_the_last_bit() {
    for trained in [Method::Lora, Method::Full] {
        let verdict = prove(
            &ProbeModel::of_all_mechanisms(ModelDtype::Auto, trained),
            &Device::flex(),
        )
        .expect("no panic");
        assert!(verdict.is_proven(), "{verdict}");
        assert_eq!(
            verdict.worst.difference,
            Difference::Error {
                norm: 0.0,
                largest: 0.0
            },
            "{verdict}"
        );
    }
}

#[test]
fn another_number_of_threads_is_proven() {
    let passes = &PASSES[1..2];
    let here = trace(&tiny(), &Device::flex(), passes, &mut ());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .expect("a pool");
    let there = pool.install(|| trace(&tiny(), &Device::flex(), passes, &mut ()));
    let verdict = Verdict::of(
        &there,
        &here,
        Bound {
            norm: 1e-6,
            largest: 1e-6,
        },
    );
    assert!(
        verdict.is_proven() && verdict.sites == here.len(),
        "{verdict}"
    );
}

#[test]
fn every_fault_is_refused_and_named() {
    let first_weight = tiny()
        .draw(&Device::flex())
        .weights(|name, _| name.to_owned())
        .swap_remove(0);
    let places = [
        (
            FaultSite::Border(Border::Output(1)),
            "output of block 1".to_owned(),
        ),
        (
            FaultSite::Border(Border::Gradient(1)),
            "gradient into block 1".to_owned(),
        ),
        (
            FaultSite::Weight(0),
            format!("gradient of `{first_weight}`"),
        ),
    ];
    for (place, site) in places {
        let kinds = [
            FaultKind::NotANumber,
            FaultKind::Zeroed,
            FaultKind::OneElement,
            FaultKind::Stale,
        ];
        let bounds = [Bound::FLOAT32, Bound::TF32, Bound::FLOAT16, Bound::BFLOAT16];
        for (kind, bound) in kinds
            .into_iter()
            .flat_map(|kind| bounds.map(|bound| (kind, bound)))
        {
            let verdict = verdict(
                0,
                InjectedFault {
                    kind,
                    place,
                    turns: 0,
                    last: None,
                },
                bound,
            );
            let first = verdict.first.as_ref().expect("refused");
            assert_eq!(
                first.site,
                format!("kept tapes, step 2, micro-batch 2, {site}"),
                "{kind:?}, {bound}"
            );
            let is_named = match kind {
                FaultKind::NotANumber => first.difference == Difference::NotFinite { numbers: 1 },
                FaultKind::Zeroed => first.difference == Difference::Zero,
                FaultKind::OneElement | FaultKind::Stale => {
                    matches!(first.difference, Difference::Error { .. })
                }
            };
            assert!(is_named, "{kind:?} in {site}: {verdict}");
        }
    }
}

/// In the last pass nothing between blocks is read: what a step leaves shows the fault.
#[test]
fn a_fault_that_only_an_undisturbed_step_has_is_refused() {
    for kind in [
        FaultKind::NotANumber,
        FaultKind::Zeroed,
        FaultKind::OneElement,
        FaultKind::Stale,
    ] {
        let verdict = verdict(
            2,
            InjectedFault {
                kind,
                place: FaultSite::Border(Border::Gradient(1)),
                turns: 0,
                last: None,
            },
            Bound::FLOAT32,
        );
        let first = verdict.first.as_ref().expect("refused");
        assert!(
            first
                .site
                .starts_with("undisturbed, step 2, gradient of all micro-batches of"),
            "{kind:?}: {verdict}"
        );
    }
}

/// An optimizer that leaves out a part of itself: the average of gradients, that of their squares,
/// decay, or the rate of B.
#[test]
fn an_optimizer_that_lacks_a_part_is_refused() {
    let whole = PASSES[0].optimizer;
    let traced = |optimizer| {
        let mut pass = PASSES[0];
        pass.optimizer = optimizer;
        trace(&tiny(), &Device::flex(), &[pass], &mut ())
    };
    let right = traced(whole);
    for lacking in [
        AdamWConfig {
            beta1: 0.0,
            ..whole
        },
        AdamWConfig {
            beta2: 0.0,
            ..whole
        },
        AdamWConfig {
            weight_decay: 0.0,
            ..whole
        },
        AdamWConfig {
            loraplus_lr_ratio: 1.0,
            ..whole
        },
    ] {
        let verdict = Verdict::of(&traced(lacking), &right, Bound::FLOAT32);
        let first = verdict.first.as_ref().expect("refused");
        assert!(first.site.contains(", new `"), "{lacking:?}: {verdict}");
    }
}

#[test]
fn a_panic_on_the_device_refuses_it() {
    struct Panics;
    impl Observer for Panics {
        fn border(&mut self, _: Border, _: Tensor<3>) -> Tensor<3> {
            panic!("no such kernel\nat some place")
        }
    }
    let words = on_device(&tiny(), &Device::flex(), &PASSES, &mut Panics).expect_err("a panic");
    assert_eq!(words, "no such kernel");
}

#[test]
fn what_is_kept_is_not_proven_again() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let cpu = device::cpu();
    let key = Key::of(&cpu.identity(), &tiny(), Products::Float32);
    let once = || {
        prove_once(
            &cpu,
            &tiny(),
            &Device::flex(),
            Products::Float32,
            cache.path(),
        )
    };
    assert_eq!(is_proven(&cpu, cache.path()), None);
    let proven = once().expect("proven");
    assert_eq!(
        key.verdict(cache.path()),
        Some(proven.clone()),
        "it is kept"
    );
    assert_eq!(is_proven(&cpu, cache.path()), Some(true));
    let worst = Finding {
        site: "loss".to_owned(),
        difference: Difference::NotFinite { numbers: 1 },
    };
    let wrong = Verdict {
        failures: 1,
        first: Some(worst.clone()),
        worst,
        ..proven
    };
    key.keep(cache.path(), &wrong).expect("kept");
    let refused = once().expect_err("what is kept counts");
    assert_eq!(is_proven(&cpu, cache.path()), Some(false));
    let said = "training on `cpu` is refused, its gradients in float32 are not those of the CPU: 1 \
        of ";
    assert!(
        refused.to_string().starts_with(said)
            && refused.to_string().contains("first loss has 1 numbers"),
        "{refused}"
    );
}

/// Each run asks for the verdicts that it depends on, and for no other: nothing is computed here,
/// for all are kept.
#[test]
fn a_verdict_in_tf32_stops_nobody_else_and_one_in_float32_everybody() {
    let (cache, cpu) = (
        tempfile::tempdir().expect("a temporary folder"),
        device::cpu(),
    );
    let all = |dtype| ProbeModel::of_all_mechanisms(dtype, Method::Lora);
    let verdict = |failures| {
        let difference = Difference::Error {
            norm: 1e-2 * failures as f64,
            largest: 0.0,
        };
        let finding = Finding {
            site: "loss".to_owned(),
            difference,
        };
        Verdict {
            sites: 9,
            failures,
            bound: Bound::FLOAT32,
            first: (failures > 0).then(|| finding.clone()),
            worst: finding,
        }
    };
    let keep = |dtype, products, failures| {
        Key::of(&cpu.identity(), &all(dtype), products)
            .keep(cache.path(), &verdict(failures))
            .expect("kept");
    };
    let once =
        |dtype, products| prove_once(&cpu, &all(dtype), &Device::flex(), products, cache.path());
    let [wide, half] = [ModelDtype::Float32, ModelDtype::Bfloat16];
    for (dtype, products, failures) in [
        (wide, Products::Float32, 0),
        (half, Products::Float32, 0),
        (wide, Products::Tf32, 1),
    ] {
        keep(dtype, products, failures);
    }
    assert!(once(wide, Products::Float32).is_ok() && once(half, Products::Float32).is_ok());
    assert_eq!(is_proven(&cpu, cache.path()), Some(true), "`auto` takes it");
    let refused = once(wide, Products::Tf32).expect_err("it is off in TF32");
    assert!(
        refused
            .to_string()
            .contains("its gradients in float32 with products in TF32 are not"),
        "{refused}"
    );
    assert!(refused.hint().is_some_and(|hint| {
        hint.starts_with("remove `training.allow_tf32`, or use `device: cpu`")
    }));

    keep(wide, Products::Tf32, 0);
    assert!(once(wide, Products::Tf32).is_ok());
    keep(wide, Products::Float32, 1);
    for (dtype, products) in [
        (wide, Products::Tf32),
        (half, Products::Float32),
        (half, Products::Tf32),
    ] {
        let refused = once(dtype, products).expect_err("float32 is off");
        assert!(
            refused
                .to_string()
                .contains("its gradients in float32 are not"),
            "{refused}"
        );
        assert!(
            refused
                .hint()
                .is_some_and(|hint| hint.starts_with("use `device: cpu`"))
        );
    }
}
