//! Runs that learn from a teacher: beside the student, from its tokens in the cache, and from
//! columns that `rankine teach` wrote; what is refused; and resuming at every step.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::*;

const RECIPE: &str = "base_model: base
datasets:
  - path: rows.parquet
    format: completion
objective:
  type: distill
  teacher: large
adapter:
  r: 4
training:
  sequence_len: 40
  num_epochs: 2
  micro_batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 5e-3
evaluation:
  val_set_size: 4
output:
  save_steps: 1
  save_total_limit: 1000
output_dir: run
";

/// What differs from run to run: it is measured with a clock.
const MEASURED: [&str; 2] = ["tokens_per_second", "peak_memory_bytes"];

/// A desk with rows, and with a teacher of another family that has the base's tokens.
fn desk() -> Desk {
    let desk = Desk::new();
    let archs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs");
    copy_folder(&archs.join("qwen2/model"), &desk.path("other"));
    copy_folder(&archs.join("qwen2/model"), &desk.path("large"));
    for file in fs::read_dir(desk.path("base")).unwrap().map(Result::unwrap) {
        let name = file.file_name().into_string().unwrap();
        if name != "config.json" && name != "model.safetensors" {
            fs::copy(file.path(), desk.path("large").join(name)).unwrap();
        }
    }
    let rows = || 1..=16;
    desk.write_rows(
        "rows.parquet",
        vec![
            ("prompt", texts(rows().map(|row| format!("the term {row}")))),
            (
                "completion",
                texts(rows().map(|row| format!(" means {}fever", "so ".repeat(row % 5)))),
            ),
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

fn number(line: &Value, key: &str) -> f64 {
    line[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no {key} in {line}"))
}

fn adapter(desk: &Desk, run: &str) -> Vec<u8> {
    desk.read(&format!("{run}/adapter/adapter_model.safetensors"))
}

/// The entries of the cache with a teacher's tokens.
fn entries(desk: &Desk) -> BTreeSet<String> {
    let entries = fs::read_dir(desk.path("cache/rows")).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".teacher"))
        .collect()
}

#[test]
fn a_student_comes_nearer_to_its_teacher_and_is_written_down() {
    let desk = desk();
    desk.run(&["train", "recipe.yaml"])
        .says("beside", 0, &["divergence"]);
    let lines = metrics(&desk, "run");
    let (first, last) = (&lines[0], &lines[lines.len() - 1]);
    for key in ["eval_divergence", "eval_nll_loss"] {
        assert!(first[key].is_f64() && last[key].is_f64(), "{key}: {first}");
    }
    assert!(number(last, "eval_divergence") < number(first, "eval_divergence"));
    assert!((number(first, "eval_loss") - number(first, "eval_divergence")).abs() < 1e-9);
    assert!(number(&lines[1], "divergence") > 0.1, "{}", lines[1]);
    let lock = desk.read_text("run/recipe.lock.yaml");
    assert!(lock.contains("teacher: large"), "{lock}");
    assert!(
        lock.contains("large/model-00001-of-00003.safetensors: "),
        "{lock}"
    );
    let card = desk.read_text("run/README.md");
    assert!(card.contains("loss of `distill`, `divergence` "), "{card}");
    desk.run(&["report", "run"]).says("its report", 0, &[]);
    let page = desk.read_text("run/report.html");
    assert!(page.contains("Divergence from the teacher") && !page.contains("perplexity"));
    desk.run(&["eval", "run"]).says("its scores", 0, &[]);
    let plan = desk.run(&["plan", "recipe.yaml"]);
    assert!(plan.stdout.contains("teacher"), "{}", plan.stdout);
    desk.run(&["check", "recipe.yaml"]).says("checked", 0, &[]);
    // A packed teacher is another one.
    let packed = [
        "train",
        "recipe.yaml",
        "--overwrite",
        "objective.teacher_quantization=int8",
    ];
    desk.run(&packed).says("packed", 0, &[]);
    let other = number(&metrics(&desk, "run")[0], "eval_loss");
    let off = (other - number(first, "eval_loss")).abs();
    assert!(off > 1e-7 && off < 0.1, "{off}");
}

#[test]
fn every_divergence_trains_and_micro_batches_change_nothing() {
    let desk = desk();
    for words in [
        &["objective.beta=0"][..],
        &["objective.beta=0.5", "objective.temperature=2"],
        &["objective.beta=1", "objective.ce_alpha=0.3"],
        &["objective.cache_teacher=true", "objective.loss_top_k=8"],
    ] {
        let run = |micro: usize, packed: bool| {
            let overrides = [
                format!("training.micro_batch_size={micro}"),
                format!("training.gradient_accumulation_steps={}", 4 / micro),
                format!("training.sample_packing={packed}"),
            ];
            let mut arguments = vec![
                "train",
                "recipe.yaml",
                "--overwrite",
                "training.shuffle=false",
            ];
            arguments.extend(words);
            arguments.extend(overrides.iter().map(String::as_str));
            desk.run(&arguments).says("a run", 0, &[]);
            metrics(&desk, "run")
        };
        let (whole, parts) = (run(4, false), run(1, false));
        assert_eq!(whole.len(), parts.len());
        for (one, other) in whole.iter().zip(&parts) {
            for key in ["loss", "eval_loss", "divergence", "nll_loss"] {
                let (Some(one), Some(other)) = (one[key].as_f64(), other[key].as_f64()) else {
                    continue;
                };
                assert!(
                    (one - other).abs() < 1e-4 * (1.0 + one.abs()),
                    "{words:?}, {key}: {one} and {other}"
                );
            }
        }
        let packed = number(&run(1, true)[0], "eval_loss");
        assert!(
            (packed - number(&whole[0], "eval_loss")).abs() < 1e-5,
            "{words:?}"
        );
    }
}

#[test]
fn a_teacher_is_read_out_once() {
    let desk = desk();
    let run = |overrides: &[&str]| {
        let words = [
            "train",
            "recipe.yaml",
            "--overwrite",
            "objective.cache_teacher=true",
        ];
        desk.run(&[&words, overrides].concat())
    };
    run(&[]).says("first", 0, &[]);
    let (kept, first) = (entries(&desk), adapter(&desk, "run"));
    assert_eq!(kept.len(), 2, "of training and of held-out rows");
    let lock = desk.read_text("run/recipe.lock.yaml");
    assert!(kept.iter().all(|entry| lock.contains(entry)), "{lock}");
    run(&[]).says("from the cache", 0, &[]);
    assert_eq!(entries(&desk), kept);
    assert!(adapter(&desk, "run") == first);
    for entry in entries(&desk) {
        desk.cut(&format!("cache/rows/{entry}"), 0.5);
    }
    run(&[]).says("damaged", 0, &["teacher's tokens", "are made again"]);
    assert!(adapter(&desk, "run") == first);
    // Without a cache the tokens are in a file that has no name.
    run(&["cache=none"]).says("nowhere", 0, &[]);
    assert!(adapter(&desk, "run") == first);
    run(&["objective.loss_top_k=3"]).says("fewer", 0, &[]);
    assert_eq!(entries(&desk).len(), 4);
    run(&["objective.temperature=2"]).says("hotter", 0, &[]);
    assert_eq!(entries(&desk).len(), 6);
    desk.run(&["cache", "list"]).says("listed", 0, &[]);
    // All tokens are the whole distribution.
    run(&["objective.loss_top_k=304"]).says("all", 0, &[]);
    let all = metrics(&desk, "run");
    desk.run(&["train", "recipe.yaml", "--overwrite"])
        .says("beside", 0, &[]);
    for (one, other) in metrics(&desk, "run").iter().zip(&all) {
        let key = if one["loss"].is_f64() {
            "loss"
        } else {
            "eval_loss"
        };
        let off = (number(one, key) - number(other, key)).abs();
        assert!(off < 1e-4, "{one} and {other}");
    }
}

/// Every step has a checkpoint; from each the run comes to the same bytes.
#[test]
fn a_run_goes_on_from_every_step_to_the_same_bytes() {
    for words in [&[][..], &["objective.cache_teacher=true"]] {
        let desk = desk();
        desk.run(&[&["train", "recipe.yaml"], words].concat())
            .says("the whole run", 0, &[]);
        let (alone, lines) = (adapter(&desk, "run"), metrics(&desk, "run"));
        let steps = lines.iter().filter(|line| line["loss"].is_f64()).count();
        assert!(steps >= 6, "{steps}");
        for step in 1..steps {
            copy_folder(&desk.path("run"), &desk.path("cut"));
            for later in step + 1..=steps {
                fs::remove_dir_all(desk.path(&format!("cut/checkpoints/step-{later}"))).unwrap();
            }
            desk.remove("cut/README.md");
            if step % 2 == 0 {
                for entry in entries(&desk) {
                    desk.remove(&format!("cache/rows/{entry}"));
                }
            }
            let going_on = format!("going on after step {step}");
            desk.run(&["resume", "cut"])
                .says("resumed", 0, &[&going_on]);
            assert_eq!(metrics(&desk, "cut"), lines, "step {step}");
            assert!(adapter(&desk, "cut") == alone, "step {step}");
            fs::remove_dir_all(desk.path("cut")).unwrap();
        }
        // A teacher that has changed is another one.
        copy_folder(&desk.path("run"), &desk.path("cut"));
        fs::remove_dir_all(desk.path(&format!("cut/checkpoints/step-{steps}"))).unwrap();
        desk.remove("cut/README.md");
        desk.edit(
            "large/config.json",
            "\"max_position_embeddings\": 64",
            "\"max_position_embeddings\": 63",
        );
        let changed = desk.run(&["resume", "cut"]);
        assert_ne!(changed.exit, 0);
        assert!(changed.stderr.contains("teacher"), "{}", changed.stderr);
    }
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let desk = desk();
    fs::create_dir(desk.path("adapter")).unwrap();
    desk.write("adapter/adapter_config.json", "{}");
    desk.write("adapter/adapter_model.safetensors", "");
    for (words, parts) in [
        (
            &["objective.teacher=other"][..],
            &["its token ", "that of the base is"][..],
        ),
        (&["objective.teacher="], &["`distill` needs a `teacher`"]),
        (
            &["objective.teacher=nowhere"],
            &["`nowhere` is neither the folder of a model, a Hub id, nor `data`"],
        ),
        (
            &["objective.teacher=adapter"],
            &["holds an adapter, expected a model"],
        ),
        (
            &["objective.loss_top_k=8"],
            &["goes with `cache_teacher: true`"],
        ),
        (
            &["objective.cache_teacher=true", "objective.loss_top_k=5000"],
            &["have 304 tokens in common"],
        ),
        (&["objective.beta=1.5"], &["has a number from 0 to 1"]),
        (
            &["objective.beta=1", "objective.missing_mass=teacher_renorm"],
            &["is infinite there"],
        ),
        (
            &["objective.teacher=data", "objective.cache_teacher=true"],
            &["`data` is what rows bring"],
        ),
        (&["objective.loss_type=sigmoid"], &["loss_type"]),
        (
            &["objective.reference=base"],
            &["goes with `type` `dpo` or `kto` only"],
        ),
    ] {
        let ran = desk.run(&[&["check", "recipe.yaml"], words].concat());
        ran.says(&format!("{words:?}"), 65, parts);
    }
    desk.run(&["train", "recipe.yaml", "objective.teacher=data"])
        .says(
            "rows without a teacher",
            65,
            &["does not bring the tokens of a teacher: it has no column `teacher_targets`"],
        );
    desk.run(&[
        "check",
        "recipe.yaml",
        "objective.type=dpo",
        "objective.beta=0",
        "objective.teacher=",
    ])
    .says("a beta of 0", 65, &["has a number above 0"]);
}

/// Asks the teacher; answers of a model of random weights end by chance.
fn teach(desk: &Desk, out: &str, more: &[&str]) -> Ran {
    let words = [
        "teach",
        "--base",
        "large",
        "--prompts",
        "asked.parquet",
        "--out",
        out,
        "--temperature",
        "5",
        "--max-tokens",
        "48",
        "--logprobs",
        "8",
        "--json",
    ];
    desk.run(&[&words, more].concat())
}

fn ask(desk: &Desk) {
    let prompts = texts((1..=120).map(|row| format!("the term {row}")));
    desk.write_rows("asked.parquet", vec![("prompt", prompts)]);
}

#[test]
fn a_teacher_answers_and_a_student_trains_on_its_answers() {
    let desk = desk();
    ask(&desk);
    let ran = teach(&desk, "answers.parquet", &[]);
    ran.says("answers", 0, &[]);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let (rows, cut) = (
        told["rows"].as_u64().unwrap(),
        told["cut"].as_u64().unwrap(),
    );
    assert!(rows >= 8 && cut >= 1, "{told}");
    assert_eq!(told["prompts"], json!(120));
    assert!(!desk.path("answers.parquet.partial").exists());
    let words = [
        "train",
        "recipe.yaml",
        "--overwrite",
        "datasets.0.path=answers.parquet",
        "training.sequence_len=100",
    ];
    let run = |more: &[&str]| {
        let ran = desk.run(&[&words, more].concat());
        ran.says("a run", 0, &[]);
        assert!(!ran.stderr.contains("does not read"), "{}", ran.stderr);
        metrics(&desk, "run")
    };
    let data = run(&["objective.teacher=data"]);
    assert_eq!(entries(&desk).len(), 2);
    let model = run_cached(&desk, &words);
    for (one, other) in data.iter().zip(&model) {
        let key = if one["loss"].is_f64() {
            "loss"
        } else {
            "eval_loss"
        };
        assert!(
            (number(one, key) - number(other, key)).abs() < 1e-4,
            "{one} and {other}"
        );
    }
    desk.run(
        &[
            &words[..],
            &["objective.teacher=data", "objective.temperature=2"],
        ]
        .concat(),
    )
    .says("another temperature", 65, &["are those at 1"]);
    // Another template or tokenizer would make other tokens.
    desk.run(
        &[
            &words[..],
            &["objective.teacher=data", "datasets.0.train_on=all"],
        ]
        .concat(),
    )
    .says("other tokens", 65, &["its trained token 0 is"]);
    // Rows may be cut.
    let cut = [
        "objective.teacher=data",
        "training.sequence_len=14",
        "training.truncation=truncate",
    ];
    desk.run(&[&words[..], &cut].concat())
        .says("cut rows", 0, &[]);
}

fn run_cached(desk: &Desk, words: &[&str]) -> Vec<Value> {
    let more = ["objective.cache_teacher=true", "objective.loss_top_k=8"];
    desk.run(&[words, &more].concat())
        .says("cached", 0, &["does not read"]);
    metrics(desk, "run")
}

#[test]
fn answers_that_were_interrupted_come_to_the_same_bytes() {
    let desk = desk();
    ask(&desk);
    teach(&desk, "whole.parquet", &[]).says("whole", 0, &[]);
    let whole = desk.read("whole.parquet");
    // Killed at any time: what is there is cut off somewhere.
    let mut child = desk
        .command(&[
            "teach",
            "--base",
            "large",
            "--prompts",
            "asked.parquet",
            "--out",
            "x.parquet",
            "--temperature",
            "5",
            "--max-tokens",
            "48",
            "--logprobs",
            "8",
            "--json",
        ])
        .spawn()
        .unwrap();
    let partial = desk.path("x.parquet.partial");
    let lines = || fs::read_to_string(&partial).map_or(0, |text| text.lines().count());
    while lines() < 5 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if partial.exists() {
        let text = desk.read("x.parquet.partial");
        for share in [1.0, 0.9, 0.4, 0.001] {
            fs::remove_file(desk.path("x.parquet")).ok();
            let kept = (text.len() as f64 * share) as usize;
            fs::write(&partial, &text[..kept]).unwrap();
            let ran = teach(&desk, "x.parquet", &[]);
            ran.says("going on", 0, &[]);
            assert!(desk.read("x.parquet") == whole, "{share}");
        }
        fs::write(&partial, &text).unwrap();
        teach(&desk, "x.parquet", &["--seed", "7"]).says(
            "another command",
            65,
            &["holds answers of another command"],
        );
    } else {
        assert!(desk.read("x.parquet") == whole);
    }
}

#[test]
fn prompts_are_checked() {
    let desk = desk();
    desk.run(&[
        "teach",
        "--base",
        "large",
        "--prompts",
        "no.parquet",
        "--out",
        "x.parquet",
    ])
    .says("no prompts", 66, &["`no.parquet` does not exist"]);
    desk.run(&[
        "teach",
        "--base",
        "large",
        "--prompts",
        "rows.parquet",
        "--column",
        "q",
        "--out",
        "x.parquet",
    ])
    .says("no such column", 65, &["`q`"]);
    assert!(!desk.path("x.parquet").exists() && !desk.path("x.parquet.partial").exists());
}

/// Runs are killed wherever they are, and go on to the same bytes.
#[test]
fn killed_at_random_moments_runs_come_to_the_same_bytes() {
    let desk = desk();
    let before = || {
        for entry in entries(&desk) {
            desk.remove(&format!("cache/rows/{entry}"));
        }
    };
    let train = ["train", "recipe.yaml", "objective.cache_teacher=true"];
    kill_at_random(&desk, &train, before);
}
