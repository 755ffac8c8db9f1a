//! `rankine eval`: the same loss as the run's own evaluation, on its validation rows, on a
//! validation set and on other files; and what is refused.

#![allow(
    clippy::float_cmp,
    reason = "what is computed twice in the same way is equal"
)]

mod support;

use serde_json::Value;
use support::*;

/// Eight rows of their own for a validation set, of other lengths.
fn desk() -> Desk {
    let desk = Desk::new();
    let rows: Vec<String> = (1..=8)
        .map(|row| format!("a rule {row} says {}", "no ".repeat(row % 5 + 1)))
        .collect();
    desk.write_rows("other.parquet", vec![("text", texts(rows))]);
    desk.write(
        "sets.yaml",
        format!(
            "{RECIPE}evaluation:\n  datasets:\n    - path: other.parquet\n      format: text\n"
        ),
    );
    desk
}

const OVERRIDES: [&str; 5] = [
    "training.max_steps=6",
    "training.learning_rate=0.05",
    "training.micro_batch_size=3",
    "evaluation.val_set_size=5",
    "evaluation.eval_steps=2",
];

fn object(ran: &Ran) -> Value {
    ran.says("eval", 0, &[]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

fn evaluations(desk: &Desk) -> Vec<Value> {
    let lines = desk.read_text("run/metrics.jsonl");
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line.get("eval_loss").is_some())
        .collect()
}

#[track_caller]
fn is_near(found: &Value, expected: &Value) {
    let [found, expected] =
        [found, expected].map(|value| value.as_f64().unwrap_or_else(|| panic!("{value}")));
    assert!(
        (found - expected).abs() <= 1e-9,
        "{found}, expected {expected}"
    );
}

#[test]
fn the_loss_of_a_run_is_that_of_its_evaluations() {
    let desk = desk();
    desk.run(&[&["train", "sets.yaml"], OVERRIDES.as_slice()].concat())
        .says("a run", 0, &[]);
    let evaluations = evaluations(&desk);
    let best = evaluations[1..].iter().min_by(|a, b| {
        a["eval_loss"]
            .as_f64()
            .partial_cmp(&b["eval_loss"].as_f64())
            .unwrap()
    });
    let (first, best) = (&evaluations[0], best.unwrap());

    let value = object(&desk.run(&["eval", "run", "--json"]));
    let keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "base",
            "adapter",
            "sets",
            "total",
            "forgetting",
            "seconds",
            "peak_memory_bytes"
        ]
    );
    let total = &value["total"];
    for (name, of_run) in [
        ("loss", "eval_loss"),
        ("perplexity", "eval_perplexity"),
        ("loss_content", "eval_loss_content"),
        ("loss_end_of_turn", "eval_loss_end_of_turn"),
    ] {
        is_near(&total["adapter"][name], &best[of_run]);
        is_near(&total["base"][name], &first[of_run]);
    }
    let names: Vec<&Value> = value["sets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|set| &set["name"])
        .collect();
    assert_eq!(names, ["datasets.0, held out", "evaluation.datasets.0"]);
    let sum = |key: &str| {
        value["sets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|set| set[key].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(
        (
            total["rows"].as_u64().unwrap(),
            total["trained_tokens"].as_u64().unwrap()
        ),
        (sum("rows"), sum("trained_tokens"))
    );
    assert_eq!(sum("rows"), 13);

    // The recipe with the adapter comes to the same.
    let of_recipe = object(
        &desk.run(
            &[
                &["eval", "sets.yaml", "--adapter", "run/adapter", "--json"],
                OVERRIDES.as_slice(),
            ]
            .concat(),
        ),
    );
    assert_eq!(
        (&of_recipe["total"], &of_recipe["sets"]),
        (total, &value["sets"])
    );
    // Without an adapter there is the base alone.
    let alone =
        object(&desk.run(&[&["eval", "sets.yaml", "--json"], OVERRIDES.as_slice()].concat()));
    assert_eq!(
        (
            &alone["total"]["base"],
            &alone["total"]["adapter"],
            &alone["adapter"]
        ),
        (&total["base"], &Value::Null, &Value::Null)
    );
    // A checkpoint's adapter is that of its step.
    let last = object(&desk.run(&[
        "eval",
        "run",
        "--adapter",
        "run/checkpoints/step-6/adapter",
        "--json",
    ]));
    is_near(
        &last["total"]["adapter"]["loss"],
        &evaluations.last().unwrap()["eval_loss"],
    );
}

#[test]
fn a_run_is_evaluated_from_any_folder() {
    let desk = desk();
    desk.run(&[&["train", "sets.yaml"], OVERRIDES.as_slice()].concat())
        .says("a run", 0, &[]);
    let here = object(&desk.run(&["eval", "run", "--data", "other.parquet", "--json"]));
    std::fs::create_dir(desk.path("elsewhere")).unwrap();
    let mut command = desk.command(&[
        "eval",
        "../run",
        "--data",
        "../other.parquet",
        "--adapter",
        "../run/adapter",
        "--json",
    ]);
    let output = command
        .current_dir(desk.path("elsewhere"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let there: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(here["total"], there["total"]);
}

#[test]
fn another_file_is_scored_as_a_validation_set_is() {
    let desk = desk();
    let of_set = object(&desk.run(&["eval", "sets.yaml", "--json", OVERRIDES[2]]));
    let of_file = object(&desk.run(&[
        "eval",
        "recipe.yaml",
        "--data",
        "other.parquet",
        "--json",
        OVERRIDES[2],
    ]));
    assert_eq!(of_set["total"]["base"], of_file["total"]["base"]);
    assert_eq!(
        (&of_file["sets"][0]["name"], &of_file["sets"][0]["path"]),
        (&"--data".into(), &"other.parquet".into())
    );
    let forgetting = object(&desk.run(&[
        "eval",
        "recipe.yaml",
        "--forgetting=other.parquet",
        "--json",
        OVERRIDES[2],
    ]));
    assert_eq!(forgetting["forgetting"]["base"], of_file["total"]["base"]);
    assert_eq!(
        (&forgetting["sets"], &forgetting["total"]),
        (&Value::Array(Vec::new()), &Value::Null)
    );
}

#[test]
fn the_table_has_a_line_for_each_set_and_for_what_was_forgotten() {
    let desk = desk();
    desk.run(&[&["train", "sets.yaml"], OVERRIDES.as_slice()].concat())
        .says("a run", 0, &[]);
    let ran = desk.run(&["eval", "run", "--forgetting=rows.parquet"]);
    ran.says("eval", 0, &[]);
    let lines: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(
        lines[0].iter().map(|cell| cell.trim()).collect::<Vec<_>>(),
        [
            "rows",
            "tokens",
            "base loss",
            "perplexity",
            "with adapter",
            "perplexity",
            "change"
        ]
    );
    let first: Vec<&str> = lines[1..5].iter().map(|line| line[0]).collect();
    assert_eq!(
        first,
        [
            "datasets.0, held out",
            "evaluation.datasets.0",
            "total",
            "--forgetting"
        ]
    );
    assert!(
        lines[1..5].iter().all(|line| line.len() == 8),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout
            .contains("evaluation.datasets.0: other.parquet\n--forgetting: rows.parquet\n"),
        "{}",
        ran.stdout
    );
}

#[test]
fn what_cannot_be_scored_is_refused_with_what_to_do() {
    let desk = desk();
    let eval = |arguments: &[&str]| desk.run(&[&["eval"], arguments].concat());
    eval(&["recipe.yaml"]).says(
        "no rows",
        65,
        &[
            "there are no validation rows",
            "hint: name rows that were not trained on with `--data FILE`",
        ],
    );
    eval(&["nowhere"]).says("nothing", 66, &["nowhere"]);
    eval(&["base"]).says("no run", 65, &["`base` holds no run"]);
    eval(&["recipe.yaml", "--data", "none.parquet"]).says(
        "no data",
        65,
        &[
            "--data: no data file at `none.parquet`",
            "hint: there are: ",
        ],
    );
    eval(&["recipe.yaml", "--forgetting"]).says(
        "no general text",
        65,
        &["--forgetting: no data file at `datasets/general-definitions.parquet`"],
    );
    eval(&[
        "recipe.yaml",
        "--data",
        "other.parquet",
        "--adapter",
        "none",
    ])
    .says("no adapter", 66, &["adapter `none` does not exist"]);
    desk.write_rows("columns.parquet", vec![("words", texts(["a"]))]);
    eval(&["recipe.yaml", "--data", "columns.parquet"]).says(
        "no column",
        65,
        &["--data: ", "`text`"],
    );
    desk.write_rows("empty.parquet", vec![("text", texts(["", ""]))]);
    eval(&["recipe.yaml", "--data", "empty.parquet"]).says(
        "no token",
        65,
        &["--data: there is no token to score in 2 rows"],
    );
    desk.run(&["train", "recipe.yaml"]).says("a run", 0, &[]);
    eval(&["run", "training.seed=1"]).says(
        "an override",
        2,
        &["`training.seed=1`: values of a run cannot be changed"],
    );
    eval(&["run"]).says(
        "a run without validation",
        65,
        &["there are no validation rows"],
    );
    std::fs::rename(desk.path("run/adapter"), desk.path("run/gone")).unwrap();
    eval(&["run", "--data", "other.parquet"]).says(
        "no adapter in the run",
        66,
        &["adapter `run/adapter` does not exist"],
    );
    // Inputs that have changed are told.
    std::fs::rename(desk.path("run/gone"), desk.path("run/adapter")).unwrap();
    desk.write_rows("rows.parquet", vec![("text", texts(["x y z", "u v w"]))]);
    eval(&["run", "--data", "other.parquet"]).says(
        "changed",
        0,
        &["note: data: `DESK/rows.parquet` has changed since the run started"],
    );
}
