//! Vectors of the texts of files, by a base with or without an adapter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::base::{base_with, find_adapter, find_base, read_adapter, storage_of_run};
use super::self_check::is_proven;
use crate::adapter::attach;
use crate::data::convert::{Reading, data_files};
use crate::data::tokenize::Tokenizer;
use crate::data::{Batch, find_files, texts};
use crate::export::{Vectors, write_vectors};
use crate::fault::{Exit, Failure, Fault};
use crate::files::{JSON_BYTES, RowCache, cache_folder, read_text_up_to};
use crate::model::{Decoder, Folder};
use crate::report::{Event, Reporter};
use crate::terms::{Format, Pooling};
use crate::train::vectors_of;
use crate::{device, terms};

/// What to make vectors of, and with what.
#[derive(Debug)]
pub struct EmbedRequest {
    /// Files or folders of rows, or a pattern of them.
    pub data: PathBuf,
    /// The column of texts.
    pub column: String,
    /// The folder of the base, or a Hub id in the cache; without it that of the adapter.
    pub base: Option<PathBuf>,
    /// The adapter.
    pub adapter: Option<PathBuf>,
    /// The pooling; without it that of the adapter's or the base's folder, else the mean.
    pub pooling: Option<Pooling>,
    /// The numbers of a vector to keep; without it all.
    pub width: Option<usize>,
    /// The most tokens of a text; without it as many as the folder says, or the base has.
    pub max_tokens: Option<usize>,
    /// Texts that are computed at a time.
    pub batch_size: usize,
    /// The Parquet file to write.
    pub out: PathBuf,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Embedded {
    /// Rows of the files, each with a vector or without.
    pub rows: usize,
    /// Rows without a text.
    pub without_text: usize,
    /// Texts that were cut to the most tokens.
    pub cut: usize,
    /// Numbers of a vector.
    pub width: usize,
    /// How rows of tokens became vectors.
    pub pooling: Pooling,
}

/// Makes a vector of length 1 for each text and writes them, in the order of the rows.
///
/// # Errors
/// There are no such files or no such model, or the result cannot be written.
pub fn embed(request: &EmbedRequest, report: Reporter) -> Result<Embedded, Failure> {
    let texts = read(request, report)?;
    let adapter = request.adapter.as_deref().map(find_adapter).transpose()?;
    let base = find_base(request.base.as_deref(), adapter.as_deref())?;
    let folder = base_with(&base, adapter.as_deref())?;
    let spec = &folder.spec;
    let width = request.width.unwrap_or(spec.width);
    if width > spec.width {
        let message = format!("--dim {width}: vectors of this base have {}", spec.width);
        return Err(Failure::new(Exit::Usage, Fault::new(message)));
    }
    let folders: Vec<&Path> = adapter.as_deref().into_iter().chain([&*base]).collect();
    let pooling = request
        .pooling
        .or_else(|| folders.iter().find_map(|folder| pooling_of(folder)));
    let pooling = pooling.unwrap_or(Pooling::Mean);
    let of_folder = || folders.iter().find_map(|folder| max_tokens_of(folder));
    let most = request
        .max_tokens
        .or_else(of_folder)
        .unwrap_or(spec.context);
    let most = spec
        .longest()
        .map_or(most, |longest| most.min(longest))
        .max(1);
    let tokenizer = Tokenizer::open_with(&base, adapter.as_deref())?;
    let tokens = tokenized(&tokenizer, &texts, most)?;
    let decoder = load(&folder, adapter.as_deref(), report)?;
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; texts.len()];
    // Texts of about one length are computed together.
    let mut order: Vec<usize> = (0..texts.len())
        .filter(|row| tokens.ids[*row].is_some())
        .collect();
    order.sort_by_key(|row| (tokens.ids[*row].as_ref().map(Vec::len), *row));
    let mut done = 0;
    for rows in order.chunks(request.batch_size.max(1)) {
        let of = |row: &usize| Some((*row as u64, vec![tokens.ids[*row].clone()?]));
        let batch = Batch::of_texts(rows.iter().filter_map(of), pooling);
        let all = vectors_of(&decoder, &batch);
        for (row, vector) in rows.iter().zip(all.chunks(spec.width)) {
            vectors[*row] = Some(normalized(&vector[..width]));
        }
        done += rows.len();
        report(Event::Progress {
            what: "embedding".to_owned(),
            done: done as u64,
            total: order.len() as u64,
        });
    }
    report(Event::Ended);
    let rows = Vectors {
        column: &request.column,
        texts: &texts,
        vectors: &vectors,
        width,
    };
    write_vectors(&request.out, &rows)?;
    Ok(Embedded {
        rows: texts.len(),
        without_text: texts.len() - order.len(),
        cut: tokens.cut,
        width,
        pooling,
    })
}

fn read(request: &EmbedRequest, report: Reporter) -> Result<Vec<Option<String>>, Failure> {
    let columns = BTreeMap::from([("text".to_owned(), request.column.clone())]);
    let reading = Reading {
        format: Some(Format::Text),
        columns: &columns,
    };
    let paths = find_files(&request.data.to_string_lossy())?;
    let files = data_files(&paths, reading, &RowCache::from(&cache_folder()), report)?;
    let mut all = Vec::new();
    for file in &files {
        all.extend(texts(file, &request.column)?);
    }
    Ok(all)
}

/// The tokens of texts, and how many texts were cut.
struct Tokens {
    ids: Vec<Option<Vec<u32>>>,
    cut: usize,
}

/// Tokenizes texts. A text that is too long loses tokens before those that the tokenizer puts at
/// the end.
fn tokenized(
    tokenizer: &Tokenizer,
    texts: &[Option<String>],
    most: usize,
) -> Result<Tokens, Failure> {
    let mut tokens = Tokens {
        ids: Vec::with_capacity(texts.len()),
        cut: 0,
    };
    let closing = tokenizer.closing();
    for text in texts {
        let mut ids = match text.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => tokenizer.ids(text, true)?,
            None => Vec::new(),
        };
        if ids.len() > most {
            tokens.cut += 1;
            let kept = most.saturating_sub(closing.len());
            ids.truncate(kept);
            ids.extend(closing.iter().take(most - kept));
        }
        tokens.ids.push(Some(ids).filter(|ids| !ids.is_empty()));
    }
    Ok(tokens)
}

fn load(folder: &Folder, adapter: Option<&Path>, report: Reporter) -> Result<Decoder, Failure> {
    let storage = adapter.map_or(terms::ModelDtype::Auto.into(), storage_of_run);
    let adapter = adapter
        .map(|adapter| read_adapter(adapter, &folder.spec.modules(), report))
        .transpose()?;
    device::set_threads(0);
    let chosen = device::choose(terms::Device::Auto, &is_proven).device;
    let (device, storage) = (
        device::open(chosen)?,
        folder.kept_in(storage, device::halves(chosen))?,
    );
    let mut decoder = folder.load(storage, &device, report)?;
    if let Some((config, numbers)) = adapter {
        attach(&mut decoder, &config, 0, Some(&numbers))?;
    }
    report(Event::Ended);
    Ok(decoder.settled())
}

fn normalized(vector: &[f32]) -> Vec<f32> {
    let squares: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
    let length = squares.sqrt().max(1e-12);
    vector
        .iter()
        .map(|x| (f64::from(*x) / length) as f32)
        .collect()
}

fn json_of(folder: &Path, name: &str) -> Option<Value> {
    serde_json::from_str(&read_text_up_to(&folder.join(name), JSON_BYTES).ok()?).ok()
}

/// Returns the pooling that a folder of sentence-transformers says.
fn pooling_of(folder: &Path) -> Option<Pooling> {
    let config = json_of(folder, "1_Pooling/config.json")?;
    [
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_lasttoken", Pooling::Last),
        ("pooling_mode_cls_token", Pooling::First),
    ]
    .into_iter()
    .find(|(key, _)| config[key] == true)
    .map(|(_, pooling)| pooling)
}

/// Returns the most tokens that a folder of sentence-transformers says.
fn max_tokens_of(folder: &Path) -> Option<usize> {
    let most = json_of(folder, "sentence_bert_config.json")?["max_seq_length"].as_u64()?;
    usize::try_from(most).ok()
}
