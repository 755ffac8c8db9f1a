//! Sets of rows that a model is scored on: those that a run holds out, its validation sets, or any
//! other file.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use super::PlanError;
use super::data_files;
use super::hub_data::cached_files;
use super::overlap::{self, Overlap};
use super::resolve::Plan;
use super::rows::RunData;
use crate::data::{
    Batch, Corpus, DataSource, Divided, Packing, Preferences, Rows, Split, find_files, inspect,
};
use crate::fault::{Explain, Fault};
use crate::hub::DatasetPath;
use crate::model::Decoder;
use crate::report::{Event, Reporter};
use crate::terms::{Format, TrainOn};
use crate::train::{Compared, Score, compare, score};

/// Reading of the rows of another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Like those of the recipe's first dataset.
    FirstDataset,
    /// As plain text in a column `text`, a number of rows at equal distances.
    Text {
        /// The most rows.
        rows: usize,
    },
}

/// A set of rows that are scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Its key in the recipe, or the option that names it.
    pub name: String,
    /// Its path.
    pub path: String,
    /// Rows that are scored.
    pub rows: u64,
    /// How many of them are trained on too; `None` if that is not known.
    pub trained_rows: Option<u64>,
}

/// Rows that are scored in batches, as a run scores them.
#[derive(Debug)]
pub struct Sheet {
    pub(super) data: Divided,
    /// One set per source.
    pub sets: Vec<Examined>,
    end_ids: Vec<i32>,
    pub(super) micro_batch_size: usize,
    pub(super) packing: Packing,
    head_chunk_rows: usize,
    preferences: Preferences,
}

impl Sheet {
    /// Returns the rows of all sets.
    pub(super) fn validation(&self) -> Rows<'_> {
        Rows::new(&self.data.corpus, self.data.split.validation.clone()).reading(self.preferences)
    }

    /// Returns the rows of all sets in batches.
    pub(super) fn batches<'a>(&self, rows: &'a Rows<'_>) -> impl Iterator<Item = Batch> + 'a {
        rows.batches(self.micro_batch_size, self.packing)
    }

    /// Returns the index of the set of a row, by its identifier.
    pub(super) fn set_of(&self, row: u64) -> usize {
        self.data.corpus.source(row as usize)
    }

    pub(super) fn head_chunk_rows(&self) -> usize {
        self.head_chunk_rows
    }

    /// Returns the names of the cache entries that hold its rows.
    pub fn cache_entries(&self) -> impl Iterator<Item = &str> {
        self.data.corpus.entries()
    }
}

impl Plan {
    /// Returns the rows that a run of this plan scores on, in its order.
    pub fn validation_sheets(&self, data: RunData) -> Vec<Sheet> {
        let held_out = |index| {
            (
                format!("datasets.{index}, held out"),
                self.source_name(index).1,
            )
        };
        let sets = |index| self.source_name(self.sources.len() + index);
        let [of_held_out, of_sets] = data.overlaps;
        let sheets = [
            self.sheet(
                data.datasets,
                (0..self.sources.len()).map(held_out).collect(),
                Some(&of_held_out),
            ),
            self.sheet(
                data.evaluation,
                (0..self.validation_sources.len()).map(sets).collect(),
                Some(&of_sets),
            ),
        ];
        sheets
            .into_iter()
            .filter(|sheet| sheet.rows() > 0)
            .collect()
    }

    /// Reads the rows of another file, glob or folder; `name` is the option that names it.
    ///
    /// # Errors
    /// The file does not exist, cannot be read this way, or has nothing to score.
    pub fn other_sheet(
        &self,
        name: &str,
        path: &str,
        reading: Reading,
        report: Reporter,
    ) -> Result<Sheet, PlanError> {
        let source = self.other_source(name, path, reading, report)?;
        let corpus = Corpus::open(
            &[source],
            &self.encoder,
            &self.limits,
            self.row_cache(),
            report,
        )?;
        let mut split = Split::validation_only(corpus.len());
        if let Reading::Text { rows } = reading {
            let (found, kept) = (corpus.len(), rows.min(corpus.len()));
            split.validation = (0..kept)
                .map(|index| (index * found / kept) as u32)
                .collect();
        }
        let duplicates = vec![false; corpus.len()];
        let data = Divided {
            corpus,
            split,
            duplicates,
            left_out: BTreeMap::new(),
        };
        self.judge_scored(name, &data, report)?;
        let overlaps = self.overlaps_of(name, &data, report);
        Ok(self.sheet(
            data,
            vec![(name.to_owned(), path.to_owned())],
            overlaps.as_deref(),
        ))
    }

    /// Counts the rows of another file that the run trains on, and reports them. It also reports if
    /// the training rows cannot be read.
    fn overlaps_of(&self, name: &str, data: &Divided, report: Reporter) -> Option<Vec<Overlap>> {
        match self.trained_rows(report) {
            Ok(trained) => {
                let found = trained.among(&data.corpus, &data.split.validation);
                for note in overlap::notes(&found, |_| name.to_owned()) {
                    report(Event::Note(note));
                }
                Some(found)
            }
            Err(error) => {
                report(Event::Note(format!(
                    "{name}: whether its rows were trained on is not known: {error}"
                )));
                None
            }
        }
    }

    fn other_source(
        &self,
        name: &str,
        path: &str,
        reading: Reading,
        report: Reporter,
    ) -> Result<DataSource, PlanError> {
        let text = DataSource {
            files: Vec::new(),
            selected: None,
            format: Format::Text,
            columns: BTreeMap::new(),
            roles: BTreeMap::new(),
            train_on: TrainOn::All,
            system: None,
            labels: None,
        };
        let of_recipe = self
            .sources
            .first()
            .filter(|_| reading == Reading::FirstDataset)
            .cloned();
        let like = of_recipe.unwrap_or(text);
        let paths = match path {
            _ if DatasetPath::is_one(path) => {
                cached_files(path).map_err(|error| placed(name, error.faults()))?
            }
            _ => find_files(path).map_err(|error| placed(name, error.faults()))?,
        };
        let cache = data_files::cache(self.cache, &self.output_dir);
        let files = data_files::readable(
            paths,
            Some(like.format),
            &like.columns,
            cache.as_ref(),
            report,
        )?;
        let source = DataSource {
            files: files.map_err(|faults| placed(name, faults))?,
            selected: None,
            ..like
        };
        for file in &source.files {
            inspect(file, source.format, &source.columns)
                .map_err(|error| placed(name, error.faults()))?;
        }
        Ok(source)
    }

    fn sheet(
        &self,
        data: Divided,
        names: Vec<(String, String)>,
        overlaps: Option<&[Overlap]>,
    ) -> Sheet {
        let set = |(source, (name, path))| {
            let trained_rows = overlaps.map(|overlaps| overlap::of_source(overlaps, source));
            Examined {
                name,
                path,
                rows: 0,
                trained_rows,
            }
        };
        let mut sets: Vec<Examined> = names.into_iter().enumerate().map(set).collect();
        for index in &data.split.validation {
            sets[data.corpus.source(*index as usize)].rows += 1;
        }
        let end_ids = self
            .encoder
            .tokenizer
            .end_ids()
            .into_iter()
            .map(|id| id.cast_signed())
            .collect();
        let (training, head_chunk_rows) = (&self.training, self.head_chunk_rows());
        Sheet {
            data,
            sets,
            end_ids,
            micro_batch_size: training.micro_batch_size,
            packing: training.packing,
            head_chunk_rows,
            preferences: Preferences {
                scoring: self.scoring(),
                ..Preferences::default()
            },
        }
    }
}

fn placed(name: &str, faults: Vec<Fault>) -> PlanError {
    let placed = |fault: Fault| match fault.place.clone() {
        Some(place) => fault.at(format!("{name}: {place}")),
        None => fault.at(name),
    };
    PlanError::Faults {
        faults: faults.into_iter().map(placed).collect(),
    }
}

impl Sheet {
    /// Returns the number of rows of all sets.
    pub fn rows(&self) -> usize {
        self.data.split.validation.len()
    }

    /// Scores a model on each set. `what` names the model for the user.
    pub fn score(&self, decoder: &Decoder, what: &str, report: Reporter) -> Vec<Score> {
        let rows = Rows::new(&self.data.corpus, self.data.split.validation.clone());
        let (mut scores, mut done) = (vec![Score::default(); self.sets.len()], 0);
        for batch in rows.batches(self.micro_batch_size, self.packing) {
            let losses = score(decoder, &batch, self.head_chunk_rows);
            // Of a pair the chosen completion is scored.
            for unit in &batch.units {
                let first = unit.targets.start;
                let chosen = first..first + unit.supervised_targets();
                for (index, loss) in chosen.clone().zip(&losses[chosen]) {
                    let set = self.data.corpus.source(batch.row_of(index) as usize);
                    scores[set].add(*loss, self.end_ids.contains(&batch.targets[index]));
                }
            }
            done += batch.units.len() as u64;
            report(Event::Progress {
                what: format!("scoring {what}"),
                done,
                total: self.rows() as u64,
            });
        }
        scores
    }

    /// Compares another model with one, over the rows of all sets. Returns `None` if `interrupt`
    /// was raised. `what` names the comparison for the user.
    pub fn compare(
        &self,
        models: [&Decoder; 2],
        what: &str,
        interrupt: &AtomicBool,
        report: Reporter,
    ) -> Option<Comparison> {
        let rows = Rows::new(&self.data.corpus, self.data.split.validation.clone());
        let (mut found, mut done) = (Comparison::default(), 0);
        for batch in rows.batches(self.micro_batch_size, self.packing) {
            if interrupt.load(Relaxed) {
                return None;
            }
            for (token, target) in compare(models[0], models[1], &batch, self.head_chunk_rows)
                .into_iter()
                .zip(&batch.targets)
            {
                found.add(token, self.end_ids.contains(target));
            }
            done += batch.units.len() as u64;
            report(Event::Progress {
                what: format!("comparing {what}"),
                done,
                total: self.rows() as u64,
            });
        }
        Some(found)
    }
}

/// The difference between two models.
#[derive(Debug, Clone, Copy, Default)]
pub struct Comparison {
    /// The scores of the first and of the second model.
    pub scores: [Score; 2],
    divergence: f64,
    agreeing: u64,
}

impl Comparison {
    fn add(&mut self, token: Compared, is_end: bool) {
        self.scores
            .iter_mut()
            .zip(token.losses)
            .for_each(|(score, loss)| score.add(loss, is_end));
        self.divergence += token.divergence;
        self.agreeing += u64::from(token.agree);
    }

    /// Combines two comparisons.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let [one, two] = self.scores;
        Self {
            scores: [one.and(other.scores[0]), two.and(other.scores[1])],
            divergence: self.divergence + other.divergence,
            agreeing: self.agreeing + other.agreeing,
        }
    }

    /// Returns the number of tokens compared.
    pub fn tokens(&self) -> u64 {
        self.scores[0].trained_tokens()
    }

    /// Returns the mean KL divergence per token, in nats, of the second model from the first.
    pub fn divergence(&self) -> f64 {
        self.divergence / self.tokens().max(1) as f64
    }

    /// Returns the share of tokens for which both models have the same likeliest token.
    pub fn agreement(&self) -> f64 {
        self.agreeing as f64 / self.tokens().max(1) as f64
    }
}
