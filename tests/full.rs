//! All weights trained: gradients against those of one tape over the whole model, 20 steps against
//! torch, and the run through the binary.

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use common::*;
use rankine::data::Batch;
use rankine::files::safetensors::Archive;
use rankine::model::{Decoder, Folder, LinearKind, Slice};
use rankine::terms::ModelDtype;
use rankine::train::{
    AdamW, AdamWConfig, Gradients, Memory, RateCourse, Schedule, StepConfig, forward_backward,
};

const COSINE: RateCourse = RateCourse::Cosine {
    num_cycles: 0.5,
    min: 0.0,
};
use serde_json::Value;
use support::{Desk, Ran};

const GRADIENTS: f32 = 2e-5;
const STEP_LOSS: f64 = 5e-5;
const FINAL_WEIGHT: f32 = 2e-5;

fn full(family: &str) -> Decoder {
    full_of(&golden(&format!("archs/{family}/model")))
}

fn full_of(folder: &Path) -> Decoder {
    let folder = Folder::open(folder).unwrap();
    let mut decoder = folder
        .load(ModelDtype::Float32, &Device::flex(), &|_| {})
        .unwrap();
    decoder.train_everything();
    decoder
}

fn first_batch(family: &str) -> Batch {
    batch(rows(
        &Archive::open(&golden(&format!("archs/{family}/golden.safetensors"))).unwrap(),
        "",
        None,
    ))
}

/// Gradients of the summed loss by one tape over everything.
fn by_one_tape(decoder: &Decoder, batch: &Batch) -> Vec<Vec<f32>> {
    let mut tracked = decoder.clone();
    tracked.visit(&mut |_, _, weight| weight.track());
    let device = Device::flex();
    let logits = tracked.logits(ids(batch), &batch.lengths); // [tokens, vocabulary]
    let positions =
        Tensor::<1, Int>::from_data(TensorData::from(batch.positions.as_slice()), &device);
    let targets = Tensor::<2, Int>::from_data(
        TensorData::new(batch.targets.clone(), [batch.targets.len(), 1]),
        &device,
    );
    let mut gradients = log_softmax(logits.select(0, positions), 1)
        .gather(1, targets)
        .sum()
        .neg()
        .backward();
    let mut all = Vec::new();
    tracked.visit(&mut |_, name, weight| {
        let gradient = weight
            .gradient(&mut gradients)
            .unwrap_or_else(|| panic!("{name} has no gradient"));
        all.push(gradient.into_data().iter().collect());
    });
    all
}

#[test]
fn gradients_of_every_weight_are_those_of_one_tape() {
    // Sinks do not train, so that these are refused: tests/families.rs.
    for family in FAMILIES.into_iter().filter(|family| *family != "gpt_oss") {
        let (decoder, batch) = (full(family), first_batch(family));
        let expected = by_one_tape(&decoder, &batch);
        let names = decoder.weights(|name, _| name.to_owned());
        // A router's `e_score_correction_bias` and a layer's factor are moved by no gradient, in
        // transformers neither.
        let in_files = decoder.spec.tensors().into_iter().filter(|(name, _)| {
            !name.ends_with("e_score_correction_bias") && !name.ends_with("layer_scalar")
        });
        let in_files: BTreeMap<String, Vec<usize>> = in_files.collect();
        // Matrices of a stack are one tensor in the file.
        let stacks: BTreeMap<String, Slice> = decoder
            .spec
            .projections()
            .into_iter()
            .filter_map(|linear| match linear.kind {
                LinearKind::Stacked(slice) => Some((format!("{}.weight", linear.name), slice)),
                LinearKind::Module | LinearKind::Expert => None,
            })
            .collect();
        let trained = decoder.weights(|name, weight| match stacks.get(name) {
            Some(slice) => (
                slice.tensor.clone(),
                [&[slice.count][..], &weight.shape()[..]].concat(),
            ),
            None => (name.to_owned(), weight.shape()),
        });
        assert_eq!(
            trained.into_iter().collect::<BTreeMap<_, _>>(),
            in_files,
            "{family}: every tensor of the checkpoint trains"
        );
        for memory in [Memory::KEEP, Memory::RECOMPUTE] {
            for head_chunk_rows in [3, 256] {
                let (step, mut ours) = (
                    StepConfig {
                        memory,
                        head_chunk_rows,
                        dropout: 0.0,
                    },
                    Gradients::default(),
                );
                forward_backward(&decoder, &batch, step, [0, 0], &mut ours);
                for ((name, ours), expected) in names.iter().zip(ours.all()).zip(&expected) {
                    let ours: Vec<f32> = ours.to_data().iter().collect();
                    let scale = expected
                        .iter()
                        .fold(1.0f32, |most, value| most.max(value.abs()));
                    let difference = difference(&ours, expected) / scale;
                    assert!(
                        difference <= GRADIENTS,
                        "{family}, {memory:?}: {name} differs by {difference}"
                    );
                }
            }
        }
    }
}

/// A file of this repository's set, which another set need not have.
fn here(path: String) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(path)
}

/// 20 steps as torch took them (tests/golden/full, made by `make_full.py` there): loss and norm of
/// each, and the weights afterwards.
#[test]
fn twenty_steps_of_all_weights_are_those_of_torch() {
    for family in FIRST_FAMILIES {
        let mut decoder = full_of(&here(format!("archs/{family}/model")));
        let curve = json(&here(format!("full/{family}.json")));
        let [data, weights] = ["archs/{}/golden.safetensors", "full/{}.safetensors"]
            .map(|path| Archive::open(&here(path.replace("{}", family))).unwrap());
        let step = StepConfig {
            memory: Memory::RECOMPUTE,
            head_chunk_rows: 7,
            dropout: 0.0,
        };
        let adamw = AdamWConfig {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            loraplus_lr_ratio: 1.0,
        };
        let schedule = Schedule {
            peak: 1e-3,
            course: COSINE,
            warmup_steps: 3,
            total_steps: 20,
        };
        let mut optimizer = AdamW::new(adamw, &decoder);
        for (taken, entry) in curve.as_array().unwrap().iter().enumerate() {
            let mut gradients = Gradients::default();
            let batch = batch(rows(&data, "train.", Some(taken % 4)));
            let loss = forward_backward(&decoder, &batch, step, [0, 0], &mut gradients);
            let mean = 1.0 / loss.trained_tokens as f64;
            let gradients = gradients.scaled(mean);
            let (norm, expected) = (gradients.norm(), |key: &str| entry[key].as_f64().unwrap());
            assert!(
                (loss.sum * mean - expected("loss")).abs() <= STEP_LOSS,
                "{family}, step {taken}: loss {}",
                loss.sum * mean
            );
            assert!(
                (norm - expected("grad_norm")).abs() <= 1e-4 * norm.max(1.0),
                "{family}, step {taken}: norm {norm}"
            );
            assert!(optimizer.update(
                &mut decoder,
                gradients.clipped(norm, 1.0),
                schedule.lr_at(taken as u64)
            ));
        }
        for (name, shape, ours) in decoder.named(&decoder.numbers()) {
            assert_eq!(weights.shape(&name), Some(&shape[..]), "{family}: {name}");
            let difference = difference(&ours, &weights.read_f32(&name).unwrap().unwrap());
            // Scores that all shift alike change nothing, so a key's bias has a gradient near
            // nothing, of which AdamW makes whole steps.
            let bound = if name.ends_with("k_proj.bias") {
                10.0 * FINAL_WEIGHT
            } else {
                FINAL_WEIGHT
            };
            assert!(
                difference <= bound,
                "{family}: {name} differs by {difference}"
            );
        }
    }
}

const RECIPE: &str = "base_model: base
datasets:
  - path: rows.parquet
    format: text
adapter:
  method: full
training:
  sequence_len: 64
  max_steps: 8
  micro_batch_size: 2
  learning_rate: 1e-2
  weight_decay: 0.1
evaluation:
  val_set_size: 4
  eval_steps: 2
output:
  save_steps: 2
  save_total_limit: 100
";

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("recipe.yaml", RECIPE);
    desk.run(&["train", "recipe.yaml", "output_dir=run"])
        .says("train", 0, &[]);
    desk
}

fn object(ran: &Ran) -> Value {
    ran.says("a command with --json", 0, &[]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

#[test]
fn the_model_of_a_run_is_a_folder_that_every_verb_takes_as_a_base() {
    let desk = desk();
    for file in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        assert!(
            desk.read(&format!("run/model/{file}")) == desk.read(&format!("base/{file}")),
            "{file}"
        );
    }
    let [base, model] = ["base", "run/model"]
        .map(|folder| Archive::open(&desk.path(folder).join("model.safetensors")).unwrap());
    assert_eq!(base.shapes(), model.shapes());
    for name in base.shapes().keys() {
        assert_ne!(
            base.read_f32(name).unwrap(),
            model.read_f32(name).unwrap(),
            "{name} was trained"
        );
    }
    assert!(!desk.path("run/adapter").exists());

    let eval = object(&desk.run(&["eval", "run", "--json"]));
    let result: Value = serde_json::from_str(&desk.read_text("run/result.json")).unwrap();
    assert_eq!(eval["model"], "run/model");
    assert_eq!(eval["total"]["base"]["loss"], result["eval_loss_first"]);
    assert_eq!(eval["total"]["model"]["loss"], result["eval_loss_best"]);
    assert!(
        result["eval_loss_best"].as_f64() < result["eval_loss_first"].as_f64(),
        "{result}"
    );

    desk.run(&[
        "generate",
        "--base",
        "run/model",
        "--prompt",
        "the term",
        "--max-tokens",
        "4",
    ])
    .says("generate", 0, &[]);
    desk.run(&["report", "run"]).says("report", 0, &[]);
    desk.run(&["export", "--to", "gguf", "run/model", "--out", "model.gguf"])
        .says("export", 0, &[]);
    desk.run(&[
        "train",
        "recipe.yaml",
        "output_dir=again",
        "base_model=run/model",
        "training.max_steps=1",
    ])
    .says("again", 0, &[]);
}

#[test]
fn a_model_has_the_chat_template_that_it_was_trained_with() {
    let desk = Desk::new();
    desk.write("recipe.yaml", format!("chat_template: own.jinja\n{RECIPE}"));
    let template = "{% for m in messages %}<{{ m.role }}> {{ m.content }}{% endfor %}";
    desk.write("own.jinja", template);
    desk.write(
        "base/chat_template.jinja",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    );
    desk.run(&[
        "train",
        "recipe.yaml",
        "output_dir=run",
        "training.max_steps=2",
    ])
    .says("train", 0, &[]);
    for folder in ["run/model", "run/checkpoints/step-2/model"] {
        assert_eq!(
            desk.read_text(&format!("{folder}/chat_template.jinja")),
            template,
            "{folder}"
        );
    }
    desk.run(&["export", "run", "--to", "gguf", "--out", "x"])
        .says("export", 0, &[]);
    desk.write("base/README.md", "---\nlicense: apache-2.0\n---\n");
    desk.run(&["export", "run", "--to", "gguf", "--out", "folder/"])
        .says("export", 0, &[]);
    let card = desk.read_text("folder/README.md");
    for part in [
        "license: \"apache-2.0\"",
        "Base: folder `base`",
        "`rows.parquet`",
        "| `adapter.method` | `full` |",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    assert!(
        desk.read("x")
            .windows(template.len())
            .any(|part| part == template.as_bytes())
    );
}

#[test]
fn a_run_goes_on_from_any_checkpoint_to_the_same_model() {
    let desk = desk();
    for step in [2, 4, 6] {
        let half = format!("half-{step}");
        for folder in ["checkpoints", ""] {
            std::fs::create_dir_all(desk.path(&half).join(folder)).unwrap();
        }
        for file in ["recipe.lock.yaml", "metrics.jsonl"] {
            desk.write(&format!("{half}/{file}"), desk.read(&format!("run/{file}")));
        }
        let name = format!("checkpoints/step-{step}");
        rankine::files::mirror(&desk.path("run").join(&name), &desk.path(&half).join(&name))
            .unwrap();
        let manifest = format!("{name}/manifest.json");
        desk.write(
            &format!("{half}/{manifest}"),
            desk.read(&format!("run/{manifest}")),
        );
        desk.run(&["resume", &half])
            .says("resume", 0, &[&format!("going on after step {step}")]);
        for file in [
            "model/model.safetensors",
            "checkpoints/step-8/optimizer.safetensors",
            "checkpoints/step-8/model/config.json",
        ] {
            assert!(
                desk.read(&format!("{half}/{file}")) == desk.read(&format!("run/{file}")),
                "{file} from step {step}"
            );
        }
    }
}

#[test]
fn what_belongs_to_an_adapter_is_refused() {
    let desk = Desk::new();
    desk.write("recipe.yaml", RECIPE);
    desk.run(&["check", "recipe.yaml"]).says("as it is", 0, &[]);
    for word in [
        "r=4",
        "alpha=8",
        "dropout=0.1",
        "target_modules=all-linear",
        "init_from=adapter",
        "use_rslora=true",
    ] {
        let key = word.split('=').next().unwrap();
        let message =
            format!("adapter.{key} does not go with `method: full`, which trains every weight");
        desk.run(&["check", "recipe.yaml", &format!("adapter.{word}")])
            .says(word, 65, &[&message]);
    }
}

/// The run with its last checkpoints gone, so that it can be gone on with.
fn cut_short(desk: &Desk) {
    for file in ["README.md", "result.json"] {
        desk.remove(&format!("run/{file}"));
    }
    for step in [6, 8] {
        std::fs::remove_dir_all(desk.path(&format!("run/checkpoints/step-{step}"))).unwrap();
    }
}

/// What the model's folder gets counts as read, be it of no use here.
#[test]
fn what_goes_beside_the_weights_is_in_the_lock() {
    let desk = Desk::new();
    desk.write("recipe.yaml", RECIPE);
    desk.write("base/vocab.json", "{}");
    desk.write("base/LICENSE", "as it was");
    desk.run(&["train", "recipe.yaml", "output_dir=run"])
        .says("train", 0, &[]);
    cut_short(&desk);
    desk.write("base/vocab.json", "{ }");
    desk.write("base/LICENSE", "as it is");
    let parts = [
        "`DESK/base/vocab.json` has changed since the run started",
        "`DESK/base/LICENSE` has changed since the run started",
    ];
    desk.run(&["resume", "run"]).says("changed", 65, &parts);
}

#[test]
fn a_base_that_has_changed_does_not_end_as_a_model_with_anothers_config() {
    let desk = desk();
    cut_short(&desk);
    // Computed in another way: on with that, if it is wanted, and the model says so.
    let config = desk.read_text("base/config.json");
    assert_eq!(config.matches("1e-05").count(), 1);
    desk.write("base/config.json", config.replace("1e-05", "1e-03"));
    desk.run(&["resume", "run"]).says(
        "without a word",
        65,
        &["`DESK/base/config.json` has changed since the run started"],
    );
    desk.run(&["resume", "run", "--force"])
        .says("forced", 0, &["going on after step 4"]);
    assert!(desk.read_text("run/model/config.json").contains("1e-03"));
    let result: Value = serde_json::from_str(&desk.read_text("run/result.json")).unwrap();
    let score = |desk: &Desk| {
        object(&desk.run(&["eval", "run", "--json"]))["total"]["model"]["loss"].clone()
    };
    assert_eq!(
        score(&desk),
        result["eval_loss_best"],
        "the folder is what was scored"
    );
    // The base as it was: the model is still what it is.
    desk.write("base/config.json", config);
    assert_eq!(score(&desk), result["eval_loss_best"]);

    cut_short(&desk);
    std::fs::remove_dir_all(desk.path("base")).unwrap();
    rankine::files::mirror(&golden("archs/qwen2/model"), &desk.path("base")).unwrap();
    let parts = ["step-4` has tensor `lm_head.weight` of shape [304, 32], base `base` has not"];
    desk.run(&["resume", "run", "--force"])
        .says("another family", 65, &parts);
    let parts = ["`run/model` has tensor `lm_head.weight` of shape [304, 32], its base has not"];
    desk.run(&["eval", "run"])
        .says("eval on another family", 65, &parts);
}

#[test]
fn cards_of_a_model_and_of_its_exports_tell_of_base_and_training() {
    let desk = Desk::new();
    desk.write("recipe.yaml", RECIPE);
    desk.write(
        "base/README.md",
        "---\nlicense: apache-2.0\n---\n# A base\n",
    );
    desk.write("base/LICENSE", "the base's license");
    desk.run(&["train", "recipe.yaml", "output_dir=run"])
        .says("train", 0, &[]);
    assert_eq!(desk.read("run/model/README.md"), desk.read("run/README.md"));
    // Its card is no part of what the next base passes on.
    let next = [
        "train",
        "recipe.yaml",
        "base_model=run/model",
        "output_dir=next",
        "training.max_steps=1",
    ];
    desk.run(&next).says("next", 0, &[]);
    let export = |to: &str, from: &str| {
        desk.run(&["export", from, "--to", "gguf", "--out", to])
            .says(to, 0, &[]);
    };
    export("of-run/", "run");
    export("of-model/", "run/model");
    export("of-checkpoint/", "run/checkpoints/step-8");
    std::fs::remove_dir_all(desk.path("base")).unwrap();
    export("without-base/", "run");
    for folder in [
        "run/model",
        "next/model",
        "of-run",
        "of-model",
        "of-checkpoint",
        "without-base",
    ] {
        let card = desk.read_text(&format!("{folder}/README.md"));
        assert!(
            card.contains("license: \"apache-2.0\"") && card.contains("## Hyperparameters"),
            "{folder}: {card}"
        );
        assert_eq!(
            desk.read_text(&format!("{folder}/LICENSE")),
            "the base's license",
            "{folder}"
        );
    }
    assert!(
        desk.read_text("of-run/README.md")
            .contains("# `base` as GGUF")
    );
    assert!(
        desk.read_text("of-checkpoint/README.md")
            .contains("The run was not over")
    );
}

#[test]
fn a_card_knows_a_base_that_went_during_the_run() {
    let desk = Desk::new();
    desk.write("recipe.yaml", RECIPE);
    desk.write(
        "base/README.md",
        "---\nlicense: apache-2.0\n---\n# A base\n",
    );
    let mut run = desk
        .command(&[
            "train",
            "recipe.yaml",
            "output_dir=run",
            "training.max_steps=400",
        ])
        .spawn()
        .unwrap();
    let has_begun = || {
        desk.path("run/metrics.jsonl")
            .metadata()
            .is_ok_and(|file| file.len() > 0)
    };
    while !has_begun() && run.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::fs::rename(desk.path("base"), desk.path("gone")).unwrap();
    assert!(run.wait().unwrap().success());
    let card = desk.read_text("run/README.md");
    assert!(
        card.contains("license: \"apache-2.0\"") && card.contains("- Model: "),
        "{card}"
    );
}

#[test]
fn a_run_without_an_adapter_is_told_from_a_folder_without_one() {
    let desk = desk();
    let parts = [
        "`run` holds a run of all weights, expected an adapter",
        "it is a base itself, `run/model`",
    ];
    for command in [
        &["merge", "--adapter", "run", "--out", "merged"][..],
        &["generate", "--adapter", "run", "--prompt", "x"],
        &["push", "run", "me/model"],
    ] {
        desk.run(command).says(command[0], 65, &parts);
    }
}

#[test]
fn a_run_does_not_move_into_the_folder_of_its_base() {
    let desk = Desk::new();
    desk.write("base/LICENSE", "the base's license");
    for overwrite in [
        &["train", "recipe.yaml", "output_dir=base"][..],
        &["train", "recipe.yaml", "output_dir=base", "--overwrite"],
    ] {
        desk.run(overwrite).says(
            "the base's folder",
            73,
            &["output_dir: `base` is the folder of the base"],
        );
    }
    assert_eq!(desk.read_text("base/LICENSE"), "the base's license");
    assert!(!desk.path("base/README.md").exists());
}

#[test]
fn what_no_model_has_beside_its_weights_is_refused_while_the_older_run_is_there() {
    let desk = desk();
    let model = desk.read("run/model/model.safetensors");
    std::fs::File::create(desk.path("base/vocab.txt"))
        .unwrap()
        .set_len(1 << 27)
        .unwrap();
    let parts = ["base/vocab.txt", "it is larger than 64 MiB"];
    desk.run(&["train", "recipe.yaml", "output_dir=run", "--overwrite"])
        .says("128 MiB", 74, &parts);
    assert!(
        desk.read("run/model/model.safetensors") == model,
        "the older run is still there"
    );
}
