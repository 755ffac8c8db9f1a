//! Broken files of preferences: each is refused, or its rows are left out and counted, with a
//! message that names both sides; none ends in an internal error.

mod support;

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use serde_json::{Value, json};
use support::*;

const PAIRS: &str = "base_model: base
chat_template: t.jinja
datasets:
  - path: rows
    format: preference
objective:
  type: dpo
adapter:
  r: 4
training:
  sequence_len: 64
  max_dropped: 1
output_dir: run
";

const LABELS: &str = "base_model: base
chat_template: t.jinja
datasets:
  - path: rows
    format: unpaired
objective:
  type: kto
adapter:
  r: 4
training:
  sequence_len: 64
  max_dropped: 1
  gradient_accumulation_steps: 4
output_dir: run
";

const TEMPLATE: &str = "{% for m in messages %}<|start_header_id|>{{ m.role \
    }}<|end_header_id|>{{ m.content }}<|eot_id|>{% endfor %}{% if add_generation_prompt \
    %}<|start_header_id|>assistant<|end_header_id|>{% endif %}";

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("pairs.yaml", PAIRS);
    desk.write("labels.yaml", LABELS);
    desk.write("t.jinja", TEMPLATE);
    desk
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// Previews rows of a recipe; every row has a status, and nothing is an internal error.
fn preview(desk: &Desk, recipe: &str, file: &str, overrides: &[&str]) -> Ran {
    let path = format!("datasets.0.path={file}");
    let ran = desk.run(&[&["preview", recipe, &path], overrides].concat());
    assert_ne!(ran.exit, 70, "{}", ran.stderr);
    assert!(!ran.stderr.contains("internal error"), "{}", ran.stderr);
    ran
}

fn lines(desk: &Desk, rows: &[Value]) {
    let lines: String = rows.iter().map(|row| row.to_string() + "\n").collect();
    desk.write("rows.jsonl", lines);
}

fn column<T>(values: T) -> ArrayRef
where
    T: arrow::array::Array + 'static,
{
    Arc::new(values)
}

#[test]
fn broken_rows_of_pairs_are_told() {
    let desk = desk();
    let [user, yes, no] = [
        turn("user", "q"),
        turn("assistant", "yes"),
        turn("assistant", "no"),
    ];
    let good = json!({"prompt": [user], "chosen": [yes], "rejected": [no]});
    let text = json!({"prompt": "p", "chosen": " a", "rejected": " b"});
    for (what, rows, parts) in [
        (
            "an empty chosen half",
            vec![
                text.clone(),
                json!({"prompt": "p", "chosen": "", "rejected": " b"}),
            ],
            &["1 of 2 rows have no token to train and are left out"][..],
        ),
        (
            "an empty rejected list",
            vec![
                good.clone(),
                json!({"prompt": [user], "chosen": [yes], "rejected": []}),
            ],
            &["1 of 2 rows have no token to train and are left out"],
        ),
        (
            "equal halves",
            vec![
                good.clone(),
                json!({"prompt": [user], "chosen": [yes], "rejected": [yes]}),
            ],
            &["1 of 2 pairs are left out: their chosen and rejected sequences are the same"],
        ),
        (
            "a null half",
            vec![
                good.clone(),
                json!({"prompt": [user], "chosen": null, "rejected": [no]}),
            ],
            &["1 of 2 rows have no token to train and are left out"],
        ),
        (
            "a null prompt",
            vec![
                text.clone(),
                json!({"prompt": null, "chosen": " a", "rejected": " b"}),
            ],
            &["1 of 2 rows have no token to train and are left out"],
        ),
        (
            "prompts that differ",
            vec![
                json!({"chosen": [user, yes], "rejected": [user, no]}),
                json!({"chosen": [user, yes], "rejected": [turn("user", "r"), no]}),
            ],
            &[
                "1 of 2 rows are broken and left out",
                "column `chosen`: the chosen and the rejected conversation begin with different \
                turns, expected a `prompt` or the same first turns",
            ],
        ),
        (
            "a role that nobody has",
            vec![
                good.clone(),
                json!({"prompt": [user], "chosen": [turn("narrator", "x")], "rejected": [no]}),
            ],
            &[
                "1 of 2 rows are broken and left out",
                "column `chosen`: message 0 has role",
                "expected one of",
            ],
        ),
        (
            "a half that the user says",
            vec![
                good.clone(),
                json!({"prompt": [user], "chosen": [yes], "rejected": [turn("user", "x")]}),
            ],
            &[
                "1 of 2 rows are broken and left out",
                "column `rejected`: none of its messages is the assistant's, expected an answer",
            ],
        ),
        (
            "a message without content",
            vec![
                good.clone(),
                json!({"prompt": [user], "chosen": [{"role": "assistant"}], "rejected": [no]}),
            ],
            &[
                "1 of 2 rows are broken and left out",
                "column `chosen`: message 0 has neither `content` nor `tool_calls`",
            ],
        ),
        (
            "halves that are too long",
            vec![
                text.clone(),
                json!({"prompt": "p", "chosen": "so ".repeat(80), "rejected": " b"}),
            ],
            &["1 of 2 rows are left out: they are longer than `training.sequence_len`, 64"],
        ),
        (
            "a text beside lists",
            vec![json!({"prompt": "p", "chosen": " a", "rejected": [no]})],
            &[
                "column `rejected`: it is a list of messages and the chosen one is text, expected \
                text in both or a list of messages in both",
            ],
        ),
        (
            "texts after a list",
            vec![json!({"prompt": [user], "chosen": " a", "rejected": " b"})],
            &["column `chosen`: it is text and the prompt is a list of messages"],
        ),
        (
            "texts in some rows and lists in others",
            vec![text.clone(), good.clone()],
            &["column `prompt` holds", "expected text"],
        ),
    ] {
        lines(&desk, &rows);
        let ran = preview(&desk, "pairs.yaml", "rows.jsonl", &[]);
        assert!(matches!(ran.exit, 0 | 65), "{what}: {}", ran.stderr);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        for part in parts {
            assert!(said.contains(part), "{what}: `{part}` is not in\n{said}");
        }
    }
    // A prompt that both halves hold again is one prompt.
    let shown = |rows: &[Value]| {
        lines(&desk, rows);
        let ran = preview(&desk, "pairs.yaml", "rows.jsonl", &["--row", "0"]);
        ran.says("a pair", 0, &[]);
        ran.stdout
    };
    let held = json!({"prompt": [user], "chosen": [user, yes], "rejected": [user, no]});
    assert_eq!(shown(&[held]), shown(&[good]));
    // Truncation that leaves nothing of an answer.
    lines(
        &desk,
        &[
            text,
            json!({"prompt": "long ".repeat(80), "chosen": " a", "rejected": " b"}),
        ],
    );
    let cut = ["training.truncation=truncate"];
    preview(&desk, "pairs.yaml", "rows.jsonl", &cut).says(
        "nothing is left",
        0,
        &["1 of 2 rows have no token to train and are left out"],
    );
    preview(
        &desk,
        "pairs.yaml",
        "rows.jsonl",
        &["training.truncation=error"],
    )
    .says(
        "a run that stops",
        65,
        &[
            "1 of 2 rows are longer than sequence_len: 64",
            "raise `training.sequence_len` to",
        ],
    );
    preview(
        &desk,
        "pairs.yaml",
        "rows.jsonl",
        &["training.max_dropped=0.1"],
    )
    .says(
        "too many",
        65,
        &[
            "1 of 2 rows are left out",
            "more than `training.max_dropped`, 0.1",
        ],
    );
}

#[test]
fn broken_files_of_pairs_are_refused() {
    let desk = desk();
    let two = || texts(["a", "b"]);
    let numbers = || column(Int64Array::from(vec![1, 2]));
    for (what, columns, parts) in [
        (
            "no rejected half",
            vec![("prompt", two()), ("chosen", two())],
            &["has no column `rejected`, it has: prompt, chosen"][..],
        ),
        (
            "no chosen half",
            vec![("prompt", two()), ("rejected", two())],
            &["has no column `chosen`, it has: prompt, rejected"],
        ),
        (
            "halves that are numbers",
            vec![
                ("prompt", two()),
                ("chosen", numbers()),
                ("rejected", two()),
            ],
            &[
                "column `chosen`",
                "holds numbers, expected text or a list of messages",
                "name another column in `columns`",
            ],
        ),
        (
            "labels in place of pairs",
            vec![
                ("prompt", two()),
                ("completion", two()),
                ("label", column(BooleanArray::from(vec![true, false]))),
            ],
            &["has no column `chosen`", "format: unpaired"],
        ),
        (
            "nothing but nulls",
            vec![
                ("prompt", two()),
                (
                    "chosen",
                    column(StringArray::from(vec![None::<&str>, None])),
                ),
                ("rejected", two()),
            ],
            &["2 of 2 rows", "without a trained token"],
        ),
        (
            "no rows",
            vec![
                ("prompt", column(StringArray::from(Vec::<&str>::new()))),
                ("chosen", column(StringArray::from(Vec::<&str>::new()))),
                ("rejected", column(StringArray::from(Vec::<&str>::new()))),
            ],
            &["no rows to train on"],
        ),
    ] {
        desk.write_rows("rows.parquet", columns);
        let ran = preview(
            &desk,
            "pairs.yaml",
            "rows.parquet",
            &["training.max_dropped=0.5"],
        );
        ran.says(what, 65, parts);
    }
    // A file that is cut off, and one that is no table.
    desk.write_rows(
        "rows.parquet",
        vec![("prompt", two()), ("chosen", two()), ("rejected", two())],
    );
    desk.cut("rows.parquet", 0.6);
    preview(&desk, "pairs.yaml", "rows.parquet", &[]).says(
        "a file that is cut off",
        65,
        &["is not a whole Parquet file"],
    );
    desk.write("rows.jsonl", "{\"prompt\": \"p\", \"chosen\": \n");
    preview(&desk, "pairs.yaml", "rows.jsonl", &[]).says("half a line", 65, &["rows.jsonl"]);
}

#[test]
fn broken_rows_with_labels_are_told() {
    let desk = desk();
    let [user, yes] = [turn("user", "q"), turn("assistant", "yes")];
    let row = |completion: &str, label: Value| json!({"prompt": "p", "completion": completion, "label": label});
    let both = || [row(" a", json!(true)), row(" b", json!(false))];
    for (what, more, exit, parts) in [
        (
            "an empty completion",
            vec![row("", json!(true))],
            0,
            &["1 of 3 rows have no token to train and are left out"][..],
        ),
        (
            "a null label",
            vec![row(" c", json!(null))],
            0,
            &["1 of 3 rows have no token to train and are left out"],
        ),
        (
            "a null completion",
            vec![json!({"prompt": "p", "completion": null, "label": true})],
            0,
            &["1 of 3 rows have no token to train and are left out"],
        ),
    ] {
        lines(&desk, &[&both()[..], &more].concat());
        preview(&desk, "labels.yaml", "rows.jsonl", &[]).says(what, exit, parts);
    }
    lines(
        &desk,
        &[
            json!({"prompt": [user], "completion": [yes], "label": true}),
            json!({"prompt": [user], "completion": [user], "label": false}),
        ],
    );
    preview(&desk, "labels.yaml", "rows.jsonl", &[]).says(
        "a completion that the user says",
        0,
        &[
            "1 of 2 rows are broken and left out",
            "column `completion`: none of its messages is the assistant's",
        ],
    );
    // Whole conversations with a label, without a column of prompts.
    let named = [
        "datasets.0.columns.completion=conversation",
        "datasets.0.columns.label=kto_tag",
    ];
    lines(
        &desk,
        &[
            json!({"conversation": [user, yes], "kto_tag": true}),
            json!({"conversation": [yes], "kto_tag": false}),
            json!({"conversation": [user, yes, user], "kto_tag": false}),
            json!({"conversation": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
                "kto_tag": false}),
        ],
    );
    let ran = preview(&desk, "labels.yaml", "rows.jsonl", &named);
    ran.says(
        "conversations of one turn",
        0,
        &[
            "2 of 4 rows are broken and left out",
            "the conversation has one message and there is no column `prompt`",
        ],
    );
    let ran = preview(
        &desk,
        "labels.yaml",
        "rows.jsonl",
        &[&named[..], &["--row", "0"]].concat(),
    );
    assert!(ran.stdout.contains("⟦y"), "{}", ran.stdout);
    // Labels of one kind only, and of one kind by far.
    let of_kinds = |desirable: usize, undesirable: usize| {
        let rows: Vec<Value> = (0..desirable + undesirable)
            .map(|index| row(&format!(" answer {index}"), json!(index < desirable)))
            .collect();
        lines(&desk, &rows);
        preview(&desk, "labels.yaml", "rows.jsonl", &[])
    };
    of_kinds(4, 0).says(
        "desirable rows only",
        0,
        &[
            "all 4 training rows are desirable",
            "add rows of the other label",
        ],
    );
    of_kinds(0, 3).says(
        "undesirable rows only",
        0,
        &["all 3 training rows are undesirable"],
    );
    of_kinds(6, 2).says(
        "six to two",
        0,
        &[
            "6 desirable and 2 undesirable training rows, with weights 3.00 to 1",
            "`objective.undesirable_weight: 3.00`",
        ],
    );
    assert!(!of_kinds(3, 3).stderr.contains("is usual"));
}

#[test]
fn broken_files_with_labels_are_refused() {
    let desk = desk();
    let two = || texts(["a", "b"]);
    let labels = || column(BooleanArray::from(vec![true, false]));
    for (what, columns, exit, parts) in [
        (
            "no labels",
            vec![("prompt", two()), ("completion", two())],
            65,
            &["has no column `label`, it has: prompt, completion"][..],
        ),
        (
            "no prompts",
            vec![("completion", two()), ("label", labels())],
            65,
            &["has no column `prompt`, it has: completion, label"],
        ),
        (
            "labels that are texts",
            vec![
                ("prompt", two()),
                ("completion", two()),
                ("label", texts(["good", "bad"])),
            ],
            65,
            &["column `label`", "holds text, expected true and false"],
        ),
        (
            "labels that are scores",
            vec![
                ("prompt", two()),
                ("completion", two()),
                (
                    "label",
                    column(Float64Array::from(vec![Some(0.5), Some(1.0)])),
                ),
            ],
            0,
            &[
                "1 of 2 rows are broken and left out",
                "column `label`: the label is",
                "expected true or false, or 1 or 0",
            ],
        ),
        (
            "labels of three kinds",
            vec![
                ("prompt", two()),
                ("completion", two()),
                ("label", column(Int64Array::from(vec![2, 1]))),
            ],
            0,
            &["1 of 2 rows are broken and left out", "the label is"],
        ),
        (
            "pairs in place of labels",
            vec![("prompt", two()), ("chosen", two()), ("rejected", two())],
            65,
            &["has no column `completion`"],
        ),
    ] {
        desk.write_rows("rows.parquet", columns);
        preview(&desk, "labels.yaml", "rows.parquet", &[]).says(what, exit, parts);
    }
}

/// A pair gives a desirable and an undesirable row, with the same tokens as its halves.
#[test]
fn halves_of_pairs_are_rows_with_labels() {
    let desk = desk();
    desk.write_rows(
        "rows.parquet",
        vec![
            ("prompt", texts(["the term", "a law", "law"])),
            ("better", texts([" fever", " tort", ""])),
            ("rejected", texts([" law", " so", " no"])),
        ],
    );
    let named = [
        "datasets.0.columns.chosen=better",
        "datasets.0.columns.rejected=rejected",
    ];
    let ran = preview(
        &desk,
        "labels.yaml",
        "rows.parquet",
        &[&named[..], &["-n", "6"]].concat(),
    );
    ran.says(
        "two rows a pair",
        0,
        &["2 of 6 rows have no token to train and are left out"],
    );
    assert_eq!(
        ran.stdout.matches(", desirable").count(),
        2,
        "{}",
        ran.stdout
    );
    assert_eq!(
        ran.stdout.matches(", undesirable").count(),
        2,
        "{}",
        ran.stdout
    );
    let train = [
        &["train", "labels.yaml", "datasets.0.path=rows.parquet"][..],
        &named,
        &["training.max_steps=2"],
    ];
    desk.run(&train.concat()).says("a run", 0, &[]);
    desk.run(&[
        "check",
        "labels.yaml",
        "datasets.0.path=rows.parquet",
        "datasets.0.columns.chosen=better",
        "datasets.0.columns.label=rejected",
    ])
    .says(
        "halves beside labels",
        65,
        &["columns: format `unpaired` has no column `label`"],
    );
}
