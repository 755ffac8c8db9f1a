//! `rankine train` from a recipe to an adapter, through the binary: what a run leaves behind, what
//! it prints, which adapter it keeps, and what it does when numbers stop being finite.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use support::*;

/// Overrides with which the validation loss is lowest after the first step: the learning rate is
/// far too high and never falls.
const OVERSHOOTS: &[&str] = &[
    "training.learning_rate=0.3",
    "training.lr_scheduler=constant",
    "training.max_steps=3",
    "evaluation.val_set_size=3",
    "evaluation.eval_steps=1",
    "output.save_steps=1",
    "output.save_total_limit=100",
];

fn train(desk: &Desk, overrides: &[&str]) -> Ran {
    desk.run(&[&["train", "recipe.yaml"], overrides].concat())
}

/// The object that `--json` prints.
fn result(desk: &Desk, overrides: &[&str]) -> Value {
    let ran = train(desk, &[overrides, &["--json"]].concat());
    ran.says("a run", 0, &[]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

/// The lines of metrics.jsonl that are steps, and those that are evaluations.
fn metrics(desk: &Desk, run: &str) -> (Vec<Value>, Vec<Value>) {
    let lines = desk.read_text(&format!("{run}/metrics.jsonl"));
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .partition(|line: &Value| line.get("loss").is_some())
}

fn keys(object: &Value) -> Vec<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// Every file below a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            found.extend(
                files(&entry.path())
                    .into_iter()
                    .map(|below| format!("{name}/{below}")),
            );
        } else {
            found.insert(name);
        }
    }
    found
}

fn weights(desk: &Desk, adapter: &str) -> Vec<u8> {
    desk.read(&format!("{adapter}/adapter_model.safetensors"))
}

#[test]
fn a_run_leaves_its_files_and_prints_its_result() {
    let desk = Desk::new();
    let overrides = [
        "training.max_steps=",
        "training.num_epochs=2",
        "training.micro_batch_size=4",
        "evaluation.val_set_size=4",
    ];
    let result = result(&desk, &overrides);

    let checkpoint = [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "manifest.json",
        "optimizer.safetensors",
        "recipe.lock.yaml",
        "state.json",
    ];
    let of_step = |step: u64| checkpoint.map(|file| format!("checkpoints/step-{step}/{file}"));
    let own = [
        "README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "metrics.jsonl",
        "recipe.lock.yaml",
        "result.json",
    ];
    let expected: BTreeSet<String> = [of_step(2), of_step(4)]
        .concat()
        .into_iter()
        .chain(own.map(str::to_owned))
        .collect();
    let (events, found): (BTreeSet<_>, _) = files(&desk.path("run"))
        .into_iter()
        .partition(|file| file.starts_with("tensorboard/"));
    assert_eq!(found, expected);
    assert_eq!(
        events.len(),
        usize::from(cfg!(feature = "tensorboard")),
        "{events:?}"
    );

    let named = [
        "run",
        "steps",
        "loss",
        "eval_loss_first",
        "eval_loss_best",
        "best_step",
        "tokens",
        "seconds",
        "peak_memory_bytes",
        "rows",
    ];
    assert_eq!(keys(&result), named);
    assert_eq!(
        (&result["run"], &result["steps"]),
        (&"run".into(), &4.into())
    );

    let (steps, evaluations) = metrics(&desk, "run");
    let named = [
        "step",
        "epoch",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "trained_tokens",
        "tokens_per_second",
        "peak_memory_bytes",
    ];
    for (index, step) in steps.iter().enumerate() {
        assert_eq!(keys(step), named);
        assert_eq!(step["step"], index + 1);
        assert_eq!(step["epoch"], (index + 1) as f64 / 2.0);
        assert!(
            step["loss"].as_f64().unwrap() > 0.0 && step["grad_norm"].as_f64().unwrap() > 0.0,
            "{step}"
        );
    }
    assert_eq!(steps.len(), 4);
    assert_eq!(result["loss"], steps[3]["loss"]);
    assert_eq!(
        result["tokens"],
        steps
            .iter()
            .map(|step| step["tokens"].as_u64().unwrap())
            .sum::<u64>()
    );
    assert_eq!(
        evaluations
            .iter()
            .map(|line| line["step"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [0, 2, 4]
    );
    assert_eq!(result["eval_loss_first"], evaluations[0]["eval_loss"]);
    for line in evaluations {
        let (loss, perplexity) = (
            line["eval_loss"].as_f64().unwrap(),
            line["eval_perplexity"].as_f64().unwrap(),
        );
        assert!(
            (loss.exp() - perplexity).abs() < 1e-9 * perplexity,
            "{line}"
        );
    }
}

#[test]
fn with_loraplus_b_has_a_learning_rate_of_its_own_and_the_log_has_that_of_a() {
    let desk = Desk::new();
    let learned = |run: &str, overrides: &[&str]| {
        result(
            &desk,
            &[overrides, &[&format!("output_dir={run}")]].concat(),
        );
        let rates: Vec<Value> = metrics(&desk, run)
            .0
            .into_iter()
            .map(|step| step["learning_rate"].clone())
            .collect();
        (rates, weights(&desk, &format!("{run}/adapter")))
    };
    let (rates, without) = learned("without", &[]);
    assert_eq!(
        learned("one", &["training.loraplus_lr_ratio=1"]),
        (rates.clone(), without.clone())
    );
    let (logged, with) = learned("sixteen", &["training.loraplus_lr_ratio=16"]);
    assert_eq!(logged, rates);
    assert_ne!(with, without);
    let lock: Value = serde_yaml::from_str(&desk.read_text("sixteen/recipe.lock.yaml")).unwrap();
    assert_eq!(
        lock["recipe"]["training"]["loraplus_lr_ratio"].as_f64(),
        Some(16.0)
    );
}

#[test]
fn the_lock_says_what_the_run_depended_on() {
    let desk = Desk::new();
    result(&desk, &["training.seed=7"]);
    let lock: Value = serde_yaml::from_str(&desk.read_text("run/recipe.lock.yaml")).unwrap();
    let recipe = &lock["recipe"];
    assert_eq!(
        (
            &lock["seed"],
            &recipe["training"]["seed"],
            &recipe["adapter"]["r"]
        ),
        (&7.into(), &7.into(), &4.into())
    );
    assert_eq!(
        recipe["adapter"]["alpha"].as_f64(),
        Some(8.0),
        "a default is written out"
    );
    assert_eq!(recipe["datasets"][0]["path"], "rows.parquet");
    for (what, file) in [
        ("base", "base/model.safetensors"),
        ("tokenizer_and_config", "base/tokenizer.json"),
        ("datasets", "rows.parquet"),
    ] {
        assert_eq!(
            lock["blake3"][what][file],
            rankine::files::hash_bytes(&desk.read(file)).to_string(),
            "{file}"
        );
    }
}

#[test]
fn the_commands_that_a_run_prints_work() {
    let desk = Desk::new();
    let ran = train(
        &desk,
        &["training.max_steps=6", "training.learning_rate=1e-2"],
    );
    ran.says("a run", 0, &["step 6/6"]);
    let next = ran
        .stdout
        .lines()
        .last()
        .unwrap()
        .trim()
        .strip_prefix("rankine ")
        .unwrap()
        .replace('\'', "");
    desk.run(&next.split(' ').collect::<Vec<_>>())
        .says(&next, 0, &[]);
    let first = |run: &str| metrics(&desk, run).0[0]["loss"].as_f64().unwrap();
    assert!(
        first("run-2") < first("run") - 0.1,
        "the second run starts from {} after {}",
        first("run-2"),
        first("run")
    );

    let again = train(&desk, &["training.max_steps=3"]);
    again.says("the same folder", 73, &["`run` holds a run"]);
    let (_, command) = again
        .stderr
        .rsplit_once("start over with `rankine ")
        .unwrap();
    let command = command.trim().trim_end_matches('`').replace('\'', "");
    desk.write("run/notes.txt", "mine");
    desk.run(&command.split(' ').collect::<Vec<_>>())
        .says(&command, 0, &["step 3/3"]);
    assert_eq!(metrics(&desk, "run").0.len(), 3);
    assert!(
        desk.path("run/checkpoints/step-3").exists()
            && !desk.path("run/checkpoints/step-6").exists()
    );
    assert_eq!(desk.read_text("run/notes.txt"), "mine");
}

#[test]
fn the_same_recipe_gives_the_same_adapter_byte_for_byte() {
    let desk = Desk::new();
    let run = |name: &str, seed: &str, memory: &str| {
        result(
            &desk,
            &[
                "adapter.dropout=0.1",
                "training.max_steps=5",
                "training.micro_batch_size=3",
                seed,
                memory,
                name,
            ],
        );
    };
    run(
        "output_dir=a",
        "training.seed=1",
        "training.gradient_checkpointing=true",
    );
    run(
        "output_dir=b",
        "training.seed=1",
        "training.gradient_checkpointing=true",
    );
    run(
        "output_dir=c",
        "training.seed=2",
        "training.gradient_checkpointing=true",
    );
    assert_eq!(weights(&desk, "a/adapter"), weights(&desk, "b/adapter"));
    assert_ne!(weights(&desk, "a/adapter"), weights(&desk, "c/adapter"));
}

/// Each sum has an order of its own, whoever adds it up.
#[test]
fn the_number_of_threads_changes_no_bit() {
    let desk = Desk::new();
    let on = |threads: &str, run: &str| {
        let [threads, output] = [format!("threads={threads}"), format!("output_dir={run}")];
        result(
            &desk,
            &[
                &threads,
                &output,
                "training.micro_batch_size=7",
                "adapter.dropout=0.1",
            ],
        );
        weights(&desk, &format!("{run}/adapter"))
    };
    let one = on("1", "one");
    assert!(one == on("2", "two") && one == on("5", "five"));
}

#[test]
fn every_format_trains() {
    let desk = Desk::new();
    let turns = concat!(
        r#"[{"role": "user", "content": "what is fever"}, "#,
        r#"{"role": "assistant", "content": "a high temperature"}]"#
    );
    let sharegpt = concat!(
        r#"[{"from": "human", "value": "what is fever"}, "#,
        r#"{"from": "gpt", "value": "a high temperature"}]"#
    );
    let formats: &[(&str, &[(&str, &str)])] = &[
        ("text", &[("text", "fever is a high temperature")]),
        (
            "completion",
            &[
                ("prompt", "fever is"),
                ("completion", " a high temperature"),
            ],
        ),
        (
            "instruction",
            &[
                ("instruction", "what is fever"),
                ("output", "a high temperature"),
            ],
        ),
        (
            "instruction",
            &[
                ("output", "a high temperature"),
                ("input", "fever"),
                ("instruction", "define"),
            ],
        ),
        ("chat", &[("messages", turns)]),
        ("chat", &[("messages", sharegpt), ("source", "WordNet")]),
    ];
    for (index, (format, columns)) in formats.iter().enumerate() {
        desk.write_rows(
            "rows.parquet",
            columns
                .iter()
                .map(|(name, cell)| (*name, texts([*cell; 4])))
                .collect(),
        );
        let (format, run) = (
            format!("datasets.0.format={format}"),
            format!("output_dir=run-{index}"),
        );
        let result = result(
            &desk,
            &[
                &format,
                &run,
                "training.sequence_len=256",
                "training.learning_rate=1e-2",
                "training.max_steps=3",
            ],
        );
        let (steps, _) = metrics(&desk, &format!("run-{index}"));
        assert!(steps[0]["trained_tokens"].as_u64().unwrap() > 5, "{format}");
        assert!(
            result["loss"].as_f64() < steps[0]["loss"].as_f64(),
            "{format}: equal rows are learned"
        );
    }
}

#[test]
fn the_best_adapter_is_kept_and_the_last_one_without_validation() {
    let desk = Desk::new();
    let result = result(&desk, OVERSHOOTS);
    let (_, evaluations) = metrics(&desk, "run");
    let loss = |line: &Value| line["eval_loss"].as_f64().unwrap();
    let best = evaluations[1..]
        .iter()
        .min_by(|left, right| loss(left).total_cmp(&loss(right)))
        .unwrap();
    assert_eq!(
        (&result["best_step"], &result["eval_loss_best"]),
        (&best["step"], &best["eval_loss"])
    );
    assert_ne!(result["best_step"], 3, "the recipe is meant to overshoot");
    let step = |step: &Value| format!("run/checkpoints/step-{step}/adapter");
    assert_eq!(
        weights(&desk, "run/adapter"),
        weights(&desk, &step(&best["step"]))
    );
    assert_ne!(
        weights(&desk, "run/adapter"),
        weights(&desk, &step(&3.into()))
    );

    train(
        &desk,
        &[OVERSHOOTS, &["evaluation.val_set_size=0", "--overwrite"]].concat(),
    )
    .says("without validation", 0, &[]);
    assert_eq!(
        weights(&desk, "run/adapter"),
        weights(&desk, &step(&3.into()))
    );
}

#[test]
fn a_run_stops_after_its_patience_and_keeps_its_newest_and_best_checkpoints() {
    let desk = Desk::new();
    let stopping = [
        "evaluation.early_stopping_patience=2",
        "training.max_steps=50",
        "output.save_total_limit=2",
    ];
    let result = result(&desk, &[OVERSHOOTS, &stopping].concat());
    let steps = result["steps"].as_u64().unwrap();
    assert_eq!(steps, result["best_step"].as_u64().unwrap() + 2);
    assert_eq!(metrics(&desk, "run").0.len() as u64, steps);
    let kept: BTreeSet<String> = fs::read_dir(desk.path("run/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        kept,
        [steps - 2, steps].map(|step| format!("step-{step}")).into()
    );
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_or_skips_the_step() {
    let desk = Desk::new();
    let explodes = ["training.learning_rate=1e30", "training.max_steps=4"];
    let hint = "hint: lower `training.learning_rate`, add `training.warmup_steps`, or set \
        `training.on_nonfinite: skip`";
    let parts = [
        "error: non-finite loss or gradients at step 2 (loss NaN, gradient norm ",
        "weights were not updated, those before it are in `run/checkpoints/step-1`",
        hint,
    ];
    train(&desk, &explodes).says("abort", 76, &parts);
    // Loss and gradients are finite here, and the update is not.
    let overflows = [
        "training.learning_rate=1e30",
        "training.weight_decay=1e30",
        "training.max_steps=1",
        "output_dir=overflow",
    ];
    train(&desk, &overflows).says(
        "overflow",
        76,
        &[
            "error: non-finite new weights at step 1 (loss ",
            "weights were not updated",
        ],
    );
    assert!(!desk.path("overflow/adapter").exists());
    assert!(!desk.path("run/adapter").exists());
    assert_eq!(metrics(&desk, "run").0.len(), 1, "the step before is told");

    let skip = [
        &explodes[..],
        &[
            "training.on_nonfinite=skip",
            "output_dir=skipped",
            "output.save_steps=1",
        ],
    ]
    .concat();
    train(&desk, &[&skip[..], &["output.save_total_limit=9"]].concat()).says(
        "skip",
        0,
        &["note: step 2 was skipped", "note: step 4"],
    );
    let (steps, _) = metrics(&desk, "skipped");
    let skipped: Vec<bool> = steps.iter().map(|step| step["skipped"] == true).collect();
    assert_eq!(skipped, [false, true, true, true]);
    let after = |step: u64| weights(&desk, &format!("skipped/checkpoints/step-{step}/adapter"));
    assert_eq!(after(1), after(4), "skipped steps change nothing");

    let five = [
        "training.max_steps=50",
        "output_dir=five",
        "output.save_total_limit=9",
    ];
    let parts = [
        "error: non-finite loss or gradients at step 6 (loss NaN, gradient norm ",
        "the last of 5 such steps in a row",
        "`five/checkpoints/step-5`",
    ];
    train(&desk, &[&skip[..], &five].concat()).says("five skips in a row", 76, &parts);
    assert_eq!(after(1), weights(&desk, "five/checkpoints/step-5/adapter"));
    // It goes on to the same end.
    desk.run(&["resume", "five"])
        .says("five skips in a row", 76, &parts[..2]);
}

#[test]
fn a_base_that_changes_under_a_run_is_told() {
    let desk = Desk::new();
    let overrides = [
        "train",
        "recipe.yaml",
        "training.max_steps=400",
        "output.save_steps=1",
    ];
    let child = desk
        .command(&overrides)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while !desk.path("run/checkpoints/step-1").exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    desk.write(
        "base/generation_config.json",
        desk.read_text("base/generation_config.json") + "\n",
    );
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("note: `base/generation_config.json` changed during the run"),
        "{stderr}"
    );
    fs::remove_file(desk.path("run/README.md")).unwrap();
    desk.run(&["resume", "run"]).says(
        "after it",
        65,
        &["`DESK/base/generation_config.json` has changed since the run started"],
    );
}

#[test]
fn a_run_in_which_nothing_was_learned_fails() {
    let desk = Desk::new();
    let mut base = desk.read("base/model.safetensors");
    let header = u64::from_le_bytes(base[..8].try_into().unwrap()) as usize;
    for value in base[8 + header..].as_chunks_mut::<4>().0 {
        *value = f32::NAN.to_le_bytes();
    }
    desk.write("base/model.safetensors", base);
    for overrides in [
        &["training.on_nonfinite=skip"][..],
        &[
            "training.on_nonfinite=skip",
            "evaluation.val_set_size=3",
            "output_dir=b",
        ],
    ] {
        train(&desk, overrides).says(
            "a base of NaN",
            76,
            &["none of 2 steps left anything to keep"],
        );
    }
    assert!(!desk.path("run/adapter").exists() && !desk.path("b/adapter").exists());
}

#[test]
fn what_a_consumer_will_not_take_is_said_before_training() {
    let desk = Desk::new();
    let unusual = [
        "adapter.r=32",
        "adapter.alpha=0.5",
        "adapter.use_rslora=true",
        "training.sequence_len=999",
    ];
    let notes = [
        "note: training.sequence_len is 999, the base was made for 128 tokens",
        "note: vLLM takes an adapter of rank 32 only with `--max-lora-rank 32`",
        "note: llama.cpp's converter ignores `use_rslora`",
        "note: Ollama takes whole numbers for alpha only, this adapter has 0.5",
    ];
    for verb in ["check", "plan", "train"] {
        desk.run(&[&[verb, "recipe.yaml"], &unusual[..]].concat())
            .says(verb, 0, &notes);
    }
    assert!(
        !desk.run(&["check", "recipe.yaml"]).stderr.contains("note:"),
        "a usual adapter needs no words"
    );
}

#[test]
fn an_adapter_names_no_place_of_this_machine() {
    let desk = Desk::new();
    let base = format!("base_model={}", desk.path("base").display());
    train(&desk, &[&base]).says("an absolute folder", 0, &[]);
    let config: Value =
        serde_json::from_str(&desk.read_text("run/adapter/adapter_config.json")).unwrap();
    assert_eq!(config["base_model_name_or_path"], "base");
    assert!(
        !desk
            .read_text("run/README.md")
            .contains(&*desk.path("").to_string_lossy())
    );
}

#[test]
fn conversations_whose_end_is_not_trained_are_told() {
    let desk = Desk::new();
    let turns = r#"[{"role": "user", "content": "say"}, {"role": "assistant", "content": "so"}]"#;
    desk.write_rows("rows.parquet", vec![("messages", texts([turns; 4]))]);
    desk.edit("recipe.yaml", "format: text", "format: chat");
    let template = |end: &str| {
        format!(
            "{{% for m in messages %}}{{{{ m.role }}}} {{% generation %}}{{{{ m.content \
            }}}}{end}{{% endgeneration %}} over{{% endfor %}}"
        )
    };
    desk.write("open.jinja", template(""));
    desk.write("closed.jinja", template("<|eot_id|>"));
    let word = "note: datasets.0: no row trains a token that ends a turn or a document";
    desk.run(&["plan", "recipe.yaml", "chat_template=open.jinja"])
        .says("open", 0, &[word]);
    assert!(
        !desk
            .run(&["plan", "recipe.yaml", "chat_template=closed.jinja"])
            .stderr
            .contains(word)
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_fault() {
    let desk = Desk::new();
    let mut plan = desk
        .command(&["plan", "recipe.yaml"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(plan.stdout.take());
    assert_eq!(plan.wait().unwrap().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn files_have_the_rights_that_the_user_gives_to_files() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    let binary = env!("CARGO_BIN_EXE_rankine");
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", &format!("umask 077 && '{binary}' train recipe.yaml")])
        .current_dir(desk.path(""));
    assert!(
        shell
            .env("RANKINE_CACHE", desk.path("cache"))
            .output()
            .unwrap()
            .status
            .success()
    );
    for file in [
        "run/adapter/adapter_model.safetensors",
        "run/recipe.lock.yaml",
        "run/metrics.jsonl",
        "run/README.md",
    ] {
        assert_eq!(
            fs::metadata(desk.path(file)).unwrap().permissions().mode() & 0o777,
            0o600,
            "{file}"
        );
    }
}

#[test]
fn a_base_whose_rope_depends_on_the_batch_is_told() {
    let desk = Desk::new();
    let dynamic = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/archs/llama/variants/rope/config_dynamic.json");
    let word = "note: the base's RoPE changes for a micro-batch with a row of more than";
    let plan = |rows: &str| desk.run(&["plan", "recipe.yaml", rows]).stderr;
    assert!(!plan("training.micro_batch_size=2").contains(word));
    desk.write("base/config.json", fs::read(dynamic).unwrap());
    assert!(plan("training.micro_batch_size=2").contains(word));
    assert!(
        plan("training.sample_packing=true").contains(word),
        "rows share a pack"
    );
    assert!(
        !plan("training.micro_batch_size=1").contains(word),
        "a row alone has its own length"
    );
}
