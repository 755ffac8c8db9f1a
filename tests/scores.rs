//! Reward models and classification against TRL and transformers (tests/golden/objectives, made by
//! reference scripts): losses and figures of 20 steps, gradients of the first, scores before it and
//! weights after the last; and the same results from micro-batches of any size.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use rankine::adapter::{LoraConfig, peft, tensors};
use rankine::data::{Batch, ScoredRow, Scoring, TokenRow};
use rankine::files::safetensors::{Archive, Named};
use rankine::model::Decoder;
use rankine::objective::{Classify, Objective, Reward, StepStatistics};
use rankine::terms::{Pooling, ProblemType, Term};
use rankine::train::{
    AdamW, AdamWConfig, Goal, Gradients, Loss, Memory, RateCourse, Schedule, StepConfig,
    judged_backward, readings_of,
};
use serde_json::Value;

/// Relative to 1 + loss.
const STEP_LOSS: f64 = 1e-5;
/// Of the norm of all gradients.
const GRADIENTS: f64 = 1e-4;
const GRAD_NORM: f64 = 1e-4;
const FINAL_WEIGHT: f32 = 5e-6;
const FIGURES: f64 = 2e-5;
const SCORES: f64 = 2e-5;

const STEP: StepConfig = StepConfig {
    memory: Memory::KEEP,
    head_chunk_rows: 5,
    dropout: 0.0,
};

/// A case: its folder, objective and batches of rows.
struct Case {
    name: String,
    folder: PathBuf,
    info: Value,
    padding: u32,
    objective: Objective,
    batches: Vec<Vec<ScoredRow>>,
}

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}

fn text(ids: &[u32]) -> TokenRow {
    TokenRow {
        ids: ids.to_vec(),
        trained: vec![true; ids.len()],
    }
}

fn problem(options: &Value) -> ProblemType {
    let word = options["problem_type"].as_str().unwrap();
    ProblemType::parse(word).unwrap_or(ProblemType::Token)
}

fn objective(options: &Value) -> Objective {
    if options["objective"] == "reward" {
        return Objective::Reward(Reward {
            center_rewards_coefficient: options["center_rewards_coefficient"]
                .as_f64()
                .unwrap_or(0.0),
        });
    }
    Objective::Classify(Classify {
        problem: problem(options),
        labels: options["num_labels"].as_u64().unwrap() as usize,
        class_weights: Vec::new(),
    })
}

/// The rows of a batch of pairs, without their padding.
fn pairs(batch: &Value, has_margin: bool) -> Vec<ScoredRow> {
    let pair = |row: &Value| {
        let [chosen, rejected] =
            ["chosen_ids", "rejected_ids"].map(|half| text(&numbers::<u32>(&row[half])));
        let margin = row["margin"].as_f64().filter(|_| has_margin);
        ScoredRow::Pair([chosen, rejected], margin.unwrap_or(0.0))
    };
    batch.as_array().unwrap().iter().map(pair).collect()
}

/// The rows of a padded batch with labels.
fn labeled(batch: &Value, problem: ProblemType) -> Vec<ScoredRow> {
    let rows = batch["input_ids"].as_array().unwrap().iter().enumerate();
    let row = |(index, ids): (usize, &Value)| {
        let mask: Vec<usize> = numbers(&batch["attention_mask"][index]);
        let mut ids: Vec<u32> = numbers(ids);
        ids.truncate(mask.iter().sum());
        let label = &batch["labels"][index];
        if problem != ProblemType::Token {
            let values = match label {
                Value::Array(_) => numbers(label),
                one => vec![one.as_f64().unwrap() as f32],
            };
            return ScoredRow::Text {
                second: ids.len(),
                row: text(&ids),
                values,
            };
        }
        let classes: Vec<i64> = numbers(label);
        let trained = classes[..ids.len()].iter().map(|class| *class >= 0);
        let row = TokenRow {
            trained: trained.collect(),
            ids,
        };
        let values = classes.into_iter().filter(|class| *class >= 0);
        ScoredRow::Tokens(row, values.map(|class| class as f32).collect())
    };
    rows.map(row).collect()
}

fn cases(group: &Path) -> Vec<Case> {
    let inputs = json(&group.join("inputs.json"));
    let mut folders: Vec<PathBuf> = std::fs::read_dir(group)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("golden.json").exists())
        .collect();
    folders.sort();
    let case = |folder: PathBuf| {
        let info = json(&folder.join("golden.json"));
        let options = &info["options"];
        let batches = inputs["batches"].as_array().unwrap().iter();
        let batches = batches.map(|batch| match batch {
            Value::Array(_) => pairs(batch, options["margin"] == true),
            _ => labeled(batch, problem(options)),
        });
        let end = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        Case {
            name: format!("{}/{}", end(group), end(&folder)),
            padding: 300,
            objective: objective(options),
            batches: batches.collect(),
            info,
            folder,
        }
    };
    folders.into_iter().map(case).collect()
}

/// All groups of a kind in the set.
fn groups(kind: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(golden("objectives")).unwrap();
    let mut groups: Vec<PathBuf> = all
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with(kind)
        })
        .collect();
    groups.sort();
    groups
}

fn model(case: &Case) -> (Decoder, LoraConfig) {
    let group = case.folder.parent().unwrap();
    let name = group.file_name().unwrap().to_string_lossy().into_owned();
    let arch = name.rsplit('_').next().unwrap();
    let mut decoder = load(&golden(&format!("archs/{arch}/model")));
    let config = attach_peft(&mut decoder, &group.join("adapter"));
    (decoder, config)
}

fn batch(case: &Case, rows: &[ScoredRow]) -> Batch {
    let rows = rows.iter().cloned().enumerate();
    let scoring = Scoring {
        padding: Some(case.padding),
        pooling: Pooling::Last,
    };
    Batch::of_scored(rows.map(|(key, row)| (key as u64, row)), scoring)
}

/// Loss and gradients of a step in micro-batches of `size` rows.
fn gradients(case: &Case, decoder: &Decoder, index: usize, size: usize) -> (Loss, Gradients) {
    let step = StepStatistics::default();
    let goal = Goal::of(&case.objective, &step);
    let (mut gradients, mut sum) = (Gradients::default(), Loss::default());
    for rows in case.batches[index].chunks(size) {
        let batch = batch(case, rows);
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

/// The norm of the difference between gradients and those of a golden file, by the norm of the
/// latter. The head alone is compared too.
fn apart(ours: &[Named], archive: &Archive) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    for (key, shape, values) in ours {
        let name = format!("grad.{key}");
        assert_eq!(archive.shape(&name), Some(shape.as_slice()), "{name}");
        let (mut own_off, mut own) = (0.0, 0.0);
        for (ours, theirs) in values.iter().zip(archive.read_f32(&name).unwrap().unwrap()) {
            own_off += f64::from(ours - theirs).powi(2);
            own += f64::from(theirs).powi(2);
        }
        if key.contains(".score.") {
            assert!(own_off.sqrt() <= GRADIENTS * own.sqrt(), "{key}");
        }
        (off, all) = (off + own_off, all + own);
    }
    (off / all).sqrt()
}

/// Compares the scores before the first step.
fn check_scores(case: &Case, decoder: &Decoder) {
    let found = readings_of(decoder, &batch(case, &case.batches[0]), 5).values;
    let step0 = &case.info["step0"];
    let expected: Vec<f64> = if step0["logits"].is_array() {
        fn flat(value: &Value, into: &mut Vec<f64>) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| flat(item, into)),
                one => into.push(one.as_f64().unwrap()),
            }
        }
        let rows = case.batches[0]
            .iter()
            .zip(step0["logits"].as_array().unwrap());
        let mut expected = Vec::new();
        for (row, logits) in rows {
            match row {
                ScoredRow::Tokens(row, _) => {
                    let trained = row.trained.iter().zip(logits.as_array().unwrap());
                    trained
                        .filter(|(trained, _)| **trained)
                        .for_each(|(_, logits)| flat(logits, &mut expected));
                }
                _ => flat(logits, &mut expected),
            }
        }
        expected
    } else {
        let halves =
            ["chosen_rewards", "rejected_rewards"].map(|half| numbers::<f64>(&step0[half]));
        let pairs = halves[0].iter().zip(&halves[1]);
        pairs
            .flat_map(|(chosen, rejected)| [*chosen, *rejected])
            .collect()
    };
    assert_eq!(found.len(), expected.len(), "{}", case.name);
    for (found, expected) in found.iter().zip(expected) {
        let bound = SCORES * (1.0 + expected.abs());
        close(&case.name, "a score", f64::from(*found), expected, bound);
    }
}

/// Runs the 20 steps of a case.
fn check(case: &Case) {
    let name = &case.name;
    let (mut decoder, config) = model(case);
    check_scores(case, &decoder);
    let archive = case.folder.join("golden.safetensors");
    let archive = archive.exists().then(|| Archive::open(&archive).unwrap());
    let log = case.info["train"].as_array().unwrap();
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
        total_steps: log.len() as u64,
    };
    let mut optimizer = AdamW::new(adamw, &decoder);
    let (mut worst, mut of_gradients) = (0.0_f64, 0.0);
    for (taken, entry) in log.iter().enumerate() {
        let (sum, gradients) = gradients(case, &decoder, taken % 4, 8);
        let (loss, norm) = (sum.sum / sum.weight, gradients.norm());
        let expected = |key: &str| entry[key].as_f64().unwrap();
        let bound = STEP_LOSS * (1.0 + expected("loss").abs());
        let what = format!("loss of step {taken}");
        close(name, &what, loss, expected("loss"), bound);
        worst = worst.max((loss - expected("loss")).abs() / (1.0 + expected("loss")));
        let bound = GRAD_NORM * expected("grad_norm").max(1e-3);
        let what = format!("norm of step {taken}");
        close(name, &what, norm, expected("grad_norm"), bound);
        let figures = sum.figures.means();
        for (key, expected) in entry.as_object().unwrap() {
            if ["step", "loss", "lr", "grad_norm"].contains(&key.as_str()) {
                continue;
            }
            let expected = expected.as_f64().unwrap();
            let found = figures
                .get(key)
                .unwrap_or_else(|| panic!("{name}: no {key}"));
            let what = format!("{key} of step {taken}");
            close(
                name,
                &what,
                *found,
                expected,
                FIGURES * (1.0 + expected.abs()),
            );
        }
        if let (0, Some(archive)) = (taken, &archive) {
            of_gradients = apart(&tensors(&decoder, &gradients.all()), archive);
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
        let expected = archive
            .as_ref()
            .and_then(|archive| archive.read_f32(&format!("final.{key}")).unwrap());
        if let Some(expected) = expected {
            of_weights = of_weights.max(difference(&values, &expected));
        }
    }
    assert!(
        of_weights <= FINAL_WEIGHT,
        "{name}: weights differ by {of_weights}"
    );
    check_written(case, &decoder, &config);
    println!("{name}: loss {worst:.1e} gradients {of_gradients:.1e} weights {of_weights:.1e}");
}

/// What is written is read back: the head with its names, under PEFT's keys.
fn check_written(case: &Case, decoder: &Decoder, config: &LoraConfig) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config.clone();
    let score = config.score.as_mut().expect("a score head");
    score.names = (0..score.labels)
        .map(|label| format!("class {label}"))
        .collect();
    peft::write(folder.path(), decoder, &config, "base").unwrap();
    let written = json(&folder.path().join("adapter_config.json"));
    let of_golden = json(
        &case
            .folder
            .parent()
            .unwrap()
            .join("adapter/adapter_config.json"),
    );
    assert_eq!(
        written["task_type"], of_golden["task_type"],
        "{}",
        case.name
    );
    assert_eq!(written["modules_to_save"], serde_json::json!(["score"]));
    let modules = decoder.spec.modules();
    let read = peft::read_config_on(folder.path(), &modules).unwrap();
    assert_eq!(read.score, config.score, "{}", case.name);
    let mut again = load_like(case);
    let numbers = peft::read_numbers(folder.path(), &read, &modules).unwrap();
    rankine::adapter::attach(&mut again, &read, 0, Some(&numbers)).unwrap();
    let of = |decoder: &Decoder| readings_of(decoder, &batch(case, &case.batches[1]), 5).values;
    assert_eq!(of(&again), of(decoder), "{}", case.name);
}

fn load_like(case: &Case) -> Decoder {
    model(case).0
}

fn check_kind(kind: &str, least: usize) {
    let cases: Vec<Case> = groups(kind).iter().flat_map(|group| cases(group)).collect();
    assert!(cases.len() >= least, "{kind}: {} cases", cases.len());
    cases.iter().for_each(check);
}

#[test]
fn reward_models_train_as_in_trl() {
    check_kind("reward_", 5);
}

#[test]
fn texts_and_tokens_are_classified_as_in_transformers() {
    check_kind("classification_", 5);
}

#[test]
fn micro_batches_of_any_size_give_the_same_step() {
    let all = ["reward_", "classification_"].map(groups).concat();
    for case in all.iter().flat_map(|group| cases(group)) {
        let (decoder, _) = model(&case);
        let of = |size: usize| {
            let (sum, gradients) = gradients(&case, &decoder, 1, size);
            let values: Vec<f32> = gradients
                .all()
                .into_iter()
                .flat_map(|row| row.into_data().iter::<f32>().collect::<Vec<_>>())
                .collect();
            (sum.sum / sum.weight, values, sum.figures.means())
        };
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let (loss, whole, figures) = of(8);
        let size_of_all = norm(&mut whole.iter().map(|value| f64::from(*value)));
        for size in [1, 2] {
            let (other, parts, other_figures) = of(size);
            let bound = 1e-6 * (1.0 + loss);
            close(
                &case.name,
                &format!("loss, {size} rows"),
                other,
                loss,
                bound,
            );
            let mut off = whole
                .iter()
                .zip(&parts)
                .map(|(one, other)| f64::from(one - other));
            let off = norm(&mut off);
            assert!(
                off <= 1e-4 * size_of_all,
                "{}, {size} rows: {off} of {size_of_all}",
                case.name
            );
            for (name, value) in &figures {
                let bound = 1e-5 * (1.0 + value.abs());
                close(&case.name, name, other_figures[name], *value, bound);
            }
        }
    }
}
