//! Every row that is read has one fate, and the counts of fates add up: on the committed
//! glossaries, and on a folder with every kind of row. The Parquet ledger holds the same numbers.

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use support::*;

/// A line of a Parquet ledger.
#[derive(Debug, Clone)]
struct Line {
    dataset: String,
    file: String,
    row: i64,
    fate: String,
    tokens: i64,
    trained_tokens: i64,
    times_trained: i64,
    truncated: bool,
    duplicate: bool,
    reason: Option<String>,
}

fn lines(path: &Path) -> Vec<Line> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap())
        .unwrap()
        .build()
        .unwrap();
    let mut lines = Vec::new();
    for batch in reader.map(Result::unwrap) {
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .unwrap_or_else(|| panic!("no column {name}"))
                .clone()
        };
        let text = |name: &str, row: usize| column(name).as_string::<i32>().value(row).to_owned();
        let number = |name: &str, row: usize| column(name).as_primitive::<Int64Type>().value(row);
        let flag = |name: &str, row: usize| column(name).as_boolean().value(row);
        lines.extend((0..batch.num_rows()).map(|row| Line {
            dataset: text("dataset", row),
            file: text("file", row),
            row: number("row", row),
            fate: text("fate", row),
            tokens: number("tokens", row),
            trained_tokens: number("trained_tokens", row),
            times_trained: number("times_trained", row),
            truncated: flag("truncated", row),
            duplicate: flag("duplicate", row),
            reason: column("reason").is_valid(row).then(|| text("reason", row)),
        }));
    }
    lines
}

/// The printed ledger: for each column the counts by their names.
fn printed(stdout: &str) -> BTreeMap<String, BTreeMap<String, i64>> {
    let all: Vec<&str> = stdout.lines().collect();
    let start = all
        .iter()
        .position(|line| line.starts_with("rows read"))
        .expect("a ledger");
    let heads: Vec<&str> = all[start - 1].split_whitespace().collect();
    let mut columns = BTreeMap::new();
    for line in &all[start..start + 13] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (what, counts) = words.split_at(words.len() - heads.len());
        for (head, count) in heads.iter().zip(counts) {
            let of: &mut BTreeMap<String, i64> = columns.entry((*head).to_owned()).or_default();
            of.insert(what.join(" "), count.replace(',', "").parse().unwrap());
        }
    }
    columns
}

/// What the lines of a dataset add up to, under the names that are printed.
fn added_up<'a>(lines: impl Iterator<Item = &'a Line> + Clone) -> BTreeMap<String, i64> {
    let count = |is: &dyn Fn(&Line) -> bool| {
        i64::try_from(lines.clone().filter(|line| is(line)).count()).unwrap()
    };
    let fate = |fate: &str| count(&|line| line.fate == fate);
    let is_kept = |line: &&Line| ["train", "validation"].contains(&line.fate.as_str());
    let sum = |of: fn(&Line) -> i64| lines.clone().filter(is_kept).map(of).sum::<i64>();
    let (train, validation) = (fate("train"), fate("validation"));
    let dropped = [fate("too_long"), fate("no_trained_token"), fate("broken")];
    BTreeMap::from(
        [
            ("rows read", count(&|_| true)),
            ("not selected", fate("not_selected")),
            ("kept", train + validation),
            ("trained on", train),
            ("held out for validation", validation),
            ("left out", dropped.iter().sum()),
            ("too long", dropped[0]),
            ("no trained token", dropped[1]),
            ("broken", dropped[2]),
            ("of the kept: truncated", count(&|line| line.truncated)),
            ("of the kept: duplicates", count(&|line| line.duplicate)),
            ("tokens of the kept", sum(|line| line.tokens)),
            ("trained tokens", sum(|line| line.trained_tokens)),
        ]
        .map(|(name, count)| (name.to_owned(), count)),
    )
}

/// Holds that the fates add up to the rows, and the lines to what was printed, source by source and
/// in total.
#[track_caller]
fn adds_up(stdout: &str, lines: &[Line]) {
    let columns = printed(stdout);
    for (head, counts) in &columns {
        let of_source = lines
            .iter()
            .filter(|line| head == "total" || line.dataset == *head);
        assert_eq!(*counts, added_up(of_source), "{head}");
        let sum = |names: [&str; 6]| names.iter().map(|name| counts[*name]).sum::<i64>();
        let fates = [
            "trained on",
            "held out for validation",
            "not selected",
            "too long",
            "no trained token",
            "broken",
        ];
        assert_eq!(sum(fates), counts["rows read"], "{head}: {counts:?}");
    }
    for name in columns["total"].keys() {
        let of_sources = columns
            .iter()
            .filter(|(head, _)| *head != "total")
            .map(|(_, counts)| counts[name]);
        assert_eq!(of_sources.sum::<i64>(), columns["total"][name], "{name}");
    }
}

fn committed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn rows_of(file: &Path) -> i64 {
    SerializedFileReader::new(File::open(file).unwrap())
        .unwrap()
        .metadata()
        .file_metadata()
        .num_rows()
}

#[test]
fn both_glossaries_add_up_to_their_rows() {
    let desk = Desk::new();
    let base = committed("checkpoints/rankine-tiny");
    let [medical, legal] =
        ["medical", "legal"].map(|name| committed(&format!("datasets/{name}-glossary.parquet")));
    let recipe = format!(
        "base_model: {}\ndatasets:\n  - {{path: {}, format: chat}}\n  - {{path: {}, format: text, \
        columns: {{text: definition}}}}\n\
        training: {{sequence_len: 96, truncation: drop, max_dropped: 0.9, micro_batch_size: 7, \
        num_epochs: 2}}\n\
        evaluation:\n  val_set_size: 0.05\n  datasets: [{{path: {}, format: chat}}]\noutput_dir: \
        run\n",
        base.display(),
        medical.display(),
        legal.display(),
        legal.display()
    );
    desk.write("recipe.yaml", recipe);
    let ran = desk.run(&[
        "preview",
        "recipe.yaml",
        "-n",
        "0",
        "--ledger",
        "ledger.parquet",
    ]);
    ran.says("both glossaries", 0, &[]);
    let lines = lines(&desk.path("ledger.parquet"));
    adds_up(&ran.stdout, &lines);
    let rows = |dataset: &str| {
        i64::try_from(lines.iter().filter(|line| line.dataset == dataset).count()).unwrap()
    };
    assert_eq!(rows("datasets.0"), rows_of(&medical));
    assert_eq!(rows("datasets.1"), rows_of(&legal));
    assert_eq!(rows("evaluation.datasets.0"), rows_of(&legal));
    for line in &lines {
        assert_eq!(
            line.times_trained,
            if line.fate == "train" { 2 } else { 0 },
            "{line:?}"
        );
        assert!(
            line.dataset.starts_with("datasets") || line.fate != "train",
            "{line:?}"
        );
    }
    assert!(
        lines.iter().any(|line| line.fate == "too_long") && lines.iter().any(|line| line.duplicate)
    );

    let few = [
        "preview",
        "recipe.yaml",
        "training.max_steps=11",
        "-n",
        "0",
        "--ledger",
        "few.parquet",
    ];
    desk.run(&few).says("a part of an epoch", 0, &[]);
    let times: i64 = self::lines(&desk.path("few.parquet"))
        .iter()
        .map(|line| line.times_trained)
        .sum();
    assert_eq!(times, 11 * 7);
}

/// Texts of a file of the folder; one is not UTF-8.
fn file_of_everything() -> ArrayRef {
    let long = "long ".repeat(60);
    let rows: [Option<&[u8]>; 9] = [
        Some(b"a duplicate"),
        Some(b"one of its kind"),
        Some(b""),
        Some(b"a duplicate"),
        None,
        Some(long.as_bytes()),
        Some(b"\xff\xfe broken"),
        Some(b"a duplicate"),
        Some(b"two of its kind"),
    ];
    Arc::new(BinaryArray::from_iter(rows))
}

fn folder_desk() -> Desk {
    let desk = Desk::new();
    std::fs::create_dir_all(desk.path("folder/deep")).unwrap();
    desk.write_rows("folder/a.parquet", vec![("text", file_of_everything())]);
    desk.write_rows(
        "folder/deep/b.parquet",
        vec![("other", texts(["x"; 9])), ("text", file_of_everything())],
    );
    desk.edit(
        "recipe.yaml",
        "  - path: rows.parquet\n",
        "  - path: rows.parquet\n    format: text\n  - path: folder\n",
    );
    desk.edit(
        "recipe.yaml",
        "sequence_len: 64",
        "sequence_len: 100\n  max_dropped: 0.5",
    );
    desk
}

#[test]
fn a_folder_with_every_kind_of_row_adds_up() {
    let desk = folder_desk();
    let ran = desk.run(&["preview", "recipe.yaml", "--ledger", "ledger.parquet"]);
    let place = "2 of 30 rows are broken and left out; the first: `folder/a.parquet`, row group 0, \
        row 6, column `text`: invalid utf-8";
    ran.says("every kind of row", 0, &[place]);
    let lines = lines(&desk.path("ledger.parquet"));
    adds_up(&ran.stdout, &lines);
    let of_folder = &printed(&ran.stdout)["datasets.1"];
    let counts = [
        "rows read",
        "kept",
        "left out",
        "too long",
        "no trained token",
        "broken",
        "of the kept: duplicates",
    ];
    assert_eq!(counts.map(|name| of_folder[name]), [18, 10, 8, 2, 4, 2, 7]);

    let fates: Vec<(&str, bool)> = lines[12..]
        .iter()
        .map(|line| (line.fate.as_str(), line.duplicate))
        .collect();
    let [empty, long, broken] =
        ["no_trained_token", "too_long", "broken"].map(|fate| (fate, false));
    let of_file = |again| {
        let text = |duplicate| ("train", duplicate);
        [
            text(again),
            text(again),
            empty,
            text(true),
            empty,
            long,
            broken,
            text(true),
            text(again),
        ]
    };
    assert_eq!(fates, [of_file(false), of_file(true)].concat());
    assert_eq!(
        (
            lines[12].row,
            lines[20].row,
            lines[21].row,
            lines[21].file.as_str()
        ),
        (0, 8, 0, "folder/deep/b.parquet")
    );
    assert!(
        lines
            .iter()
            .all(|line| line.reason.is_some() == (line.fate == "broken"))
    );
    assert_eq!((lines[18].tokens, lines[18].trained_tokens), (0, 0));
    assert!(lines[17].tokens > 100, "as it was read");

    let cut = desk.run(&[
        "preview",
        "recipe.yaml",
        "training.truncation=truncate",
        "--ledger",
        "cut.parquet",
    ]);
    cut.says("truncated", 0, &[]);
    let lines = self::lines(&desk.path("cut.parquet"));
    adds_up(&cut.stdout, &lines);
    let truncated: Vec<(i64, i64)> = lines
        .iter()
        .filter(|line| line.truncated)
        .map(|line| (line.tokens, line.row))
        .collect();
    assert_eq!(truncated, [(100, 5), (100, 5)]);
}

#[test]
fn a_refused_dataset_still_has_its_ledger_and_trains_nothing() {
    let desk = folder_desk();
    let ran = desk.run(&[
        "preview",
        "recipe.yaml",
        "training.max_dropped=0.1",
        "--ledger",
        "ledger.parquet",
    ]);
    let parts = [
        "8 of 30 rows are left out (2 too long, 4 without a trained token, 2 broken), more than \
        `training.max_dropped`, 0.1",
        "the first broken one: `folder/a.parquet`, row group 0, row 6",
        "hint: see them with `rankine preview --ledger",
    ];
    ran.says("too many left out", 65, &parts);
    let lines = lines(&desk.path("ledger.parquet"));
    adds_up(&ran.stdout, &lines);
    assert!(lines.iter().all(|line| line.times_trained == 0));
}

#[test]
fn the_run_trains_each_row_as_often_as_the_ledger_says() {
    let desk = folder_desk();
    let plan = [
        "recipe.yaml",
        "training.max_steps=9",
        "training.micro_batch_size=3",
        "training.gradient_accumulation_steps=2",
    ];
    desk.run(&[&["train"][..], &plan].concat())
        .says("train", 0, &[]);
    desk.run(&[&["preview", "--ledger", "ledger.parquet"][..], &plan].concat())
        .says("preview", 0, &[]);
    let steps = desk.read_text("run/metrics.jsonl");
    let steps = steps
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let of_run = steps
        .filter(|step| step["loss"].is_number())
        .map(|step| step["tokens"].as_i64().unwrap())
        .sum::<i64>();
    let of_ledger = lines(&desk.path("ledger.parquet"))
        .iter()
        .map(|line| line.tokens * line.times_trained)
        .sum::<i64>();
    assert_eq!(of_run, of_ledger);
    assert!(of_run > 0);
}

#[test]
fn a_ledger_overwrites_nothing() {
    let desk = Desk::new();
    let rows = desk.read("rows.parquet");
    let ran = desk.run(&["preview", "recipe.yaml", "--ledger", "rows.parquet"]);
    ran.says(
        "the data's own name",
        73,
        &["--ledger: `rows.parquet` exists", "hint: name another file"],
    );
    assert_eq!(desk.read("rows.parquet"), rows);
}

#[test]
fn broken_rows_are_remembered_by_the_cache() {
    let desk = folder_desk();
    let first = desk.run(&["preview", "recipe.yaml", "--ledger", "first.parquet"]);
    let again = desk.run(&["preview", "recipe.yaml", "--ledger", "again.parquet"]);
    assert_eq!(
        first.stdout.replace("first.parquet", ""),
        again.stdout.replace("again.parquet", "")
    );
    assert_eq!(desk.read("first.parquet"), desk.read("again.parquet"));
}

#[test]
fn a_run_leaves_broken_rows_out_and_trains_the_rest() {
    let desk = folder_desk();
    let ran = desk.run(&["train", "recipe.yaml"]);
    ran.says(
        "broken rows among others",
        0,
        &[
            "2 of 30 rows are broken and left out",
            "2 broken, 7 duplicates",
        ],
    );
}
