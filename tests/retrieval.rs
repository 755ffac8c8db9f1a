//! Runs on texts that belong together: what is read, proposed, refused and written, resuming at
//! every step, and vectors of a trained embedder.

mod common;
mod support;

use std::fs;

use common::committed;
use serde_json::{Value, json};
use support::*;

const RECIPE: &str = "base_model: base
datasets:
  - path: pairs.parquet
    format: retrieval
objective:
  type: embedding
  symmetric: true
adapter:
  r: 4
  dropout: 0.1
training:
  sequence_len: 64
  num_epochs: 2
  micro_batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 2e-3
evaluation:
  val_set_size: 4
output:
  save_steps: 1
  save_total_limit: 1000
output_dir: run
";

/// What differs from run to run: it is measured with a clock.
const MEASURED: [&str; 2] = ["tokens_per_second", "peak_memory_bytes"];

fn desk() -> Desk {
    let desk = Desk::new();
    let rows = || 1..=16;
    let anchors = || texts(rows().map(|row| format!("the term {row}")));
    let positives = || texts(rows().map(|row| format!("{}fever {row}", "so ".repeat(row % 5))));
    let negatives = texts(rows().map(|row| format!("law {row}")));
    desk.write_rows(
        "pairs.parquet",
        vec![
            ("anchor", anchors()),
            ("positive", positives()),
            ("negative_1", negatives),
        ],
    );
    desk.write_rows(
        "queries.parquet",
        vec![("query", anchors()), ("pos", positives())],
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

#[test]
fn a_run_is_written_down_and_its_adapter_loads_without_a_head() {
    let desk = desk();
    desk.run(&["train", "recipe.yaml"]).says("a run", 0, &[]);
    let lines = metrics(&desk, "run");
    let (first, last) = (&lines[0], &lines[lines.len() - 1]);
    for key in [
        "eval_recall@1",
        "eval_recall@10",
        "eval_ndcg@10",
        "eval_mrr@10",
        "eval_accuracy",
    ] {
        assert!(first[key].is_f64() && last[key].is_f64(), "{key}: {first}");
    }
    assert!(last["eval_loss"].as_f64().unwrap() < first["eval_loss"].as_f64().unwrap());
    assert!(lines[1]["false_negatives"].is_f64(), "{}", lines[1]);
    let config: Value =
        serde_json::from_slice(&desk.read("run/adapter/adapter_config.json")).unwrap();
    assert_eq!(config["task_type"], "FEATURE_EXTRACTION");
    let text = String::from_utf8_lossy(&adapter(&desk, "run")).into_owned();
    assert!(
        text.contains("base_model.model.layers.0.") && !text.contains("base_model.model.model."),
        "keys of a model without a head"
    );
    let pooling: Value =
        serde_json::from_slice(&desk.read("run/adapter/1_Pooling/config.json")).unwrap();
    assert_eq!(pooling["pooling_mode_mean_tokens"], true);
    assert!(desk.path("run/adapter/modules.json").exists());
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let copy = desk.read(&format!("run/adapter/{name}"));
        assert_eq!(copy, desk.read(&format!("base/{name}")), "{name}");
    }
    let card = desk.read_text("run/README.md");
    assert!(!card.contains("tokenizer of its own"), "{card}");
    assert!(card.contains("`recall@10` "), "{card}");

    let ran = desk.run(&["eval", "run"]);
    ran.says("figures", 0, &[]);
    assert!(
        ran.stdout.contains("recall@10") && ran.stdout.contains("with adapter"),
        "{}",
        ran.stdout
    );
    let ran = desk.run(&[
        "embed",
        "pairs.parquet",
        "--column",
        "positive",
        "--adapter",
        "run",
        "--out",
        "vectors.parquet",
        "--json",
    ]);
    ran.says("vectors", 0, &[]);
    let made: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&made["rows"], &made["pooling"]),
        (&json!(16), &json!("mean"))
    );
    assert!(desk.path("vectors.parquet").exists());
}

#[test]
fn every_step_resumes_to_the_bit_and_micro_batches_change_nothing() {
    let desk = desk();
    desk.run(&["train", "recipe.yaml"]).says("a run", 0, &[]);
    let (whole, lines) = (adapter(&desk, "run"), metrics(&desk, "run"));
    let checkpoints = desk.path("run/checkpoints");
    let mut steps: Vec<u64> = fs::read_dir(&checkpoints)
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_prefix("step-")?.parse().ok()
        })
        .collect();
    steps.sort_unstable();
    assert!(steps.len() >= 6, "{steps:?}");
    for step in steps.iter().rev().skip(1) {
        for gone in ["adapter", "README.md", "result.json"] {
            let path = desk.path("run").join(gone);
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        for later in steps.iter().filter(|later| *later > step) {
            let _ = fs::remove_dir_all(checkpoints.join(format!("step-{later}")));
        }
        desk.run(&["resume", "run"]).says("resumed", 0, &[]);
        assert!(adapter(&desk, "run") == whole, "step {step}");
        assert_eq!(metrics(&desk, "run"), lines, "step {step}");
    }
    let one = [
        "train",
        "recipe.yaml",
        "training.micro_batch_size=4",
        "training.gradient_accumulation_steps=1",
        "output_dir=one",
    ];
    desk.run(&one).says("in one micro-batch", 0, &[]);
    for (one, two) in metrics(&desk, "one").iter().zip(&lines) {
        for key in ["loss", "eval_loss"] {
            if let (Some(one), Some(two)) = (one[key].as_f64(), two[key].as_f64()) {
                assert!(
                    (one - two).abs() < 1e-4 * (1.0 + two),
                    "{key}: {one}, not {two}"
                );
            }
        }
    }
}

#[test]
fn other_names_are_proposed_and_what_does_not_fit_is_refused() {
    let desk = desk();
    let named = ["check", "recipe.yaml", "datasets.0.path=queries.parquet"];
    desk.run(&named).says(
        "names of the field",
        65,
        &["columns: {anchor: query, positive: pos}"],
    );
    let with_names = [
        &named[..],
        &[
            "datasets.0.columns.anchor=query",
            "datasets.0.columns.positive=pos",
        ],
    ];
    desk.run(&with_names.concat()).says("named", 0, &[]);
    for (changed, said) in [
        ("objective.pooling=max", "`max`"),
        ("objective.temperature=0", "a number above 0"),
        ("objective.beta=0.1", "objective.beta goes with `type`"),
        (
            "objective.matryoshka_weights=[1, 2]",
            "`matryoshka_dims` has 0",
        ),
        (
            "objective.matryoshka_dims=[100000]",
            "the base's vectors have",
        ),
        ("datasets.0.format=text", "which reads `retrieval`"),
        ("datasets.0.train_on=all", "train_on"),
        ("objective.type=sft", "format: `retrieval` does not go with"),
    ] {
        desk.run(&["check", "recipe.yaml", changed])
            .says(changed, 65, &[said]);
    }
}

#[test]
fn encoders_train_as_embedders_and_generate_nothing() {
    let desk = desk();
    for encoder in ["bert", "roberta", "xlm_roberta", "modernbert"] {
        let base = committed(&format!("encoders/{encoder}/model"));
        let base = base.display().to_string();
        let (named, out) = (
            format!("base_model={base}"),
            format!("output_dir={encoder}"),
        );
        let short = "training.sequence_len=20";
        let run = [
            "train",
            "recipe.yaml",
            &named,
            &out,
            short,
            "training.sample_packing=true",
        ];
        desk.run(&run).says(encoder, 0, &[]);
        let lines = metrics(&desk, encoder);
        let of = |line: &Value| line["eval_loss"].as_f64().unwrap();
        assert!(of(&lines[lines.len() - 1]) < of(&lines[0]), "{encoder}");
        let sft = [
            "check",
            "recipe.yaml",
            &named,
            short,
            "objective.type=sft",
            "objective.symmetric=",
            "datasets.0.format=text",
            "datasets.0.columns.text=anchor",
        ];
        desk.run(&sft).says(encoder, 65, &["it is an encoder"]);
        desk.run(&["generate", "--base", &base, "--prompt", "x"])
            .says(encoder, 65, &["is an encoder"]);
        desk.run(&["export", &base, "--to", "gguf", "--out", "x.gguf"])
            .says(encoder, 65, &[]);
    }
}

/// Runs are killed wherever they are, and go on to the same bytes.
#[test]
fn killed_at_random_moments_runs_come_to_the_same_bytes() {
    let desk = desk();
    kill_at_random(
        &desk,
        &["train", "recipe.yaml", "training.num_epochs=4"],
        || {},
    );
}
