//! Event files: read as TensorBoard reads them they give the numbers of metrics.jsonl and the
//! answers of samples.jsonl, of a run that was stopped too; and where they cannot be written the
//! run does not mind.
#![cfg(feature = "tensorboard")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use protobuf::Message;
use rankine::files::write_manifest;
use serde_json::Value;
use support::*;
use tensorboard_proto::event::{Event, SessionLog_SessionStatus};
use tensorboard_proto::types::DataType;

const LONG: [&str; 6] = [
    "training.max_steps=12",
    "training.learning_rate=1e-2",
    "evaluation.val_set_size=4",
    "evaluation.eval_steps=3",
    "evaluation.prompts=[the term 3 means, so]",
    "output.save_total_limit=100",
];
const WARNING: &str = "note: nothing more is written for TensorBoard: ";

/// A number or a text with its tag and step.
#[derive(Debug, Clone, PartialEq)]
enum Point {
    Number(String, u64, f32),
    Text(String, u64, String),
}

impl Point {
    fn step(&self) -> u64 {
        let (Self::Number(_, step, _) | Self::Text(_, step, _)) = self;
        *step
    }
}

/// CRC-32C bit by bit, RFC 3720, masked as in TensorFlow's records.
fn checksum(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1));
    let crc = !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), bit)
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[test]
fn the_checksum_is_that_of_the_standard() {
    assert_eq!(
        checksum(b"123456789"),
        0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8)
    );
}

/// The event files in the order in which TensorBoard reads them.
fn event_files(desk: &Desk, run: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(desk.path(run).join("tensorboard")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(
        files.iter().all(|file| file
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .contains("tfevents")),
        "{files:?}"
    );
    files
}

/// The records of a file, each of them whole.
fn records(file: &Path) -> Vec<Event> {
    let (content, mut records) = (fs::read(file).unwrap(), Vec::new());
    let mut rest = content.as_slice();
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(word(8), checksum(&rest[..8]));
        assert_eq!(word(12 + length), checksum(&rest[12..12 + length]));
        records.push(Event::parse_from_bytes(&rest[12..12 + length]).unwrap());
        rest = &rest[16 + length..];
    }
    assert_eq!(records[0].get_file_version(), "brain.Event:2");
    assert!(records.iter().all(|record| record.get_wall_time() > 1.7e9));
    records
}

fn points(record: &Event) -> Vec<Point> {
    let step = u64::try_from(record.get_step()).unwrap();
    let values = record.get_summary().get_value().iter();
    let point = |value: &tensorboard_proto::summary::Summary_Value| {
        let tag = value.get_tag().to_owned();
        if !value.has_tensor() {
            return Point::Number(tag, step, value.get_simple_value());
        }
        let tensor = value.get_tensor();
        assert_eq!(
            value.get_metadata().get_plugin_data().get_plugin_name(),
            "text"
        );
        assert_eq!(
            (
                tensor.get_dtype(),
                tensor.get_tensor_shape().get_dim()[0].get_size()
            ),
            (DataType::DT_STRING, 1)
        );
        Point::Text(
            tag,
            step,
            String::from_utf8(tensor.get_string_val()[0].clone()).unwrap(),
        )
    };
    values.map(point).collect()
}

/// What TensorBoard shows: at the start of a session what is already there of its step and later
/// ones goes.
fn shown(desk: &Desk, run: &str) -> Vec<Point> {
    let mut shown: Vec<Point> = Vec::new();
    for file in event_files(desk, run) {
        let records = records(&file);
        assert_eq!(
            records[1].get_session_log().get_status(),
            SessionLog_SessionStatus::START
        );
        for record in records {
            if record.has_session_log() {
                shown.retain(|point| point.step() < record.get_step() as u64);
            }
            shown.extend(points(&record));
        }
    }
    shown
}

/// What metrics.jsonl and samples.jsonl say. Answers come behind the evaluation of their step.
fn expected(desk: &Desk, run: &str) -> Vec<Point> {
    let lines = |file: &str| -> Vec<Value> {
        desk.read_text(&format!("{run}/{file}"))
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let samples = lines("samples.jsonl");
    let mut expected = Vec::new();
    for line in lines("metrics.jsonl") {
        let step = line["step"].as_u64().unwrap();
        for (key, value) in line
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| *key != "step")
        {
            let tag = if let Some(key) = key.strip_prefix("eval_") {
                format!("eval/{key}")
            } else {
                format!("train/{key}")
            };
            expected.push(Point::Number(tag, step, value.as_f64().unwrap() as f32));
        }
        if line.get("eval_loss").is_some() {
            for (place, sample) in samples
                .iter()
                .filter(|sample| sample["step"] == step)
                .enumerate()
            {
                let [prompt, text] = ["prompt", "text"].map(|key| sample[key].as_str().unwrap());
                let indented = |text: &str| {
                    text.lines()
                        .map(|line| format!("    {line}\n"))
                        .collect::<String>()
                };
                expected.push(Point::Text(
                    format!("samples/{place}"),
                    step,
                    format!("{}\n---\n\n{}", indented(prompt), indented(text)),
                ));
            }
        }
    }
    expected
}

fn train(desk: &Desk, run: &str, more: &[&str]) -> Ran {
    let output = format!("output_dir={run}");
    let ran = desk.run(&[&["train", "recipe.yaml", &output][..], &LONG, more].concat());
    ran.says(run, 0, &[]);
    ran
}

fn adapter(desk: &Desk, run: &str) -> Vec<u8> {
    desk.read(&format!("{run}/adapter/adapter_model.safetensors"))
}

/// A finished run becomes one that was killed when it had saved this step.
fn back_to(desk: &Desk, run: &str, step: u64) {
    desk.remove(&format!("{run}/README.md"));
    for later in step + 1..=12 {
        let _ = fs::remove_dir_all(desk.path(&format!("{run}/checkpoints/step-{later}")));
    }
}

#[test]
fn a_run_is_shown_as_its_metrics_have_it() {
    let desk = Desk::new();
    let ran = train(&desk, "run", &[]);
    assert!(!ran.stderr.contains(WARNING), "{}", ran.stderr);
    let shown = shown(&desk, "run");
    assert_eq!(shown, expected(&desk, "run"));
    let tags = |wanted: &str| {
        shown
            .iter()
            .filter(|point| matches!(point, Point::Number(tag, ..) if tag == wanted))
            .count()
    };
    assert_eq!(
        (
            tags("train/loss"),
            tags("train/learning_rate"),
            tags("eval/loss"),
            tags("eval/perplexity")
        ),
        (12, 12, 5, 5)
    );
    let texts = shown
        .iter()
        .filter(|point| matches!(point, Point::Text(..)))
        .count();
    assert_eq!(texts, 10, "2 prompts at 5 evaluations");

    train(&desk, "run", &["training.max_steps=6", "--overwrite"]);
    assert_eq!(
        event_files(&desk, "run").len(),
        1,
        "those of the older run went with it"
    );
    assert_eq!(self::shown(&desk, "run"), expected(&desk, "run"));
}

#[test]
fn a_run_that_was_stopped_is_shown_as_one() {
    let desk = Desk::new();
    train(&desk, "run", &["output.save_steps=1"]);
    for (files, step) in [(2, 8), (3, 6), (4, 0)] {
        let older: Vec<(PathBuf, Vec<u8>)> = event_files(&desk, "run")
            .into_iter()
            .map(|file| (file.clone(), fs::read(file).unwrap()))
            .collect();
        back_to(&desk, "run", step);
        desk.run(&["resume", "run"]).says("a resume", 0, &[]);
        assert_eq!(event_files(&desk, "run").len(), files);
        assert!(
            older
                .iter()
                .all(|(file, content)| fs::read(file).unwrap() == *content),
            "no older file is touched"
        );
        assert_eq!(
            shown(&desk, "run"),
            expected(&desk, "run"),
            "from step {step}"
        );
    }
    let all: Vec<Point> = event_files(&desk, "run")
        .iter()
        .flat_map(|file| records(file))
        .flat_map(|record| points(&record))
        .collect();
    assert_ne!(
        all,
        expected(&desk, "run"),
        "without the purge there is more"
    );
}

/// An evaluation that was made, and then was due again because nothing was saved behind it, is
/// there once.
#[test]
fn a_run_that_was_stopped_in_an_evaluation_is_shown_as_one() {
    let desk = Desk::new();
    train(&desk, "run", &["output.save_steps=1"]);
    let (checkpoint, step) = ("run/checkpoints/step-6", 6);
    let bytes = |file: &str| -> usize {
        let text = desk.read_text(&format!("run/{file}"));
        let is_before = |line: &&str| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["step"].as_u64().unwrap() < step
                || line.get("loss").is_some() && line["step"] == step
        };
        text.lines()
            .take_while(is_before)
            .map(|line| line.len() + 1)
            .sum()
    };
    let mut state: Value =
        serde_json::from_str(&desk.read_text(&format!("{checkpoint}/state.json"))).unwrap();
    state["evaluation_due"] = true.into();
    state["metrics_bytes"] = bytes("metrics.jsonl").into();
    state["samples_bytes"] = bytes("samples.jsonl").into();
    desk.write(&format!("{checkpoint}/state.json"), state.to_string());
    desk.remove(&format!("{checkpoint}/manifest.json"));
    write_manifest(&desk.path(checkpoint)).unwrap();
    let metrics = expected(&desk, "run").len();
    for _ in 0..2 {
        back_to(&desk, "run", step);
        // The best step's own adapter is not what this is about.
        desk.run(&["resume", "run"])
            .says("a resume", 0, &["going on after step 6"]);
        assert_eq!(shown(&desk, "run"), expected(&desk, "run"));
        assert_eq!(expected(&desk, "run").len(), metrics);
        desk.write(&format!("{checkpoint}/state.json"), state.to_string());
        desk.remove(&format!("{checkpoint}/manifest.json"));
        write_manifest(&desk.path(checkpoint)).unwrap();
    }
}

#[test]
fn a_run_that_was_killed_is_shown_as_one() {
    let desk = Desk::new();
    let arguments = [
        &["train", "recipe.yaml"][..],
        &LONG,
        &["training.max_steps=60", "output.save_steps=2"],
    ]
    .concat();
    let mut child = desk
        .command(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() && !desk.path("run/checkpoints/step-4").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(50));
    child.kill().unwrap();
    child.wait().unwrap();
    desk.run(&["resume", "run"])
        .says("a resume", 0, &["going on after step "]);
    assert_eq!(
        (event_files(&desk, "run").len(), shown(&desk, "run")),
        (2, expected(&desk, "run"))
    );
}

#[test]
fn a_folder_that_takes_no_events_costs_one_warning() {
    let desk = Desk::new();
    train(&desk, "alone", &[]);
    train(&desk, "run", &["output.save_steps=1"]);
    back_to(&desk, "run", 2);
    fs::remove_dir_all(desk.path("run/tensorboard")).unwrap();
    desk.write("run/tensorboard", "a file of others");
    let ran = desk.run(&["resume", "run"]);
    ran.says("a file in the folder's place", 0, &["`run/tensorboard`"]);
    assert_eq!(ran.stderr.matches(WARNING).count(), 1, "{}", ran.stderr);
    assert!(
        adapter(&desk, "run") == adapter(&desk, "alone"),
        "the run went on to the same adapter"
    );
    assert_eq!(desk.read("run/tensorboard"), b"a file of others");
}

#[test]
fn what_is_not_of_a_run_is_not_overwritten() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("run/tensorboard")).unwrap();
    desk.write("run/tensorboard/precious", "");
    let ran = desk.run(&["train", "recipe.yaml", "--overwrite"]);
    ran.says(
        "a folder of others",
        73,
        &["`run/tensorboard` is there and is not of a run"],
    );
    assert!(desk.path("run/tensorboard/precious").exists());
}
