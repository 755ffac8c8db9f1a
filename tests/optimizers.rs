//! Optimizers and schedules: the ways of torch, transformers, bitsandbytes and schedulefree
//! (tests/golden/optimizers), runs that are stopped and go on to the same bytes, what states take
//! of memory, and keys of a recipe that go with another optimizer.

#![allow(
    clippy::float_cmp,
    reason = "what is computed twice in the same way is equal"
)]

mod common;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use common::{attach_peft, batch, difference, golden, json, load, rows, tested_gpu};
use rankine::adapter::LoraConfig;
use rankine::files::safetensors::Archive;
use rankine::model::{DecoderSpec, GatedSpec, GroupedSpec, LayerSpec};
use rankine::nn::rope::{RopeScaling, RopeSpec};
use rankine::plan::memory::{Load, MemoryPlace, MicroBatchRows, Purpose, Trained};
use rankine::terms::{AdjustLr, Curve, Method, ModelDtype};
use rankine::train::{
    Adafactor, AdamW, AdamWConfig, ByShape, Gradients, Memory, Muon, Optimizer, OptimizerConfig,
    RateCourse, Rule, Schedule, StepConfig, WarmupStableDecay, forward_backward,
};
use serde_json::Value;
use support::*;

/// The optimizers' part of the set of golden files.
fn of_set(path: &str) -> PathBuf {
    let whole = golden(&format!("objectives/optimizers/{path}"));
    if whole.exists() {
        whole
    } else {
        golden(&format!("optimizers/{path}"))
    }
}

/// Updates of a golden run.
const UPDATES: usize = 20;
/// Of the formulas in float64 against the golden numbers, with a margin; and where products are
/// rounded to bfloat16.
const CLOSE: f32 = 5e-6;
const CLOSE_TO_BFLOAT16: f32 = 2e-3;

/// A golden run: weights and gradients by name, in one row.
struct Run {
    info: Value,
    golden: Archive,
    names: Vec<String>,
    shapes: Vec<Vec<usize>>,
    weights: Vec<Tensor<1>>,
    /// One row an update.
    gradients: Vec<Tensor<1>>,
}

fn tensor(numbers: &[f32]) -> Tensor<1> {
    Tensor::from_data(TensorData::from(numbers), &Device::flex())
}

fn values(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.to_data().iter().collect()
}

impl Run {
    fn open(name: &str) -> Self {
        let info = json(&of_set(&format!("{name}/golden.json")));
        let golden = Archive::open(&of_set(&format!("{name}/golden.safetensors"))).unwrap();
        let inputs = Archive::open(&of_set("inputs.safetensors")).unwrap();
        let names: Vec<String> = info["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().into())
            .collect();
        let read =
            |key: &str, name: &String| inputs.read_f32(&format!("{key}.{name}")).unwrap().unwrap();
        let shapes = names
            .iter()
            .map(|name| inputs.shape(&format!("param.{name}")).unwrap().to_vec())
            .collect();
        let all: Vec<Vec<f32>> = names.iter().map(|name| read("grad", name)).collect();
        let weights: Vec<Tensor<1>> = names
            .iter()
            .map(|name| tensor(&read("param", name)))
            .collect();
        let lengths: Vec<usize> = weights.iter().map(|weight| weight.dims()[0]).collect();
        let of_update = |update: usize| {
            let each = all.iter().zip(&lengths).map(|(all, length)| {
                let at = update % (all.len() / length) * length;
                &all[at..at + length]
            });
            tensor(&each.collect::<Vec<_>>().concat())
        };
        Self {
            golden,
            shapes,
            weights,
            gradients: (0..UPDATES).map(of_update).collect(),
            names,
            info,
        }
    }

    fn option(&self, key: &str) -> Option<f64> {
        self.info["options"][key].as_f64()
    }

    fn flag(&self, key: &str) -> bool {
        self.info["options"][key].as_bool().unwrap_or(false)
    }

    fn config(&self, rule: Rule) -> OptimizerConfig {
        let beta = |index: usize| self.info["options"]["betas"][index].as_f64().unwrap_or(0.0);
        let adamw = AdamWConfig {
            beta1: beta(0),
            beta2: beta(1),
            epsilon: self.option("eps").unwrap_or(0.0),
            weight_decay: self.option("weight_decay").unwrap(),
            loraplus_lr_ratio: 1.0,
        };
        OptimizerConfig { rule, adamw }
    }

    fn optimizer(&self, rule: Rule) -> ByShape {
        ByShape::of_weights(
            self.config(rule),
            &self.shapes,
            &self.weights,
            &Device::flex(),
        )
    }

    fn numbers(&self, key: &str) -> Option<Vec<f32>> {
        self.golden.read_f32(key).unwrap()
    }

    /// Goes the whole way. The optimizer and the weights at its end, and how far off the golden
    /// numbers they were at most.
    fn go(&self, rule: Rule) -> (ByShape, Vec<Tensor<1>>, f32) {
        let (mut optimizer, mut weights, mut furthest) =
            (self.optimizer(rule), self.weights.clone(), 0.0_f32);
        let warmup_steps = self.option("warmup_steps").unwrap_or(0.0) as u64;
        let course = if rule.averages() {
            RateCourse::ScheduleFree
        } else {
            RateCourse::Constant
        };
        let peak = self.option("lr").unwrap_or(0.0);
        let schedule = Schedule {
            peak,
            course,
            warmup_steps,
            total_steps: UPDATES as u64,
        };
        for (update, row) in self.gradients.iter().enumerate() {
            let rate = optimizer.learning_rate(schedule.lr_at(update as u64));
            // The scale stands for a mean and a clip: halves times two are the same to the bit.
            assert!(optimizer.update_numbers(
                &mut weights,
                &row.clone().mul_scalar(0.5),
                2.0,
                rate
            ));
            for (name, weight) in self.names.iter().zip(&weights) {
                let length = weight.dims()[0];
                let path = self
                    .numbers(&format!("path.{name}"))
                    .map(|path| path[update * length..][..length].to_vec());
                if let Some(expected) = path.or_else(|| self.numbers(&format!("{name}.{update}"))) {
                    let off = difference(&values(weight), &expected);
                    furthest = if off.is_nan() {
                        f32::NAN
                    } else {
                        furthest.max(off)
                    };
                }
            }
        }
        (optimizer, weights, furthest)
    }

    /// A tensor of the state at the end.
    fn state(&self, optimizer: &ByShape, name: &str) -> Vec<u8> {
        let saved = optimizer.saved(&self.names);
        let found = saved
            .iter()
            .find(|saved| saved.described.0 == name)
            .unwrap_or_else(|| panic!("{name} in {saved:?}"));
        optimizer.bytes(found)
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|number| f32::from_le_bytes(*number))
        .collect()
}

#[test]
fn adamw_by_shapes_goes_the_way_of_torch() {
    for name in ["adamw", "adamw_beta2"] {
        let (_, _, furthest) = Run::open(name).go(Rule::AdamW);
        println!("{name}: {furthest}");
        assert!(furthest <= CLOSE, "{name}: {furthest}");
    }
}

#[test]
fn lion_goes_the_way_of_bitsandbytes() {
    let (_, _, furthest) = Run::open("lion").go(Rule::Lion);
    assert!(furthest <= CLOSE, "{furthest}");
}

#[test]
fn states_of_8_bits_have_the_codes_of_bitsandbytes() {
    for name in ["adamw_8bit", "lion_8bit"] {
        let run = Run::open(name);
        let min_8bit_size = run.option("min_8bit_size").unwrap() as usize;
        let (rule, states) = if name == "adamw_8bit" {
            (
                Rule::AdamW8bit { min_8bit_size },
                vec![("first_moment.", "m"), ("second_moment.", "v")],
            )
        } else {
            (Rule::Lion8bit { min_8bit_size }, vec![("momentum.", "m")])
        };
        let (optimizer, _, furthest) = run.go(rule);
        let (mut others, mut count) = (0, 0);
        for (prefix, of_golden) in states {
            let map = if of_golden == "m" {
                rankine::quant::DynamicMap::Signed
            } else {
                rankine::quant::DynamicMap::Unsigned
            };
            assert_eq!(
                run.numbers(&format!("map.{of_golden}")).unwrap(),
                map.numbers(),
                "{name}: the map of {of_golden}"
            );
            let ours = run.state(&optimizer, &format!("{prefix}big"));
            let theirs = run.golden.bytes(&format!("big.{of_golden}.codes")).unwrap();
            assert_eq!(ours.len(), theirs.len());
            let off: Vec<u8> = ours
                .iter()
                .zip(theirs)
                .map(|(ours, theirs)| ours.abs_diff(*theirs))
                .collect();
            assert!(
                off.iter().all(|off| *off <= 1),
                "{name}: a code of {of_golden} is off by more than 1"
            );
            (others, count) = (
                others + off.iter().filter(|off| **off > 0).count(),
                count + off.len(),
            );
            let absmax = floats(&run.state(&optimizer, &format!("{prefix}absmax.big")));
            let expected = run.numbers(&format!("big.{of_golden}.absmax")).unwrap();
            let relative = absmax
                .iter()
                .zip(&expected)
                .map(|(ours, theirs)| (ours / theirs - 1.0).abs());
            assert!(
                relative.fold(0.0, f32::max) <= 1e-5,
                "{name}: {absmax:?}, expected {expected:?}"
            );
        }
        println!("{name}: {others} of {count} codes are another by one, weights {furthest} off");
        assert!(1000 * others <= count, "{name}: {others} of {count} codes");
        let bound = if others == 0 {
            CLOSE
        } else {
            run.option("lr").unwrap() as f32
        };
        assert!(furthest <= bound, "{name}: {furthest}");
        // What is below the bound keeps 32 bits.
        let saved = optimizer.saved(&run.names);
        assert!(saved.iter().all(|saved| saved.described.0.contains("big")
            || saved.described.1 == safetensors::Dtype::F32));
    }
}

#[test]
fn adafactor_goes_the_ways_of_transformers() {
    for name in [
        "adafactor",
        "adafactor_momentum",
        "adafactor_relative",
        "adafactor_warmup",
    ] {
        let run = Run::open(name);
        let adafactor = Adafactor {
            beta1: run.option("beta1"),
            decay_rate: run.option("decay_rate").unwrap(),
            clip_threshold: run.option("clip_threshold").unwrap(),
            scale_parameter: run.flag("scale_parameter"),
            relative_step: run.flag("relative_step"),
            warmup_init: run.flag("warmup_init"),
        };
        let (_, _, furthest) = run.go(Rule::Adafactor(adafactor));
        println!("{name}: {furthest}");
        assert!(furthest <= CLOSE, "{name}: {furthest}");
    }
}

#[test]
fn muon_goes_the_way_of_torch() {
    for name in ["muon", "muon_rms"] {
        let run = Run::open(name);
        let matches_rms = run.info["options"]["adjust_lr_fn"].as_str() == Some("match_rms_adamw");
        let adjust_lr = if matches_rms {
            AdjustLr::MatchRmsAdamW
        } else {
            AdjustLr::Original
        };
        let (_, _, furthest) = run.go(Rule::Muon(Muon {
            momentum: run.option("momentum").unwrap(),
            adjust_lr,
        }));
        println!("{name}: {furthest}");
        assert!(furthest <= CLOSE_TO_BFLOAT16, "{name}: {furthest}");
    }
}

#[test]
fn schedule_free_goes_the_way_of_its_authors_and_averages_as_they_do() {
    for name in ["schedule_free", "schedule_free_no_warmup"] {
        let run = Run::open(name);
        let (optimizer, weights, furthest) = run.go(Rule::ScheduleFree);
        assert!(furthest <= CLOSE, "{name}: {furthest}");
        for (weight, average) in run.names.iter().zip(optimizer.averaged(&weights)) {
            let off = difference(
                &values(&average),
                &run.numbers(&format!("x.{weight}")).unwrap(),
            );
            assert!(off <= CLOSE, "{name}: the average of {weight} is {off} off");
            let fast = floats(&run.state(&optimizer, &format!("fast_sequence.{weight}")));
            let off = difference(&fast, &run.numbers(&format!("z.{weight}")).unwrap());
            assert!(
                off <= CLOSE,
                "{name}: the fast sequence of {weight} is {off} off"
            );
        }
    }
}

/// Every rule.
fn rules() -> Vec<(&'static str, Rule)> {
    let adafactor = Adafactor {
        beta1: Some(0.9),
        decay_rate: -0.8,
        clip_threshold: 1.0,
        scale_parameter: true,
        relative_step: false,
        warmup_init: false,
    };
    vec![
        ("adamw", Rule::AdamW),
        ("adamw_8bit", Rule::AdamW8bit { min_8bit_size: 64 }),
        ("lion", Rule::Lion),
        ("lion_8bit", Rule::Lion8bit { min_8bit_size: 64 }),
        ("adafactor", Rule::Adafactor(adafactor)),
        (
            "muon",
            Rule::Muon(Muon {
                momentum: 0.95,
                adjust_lr: AdjustLr::MatchRmsAdamW,
            }),
        ),
        ("schedule_free_adamw", Rule::ScheduleFree),
    ]
}

const ADAMW: AdamWConfig = AdamWConfig {
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-8,
    weight_decay: 0.1,
    loraplus_lr_ratio: 4.0,
};

#[test]
fn one_gradient_that_is_not_finite_leaves_everything_as_it_was() {
    let shapes = [vec![6, 10], vec![17], vec![6, 10], vec![40, 3]];
    let count: usize = shapes
        .iter()
        .map(|shape| shape.iter().product::<usize>())
        .sum();
    let names: Vec<String> = (0..shapes.len()).map(|index| format!("w{index}")).collect();
    let drawn = |seed: usize, count: usize| {
        (0..count)
            .map(|index| ((seed + index) as f32 * 0.7).sin())
            .collect::<Vec<_>>()
    };
    for (name, rule) in rules() {
        let weights: Vec<Tensor<1>> = shapes
            .iter()
            .map(|shape| tensor(&drawn(3, shape.iter().product())))
            .collect();
        let config = OptimizerConfig { rule, adamw: ADAMW };
        let mut optimizer = ByShape::of_weights(config, &shapes, &weights, &Device::flex());
        let mut weights = weights;
        assert!(
            optimizer.update_numbers(&mut weights, &tensor(&drawn(5, count)), 1.0, 1e-2),
            "{name}"
        );
        let state = |optimizer: &ByShape, weights: &[Tensor<1>]| {
            let saved: Vec<Vec<u8>> = optimizer
                .saved(&names)
                .iter()
                .map(|saved| optimizer.bytes(saved))
                .collect();
            (
                optimizer.updates(),
                optimizer.average(),
                saved,
                weights.iter().map(values).collect::<Vec<_>>(),
            )
        };
        let before = state(&optimizer, &weights);
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 65, count - 1] {
                let mut gradients = drawn(5, count);
                gradients[place] = wrong;
                assert!(
                    !optimizer.update_numbers(&mut weights, &tensor(&gradients), 1.0, 1e-2),
                    "{name}: {wrong} at {place}"
                );
                assert_eq!(
                    state(&optimizer, &weights),
                    before,
                    "{name}: {wrong} at {place}"
                );
            }
        }
        assert!(
            optimizer.update_numbers(&mut weights, &tensor(&drawn(7, count)), 1.0, 1e-2),
            "{name}"
        );
        assert_ne!(state(&optimizer, &weights).3, before.3, "{name}");
    }
}

/// `RANKINE_TEST_DEVICE` says which GPU; without one the test says so.
#[test]
fn a_gpu_goes_the_way_of_the_cpu() {
    let Some(found) = tested_gpu() else { return };
    let gpu = rankine::device::open(found.device).unwrap();
    let shapes = [
        vec![6, 10],
        vec![17],
        vec![20, 72],
        vec![6, 10],
        vec![40, 3],
    ];
    let count: usize = shapes
        .iter()
        .map(|shape| shape.iter().product::<usize>())
        .sum();
    let names: Vec<String> = (0..shapes.len()).map(|index| format!("w{index}")).collect();
    let drawn = |seed: usize, count: usize| {
        let draw = |index: usize| {
            (1.0 + ((seed + 3 * index) as f32 * 0.7).sin()) * (0.3 * index as f32 + 0.1).cos()
        };
        (0..count).map(draw).collect::<Vec<f32>>()
    };
    for (name, rule) in rules() {
        let go = |device: &Device| {
            let on = |numbers: &[f32]| {
                Tensor::<1>::from_data(
                    TensorData::from(numbers),
                    (device, burn::tensor::DType::F32),
                )
            };
            let mut weights: Vec<Tensor<1>> = shapes
                .iter()
                .map(|shape| on(&drawn(3, shape.iter().product())))
                .collect();
            let config = OptimizerConfig { rule, adamw: ADAMW };
            let mut optimizer = ByShape::of_weights(config, &shapes, &weights, device);
            for update in 0..5 {
                assert!(
                    optimizer.update_numbers(
                        &mut weights,
                        &on(&drawn(5 + update, count)),
                        0.5,
                        1e-2
                    ),
                    "{name}"
                );
            }
            let mut wrong = drawn(9, count);
            wrong[count / 2] = f32::NAN;
            let before: Vec<f32> = weights.iter().flat_map(values).collect();
            assert!(
                !optimizer.update_numbers(&mut weights, &on(&wrong), 0.5, 1e-2),
                "{name}: not a number"
            );
            let after: Vec<f32> = weights.iter().flat_map(values).collect();
            assert_eq!(before, after, "{name}: not a number");
            let average: Vec<f32> = optimizer
                .averaged(&weights)
                .iter()
                .flat_map(values)
                .collect();
            let saved = optimizer.saved(&names);
            let state = saved
                .iter()
                .map(|saved| (saved.described.clone(), optimizer.bytes(saved)))
                .collect::<Vec<_>>();
            (after, average, state)
        };
        let (ours, exact) = (go(&gpu), go(&Device::flex()));
        let off = difference(&ours.0, &exact.0).max(difference(&ours.1, &exact.1));
        println!("{name}: {off}");
        // Muon's numbers are rounded to 8 bits, and a sum in another order may fall on the other
        // side.
        let bound = if name == "muon" {
            CLOSE_TO_BFLOAT16
        } else if name.ends_with("8bit") {
            1e-3
        } else {
            1e-5
        };
        assert!(off <= bound, "{name}: {off}");
        for ((described, ours), (_, exact)) in ours.2.iter().zip(&exact.2) {
            if described.1 == safetensors::Dtype::U8 {
                let others = ours
                    .iter()
                    .zip(exact)
                    .filter(|(ours, exact)| ours != exact)
                    .count();
                let furthest = ours
                    .iter()
                    .zip(exact)
                    .map(|(ours, exact)| ours.abs_diff(*exact))
                    .max();
                println!(
                    "{name}: {} has {others} of {} other codes",
                    described.0,
                    ours.len()
                );
                assert!(
                    furthest <= Some(1) && 100 * others <= ours.len(),
                    "{name}: {}: {others}",
                    described.0
                );
            }
        }
    }
}

/// A weight that memory has turned is updated as the one of its file.
#[test]
fn adamw_by_shapes_is_adamw_of_a_model() {
    for (method, bound) in [(Method::Lora, 2e-6_f32), (Method::Full, 2e-6)] {
        let folder = golden("archs/qwen2");
        let data = Archive::open(&folder.join("golden.safetensors")).unwrap();
        let decoder = || {
            let mut decoder = load(&folder.join("model"));
            match method {
                Method::Lora => drop(attach_peft(&mut decoder, &folder.join("adapter"))),
                Method::Full => decoder.train_everything(),
            }
            decoder
        };
        let config = |rule| OptimizerConfig { rule, adamw: ADAMW };
        let by_shape = config(Rule::AdamW8bit {
            min_8bit_size: usize::MAX,
        });
        let (mut one, mut other) = (decoder(), decoder());
        let mut flat = Optimizer::AdamW(AdamW::new(ADAMW, &one));
        let mut shaped = Optimizer::new(by_shape, &other);
        let step = StepConfig {
            memory: Memory::KEEP,
            head_chunk_rows: 64,
            dropout: 0.0,
        };
        for taken in 0..3 {
            for (decoder, optimizer) in [(&mut one, &mut flat), (&mut other, &mut shaped)] {
                let mut gradients = Gradients::default();
                forward_backward(
                    decoder,
                    &batch(rows(&data, "train.", Some(taken))),
                    step,
                    [0, 0],
                    &mut gradients,
                );
                assert!(optimizer.update(decoder, gradients.scaled(0.01), 1e-3));
            }
        }
        let all = |decoder: &rankine::model::Decoder| {
            decoder
                .numbers()
                .iter()
                .flat_map(values)
                .collect::<Vec<f32>>()
        };
        let off = difference(&all(&one), &all(&other));
        println!("{method}: {off}");
        assert!(off <= bound, "{method}: {off}");
    }
}

#[test]
fn schedules_are_those_of_transformers() {
    let whole = golden("objectives/schedules.json");
    let set = json(&if whole.exists() {
        whole
    } else {
        golden("optimizers/schedules.json")
    });
    let (warmup_steps, total_steps) = (
        set["warmup_steps"].as_u64().unwrap(),
        set["total_steps"].as_u64().unwrap(),
    );
    let cases = set["schedules"].as_array().unwrap();
    assert!(cases.len() >= 18, "{}", cases.len());
    for case in cases {
        let number = |key: &str| case["args"][key].as_f64();
        let cycles = |usual| number("num_cycles").unwrap_or(usual);
        let steps = |key: &str| case["args"][key].as_u64();
        let curve = |key: &str, usual| {
            case["args"][key]
                .as_str()
                .map_or(usual, |word| rankine::terms::Term::parse(word).unwrap())
        };
        let lowest = number("min_lr").or(number("min_lr_rate")).unwrap_or(0.0);
        let course = match case["name"].as_str().unwrap() {
            "linear" => RateCourse::Linear,
            "constant_with_warmup" => RateCourse::Constant,
            "cosine" => RateCourse::Cosine {
                num_cycles: cycles(0.5),
                min: 0.0,
            },
            "cosine_with_min_lr" => RateCourse::Cosine {
                num_cycles: cycles(0.5),
                min: lowest,
            },
            "cosine_warmup_with_min_lr" => RateCourse::CosineAhead {
                num_cycles: cycles(0.5),
                min: lowest,
                warmup_start: number("warmup_lr_rate"),
            },
            "cosine_with_restarts" => RateCourse::CosineWithRestarts {
                num_cycles: cycles(1.0),
            },
            "polynomial" => RateCourse::Polynomial {
                power: number("power").unwrap_or(1.0),
                end: number("lr_end").unwrap_or(1e-7),
            },
            "inverse_sqrt" => RateCourse::InverseSqrt {
                timescale: number("timescale"),
            },
            "warmup_stable_decay" => RateCourse::WarmupStableDecay(WarmupStableDecay {
                num_decay_steps: steps("num_decay_steps"),
                num_stable_steps: steps("num_stable_steps"),
                warmup_type: curve("warmup_type", Curve::Linear),
                decay_type: curve("decay_type", Curve::Cosine),
                min: number("min_lr_ratio").unwrap_or(0.0),
                num_cycles: cycles(0.5),
            }),
            other => panic!("{other}"),
        };
        let schedule = Schedule {
            peak: 1.0,
            course,
            warmup_steps,
            total_steps,
        };
        for (step, expected) in case["lr"].as_array().unwrap().iter().enumerate() {
            let (ours, theirs) = (schedule.lr_at(step as u64), expected.as_f64().unwrap());
            assert!(
                (ours - theirs).abs() < 1e-12,
                "{} {}, step {step}: {ours}, expected {theirs}",
                case["name"],
                case["args"]
            );
        }
    }
}

/// No schedule makes a rate that is not a number, however its steps lie.
#[test]
fn no_schedule_has_a_rate_that_is_none() {
    let stages = |num_decay_steps, num_stable_steps| {
        RateCourse::WarmupStableDecay(WarmupStableDecay {
            num_decay_steps,
            num_stable_steps,
            warmup_type: Curve::OneMinusSqrt,
            decay_type: Curve::OneMinusSqrt,
            min: 0.0,
            num_cycles: 0.5,
        })
    };
    let ahead = |warmup_start| RateCourse::CosineAhead {
        num_cycles: 0.5,
        min: 0.1,
        warmup_start,
    };
    let courses = [
        RateCourse::Polynomial {
            power: 0.5,
            end: 0.0,
        },
        RateCourse::InverseSqrt { timescale: None },
        RateCourse::InverseSqrt {
            timescale: Some(1.0),
        },
        RateCourse::CosineWithRestarts { num_cycles: 2.5 },
        RateCourse::ScheduleFree,
        ahead(None),
        ahead(Some(0.5)),
        stages(None, None),
        stages(Some(0), None),
        stages(Some(100), None),
        stages(Some(2), Some(100)),
    ];
    for course in courses {
        for (warmup_steps, total_steps) in [(0, 1), (1, 1), (5, 5), (9, 4), (0, 40), (1, 40)] {
            let schedule = Schedule {
                peak: 1e-3,
                course,
                warmup_steps,
                total_steps,
            };
            let rates: Vec<f64> = (0..total_steps + 2)
                .map(|taken| schedule.lr_at(taken))
                .collect();
            assert!(
                rates.iter().all(|rate| (0.0..=1.001e-3).contains(rate)),
                "{course:?}, {warmup_steps}: {rates:?}"
            );
        }
    }
}

/// `SmolLM2-135M` with an adapter of rank 16 on every projection.
fn smollm2(rule: Rule) -> Load {
    let rope = RopeSpec::new(64, 1e5, RopeScaling::Default);
    let layer = LayerSpec::new(GroupedSpec::new([9, 3, 64], rope), GatedSpec::new(1536));
    let spec = DecoderSpec {
        tied_head: true,
        context: 8192,
        ..DecoderSpec::new(49152, 576, vec![layer; 30])
    };
    Load {
        trained: Trained::adapter(&LoraConfig::all_linear(16, 32.0), &spec).unwrap(),
        spec,
        storage: ModelDtype::Float32.into(),
        rule,
        dropout: 0.0,
        noise: false,
        rows: MicroBatchRows::dense(1, 512),
        accumulated: 1,
        evaluation: None,
        purpose: Purpose::Run,
        place: MemoryPlace::Processor { threads: 2 },
        teacher: None,
    }
}

#[test]
fn states_of_8_bits_take_a_quarter_of_the_memory_and_a_little() {
    let parts = |rule| smollm2(rule).parts(Memory::RECOMPUTE);
    let whole = parts(Rule::AdamW).moments_bytes;
    assert_eq!(whole, 8 * 4_884_480);
    let share = |rule| parts(rule).moments_bytes as f64 / whole as f64;
    let eight = share(Rule::AdamW8bit {
        min_8bit_size: 4096,
    });
    println!("8 bits: {eight}");
    // k_proj and v_proj have a B of 192 x 16 numbers, which are fewer than 4096 and keep 32 bits.
    assert!((0.28..=0.29).contains(&eight), "{eight}");
    assert!((share(Rule::Lion) - 0.5).abs() < 1e-9);
    assert!(
        share(Rule::Lion8bit {
            min_8bit_size: 4096
        }) < 0.15
    );
    let (_, adafactor) = rules().remove(4);
    let Rule::Adafactor(with_momentum) = adafactor else {
        panic!("{adafactor:?}")
    };
    assert!(
        share(Rule::Adafactor(Adafactor {
            beta1: None,
            ..with_momentum
        })) < 0.05
    );
    assert!(
        (share(rules().remove(5).1) - 0.5).abs() < 1e-9,
        "Muon has one momentum"
    );
    assert!((share(Rule::ScheduleFree) - 1.0).abs() < 1e-9);
}

/// What is kept of a weight is what the plan counts.
#[test]
fn states_that_are_saved_are_those_that_are_counted() {
    let shapes = [vec![64, 70], vec![17], vec![16, 72], vec![4096], vec![4095]];
    let names: Vec<String> = (0..shapes.len()).map(|index| format!("w{index}")).collect();
    let weights: Vec<Tensor<1>> = shapes
        .iter()
        .map(|shape| tensor(&vec![0.5; shape.iter().product()]))
        .collect();
    for (name, rule) in rules() {
        for rule in [
            rule,
            if name.ends_with("8bit") {
                Rule::AdamW8bit {
                    min_8bit_size: 4096,
                }
            } else {
                rule
            },
        ] {
            let optimizer = ByShape::of_weights(
                OptimizerConfig { rule, adamw: ADAMW },
                &shapes,
                &weights,
                &Device::flex(),
            );
            let bytes: usize = optimizer
                .saved(&names)
                .iter()
                .map(|saved| optimizer.bytes(saved).len())
                .sum();
            let counted: u64 = shapes
                .iter()
                .map(|shape| rule.state_bytes(shape, false))
                .sum();
            assert_eq!(bytes as u64, counted, "{name}");
        }
    }
}

const RUN: &str = "base_model: base
datasets:
  - path: rows.parquet
    format: text
adapter:
  r: 4
  dropout: 0.1
training:
  sequence_len: 64
  max_steps: 8
  micro_batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 2e-2
  warmup_steps: 2
  weight_decay: 0.1
evaluation:
  val_set_size: 4
  eval_steps: 2
output:
  save_steps: 1
  save_total_limit: 100
";

/// Everything of a run that must not depend on how often it was stopped.
fn outcome(desk: &Desk, run: &str) -> (Vec<u8>, Vec<u8>, Vec<u8>, Vec<Value>) {
    let metrics = desk.read_text(&format!("{run}/metrics.jsonl"));
    let metrics = metrics.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in ["tokens_per_second", "peak_memory_bytes"] {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    });
    let product = if desk.path(run).join("adapter").exists() {
        "adapter/adapter_model"
    } else {
        "model/model"
    };
    let [best, last] = ["", "checkpoints/step-8/"]
        .map(|folder| desk.read(&format!("{run}/{folder}{product}.safetensors")));
    (
        best,
        last,
        desk.read(&format!("{run}/checkpoints/step-8/optimizer.safetensors")),
        metrics.collect(),
    )
}

fn back_to(desk: &Desk, step: u64) {
    let _ = fs::remove_dir_all(desk.path("again"));
    copy_folder(&desk.path("alone"), &desk.path("again"));
    fs::remove_file(desk.path("again/README.md")).unwrap();
    for later in step + 1..=8 {
        fs::remove_dir_all(desk.path(&format!("again/checkpoints/step-{later}"))).unwrap();
    }
}

/// Every optimizer with its own keys, and what else its state has to go through.
const RUNS: [(&str, &[&str]); 11] = [
    ("adamw_8bit", &["training.min_8bit_size=64"]),
    (
        "paged_adamw_8bit",
        &[
            "training.min_8bit_size=64",
            "adapter.method=qlora",
            "adapter.use_dora=true",
        ],
    ),
    (
        "lion",
        &[
            "training.lr_scheduler=polynomial",
            "training.power=2",
            "training.learning_rate=1e-3",
        ],
    ),
    (
        "lion_8bit",
        &[
            "training.min_8bit_size=64",
            "training.lr_scheduler=inverse_sqrt",
        ],
    ),
    (
        "adafactor",
        &[
            "training.beta1=0.9",
            "training.scale_parameter=true",
            "adapter.lora_bias=true",
        ],
    ),
    (
        "adafactor",
        &[
            "training.relative_step=true",
            "training.learning_rate=",
            "training.warmup_steps=",
        ],
    ),
    (
        "muon",
        &[
            "training.lr_scheduler=warmup_stable_decay",
            "adapter.modules_to_save=[embed_tokens]",
        ],
    ),
    (
        "muon",
        &[
            "adapter=",
            "adapter.method=full",
            "training.lr_scheduler=cosine_with_restarts",
            "training.num_cycles=2",
        ],
    ),
    ("schedule_free_adamw", &["adapter.init_lora_weights=pissa"]),
    (
        "schedule_free_adamw",
        &["adapter=", "adapter.method=full", "training.warmup_steps=0"],
    ),
    (
        "schedule_free_adamw",
        &[
            "training.loraplus_lr_ratio=8",
            "training.max_grad_norm=0.1",
            "training.on_nonfinite=skip",
        ],
    ),
];

#[test]
fn a_run_of_every_optimizer_goes_on_to_the_same_bytes() {
    for (optimizer, overrides) in RUNS {
        let desk = Desk::new();
        desk.write("recipe.yaml", RUN);
        let word = format!("training.optimizer={optimizer}");
        let train = [
            &["train", "recipe.yaml", "output_dir=alone", &word],
            overrides,
        ]
        .concat();
        desk.run(&train).says(optimizer, 0, &[]);
        let alone = outcome(&desk, "alone");
        let losses: Vec<f64> = alone
            .3
            .iter()
            .filter_map(|line| line["eval_loss"].as_f64())
            .collect();
        assert!(
            losses[losses.len() - 1] < losses[0],
            "{optimizer} learns: {losses:?}"
        );
        for step in [1, 4, 7] {
            back_to(&desk, step);
            desk.run(&["resume", "again"]).says(
                optimizer,
                0,
                &[&format!("going on after step {step}")],
            );
            assert!(
                outcome(&desk, "again") == alone,
                "{optimizer} {overrides:?}, from step {step}"
            );
        }
    }
}

/// What a checkpoint of a schedule-free run has, and that the score of a step is that of its
/// average.
#[test]
fn a_schedule_free_run_scores_and_saves_its_average() {
    let desk = Desk::new();
    desk.write("recipe.yaml", RUN);
    desk.run(&[
        "train",
        "recipe.yaml",
        "output_dir=alone",
        "training.optimizer=schedule_free_adamw",
    ])
    .says("a run", 0, &[]);
    let open = |path: &str| {
        Archive::open(&desk.path(&format!("alone/checkpoints/step-6/{path}"))).unwrap()
    };
    let (adapter, state) = (
        open("adapter/adapter_model.safetensors"),
        open("optimizer.safetensors"),
    );
    let mut furthest = 0.0_f32;
    for name in adapter.shapes().keys() {
        let of_state = |prefix: &str| {
            let found = state.shapes().into_keys().find(|key| {
                let weight = name.strip_prefix("base_model.model.").unwrap();
                key.starts_with(prefix) && key.ends_with(weight)
            });
            state
                .read_f32(&found.unwrap_or_else(|| panic!("{prefix}{name}")))
                .unwrap()
                .unwrap()
        };
        let (point, fast) = (of_state("training_point."), of_state("fast_sequence."));
        let saved = adapter.read_f32(name).unwrap().unwrap();
        let average: Vec<f32> = point
            .iter()
            .zip(&fast)
            .map(|(y, z)| y + (z - y) * (1.0 - 1.0 / 0.9_f32))
            .collect();
        assert!(difference(&saved, &average) <= 1e-6, "{name}");
        furthest = furthest.max(difference(&saved, &point));
    }
    assert!(
        furthest > 1e-4,
        "the average is not where gradients are taken: {furthest}"
    );
    let lines = desk.read_text("alone/metrics.jsonl");
    let scores: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of_step = |step: u64| {
        scores
            .iter()
            .find(|line| line["step"] == step && line["eval_loss"].is_f64())
            .unwrap()
    };
    let best = (2..=8).step_by(2).min_by(|a, b| {
        let loss = |step: &u64| of_step(*step)["eval_loss"].as_f64().unwrap();
        loss(a).total_cmp(&loss(b))
    });
    let ran = desk.run(&["eval", "alone", "--json"]);
    ran.says("eval", 0, &[]);
    let evaluated: Value = serde_json::from_str(&ran.stdout).unwrap();
    let (ours, expected) = (
        evaluated["total"]["adapter"]["loss"].as_f64(),
        of_step(best.unwrap())["eval_loss"].as_f64(),
    );
    let (ours, expected) = (
        ours.unwrap_or_else(|| panic!("{evaluated}")),
        expected.unwrap(),
    );
    assert!(
        (ours - expected).abs() <= 1e-9,
        "{ours}, expected {expected}"
    );
}

/// Embedding and head, norms and biases are updated by `AdamW`, whatever Muon does with matrices.
#[test]
fn muon_is_for_matrices_of_blocks() {
    let desk = Desk::new();
    desk.write("recipe.yaml", RUN);
    let words = [
        "adapter=",
        "adapter.method=full",
        "training.optimizer=muon",
        "training.max_steps=1",
        "training.warmup_steps=0",
    ];
    desk.run(&[&["train", "recipe.yaml", "output_dir=run"], &words[..]].concat())
        .says("a run", 0, &[]);
    let state = Archive::open(&desk.path("run/checkpoints/step-1/optimizer.safetensors")).unwrap();
    for name in state.shapes().into_keys() {
        let is_matrix = name.ends_with("_proj.weight");
        assert_eq!(name.starts_with("momentum."), is_matrix, "{name}");
        assert_eq!(name.contains("_moment."), !is_matrix, "{name}");
    }
}

#[test]
fn a_plan_counts_states_and_says_what_is_not_paged() {
    let desk = Desk::new();
    let plan = |word: &str| {
        let ran = desk.run(&["plan", "recipe.yaml", word]);
        ran.says(word, 0, &[]);
        ran.stdout + &ran.stderr
    };
    let said = plan("training.optimizer=paged_adamw_8bit");
    assert!(
        said.contains("`training.optimizer: paged_adamw_8bit` is `adamw_8bit` here"),
        "{said}"
    );
    assert!(
        said.contains("optimizer state") && said.contains("with `adamw`"),
        "{said}"
    );
    assert!(!plan("training.optimizer=adamw_8bit").contains("is `adamw_8bit` here"));
    let lines = plan("training.optimizer=adamw_bnb_8bit");
    assert!(
        lines.contains("adamw_8bit") && lines.contains("min_8bit_size"),
        "{lines}"
    );
    let lines = plan("training.optimizer=lion");
    assert!(
        lines.contains("0.99") && !lines.contains("adam_epsilon"),
        "{lines}"
    );
}

/// Keys that would change nothing are faults, with what they go with.
#[test]
fn a_key_of_another_optimizer_or_schedule_is_refused() {
    let desk = Desk::new();
    let cases: [(&[&str], &[&str]); 16] = [
        (
            &["training.momentum=0.9"],
            &["training.momentum goes with `optimizer: muon` only, found `adamw`"],
        ),
        (
            &["training.optimizer=lion", "training.adam_epsilon=1e-6"],
            &["training.adam_epsilon goes with `optimizer` `adamw`, `adamw_8bit`"],
        ),
        (
            &["training.optimizer=adafactor", "training.adam_beta1=0.8"],
            &["training.adam_beta1 goes with", "found `adafactor`"],
        ),
        (
            &["training.optimizer=adamw", "training.min_8bit_size=1"],
            &["`adamw_8bit` or `lion_8bit` only"],
        ),
        (&["training.beta1=0.9"], &["`optimizer: adafactor` only"]),
        (
            &["training.optimizer=muon", "training.clip_threshold=2"],
            &["`optimizer: adafactor` only, found `muon`"],
        ),
        (
            &["training.power=2"],
            &["training.power goes with `lr_scheduler: polynomial` only, found `cosine`"],
        ),
        (
            &["training.lr_scheduler=linear", "training.num_cycles=2"],
            &["training.num_cycles goes with", "found `linear`"],
        ),
        (
            &["training.lr_scheduler=polynomial", "training.lr_end=1"],
            &["training.lr_end is 1, the learning rate begins at 0.0002"],
        ),
        (
            &[
                "training.lr_scheduler=cosine_with_min_lr",
                "training.min_lr=1e-3",
            ],
            &["training.min_lr is 0.001"],
        ),
        (
            &[
                "training.lr_scheduler=cosine_with_min_lr",
                "training.min_lr=1e-5",
                "training.min_lr_rate=0.1",
            ],
            &["training.min_lr_rate does not go with `min_lr`"],
        ),
        (
            &[
                "training.optimizer=schedule_free_adamw",
                "training.lr_scheduler=cosine",
            ],
            &["averages in place of a schedule"],
        ),
        (
            &[
                "training.optimizer=schedule_free_adamw",
                "training.adam_beta1=0",
            ],
            &["needs a number above 0"],
        ),
        (
            &[
                "training.optimizer=schedule_free_adamw",
                "training.num_cycles=2",
            ],
            &["which has no schedule"],
        ),
        (
            &[
                "training.optimizer=adafactor",
                "training.relative_step=true",
                "training.learning_rate=1e-3",
            ],
            &["training.learning_rate does not go with `relative_step: true`"],
        ),
        (
            &["training.optimizer=adafactor", "training.warmup_init=true"],
            &["training.warmup_init goes with `relative_step: true` only"],
        ),
    ];
    for (overrides, parts) in cases {
        let ran = desk.run(&[&["check", "recipe.yaml"], overrides].concat());
        ran.says(&overrides.join(" "), 65, &[parts, &["hint: "]].concat());
    }
    for (word, parts) in [
        ("adamw_8", &["did you mean `adamw_8bit`?"][..]),
        (
            "sgd",
            &[
                "`sgd` is not supported yet",
                "valid now: `adamw`, `adamw_8bit`",
            ],
        ),
        ("Muon", &["did you mean `muon`?"]),
    ] {
        desk.run(&[
            "check",
            "recipe.yaml",
            &format!("training.optimizer={word}"),
        ])
        .says(word, 65, parts);
    }
    for word in [
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_bnb_8bit",
        "paged_adamw_32bit",
        "paged_lion_8bit",
        "lion_32bit",
    ] {
        desk.run(&[
            "check",
            "recipe.yaml",
            &format!("training.optimizer={word}"),
        ])
        .says(word, 0, &[]);
    }
    desk.run(&[
        "check",
        "recipe.yaml",
        "training.lr_scheduler=constant_with_warmup",
    ])
    .says("a synonym", 0, &[]);
}

/// A checkpoint of one optimizer is none of another.
#[test]
fn a_run_does_not_go_on_with_the_state_of_another_optimizer() {
    let desk = Desk::new();
    desk.write("recipe.yaml", RUN);
    desk.run(&[
        "train",
        "recipe.yaml",
        "output_dir=alone",
        "training.optimizer=lion",
    ])
    .says("a run", 0, &[]);
    back_to(&desk, 4);
    let lock = "again/recipe.lock.yaml";
    let text = desk.read_text(lock);
    let edited: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("adam_beta2"))
        .collect();
    desk.write(
        lock,
        edited
            .join("\n")
            .replace("optimizer: lion", "optimizer: adafactor")
            .replace("    adam_beta1: 0.9\n", ""),
    );
    let ran = desk.run(&["resume", "again", "--force"]);
    assert_ne!(ran.exit, 0, "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    println!("{}", ran.stderr);
}

/// Without its part of a checkpoint a schedule-free run would go on elsewhere.
#[test]
fn what_a_schedule_free_run_averages_by_is_a_part_of_its_state() {
    let desk = Desk::new();
    desk.write("recipe.yaml", RUN);
    desk.run(&[
        "train",
        "recipe.yaml",
        "output_dir=alone",
        "training.optimizer=schedule_free_adamw",
    ])
    .says("a run", 0, &[]);
    let alone = outcome(&desk, "alone");
    back_to(&desk, 4);
    let folder = desk.path("again/checkpoints/step-4");
    let state = desk.read_text("again/checkpoints/step-4/state.json");
    let mut state: Value = serde_json::from_str(&state).unwrap();
    assert!(
        state["average"]["weight_sum"].as_f64().unwrap() > 0.0,
        "{state}"
    );
    state["average"] = Value::Null;
    desk.write("again/checkpoints/step-4/state.json", state.to_string());
    fs::remove_file(Path::new(&folder).join("manifest.json")).unwrap();
    rankine::files::write_manifest(&folder).unwrap();
    desk.run(&["resume", "again"]).says("a resume", 0, &[]);
    assert!(outcome(&desk, "again") != alone);
}
