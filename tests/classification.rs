//! Runs with a score head: reward models, and classification of texts and words. What is read,
//! refused, shown and written, the metrics, resuming at every step, and `rankine classify`.

mod support;

use std::fs;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, Float32Type, Int64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use support::*;

const CLASSES: &str = "base_model: base
datasets:
  - path: texts.parquet
    format: classification
objective:
  type: classification
adapter:
  r: 4
training:
  sequence_len: 64
  num_epochs: 2
  micro_batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 2e-3
evaluation:
  val_set_size: 6
output:
  save_steps: 1
  save_total_limit: 1000
output_dir: run
";

/// What differs from run to run: it is measured with a clock.
const MEASURED: [&str; 2] = ["tokens_per_second", "peak_memory_bytes"];

/// Runs that are compared, and their overrides.
const KINDS: [(&str, &[&str]); 5] = [
    ("texts.yaml", &[]),
    (
        "texts.yaml",
        &[
            "datasets.0.path=several.parquet",
            "objective.problem_type=multi_label_classification",
        ],
    ),
    (
        "texts.yaml",
        &[
            "datasets.0.path=numbers.parquet",
            "objective.problem_type=regression",
        ],
    ),
    ("texts.yaml", &["datasets.0.path=words.parquet"]),
    ("reward.yaml", &[]),
];

fn list(items: ArrayRef, lengths: impl IntoIterator<Item = usize>) -> ArrayRef {
    let field = Arc::new(Field::new("item", items.data_type().clone(), true));
    Arc::new(ListArray::new(
        field,
        OffsetBuffer::from_lengths(lengths),
        items,
        None,
    ))
}

fn rows() -> std::ops::RangeInclusive<usize> {
    1..=22
}

fn said() -> ArrayRef {
    let word = |row: usize| ["fever", "law", "river"][row % 3];
    texts(rows().map(|row| format!("{}{} {row}", "so ".repeat(row % 5), word(row))))
}

/// Writes a table with names of classes for a column, as Hugging Face's `datasets` does.
fn write_named(desk: &Desk, name: &str, columns: Vec<(&str, ArrayRef)>, feature: Value) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let info = json!({"info": {"features": feature}}).to_string();
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_owned(), info)]))
        .build();
    let file = fs::File::create(desk.path(name)).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A desk with texts, words and pairs.
fn desk() -> Desk {
    let desk = Desk::new();
    let classes: Int64Array = rows().map(|row| i64::try_from(row % 3).ok()).collect();
    let names = json!(["medical", "legal", "general"]);
    write_named(
        &desk,
        "texts.parquet",
        vec![("text", said()), ("label", Arc::new(classes))],
        json!({
            "text": {"dtype": "string", "_type": "Value"},
            "label": {"names": names, "_type": "ClassLabel"},
        }),
    );
    let several: Float64Array = rows()
        .flat_map(|row| [row % 2, usize::from(row % 3 == 0)])
        .map(|label| Some(label as f64))
        .collect();
    desk.write_rows(
        "several.parquet",
        vec![
            ("text", said()),
            ("label", list(Arc::new(several), rows().map(|_| 2))),
        ],
    );
    let numbers: Float64Array = rows().map(|row| Some(row as f64 / 8.0 - 1.5)).collect();
    desk.write_rows(
        "numbers.parquet",
        vec![("text", said()), ("label", Arc::new(numbers) as ArrayRef)],
    );
    let lengths = || rows().map(|row| 1 + row % 3);
    let words =
        texts(lengths().flat_map(|count| (0..count).map(move |word| ["a", "river", "of"][word])));
    let tags: Int64Array = lengths()
        .flat_map(|count| (0..count).map(|word| Some(i64::from(word == 1))))
        .collect();
    write_named(
        &desk,
        "words.parquet",
        vec![
            ("tokens", list(words, lengths())),
            ("tags", list(Arc::new(tags), lengths())),
        ],
        json!({
            "tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
            "tags": {"feature": {"names": ["other", "noun"], "_type": "ClassLabel"}, "_type": "List"},
        }),
    );
    let chosen = texts(rows().map(|row| format!(" {}fever", "so ".repeat(row % 5))));
    let rejected = texts(rows().map(|row| format!(" {}law", "no ".repeat(row % 3 + 1))));
    let margins: Float64Array = rows().map(|row| Some(row as f64 / 10.0)).collect();
    desk.write_rows(
        "pairs.parquet",
        vec![
            (
                "prompt",
                texts(rows().map(|row| format!("the term {row} means"))),
            ),
            ("chosen", chosen),
            ("rejected", rejected),
            ("margin", Arc::new(margins) as ArrayRef),
        ],
    );
    desk.write("texts.yaml", CLASSES);
    desk.write(
        "reward.yaml",
        CLASSES
            .replace("texts.parquet", "pairs.parquet")
            .replace("format: classification", "format: preference")
            .replace("type: classification", "type: reward"),
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

#[test]
fn texts_are_classified_from_recipe_to_parquet() {
    let desk = desk();
    desk.run(&["check", "texts.yaml"]).says("checked", 0, &[]);
    let ran = desk.run(&["plan", "texts.yaml"]);
    ran.says("planned", 0, &[]);
    for part in [
        "3 classes a text: medical, legal, general",
        "single_label_classification",
        "from the labels",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let ran = desk.run(&["preview", "texts.yaml", "--row", "1"]);
    ran.says("shown", 0, &[]);
    assert!(ran.stdout.contains(", label general"), "{}", ran.stdout);

    desk.run(&["train", "texts.yaml"])
        .says("trained", 0, &["accuracy", "AUROC", "ECE"]);
    let lines = metrics(&desk, "run");
    let (first, last) = (&lines[0], &lines[lines.len() - 1]);
    for key in ["eval_accuracy", "eval_f1", "eval_ece"] {
        assert!(first[key].is_f64() && last[key].is_f64(), "{key}: {first}");
    }
    assert!(first.get("eval_perplexity").is_none(), "{first}");
    let table_of = |line: &Value| line["eval_confusion"].as_array().unwrap().len();
    assert_eq!(table_of(last), 3);
    let config = json_of(&desk, "run/adapter/adapter_config.json");
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert_eq!(config["modules_to_save"], json!(["score"]));
    let labels = json_of(&desk, "run/adapter/labels.json");
    assert_eq!(labels["id2label"]["1"], "legal");
    assert_eq!(labels["label2id"]["general"], 2);
    assert_eq!(labels["problem_type"], "single_label_classification");
    let lock = desk.read_text("run/recipe.lock.yaml");
    assert!(lock.contains("medical") && lock.contains("single_label_classification"));
    let card = desk.read_text("run/README.md");
    for part in [
        "AutoModelForSequenceClassification",
        "labels.json",
        "what it was taken for",
        "| `legal` |",
        "`accuracy`",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    assert!(!card.contains("perplexity") && !card.contains("AutoModelForCausalLM"));
    desk.run(&["report", "run"]).says("its report", 0, &[]);
    assert!(desk.read_text("run/report.html").contains("Accuracy"));

    let ran = desk.run(&["eval", "run", "--json"]);
    ran.says("scored", 0, &[]);
    let scores: Value = serde_json::from_str(&ran.stdout).unwrap();
    let figures = &scores["sets"][0]["figures"];
    let best = json_of(&desk, "run/result.json");
    let expected = best["eval_figures_best"]["eval_accuracy"].as_f64().unwrap();
    assert!(
        (figures["accuracy"].as_f64().unwrap() - expected).abs() < 1e-9,
        "{scores}"
    );
    let ran = desk.run(&["eval", "run"]);
    ran.says("as a table", 0, &[]);
    assert!(ran.stdout.contains("true, taken for"), "{}", ran.stdout);

    let ran = desk.run(&["classify", "run", "texts.parquet", "--out", "out.parquet"]);
    ran.says("classified", 0, &[]);
    assert!(ran.stdout.contains("22 rows") && ran.stdout.contains("medical: "));
    let out = table(&desk, "out.parquet");
    assert_eq!(out.num_rows(), 22);
    let names = out
        .column_by_name("label")
        .unwrap()
        .as_string::<i32>()
        .clone();
    let probabilities = out
        .column_by_name("probabilities")
        .unwrap()
        .as_list::<i32>()
        .clone();
    for row in 0..22 {
        let each = probabilities.value(row);
        let each = each.as_primitive::<Float32Type>().values();
        assert!((each.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let best = (0..3).max_by(|one, other| each[*one].total_cmp(&each[*other]));
        let name = ["medical", "legal", "general"][best.unwrap()];
        assert_eq!(names.value(row), name);
    }
    desk.run(&["classify", "run", "texts.parquet", "--out", "out.parquet"])
        .says("again", 73, &["`out.parquet` exists"]);
    desk.run(&["generate", "--adapter", "run", "--prompt", "x"])
        .says("generated", 65, &["score head", "rankine classify"]);
    desk.run(&["export", "run", "--to", "gguf-adapter", "--out", "a.gguf"])
        .says("exported", 65, &["score head"]);
    desk.run(&["export", "run", "--to", "peft", "--out", "exported"])
        .says("for PEFT", 0, &[]);
    assert_eq!(json_of(&desk, "exported/labels.json"), labels);
    assert_eq!(
        json_of(&desk, "exported/adapter_config.json")["task_type"],
        "SEQ_CLS"
    );
    desk.run(&["inspect", "run/adapter"])
        .says("inspected", 0, &[]);
}

#[test]
fn every_kind_trains_and_is_classified() {
    let desk = desk();
    for (recipe, overrides) in KINDS {
        let what = overrides.join(" ");
        let arguments = [&["train", recipe, "--overwrite"], overrides].concat();
        desk.run(&arguments).says(&what, 0, &[]);
        let file = overrides
            .iter()
            .find_map(|word| word.strip_prefix("datasets.0.path="))
            .unwrap_or("texts.parquet");
        let file = if recipe == "reward.yaml" {
            "texts.parquet"
        } else {
            file
        };
        let ran = desk.run(&[
            "classify",
            "run",
            file,
            "--out",
            "out.parquet",
            "--overwrite",
        ]);
        ran.says(&what, 0, &[]);
        assert!(ran.stdout.contains("22 rows"), "{}", ran.stdout);
        let out = table(&desk, "out.parquet");
        let errors = out
            .column_by_name("error")
            .unwrap()
            .as_string::<i32>()
            .clone();
        assert_eq!(errors.null_count(), 22, "{what}: {errors:?}");
        let scores = out
            .column_by_name("scores")
            .unwrap()
            .as_list::<i32>()
            .clone();
        let lengths: Vec<usize> = (0..22).map(|row| scores.value(row).len()).collect();
        let places = out
            .column_by_name("row")
            .unwrap()
            .as_primitive::<Int64Type>();
        assert_eq!(places.value(21), 21);
        match file {
            "words.parquet" => {
                let tags = out.column_by_name("tags").unwrap().as_list::<i32>().clone();
                for (row, length) in (0..22).zip(rows().map(|row| 1 + row % 3)) {
                    assert_eq!((tags.value(row).len(), lengths[row]), (length, 2 * length));
                }
                let config = json_of(&desk, "run/adapter/adapter_config.json");
                assert_eq!(config["task_type"], "TOKEN_CLS");
            }
            "several.parquet" => assert!(lengths.iter().all(|length| *length == 2)),
            "numbers.parquet" => {
                assert!(lengths.iter().all(|length| *length == 1));
                assert!(metrics(&desk, "run")[0]["eval_mse"].is_f64());
            }
            _ if recipe == "reward.yaml" => {
                let lines = metrics(&desk, "run");
                for key in [
                    "accuracy",
                    "margin",
                    "min_reward",
                    "max_reward",
                    "mean_reward",
                ] {
                    assert!(lines[1][key].is_f64(), "{key}: {}", lines[1]);
                }
                assert!(out.column_by_name("label").is_none());
            }
            _ => {}
        }
    }
}

/// Every step has a checkpoint; from each the run comes to the same bytes.
#[test]
fn a_run_goes_on_from_every_step_to_the_same_bytes() {
    for (recipe, overrides) in [KINDS[0], KINDS[4]] {
        let desk = desk();
        let arguments = [&["train", recipe], overrides].concat();
        desk.run(&arguments).says(recipe, 0, &[]);
        let (alone, lines) = (adapter(&desk, "run"), metrics(&desk, "run"));
        let labels = desk.read("run/adapter/labels.json");
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
            let going_on = format!("going on after step {step}");
            desk.run(&["resume", "cut"])
                .says("resumed", 0, &[&going_on]);
            assert_eq!(metrics(&desk, "cut"), lines, "{recipe}, step {step}");
            assert!(adapter(&desk, "cut") == alone, "{recipe}, step {step}");
            assert_eq!(desk.read("cut/adapter/labels.json"), labels);
            fs::remove_dir_all(desk.path("cut")).unwrap();
        }
    }
}

#[test]
fn micro_batches_and_packing_change_nothing() {
    let desk = desk();
    for (recipe, kind) in KINDS {
        let what = kind.join(" ");
        let run = |micro: usize, packed: bool| {
            let overrides = [
                format!("training.micro_batch_size={micro}"),
                format!("training.gradient_accumulation_steps={}", 4 / micro),
                format!("training.sample_packing={packed}"),
            ];
            let mut arguments = vec!["train", recipe, "--overwrite", "training.shuffle=false"];
            arguments.extend(kind);
            arguments.extend(overrides.iter().map(String::as_str));
            desk.run(&arguments).says(&what, 0, &[]);
            metrics(&desk, "run")
        };
        let whole = run(4, false);
        for parts in [run(1, false)] {
            assert_eq!(whole.len(), parts.len(), "{what}");
            for (one, other) in whole.iter().zip(&parts) {
                for key in ["loss", "eval_loss", "accuracy"] {
                    let (Some(one), Some(other)) = (one[key].as_f64(), other[key].as_f64()) else {
                        continue;
                    };
                    assert!(
                        (one - other).abs() < 1e-4 * (1.0 + one.abs()),
                        "{what}, {key}: {one} and {other}"
                    );
                }
            }
        }
        let packed = run(1, true);
        let all = |lines: &[Value]| lines[0]["eval_loss"].as_f64().unwrap();
        assert!((all(&packed) - all(&whole)).abs() < 1e-5, "{what}");
    }
}

#[test]
fn an_adapter_goes_on_with_its_head_and_one_without_gets_one() {
    let desk = desk();
    let train = |arguments: &[&str]| desk.run(&[&["train"], arguments].concat());
    train(&["texts.yaml", "output_dir=first"]).says("first", 0, &[]);
    let on = [
        "adapter.init_from=first/adapter",
        "adapter.r=",
        "output_dir=second",
    ];
    train(&[&["texts.yaml"], &on[..]].concat()).says("its head", 0, &[]);
    let last = |run: &str| json_of(&desk, &format!("{run}/result.json"));
    assert_eq!(
        last("second")["eval_figures_first"]["eval_accuracy"],
        last("first")["eval_figures_best"]["eval_accuracy"]
    );
    train(&[&["reward.yaml", "--overwrite"], &on[..]].concat()).says(
        "another number of scores",
        65,
        &["gives 3 scores of texts, the objective has 1 scores of texts"],
    );
    desk.write(
        "plain.yaml",
        CLASSES
            .replace("texts.parquet", "plain.parquet")
            .replace("format: classification", "format: text")
            .replace("objective:\n  type: classification\n", ""),
    );
    desk.write_rows("plain.parquet", vec![("text", said())]);
    train(&[&["plain.yaml", "--overwrite"], &on[..]].concat()).says(
        "an objective without scores",
        65,
        &["has a score head, `score`, which this objective does not train"],
    );
    train(&["plain.yaml", "output_dir=words"]).says("a language model", 0, &[]);
    train(&[
        "texts.yaml",
        "adapter.init_from=words/adapter",
        "adapter.r=",
        "output_dir=third",
    ])
    .says("a fresh head", 0, &[]);
    desk.run(&["classify", "words", "texts.parquet", "--out", "x.parquet"])
        .says("no head", 65, &["has no score head"]);
}

/// Scores of all rows of a file, one after the other.
fn scores_of(desk: &Desk, model: &str, file: &str) -> Vec<f32> {
    let arguments = [
        "classify",
        model,
        file,
        "--out",
        "scores.parquet",
        "--overwrite",
    ];
    desk.run(&arguments).says(model, 0, &[]);
    let out = table(desk, "scores.parquet");
    let scores = out.column_by_name("scores").unwrap().as_list::<i32>();
    let all = scores.values().as_primitive::<Float32Type>();
    all.values().to_vec()
}

#[test]
fn a_merged_head_is_part_of_the_model() {
    let desk = desk();
    for (index, (recipe, overrides)) in KINDS.into_iter().enumerate() {
        let what = overrides.join(" ");
        let arguments = [&["train", recipe, "--overwrite"], overrides].concat();
        desk.run(&arguments).says(&what, 0, &[]);
        let out = format!("merged-{index}");
        let merge = ["merge", "--adapter", "run", "--out", &out, "--dtype", "f32"];
        desk.run(&merge).says(&what, 0, &[]);
        let is_of_words = overrides.iter().any(|word| word.contains("words"));
        let file = if is_of_words {
            "words.parquet"
        } else {
            "texts.parquet"
        };
        let [apart, merged] = ["run", out.as_str()].map(|model| scores_of(&desk, model, file));
        assert_eq!(apart.len(), merged.len(), "{what}");
        for (one, other) in apart.iter().zip(&merged) {
            let off = (one - other).abs();
            assert!(off < 2e-5 * (1.0 + one.abs()), "{what}: {one} and {other}");
        }
        let config = json_of(&desk, &format!("{out}/config.json"));
        let class = if is_of_words {
            "LlamaForTokenClassification"
        } else {
            "LlamaForSequenceClassification"
        };
        assert_eq!(config["architectures"], json!([class]), "{what}");
        let labels = json_of(&desk, "run/adapter/labels.json");
        for key in ["id2label", "label2id", "problem_type"] {
            assert_eq!(
                config.get(key),
                labels.get(key).filter(|value| !value.is_null()),
                "{key}"
            );
        }
        let weights = desk.path(&format!("{out}/model.safetensors"));
        if weights.exists() {
            let archive = rankine::files::safetensors::Archive::open(&weights).unwrap();
            let shapes = archive.shapes();
            assert!(shapes.contains_key("score.weight"), "{what}");
            assert!(!shapes.contains_key("lm_head.weight"), "{what}");
        }
        desk.run(&["inspect", &out]).says(&what, 0, &[]);
        fs::remove_dir_all(desk.path("run")).unwrap();
    }
    desk.run(&["generate", "--base", "merged-0", "--prompt", "x"])
        .says("generated", 65, &["rankine classify"]);
    desk.run(&["export", "merged-0", "--to", "gguf", "--out", "x.gguf"])
        .says("exported", 65, &["score head"]);
    // It is a base again: its head is where training starts, and next tokens are none of it.
    let on = ["base_model=merged-0", "--overwrite"];
    desk.run(&[&["train", "texts.yaml"], &on[..]].concat())
        .says("goes on", 0, &["the base has `score` for as many scores"]);
    desk.write(
        "plain.yaml",
        CLASSES
            .replace("texts.parquet", "plain.parquet")
            .replace("format: classification", "format: text")
            .replace("objective:\n  type: classification\n", ""),
    );
    desk.write_rows("plain.parquet", vec![("text", said())]);
    desk.run(&[&["train", "plain.yaml"], &on[..]].concat())
        .says("next tokens", 65, &["has a head that scores"]);
    desk.run(&["train", "texts.yaml", "--overwrite"])
        .says("again", 0, &[]);
    let both = ["merge", "--adapter", "run=0.5", "--out", "half"];
    desk.run(&both)
        .says("a half", 65, &["it has a score head, which goes"]);
    let packed = ["adapter.method=qlora", "adapter.r=4", "--overwrite"];
    desk.run(&[&["train", "texts.yaml"], &packed[..]].concat())
        .says("on a packed base", 0, &[]);
    let merge = ["merge", "--adapter", "run", "--out", "of-packed"];
    desk.run(&merge).says("compared", 65, &["--uncompared"]);
    desk.run(&[&merge[..], &["--uncompared"]].concat())
        .says("not compared", 0, &[]);
}

#[test]
fn margins_come_from_a_column_or_from_scores() {
    let desk = desk();
    let first = |overrides: &[&str]| {
        let arguments = [&["train", "reward.yaml", "--overwrite"], overrides].concat();
        desk.run(&arguments).says("a reward model", 0, &[]);
        metrics(&desk, "run")[0]["eval_loss"].as_f64().unwrap()
    };
    let (none, column) = (first(&[]), first(&["objective.margin=column"]));
    assert!(column > none + 0.1, "{none} and {column}");
    desk.run(&["check", "reward.yaml", "objective.margin=scores"])
        .says(
            "no scores",
            65,
            &["objective.margin: `scores` needs a column `score_chosen`"],
        );
    let ran = desk.run(&[
        "preview",
        "reward.yaml",
        "objective.margin=column",
        "--row",
        "1",
    ]);
    ran.says("shown", 0, &[]);
    assert!(ran.stdout.contains(", margin 0.2"), "{}", ran.stdout);
    let centred = first(&["objective.center_rewards_coefficient=100"]);
    assert!(centred > none, "{none} and {centred}");
}

/// Recipes that are refused, each with its message.
#[test]
fn recipes_that_do_not_fit_their_labels_are_refused() {
    let desk = desk();
    let check = |what: &str, recipe: &str, overrides: &[&str], part: &str| {
        desk.run(&[&["check", recipe], overrides].concat())
            .says(what, 65, &[part]);
    };
    for (what, overrides, part) in [
        (
            "weights of two of three classes",
            &["objective.class_weights=[1, 2]"][..],
            "objective.class_weights has 2 weights, expected one for each of 3 classes",
        ),
        (
            "names of two of three classes",
            &["objective.labels=[a, b]"],
            "has class 2, and there are names of 2 classes",
        ),
        (
            "a name twice",
            &["objective.labels=[a, b, a]"],
            "`a` is the name of two classes",
        ),
        (
            "weights of numbers",
            &[
                "objective.problem_type=regression",
                "objective.class_weights=[1]",
            ],
            "objective.class_weights does not go with `problem_type: regression`",
        ),
        (
            "several labels that are one",
            &["objective.problem_type=multi_label_classification"],
            "`label` has no lists, expected a list of labels",
        ),
        (
            "words that are texts",
            &["objective.problem_type=token_classification"],
            "no row has a label in `tags`",
        ),
        (
            "a margin of classes",
            &["objective.margin=column"],
            "objective.margin goes with `type` `reward` only, found `classification`",
        ),
        (
            "all weights",
            &["adapter.method=full", "adapter.r="],
            "adapter.method: `full` does not go with `objective: {type: classification}` yet",
        ),
        (
            "the vocabulary's head",
            &["adapter.modules_to_save=[lm_head]"],
            "adapter.modules_to_save names the vocabulary's head",
        ),
        (
            "prompts",
            &["evaluation.prompts=[x]"],
            "evaluation.prompts does not go with `objective: {type: classification}`",
        ),
        (
            "trained tokens",
            &["datasets.0.train_on=all"],
            "train_on: format `classification` has no `train_on`",
        ),
        (
            "texts without an objective",
            &["objective.type=sft"],
            "format: `classification` does not go with `objective: {type: sft}`",
        ),
    ] {
        check(what, "texts.yaml", overrides, part);
    }
}

/// Files whose labels are refused, each with its message.
#[test]
fn broken_label_files_are_refused_with_both_sides() {
    let desk = desk();
    let check = |what: &str, recipe: &str, overrides: &[&str], part: &str| {
        desk.run(&[&["check", recipe], overrides].concat())
            .says(what, 65, &[part]);
    };
    let label = |name: &str, label: ArrayRef| {
        let count = label.len();
        desk.write_rows(
            name,
            vec![
                ("text", texts((0..count).map(|row| format!("text {row}")))),
                ("label", label),
            ],
        );
        format!("datasets.0.path={name}")
    };
    let integers = |values: &[i64]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
    let floats = |values: &[f64]| Arc::new(Float64Array::from(values.to_vec())) as ArrayRef;
    let words = |values: &[&str]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    for (what, path, problem, part) in [
        (
            "whole numbers",
            label("a.parquet", integers(&[0, 1, 2])),
            "",
            "the labels in `label` leave it open: whole numbers may be classes, or numbers",
        ),
        (
            "lists of numbers",
            label("b.parquet", list(integers(&[0, 1, 1, 0]), [2, 2])),
            "",
            "the labels in `label` leave it open: lists of numbers may be several labels",
        ),
        (
            "fractions as classes",
            label("c.parquet", floats(&[0.5, 1.0])),
            "single_label_classification",
            "has numbers with fractions or below 0, expected classes",
        ),
        (
            "one class",
            label("d.parquet", words(&["a", "a"])),
            "",
            "`label` has a single class, expected at least 2",
        ),
        (
            "texts as numbers",
            label("e.parquet", words(&["high", "low"])),
            "regression",
            "`label` has texts such as `high`, expected numbers",
        ),
        (
            "lists as one class",
            label("f.parquet", list(integers(&[0, 1]), [1, 1])),
            "single_label_classification",
            "`label` has lists, and a text has one class",
        ),
        (
            "no label at all",
            label("g.parquet", Arc::new(Int64Array::from(vec![None, None]))),
            "single_label_classification",
            "no row has a label in `label`",
        ),
    ] {
        let problem = format!("objective.problem_type={problem}");
        check(
            what,
            "texts.yaml",
            &[&path, &problem, "evaluation.val_set_size=0"],
            part,
        );
    }
    // Rows.
    let preview = |what: &str, overrides: &[&str], parts: &[&str]| {
        let all = [
            "preview",
            "texts.yaml",
            "evaluation.val_set_size=0",
            "training.max_dropped=1",
        ];
        desk.run(&[&all, overrides].concat()).says(what, 0, parts);
    };
    let path = label("h.parquet", integers(&[0, -1, 1]));
    preview(
        "a class below 0",
        &[&path, "objective.problem_type=single_label_classification"],
        &[
            "1 of 3 rows are broken",
            "the label is",
            "expected a class from 0 to 1",
        ],
    );
    let path = label(
        "i.parquet",
        list(floats(&[1.0, 0.0, 1.0, 0.0, 2.0]), [2, 1, 2]),
    );
    preview(
        "lists of other lengths",
        &[&path, "objective.problem_type=regression"],
        &["1 of 3 rows are broken", "expected a list of 2 numbers"],
    );
    desk.write_rows(
        "j.parquet",
        vec![
            ("tokens", list(texts(["a", "b", "c", " "]), [2, 1, 1])),
            ("tags", list(integers(&[0, 1, 1]), [1, 1, 1])),
        ],
    );
    preview(
        "words and tags",
        &["datasets.0.path=j.parquet"],
        &[
            "2 of 3 rows are broken",
            "it has 1 tags for 2 words, expected one for each word",
        ],
    );
    desk.write_rows(
        "k.parquet",
        vec![
            ("review", said()),
            ("sentiment", texts(rows().map(|_| "x"))),
        ],
    );
    check(
        "other names",
        "texts.yaml",
        &["datasets.0.path=k.parquet"],
        "`columns: {text: review, label: sentiment}`",
    );
    desk.write_rows("l.parquet", vec![("text", said())]);
    check(
        "no labels",
        "texts.yaml",
        &["datasets.0.path=l.parquet"],
        "`label`",
    );
    // Labels of other kinds of files.
    desk.write(
        "m.jsonl",
        "{\"text\": \"a\", \"label\": \"no\"}\n{\"text\": \"b\", \"label\": \"yes\"}\n",
    );
    preview("a JSON file", &["datasets.0.path=m.jsonl"], &[]);
    desk.write("n.csv", "text,label\na,0.5\nb,-2\n");
    preview(
        "a CSV file",
        &["datasets.0.path=n.csv", "objective.problem_type=regression"],
        &[],
    );
}

/// Runs are killed wherever they are, and go on to the same bytes.
#[test]
fn killed_at_random_moments_runs_come_to_the_same_bytes() {
    let desk = desk();
    kill_at_random(
        &desk,
        &["train", "texts.yaml", "training.num_epochs=4"],
        || {},
    );
}
