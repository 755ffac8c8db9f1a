//! Resolves a recipe to a plan: every value is filled, every path looked up, and every fault
//! collected.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::PlanError;
use super::adapter::{Trains, check_rates, trains};
use super::allowed::Allowed;
use super::base::{self, BaseFound};
use super::chosen_device::{device_and_storage, refused_by_device};
use super::data_files;
use super::deduplicate::{Alike, alike};
use super::embedding::check_embedder;
use super::filled::{Filled, Setting};
use super::hub_data::{self, Snapshots};
use super::mixing::{Mixing, mixing};
use super::objective::{Aim, objective};
use super::output_dir::output_dir;
use super::prompts::prompts;
use super::quantization::packing;
use super::rates::check_lowest;
use super::scores;
use super::sources::{Reading, is_rendered};
use super::tokens::{Vocabulary, tokens};
use super::training::{Training, check_positions, training};
use crate::data::template::{ChatTemplate, Sources};
use crate::data::{DataSource, Encoder, Limits};
use crate::device;
use crate::export::consumers::Features;
use crate::export::gguf::architecture_name;
use crate::fault::Fault;
use crate::hub::stores::StoredModel;
use crate::hub::{HubError, Missing, RepoId, Snapshot};
use crate::infer::SamplePrompt;
use crate::model::{self, Storage};
use crate::proof::Products;
use crate::recipe::Recipe;
use crate::report::Reporter;
use crate::terms::{CacheMode, Device, Holdout, Offload};

/// Everything that a run will do. Counts of rows and steps follow with [`Plan::read_data`].
#[derive(Debug)]
pub struct Plan {
    /// The recipe's file.
    pub recipe: PathBuf,
    /// Every filled value and its origin, section by section.
    pub settings: Vec<Setting>,
    /// The base's name in the recipe.
    pub base_name: String,
    /// The base's folder.
    pub base_folder: PathBuf,
    /// The base's snapshot, if it is from the Hub.
    pub snapshot: Option<Snapshot>,
    /// The base's place in the store of Ollama or LM Studio, if it is from there.
    pub stored: Option<StoredModel>,
    /// The base's parsed `config.json`.
    pub model: model::Folder,
    /// What is trained: an adapter, or every weight.
    pub trains: Trains,
    /// Parameters that are trained.
    pub trainable_parameters: usize,
    /// The adapter folder to continue from.
    pub init_from: Option<PathBuf>,
    /// The tokenizer and the chat template.
    pub encoder: Encoder,
    /// The changes to the base's tokenizer, if the recipe has `tokens` or the adapter to continue
    /// from brings some.
    pub vocabulary: Option<Vocabulary>,
    /// The chat template's file, if the recipe names one.
    pub chat_template: Option<PathBuf>,
    /// The sources of the chat template, if they are not those of the base's folder.
    pub own_sources: Option<Sources>,
    /// The data to train on.
    pub sources: Vec<DataSource>,
    /// The validation data, beside held-out rows.
    pub validation_sources: Vec<DataSource>,
    /// The Hub data sets of both.
    pub hub_data: Snapshots,
    /// Which training rows are held out.
    pub holdout: Holdout,
    /// How long a row may be.
    pub limits: Limits,
    /// The sample prompts.
    pub prompts: Vec<SamplePrompt>,
    /// How `datasets` are mixed; `None` if each row is seen once per epoch.
    pub mixing: Option<Mixing>,
    /// Which rows are left out as duplicates or near-duplicates.
    pub alike: Alike,
    /// The share of rows that may be left out.
    pub max_dropped: f64,
    /// The device; `auto` is resolved.
    pub device: Device,
    /// Why this device was chosen, if `auto` had a choice.
    pub device_reason: Option<String>,
    /// CPU threads; 0 for one per core.
    pub threads: usize,
    /// Where tokenized data are cached.
    pub cache: CacheMode,
    /// The run's folder.
    pub output_dir: PathBuf,
    /// When the run started, or `SOURCE_DATE_EPOCH`: the time that a template's `strftime_now`
    /// returns.
    pub started: jiff::Timestamp,
    /// When the plan's files were first read. A file that is younger has changed since.
    pub read_since: SystemTime,
    /// How the base is stored in memory. `auto` is resolved, except for the place of the embedding:
    /// see [`super::MemoryPlan::storage`].
    pub storage: Storage,
    /// Whether the embedding stays in CPU memory; `auto` is resolved by the run's memory.
    pub(super) offload: Offload,
    /// Why the base cannot be trained as the recipe has it.
    pub(super) untrained: Vec<Fault>,
    /// The memory that the run may use.
    pub(super) allowed: Option<Allowed>,
    pub(super) training: Training,
    pub(super) aim: Aim,
}

impl Plan {
    /// Returns the tokens that the recipe adds to the base, with their ids.
    pub(super) fn new_tokens(&self) -> impl Iterator<Item = &(String, u32)> {
        self.vocabulary
            .iter()
            .flat_map(|vocabulary| &vocabulary.new)
    }
}

/// The result of [`resolve`].
#[derive(Debug)]
pub enum Resolved {
    /// The whole plan.
    Plan(Box<Plan>),
    /// What could be resolved without the Hub data that are missing from the cache.
    Hub {
        /// The base, and what of it is missing from the cache.
        base: Option<(RepoId, Missing)>,
        /// Missing data sets, as errors that tell how to fetch them.
        datasets: Vec<HubError>,
        /// The device.
        device: Device,
    },
}

/// Hub data that were fetched for a recipe, or are pinned by the lock of its run.
#[derive(Debug, Default)]
pub struct Fetched {
    /// The base.
    pub base: Option<Snapshot>,
    /// Data sets.
    pub datasets: Snapshots,
}

/// Fills a recipe and looks up what it names, without network access. `started` is when its run
/// started, or now if there is none yet. Data files that are not Parquet files are converted into
/// the cache, and `report` is told of it.
///
/// # Errors
/// Every fault of the recipe and of what it names, in the recipe's order.
pub fn resolve(
    recipe: Recipe,
    started: Option<jiff::Timestamp>,
    report: Reporter,
) -> Result<Resolved, PlanError> {
    resolve_on(recipe, started, Fetched::default(), report)
}

/// Like [`resolve`], with what was fetched.
///
/// # Errors
/// As for [`resolve`].
pub fn resolve_on(
    mut recipe: Recipe,
    started: Option<jiff::Timestamp>,
    fetched: Fetched,
    report: Reporter,
) -> Result<Resolved, PlanError> {
    let read_since = SystemTime::now();
    let mut faults = recipe.faults.clone();
    let mut filled = Filled::default();
    let started = started.unwrap_or_else(|| start(&mut faults));
    let hub_data = hub_data::place(&mut recipe, &fetched.datasets, &mut faults);
    let mut base = base::find(&recipe, fetched.base, &mut filled, &mut faults);
    let vocabulary = if let BaseFound::Folder(base) = &mut base {
        tokens(&recipe, base, &mut filled, &mut faults)
    } else {
        None
    };
    let folder = if let BaseFound::Folder(base) = &base {
        Some(base.as_ref())
    } else {
        None
    };
    let files = data_files::find(&recipe, &recipe.datasets, report)?;
    let validation_files = data_files::find(&recipe, &recipe.evaluation.datasets, report)?;
    let mut with_files = recipe
        .datasets
        .iter()
        .zip(&files)
        .chain(recipe.evaluation.datasets.iter().zip(&validation_files));
    let chats = recipe.chat_template.is_some()
        || with_files.any(|(dataset, files)| is_rendered(dataset, files));
    let is_absent = folder.is_none();
    let base_to_ask = folder.filter(|_| chats);
    let Templates {
        own_sources,
        template,
        chat_template,
        has_template,
    } = templates(&recipe, base_to_ask, started, &mut filled, &mut faults);
    let has_template = has_template || is_absent;
    let mut reading = Reading {
        has_template,
        hub: &hub_data.found,
        filled: &mut filled,
        faults: &mut faults,
    };
    let mut sources = reading.sources("datasets", &recipe.datasets, files);
    let labels = scores::label_reading(&recipe, &sources, &mut filled, &mut faults);
    let rows = vocabulary
        .as_ref()
        .map(|vocabulary| vocabulary.rows.clone())
        .unwrap_or_default();
    let (mut trains, init_from) =
        trains(&recipe.adapter, (folder, &rows), &mut filled, &mut faults);
    check_rates(&recipe, trains.as_ref(), folder, &mut faults);
    let packing = packing(
        &recipe.adapter,
        trains.as_ref(),
        folder,
        &mut filled,
        &mut faults,
    );
    let mixing = mixing(&recipe, &mut filled);
    let (limits, max_dropped, training) = training(&recipe, &mut filled);
    let aim = objective(
        &recipe,
        folder,
        limits.sequence_len,
        labels.as_ref(),
        &mut filled,
        &mut faults,
    );
    if let (Some(Trains::Adapter(config)), Some(base)) = (&mut trains, folder) {
        let said = recipe.adapter.init_from.as_ref();
        let from = init_from.as_deref().zip(said.map(|said| &said.place));
        let (objective, labels) = (&aim.objective, labels.as_ref());
        scores::add_head(config, objective, labels, base, from, &mut faults);
    }
    check_positions(&recipe, &limits, folder, &mut faults);
    check_embedder(&recipe, folder, &mut faults);
    let alike = alike(&recipe, &mut filled);
    check_lowest(&recipe, training.learning_rate, &mut faults);
    let mut reading = Reading {
        has_template,
        hub: &hub_data.found,
        filled: &mut filled,
        faults: &mut faults,
    };
    let mut validation_sources = reading.sources(
        "evaluation.datasets",
        &recipe.evaluation.datasets,
        validation_files,
    );
    for source in sources.iter_mut().chain(&mut validation_sources) {
        source.labels.clone_from(&labels);
    }
    let holdout = holdout(&recipe, &mut filled);
    let prompts = prompts(&recipe, folder, template.as_ref(), &mut filled, &mut faults);
    let surroundings = surroundings(&recipe, &mut filled);
    if !faults.is_empty() {
        return Err(PlanError::Faults { faults });
    }
    let (said, is_data_absent) = (surroundings.device, !hub_data.absent.is_empty());
    let absent = |base| Resolved::Hub {
        base,
        datasets: hub_data.absent,
        device: said,
    };
    let (base, trains) = match (base, trains) {
        (BaseFound::Hub(id, missing), _) => return Ok(absent(Some((id, missing)))),
        _ if is_data_absent => return Ok(absent(None)),
        (BaseFound::Folder(base), Some(trains)) => (*base, trains.of_objective(&aim.objective)),
        _ => return Err(faulty(Fault::new("the base model could not be read"))),
    };
    let trainable_parameters = trains.parameters(&base.model.spec)?;
    let asked = packing.storage(training.model_dtype);
    let (chosen, storage) = device_and_storage(said, &base.model, &trains, asked, &training);
    if let Some(fault) = refused_by_device(&recipe.training, chosen.device) {
        return Err(faulty(fault));
    }
    let untrained = base::untrained(&recipe, &base.model);
    Ok(Resolved::Plan(Box::new(Plan {
        recipe: recipe.path,
        settings: filled.by_section(),
        base_name: base.name,
        base_folder: base.folder,
        snapshot: base.snapshot,
        stored: base.stored,
        model: base.model,
        trains,
        trainable_parameters,
        init_from,
        encoder: Encoder {
            tokenizer: base.tokenizer,
            template,
        },
        vocabulary,
        chat_template,
        own_sources,
        sources,
        validation_sources,
        hub_data: hub_data.found,
        holdout,
        limits,
        prompts,
        mixing,
        alike,
        max_dropped,
        device: chosen.device,
        device_reason: chosen.reason,
        threads: surroundings.threads,
        cache: surroundings.cache,
        output_dir: surroundings.output_dir,
        started,
        read_since,
        offload: packing.offload,
        untrained,
        allowed: Allowed::find(training.max_memory_bytes, chosen.device),
        storage,
        training,
        aim,
    })))
}

fn faulty(fault: Fault) -> PlanError {
    PlanError::Faults {
        faults: vec![fault],
    }
}

/// The chat template of a recipe.
struct Templates {
    /// Its sources, if they are not those of the base's folder.
    own_sources: Option<Sources>,
    template: Option<ChatTemplate>,
    /// The file that the recipe names.
    chat_template: Option<PathBuf>,
    /// Whether there is one. A template that is refused has its fault already.
    has_template: bool,
}

/// Reads the chat template for a base, unless there is no base to ask.
fn templates(
    recipe: &Recipe,
    base: Option<&base::Base>,
    started: jiff::Timestamp,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Templates {
    let before = faults.len();
    let found = base.and_then(|base| base::template(recipe, base, started, faults));
    let is_refused = faults.len() > before;
    let (sources, template) = found.unzip();
    let is_own = recipe.chat_template.is_some() || !recipe.chat_template_kwargs.is_empty();
    let has_template = template.is_some() || is_refused || recipe.chat_template.is_some();
    let named = filled.optional("chat_template", recipe.chat_template.as_ref(), |path| {
        json!(path.display().to_string())
    });
    for (name, said) in &recipe.chat_template_kwargs {
        let key = format!("chat_template_kwargs.{name}");
        filled.plain(&key, Some(said), Value::Null);
    }
    Templates {
        own_sources: sources.filter(|_| is_own),
        template,
        chat_template: named.filter(|path| path.is_file()),
        has_template,
    }
}

/// Where a run computes and writes.
struct Surroundings {
    /// As the recipe names it, `auto` included.
    device: Device,
    threads: usize,
    cache: CacheMode,
    output_dir: PathBuf,
}

/// Fills the keys of a run's surroundings.
fn surroundings(recipe: &Recipe, filled: &mut Filled) -> Surroundings {
    let device = filled.fill("device", recipe.device.as_ref(), Device::Auto, |device| {
        json!(device.to_string())
    });
    let threads = filled.plain("threads", recipe.threads.as_ref(), 0);
    let cache = filled.word("cache", recipe.cache.as_ref(), CacheMode::User);
    let (said, default) = (recipe.output_dir.as_ref(), output_dir(recipe));
    let output_dir = filled.fill("output_dir", said, default, |path| {
        json!(path.display().to_string())
    });
    Surroundings {
        device,
        threads,
        cache,
        output_dir,
    }
}

/// Fills how many training rows are held out.
fn holdout(recipe: &Recipe, filled: &mut Filled) -> Holdout {
    let said = recipe.evaluation.val_set_size.as_ref();
    filled.fill(
        "evaluation.val_set_size",
        said,
        Holdout::Rows(0),
        |holdout| match holdout {
            Holdout::Share(share) => json!(share),
            Holdout::Rows(rows) => json!(rows),
        },
    )
}

impl Plan {
    /// Refuses to train if the base would not train as its `config.json` says and the recipe does
    /// not mention it. Any other use of the base computes the same.
    ///
    /// # Errors
    /// Lists each key of `config.json` that acts in training and is not built.
    pub fn check_trains(&self) -> Result<(), PlanError> {
        let faults = self.untrained.clone();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(PlanError::Faults { faults })
        }
    }
}

fn start(faults: &mut Vec<Fault>) -> jiff::Timestamp {
    now().unwrap_or_else(|fault| {
        faults.push(fault);
        jiff::Timestamp::UNIX_EPOCH
    })
}

/// Returns the current time, or the value of `SOURCE_DATE_EPOCH`
/// (<https://reproducible-builds.org/specs/source-date-epoch/>).
///
/// # Errors
/// `SOURCE_DATE_EPOCH` is not a time.
pub fn now() -> Result<jiff::Timestamp, Fault> {
    let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") else {
        return Ok(jiff::Timestamp::now());
    };
    let parsed = epoch
        .parse()
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    parsed.ok_or_else(|| {
        Fault::new(format!(
            "SOURCE_DATE_EPOCH is `{epoch}`, expected whole seconds since 1970"
        ))
    })
}

impl Plan {
    /// Returns the base's name for `base_model_name_or_path`: the repository on the Hub, or the
    /// name as given, without the path of an absolute folder on this machine.
    pub fn portable_base_name(&self) -> String {
        if let Some(snapshot) = &self.snapshot {
            return snapshot.id.repository().to_owned();
        }
        let path = Path::new(&self.base_name);
        let last = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if path.is_absolute() {
            last.unwrap_or_default()
        } else {
            self.base_name.clone()
        }
    }

    /// Returns the portable name, with `@` and the commit for a base of the Hub.
    pub fn pinned_base_name(&self) -> String {
        let commit = self
            .snapshot
            .as_ref()
            .map_or_else(String::new, |snapshot| format!("@{}", snapshot.commit));
        self.portable_base_name() + &commit
    }

    /// Returns the precision of products of float32 operands on the run's device.
    pub fn products(&self) -> Products {
        Products::new(self.training.allow_tf32)
    }

    /// Describes the device in words.
    pub fn device_words(&self) -> String {
        let words = device::find(self.device)
            .map_or_else(|| self.device.to_string(), |found| found.describe());
        self.device_reason
            .as_ref()
            .map_or_else(|| words.clone(), |reason| format!("{words}: {reason}"))
    }

    /// Returns the features that consumers check in the adapter, or in the model if there is no
    /// adapter.
    pub fn facts(&self) -> Features {
        let architecture = architecture_name(&self.model.spec).ok();
        match &self.trains {
            Trains::Adapter(config) => Features::of(&config.saved(), architecture)
                .on(config, &self.model.spec.projections()),
            Trains::Everything => Features::of_model(architecture),
        }
    }

    /// Returns the value of a setting, as it would be written in a recipe.
    pub fn setting(&self, key: &str) -> Option<&Value> {
        self.settings
            .iter()
            .find(|setting| setting.key == key)
            .map(|setting| &setting.value)
    }
}
