//! The rows of all sources as tokens, by index: encoded from the data files or read from the cache,
//! and cut to the limits of the run.

use std::path::Path;
use std::path::PathBuf;

use rayon::prelude::*;

use super::build_cache::{self, Opened};
use super::error::CorpusError;
use super::row_set::RowSet;
use super::row_status::RowStatus;
use super::source::DataSource;
use super::token_cache::{Cache, CachedRow};
use super::token_slice::TokenSlice;
use crate::data::example::encode::Encoder;
use crate::data::example::unread::Counts;
use crate::data::read::data_file::DataFile;
use crate::files::{self, RowCache};
use crate::report::{Event, Reporter};
use crate::terms::Truncation;

/// Limits on the length of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of tokens in a row.
    pub sequence_len: usize,
    /// How longer rows are handled.
    pub truncation: Truncation,
}

/// The rows of a list of sources: all rows that were read, by number, and the kept rows, by index.
/// Rows of the first source come first.
#[derive(Debug)]
pub struct Corpus {
    parts: Vec<CorpusFile>,
    limits: Limits,
}

/// A data file.
#[derive(Debug)]
pub(super) struct CorpusFile {
    /// Index of its source.
    pub source: usize,
    /// The file.
    pub file: PathBuf,
    /// Its selected rows.
    cache: Cache,
    /// Number of the first selected row in the file.
    taken_from: u64,
    /// Number of rows in the file.
    rows: u64,
    /// The number of its first row.
    first: u64,
    /// Its rows that are kept.
    kept: RowSet,
    /// Number of kept rows in the files before it.
    kept_before: usize,
}

impl CorpusFile {
    fn end(&self) -> u64 {
        self.first + self.rows
    }

    /// Returns a row of the file from the cache; `None` if it is not selected.
    pub fn entry(&self, row: usize) -> Option<CachedRow<'_>> {
        let place = (row as u64).checked_sub(self.taken_from)? as usize;
        (place < self.cache.len()).then(|| self.cache.entry(place))
    }

    fn kept_end(&self) -> usize {
        self.kept_before + self.kept.len()
    }
}

impl Corpus {
    /// Opens the rows of all sources: files that `cache` does not hold as tokens yet are tokenized
    /// in parallel, and their text is dropped on the way. Then the limits are applied; rows that
    /// are not kept can still be looked up by number.
    ///
    /// # Errors
    /// A file cannot be read, a row cannot be encoded (the error has its place), or the cache
    /// folder cannot be written.
    pub fn open(
        sources: &[DataSource],
        encoder: &Encoder,
        limits: &Limits,
        cache: impl Into<RowCache>,
        report: Reporter,
    ) -> Result<Self, CorpusError> {
        let cache = cache.into();
        if let (RowCache::Shared(_), Err(found)) = (&cache, files::cache_limit()) {
            return Err(CorpusError::Limit { found });
        }
        let (mut corpus, mut has_new) = (
            Self {
                parts: Vec::new(),
                limits: *limits,
            },
            false,
        );
        for (source, of) in sources.iter().enumerate() {
            for (place, file) in of.files.iter().enumerate() {
                let taken = of
                    .selected
                    .as_ref()
                    .and_then(|selected| selected.get(place).cloned());
                for half in of.halves() {
                    let (taken, half) = (taken.clone(), *half);
                    let opened = build_cache::open(file, of, half, taken, encoder, &cache, report)?;
                    has_new |= opened.is_new;
                    corpus.push(source, file.path().to_owned(), opened)?;
                }
            }
            corpus
                .notes(source, &of.files)
                .into_iter()
                .for_each(|note| report(Event::Note(note)));
        }
        if has_new {
            build_cache::tidy(&cache, report);
        }
        Ok(corpus)
    }

    /// Returns notes on the contents of a source's rows that are unused.
    fn notes(&self, source: usize, files: &[DataFile]) -> Vec<String> {
        let parts = || self.parts.iter().filter(|part| part.source == source);
        let unread = parts()
            .map(|part| Counts::from_text(part.cache.remarks()))
            .fold(Counts::default(), Counts::and);
        unread.notes(files, parts().map(|part| part.cache.len() as u64).sum())
    }

    /// Adds a file and keeps those of its rows that the limits allow.
    fn push(&mut self, source: usize, file: PathBuf, opened: Opened) -> Result<(), CorpusError> {
        let Opened {
            cache,
            taken_from,
            rows,
            ..
        } = opened;
        u32::try_from(rows).map_err(|_| CorpusError::TooMany)?;
        let (first, kept_before) = (self.rows_read(), self.len());
        let mut part = CorpusFile {
            source,
            file,
            cache,
            taken_from,
            rows,
            first,
            kept: RowSet::default(),
            kept_before,
        };
        let is_kept = |row: usize| match part.entry(row) {
            Some(CachedRow::Row(whole)) => self.admit(whole).is_ok(),
            _ => false,
        };
        part.kept = RowSet::of(rows as usize, is_kept);
        self.parts.push(part);
        u32::try_from(self.len())
            .map_err(|_| CorpusError::TooMany)
            .map(drop)
    }

    /// Returns the names of the cache entries that hold the rows.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| part.cache.name())
    }

    /// Returns the number of rows that were read.
    pub fn rows_read(&self) -> u64 {
        self.parts.last().map_or(0, CorpusFile::end)
    }

    /// Returns the number of kept rows.
    pub fn len(&self) -> usize {
        self.parts.last().map_or(0, CorpusFile::kept_end)
    }

    /// Whether no row is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a kept row, cut to the limit.
    ///
    /// # Panics
    /// There is no such row.
    pub fn row(&self, index: usize) -> TokenSlice<'_> {
        let (part, row) = self.slot(index);
        match part.entry(row) {
            Some(CachedRow::Row(whole)) => self.cut(whole),
            other => unreachable!("only a row with tokens is kept: {other:?}"),
        }
    }

    /// Returns the number of a kept row in the order in which rows were read.
    ///
    /// # Panics
    /// There is no such row.
    pub fn number(&self, index: usize) -> u64 {
        let (part, row) = self.slot(index);
        part.first + row as u64
    }

    /// Returns the index of the source that a kept row is from.
    ///
    /// # Panics
    /// There is no such row.
    pub fn source(&self, index: usize) -> usize {
        self.slot(index).0.source
    }

    /// Returns the data file that a kept row is from.
    ///
    /// # Panics
    /// There is no such row.
    pub fn file(&self, index: usize) -> &Path {
        &self.slot(index).0.file
    }

    /// Returns the position of a kept row in its data file.
    ///
    /// # Panics
    /// There is no such row.
    pub fn position(&self, index: usize) -> u64 {
        self.slot(index).1 as u64
    }

    /// Returns the position in its file, and the file, of the row with a number.
    ///
    /// # Panics
    /// There is no such row.
    pub fn place(&self, number: u64) -> (usize, &Path) {
        let (part, row) = self.locate(number);
        (row, &part.file)
    }

    /// Returns a hash of ids and labels for each kept row; equal for equal rows.
    pub fn contents(&self) -> Vec<u64> {
        (0..self.len())
            .into_par_iter()
            .map(|index| self.row(index).content())
            .collect()
    }

    /// Returns the file of a kept row and the row's position in it.
    fn slot(&self, index: usize) -> (&CorpusFile, usize) {
        let part = &self.parts[self.parts.partition_point(|part| part.kept_end() <= index)];
        (part, part.kept.row(index - part.kept_before))
    }

    /// Returns the file of the row with a number and the row's position in it.
    pub(super) fn locate(&self, number: u64) -> (&CorpusFile, usize) {
        let part = &self.parts[self.parts.partition_point(|part| part.end() <= number)];
        (part, (number - part.first) as usize)
    }

    /// Returns the index of the row with a number, if it is kept.
    pub(super) fn index(&self, number: u64) -> Option<u32> {
        let (part, row) = self.locate(number);
        part.kept
            .place(row)
            .map(|place| (part.kept_before + place) as u32)
    }

    /// Returns the row cut to the limit, or the reason why it is left out.
    pub(super) fn admit<'a>(&self, whole: TokenSlice<'a>) -> Result<TokenSlice<'a>, RowStatus> {
        let row = self.cut(whole);
        if row.len() < whole.len() && self.limits.truncation != Truncation::Truncate {
            Err(RowStatus::TooLong)
        } else if row.has_untrained_sequence() {
            Err(RowStatus::NoTrainedToken)
        } else if row.has_equal_halves() {
            Err(RowStatus::EqualHalves)
        } else {
            Ok(row)
        }
    }

    /// Returns the maximum number of tokens of a sequence.
    pub fn limit(&self) -> usize {
        self.limits.sequence_len
    }

    /// Cuts the row to the limit.
    pub(super) fn cut<'a>(&self, whole: TokenSlice<'a>) -> TokenSlice<'a> {
        whole.first(self.limits.sequence_len)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::super::divided::{Divided, duplicates};
    use super::super::row_counts::RowCounts;
    use super::super::shuffle::split;
    use super::*;
    use crate::data::example::encode::tests::encoder;
    use crate::data::read::parquet::tests::{texts, write_table};
    use crate::fault::{Exit, Explain, revealed, without_data};
    use crate::terms::{Format, Holdout, TrainOn};

    const LIMITS: Limits = Limits {
        sequence_len: 6,
        truncation: Truncation::Drop,
    };

    struct Bench {
        folder: tempfile::TempDir,
        encoder: Encoder,
        events: RefCell<Vec<Event>>,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let encoder = encoder(folder.path());
            Self {
                folder,
                encoder,
                events: RefCell::default(),
            }
        }

        fn source<const ROWS: usize>(
            &self,
            name: &str,
            format: Format,
            columns: &[(&str, [&str; ROWS])],
        ) -> DataSource {
            let path = self.folder.path().join(name);
            write_table(
                &path,
                columns
                    .iter()
                    .map(|(name, rows)| (*name, texts(*rows)))
                    .collect(),
                2,
            );
            DataSource {
                files: vec![path.into()],
                selected: None,
                format,
                columns: BTreeMap::new(),
                roles: BTreeMap::new(),
                train_on: TrainOn::Assistant,
                system: None,
                labels: None,
            }
        }

        fn open(&self, sources: &[DataSource], limits: Limits) -> Result<Corpus, CorpusError> {
            self.events.borrow_mut().clear();
            let report = |event| self.events.borrow_mut().push(event);
            Corpus::open(
                sources,
                &self.encoder,
                &limits,
                &self.folder.path().join("cache"),
                &report,
            )
        }

        fn caches(&self) -> Vec<PathBuf> {
            let folder = std::fs::read_dir(self.folder.path().join("cache/rows")).expect("listed");
            let paths = folder.map(|entry| entry.expect("an entry").path());
            paths
                .filter(|path| path.extension().is_some_and(|end| end == "tokens"))
                .collect()
        }
    }

    fn total(corpus: Corpus, sources: usize) -> RowCounts {
        let contents = corpus.contents();
        let divided = Divided {
            split: split(&contents, Holdout::Rows(0)),
            duplicates: duplicates(&contents),
            left_out: BTreeMap::new(),
            corpus,
        };
        divided.ledger(sources).total()
    }

    #[test]
    fn every_row_is_kept_or_counted() {
        let bench = Bench::new();
        // With bos and eos: 5, 0, 8, 6 and 7 tokens.
        let text = bench.source(
            "text.parquet",
            Format::Text,
            &[("text", ["law", "", "longer", "tort", "ab ab"])],
        );
        let columns = [("prompt", ["abcdefgh", "a"]), ("completion", ["b", "b"])];
        let completion = bench.source("completion.parquet", Format::Completion, &columns);
        let sources = [text, completion];

        let dropped = bench.open(&sources, LIMITS).expect("opened");
        let tally = total(dropped, 2);
        assert_eq!(
            (
                tally.rows,
                tally.kept(),
                tally.too_long,
                tally.truncated,
                tally.untrained
            ),
            (7, 3, 3, 0, 1)
        );
        assert_eq!((tally.tokens, tally.trained_tokens), (5 + 6 + 4, 4 + 5 + 2));
        assert_eq!(
            tally
                .longest
                .as_ref()
                .map(|longest| (longest.tokens, longest.row)),
            Some((11, 0))
        );
        assert!((tally.unusable_share() - 4.0 / 7.0).abs() < 1e-12);

        let limits = Limits {
            truncation: Truncation::Truncate,
            ..LIMITS
        };
        let truncated = bench.open(&sources, limits).expect("opened");
        assert_eq!(truncated.len(), 5);
        assert!(
            (0..5).all(|index| truncated.row(index).len() <= 6
                && truncated.row(index).trained_tokens() > 0)
        );
        let tally = total(truncated, 2);
        let counts = (
            tally.kept(),
            tally.too_long,
            tally.truncated,
            tally.untrained,
        );
        assert_eq!(counts, (5, 0, 2, 2), "a prompt alone trains nothing");
        assert!(
            bench.events.borrow().is_empty(),
            "other limits need no tokenizing"
        );
    }

    #[test]
    fn rows_that_are_not_taken_are_counted_and_not_tokenized() {
        let bench = Bench::new();
        let mut source = bench.source(
            "x.parquet",
            Format::Text,
            &[("text", ["a", "b", "c", "d", "e"])],
        );
        let other = bench.source("y.parquet", Format::Text, &[("text", ["f", "", "h"])]);
        source.files.extend(other.files);
        source.selected = Some(vec![3..5, 0..2]);
        let corpus = bench
            .open(std::slice::from_ref(&source), LIMITS)
            .expect("opened");
        let done = |event: &Event| {
            if let Event::Progress { done, total, .. } = event {
                Some((*done, *total))
            } else {
                None
            }
        };
        assert_eq!(
            bench
                .events
                .borrow()
                .iter()
                .filter_map(done)
                .collect::<Vec<_>>(),
            [(1, 2), (2, 2), (2, 2)]
        );
        assert_eq!((corpus.rows_read(), corpus.len()), (8, 3));
        assert_eq!(
            (0..3).map(|index| corpus.number(index)).collect::<Vec<_>>(),
            [3, 4, 5]
        );
        let tally = total(corpus, 1);
        assert_eq!(
            (
                tally.rows,
                tally.selected(),
                tally.not_selected,
                tally.kept(),
                tally.untrained
            ),
            (8, 4, 4, 3, 1)
        );
        assert!(
            (tally.unusable_share() - 0.25).abs() < 1e-12,
            "a share of the rows that are taken"
        );
        source.selected = Some(vec![0..5, 3..3]);
        let corpus = bench
            .open(std::slice::from_ref(&source), LIMITS)
            .expect("opened");
        assert_eq!(
            (corpus.rows_read(), corpus.len()),
            (8, 5),
            "another choice is another entry of the cache"
        );
        source.selected = Some(vec![4..9, 0..3]);
        assert_eq!(
            bench.open(&[source], LIMITS).expect("opened").len(),
            3,
            "a file that is shorter now has no such rows"
        );
    }

    #[test]
    fn the_second_run_tokenizes_nothing_and_other_options_do() {
        let bench = Bench::new();
        let mut source = bench.source(
            "x.parquet",
            Format::Completion,
            &[("prompt", ["a", "b", "c"]), ("completion", ["x", "y", "z"])],
        );
        bench
            .open(std::slice::from_ref(&source), LIMITS)
            .expect("opened");
        let what = "tokenizing x.parquet".to_owned();
        let progress = |done| Event::Progress {
            what: what.clone(),
            done,
            total: 3,
        };
        assert_eq!(*bench.events.borrow(), [progress(2), progress(3)]);
        bench
            .open(std::slice::from_ref(&source), LIMITS)
            .expect("opened");
        assert!(bench.events.borrow().is_empty());
        source.train_on = TrainOn::All;
        let all = bench
            .open(std::slice::from_ref(&source), LIMITS)
            .expect("opened");
        assert_eq!(all.row(0).trained(), [false, true, true, true]);
        assert_eq!(bench.caches().len(), 2);
    }

    #[test]
    fn a_damaged_cache_is_made_again_with_a_note() {
        let bench = Bench::new();
        let sources = [bench.source("x.parquet", Format::Text, &[("text", ["a", "b", "c"])])];
        let rows = |corpus: &Corpus| {
            (0..corpus.len())
                .map(|index| corpus.row(index).ids())
                .collect::<Vec<_>>()
        };
        let before = rows(&bench.open(&sources, LIMITS).expect("opened"));
        let path = bench.caches().remove(0);
        let mut bytes = std::fs::read(&path).expect("read");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(rows(&bench.open(&sources, LIMITS).expect("opened")), before);
        assert!(
            matches!(&bench.events.borrow()[0], Event::Note(note) if note.contains("checksum"))
        );
    }

    #[test]
    fn a_broken_row_is_left_out_with_its_place_and_remembered() {
        let bench = Bench::new();
        let good = r#"[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]"#;
        let bad = r#"[{"role": "narrator\u001b", "content": "q"}]"#;
        let source = bench.source(
            "x.parquet",
            Format::Chat,
            &[("messages", [good, good, good, bad, "also bad"])],
        );
        let limits = Limits {
            sequence_len: 100,
            ..LIMITS
        };
        for run in ["made", "from the cache"] {
            let tally = total(
                bench
                    .open(std::slice::from_ref(&source), limits)
                    .expect("opened"),
                1,
            );
            assert_eq!(
                (tally.rows, tally.kept(), tally.broken, tally.duplicates),
                (5, 3, 2, 2),
                "{run}"
            );
            let place = format!(
                "`{}`, row group 1, row 3, column `messages`: message 0 has \
                role \"narrator\\u001b\", expected",
                source.files[0].path().display()
            );
            let first = tally.first_broken.expect("one is broken");
            assert!(
                revealed(&first).starts_with(&place) && !without_data(&first).contains("narrator"),
                "{run}: {first}"
            );
        }
    }

    #[test]
    fn a_fault_that_other_rows_will_share_stops_at_once() {
        let bench = Bench::new();
        let source = bench.source("x.parquet", Format::Text, &[("text", ["a", "<s>b"])]);
        let error = bench
            .open(std::slice::from_ref(&source), LIMITS)
            .expect_err("two bos");
        assert!(
            error.to_string().contains(
                "row group 0, row 1, column `text`: the row begins with the bos token twice"
            ),
            "{error}"
        );
        assert!(bench.caches().is_empty(), "half a cache is no cache");
    }

    #[test]
    fn shards_may_differ_in_extra_columns() {
        let bench = Bench::new();
        let mut source = bench.source("a.parquet", Format::Text, &[("text", ["a"])]);
        let other = bench.source(
            "b.parquet",
            Format::Text,
            &[("url", ["x"]), ("text", ["b"])],
        );
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
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("RANKINE_CACHE"))
        );
    }
}
