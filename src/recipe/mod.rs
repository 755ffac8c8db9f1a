//! The recipe as the user wrote it: a YAML tree with locations, its sections taken by name, and all
//! faults at once.
//!
//! Nothing is filled in here. A [`Recipe`] says what was written and where; `plan` decides what
//! that means.
//!
//! ```text
//! text -> tree -> overrides -> sections -> contradictions -> Recipe { .., faults }
//! ```

mod adapter;
mod contradictions;
mod dataset;
mod evaluation;
pub mod import;
mod keys;
mod notes;
mod objective;
mod output;
mod overrides;
mod place;
mod scalar;
mod schema;
mod section;
mod shape;
mod source;
mod split;
mod synonyms;
mod tokens;
mod training;
mod tree;

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use adapter::Adapter;
pub use dataset::Dataset;
pub use evaluation::Evaluation;
pub use objective::Objective;
pub use output::Output;
pub use place::{Location, Said};
pub use schema::schema;
pub use split::{Split, SplitPart};
pub use tokens::{AddedToken, Tokens};
pub use training::Training;

use crate::fault::{Exit, Explain, Fault};
use crate::files;
use crate::terms::{CacheMode, Device, NOT_VARIABLES};
use notes::Notes;
use section::{Section, Value};
use serde_yaml::granit_parser::Marker;
use shape::Shape;
use tree::Node;

/// The highest number of threads.
const MAX_THREADS: u64 = 4096;
/// The pattern of what [`Device::parse`] reads.
const DEVICES: &str = "^(auto|cpu|(wgpu|cuda)(:[0-9]+)?)$";

/// A recipe as written; `None` is a key that was left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recipe {
    /// The file.
    pub path: PathBuf,
    /// A folder, or a Hub id.
    pub base_model: Option<Said<String>>,
    /// The base's folder if it is not what `base_model` says: the base of a run that was moved.
    pub base_folder: Option<PathBuf>,
    /// The chat template to use in place of the base's own: a file, or the name of a template.
    pub chat_template: Option<Said<PathBuf>>,
    /// Variables of the chat template by name.
    pub chat_template_kwargs: BTreeMap<String, Said<serde_json::Value>>,
    /// Special tokens by name, and tokens to add to the vocabulary.
    pub tokens: Tokens,
    /// The device to compute on.
    pub device: Option<Said<Device>>,
    /// The number of CPU threads; 0 for all cores.
    pub threads: Option<Said<usize>>,
    /// Where tokenized data are cached.
    pub cache: Option<Said<CacheMode>>,
    /// The run's folder.
    pub output_dir: Option<Said<PathBuf>>,
    /// The data sets to train on.
    pub datasets: Vec<Dataset>,
    /// The loss to minimize.
    pub objective: Objective,
    /// Which projections get low-rank matrices, and of what shape.
    pub adapter: Adapter,
    /// How rows become steps and steps become updates.
    pub training: Training,
    /// The rows that the adapter is scored on, and when.
    pub evaluation: Evaluation,
    /// How often the run is saved, and how much is kept.
    pub output: Output,
    /// All faults so far, in the order of the file, overrides last.
    pub faults: Vec<Fault>,
}

/// A recipe that could not be opened. Faults within a recipe are in [`Recipe::faults`].
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// There is no such file.
    #[error("recipe `{path}` does not exist")]
    Missing {
        /// The path as the user gave it.
        path: PathBuf,
    },
    /// The file exists but cannot be read.
    #[error(transparent)]
    File(#[from] files::FileError),
}

impl Explain for RecipeError {
    fn exit(&self) -> Exit {
        match self {
            Self::Missing { .. } => Exit::NoInput,
            Self::File(error) => error.exit(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => Some(
                "complete recipes lie in `recipes/`; `recipes/quickstart.yaml` is a first one"
                    .into(),
            ),
            Self::File(error) => error.hint(),
        }
    }
}

/// Reads a recipe and applies the overrides, each `key=value`.
///
/// # Errors
/// The file does not exist or cannot be read. A fault in its content is not an error but one of the
/// recipe's faults.
pub fn read(path: &Path, overrides: &[String]) -> Result<Recipe, RecipeError> {
    Ok(from_bytes(path, &source::read(path)?, overrides))
}

/// Reads a recipe from a text, as if it were the file `path`.
pub fn parse(path: &Path, text: &str) -> Recipe {
    from_bytes(path, text.as_bytes(), &[])
}

/// Returns the description of a key such as `adapter.r`: a sentence.
pub fn description(key: &str) -> Option<&'static str> {
    keys::of(key).map(|words| words.description)
}

/// Reads the recipe under `recipe` in the lock of a run; `run` is the folder of the run, wherever
/// it lies now.
pub fn read_locked(path: &Path, lock: &str, run: &Path) -> Recipe {
    let notes = Notes::default();
    let at = |mark: &Marker| Location::File {
        path: path.to_owned(),
        line: mark.line(),
        column: mark.col() + 1,
    };
    let root = tree::parse(lock, &at, &notes).and_then(|root| root.into_entry("recipe"));
    let recipe = root
        .map(|root| read_tree(&root, &notes))
        .unwrap_or_default();
    let output_dir = recipe
        .output_dir
        .clone()
        .map(|said| said.map(|_| run.to_owned()));
    Recipe {
        path: path.to_owned(),
        output_dir,
        faults: notes.into_faults(),
        ..recipe
    }
}

fn from_bytes(path: &Path, content: &[u8], overrides: &[String]) -> Recipe {
    let notes = Notes::default();
    let recipe = source::tree(path, content, &notes).map(|mut root| {
        overrides::apply(&mut root, overrides, &notes);
        read_tree(&root, &notes)
    });
    Recipe {
        path: path.to_owned(),
        faults: notes.into_faults(),
        ..recipe.unwrap_or_default()
    }
}

fn read_tree(root: &Node, notes: &Notes) -> Recipe {
    let recipe = Value {
        name: String::new(),
        node: root,
        notes,
    }
    .section(Recipe::take)
    .unwrap_or_default();
    contradictions::find(&recipe, notes);
    recipe
}

impl Recipe {
    /// Returns a dataset by its key, such as `evaluation.datasets.0`.
    pub fn dataset_mut(&mut self, key: &str) -> Option<&mut Dataset> {
        let (section, index) = key.rsplit_once('.')?;
        let datasets = if section == "datasets" {
            &mut self.datasets
        } else {
            &mut self.evaluation.datasets
        };
        datasets.get_mut(index.parse::<usize>().ok()?)
    }

    fn take(section: &mut Section) -> Self {
        section.require("base_model", "base_model: checkpoints/rankine-tiny");
        section.require(
            "datasets",
            "datasets: [{path: datasets/medical-glossary.parquet, format: chat}]",
        );
        Self {
            base_model: section.text("base_model"),
            chat_template: section.path("chat_template"),
            chat_template_kwargs: section
                .shaped("chat_template_kwargs", Shape::Variables)
                .map(variables)
                .unwrap_or_default(),
            tokens: section.section("tokens", Tokens::take),
            device: section
                .shaped("device", Shape::Pattern(DEVICES))
                .and_then(device),
            threads: section.whole("threads", 0..=MAX_THREADS),
            cache: section.word("cache", &[]),
            output_dir: section.path("output_dir"),
            datasets: section.sections("datasets", Dataset::take),
            objective: section.section("objective", Objective::take),
            adapter: section.section("adapter", Adapter::take),
            training: section.section("training", Training::take),
            evaluation: section.section("evaluation", Evaluation::take),
            output: section.section("output", Output::take),
            ..Self::default()
        }
    }
}

fn variables(value: Value) -> BTreeMap<String, Said<serde_json::Value>> {
    let entries = value.table().unwrap_or_default();
    entries
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), variable(name, value)?)))
        .collect()
}

/// Reads a variable of a chat template. Its name must be an identifier, and not one of a
/// conversation's own variables.
fn variable(name: &str, value: Value) -> Option<Said<serde_json::Value>> {
    let is_name = name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if !is_name || NOT_VARIABLES.contains(&name) {
        let reason = if is_name {
            "is set for each conversation"
        } else {
            "is no name of a variable"
        };
        let fault = Fault::new(format!("chat_template_kwargs: `{name}` {reason}"));
        value.refuse(
            fault.hint("name a variable that the chat template reads, such as `enable_thinking`"),
        );
        return None;
    }
    value.read("a value", Node::json)
}

fn device(value: Value) -> Option<Said<Device>> {
    value.read(
        "`auto`, `cpu`, `wgpu` or `cuda`, the last two with an index such as `cuda:0`",
        |node| Device::parse(node.text()?),
    )
}
