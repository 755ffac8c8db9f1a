//! Reads and writes `adapter_config.json`, with every key that PEFT writes.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::values::judge;
use super::{CONFIG, FEATURES};
use crate::adapter::score::{MODULES, SCORE_COPIES, SavedLayer, ScoreConfig};
use crate::adapter::tables::Tables;
use crate::adapter::{AdapterError, LoraConfig, Targets};
use crate::files::{JSON_BYTES, read_text_up_to};
use crate::hub::{Commit, RepoId};
use crate::model::WeightOrder;
use crate::terms::{AdapterVector, MAX_RANK, Modules, ProblemType, TokenIndices};

/// The release of PEFT whose format this is.
const PEFT_VERSION: &str = "0.21.2";

/// Returns the text of `adapter_config.json`; `modules` replace `all-linear`, and their weights
/// have this order in the base.
pub fn config_text(
    config: &LoraConfig,
    modules: &[&str],
    order: WeightOrder,
    base: &str,
) -> String {
    serde_json::to_string_pretty(&config_json(config, modules, order, base))
        .expect("JSON values can be printed")
        + "\n"
}

/// Returns every key that PEFT writes. `all-linear` becomes the list of the model's projections, as
/// in PEFT.
fn config_json(config: &LoraConfig, modules: &[&str], order: WeightOrder, base: &str) -> Value {
    let (base, revision) = match base.rsplit_once('@') {
        Some((base, commit)) if Commit::parse(commit).is_some() => (base, Some(commit)),
        _ => (base, None),
    };
    let targets = &config.targets;
    let (target_modules, layers) = match &targets.modules {
        Modules::AllLinear => (json!(modules), None),
        Modules::Names(names) if names.is_empty() => (Value::Null, None),
        other => (modules_json(other), targets.layers.as_ref()),
    };
    let alphas: Map<String, Value> = config
        .alpha_pattern
        .iter()
        .map(|(key, alpha)| (key.clone(), number(*alpha)))
        .collect();
    let of_score = config.score.iter().flat_map(ScoreConfig::saved_modules);
    let of_tables = config.tables.saved.iter().map(String::as_str);
    let saved: Vec<&str> = of_tables.chain(of_score).collect();
    let ranks: Map<String, Value> = config
        .rank_pattern
        .iter()
        .map(|(key, rank)| (key.clone(), json!(rank)))
        .collect();
    json!({
        "alora_invocation_tokens": null,
        "alpha_pattern": alphas,
        "arrow_config": null,
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "corda_config": null,
        "ensure_weight_tying": false,
        "eva_config": null,
        "exclude_modules": targets.exclude.as_ref().map(modules_json),
        "fan_in_fan_out": order == WeightOrder::InOut,
        "inference_mode": true,
        "init_lora_weights": config.init_lora_weights,
        "kasa_config": null,
        "layer_replication": null,
        "layers_pattern": (!targets.layers_pattern.is_empty()).then_some(&targets.layers_pattern),
        "layers_to_transform": layers,
        "loftq_config": {},
        "lora_alpha": number(config.alpha),
        "lora_bias": config.has(AdapterVector::Bias),
        "lora_dropout": config.dropout,
        "lora_ga_config": null,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": (!saved.is_empty()).then_some(saved),
        "monteclora_config": null,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "qalora_group_size": 16,
        "r": config.rank,
        "rank_pattern": ranks,
        "revision": revision,
        "target_modules": target_modules,
        "target_parameters":
            (!config.target_parameters.is_empty()).then_some(&config.target_parameters),
        "task_type": match &config.score {
            Some(score) => score.task_type(),
            None if config.is_of_features => FEATURES,
            None => "CAUSAL_LM",
        },
        "trainable_token_indices": config.tables.tokens.as_ref().map(tokens_json),
        "use_bdlora": null,
        "use_dora": config.has(AdapterVector::Magnitude),
        "use_qalora": false,
        "use_rslora": config.use_rslora,
        "velora_config": null,
    })
}

/// Returns a choice of modules in the form of PEFT's config, and of a recipe.
pub fn modules_json(modules: &Modules) -> Value {
    match modules {
        Modules::AllLinear => json!("all-linear"),
        Modules::Names(names) => json!(names),
        Modules::Regex(pattern) => json!(pattern),
    }
}

/// Returns tokens in the form of PEFT's config, and of a recipe.
pub fn tokens_json(tokens: &TokenIndices) -> Value {
    match tokens {
        TokenIndices::Embedding(tokens) => json!(tokens),
        TokenIndices::Modules(named) => Value::Object(
            named
                .iter()
                .map(|(name, tokens)| (name.clone(), json!(tokens)))
                .collect(),
        ),
    }
}

/// Returns a number; whole numbers have no point, because Ollama needs an integer alpha.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

/// Returns the base that `adapter_config.json` names, a folder or a Hub id; `None` where it names
/// none.
///
/// # Errors
/// The file is missing or not valid.
pub fn read_base(folder: &Path) -> Result<Option<String>, AdapterError> {
    let named = read_json(&folder.join(CONFIG))?["base_model_name_or_path"]
        .as_str()
        .map(str::to_owned);
    Ok(named.filter(|name| !name.is_empty()))
}

/// Returns the base that `adapter_config.json` names as a Hub repository, at the revision that it
/// names; `None` where it names none.
///
/// # Errors
/// The file is missing or not valid.
pub fn read_hub_base(folder: &Path) -> Result<Option<RepoId>, AdapterError> {
    let config = read_json(&folder.join(CONFIG))?;
    let id = config["base_model_name_or_path"]
        .as_str()
        .and_then(|name| RepoId::parse(name).ok());
    let revision = config["revision"]
        .as_str()
        .filter(|revision| !revision.is_empty());
    Ok(id.and_then(|id| revision.map_or(Some(id.clone()), |revision| id.at(revision).ok())))
}

/// Reads `adapter_config.json` without judging its values.
///
/// # Errors
/// The file is missing or not valid.
pub fn read_json_config(folder: &Path) -> Result<Value, AdapterError> {
    read_json(&folder.join(CONFIG))
}

/// Whether a config is mlx-lm's, whose file has the same name.
fn is_of_mlx(config: &Value) -> bool {
    const KEYS: [&str; 4] = [
        "lora_parameters",
        "fine_tune_type",
        "num_layers",
        "adapter_path",
    ];
    config["peft_type"].is_null()
        && config["lora_alpha"].is_null()
        && KEYS.iter().any(|key| !config[*key].is_null())
}

fn read_json(path: &Path) -> Result<Value, AdapterError> {
    let fault = |error| AdapterError::Config {
        place: path.display().to_string(),
        message: format!("not valid JSON: {error}"),
    };
    let config = serde_json::from_str(&read_text_up_to(path, JSON_BYTES)?).map_err(fault)?;
    match path.parent().filter(|_| is_of_mlx(&config)) {
        Some(folder) => Err(AdapterError::OfMlx {
            folder: folder.display().to_string(),
        }),
        None => Ok(config),
    }
}

/// Reads `adapter_config.json`.
///
/// # Errors
/// The file is missing or not valid, or asks for something that is not supported.
pub fn read_config(folder: &Path) -> Result<LoraConfig, AdapterError> {
    let path = folder.join(CONFIG);
    let fault = |message: String| AdapterError::Config {
        place: path.display().to_string(),
        message,
    };
    let config = read_json(&path)?;
    judge(&config, &path.display().to_string(), &known())?;
    let missing = |key: &str, expected: &str| {
        fault(format!("`{key}` is `{}`, expected {expected}", config[key]))
    };
    let names = "names or a regular expression";
    let target_parameters = match &config["target_parameters"] {
        Value::Null => Vec::new(),
        listed => {
            strings(listed).ok_or_else(|| missing("target_parameters", "names of parameters"))?
        }
    };
    let mut saved = match &config["modules_to_save"] {
        Value::Null => Vec::new(),
        other => strings(other).ok_or_else(|| missing("modules_to_save", "names"))?,
    };
    let score = score_in(folder, &config)?;
    if let Some(score) = &score {
        // PEFT names both, whichever the model has.
        let own = [score.saved_modules(), MODULES.to_vec()].concat();
        saved.retain(|name| !own.contains(&name.as_str()));
    }
    let targets = Targets {
        modules: match read_modules(&config["target_modules"]) {
            Some(Some(modules)) => modules,
            // Parameters alone are enough; else the tensors of the file say where the adapter is.
            Some(None) => Modules::Names(Vec::new()),
            None => return Err(missing("target_modules", names)),
        },
        exclude: read_modules(&config["exclude_modules"])
            .ok_or_else(|| missing("exclude_modules", names))?,
        layers: read_layers(&config["layers_to_transform"])
            .ok_or_else(|| missing("layers_to_transform", "whole numbers"))?,
        layers_pattern: match &config["layers_pattern"] {
            Value::String(pattern) => Some(pattern.clone())
                .filter(|pattern| !pattern.is_empty())
                .into_iter()
                .collect(),
            Value::Null => Vec::new(),
            other => strings(other).ok_or_else(|| missing("layers_pattern", "names"))?,
        },
    };
    let targets = targets.without(&saved);
    let whole = format!("a whole number from 1 to {MAX_RANK}");
    let is_true = |key: &str| config[key] == Value::Bool(true);
    let vector = match (is_true("lora_bias"), is_true("use_dora")) {
        (true, true) => {
            return Err(fault(
                "`lora_bias` and `use_dora` are both true, expected one of them as in PEFT"
                    .to_owned(),
            ));
        }
        (true, false) => Some(AdapterVector::Bias),
        (false, true) => Some(AdapterVector::Magnitude),
        (false, false) => None,
    };
    Ok(LoraConfig {
        rank: read_rank(&config["r"]).ok_or_else(|| missing("r", &whole))?,
        alpha: config["lora_alpha"]
            .as_f64()
            .filter(|alpha| *alpha > 0.0)
            .ok_or_else(|| missing("lora_alpha", "a number above 0"))?,
        dropout: config["lora_dropout"].as_f64().unwrap_or(0.0),
        targets,
        target_parameters,
        use_rslora: config["use_rslora"].as_bool().unwrap_or(false),
        // Its numbers come with it, so how they were drawn no longer matters.
        init_lora_weights: true,
        is_principal: false,
        vector,
        rank_pattern: pattern(&config["rank_pattern"], read_rank)
            .ok_or_else(|| missing("rank_pattern", &format!("{whole} by pattern")))?,
        alpha_pattern: pattern(&config["alpha_pattern"], |value| {
            value.as_f64().filter(|alpha| *alpha > 0.0)
        })
        .ok_or_else(|| missing("alpha_pattern", "numbers by pattern"))?,
        is_of_features: config["task_type"] == FEATURES,
        score,
        tables: Tables {
            saved,
            tokens: read_tokens(&config["trainable_token_indices"]).ok_or_else(|| {
                missing(
                    "trainable_token_indices",
                    "whole numbers, alone or by module",
                )
            })?,
        },
    })
}

/// Reads the score head of a folder whose `task_type` says that there is one.
fn score_in(folder: &Path, config: &Value) -> Result<Option<ScoreConfig>, AdapterError> {
    let is_of_tokens = match config["task_type"].as_str() {
        Some("SEQ_CLS") => false,
        Some("TOKEN_CLS") => true,
        _ => return Ok(None),
    };
    let archive = super::open(folder)?;
    let shapes = archive.shapes();
    let keys = Keys::read(shapes.keys());
    let shape = |name: &str| keys.key(name).and_then(|key| shapes.get(key));
    let found = MODULES.iter().find_map(|module| {
        let weight = SCORE_COPIES
            .iter()
            .find_map(|copy| shape(&format!("{module}.{copy}weight")))?;
        let has_bias = SCORE_COPIES
            .iter()
            .any(|copy| shape(&format!("{module}.{copy}bias")).is_some());
        Some((*module, weight, has_bias))
    });
    let place = archive.path().display().to_string();
    let found = found.and_then(|(module, shape, has_bias)| match shape[..] {
        [labels, _] if labels > 0 => Some((module, labels, has_bias)),
        _ => None,
    });
    let Some((module, labels, has_bias)) = found else {
        let message = format!(
            "there is no tensor `base_model.model.score.weight` [labels, width], which an adapter \
            of `task_type` {} has: the head was not saved, or the model has another kind of head",
            config["task_type"]
        );
        return Err(AdapterError::Config { place, message });
    };
    let tensors = keys
        .names()
        .filter_map(|name| Some((name.clone(), shapes.get(keys.key(name)?)?.clone())));
    let score = ScoreConfig {
        module: module.to_owned(),
        layer: SavedLayer::among(tensors),
        labels,
        has_bias,
        is_of_tokens,
        names: Vec::new(),
        problem: is_of_tokens.then_some(ProblemType::Token),
        padding: None,
    };
    score.with_labels_of(folder).map(Some)
}

/// Returns notes about parts of a config that are ignored.
///
/// # Errors
/// As of [`read_config`].
pub(super) fn notes(folder: &Path) -> Result<Vec<String>, AdapterError> {
    let path = folder.join(CONFIG);
    judge(&read_json(&path)?, &path.display().to_string(), &known())
}

/// Returns a config with all the keys that PEFT writes.
fn known() -> Value {
    config_json(&LoraConfig::all_linear(1, 1.0), &[], WeightOrder::OutIn, "")
}

/// Reads a choice of modules, none where the value is null or empty; `None` where it is neither
/// names nor text.
#[allow(
    clippy::option_option,
    reason = "not said and not readable are two things"
)]
fn read_modules(value: &Value) -> Option<Option<Modules>> {
    match value {
        Value::Null => Some(None),
        Value::String(word) if word.eq_ignore_ascii_case("all-linear") => {
            Some(Some(Modules::AllLinear))
        }
        Value::String(pattern) => Some(Some(Modules::Regex(pattern.clone()))),
        other => strings(other).map(|names| (!names.is_empty()).then_some(Modules::Names(names))),
    }
}

fn read_rank(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .filter(|rank| (1..=MAX_RANK).contains(rank))
        .and_then(|rank| usize::try_from(rank).ok())
}

/// Reads layers, none where the value is null; `None` where it is neither a whole number nor a list
/// of them.
#[allow(
    clippy::option_option,
    reason = "not said and not readable are two things"
)]
fn read_layers(value: &Value) -> Option<Option<Vec<usize>>> {
    let index = |value: &Value| value.as_u64().and_then(|index| usize::try_from(index).ok());
    match value {
        Value::Null => Some(None),
        Value::Array(layers) => layers
            .iter()
            .map(index)
            .collect::<Option<Vec<_>>>()
            .map(Some),
        other => index(other).map(|layer| Some(vec![layer])),
    }
}

/// Reads tokens, none where the value is null; `None` where it is neither a list of whole numbers
/// nor such lists by name.
#[allow(
    clippy::option_option,
    reason = "not said and not readable are two things"
)]
fn read_tokens(value: &Value) -> Option<Option<TokenIndices>> {
    let tokens = |value: &Value| {
        let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
        value
            .as_array()?
            .iter()
            .map(token)
            .collect::<Option<Vec<u32>>>()
    };
    match value {
        Value::Null => Some(None),
        Value::Object(entries) => {
            let named = entries
                .iter()
                .map(|(name, value)| Some((name.clone(), tokens(value)?)));
            Some(Some(TokenIndices::Modules(named.collect::<Option<_>>()?)))
        }
        other => Some(Some(TokenIndices::Embedding(tokens(other)?))),
    }
}

/// Reads a list of texts only.
fn strings(value: &Value) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn pattern<T>(value: &Value, convert: impl Fn(&Value) -> Option<T>) -> Option<Vec<(String, T)>> {
    let pairs = value.as_object().into_iter().flatten();
    pairs
        .map(|(key, value)| Some((key.clone(), convert(value)?)))
        .collect()
}
