//! `evaluation.prompts`: what the model says at each evaluation is written down, is what `generate`
//! says, and changes nothing of the training.

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::*;

const PROMPTS: &str = "evaluation.prompts=[the term 3 means, so]";

fn train(desk: &Desk, run: &str, overrides: &[&str]) -> Ran {
    let output = format!("output_dir={run}");
    let ran = desk.run(&[&["train", "recipe.yaml", &output][..], overrides].concat());
    ran.says(run, 0, &[]);
    ran
}

fn lines(desk: &Desk, file: &str) -> Vec<Value> {
    desk.read_text(file)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What `generate` says, greedily.
fn said(desk: &Desk, arguments: &[&str]) -> Value {
    let ran = desk.run(&[&["generate", "--json", "--max-tokens", "64"], arguments].concat());
    ran.says("generate", 0, &[]);
    serde_json::from_str::<Value>(&ran.stdout).unwrap()["text"].clone()
}

/// A desk with the repository's base that chats, and conversations.
fn chat_desk() -> Desk {
    let desk = Desk::new();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny");
    desk.edit(
        "recipe.yaml",
        "base_model: base",
        &format!("base_model: \"{}\"", base.display()),
    );
    desk.edit("recipe.yaml", "format: text", "format: chat");
    let turns = concat!(
        r#"[{"role": "user", "content": "what is fever"}, "#,
        r#"{"role": "assistant", "content": "a high temperature"}]"#
    );
    desk.write_rows("rows.parquet", vec![("messages", texts(vec![turns; 20]))]);
    desk
}

#[test]
fn prompts_change_nothing_of_the_training() {
    let desk = Desk::new();
    for validation in [0, 4] {
        let [without, with] = ["without", "with"].map(|name| format!("{name}-{validation}"));
        let validation = format!("evaluation.val_set_size={validation}");
        let overrides = [
            "adapter.dropout=0.1",
            "training.max_steps=6",
            "training.learning_rate=1e-2",
            "evaluation.eval_steps=2",
            &validation,
        ];
        train(&desk, &without, &overrides);
        let ran = train(&desk, &with, &[&overrides[..], &[PROMPTS]].concat());
        let adapter = |run: &str| desk.read(&format!("{run}/adapter/adapter_model.safetensors"));
        assert!(
            adapter(&without) == adapter(&with),
            "{validation}: the adapters differ"
        );

        let samples = lines(&desk, &format!("{with}/samples.jsonl"));
        let asked: Vec<(&Value, &Value)> = samples
            .iter()
            .map(|line| (&line["step"], &line["prompt"]))
            .collect();
        let [first, second] = [json!("the term 3 means"), json!("so")];
        let steps = [0, 2, 4, 6].map(Value::from);
        let expected: Vec<_> = steps
            .iter()
            .flat_map(|step| [(step, &first), (step, &second)])
            .collect();
        assert_eq!(asked, expected);
        assert!(
            samples.iter().all(|line| line
                .as_object()
                .unwrap()
                .keys()
                .eq(["step", "prompt", "text"])),
            "{samples:?}"
        );
        assert!(
            ran.stderr
                .contains("answer at step 6: the term 3 means\n    "),
            "{}",
            ran.stderr
        );
        assert!(!desk.path(&without).join("samples.jsonl").exists());
    }
}

#[test]
fn a_text_is_gone_on_from_as_generate_does_it() {
    let desk = Desk::new();
    train(
        &desk,
        "run",
        &[
            "training.max_steps=2",
            "training.learning_rate=1e-2",
            "evaluation.eval_steps=2",
            PROMPTS,
        ],
    );
    let samples = lines(&desk, "run/samples.jsonl");
    for (place, prompt) in ["the term 3 means", "so"].into_iter().enumerate() {
        assert_eq!(
            samples[place]["text"],
            said(&desk, &["--base", "base", "--prompt", prompt]),
            "before: {prompt}"
        );
        let after = said(
            &desk,
            &[
                "--base",
                "base",
                "--adapter",
                "run/adapter",
                "--prompt",
                prompt,
            ],
        );
        assert_eq!(samples[2 + place]["text"], after, "after: {prompt}");
    }
    assert!(
        samples
            .iter()
            .any(|line| !line["text"].as_str().unwrap().is_empty()),
        "{samples:?}"
    );
}

#[test]
fn a_recipe_of_conversations_asks_as_a_user_does() {
    let desk = chat_desk();
    let prompts = "evaluation.prompts=[what is fever]";
    train(
        &desk,
        "run",
        &[
            "training.learning_rate=1e-2",
            "evaluation.eval_steps=1",
            prompts,
        ],
    );
    let samples = lines(&desk, "run/samples.jsonl");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny");
    let asked = ["--base", base.to_str().unwrap(), "--chat", "what is fever"];
    assert_eq!(samples[0]["text"], said(&desk, &asked));
    let after = said(&desk, &[&asked[..], &["--adapter", "run/adapter"]].concat());
    assert_eq!(samples[2]["text"], after);
    assert_ne!(samples[0]["text"], after, "it has learned something");
}

/// Of a lock they are read back as they were, whatever YAML would make of them without quotes.
#[test]
fn prompts_come_back_from_the_lock() {
    let desk = Desk::new();
    let prompts = [
        "no",
        "1e-4",
        "~",
        "null",
        "a: b",
        "# x",
        "- y",
        "two\nlines",
        "é \\ \u{7}",
        "'",
        "\"",
        " ahead",
        "{}",
        "[]",
    ];
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        &format!(
            "output_dir: run\nevaluation:\n  prompts: {}",
            json!(prompts)
        ),
    );
    train(&desk, "run", &[]);
    let samples = desk.read("run/samples.jsonl");
    let asked: Vec<Value> = lines(&desk, "run/samples.jsonl")
        .into_iter()
        .map(|line| line["prompt"].clone())
        .collect();
    assert_eq!(asked, [prompts, prompts].concat());
    std::fs::remove_dir_all(desk.path("run/checkpoints")).unwrap();
    desk.remove("run/README.md");
    desk.run(&["resume", "run"])
        .says("a resume", 0, &["starting from step 0"]);
    assert!(desk.read("run/samples.jsonl") == samples);
    let ran = desk.run(&["plan", "recipe.yaml", PROMPTS]);
    assert!(
        ran.stdout.contains("evaluation.prompts ")
            && ran.stdout.contains(r#"["the term 3 means","so"]"#),
        "{}",
        ran.stdout
    );
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let desk = Desk::new();
    let long = format!("evaluation.prompts=[so, {}]", "so ".repeat(5000));
    let parts = [
        "the prompt has ",
        " tokens, expected fewer than ",
        "hint: shorten the prompt",
    ];
    for verb in ["check", "train"] {
        desk.run(&[verb, "recipe.yaml", &long])
            .says("a long prompt", 65, &parts);
    }
    let cases = [
        (
            "no list",
            "so",
            "evaluation.prompts: expected a list, found `so`",
        ),
        (
            "no text",
            "[[so]]",
            "evaluation.prompts.0: expected a text, found `[so]`",
        ),
        (
            "nothing",
            "[so, '']",
            "evaluation.prompts.1: expected a text, found `''`",
        ),
    ];
    for (what, prompts, part) in cases {
        desk.run(&[
            "check",
            "recipe.yaml",
            &format!("evaluation.prompts={prompts}"),
        ])
        .says(what, 65, &[part]);
    }
    desk.run(&["check", "recipe.yaml", "evaluation.prompts=none"])
        .says("none", 0, &[]);
    assert!(!desk.path("run").exists());
}

/// An adapter that computes no numbers has no answer, and it is for the training to end over that.
#[test]
fn a_prompt_without_an_answer_is_told() {
    let desk = Desk::new();
    let explodes = [
        "training.learning_rate=1e30",
        "training.on_nonfinite=skip",
        "evaluation.eval_steps=1",
        PROMPTS,
    ];
    let ran = train(&desk, "run", &explodes);
    ran.says(
        "skip",
        0,
        &["note: `evaluation.prompts.1` has no answer at step 1: after "],
    );
    assert!(
        lines(&desk, "run/samples.jsonl")
            .iter()
            .all(|line| line["step"] == 0)
    );
}

#[test]
fn a_signal_ends_an_answer() {
    let desk = Desk::new();
    let prompts: Vec<String> = (0..5000)
        .map(|index| format!("the term {index} means"))
        .collect();
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        &format!(
            "output_dir: run\nevaluation:\n  prompts: {}",
            json!(prompts)
        ),
    );
    let child = desk
        .command(&["train", "recipe.yaml"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !desk.path("run/samples.jsonl").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(
        !desk.path("run").exists(),
        "no step was taken, and nothing is left of the evaluation"
    );
}
