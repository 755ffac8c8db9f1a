//! `recipe.lock.yaml`: the resolved recipe and everything else that a run depends on, so that it can be repeated and defended.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use serde_json::{Map, Value, json};

use super::Error;
use super::resolve::Plan;
use crate::device::cpu_features;
use crate::files::{hash_file, write_atomic};

/// A lock that is on disk, whose hashes are still being computed.
#[derive(Debug)]
pub struct Lock {
    hashing: JoinHandle<Result<(), crate::files::Error>>,
}

/// Writes the lock, then again with the hashes of every file that the run reads, which a thread computes meanwhile.
///
/// # Errors
/// The file cannot be written.
pub fn write(plan: &Plan, threads: usize) -> Result<Lock, Error> {
    let path = plan.output_dir.join("recipe.lock.yaml");
    let head = head(plan, threads);
    write_atomic(&path, yaml(&head, None).as_bytes())?;
    let inputs = plan.inputs()?;
    let hashing = std::thread::spawn(move || write_atomic(&path, yaml(&head, Some(hashes(&inputs)?)).as_bytes()));
    Ok(Lock { hashing })
}

impl Lock {
    /// Waits until the hashes are in the file.
    ///
    /// # Errors
    /// A file could not be read, or the lock not be written.
    pub fn wait(self) -> Result<(), Error> {
        Ok(self.hashing.join().expect("hashing does not panic")?)
    }
}

fn head(plan: &Plan, threads: usize) -> Map<String, Value> {
    let mut recipe = Value::Object(Map::new());
    for setting in &plan.settings {
        put(&mut recipe, &setting.key, setting.value.clone());
    }
    let directory = std::env::current_dir().unwrap_or_default();
    let head = json!({
        "rankine": env!("CARGO_PKG_VERSION"),
        "recipe_file": plan.recipe,
        "working_directory": directory,
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

fn hashes(inputs: &[(String, Vec<PathBuf>)]) -> Result<Value, crate::files::Error> {
    let mut blake3 = Map::new();
    for (what, paths) in inputs {
        let mut of = Map::new();
        for path in paths {
            of.insert(shown(path), json!(hash_file(path)?.to_string()));
        }
        blake3.insert(what.clone(), Value::Object(of));
    }
    Ok(Value::Object(blake3))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn yaml(head: &Map<String, Value>, blake3: Option<Value>) -> String {
    let mut lock = head.clone();
    lock.extend(blake3.map(|hashes| ("blake3".to_owned(), hashes)));
    let text = serde_yaml::to_string(&Value::Object(lock)).expect("JSON values can be printed as YAML");
    format!(
        "# Written by rankine: what this run depends on. Hashes are blake3, and there with the first checkpoint at the latest.\n{text}"
    )
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
