//! `recipe.lock.yaml`: the resolved recipe and everything else that a run depends on, so that it
//! can be repeated, resumed and audited.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::inputs::CONVERTED;
use super::provenance::set_by;
use super::redact;
use crate::device::{self, cpu_features};
use crate::export::card::last_hashes;
use crate::fault::Fault;
use crate::files::{read_text, write_atomic};
use crate::hub::{Cache, Commit, DatasetSnapshot, Environment, RepoId};
use crate::plan::{Origin, Plan, PlanError, Setting, Snapshots};
use crate::quant::{BlockSize, QuantFormat};
use crate::recipe::{self, Recipe};
use crate::terms::{Device, Quantization, Term};

/// Kinds of inputs, with their names for the user.
pub(super) const KINDS: [(&str, &str); 9] = [
    ("base", "base"),
    ("tokenizer_and_config", "tokenizer or config"),
    ("chat_template", "chat template"),
    ("init_from", "adapter to go on from"),
    ("reference", "reference"),
    ("teacher", "teacher"),
    ("datasets", "data"),
    ("evaluation_datasets", "validation data"),
    (CONVERTED, "data converted to Parquet"),
];
/// The key of the data sets of the Hub.
const HUB_DATASETS: &str = "hub_datasets";
/// The key of the cache entries that the run has used.
const CACHE: &str = "cache";

/// The lock of a run: everything that it depends on.
#[derive(Debug, Clone)]
pub struct Lock(pub(super) Map<String, Value>);

impl Lock {
    /// Makes the lock of a run that starts now. `command` started it; `hashes` are those of its
    /// inputs.
    pub fn new(plan: &Plan, command: &str, threads: usize, hashes: Value) -> Self {
        let mut recipe = Value::Object(Map::new());
        // What comes from elsewhere would contradict the key that brings it, except the names of
        // classes, which the data bring.
        let is_kept = |setting: &&Setting| {
            !matches!(setting.origin, Origin::Derived(_)) || setting.key.starts_with("objective.")
        };
        for setting in plan.settings.iter().filter(is_kept) {
            put(&mut recipe, &setting.key, setting.value.clone());
        }
        let lock = json!({
            "rankine": env!("CARGO_PKG_VERSION"),
            "command": command,
            "recipe_file": plan.recipe.display().to_string(),
            "working_directory": std::env::current_dir().unwrap_or_default().display().to_string(),
            "started": plan.started.to_string(),
            "device": plan.device.to_string(),
            "threads": threads,
            "cpu_features": cpu_features(),
            "seed": plan.setting("training.seed"),
            "recipe": recipe,
            "set_by": set_by(&plan.settings),
            "blake3": hashes,
        });
        let mut lock = lock.as_object().cloned().unwrap_or_default();
        if plan.device != Device::Cpu {
            let gpu = device::find(plan.device).map(|found| found.identity());
            lock.insert(
                "gpu".to_owned(),
                json!(gpu.map(|gpu| format!("{}, {}", gpu.name, gpu.driver))),
            );
        }
        if let Some(snapshot) = &plan.snapshot {
            let (id, revision) = (snapshot.id.repository(), snapshot.id.revision());
            lock.insert(
                "hub".to_owned(),
                json!({"id": id, "revision": revision, "commit": snapshot.commit.as_str()}),
            );
        }
        if let Some(stored) = &plan.stored {
            lock.insert(
                "store".to_owned(),
                json!({"model": stored.name, "digest": stored.digest}),
            );
        }
        let mut lock = Self(lock);
        lock.record_hub_data(&plan.hub_data);
        lock
    }

    /// Reads the lock of a run.
    ///
    /// # Errors
    /// The file cannot be read, or is not a lock.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        let text = read_text(path)?;
        let map =
            serde_yaml::from_str::<Map<String, Value>>(&text).map_err(|error| error.to_string());
        let is_lock =
            |map: &Map<String, Value>| map.contains_key("recipe") && map.contains_key("blake3");
        let map = map.and_then(|map| {
            if is_lock(&map) {
                Ok(map)
            } else {
                Err("it has no `recipe` and `blake3`".to_owned())
            }
        });
        let lines = |reason: String| reason.lines().next().unwrap_or_default().to_owned();
        let fault = |reason| {
            Fault::new(format!(
                "`{}` is not the lock of a run: {}",
                path.display(),
                lines(reason)
            ))
        };
        map.map(Self).map_err(|reason| PlanError::Faults {
            faults: vec![fault(reason)],
        })
    }

    /// Writes the lock.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PlanError> {
        Ok(write_atomic(path, self.text().as_bytes())?)
    }

    /// Returns its values by key.
    pub fn values(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Returns the lock as YAML.
    pub fn text(&self) -> String {
        let text = serde_yaml::to_string(&Value::Object(self.0.clone()))
            .expect("JSON values can be printed as YAML");
        format!("# Written by rankine: what this run depends on. Hashes are blake3.\n{text}")
    }

    /// Returns the lock for other people: like [`Lock::text`], without this machine's paths.
    pub fn portable_text(&self) -> String {
        Self(redact::map(&self.0)).text()
    }

    /// Returns its values for a page that other people read: like [`Lock::portable_text`], and the
    /// command with only the last parts of its paths.
    pub fn portable_values(&self) -> Map<String, Value> {
        let mut values = redact::map(&self.0);
        if let Some(command) = self.word("command") {
            values.insert("command".to_owned(), json!(redact::text(command)));
        }
        values
    }

    /// Returns the base on the Hub at the run's commit; `None` if the base is a folder.
    pub fn pinned_base(&self) -> Option<RepoId> {
        let hub = self.0.get("hub")?;
        RepoId::parse(hub["id"].as_str()?)
            .ok()?
            .at(self.commit()?.as_str())
            .ok()
    }

    fn commit(&self) -> Option<Commit> {
        Commit::parse(self.0.get("hub")?["commit"].as_str()?)
    }

    /// Returns the part of a Hub file's path that does not depend on the place of the cache: for
    /// the base without its commit, for a data set from its folder on.
    pub(super) fn name_in_cache<'a>(&self, path: &'a str) -> &'a str {
        let folder = self.commit().map(|commit| format!("/snapshots/{commit}/"));
        let of_base = folder
            .and_then(|folder| path.split_once(&folder))
            .map(|(_, name)| name);
        let of_data = || {
            path.find("/datasets--")
                .filter(|start| path[*start..].contains("/snapshots/"))
                .map(|start| &path[start + 1..])
        };
        of_base.or_else(of_data).unwrap_or(path)
    }

    /// Reads the recipe in the lock at `path`, to be run in the folder `run`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn recipe(path: &Path, run: &Path) -> Result<Recipe, PlanError> {
        Ok(recipe::read_locked(path, &read_text(path)?, run))
    }

    /// Records the cache entries that the run uses, beside those that it has used before.
    pub(super) fn record_cache(&mut self, entries: Vec<String>) {
        let all: BTreeSet<String> = self
            .cache_entries()
            .unwrap_or_default()
            .into_iter()
            .chain(entries)
            .collect();
        self.0.insert(CACHE.to_owned(), json!({"entries": all}));
    }

    /// Returns the names of the cache entries that the run has used; `None` if the run's version
    /// did not record them.
    pub fn cache_entries(&self) -> Option<Vec<String>> {
        let entries = self.0.get(CACHE)?.get("entries")?.as_array()?;
        Some(
            entries
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
        )
    }

    /// Returns the hashes of the data files that the run has read.
    pub fn data_hashes(&self) -> Vec<String> {
        let all = |hashes: &Value| {
            let kinds = ["datasets", "evaluation_datasets"]
                .into_iter()
                .filter_map(|kind| hashes.get(kind)?.as_object());
            kinds
                .flat_map(Map::values)
                .filter_map(|hash| hash.as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        let resumed = self
            .0
            .get("resumed")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.get("blake3"));
        self.0
            .get("blake3")
            .into_iter()
            .chain(resumed)
            .flat_map(all)
            .collect()
    }

    /// Returns a text value of the lock.
    fn word(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str()
    }

    /// Returns the folder in which the run was started.
    pub fn working_directory(&self) -> Option<PathBuf> {
        self.word("working_directory").map(PathBuf::from)
    }

    /// Returns the run's folder as its recipe has it, relative to [`Lock::working_directory`].
    pub(super) fn output_dir(&self) -> Option<PathBuf> {
        Some(PathBuf::from(
            self.0.get("recipe")?.get("output_dir")?.as_str()?,
        ))
    }

    /// Returns the files of a kind by the run's names for them, with their hashes when they were
    /// last read.
    pub fn locked(&self, kind: &str) -> Vec<(String, String)> {
        let files = last_hashes(&self.0)
            .and_then(|hashes| hashes.get(kind))
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        files
            .filter_map(|(path, hash)| Some((path.clone(), hash.as_str()?.to_owned())))
            .collect()
    }

    /// Returns the names of all files.
    pub(super) fn all_locked(&self) -> Vec<String> {
        KINDS
            .iter()
            .flat_map(|(kind, _)| self.locked(kind))
            .map(|(name, _)| name)
            .collect()
    }

    /// Returns the base as the run has it: the folder of its safetensors files, or the GGUF file.
    pub fn base_folder(&self) -> Option<PathBuf> {
        let (first, _) = self.locked("base").into_iter().next()?;
        let first = PathBuf::from(first);
        if first.extension().is_some_and(|end| end == "safetensors") {
            return Some(first.parent()?.to_owned());
        }
        Some(first)
    }

    /// Returns when the run was started.
    pub fn started(&self) -> Option<jiff::Timestamp> {
        self.word("started")?.parse().ok()
    }

    /// Returns the base's weight files and its `config.json` with the hashes that the run last
    /// read; paths are relative to [`Lock::working_directory`].
    pub fn base_files(&self) -> Vec<(PathBuf, String)> {
        let last = last_hashes(&self.0);
        let of_kind = |kind: &str| {
            last.and_then(|hashes| hashes.get(kind))
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
        };
        let config = of_kind("tokenizer_and_config")
            .filter(|(path, _)| Path::new(path).ends_with("config.json"));
        let file = |(path, hash): (&String, &Value)| {
            Some((PathBuf::from(path), hash.as_str()?.to_owned()))
        };
        of_kind("base").chain(config).filter_map(file).collect()
    }

    /// Returns the quantization of the base that the run's adapter fits, and whether it includes
    /// the head; `None` if the adapter fits an unquantized base. An adapter that started as a part
    /// of the base fits the base's own weights: only the residual was quantized.
    pub fn packing(&self) -> Option<(QuantFormat, bool)> {
        let said = &self.values()["recipe"]["adapter"];
        if said["init_lora_weights"] == "pissa" {
            return None;
        }
        let word = Quantization::parse(said["quantization"].as_str()?)?;
        let block_size = said["block_size"]
            .as_u64()
            .and_then(|size| BlockSize::new(size as usize).ok());
        let form = QuantFormat::of(
            word,
            block_size.unwrap_or(BlockSize::DEFAULT),
            said["double_quant"] == true,
        )?;
        Some((form, said["quantize_head"] == true))
    }

    /// Whether the run's adapter fits a quantized base: one that it quantized, or the blocks of a
    /// GGUF file.
    pub fn has_packed_base(&self) -> bool {
        let said = &self.values()["recipe"]["adapter"];
        let word = said["quantization"].as_str().and_then(Quantization::parse);
        said["init_lora_weights"] != "pissa" && word.is_some_and(|word| word != Quantization::None)
    }

    /// Records the quantization.
    pub(super) fn set_packing(&mut self, form: QuantFormat, packs_head: bool) {
        let said = &mut self.0["recipe"]["adapter"];
        said["quantization"] = json!(form.word().word());
        if let QuantFormat::FourBit {
            block_size,
            double_quant,
            ..
        } = form
        {
            said["block_size"] = json!(block_size.numbers());
            said["double_quant"] = json!(double_quant);
        }
        said["quantize_head"] = json!(packs_head);
    }

    /// Records the commits and files of the data sets of the Hub.
    pub(super) fn record_hub_data(&mut self, found: &Snapshots) {
        if !found.is_empty() {
            let entries: Map<_, _> = found
                .iter()
                .map(|(key, snapshot)| (key.clone(), snapshot.to_value()))
                .collect();
            self.0
                .insert(HUB_DATASETS.to_owned(), Value::Object(entries));
        }
    }

    /// Returns the data sets of the Hub that the run has read, at their present place in the cache.
    pub fn hub_data(&self) -> Snapshots {
        let cache = Cache::at(&Environment::read().cache);
        let entries = self
            .0
            .get(HUB_DATASETS)
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        entries
            .filter_map(|(key, value)| {
                Some((key.clone(), DatasetSnapshot::of_value(value, &cache)?))
            })
            .collect()
    }
}

/// Puts a value at a dotted key; `datasets.0.path` makes a list. The dots of a pattern remain part
/// of one key.
fn put(tree: &mut Value, key: &str, value: Value) {
    let (first, rest) = match key.split_once('.') {
        Some((section, pattern)) if section.ends_with("_pattern") => {
            tree[section][pattern] = value;
            return;
        }
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    match (rest, first.parse::<usize>()) {
        (None, _) => tree[first] = value,
        (Some(rest), Ok(index)) => {
            if !tree.is_array() {
                *tree = json!([]);
            }
            let items = tree.as_array_mut().expect("just made");
            items.resize(items.len().max(index + 1), Value::Object(Map::new()));
            put(&mut items[index], rest, value);
        }
        (Some(rest), Err(_)) => put(&mut tree[first], rest, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_keys_become_a_tree() {
        let mut tree = Value::Object(Map::new());
        put(&mut tree, "datasets.0.path", json!("x"));
        put(&mut tree, "datasets.0.columns.text", json!("t"));
        put(&mut tree, "adapter.rank_pattern.layers.1.mlp", json!(4));
        put(&mut tree, "device", json!("cpu"));
        let expected = json!({
            "datasets": [{"path": "x", "columns": {"text": "t"}}],
            "adapter": {"rank_pattern": {"layers.1.mlp": 4}},
            "device": "cpu",
        });
        assert_eq!(tree, expected);
    }
}
