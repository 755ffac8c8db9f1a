//! A recipe to a plan: every value filled, every path looked up, every fault collected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Error;
use super::base::{self, Base, Found, missing, noted};
use super::fill::{Filled, Setting};
use crate::adapter::{LoraConfig, Modules, Targets, peft};
use crate::data::{self, Encoder, Limits, Source};
use crate::fault::{Explain, Fault};
use crate::recipe::{self, Dataset, Recipe, Said};
use crate::terms::{
    Checkpointing, Device, Format, Holdout, Method, ModelDtype, OnNonfinite, Optimizer, Scheduler, Term, TrainOn, Truncation,
};
use crate::train::{AdamWConfig, Memory};
use crate::{device, model};

/// Everything that a run will do. Counts of rows and steps come with [`Plan::read_data`].
#[derive(Debug)]
pub struct Plan {
    /// The recipe's file.
    pub recipe: PathBuf,
    /// Every filled value and its origin, in the recipe's order.
    pub settings: Vec<Setting>,
    /// The base as the recipe has it.
    pub base_name: String,
    /// The base's folder.
    pub base_folder: PathBuf,
    /// The base's config.json, read.
    pub model: model::Folder,
    /// The adapter.
    pub adapter: LoraConfig,
    /// An adapter folder to go on from.
    pub init_from: Option<PathBuf>,
    /// Tokenizer and template.
    pub encoder: Encoder,
    /// The template's file, where the recipe names one.
    pub chat_template: Option<PathBuf>,
    /// What to train on.
    pub sources: Vec<Source>,
    /// What to score on, beside held-out rows.
    pub validation_sources: Vec<Source>,
    /// Which training rows are held out.
    pub holdout: Holdout,
    /// How long a row may be.
    pub limits: Limits,
    /// Share of rows that may be left out.
    pub max_dropped: f64,
    /// Where to compute; `auto` is resolved.
    pub device: Device,
    /// 0: one a core.
    pub threads: usize,
    /// The run's folder.
    pub output_dir: PathBuf,
    /// When the run started, or `SOURCE_DATE_EPOCH`: what a template's `strftime_now` tells.
    pub started: jiff::Timestamp,
    pub(super) training: Training,
}

/// The loop's values that do not depend on the number of rows.
#[derive(Debug, Clone)]
pub(super) struct Training {
    pub micro_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub num_epochs: usize,
    pub max_steps: Option<usize>,
    pub learning_rate: f64,
    pub scheduler: Scheduler,
    pub min_lr_rate: f64,
    pub warmup: Warmup,
    pub optimizer: AdamWConfig,
    pub max_grad_norm: f64,
    pub memory: Memory,
    pub on_nonfinite: OnNonfinite,
    pub seed: u64,
    pub shuffle: bool,
    pub eval_steps: usize,
    pub early_stopping_patience: usize,
    pub save_steps: usize,
    pub save_total_limit: usize,
}

/// Length of the warm-up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Warmup {
    Steps(usize),
    Ratio(f64),
}

/// What `resolve` could find out.
#[derive(Debug)]
pub enum Resolved {
    /// Everything.
    Plan(Box<Plan>),
    /// Everything that does not need the base, which is a Hub id and was not looked up.
    Hub(String),
}

/// Fills a recipe and looks up what it names.
///
/// # Errors
/// Every fault of the recipe and of what it names, in the recipe's order.
pub fn resolve(recipe: Recipe) -> Result<Resolved, Error> {
    let mut faults = recipe.faults.clone();
    let mut filled = Filled::default();
    let started = started(&mut faults);
    let base = base::find(&recipe, &mut filled, &mut faults);
    let folder = if let Found::Folder(base) = &base { Some(base.as_ref()) } else { None };
    let template = folder.and_then(|base| base::template(&recipe, base, started, &mut faults));
    let has_template = match &base {
        Found::Folder(_) => template.is_some() || recipe.chat_template.is_some(),
        _ => true,
    };
    let chat_template = filled.optional("chat_template", recipe.chat_template.as_ref(), |path| json!(path));
    let sources = sources("datasets", &recipe.datasets, has_template, &mut filled, &mut faults);
    let (adapter, init_from) = adapter(&recipe.adapter, folder, &mut filled, &mut faults);
    let (limits, max_dropped, training) = training(&recipe, &mut filled);
    let validation_sources =
        self::sources("evaluation.datasets", &recipe.evaluation.datasets, has_template, &mut filled, &mut faults);
    let holdout =
        filled.fill(
            "evaluation.val_set_size",
            recipe.evaluation.val_set_size.as_ref(),
            Holdout::Rows(0),
            |holdout| match holdout {
                Holdout::Share(share) => json!(share),
                Holdout::Rows(rows) => json!(rows),
            },
        );
    let device = device::resolve(filled.fill("device", recipe.device.as_ref(), Device::Auto, |device| json!(device.to_string())));
    let threads = filled.plain("threads", recipe.threads.as_ref(), 0);
    let stem = recipe.path.file_stem().unwrap_or(recipe.path.as_os_str());
    let output_dir =
        filled.fill("output_dir", recipe.output_dir.as_ref(), Path::new("checkpoints").join(stem), |path| json!(path));
    if !faults.is_empty() {
        return Err(Error::Faults { faults });
    }
    let (base, adapter) = match (base, adapter) {
        (Found::Folder(base), Some(adapter)) => (*base, adapter),
        (Found::Hub(id), _) => return Ok(Resolved::Hub(id)),
        _ => return Err(Error::Faults { faults: vec![Fault::new("the base model could not be read")] }),
    };
    Ok(Resolved::Plan(Box::new(Plan {
        recipe: recipe.path,
        settings: filled.settings,
        base_name: base.name,
        base_folder: base.folder,
        model: base.model,
        adapter,
        init_from,
        encoder: Encoder { tokenizer: base.tokenizer, template },
        chat_template,
        sources,
        validation_sources,
        holdout,
        limits,
        max_dropped,
        device,
        threads,
        output_dir,
        started,
        training,
    })))
}

/// Now, or what `SOURCE_DATE_EPOCH` says (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn started(faults: &mut Vec<Fault>) -> jiff::Timestamp {
    let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") else { return jiff::Timestamp::now() };
    let parsed = epoch.parse().ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    parsed.unwrap_or_else(|| {
        faults.push(Fault::new(format!("SOURCE_DATE_EPOCH is `{epoch}`, expected whole seconds since 1970")));
        jiff::Timestamp::UNIX_EPOCH
    })
}

fn sources(section: &str, datasets: &[Dataset], has_template: bool, filled: &mut Filled, faults: &mut Vec<Fault>) -> Vec<Source> {
    let each = datasets.iter().enumerate();
    each.filter_map(|(index, dataset)| source(&format!("{section}.{index}"), dataset, has_template, filled, faults)).collect()
}

fn source(section: &str, dataset: &Dataset, has_template: bool, filled: &mut Filled, faults: &mut Vec<Fault>) -> Option<Source> {
    let path = filled.optional(&format!("{section}.path"), dataset.path.as_ref(), |path| json!(path));
    let format = filled.optional(&format!("{section}.format"), dataset.format.as_ref(), |format| json!(format.word()))?;
    let columns = dataset.columns.iter().map(|(name, said)| (name.clone(), said.value.clone())).collect();
    for (name, said) in &dataset.columns {
        filled.plain(&format!("{section}.columns.{name}"), Some(said), String::new());
    }
    let default = if format == Format::Text { TrainOn::All } else { TrainOn::Assistant };
    let train_on = filled.word(&format!("{section}.train_on"), dataset.train_on.as_ref(), default);
    if format == Format::Chat && !has_template {
        let place = &dataset.format.as_ref()?.place;
        let hint = "name a template file with `chat_template`, or use a base that was trained to chat";
        faults
            .push(Fault::new(format!("{section}.format: `chat` needs a chat template, the base has none")).at(place).hint(hint));
    }
    let place = &dataset.path.as_ref()?.place;
    let files = noted(data::find_files(&path?), place, faults)?;
    for file in &files {
        noted(data::inspect(file, format, &columns), place, faults);
    }
    Some(Source { files, format, columns, train_on })
}

fn adapter(
    recipe: &recipe::Adapter,
    base: Option<&Base>,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> (Option<LoraConfig>, Option<PathBuf>) {
    filled.word("adapter.method", recipe.method.as_ref(), Method::Lora);
    let dropout = filled.plain("adapter.dropout", recipe.dropout.as_ref(), 0.0);
    let init_from = filled.optional("adapter.init_from", recipe.init_from.as_ref(), |path| json!(path));
    let config = match (&init_from, &recipe.init_from) {
        (Some(folder), Some(said)) if !folder.is_dir() => {
            faults.push(missing("adapter.init_from", folder, "an adapter's folder", &said.place));
            None
        }
        (Some(folder), Some(said)) => {
            noted(peft::read_config(folder), &said.place, faults).map(|config| LoraConfig { dropout, ..config })
        }
        _ => Some(fresh_adapter(recipe, dropout, filled)),
    };
    if let (Some(config), Some(base)) = (&config, base) {
        check_targets(recipe, config, base, faults);
    }
    (config, init_from)
}

fn fresh_adapter(recipe: &recipe::Adapter, dropout: f64, filled: &mut Filled) -> LoraConfig {
    let rank = filled.plain("adapter.r", recipe.r.as_ref(), 16);
    let alpha = filled.plain("adapter.alpha", recipe.alpha.as_ref(), 2.0 * rank as f64);
    let modules =
        filled.fill(
            "adapter.target_modules",
            recipe.target_modules.as_ref(),
            recipe::Targets::AllLinear,
            |targets| match targets {
                recipe::Targets::AllLinear => json!("all-linear"),
                recipe::Targets::Names(names) => json!(names),
                recipe::Targets::Regex(pattern) => json!(pattern),
            },
        );
    let rank_pattern = in_order(&recipe.rank_pattern);
    let alpha_pattern = in_order(&recipe.alpha_pattern);
    for (pattern, said) in &rank_pattern {
        filled.plain(&format!("adapter.rank_pattern.{pattern}"), Some(*said), 0);
    }
    for (pattern, said) in &alpha_pattern {
        filled.plain(&format!("adapter.alpha_pattern.{pattern}"), Some(*said), 0.0);
    }
    let layers = filled.optional("adapter.layers_to_transform", recipe.layers_to_transform.as_ref(), |layers| json!(layers));
    LoraConfig {
        rank,
        alpha,
        dropout,
        targets: Targets {
            modules: match modules {
                recipe::Targets::AllLinear => Modules::AllLinear,
                recipe::Targets::Names(names) => Modules::Names(names),
                recipe::Targets::Regex(pattern) => Modules::Regex(pattern),
            },
            exclude: None,
            layers,
            layers_pattern: Vec::new(),
        },
        init_lora_weights: filled.plain("adapter.init_lora_weights", recipe.init_lora_weights.as_ref(), true),
        use_rslora: filled.plain("adapter.use_rslora", recipe.use_rslora.as_ref(), false),
        rank_pattern: rank_pattern.iter().map(|(pattern, said)| ((*pattern).clone(), said.value)).collect(),
        alpha_pattern: alpha_pattern.iter().map(|(pattern, said)| ((*pattern).clone(), said.value)).collect(),
    }
}

/// Patterns as they were written: the first that matches counts.
fn in_order<T>(patterns: &BTreeMap<String, Said<T>>) -> Vec<(&String, &Said<T>)> {
    let mut patterns: Vec<_> = patterns.iter().collect();
    patterns.sort_by(|(_, left), (_, right)| left.place.cmp(&right.place));
    patterns
}

/// Targets, patterns and layers against the base's projections.
fn check_targets(recipe: &recipe::Adapter, config: &LoraConfig, base: &Base, faults: &mut Vec<Fault>) {
    let projections = base.model.spec.projections();
    let said = recipe.target_modules.as_ref().map(|said| &said.place).or(recipe.init_from.as_ref().map(|said| &said.place));
    let at = |fault: Fault| if let Some(place) = said { fault.at(place) } else { fault };
    if let Modules::Names(names) = &config.targets.modules {
        for name in names.iter().filter(|name| ["lm_head", "embed_tokens"].contains(&name.rsplit('.').next().unwrap_or(name))) {
            faults.push(at(Fault::new(format!("adapter.target_modules: `{name}` is not supported yet"))));
        }
    }
    let layers = base.model.spec.layers.len();
    if let Some(layer) = config.targets.layers.iter().flatten().find(|layer| **layer >= layers) {
        let fault = Fault::new(format!(
            "adapter.layers_to_transform: layer {layer} does not exist, the base has layers 0 to {}",
            layers - 1
        ));
        let place = recipe.layers_to_transform.as_ref().map(|said| &said.place);
        faults.push(place.map_or(fault.clone(), |place| fault.at(place)));
        return;
    }
    let names: Vec<String> = projections.iter().map(|linear| linear.name.clone()).collect();
    let result = config.resolve(&names).and_then(|_| match &recipe.init_from {
        Some(folder) => peft::read_numbers(&folder.value, config, &projections).map(|_| ()),
        None => Ok(()),
    });
    if let Err(error) = result {
        let is_named = faults.iter().any(|fault| fault.message.contains("adapter.target_modules"));
        faults.extend(error.faults().into_iter().filter(|_| !is_named).map(at));
    }
}

fn training(recipe: &Recipe, filled: &mut Filled) -> (Limits, f64, Training) {
    let (said, evaluation, output) = (&recipe.training, &recipe.evaluation, &recipe.output);
    let limits = Limits {
        sequence_len: filled.plain("training.sequence_len", said.sequence_len.as_ref(), 512),
        truncation: filled.word("training.truncation", said.truncation.as_ref(), Truncation::Drop),
    };
    let max_dropped = filled.plain("training.max_dropped", said.max_dropped.as_ref(), 0.05);
    filled.word("training.optimizer", said.optimizer.as_ref(), Optimizer::AdamW);
    filled.word("training.model_dtype", said.model_dtype.as_ref(), ModelDtype::Auto);
    let checkpointing = filled.word("training.gradient_checkpointing", said.gradient_checkpointing.as_ref(), Checkpointing::Auto);
    let scheduler = filled.word("training.lr_scheduler", said.lr_scheduler.as_ref(), Scheduler::Cosine);
    let warmup = match &said.warmup_ratio {
        Some(ratio) => Warmup::Ratio(filled.plain("training.warmup_ratio", Some(ratio), 0.0)),
        None => Warmup::Steps(filled.plain("training.warmup_steps", said.warmup_steps.as_ref(), 0)),
    };
    let min_lr_rate = match scheduler {
        Scheduler::CosineWithMinLr => filled.plain("training.min_lr_rate", said.min_lr_rate.as_ref(), 0.0),
        _ => 0.0,
    };
    let training = Training {
        micro_batch_size: filled.plain("training.micro_batch_size", said.micro_batch_size.as_ref(), 1),
        gradient_accumulation_steps: filled.plain(
            "training.gradient_accumulation_steps",
            said.gradient_accumulation_steps.as_ref(),
            1,
        ),
        num_epochs: filled.plain("training.num_epochs", said.num_epochs.as_ref(), 1),
        max_steps: filled.optional("training.max_steps", said.max_steps.as_ref(), |steps| json!(steps)),
        learning_rate: filled.plain("training.learning_rate", said.learning_rate.as_ref(), 2e-4),
        scheduler,
        min_lr_rate,
        warmup,
        optimizer: AdamWConfig {
            beta1: filled.plain("training.adam_beta1", said.adam_beta1.as_ref(), 0.9),
            beta2: filled.plain("training.adam_beta2", said.adam_beta2.as_ref(), 0.999),
            epsilon: filled.plain("training.adam_epsilon", said.adam_epsilon.as_ref(), 1e-8),
            weight_decay: filled.plain("training.weight_decay", said.weight_decay.as_ref(), 0.0),
        },
        max_grad_norm: filled.plain("training.max_grad_norm", said.max_grad_norm.as_ref(), 1.0),
        memory: if checkpointing == Checkpointing::None { Memory::Keep } else { Memory::Recompute },
        on_nonfinite: filled.word("training.on_nonfinite", said.on_nonfinite.as_ref(), OnNonfinite::Abort),
        seed: filled.plain("training.seed", said.seed.as_ref(), 42),
        shuffle: filled.plain("training.shuffle", said.shuffle.as_ref(), true),
        eval_steps: filled.plain("evaluation.eval_steps", evaluation.eval_steps.as_ref(), 0),
        early_stopping_patience: filled.plain(
            "evaluation.early_stopping_patience",
            evaluation.early_stopping_patience.as_ref(),
            0,
        ),
        save_steps: filled.plain("output.save_steps", output.save_steps.as_ref(), 0),
        save_total_limit: filled.plain("output.save_total_limit", output.save_total_limit.as_ref(), 2),
    };
    (limits, max_dropped, training)
}

impl Plan {
    /// What a reader of the adapter finds in `base_model_name_or_path`: the name as given, without the place of an absolute folder
    /// on this machine.
    pub fn portable_base_name(&self) -> String {
        let path = Path::new(&self.base_name);
        let last = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if path.is_absolute() { last.unwrap_or_default() } else { self.base_name.clone() }
    }

    /// The value of a setting, as it would be written in a recipe.
    pub fn setting(&self, key: &str) -> Option<&Value> {
        self.settings.iter().find(|setting| setting.key == key).map(|setting| &setting.value)
    }

    /// Hashes of everything that the run reads: base, tokenizer, template, data.
    pub(super) fn inputs(&self) -> Result<Vec<(String, Vec<PathBuf>)>, Error> {
        let tokenizer = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
            .map(|name| self.base_folder.join(name));
        let data = |sources: &[Source]| sources.iter().flat_map(|source| source.files.clone()).collect();
        Ok(vec![
            ("base".to_owned(), model::shard_paths(&self.base_folder)?),
            ("tokenizer_and_config".to_owned(), tokenizer.into_iter().filter(|path| path.exists()).collect()),
            ("chat_template".to_owned(), self.chat_template.iter().cloned().collect()),
            ("datasets".to_owned(), data(&self.sources)),
            ("evaluation_datasets".to_owned(), data(&self.validation_sources)),
        ])
    }

    /// Where token caches are: `RANKINE_CACHE`, or the user's cache folder.
    pub(super) fn cache_folder() -> PathBuf {
        let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = || of("XDG_CACHE_HOME").or_else(|| of("LOCALAPPDATA")).or_else(|| of("HOME").map(|home| home.join(".cache")));
        of("RANKINE_CACHE")
            .or_else(|| user().map(|folder| folder.join("rankine")))
            .unwrap_or_else(|| std::env::temp_dir().join("rankine"))
    }
}
