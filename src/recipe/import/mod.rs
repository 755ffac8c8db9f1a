//! Converts configs of other trainers to recipes. Every key of a config gets exactly one of four
//! outcomes. A key that the tool's table does not have is refused by name.
//!
//! ```text
//! config -> tree
//!     -> table of the tool: an outcome for each key, lines for the recipe
//!     -> recipe, read back by the reader itself
//! ```

mod axolotl;
mod axolotl_preferences;
mod datasets;
mod draft;
mod hugging_face;
mod key_outcome;
mod llama_factory;
mod mlx_lm;
mod peft_run;
mod text;
mod tokens;
mod torchtune;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use key_outcome::{ImportedKey, KeyOutcome};

use self::draft::Draft;
use super::RecipeError;
use super::notes::{Notes, listed};
use super::source;
use super::tree::{Node, NodeValue};
use crate::fault::Fault;
use crate::files;
use crate::terms::Term;

/// A trainer whose configs can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Axolotl's YAML.
    Axolotl,
    /// LLaMA-Factory's YAML or JSON, with the `dataset_info.json` that it names.
    LlamaFactory,
    /// torchtune's YAML.
    Torchtune,
    /// The YAML of `mlx_lm.lora`.
    MlxLm,
    /// The folder of a finished run: `adapter_config.json`, with `training_args.json` and
    /// `trainer_state.json` if they exist.
    PeftRun,
}

impl Term for Tool {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("axolotl", Self::Axolotl),
        ("llama-factory", Self::LlamaFactory),
        ("torchtune", Self::Torchtune),
        ("mlx-lm", Self::MlxLm),
        ("peft-run", Self::PeftRun),
    ];
}

impl std::fmt::Display for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

impl Tool {
    /// Returns the name as its authors write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Axolotl => "Axolotl",
            Self::LlamaFactory => "LLaMA-Factory",
            Self::Torchtune => "torchtune",
            Self::MlxLm => "mlx-lm",
            Self::PeftRun => "PEFT",
        }
    }

    fn tables(self) -> &'static [Table] {
        match self {
            Self::Axolotl => axolotl::TABLES,
            Self::LlamaFactory => llama_factory::TABLES,
            Self::Torchtune => torchtune::TABLES,
            Self::MlxLm => mlx_lm::TABLES,
            Self::PeftRun => peft_run::TABLES,
        }
    }

    fn knows(self, key: &str) -> bool {
        rule(self.tables(), key).is_some()
    }
}

/// The rule for a key.
#[derive(Clone, Copy)]
enum Rule {
    /// The key changes no number, whatever its value; keys below it are dropped too.
    Dropped(&'static str),
    /// Rankine cannot do it. If turned off (blank, `false`, `none`, 0 or empty), it changes
    /// nothing.
    Refused(&'static str),
    /// The recipe's key of the same meaning and form.
    Same(&'static str),
    /// Like [`Rule::Same`] if this version has the key; otherwise the key is refused.
    SameIfKnown(&'static str, &'static str),
    /// The keys below it have their own rules.
    Within,
    /// A function decides by the value.
    Read(fn(&mut Draft, &Given) -> KeyOutcome),
}

/// Keys that share a rule. `datasets[].path` is a key of each element of a list.
type Table = &'static [(&'static [&'static str], Rule)];

/// Returns the rule of a key, such as `datasets[].path`.
fn rule(tables: &[Table], key: &str) -> Option<Rule> {
    let rows = tables.iter().flat_map(|table| table.iter());
    rows.filter(|(keys, _)| keys.contains(&key))
        .map(|(_, rule)| *rule)
        .next()
}

/// A key of the config with its context.
struct Given<'a> {
    /// The key's own name.
    pub name: &'a str,
    /// Its value.
    pub node: &'a Node,
    /// The map that holds it.
    pub parent: &'a Node,
}

/// The result of an import.
#[derive(Debug)]
pub struct Imported {
    /// The tool of the config.
    pub tool: Tool,
    /// Each key of the config with its outcome, in the order of the file.
    pub keys: Vec<ImportedKey>,
    /// Lines that the recipe needs because the tool has other defaults: recipe key, value, reason.
    pub added: Vec<(String, String, String)>,
    /// The recipe, with a comment for each replaced value and each refused key.
    pub recipe: String,
}

impl Imported {
    /// Returns the refused keys as faults of the config.
    pub fn refused(&self) -> Vec<Fault> {
        self.keys.iter().filter_map(ImportedKey::fault).collect()
    }

    /// Returns the number of keys per outcome: mapped, dropped, replaced, refused.
    pub fn counts(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for key in &self.keys {
            counts[key.outcome.rank()] += 1;
        }
        counts
    }
}

/// A config that cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The config does not exist or cannot be read.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A file beside the config cannot be read.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// The file is not a config.
    #[error("{} in the config", .faults.len())]
    Faults {
        /// The faults, in the order of the file.
        faults: Vec<Fault>,
    },
}

impl crate::fault::Explain for ImportError {
    fn exit(&self) -> crate::fault::Exit {
        match self {
            Self::Recipe(error) => error.exit(),
            Self::File(error) => error.exit(),
            Self::Faults { .. } => crate::fault::Exit::Input,
        }
    }

    fn faults(&self) -> Vec<Fault> {
        match self {
            Self::Recipe(RecipeError::Missing { path }) => {
                vec![
                    Fault::new(format!("config `{}` does not exist", path.display()))
                        .hint("name a config, or the folder of a run of PEFT"),
                ]
            }
            Self::Recipe(error) => error.faults(),
            Self::File(error) => error.faults(),
            Self::Faults { faults } => faults.clone(),
        }
    }
}

/// Reads a config, or the folder of a run, and decides the outcome of each key. Nothing is written.
///
/// # Errors
/// The config cannot be read, is not YAML, or belongs to no known tool. A refused key is not an
/// error; see [`Imported::refused`].
pub fn import(path: &Path, tool: Option<Tool>) -> Result<Imported, ImportError> {
    if path.is_dir()
        || path
            .file_name()
            .is_some_and(|name| name == peft_run::CONFIG)
            && tool.is_none()
    {
        return peft_run::import(path);
    }
    if tool == Some(Tool::PeftRun) {
        return peft_run::import(path);
    }
    let root = read(path)?;
    let tool = tool
        .map_or_else(|| detect(&root), Ok)
        .map_err(|fault| ImportError::Faults {
            faults: vec![fault.at(path.display())],
        })?;
    let variables = if tool == Tool::Torchtune {
        torchtune::variables(&root)
    } else {
        Vec::new()
    };
    let root = if tool == Tool::Torchtune {
        torchtune::interpolated(&root)
    } else {
        root
    };
    let mut draft = Draft::new(tool, path, &root);
    draft.variables = variables;
    draft.walk(tool.tables());
    match tool {
        Tool::Axolotl => axolotl::finish(&mut draft),
        Tool::LlamaFactory => llama_factory::finish(&mut draft),
        Tool::Torchtune => torchtune::finish(&mut draft),
        Tool::MlxLm => mlx_lm::finish(&mut draft),
        Tool::PeftRun => peft_run::finish(&mut draft),
    }
    Ok(draft.into_imported())
}

/// Reads a file as a tree of keys. JSON is read as YAML, with its tabs replaced by spaces.
fn read(path: &Path) -> Result<Node, ImportError> {
    let mut bytes = source::read(path)?;
    if path.extension().is_some_and(|end| end == "json") {
        // Within texts JSON writes a tab as `\t`.
        bytes
            .iter_mut()
            .filter(|byte| **byte == b'\t')
            .for_each(|byte| *byte = b' ');
    }
    let notes = Notes::default();
    let tree = source::tree(path, &bytes, &notes);
    let faults = notes.into_faults();
    match tree {
        Some(tree) if faults.is_empty() => Ok(tree),
        _ => Err(ImportError::Faults {
            faults: faults.into_iter().map(of_config).collect(),
        }),
    }
}

/// Rewords a fault of the tree, which speaks of recipes, for a config.
fn of_config(fault: Fault) -> Fault {
    let message = fault
        .message
        .replace("is not allowed in a recipe", "is not read")
        .replace("the recipe is", "the config is");
    let hint = match fault.hint.as_deref() {
        Some(hint) if hint.starts_with("begin with `base_model") => {
            Some("name a config, or the folder of a run of PEFT".into())
        }
        Some(hint) => Some(hint.replace("one recipe in a file", "one config in a file")),
        None => None,
    };
    Fault {
        message,
        hint,
        ..fault
    }
}

/// Returns the tool that knows most of the top-level keys.
fn detect(root: &Node) -> Result<Tool, Fault> {
    let NodeValue::Map(entries) = &root.kind else {
        return Err(Fault::new("expected keys with values"));
    };
    let is_section = |key: &str| {
        entries
            .get(key)
            .is_some_and(|entry| matches!(entry.value.kind, NodeValue::Map(_)))
    };
    if entries.contains_key("base_model") && (is_section("training") || is_section("adapter")) {
        return Err(Fault::new("this is a recipe of Rankine already")
            .hint("validate it with `rankine check`"));
    }
    let known = |tool: Tool| entries.keys().filter(|key| tool.knows(key)).count();
    let mut counts: Vec<(usize, Tool)> = Tool::WORDS
        .iter()
        .map(|(_, tool)| (known(*tool), *tool))
        .collect();
    counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    match counts[..] {
        [(most, tool), (next, _), ..] if most > next => Ok(tool),
        _ => {
            let words: Vec<&str> = Tool::WORDS.iter().map(|(word, _)| *word).collect();
            Err(
                Fault::new("its keys do not tell whose config this is").hint(format!(
                    "name the tool with `--from`: {}",
                    listed(&words, "or")
                )),
            )
        }
    }
}
