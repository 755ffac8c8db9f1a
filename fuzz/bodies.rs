//! Fuzz targets for bytes from outside, one function per target. None may panic, and data that a
//! reader accepts must be consistent.
//!
//! The targets of `cargo fuzz` call these functions. So does `tests/fuzz.rs` with every kept input,
//! on stable Rust.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use parquet::arrow::ArrowWriter;
use rankine::adapter::{LoraConfig, TableTarget, peft};
use rankine::data::template::{ChatTemplate, Conversation, Rendered};
use rankine::data::tokenize::{SpecialTokens, Tokenizer};
use rankine::data::tokenizer_gguf::GgufTokenizer;
use rankine::data::{Corpus, DataSource, Divided, Encoder, Limits, duplicates, split};
use rankine::export::consumers::{Consumer, Features, ShippedForm, findings, portability};
use rankine::fault::{Exit, Explain, Fault};
use rankine::files::gguf::Gguf;
use rankine::files::safetensors::Archive;
use rankine::files::{verify_manifest, write_manifest};
use rankine::model::{Folder, LinearKind, LinearSpec, Role, WeightOrder, shard_paths};
use rankine::recipe;
use rankine::terms::{Format, Holdout, Term, TrainOn, Truncation};
use rankine::train::{Checkpoint, RunFolder, State};
use serde_json::json;
use tempfile::TempDir;

/// Prefix of recipe lines that hold overrides; to the recipe itself they are comments.
const OVERRIDE: &str = "#! ";
/// Most digits of a number in a template that is tried.
const MOST_DIGITS: usize = 2;
const SEQUENCE_LEN: usize = 64;

/// Folder of a model among the golden files, from this package or from Rankine's own.
static BASE: LazyLock<PathBuf> = LazyLock::new(|| {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [
        "tests/golden/archs/llama/model",
        "../tests/golden/archs/llama/model",
    ]
    .map(|folder| package.join(folder));
    folders
        .into_iter()
        .find(|folder| folder.exists())
        .expect("the golden files lie in the checkout")
});

static ENCODER: LazyLock<Encoder> = LazyLock::new(|| {
    let tokenizer = Tokenizer::open(&BASE).expect("a golden tokenizer");
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor \
        %}";
    let template = template(source, tokenizer.special()).expect("a template");
    Encoder {
        tokenizer,
        template: Some(template),
    }
});

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("made");
    fs::write(path, bytes).expect("written");
}

/// Checks that an error is one that a person can act on.
fn check_error(error: &dyn Explain) {
    assert_ne!(error.exit(), Exit::Internal, "{error}");
    error.faults().iter().for_each(check_fault);
}

fn check_fault(fault: &Fault) {
    assert!(!fault.message.is_empty());
    let shown = fault.to_string();
    assert!(!shown.contains('\u{1b}'), "{shown:?} commands a terminal");
}

/// Reads a recipe. Each fault must have a place in the file or in an override.
pub fn recipe(bytes: &[u8]) {
    let folder = folder();
    let path = folder.path().join("recipe.yaml");
    write(&path, bytes);
    let text = String::from_utf8_lossy(bytes);
    let overrides: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix(OVERRIDE))
        .map(str::to_owned)
        .collect();
    let recipe = recipe::read(&path, &overrides).expect("the file is there");
    // YAML also ends a line at a lone carriage return.
    let lines = text
        .split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
        .count();
    let file = format!("{}:", path.display());
    for fault in &recipe.faults {
        check_fault(fault);
        let place = fault
            .place
            .as_ref()
            .expect("a fault of a recipe has a place");
        let line = place
            .strip_prefix(&file)
            .and_then(|place| place.split(':').next()?.parse::<usize>().ok());
        assert!(
            line.map_or(place.starts_with("override `"), |line| (1..=lines)
                .contains(&line)),
            "{place} of {lines} lines"
        );
    }
    recipe::read_locked(&path, &text, folder.path())
        .faults
        .iter()
        .for_each(check_fault);
}

/// Reads a safetensors file, or the JSON of a model's folder. Every tensor in the header must be
/// readable.
pub fn safetensors(bytes: &[u8]) {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    if bytes.first() == Some(&b'{') {
        write(&path("model.safetensors.index.json"), bytes);
        write(&path("config.json"), bytes);
        fs::copy(BASE.join("model.safetensors"), path("a.safetensors")).expect("copied");
        match shard_paths(folder.path()) {
            Ok(shards) => {
                assert!(
                    shards
                        .iter()
                        .all(|shard| shard.parent() == Some(folder.path()) && shard.exists()),
                    "{shards:?}"
                );
            }
            Err(error) => check_error(&error),
        }
    } else {
        write(&path("model.safetensors"), bytes);
        fs::copy(BASE.join("config.json"), path("config.json")).expect("copied");
        Archive::open(&path("model.safetensors")).map_or_else(
            |error| check_error(&error),
            |archive| check_archive(&archive),
        );
    }
    if let Err(error) = Folder::open(folder.path()).and_then(|folder| folder.check_weights()) {
        check_error(&error);
    }
}

fn check_archive(archive: &Archive) {
    let unreadable = archive.unreadable();
    for (name, shape) in archive.shapes() {
        match archive.read_f32(&name) {
            Ok(numbers) => assert_eq!(
                numbers.map(|numbers| numbers.len()),
                Some(shape.iter().product()),
                "{name}"
            ),
            Err(error) => assert!(
                unreadable.iter().any(|(other, _)| *other == name),
                "{error}"
            ),
        }
        if let [rows, _, ..] = shape[..] {
            let _ = archive.read_rows_f32(&name, rows / 2..rows);
        }
    }
}

/// Reads a GGUF file: its tensors, every value of its metadata, and its tokenizer.
pub fn gguf(bytes: &[u8]) {
    let folder = folder();
    let path = folder.path().join("model.gguf");
    write(&path, bytes);
    let file = match Gguf::open(&path) {
        Ok(file) => file,
        Err(error) => return check_error(&error),
    };
    for tensor in file.tensors().values() {
        let rows = tensor.rows();
        let bytes = file.row_bytes(tensor, 0..rows).len();
        assert_eq!(bytes, rows * tensor.row_bytes(), "{tensor:?}");
    }
    for key in file.keys() {
        let read = [
            file.text(key).map(drop),
            file.flag(key).map(drop),
            file.size(key).map(drop),
            file.number(key).map(drop),
            file.texts(key).map(drop),
            file.numbers(key).map(drop),
            file.sizes(key).map(drop),
            file.flags(key).map(drop),
        ];
        for error in read.into_iter().filter_map(Result::err) {
            check_error(&error);
        }
    }
    match GgufTokenizer::of(&file) {
        Ok(tokenizer) => check_tokenizer(folder.path(), &tokenizer),
        Err(error) => check_error(&error),
    }
}

/// Opens the files of a tokenizer, and tokenizes with it.
fn check_tokenizer(folder: &Path, files: &GgufTokenizer) {
    for (name, value) in [
        ("tokenizer.json", &files.tokenizer),
        ("tokenizer_config.json", &files.config),
        ("generation_config.json", &files.generation),
    ] {
        write(&folder.join(name), value.to_string().as_bytes());
    }
    match Tokenizer::open(folder) {
        Ok(tokenizer) => {
            for text in ["", "a b\n", "🙂<s>"] {
                if let Err(error) = tokenizer.ids(text, true) {
                    check_error(&error);
                }
            }
        }
        Err(error) => check_error(&error),
    }
}

/// Reads an adapter's config. An accepted config must fit some model.
pub fn adapter_config(bytes: &[u8]) {
    let folder = folder();
    write(&folder.path().join("adapter_config.json"), bytes);
    write(
        &folder.path().join("adapter_model.safetensors"),
        b"\x02\0\0\0\0\0\0\0{}",
    );
    if let Ok(facts) = Features::read(folder.path(), None) {
        let _ = Consumer::ALL.map(|consumer| findings(consumer, &facts, Some(ShippedForm::Peft)));
    }
    match peft::read_config(folder.path()) {
        Ok(config) => check_adapter(&config),
        Err(error) => check_error(&error),
    }
}

fn check_adapter(config: &LoraConfig) {
    assert!(config.rank > 0 && config.alpha > 0.0, "{config:?}");
    portability(&Features::of(config, None));
    let module = |name: String, role| LinearSpec {
        name,
        inputs: 8,
        outputs: 16,
        bias: false,
        kind: LinearKind::Module,
        role,
        order: WeightOrder::OutIn,
    };
    let parts = ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj"];
    let in_layers =
        |layer| parts.map(|part| module(format!("model.layers.{layer}.{part}"), Role::Projection));
    let tables = [
        ("model.embed_tokens", Role::Embedding),
        ("lm_head", Role::TiedHead),
    ];
    let tables = tables.map(|(name, role)| module(name.to_owned(), role));
    let projections: Vec<_> = (0..2).flat_map(in_layers).chain(tables).collect();
    let names: Vec<String> = projections
        .iter()
        .map(|linear| linear.name.clone())
        .collect();
    match config.resolve(&names) {
        Ok(targets) => {
            assert!(!targets.is_empty());
            let is_sound = |module: &String, rank, scale: f64| {
                names.contains(module) && rank > 0 && scale.is_finite()
            };
            assert!(
                targets
                    .iter()
                    .all(|target| is_sound(&target.module, target.rank, target.scale)),
                "{targets:?}"
            );
            match config.table_targets(&projections) {
                Ok(tables) => {
                    let parameters = config
                        .parameters(&projections)
                        .expect("its targets were resolved");
                    let of_tables = tables
                        .iter()
                        .filter_map(TableTarget::shape)
                        .map(|[rows, width]| rows.checked_mul(width));
                    let wanted = targets
                        .iter()
                        .map(|target| target.rank.checked_mul(8 + 16))
                        .chain(of_tables)
                        .sum();
                    assert_eq!(Some(parameters), wanted, "{targets:?}, {tables:?}");
                }
                Err(error) => check_error(&error),
            }
        }
        Err(error) => check_error(&error),
    }
    if let Err(error) = config.check_names(&names) {
        check_error(&error);
    }
}

/// Renders a chat template. Spans must lie in the text that is rendered without them.
pub fn chat_template(bytes: &[u8]) {
    let Some(source) = str::from_utf8(bytes)
        .ok()
        .filter(|source| !multiplies(source))
    else {
        return;
    };
    let template = match template(source, ENCODER.tokenizer.special()) {
        Ok(template) => template,
        Err(error) => return check_error(&error),
    };
    template.identity();
    for conversation in conversations() {
        for prompt in [false, true] {
            let text = match template.render(&conversation, prompt) {
                Ok(text) => text,
                Err(error) => return check_error(&error),
            };
            match template.render_with_spans(&conversation, prompt) {
                Ok(rendered) => check_spans(&rendered, &text),
                Err(error) => check_error(&error),
            }
        }
    }
}

/// Returns whether the template has a number, other than a year, that could make texts or loops
/// large.
///
/// The command line limits the memory of a template by a separate process, as `tests/hostile.rs`
/// shows; here it is not limited.
fn multiplies(source: &str) -> bool {
    let words = source.split(|c: char| !c.is_ascii_digit() && c != '_');
    let mut numbers = words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    numbers.any(|digits| {
        digits.len() > MOST_DIGITS && !(digits.len() == 4 && digits.starts_with("20"))
    })
}

fn template(
    source: &str,
    special: &SpecialTokens,
) -> Result<ChatTemplate, rankine::data::template::TemplateError> {
    ChatTemplate::new(
        source,
        special,
        "2025-01-01T00:00:00Z".parse().expect("a time"),
    )
}

fn conversations() -> impl Iterator<Item = Conversation> {
    let function = json!({"name": "look", "arguments": {"at": "tort"}});
    let call = json!([{"id": "1", "type": "function", "function": function}]);
    let tool =
        json!({"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}});
    let plain = json!([
        {"role": "system", "content": "short"},
        {"role": "user", "content": "Grüße 🙂"},
        {"role": "assistant", "content": "<think>\nso\n</think>\n\né🙂"},
        {"role": "user", "content": "é🙂"},
        {"role": "assistant", "content": " bye\n"},
    ]);
    let calling = json!([
        {"role": "user", "content": "a tort?"},
        {"role": "assistant", "content": "", "reasoning": "hm", "tool_calls": call},
        {"role": "tool", "name": "look", "content": "a wrong"},
        {"role": "assistant", "content": "a wrong"},
    ]);
    [
        (plain, None),
        (calling, Some(vec![tool])),
        (json!([]), None),
    ]
    .into_iter()
    .map(|(messages, tools)| Conversation {
        messages: messages.as_array().cloned().unwrap_or_default(),
        tools,
        ..Conversation::default()
    })
}

fn check_spans(rendered: &Rendered, text: &str) {
    assert_eq!(rendered.text, text);
    let mut end = 0;
    for span in &rendered.assistant {
        assert!(
            span.start >= end && text.get(span.clone()).is_some_and(|said| !said.is_empty()),
            "{span:?} of {text:?}"
        );
        end = span.end;
    }
}

/// Reads a checkpoint whose state or manifest is these bytes. Whatever they are, the checkpoint
/// before it must remain usable.
pub fn checkpoint_state(bytes: &[u8]) {
    let state = str::from_utf8(bytes)
        .ok()
        .and_then(|text| State::parse(text).ok());
    if let Some(state) = &state {
        assert_eq!(State::parse(&print(state)).as_ref(), Ok(state));
    }
    let run = folder();
    let of_state = state.as_ref().map_or(1, |state| state.step);
    checkpoint(run.path(), 0, print(&State::start()).as_bytes());
    checkpoint(run.path(), of_state, bytes);
    check_latest(run.path(), if state.is_some() { of_state } else { 0 });

    let run = folder();
    let mut next = State::start();
    next.step = 1;
    checkpoint(run.path(), 0, print(&State::start()).as_bytes());
    let path = checkpoint(run.path(), next.step, print(&next).as_bytes());
    write(&path.join("manifest.json"), bytes);
    check_latest(run.path(), u64::from(verify_manifest(&path).is_ok()));
}

fn print(state: &State) -> String {
    serde_json::to_string(state).expect("a state can be printed")
}

/// Writes a checkpoint that holds nothing except a state.
fn checkpoint(run: &Path, step: u64, state: &[u8]) -> PathBuf {
    let path = run
        .join(RunFolder::CHECKPOINTS)
        .join(format!("step-{step}"));
    write(&path.join("state.json"), state);
    write_manifest(&path).expect("written");
    path
}

fn check_latest(run: &Path, step: u64) {
    let latest = Checkpoint::latest(run, &|_| {})
        .expect("all can be read")
        .expect("that of step 0 is whole");
    assert_eq!(latest.state.step, step);
    verify_manifest(latest.path()).expect("the latest one is whole");
}

/// Reads a Parquet file, or rows to be written as one: a line with the format and the tokens to
/// train on, then one line per row with tab-separated cells.
///
/// Every row must have one outcome, and kept rows must fit the model.
pub fn parquet_rows(bytes: &[u8]) {
    let folder = folder();
    let path = folder.path().join("rows.parquet");
    if bytes.starts_with(b"PAR1") {
        write(&path, bytes);
        for (_, format) in Format::WORDS {
            open_rows(&path, *format, TrainOn::Assistant);
        }
        return;
    }
    let (head, rows) = bytes.split_at(
        bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(bytes.len()),
    );
    let head = String::from_utf8_lossy(head);
    let mut words = head.split(' ');
    let format = words.next().and_then(Format::parse).unwrap_or(Format::Text);
    let rows: Vec<&[u8]> = rows.split(|byte| *byte == b'\n').skip(1).collect();
    write_rows(&path, format, &rows);
    if let Some(read) = open_rows(
        &path,
        format,
        words
            .next()
            .and_then(TrainOn::parse)
            .unwrap_or(TrainOn::Assistant),
    ) {
        assert_eq!(read, rows.len() as u64);
    }
}

fn write_rows(path: &Path, format: Format, rows: &[&[u8]]) {
    let column = |(index, name): (usize, &&'static str)| {
        let cells = rows
            .iter()
            .map(|row| row.split(|byte| *byte == b'\t').nth(index));
        (
            *name,
            Arc::new(cells.collect::<BinaryArray>()) as ArrayRef,
            true,
        )
    };
    let columns = format.columns().iter().enumerate().map(column);
    let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
    let mut writer = ArrowWriter::try_new(File::create(path).expect("made"), batch.schema(), None)
        .expect("a schema");
    writer.write(&batch).expect("written");
    writer.close().expect("written");
}

/// Opens the rows and returns how many were read; `None` if they make no corpus. A second corpus,
/// from the cache, must be the same.
fn open_rows(path: &Path, format: Format, train_on: TrainOn) -> Option<u64> {
    let sources = [DataSource {
        files: vec![path.to_owned().into()],
        selected: None,
        format,
        columns: BTreeMap::new(),
        roles: BTreeMap::new(),
        train_on,
        system: None,
        labels: None,
    }];
    let limits = Limits {
        sequence_len: SEQUENCE_LEN,
        truncation: Truncation::Truncate,
    };
    let cache = path.with_file_name("cache");
    let open = || Corpus::open(&sources, &ENCODER, &limits, &cache, &|_| {});
    let corpus = open().inspect_err(|error| check_error(error)).ok()?;
    check_rows(&corpus);
    let contents = corpus.contents();
    assert_eq!(open().expect("it was opened before").contents(), contents);
    let read = corpus.rows_read();
    let divided = Divided {
        split: split(&contents, Holdout::Rows(1)),
        duplicates: duplicates(&contents),
        left_out: std::collections::BTreeMap::new(),
        corpus,
    };
    let total = divided.ledger(sources.len()).total();
    assert_eq!(
        (total.rows, total.kept() + total.dropped()),
        (read, read),
        "{total:?}"
    );
    Some(read)
}

fn check_rows(corpus: &Corpus) {
    for row in (0..corpus.len()).map(|index| corpus.row(index)) {
        let (ids, trained) = (row.ids(), row.trained());
        assert!(
            ids.len() == trained.len() && ids.len() <= SEQUENCE_LEN,
            "{} ids, {} labels",
            ids.len(),
            trained.len()
        );
        assert!(!trained[0] && trained.contains(&true), "{trained:?}");
        assert!(
            ids.iter()
                .all(|id| (*id as usize) < ENCODER.tokenizer.vocab_size()),
            "{ids:?}"
        );
    }
}
