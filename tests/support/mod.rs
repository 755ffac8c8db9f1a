//! A desk for tests that run the binary: a temporary folder with a tiny base, a Parquet file and a
//! recipe that trains, so that a test breaks one thing and runs it.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use rankine::keyed_random::{mix, unit};
use serde_json::Value;
use tempfile::TempDir;

/// A recipe that trains two steps on the desk's base and rows.
pub const RECIPE: &str = "base_model: base
datasets:
  - path: rows.parquet
    format: text
adapter:
  r: 4
training:
  sequence_len: 64
  max_steps: 2
output_dir: run
";

/// What the person who runs the tests may have set.
const OF_THE_HUB: [&str; 8] = [
    "HF_ENDPOINT",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HUGGING_FACE_HUB_TOKEN",
    "TRANSFORMERS_OFFLINE",
    "XDG_CACHE_HOME",
];

pub struct Desk {
    folder: TempDir,
}

/// What a command left behind; the desk's own place is `DESK` in both texts.
#[derive(Debug)]
pub struct Ran {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Desk {
    pub fn new() -> Self {
        let desk = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs/llama/model");
        fs::create_dir(desk.path("base")).unwrap();
        for file in fs::read_dir(base).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), desk.path("base").join(file.file_name())).unwrap();
        }
        desk.write("recipe.yaml", RECIPE);
        let rows: Vec<String> = (1..=12)
            .map(|row| format!("the term {row} means {}", "so ".repeat(row)))
            .collect();
        desk.write_rows("rows.parquet", vec![("text", texts(rows))]);
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn read_text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Replaces the one place in a text file that reads `from`.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read_text(name);
        assert_eq!(text.matches(from).count(), 1, "`{from}` in {name}");
        self.write(name, text.replace(from, to));
    }

    /// Cuts a file after a share of its bytes.
    pub fn cut(&self, name: &str, share: f64) {
        let whole = self.read(name);
        self.write(name, &whole[..(whole.len() as f64 * share) as usize]);
    }

    pub fn write_rows(&self, name: &str, columns: Vec<(&str, ArrayRef)>) {
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns
                .into_iter()
                .map(|(name, values)| (name, values, true)),
        );
        let batch = batch.unwrap();
        let mut writer =
            ArrowWriter::try_new(File::create(self.path(name)).unwrap(), batch.schema(), None)
                .unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    /// Runs the binary on the desk, with a token cache there.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[])
    }

    /// The binary on the desk, to be started.
    pub fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rankine"));
        command.current_dir(self.folder.path()).args(arguments);
        command
            .env("RANKINE_CACHE", self.path("cache"))
            .env_remove("SOURCE_DATE_EPOCH");
        // A Hub of the desk's own, which is nowhere: who tests it says where.
        command
            .env("HF_HOME", self.path("hub-home"))
            .env("HF_HUB_OFFLINE", "1");
        for name in OF_THE_HUB {
            command.env_remove(name);
        }
        command
    }

    /// Types lines to `chat` on the base.
    pub fn chat(&self, lines: &str, options: &[&str]) -> Ran {
        use std::io::Write;
        use std::process::Stdio;
        let mut command =
            self.command(&[&["chat", "--base", "base", "--max-tokens", "5"], options].concat());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(lines.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran {
            exit: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    pub fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let mut command = self.command(arguments);
        let output = command.envs(environment.iter().copied()).output().unwrap();
        let place = self.folder.path().canonicalize().unwrap();
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes).replace(&*place.to_string_lossy(), "DESK")
        };
        Ran {
            exit: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

impl Ran {
    /// Holds an exit code and parts of what stderr says, and that nothing panicked.
    #[track_caller]
    pub fn says(&self, what: &str, exit: i32, parts: &[&str]) {
        println!("== {what}: exit {}\n{}", self.exit, self.stderr);
        assert_ne!(self.exit, 70, "{what}: {self:?}");
        assert!(
            !self.stderr.contains("internal error") && !self.stderr.contains("panicked"),
            "{what}: {self:?}"
        );
        assert_eq!(self.exit, exit, "{what}: {self:?}");
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{what}: `{part}` is not in\n{}",
                self.stderr
            );
        }
    }
}

pub fn texts(rows: impl IntoIterator<Item = impl Into<String>>) -> ArrayRef {
    Arc::new(
        rows.into_iter()
            .map(|row| Some(row.into()))
            .collect::<StringArray>(),
    )
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// What differs from run to run: it is measured with a clock.
const MEASURED: [&str; 2] = ["tokens_per_second", "peak_memory_bytes"];

/// The lines of a run's metrics, and the bytes of its adapter.
fn come_to(desk: &Desk, run: &str) -> (Vec<Value>, Vec<u8>) {
    let text = desk.read_text(&format!("{run}/metrics.jsonl"));
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in MEASURED {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    };
    (
        text.lines().map(line).collect(),
        desk.read(&format!("{run}/adapter/adapter_model.safetensors")),
    )
}

/// How many runs of a kind are killed, here and in a thorough run: `RANKINE_KILLS=50`.
fn killed_runs() -> usize {
    std::env::var("RANKINE_KILLS")
        .ok()
        .map_or(2, |kills| kills.parse().expect("RANKINE_KILLS is a number"))
}

/// Kills runs of a command wherever they are, up to four times each, and goes on with them: each
/// comes to the same bytes as one that is left alone. `before` is called before each run.
pub fn kill_at_random(desk: &Desk, train: &[&str], before: impl Fn()) {
    let what = train.join(" ");
    let output = |run: &str| format!("output_dir={run}");
    let alone = output("alone");
    desk.run(&[train, &[alone.as_str()]].concat())
        .says("the run left alone", 0, &[]);
    let (all, whole) = come_to(desk, "alone");
    let mut kills = 0;
    for index in 0..killed_runs() {
        let run = format!("killed-{index}");
        before();
        let draw = |key: u64| unit(mix(index as u64) ^ key);
        let mut places: Vec<f64> = (0..4).map(|key| draw(2 * key)).collect();
        places.sort_by(f64::total_cmp);
        let mut is_done = false;
        for (key, place) in (0..).zip(places) {
            let has_begun = desk.path(&run).join("recipe.lock.yaml").exists();
            let (resume, output) = (["resume", run.as_str()], output(&run));
            let first = [train, &[output.as_str()]].concat();
            let mut child = desk
                .command(if has_begun { &resume } else { &first })
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let at = (place * all.len() as f64) as usize;
            let lines = || {
                let path = desk.path(&run).join("metrics.jsonl");
                fs::read(path).map_or(0, |text| text.split(|byte| *byte == b'\n').count())
            };
            while child.try_wait().unwrap().is_none() && lines() <= at {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(30).mul_f64(draw(2 * key + 1)));
            let _ = child.kill();
            is_done = child.wait().unwrap().success();
            kills += usize::from(!is_done);
            if is_done {
                break;
            }
        }
        if !is_done {
            desk.run(&["resume", &run]).says("the last resume", 0, &[]);
        }
        let (lines, adapter) = come_to(desk, &run);
        assert_eq!(lines, all, "{what}, {run}");
        assert!(adapter == whole, "{what}, {run}");
    }
    println!("{what}: {kills} kills in {} runs", killed_runs());
}
