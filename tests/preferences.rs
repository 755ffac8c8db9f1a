//! Runs on preferences: what is read, shown, refused and written, the reference in the cache, and
//! resuming at every step.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array};
use serde_json::{Value, json};
use support::*;

const PAIRS: &str = "base_model: base
datasets:
  - path: pairs.parquet
    format: preference
objective:
  type: dpo
adapter:
  r: 4
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

/// A desk with pairs and with completions that have labels.
fn desk() -> Desk {
    let desk = Desk::new();
    let rows = || 1..=16;
    let prompts = || texts(rows().map(|row| format!("the term {row} means")));
    let chosen = || texts(rows().map(|row| format!(" {}fever", "so ".repeat(row % 5))));
    let rejected = texts(rows().map(|row| format!(" {}law", "no ".repeat(row % 3 + 1))));
    desk.write_rows(
        "pairs.parquet",
        vec![
            ("prompt", prompts()),
            ("chosen", chosen()),
            ("rejected", rejected),
        ],
    );
    let labels: BooleanArray = rows().map(|row| Some(row % 3 > 0)).collect();
    desk.write_rows(
        "labels.parquet",
        vec![
            ("prompt", prompts()),
            ("completion", chosen()),
            ("label", Arc::new(labels) as ArrayRef),
        ],
    );
    desk.write("recipe.yaml", PAIRS);
    desk.write(
        "kto.yaml",
        PAIRS
            .replace("pairs.parquet", "labels.parquet")
            .replace("preference", "unpaired")
            .replace("dpo", "kto"),
    );
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

fn references(desk: &Desk) -> BTreeSet<String> {
    let entries = fs::read_dir(desk.path("cache/rows")).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".reference"))
        .collect()
}

#[test]
fn dpo_starts_at_log_2_and_is_written_down_under_the_usual_names() {
    let desk = desk();
    let ran = desk.run(&["train", "recipe.yaml"]);
    ran.says(
        "a run on pairs",
        0,
        &["the first loss is 0.6931, as it must be", "accuracy"],
    );
    let lines = metrics(&desk, "run");
    let (first, last) = (&lines[0], &lines[lines.len() - 1]);
    assert!(
        (first["eval_loss"].as_f64().unwrap() - 2_f64.ln()).abs() < 1e-6,
        "{first}"
    );
    assert!(first.get("eval_perplexity").is_none(), "{first}");
    for key in [
        "eval_rewards/accuracies",
        "eval_rewards/margins",
        "eval_logps/chosen",
    ] {
        assert!(first[key].is_f64() && last[key].is_f64(), "{key}: {first}");
    }
    assert!(last["eval_loss"].as_f64().unwrap() < first["eval_loss"].as_f64().unwrap());
    let step = &lines[1];
    assert!(
        (step["loss"].as_f64().unwrap() - 2_f64.ln()).abs() < 1e-6,
        "{step}"
    );
    assert!(
        step["rewards/chosen"].as_f64().unwrap().abs() < 1e-5,
        "{step}"
    );

    let result: Value = serde_json::from_slice(&desk.read("run/result.json")).unwrap();
    assert_eq!(
        result["eval_figures_first"]["eval_rewards/margins"],
        first["eval_rewards/margins"]
    );
    let card = desk.read_text("run/README.md");
    assert!(card.contains("loss of `dpo`, `logps/chosen` "), "{card}");
    assert!(!card.contains("perplexity"), "{card}");
    let lock = desk.read_text("run/recipe.lock.yaml");
    let entries = references(&desk);
    assert_eq!(entries.len(), 2, "of training and of held-out rows");
    assert!(entries.iter().all(|entry| lock.contains(entry)), "{lock}");
    desk.run(&["report", "run"]).says("its report", 0, &[]);
    let page = desk.read_text("run/report.html");
    assert!(page.contains("Preference accuracy") && !page.contains("perplexity"));
}

#[test]
fn the_reference_is_scored_once() {
    let desk = desk();
    let run = |overrides: &[&str]| {
        desk.run(&[&["train", "recipe.yaml", "--overwrite"], overrides].concat())
    };
    run(&[]).says("first", 0, &[]);
    let (entries, first) = (references(&desk), adapter(&desk, "run"));
    let again = run(&["objective.beta=0.1"]);
    again.says("from the cache", 0, &[]);
    assert_eq!(references(&desk), entries);
    assert_eq!(adapter(&desk, "run"), first);
    // Another rank is another adapter at the start, so another reference by `init`.
    run(&["adapter.r=2"]).says("another start", 0, &[]);
    assert_eq!(references(&desk).len(), 4);
    // The base without an adapter is the same model as one whose B is 0.
    run(&["objective.reference=base"]).says("base", 0, &["the first loss is 0.6931"]);
    // A damaged entry is made again.
    for entry in references(&desk) {
        desk.cut(&format!("cache/rows/{entry}"), 0.5);
    }
    run(&[]).says("damaged", 0, &["reference's scores", "are made again"]);
    assert_eq!(adapter(&desk, "run"), first);
    run(&["objective.reference=none"]).says("none", 0, &[]);
    assert_ne!(adapter(&desk, "run"), first);
    desk.run(&["cache", "list"]).says("listed", 0, &[]);
}

#[test]
fn going_on_from_an_adapter_compares_with_it_unless_told_otherwise() {
    let desk = desk();
    desk.run(&["train", "recipe.yaml", "output_dir=first"])
        .says("the first run", 0, &[]);
    let on = |reference: &str, run: &str| {
        let (output, reference) = (
            format!("output_dir={run}"),
            format!("objective.reference={reference}"),
        );
        desk.run(&[
            "train",
            "recipe.yaml",
            "adapter.init_from=first/adapter",
            "adapter.r=",
            &output,
            &reference,
        ])
    };
    let first_loss = |run: &str| metrics(&desk, run)[0]["eval_loss"].as_f64().unwrap();
    on("init", "a").says("the adapter", 0, &["the first loss is 0.6931"]);
    on("first", "b").says("the run that made it", 0, &[]);
    assert!((first_loss("a") - 2_f64.ln()).abs() < 1e-6);
    assert!((first_loss("b") - 2_f64.ln()).abs() < 1e-6);
    let ran = on("base", "c");
    ran.says("the base", 0, &[]);
    assert!(!ran.stderr.contains("the first loss is"), "{}", ran.stderr);
    assert!((first_loss("c") - 2_f64.ln()).abs() > 1e-4);
    on("nowhere", "d").says(
        "no such folder",
        65,
        &["objective.reference: `nowhere` is neither `init`, `base`, `none`, nor the folder"],
    );
}

/// Every step has a checkpoint; from each the run comes to the same bytes.
#[test]
fn a_run_goes_on_from_every_step_to_the_same_bytes() {
    for recipe in ["recipe.yaml", "kto.yaml"] {
        let desk = desk();
        desk.run(&["train", recipe]).says(recipe, 0, &[]);
        let (alone, lines) = (adapter(&desk, "run"), metrics(&desk, "run"));
        let steps = lines
            .iter()
            .filter(|line| line.get("loss").is_some())
            .count();
        assert!(steps >= 6, "{steps}");
        for step in 1..steps {
            copy_folder(&desk.path("run"), &desk.path("cut"));
            for later in step + 1..=steps {
                fs::remove_dir_all(desk.path(&format!("cut/checkpoints/step-{later}"))).unwrap();
            }
            // A run that is not finished has no card yet.
            desk.remove("cut/README.md");
            // Without its entries in the cache the reference is scored again.
            if step % 2 == 0 {
                for entry in references(&desk) {
                    desk.remove(&format!("cache/rows/{entry}"));
                }
            }
            let going_on = format!("going on after step {step}");
            desk.run(&["resume", "cut"])
                .says("resumed", 0, &[&going_on]);
            assert_eq!(metrics(&desk, "cut"), lines, "{recipe}, step {step}");
            assert!(adapter(&desk, "cut") == alone, "{recipe}, step {step}");
            fs::remove_dir_all(desk.path("cut")).unwrap();
        }
    }
}

/// Runs are killed wherever they are, scoring the reference included, and go on to the same bytes.
#[test]
fn killed_at_random_moments_runs_come_to_the_same_bytes() {
    for recipe in ["recipe.yaml", "kto.yaml"] {
        let desk = desk();
        let before = || {
            for entry in references(&desk) {
                desk.remove(&format!("cache/rows/{entry}"));
            }
        };
        kill_at_random(&desk, &["train", recipe, "training.num_epochs=5"], before);
    }
}

#[test]
fn every_type_trains_and_micro_batches_change_nothing() {
    let desk = desk();
    for (recipe, objective) in [
        ("recipe.yaml", "orpo"),
        ("recipe.yaml", "simpo"),
        ("recipe.yaml", "cpo"),
        ("kto.yaml", "kto"),
    ] {
        let kind = format!("objective.type={objective}");
        let run = |micro: usize, packed: bool| {
            let overrides = [
                format!("training.micro_batch_size={micro}"),
                format!("training.gradient_accumulation_steps={}", 4 / micro),
                format!("training.sample_packing={packed}"),
            ];
            let mut arguments = vec![
                "train",
                recipe,
                "--overwrite",
                &kind,
                "training.shuffle=false",
            ];
            arguments.extend(overrides.iter().map(String::as_str));
            desk.run(&arguments).says(objective, 0, &[]);
            metrics(&desk, "run")
        };
        let whole = run(4, false);
        let parts = run(1, false);
        assert_eq!(whole.len(), parts.len(), "{objective}");
        for (one, other) in whole.iter().zip(&parts) {
            for key in ["loss", "eval_loss", "kl"] {
                let (Some(one), Some(other)) = (one[key].as_f64(), other[key].as_f64()) else {
                    continue;
                };
                assert!(
                    (one - other).abs() < 1e-4 * (1.0 + one.abs()),
                    "{objective}, {key}: {one} and {other}"
                );
            }
        }
        let packed = run(1, true);
        let all = |lines: &[Value]| lines[0]["eval_loss"].as_f64().unwrap();
        assert!((all(&packed) - all(&whole)).abs() < 1e-5, "{objective}");
    }
}

#[test]
fn halves_of_a_pair_are_shown_next_to_each_other() {
    let desk = desk();
    let ran = desk.run(&["preview", "recipe.yaml", "--row", "2"]);
    ran.says("a pair", 0, &[]);
    let heading = ran.stdout.lines().find(|line| line.contains("chosen"));
    assert!(
        heading.is_some_and(|line| line.ends_with("| rejected")),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("equal halves"), "{}", ran.stdout);
    let ran = desk.run(&["preview", "kto.yaml", "--row", "2"]);
    ran.says("a completion", 0, &[]);
    assert!(ran.stdout.contains(", undesirable"), "{}", ran.stdout);
}

#[test]
fn implicit_prompts_and_messages_make_the_same_tokens() {
    let desk = desk();
    let first = |recipe: &str| {
        let ran = desk.run(&["train", recipe, "--overwrite"]);
        ran.says(recipe, 0, &[]);
        metrics(&desk, "run")[0].clone()
    };
    let explicit = first("recipe.yaml");
    let whole = |ends: &dyn Fn(usize) -> String| {
        texts((1..=16).map(|row| format!("the term {row} means{}", ends(row))))
    };
    desk.write_rows(
        "pairs.parquet",
        vec![
            (
                "chosen",
                whole(&|row| format!(" {}fever", "so ".repeat(row % 5))),
            ),
            (
                "rejected",
                whole(&|row| format!(" {}law", "no ".repeat(row % 3 + 1))),
            ),
        ],
    );
    assert_eq!(
        first("recipe.yaml")["eval_logps/chosen"],
        explicit["eval_logps/chosen"]
    );
}

#[test]
fn broken_rows_and_equal_halves_are_left_out_and_counted() {
    let desk = desk();
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let [user, yes, no] = [("user", "q"), ("assistant", "yes"), ("assistant", "no")]
        .map(|(role, content)| turn(role, content));
    desk.write(
        "pairs.jsonl",
        [
            json!({"prompt": "p", "chosen": " a", "rejected": " b"}),
            json!({"prompt": "p", "chosen": " a", "rejected": " a"}),
            json!({"prompt": "p", "chosen": "", "rejected": " a"}),
            json!({"prompt": null, "chosen": " a", "rejected": " b"}),
        ]
        .map(|row| row.to_string() + "\n")
        .concat(),
    );
    let ran = desk.run(&[
        "preview",
        "recipe.yaml",
        "datasets.0.path=pairs.jsonl",
        "evaluation.val_set_size=0",
        "training.max_dropped=1",
    ]);
    ran.says(
        "texts",
        0,
        &[
            "2 of 4 rows have no token to train and are left out",
            "1 of 4 pairs are left out: their chosen and rejected sequences are the same",
        ],
    );
    // A pair of which nothing of an answer is left.
    desk.write_rows(
        "long.parquet",
        vec![
            ("prompt", texts(["short", &"long ".repeat(80)])),
            ("chosen", texts([" a", " a"])),
            ("rejected", texts([" b", " b"])),
        ],
    );
    let ran = desk.run(&[
        "preview",
        "recipe.yaml",
        "datasets.0.path=long.parquet",
        "evaluation.val_set_size=0",
        "training.truncation=truncate",
        "training.max_dropped=1",
    ]);
    ran.says(
        "cut",
        0,
        &["1 of 2 rows have no token to train and are left out"],
    );

    // Lists of messages.
    desk.write(
        "t.jinja",
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content \
        }}<|eot_id|>{% endfor %}{% if add_generation_prompt \
        %}<|start_header_id|>assistant<|end_header_id|>{% endif %}",
    );
    let chats = |rows: &[Value]| {
        let lines: String = rows.iter().map(|row| row.to_string() + "\n").collect();
        desk.write("chats.jsonl", lines);
        desk.run(&[
            "preview",
            "recipe.yaml",
            "chat_template=t.jinja",
            "datasets.0.path=chats.jsonl",
            "evaluation.val_set_size=0",
            "training.max_dropped=1",
        ])
    };
    let ran = chats(&[
        json!({"chosen": [user, yes], "rejected": [user, no]}),
        json!({"chosen": [yes], "rejected": [no]}),
        json!({"chosen": [user, turn("narrator", "x")], "rejected": [user, no]}),
    ]);
    ran.says(
        "implicit prompts of conversations",
        0,
        &[
            "2 of 3 rows are broken and left out",
            "column `chosen`: the chosen and the rejected conversation begin with different turns",
        ],
    );
    assert!(ran.stdout.contains("⟦y"), "{}", ran.stdout);
    // A prompt that is text, beside whole conversations.
    let ran = chats(&[json!({"prompt": "p", "chosen": [user, yes], "rejected": [user, no]})]);
    ran.says("the common turns", 0, &[]);
    let ran = chats(&[json!({"prompt": "p", "chosen": " a", "rejected": [no]})]);
    ran.says(
        "text beside a list",
        65,
        &["column `rejected`: it is a list of messages and the chosen one is text"],
    );
    let ran = chats(&[json!({"prompt": [user], "chosen": " a", "rejected": " b"})]);
    ran.says(
        "texts after a list",
        65,
        &["column `chosen`: it is text and the prompt is a list of messages"],
    );
}

/// Recipes and files that are refused, each with its message.
#[test]
fn what_does_not_fit_is_refused_with_both_sides() {
    let desk = desk();
    let check = |what: &str, overrides: &[&str], exit: i32, parts: &[&str]| {
        desk.run(&[&["check", "recipe.yaml"], overrides].concat())
            .says(what, exit, parts);
    };
    for (what, overrides, part) in [
        (
            "a format of another type",
            &["objective.type=kto", "objective.loss_type="][..],
            "format: `preference` does not go with `objective: {type: kto}`, which reads `unpaired`",
        ),
        (
            "pairs without an objective",
            &["objective.type=sft"],
            "format: `preference` does not go with `objective: {type: sft}`",
        ),
        (
            "a key of another type",
            &["objective.type=orpo", "objective.label_smoothing=0.1"],
            "objective.label_smoothing goes with `type` `sft`, `dpo`, `simpo` or `cpo` only, found `orpo`",
        ),
        (
            "a reference where there is none",
            &["objective.type=simpo", "objective.reference=base"],
            "objective.reference goes with `type` `dpo` or `kto` only, found `simpo`",
        ),
        (
            "a loss of another type",
            &["objective.type=cpo", "objective.loss_type=apo_zero"],
            "objective.loss_type: `apo_zero` is no loss of `type: cpo`",
        ),
        (
            "an unknown loss",
            &["objective.loss_type=sigmoidal"],
            "objective.loss_type",
        ),
        (
            "smoothing that does nothing",
            &["objective.loss_type=hinge", "objective.label_smoothing=0.1"],
            "objective.label_smoothing does not go with `loss_type: hinge`",
        ),
        (
            "a logarithm of 0",
            &["objective.loss_type=exo_pair"],
            "`exo_pair` needs a `label_smoothing` above 0",
        ),
        (
            "a temperature of another loss",
            &["objective.discopop_tau=0.1"],
            "objective.discopop_tau goes with `loss_type: discopop` only",
        ),
        (
            "half of the labels swapped",
            &["objective.label_smoothing=0.5"],
            "objective.label_smoothing",
        ),
        ("no beta", &["objective.beta=0"], "objective.beta"),
        (
            "labels to train on",
            &["datasets.0.train_on=last"],
            "train_on: format `preference` has no `train_on`",
        ),
        (
            "a type that is not built",
            &["objective.type=grpo"],
            "`grpo` is not supported yet",
        ),
        (
            "a column that is no column",
            &["datasets.0.columns.completion=chosen"],
            "columns: format `preference` has no column `completion`",
        ),
    ] {
        check(what, overrides, 65, &[part]);
    }
    desk.run(&[
        "check",
        "kto.yaml",
        "training.micro_batch_size=1",
        "training.gradient_accumulation_steps=1",
    ])
    .says(
        "one row",
        65,
        &[
            "`kto` reads prompts with completions of other rows",
            "a step has 1 row",
        ],
    );

    // Files.
    desk.write_rows(
        "no-rejected.parquet",
        vec![("prompt", texts(["a"])), ("chosen", texts(["b"]))],
    );
    check(
        "a missing half",
        &["datasets.0.path=no-rejected.parquet"],
        65,
        &["`rejected`"],
    );
    let numbers = Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef;
    desk.write_rows(
        "numbers.parquet",
        vec![
            ("prompt", texts(["a", "b"])),
            ("chosen", numbers.clone()),
            ("rejected", texts(["a", "b"])),
        ],
    );
    check(
        "numbers",
        &["datasets.0.path=numbers.parquet"],
        65,
        &["`chosen`"],
    );
    desk.write_rows(
        "labels-2.parquet",
        vec![
            ("prompt", texts(["a", "b"])),
            ("completion", texts(["c", "d"])),
            ("label", numbers),
        ],
    );
    let ran = desk.run(&[
        "preview",
        "kto.yaml",
        "datasets.0.path=labels-2.parquet",
        "evaluation.val_set_size=0",
        "training.max_dropped=1",
    ]);
    ran.says(
        "a label of 2",
        0,
        &[
            "column `label`: the label is",
            "expected true or false, or 1 or 0",
        ],
    );
    desk.write_rows(
        "texts.parquet",
        vec![
            ("prompt", texts(["a"])),
            ("completion", texts(["c"])),
            ("label", texts(["good"])),
        ],
    );
    desk.run(&["check", "kto.yaml", "datasets.0.path=texts.parquet"])
        .says("labels that are texts", 65, &["`label`", "true and false"]);
}
