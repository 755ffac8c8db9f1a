//! Classification and rewards on encoders against transformers and PEFT (tests/golden/encoders,
//! made by its script): scores, losses of 20 steps, gradients of the first, weights after the last,
//! and the same from micro-batches of any size.

mod common;

use std::path::PathBuf;

use common::*;
use rankine::adapter::{AdapterError, LoraConfig, attach, peft, tensors};
use rankine::data::{Batch, ScoredRow, Scoring, TokenRow};
use rankine::fault::Explain;
use rankine::files::safetensors::Archive;
use rankine::model::Decoder;
use rankine::objective::{Classify, Objective, Reward, StepStatistics};
use rankine::terms::{Pooling, ProblemType, Term};
use rankine::train::{
    AdamW, AdamWConfig, Goal, Gradients, Loss, Memory, RateCourse, Schedule, StepConfig,
    judged_backward, readings_of,
};
use serde_json::Value;

const CASES: [&str; 7] = [
    "bert_texts",
    "bert_words",
    "bert_pooler",
    "roberta_texts",
    "xlm_roberta_reward",
    "modernbert_texts",
    "modernbert_words",
];
/// Relative to 1 + loss.
const STEP_LOSS: f64 = 1e-5;
/// Of the norm of all gradients.
const GRADIENTS: f64 = 1e-4;
const GRAD_NORM: f64 = 1e-4;
const FINAL_WEIGHT: f32 = 5e-6;
const SCORES: f32 = 2e-5;

const STEP: StepConfig = StepConfig {
    memory: Memory::KEEP,
    head_chunk_rows: 5,
    dropout: 0.0,
};

struct Case {
    name: &'static str,
    folder: PathBuf,
    base: PathBuf,
    objective: Objective,
    batches: Vec<Vec<ScoredRow>>,
    /// The log of 20 steps.
    log: Vec<Value>,
    archive: Archive,
}

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}

fn text(value: &Value) -> TokenRow {
    let ids: Vec<u32> = numbers(value);
    TokenRow {
        trained: vec![true; ids.len()],
        ids,
    }
}

fn scored(problem: &str, row: &Value) -> ScoredRow {
    match problem {
        "reward" => ScoredRow::Pair([text(&row[0]), text(&row[1])], 0.0),
        "token_classification" => {
            let classes: Vec<i64> = numbers(&row[1]);
            let words = TokenRow {
                trained: classes.iter().map(|class| *class >= 0).collect(),
                ..text(&row[0])
            };
            let classes = classes.into_iter().filter(|class| *class >= 0);
            ScoredRow::Tokens(words, classes.map(|class| class as f32).collect())
        }
        _ => ScoredRow::Text {
            row: text(&row[0]),
            second: usize::try_from(row[1].as_u64().unwrap()).unwrap(),
            values: numbers(&row[2]),
        },
    }
}

fn case(name: &'static str) -> Case {
    let folder = committed(&format!("encoders/scored/{name}"));
    let info = json(&folder.join("golden.json"));
    let problem = info["problem"].as_str().unwrap();
    let objective = if problem == "reward" {
        Objective::Reward(Reward {
            center_rewards_coefficient: 0.0,
        })
    } else {
        Objective::Classify(Classify {
            problem: ProblemType::parse(problem).unwrap(),
            labels: usize::try_from(info["labels"].as_u64().unwrap()).unwrap(),
            class_weights: Vec::new(),
        })
    };
    let batches = info["batches"].as_array().unwrap().iter();
    let batches = batches.map(|batch| {
        let rows = batch.as_array().unwrap().iter();
        rows.map(|row| scored(problem, row)).collect()
    });
    Case {
        name,
        base: committed(&format!("encoders/{}", info["base"].as_str().unwrap())),
        objective,
        batches: batches.collect(),
        log: info["train"].as_array().unwrap().clone(),
        archive: Archive::open(&folder.join("golden.safetensors")).unwrap(),
        folder,
    }
}

fn model(case: &Case) -> (Decoder, LoraConfig) {
    let mut decoder = load(&case.base);
    let config = attach_peft(&mut decoder, &case.folder.join("adapter"));
    (decoder, config)
}

fn batch(decoder: &Decoder, rows: &[ScoredRow]) -> Batch {
    let scoring = Scoring {
        padding: decoder.spec.padding,
        pooling: decoder.spec.score_pooling(),
    };
    let rows = rows.iter().cloned().enumerate();
    Batch::of_scored(rows.map(|(key, row)| (key as u64, row)), scoring)
}

/// Loss and gradients of a step in micro-batches of `size` rows.
fn step(case: &Case, decoder: &Decoder, index: usize, size: usize) -> (Loss, Gradients) {
    let statistics = StepStatistics::default();
    let goal = Goal::of(&case.objective, &statistics);
    let (mut gradients, mut sum) = (Gradients::default(), Loss::default());
    for rows in case.batches[index].chunks(size) {
        let batch = batch(decoder, rows);
        sum = sum + judged_backward(decoder, &batch, goal, STEP, [0, 0], &mut gradients);
    }
    let mean = 1.0 / sum.weight;
    (sum, gradients.scaled(mean))
}

fn close(case: &str, what: &str, found: f64, expected: f64, bound: f64) {
    let off = (found - expected).abs();
    assert!(
        off <= bound,
        "{case}: {what} is {found}, expected {expected}"
    );
}

/// Compares the scores of the first batch before the first step.
fn check_scores(case: &Case, decoder: &Decoder) -> f32 {
    let found = readings_of(decoder, &batch(decoder, &case.batches[0]), 5).values;
    let mut expected = Vec::new();
    for (index, row) in case.batches[0].iter().enumerate() {
        let logits = case.archive.read_f32(&format!("logits.{index}"));
        let logits = logits.unwrap().unwrap();
        match row {
            ScoredRow::Tokens(row, _) => {
                let each = logits.chunks(logits.len() / row.ids.len());
                let trained = each.zip(&row.trained).filter(|(_, trained)| **trained);
                trained.for_each(|(logits, _)| expected.extend(logits));
            }
            _ => expected.extend(logits),
        }
    }
    let found = match &case.objective {
        // The golden has the chosen one's.
        Objective::Reward(_) => found.into_iter().step_by(2).collect(),
        _ => found,
    };
    assert_eq!(found.len(), expected.len(), "{}", case.name);
    let off = difference(&found, &expected);
    assert!(off <= SCORES, "{}: scores differ by {off}", case.name);
    off
}

fn check(case: &Case) {
    let name = case.name;
    let (mut decoder, config) = model(case);
    let of_scores = check_scores(case, &decoder);
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
        // Steps in one micro-batch and in several take turns.
        let size = if taken % 2 == 0 { 4 } else { 3 };
        let (sum, gradients) = step(case, &decoder, taken % 2, size);
        let (loss, norm) = (sum.sum / sum.weight, gradients.norm());
        let expected = |key: &str| entry[key].as_f64().unwrap();
        let bound = STEP_LOSS * (1.0 + expected("loss"));
        let what = format!("loss of step {taken}");
        close(name, &what, loss, expected("loss"), bound);
        worst = worst.max((loss - expected("loss")).abs() / (1.0 + expected("loss")));
        let bound = GRAD_NORM * expected("grad_norm").max(1e-3);
        let what = format!("norm of step {taken}");
        close(name, &what, norm, expected("grad_norm"), bound);
        if taken == 0 {
            let (mut off, mut all) = (0.0, 0.0);
            for (key, shape, values) in tensors(&decoder, &gradients.all()) {
                let grad = format!("grad.{key}");
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
        let expected = case.archive.read_f32(&format!("final.{key}"));
        of_weights = of_weights.max(difference(&values, &expected.unwrap().unwrap()));
    }
    assert!(
        of_weights <= FINAL_WEIGHT,
        "{name}: weights differ by {of_weights}"
    );
    check_written(case, &decoder, &config);
    println!(
        "{name}: scores {of_scores:.1e} loss {worst:.1e} gradients {of_gradients:.1e} weights \
        {of_weights:.1e}"
    );
}

/// What is written has PEFT's keys, and is read back.
fn check_written(case: &Case, decoder: &Decoder, config: &LoraConfig) {
    let folder = tempfile::tempdir().unwrap();
    peft::write(folder.path(), decoder, config, "base").unwrap();
    let keys = |folder: &std::path::Path| {
        let archive = Archive::open(&folder.join("adapter_model.safetensors")).unwrap();
        archive.shapes()
    };
    let theirs = case.folder.join("adapter");
    assert_eq!(keys(folder.path()), keys(&theirs), "{}", case.name);
    let [ours, theirs] =
        [folder.path().to_owned(), theirs].map(|folder| json(&folder.join("adapter_config.json")));
    assert_eq!(ours["task_type"], theirs["task_type"], "{}", case.name);
    let saved: Vec<String> = numbers(&theirs["modules_to_save"]);
    for module in numbers::<String>(&ours["modules_to_save"]) {
        assert!(saved.contains(&module), "{}: {module}", case.name);
    }
    let modules = decoder.spec.modules();
    let read = peft::read_config_on(folder.path(), &modules).unwrap();
    let mut again = load(&case.base);
    let stored = peft::read_numbers(folder.path(), &read, &modules).unwrap();
    attach(&mut again, &read, 0, Some(&stored)).unwrap();
    let of = |decoder: &Decoder| {
        let batch = batch(decoder, &case.batches[1]);
        readings_of(decoder, &batch, 5).values
    };
    assert_eq!(of(&again), of(decoder), "{}", case.name);
}

#[test]
fn encoders_are_trained_to_score_as_by_transformers_and_peft() {
    for name in CASES {
        check(&case(name));
    }
}

#[test]
fn micro_batches_of_any_size_give_the_same_step() {
    for name in CASES {
        let case = case(name);
        let (decoder, _) = model(&case);
        let of = |size: usize| {
            let (sum, gradients) = step(&case, &decoder, 1, size);
            let values: Vec<f32> = gradients
                .all()
                .into_iter()
                .flat_map(|row| row.into_data().iter::<f32>().collect::<Vec<_>>())
                .collect();
            (sum.sum / sum.weight, values)
        };
        let norm = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>().sqrt();
        let (loss, whole) = of(4);
        for size in [1, 2] {
            let (other, parts) = of(size);
            close(name, "loss", other, loss, 1e-6 * (1.0 + loss));
            let apart: Vec<f32> = whole.iter().zip(&parts).map(|(x, y)| x - y).collect();
            let off = norm(&apart) / norm(&whole);
            assert!(off <= 1e-4, "{name}, {size} rows: {off}");
        }
    }
}

/// The second type of tokens counts, and only where the model has one.
#[test]
fn second_texts_have_a_type_of_their_own() {
    for (name, counts) in [("bert_texts", true), ("roberta_texts", false)] {
        let case = case(name);
        let (decoder, _) = model(&case);
        let row = text(&serde_json::json!([5, 9, 7, 11, 8, 6]));
        let scores = |second: usize| {
            let row = ScoredRow::Text {
                row: row.clone(),
                second,
                values: Vec::new(),
            };
            readings_of(&decoder, &batch(&decoder, &[row]), 5).values
        };
        assert_eq!(scores(3) != scores(6), counts, "{name}");
    }
}

#[test]
fn heads_of_other_architectures_are_refused() {
    let attached = |base: &str, adapter: &str| {
        let mut decoder = load(&committed(&format!("encoders/{base}")));
        let folder = committed(&format!("encoders/scored/{adapter}/adapter"));
        let modules = decoder.spec.modules();
        let config = peft::read_config_on(&folder, &modules).unwrap();
        let numbers = peft::read_numbers(&folder, &config, &modules).unwrap();
        attach(&mut decoder, &config, 0, Some(&numbers))
    };
    // The golden base has a pooler, this one has none.
    let error = attached("bert/model", "bert_texts").unwrap_err();
    let AdapterError::Score { message, .. } = &error else {
        panic!("{error}");
    };
    assert!(message.contains("`bert.pooler.dense.weight`"), "{message}");
    assert!(error.hint().is_some());
    assert!(attached("scored/bert_scored", "bert_pooler").is_ok());
    let mut decoder = load(&committed("encoders/bert/model"));
    let (_, config) = model(&case("roberta_texts"));
    let layers = LoraConfig::all_linear(2, 4.0);
    let config = LoraConfig {
        score: config.score,
        ..layers
    };
    let error = attach(&mut decoder, &config, 0, None).unwrap_err();
    assert!(
        error.to_string().contains("`classifier.out_proj`"),
        "{error}"
    );
    assert_eq!(decoder.spec.score_pooling(), Pooling::First);
}
