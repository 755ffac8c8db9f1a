//! Classifiers and reward models on encoders, from recipe to Parquet: pairs of texts, cut texts,
//! what the base has of a head, and what is drawn.

mod common;
mod support;

use std::fs;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Float32Type;
use common::committed;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value, json};
use support::*;

const RECIPE: &str = "base_model: base
datasets:
  - path: pairs.parquet
    format: classification
objective:
  type: classification
adapter:
  r: 4
training:
  sequence_len: 12
  truncation: truncate
  num_epochs: 2
  micro_batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 5e-3
evaluation:
  val_set_size: 5
output:
  save_steps: 1
  save_total_limit: 1000
output_dir: run
";
const WORDS: [&str; 8] = ["fever", "law", "river", "so", "the", "term", "means", "no"];
/// What differs from run to run: it is measured with a clock.
const MEASURED: [&str; 2] = ["tokens_per_second", "peak_memory_bytes"];

/// A tokenizer of BERT's form: one token a word, `[CLS]` first and `[SEP]` behind each text, and a
/// type of its own for the second.
fn write_tokenizer(desk: &Desk) {
    let special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"];
    let numbers = (0..30).map(|number| number.to_string());
    let words = special.map(str::to_owned).into_iter();
    let words = words.chain(WORDS.map(str::to_owned)).chain(numbers);
    let vocab: Map<String, Value> = words
        .enumerate()
        .map(|(id, word)| (word, id.into()))
        .collect();
    let added = special.iter().enumerate().map(|(id, word)| {
        json!({
            "id": id, "content": word, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    let put = |word: &str, kind: u32| json!({"SpecialToken": {"id": word, "type_id": kind}});
    let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let token = |word: &str, id: u32| json!({"id": word, "ids": [id], "tokens": [word]});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [put("[CLS]", 0), text("A", 0), put("[SEP]", 0)],
            "pair": [
                put("[CLS]", 0), text("A", 0), put("[SEP]", 0), text("B", 1), put("[SEP]", 1),
            ],
            "special_tokens": {"[CLS]": token("[CLS]", 1), "[SEP]": token("[SEP]", 2)},
        },
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    });
    let config = json!({
        "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]",
    });
    desk.write("base/tokenizer.json", tokenizer.to_string());
    desk.write("base/tokenizer_config.json", config.to_string());
}

fn rows() -> std::ops::RangeInclusive<usize> {
    1..=24
}

/// A desk with an encoder, and texts, pairs, words and preferences.
fn desk(base: &str) -> Desk {
    let desk = Desk::new();
    fs::remove_dir_all(desk.path("base")).unwrap();
    copy_folder(&committed(&format!("encoders/{base}")), &desk.path("base"));
    write_tokenizer(&desk);
    let said = || texts(rows().map(|row| format!("{}{}", "so ".repeat(row % 9), WORDS[row % 3])));
    let asked = || texts(rows().map(|row| format!("the term {row} means {}", WORDS[row % 2])));
    let classes = || texts(rows().map(|row| ["medical", "legal", "general"][row % 3]));
    desk.write_rows(
        "pairs.parquet",
        vec![
            ("text", said()),
            ("text_pair", asked()),
            ("label", classes()),
        ],
    );
    desk.write_rows(
        "texts.parquet",
        vec![("text", said()), ("label", classes())],
    );
    desk.write_rows(
        "preferences.parquet",
        vec![
            ("prompt", asked()),
            ("chosen", said()),
            ("rejected", asked()),
        ],
    );
    desk.write("recipe.yaml", RECIPE);
    desk.write(
        "reward.yaml",
        RECIPE
            .replace("pairs.parquet", "preferences.parquet")
            .replace("format: classification", "format: preference")
            .replace("type: classification", "type: reward")
            .replace("sequence_len: 12", "sequence_len: 22"),
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

fn json_of(desk: &Desk, name: &str) -> Value {
    serde_json::from_slice(&desk.read(name)).unwrap()
}

fn table(desk: &Desk, name: &str) -> RecordBatch {
    let file = fs::File::open(desk.path(name)).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    reader.build().unwrap().next().unwrap().unwrap()
}

fn column(table: &RecordBatch, name: &str) -> ArrayRef {
    table.column_by_name(name).unwrap().clone()
}

#[test]
fn encoders_classify_from_recipe_to_parquet() {
    for (base, saved, notes) in [
        (
            "scored/bert_scored",
            &["classifier"][..],
            &["the base has `classifier` for as many scores"][..],
        ),
        (
            "bert/model",
            &["classifier", "pooler"],
            &["`bert.pooler.dense.weight`, which the base does not have"],
        ),
        (
            "roberta/model",
            &["classifier"],
            &["`classifier.dense.weight`, which the base does not have"],
        ),
        (
            "scored/modernbert_scored",
            &["classifier"],
            &["the base has `classifier`"],
        ),
    ] {
        let desk = desk(base);
        let ran = desk.run(&["plan", "recipe.yaml"]);
        ran.says(base, 0, notes);
        desk.run(&["train", "recipe.yaml"])
            .says(base, 0, &["accuracy"]);
        let config = json_of(&desk, "run/adapter/adapter_config.json");
        assert_eq!(config["task_type"], "SEQ_CLS", "{base}");
        assert_eq!(config["modules_to_save"], json!(saved), "{base}");
        let lines = metrics(&desk, "run");
        let losses: Vec<f64> = lines
            .iter()
            .filter_map(|line| line["loss"].as_f64())
            .collect();
        assert!(losses[losses.len() - 1] < losses[0], "{base}: {losses:?}");

        let ran = desk.run(&["eval", "run", "--json"]);
        ran.says(base, 0, &[]);
        let scores: Value = serde_json::from_str(&ran.stdout).unwrap();
        let best = json_of(&desk, "run/result.json");
        let expected = best["eval_figures_best"]["eval_accuracy"].as_f64().unwrap();
        let found = scores["sets"][0]["figures"]["accuracy"].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-9, "{base}: {scores}");

        let classify = ["classify", "run", "pairs.parquet", "--out", "out.parquet"];
        let ran = desk.run(&[&classify[..], &["--sequence-len", "12"]].concat());
        ran.says(base, 0, &[]);
        let out = table(&desk, "out.parquet");
        let probabilities = column(&out, "probabilities");
        assert_eq!((out.num_rows(), probabilities.len()), (24, 24), "{base}");
        let names = column(&out, "label");
        assert_eq!(names.as_string::<i32>().null_count(), 0, "{base}");

        // Merged it is a model with the names of transformers' class.
        let merge = [
            "merge",
            "--adapter",
            "run",
            "--out",
            "merged",
            "--dtype",
            "f32",
        ];
        desk.run(&merge).says(base, 0, &[]);
        let classify = [
            "classify",
            "merged",
            "pairs.parquet",
            "--out",
            "merged.parquet",
        ];
        desk.run(&[&classify[..], &["--sequence-len", "12"]].concat())
            .says(base, 0, &[]);
        let scores = |name: &str| {
            let scores = column(&table(&desk, name), "scores");
            let scores = scores.as_list::<i32>().values().clone();
            scores.as_primitive::<Float32Type>().values().to_vec()
        };
        for (one, other) in scores("out.parquet").iter().zip(scores("merged.parquet")) {
            assert!((one - other).abs() < 2e-5, "{base}: {one} and {other}");
        }
        let class = json_of(&desk, "merged/config.json")["architectures"][0].clone();
        let class = class.as_str().unwrap().to_owned();
        assert!(class.ends_with("ForSequenceClassification"), "{class}");

        // From a step in the middle, to the same bytes.
        let (alone, middle) = (adapter(&desk, "run"), losses.len() / 2);
        copy_folder(&desk.path("run"), &desk.path("cut"));
        for later in middle + 1..=losses.len() {
            fs::remove_dir_all(desk.path(&format!("cut/checkpoints/step-{later}"))).unwrap();
        }
        desk.remove("cut/README.md");
        let going_on = format!("going on after step {middle}");
        desk.run(&["resume", "cut"]).says(base, 0, &[&going_on]);
        assert_eq!(metrics(&desk, "cut"), lines, "{base}");
        assert!(adapter(&desk, "cut") == alone, "{base}");

        // Its head goes on where it is.
        let on = [
            "adapter.init_from=run/adapter",
            "adapter.r=",
            "output_dir=second",
        ];
        desk.run(&[&["train", "recipe.yaml"], &on[..]].concat())
            .says(base, 0, &[]);
        let second = json_of(&desk, "second/result.json");
        assert_eq!(
            second["eval_figures_first"]["eval_accuracy"],
            best["eval_figures_best"]["eval_accuracy"],
            "{base}"
        );
    }
}

/// A base without a pooler gives the same scores with every copy of the adapter: the layer is in it.
#[test]
fn a_layer_that_was_drawn_is_saved() {
    let desk = desk("bert/model");
    desk.run(&["train", "recipe.yaml"]).says("trained", 0, &[]);
    let classify = ["classify", "run", "pairs.parquet", "--out", "out.parquet"];
    desk.run(&classify).says("classified", 0, &[]);
    let archive = desk.path("run/adapter/adapter_model.safetensors");
    let archive = rankine::files::safetensors::Archive::open(&archive).unwrap();
    let shape = archive.shape("base_model.model.bert.pooler.dense.weight");
    assert_eq!(shape, Some(&[32, 32][..]));
    desk.edit(
        "run/adapter/adapter_config.json",
        "\"pooler\"",
        "\"classifier\"",
    );
    let out = desk.read("out.parquet");
    desk.run(&[&classify[..], &["--overwrite"]].concat())
        .says("again", 0, &[]);
    assert!(
        desk.read("out.parquet") == out,
        "PEFT's list says no more than the tensors"
    );
}

#[test]
fn rows_that_are_cut_keep_their_last_token_and_both_texts() {
    let desk = desk("scored/bert_scored");
    let row = |recipe: &str, overrides: &[&str], row: &str| {
        let ran = desk.run(&[&["preview", recipe, "--row", row], overrides].concat());
        ran.says(row, 0, &[]);
        ran.stdout
    };
    // `so` eight times and a word, and five words: the longer text is cut.
    let pair = row("recipe.yaml", &[], "7");
    for part in ["[CLS]", "so", "[SEP]", "term", "means"] {
        assert!(pair.contains(part), "{part}: {pair}");
    }
    assert_eq!(pair.matches("[SEP]").count(), 2, "{pair}");
    let text = row(
        "recipe.yaml",
        &["datasets.0.path=texts.parquet", "training.sequence_len=6"],
        "7",
    );
    assert_eq!(text.matches("[SEP]").count(), 1, "{text}");
    // A text that is not cut has the same scores as one of a longer limit.
    desk.run(&["train", "recipe.yaml"]).says("trained", 0, &[]);
    let classify = |out: &str, length: &str| {
        let fixed = ["classify", "run", "pairs.parquet", "--out", out];
        desk.run(&[&fixed[..], &["--sequence-len", length]].concat())
            .says(length, 0, &[]);
        table(&desk, out)
    };
    let (short, long) = (classify("a.parquet", "10"), classify("b.parquet", "24"));
    let of = |table: &RecordBatch, row: usize| column(table, "scores").as_list::<i32>().value(row);
    assert_eq!(&of(&short, 0), &of(&long, 0), "it fits into both");
    assert_ne!(&of(&short, 7), &of(&long, 7));
}

#[test]
fn embedders_keep_the_last_token_of_cut_texts() {
    let desk = desk("bert/model");
    desk.write(
        "embed.yaml",
        RECIPE
            .replace("pairs.parquet", "anchors.parquet")
            .replace("format: classification", "format: retrieval")
            .replace("type: classification", "type: embedding")
            .replace("sequence_len: 12", "sequence_len: 5"),
    );
    let long = || texts(rows().map(|row| format!("the term {row} means {}", WORDS[row % 3])));
    let short = || texts(rows().map(|row| format!("term {row}")));
    desk.write_rows(
        "anchors.parquet",
        vec![("anchor", short()), ("positive", long())],
    );
    desk.run(&["train", "embed.yaml"]).says("trained", 0, &[]);
    // The vectors of training are those that are written: both cut in the same way.
    let ran = desk.run(&["preview", "embed.yaml", "--row", "3"]);
    ran.says("shown", 0, &[]);
    assert_eq!(ran.stdout.matches("[SEP]").count(), 2, "{}", ran.stdout);
}

#[test]
fn words_and_rewards_are_scored_by_encoders() {
    let desk = desk("scored/bert_scored");
    let lengths = || rows().map(|row| 1 + row % 3);
    let words = texts(lengths().flat_map(|count| WORDS[..count].to_vec()));
    let tags: Int64Array = lengths()
        .flat_map(|count| (0..count).map(|word| Some(i64::from(word == 1))))
        .collect();
    let list = |items: ArrayRef| -> ArrayRef {
        let field = arrow::datatypes::Field::new("item", items.data_type().clone(), true);
        let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths());
        std::sync::Arc::new(arrow::array::ListArray::new(
            std::sync::Arc::new(field),
            offsets,
            items,
            None,
        ))
    };
    desk.write_rows(
        "words.parquet",
        vec![
            ("tokens", list(words)),
            ("tags", list(std::sync::Arc::new(tags))),
        ],
    );
    let train = [
        "train",
        "recipe.yaml",
        "datasets.0.path=words.parquet",
        "objective.problem_type=token_classification",
    ];
    desk.run(&train)
        .says("words", 0, &["`classifier.weight` [3, 32]"]);
    let config = json_of(&desk, "run/adapter/adapter_config.json");
    assert_eq!(config["task_type"], "TOKEN_CLS");
    let classify = [
        "classify",
        "run",
        "words.parquet",
        "--out",
        "words-out.parquet",
    ];
    desk.run(&classify).says("words", 0, &[]);
    let out = table(&desk, "words-out.parquet");
    let tags = column(&out, "tags");
    for (row, length) in (0..24).zip(lengths()) {
        assert_eq!(tags.as_list::<i32>().value(row).len(), length);
    }

    for base in ["scored/bert_scored", "roberta/model", "modernbert/model"] {
        let desk = self::desk(base);
        desk.run(&["train", "reward.yaml"])
            .says(base, 0, &["accuracy"]);
        let classify = ["classify", "run", "texts.parquet", "--out", "out.parquet"];
        desk.run(&classify).says(base, 0, &[]);
        let out = table(&desk, "out.parquet");
        assert_eq!(column(&out, "scores").as_list::<i32>().value(3).len(), 1);
    }
}
