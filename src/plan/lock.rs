//! `recipe.lock.yaml`: the resolved recipe and everything else that a run depends on, so that it can be repeated and defended.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use serde_json::{Map, Value, json};

use super::Error;
use super::fill::Origin;
use super::resolve::Plan;
use crate::adapter::peft;
use crate::data::Source;
use crate::device::cpu_features;
use crate::files::{hash_file, write_atomic};
use crate::model::shard_paths;
use crate::train::RunFolder;

/// Hashes of every file that the run reads, being computed by a thread of their own.
#[derive(Debug)]
pub struct Hashing(JoinHandle<Result<Value, crate::files::Error>>);

/// Starts hashing, which goes on while rows are tokenised and the base is loaded.
///
/// # Errors
/// The base's index cannot be read.
pub fn start(plan: &Plan) -> Result<Hashing, Error> {
    let inputs = inputs(plan)?;
    Ok(Hashing(std::thread::spawn(move || hashes(&inputs))))
}

/// Waits for the hashes and writes the lock into the run's folder, before anything else is written there.
///
/// # Errors
/// A file could not be read, or the lock not be written.
pub fn write(plan: &Plan, threads: usize, hashing: Hashing) -> Result<(), Error> {
    let hashes = hashing.0.join().expect("hashing does not panic")?;
    let path = plan.output_dir.join(RunFolder::LOCK);
    Ok(write_atomic(&path, yaml(head(plan, threads), hashes).as_bytes())?)
}

fn head(plan: &Plan, threads: usize) -> Map<String, Value> {
    let mut recipe = Value::Object(Map::new());
    // What comes from elsewhere would contradict the key that brings it.
    for setting in plan.settings.iter().filter(|setting| !matches!(setting.origin, Origin::Derived(_))) {
        put(&mut recipe, &setting.key, setting.value.clone());
    }
    let directory = std::env::current_dir().unwrap_or_default();
    let head = json!({
        "rankine": env!("CARGO_PKG_VERSION"),
        "recipe_file": shown(&plan.recipe),
        "working_directory": shown(&directory),
        "started": plan.started.to_string(),
        "device": plan.device.to_string(),
        "threads": threads,
        "cpu_features": cpu_features(),
        "seed": plan.setting("training.seed"),
        "recipe": recipe,
    });
    head.as_object().cloned().unwrap_or_default()
}

/// Puts a value at a dotted key; `datasets.0.path` makes a list. A pattern's own dots stay one key.
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

/// Every file that the run reads, by what it is.
fn inputs(plan: &Plan) -> Result<Vec<(&'static str, Vec<PathBuf>)>, Error> {
    let beside = [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    ];
    let beside = beside.into_iter().map(|name| plan.base_folder.join(name)).filter(|path| path.exists());
    let data = |sources: &[Source]| sources.iter().flat_map(|source| source.files.clone()).collect();
    Ok(vec![
        ("base", shard_paths(&plan.base_folder)?),
        ("tokenizer_and_config", beside.collect()),
        ("chat_template", plan.chat_template.iter().cloned().collect()),
        ("init_from", plan.init_from.iter().flat_map(|folder| peft::files(folder)).collect()),
        ("datasets", data(&plan.sources)),
        ("evaluation_datasets", data(&plan.validation_sources)),
    ])
}

fn hashes(inputs: &[(&str, Vec<PathBuf>)]) -> Result<Value, crate::files::Error> {
    let mut blake3 = Map::new();
    for (what, paths) in inputs.iter().filter(|(_, paths)| !paths.is_empty()) {
        let mut of = Map::new();
        for path in paths {
            of.insert(shown(path), json!(hash_file(path)?.to_string()));
        }
        blake3.insert((*what).to_owned(), Value::Object(of));
    }
    Ok(Value::Object(blake3))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn yaml(mut lock: Map<String, Value>, hashes: Value) -> String {
    lock.insert("blake3".to_owned(), hashes);
    let text = serde_yaml::to_string(&Value::Object(lock)).expect("JSON values can be printed as YAML");
    format!("# Written by rankine before the first step: what this run depends on. Hashes are blake3.\n{text}")
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
        let expected = json!({"datasets": [{"path": "x", "columns": {"text": "t"}}], "adapter": {"rank_pattern": {"layers.1.mlp": 4}}, "device": "cpu"});
        assert_eq!(tree, expected);
    }
}
