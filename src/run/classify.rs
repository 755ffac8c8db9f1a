//! Scores rows without labels by an adapter or a model with a score head.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::artifact::Artifact;
use super::base::{base_with, read_adapter, storage_of_run, template_sources};
use super::self_check::is_proven;
use crate::adapter::{ScoreConfig, attach, attach_scores};
use crate::data::convert::{Reading, data_files};
use crate::data::template::ChatTemplate;
use crate::data::tokenize::Tokenizer;
use crate::data::{
    Batch, DataFile, Encoder, ScoredRow, Scoring, TableError, Unlabeled, UnlabeledForm, find_files,
    unlabeled_rows,
};
use crate::device;
use crate::export::{Classified, LabelColumn, write_classified};
use crate::fault::{Exit, Failure, Fault};
use crate::files::{RowCache, cache_folder};
use crate::model::Decoder;
use crate::objective::{Classify, argmax};
use crate::report::{Event, Reporter};
use crate::terms::{Device, ModelDtype, ProblemType};
use crate::train::{head_chunk_rows, readings_of};

/// Tokens that are scored at a time.
const BATCH_TOKENS: usize = 4096;

/// Rows to score, and the head that scores them.
#[derive(Debug)]
pub struct ClassifyOptions {
    /// The adapter, or a model with a score head: its folder, that of a run or a checkpoint, or a
    /// Hub id in the cache.
    pub adapter: PathBuf,
    /// The folder of the base, or a Hub id in the cache; without it that of the adapter.
    pub base: Option<PathBuf>,
    /// The rows: a file, a glob or a folder.
    pub data: String,
    /// Map from canonical column names to the names in the file.
    pub columns: BTreeMap<String, String>,
    /// Tokens of a row that are kept; all by default.
    pub sequence_len: Option<usize>,
    /// The Parquet file to write.
    pub out: PathBuf,
}

/// What was scored.
#[derive(Debug)]
pub struct ClassifyResult {
    /// Rows of the files.
    pub rows: usize,
    /// Rows that could not be scored, or had nothing to score.
    pub left_out: usize,
    /// How often each class or label was found; empty of numbers.
    pub counts: Vec<(String, u64)>,
}

/// A score head on its base.
struct Scorer {
    decoder: Decoder,
    encoder: Encoder,
    score: ScoreConfig,
    scoring: Scoring,
    sequence_len: usize,
}

/// Scores rows and writes what the head says of each as Parquet, in their order.
///
/// # Errors
/// There is no such adapter, it has no score head, its parts do not fit each other, or a file cannot
/// be read or written.
pub fn classify(options: &ClassifyOptions, report: Reporter) -> Result<ClassifyResult, Failure> {
    let scorer = Scorer::open(options, report)?;
    let cache = RowCache::from(&cache_folder());
    let reading = Reading {
        format: None,
        columns: &BTreeMap::new(),
    };
    let files = data_files(&find_files(&options.data)?, reading, &cache, report)?;
    let mut results = Vec::new();
    for file in &files {
        scorer.score_file(file, &options.columns, &mut results, report)?;
    }
    report(Event::Ended);
    write_classified(&options.out, scorer.column(), &results)?;
    Ok(ClassifyResult {
        rows: results.len(),
        left_out: results.iter().filter(|row| row.scores.is_empty()).count(),
        counts: scorer.counts(&results),
    })
}

impl Scorer {
    fn open(options: &ClassifyOptions, report: Reporter) -> Result<Self, Failure> {
        let artifact = Artifact::find(&options.adapter)?;
        let adapter = match &artifact {
            Artifact::Adapter(adapter) => Some(adapter.as_path()),
            Artifact::Model(_) => None,
        };
        let base = artifact.base(options.base.as_deref())?;
        let folder = base_with(&base, adapter)?;
        let tokenizer = Tokenizer::open_with(&base, adapter)?;
        let (sources, _) = template_sources(None, adapter, &tokenizer)?;
        let started = crate::plan::now().map_err(|fault| Failure::new(Exit::Input, fault))?;
        let template = sources
            .map(|sources| ChatTemplate::of(&sources, tokenizer.special(), started))
            .transpose()?;
        let storage = adapter.map_or(ModelDtype::Auto.into(), storage_of_run);
        let read = adapter
            .map(|adapter| read_adapter(adapter, &folder.spec.modules(), report))
            .transpose()?;
        let score = match &read {
            Some((config, _)) => config.score.clone(),
            None => ScoreConfig::of_model(&folder, &base)?,
        };
        let score = score.ok_or_else(|| no_head(adapter.unwrap_or(&base)))?;
        device::set_threads(0);
        let chosen = device::choose(Device::Auto, &is_proven).device;
        let storage = folder.kept_in(storage, device::halves(chosen))?;
        let mut decoder = folder.load(storage, &device::open(chosen)?, report)?;
        match &read {
            Some((config, numbers)) => attach(&mut decoder, config, 0, Some(numbers))?,
            None => attach_scores(&mut decoder, &score)?,
        }
        let padding = score.padding.or(tokenizer.pad_id());
        let longest = folder
            .spec
            .longest()
            .filter(|_| folder.spec.learns_positions);
        let longest = longest.unwrap_or(usize::MAX);
        Ok(Self {
            scoring: Scoring {
                padding: padding.or(folder.spec.padding),
                pooling: folder.spec.score_pooling(),
            },
            decoder: decoder.settled(),
            encoder: Encoder {
                tokenizer,
                template,
            },
            score,
            sequence_len: options.sequence_len.unwrap_or(longest).min(longest),
        })
    }

    /// Returns the problem of the head; `None` of a reward model.
    fn problem(&self) -> Option<ProblemType> {
        let of_tokens = self.score.is_of_tokens.then_some(ProblemType::Token);
        self.score.problem.or(of_tokens)
    }

    fn column(&self) -> LabelColumn {
        match self.problem() {
            Some(ProblemType::SingleLabel) => LabelColumn::One,
            Some(ProblemType::MultiLabel) => LabelColumn::Several,
            Some(ProblemType::Token) => LabelColumn::Tags,
            // Of an adapter that says nothing, several scores are taken for classes.
            None if self.score.labels > 1 => LabelColumn::One,
            Some(ProblemType::Regression) | None => LabelColumn::None,
        }
    }

    fn form(&self) -> UnlabeledForm {
        match self.problem() {
            Some(ProblemType::Token) => UnlabeledForm::Words,
            None if self.score.labels == 1 => UnlabeledForm::Answers,
            _ => UnlabeledForm::Texts,
        }
    }

    fn score_file(
        &self,
        file: &DataFile,
        columns: &BTreeMap<String, String>,
        results: &mut Vec<Classified>,
        report: Reporter,
    ) -> Result<(), Failure> {
        let mut waiting = Waiting::default();
        let (form, reading) = (self.form(), (&self.encoder, self.sequence_len));
        unlabeled_rows::<TableError>(file, form, columns, reading, |row| {
            match row {
                Ok(Some(row)) => waiting.push(results.len(), row),
                Ok(None) => {}
                Err(reason) => {
                    results.push(Classified {
                        error: Some(reason),
                        ..Classified::default()
                    });
                    return Ok(());
                }
            }
            results.push(Classified::default());
            if waiting.tokens >= BATCH_TOKENS {
                self.score(&mut waiting, results);
                report(Event::Progress {
                    what: "scoring".to_owned(),
                    done: results.len() as u64,
                    total: 0,
                });
            }
            Ok(())
        })?;
        self.score(&mut waiting, results);
        for row in results.iter_mut().filter(|row| row.scores.is_empty()) {
            row.error
                .get_or_insert_with(|| "there is nothing to score".to_owned());
        }
        Ok(())
    }

    /// Scores the rows that wait, and puts the results into their places.
    fn score(&self, waiting: &mut Waiting, results: &mut [Classified]) {
        let Waiting { places, rows, .. } = std::mem::take(waiting);
        if rows.is_empty() {
            return;
        }
        let has_token: Vec<Vec<bool>> = rows.iter().map(|row| row.has_token.clone()).collect();
        let keyed = rows.into_iter().zip(0..).map(|(row, key)| (key, row.row));
        let batch = Batch::of_scored(keyed, self.scoring);
        let chunk = head_chunk_rows(self.decoder.spec.vocabulary);
        let readings = readings_of(&self.decoder, &batch, chunk).values;
        let labels = self.score.labels;
        for ((place, unit), has_token) in places.into_iter().zip(&batch.units).zip(has_token) {
            let scores = &readings[unit.targets.start * labels..unit.targets.end * labels];
            results[place] = self.classified(scores, &has_token);
        }
    }

    /// Returns what the scores of a row say.
    fn classified(&self, scores: &[f32], has_token: &[bool]) -> Classified {
        let labels = self.score.labels;
        let problem = self.problem().unwrap_or(if labels > 1 {
            ProblemType::SingleLabel
        } else {
            ProblemType::Regression
        });
        let of = Classify {
            problem,
            labels,
            class_weights: Vec::new(),
        };
        let probabilities = |scores: &[f32]| -> Vec<f32> {
            let each = of.probabilities(scores).into_iter();
            each.map(|p| p as f32).collect()
        };
        let mut classified = Classified {
            scores: scores.to_vec(),
            ..Classified::default()
        };
        match problem {
            ProblemType::SingleLabel => {
                let best = argmax(scores);
                classified.labels = vec![Some(self.score.name(best))];
                classified.probabilities = probabilities(scores);
            }
            ProblemType::MultiLabel => {
                let holds = (0..labels).filter(|label| scores[*label] > 0.0);
                classified.labels = holds.map(|label| Some(self.score.name(label))).collect();
                classified.probabilities = probabilities(scores);
            }
            ProblemType::Token => {
                let mut tokens = scores.chunks(labels);
                for has_token in has_token {
                    let scores = if *has_token { tokens.next() } else { None };
                    let best = scores.map(|scores| (argmax(scores), probabilities(scores)));
                    let name = best.as_ref().map(|(best, _)| self.score.name(*best));
                    classified.labels.push(name);
                    classified
                        .probabilities
                        .push(best.map_or(f32::NAN, |(best, all)| all[best]));
                }
            }
            ProblemType::Regression => {}
        }
        classified
    }

    fn counts(&self, results: &[Classified]) -> Vec<(String, u64)> {
        if self.column() == LabelColumn::None {
            return Vec::new();
        }
        let mut counts: BTreeMap<&String, u64> = BTreeMap::new();
        for label in results.iter().flat_map(|row| row.labels.iter().flatten()) {
            *counts.entry(label).or_default() += 1;
        }
        let names = (0..self.score.labels).map(|label| self.score.name(label));
        names
            .map(|name| {
                let count = counts.get(&name).copied().unwrap_or(0);
                (name, count)
            })
            .collect()
    }
}

/// Rows that wait to be scored together, and their places among the results.
#[derive(Default)]
struct Waiting {
    places: Vec<usize>,
    rows: Vec<Unlabeled>,
    tokens: usize,
}

impl Waiting {
    fn push(&mut self, place: usize, row: Unlabeled) {
        self.tokens += match &row.row {
            ScoredRow::Text { row, .. } | ScoredRow::Tokens(row, _) => row.ids.len(),
            ScoredRow::Pair(pair, _) => pair.iter().map(|row| row.ids.len()).sum(),
        };
        self.places.push(place);
        self.rows.push(row);
    }
}

fn no_head(folder: &Path) -> Failure {
    let fault = Fault::new(format!(
        "`{}` has no score head: it is, or is of, a language model or an encoder alone",
        folder.display()
    ));
    Failure::new(
        Exit::Input,
        fault.hint(
            "ask it with `rankine generate`, or train one with `objective: {type: classification}`",
        ),
    )
}
