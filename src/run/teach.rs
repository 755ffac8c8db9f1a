//! `rankine teach`: a teacher's answers to prompts, with its most likely tokens in the place of each
//! of their tokens, as rows that a student trains on.
//!
//! Every finished row is a line of a file beside the output. Its first line names everything that
//! the answers depend on, so that the same command goes on where it was stopped, and comes to the
//! same bytes. When all prompts are answered the lines become one Parquet file.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_json::ReaderBuilder;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use super::interrupt::Interrupt;
use super::loaded_model::LoadedModel;
use crate::data::template::Conversation;
use crate::data::{Asked, Batch, DataFile, TEACHER_COLUMNS, TEACHER_TEMPERATURE, TokenRow, asked};
use crate::device;
use crate::fault::{Exit, Failure, Fault, shell_word};
use crate::files::{self, FileError, hash_bytes, hash_file, write_pieces_atomic};
use crate::infer::{InferError, Prompt, Stop};
use crate::keyed_random::mix;
use crate::model::{Cache, gguf_paths};
use crate::report::{Event, Reporter};
use crate::train::{head_chunk_rows, top_tokens};

/// Rows that become a batch of the Parquet file at a time.
const BATCH_ROWS: usize = 64;

/// What a teacher is asked, and what is kept of its answers.
#[derive(Debug, Clone)]
pub struct TeachOptions {
    /// The Parquet file with the prompts.
    pub prompts: PathBuf,
    /// Their column.
    pub column: String,
    /// Whether a text is what a user says, to be answered in the chat template.
    pub chat: bool,
    /// The Parquet file to write.
    pub out: PathBuf,
    /// The most likely tokens that are kept in each place; 0 for answers alone.
    pub top_k: usize,
    /// The temperature of their log-probabilities.
    pub temperature: f64,
    /// The seed of the draws.
    pub seed: u64,
    /// Everything that determines the model and its answers, in words.
    pub identity: String,
}

/// The result of teaching.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taught {
    /// Prompts in the file.
    pub prompts: u64,
    /// Rows that were written.
    pub rows: u64,
    /// Prompts without content.
    pub empty: u64,
    /// Answers that were cut at the most tokens, which are left out: they would teach not to end.
    pub cut: u64,
    /// Answers without a token.
    pub silent: u64,
    /// Rows that an earlier command had answered.
    pub resumed: u64,
}

/// Answers all prompts that have no answer yet, and writes the file.
///
/// # Errors
/// The prompts cannot be read or rendered, the answers so far are of another command, a file cannot
/// be written, or the interrupt was raised.
pub fn teach(
    teacher: LoadedModel,
    options: &TeachOptions,
    interrupt: &Interrupt,
    report: Reporter,
) -> Result<Taught, Failure> {
    let prompts = read_prompts(options)?;
    let mut lines = Lines::open(options)?;
    let mut taught = lines.count();
    taught.resumed = lines.answered;
    let mut work = Work { teacher, options };
    for (row, prompt) in prompts.iter().enumerate().skip(lines.answered as usize) {
        let Some(line) = work.row(row as u64, prompt.as_ref(), interrupt)? else {
            report(Event::Ended);
            let fault = Fault::new(format!(
                "stopped: {row} of {} prompts are answered",
                prompts.len()
            ));
            let hint = "the same command goes on from there";
            return Err(Failure::new(Exit::Interrupted, fault.hint(hint)));
        };
        lines.push(&line)?;
        taught.take(&line);
        report(Event::Progress {
            what: "answering".to_owned(),
            done: row as u64 + 1,
            total: prompts.len() as u64,
        });
    }
    report(Event::Ended);
    taught.prompts = prompts.len() as u64;
    let is_chat = prompts
        .iter()
        .flatten()
        .any(|asked| matches!(asked, Asked::Chat(_)));
    lines.write_table(options, is_chat)?;
    lines.remove()?;
    Ok(taught)
}

/// Reads the prompts, all texts or all conversations.
fn read_prompts(options: &TeachOptions) -> Result<Vec<Option<Asked>>, Failure> {
    let path = &options.prompts;
    let refused = |reason: String, hint: &str| {
        let fault = Fault::new(format!("`{}`: {reason}", path.display()));
        Failure::new(Exit::Input, fault.hint(hint))
    };
    if !path.is_file() {
        let fault = Fault::new(format!(
            "--prompts: `{}` does not exist, expected a Parquet file",
            path.display()
        ));
        return Err(Failure::new(Exit::NoInput, fault));
    }
    let hint = "give a Parquet file whose `--column` holds texts or lists of messages; `rankine \
        convert` makes one of other files";
    let mut prompts = asked(&DataFile::from(path.clone()), &options.column)
        .map_err(|reason| refused(reason, hint))?;
    if options.chat {
        for prompt in prompts.iter_mut().flatten() {
            if let Asked::Text(text) = &*prompt {
                let messages = vec![json!({"role": "user", "content": text})];
                *prompt = Asked::Chat(Conversation {
                    messages,
                    ..Conversation::default()
                });
            }
        }
    }
    let is_chat = |asked: &Asked| matches!(asked, Asked::Chat(_));
    let mut kinds = prompts.iter().flatten().map(is_chat);
    if let Some(first) = kinds.next()
        && kinds.any(|kind| kind != first)
    {
        return Err(refused(
            format!(
                "column `{}` holds texts and lists of messages",
                options.column
            ),
            "give texts alone or messages alone, or ask texts as messages with `--chat`",
        ));
    }
    Ok(prompts)
}

struct Work<'a> {
    teacher: LoadedModel,
    options: &'a TeachOptions,
}

impl Work<'_> {
    /// Returns the line of a row; `None` if the interrupt was raised.
    fn row(
        &mut self,
        number: u64,
        asked: Option<&Asked>,
        interrupt: &Interrupt,
    ) -> Result<Option<Value>, Failure> {
        let Some(asked) = asked else {
            return Ok(Some(json!({"left_out": "empty"})));
        };
        let prompt = match asked {
            Asked::Text(text) => Prompt::Text(text.clone()),
            Asked::Chat(conversation) => Prompt::Chat(conversation.clone()),
        };
        let placed = |failure: Failure| {
            let mut failure = failure;
            for fault in &mut failure.faults {
                fault.message = format!("prompt {number}: {}", fault.message);
            }
            failure
        };
        let of_encoder = &self.teacher.encoder;
        let tokens = prompt
            .tokens(&of_encoder.tokenizer, of_encoder.template.as_ref())
            .map_err(|error| placed(error.into()))?;
        self.teacher.seed(mix(mix(self.options.seed) ^ number));
        let context = if matches!(prompt, Prompt::Text(_)) {
            tokens.as_slice()
        } else {
            &[]
        };
        let mut cache = Cache::new(&self.teacher.decoder);
        let shown = |_: &str| Ok(std::ops::ControlFlow::Continue(()));
        let answer = self
            .teacher
            .answer(&mut cache, &tokens, context, interrupt, shown)
            .map_err(placed)?;
        match answer.generated.stop {
            Stop::Interrupted => return Ok(None),
            Stop::MaxTokens | Stop::Context => return Ok(Some(json!({"left_out": "cut"}))),
            Stop::End(_) if answer.text.trim().is_empty() => {
                return Ok(Some(json!({"left_out": "silent"})));
            }
            Stop::End(_) => {}
        }
        let (given, completion) = match asked {
            Asked::Text(text) => (json!(text), json!(answer.text)),
            Asked::Chat(conversation) => (
                json!(conversation.messages),
                json!([{"role": "assistant", "content": answer.text}]),
            ),
        };
        let mut line = json!({"prompt": given, "completion": completion});
        if self.options.top_k > 0 {
            let encoder = &self.teacher.encoder;
            let row = encoder
                .answered(asked, &answer.text)
                .map_err(|error| placed(error.into()))?;
            let vocabulary = self.teacher.decoder.spec.vocabulary;
            if let Some(id) = row
                .ids
                .iter()
                .copied()
                .find(|id| *id as usize >= vocabulary)
            {
                return Err(placed(InferError::UnknownToken { id, vocabulary }.into()));
            }
            self.read_out(number, row, &mut line);
        }
        Ok(Some(line))
    }

    /// Adds the teacher's columns to a line.
    fn read_out(&self, number: u64, row: TokenRow, line: &mut Value) {
        let decoder = &self.teacher.decoder;
        let batch = Batch::new([(number, row)]);
        let vocabulary = decoder.spec.vocabulary;
        let each = self.options.top_k.min(vocabulary);
        let wanted = (vocabulary, each, self.options.temperature);
        let top = top_tokens(decoder, &batch, head_chunk_rows(vocabulary), wanted);
        let ids: Vec<&[u32]> = top.ids.chunks(each).collect();
        let log_p: Vec<&[f32]> = top.log_p.chunks(each).collect();
        let [targets, of_ids, of_log_p] = TEACHER_COLUMNS;
        line[targets] = json!(batch.targets);
        line[of_ids] = json!(ids);
        line[of_log_p] = json!(log_p);
    }
}

impl Taught {
    fn take(&mut self, line: &Value) {
        match line["left_out"].as_str() {
            Some("empty") => self.empty += 1,
            Some("cut") => self.cut += 1,
            Some(_) => self.silent += 1,
            None => self.rows += 1,
        }
    }
}

/// The file of finished rows.
struct Lines {
    path: PathBuf,
    file: File,
    answered: u64,
}

impl Lines {
    /// Opens the rows that an earlier command left, without a last one that is cut off, or starts a
    /// file.
    fn open(options: &TeachOptions) -> Result<Self, Failure> {
        let mut name = options.out.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = options.out.with_file_name(name);
        let failed = |cause| FileError::new("write", &path, cause);
        let header = format!("{}\n", json!({"rankine": "teach", "of": key(options)?}));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let (mut whole, mut answered) = (0, 0);
        let mut reader = BufReader::new(file.try_clone().map_err(failed)?);
        let mut line = String::new();
        loop {
            line.clear();
            let read = reader.read_line(&mut line);
            // What a killed process left at the end may be no text.
            if read.is_err() || !line.ends_with('\n') {
                break;
            }
            if whole == 0 && line != header {
                let shown = path.display();
                let fault = Fault::new(format!(
                    "`{shown}` holds answers of another command: to other prompts, of another \
                    teacher or with other options"
                ));
                let hint = format!(
                    "give another `--out`, or remove it: `rm {}`",
                    shell_word(&shown.to_string())
                );
                return Err(Failure::new(Exit::Input, fault.hint(hint)));
            }
            answered += u64::from(whole > 0);
            whole += line.len() as u64;
        }
        file.set_len(whole).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        if whole == 0 {
            file.write_all(header.as_bytes()).map_err(failed)?;
        }
        Ok(Self {
            path,
            file,
            answered,
        })
    }

    fn push(&mut self, line: &Value) -> Result<(), FileError> {
        let text = format!("{line}\n");
        self.file
            .write_all(text.as_bytes())
            .map_err(|cause| FileError::new("write", &self.path, cause))
    }

    /// Passes the lines of all finished rows to `take`.
    fn each(&self, mut take: impl FnMut(Value) -> Result<(), FileError>) -> Result<(), FileError> {
        let failed = |cause| FileError::new("read", &self.path, cause);
        let file = files::open_file(&self.path)?;
        for line in BufReader::new(file).lines().skip(1) {
            let line = serde_json::from_str(&line.map_err(failed)?);
            take(line.map_err(|error| failed(error.into()))?)?;
        }
        Ok(())
    }

    /// Counts what the rows so far came to.
    fn count(&self) -> Taught {
        let mut taught = Taught::default();
        // A line that cannot be read is reported when the table is written.
        let _ = self.each(|line| {
            taught.take(&line);
            Ok(())
        });
        taught
    }

    /// Writes the Parquet file, whole or not at all.
    fn write_table(&self, options: &TeachOptions, is_chat: bool) -> Result<(), FileError> {
        let schema = schema(is_chat, options.top_k > 0);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_key_value_metadata(Some(vec![KeyValue::new(
                TEACHER_TEMPERATURE.to_owned(),
                options.temperature.to_string(),
            )]))
            .build();
        let writer_options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true);
        write_pieces_atomic(&options.out, |file| {
            let failed = |reason: String| {
                FileError::new("write", &options.out, std::io::Error::other(reason))
            };
            let mut writer =
                ArrowWriter::try_new_with_options(Output(file), schema.clone(), writer_options)
                    .map_err(|error| failed(error.to_string()))?;
            let mut rows = Vec::new();
            let mut write = |rows: &mut Vec<Value>| {
                let batch = batch(&schema, rows).map_err(failed)?;
                rows.clear();
                let Some(batch) = batch else { return Ok(()) };
                writer
                    .write(&batch)
                    .map_err(|error| failed(error.to_string()))
            };
            self.each(|line| {
                if line.get("left_out").is_none() {
                    rows.push(line);
                }
                if rows.len() < BATCH_ROWS {
                    return Ok(());
                }
                write(&mut rows)
            })?;
            write(&mut rows)?;
            writer
                .close()
                .map(drop)
                .map_err(|error| failed(error.to_string()))
        })
    }

    fn remove(self) -> Result<(), FileError> {
        drop(self.file);
        std::fs::remove_file(&self.path)
            .map_err(|cause| FileError::new("remove", &self.path, cause))
    }
}

/// A new file as the Parquet writer takes it.
struct Output<'a>(&'a mut files::NewFile);

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.0.write(bytes);
        written.map(|()| bytes.len()).map_err(|error| error.cause)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn schema(is_chat: bool, has_top: bool) -> SchemaRef {
    let list = |of: DataType| DataType::List(Arc::new(Field::new_list_field(of, true)));
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let said = if is_chat {
        let message = vec![text("role"), text("content")];
        list(DataType::Struct(message.into()))
    } else {
        DataType::Utf8
    };
    let mut fields = vec![
        Field::new("prompt", said.clone(), true),
        Field::new("completion", said, true),
    ];
    if has_top {
        let types = [
            list(DataType::Int32),
            list(list(DataType::Int32)),
            list(list(DataType::Float32)),
        ];
        let more = TEACHER_COLUMNS.into_iter().zip(types);
        fields.extend(more.map(|(name, of)| Field::new(name, of, true)));
    }
    Arc::new(Schema::new(fields))
}

fn batch(schema: &SchemaRef, rows: &[Value]) -> Result<Option<arrow::array::RecordBatch>, String> {
    if rows.is_empty() {
        return Ok(None);
    }
    let mut decoder = ReaderBuilder::new(schema.clone())
        .with_batch_size(rows.len())
        .build_decoder()
        .map_err(|error| error.to_string())?;
    decoder
        .serialize(rows)
        .and_then(|()| decoder.flush())
        .map_err(|error| error.to_string())
}

/// Returns the hash of everything that the answers depend on.
fn key(options: &TeachOptions) -> Result<String, FileError> {
    let prompts = hash_file(&options.prompts)?;
    let all = (
        env!("CARGO_PKG_VERSION"),
        device::cpu_features(),
        prompts.to_string(),
        &options.column,
        options.chat,
        options.top_k,
        options.temperature,
        options.seed,
        &options.identity,
    );
    Ok(hash_bytes(format!("{all:?}").as_bytes()).to_string())
}

/// Returns the hashes of the files of a folder that a model is made of.
///
/// # Errors
/// A file cannot be read.
pub fn model_hashes(folder: &Path) -> Result<String, FileError> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|cause| FileError::new("read", folder, cause))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            path.is_file()
                && ending.is_some_and(|ending| ["json", "safetensors", "jinja"].contains(&ending))
        })
        .collect();
    names.sort();
    // A folder that describes a GGUF file has no weights of its own.
    let weights = gguf_paths(folder).ok().flatten();
    names.extend(weights.into_iter().flatten());
    let hashes: Result<Vec<String>, FileError> = names
        .iter()
        .map(|path| Ok(hash_file(path)?.to_string()))
        .collect();
    Ok(hashes?.join(" "))
}
