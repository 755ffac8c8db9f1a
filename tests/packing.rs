//! Runs whose rows are packed, through the binary: what the plan says is what the run does, every
//! row has its turn in every epoch, and validation scores are those of rows that are not packed.

#![allow(clippy::float_cmp, reason = "counts, read from text")]

mod support;

use std::collections::BTreeMap;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use serde_json::Value;
use support::*;

const PACKED: &str = "training.sample_packing=true";
const SIZES: [&str; 5] = [
    "training.max_steps=",
    "training.num_epochs=5",
    "training.micro_batch_size=2",
    "training.gradient_accumulation_steps=2",
    "evaluation.val_set_size=6",
];

/// 90 rows of 7 to 31 tokens.
fn desk() -> Desk {
    let desk = Desk::new();
    let rows: Vec<String> = (1..=90)
        .map(|row| format!("term {row} means {}", "so ".repeat(row * row % 9 + 1)))
        .collect();
    desk.write_rows("rows.parquet", vec![("text", texts(rows))]);
    desk
}

fn metrics(desk: &Desk, run: &str, key: &str) -> Vec<Value> {
    let lines = desk.read_text(&format!("{run}/metrics.jsonl"));
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line.get(key).is_some())
        .collect()
}

/// The line of a plan that begins so, in numbers.
fn numbers(stdout: &str, fact: &str) -> Vec<f64> {
    let line = stdout
        .lines()
        .find(|line| line.starts_with(fact))
        .unwrap_or_else(|| panic!("no `{fact}` in\n{stdout}"));
    line.replace(',', "")
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[test]
fn the_run_takes_the_steps_of_the_plan_and_every_row_once_an_epoch() {
    let desk = desk();
    let plan = [&["plan", "recipe.yaml", PACKED], &SIZES[..]].concat();
    let plan = desk.run(&plan);
    plan.says("a plan", 0, &[]);
    assert!(
        plan.stdout.contains("training.sample_packing"),
        "{}",
        plan.stdout
    );
    let (packed, steps) = (
        numbers(&plan.stdout, "packed rows"),
        numbers(&plan.stdout, "steps"),
    );
    let tokens = numbers(&plan.stdout, "tokens an epoch")[0];
    println!("{packed:?} {steps:?} {tokens}");
    let [packs, room, a_step, empty] = packed[..] else {
        panic!("{packed:?}")
    };
    assert_eq!((room, a_step), (64.0, 4.0));
    assert!(
        (empty - 100.0 * (1.0 - tokens / (packs * room))).abs() < 0.1 && empty < 10.0,
        "{packed:?}, {tokens} tokens"
    );
    assert_eq!(steps[1], (packs / a_step).ceil());

    desk.run(&[&["train", "recipe.yaml", PACKED], &SIZES[..]].concat())
        .says("a run", 0, &["packed rows"]);
    let taken = metrics(&desk, "run", "grad_norm");
    assert_eq!(taken.len() as f64, steps[0]);
    // Tokens of each epoch, by the epoch's number; a step that ends an epoch belongs to it.
    let mut epochs: BTreeMap<u64, f64> = BTreeMap::new();
    for step in &taken {
        let epoch = step["epoch"].as_f64().unwrap();
        *epochs.entry(epoch.ceil() as u64).or_default() += step["tokens"].as_f64().unwrap();
        assert!(step["tokens"].as_f64().unwrap() <= a_step * room, "{step}");
    }
    assert_eq!(epochs.values().copied().collect::<Vec<_>>(), [tokens; 5]);
    assert_eq!(
        taken
            .iter()
            .filter(|step| step["epoch"].as_f64().unwrap().fract() == 0.0)
            .count(),
        5
    );
    assert_eq!(
        metrics(&desk, "run", "eval_loss").len(),
        1 + 5,
        "before the first step and at the end of each epoch"
    );

    desk.run(
        &[
            &[
                "preview",
                "recipe.yaml",
                PACKED,
                "--ledger",
                "ledger.parquet",
            ],
            &SIZES[..],
        ]
        .concat(),
    )
    .says("preview", 0, &[]);
    let ledger =
        SerializedFileReader::new(std::fs::File::open(desk.path("ledger.parquet")).unwrap())
            .unwrap();
    let names: Vec<String> = ledger
        .metadata()
        .file_metadata()
        .schema_descr()
        .columns()
        .iter()
        .map(|c| c.name().to_owned())
        .collect();
    let column = |name: &str| names.iter().position(|column| column == name).unwrap();
    for row in ledger.get_row_iter(None).unwrap().map(Result::unwrap) {
        let times = if row.get_string(column("fate")).unwrap() == "train" {
            5
        } else {
            0
        };
        assert_eq!(
            row.get_long(column("times_trained")).unwrap(),
            times,
            "{row}"
        );
    }
}

/// Without shuffling the packs of all epochs are the same, and without packing a row is a pack.
#[test]
fn steps_without_shuffle_and_without_packing() {
    let desk = desk();
    let steps = |overrides: &[&str]| {
        let plan = desk.run(&[&["plan", "recipe.yaml"], &SIZES[..], overrides].concat());
        plan.says("a plan", 0, &[]);
        (
            numbers(&plan.stdout, "steps"),
            plan.stdout.contains("packed rows"),
        )
    };
    let (packed, says) = steps(&[PACKED, "training.shuffle=false"]);
    assert!(says && packed[0] == 5.0 * packed[1], "{packed:?}");
    assert_eq!(steps(&[]), (vec![105.0, 21.0], false));
    assert_eq!(
        steps(&["training.sample_packing=false"]),
        (vec![105.0, 21.0], false)
    );
}

#[test]
fn scores_do_not_depend_on_packing() {
    let desk = desk();
    let score = |run: &str, overrides: &[&str]| {
        let output = format!("output_dir={run}");
        let fixed = [
            "train",
            "recipe.yaml",
            &output,
            "training.max_steps=1",
            "evaluation.val_set_size=40",
        ];
        desk.run(&[&fixed, overrides].concat()).says(run, 0, &[]);
        let first = metrics(&desk, run, "eval_loss").swap_remove(0);
        ["eval_loss", "eval_loss_content", "eval_loss_end_of_turn"]
            .map(|key| first[key].as_f64().unwrap())
    };
    let alone = score("alone", &["training.micro_batch_size=1"]);
    for (run, overrides) in [
        ("rows", ["training.micro_batch_size=7", "threads=1"]),
        ("packs", ["training.micro_batch_size=3", PACKED]),
    ] {
        let others = score(run, &overrides);
        let off = alone
            .iter()
            .zip(others)
            .map(|(alone, other)| (alone - other).abs())
            .fold(0.0, f64::max);
        println!("{run}: {off:.1e}");
        assert!(off < 1e-6, "{run}: {others:?}, alone {alone:?}");
    }
    desk.run(&["eval", "packs", "--json"]).says("eval", 0, &[]);
}

/// The same recipe trains to the same adapter, and packing is a part of the recipe that the lock
/// has.
#[test]
fn a_packed_run_is_repeatable() {
    let desk = desk();
    let adapter = |run: &str, overrides: &[&str]| {
        let output = format!("output_dir={run}");
        let fixed = [
            "train",
            "recipe.yaml",
            &output,
            "training.max_steps=6",
            "adapter.dropout=0.1",
        ];
        desk.run(&[&fixed, overrides].concat()).says(run, 0, &[]);
        desk.read(&format!("{run}/adapter/adapter_model.safetensors"))
    };
    let first = adapter("first", &[PACKED]);
    assert_eq!(adapter("again", &[PACKED]), first);
    assert_ne!(adapter("other", &[]), first);
    assert!(
        desk.read_text("first/recipe.lock.yaml")
            .contains("sample_packing: true")
    );
    assert!(
        desk.read_text("other/recipe.lock.yaml")
            .contains("sample_packing: false")
    );
}

/// A row as long as `sequence_len` is a pack of its own; a longer one is what `truncation` says.
#[test]
fn rows_that_fill_or_pass_a_pack() {
    let desk = Desk::new();
    let rows: Vec<String> = (0..12)
        .map(|row| format!("{row} {}", "so ".repeat([3, 20, 100][row % 3])))
        .collect();
    desk.write_rows("rows.parquet", vec![("text", texts(rows))]);
    let plan = |truncation: &str| {
        let truncation = format!("training.truncation={truncation}");
        let plan = desk.run(&[
            "plan",
            "recipe.yaml",
            PACKED,
            "training.max_dropped=0.5",
            "training.sequence_len=50",
            &truncation,
        ]);
        plan.says("a plan", 0, &[]);
        (
            numbers(&plan.stdout, "rows to train on")[0],
            numbers(&plan.stdout, "packed rows")[0],
        )
    };
    let ((kept, packs), (cut, more)) = (plan("drop"), plan("truncate"));
    assert_eq!((kept, cut, more), (8.0, 12.0, packs + 4.0));
}

#[test]
fn epochs_without_end_are_not_packed_beforehand() {
    let desk = desk();
    let epochs = [
        "train",
        "recipe.yaml",
        PACKED,
        "training.num_epochs=1000000000",
    ];
    desk.run(&[&epochs[..], &["training.max_steps="]].concat())
        .says(
            "epochs",
            65,
            &[
                "training.num_epochs: 1000000000 epochs of ",
                "set `training.max_steps`",
            ],
        );
    desk.run(&[&epochs[..], &["training.max_steps=1"]].concat())
        .says("steps", 0, &[]);
}
