//! The files that a run reads: their hashes for the lock, and checks that they do not change
//! meanwhile.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::adapter::peft;
use crate::data::tokenizer_files::named_template_files;
use crate::data::{DataFile, DataSource};
use crate::files::{self, hash_file};
use crate::model::{CompanionFiles, gguf_paths, shard_paths};
use crate::plan::{Plan, PlanError, Reference, Trains, tokenizer_files};
use crate::train::RunFolder;

/// Files of the base's folder that are read, other than the weights.
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

/// The kind of Parquet files that were converted from other data files.
pub(super) const CONVERTED: &str = "converted";

/// The files, and their size and date before most of their content was read.
#[derive(Debug)]
pub struct Inputs {
    since: SystemTime,
    by_kind: Vec<(&'static str, Vec<DataFile>)>,
    seen: Vec<(PathBuf, Option<Look>)>,
}

/// Size and date of a file.
type Look = (u64, Option<SystemTime>);

/// Hashes that a separate thread computes while rows are tokenized and the base is loaded.
#[derive(Debug)]
pub struct Hashing(JoinHandle<Result<Value, files::FileError>>);

impl Inputs {
    /// Lists the inputs of a plan.
    ///
    /// # Errors
    /// The base's index cannot be read.
    pub fn of(plan: &Plan) -> Result<Self, PlanError> {
        // What is beside the weights of a GGUF file follows from it.
        let is_gguf = gguf_paths(&plan.base_folder)?.is_some();
        let beside = BESIDE
            .into_iter()
            .filter(|_| !is_gguf)
            .map(|name| plan.base_folder.join(name))
            .filter(|path| path.symlink_metadata().is_ok());
        let mut beside: Vec<PathBuf> = beside.collect();
        beside.extend(named_template_files(&plan.base_folder)?);
        if plan.trains == Trains::Everything && !is_gguf {
            // All that the model's folder gets.
            beside.extend(CompanionFiles::of(&plan.base_folder)?.files());
            beside.sort();
            beside.dedup();
        }
        let as_they_are =
            |paths: Vec<PathBuf>| paths.into_iter().map(DataFile::from).collect::<Vec<_>>();
        let files = |sources: &[DataSource]| {
            sources
                .iter()
                .flat_map(|source| source.files.clone())
                .collect::<Vec<_>>()
        };
        let data = |sources| {
            as_they_are(
                files(sources)
                    .iter()
                    .map(|file| file.path().to_owned())
                    .collect(),
            )
        };
        let all = files(&plan.sources)
            .into_iter()
            .chain(files(&plan.validation_sources));
        let init_from = plan.init_from.iter().flat_map(|folder| {
            peft::files(folder)
                .into_iter()
                .chain(tokenizer_files(folder))
        });
        let by_kind = vec![
            ("base", as_they_are(shard_paths(&plan.base_folder)?)),
            ("tokenizer_and_config", as_they_are(beside)),
            (
                "chat_template",
                as_they_are(plan.chat_template.iter().cloned().collect()),
            ),
            ("init_from", as_they_are(init_from.collect())),
            ("reference", as_they_are(reference_files(plan)?)),
            ("teacher", as_they_are(teacher_files(plan)?)),
            ("datasets", data(&plan.sources)),
            ("evaluation_datasets", data(&plan.validation_sources)),
            (CONVERTED, all.filter(DataFile::is_converted).collect()),
        ];
        let paths = by_kind
            .iter()
            .filter(|(kind, _)| *kind != CONVERTED)
            .flat_map(|(_, files)| files);
        let seen = paths
            .map(|file| (file.path().to_owned(), look(file.path())))
            .collect();
        Ok(Self {
            since: plan.read_since,
            by_kind,
            seen,
        })
    }

    /// Starts hashing.
    pub fn hash(&self) -> Hashing {
        let by_kind = self.by_kind.clone();
        Hashing(std::thread::spawn(move || hashes(&by_kind)))
    }

    /// Returns the first file whose size or date has changed, or that was written after the start.
    pub fn changed(&self) -> Option<&Path> {
        let is_new = |(_, modified): &Look| modified.is_some_and(|modified| modified > self.since);
        let has_changed = |path: &Path, seen: &Option<Look>| {
            look(path) != *seen || seen.as_ref().is_some_and(is_new)
        };
        self.seen
            .iter()
            .find(|(path, seen)| has_changed(path, seen))
            .map(|(path, _)| path.as_path())
    }
}

impl Hashing {
    /// Waits for the hashes and returns them by kind and path.
    ///
    /// # Errors
    /// A file could not be read.
    pub fn finish(self) -> Result<Value, PlanError> {
        Ok(self.0.join().expect("hashing does not panic")?)
    }
}

/// Returns the files of the adapter or model that the objective compares with.
fn reference_files(plan: &Plan) -> Result<Vec<PathBuf>, PlanError> {
    let Reference::Folder(folder) = plan.reference() else {
        return Ok(Vec::new());
    };
    if let Some(adapter) = RunFolder::adapter_in(folder) {
        return Ok(peft::files(&adapter).into_iter().collect());
    }
    let model = folder.join(RunFolder::MODEL);
    let folder = if model.is_dir() { &model } else { folder };
    Ok(shard_paths(folder)?)
}

/// Returns the files of the model that the objective learns from.
fn teacher_files(plan: &Plan) -> Result<Vec<PathBuf>, PlanError> {
    let Some(teacher) = plan.teacher_model() else {
        return Ok(Vec::new());
    };
    let beside = ["config.json", "tokenizer.json"].map(|name| teacher.folder.join(name));
    let mut files = shard_paths(&teacher.folder)?;
    files.extend(beside.into_iter().filter(|path| path.is_file()));
    Ok(files)
}

fn look(path: &Path) -> Option<Look> {
    let metadata = path.metadata().ok()?;
    Some((metadata.len(), metadata.modified().ok()))
}

fn hashes(by_kind: &[(&str, Vec<DataFile>)]) -> Result<Value, files::FileError> {
    let mut blake3 = Map::new();
    for (kind, files) in by_kind.iter().filter(|(_, files)| !files.is_empty()) {
        let mut of = Map::new();
        for file in files {
            of.insert(
                file.path().display().to_string(),
                json!(hash_file(file.parquet())?.to_string()),
            );
        }
        blake3.insert((*kind).to_owned(), Value::Object(of));
    }
    Ok(Value::Object(blake3))
}
