//! Rows as people have them become Parquet: every row comes through or is named, a converted file
//! trains as one that was made by hand, and what is hostile is refused in words.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray};
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value, json};
use support::*;

/// Every row of a Parquet file as JSON; nulls are left out.
fn rows_of(path: &Path) -> Vec<Value> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap())
        .unwrap()
        .build()
        .unwrap();
    let mut rows = Vec::new();
    for batch in reader.map(Result::unwrap) {
        let schema = batch.schema();
        for row in 0..batch.num_rows() {
            let cells = schema
                .fields()
                .iter()
                .zip(batch.columns())
                .map(|(field, column)| (field.name().clone(), cell(column, row)));
            rows.push(Value::Object(
                cells
                    .filter(|(_, value)| !value.is_null())
                    .collect::<Map<_, _>>(),
            ));
        }
    }
    rows
}

fn cell(column: &ArrayRef, row: usize) -> Value {
    use arrow::datatypes::{Float64Type, Int64Type, UInt64Type};
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        DataType::Null => Value::Null,
        DataType::List(_) => {
            let items = column
                .as_any()
                .downcast_ref::<ListArray>()
                .unwrap()
                .value(row);
            (0..items.len()).map(|item| cell(&items, item)).collect()
        }
        DataType::Struct(fields) => {
            let object = column.as_any().downcast_ref::<StructArray>().unwrap();
            let cells = fields
                .iter()
                .zip(object.columns())
                .map(|(field, values)| (field.name().clone(), cell(values, row)));
            Value::Object(cells.filter(|(_, value)| !value.is_null()).collect())
        }
        other => panic!("{other}"),
    }
}

/// What is written beside the rows.
fn metadata(path: &Path) -> Vec<(String, String)> {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let pairs = reader
        .metadata()
        .file_metadata()
        .key_value_metadata()
        .cloned()
        .unwrap_or_default();
    pairs
        .into_iter()
        .map(|pair| (pair.key, pair.value.unwrap_or_default()))
        .collect()
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(content).unwrap();
    packer.finish().unwrap()
}

/// Converts, and gives the object that is printed.
#[track_caller]
fn converted(desk: &Desk, arguments: &[&str]) -> Value {
    let ran = desk.run(&[&["convert", "--json"], arguments].concat());
    assert_eq!(ran.exit, 0, "{arguments:?}: {ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

fn alpaca() -> Vec<Value> {
    vec![
        json!({"instruction": "Define `tort`.", "input": "", "output": "A wrong that a court makes \
            good."}),
        json!({"instruction": "Translate.", "input": "Höhe 🩺", "output": "height"}),
        json!({
            "instruction": "Say it twice.\nOn two lines.",
            "input": "\"yes\"",
            "output": "yes\r\nyes\t\\",
        }),
        json!({"instruction": "Nothing", "input": null, "output": "x"}),
        json!({"instruction": "No input at all", "output": "\u{0}fine"}),
    ]
}

fn sharegpt() -> Vec<Value> {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let tool = json!({
        "type": "function",
        "function": {"name": "weather", "parameters": parameters},
    });
    let weather = json!({"name": "weather", "arguments": {"city": "Bern", "days": 1}});
    let half = json!({"name": "f", "arguments": {"days": 2.5}});
    vec![
        json!({
            "id": "a",
            "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
            "tools": [],
        }),
        json!({
            "id": "b",
            "conversations": [
                {"from": "system", "value": "be kind"},
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": "a"},
            ],
            "tools": [tool],
        }),
        json!({
            "id": "c",
            "conversations": [
                {"from": "human", "value": "weather?"},
                {"from": "gpt", "value": "", "tool_calls": [{"function": weather}]},
                {"from": "tool", "value": "{\"t\": 3}"},
                {"from": "gpt", "value": "3 degrees"},
            ],
            "tools": [tool],
        }),
        json!({
            "id": "d",
            "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}],
        }),
        json!({
            "id": "e",
            "conversations": [
                {"from": "human", "value": "x"},
                {"from": "gpt", "value": "y", "tool_calls": [{"function": half}]},
            ],
            "tools": null,
        }),
    ]
}

fn preferences() -> Vec<Value> {
    (0..5)
        .map(|row| {
            let turn = |content: &str| {
                json!([
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": content},
                ])
            };
            json!({
                "prompt": format!("q {row}"),
                "chosen": turn("good"),
                "rejected": turn("bad"),
                "score": 0.5 * f64::from(row),
                "margin": row,
            })
        })
        .collect()
}

fn without_nulls(row: &Value) -> Value {
    Value::Object(
        row.as_object()
            .unwrap()
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    )
}

#[test]
fn alpaca_comes_through_as_array_lines_and_packed() {
    let desk = Desk::new();
    let rows = alpaca();
    let pretty = serde_json::to_string_pretty(&rows).unwrap();
    let forms: [(&str, Vec<u8>); 6] = [
        ("a.json", pretty.clone().into_bytes()),
        ("b.json", json!(rows).to_string().into_bytes()),
        (
            "c.jsonl",
            format!("\u{feff}{}", lines(&rows).replace('\n', "\r\n\r\n")).into_bytes(),
        ),
        ("d.jsonl.gz", gzip(lines(&rows).as_bytes())),
        (
            "e.jsonl.zst",
            zstd::encode_all(lines(&rows).as_bytes(), 1).unwrap(),
        ),
        ("f.json.gz", gzip(pretty.as_bytes())),
    ];
    let mut first = None;
    for (name, content) in forms {
        desk.write(name, &content);
        let out = format!("{name}.parquet");
        let told = converted(&desk, &[name, "--out", &out]);
        assert_eq!(
            (&told["rows"], &told["format"]),
            (&json!(5), &json!("instruction")),
            "{name}: {told}"
        );
        assert_eq!(
            (&told["columns"][1]["nulls"], &told["columns"][1]["missing"]),
            (&json!(1), &json!(1)),
            "{told}"
        );
        let expected: Vec<Value> = rows.iter().map(without_nulls).collect();
        assert_eq!(rows_of(&desk.path(&out)), expected, "{name}");
        let said = metadata(&desk.path(&out));
        assert_eq!(
            said,
            [(
                "source_blake3".to_owned(),
                blake3::hash(&content).to_hex().to_string()
            )]
        );
        assert_eq!(told["source_blake3"], said[0].1);
        first.get_or_insert_with(|| desk.read(&out));
    }
    // The same rows are the same file, whatever they came in, less the hash of that.
    let again = converted(&desk, &["a.json", "--out", "again.parquet"]);
    assert_eq!(Some(desk.read("again.parquet")), first, "{again}");
}

#[test]
fn sharegpt_with_tools_is_read_as_it_was_written() {
    let desk = Desk::new();
    desk.write("s.jsonl", lines(&sharegpt()));
    let told = converted(&desk, &["s.jsonl", "--out", "s.parquet"]);
    assert_eq!(
        (&told["rows"], &told["format"]),
        (&json!(5), &json!("chat"))
    );
    let rows = rows_of(&desk.path("s.parquet"));
    for (row, source) in rows.iter().zip(sharegpt()) {
        let parsed = |cell: &Value| {
            cell.as_str()
                .map_or_else(|| cell.clone(), |text| serde_json::from_str(text).unwrap())
        };
        // Whole numbers and others in one place have no type in Parquet together.
        assert!(row["messages"].is_string(), "{row}");
        assert_eq!(
            parsed(&row["messages"]).to_string(),
            source["conversations"].to_string()
        );
        assert_eq!(
            row.get("tools").map_or(Value::Null, parsed),
            source.get("tools").cloned().unwrap_or_default()
        );
        assert_eq!(row["id"], source["id"]);
    }
    assert!(
        metadata(&desk.path("s.parquet"))
            .contains(&("json_columns".into(), "[\"messages\"]".into()))
    );
    assert!(
        told["notes"][0]
            .as_str()
            .unwrap()
            .starts_with("column `messages` is kept as JSON text"),
        "{told}"
    );
    // Without that they have one.
    desk.write("t.jsonl", lines(&sharegpt()[..4]));
    converted(&desk, &["t.jsonl", "--out", "t.parquet"]);
    let rows = rows_of(&desk.path("t.parquet"));
    for (row, source) in rows.iter().zip(sharegpt()) {
        assert_eq!(
            row["messages"].to_string(),
            source["conversations"].to_string()
        );
    }
}

#[test]
fn a_row_without_an_answer_is_counted() {
    let desk = Desk::new();
    let rows = [
        json!({"q": "a", "a": "b"}),
        json!({"q": "c"}),
        json!({"q": null, "a": "d"}),
    ];
    desk.write("rows.jsonl", lines(&rows));
    desk.write("rows.csv", "q,a\nx,y\nz,\n");
    desk.write_rows(
        "rows.parquet",
        vec![("q", texts(["x", "z"])), ("a", texts(["y", ""]))],
    );
    let chat = ["--format", "chat", "--columns", "prompt=q,completion=a"];
    for (name, nulls) in [("rows.jsonl", 2), ("rows.csv", 1), ("rows.parquet", 1)] {
        let said = converted(
            &desk,
            &[&[name, "--out", &format!("{name}.chat.parquet")], &chat[..]].concat(),
        );
        assert_eq!(said["columns"][0]["name"], "messages");
        assert_eq!(said["columns"][0]["nulls"], nulls, "{name}: {said}");
    }
    desk.write("nulls.jsonl", "{\"text\": null}\n{\"text\": null}\n");
    desk.run(&["convert", "nulls.jsonl", "--out", "x.parquet"])
        .says("nulls", 65, &["has nothing but nulls in 2 rows"]);
    desk.run(&[
        "convert",
        "rows.jsonl",
        "--out",
        "x.parquet",
        "--columns",
        "prompt=q,prompt=a",
    ])
    .says("twice", 2, &["`prompt` is given twice, as `q` and as `a`"]);
}

#[test]
fn preferences_go_through_and_are_no_format_yet() {
    let desk = Desk::new();
    desk.write("dpo.jsonl", lines(&preferences()));
    let told = converted(&desk, &["dpo.jsonl", "--out", "dpo.parquet"]);
    assert_eq!((&told["rows"], &told["format"]), (&json!(5), &Value::Null));
    assert_eq!(rows_of(&desk.path("dpo.parquet")), preferences());
    let told = converted(
        &desk,
        &[
            "dpo.jsonl",
            "--out",
            "sft.parquet",
            "--columns",
            "messages=chosen",
        ],
    );
    assert_eq!(told["format"], "chat");
    assert_eq!(
        rows_of(&desk.path("sft.parquet"))[2]["messages"],
        preferences()[2]["chosen"]
    );
}

#[test]
fn tables_keep_quotes_line_breaks_and_zeros() {
    let desk = Desk::new();
    let table = [
        ["id", "Frage", "Antwort"],
        ["007", "Was, bitte?", "Das \"hier\""],
        ["1e5", "Zwei\nZeilen", ""],
        ["", "a;b", "TRUE"],
    ];
    let written = |separator: &str, end: &str| {
        let quoted = |cell: &&str| format!("\"{}\"", cell.replace('"', "\"\""));
        table
            .iter()
            .map(|row| row.iter().map(quoted).collect::<Vec<_>>().join(separator) + end)
            .collect::<String>()
    };
    let expected: Vec<Value> = table[1..]
        .iter()
        .map(|row| json!({"id": row[0], "prompt": row[1], "completion": row[2]}))
        .collect();
    let forms = [
        ("a.csv", ",", "\n"),
        ("b.csv", ";", "\r\n"),
        ("c.tsv", "\t", "\n"),
        ("d.csv", "\t", "\r\n"),
        ("e.tab", "\t", "\n"),
    ];
    for (name, separator, end) in forms {
        desk.write(name, written(separator, end));
        let out = format!("{name}.parquet");
        let told = converted(
            &desk,
            &[
                name,
                "--out",
                &out,
                "--columns",
                "prompt=Frage,completion=Antwort",
            ],
        );
        assert_eq!(
            (&told["rows"], &told["format"]),
            (&json!(3), &json!("completion"))
        );
        assert_eq!(rows_of(&desk.path(&out)), expected, "{name}");
    }
}

#[test]
fn a_table_that_names_its_separator_is_split_by_it() {
    let desk = Desk::new();
    desk.write("excel.csv", "\u{feff}sep=;\r\nid;text\r\n1;a, b, c\r\n");
    desk.write("pipes.csv", "id|text\n1|a, b; c\n");
    desk.write("quotes.tsv", "id\ttext\n1\t\"a\n2\tb\"\n3\tc\n");
    let told = converted(&desk, &["excel.csv", "--out", "excel.parquet"]);
    assert_eq!(
        rows_of(&desk.path("excel.parquet")),
        [json!({"id": "1", "text": "a, b, c"})]
    );
    assert!(told["notes"].to_string().contains("separated by `;`"));
    converted(&desk, &["pipes.csv", "--out", "pipes.parquet"]);
    assert_eq!(
        rows_of(&desk.path("pipes.parquet")),
        [json!({"id": "1", "text": "a, b; c"})]
    );
    let told = converted(&desk, &["quotes.tsv", "--out", "quotes.parquet"]);
    assert_eq!(told["rows"], 2);
    let note = "1 row with line breaks within quotes, the first in line 2";
    assert!(told["notes"].to_string().contains(note), "{told}");
    desk.write("wrong.csv", "sep=;\nid;text\n1;a\n2\n");
    desk.run(&["convert", "wrong.csv", "--out", "x.parquet"])
        .says(
            "the line that an editor shows",
            65,
            &["wrong.csv:4: 1 cell, the header has 2"],
        );
}

#[test]
fn what_training_leaves_out_or_does_not_read_is_said() {
    let desk = Desk::new();
    let rows = [
        json!({"text": "a plain row of text"}),
        json!({"text": "x".repeat((4 << 20) + 1)}),
        json!({"text": "another plain row"}),
    ];
    desk.write("long.jsonl", lines(&rows));
    let note = "1 row with a text of more than 4194304 bytes, the first at `long.jsonl:2`";
    let told = converted(&desk, &["long.jsonl", "--out", "long.parquet"]);
    assert!(told["notes"][0].as_str().unwrap().contains(note), "{told}");
    let rest = ["training.max_dropped=0.5", "evaluation.val_set_size=0"];
    let arguments = ["preview", "recipe.yaml", "datasets.0.path=long.jsonl"];
    desk.run(&[&arguments[..], &rest].concat()).says(
        "its own row",
        0,
        &[note, "`long.jsonl`, row 1, column `text`: a text of"],
    );
    fs::create_dir(desk.path("mixed")).unwrap();
    desk.write("mixed/b.jsonl", lines(&rows[..1]));
    desk.write_rows("mixed/a.parquet", vec![("text", texts(["one", "two"]))]);
    let arguments = ["check", "recipe.yaml", "datasets.0.path=mixed"];
    desk.run(&[&arguments[..], &rest].concat()).says(
        "files that are passed over",
        0,
        &[
            "datasets.0: `mixed` has Parquet files",
            "(1, such as `mixed/b.jsonl`)",
        ],
    );
}

#[test]
fn a_folder_of_texts_is_a_row_a_file() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("texts/deep")).unwrap();
    for (name, text) in [
        ("b.txt", "two\n"),
        ("a.md", "# one"),
        ("deep/c.txt", "three 🩺"),
        ("deep/photo.png", "no text"),
        (".hidden.txt", "x"),
    ] {
        desk.write(&format!("texts/{name}"), text);
    }
    desk.write("texts/README.md", "---\nlicense: cc-by-4.0\n---\n");
    let told = converted(&desk, &["texts", "--out", "texts.parquet"]);
    assert_eq!(
        (&told["rows"], &told["format"], &told["license"]),
        (&json!(4), &json!("text"), &json!("cc-by-4.0"))
    );
    assert!(
        told["notes"][0].as_str().unwrap().contains("photo.png"),
        "{told}"
    );
    let rows = rows_of(&desk.path("texts.parquet"));
    assert_eq!(rows[1], json!({"text": "# one", "path": "a.md"}));
    assert_eq!(rows[3], json!({"text": "three 🩺", "path": "deep/c.txt"}));
    assert!(
        metadata(&desk.path("texts.parquet")).contains(&("license".into(), "cc-by-4.0".into()))
    );
    // Several inputs are rows one after the other, and their hash is that of `b3sum`'s lines.
    desk.write("x.jsonl", "{\"text\": \"x\"}\n");
    desk.write("y.csv", "text\ny\n");
    let told = converted(
        &desk,
        &[
            "x.jsonl",
            "y.csv",
            "--out",
            "xy.parquet",
            "--license",
            "CC0-1.0",
        ],
    );
    assert_eq!(
        rows_of(&desk.path("xy.parquet")),
        [json!({"text": "x"}), json!({"text": "y"})]
    );
    let hash = |name: &str| blake3::hash(&desk.read(name)).to_hex().to_string();
    let sums = format!("{}  x.jsonl\n{}  y.csv\n", hash("x.jsonl"), hash("y.csv"));
    assert_eq!(
        told["source_blake3"],
        blake3::hash(sums.as_bytes()).to_hex().to_string()
    );
}

#[test]
fn parquet_of_another_shape_gets_the_names_of_a_format() {
    let desk = Desk::new();
    let numbers: ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![1, 2]));
    desk.write_rows(
        "qa.parquet",
        vec![
            ("n", numbers),
            ("question", texts(["a", "b"])),
            ("answer", texts(["c", ""])),
        ],
    );
    converted(&desk, &["qa.parquet", "--out", "named.parquet"]);
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(desk.path("named.parquet")).unwrap())
            .unwrap();
    let names: Vec<String> = reader
        .schema()
        .fields()
        .iter()
        .map(|field| format!("{} {}", field.name(), field.data_type()))
        .collect();
    assert_eq!(names, ["n Int32", "prompt Utf8", "completion Utf8"]);
    converted(
        &desk,
        &["qa.parquet", "--out", "chat.parquet", "--format", "chat"],
    );
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(desk.path("chat.parquet")).unwrap())
            .unwrap();
    let batch = reader.build().unwrap().next().unwrap().unwrap();
    let messages = batch.column_by_name("messages").unwrap();
    assert_eq!(
        cell(messages, 0),
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}])
    );
    assert_eq!(cell(messages, 1), Value::Null, "there is nothing to learn");
    desk.run(&[
        "convert",
        "qa.parquet",
        "chat.parquet",
        "--out",
        "x.parquet",
    ])
    .says("schemas", 65, &["has other columns than"]);
    desk.write("cut.parquet", &desk.read("qa.parquet")[..200]);
    desk.run(&["convert", "cut.parquet", "--out", "x.parquet"])
        .says("cut", 65, &["is not a whole Parquet file"]);
    assert!(!desk.path("x.parquet").exists());
}

/// Trains a data set of the recipe, and gives the adapter.
#[track_caller]
fn trained(desk: &Desk, dataset: &str, run: &str) -> Vec<u8> {
    let recipe = RECIPE
        .replace("  - path: rows.parquet\n    format: text\n", dataset)
        .replace("output_dir: run", &format!("output_dir: {run}"));
    desk.write(
        &format!("{run}.yaml"),
        recipe.replace("sequence_len: 64", "sequence_len: 256"),
    );
    let ran = desk.run(&["train", &format!("{run}.yaml")]);
    assert_eq!(ran.exit, 0, "{ran:?}");
    desk.read(&format!("{run}/adapter/adapter_model.safetensors"))
}

/// A desk whose base can chat.
fn chat_desk() -> Desk {
    let desk = Desk::new();
    fs::remove_dir_all(desk.path("base")).unwrap();
    copy_folder(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny"),
        &desk.path("base"),
    );
    desk
}

#[test]
fn a_converted_file_trains_as_one_made_by_hand() {
    let desk = Desk::new();
    let rows: Vec<Value> = (0..6)
        .map(|row| {
            json!({
                "id": row,
                "instruction": format!("say {row}"),
                "input": if row % 2 == 0 { "so" } else { "" },
                "output": format!("{row} so"),
            })
        })
        .collect();
    let column = |name: &str| {
        texts(
            rows.iter()
                .map(|row| row[name].as_str().unwrap().to_owned()),
        )
    };
    desk.write_rows(
        "hand.parquet",
        ["instruction", "input", "output"]
            .map(|name| (name, column(name)))
            .to_vec(),
    );
    desk.write("rows.json", json!(rows).to_string());
    converted(&desk, &["rows.json", "--out", "made.parquet"]);
    let hand = trained(
        &desk,
        "  - path: hand.parquet\n    format: instruction\n",
        "hand",
    );
    assert_eq!(
        trained(
            &desk,
            "  - path: made.parquet\n    format: instruction\n",
            "made"
        ),
        hand
    );
}

/// The rows of the desk's recipe as a person may have them.
fn in_other_forms() -> Vec<(&'static str, Vec<u8>)> {
    let rows: Vec<Value> = (0..6)
        .map(|row| json!({"id": row, "text": format!("the term, \"{row}\"\nso")}))
        .collect();
    let cell = |row: &Value| format!("\"{}\"", row["text"].as_str().unwrap().replace('"', "\"\""));
    let table = |separator: char| {
        let lines: String = rows
            .iter()
            .map(|row| format!("{}{separator}{}\n", row["id"], cell(row)))
            .collect();
        format!("id{separator}text\n{lines}").into_bytes()
    };
    vec![
        ("rows.jsonl", lines(&rows).into_bytes()),
        ("rows.ndjson", format!("{}\n", lines(&rows)).into_bytes()),
        ("rows.json", json!(rows).to_string().into_bytes()),
        ("rows.jsonl.gz", gzip(lines(&rows).as_bytes())),
        (
            "rows.json.zst",
            zstd::encode_all(json!(rows).to_string().as_bytes(), 1).unwrap(),
        ),
        ("rows.csv", table(',')),
        ("semicolons.csv", table(';')),
        ("rows.tsv", table('\t')),
    ]
}

#[test]
fn a_recipe_reads_rows_in_other_forms_as_those_of_a_hand_made_file() {
    let desk = Desk::new();
    desk.write_rows(
        "hand.parquet",
        vec![(
            "text",
            texts((0..6).map(|row| format!("the term, \"{row}\"\nso"))),
        )],
    );
    let hand = trained(&desk, "  - path: hand.parquet\n    format: text\n", "hand");
    for (name, content) in in_other_forms() {
        desk.write(name, content);
        let recipe = RECIPE
            .replace("rows.parquet", name)
            .replace("sequence_len: 64", "sequence_len: 256");
        desk.write(
            "recipe.yaml",
            recipe.replace("output_dir: run", &format!("output_dir: {name}.run")),
        );
        let said = format!("note: `{name}`: 6 rows converted to Parquet");
        desk.run(&["check", "recipe.yaml"])
            .says(name, 0, &[&said, "the cache keeps it"]);
        let ran = desk.run(&["train", "recipe.yaml"]);
        ran.says(name, 0, &[]);
        assert!(!ran.stderr.contains("converted"), "once: {ran:?}");
        assert_eq!(
            desk.read(&format!("{name}.run/adapter/adapter_model.safetensors")),
            hand,
            "{name}"
        );
        let lock: Value =
            serde_yaml::from_str(&desk.read_text(&format!("{name}.run/recipe.lock.yaml"))).unwrap();
        let source = blake3::hash(&desk.read(name)).to_hex().to_string();
        assert_eq!(lock["blake3"]["datasets"][name], source);
        let entry = entries_of(&desk)
            .into_iter()
            .find(|entry| entry.starts_with(&source))
            .unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(desk.path(&format!("cache/rows/{entry}")))
                .unwrap()
                .permissions();
            assert_eq!(mode.mode() & 0o777, 0o600, "rows are the user's alone");
        }
        let made = blake3::hash(&desk.read(&format!("cache/rows/{entry}")))
            .to_hex()
            .to_string();
        assert_eq!(lock["blake3"]["converted"][name], made);
        assert!(
            lock["cache"]["entries"]
                .as_array()
                .unwrap()
                .contains(&entry.into())
        );
        desk.run(&["resume", &format!("{name}.run")])
            .says(name, 0, &[]);
    }
    let listed = desk.run(&["cache", "list", "--data", "rows.jsonl"]);
    assert!(
        listed.exit == 0
            && listed.stdout.contains("parquet")
            && listed.stdout.contains("rows.jsonl"),
        "{listed:?}"
    );
    desk.run(&["cache", "purge", "--data", "rows.jsonl"])
        .says("purge", 0, &[]);
    let source = blake3::hash(&desk.read("rows.jsonl")).to_hex().to_string();
    assert!(
        !entries_of(&desk)
            .iter()
            .any(|entry| entry.starts_with(&source))
    );
}

/// Parquet files of the cache.
fn entries_of(desk: &Desk) -> Vec<String> {
    let Ok(files) = fs::read_dir(desk.path("cache/rows")) else {
        return Vec::new();
    };
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".parquet")).collect()
}

#[test]
fn what_a_recipe_converts_is_named_as_the_person_named_it() {
    let desk = Desk::new();
    let check = |path: &str, more: &[&str]| {
        desk.run(
            &[
                &["check", "recipe.yaml", &format!("datasets.0.path={path}")],
                more,
            ]
            .concat(),
        )
    };
    desk.write("cut.jsonl", "{\"text\": \"a\"}\n{\"text\": \n");
    check("cut.jsonl", &[]).says(
        "no JSON",
        65,
        &[
            "cut.jsonl:2",
            "1 row cannot be converted",
            "--max-dropped 1",
        ],
    );
    desk.write("wrong.jsonl", "{\"text\": \"a\"}\n\n{\"text\": 5}\n");
    check("wrong.jsonl", &[]).says(
        "no text",
        65,
        &["wrong.jsonl:3", "`text` holds", "expected text"],
    );
    assert!(entries_of(&desk).is_empty(), "nothing is kept of it");
    desk.write("empty.jsonl", "");
    check("empty.jsonl", &[]).says("empty", 65, &["`empty.jsonl` is empty"]);
    desk.write("cut.jsonl.gz", &gzip(b"{\"text\": \"a\"}\n")[..12]);
    check("cut.jsonl.gz", &[]).says("cut", 65, &["cut.jsonl.gz"]);
    desk.write("page.json", "<!DOCTYPE html><html></html>");
    check("page.json", &[]).says(
        "a page",
        65,
        &["`page.json` is a page of HTML", "download it again"],
    );
    desk.write("other.csv", "word,meaning\na,b\n");
    check("other.csv", &[]).says(
        "columns",
        65,
        &["`other.csv` has no column `text`, it has: word, meaning"],
    );

    // A folder without Parquet files is read by its other files, and a glob by what it matches.
    fs::create_dir_all(desk.path("raw/deep")).unwrap();
    desk.write("raw/b.jsonl", "{\"text\": \"b\"}\n");
    desk.write("raw/deep/a.csv", "text\na\n");
    desk.write("raw/README.md", "no data");
    for (path, rows) in [("raw", 2), ("raw/*.jsonl", 1), ("raw/**/*.csv", 1)] {
        let ran = desk.run(&[
            "plan",
            "recipe.yaml",
            &format!("datasets.0.path={path}"),
            "--json",
        ]);
        ran.says(path, 0, &[]);
        let shown: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(shown["training_rows"], rows, "{path}: {shown}");
    }
    // A loop of links leads to no row twice.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(".", desk.path("raw/self")).unwrap();
        for path in ["raw", "raw/**/*.csv"] {
            let ran = desk.run(&[
                "plan",
                "recipe.yaml",
                &format!("datasets.0.path={path}"),
                "--json",
            ]);
            let shown: Value = serde_json::from_str(&ran.stdout).unwrap();
            let rows = if path == "raw" { 2 } else { 1 };
            assert_eq!(shown["training_rows"], rows, "{path}: {shown}");
        }
    }
    // A disk or a right that is missing is no fault of the recipe.
    let nowhere = desk.path("raw/b.jsonl/cache").display().to_string();
    for path in ["raw/b.jsonl", "raw"] {
        let path = format!("datasets.0.path={path}");
        desk.run_with(
            &["check", "recipe.yaml", &path],
            &[("RANKINE_CACHE", &nowhere)],
        )
        .says(
            "no cache",
            74,
            &["raw/b.jsonl/cache", "set RANKINE_CACHE to a folder"],
        );
    }
    check("raw", &[]).says("again", 0, &[]);
    fs::remove_dir_all(desk.path("raw/deep")).unwrap();

    // With the run's own cache nothing is left elsewhere, and without a cache nothing is copied.
    fs::remove_dir_all(desk.path("cache")).unwrap();
    desk.write(
        "rows.jsonl",
        "{\"text\": \"a word so\"}\n{\"text\": \"another word so\"}\n",
    );
    check("rows.jsonl", &["cache=none"]).says(
        "no cache",
        65,
        &[
            "`rows.jsonl` is no Parquet file",
            "`cache: none`",
            "`rankine convert rows.jsonl --out rows.parquet`",
        ],
    );
    check("rows.jsonl", &["cache=run"]).says(
        "of the run",
        0,
        &["2 rows converted", "removed at the end"],
    );
    let train = |more: &[&str]| {
        desk.run(
            &[
                &[
                    "train",
                    "recipe.yaml",
                    "datasets.0.path=rows.jsonl",
                    "cache=run",
                ],
                more,
            ]
            .concat(),
        )
    };
    train(&[]).says("train", 0, &[]);
    assert!(entries_of(&desk).is_empty());

    desk.run(&["inspect", "rows.jsonl"])
        .says("inspect", 0, &["2 rows converted"]);
    desk.run(&["eval", "run", "--data", "rows.jsonl"])
        .says("eval", 0, &["rows.jsonl"]);
}

#[test]
fn a_table_trains_as_the_chat_that_it_is() {
    let desk = chat_desk();
    let rows = [
        ("q 1", "a 1", "be kind"),
        ("q 2", "a, 2", ""),
        ("q\n3", "a \"3\"", "be brief"),
    ];
    let chat = |default: Option<&str>| {
        texts(rows.map(|(prompt, completion, system)| {
            let system = Some(system).filter(|system| !system.is_empty()).or(default);
            let turn = |role: &str, content: &str| json!({"role": role, "content": content});
            let turns = system.map(|system| turn("system", system)).into_iter();
            turns
                .chain([turn("user", prompt), turn("assistant", completion)])
                .collect::<Value>()
                .to_string()
        }))
    };
    desk.write_rows("plain.parquet", vec![("messages", chat(None))]);
    desk.write_rows(
        "default.parquet",
        vec![("messages", chat(Some("be exact")))],
    );
    let columns = [
        rows.map(|row| row.0),
        rows.map(|row| row.1),
        rows.map(|row| row.2),
    ];
    let named = ["question", "answer", "sys"]
        .into_iter()
        .zip(columns)
        .map(|(name, column)| (name, texts(column)));
    desk.write_rows("qa.parquet", named.collect());
    let quoted = |cell: &str| format!("\"{}\"", cell.replace('"', "\"\""));
    let table: String = rows
        .iter()
        .map(|(q, a, s)| format!("{},{},{}\n", quoted(q), quoted(a), quoted(s)))
        .collect();
    desk.write("qa.csv", format!("question,answer,sys\n{table}"));
    let of = |path: &str, rest: &str| format!("  - path: {path}\n    format: chat\n{rest}");
    let mapped = "    columns: {prompt: question, completion: answer, system: sys}\n";
    let plain = trained(&desk, &of("plain.parquet", ""), "plain");
    assert_eq!(trained(&desk, &of("qa.parquet", mapped), "table"), plain);
    let default = trained(&desk, &of("default.parquet", ""), "default");
    assert_ne!(default, plain);
    assert_eq!(
        trained(
            &desk,
            &of("qa.parquet", &format!("{mapped}    system: be exact\n")),
            "both"
        ),
        default
    );
    assert_eq!(
        trained(
            &desk,
            &of("plain.parquet", "    system: be exact\n"),
            "text"
        ),
        default
    );
    converted(
        &desk,
        &[
            "qa.csv",
            "--out",
            "chat.parquet",
            "--format",
            "chat",
            "--columns",
            "system=sys",
        ],
    );
    assert_eq!(trained(&desk, &of("chat.parquet", ""), "converted"), plain);
}

#[test]
fn check_says_what_it_sees() {
    let desk = chat_desk();
    desk.write("s.jsonl", lines(&sharegpt()));
    desk.write("qa.csv", "Question,Answer\nq,a\n");
    desk.write_rows(
        "qa.parquet",
        vec![("Question", texts(["q"])), ("Answer", texts(["a"]))],
    );
    desk.write_rows("plain.parquet", vec![("text", texts(["a"]))]);
    let check = |dataset: &str| {
        desk.write(
            "recipe.yaml",
            RECIPE.replace("  - path: rows.parquet\n    format: text\n", dataset),
        );
        desk.run(&["check", "recipe.yaml"])
    };
    let hints = [
        "missing key `format`",
        "`format: completion` with `columns: {prompt: Question, completion: Answer}`",
    ];
    check("  - path: qa.parquet\n").says("no format", 65, &hints);
    check("  - path: plain.parquet\n").says(
        "no format",
        65,
        &["missing key `format`", "`format: text`"],
    );
    let hints = [
        "missing key `format`",
        "the columns of `s.jsonl` look like those of `format: chat` with `columns: \
        {messages: conversations}`",
    ];
    check("  - path: s.jsonl\n").says("no format of JSONL", 65, &hints);
    let hints = [
        "missing key `format`",
        "`qa.csv` look like those of `format: completion` with `columns: \
        {prompt: Question, completion: Answer}`",
    ];
    check("  - path: qa.csv\n").says("no format of CSV", 65, &hints);
    check("  - path: qa.parquet\n    format: chat\n    columns: {prompt: Question}\n").says(
        "half",
        65,
        &["needs `completion` as well"],
    );
    check(
        "  - path: qa.parquet\n    format: chat\n    columns: \
        {messages: Question, completion: Answer}\n",
    )
    .says(
        "both",
        65,
        &["from `messages`, or from `prompt` and `completion`"],
    );
    check(
        "  - path: qa.parquet\n    format: completion\n    columns: \
        {prompt: Question, completion: Answer}\n    system: x\n",
    )
    .says("system", 65, &["format `completion` has no system message"]);
    check(
        "  - path: qa.parquet\n    format: chat\n    columns: \
        {prompt: Question, completion: Answer}\n    system: x\n",
    )
    .says("right", 0, &[]);
}

#[test]
fn what_a_hint_says_makes_a_file_that_the_recipe_reads() {
    let desk = chat_desk();
    let turns = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    let row = json!({"messages": turns});
    let (twice, table) = (
        lines(&[row.clone(), row.clone()]),
        "word,definition\nAbactor,One who steals\nAbalienate,To transfer\n",
    );
    let cases: [(&str, Vec<u8>, &str); 4] = [
        ("law", twice.clone().into_bytes(), "law.parquet"),
        (
            "named.parquet",
            twice.clone().into_bytes(),
            "named.converted.parquet",
        ),
        (
            "table.parquet",
            table.as_bytes().to_vec(),
            "table.converted.parquet",
        ),
        (
            "law.txt",
            b"a line of a text\nand another one\n".to_vec(),
            "law.parquet",
        ),
    ];
    for (name, content, out) in cases {
        desk.write(name, content);
        let check = |path: &str, more: &[&str]| {
            let path = format!("datasets.0.path={path}");
            desk.run(&[&["check", "recipe.yaml", &path], more].concat())
        };
        let refused = check(name, &[]);
        let said = format!("`rankine convert {name} --out {out}`");
        refused.says(name, 65, &[&said]);
        let typed: Vec<&str> = said.trim_matches('`').split(' ').skip(1).collect();
        let chat = [
            "--format",
            "chat",
            "--columns",
            "prompt=word,completion=definition",
        ];
        if refused.stderr.contains("COLUMN") {
            refused.says(
                name,
                65,
                &["`--format chat --columns prompt=COLUMN,completion=COLUMN`"],
            );
            desk.run(&[&typed[..], &chat].concat()).says(name, 0, &[]);
            assert_eq!(rows_of(&desk.path(out)).len(), 2, "{name}");
        } else {
            desk.run(&typed).says(name, 0, &[]);
        }
        let format = if name == "law.txt" { "text" } else { "chat" };
        check(out, &[&format!("datasets.0.format={format}")]).says(name, 0, &[]);
        desk.remove(out);
        desk.remove(name);
    }
}

#[test]
fn a_wrong_row_is_named_and_may_be_left_out() {
    let desk = Desk::new();
    let good = "{\"prompt\": \"q\", \"response\": \"a\"}\n";
    let deep = format!("{{\"prompt\": {}{}}}\n", "[".repeat(5000), "]".repeat(5000));
    let long = format!(
        "{{\"prompt\": \"{}\", \"response\": \"a\"}}\n",
        "x".repeat(10 << 20)
    );
    let longer = format!("{{\"prompt\": \"{}\"}}\n", "x".repeat(17 << 20));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut", b"{\"prompt\": \"q\", \"resp\n".to_vec(), ":2:"),
        (
            "bytes",
            b"{\"prompt\": \"\xff\xfe\", \"response\": \"a\"}\n".to_vec(),
            ":2:13: it is not UTF-8",
        ),
        (
            "NaN",
            b"{\"prompt\": NaN, \"response\": \"a\"}\n".to_vec(),
            "found `[text of the data",
        ),
        (
            "twice",
            b"{\"prompt\": \"q\", \"prompt\": \"r\", \"response\": \"a\"}\n".to_vec(),
            "the key `[text of the data: -v shows it]` is there twice",
        ),
        (
            "a list",
            b"[\"q\", \"a\"]\n".to_vec(),
            "it is a list, expected an object",
        ),
        (
            "a word",
            b"\"q\"\n".to_vec(),
            "it is a text, expected an object",
        ),
        ("deep", deep.into_bytes(), "recursion limit exceeded"),
        (
            "large",
            b"{\"prompt\": \"q\", \"response\": \"a\", \"id\": 123456789012345678901234567890}\n"
                .to_vec(),
            "more than 64 bits",
        ),
        (
            "number",
            b"{\"prompt\": 5, \"response\": \"a\"}\n".to_vec(),
            "column `prompt` holds a number, `[text of the data: -v shows it]`, expected text",
        ),
        (
            "object",
            b"{\"prompt\": {\"a\": 1}, \"response\": \"a\"}\n".to_vec(),
            "column `prompt` holds an object",
        ),
        ("NUL", b"\0\0\0\0\0\n".to_vec(), ":2:1: expected value"),
        (
            "control",
            b"{\"prompt\": \"a\0b\", \"response\": \"a\"}\n".to_vec(),
            "control character",
        ),
        ("longer", longer.into_bytes(), "a line of"),
        (
            "two values",
            b"{\"prompt\": \"q\"} {\"prompt\": \"q\"}\n".to_vec(),
            "trailing characters",
        ),
        (
            "Python",
            b"{'prompt': 'q', 'response': None}\n".to_vec(),
            "key must be a string",
        ),
    ];
    for (what, bad, part) in cases {
        desk.write(
            "rows.jsonl",
            [good.as_bytes(), &bad, good.as_bytes()].concat(),
        );
        desk.run(&["convert", "rows.jsonl", "--out", "x.parquet"])
            .says(what, 65, &["rows.jsonl:2", part, "--max-dropped 1"]);
        assert!(!desk.path("x.parquet").exists(), "{what}");
        let told = converted(
            &desk,
            &["rows.jsonl", "--out", "x.parquet", "--max-dropped", "1"],
        );
        assert_eq!(
            (&told["rows"], &told["dropped"]),
            (&json!(2), &json!(1)),
            "{what}"
        );
        assert!(
            told["notes"][0]
                .as_str()
                .unwrap()
                .starts_with("left out: rows.jsonl:2"),
            "{told}"
        );
        desk.remove("x.parquet");
    }
    desk.write("rows.jsonl", [good, &long, good].concat());
    assert_eq!(
        converted(&desk, &["rows.jsonl", "--out", "x.parquet"])["rows"],
        3
    );
    desk.remove("x.parquet");
    let many: String = (0..40)
        .map(|row| {
            if row % 2 == 0 {
                "{\n".to_owned()
            } else {
                good.to_owned()
            }
        })
        .collect();
    desk.write("rows.jsonl", many);
    let ran = desk.run(&[
        "convert",
        "rows.jsonl",
        "--out",
        "x.parquet",
        "--max-dropped",
        "19",
    ]);
    ran.says(
        "many",
        65,
        &[
            "rows.jsonl:19:",
            "20 rows cannot be converted, at most 19 may be left out",
        ],
    );
    assert!(!ran.stderr.contains("rows.jsonl:21:"), "ten are told");
    let told = converted(
        &desk,
        &["rows.jsonl", "--out", "x.parquet", "--max-dropped", "20"],
    );
    assert_eq!((&told["rows"], &told["dropped"]), (&json!(20), &json!(20)));
}

#[test]
fn hostile_files_are_refused_in_words() {
    let desk = Desk::new();
    let rows = lines(&alpaca());
    let packed = gzip(rows.repeat(200).as_bytes());
    let frame = zstd::encode_all(rows.repeat(200).as_bytes(), 1).unwrap();
    let wide: Map<String, Value> = (0..300).map(|key| (format!("k{key}"), json!(1))).collect();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty.jsonl", Vec::new(), "is empty"),
        ("blank.jsonl", b"\n \n\r\n".to_vec(), "has no rows"),
        ("none.json", b"[]".to_vec(), "has no rows"),
        (
            "cut.jsonl.gz",
            packed[..packed.len() / 2].to_vec(),
            "cut off or damaged",
        ),
        (
            "cut.jsonl.zst",
            frame[..frame.len() / 2].to_vec(),
            "cut off or damaged",
        ),
        (
            "tail.jsonl.gz",
            [&packed[..], b"tail"].concat(),
            "cut off or damaged",
        ),
        (
            "cut.json",
            b"[{\"text\": \"a\"}, {\"te".to_vec(),
            "ends within its array, in the row that starts in line 1",
        ),
        (
            "one.json",
            b"{\n  \"data\": [\n {\"a\": 1}\n]}".to_vec(),
            "begins with an object that does not end in its line",
        ),
        (
            "line.json",
            b"{\"version\": \"1\", \"data\": [{\"a\": 1}]}".to_vec(),
            "is one object with lists or objects in it",
        ),
        (
            "columns.json",
            b"{\"a\": [\"x\"], \"b\": {\"0\": \"y\"}}".to_vec(),
            "is one object with lists or objects in it",
        ),
        (
            "behind.json",
            b"[{\"text\": \"a\"}] x".to_vec(),
            "goes on behind the end of its array",
        ),
        ("utf16.csv", b"\xff\xfet\0e\0x\0t\0".to_vec(), "is UTF-16"),
        (
            "twice.csv",
            b"text,text\na,b\n".to_vec(),
            "has the column `text` twice",
        ),
        ("head.csv", b"text,other\n".to_vec(), "has no rows"),
        (
            "ragged.csv",
            b"text,other\na\nb,c\n".to_vec(),
            "ragged.csv:2: 1 cell, the header has 2",
        ),
        (
            "open.csv",
            b"text,other\na,b\n\"c,d\ne,f\n".to_vec(),
            "open.csv:3: a quote that is opened in this row is not closed",
        ),
        (
            "latin.csv",
            b"text\nH\xf6he\n".to_vec(),
            "latin.csv:2: column `text` is not UTF-8",
        ),
        (
            "nul.csv",
            b"text\na\0b\n".to_vec(),
            "nul.csv:2: column `text` has a NUL byte",
        ),
        (
            "wide.jsonl",
            Value::Object(wide).to_string().into_bytes(),
            "more than 256 different columns",
        ),
        (
            "photo.bin",
            b"\x89PNG".to_vec(),
            "has a name that does not say what it is",
        ),
        ("nul.txt", b"a\0b".to_vec(), "has a NUL byte"),
        (
            "numbers.parquet",
            b"[1, 2]".to_vec(),
            "numbers.parquet:1: it is a number, expected an object",
        ),
        (
            "cut.parquet",
            b"PAR1\0\0".to_vec(),
            "is not a whole Parquet file",
        ),
        (
            "list.json",
            b"[1, 2]".to_vec(),
            "list.json:1: it is a number, expected an object",
        ),
        (
            "comma.json",
            b"[{\"text\": \"a\"},]".to_vec(),
            "comma.json:1",
        ),
        ("quotes.csv", b"\"".to_vec(), "is empty"),
    ];
    for (name, content, part) in cases {
        desk.write(name, content);
        desk.run(&["convert", name, "--out", "x.parquet"])
            .says(name, 65, &[part]);
        assert!(!desk.path("x.parquet").exists(), "{name}");
    }
    fs::create_dir(desk.path("photos")).unwrap();
    desk.write("photos/a.png", "x");
    desk.run(&["convert", "photos", "--out", "x.parquet"]).says(
        "no texts",
        65,
        &["has no file that can be converted"],
    );
    desk.run(&["convert", "gone.json", "--out", "x.parquet"])
        .says("not there", 66, &["`gone.json` does not exist"]);
    let temporary = fs::read_dir(desk.path("")).unwrap().filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".rankine")
    });
    assert_eq!(temporary.count(), 0, "nothing half is left");
}

#[test]
fn values_that_no_type_keeps_are_kept_as_json() {
    let desk = Desk::new();
    let rows = [
        json!({"text": "a", "meta": 1, "big": u64::MAX, "few": [1, null, 2], "late": null}),
        json!({"text": "b", "meta": "one", "big": 0, "few": [], "late": {"b": 1, "a": [true]}}),
        json!({"text": "c", "meta": {"k": null}, "few": null}),
        json!({"late": {"b": -3, "a": []}, "text": "d", "meta": [1, "x"], "extra": 0.5}),
        json!({"text": "e", "meta": null, "extra": 2}),
    ];
    desk.write("rows.jsonl", lines(&rows));
    let told = converted(&desk, &["rows.jsonl", "--out", "x.parquet"]);
    assert_eq!(told["format"], "text");
    for (row, source) in rows_of(&desk.path("x.parquet")).iter().zip(&rows) {
        for (name, value) in source.as_object().unwrap() {
            let found = row.get(name).cloned().unwrap_or_default();
            match name.as_str() {
                "meta" if !value.is_null() => assert_eq!(found, json!(value.to_string())),
                "extra" => assert_eq!(found.as_f64(), value.as_f64()),
                _ => assert_eq!(found, *value, "{name}"),
            }
        }
    }
}

#[test]
fn an_output_that_is_there_stays() {
    let desk = Desk::new();
    desk.write("rows.jsonl", "{\"text\": \"a\"}\n");
    desk.write("x.parquet", "mine");
    let convert = |arguments: &[&str]| desk.run(&[&["convert", "rows.jsonl"], arguments].concat());
    convert(&["--out", "x.parquet"]).says("there", 73, &["`x.parquet` exists", "--overwrite"]);
    convert(&["--out", "base"]).says("a folder", 73, &["`base` exists"]);
    convert(&["--out", "rows.jsonl", "--overwrite"]).says(
        "itself",
        2,
        &["is both a source and the output"],
    );
    assert_eq!(desk.read("x.parquet"), b"mine");
    desk.write("rows.jsonl", "{\"text\": \"a\"}\n{");
    convert(&["--out", "x.parquet", "--overwrite"]).says("wrong", 65, &["rows.jsonl:2"]);
    assert_eq!(
        desk.read("x.parquet"),
        b"mine",
        "what fails replaces nothing"
    );
    desk.write("rows.jsonl", "{\"text\": \"a\"}\n");
    convert(&["--out", "x.parquet", "--overwrite"]).says("overwritten", 0, &[]);
    assert_eq!(rows_of(&desk.path("x.parquet")), [json!({"text": "a"})]);
    convert(&["--out", "new/folder/x.parquet"]).says("a new folder", 0, &[]);
    let expected = ["no format has a column `foo`"];
    convert(&["--out", "y.parquet", "--columns", "foo=text"]).says("no such name", 65, &expected);
    convert(&["--out", "y.parquet", "--columns", "text=foo"]).says(
        "no such column",
        65,
        &["the rows have no `foo`; they have `text`"],
    );
    convert(&["--out", "y.parquet", "--columns", "text"]).says(
        "no pair",
        2,
        &["expected NAME=COLUMN, found `text`"],
    );
    convert(&["--out", "y.parquet", "--format", "chat"]).says(
        "no chat",
        65,
        &["needs `messages`, or `prompt` and `completion`"],
    );
}

/// With `cache: run` the copy of a data file lies in the temporary folder before the run's folder
/// exists.
#[cfg(unix)]
#[test]
fn a_run_that_a_signal_ends_leaves_no_copy_of_the_data() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    desk.write(
        "rows.jsonl",
        format!("{}\n", json!({"text": "so ".repeat(40)})).repeat(60_000),
    );
    fs::create_dir(desk.path("tmp")).unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let child = desk
            .command(&[
                "train",
                "recipe.yaml",
                "datasets.0.path=rows.jsonl",
                "cache=run",
                "training.max_steps=100000",
                "--overwrite",
            ])
            .env("TMPDIR", desk.path("tmp"))
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        while !desk.path("run").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let copies: Vec<_> = fs::read_dir(desk.path("tmp")).unwrap().collect();
        assert_eq!(copies.len(), 1, "the copy that the run reads");
        let mode = copies[0]
            .as_ref()
            .unwrap()
            .metadata()
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o700, "for this user alone");
        std::thread::sleep(std::time::Duration::from_millis(100));
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(matches!(ended.status.code(), Some(75 | 130)), "{said}");
        let left = fs::read_dir(desk.path("tmp")).unwrap().count();
        assert_eq!(left, 0, "{signal}: {said}");
        let _ = fs::remove_dir_all(desk.path("run"));
    }
}

#[cfg(unix)]
#[test]
fn a_signal_leaves_nothing() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let desk = Desk::new();
    let row = format!("{}\n", json!({"text": "so ".repeat(300)}));
    desk.write("rows.jsonl", row.repeat(60_000));
    fs::create_dir(desk.path("out")).unwrap();
    let child = desk
        .command(&["convert", "rows.jsonl", "--out", "out/x.parquet"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The second pass has begun when there is a file.
    while fs::read_dir(desk.path("out")).unwrap().count() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(
        ended.status.code(),
        Some(130),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    assert_eq!(fs::read_dir(desk.path("out")).unwrap().count(), 0);
}

#[test]
fn memory_does_not_grow_with_the_file() {
    let desk = Desk::new();
    let peak = |rows: usize| {
        let mut file = File::create(desk.path("rows.jsonl")).unwrap();
        for row in 0..rows {
            let text: String = (0..60)
                .map(|word| format!("{} ", (row * 7919 + word * 104_729) % 100_003))
                .collect();
            let turn = |role: &str| json!({"role": role, "content": text});
            let row = json!({"messages": [turn("user"), turn("assistant")]});
            writeln!(file, "{row}").unwrap();
        }
        drop(file);
        converted(&desk, &["rows.jsonl", "--out", "x.parquet", "--overwrite"])["peak_memory_bytes"]
            .as_u64()
            .unwrap()
    };
    let (small, large) = (peak(30_000), peak(90_000));
    println!("{small} bytes for 25 MB, {large} for 75 MB");
    assert!(
        large < small + (24 << 20),
        "{small} bytes at first, {large} for three times the file"
    );
}
