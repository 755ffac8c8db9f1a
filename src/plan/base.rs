//! The base that a recipe names: a local folder, or a Hub id.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::filled::Filled;
use crate::data::template::{ChatTemplate, Sources, sources};
use crate::data::tokenize::Tokenizer;
use crate::fault::{Explain, Fault};
use crate::files::NotFolder;
use crate::hub::stores::{StoredModel, find_stored};
use crate::hub::{Cache, Environment, Missing, RepoId, Snapshot};
use crate::model::{Folder, base_folder, is_base, shard_paths};
use crate::recipe::{Location, Recipe, Said};
use crate::terms::Technique;

/// What a chat template is expected to be.
const A_FILE: &str = "a file";

/// The information in a base's folder, without its weights.
#[derive(Debug)]
pub(super) struct Base {
    /// The name in the recipe.
    pub name: String,
    /// Its snapshot in the cache, if it is from the Hub.
    pub snapshot: Option<Snapshot>,
    /// Its place in the store of Ollama or LM Studio, if it is from there.
    pub stored: Option<StoredModel>,
    /// The folder.
    pub folder: PathBuf,
    /// Its parsed `config.json`.
    pub model: Folder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// The result of looking up a recipe's `base_model`.
pub(super) enum BaseFound {
    /// A folder that was read.
    Folder(Box<Base>),
    /// A Hub id that is not in the cache.
    Hub(RepoId, Missing),
    /// Neither; the faults say why.
    Nothing,
}

/// Looks up the base, without network access; anything wrong with it joins `faults`. A base of the
/// Hub is `fetched`, or what the cache has.
pub(super) fn find(
    recipe: &Recipe,
    fetched: Option<Snapshot>,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> BaseFound {
    let Some(said) = &recipe.base_model else {
        return BaseFound::Nothing;
    };
    let name = filled.plain("base_model", Some(said), String::new());
    // What was fetched for this name stays that, whatever folder has come to be called so since.
    let fetched = fetched.filter(|fetched| {
        RepoId::parse(&name).is_ok_and(|id| id.repository() == fetched.id.repository())
    });
    let snapshot = match (
        fetched,
        hub_id(&name).filter(|_| recipe.base_folder.is_none()),
    ) {
        (None, Some(id)) => match Cache::at(&Environment::read().cache).find(&id) {
            Ok(snapshot) => Some(snapshot),
            Err(missing) => return BaseFound::Hub(id, missing),
        },
        (fetched, _) => fetched,
    };
    let named = || recipe.base_folder.as_deref().unwrap_or(Path::new(&name));
    let stored = match recipe.base_folder {
        None => find_stored(&name).transpose(),
        Some(_) => Ok(None),
    };
    let Some(stored) = noted(stored, &said.place, faults) else {
        return BaseFound::Nothing;
    };
    let of_store = stored.as_ref().map(|stored| stored.path.as_path());
    let folder = snapshot.as_ref().map_or_else(
        || of_store.unwrap_or_else(named),
        |snapshot| &snapshot.folder,
    );
    if !is_base(folder) {
        faults.push(no_base(&name, folder, &said.place));
        return BaseFound::Nothing;
    }
    let Some(folder) = noted(base_folder(folder), &said.place, faults) else {
        return BaseFound::Nothing;
    };
    let folder = folder.as_path();
    let holds = |name: &str| folder.join(name).exists();
    if !holds("config.json")
        && [
            "adapter_config.json",
            "adapter/adapter_config.json",
            "model/config.json",
        ]
        .into_iter()
        .any(holds)
    {
        // It is something else: what it lacks to be a model is of no interest.
        noted(Folder::open(folder), &said.place, faults);
        return BaseFound::Nothing;
    }
    let before = faults.len();
    let model = noted(Folder::open(folder), &said.place, faults)
        .map(|model| fitted(recipe, model, filled, faults));
    let tokenizer = noted(Tokenizer::open(folder), &said.place, faults);
    let weights = model
        .as_ref()
        .map_or_else(|| shard_paths(folder).map(drop), Folder::check_weights);
    noted(weights, &said.place, faults);
    match (model, tokenizer) {
        (Some(model), Some(tokenizer)) if faults.len() == before => {
            let folder = folder.to_owned();
            BaseFound::Folder(Box::new(Base {
                name,
                snapshot,
                stored,
                folder,
                model,
                tokenizer,
            }))
        }
        _ => BaseFound::Nothing,
    }
}

/// Applies the recipe's settings of the base itself: the coefficient of the experts' balance, and
/// full fine-tuning.
fn fitted(
    recipe: &Recipe,
    mut model: Folder,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Folder {
    let (said, spec) = (
        recipe.training.router_aux_loss_coef.as_ref(),
        &mut model.spec,
    );
    if spec
        .layers
        .iter()
        .any(|layer| layer.mlp.experts().is_some())
    {
        spec.router_aux_loss_coef = filled.plain(
            "training.router_aux_loss_coef",
            said,
            spec.router_aux_loss_coef,
        );
    } else if let Some(said) = said.filter(|said| said.value > 0.0) {
        let fault = Fault::new(format!(
            "training.router_aux_loss_coef: {} does not go with a base without routed experts",
            said.value
        ));
        faults.push(fault.at(&said.place).hint("remove `router_aux_loss_coef`"));
    }
    filled.optional(
        "training.base_dropout",
        recipe.training.base_dropout.as_ref(),
        |share| json!(share),
    );
    let full = recipe
        .adapter
        .method
        .as_ref()
        .filter(|method| method.value == Technique::Full);
    if let (Some(method), Some(reason)) = (full, spec.keeps_from_full_training()) {
        let fault = Fault::new(format!(
            "adapter.method: `full` does not go with this base: its {reason}"
        ));
        faults.push(
            fault
                .at(&method.place)
                .hint("train an adapter with `method: lora`"),
        );
    }
    model
}

/// Returns faults for dropout and noise of the base itself, which act only in training. The base is
/// not trained without them unless the recipe says so.
pub(super) fn untrained(recipe: &Recipe, model: &Folder) -> Vec<Fault> {
    let Some(said) = recipe
        .base_model
        .as_ref()
        .filter(|_| recipe.training.base_dropout.is_none())
    else {
        return Vec::new();
    };
    let fault = |(key, share): &(String, f64)| {
        let message = format!(
            "base_model: its config.json has `{key}` {share}, which acts in training and \
            is not built, known is 0"
        );
        Fault::new(message).at(&said.place).hint(
            "set `training.base_dropout: 0` in the recipe: it is trained without, and lock \
            and card say so",
        )
    };
    model.in_training.iter().map(fault).collect()
}

/// Returns a `base_model` as a Hub id: `owner/name`, with or without a revision, that is not a
/// folder. If a folder `owner` exists, a mistyped path is more likely.
pub fn hub_id(name: &str) -> Option<RepoId> {
    let id = RepoId::parse(name)
        .ok()
        .filter(|_| !is_base(Path::new(name)))?;
    let (owner, _) = id.owner_and_name()?;
    (name.contains('@') || !Path::new(owner).exists()).then_some(id)
}

/// Returns the fault for a missing base. If a folder with its owner's name exists, an id needs its
/// revision.
fn no_base(name: &str, folder: &Path, place: &Location) -> Fault {
    let fault = missing("base_model", folder, "a folder or a Hub id", place);
    match RepoId::parse(name)
        .ok()
        .as_ref()
        .and_then(|id| Some((id, id.owner_and_name()?.0)))
    {
        Some((id, owner))
            if !name.contains('@') && NotFolder::of(folder) == Some(NotFolder::Missing) =>
        {
            fault.hint(format!(
                "correct the path; a Hub id is written `{id}@{}` where a folder `{owner}` is",
                id.revision()
            ))
        }
        _ => fault,
    }
}

/// Returns the chat template: what the recipe names, or the base's own templates, with the recipe's
/// variables.
pub(super) fn template(
    recipe: &Recipe,
    base: &Base,
    started: jiff::Timestamp,
    faults: &mut Vec<Fault>,
) -> Option<(Sources, ChatTemplate)> {
    let (named, place) = match &recipe.chat_template {
        Some(Said { value, place }) => (Some(value.as_path()), place),
        None => (None, &recipe.base_model.as_ref()?.place),
    };
    let mut sources = match Sources::choose(named, &base.tokenizer) {
        Err(sources::TemplateSourceError::Unknown { names, .. }) => {
            let of_base = names
                .iter()
                .map(|name| format!("`{name}`"))
                .chain([sources::stock_names()]);
            let expected = format!(
                "a file, or one of {}",
                of_base.collect::<Vec<_>>().join(", ")
            );
            faults.push(missing(
                "chat_template",
                named.unwrap_or(Path::new("")),
                &expected,
                place,
            ));
            return None;
        }
        chosen => noted(chosen, place, faults)??,
    };
    sources.variables = recipe
        .chat_template_kwargs
        .iter()
        .map(|(name, said)| (name.clone(), said.value.clone()))
        .collect();
    let template = noted(
        ChatTemplate::of(&sources, base.tokenizer.special(), started),
        place,
        faults,
    )?;
    Some((sources, template))
}

/// Returns the value, or adds its error to the faults at the place that led to it.
pub(super) fn noted<T, E: Explain>(
    result: Result<T, E>,
    place: &Location,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    result
        .map_err(|error| faults.extend(error.faults().into_iter().map(|fault| fault.at(place))))
        .ok()
}

/// Returns the fault for a missing path, with the folder in which it was looked up.
pub(super) fn missing(key: &str, path: &Path, expected: &str, place: &Location) -> Fault {
    let looked =
        std::env::current_dir().map_or_else(|_| path.to_owned(), |folder| folder.join(path));
    let folder = looked.parent().map_or_else(String::new, |folder| {
        format!(", looked in `{}`", folder.display())
    });
    let why = NotFolder::of(path).filter(|_| expected != A_FILE);
    let (why, hint) = why.map_or(("does not exist".to_owned(), None), |why| {
        (why.to_string(), why.hint())
    });
    let message = format!(
        "{key}: `{}` {why}, expected {expected}{folder}",
        path.display()
    );
    let relative = || {
        "correct the path, or start the command from the folder that it is relative to".to_owned()
    };
    Fault::new(message)
        .at(place)
        .hint(hint.unwrap_or_else(relative))
}
