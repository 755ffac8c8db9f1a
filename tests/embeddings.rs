//! Encoders against transformers and PEFT (tests/golden/encoders), and vectors of texts against
//! sentence-transformers' loss (`tests/golden/objectives/embeddings_llama`): hidden rows, losses of
//! 20 steps, gradients of the first, weights after the last, and the same from micro-batches of any
//! size.

mod common;

use std::path::{Path, PathBuf};

use burn::tensor::{Int, Tensor, TensorData};
use common::*;
use rankine::adapter::{peft, tensors};
use rankine::data::Batch;
use rankine::files::safetensors::Archive;
use rankine::model::Decoder;
use rankine::objective::Contrastive;
use rankine::terms::{Pooling, Term};
use rankine::train::{
    AdamW, AdamWConfig, Gradients, Loss, Memory, RateCourse, Schedule, StepConfig, pooled_backward,
    vectors_of,
};
use serde_json::Value;

const ENCODERS: [&str; 4] = ["bert", "roberta", "xlm_roberta", "modernbert"];
/// Of hidden rows, whose numbers are about 1.
const HIDDEN: f32 = 2e-5;
/// Relative to 1 + loss.
const STEP_LOSS: f64 = 1e-5;
/// Of the norm of all gradients.
const GRADIENTS: f64 = 1e-4;
const GRAD_NORM: f64 = 1e-4;
const FINAL_WEIGHT: f32 = 5e-6;

const STEP: StepConfig = StepConfig {
    memory: Memory::KEEP,
    head_chunk_rows: 5,
    dropout: 0.0,
};

/// Rows of a step: the tokens of each text.
type Rows = Vec<Vec<Vec<u32>>>;

/// What trains on which rows.
struct Case {
    name: String,
    decoder: Decoder,
    loss: Contrastive,
    batches: Vec<Rows>,
    /// The log of 20 steps.
    log: Vec<Value>,
    archive: Archive,
    /// What files name before modules of this model: it has no head.
    stem: &'static str,
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn plain(pooling: &str, temperature: f64) -> Contrastive {
    Contrastive {
        pooling: Pooling::parse(pooling).unwrap(),
        temperature,
        symmetric: false,
        widths: Vec::new(),
    }
}

fn encoder(name: &str) -> Case {
    let folder = committed(&format!("encoders/{name}"));
    let info = json(&folder.join("golden.json"));
    let mut decoder = load(&folder.join("model"));
    attach_peft(&mut decoder, &folder.join("adapter"));
    let batches = info["pairs"].as_array().unwrap().iter();
    let batches = batches.map(|batch| {
        let pairs = batch.as_array().unwrap().iter();
        let texts = |pair: &Value| pair.as_array().unwrap().iter().map(ids).collect();
        pairs.map(texts).collect()
    });
    Case {
        name: name.to_owned(),
        stem: decoder.spec.names.stem,
        decoder,
        loss: plain(
            info["pooling"].as_str().unwrap(),
            info["temperature"].as_f64().unwrap(),
        ),
        batches: batches.collect(),
        log: info["train"].as_array().unwrap().clone(),
        archive: Archive::open(&folder.join("golden.safetensors")).unwrap(),
    }
}

fn of_sentence_transformers(group: &str) -> Vec<Case> {
    let folder = golden(&format!("objectives/{group}"));
    let inputs = json(&folder.join("inputs.json"));
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("golden.json").exists())
        .collect();
    folders.sort();
    let case = |path: PathBuf| {
        let info = json(&path.join("golden.json"));
        let arch = json(&folder.join("group.json"))["arch"].clone();
        let mut decoder = load(&golden(&format!("archs/{}/model", arch.as_str().unwrap())));
        attach_peft(&mut decoder, &folder.join("adapter"));
        let options = &info["options"];
        let with_negatives = options["negatives"] == true;
        let texts = |row: &Value| -> Vec<Vec<u32>> {
            ["anchor", "positive", "negative"][..2 + usize::from(with_negatives)]
                .iter()
                .map(|text| ids(&row[text]))
                .collect()
        };
        let batches = inputs["batches"].as_array().unwrap().iter();
        Case {
            name: path.file_name().unwrap().to_str().unwrap().to_owned(),
            stem: decoder.spec.names.stem,
            decoder,
            loss: Contrastive {
                symmetric: options["symmetric"] == true,
                ..plain(
                    options["pooling"].as_str().unwrap(),
                    options["temperature"].as_f64().unwrap(),
                )
            },
            batches: batches
                .map(|batch| batch.as_array().unwrap().iter().map(texts).collect())
                .collect(),
            log: info["train"].as_array().unwrap().clone(),
            archive: Archive::open(&path.join("golden.safetensors")).unwrap(),
        }
    };
    folders.into_iter().map(case).collect()
}

fn batches(rows: &Rows, size: usize, pooling: Pooling) -> Vec<Batch> {
    let micro = rows.chunks(size).enumerate();
    micro
        .map(|(index, rows)| {
            let rows = rows.iter().enumerate();
            let rows = rows.map(|(row, texts)| ((index * size + row) as u64, texts.clone()));
            Batch::of_texts(rows, pooling)
        })
        .collect()
}

/// Loss and gradients of a step, in micro-batches of so many rows.
fn step(
    case: &Case,
    decoder: &Decoder,
    rows: &Rows,
    size: usize,
    config: StepConfig,
) -> (Loss, Gradients) {
    let mut gradients = Gradients::default();
    let batches = batches(rows, size, case.loss.pooling);
    let loss = pooled_backward(
        decoder,
        &batches,
        &case.loss,
        config,
        [3, 0],
        &mut gradients,
        &mut (),
    );
    let mean = 1.0 / loss.weight;
    (loss, gradients.scaled(mean))
}

/// The name that files of a model without a head have for a tensor of an adapter.
fn in_file(case: &Case, key: &str) -> String {
    let prefix = "base_model.model.";
    let module = key.strip_prefix(prefix).unwrap();
    format!("{prefix}{}", module.strip_prefix(case.stem).unwrap())
}

fn close(case: &str, what: &str, found: f64, expected: f64, bound: f64) {
    let off = (found - expected).abs();
    assert!(
        off <= bound,
        "{case}: {what} is {found}, expected {expected}"
    );
}

fn check(case: &Case) {
    let name = &case.name;
    let mut decoder = case.decoder.clone();
    let adamw = AdamWConfig {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        loraplus_lr_ratio: 1.0,
    };
    let schedule = Schedule {
        peak: 1e-3,
        course: RateCourse::Cosine {
            num_cycles: 0.5,
            min: 0.0,
        },
        warmup_steps: 3,
        total_steps: case.log.len() as u64,
    };
    let mut optimizer = AdamW::new(adamw, &decoder);
    let (mut worst, mut of_gradients) = (0.0_f64, 0.0);
    for (taken, entry) in case.log.iter().enumerate() {
        let rows = &case.batches[taken % case.batches.len()];
        // Steps in one micro-batch and in several take turns.
        let size = if taken % 2 == 0 { rows.len() } else { 3 };
        let (loss, gradients) = step(case, &decoder, rows, size, STEP);
        let (loss, norm) = (loss.sum / loss.weight, gradients.norm());
        let expected = |key: &str| entry[key].as_f64().unwrap();
        let off = (loss - expected("loss")).abs() / (1.0 + expected("loss"));
        worst = worst.max(off);
        close(
            name,
            &format!("loss of step {taken}"),
            loss,
            expected("loss"),
            STEP_LOSS * (1.0 + expected("loss")),
        );
        close(
            name,
            &format!("norm of step {taken}"),
            norm,
            expected("grad_norm"),
            GRAD_NORM * expected("grad_norm").max(1e-3),
        );
        if taken == 0 {
            let (mut off, mut all) = (0.0, 0.0);
            for (key, shape, values) in tensors(&decoder, &gradients.all()) {
                let grad = format!("grad.{}", in_file(case, &key));
                assert_eq!(case.archive.shape(&grad), Some(shape.as_slice()), "{grad}");
                let theirs = case.archive.read_f32(&grad).unwrap().unwrap();
                for (ours, theirs) in values.iter().zip(theirs) {
                    off += f64::from(ours - theirs).powi(2);
                    all += f64::from(theirs).powi(2);
                }
            }
            of_gradients = (off / all).sqrt();
            assert!(
                of_gradients <= GRADIENTS,
                "{name}: gradients differ by {of_gradients}"
            );
        }
        assert!(optimizer.update(
            &mut decoder,
            gradients.clipped(norm, 1.0),
            schedule.lr_at(taken as u64)
        ));
    }
    let mut of_weights = 0.0_f32;
    for (key, _, values) in tensors(&decoder, &decoder.numbers()) {
        let key = format!("final.{}", in_file(case, &key));
        if let Some(expected) = case.archive.read_f32(&key).unwrap() {
            of_weights = of_weights.max(difference(&values, &expected));
        }
    }
    assert!(
        of_weights <= FINAL_WEIGHT,
        "{name}: weights differ by {of_weights}"
    );
    println!("{name}: loss {worst:.1e} gradients {of_gradients:.1e} weights {of_weights:.1e}");
}

/// Hidden rows after the last norm of texts laid end to end.
fn hidden(decoder: &Decoder, texts: &[Vec<u32>]) -> Vec<f32> {
    let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
    let ids: Vec<i32> = texts.iter().flatten().map(|id| id.cast_signed()).collect();
    let ids = Tensor::<2, Int>::from_data(
        TensorData::new(ids.clone(), [1, ids.len()]),
        &decoder.device(),
    );
    let rows = decoder.hidden(ids, &decoder.frame(&lengths, None));
    let rows = decoder.head.norm.forward(rows);
    rows.into_data().iter().collect()
}

#[test]
fn encoders_give_the_hidden_rows_of_transformers() {
    for name in ENCODERS {
        let case = encoder(name);
        let plain = load(&committed(&format!("encoders/{name}/model")));
        let info = json(&committed(&format!("encoders/{name}/golden.json")));
        let texts: Vec<Vec<u32>> = info["rows"].as_array().unwrap().iter().map(ids).collect();
        for (decoder, prefix) in [(&plain, ""), (&case.decoder, "lora.")] {
            // Together in one row, and each alone: neither sees the others.
            let together = hidden(decoder, &texts);
            let alone: Vec<f32> = texts
                .iter()
                .flat_map(|text| hidden(decoder, std::slice::from_ref(text)))
                .collect();
            let expected: Vec<f32> = (0..4)
                .flat_map(|row| {
                    let key = format!("{prefix}hidden.{row}");
                    case.archive.read_f32(&key).unwrap().unwrap()
                })
                .collect();
            for ours in [&together, &alone] {
                let off = difference(ours, &expected);
                assert!(off <= HIDDEN, "{name} {prefix}: {off}");
            }
            println!("{name} {prefix}: {:.1e}", difference(&together, &expected));
        }
    }
}

#[test]
fn encoders_train_as_by_peft() {
    for name in ENCODERS {
        check(&encoder(name));
    }
}

#[test]
fn vectors_train_as_in_sentence_transformers() {
    let cases = of_sentence_transformers("embeddings_llama");
    assert!(cases.len() >= 5);
    cases.iter().for_each(check);
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    for case in of_sentence_transformers("embeddings_llama") {
        let batch = &batches(&case.batches[0], 100, case.loss.pooling)[0];
        let vectors = vectors_of(&case.decoder, batch);
        let width = case.decoder.spec.width;
        let texts = case.batches[0][0].len();
        for (index, text) in ["anchor", "positive", "negative"][..texts]
            .iter()
            .enumerate()
        {
            let key = format!("embedding.{text}");
            let Some(expected) = case.archive.read_f32(&key).unwrap() else {
                continue;
            };
            let ours = vectors
                .chunks(width)
                .skip(index)
                .step_by(texts)
                .flat_map(|vector| {
                    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                    vector.iter().map(move |x| x / length).collect::<Vec<f32>>()
                });
            let off = difference(&ours.collect::<Vec<f32>>(), &expected);
            assert!(off <= 5e-6, "{} {text}: {off}", case.name);
        }
    }
}

/// The pool is the step, so that the size of micro-batches changes nothing; nor do recomputed
/// blocks and dropout, whose masks belong to rows.
#[test]
fn micro_batches_of_any_size_give_the_same_step() {
    let mut cases = of_sentence_transformers("embeddings_llama");
    cases.push(encoder("modernbert"));
    for case in cases {
        for dropout in [0.0, 0.3] {
            let of = |size: usize, memory: Memory| {
                let config = StepConfig {
                    memory,
                    dropout,
                    ..STEP
                };
                let (loss, gradients) = step(&case, &case.decoder, &case.batches[1], size, config);
                let numbers: Vec<f32> = gradients
                    .all()
                    .into_iter()
                    .flat_map(|row| row.into_data().iter::<f32>().collect::<Vec<_>>())
                    .collect();
                (loss.sum / loss.weight, numbers)
            };
            let (loss, whole) = of(100, Memory::KEEP);
            let norm = |numbers: &[f32]| numbers.iter().map(|x| x * x).sum::<f32>().sqrt();
            for (size, memory) in [(1, Memory::KEEP), (2, Memory::RECOMPUTE), (3, Memory::KEEP)] {
                let (other, parts) = of(size, memory);
                assert!(
                    (other - loss).abs() <= 1e-6 * (1.0 + loss),
                    "{}, {size} rows: {other}, not {loss}",
                    case.name
                );
                let apart: Vec<f32> = whole.iter().zip(&parts).map(|(x, y)| x - y).collect();
                let off = norm(&apart) / norm(&whole);
                assert!(off <= 1e-4, "{}, {size} rows: {off}", case.name);
            }
        }
    }
}

/// What is written is what PEFT writes: the same keys, without the names of a head's model, and the
/// same task.
#[test]
fn adapters_are_written_for_models_without_a_head() {
    for name in ENCODERS {
        let case = encoder(name);
        let theirs = committed(&format!("encoders/{name}/adapter"));
        let config = peft::read_config_on(&theirs, &case.decoder.spec.modules()).unwrap();
        assert!(config.is_of_features, "{name}");
        let folder = tempfile::tempdir().unwrap();
        peft::write(folder.path(), &case.decoder, &config, "base").unwrap();
        let of = |folder: &Path| {
            let archive = Archive::open(&folder.join("adapter_model.safetensors")).unwrap();
            let keys: Vec<String> = archive.shapes().keys().cloned().collect();
            let numbers = |key: &String| archive.read_f32(key).unwrap().unwrap();
            let numbers: Vec<Vec<f32>> = keys.iter().map(numbers).collect();
            (keys, numbers)
        };
        assert_eq!(of(folder.path()), of(&theirs), "{name}");
        let task = json(&folder.path().join("adapter_config.json"))["task_type"].clone();
        assert_eq!(task, "FEATURE_EXTRACTION", "{name}");
    }
}
