//! The rows of all sources as tokens, by index: made from the data files or taken from the cache, and cut to the limits of the run.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rayon::prelude::*;

use super::cache::{Cache, Row, Writer};
use super::encode::{self, Encoder, TokenRow};
use super::format;
use super::ledger::{Ledger, Longest, Tally};
use super::parquet::{self, Batch, Place, Table};
use super::source::Source;
use crate::fault::{Exit, Explain};
use crate::files::{self, Hash};
use crate::report::{Event, Reporter};
use crate::terms::{Format, Term, Truncation};

/// How long a row may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a row at most.
    pub sequence_len: usize,
    /// What happens to a longer one.
    pub truncation: Truncation,
}

/// Data that makes no corpus.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A data file cannot be read.
    #[error(transparent)]
    Table(#[from] parquet::Error),
    /// A row makes no example.
    #[error("{place}, column `{column}`: {cause}")]
    Shape {
        /// The row.
        place: Place,
        /// Its main column in the file.
        column: String,
        /// What is wrong with it.
        #[source]
        cause: Box<format::Error>,
    },
    /// An example makes no tokens.
    #[error("{place}, column `{column}`: {cause}")]
    Encode {
        /// The row.
        place: Place,
        /// Its main column in the file.
        column: String,
        /// What is wrong with it.
        #[source]
        cause: Box<encode::Error>,
    },
    /// The cache folder cannot be written.
    #[error("the token cache cannot be written: {cause}")]
    Cache {
        /// What failed.
        #[source]
        cause: files::Error,
    },
    /// Rows are too long, and the recipe wants none of them cut or dropped.
    #[error("{too_long} of {rows} rows are longer than sequence_len: {sequence_len}, the longest is {longest}")]
    TooLong {
        /// How many.
        too_long: u64,
        /// Rows in all.
        rows: u64,
        /// The limit.
        sequence_len: usize,
        /// The longest.
        longest: Longest,
    },
    /// More rows than an index can count.
    #[error("the datasets have more than {} rows", u32::MAX)]
    TooMany,
}

impl Explain for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Table(error) => error.exit(),
            Self::Shape { cause, .. } => cause.exit(),
            Self::Encode { cause, .. } => cause.exit(),
            Self::Cache { .. } => Exit::Io,
            Self::TooLong { .. } | Self::TooMany => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Table(error) => error.hint(),
            Self::Shape { cause, .. } => cause.hint(),
            Self::Encode { cause, .. } => cause.hint(),
            Self::Cache { .. } => Some("set RANKINE_CACHE to a folder that can be written and has room".into()),
            Self::TooLong { longest, .. } => Some(format!(
                "raise `training.sequence_len` to {}, or set `training.truncation` to `drop` or `truncate`",
                longest.tokens
            )),
            Self::TooMany => Some("train on fewer files at a time".into()),
        }
    }
}

/// The rows that a run uses, by index; those of the first source come first.
#[derive(Debug)]
pub struct Corpus {
    caches: Vec<Cache>,
    kept: Vec<Slot>,
    sequence_len: usize,
    ledger: Ledger,
}

/// Where a kept row is.
#[derive(Debug, Clone, Copy)]
struct Slot {
    cache: u32,
    row: u32,
}

impl Corpus {
    /// Opens the rows of all sources: files that the folder `cache` does not hold as tokens yet are tokenised, in parallel, and
    /// their text dropped as it goes. Then the limits are applied and every row that is not kept is counted.
    ///
    /// # Errors
    /// A file or row cannot be read or encoded, with its place; the cache folder cannot be written; or a row is too long and
    /// `truncation` is `error`.
    pub fn open(sources: &[Source], encoder: &Encoder, limits: &Limits, cache: &Path, report: Reporter) -> Result<Self, Error> {
        let sequence_len = limits.sequence_len;
        let mut corpus = Self { caches: Vec::new(), kept: Vec::new(), sequence_len, ledger: Ledger::default() };
        for source in sources {
            let mut tally = Tally::default();
            for file in &source.files {
                let rows = open_cache(file, source, encoder, cache, report)?;
                corpus.admit(file, rows, limits.truncation, &mut tally)?;
            }
            corpus.ledger.sources.push(tally);
        }
        let total = corpus.ledger.total();
        match (limits.truncation, total.longest) {
            (Truncation::Error, Some(longest)) if total.too_long > 0 => {
                Err(Error::TooLong { too_long: total.too_long, rows: total.rows, sequence_len, longest })
            }
            _ => Ok(corpus),
        }
    }

    /// Rows that are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether no row is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// A kept row, no longer than the limit.
    ///
    /// # Panics
    /// There is no such row.
    pub fn row(&self, index: usize) -> Row<'_> {
        let Slot { cache, row } = self.kept[index];
        self.caches[cache as usize].row(row as usize).first(self.sequence_len)
    }

    /// What became of every row.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn admit(&mut self, file: &Path, cache: Cache, truncation: Truncation, tally: &mut Tally) -> Result<(), Error> {
        let cache_index = self.caches.len() as u32;
        for row_index in 0..cache.len() {
            let whole = cache.row(row_index);
            tally.see(whole.len(), file, row_index as u64);
            let row = whole.first(self.sequence_len);
            let is_cut = row.len() < whole.len();
            if is_cut && truncation != Truncation::Truncate {
                tally.too_long += 1;
            } else if row.trained_tokens() == 0 {
                tally.untrained += 1;
            } else {
                tally.keep(&row, is_cut);
                self.kept.push(Slot { cache: cache_index, row: u32::try_from(row_index).map_err(|_| Error::TooMany)? });
            }
        }
        self.caches.push(cache);
        if u32::try_from(self.kept.len()).is_err() { Err(Error::TooMany) } else { Ok(()) }
    }
}

/// The tokens of one data file, from the cache if they are there and whole.
fn open_cache(file: &Path, source: &Source, encoder: &Encoder, folder: &Path, report: Reporter) -> Result<Cache, Error> {
    let key = cache_key(file, source, encoder)?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let path = folder.join(format!("{stem}-{}.tokens", &key.to_string()[..32]));
    if path.exists() {
        match Cache::open(&path, key) {
            Ok(cache) => return Ok(cache),
            Err(reason) => report(Event::Note(format!("the token cache `{}` is made again: {reason}", path.display()))),
        }
    }
    let mut writer = Writer::create(&path, key).map_err(|cause| Error::Cache { cause })?;
    tokenise(file, source, encoder, &mut writer, report)?;
    writer.finish().map_err(|cause| Error::Cache { cause })?;
    Cache::open(&path, key).map_err(|reason| Error::Cache { cause: unreadable(path, reason) })
}

fn unreadable(path: PathBuf, reason: String) -> files::Error {
    files::Error { action: "read back", path, cause: std::io::Error::other(reason) }
}

/// The identity of the tokens of a file: all that decides them. The data file is hashed each time, because its date is no proof of
/// its content.
fn cache_key(file: &Path, source: &Source, encoder: &Encoder) -> Result<Hash, Error> {
    let template = match source.format {
        Format::Chat => encoder.template.as_ref().map(|template| template.identity().to_string()),
        Format::Text | Format::Completion | Format::Instruction => None,
    };
    let columns = format::wanted(source.format, &source.columns);
    let parts = (
        files::hash_file(file).map_err(parquet::Error::File)?.to_string(),
        encoder.tokenizer.hash().to_string(),
        template,
        source.format.word(),
        columns.into_iter().map(|column| (column.canonical, column.name)).collect::<Vec<_>>(),
        source.train_on.word(),
    );
    Ok(files::hash_bytes(format!("{parts:?}").as_bytes()))
}

fn tokenise(file: &Path, source: &Source, encoder: &Encoder, writer: &mut Writer, report: Reporter) -> Result<(), Error> {
    let table = Table::open(file, &format::wanted(source.format, &source.columns))?;
    let what = format!("tokenising {}", file.file_name().unwrap_or_default().to_string_lossy());
    let mut done = 0;
    for row_group in table.row_groups() {
        for batch in table.read(&row_group)? {
            let batch = batch?;
            for row in encode_rows(source, encoder, &batch)? {
                writer.push(&row).map_err(|cause| Error::Cache { cause })?;
            }
            done += batch.rows() as u64;
            report(Event::Progress { what: what.clone(), done, total: table.rows() });
        }
    }
    Ok(())
}

/// The rows of a batch, or the fault of the first row that has one. Rows behind a fault are not begun: a template without end takes
/// its time for each.
fn encode_rows(source: &Source, encoder: &Encoder, batch: &Batch) -> Result<Vec<TokenRow>, Error> {
    let failed = AtomicUsize::new(usize::MAX);
    let encode = |row: usize| {
        if row > failed.load(Relaxed) {
            return Ok(TokenRow::default());
        }
        encode_row(source, encoder, batch, row).inspect_err(|_| {
            failed.fetch_min(row, Relaxed);
        })
    };
    let rows: Vec<_> = (0..batch.rows()).into_par_iter().map(encode).collect();
    // Looked through in their order, so that it is always the same fault that is told.
    rows.into_iter().collect()
}

/// The tokens of a row; none where there is nothing to learn.
fn encode_row(source: &Source, encoder: &Encoder, batch: &Batch, row: usize) -> Result<TokenRow, Error> {
    let (place, column) = (|| batch.place(row), || format::main_column(source.format, &source.columns));
    match format::read(source.format, batch, row) {
        Ok(Some(example)) => encoder.encode(&example, source.train_on).map_err(|cause| Error::Encode {
            place: place(),
            column: column(),
            cause: cause.into(),
        }),
        Ok(None) => Ok(TokenRow::default()),
        Err(format::Error::Cell(error)) => Err(error.into()),
        Err(cause) => Err(Error::Shape { place: place(), column: column(), cause: cause.into() }),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::super::encode::tests::encoder;
    use super::super::parquet::tests::{texts, write_table};
    use super::*;
    use crate::terms::TrainOn;

    const LIMITS: Limits = Limits { sequence_len: 6, truncation: Truncation::Drop };

    struct Bench {
        folder: tempfile::TempDir,
        encoder: Encoder,
        events: RefCell<Vec<Event>>,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let encoder = encoder(folder.path());
            Self { folder, encoder, events: RefCell::default() }
        }

        fn source<const ROWS: usize>(&self, name: &str, format: Format, columns: &[(&str, [&str; ROWS])]) -> Source {
            let path = self.folder.path().join(name);
            write_table(&path, columns.iter().map(|(name, rows)| (*name, texts(*rows))).collect(), 2);
            Source { files: vec![path], format, columns: BTreeMap::new(), train_on: TrainOn::Assistant }
        }

        fn open(&self, sources: &[Source], limits: Limits) -> Result<Corpus, Error> {
            self.events.borrow_mut().clear();
            let report = |event| self.events.borrow_mut().push(event);
            Corpus::open(sources, &self.encoder, &limits, &self.folder.path().join("cache"), &report)
        }

        fn caches(&self) -> Vec<PathBuf> {
            let folder = std::fs::read_dir(self.folder.path().join("cache")).expect("listed");
            folder.map(|entry| entry.expect("an entry").path()).collect()
        }
    }

    #[test]
    fn every_row_is_kept_or_counted() {
        let bench = Bench::new();
        // With bos and eos: 5, 0, 8, 6 and 7 tokens.
        let text = bench.source("text.parquet", Format::Text, &[("text", ["law", "", "longer", "tort", "ab ab"])]);
        let columns = [("prompt", ["abcdefgh", "a"]), ("completion", ["b", "b"])];
        let completion = bench.source("completion.parquet", Format::Completion, &columns);
        let sources = [text, completion];

        let dropped = bench.open(&sources, LIMITS).expect("opened");
        let tally = dropped.ledger().total();
        assert_eq!((tally.rows, tally.kept, tally.too_long, tally.truncated, tally.untrained), (7, 3, 3, 0, 1));
        assert_eq!((tally.tokens, tally.trained_tokens), (5 + 6 + 4, 4 + 5 + 2));
        assert_eq!(tally.longest.as_ref().map(|longest| (longest.tokens, longest.row)), Some((11, 0)));
        assert!((tally.dropped_share() - 4.0 / 7.0).abs() < 1e-12);

        let limits = Limits { truncation: Truncation::Truncate, ..LIMITS };
        let truncated = bench.open(&sources, limits).expect("opened");
        let tally = truncated.ledger().total();
        assert_eq!((tally.kept, tally.too_long, tally.truncated, tally.untrained), (5, 0, 2, 2), "a prompt alone trains nothing");
        assert_eq!(truncated.len(), 5);
        assert!((0..5).all(|index| truncated.row(index).len() <= 6 && truncated.row(index).trained_tokens() > 0));

        let error = bench.open(&sources, Limits { truncation: Truncation::Error, ..LIMITS }).expect_err("too long");
        let file = sources[1].files[0].display();
        let expected = format!("3 of 7 rows are longer than sequence_len: 6, the longest is row 0 of `{file}` with 11 tokens");
        assert_eq!((error.to_string(), error.exit()), (expected, Exit::Input));
        assert!(bench.events.borrow().is_empty(), "other limits need no tokenising");
    }

    #[test]
    fn the_second_run_tokenises_nothing_and_other_options_do() {
        let bench = Bench::new();
        let mut source =
            bench.source("x.parquet", Format::Completion, &[("prompt", ["a", "b", "c"]), ("completion", ["x", "y", "z"])]);
        bench.open(std::slice::from_ref(&source), LIMITS).expect("opened");
        let what = "tokenising x.parquet".to_owned();
        let progress = |done| Event::Progress { what: what.clone(), done, total: 3 };
        assert_eq!(*bench.events.borrow(), [progress(2), progress(3)]);
        bench.open(std::slice::from_ref(&source), LIMITS).expect("opened");
        assert!(bench.events.borrow().is_empty());
        source.train_on = TrainOn::All;
        let all = bench.open(std::slice::from_ref(&source), LIMITS).expect("opened");
        assert_eq!(all.row(0).trained(), [false, true, true, true]);
        assert_eq!(bench.caches().len(), 2);
    }

    #[test]
    fn a_damaged_cache_is_made_again_with_a_note() {
        let bench = Bench::new();
        let sources = [bench.source("x.parquet", Format::Text, &[("text", ["a", "b", "c"])])];
        let rows = |corpus: &Corpus| (0..corpus.len()).map(|index| corpus.row(index).ids()).collect::<Vec<_>>();
        let before = rows(&bench.open(&sources, LIMITS).expect("opened"));
        let path = bench.caches().remove(0);
        let mut bytes = std::fs::read(&path).expect("read");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(rows(&bench.open(&sources, LIMITS).expect("opened")), before);
        assert!(matches!(&bench.events.borrow()[0], Event::Note(note) if note.contains("checksum")));
    }

    #[test]
    fn a_row_that_cannot_be_used_is_told_with_its_place() {
        let bench = Bench::new();
        let good = r#"[{"role": "user", "content": "q"}]"#;
        let bad = r#"[{"role": "narrator", "content": "q"}]"#;
        let source = bench.source("x.parquet", Format::Chat, &[("messages", [good, good, good, bad, "also bad"])]);
        let error = bench.open(std::slice::from_ref(&source), LIMITS).expect_err("an unknown role");
        let place =
            format!("`{}`, row group 1, row 3, column `messages`: message 0 has role \"narrator\"", source.files[0].display());
        assert!(error.to_string().starts_with(&place), "{error}");
        assert!(bench.caches().is_empty(), "half a cache is no cache");

        let source = bench.source("x.parquet", Format::Text, &[("text", ["a", "<s>b"])]);
        let error = bench.open(std::slice::from_ref(&source), LIMITS).expect_err("two bos");
        assert!(
            error.to_string().contains("row group 0, row 1, column `text`: the row begins with the bos token twice"),
            "{error}"
        );
    }

    #[test]
    fn shards_may_differ_in_extra_columns() {
        let bench = Bench::new();
        let mut source = bench.source("a.parquet", Format::Text, &[("text", ["a"])]);
        let other = bench.source("b.parquet", Format::Text, &[("url", ["x"]), ("text", ["b"])]);
        source.files.extend(other.files);
        assert_eq!(bench.open(&[source], LIMITS).expect("opened").len(), 2);
    }

    #[test]
    fn a_cache_folder_that_cannot_be_written_names_the_variable() {
        let bench = Bench::new();
        let sources = [bench.source("x.parquet", Format::Text, &[("text", ["a"])])];
        std::fs::write(bench.folder.path().join("cache"), b"a file").expect("written");
        let error = bench.open(&sources, LIMITS).expect_err("no folder");
        assert_eq!(error.exit(), Exit::Io);
        assert!(error.hint().is_some_and(|hint| hint.contains("RANKINE_CACHE")));
    }
}
