//! The section `adapter`: what is trained, filled and checked against the base's projections.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::base::{Base, hub_id, missing, noted};
use super::filled::{Filled, Origin};
use crate::adapter::{AdapterError, LoraConfig, Tables, Targets, peft};
use crate::fault::{Explain, Fault};
use crate::hub::{Cache, Environment};
use crate::model::{DecoderSpec, Role};
use crate::objective::Objective;
use crate::recipe::{self, Location, Said};
use crate::terms::{AdapterVector, Initial, Method, Modules, Technique};
use crate::train::RunFolder;

/// Trained weights: an adapter, or every weight.
#[allow(clippy::large_enum_variant, reason = "one a run")]
#[derive(Debug, Clone, PartialEq)]
pub enum Trains {
    /// An adapter on the frozen base.
    Adapter(LoraConfig),
    /// Every weight of the base.
    Everything,
}

impl Trains {
    /// Returns the number of trained parameters.
    ///
    /// # Errors
    /// See [`LoraConfig::resolve`].
    pub(super) fn parameters(&self, spec: &DecoderSpec) -> Result<usize, AdapterError> {
        match self {
            Self::Adapter(config) => config.parameters(&spec.modules()),
            Self::Everything => Ok(spec.parameters()),
        }
    }

    /// Returns what trains for an objective: that of vectors asks nothing of the head.
    #[must_use]
    pub(super) fn of_objective(self, objective: &Objective) -> Self {
        match self {
            Self::Adapter(config) => Self::Adapter(LoraConfig {
                is_of_features: matches!(objective, Objective::Contrastive(_)),
                ..config
            }),
            Self::Everything => Self::Everything,
        }
    }

    /// Returns the training method.
    pub fn method(&self) -> Method {
        match self {
            Self::Adapter(_) => Method::Lora,
            Self::Everything => Method::Full,
        }
    }

    /// Returns the share of an adapter's input features that is dropped.
    pub(super) fn dropout(&self) -> f64 {
        if let Self::Adapter(config) = self {
            config.dropout
        } else {
            0.0
        }
    }
}

/// Returns what is trained, unless it has faults, and the adapter folder to continue from if the
/// recipe names one.
pub(super) fn trains(
    recipe: &recipe::Adapter,
    (base, rows): (Option<&Base>, &BTreeSet<u32>),
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> (Option<Trains>, Option<PathBuf>) {
    match filled.word("adapter.method", recipe.method.as_ref(), Technique::Lora) {
        Technique::Lora | Technique::Qlora => {
            let (config, init_from) = adapter(recipe, (base, rows), filled, faults);
            (config.map(Trains::Adapter), init_from)
        }
        Technique::Full => (Some(Trains::Everything), None),
    }
}

fn adapter(
    recipe: &recipe::Adapter,
    (base, rows): (Option<&Base>, &BTreeSet<u32>),
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> (Option<LoraConfig>, Option<PathBuf>) {
    let init_from = filled.optional("adapter.init_from", recipe.init_from.as_ref(), |path| {
        json!(path.display().to_string())
    });
    let init_from = init_from.map(within);
    let config = match (&init_from, &recipe.init_from) {
        (Some(folder), Some(said)) if !folder.is_dir() => {
            faults.push(no_adapter(folder, &said.place));
            None
        }
        (Some(folder), Some(said)) if !peft::is_in(folder) && !peft::is_of_mlx(folder) => {
            let is_model = folder.join("config.json").exists();
            let what = if is_model {
                "it is a model, and there is no"
            } else {
                "there is no"
            };
            let (shown, config) = (
                folder.display(),
                peft::files(folder)[0].display().to_string(),
            );
            let fault = Fault::new(format!(
                "adapter.init_from: `{shown}` holds no adapter: {what} `{config}`"
            ));
            faults.push(fault.at(&said.place).hint(
                "name the folder of a run, a checkpoint or an adapter \
                in PEFT's format, or a Hub id",
            ));
            None
        }
        (Some(folder), Some(said)) => {
            let config = base.map_or_else(
                || peft::read_config(folder),
                |base| peft::read_config_on(folder, &base.model.spec.modules()),
            );
            noted(config, &said.place, faults)
        }
        _ => with_rows(
            fresh_adapter(recipe, filled),
            recipe,
            (base, rows),
            filled,
            faults,
        ),
    };
    // Dropout belongs to the training, not to the adapter that one goes on from.
    let dropout = filled.plain("adapter.dropout", recipe.dropout.as_ref(), 0.0);
    let config = config.map(|config| LoraConfig { dropout, ..config });
    if let (Some(config), Some(_)) = (&config, &init_from) {
        put_derived(config, filled);
    }
    if let (Some(config), Some(base)) = (&config, base) {
        check_targets(recipe, init_from.as_deref(), config, base, faults);
    }
    (config, init_from)
}

/// Returns the adapter folder of what was named: an adapter, a run, a checkpoint, or a Hub id that
/// is in the cache.
pub(super) fn within(named: PathBuf) -> PathBuf {
    let id = named.to_str().filter(|_| !named.is_dir()).and_then(hub_id);
    let snapshot = id.and_then(|id| Cache::at(&Environment::read().cache).find(&id).ok());
    let named = snapshot.map_or(named, |snapshot| snapshot.folder);
    RunFolder::adapter_in(&named).unwrap_or(named)
}

fn no_adapter(folder: &Path, place: &Location) -> Fault {
    match folder.to_str().and_then(hub_id) {
        Some(id) => {
            let fault = Fault::new(format!(
                "adapter.init_from: `{id}` is neither a folder nor in the Hub's cache"
            ))
            .at(place);
            fault.hint(format!(
                "correct the path, or fetch the adapter with `rankine pull {id}`"
            ))
        }
        None => missing(
            "adapter.init_from",
            folder,
            "the folder of an adapter, a run or a checkpoint, or a Hub id",
            place,
        ),
    }
}

fn fresh_adapter(recipe: &recipe::Adapter, filled: &mut Filled) -> LoraConfig {
    let rank = filled.plain("adapter.r", recipe.r.as_ref(), 16);
    let alpha = filled.plain("adapter.alpha", recipe.alpha.as_ref(), 2.0 * rank as f64);
    let said = recipe.target_modules.as_ref();
    let modules = filled.fill(
        "adapter.target_modules",
        said,
        Modules::AllLinear,
        peft::modules_json,
    );
    let rank_pattern = in_order(&recipe.rank_pattern);
    let alpha_pattern = in_order(&recipe.alpha_pattern);
    for (pattern, said) in &rank_pattern {
        filled.plain(&format!("adapter.rank_pattern.{pattern}"), Some(*said), 0);
    }
    for (pattern, said) in &alpha_pattern {
        filled.plain(
            &format!("adapter.alpha_pattern.{pattern}"),
            Some(*said),
            0.0,
        );
    }
    let parameters = filled.optional(
        "adapter.target_parameters",
        recipe.target_parameters.as_ref(),
        |names| json!(names),
    );
    let initial = filled.fill(
        "adapter.init_lora_weights",
        recipe.init_lora_weights.as_ref(),
        Initial::Zero,
        |initial| match initial {
            Initial::Zero => json!(true),
            Initial::Drawn => json!(false),
            Initial::Principal => json!("pissa"),
        },
    );
    let has_bias = filled.plain("adapter.lora_bias", recipe.lora_bias.as_ref(), false);
    let has_magnitude = filled.plain("adapter.use_dora", recipe.use_dora.as_ref(), false);
    let layers = filled.optional(
        "adapter.layers_to_transform",
        recipe.layers_to_transform.as_ref(),
        |layers| json!(layers),
    );
    LoraConfig {
        rank,
        alpha,
        dropout: 0.0,
        targets: Targets {
            modules,
            layers,
            ..Targets::all_linear()
        },
        target_parameters: parameters.unwrap_or_default(),
        init_lora_weights: initial != Initial::Drawn,
        is_principal: initial == Initial::Principal,
        is_of_features: false,
        vector: match (has_bias, has_magnitude) {
            (true, _) => Some(AdapterVector::Bias),
            (_, true) => Some(AdapterVector::Magnitude),
            _ => None,
        },
        use_rslora: filled.plain("adapter.use_rslora", recipe.use_rslora.as_ref(), false),
        rank_pattern: rank_pattern
            .iter()
            .map(|(pattern, said)| ((*pattern).clone(), said.value))
            .collect(),
        alpha_pattern: alpha_pattern
            .iter()
            .map(|(pattern, said)| ((*pattern).clone(), said.value))
            .collect(),
        score: None,
        tables: Tables {
            saved: filled
                .optional(
                    "adapter.modules_to_save",
                    recipe.modules_to_save.as_ref(),
                    |names| json!(names),
                )
                .unwrap_or_default(),
            tokens: filled.optional(
                "adapter.trainable_token_indices",
                recipe.trainable_token_indices.as_ref(),
                peft::tokens_json,
            ),
        },
    }
}

/// Returns the config with the rows of new tokens trained, in each table that is not trained whole.
fn with_rows(
    mut config: LoraConfig,
    recipe: &recipe::Adapter,
    (base, rows): (Option<&Base>, &BTreeSet<u32>),
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Option<LoraConfig> {
    let Some(base) = base.filter(|_| !rows.is_empty()) else {
        return Some(config);
    };
    match config.add_token_rows(rows, &base.model.spec.modules()) {
        Ok(()) => {
            if let Some(tokens) = &config.tables.tokens {
                let origin = match recipe.trainable_token_indices {
                    None => "from tokens",
                    Some(_) => "from the recipe and tokens",
                };
                let key = "adapter.trainable_token_indices";
                filled.settings.retain(|setting| setting.key != key);
                filled.put(key, peft::tokens_json(tokens), Origin::Derived(origin));
            }
            Some(config)
        }
        Err(error) => {
            let said = [
                recipe.modules_to_save.as_ref().map(|said| &said.place),
                recipe.target_modules.as_ref().map(|said| &said.place),
            ];
            let place = said.into_iter().flatten().next();
            faults.extend(
                error
                    .faults()
                    .into_iter()
                    .map(|fault| place.iter().fold(fault, |fault, place| fault.at(place))),
            );
            None
        }
    }
}

/// Records the settings that come with the adapter to continue from.
fn put_derived(config: &LoraConfig, filled: &mut Filled) {
    let values = [
        ("adapter.r", json!(config.rank)),
        ("adapter.alpha", json!(config.alpha)),
        (
            "adapter.target_modules",
            peft::modules_json(&config.targets.modules),
        ),
        ("adapter.use_rslora", json!(config.use_rslora)),
        (
            "adapter.use_dora",
            json!(config.has(AdapterVector::Magnitude)),
        ),
        ("adapter.lora_bias", json!(config.has(AdapterVector::Bias))),
    ];
    let Tables { saved, tokens } = &config.tables;
    let saved = (!saved.is_empty()).then(|| ("adapter.modules_to_save", json!(saved)));
    let tokens = tokens
        .as_ref()
        .map(|tokens| ("adapter.trainable_token_indices", peft::tokens_json(tokens)));
    for (key, value) in values.into_iter().chain(saved).chain(tokens) {
        filled.put(key, value, Origin::Derived("from init_from"));
    }
}

/// Returns patterns in the order as written: the first match counts.
fn in_order<T>(patterns: &BTreeMap<String, Said<T>>) -> Vec<(&String, &Said<T>)> {
    let mut patterns: Vec<_> = patterns.iter().collect();
    patterns.sort_by(|(_, left), (_, right)| left.place.cmp(&right.place));
    patterns
}

/// Checks targets, patterns, layers and tables against the base's modules.
fn check_targets(
    recipe: &recipe::Adapter,
    init_from: Option<&Path>,
    config: &LoraConfig,
    base: &Base,
    faults: &mut Vec<Fault>,
) {
    let spec = &base.model.spec;
    let modules = spec.modules();
    let names: Vec<String> = modules.iter().map(|linear| linear.name.clone()).collect();
    if let (Some(said), Some(folder)) = (&recipe.init_from, init_from) {
        noted(
            peft::read_numbers(folder, config, &modules),
            &said.place,
            faults,
        );
        return;
    }
    let idle_layers = recipe
        .layers_to_transform
        .iter()
        .flat_map(|said| said.value.iter().map(|layer| (*layer, &said.place)));
    let idle_layers = idle_layers
        .filter(|(layer, _)| *layer >= spec.layers.len())
        .map(|(layer, place)| {
            let last = spec.layers.len() - 1;
            Fault::new(format!(
                "adapter.layers_to_transform: layer {layer} does not exist, the base \
                has layers 0 to {last}"
            ))
            .at(place)
        });
    let before = faults.len();
    faults.extend(idle_layers);
    if faults.len() > before {
        return;
    }
    let checked = config
        .check_names(&names)
        .and_then(|()| config.resolve(&names).map(drop));
    let checked = checked
        .and_then(|()| config.check_vector(&modules))
        .and_then(|()| config.check_principal(&modules));
    if let Err(error) = checked.and_then(|()| config.table_targets(&modules).map(drop)) {
        let place = place_of(recipe, &error);
        faults.extend(
            error
                .faults()
                .into_iter()
                .map(|fault| place.iter().fold(fault, |fault, place| fault.at(place))),
        );
    }
}

/// Checks the learning rates: with `LoRA+`, PEFT gives matrices of the embedding their own rate,
/// 1e-6, which no key sets here.
pub(super) fn check_rates(
    recipe: &recipe::Recipe,
    trains: Option<&Trains>,
    base: Option<&Base>,
    faults: &mut Vec<Fault>,
) {
    let (Some(Trains::Adapter(config)), Some(base), Some(said)) =
        (trains, base, &recipe.training.loraplus_lr_ratio)
    else {
        return;
    };
    let modules = base.model.spec.modules();
    let embedding = modules
        .iter()
        .find(|linear| linear.role == Role::Embedding)
        .map(|linear| linear.name.clone());
    // Where nothing is chosen of it alone, that is no fault.
    if let Some(target) = config
        .resolve(embedding.as_slice())
        .unwrap_or_default()
        .first()
    {
        let message = format!(
            "training.loraplus_lr_ratio does not go with an adapter of `{}`",
            target.module
        );
        faults.push(
            Fault::new(message)
                .at(&said.place)
                .hint("remove one of the two, or train its rows with `trainable_token_indices`"),
        );
    }
}

/// Returns the place in the recipe that an error is about.
fn place_of<'a>(recipe: &'a recipe::Adapter, error: &AdapterError) -> Option<&'a Location> {
    let targets = recipe.target_modules.as_ref().map(|said| &said.place);
    let (what, unmatched) = match error {
        AdapterError::NoMatch {
            what, unmatched, ..
        } => (what, unmatched),
        AdapterError::Table {
            key: "modules_to_save",
            ..
        } => return recipe.modules_to_save.as_ref().map(|said| &said.place),
        AdapterError::Vector {
            vector: AdapterVector::Bias,
            ..
        } => return recipe.lora_bias.as_ref().map(|said| &said.place),
        AdapterError::Principal { .. } => {
            return recipe.init_lora_weights.as_ref().map(|said| &said.place);
        }
        AdapterError::Vector { .. } => return recipe.use_dora.as_ref().map(|said| &said.place),
        AdapterError::Table { .. } => {
            return recipe
                .trainable_token_indices
                .as_ref()
                .map(|said| &said.place);
        }
        _ => return targets,
    };
    let is_unmatched = |pattern: &String| unmatched.contains(&format!("`{pattern}`"));
    let rank = || {
        recipe
            .rank_pattern
            .iter()
            .find(|(pattern, _)| is_unmatched(pattern))
            .map(|(_, said)| &said.place)
    };
    let alpha = || {
        recipe
            .alpha_pattern
            .iter()
            .find(|(pattern, _)| is_unmatched(pattern))
            .map(|(_, said)| &said.place)
    };
    match *what {
        "rank_pattern" => rank(),
        "alpha_pattern" => alpha(),
        "target_parameters" => recipe.target_parameters.as_ref().map(|said| &said.place),
        _ => targets,
    }
}
