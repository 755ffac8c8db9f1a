//! Logits, gradients, 20 AdamW steps and files against transformers and PEFT (tests/golden, made by
//! reference scripts).

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use common::*;
use rankine::adapter::{LoraConfig, Targets, attach, peft, tensors};
use rankine::data::TokenRow;
use rankine::files::safetensors::{Archive, Named};
use rankine::model::{Decoder, Folder, Storage};
use rankine::nn::lora::{Lora, Portion, Vector};
use rankine::nn::magnitude::Magnitude;
use rankine::nn::projection::Projection;
use rankine::ops::{Adapter, Mask, dropout, matmul};
use rankine::quant::{BlockSize, FourBitType, QuantFormat};
use rankine::terms::{AdapterVector, ModelDtype};
use rankine::train::{
    AdamW, AdamWConfig, Gradients, Memory, RateCourse, Schedule, StepConfig, forward_backward,
};

const COSINE: RateCourse = RateCourse::Cosine {
    num_cycles: 0.5,
    min: 0.0,
};
use serde_json::Value;

const LOGITS: f32 = 5e-5;
const GRADIENTS: f32 = 2e-5;
const STEP_LOSS: f64 = 5e-5;
const FINAL_WEIGHT: f32 = 5e-6;
/// Relative. Where a norm meets rows near 0, torch's own runs in f32 and f64 differ by 6.5e-4.
const GRAD_NORM: f64 = 1e-3;

const STEP: StepConfig = StepConfig {
    memory: Memory::RECOMPUTE,
    head_chunk_rows: 256,
    dropout: 0.0,
};

fn gradients_of(decoder: &Decoder, gradients: &Gradients, factor: f64) -> Vec<Named> {
    let gradients = gradients.clone().scaled(factor);
    tensors(decoder, &gradients.all())
}

fn compare(archive: &Archive, prefix: &str, ours: &[Named], bound: f32) -> f32 {
    let compared = ours.iter().map(|(key, shape, values)| {
        let name = format!("{prefix}.{key}");
        assert_eq!(archive.shape(&name), Some(shape.as_slice()), "{name}");
        let difference = difference(values, &archive.read_f32(&name).unwrap().unwrap());
        assert!(
            difference <= bound,
            "{name}: {difference}, expected at most {bound}"
        );
        difference
    });
    largest(compared)
}

/// Adapter logits, loss, gradients and the training curve of one adapter; returns the largest
/// differences of each.
fn check_adapter(
    name: &str,
    mut decoder: Decoder,
    adapter: &Path,
    case: &Path,
    batches: &Path,
    step: StepConfig,
) {
    let config = attach_peft(&mut decoder, adapter);
    let (archive, info) = (
        Archive::open(&case.join("golden.safetensors")).unwrap(),
        json(&case.join("golden.json")),
    );
    let data = Archive::open(batches).unwrap();
    let rows_of = |prefix, index| rows(&data, prefix, index);

    let first = rows_of("", None);
    let logits = logits_difference(
        &decoder,
        &first,
        &archive.read_f32("lora.logits").unwrap().unwrap(),
    );
    assert!(
        f64::from(logits) <= bound(&info, "lora_logits", LOGITS.into()),
        "{name}: adapter logits differ by {logits}"
    );

    let mut gradients = Gradients::default();
    let loss = forward_backward(&decoder, &batch(first), step, [0, 0], &mut gradients);
    let loss_difference =
        (loss.sum / loss.trained_tokens as f64 - info["lora_loss"].as_f64().unwrap()).abs();
    assert!(
        loss_difference <= bound(&info, "step_loss", STEP_LOSS),
        "{name}: loss differs by {loss_difference}"
    );
    let gradient = compare(
        &archive,
        "lora.grad",
        &gradients_of(&decoder, &gradients, 1.0 / loss.trained_tokens as f64),
        bound(&info, "grad", GRADIENTS.into()) as f32,
    );
    let expected = archive
        .shapes()
        .keys()
        .filter(|key| key.starts_with("lora.grad."))
        .count();
    assert_eq!(
        gradients_of(&decoder, &gradients, 1.0).len(),
        expected,
        "{name}: adapters"
    );

    let curve = train(&mut decoder, step, &info, |index| {
        batch(rows_of("train.", Some(index)))
    });
    // The families' sets, and of the variants some, have the weights after the last step.
    let has_final = archive
        .shapes()
        .keys()
        .any(|key| key.starts_with("lora.final."));
    assert!(
        has_final || FAMILIES.iter().all(|family| !name.starts_with(family)),
        "{name}: no final weights in the set"
    );
    let final_weight = has_final.then(|| {
        compare(
            &archive,
            "lora.final",
            &tensors(&decoder, &decoder.numbers()),
            bound(&info, "final_weight", FINAL_WEIGHT.into()) as f32,
        )
    });
    let final_weight = final_weight.map_or("not in this set".to_owned(), |difference| {
        format!("{difference:.1e}")
    });
    check_folder(name, &decoder, &config, adapter);
    println!(
        "{name}: logits {logits:.1e} gradients {gradient:.1e} step loss {curve:.1e} final \
        {final_weight}"
    );
}

/// 20 steps as `golden.json` describes them; returns the largest difference of a step's loss.
fn train(
    decoder: &mut Decoder,
    step: StepConfig,
    info: &Value,
    batch_of: impl Fn(usize) -> rankine::data::Batch,
) -> f64 {
    let log = info["train"].as_array().unwrap();
    let loraplus_lr_ratio = info["loraplus_lr_ratio"].as_f64().unwrap_or(1.0);
    let adamw = AdamWConfig {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        loraplus_lr_ratio,
    };
    let schedule = Schedule {
        peak: 1e-3,
        course: COSINE,
        warmup_steps: 3,
        total_steps: log.len() as u64,
    };
    let mut optimizer = AdamW::new(adamw, decoder);
    let mut largest: f64 = 0.0;
    for (taken, entry) in log.iter().enumerate() {
        let mut gradients = Gradients::default();
        let loss = forward_backward(decoder, &batch_of(taken % 4), step, [0, 0], &mut gradients);
        let mean = 1.0 / loss.trained_tokens as f64;
        let gradients = gradients.scaled(mean);
        let norm = gradients.norm();
        let expected = |key: &str| entry[key].as_f64().unwrap();
        let difference = (loss.sum * mean - expected("loss")).abs();
        assert!(
            difference <= bound(info, "step_loss", STEP_LOSS),
            "step {taken}: loss differs by {difference}"
        );
        assert!(
            (norm - expected("grad_norm")).abs() <= GRAD_NORM * norm.max(1.0),
            "step {taken}: norm {norm}"
        );
        let learning_rate = schedule.lr_at(taken as u64);
        assert!(
            (learning_rate - expected("lr")).abs() <= 1e-12,
            "step {taken}: learning rate {learning_rate}"
        );
        assert!(
            optimizer.update(decoder, gradients.clipped(norm, 1.0), learning_rate),
            "step {taken}"
        );
        largest = largest.max(difference);
    }
    largest
}

/// Our adapter folder has every key of PEFT's, with equal values but for the version and the order
/// of lists.
fn check_folder(name: &str, decoder: &Decoder, config: &LoraConfig, theirs: &Path) {
    let folder = tempfile::tempdir().unwrap();
    peft::write(folder.path(), decoder, config, "../model").unwrap();
    let (ours, theirs_config) = (
        json(&folder.path().join("adapter_config.json")),
        json(&theirs.join("adapter_config.json")),
    );
    let sorted = |value: &Value| match value.as_array() {
        Some(items) => {
            let mut items: Vec<String> = items.iter().map(Value::to_string).collect();
            items.sort();
            Value::from(items)
        }
        None => value.clone(),
    };
    for (key, value) in theirs_config.as_object().unwrap() {
        // Of a base with experts PEFT writes an empty list.
        let is_nothing =
            |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let equal = match (value.as_f64(), ours[key].as_f64()) {
            _ if key == "target_parameters" && is_nothing(value) => is_nothing(&ours[key]),
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => sorted(value) == sorted(&ours[key]),
        };
        assert!(
            ours.get(key).is_some()
                && (equal || ["peft_version", "inference_mode"].contains(&key.as_str())),
            "{name}: `{key}` is {}, expected {value}",
            ours[key]
        );
    }
    let shapes = |folder: &Path| {
        Archive::open(&folder.join("adapter_model.safetensors"))
            .unwrap()
            .shapes()
    };
    assert_eq!(shapes(folder.path()), shapes(theirs), "{name}: tensors");
    let again = peft::read_config(folder.path()).unwrap();
    assert_eq!(again.vector, config.vector);
    let read = peft::read_numbers(folder.path(), &again, &decoder.spec.modules()).unwrap();
    // Maps of one parameter have one A.
    let is_stacked = !config.target_parameters.is_empty();
    let tensors = read
        .values()
        .flatten()
        .filter(|numbers| !numbers.is_empty())
        .count();
    assert!(
        is_stacked || tensors == decoder.numbers().len(),
        "{name}: {tensors} tensors are read back"
    );
}

#[test]
fn base_logits_equal_transformers() {
    for family in FAMILIES {
        let folder = golden(&format!("archs/{family}"));
        let archive = Archive::open(&folder.join("golden.safetensors")).unwrap();
        let (rows, expected) = (
            rows(&archive, "", None),
            archive.read_f32("logits").unwrap().unwrap(),
        );
        let most = bound(&json(&folder.join("golden.json")), "logits", LOGITS.into());
        let models = vec![
            load(&folder.join("model")),
            load_with_config(&folder.join("model"), &folder.join("config_v4.json")),
        ];
        for (layout, model) in ["transformers 5", "transformers 4"].iter().zip(models) {
            let difference = logits_difference(&model, &rows, &expected);
            println!("{family}, config of {layout}: logits {difference:.1e}");
            assert!(
                f64::from(difference) <= most,
                "{family}, config of {layout}: {difference}"
            );
        }
    }
}

#[test]
fn adapters_train_as_in_peft() {
    for family in FAMILIES {
        for (memory, head_chunk_rows) in [(Memory::RECOMPUTE, 256), (Memory::KEEP, 3)] {
            let folder = golden(&format!("archs/{family}"));
            let step = StepConfig {
                memory,
                head_chunk_rows,
                ..STEP
            };
            let name = format!("{family}, {memory:?}, head chunk {head_chunk_rows}");
            check_adapter(
                &name,
                load(&folder.join("model")),
                &folder.join("adapter"),
                &folder,
                &folder.join("golden.safetensors"),
                step,
            );
        }
    }
}

#[test]
fn lora_variants_train_as_in_peft() {
    let llama = golden("archs/llama");
    for variant in [
        "rslora",
        "patterns",
        "layers_to_transform",
        "regex_targets",
        "all_linear",
        "loraplus",
        "dora",
        "lora_bias",
    ] {
        let case = llama.join("variants").join(variant);
        for (memory, head_chunk_rows) in [(Memory::RECOMPUTE, 256), (Memory::KEEP, 3)] {
            let step = StepConfig {
                memory,
                head_chunk_rows,
                ..STEP
            };
            check_adapter(
                variant,
                load(&llama.join("model")),
                &case.join("adapter"),
                &case,
                &llama.join("golden.safetensors"),
                step,
            );
        }
    }
}

/// Adapters of the stacked parameters of routed experts, with which go those of the attention's
/// queries.
#[test]
fn adapters_of_expert_parameters_train_as_in_peft() {
    for (family, _, folder, case) in
        variants(&OF_EXPERTS).filter(|(_, variant, ..)| *variant == "target_parameters")
    {
        for memory in [Memory::RECOMPUTE, Memory::KEEP] {
            check_adapter(
                &format!("target_parameters of {family}, {memory:?}"),
                load(&folder.join("model")),
                &case.join("adapter"),
                &case,
                &folder.join("golden.safetensors"),
                StepConfig { memory, ..STEP },
            );
        }
    }
}

/// Adapters of each expert's own modules, as PEFT wrote them with transformers 4.
#[test]
fn adapters_of_single_experts_compute_as_in_peft() {
    for (family, _, folder, case) in
        variants(&OF_EXPERTS).filter(|(_, variant, ..)| *variant == "per_expert")
    {
        let (mut decoder, info) = (load(&folder.join("model")), json(&case.join("golden.json")));
        let config = attach_peft(&mut decoder, &case.join("adapter"));
        let rows = rows(
            &Archive::open(&folder.join("golden.safetensors")).unwrap(),
            "",
            None,
        );
        let expected = Archive::open(&case.join("golden.safetensors"))
            .unwrap()
            .read_f32("merged.logits")
            .unwrap()
            .unwrap();
        let difference = logits_difference(&decoder, &rows, &expected);
        let mut gradients = Gradients::default();
        let loss = forward_backward(&decoder, &batch(rows), STEP, [0, 0], &mut gradients);
        let of_loss =
            (loss.sum / loss.trained_tokens as f64 - info["lora_loss"].as_f64().unwrap()).abs();
        println!("{family}, per_expert: logits {difference:.1e}, loss {of_loss:.1e}");
        assert!(
            difference <= LOGITS && of_loss <= STEP_LOSS,
            "{family}: {difference}, {of_loss}"
        );
        check_folder(family, &decoder, &config, &case.join("adapter"));
    }
}

/// What transformers adds to the loss where `output_router_logits` says so, and the gradient of it:
/// that of the loss as it is computed.
#[test]
fn the_load_balancing_loss_of_experts_is_that_of_transformers() {
    let folder = golden("archs/mixtral");
    let (mut decoder, info) = (
        load(&folder.join("model")),
        json(&folder.join("golden.json")),
    );
    let rows = rows(
        &Archive::open(&folder.join("golden.safetensors")).unwrap(),
        "",
        None,
    );
    decoder.spec.router_aux_loss_coef = info["router_aux"]["coef"].as_f64().unwrap();
    attach(&mut decoder, &lora(2, 4.0), 1, None).unwrap();
    let step = |decoder: &Decoder, memory| {
        let mut gradients = Gradients::default();
        let loss = forward_backward(
            decoder,
            &batch(rows.clone()),
            StepConfig { memory, ..STEP },
            [0, 0],
            &mut gradients,
        );
        (
            loss.sum / loss.trained_tokens as f64,
            gradients.scaled(1.0 / loss.trained_tokens as f64).all(),
        )
    };
    let difference = (step(&decoder, Memory::KEEP).0
        - info["router_aux"]["loss_with_aux"].as_f64().unwrap())
    .abs();
    println!("mixtral, loss with that of the router: {difference:.1e}");
    assert!(difference <= STEP_LOSS, "{difference}");

    // A coefficient with which it is most of the gradient, and B that is not 0.
    decoder.spec.router_aux_loss_coef = 5.0;
    attach(
        &mut decoder,
        &LoraConfig {
            init_lora_weights: false,
            ..lora(2, 4.0)
        },
        1,
        None,
    )
    .unwrap();
    let (_, gradients) = step(&decoder, Memory::KEEP);
    let (_, recomputed) = step(&decoder, Memory::RECOMPUTE);
    let numbers = |rows: &[burn::tensor::Tensor<1>]| {
        rows.iter()
            .flat_map(|row| row.to_data().iter::<f64>().collect::<Vec<_>>())
            .collect::<Vec<f64>>()
    };
    assert!(
        numbers(&gradients) == numbers(&recomputed),
        "kept and recomputed"
    );
    let size: f64 = numbers(&gradients)
        .iter()
        .map(|gradient| gradient * gradient)
        .sum();
    // Along the gradient the loss grows by its square, as long as no other expert is chosen.
    let moved = |by: f64| {
        let mut moved = decoder.clone();
        let weights = moved
            .numbers()
            .into_iter()
            .zip(&gradients)
            .map(|(weight, of)| weight + of.clone().mul_scalar(by))
            .collect();
        moved.put(weights);
        step(&moved, Memory::KEEP).0
    };
    let by = 2e-3 / size.sqrt();
    let slope = (moved(by) - moved(-by)) / (2.0 * by);
    println!("slope along the gradient {slope:.5}, its square {size:.5}");
    assert!((slope / size - 1.0).abs() < 5e-3, "{slope} and {size}");
}

#[test]
fn adapters_of_embedding_and_head_train_as_in_peft() {
    for (family, variant, folder, case) in variants(&TABLES) {
        for (memory, head_chunk_rows) in [(Memory::RECOMPUTE, 256), (Memory::KEEP, 3)] {
            let step = StepConfig {
                memory,
                head_chunk_rows,
                ..STEP
            };
            let name = format!("{variant} on {family}, {memory:?}, head chunk {head_chunk_rows}");
            let base = load(&folder.join("model"));
            check_adapter(
                &name,
                base,
                &case.join("adapter"),
                &case,
                &folder.join("golden.safetensors"),
                step,
            );
        }
    }
}

/// The base in NF4, packed by us and, where there is one, as transformers saved it packed.
#[test]
fn adapters_train_on_packed_bases_as_in_peft() {
    for (name, double_quant) in [("llama_nf4", false), ("llama_nf4_double", true)] {
        let case = golden(&format!("quant/{name}"));
        let (golden_file, adapter) = (case.join("golden.safetensors"), case.join("adapter"));
        let form = QuantFormat::FourBit {
            kind: FourBitType::Nf4,
            block_size: BlockSize::DEFAULT,
            double_quant,
        };
        let storage = Storage {
            form: Some(form),
            ..ModelDtype::Auto.into()
        };
        let base = Folder::open(&golden("archs/llama/model")).unwrap();
        let packed = || base.load(storage, &Device::flex(), &|_| {}).unwrap();
        let saved = double_quant.then(|| load(&case.join("model")));
        let archive = Archive::open(&golden_file).unwrap();
        let (rows, expected) = (
            rows(&archive, "", None),
            archive.read_f32("logits").unwrap().unwrap(),
        );
        let by_us = std::iter::once(("packed by us", packed()));
        for (source, decoder) in by_us.chain(saved.map(|saved| ("packed before", saved))) {
            let difference = logits_difference(&decoder, &rows, &expected);
            println!("{name}, {source}: logits of the base {difference:.1e}");
            assert!(difference <= LOGITS, "{name}, {source}: {difference}");
            check_adapter(
                &format!("quant/{name}, {source}"),
                decoder,
                &adapter,
                &case,
                &golden_file,
                STEP,
            );
        }
        let keep = StepConfig {
            memory: Memory::KEEP,
            head_chunk_rows: 3,
            ..STEP
        };
        check_adapter(
            &format!("quant/{name}, kept"),
            packed(),
            &adapter,
            &case,
            &golden_file,
            keep,
        );
    }
}

/// PEFT's magnitudes at the start are norms of weights, and so are ours; on numbers and on what is
/// packed, a fresh adapter changes nothing.
#[test]
fn fresh_magnitudes_are_norms() {
    let case = golden("archs/llama/variants/dora");
    let base = Folder::open(&golden("archs/llama/model")).unwrap();
    let config = peft::read_config(&case.join("adapter")).unwrap();
    let saved = peft::read_numbers(&case.join("adapter"), &config, &base.spec.modules()).unwrap();
    // Its magnitudes are of the moment before B was drawn.
    let without = |(module, [a, b]): (&String, &[Vec<f32>; 2])| {
        (module.clone(), [a.clone(), vec![0.0; b.len()]])
    };
    let without = saved
        .iter()
        .filter(|(name, _)| !name.ends_with("vector"))
        .map(without)
        .collect();
    let mut decoder = load(&golden("archs/llama/model"));
    attach(&mut decoder, &config, 0, Some(&without)).unwrap();
    for (module, lora) in decoder.adapters() {
        let ours: Vec<f32> = lora.magnitude().unwrap().vector.to_data().iter().collect();
        assert!(
            difference(&ours, &saved[&format!("{module}.lora_magnitude_vector")][0]) < 1e-6,
            "{module}"
        );
    }
    for form in [None, Some(QuantFormat::QLORA), Some(QuantFormat::Int8)] {
        let plain = base
            .load(
                Storage {
                    form,
                    ..ModelDtype::Auto.into()
                },
                &Device::flex(),
                &|_| {},
            )
            .unwrap();
        let mut adapted = plain.clone();
        attach(
            &mut adapted,
            &LoraConfig {
                vector: Some(AdapterVector::Magnitude),
                ..lora(4, 8.0)
            },
            3,
            None,
        )
        .unwrap();
        let batch = batch(rows(
            &Archive::open(&golden("archs/llama/golden.safetensors")).unwrap(),
            "",
            None,
        ));
        assert!(
            difference(&logits(&adapted, &batch), &logits(&plain, &batch)) < 1e-6,
            "{form:?}"
        );
        assert_eq!(logits(&adapted, &batch), logits(&adapted.settled(), &batch));
    }
}

/// PEFT drops features of the input for both parts that the magnitude scales, and of what they are
/// added to none: the gradients are those of that formula, on one tape of plain operations.
#[test]
fn dropout_of_scaled_outputs_is_as_in_peft() {
    let [tokens, inputs, outputs, rank] = [7, 12, 5, 2];
    let drawn = |seed: u64, shape: [usize; 2]| {
        let number = |index| {
            rankine::keyed_random::unit(rankine::keyed_random::mix(
                seed ^ rankine::keyed_random::mix(index),
            )) as f32
                - 0.5
        };
        Tensor::<2>::from_data(
            TensorData::new(
                (0..(shape[0] * shape[1]) as u64)
                    .map(number)
                    .collect::<Vec<_>>(),
                shape,
            ),
            &Device::flex(),
        )
    };
    let weight = drawn(1, [inputs, outputs]);
    let mask = Mask {
        tokens: (0..tokens as u64).collect(),
        site: 3,
        probability: 0.4,
    };
    let leaf = |tensor: Tensor<2>| tensor.autodiff().require_grad();
    let (x, a, b, m) = (
        drawn(2, [tokens, inputs]),
        drawn(3, [inputs, rank]),
        drawn(4, [rank, outputs]),
        drawn(5, [1, outputs]) + 1.0,
    );
    let upstream = drawn(6, [tokens, outputs]);

    let (x1, a1, b1, m1) = (
        leaf(x.clone()),
        leaf(a.clone()),
        leaf(b.clone()),
        leaf(m.clone()),
    );
    let dropped = dropout(x1.clone(), &mask);
    let change = matmul(a.clone(), b.clone()).mul_scalar(1.5);
    let norms = (weight.clone() + change).powi_scalar(2).sum_dim(0).sqrt();
    let scale = m1.clone() / norms; // [1, outputs], the norm no part of the tape
    let base = matmul(x1.clone(), weight.clone());
    let extra = (scale.clone() - 1.0) * matmul(dropped.clone(), weight.clone())
        + scale * matmul(matmul(dropped, a1.clone()), b1.clone()).mul_scalar(1.5);
    let theirs = base + extra;

    let (x2, a2, b2) = (leaf(x), leaf(a.clone()), leaf(b.clone()));
    let adapter = Adapter { a, b, scale: 1.5 };
    let mut magnitude = Magnitude::new(&weight.clone().into(), adapter, None);
    magnitude.vector = m.reshape([-1]).autodiff().require_grad();
    let m2 = magnitude.vector.clone();
    let lora = Lora {
        a: a2.clone(),
        b: b2.clone(),
        scale: 1.5,
        portion: Portion::Whole,
        vector: Some(Box::new(Vector::Magnitude(magnitude))),
        initial: None,
    };
    let projection = Projection {
        name: String::new(),
        is_stored_so: false,
        weight: weight.into(),
        bias: None,
        trains: false,
        lora: Some(lora),
    };
    let ours = projection
        .forward(x2.clone().unsqueeze(), Some(&mask))
        .reshape([tokens, outputs]);

    let values = |tensor: Tensor<2>| tensor.into_data().iter::<f32>().collect::<Vec<_>>();
    assert!(
        difference(
            &values(ours.clone().inner()),
            &values(theirs.clone().inner())
        ) < 1e-5
    );
    let [of_ours, of_theirs] = [ours, theirs].map(|y| (y * upstream.clone()).sum().backward());
    for (one, other) in [(x2, x1), (a2, a1), (b2, b1)] {
        assert!(
            difference(
                &values(one.grad(&of_ours).unwrap()),
                &values(other.grad(&of_theirs).unwrap())
            ) < 1e-5
        );
    }
    let of_m: Vec<f32> = m2.grad(&of_ours).unwrap().into_data().iter().collect();
    assert!(difference(&of_m, &values(m1.grad(&of_theirs).unwrap())) < 1e-5);
}

#[test]
fn a_fresh_adapter_changes_nothing_unless_b_is_drawn_too() {
    for init_lora_weights in [true, false] {
        let mut decoder = load(&golden("archs/llama/model"));
        attach(
            &mut decoder,
            &LoraConfig {
                init_lora_weights,
                ..lora(2, 4.0)
            },
            1,
            None,
        )
        .unwrap();
        let largest_of_b = decoder
            .adapters()
            .map(|(_, lora)| largest(lora.b.to_data().iter::<f32>().map(f32::abs)));
        let largest_of_b: Vec<f32> = largest_of_b.collect();
        assert!(
            largest_of_b
                .iter()
                .all(|b| (*b == 0.0) == init_lora_weights),
            "{init_lora_weights}: {largest_of_b:?}"
        );
    }
}

/// In PEFT a full name chooses its module in whatever layer, so with layers only theirs may be
/// written.
#[test]
fn all_linear_in_some_layers_is_written_as_the_modules_of_those_layers() {
    let mut decoder = load(&golden("archs/llama/model"));
    let targets = Targets {
        layers: Some(vec![1]),
        ..Targets::all_linear()
    };
    let config = LoraConfig {
        targets,
        ..lora(2, 4.0)
    };
    attach(&mut decoder, &config, 1, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    peft::write(folder.path(), &decoder, &config, "base").unwrap();
    let written = json(&folder.path().join("adapter_config.json"));
    assert!(written["layers_to_transform"].is_null());
    let modules = written["target_modules"].as_array().unwrap();
    assert_eq!(modules.len(), 7);
    assert!(
        modules
            .iter()
            .all(|module| module.as_str().unwrap().starts_with("model.layers.1."))
    );
    let names: Vec<String> = decoder
        .spec
        .projections()
        .into_iter()
        .map(|linear| linear.name)
        .collect();
    assert_eq!(
        peft::read_config(folder.path())
            .unwrap()
            .resolve(&names)
            .unwrap(),
        config.resolve(&names).unwrap()
    );
}

#[test]
fn a_bf16_checkpoint_computes_in_f32() {
    let case = golden("archs/llama/variants/bf16");
    let data = Archive::open(&golden("archs/llama/golden.safetensors")).unwrap();
    let expected = Archive::open(&case.join("golden.safetensors"))
        .unwrap()
        .read_f32("bf16_as_f32.logits")
        .unwrap()
        .unwrap();
    let difference = logits_difference(
        &load(&case.join("model")),
        &rows(&data, "", None),
        &expected,
    );
    println!("bf16_as_f32: logits {difference:.1e}");
    assert!(difference <= LOGITS, "{difference}");
}

#[test]
fn every_rope_equals_transformers() {
    let llama = golden("archs/llama");
    let archive = Archive::open(&llama.join("variants/rope/golden.safetensors")).unwrap();
    let rows = rows(&archive, "", None);
    for kind in [
        "default",
        "linear",
        "dynamic",
        "yarn",
        "yarn_attention_factor",
        "longrope",
        "theta_500k",
    ] {
        let model = load_with_config(
            &llama.join("model"),
            &llama.join(format!("variants/rope/config_{kind}.json")),
        );
        let difference = logits_difference(
            &model,
            &rows,
            &archive
                .read_f32(&format!("{kind}.logits"))
                .unwrap()
                .unwrap(),
        );
        println!("rope {kind}: logits {difference:.1e}");
        assert!(difference <= LOGITS, "{kind}: {difference}");
    }
}

/// Three documents end to end, of which transformers shows each only itself: positions that
/// restart, and a mask of blocks.
#[test]
fn documents_in_one_row_equal_transformers() {
    let llama = golden("archs/llama");
    let archive = Archive::open(&llama.join("variants/packed/golden.safetensors")).unwrap();
    let whole = |key: &str| -> Vec<i64> {
        archive
            .bytes(key)
            .unwrap()
            .as_chunks()
            .0
            .iter()
            .map(|value| i64::from_le_bytes(*value))
            .collect()
    };
    let (ids, labels, mut start) = (whole("input_ids"), whole("labels"), 0);
    let document = |length: i64| {
        let tokens = start..start + usize::try_from(length).unwrap();
        start = tokens.end;
        assert!(
            whole("position_ids")[tokens.clone()]
                .iter()
                .copied()
                .eq(0..length),
            "positions restart"
        );
        TokenRow {
            ids: ids[tokens.clone()]
                .iter()
                .map(|id| u32::try_from(*id).unwrap())
                .collect(),
            trained: labels[tokens].iter().map(|label| *label != -100).collect(),
        }
    };
    let batch = batch(whole("lengths").into_iter().map(document).collect());
    assert_eq!(batch.ids.len(), ids.len());
    let expected = archive.read_f32("logits").unwrap().unwrap();
    let decoder = load(&llama.join("model"));
    let difference = difference(&logits(&decoder, &batch), &expected);
    println!("packed: logits {difference:.1e}");
    assert!(difference <= LOGITS, "{difference}");
    let one = logits(
        &decoder,
        &common::batch(vec![TokenRow {
            trained: vec![true; ids.len()],
            ids: ids_of(&batch),
        }]),
    );
    assert!(
        common::difference(&one, &expected) > 1e-2,
        "as one document they are another text"
    );
}

fn ids_of(batch: &rankine::data::Batch) -> Vec<u32> {
    batch.ids.iter().map(|id| id.cast_unsigned()).collect()
}

#[test]
fn hidden_states_equal_transformers() {
    for family in ["llama", "gemma2", "deepseek_v3"] {
        let folder = golden(&format!("archs/{family}"));
        let archive = Archive::open(&folder.join("golden.safetensors")).unwrap();
        let (decoder, rows) = (load(&folder.join("model")), rows(&archive, "", None));
        let batch = batch(rows.clone());
        let frame = decoder.frame(&batch.lengths, None);
        let mut x = decoder.embed(ids(&batch), &frame);
        let mut largest: f32 = 0.0;
        let mut compare = |index: usize, ours: Vec<f32>| {
            let expected = archive
                .read_f32(&format!("hidden.{index}"))
                .unwrap()
                .unwrap();
            let difference = difference(&ours, &real_tokens(&rows, &expected, decoder.spec.width));
            assert!(
                difference <= LOGITS,
                "{family}, hidden {index}: {difference}"
            );
            largest = largest.max(difference);
        };
        for (index, block) in decoder.blocks.iter().enumerate() {
            compare(index, x.to_data().iter().collect());
            x = block.forward(x, &frame).stream;
        }
        // The last one is behind the final norm.
        compare(
            decoder.blocks.len(),
            decoder.head.norm.forward(x).into_data().iter().collect(),
        );
        println!("{family}: hidden states {largest:.1e}");
    }
}
