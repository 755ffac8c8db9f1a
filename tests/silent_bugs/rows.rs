//! Rows as the training loop gets them, from Parquet files to the batch, written out with what is
//! trained between `«` and `»`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow::array::ArrayRef;
use rankine::data::template::ChatTemplate;
use rankine::data::tokenize::Tokenizer;
use rankine::data::{
    Batch, Corpus, DataSource, Divided, Encoder, Limits, RowCounts, Rows, duplicates, split,
};
use rankine::terms::{Format, Holdout, TrainOn, Truncation};
use serde_json::json;

use crate::common::{golden, json};
use crate::support::{Desk, texts};

/// Longer than every row of these tests.
pub const ALL: Limits = Limits {
    sequence_len: 4096,
    truncation: Truncation::Error,
};

/// Stock templates of transformers' models, as the models ship them.
pub const STOCK: [&str; 7] = [
    "chatml",
    "deepseek",
    "gemma",
    "llama3",
    "mistral_v3",
    "phi3",
    "qwen3",
];

/// A tokenizer and a template, its own if none is given.
pub fn encoder(folder: &Path, template: Option<&str>) -> Encoder {
    let tokenizer = Tokenizer::open(folder).unwrap();
    let source = template
        .map(str::to_owned)
        .or_else(|| tokenizer.chat_template().map(str::to_owned));
    let started = "2025-01-01T00:00:00Z".parse().unwrap();
    let template =
        source.map(|source| ChatTemplate::new(&source, tokenizer.special(), started).unwrap());
    Encoder {
        tokenizer,
        template,
    }
}

/// What a base that ships a stock template has beside its weights, and the template.
pub fn stock(desk: &Desk, name: &str) -> (Encoder, String) {
    let stock = json(&golden(&format!("chat/{name}.json")));
    let folder = desk.path(name);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(
        golden("chat/tokenizer/tokenizer.json"),
        folder.join("tokenizer.json"),
    )
    .unwrap();
    let config = json!({"bos_token": stock["bos_token"], "eos_token": stock["eos_token"]});
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    let template = stock["template"].as_str().unwrap().to_owned();
    (encoder(&folder, Some(&template)), template)
}

/// A data file on the desk as a recipe's entry.
pub fn source(
    desk: &Desk,
    name: &str,
    format: Format,
    columns: Vec<(&str, ArrayRef)>,
) -> DataSource {
    desk.write_rows(name, columns);
    DataSource {
        files: vec![desk.path(name).into()],
        selected: None,
        format,
        columns: BTreeMap::new(),
        roles: BTreeMap::new(),
        train_on: TrainOn::Assistant,
        system: None,
        labels: None,
    }
}

/// Conversations as a recipe's entry: role and words of each turn.
pub fn chats(desk: &Desk, conversations: &[&[(&str, &str)]]) -> DataSource {
    let messages = |turns: &&[(&str, &str)]| {
        json!(
            turns
                .iter()
                .map(|(role, content)| json!({"role": role, "content": content}))
                .collect::<Vec<_>>()
        )
        .to_string()
    };
    source(
        desk,
        "chats.parquet",
        Format::Chat,
        vec![("messages", texts(conversations.iter().map(messages)))],
    )
}

/// The rows of sources, through the desk's token cache.
pub fn open(
    desk: &Desk,
    encoder: &Encoder,
    sources: &[DataSource],
    limits: Limits,
) -> Result<Corpus, String> {
    Corpus::open(sources, encoder, &limits, &desk.path("cache"), &|_| {})
        .map_err(|error| error.to_string())
}

/// What became of every row of a corpus.
pub fn tally(corpus: Corpus) -> RowCounts {
    let contents = corpus.contents();
    let divided = Divided {
        split: split(&contents, Holdout::Rows(0)),
        duplicates: duplicates(&contents),
        left_out: BTreeMap::new(),
        corpus,
    };
    divided.ledger(1).total()
}

/// All rows of a corpus in one batch, as the loop makes it.
pub fn batch(corpus: &Corpus) -> Batch {
    let all: Vec<u32> = (0..corpus.len() as u32).collect();
    Rows::new(corpus, all.clone()).batch(&all)
}

/// Every row of the sources as the loop gets it.
pub fn seen(desk: &Desk, encoder: &Encoder, sources: &[DataSource]) -> Vec<String> {
    let corpus = open(desk, encoder, sources, ALL).unwrap();
    let batch = batch(&corpus);
    (0..corpus.len())
        .map(|row| written(encoder, &batch, row, corpus.row(row).len()))
        .collect()
}

/// A row of a batch; a target that is not the token behind its position fails.
fn written(encoder: &Encoder, batch: &Batch, row: usize, tokens: usize) -> String {
    let start: usize = batch.lengths[..row].iter().sum();
    assert_eq!(batch.lengths[row], tokens);
    let ids = &batch.ids[start..start + tokens];
    let mut trained = vec![false; tokens];
    let positions = batch.positions.iter().map(|position| *position as usize);
    for (position, target) in positions
        .zip(&batch.targets)
        .filter(|(position, _)| (start..start + tokens).contains(position))
    {
        assert_eq!(
            ids.get(position + 1 - start),
            Some(target),
            "the target of position {position} is not the next token"
        );
        trained[position + 1 - start] = true;
    }
    let tokens: Vec<(bool, u32)> = trained
        .into_iter()
        .zip(ids.iter().map(|id| id.cast_unsigned()))
        .collect();
    let run = |run: &[(bool, u32)]| {
        let ids: Vec<u32> = run.iter().map(|(_, id)| *id).collect();
        let text = encoder.tokenizer.decode(&ids, false).unwrap();
        if run[0].0 {
            format!("«{text}»")
        } else {
            text
        }
    };
    tokens
        .chunk_by(|left, right| left.0 == right.0)
        .map(run)
        .collect()
}
