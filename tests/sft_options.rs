//! Options of supervised fine-tuning: smoothed labels, dynamic fine-tuning and noise on embeddings
//! against TRL and transformers (`tests/golden/objectives/sft_options_llama`), weights of losses, the
//! same results from micro-batches and packs of any size, and resuming.

mod common;
mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array};
use common::*;
use rankine::adapter::tensors;
use rankine::data::{Batch, TokenRow};
use rankine::files::safetensors::Archive;
use rankine::model::Decoder;
use rankine::objective::{NextToken, Objective, StepStatistics};
use rankine::terms::{SftLoss, Term};
use rankine::train::{
    AdamW, AdamWConfig, Goal, Gradients, Loss, Memory, RateCourse, Schedule, StepConfig,
    judged_backward, noised_backward,
};
use serde_json::Value;
use support::{Desk, copy_folder, texts};

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

/// The rows of each of the four batches.
fn batches(folder: &std::path::Path) -> Vec<Vec<TokenRow>> {
    let inputs = json(&folder.join("inputs.json"));
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let row = |row: &Value| {
        let (prompt, completion) = (ids(&row["prompt"]), ids(&row["completion"]));
        TokenRow {
            trained: (0..prompt.len() + completion.len())
                .map(|place| place >= prompt.len())
                .collect(),
            ids: [prompt, completion].concat(),
        }
    };
    let batches = inputs["batches"].as_array().unwrap().iter();
    batches
        .map(|batch| batch.as_array().unwrap().iter().map(row).collect())
        .collect()
}

fn adapted(folder: &std::path::Path, info: &Value) -> Decoder {
    let arch = info["arch"].as_str().unwrap();
    let mut decoder = load(&golden(&format!("archs/{arch}/model")));
    attach_peft(&mut decoder, &folder.join("adapter"));
    decoder
}

/// The noise of a step, [rows, width of the batch, embedding], without that of padding.
fn noise_of(archive: &Archive, step: usize, rows: &[TokenRow]) -> Vec<f32> {
    let shape = archive.shape("noise").unwrap().to_vec();
    let all = archive.read_f32("noise").unwrap().unwrap();
    let [_, count, places, width] = shape[..] else {
        panic!("{shape:?}")
    };
    let of_step = &all[step * count * places * width..][..count * places * width];
    let of_rows = rows.iter().zip(of_step.chunks(places * width));
    of_rows
        .flat_map(|(row, noise)| noise[..row.ids.len() * width].to_vec())
        .collect()
}

fn check(case: &std::path::Path) {
    let folder = case.parent().unwrap();
    let name = case.file_name().unwrap().to_str().unwrap();
    let info = json(&case.join("golden.json"));
    let options = &info["options"];
    let number = |key: &str| options[key].as_f64().unwrap_or(0.0);
    let loss_type = options["loss_type"].as_str().unwrap_or("nll");
    let objective = Objective::NextToken(NextToken {
        loss_type: SftLoss::parse(loss_type).unwrap(),
        label_smoothing: number("label_smoothing_factor"),
        // The draws are given.
        neftune_noise_alpha: 0.0,
    });
    let archive = Archive::open(&case.join("golden.safetensors")).unwrap();
    let mut decoder = adapted(folder, &info);
    let batches = batches(folder);
    let log = info["train"].as_array().unwrap();
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
        let rows = &batches[taken % batches.len()];
        let batch = Batch::new(rows.iter().cloned().zip(0..).map(|(row, key)| (key, row)));
        let statistics = StepStatistics::default();
        let goal = Goal::of(&objective, &statistics);
        let mut gradients = Gradients::default();
        let loss = if archive.shape("noise").is_some() {
            let noise = noise_of(&archive, taken, rows);
            noised_backward(&decoder, &batch, goal, STEP, noise, &mut gradients)
        } else {
            judged_backward(&decoder, &batch, goal, STEP, [0, 0], &mut gradients)
        };
        let gradients = gradients.scaled(1.0 / loss.weight);
        let (loss, norm) = (loss.sum / loss.weight, gradients.norm());
        let expected = |key: &str| entry[key].as_f64().unwrap();
        let off = (loss - expected("loss")).abs() / (1.0 + expected("loss").abs());
        assert!(
            off <= STEP_LOSS,
            "{name}, step {taken}: {loss}, expected {}",
            expected("loss")
        );
        worst = worst.max(off);
        let off = (norm / expected("grad_norm") - 1.0).abs();
        assert!(off <= GRAD_NORM, "{name}, norm of step {taken}: {norm}");
        if taken == 0 {
            of_gradients = apart(&tensors(&decoder, &gradients.all()), &archive);
            assert!(of_gradients <= GRADIENTS, "{name}: {of_gradients}");
        }
        assert!(optimizer.update(
            &mut decoder,
            gradients.clipped(norm, 1.0),
            schedule.lr_at(taken as u64)
        ));
    }
    let mut of_weights = 0.0_f32;
    for (key, _, values) in tensors(&decoder, &decoder.numbers()) {
        if let Some(expected) = archive.read_f32(&format!("final.{key}")).unwrap() {
            of_weights = of_weights.max(difference(&values, &expected));
        }
    }
    assert!(of_weights <= FINAL_WEIGHT, "{name}: {of_weights}");
    println!("{name}: loss {worst:.1e} gradients {of_gradients:.1e} weights {of_weights:.1e}");
}

/// The norm of the difference between gradients and those of a golden file, by the norm of the
/// latter.
fn apart(ours: &[rankine::files::safetensors::Named], archive: &Archive) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    for (key, _, values) in ours {
        let name = format!("grad.{key}");
        for (ours, theirs) in values.iter().zip(archive.read_f32(&name).unwrap().unwrap()) {
            off += f64::from(ours - theirs).powi(2);
            all += f64::from(theirs).powi(2);
        }
    }
    (off / all).sqrt()
}

#[test]
fn options_train_as_in_trl() {
    let folder = golden("objectives/sft_options_llama");
    let mut cases: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("golden.json").exists())
        .collect();
    cases.sort();
    assert_eq!(cases.len(), 4);
    for case in &cases {
        check(case);
    }
}

/// Loss and gradients of a step whose rows come in micro-batches of `size` rows.
fn step_of(
    decoder: &Decoder,
    objective: &Objective,
    rows: &[(u64, TokenRow, f32)],
    size: usize,
) -> (f64, Vec<f32>) {
    let statistics = StepStatistics::default();
    let goal = Goal::of(objective, &statistics);
    let (mut gradients, mut sum) = (Gradients::default(), Loss::default());
    for rows in rows.chunks(size) {
        let batch = Batch::weighted(rows.iter().cloned());
        sum = sum + judged_backward(decoder, &batch, goal, STEP, [7, 1], &mut gradients);
    }
    let gradients = gradients.scaled(1.0 / sum.weight).all();
    let values = gradients
        .into_iter()
        .flat_map(|row| row.into_data().iter::<f32>().collect::<Vec<_>>());
    (sum.sum / sum.weight, values.collect())
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    let squares = values.map(|value| f64::from(value).powi(2));
    squares.sum::<f64>().sqrt()
}

/// Noise belongs to a row, and the divisor is of the step: micro-batches of any size give the same
/// step, whether the head is frozen or trains.
#[test]
fn micro_batches_of_any_size_give_the_same_step() {
    let folder = golden("objectives/sft_options_llama");
    let info = json(&folder.join("nll/golden.json"));
    let rows = batches(&folder).concat().into_iter().take(8).zip(0..);
    let rows: Vec<(u64, TokenRow, f32)> = rows
        .map(|(row, key)| (key, row, [1.0, 0.25, 3.0][key as usize % 3]))
        .collect();
    for trains_head in [false, true] {
        let mut decoder = adapted(&folder, &info);
        if trains_head {
            decoder.train_everything();
        }
        for (loss_type, label_smoothing, neftune_noise_alpha) in [
            (SftLoss::Nll, 0.0, 0.0),
            (SftLoss::Nll, 0.2, 0.0),
            (SftLoss::Nll, 0.1, 5.0),
            (SftLoss::Dft, 0.0, 10.0),
        ] {
            let objective = Objective::NextToken(NextToken {
                loss_type,
                label_smoothing,
                neftune_noise_alpha,
            });
            let of = |size: usize| step_of(&decoder, &objective, &rows, size);
            let (loss, whole) = of(8);
            for size in [1, 2] {
                let (other, parts) = of(size);
                assert!(
                    (other - loss).abs() <= 1e-6 * (1.0 + loss),
                    "{objective:?}, {size} rows: {other}, not {loss}"
                );
                let off = norm(whole.iter().zip(&parts).map(|(one, other)| one - other));
                let all = norm(whole.iter().copied());
                assert!(off <= 1e-4 * all, "{objective:?}: {off} of {all}");
            }
        }
    }
}

/// A loss is linear in the weights of its rows, whose gradients are those of the rows alone.
#[test]
fn weights_multiply_losses_and_gradients() {
    let folder = golden("objectives/sft_options_llama");
    let decoder = adapted(&folder, &json(&folder.join("nll/golden.json")));
    let rows = batches(&folder).concat();
    let objective = Objective::NextToken(NextToken::PLAIN);
    let of = |weights: [f32; 3]| {
        let rows = rows.iter().cloned().zip(0..).zip(weights);
        let rows: Vec<_> = rows
            .map(|((row, key), weight)| (key, row, weight))
            .collect();
        step_of(&decoder, &objective, &rows, 8)
    };
    let (loss, gradients) = of([0.5, 2.0, 1.5]);
    let alone = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]].map(of);
    let expected: f64 = alone
        .iter()
        .zip([0.5, 2.0, 1.5])
        .map(|((loss, _), weight)| weight * loss)
        .sum();
    assert!(
        (loss - expected).abs() < 1e-6 * (1.0 + loss),
        "{loss}, {expected}"
    );
    let off = (0..gradients.len()).map(|place| {
        let [one, two, three] = [0, 1, 2].map(|row: usize| alone[row].1[place]);
        gradients[place] - (0.5 * one + 2.0 * two + 1.5 * three)
    });
    assert!(norm(off) < 1e-5 * norm(gradients.iter().copied()));
}

const RECIPE: &str = "base_model: base
datasets:
  - path: rows.parquet
    format: completion
objective:
  type: sft
  neftune_noise_alpha: 5
adapter:
  r: 4
training:
  sequence_len: 64
  num_epochs: 2
  micro_batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 1e-2
evaluation:
  val_set_size: 4
output:
  save_steps: 1
  save_total_limit: 1000
output_dir: run
";

/// What differs from run to run: it is measured with a clock.
const MEASURED: [&str; 2] = ["tokens_per_second", "peak_memory_bytes"];

/// A desk with rows of which a third have a weight.
fn desk() -> Desk {
    let desk = Desk::new();
    let rows = || 1..=16;
    let weights: Float64Array = rows()
        .map(|row| [None, Some(1.0), Some(0.5)][row % 3])
        .collect();
    desk.write_rows(
        "rows.parquet",
        vec![
            (
                "prompt",
                texts(rows().map(|row| format!("the term {row} means"))),
            ),
            (
                "completion",
                texts(rows().map(|row| format!(" {}fever", "so ".repeat(row % 5)))),
            ),
            ("sample_weight", Arc::new(weights) as ArrayRef),
        ],
    );
    desk.write("recipe.yaml", RECIPE);
    desk
}

fn metrics(desk: &Desk, run: &str) -> Vec<Value> {
    let text = desk.read_text(&format!("{run}/metrics.jsonl"));
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in MEASURED {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    };
    text.lines().map(line).collect()
}

fn adapter(desk: &Desk, run: &str) -> Vec<u8> {
    desk.read(&format!("{run}/adapter/adapter_model.safetensors"))
}

/// Noise is a function of seed, epoch, row and place: a resumed run draws the same.
#[test]
fn a_run_with_noise_goes_on_from_every_step_to_the_same_bytes() {
    let desk = desk();
    desk.run(&["train", "recipe.yaml"]).says("a run", 0, &[]);
    let (alone, lines) = (adapter(&desk, "run"), metrics(&desk, "run"));
    for step in 1..6 {
        copy_folder(&desk.path("run"), &desk.path("cut"));
        for later in step + 1..=6 {
            fs::remove_dir_all(desk.path(&format!("cut/checkpoints/step-{later}"))).unwrap();
        }
        desk.remove("cut/README.md");
        desk.run(&["resume", "cut"])
            .says("resumed", 0, &[&format!("going on after step {step}")]);
        assert_eq!(metrics(&desk, "cut"), lines, "step {step}");
        assert!(adapter(&desk, "cut") == alone, "step {step}");
        fs::remove_dir_all(desk.path("cut")).unwrap();
    }
    // Another seed draws other noise, and evaluation has none.
    let run = |overrides: &[&str]| {
        let ran = desk.run(&[&["train", "recipe.yaml", "--overwrite"], overrides].concat());
        ran.says("another run", 0, &[]);
        metrics(&desk, "run")
    };
    let quiet = run(&["objective.neftune_noise_alpha=0"]);
    assert_eq!(quiet[0]["eval_loss"], lines[0]["eval_loss"]);
    assert_ne!(quiet[1]["loss"], lines[1]["loss"]);
}

/// Rows keep their noise, whatever they are computed with.
#[test]
fn runs_do_not_depend_on_micro_batches_and_packs() {
    let desk = desk();
    for options in [
        &["objective.neftune_noise_alpha=8"][..],
        &[
            "objective.neftune_noise_alpha=",
            "objective.label_smoothing=0.1",
        ],
        &["objective.loss_type=dft"],
        &[
            "datasets.0.loss_weight=0.5",
            "datasets.0.columns.weight=sample_weight",
        ],
    ] {
        let run = |micro: usize, accumulated: usize, others: &[&str]| {
            let sizes = [
                format!("training.micro_batch_size={micro}"),
                format!("training.gradient_accumulation_steps={accumulated}"),
            ];
            let mut arguments = vec!["train", "recipe.yaml", "--overwrite", "output.save_steps=0"];
            arguments.extend(options);
            arguments.extend(others);
            arguments.extend(sizes.iter().map(String::as_str));
            desk.run(&arguments).says("a run", 0, &[]);
            metrics(&desk, "run")
        };
        let same = |one: &[Value], others: &[Value], what: &str| {
            assert_eq!(one.len(), others.len(), "{options:?}, {what}");
            for (one, other) in one.iter().zip(others) {
                for key in ["loss", "eval_loss", "nll_loss"] {
                    let (Some(one), Some(other)) = (one[key].as_f64(), other[key].as_f64()) else {
                        assert_eq!(one[key], other[key], "{options:?}, {what}, {key}");
                        continue;
                    };
                    assert!(
                        (one - other).abs() < 1e-4 * (1.0 + one.abs()),
                        "{options:?}, {what}, {key}: {one} and {other}"
                    );
                }
            }
        };
        same(&run(4, 1, &[]), &run(1, 4, &[]), "micro-batches");
        // All rows in one step, alone and in packs.
        let whole = ["training.shuffle=false", "training.num_epochs=3"];
        let packed = [&whole[..], &["training.sample_packing=true"]].concat();
        same(&run(12, 1, &whole), &run(12, 1, &packed), "packs");
    }
}

#[test]
fn weights_of_rows_and_datasets_are_read_shown_and_counted() {
    let desk = desk();
    desk.run(&["check", "recipe.yaml"]).says(
        "a column that may be meant",
        0,
        &[
            "does not read: `sample_weight`",
            "`columns: {weight: sample_weight}`",
        ],
    );
    let weight = "datasets.0.columns.weight=sample_weight";
    let ran = desk.run(&["preview", "recipe.yaml", weight, "--row", "1"]);
    ran.says("a row's weight", 0, &[]);
    assert!(ran.stdout.contains("loss weight 0.5"), "{}", ran.stdout);
    let ran = desk.run(&[
        "preview",
        "recipe.yaml",
        weight,
        "datasets.0.loss_weight=3",
        "--row",
        "1",
    ]);
    assert!(ran.stdout.contains("loss weight 1.5"), "{}", ran.stdout);
    let ran = desk.run(&["plan", "recipe.yaml", "datasets.0.loss_weight=3"]);
    ran.says("a plan", 0, &[]);
    assert!(
        ran.stdout.contains("datasets.0.loss_weight"),
        "{}",
        ran.stdout
    );
    // Weights reach the loss: with the same factor for all rows it is the loss times the factor.
    let first = |overrides: &[&str]| {
        let fixed = [
            "train",
            "recipe.yaml",
            "--overwrite",
            "objective.neftune_noise_alpha=0",
        ];
        desk.run(&[&fixed, overrides].concat())
            .says("a run", 0, &[]);
        let lines = metrics(&desk, "run");
        let numbers =
            ["eval_loss", "loss"].map(|key| lines[usize::from(key == "loss")][key].clone());
        numbers.map(|number| number.as_f64().unwrap())
    };
    let [plain_eval, plain] = first(&[]);
    let [eval, weighted] = first(&["datasets.0.loss_weight=2"]);
    assert!((weighted - 2.0 * plain).abs() < 1e-5, "{weighted}, {plain}");
    assert_eq!(eval.to_bits(), plain_eval.to_bits());
    let [_, by_rows] = first(&[weight]);
    assert!(by_rows < plain, "{by_rows}, {plain}");

    // A weight of 0 leaves the row out, and one that is no weight breaks it.
    let weights = |weights: Vec<f64>| {
        let count = weights.len();
        desk.write_rows(
            "odd.parquet",
            vec![
                ("prompt", texts((0..count).map(|row| format!("the {row}")))),
                ("completion", texts((0..count).map(|_| " law".to_owned()))),
                ("weight", Arc::new(Float64Array::from(weights)) as ArrayRef),
            ],
        );
        desk.run(&[
            "preview",
            "recipe.yaml",
            "datasets.0.path=odd.parquet",
            "datasets.0.columns.weight=weight",
            "evaluation.val_set_size=0",
            "training.max_dropped=1",
        ])
    };
    weights(vec![1.0, 0.0, 2.0]).says(
        "a weight of 0",
        0,
        &["1 of 3 rows have no token to train and are left out"],
    );
    weights(vec![1.0, -1.0, f64::NAN]).says(
        "no weights",
        0,
        &[
            "2 of 3 rows are broken and left out",
            "column `weight`: the weight of the row's loss is",
            "expected a number from 0 to 1000000",
        ],
    );
}

#[test]
fn what_does_not_fit_is_refused_with_both_sides() {
    let desk = desk();
    for (what, overrides, parts) in [
        (
            "smoothed labels of another loss",
            &["objective.loss_type=dft", "objective.label_smoothing=0.1"][..],
            &[
                "objective.label_smoothing does not go with `loss_type: dft`, which ignores it",
                "or set `loss_type: nll`",
            ][..],
        ),
        (
            "a loss of another type",
            &["objective.loss_type=sigmoid"],
            &["objective.loss_type: `sigmoid` is no loss of `type: sft`, expected `nll` or `dft`"],
        ),
        (
            "noise of another type",
            &["objective.type=dpo"],
            &["objective.neftune_noise_alpha goes with `type` `sft` only, found `dpo`"],
        ),
        (
            "negative noise",
            &["objective.neftune_noise_alpha=-1"],
            &["objective.neftune_noise_alpha: expected a number from 0 to 1000, found `-1`"],
        ),
        (
            "a dataset of no weight",
            &["datasets.0.loss_weight=0"],
            &["datasets.0.loss_weight: expected a number above 0"],
        ),
        (
            "weights of pairs",
            &["datasets.0.format=preference", "datasets.0.loss_weight=2"],
            &["loss_weight: format `preference` has no `loss_weight`"],
        ),
        (
            "weights of a distillation",
            &["objective.type=distill", "datasets.0.loss_weight=2"],
            &["loss_weight goes with `objective: {type: sft}` only, found `distill`"],
        ),
        (
            "a column of weights of a distillation",
            &[
                "objective.type=distill",
                "datasets.0.columns.weight=sample_weight",
            ],
            &["columns: `weight` goes with `objective: {type: sft}` only, found `distill`"],
        ),
        (
            "a column of weights of pairs",
            &[
                "datasets.0.format=preference",
                "datasets.0.columns.weight=sample_weight",
            ],
            &["columns: format `preference` has no column `weight`"],
        ),
        (
            "weights that are texts",
            &["datasets.0.columns.weight=prompt"],
            &["column `prompt` of", "holds text, expected numbers"],
        ),
        (
            "weights that are not there",
            &["datasets.0.columns.weight=weights"],
            &["has no column `weights`"],
        ),
    ] {
        desk.run(&[&["check", "recipe.yaml"], overrides].concat())
            .says(what, 65, parts);
    }
}
