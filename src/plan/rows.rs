//! The rows of a plan: read, tokenized, divided into training and validation rows, and counted.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::PlanError;
use super::alike::Straddling;
use super::mixing::Mixing;
use super::objective::Reference;
use super::overlap::{self, Overlap};
use super::resolve::Plan;
use crate::data::{
    Corpus, DataSource, Divided, Ledger, Packing, Preferences, RowRecord, Rows, Split, TopRows,
    duplicates,
};
use crate::files::{RowCache, cache_folder};
use crate::report::{Event, Reporter};
use crate::terms::{CacheMode, RowForm};
use crate::train::{self, RunFolder, StepSampler};

/// The rows of a plan, as tokens.
#[derive(Debug)]
pub struct RunData {
    pub(super) datasets: Divided,
    pub(super) evaluation: Divided,
    /// The ledger of the sources of both, training first.
    ledger: Ledger,
    /// Validation rows that are also trained on, for the sources of both.
    pub(super) overlaps: [Vec<Overlap>; 2],
    /// Training rows that are nearly the same as a validation row.
    pub(super) straddling: Option<Straddling>,
    /// How `datasets` are mixed; `None` if each row is seen once per epoch.
    pub(super) mixing: Option<Mixing>,
    /// The number of sources of `datasets`.
    sources: usize,
    /// Cache entries of data files that were converted to Parquet.
    converted: Vec<String>,
    end_ids: Vec<u32>,
    preferences: Preferences,
    /// Whether training rows are scored too.
    scores_training: bool,
    reference: ReferenceScores,
    /// The factor of the loss of each source's training rows.
    loss_weights: Vec<f32>,
    teacher: TeacherTokens,
}

/// Log-probabilities of completions under the reference, in the order of [`RunData::sets`].
#[derive(Debug, Default)]
pub struct ReferenceScores {
    /// Of each row, as [`Rows::with_reference`] takes them.
    pub sets: [Vec<[f64; 2]>; 3],
    /// The names of the cache entries that hold them.
    pub entries: Vec<String>,
}

/// The most likely tokens of rows under a teacher, in the order of [`RunData::sets`].
#[derive(Debug, Default)]
pub struct TeacherTokens {
    /// Those of each row's targets.
    pub sets: [TopRows; 3],
    /// The names of the cache entries that hold them.
    pub entries: Vec<String>,
}

impl Plan {
    /// Reads and tokenizes the data, or finds it in the cache; then splits off the validation rows
    /// and checks the result.
    ///
    /// # Errors
    /// A row cannot be read or rendered, too many are left out, or nothing is left to train on.
    pub fn read_data(&self, report: Reporter) -> Result<RunData, PlanError> {
        let data = self.open_data(report)?;
        self.judge(&data, report)?;
        Ok(data)
    }

    /// Reads and tokenizes the data, or finds it in the cache, and splits off the validation rows.
    /// [`Plan::judge`] checks whether the run may use them.
    ///
    /// # Errors
    /// A row cannot be read or rendered, for a reason that other rows will share.
    pub fn open_data(&self, report: Reporter) -> Result<RunData, PlanError> {
        self.notes()
            .into_iter()
            .for_each(|note| report(Event::Note(note)));
        self.open_rows(report)
    }

    /// Opens the rows of sources, as tokens within the limits of the plan.
    pub(super) fn corpus(
        &self,
        sources: &[DataSource],
        report: Reporter,
    ) -> Result<Corpus, PlanError> {
        let cache = self.row_cache();
        Ok(Corpus::open(
            sources,
            &self.encoder,
            &self.limits,
            cache,
            report,
        )?)
    }

    /// Opens the data without reporting on the plan.
    pub(super) fn open_rows(&self, report: Reporter) -> Result<RunData, PlanError> {
        let corpus = self.corpus(&self.sources, report)?;
        let evaluation = self.corpus(&self.validation_sources, report)?;
        let mut contents = corpus.contents();
        let datasets = self.divide(corpus, &contents, &evaluation, report);
        let straddling = self.straddling(&datasets, &evaluation);
        contents.extend(evaluation.contents());
        let of_evaluation = duplicates(&contents).split_off(datasets.corpus.len());
        let validation = Split::validation_only(evaluation.len());
        let evaluation = Divided {
            corpus: evaluation,
            split: validation,
            duplicates: of_evaluation,
            left_out: BTreeMap::new(),
        };
        let mut ledger = datasets.ledger(self.sources.len());
        ledger
            .sources
            .extend(evaluation.ledger(self.validation_sources.len()).sources);
        let (overlaps, end_ids) = (
            overlap::find(&datasets, &evaluation),
            self.encoder.tokenizer.end_ids(),
        );
        let mixing = self.mixing.clone();
        let files = self
            .sources
            .iter()
            .chain(&self.validation_sources)
            .flat_map(|source| &source.files);
        let converted = files
            .filter_map(|file| file.cache_entry().map(str::to_owned))
            .collect();
        let sources = self.sources.len();
        Ok(RunData {
            datasets,
            evaluation,
            ledger,
            overlaps,
            straddling,
            mixing,
            sources,
            converted,
            end_ids,
            preferences: self.preferences(),
            scores_training: self.aim.reference != Reference::None
                || self.aim.objective.reads_mismatched()
                || self.aim.teacher.is_some(),
            reference: ReferenceScores::default(),
            loss_weights: self.aim.loss_weights.clone(),
            teacher: TeacherTokens::default(),
        })
    }

    /// Returns the cache of tokenized rows. A recipe that has no run yet leaves nothing behind,
    /// except in the user's cache.
    pub fn row_cache(&self) -> RowCache {
        let run = Some(&self.output_dir).filter(|run| run.is_dir());
        match (self.cache, run) {
            (CacheMode::User, _) => RowCache::from(&cache_folder()),
            (CacheMode::Run, Some(run)) => RowCache::OfRun(run.join(RunFolder::CACHE)),
            _ => RowCache::Nameless(
                run.cloned()
                    .into_iter()
                    .chain([std::env::temp_dir()])
                    .collect(),
            ),
        }
    }

    /// Returns a source's key in the recipe, and its path as the recipe has it. Validation sets
    /// come last.
    pub fn source_name(&self, source: usize) -> (String, String) {
        let key = match source.checked_sub(self.sources.len()) {
            None => format!("datasets.{source}"),
            Some(index) => format!("evaluation.datasets.{index}"),
        };
        let path = self
            .setting(&format!("{key}.path"))
            .and_then(|path| path.as_str())
            .unwrap_or_default()
            .to_owned();
        (key, path)
    }
}

impl RunData {
    /// Returns the training rows.
    pub fn training(&self) -> Rows<'_> {
        let (corpus, training) = (&self.datasets.corpus, &self.datasets.split.training);
        let rows = Rows::new(corpus, training.clone())
            .reading(self.preferences)
            .with_reference(&self.reference.sets[0])
            .with_loss_weights(&self.loss_weights)
            .with_top(&self.teacher.sets[0]);
        let Some(mixing) = &self.mixing else {
            return rows;
        };
        // Rows of a source stand together.
        let before =
            |source: usize| training.partition_point(|row| corpus.source(*row as usize) < source);
        rows.mixed(
            mixing.of_rows(
                (0..self.sources).map(|source| (before(source + 1) - before(source)) as u32),
            ),
        )
    }

    /// Returns the rows as the training loop takes them, without prompts.
    pub fn rows(&self) -> train::Data<'_> {
        let [training, held_out, evaluation] = self.sets();
        train::Data {
            training,
            validation: [held_out, evaluation]
                .into_iter()
                .filter(|rows| !rows.is_empty())
                .collect(),
            end_ids: self.end_ids.iter().map(|id| id.cast_signed()).collect(),
            prompts: None,
            teacher: None,
        }
    }

    /// Returns the rows to train on, those that are held out of them, and those of validation sets.
    pub fn sets(&self) -> [Rows<'_>; 3] {
        let [_, of_held_out, of_evaluation] = &self.reference.sets;
        let [_, top_of_held_out, top_of_evaluation] = &self.teacher.sets;
        let held_out = Rows::new(
            &self.datasets.corpus,
            self.datasets.split.validation.clone(),
        );
        let evaluation = Rows::new(
            &self.evaluation.corpus,
            self.evaluation.split.validation.clone(),
        );
        [
            self.training(),
            held_out
                .reading(self.preferences)
                .with_reference(of_held_out)
                .with_top(top_of_held_out),
            evaluation
                .reading(self.preferences)
                .with_reference(of_evaluation)
                .with_top(top_of_evaluation),
        ]
    }

    /// Returns the factor of the loss of a source's row with a form.
    pub fn loss_weight(&self, source: usize, form: RowForm) -> f32 {
        self.loss_weights.get(source).copied().unwrap_or(1.0) * form.weight()
    }

    /// Gives every row the log-probabilities of its completions under the reference.
    pub fn set_reference(&mut self, scores: ReferenceScores) {
        self.reference = scores;
    }

    /// Gives every row the most likely tokens of its targets under a teacher.
    pub fn set_teacher(&mut self, tokens: TeacherTokens) {
        self.teacher = tokens;
    }

    /// Whether training rows are scored too, because of a reference or of completions of other
    /// rows.
    pub(super) fn scores_training(&self) -> bool {
        self.scores_training
    }

    /// Returns the status of every row that was read, source by source.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns the number of rows that were read.
    pub fn rows_read(&self) -> u64 {
        self.datasets.corpus.rows_read() + self.evaluation.corpus.rows_read()
    }

    /// Returns a row by its number in reading order, from 0.
    ///
    /// # Panics
    /// There is no such row.
    pub fn record(&self, number: u64) -> RowRecord<'_> {
        match number.checked_sub(self.datasets.corpus.rows_read()) {
            None => self.datasets.record(number),
            Some(number) => self.behind(self.evaluation.record(number)),
        }
    }

    /// Returns every row that was read, in order.
    pub fn records(&self) -> impl Iterator<Item = RowRecord<'_>> {
        self.datasets
            .records()
            .chain(self.evaluation.records().map(|record| self.behind(record)))
    }

    /// Renumbers the source of a validation record, since validation sources come after the others.
    fn behind<'a>(&self, record: RowRecord<'a>) -> RowRecord<'a> {
        RowRecord {
            source: record.source + self.sources,
            ..record
        }
    }

    /// Returns the names of the cache entries that hold the rows, as tokens and as converted
    /// Parquet files.
    pub fn cache_entries(&self) -> Vec<String> {
        let both = [&self.datasets.corpus, &self.evaluation.corpus];
        both.into_iter()
            .flat_map(Corpus::entries)
            .map(str::to_owned)
            .chain(self.converted.iter().cloned())
            .chain(self.reference.entries.iter().cloned())
            .chain(self.teacher.entries.iter().cloned())
            .collect()
    }

    /// Returns the tokens that end a turn or a document.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// Returns the number of training rows.
    pub fn training_rows(&self) -> usize {
        self.datasets.split.training.len()
    }

    /// Returns the number of validation rows.
    pub fn validation_rows(&self) -> usize {
        self.datasets.split.validation.len() + self.evaluation.corpus.len()
    }

    /// Returns the number of validation rows that are also trained on.
    pub fn trained_validation_rows(&self) -> u64 {
        self.overlaps
            .iter()
            .flatten()
            .map(|overlap| overlap.trained)
            .sum()
    }

    /// Returns the number of training rows that are near-duplicates of validation rows.
    pub fn near_validation_rows(&self) -> usize {
        self.straddling
            .as_ref()
            .map_or(0, |straddling| straddling.rows)
    }

    /// Returns the number of tokens in the first epoch, and how many of them carry a loss.
    pub fn training_tokens(&self) -> (u64, u64) {
        let rows = self.training();
        let packs = rows.epoch(Packing::Off, None, 0);
        let counts = packs
            .rows(0..packs.len())
            .par_iter()
            .map(|place| rows.counts(*place));
        let counts = counts.map(|(tokens, trained)| (tokens as u64, trained as u64));
        counts.reduce(
            || (0, 0),
            |(tokens, trained), (more, more_trained)| (tokens + more, trained + more_trained),
        )
    }

    /// Returns how often a run trains each of its kept rows, by index. It visits the same rows in
    /// the same steps as the training loop.
    pub fn times_trained(&self, config: &train::TrainConfig) -> Vec<u32> {
        let (training, rows) = (&self.datasets.split.training, self.training());
        let (mut course, mut times, mut epoch, mut place) = (
            StepSampler::new(config, &rows),
            vec![0; self.datasets.corpus.len()],
            0,
            0,
        );
        for _ in 0..config.schedule.total_steps {
            let of_step = course.after(epoch, place);
            (epoch, place) = (of_step.epoch, of_step.places.end as u64);
            for draw in of_step.micro_batches.iter().flatten() {
                times[training[draw.place as usize] as usize] += 1;
            }
        }
        times
    }
}
