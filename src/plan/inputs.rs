//! Every file that a run reads: its hash for the lock, and whether somebody changes it meanwhile.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::Error;
use super::adapter::Trains;
use super::resolve::Plan;
use super::tokens::files_of;
use crate::adapter::peft;
use crate::data::Source;
use crate::data::tokenizer_files::named_template_files;
use crate::files::{self, hash_file};
use crate::model::{Beside, shard_paths};

/// What of the base's folder is read beside the weights.
const BESIDE: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// The files, and how they looked before most of what is in them was read.
#[derive(Debug)]
pub struct Inputs {
    since: SystemTime,
    by_kind: Vec<(&'static str, Vec<PathBuf>)>,
    seen: Vec<(PathBuf, Option<Look>)>,
}

/// Size and date of a file.
type Look = (u64, Option<SystemTime>);

/// Hashes being computed by a thread of their own, while rows are tokenised and the base is loaded.
#[derive(Debug)]
pub struct Hashing(JoinHandle<Result<Value, files::Error>>);

impl Inputs {
    /// The inputs of a plan, of which nothing was read before `since`.
    ///
    /// # Errors
    /// The base's index cannot be read.
    pub fn of(plan: &Plan, since: SystemTime) -> Result<Self, Error> {
        let beside = BESIDE.into_iter().map(|name| plan.base_folder.join(name)).filter(|path| path.symlink_metadata().is_ok());
        let mut beside: Vec<PathBuf> = beside.collect();
        beside.extend(named_template_files(&plan.base_folder)?);
        if plan.trains == Trains::Everything {
            // All that the model's folder gets.
            beside.extend(Beside::of(&plan.base_folder)?.files());
            beside.sort();
            beside.dedup();
        }
        let data = |sources: &[Source]| sources.iter().flat_map(|source| source.files.clone()).collect();
        let by_kind = vec![
            ("base", shard_paths(&plan.base_folder)?),
            ("tokenizer_and_config", beside),
            ("chat_template", plan.chat_template.iter().cloned().collect()),
            (
                "init_from",
                plan.init_from.iter().flat_map(|folder| peft::files(folder).into_iter().chain(files_of(folder))).collect(),
            ),
            ("datasets", data(&plan.sources)),
            ("evaluation_datasets", data(&plan.validation_sources)),
        ];
        let paths = by_kind.iter().flat_map(|(_, paths): &(_, Vec<PathBuf>)| paths);
        let seen = paths.map(|path| (path.clone(), look(path))).collect();
        Ok(Self { since, by_kind, seen })
    }

    /// Starts hashing.
    pub fn hash(&self) -> Hashing {
        let by_kind = self.by_kind.clone();
        Hashing(std::thread::spawn(move || hashes(&by_kind)))
    }

    /// The first file that no longer looks as it did, or that was written after all began.
    pub fn changed(&self) -> Option<&Path> {
        let is_new = |(_, modified): &Look| modified.is_some_and(|modified| modified > self.since);
        let has_changed = |path: &Path, seen: &Option<Look>| look(path) != *seen || seen.as_ref().is_some_and(is_new);
        self.seen.iter().find(|(path, seen)| has_changed(path, seen)).map(|(path, _)| path.as_path())
    }
}

impl Hashing {
    /// Waits for the hashes: by kind and path.
    ///
    /// # Errors
    /// A file could not be read.
    pub fn finish(self) -> Result<Value, Error> {
        Ok(self.0.join().expect("hashing does not panic")?)
    }
}

fn look(path: &Path) -> Option<Look> {
    let metadata = path.metadata().ok()?;
    Some((metadata.len(), metadata.modified().ok()))
}

fn hashes(by_kind: &[(&str, Vec<PathBuf>)]) -> Result<Value, files::Error> {
    let mut blake3 = Map::new();
    for (kind, paths) in by_kind.iter().filter(|(_, paths)| !paths.is_empty()) {
        let mut of = Map::new();
        for path in paths {
            of.insert(path.display().to_string(), json!(hash_file(path)?.to_string()));
        }
        blake3.insert((*kind).to_owned(), Value::Object(of));
    }
    Ok(Value::Object(blake3))
}
