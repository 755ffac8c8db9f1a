//! A plan's parts: rows, model, the loop's config.

use std::path::PathBuf;

use burn::tensor::Device;
use rayon::prelude::*;

use super::Error;
use super::resolve::Plan;
use super::training::Warmup;
use crate::adapter::{attach, peft};
use crate::data::{Corpus, Ledger, Rows, Split, split};
use crate::model::Decoder;
use crate::report::{Event, Reporter};
use crate::train::{self, Schedule, StepConfig};

/// Logits that exist at a time, at most.
const LOGITS: usize = 1 << 24;

/// The rows of a plan, as tokens.
#[derive(Debug)]
pub struct RunData {
    corpus: Corpus,
    split: Split,
    validation: Option<Corpus>,
    end_ids: Vec<u32>,
}

impl Plan {
    /// Reads and tokenises the data, or finds it in the cache, and splits off the validation rows.
    ///
    /// # Errors
    /// A row cannot be read or rendered, too many are left out, or nothing is left to train on.
    pub fn read_data(&self, report: Reporter) -> Result<RunData, Error> {
        self.notes().into_iter().for_each(|note| report(Event::Note(note)));
        let cache = cache_folder();
        let open = |sources: &[_]| -> Result<Corpus, Error> {
            let corpus = Corpus::open(sources, &self.encoder, &self.limits, &cache, report)?;
            self.judge(corpus.ledger(), report)?;
            self.check_ids(&corpus)?;
            Ok(corpus)
        };
        let corpus = open(&self.sources)?;
        let end_ids = self.encoder.tokenizer.end_ids();
        note_missing_ends(&corpus, &end_ids, report);
        let split = split(&corpus, self.holdout)?;
        let validation = if self.validation_sources.is_empty() { None } else { Some(open(&self.validation_sources)?) };
        Ok(RunData { corpus, split, validation, end_ids })
    }

    /// Says what was left out and stops where it is too much.
    fn judge(&self, ledger: &Ledger, report: Reporter) -> Result<(), Error> {
        let total = ledger.total();
        let limit = self.limits.sequence_len;
        if let Some(longest) = total.longest.as_ref().filter(|longest| longest.tokens > limit) {
            let (count, fate) = if total.truncated > 0 { (total.truncated, "cut") } else { (total.too_long, "left out") };
            let rows = total.rows;
            let long = format!("{count} of {rows} rows are {fate}: they are longer than `training.sequence_len`, {limit}");
            report(Event::Note(format!("{long}; the longest is {longest}")));
        }
        if total.untrained > 0 {
            report(Event::Note(format!("{} of {} rows have no token to train and are left out", total.untrained, total.rows)));
        }
        if total.dropped_share() > self.max_dropped {
            return Err(Error::Rows {
                message: format!(
                    "{} of {} rows are left out ({} too long, {} without a trained token), more than `training.max_dropped`, {}",
                    total.dropped(),
                    total.rows,
                    total.too_long,
                    total.untrained,
                    self.max_dropped
                ),
                hint: "raise `training.sequence_len`, set `training.truncation: truncate`, or raise `training.max_dropped`"
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// A tokenizer may know more tokens than the embedding has rows.
    fn check_ids(&self, corpus: &Corpus) -> Result<(), Error> {
        let vocabulary = self.model.spec.vocabulary;
        let highest = (0..corpus.len()).into_par_iter().filter_map(|row| corpus.row(row).ids().into_iter().max()).max();
        match highest.filter(|id| *id as usize >= vocabulary) {
            Some(id) => Err(Error::Rows {
                message: format!("the tokenizer made token id {id}, the base's embedding has ids below {vocabulary}"),
                hint: "use the tokenizer that came with the base, or a base whose embedding was resized for it".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Loads the base and attaches the adapter.
    ///
    /// # Errors
    /// A weight or the adapter to go on from does not fit.
    pub fn load_model(&self, device: &Device, report: Reporter) -> Result<Decoder, Error> {
        let mut decoder = self.model.load(device, report)?;
        let numbers = match &self.init_from {
            Some(folder) => Some(peft::read_numbers(folder, &self.adapter, &decoder.spec.projections())?),
            None => None,
        };
        attach(&mut decoder, &self.adapter, self.training.seed, numbers.as_ref())?;
        Ok(decoder)
    }

    /// The loop's config for these rows.
    pub fn train_config(&self, data: &RunData) -> train::Config {
        let of = &self.training;
        let mut config = train::Config {
            micro_batch_size: of.micro_batch_size,
            gradient_accumulation_steps: of.gradient_accumulation_steps,
            schedule: Schedule {
                peak: of.learning_rate,
                scheduler: of.scheduler,
                warmup_steps: 0,
                total_steps: 0,
                min_lr_rate: of.min_lr_rate,
            },
            optimizer: of.optimizer,
            max_grad_norm: of.max_grad_norm,
            step: StepConfig {
                memory: of.memory,
                head_chunk_rows: (LOGITS / self.model.spec.vocabulary).clamp(16, 4096),
                dropout: self.adapter.dropout,
            },
            on_nonfinite: of.on_nonfinite,
            seed: of.seed,
            shuffle: of.shuffle,
            eval_steps: of.eval_steps as u64,
            early_stopping_patience: of.early_stopping_patience as u64,
            save_steps: of.save_steps as u64,
            save_total_limit: of.save_total_limit,
        };
        let epochs = config.steps_per_epoch(data.split.training.len()) * of.num_epochs as u64;
        config.schedule.total_steps = of.max_steps.map_or(epochs, |steps| steps as u64);
        config.schedule.warmup_steps = match of.warmup {
            Warmup::Steps(steps) => steps as u64,
            Warmup::Ratio(ratio) => (config.schedule.total_steps as f64 * ratio).ceil() as u64,
        };
        config
    }

    /// Floating-point operations of the whole run: 4 a frozen parameter and token, 6 an adapter's, forward again where blocks recompute,
    /// and the products of attention.
    pub fn training_flops(&self, data: &RunData, config: &train::Config) -> f64 {
        let spec = &self.model.spec;
        let (tokens, trained) = data.training_tokens();
        let rows = data.training_rows() as f64;
        let epochs = config.schedule.total_steps as f64 / config.steps_per_epoch(data.training_rows()) as f64;
        let mean_length = tokens as f64 / rows;
        let layer = |layer: &crate::model::LayerSpec| 4.0 * (layer.mixer.heads * layer.mixer.head_dim) as f64 * mean_length;
        let attention: f64 = spec.layers.iter().map(layer).sum();
        let linear: usize = spec.projections().iter().map(|linear| linear.inputs * linear.outputs).sum();
        let forward = 2.0 * (linear + self.trainable_parameters) as f64 + attention;
        let again = if config.step.memory == train::Memory::Recompute { forward } else { 0.0 };
        let backward = 2.0 * (linear + 2 * self.trainable_parameters) as f64 + 2.0 * attention;
        let head = 4.0 * (spec.vocabulary * spec.width) as f64;
        epochs * (tokens as f64 * (forward + again + backward) + trained as f64 * head)
    }
}

impl RunData {
    /// The rows as the loop takes them.
    pub fn rows(&self) -> train::Data<'_> {
        let held = Rows::new(&self.corpus, self.split.validation.clone());
        let own = self.validation.as_ref().map(|corpus| Rows::new(corpus, (0..).take(corpus.len()).collect()));
        train::Data {
            training: Rows::new(&self.corpus, self.split.training.clone()),
            validation: [Some(held), own].into_iter().flatten().filter(|rows| !rows.is_empty()).collect(),
            end_ids: self.end_ids.iter().map(|id| id.cast_signed()).collect(),
        }
    }

    /// What became of every training row, those held out included.
    pub fn ledger(&self) -> &Ledger {
        self.corpus.ledger()
    }

    /// Rows to train on.
    pub fn training_rows(&self) -> usize {
        self.split.training.len()
    }

    /// Rows to score on.
    pub fn validation_rows(&self) -> usize {
        self.split.validation.len() + self.validation.as_ref().map_or(0, Corpus::len)
    }

    /// Tokens of the rows to train on, and how many of them carry a loss.
    pub fn training_tokens(&self) -> (u64, u64) {
        let rows = self.split.training.iter().map(|index| self.corpus.row(*index as usize));
        rows.fold((0, 0), |(tokens, trained), row| (tokens + row.len() as u64, trained + row.trained_tokens() as u64))
    }
}

/// A model that never sees a turn end while it is trained does not end one afterwards.
fn note_missing_ends(corpus: &Corpus, end_ids: &[u32], report: Reporter) {
    let ends = |row: usize| {
        let row = corpus.row(row);
        row.ids().iter().zip(row.trained()).any(|(id, trained)| trained && end_ids.contains(id))
    };
    if !(0..corpus.len()).into_par_iter().any(ends) {
        report(Event::Note("no row trains a token that ends a turn or a document: the model will not learn to stop".to_owned()));
    }
}

/// Where token caches are: `RANKINE_CACHE`, or the user's cache folder.
fn cache_folder() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || of("XDG_CACHE_HOME").or_else(|| of("LOCALAPPDATA")).or_else(|| of("HOME").map(|home| home.join(".cache")));
    of("RANKINE_CACHE").unwrap_or_else(|| user().unwrap_or_else(std::env::temp_dir).join("rankine"))
}
