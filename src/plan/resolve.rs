//! Resolves a recipe to a plan: every value is filled, every path looked up, and every fault
//! collected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::PlanError;
use super::adapter::{Trains, check_rates, trains};
use super::alike::{Alike, alike};
use super::base::{self, BaseFound, noted};
use super::data_files;
use super::filled::{Filled, Setting};
use super::hub_data::{self, Snapshots};
use super::mixing::{Mixing, mixing};
use super::peak::Allowed;
use super::prompts::prompts;
use super::quantization::packing;
use super::rates::check_lowest;
use super::selection::{check_keys, selected};
use super::tokens::{Vocabulary, tokens};
use super::training::{Training, check_positions, training};
use crate::adapter::peft;
use crate::data::template::Sources;
use crate::data::{self, DataFile, DataSource, Encoder, Limits, Packing};
use crate::device::{Choice, HalfPrecision};
use crate::export::consumers::{Features, portability};
use crate::export::gguf::architecture_name;
use crate::fault::{Explain, Fault};
use crate::files::{cache_folder, guarded};
use crate::hub::{DatasetSnapshot, HubError, Missing, RepoId, Snapshot};
use crate::infer::SamplePrompt;
use crate::model::Storage;
use crate::proof::{ProbeModel, Products};
use crate::recipe::{self, Dataset, Recipe, Said};
use crate::report::{Reporter, mebibytes};
use crate::terms::{CacheMode, Device, Format, Holdout, ModelDtype, Offload, Term, TrainOn};
use crate::{device, model, panics, proof};

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
/// Every fault of the recipe and of what it names, in the recipe's order.
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
    let before = faults.len();
    let template = folder
        .filter(|_| chats)
        .and_then(|base| base::template(&recipe, base, started, &mut faults));
    // A template that is refused has its fault already.
    let is_refused = faults.len() > before;
    let (own_sources, template) = template.unzip();
    let is_own = recipe.chat_template.is_some() || !recipe.chat_template_kwargs.is_empty();
    let own_sources = own_sources.filter(|_| is_own);
    let is_absent = !matches!(base, BaseFound::Folder(_));
    let has_template =
        is_absent || template.is_some() || is_refused || recipe.chat_template.is_some();
    let chat_template = filled.optional("chat_template", recipe.chat_template.as_ref(), |path| {
        json!(path.display().to_string())
    });
    let chat_template = chat_template.filter(|path| path.is_file());
    for (name, said) in &recipe.chat_template_kwargs {
        filled.plain(
            &format!("chat_template_kwargs.{name}"),
            Some(said),
            Value::Null,
        );
    }
    let mut reading = Reading {
        has_template,
        hub: &hub_data.found,
        filled: &mut filled,
        faults: &mut faults,
    };
    let sources = reading.sources("datasets", &recipe.datasets, files);
    let rows = vocabulary
        .as_ref()
        .map(|vocabulary| vocabulary.rows.clone())
        .unwrap_or_default();
    let (trains, init_from) = trains(&recipe.adapter, (folder, &rows), &mut filled, &mut faults);
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
    check_positions(&recipe, &limits, folder, &mut faults);
    let alike = alike(&recipe, &mut filled);
    check_lowest(&recipe, training.learning_rate, &mut faults);
    let mut reading = Reading {
        has_template,
        hub: &hub_data.found,
        filled: &mut filled,
        faults: &mut faults,
    };
    let validation_sources = reading.sources(
        "evaluation.datasets",
        &recipe.evaluation.datasets,
        validation_files,
    );
    let said = recipe.evaluation.val_set_size.as_ref();
    let holdout = filled.fill(
        "evaluation.val_set_size",
        said,
        Holdout::Rows(0),
        as_written,
    );
    let prompts = prompts(&recipe, folder, template.as_ref(), &mut filled, &mut faults);
    let said = filled.fill("device", recipe.device.as_ref(), Device::Auto, |device| {
        json!(device.to_string())
    });
    let threads = filled.plain("threads", recipe.threads.as_ref(), 0);
    let cache = filled.word("cache", recipe.cache.as_ref(), CacheMode::User);
    let output_dir = output_dir(&recipe);
    filled.fill(
        "output_dir",
        recipe.output_dir.as_ref(),
        output_dir.clone(),
        |path| json!(path.display().to_string()),
    );
    if !faults.is_empty() {
        return Err(PlanError::Faults { faults });
    }
    let (base, trains) = match (base, trains) {
        (BaseFound::Hub(id, missing), _) => {
            return Ok(Resolved::Hub {
                base: Some((id, missing)),
                datasets: hub_data.absent,
                device: said,
            });
        }
        _ if !hub_data.absent.is_empty() => {
            return Ok(Resolved::Hub {
                base: None,
                datasets: hub_data.absent,
                device: said,
            });
        }
        (BaseFound::Folder(base), Some(trains)) => (*base, trains),
        _ => {
            return Err(PlanError::Faults {
                faults: vec![Fault::new("the base model could not be read")],
            });
        }
    };
    let trainable_parameters = trains.parameters(&base.model.spec)?;
    let storage_with = |halves: HalfPrecision| {
        storage(
            &base.model,
            &trains,
            packing.storage(training.model_dtype),
            halves,
        )
    };
    let tiny = |found: &device::FoundDevice| {
        ProbeModel::of(
            &base.model.spec,
            storage_with(found.halves()),
            trains.method(),
        )
    };
    let Choice {
        device,
        reason: device_reason,
    } = choose_device(said, &training, &tiny);
    if let Some(fault) = refused_by_device(&recipe.training, device) {
        return Err(PlanError::Faults {
            faults: vec![fault],
        });
    }
    let storage = storage_with(device::halves(device));
    let untrained = base::untrained(&recipe, &base.model);
    Ok(Resolved::Plan(Box::new(Plan {
        recipe: recipe.path,
        settings: filled.by_section(),
        base_name: base.name,
        base_folder: base.folder,
        snapshot: base.snapshot,
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
        device,
        device_reason,
        threads,
        cache,
        output_dir,
        started,
        offload: packing.offload,
        untrained,
        allowed: Allowed::find(training.max_memory_bytes, device),
        storage,
        training,
    })))
}

/// Returns whether rows of a dataset are rendered by a chat template.
fn is_rendered(dataset: &Dataset, files: &data_files::Found) -> bool {
    let Some(format) = dataset.format.as_ref().map(|said| said.value) else {
        return false;
    };
    let columns = dataset
        .columns
        .iter()
        .map(|(name, said)| (name.clone(), said.value.clone()))
        .collect();
    data::any_rendered(files.as_deref().unwrap_or_default(), format, &columns)
}

/// Returns the device that was named, or the best one on which training is proven.
fn choose_device(
    said: Device,
    training: &Training,
    tiny: &dyn Fn(&device::FoundDevice) -> ProbeModel,
) -> Choice {
    // A device is opened for its proof already.
    device::allow_tf32(training.allow_tf32);
    let proven = |found: &device::FoundDevice| {
        let products = Products::new(training.allow_tf32 && found.has_tf32());
        is_proven(found, &tiny(found), products)
    };
    device::choose(said, &|found| {
        found.takes(training.model_dtype) && proven(found)
    })
}

/// Returns the fault if the recipe asks for a dtype, or for TF32, that the device does not have. A
/// device that is not listed is checked when it is opened.
fn refused_by_device(training: &recipe::Training, device: Device) -> Option<Fault> {
    let found = device::find(device)?;
    let dtype = training
        .model_dtype
        .as_ref()
        .and_then(|said| Some((said, found.refusal(said.value)?)));
    if let Some((said, refusal)) = dtype {
        let hint = "choose another type or device; a run goes on where its type is taken";
        return Some(
            Fault::new(format!("training.model_dtype: {refusal}"))
                .at(&said.place)
                .hint(hint),
        );
    }
    let said = training.allow_tf32.as_ref().filter(|said| said.value)?;
    let fault =
        Fault::new(format!("training.allow_tf32: {}", found.tf32_refusal()?)).at(&said.place);
    Some(fault.hint("remove `allow_tf32`, or name such a GPU, such as `device: cuda`"))
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

/// Returns how the base is stored on a device. Trained weights are f32.
fn storage(
    base: &model::Folder,
    trains: &Trains,
    asked: Storage,
    halves: HalfPrecision,
) -> Storage {
    match trains {
        Trains::Everything => ModelDtype::Float32.into(),
        // Of weights that cannot be read, loading tells.
        Trains::Adapter(_) => base.kept_in(asked, halves).unwrap_or(Storage {
            dtype: ModelDtype::Float32,
            ..asked
        }),
    }
}

/// Returns whether training is proven on a GPU, so that `auto` may choose it. If it has not been
/// proven yet, it is proven now. A GPU that fails is passed over, and later errors are not blamed
/// on it.
fn is_proven(found: &device::FoundDevice, tiny: &ProbeModel, products: Products) -> bool {
    let prove = || {
        device::open(found.device).is_ok_and(|device| {
            proof::prove_once(found, tiny, &device, products, &cache_folder()).is_ok()
        })
    };
    let is_proven = guarded(prove).unwrap_or(false);
    if !is_proven {
        panics::forget();
    }
    is_proven
}

/// Returns a note on a `quantization_config` whose weights are not quantized.
pub fn leftover_note(method: &str) -> String {
    format!(
        "config.json has a `quantization_config` ({method}), and the weights are plain numbers: it \
        is a leftover, and is ignored"
    )
}

fn start(faults: &mut Vec<Fault>) -> jiff::Timestamp {
    now().unwrap_or_else(|fault| {
        faults.push(fault);
        jiff::Timestamp::UNIX_EPOCH
    })
}

/// Returns the folder of a recipe's run: the one that it names, or one with the recipe's name.
pub(super) fn output_dir(recipe: &Recipe) -> PathBuf {
    let stem = recipe.path.file_stem().unwrap_or(recipe.path.as_os_str());
    recipe.output_dir.as_ref().map_or_else(
        || Path::new("checkpoints").join(stem),
        |said| said.value.clone(),
    )
}

fn as_written(holdout: &Holdout) -> Value {
    match holdout {
        Holdout::Share(share) => json!(share),
        Holdout::Rows(rows) => json!(rows),
    }
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

/// The context in which the datasets of a recipe are read.
struct Reading<'a> {
    /// Whether there is a chat template.
    has_template: bool,
    hub: &'a Snapshots,
    filled: &'a mut Filled,
    faults: &'a mut Vec<Fault>,
}

impl Reading<'_> {
    fn sources(
        &mut self,
        section: &str,
        datasets: &[Dataset],
        files: Vec<data_files::Found>,
    ) -> Vec<DataSource> {
        let each = datasets.iter().zip(files).enumerate();
        each.filter_map(|(index, (dataset, files))| {
            self.source(&format!("{section}.{index}"), dataset, files)
        })
        .collect()
    }

    fn source(
        &mut self,
        section: &str,
        dataset: &Dataset,
        files: data_files::Found,
    ) -> Option<DataSource> {
        let (filled, faults, snapshot) =
            (&mut *self.filled, &mut *self.faults, self.hub.get(section));
        filled.optional(&format!("{section}.path"), dataset.path.as_ref(), |path| {
            json!(path)
        });
        filled.optional(
            &format!("{section}.config"),
            dataset.config.as_ref(),
            |config| json!(config),
        );
        filled.optional(
            &format!("{section}.split"),
            dataset.split.as_ref(),
            |split| json!(split.written),
        );
        filled.optional(
            &format!("{section}.max_rows"),
            dataset.max_rows.as_ref(),
            |rows| json!(rows),
        );
        let format = filled.optional(
            &format!("{section}.format"),
            dataset.format.as_ref(),
            |format| json!(format.word()),
        );
        let Some(format) = format else {
            propose(
                section,
                files.as_deref().ok().and_then(<[_]>::first),
                faults,
            );
            return None;
        };
        let columns = dataset
            .columns
            .iter()
            .map(|(name, said)| (name.clone(), said.value.clone()))
            .collect();
        for (name, said) in &dataset.columns {
            filled.plain(
                &format!("{section}.columns.{name}"),
                Some(said),
                String::new(),
            );
        }
        let roles: BTreeMap<String, String> = dataset
            .roles
            .iter()
            .map(|(word, said)| (word.clone(), said.value.clone()))
            .collect();
        let said = dataset.roles.values().next().map(|first| Said {
            value: roles.clone(),
            place: first.place.clone(),
        });
        filled.optional(&format!("{section}.roles"), said.as_ref(), |roles| {
            json!(roles)
        });
        let default = if format == Format::Text {
            TrainOn::All
        } else {
            TrainOn::Assistant
        };
        let train_on = filled.word(
            &format!("{section}.train_on"),
            dataset.train_on.as_ref(),
            default,
        );
        let system = filled.optional(
            &format!("{section}.system"),
            dataset.system.as_ref(),
            |system| json!(system),
        );
        if !self.has_template && is_rendered(dataset, &files) {
            let place = &dataset.format.as_ref()?.place;
            let hint = "name a template file with `chat_template`, or use a base that was trained \
                to chat";
            let rows = if format == Format::Chat {
                "`chat` needs"
            } else {
                "messages in `completion` need"
            };
            faults.push(
                Fault::new(format!(
                    "{section}.format: {rows} a chat template, the base has none"
                ))
                .at(place)
                .hint(hint),
            );
        }
        let place = &dataset.path.as_ref()?.place;
        // A row that is wrong has a place of its own.
        let placed = |fault: Fault| {
            if fault.place.is_none() {
                fault.at(place)
            } else {
                fault
            }
        };
        let files = files
            .map_err(|found| faults.extend(found.into_iter().map(placed)))
            .ok()?;
        let rows: Vec<Option<u64>> = files
            .iter()
            .map(|file| noted(data::inspect(file, format, &columns), place, faults))
            .collect();
        if snapshot.is_none() && hub_data::is_of_hub(dataset) {
            return Some(DataSource {
                files,
                selected: None,
                format,
                columns,
                roles,
                train_on,
                system,
            });
        }
        check_keys(section, dataset, snapshot, faults);
        // Of a file that cannot be read there is a fault already.
        let rows: Option<Vec<u64>> = rows.into_iter().collect();
        let selected = selected(section, dataset, &rows?, snapshot, faults);
        Some(DataSource {
            files,
            selected,
            format,
            columns,
            roles,
            train_on,
            system,
        })
    }
}

/// Suggests in the fault of a missing format the one that the rows seem to have.
fn propose(section: &str, file: Option<&DataFile>, faults: &mut [Fault]) {
    let missing = format!("missing key `format` in `{section}`");
    let fault = faults.iter_mut().find(|fault| fault.message == missing);
    let (Some(fault), Some(file)) = (fault, file) else {
        return;
    };
    match data::candidates(file) {
        Ok(columns) => {
            let Some((format, names)) = data::detected(&columns) else {
                return;
            };
            let names = if names.is_empty() {
                String::new()
            } else {
                format!(" with `columns: {}`", data::in_recipe(&names))
            };
            fault.hint = Some(format!(
                "the columns of `{}` look like those of `format: {format}`{names}",
                file.path().display()
            ));
        }
        Err(error @ data::TableError::Other { .. }) => {
            fault.hint = error
                .hint()
                .map(|hint| format!("`{}` is no Parquet file: {hint}", file.path().display()));
        }
        Err(_) => {}
    }
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

    /// Returns notes for the user before the run. They do not stop it.
    pub fn notes(&self) -> Vec<String> {
        let (length, context) = (self.limits.sequence_len, self.model.spec.context);
        let long =
            format!("training.sequence_len is {length}, the base was made for {context} tokens");
        let switch = self
            .model
            .spec
            .layers
            .iter()
            .filter_map(|layer| layer.mixer.rope()?.switches_at())
            .min();
        let is_packed = self.training.packing != Packing::Off;
        let is_shared = self.training.micro_batch_size > 1 || is_packed;
        let alone = if is_packed { " without packing" } else { "" };
        let switches = switch
            .filter(|switch| length > *switch && is_shared)
            .map(|switch| {
                format!(
                    "the base's RoPE changes for a micro-batch with a row of more than {switch} \
            tokens, so the loss of a row depends on the rows beside it, as in transformers; \
            `training.micro_batch_size: 1`{alone} avoids that"
                )
            });
        let left_out = self
            .model
            .in_training
            .iter()
            .filter(|_| self.untrained.is_empty());
        let left_out = left_out.map(|(key, share)| {
            format!("`{key}` {share} of the base is left out, as `training.base_dropout: 0` says")
        });
        let of_tokens = self
            .vocabulary
            .iter()
            .flat_map(|vocabulary| vocabulary.notes.clone());
        let of_base = of_tokens
            .chain((length > context).then_some(long))
            .chain(switches)
            .chain(self.notes_of_base())
            .chain(left_out);
        let of_adapter = self.init_from.iter().flat_map(|folder| {
            let notes = peft::notes(folder, Some(&self.model.spec.modules())).unwrap_or_default();
            notes
                .into_iter()
                .map(move |note| format!("adapter.init_from `{}`: {note}", folder.display()))
        });
        let of_base = of_base
            .chain(of_adapter)
            .chain(self.unread_variables())
            .chain(self.notes_of_frames());
        let of_base = of_base
            .chain(self.untied())
            .chain(self.without_tf32())
            .chain(self.not_paged())
            .chain(portability(&self.facts()));
        of_base
            .chain(self.unread_columns())
            .chain(self.notes_of_hub_data())
            .collect()
    }

    /// Returns notes on columns of the data that are not read.
    fn unread_columns(&self) -> Vec<String> {
        let sources = self
            .sources
            .iter()
            .chain(&self.validation_sources)
            .enumerate();
        let note = |(index, source): (usize, &DataSource)| {
            let columns = data::unread_columns(&source.files, source.format, &source.columns);
            let names: Vec<String> = columns
                .iter()
                .map(|column| format!("`{}`", data::visible(column)))
                .collect();
            let (key, path) = self.source_name(index);
            let text = || {
                format!(
                    "{key}: columns of `{path}` that format `{}` does not read: {}",
                    source.format,
                    names.join(", ")
                )
            };
            (!names.is_empty()).then(text)
        };
        sources.filter_map(note).collect()
    }

    /// Returns notes on where Hub data come from.
    fn notes_of_hub_data(&self) -> impl Iterator<Item = String> {
        let of = |(key, snapshot): (&String, &DatasetSnapshot)| {
            let notes = snapshot.notes().into_iter();
            notes
                .map(|note| format!("{key}: {note}"))
                .collect::<Vec<_>>()
        };
        self.hub_data.iter().flat_map(of)
    }

    /// Returns notes on variables of the recipe that no template reads.
    fn unread_variables(&self) -> impl Iterator<Item = String> {
        let sources = self.own_sources.iter();
        let unread = sources
            .flat_map(|sources| sources.variables.keys().filter(|name| !sources.reads(name)));
        unread
            .map(|name| format!("chat_template_kwargs.{name}: the chat template does not read it"))
    }

    /// Returns the precision of products of float32 operands on the run's device.
    pub fn products(&self) -> Products {
        Products::new(self.training.allow_tf32)
    }

    /// Returns a note if TF32 is allowed and does not apply to the base's dtype.
    fn without_tf32(&self) -> Option<String> {
        let dtype = Some(self.storage.dtype)
            .filter(|dtype| self.training.allow_tf32 && *dtype != ModelDtype::Float32)?;
        Some(format!(
            "`training.allow_tf32` is for products of float32 operands, and this base computes in \
            `{dtype}`: next to nothing changes"
        ))
    }

    /// Returns a note if the recipe's optimizer is a paged one, which is not paged here.
    fn not_paged(&self) -> Option<String> {
        let word = self.training.optimizer_word;
        let resident = word.resident();
        (word != resident).then(|| {
            format!(
                "`training.optimizer: {word}` is `{resident}` here: the plan counts its \
                states, and none is moved to the processor's memory while a run goes on"
            )
        })
    }

    /// Returns notes on the base's files, whatever they are used for.
    pub fn notes_of_base(&self) -> Vec<String> {
        let leftover = self.model.leftover_quantization.as_deref();
        let of_tokenizer = self.encoder.tokenizer.notes(self.model.spec.vocabulary);
        leftover
            .map(leftover_note)
            .into_iter()
            .chain(of_tokenizer)
            .collect()
    }

    /// Returns a note if the base ties embedding and head, and they are trained apart, as PEFT
    /// does: the user should not first see it in a merged model.
    fn untied(&self) -> Option<String> {
        let spec = &self.model.spec;
        let Trains::Adapter(config) = &self.trains else {
            return None;
        };
        if !spec.tied_head || !config.unties(&spec.modules()) {
            return None;
        }
        let size = mebibytes(
            (spec.vocabulary * spec.width) as u64
                * if self.storage.dtype == ModelDtype::Float32 {
                    4
                } else {
                    2
                },
        );
        Some(format!(
            "the base has one table for its embedding and its head, and the adapter changes them \
            apart, as in PEFT: a merged model has both (`tie_word_embeddings: false`) and is \
            {size} larger"
        ))
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
