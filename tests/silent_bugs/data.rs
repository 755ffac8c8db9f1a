//! What becomes of rows between the file and the batch.

use std::collections::BTreeMap;

use rankine::data::{Corpus, Limits, find_files};
use rankine::terms::{Format, Truncation};
use serde_json::Value;

use crate::common::golden;
use crate::rows::{ALL, chats, encoder, open, seen, source, tally};
use crate::support::{Desk, texts};

const BASE: &str = "archs/llama/model";

/// huggingface/datasets#6509, #7169: `CastError`, column names don't match.
#[test]
fn one_shard_with_an_extra_column() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("shards")).unwrap();
    desk.write_rows(
        "shards/a.parquet",
        vec![("text", texts(["one", "two two"]))],
    );
    desk.write_rows(
        "shards/b.parquet",
        vec![
            ("url", texts(["x"])),
            ("text", texts(["three"])),
            ("license", texts(["y"])),
        ],
    );
    desk.write_rows(
        "shards/c.parquet",
        vec![("text", texts(["four four four"]))],
    );
    let base = encoder(&golden(BASE), None);
    let (files, train_on) = (
        find_files(&desk.path("shards").display().to_string()).unwrap(),
        rankine::terms::TrainOn::All,
    );
    let files = files.into_iter().map(Into::into).collect();
    let shards = rankine::data::DataSource {
        files,
        selected: None,
        format: Format::Text,
        columns: BTreeMap::new(),
        roles: BTreeMap::new(),
        train_on,
        system: None,
        labels: None,
    };
    let expected = ["one", "two two", "three", "four four four"]
        .map(|text| format!("<|begin_of_text|>«{text}<|eot_id|>»"));
    assert_eq!(seen(&desk, &base, &[shards]), expected);

    let all = [
        "datasets.0.path=shards",
        "training.max_steps=",
        "training.shuffle=false",
    ];
    desk.run(&[&["train", "recipe.yaml"], &all[..]].concat())
        .says("shards", 0, &[]);
    let lines = desk.read_text("run/metrics.jsonl");
    let tokens = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["trained_tokens"].as_u64());
    let tokens_of = |text: &str| base.tokenizer.encode(text, false).unwrap().ids.len() as u64 + 1;
    assert_eq!(
        tokens.collect::<Vec<_>>(),
        ["one", "two two", "three", "four four four"].map(tokens_of)
    );

    desk.write_rows("shards/d.parquet", vec![("body", texts(["five"]))]);
    let ran = desk.run(&[
        "train",
        "recipe.yaml",
        "datasets.0.path=shards",
        "--overwrite",
    ]);
    ran.says(
        "a shard without the column",
        65,
        &["shards/d.parquet", "has no column `text`, it has: body"],
    );
}

/// A map that names some columns leaves the others as they are called; a name that is not there, a
/// null and an empty cell are never the text `None`.
#[test]
fn partial_column_map_gives_none() {
    let desk = Desk::new();
    let base = encoder(&golden(BASE), None);
    let cells = || {
        vec![
            ("prompt", texts(["wrong"])),
            ("question", texts(["Q: so?"])),
            ("completion", texts([" A: so"])),
        ]
    };
    let mut partial = source(&desk, "a.parquet", Format::Completion, cells());
    partial.columns = BTreeMap::from([("prompt".to_owned(), "question".to_owned())]);
    assert_eq!(
        seen(&desk, &base, &[partial]),
        ["<|begin_of_text|>Q: so?« A: so<|eot_id|>»"]
    );

    let task = ("task", texts(["Define so.", "Define so.", "Define so."]));
    let input = std::sync::Arc::new(arrow::array::StringArray::from(vec![
        None,
        Some(""),
        Some("UK"),
    ]));
    let columns = vec![
        task,
        ("input", input as arrow::array::ArrayRef),
        ("output", texts(["It is.", "It is.", "It is."])),
    ];
    let mut instruction = source(&desk, "b.parquet", Format::Instruction, columns);
    instruction.columns = BTreeMap::from([("instruction".to_owned(), "task".to_owned())]);
    let row = |setting: &str, input: &str| {
        format!(
            "<|begin_of_text|>Below is an instruction that describes a task{setting}. Write a \
            response that appropriately completes the \
            request.\n\n### Instruction:\nDefine so.\n\n{input}### Response:«It is.<|eot_id|>»"
        )
    };
    let with = row(
        ", paired with an input that provides further context",
        "### Input:\nUK\n\n",
    );
    assert_eq!(
        seen(&desk, &base, &[instruction]),
        [row("", ""), row("", ""), with]
    );

    desk.write_rows("rows.parquet", cells());
    for columns in [
        "datasets.0.columns={prompt: qestion}",
        "datasets.0.columns={completion: answer}",
    ] {
        let ran = desk.run(&[
            "train",
            "recipe.yaml",
            "datasets.0.format=completion",
            columns,
        ]);
        ran.says(
            columns,
            65,
            &["has no column `", "it has: prompt, question, completion"],
        );
    }
}

/// One row of thirty words among nineteen of one.
fn one_long() -> Vec<String> {
    (0..20)
        .map(|row| {
            if row == 7 {
                "so ".repeat(30)
            } else {
                "so".to_owned()
            }
        })
        .collect()
}

/// huggingface/transformers#30998, huggingface/trl#3449: rows beyond `max_length` lost their end,
/// and nothing said so.
#[test]
fn long_rows_cut_mid_answer() {
    let desk = Desk::new();
    let base = encoder(&golden(BASE), None);
    let source = source(
        &desk,
        "rows.parquet",
        Format::Text,
        vec![("text", texts(one_long()))],
    );
    let opened = |truncation| {
        open(
            &desk,
            &base,
            std::slice::from_ref(&source),
            Limits {
                sequence_len: 16,
                truncation,
            },
        )
        .unwrap()
    };
    let eos = base.tokenizer.eos_id().unwrap();
    let with_end = |corpus: &Corpus| {
        (0..corpus.len())
            .filter(|row| corpus.row(*row).ids().last() == Some(&eos))
            .count()
    };
    let counts = |corpus: Corpus| {
        let ends = with_end(&corpus);
        let tally = tally(corpus);
        [
            tally.rows,
            tally.kept(),
            tally.too_long,
            tally.truncated,
            ends as u64,
        ]
    };
    assert_eq!(counts(opened(Truncation::Drop)), [20, 19, 1, 0, 19]);
    assert_eq!(counts(opened(Truncation::Truncate)), [20, 20, 0, 1, 19]);

    for (truncation, exit, word) in [
        ("drop", 0, "1 of 20 rows are left out"),
        ("truncate", 0, "1 of 20 rows are cut"),
        ("error", 65, "row 7 of"),
    ] {
        let long = [
            "training.sequence_len=16",
            &format!("training.truncation={truncation}"),
            "--overwrite",
        ];
        desk.run(&[&["train", "recipe.yaml"], &long[..]].concat())
            .says(truncation, exit, &[word]);
    }
    desk.run(&[
        "train",
        "recipe.yaml",
        "training.sequence_len=16",
        "training.max_dropped=0.04",
        "--overwrite",
    ])
    .says(
        "more than may be left out",
        65,
        &["1 of 20 rows are left out"],
    );
}

/// axolotl-ai-cloud/axolotl#33 and #885: the prepared rows were found again by the tokenizer's
/// class, which two tokenizers share.
#[test]
fn cache_of_another_tokenizer_reused() {
    let desk = Desk::new();
    let text = source(
        &desk,
        "a.parquet",
        Format::Text,
        vec![("text", texts(["abacus"]))],
    );
    let expected = ["<|begin_of_text|>«abacus<|eot_id|>»"];
    let ids = |encoder: &rankine::data::Encoder| {
        open(&desk, encoder, std::slice::from_ref(&text), ALL)
            .unwrap()
            .row(0)
            .ids()
    };
    let before = encoder(&desk.path("base"), None);
    assert_eq!(seen(&desk, &before, std::slice::from_ref(&text)), expected);

    // As large, of the same class, with the same special tokens: `a` and `Z` have changed places.
    let mut other: Value = serde_json::from_str(&desk.read_text("base/tokenizer.json")).unwrap();
    let vocabulary = other["model"]["vocab"].as_object_mut().unwrap();
    let (a, z) = (vocabulary["a"].clone(), vocabulary["Z"].clone());
    (vocabulary["a"], vocabulary["Z"]) = (z, a);
    desk.write("base/tokenizer.json", other.to_string());
    let after = encoder(&desk.path("base"), None);
    assert_ne!(ids(&before), ids(&after));
    assert_eq!(seen(&desk, &after, std::slice::from_ref(&text)), expected);
    assert_eq!(
        after.tokenizer.decode(&ids(&before)[1..7], false).unwrap(),
        "ZbZcus",
        "the other's rows would read so"
    );

    // Another eos, and the same file under the same name with other words.
    desk.edit(
        "base/tokenizer_config.json",
        r#""eos_token": "<|eot_id|>""#,
        r#""eos_token": "<|end_of_text|>""#,
    );
    let ended = encoder(&desk.path("base"), None);
    assert_eq!(
        seen(&desk, &ended, std::slice::from_ref(&text)),
        ["<|begin_of_text|>«abacus<|end_of_text|>»"]
    );
    desk.write_rows("a.parquet", vec![("text", texts(["sucaba"]))]);
    assert_eq!(
        seen(&desk, &after, &[text]),
        ["<|begin_of_text|>«sucaba<|eot_id|>»"]
    );
}

/// The same with a template: it is part of what decides a conversation's tokens.
#[test]
fn cache_of_another_template_reused() {
    let desk = Desk::new();
    let chat = chats(&desk, &[&[("user", "so?"), ("assistant", "so")]]);
    for name in ["user", "human"] {
        let template = format!(
            "{{% for m in messages %}}{{% if m.role == 'user' %}}{name}: {{{{ m.content }}}}\n{{% \
            else %}}{{% generation %}}{{{{ m.content }}}}<|eot_id|>{{% endgeneration %}}{{% endif \
            %}}{{% endfor %}}"
        );
        let base = encoder(&golden(BASE), Some(&template));
        assert_eq!(
            seen(&desk, &base, std::slice::from_ref(&chat)),
            [format!("{name}: so?\n«so<|eot_id|>»")]
        );
    }
}
