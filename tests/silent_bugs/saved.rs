//! What a run leaves behind, and what it goes on from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rankine::adapter::{Numbers, peft};
use rankine::data::Batch;
use rankine::terms::Format;
use serde_json::Value;

use crate::common::{self, attach_peft, difference, golden, load, logits};
use crate::rows::{ALL, batch, encoder, open, source};
use crate::support::{Desk, texts};

/// A run of the desk's recipe with overrides.
fn train(desk: &Desk, overrides: &[&str]) {
    desk.run(&[&["train", "recipe.yaml"], overrides].concat())
        .says("a run", 0, &[]);
}

fn metrics(desk: &Desk, run: &str) -> Vec<Value> {
    desk.read_text(&format!("{run}/metrics.jsonl"))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A number of each step of a run.
fn of_steps(desk: &Desk, run: &str, key: &str) -> Vec<f64> {
    metrics(desk, run)
        .iter()
        .filter(|line| line.get("loss").is_some())
        .map(|line| line[key].as_f64().unwrap())
        .collect()
}

fn weights(desk: &Desk, run: &str) -> Vec<u8> {
    desk.read(&format!("{run}/adapter/adapter_model.safetensors"))
}

/// A and B of a run's adapter by module.
fn numbers(desk: &Desk, run: &str) -> Numbers {
    let (folder, base) = (desk.path(run).join("adapter"), load(&desk.path("base")));
    peft::read_numbers(
        &folder,
        &peft::read_config(&folder).unwrap(),
        &base.spec.projections(),
    )
    .unwrap()
}

/// Mean loss of a batch under a saved adapter, from the logits.
fn loss(base: &Path, adapter: &Path, batch: &Batch) -> f64 {
    let mut decoder = load(base);
    attach_peft(&mut decoder, adapter);
    let logits: Vec<f64> = logits(&decoder, batch).into_iter().map(f64::from).collect();
    let vocabulary = decoder.spec.vocabulary;
    let of = |(position, target): (&i32, &i32)| {
        let row = &logits[*position as usize * vocabulary..][..vocabulary];
        let highest = row.iter().copied().fold(f64::MIN, f64::max);
        highest
            + row
                .iter()
                .map(|logit| (logit - highest).exp())
                .sum::<f64>()
                .ln()
            - row[*target as usize]
    };
    batch
        .positions
        .iter()
        .zip(&batch.targets)
        .map(of)
        .sum::<f64>()
        / batch.targets.len() as f64
}

/// huggingface/transformers#24103: with an adapter, `load_best_model_at_end` left the last one in
/// place.
#[test]
fn last_saved_instead_of_best() {
    let desk = Desk::new();
    let scored = source(
        &desk,
        "scored.parquet",
        Format::Text,
        vec![("text", texts(["a fever is heat", "the term so"]))],
    );
    let batch = batch(&open(&desk, &encoder(&desk.path("base"), None), &[scored], ALL).unwrap());
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        "output_dir: run\nevaluation: \
        {eval_steps: 1, datasets: [{path: scored.parquet, format: text}]}",
    );
    // Far too high, so that every step after the first makes it worse.
    let overshoot = [
        "training.learning_rate=0.3",
        "training.lr_scheduler=constant",
        "training.max_steps=3",
    ];
    train(
        &desk,
        &[
            &overshoot[..],
            &["output.save_steps=1", "output.save_total_limit=9"],
        ]
        .concat(),
    );

    let by_hand = |adapter: &str| loss(&desk.path("base"), &desk.path(adapter), &batch);
    let of_steps = [1, 2, 3].map(|step| by_hand(&format!("run/checkpoints/step-{step}/adapter")));
    let best = of_steps.into_iter().fold(f64::MAX, f64::min);
    assert!(
        best < of_steps[2] - 0.1,
        "the last is meant to be worse: {of_steps:?}"
    );
    assert!((by_hand("run/adapter") - best).abs() < 1e-6, "{of_steps:?}");
    let told: Vec<f64> = metrics(&desk, "run")
        .iter()
        .filter_map(|line| line["eval_loss"].as_f64())
        .collect();
    assert_eq!(told.len(), 4);
    assert!(
        told[1..]
            .iter()
            .zip(of_steps)
            .all(|(told, by_hand)| (told - by_hand).abs() < 1e-4 * by_hand),
        "{told:?} {of_steps:?}"
    );
}

/// MakazhanAlpamys/Soup#354, unslothai/unsloth-zoo#674: the adapter was drawn before anything was
/// seeded, or after something else had drawn from the same stream.
#[test]
fn adapter_drawn_before_seeding() {
    let desk = Desk::new();
    let drawn = |run: &str, overrides: &[&str]| -> BTreeMap<String, Vec<f32>> {
        let output = format!("output_dir={run}");
        train(
            &desk,
            &[
                &[
                    &output,
                    "training.learning_rate=1e-30",
                    "training.max_steps=1",
                ],
                overrides,
            ]
            .concat(),
        );
        numbers(&desk, run)
            .into_iter()
            .map(|(module, [a, _])| (module, a))
            .collect()
    };
    let first = drawn("a", &["training.seed=7"]);
    let busier = drawn(
        "b",
        &[
            "training.seed=7",
            "adapter.dropout=0.5",
            "evaluation.val_set_size=3",
            "training.micro_batch_size=4",
            "threads=1",
        ],
    );
    assert_eq!(first, busier);
    // A draw does not depend on which other modules draw.
    let fewer = drawn(
        "c",
        &[
            "training.seed=7",
            "adapter.target_modules=[up_proj]",
            "adapter.layers_to_transform=[1]",
        ],
    );
    assert_eq!(fewer.len(), 1);
    assert!(fewer.iter().all(|(module, a)| first[module] == *a));
    let other = drawn("d", &["training.seed=8"]);
    assert!(first.iter().all(|(module, a)| other[module] != *a));
    // Kaiming's uniform bound with a = sqrt(5) is 1 / sqrt(inputs), and A is [4, inputs].
    for (module, a) in &first {
        let bound = 1.0 / (a.len() as f32 / 4.0).sqrt();
        let largest = a
            .iter()
            .fold(0.0, |largest: f32, value| largest.max(value.abs()));
        assert!(
            largest <= bound && largest > 0.9 * bound,
            "{module}: {largest}, bound {bound}"
        );
    }
}

/// unslothai/unsloth#9331, huggingface/peft#2972: what was trained of a head that is the
/// embedding's weight was lost when it was merged. Here the merged model has both, and computes
/// what was trained.
#[test]
fn tied_head_trained_then_dropped_at_merge() {
    let desk = Desk::new();
    let tied = golden("archs/qwen2/model");
    assert!(
        std::fs::read_to_string(tied.join("config.json"))
            .unwrap()
            .contains(r#""tie_word_embeddings": true"#)
    );
    let base = format!("base_model={}", tied.display());
    let archive =
        rankine::files::safetensors::Archive::open(&golden("archs/qwen2/golden.safetensors"))
            .unwrap();
    let batch = common::batch(common::rows(&archive, "", None));
    let kinds = [
        "target_modules=[q_proj, lm_head]",
        "target_modules=[embed_tokens]",
        "modules_to_save=[lm_head]",
        "target_modules=.*",
    ];
    for (index, kind) in kinds.into_iter().enumerate() {
        let (run, words) = (format!("run-{index}"), format!("adapter.{kind}"));
        let ran = desk.run(&[
            "train",
            "recipe.yaml",
            &base,
            &words,
            &format!("output_dir={run}"),
            "training.learning_rate=1e-2",
        ]);
        ran.says(kind, 0, &["tie_word_embeddings: false"]);
        let (adapter, out) = (desk.path(&run).join("adapter"), format!("merged-{index}"));
        let shown = adapter.display().to_string();
        desk.run(&[
            "merge",
            "--adapter",
            &shown,
            "--base",
            &tied.display().to_string(),
            "--out",
            &out,
        ])
        .says(kind, 0, &[]);
        let mut trained = load(&tied);
        let untrained = logits(&trained, &batch);
        attach_peft(&mut trained, &adapter);
        let merged = load(&desk.path(&out));
        assert!(!merged.spec.tied_head, "{kind}");
        let (trained, merged) = (logits(&trained, &batch), logits(&merged, &batch));
        let (lost, learned) = (
            difference(&trained, &merged),
            difference(&trained, &untrained),
        );
        assert!(
            lost < 2e-5 && learned > 1e-3,
            "{kind}: {lost} lost of {learned}"
        );
    }
    train(&desk, &[&base, "adapter.target_modules=all-linear"]);
    let adapter = String::from_utf8_lossy(&weights(&desk, "run")).into_owned();
    assert!(
        adapter.contains("mlp.up_proj.lora_A")
            && !adapter.contains("lm_head")
            && !adapter.contains("embed_tokens")
    );
}

/// huggingface/peft#1554, axolotl-ai-cloud/axolotl#2277: a tokenizer with one token more, an
/// embedding that was resized for it unasked, and an adapter that then fitted no base. Nothing is
/// resized here: a row with such a token is refused.
#[test]
fn added_tokens_resize() {
    let desk = Desk::new();
    let plain = weights_after(&desk, "a");
    let mut tokenizer: Value =
        serde_json::from_str(&desk.read_text("base/tokenizer.json")).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let mut new = added.last().unwrap().clone();
    (new["id"], new["content"]) = (304.into(), "<|new|>".into());
    added.push(new);
    desk.write("base/tokenizer.json", tokenizer.to_string());
    assert_eq!(
        plain,
        weights_after(&desk, "b"),
        "a token that no row has changes nothing"
    );
    desk.write_rows(
        "rows.parquet",
        vec![("text", texts(["so", "a <|new|> word"]))],
    );
    let ran = desk.run(&["train", "recipe.yaml", "output_dir=c"]);
    ran.says(
        "a token beyond the embedding",
        65,
        &["token id 304", "the base's embedding has ids below 304"],
    );
    assert!(!desk.path("c/adapter").exists());
}

fn weights_after(desk: &Desk, run: &str) -> Vec<u8> {
    train(desk, &[&format!("output_dir={run}")]);
    weights(desk, run)
}

/// A run of six or more steps with a checkpoint at each, and back to how it was when it was killed
/// after some of them.
fn killed_after(desk: &Desk, run: &str, overrides: &[&str], step: u64) {
    let every = [
        "output.save_steps=1",
        "output.save_total_limit=100",
        &format!("output_dir={run}"),
    ];
    train(desk, &[&every[..], overrides].concat());
    let steps = of_steps(desk, run, "step").len() as u64;
    for later in step + 1..=steps {
        std::fs::remove_dir_all(desk.path(&format!("{run}/checkpoints/step-{later}"))).unwrap();
    }
    std::fs::remove_dir_all(desk.path(run).join("adapter")).unwrap();
    desk.remove(&format!("{run}/README.md"));
}

/// lm-sys/FastChat#1280, ace-step/ACE-Step-1.5#742: the adapter was loaded, its optimizer began at
/// zero. Every step sees all rows at one rate here, so the moments are all that a start from the
/// adapter alone does without.
#[test]
fn optimizer_missing_on_resume() {
    let desk = Desk::new();
    let same = [
        "training.micro_batch_size=12",
        "training.lr_scheduler=constant",
        "training.learning_rate=1e-2",
        "training.shuffle=false",
    ];
    let six = [&same[..], &["training.max_steps=6"]].concat();
    train(&desk, &[&six[..], &["output_dir=whole"]].concat());
    killed_after(&desk, "killed", &six, 3);
    let adapter = [
        "adapter.r=",
        "adapter.init_from=killed/checkpoints/step-3/adapter",
        "training.max_steps=3",
        "output_dir=adapter-only",
    ];
    train(&desk, &[&same[..], &adapter].concat());

    desk.run(&["resume", "killed"])
        .says("resume", 0, &["step 6/6"]);
    assert_eq!(weights(&desk, "killed"), weights(&desk, "whole"));
    assert_ne!(
        weights(&desk, "adapter-only"),
        weights(&desk, "whole"),
        "a start without the moments shows"
    );

    // A checkpoint that lost them is no checkpoint: the one before it serves, and that is told.
    killed_after(&desk, "torn", &six, 3);
    desk.remove("torn/checkpoints/step-3/optimizer.safetensors");
    desk.run(&["resume", "torn"]).says(
        "without the file",
        0,
        &["torn/checkpoints/step-3", "step 6/6"],
    );
    assert_eq!(weights(&desk, "torn"), weights(&desk, "whole"));
}

/// huggingface/accelerate#2823, modelscope/ms-swift#10050: a resumed epoch had another order, so
/// that some rows came twice and others never. Rows are known here by their lengths.
#[test]
fn data_position_missing_on_resume() {
    let desk = Desk::new();
    let rows: Vec<String> = (1..=12).map(|row| "so ".repeat(row)).collect();
    desk.write_rows("rows.parquet", vec![("text", texts(rows.clone()))]);
    let tokenizer = encoder(&desk.path("base"), None).tokenizer;
    let tokens = |row: &String| tokenizer.encode(row, true).unwrap().ids.len() as u64 + 1;
    let lengths: BTreeSet<u64> = rows.iter().map(tokens).collect();
    assert_eq!(lengths.len(), rows.len(), "no two are as long");
    let two_epochs = [
        "training.max_steps=",
        "training.num_epochs=2",
        "adapter.dropout=0.1",
        "training.learning_rate=1e-2",
    ];
    train(&desk, &[&two_epochs[..], &["output_dir=whole"]].concat());

    for killed in [5, 12, 17] {
        let run = format!("killed-{killed}");
        killed_after(&desk, &run, &two_epochs, killed);
        desk.run(&["resume", &run]).says(&run, 0, &["step 24/24"]);
        let seen: Vec<u64> = of_steps(&desk, &run, "tokens")
            .into_iter()
            .map(|tokens| tokens as u64)
            .collect();
        assert_eq!(seen.len(), 24);
        for epoch in seen.chunks(12) {
            assert_eq!(
                epoch.iter().copied().collect::<BTreeSet<_>>(),
                lengths,
                "{run}: each row once, {seen:?}"
            );
        }
        assert_ne!(seen[..12], seen[12..], "each epoch has an order of its own");
        assert_eq!(weights(&desk, &run), weights(&desk, "whole"), "{run}");
    }
}
