//! The base that a recipe names: a local folder, or a Hub id.

use std::path::{Path, PathBuf};

use super::fill::Filled;
use crate::data::template::{ChatTemplate, TEMPLATE_BYTES};
use crate::data::tokenize::Tokenizer;
use crate::fault::{Explain, Fault};
use crate::files::read_text_up_to;
use crate::model::{Folder, shard_paths};
use crate::recipe::{Place, Recipe, Said};

/// What a base's folder tells without its weights.
#[derive(Debug)]
pub(super) struct Base {
    /// As the recipe has it.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
    /// Its config.json, read.
    pub model: Folder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// What a recipe's `base_model` turned out to be.
pub(super) enum Found {
    /// A folder that was read.
    Folder(Box<Base>),
    /// A Hub id, which is not looked up.
    Hub(String),
    /// Neither; the faults say why.
    Nothing,
}

/// Looks the base up; what is wrong with it joins `faults`.
pub(super) fn find(recipe: &Recipe, filled: &mut Filled, faults: &mut Vec<Fault>) -> Found {
    let Some(said) = &recipe.base_model else { return Found::Nothing };
    let name = filled.plain("base_model", Some(said), String::new());
    let folder = Path::new(&name);
    if !folder.is_dir() {
        if is_hub_id(&name) {
            return Found::Hub(name);
        }
        faults.push(missing("base_model", folder, "a folder", &said.place));
        return Found::Nothing;
    }
    let before = faults.len();
    let model = noted(Folder::open(folder), &said.place, faults);
    let tokenizer = noted(Tokenizer::open(folder), &said.place, faults);
    let weights = model.as_ref().map_or_else(|| shard_paths(folder).map(drop), Folder::check_weights);
    noted(weights, &said.place, faults);
    match (model, tokenizer) {
        (Some(model), Some(tokenizer)) if faults.len() == before => {
            Found::Folder(Box::new(Base { folder: folder.to_owned(), name, model, tokenizer }))
        }
        _ => Found::Nothing,
    }
}

/// `owner/name`, with a revision or without, where no folder `owner` is.
fn is_hub_id(name: &str) -> bool {
    let id = name.split('@').next().unwrap_or(name);
    let word = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    id.split_once('/').is_some_and(|(owner, model)| word(owner) && word(model) && !Path::new(owner).exists())
}

/// The template of conversations: the recipe's, or the base's.
pub(super) fn template(recipe: &Recipe, base: &Base, started: jiff::Timestamp, faults: &mut Vec<Fault>) -> Option<ChatTemplate> {
    let (source, place) = match &recipe.chat_template {
        Some(Said { value, place }) if !value.is_file() => {
            faults.push(missing("chat_template", value, "a file", place));
            return None;
        }
        Some(Said { value, place }) => (noted(read_text_up_to(value, TEMPLATE_BYTES), place, faults)?, place),
        None => (base.tokenizer.chat_template()?.to_owned(), &recipe.base_model.as_ref()?.place),
    };
    noted(ChatTemplate::new(&source, base.tokenizer.special(), started), place, faults)
}

/// The value, or its error among the faults, at the place that led to it.
pub(super) fn noted<T, E: Explain>(result: Result<T, E>, place: &Place, faults: &mut Vec<Fault>) -> Option<T> {
    result.map_err(|error| faults.extend(error.faults().into_iter().map(|fault| fault.at(place)))).ok()
}

/// A path that is not there, with the folder in which it was looked up.
pub(super) fn missing(key: &str, path: &Path, expected: &str, place: &Place) -> Fault {
    let looked = std::env::current_dir().map_or_else(|_| path.to_owned(), |folder| folder.join(path));
    let folder = looked.parent().map_or_else(String::new, |folder| format!(", looked in `{}`", folder.display()));
    let message = format!("{key}: `{}` does not exist, expected {expected}{folder}", path.display());
    Fault::new(message).at(place).hint("correct the path, or start the command from the folder that it is relative to")
}
