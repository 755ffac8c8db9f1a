//! Datasets that are mixed by weight, and rows that are left out because another one is like them,
//! through the binary: what is planned, previewed, trained and written down are the same rows.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, AsArray, StructArray};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rankine::data::near_duplicates;
use rankine::data::tokenize::Tokenizer;
use rankine::keyed_random::mix;
use serde_json::Value;
use support::*;

/// A line of a Parquet ledger.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    dataset: String,
    fate: String,
    trained_tokens: i64,
    times_trained: i64,
    duplicate_of: Option<i64>,
}

/// The ledger of a recipe, and what `preview` printed.
fn ledger(desk: &Desk, overrides: &[&str]) -> (Vec<Line>, Ran) {
    let _ = std::fs::remove_file(desk.path("ledger.parquet"));
    let ran = desk.run(
        &[
            &["preview", "recipe.yaml", "--ledger", "ledger.parquet"],
            overrides,
        ]
        .concat(),
    );
    let file =
        File::open(desk.path("ledger.parquet")).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    let mut lines = Vec::new();
    for batch in reader.map(Result::unwrap) {
        let text = |name: &str, row: usize| batch[name].as_string::<i32>().value(row).to_owned();
        let number = |name: &str, row: usize| batch[name].as_primitive::<Int64Type>().value(row);
        lines.extend((0..batch.num_rows()).map(|row| {
            Line {
                dataset: text("dataset", row),
                fate: text("fate", row),
                trained_tokens: number("trained_tokens", row),
                times_trained: number("times_trained", row),
                duplicate_of: batch["duplicate_of"]
                    .is_valid(row)
                    .then(|| number("duplicate_of", row)),
            }
        }));
    }
    (lines, ran)
}

fn fates(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.fate.as_str()).collect()
}

/// Twenty words that no other row has.
fn words(row: u64) -> Vec<String> {
    (0..20)
        .map(|word| format!("{:x}", mix(row << 8 | word) % 4096))
        .collect()
}

fn sentence(row: u64) -> String {
    words(row).join(" ")
}

/// The same with one of its words changed.
fn edited(row: u64) -> String {
    let mut words = words(row);
    "other".clone_into(&mut words[row as usize % 20]);
    words.join(" ")
}

/// Three datasets of 30, 50 and 10 rows with weights.
fn mixed_desk() -> Desk {
    let desk = Desk::new();
    let mut list = String::new();
    for (name, rows, weight) in [("a", 30, "2"), ("b", 50, "1"), ("c", 10, "0.7")] {
        let texts =
            (0..rows).map(|row| format!("{name} {row} means {}", "so ".repeat(row % 7 + 1)));
        desk.write_rows(
            &format!("{name}.parquet"),
            vec![("text", support::texts(texts))],
        );
        let of_set = format!("  - path: {name}.parquet\n    format: text\n    weight: {weight}\n");
        list.push_str(&of_set);
    }
    desk.edit(
        "recipe.yaml",
        "  - path: rows.parquet\n    format: text\n",
        &list,
    );
    desk
}

#[test]
fn shares_of_ten_epochs_are_within_one_row_of_the_weights_in_each_and_together() {
    let desk = mixed_desk();
    let plan = desk.run(&["plan", "recipe.yaml", "training.max_steps=", "--json"]);
    plan.says("a plan", 0, &[]);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(
        (&plan["rows_per_epoch"], &plan["training_rows"]),
        (&Value::from(90), &Value::from(90))
    );
    for shuffle in [
        "training.shuffle=true",
        "training.shuffle=false",
        "training.sample_packing=true",
    ] {
        let mut before: BTreeMap<String, i64> = BTreeMap::new();
        for epoch in 1..=10_i64 {
            let epochs = format!("training.num_epochs={epoch}");
            let (lines, _) = ledger(&desk, &["training.max_steps=", &epochs, shuffle]);
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            for line in &lines {
                *counts.entry(line.dataset.clone()).or_default() += line.times_trained;
            }
            for (dataset, weight) in [
                ("datasets.0", 2.0),
                ("datasets.1", 1.0),
                ("datasets.2", 0.7),
            ] {
                let (share, all) = (90.0 * weight / 3.7, counts[dataset]);
                let of_epoch = all - before.get(dataset).copied().unwrap_or(0);
                assert!(
                    (of_epoch as f64 - share).abs() < 1.0,
                    "{shuffle}, epoch {epoch}: {of_epoch} rows of {dataset}, a share of {share}"
                );
                let together = share * epoch as f64;
                assert!(
                    (all as f64 - together).abs() < 1.0,
                    "{shuffle}, to epoch {epoch}: {all} rows of {dataset}, {together} due"
                );
                let times: BTreeSet<i64> = lines
                    .iter()
                    .filter(|line| line.dataset == dataset)
                    .map(|line| line.times_trained)
                    .collect();
                assert!(
                    times.last().unwrap() - times.first().unwrap() <= 1,
                    "{dataset} comes whole before a row comes again: {times:?}"
                );
            }
            before = counts;
        }
    }
}

#[test]
fn repeated_rows_are_counted_everywhere() {
    let desk = mixed_desk();
    let said = [
        "datasets.0: weight 2, 49 draws an epoch from 30 rows, 19 of them again",
        "datasets.1: weight 1, 24 draws an epoch from 50 rows",
        "datasets.2: weight 0.7, 17 draws an epoch from 10 rows, 7 of them again",
    ];
    let epoch = ["training.max_steps=", "training.num_epochs=1"];
    let preview = desk.run(&[&["preview", "recipe.yaml"], &epoch[..]].concat());
    let plan = desk.run(&[&["plan", "recipe.yaml"], &epoch[..]].concat());
    for line in said {
        assert!(preview.stdout.contains(line), "{line}: {}", preview.stdout);
        assert!(plan.stdout.contains(line), "{line}: {}", plan.stdout);
    }
    assert!(
        plan.stdout.contains("datasets.2.weight")
            && plan.stdout.contains("training.stopping_strategy"),
        "{}",
        plan.stdout
    );
    desk.run(&[&["train", "recipe.yaml"], &epoch[..]].concat())
        .says("a run", 0, &[said[0], said[2]]);
    let lock = desk.read_text("run/recipe.lock.yaml");
    for line in [
        "weight: 0.7",
        "draws_per_epoch: 49",
        "repeated_per_epoch: 19",
        "stopping_strategy: all_rows",
    ] {
        assert!(lock.contains(line), "{line}: {lock}");
    }
    desk.run(&["report", "run"]).says("a report", 0, &[]);
    let page = desk.read_text("run/report.html");
    assert!(
        page.contains("drawn an epoch") && page.contains("drawn again within an epoch"),
        "{page}"
    );
    let card = desk.read_text("run/README.md");
    assert!(
        card.contains("weight 2, 49 draws an epoch from 30 rows, 19 of them again"),
        "{card}"
    );
}

#[test]
fn an_epoch_ends_as_the_recipe_says() {
    let desk = mixed_desk();
    for (end, rows) in [
        ("all_rows", 90),
        ("first_exhausted", 52),
        ("all_exhausted", 185),
    ] {
        let end = format!("training.stopping_strategy={end}");
        let plan = desk.run(&["plan", "recipe.yaml", "training.max_steps=", "--json", &end]);
        let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
        assert_eq!(
            (&plan["rows_per_epoch"], &plan["steps"]),
            (&Value::from(rows), &Value::from(rows)),
            "{end}"
        );
    }
    let (lines, _) = ledger(
        &desk,
        &[
            "training.max_steps=",
            "training.stopping_strategy=all_exhausted",
        ],
    );
    assert!(lines.iter().all(|line| line.times_trained > 0));
}

#[test]
fn equal_weights_without_words_are_no_mixture() {
    let desk = mixed_desk();
    let without = desk
        .read_text("recipe.yaml")
        .lines()
        .filter(|line| !line.contains("weight"))
        .collect::<Vec<_>>()
        .join("\n");
    desk.write("recipe.yaml", without);
    let (lines, preview) = ledger(&desk, &["training.max_steps=", "training.num_epochs=3"]);
    assert!(lines.iter().all(|line| line.times_trained == 3));
    assert!(!preview.stdout.contains("weight"), "{}", preview.stdout);
}

#[test]
fn each_dataset_trains_what_its_own_train_on_says() {
    let desk = Desk::new();
    let columns = |rows: std::ops::Range<u64>| {
        let (prompts, completions) = (
            rows.clone().map(sentence),
            rows.map(|row| format!("answer {row}")),
        );
        vec![
            ("prompt", texts(prompts)),
            ("completion", texts(completions)),
        ]
    };
    desk.write_rows("a.parquet", columns(0..10));
    desk.write_rows("b.parquet", columns(0..10));
    let list = "  - path: a.parquet\n    format: completion\n    train_on: all\n    weight: 1\n  - \
        path: b.parquet\n    format: completion\n    weight: 3\n";
    desk.edit(
        "recipe.yaml",
        "  - path: rows.parquet\n    format: text\n",
        list,
    );
    let (lines, _) = ledger(&desk, &["training.sequence_len=200", "training.max_steps="]);
    let of = |dataset: &str| {
        lines
            .iter()
            .filter(|line| line.dataset == dataset)
            .map(|line| line.trained_tokens)
            .sum::<i64>()
    };
    assert!(of("datasets.0") > 3 * of("datasets.1"), "{lines:?}");
    let times = |dataset: &str| {
        lines
            .iter()
            .filter(|line| line.dataset == dataset)
            .map(|line| line.times_trained)
            .sum::<i64>()
    };
    assert_eq!((times("datasets.0"), times("datasets.1")), (5, 15));
    // The same tokens with other labels are another row, and nearly the same.
    let (exact, _) = ledger(
        &desk,
        &["training.sequence_len=200", "training.deduplicate=exact"],
    );
    assert!(exact.iter().all(|line| line.fate == "train"));
}

/// Two datasets: the second has two rows of the first, one of them edited, and one of its own
/// twice.
fn alike_desk() -> Desk {
    let desk = Desk::new();
    desk.write_rows("a.parquet", vec![("text", texts((0..6).map(sentence)))]);
    let more = [
        sentence(10),
        sentence(2),
        edited(4),
        sentence(10),
        sentence(11),
    ];
    desk.write_rows("b.parquet", vec![("text", texts(more))]);
    let list = "  - path: a.parquet\n    format: text\n  - path: b.parquet\n    format: text\n";
    desk.edit(
        "recipe.yaml",
        "  - path: rows.parquet\n    format: text\n",
        list,
    );
    desk.edit("recipe.yaml", "sequence_len: 64", "sequence_len: 256");
    desk
}

#[test]
fn duplicates_go_within_and_across_datasets_and_name_the_row_that_stays() {
    let desk = alike_desk();
    let (kept, ran) = ledger(&desk, &[]);
    ran.says("kept", 0, &[]);
    assert_eq!(fates(&kept), ["train"; 11]);
    let (exact, ran) = ledger(&desk, &["training.deduplicate=exact"]);
    ran.says(
        "exact",
        0,
        &["2 of 11 rows are left out: an earlier row has the same tokens"],
    );
    assert_eq!(
        fates(&exact[6..]),
        ["train", "duplicate", "train", "duplicate", "train"]
    );
    assert_eq!(
        exact[6..]
            .iter()
            .map(|line| line.duplicate_of)
            .collect::<Vec<_>>(),
        [None, Some(2), None, Some(6), None]
    );
    let (near, ran) = ledger(&desk, &["training.deduplicate=near"]);
    ran.says(
        "near",
        0,
        &[
            "1 of 11 rows are left out: nearly the same as an earlier row (Jaccard \
            similarity of at least 0.6)",
        ],
    );
    assert_eq!(
        fates(&near[6..]),
        ["train", "duplicate", "near_duplicate", "duplicate", "train"]
    );
    assert_eq!(near[8].duplicate_of, Some(4));
    let counts = [
        "left out",
        "equal to an earlier row",
        "nearly an earlier row",
    ]
    .map(|what| {
        let line = ran
            .stdout
            .lines()
            .find(|line| line.trim_start().starts_with(what))
            .unwrap_or_else(|| panic!("{what}: {}", ran.stdout));
        line.split_whitespace()
            .rev()
            .take(3)
            .map(|count| count.parse().unwrap())
            .collect::<Vec<u32>>()
    });
    assert_eq!(
        counts,
        [[3, 3, 0], [2, 2, 0], [1, 1, 0]],
        "in total, of the second, of the first"
    );
    let row = desk.run(&[
        "preview",
        "recipe.yaml",
        "--row",
        "8",
        "training.deduplicate=near",
    ]);
    assert!(
        row.stdout
            .contains("left out, nearly the same as row 4 (row 4 of `a.parquet`)"),
        "{}",
        row.stdout
    );
    // Tokens that were made before are used, and what is left out is not a part of them.
    assert_eq!(ledger(&desk, &[]).0, kept);
    let (strict, _) = ledger(
        &desk,
        &["training.deduplicate=near", "training.near_threshold=0.99"],
    );
    assert_eq!(
        fates(&strict),
        fates(&exact),
        "the edited row is not that near"
    );
}

#[test]
fn what_is_left_out_is_in_check_plan_result_report_and_lock_and_is_not_max_dropped() {
    let desk = alike_desk();
    let near = ["training.deduplicate=near", "training.max_dropped=0"];
    let said = [
        "2 of 11 rows are left out: an earlier row",
        "1 of 11 rows are left out: nearly the same as an earlier row",
    ];
    desk.run(&[&["check", "recipe.yaml"], &near[..]].concat())
        .says("check", 0, &said);
    let plan = desk.run(&[&["plan", "recipe.yaml"], &near[..]].concat());
    assert!(
        plan.stdout
            .contains("left out: 2 equal, 1 nearly equal, 0 nearly a scored row"),
        "{}",
        plan.stdout
    );
    desk.run(&[&["train", "recipe.yaml"], &near[..]].concat())
        .says("train", 0, &said);
    let lock = desk.read_text("run/recipe.lock.yaml");
    for line in [
        "exact_duplicates: 2",
        "near_duplicates: 1",
        "deduplicate: near",
        "near_threshold: 0.6",
    ] {
        assert!(lock.contains(line), "{line}: {lock}");
    }
    desk.run(&["report", "run"]).says("a report", 0, &[]);
    assert!(
        desk.read_text("run/report.html")
            .contains("left out, nearly the same as an earlier one")
    );
    assert!(
        desk.read_text("run/README.md")
            .contains("5 rows read, 2 trained on, 0 held out, 3 left out"),
        "{}",
        desk.read_text("run/README.md")
    );
    desk.run(&["resume", "run"]).says("a finished run", 0, &[]);
}

#[test]
fn a_dataset_of_nothing_but_duplicates_is_refused_by_name() {
    let desk = alike_desk();
    desk.write_rows("b.parquet", vec![("text", texts((0..3).map(sentence)))]);
    let ran = desk.run(&["train", "recipe.yaml", "training.deduplicate=exact"]);
    ran.says(
        "nothing of its own",
        65,
        &[
            "datasets.1: `b.parquet` has no token to train in 3 rows",
            "3 like others",
        ],
    );
}

#[test]
fn rows_near_a_validation_set_are_kept_dropped_or_refused() {
    let desk = alike_desk();
    desk.write_rows(
        "held.parquet",
        vec![("text", texts([edited(1), sentence(50)]))],
    );
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        "evaluation:\n  datasets:\n    - path: held.parquet\n      format: text\noutput_dir: run",
    );
    let (kept, _) = ledger(&desk, &[]);
    assert_eq!(kept[1].fate, "train");
    let said = "1 row to train on is a near-duplicate of rows that are only scored, the first: row \
        1 of `a.parquet`, of row 0 of `held.parquet`";
    for verb in ["check", "plan", "preview"] {
        desk.run(&[verb, "recipe.yaml"]).says(
            verb,
            0,
            &[&format!(
                "note: {said}; `evaluation.near_duplicates` can leave them out"
            )],
        );
    }
    let (dropped, ran) = ledger(&desk, &["evaluation.near_duplicates=drop"]);
    ran.says(
        "drop",
        0,
        &["1 of 11 rows are left out: nearly the same as a row that is only scored"],
    );
    assert_eq!(
        (dropped[1].fate.as_str(), dropped[1].duplicate_of),
        ("near_held_out", Some(11))
    );
    assert_eq!(
        dropped
            .iter()
            .filter(|line| line.fate == "near_held_out")
            .count(),
        1
    );
    let row = desk.run(&[
        "preview",
        "recipe.yaml",
        "--row",
        "1",
        "evaluation.near_duplicates=drop",
    ]);
    assert!(
        row.stdout.contains(
            "left out, nearly the same as row 11 (row 0 of `held.parquet`), which is only scored"
        ),
        "{}",
        row.stdout
    );
    // Who asks for near-duplicates to go asks for these too.
    assert_eq!(
        ledger(&desk, &["training.deduplicate=near"]).0[1].fate,
        "near_held_out"
    );
    assert_eq!(
        ledger(
            &desk,
            &[
                "training.deduplicate=near",
                "evaluation.near_duplicates=keep"
            ]
        )
        .0[1]
            .fate,
        "train"
    );
    for verb in ["check", "plan", "train", "preview"] {
        let ran = desk.run(&[verb, "recipe.yaml", "evaluation.near_duplicates=refuse"]);
        ran.says(
            verb,
            65,
            &[
                &format!("error: evaluation.near_duplicates: {said}"),
                "hint: set `near_duplicates: drop`",
            ],
        );
    }
    assert!(!desk.path("run").exists());
}

#[test]
fn held_out_rows_have_no_near_duplicate_among_those_that_train() {
    let desk = Desk::new();
    let rows = (0..60).map(sentence).chain((0..60).step_by(2).map(edited));
    desk.write_rows("rows.parquet", vec![("text", texts(rows))]);
    let held = ["training.sequence_len=256", "evaluation.val_set_size=20"];
    let straddles = |lines: &[Line]| {
        let fate = |row: usize| lines[row].fate.as_str();
        (0..30)
            .filter(|pair| {
                BTreeSet::from([fate(2 * pair), fate(60 + pair)])
                    == BTreeSet::from(["train", "validation"])
            })
            .count()
    };
    assert!(
        straddles(&ledger(&desk, &held).0) > 3,
        "without a word they straddle"
    );
    for word in [
        "training.deduplicate=near",
        "evaluation.near_duplicates=drop",
    ] {
        let (lines, ran) = ledger(&desk, &[&[word], &held[..]].concat());
        ran.says(word, 0, &[]);
        assert_eq!(straddles(&lines), 0, "{word}");
        assert_eq!(
            lines
                .iter()
                .filter(|line| line.fate == "validation")
                .count(),
            20,
            "{word}"
        );
        assert_eq!(lines.len(), 90);
    }
}

#[test]
fn keys_that_do_not_go_together_are_faults() {
    let desk = alike_desk();
    let with = |overrides: &[&str], parts: &[&str]| {
        desk.run(&[&["check", "recipe.yaml"], overrides].concat())
            .says(&overrides.join(" "), 65, parts);
    };
    with(
        &["datasets.0.weight=0"],
        &["datasets.0.weight: expected a number above 0"],
    );
    with(
        &["training.stopping_strategy=all_exhausted"],
        &["`all_exhausted` needs datasets with a `weight`"],
    );
    with(
        &["training.near_threshold=0.8"],
        &[
            "training.near_threshold goes with `deduplicate: near` or with rows that are only \
            scored",
        ],
    );
    with(
        &["training.deduplicate=fuzzy"],
        &["training.deduplicate: expected `none`, `exact` or `near`"],
    );
    with(
        &["evaluation.near_duplicates=refuse"],
        &["needs rows that are only scored, and there are none"],
    );
    let list = "evaluation:\n  datasets:\n    - path: a.parquet\n      format: text\n      weight: \
        2\noutput_dir: run";
    desk.edit("recipe.yaml", "output_dir: run", list);
    with(&[], &["unknown key `weight`"]);
}

/// Texts of the committed glossaries, 9,000 of them, each once.
fn glossary() -> Vec<String> {
    let read = |name: &str, text: &dyn Fn(&arrow::array::RecordBatch, usize) -> String| {
        let file = File::open(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("datasets")
                .join(name),
        )
        .unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap();
        reader
            .map(Result::unwrap)
            .flat_map(|batch| {
                (0..batch.num_rows())
                    .map(|row| text(&batch, row))
                    .collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    };
    let turns = |batch: &arrow::array::RecordBatch, row: usize| {
        let list = batch["messages"].as_list::<i32>().value(row);
        let turns: &StructArray = list.as_struct();
        let contents = turns.column_by_name("content").unwrap().as_string::<i32>();
        contents.iter().flatten().collect::<Vec<_>>().join("\n")
    };
    let mut texts = [
        read("medical-glossary.parquet", &turns),
        read("legal-glossary.parquet", &turns),
    ]
    .concat();
    let general = read("general-definitions.parquet", &|batch, row| {
        batch["text"].as_string::<i32>().value(row).to_owned()
    });
    texts.extend(general.into_iter().step_by(25));
    let mut seen = HashSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    texts.truncate(9000);
    texts
}

/// One edit of a text, of a kind that follows from the key.
fn edit(text: &str, key: u64) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let at = (mix(key) % words.len() as u64) as usize;
    match key % 6 {
        0 => drop(words.remove(at)),
        1 => words.insert(at, words[at].clone()),
        2 => words[at].push(','),
        3 => words[at] = words[at].to_uppercase(),
        4 => words[at].insert(0, 'x'),
        _ => "thing".clone_into(&mut words[at]),
    }
    words.join(" ")
}

/// `cargo test --release --test mixing planted -- --nocapture` prints the numbers.
#[test]
fn planted_edits_among_ten_thousand_glossary_rows_are_found() {
    let originals = glossary();
    assert_eq!(originals.len(), 9000);
    let tokenizer = Tokenizer::open(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/checkpoints/rankine-tiny"
    )))
    .unwrap();
    let planted: Vec<usize> = (0..1000)
        .map(|nth| nth * 9 + (mix(nth as u64) % 9) as usize)
        .collect();
    let edits = planted
        .iter()
        .zip(0..)
        .map(|(of, key)| edit(&originals[*of], key));
    let rows: Vec<Vec<u32>> = originals
        .iter()
        .cloned()
        .chain(edits)
        .map(|text| tokenizer.ids(&text, false).unwrap())
        .collect();
    let is_long = |of: usize| originals[of].split(' ').count() >= 12;
    let long = planted.iter().filter(|of| is_long(**of)).count();
    for (threshold, recall_at_least, of_long_at_least, precision_at_least) in [
        (0.5, 0.95, 0.98, 0.95),
        (0.6, 0.88, 0.96, 0.98),
        (0.7, 0.75, 0.85, 0.99),
        (0.8, 0.5, 0.6, 0.99),
    ] {
        let found = near_duplicates(rows.len(), |row| rows[row].clone(), threshold, &|_| {});
        let (of_planted, of_originals): (Vec<_>, Vec<_>) =
            found.iter().partition(|pair| pair.row >= 9000);
        let of = |pair: &rankine::data::Pair| planted[pair.row as usize - 9000];
        let right = of_planted
            .iter()
            .filter(|pair| of(pair) == pair.of as usize)
            .count();
        let found_long = of_planted.iter().filter(|pair| is_long(of(pair))).count();
        let (recall, of_long) = (
            of_planted.len() as f64 / 1000.0,
            found_long as f64 / long as f64,
        );
        let precision = of_planted.len() as f64 / found.len() as f64;
        println!(
            "at {threshold}: recall {recall:.3}, of the {long} rows with twelve words or more \
            {of_long:.3}; precision {precision:.3}: {} originals are like an earlier one; {right} \
            named with the row that was edited",
            of_originals.len()
        );
        assert!(
            recall >= recall_at_least
                && of_long >= of_long_at_least
                && precision >= precision_at_least
        );
        assert!(
            right * 100 >= of_planted.len() * 99,
            "{right} of {}",
            of_planted.len()
        );
    }
}
