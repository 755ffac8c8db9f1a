//! Distillation against TRL (`tests/golden/objectives/distillation_llama`, made by reference
//! scripts): divergences of stored logits, losses of 20 steps, gradients of the first and weights
//! after the last, from a model and from its most likely tokens; and the same results from
//! micro-batches of any size.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use common::*;
use rankine::adapter::tensors;
use rankine::data::{Batch, TokenRow};
use rankine::files::safetensors::{Archive, Named};
use rankine::model::Decoder;
use rankine::objective::{Distill, Objective, StepStatistics};
use rankine::ops::divergence;
use rankine::terms::{MissingMass, Term, TopTokens};
use rankine::train::{
    AdamW, AdamWConfig, Goal, Gradients, Loss, Memory, RateCourse, Schedule, StepConfig,
    judged_backward,
};
use serde_json::Value;

const GROUP: &str = "objectives/distillation_llama";
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

/// A row with the teacher's most likely tokens of its targets, where the case has them.
type Row = (TokenRow, Option<TopTokens>);

struct Case {
    name: String,
    info: Value,
    archive: Option<Archive>,
    objective: Objective,
    batches: Vec<Vec<Row>>,
}

fn distill(options: &Value) -> Distill {
    let number = |key: &str, default: f64| options[key].as_f64().unwrap_or(default);
    let word = options["missing_mass"].as_str();
    Distill {
        beta: number("beta", f64::NAN),
        temperature: number("temperature", 1.0),
        t_squared: options["t_squared"] == true,
        ce_alpha: number("ce_alpha", 0.0),
        missing_mass: word.map_or(MissingMass::Tail, |word| MissingMass::parse(word).unwrap()),
    }
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn token_row(row: &Value) -> TokenRow {
    let (prompt, completion) = (ids(&row["prompt"]), ids(&row["completion"]));
    let all: Vec<u32> = prompt.iter().copied().chain(completion).collect();
    TokenRow {
        trained: (0..all.len()).map(|place| place >= prompt.len()).collect(),
        ids: all,
    }
}

/// The most likely tokens of every target of a row; entry t is for the prediction of token t + 1.
fn top_of(archive: &Archive, options: &Value, at: [usize; 2], row: &TokenRow) -> Option<TopTokens> {
    options["topk"].as_u64()?;
    let temperature = options["temperature"].as_f64().unwrap();
    let name = |what: &str| format!("topk_temperature_{temperature:.1}.{what}");
    let shape = archive.shape(&name("logprobs")).unwrap();
    let log_p = archive.read_f32(&name("logprobs")).unwrap().unwrap();
    let all_ids = archive.bytes(&name("ids")).unwrap();
    let all_ids: Vec<u32> = all_ids
        .as_chunks()
        .0
        .iter()
        .map(|id| u32::from_le_bytes(*id))
        .collect();
    let [batch, index] = at;
    let mut top = TopTokens {
        each: shape[3],
        ..TopTokens::default()
    };
    for place in (1..row.ids.len()).filter(|place| row.trained[*place]) {
        let first = ((batch * shape[1] + index) * shape[2] + place - 1) * top.each;
        top.log_p.extend(&log_p[first..first + top.each]);
        top.ids.extend(&all_ids[first..first + top.each]);
    }
    Some(top)
}

fn cases() -> Vec<Case> {
    let folder = golden(GROUP);
    let inputs = json(&folder.join("inputs.json"));
    let sparse = Archive::open(&folder.join("inputs.safetensors")).unwrap();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("golden.json").exists())
        .collect();
    folders.sort();
    let case = |path: PathBuf| {
        let info = json(&path.join("golden.json"));
        let archive = path.join("golden.safetensors");
        let rows = |(index, batch): (usize, &Value)| -> Vec<Row> {
            let rows = batch.as_array().unwrap().iter().enumerate();
            let read = |(row, value): (usize, &Value)| {
                let tokens = token_row(value);
                let top = top_of(&sparse, &info["options"], [index, row], &tokens);
                (tokens, top)
            };
            rows.map(read).collect()
        };
        let batches = inputs["batches"].as_array().unwrap().iter().enumerate();
        Case {
            batches: batches.map(rows).collect(),
            objective: Objective::Distill(distill(&info["options"])),
            name: path.file_name().unwrap().to_str().unwrap().to_owned(),
            archive: archive.exists().then(|| Archive::open(&archive).unwrap()),
            info,
        }
    };
    let cases: Vec<Case> = folders.into_iter().map(case).collect();
    assert!(cases.len() >= 12, "{} cases", cases.len());
    cases
}

fn batch_of(rows: &[Row]) -> Batch {
    let keyed = rows.iter().enumerate();
    let batch = Batch::new(keyed.map(|(key, (row, _))| (key as u64, row.clone())));
    let tops: Vec<&TopTokens> = rows.iter().filter_map(|(_, top)| top.as_ref()).collect();
    let top = tops.first().map(|first| TopTokens {
        each: first.each,
        ids: tops.iter().flat_map(|top| top.ids.clone()).collect(),
        log_p: tops.iter().flat_map(|top| top.log_p.clone()).collect(),
    });
    Batch { top, ..batch }
}

fn student() -> Decoder {
    let mut decoder = load(&golden("archs/llama/model"));
    attach_peft(&mut decoder, &golden(GROUP).join("adapter"));
    decoder
}

fn teacher() -> Decoder {
    let inputs = json(&golden(GROUP).join("inputs.json"));
    let named = Path::new(inputs["teacher"].as_str().unwrap());
    let family = named.parent().unwrap().file_name().unwrap();
    load(&golden("archs").join(family).join("model"))
}

/// Loss and gradients of a step in micro-batches of `size` rows.
fn step(
    case: &Case,
    decoder: &Decoder,
    teacher: &Decoder,
    rows: &[Row],
    size: usize,
) -> (Loss, Gradients) {
    let statistics = StepStatistics::default();
    let goal = Goal {
        teacher: Some(teacher),
        ..Goal::of(&case.objective, &statistics)
    };
    let (mut gradients, mut sum) = (Gradients::default(), Loss::default());
    for rows in rows.chunks(size) {
        let batch = batch_of(rows);
        sum = sum + judged_backward(decoder, &batch, goal, STEP, [0, 0], &mut gradients);
    }
    let mean = 1.0 / sum.weight;
    (sum, gradients.scaled(mean))
}

fn close(what: &str, found: f64, expected: f64, bound: f64) {
    let off = (found - expected).abs();
    assert!(off <= bound, "{what} is {found}, expected {expected}");
}

/// The norm of the difference between gradients and those of a golden file, by the norm of the
/// latter.
fn apart(ours: &[Named], archive: &Archive) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    for (key, shape, values) in ours {
        let name = format!("grad.{key}");
        assert_eq!(archive.shape(&name), Some(shape.as_slice()), "{name}");
        for (ours, theirs) in values.iter().zip(archive.read_f32(&name).unwrap().unwrap()) {
            off += f64::from(ours - theirs).powi(2);
            all += f64::from(theirs).powi(2);
        }
    }
    (off / all).sqrt()
}

/// Runs the 20 steps of a case.
fn check(case: &Case, teacher: &Decoder) {
    let (name, mut decoder) = (&case.name, student());
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
        let rows = &case.batches[taken % case.batches.len()];
        let (sum, gradients) = step(case, &decoder, teacher, rows, rows.len());
        let (loss, norm) = (sum.sum / sum.weight, gradients.norm());
        let expected = |key: &str| entry[key].as_f64().unwrap();
        let what = |of: &str| format!("{name}: {of} of step {taken}");
        let bound = STEP_LOSS * (1.0 + expected("loss"));
        close(&what("loss"), loss, expected("loss"), bound);
        worst = worst.max((loss - expected("loss")).abs() / (1.0 + expected("loss")));
        let bound = GRAD_NORM * expected("grad_norm");
        close(&what("norm"), norm, expected("grad_norm"), bound);
        if let Some(divergence) = entry["divergence"].as_f64() {
            let found = sum.figures.means()["divergence"];
            let bound = STEP_LOSS * (1.0 + divergence);
            close(&what("divergence"), found, divergence, bound);
        }
        if let (0, Some(archive)) = (taken, &case.archive) {
            of_gradients = apart(&tensors(&decoder, &gradients.all()), archive);
            assert!(of_gradients <= GRADIENTS, "{name}: {of_gradients} apart");
        }
        assert!(optimizer.update(
            &mut decoder,
            gradients.clipped(norm, 1.0),
            schedule.lr_at(taken as u64)
        ));
    }
    let mut of_weights = 0.0_f32;
    for (key, _, values) in tensors(&decoder, &decoder.numbers()) {
        let archive = case.archive.as_ref();
        let expected =
            archive.and_then(|archive| archive.read_f32(&format!("final.{key}")).unwrap());
        if let Some(expected) = expected {
            of_weights = of_weights.max(difference(&values, &expected));
        }
    }
    assert!(
        of_weights <= FINAL_WEIGHT,
        "{name}: weights differ by {of_weights}"
    );
    println!("{name}: loss {worst:.1e} gradients {of_gradients:.1e} weights {of_weights:.1e}");
}

#[test]
fn students_train_as_in_trl() {
    let teacher = teacher();
    for case in cases() {
        check(&case, &teacher);
    }
}

/// Of stored logits, without a model.
#[test]
fn divergences_of_stored_logits_are_those_of_trl() {
    let archive = Archive::open(&golden(GROUP).join("inputs.safetensors")).unwrap();
    let numbers = |name: &str| {
        archive
            .read_f32(&format!("batch0.{name}"))
            .unwrap()
            .unwrap()
    };
    let (student, teacher) = (numbers("student_logits"), numbers("teacher_logits"));
    let [_, places, vocabulary] = archive.shape("batch0.student_logits").unwrap()[..] else {
        panic!("three axes");
    };
    for case in cases() {
        let Some(expected) = case.info["train"][0]["divergence"].as_f64() else {
            continue;
        };
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (index, (row, _)) in case.batches[0].iter().enumerate() {
            for place in (1..row.ids.len()).filter(|place| row.trained[*place]) {
                rows.push(index * places + place - 1);
                targets.push(row.ids[place]);
            }
        }
        let tensor = |all: &[f32]| {
            let of = |row: &usize| all[row * vocabulary..][..vocabulary].to_vec();
            let values: Vec<f32> = rows.iter().flat_map(of).collect();
            Tensor::<2>::from_data(
                TensorData::new(values, [rows.len(), vocabulary]),
                &Device::flex(),
            )
        };
        let targets: Arc<[u32]> = targets.into();
        let of = case.objective.distill().unwrap();
        let compared = divergence(tensor(&student), tensor(&teacher), targets.clone(), of);
        let sum: f64 = compared.divergences.iter().copied().map(f64::from).sum();
        let found = sum / targets.len() as f64;
        close(&case.name, found, expected, STEP_LOSS * (1.0 + expected));
    }
}

/// Means are over the tokens of the step, so that the size of micro-batches changes nothing.
#[test]
fn micro_batches_of_any_size_give_the_same_step() {
    let (decoder, teacher) = (student(), teacher());
    for case in cases() {
        let rows: Vec<Row> = case.batches.iter().flatten().cloned().collect();
        let of = |size: usize| {
            let (sum, gradients) = step(&case, &decoder, &teacher, &rows, size);
            let values: Vec<f32> = gradients
                .all()
                .into_iter()
                .flat_map(|row| row.into_data().iter::<f32>().collect::<Vec<_>>())
                .collect();
            (sum.sum / sum.weight, values, sum.figures.means())
        };
        let norm = |values: &mut dyn Iterator<Item = f32>| -> f64 {
            let squares = values.map(|value| f64::from(value).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let (loss, whole, figures) = of(rows.len());
        for size in [1, 2, 8] {
            let (other, parts, other_figures) = of(size);
            let what = format!("{}, {size} rows", case.name);
            close(&what, other, loss, 1e-6 * (1.0 + loss));
            let off = norm(&mut whole.iter().zip(&parts).map(|(one, other)| one - other));
            let all = norm(&mut whole.iter().copied());
            assert!(off <= 1e-4 * all, "{what}: {off} of {all}");
            for (name, value) in &figures {
                close(
                    &what,
                    other_figures[name],
                    *value,
                    1e-5 * (1.0 + value.abs()),
                );
            }
        }
    }
}
