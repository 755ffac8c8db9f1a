//! Memory and the time to the first step do not grow with the data: a file of a megabyte and one of
//! a gigabyte, tokenized and trained on by the binary. Half an hour of processor time, so only on
//! demand:
//!
//!     cargo test --release --test flat -- --ignored --nocapture

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use rankine::keyed_random::mix;
use support::Desk;

const RECIPE: &str = "datasets:
  - path: rows.parquet
    format: text
adapter:
  r: 16
training:
  sequence_len: 256
  truncation: truncate
  micro_batch_size: 4
  max_steps: 20
  gradient_checkpointing: false
";

/// What a run took.
#[derive(Debug)]
struct Run {
    /// From its start to its first step.
    first_step_seconds: f64,
    peak_bytes: f64,
}

/// Definitions of the repository's data, drawn into rows of about `row_bytes` that all differ,
/// until they are `file_bytes`.
fn write_text(path: &Path, file_bytes: usize, row_bytes: usize) -> usize {
    let source = File::open(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/general-definitions.parquet"),
    )
    .unwrap();
    let mut definitions = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(source)
        .unwrap()
        .build()
        .unwrap()
        .map(Result::unwrap)
    {
        let column = batch.column_by_name("text").unwrap().as_string::<i32>();
        definitions.extend((0..column.len()).map(|row| column.value(row).to_owned()));
    }
    let text = |row: usize| {
        let (mut text, mut draw) = (String::new(), mix(row as u64));
        while text.len() < row_bytes {
            draw = mix(draw);
            text += &definitions[draw as usize % definitions.len()];
            text.push('\n');
        }
        text
    };
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(100_000))
        .build();
    let batch = |rows: Vec<String>| {
        RecordBatch::try_from_iter([(
            "text",
            Arc::new(StringArray::from(rows)) as arrow::array::ArrayRef,
        )])
        .unwrap()
    };
    let schema = batch(Vec::new()).schema();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), schema, Some(properties)).unwrap();
    let (mut written, mut rows) = (0, 0);
    while written < file_bytes {
        let texts: Vec<String> = (rows..rows + 1000)
            .map(text)
            .scan(written, |sum, text| {
                *sum += text.len();
                (*sum - text.len() < file_bytes).then_some(text)
            })
            .collect();
        (written, rows) = (
            written + texts.iter().map(String::len).sum::<usize>(),
            rows + texts.len(),
        );
        writer.write(&batch(texts)).unwrap();
    }
    writer.close().unwrap();
    rows
}

fn train(desk: &Desk, output: &str) -> Run {
    let started = Instant::now();
    let mut child = desk.command(&["train", "recipe.yaml", &format!("output_dir={output}")]);
    let mut child = child
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut first_step_seconds, mut said) = (f64::NAN, String::new());
    for line in BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
    {
        if line.starts_with("step 1/") {
            first_step_seconds = started.elapsed().as_secs_f64();
        }
        said = said + &line + "\n";
    }
    assert!(child.wait().unwrap().success(), "{said}");
    let steps = desk.read_text(&format!("{output}/metrics.jsonl"));
    let last: serde_json::Value = serde_json::from_str(steps.lines().last().unwrap()).unwrap();
    Run {
        first_step_seconds,
        peak_bytes: last["peak_memory_bytes"].as_f64().unwrap(),
    }
}

/// Trains on a file that is not tokenized yet, and again.
fn runs(desk: &Desk, name: &str, megabytes: usize, row_bytes: usize) -> [Run; 2] {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny");
    desk.write(
        "recipe.yaml",
        format!("base_model: \"{}\"\n{RECIPE}", base.display()),
    );
    let rows = write_text(&desk.path("rows.parquet"), megabytes << 20, row_bytes);
    let runs = [
        train(desk, &format!("{name}-cold")),
        train(desk, &format!("{name}-warm")),
    ];
    println!("{megabytes} MiB, {rows} rows: {runs:?}");
    let [cold, warm] = &runs;
    let seconds = cold.first_step_seconds - warm.first_step_seconds;
    println!(
        "tokenized at {:.2} MB/s",
        (megabytes << 20) as f64 / 1e6 / seconds
    );
    runs
}

#[test]
#[ignore = "writes and tokenizes a gigabyte"]
fn memory_and_the_first_step_do_not_grow_with_the_data() {
    let number =
        |name: &str, default| std::env::var(name).map_or(default, |number| number.parse().unwrap());
    let (megabytes, row_bytes) = (
        number("RANKINE_FLAT_MB", 1024),
        number("RANKINE_FLAT_ROW_BYTES", 1000),
    );
    let desk = Desk::new();
    let small = runs(&desk, "small", 1, row_bytes);
    let large = runs(&desk, "large", megabytes, row_bytes);
    for (what, small, large) in [
        ("tokenizing", &small[0], &large[0]),
        ("from the cache", &small[1], &large[1]),
    ] {
        let ratio = large.peak_bytes / small.peak_bytes;
        assert!(ratio <= 1.1, "{what}: {ratio:.3} of the memory");
    }
    let later = large[1].first_step_seconds - small[1].first_step_seconds;
    println!("the first step comes {later:.2} s later, hashing included");
}
