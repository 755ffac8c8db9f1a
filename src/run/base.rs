//! Folders of a base and of an adapter, as a command names them. An adapter also names its base.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::hub;
use super::lock::Lock;
use super::places::Places;
use crate::adapter::{self, LoraConfig, Numbers, peft};
use crate::data::template::{Sources, sources};
use crate::data::tokenize::Tokenizer;
use crate::data::tokenizer_files::TokenizerFiles;
use crate::export::card::{OwnTokenizer, formats_of};
use crate::fault::{Exit, Failure, Fault, shell_word};
use crate::files::NotFolder;
use crate::hub::RepoId;
use crate::hub::stores::{find_stored, is_stored_name};
use crate::model::{Folder, LinearSpec, Storage, base_folder, is_base, shard_paths};
use crate::plan::hub_id;
use crate::report::{Event, Reporter};
use crate::terms::{Format, ModelDtype, Technique, Term};
use crate::train::{Checkpoint, RunFolder};

/// Name of the lock that lies beside an adapter that was shared. The usual name would suggest a run
/// that can be resumed.
pub const SHARED_LOCK: &str = "rankine.lock";

/// Returns the folder of the named base, or of the base that the adapter was trained on.
pub fn find_base(named: Option<&Path>, adapter: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(base) = named {
        return find_named(base);
    }
    let Some(adapter) = adapter else {
        let fault = Fault::new("there is no base: neither `--base` nor `--adapter` is given");
        return Err(Failure::new(
            Exit::Usage,
            fault.hint("give the folder of a base with `--base`"),
        ));
    };
    let refused = |message| {
        Err(Failure::new(
            Exit::Input,
            Fault::new(message).hint("give the folder of the base with `--base`"),
        ))
    };
    let (name, of_run, id) = (
        peft::read_base(adapter)?,
        base_of_run(adapter),
        peft::read_hub_base(adapter)?,
    );
    if let Some(id) = id.as_ref().filter(|id| id.pinned().is_some()) {
        // If the base is not in the cache, the run may know another place, or a copy may exist
        // under its name.
        let elsewhere = || {
            of_run
                .into_iter()
                .chain(name.map(PathBuf::from))
                .find(|folder| shard_paths(folder).is_ok())
        };
        return hub::cached(id)
            .map(|snapshot| snapshot.folder)
            .or_else(|missing| elsewhere().ok_or_else(|| missing.into()));
    }
    // The run knows where the base lies now; the name is relative to the folder of its training.
    match (name, of_run, id) {
        (_, Some(base), _) => Ok(base_folder(&base)?),
        (Some(base), ..) if is_base(Path::new(&base)) || is_stored_name(&base) => {
            find_named(Path::new(&base))
        }
        (_, None, Some(id)) if id.owner_and_name().is_some() => Ok(hub::cached(&id)?.folder),
        (Some(base), None, _) => refused(format!(
            "the adapter in `{}` was trained on `{base}`, which is no folder here",
            adapter.display()
        )),
        (None, None, _) => refused(format!(
            "the adapter in `{}` names no base",
            adapter.display()
        )),
    }
}

/// Returns the folder of a named base: a folder, that of a GGUF file, a model of Ollama or LM
/// Studio, or a Hub id in the cache.
pub fn find_named(base: &Path) -> Result<PathBuf, Failure> {
    let name = base.to_str().unwrap_or_default();
    if let Some(stored) = find_stored(name) {
        return Ok(base_folder(&stored?.path)?);
    }
    if base.is_dir() {
        // A run that trained all weights keeps its model in a subfolder.
        let model = Some(base.join(RunFolder::MODEL))
            .filter(|model| !base.join("config.json").exists() && model.is_dir());
        return Ok(model.unwrap_or_else(|| base.to_owned()));
    }
    if is_base(base) {
        return Ok(base_folder(base)?);
    }
    if let Some(id) = hub_id(name) {
        return Ok(hub::cached(&id)?.folder);
    }
    // The oldest models have no owner, so any word looks like one of their ids.
    if let Some(snapshot) = RepoId::parse(name)
        .ok()
        .filter(|id| id.owner_and_name().is_none())
        .and_then(|id| hub::cached(&id).ok())
    {
        return Ok(snapshot.folder);
    }
    let hint = "name the folder of a Hugging Face model (config.json, *.safetensors, \
        tokenizer.json), a GGUF file, or a Hub id that was pulled";
    Err(no_folder("base ", base, "a folder or a Hub id", hint))
}

/// Makes the error for a path that should be a folder; `hint` is used if nothing is there.
pub fn no_folder(what: &str, path: &Path, expected: &str, hint: &str) -> Failure {
    let why = NotFolder::of(path).unwrap_or(NotFolder::Other);
    let exit = if why.is_there() {
        Exit::Input
    } else {
        Exit::NoInput
    };
    let fault = Fault::new(format!(
        "{what}`{}` {why}, expected {expected}",
        path.display()
    ));
    Failure::new(
        exit,
        fault.hint(why.hint().unwrap_or_else(|| hint.to_owned())),
    )
}

/// Returns the lock of the run or checkpoint that contains an adapter.
pub fn lock_above(adapter: &Path) -> Option<PathBuf> {
    // The path must be absolute, because `.` has no parent.
    Some(adapter.canonicalize().ok()?.parent()?.join(RunFolder::LOCK)).filter(|lock| lock.exists())
}

/// Returns the folder of the run that a lock belongs to: the lock's folder, or the run of its
/// checkpoint.
pub fn run_folder(lock: &Path) -> PathBuf {
    let folder = lock.parent().expect("a file lies in a folder");
    let above = folder
        .parent()
        .filter(|above| above.ends_with(RunFolder::CHECKPOINTS))
        .and_then(Path::parent);
    above.unwrap_or(folder).to_owned()
}

/// Returns the base of the run above an adapter or a model, at its current place: its folder or its
/// GGUF file. The adapter's own file does not have the whole path.
pub fn base_of_run(adapter: &Path) -> Option<PathBuf> {
    let path = lock_above(adapter)?;
    let lock = Lock::read(&path).ok()?;
    Places::look_up(&lock, &run_folder(&path), &lock.base_folder()?).filter(|base| is_base(base))
}

/// Returns the lock of the run or checkpoint that contains a model with all weights trained.
pub fn lock_of_model(model: &Path) -> Option<PathBuf> {
    let path = lock_above(model).filter(|_| {
        model
            .canonicalize()
            .is_ok_and(|path| path.ends_with(RunFolder::MODEL))
    })?;
    let lock = Lock::read(&path).ok()?;
    (lock.values()["recipe"]["adapter"]["method"] == Technique::Full.word()).then_some(path)
}

/// Returns the row formats that an adapter, or a model with all weights trained, was trained on, if
/// a lock says so.
pub fn trained_formats(product: &Path) -> Vec<Format> {
    let is_model = product.join("config.json").exists();
    let above = if is_model {
        lock_of_model(product)
    } else {
        lock_above(product)
    };
    let lock = above.unwrap_or_else(|| product.join(SHARED_LOCK));
    Lock::read(&lock).map_or_else(|_| Vec::new(), |lock| formats_of(lock.values()))
}

/// Returns the chat template for a base: the named one, otherwise that of the adapter's run,
/// otherwise the base's own.
///
/// Each has the variables of that run. The second value is whether template or variables differ
/// from the base's own.
pub fn template_sources(
    named: Option<&Path>,
    adapter: Option<&Path>,
    tokenizer: &Tokenizer,
) -> Result<(Option<Sources>, bool), Failure> {
    let (of_run, variables) = adapter.and_then(template_of_run).unwrap_or_default();
    let chosen = named.or(of_run.as_deref());
    let is_own = chosen.is_some() || !variables.is_empty();
    match Sources::choose(chosen, tokenizer) {
        Err(sources::TemplateSourceError::Unknown { name, .. }) => {
            let fault = Fault::new(format!("chat template `{name}` does not exist"));
            let hint = format!(
                "give a template with `--chat-template FILE`; stock templates are {}",
                sources::stock_names()
            );
            Err(Failure::new(Exit::NoInput, fault.hint(hint)))
        }
        chosen => Ok((
            chosen?.map(|sources| Sources {
                variables,
                ..sources
            }),
            is_own,
        )),
    }
}

/// Returns the template (a file or a name) that the adapter's run used in place of the base's, and
/// the variables of either.
fn template_of_run(adapter: &Path) -> Option<(Option<PathBuf>, Map<String, Value>)> {
    let path = lock_above(adapter)?;
    let lock = Lock::read(&path).ok()?;
    let (run, recipe) = (run_folder(&path), Lock::recipe(&path, path.parent()?).ok()?);
    let found = |template: PathBuf| {
        // For a template named in the base, the lock has no file.
        if lock.locked("chat_template").is_empty() {
            return template;
        }
        Places::look_up(&lock, &run, &template)
            .unwrap_or_else(|| Places::home_of(&lock, &run).join(template))
    };
    let variables = recipe
        .chat_template_kwargs
        .into_iter()
        .map(|(name, said)| (name, said.value))
        .collect();
    Some((
        recipe.chat_template.map(|said| found(said.value)),
        variables,
    ))
}

/// Returns how the adapter's run stored its base. The adapter answers as trained only on the same
/// numbers.
pub fn storage_of_run(adapter: &Path) -> Storage {
    let packing = lock_above(adapter).and_then(|path| Lock::read(&path).ok()?.packing());
    let (form, packs_head) =
        packing.map_or((None, false), |(form, packs_head)| (Some(form), packs_head));
    Storage {
        form,
        packs_head,
        ..ModelDtype::Auto.into()
    }
}

/// Refuses an encoder, or a model that scores, where tokens are to be predicted.
///
/// # Errors
/// The base is an encoder.
pub fn refuse_encoder(folder: &Folder, base: &Path) -> Result<(), Failure> {
    if folder.only_scores {
        let fault = Fault::new(format!(
            "the base in `{}` has a head that scores texts or words, and none that predicts tokens",
            base.display()
        ));
        return Err(Failure::new(
            Exit::Input,
            fault.hint("score texts with `rankine classify`"),
        ));
    }
    if !folder.spec.is_encoder() {
        return Ok(());
    }
    let fault = Fault::new(format!(
        "the base in `{}` is an encoder: its tokens see later ones, so that it can continue no text",
        base.display()
    ));
    let hint = "an encoder gives vectors of texts, by `rankine embed`, and scores, by \
        `rankine classify`";
    Err(Failure::new(Exit::Input, fault.hint(hint)))
}

/// Opens the base in a folder, with the token rows that an adapter adds.
pub fn base_with(base: &Path, adapter: Option<&Path>) -> Result<Folder, Failure> {
    let mut folder = Folder::open(base)?;
    adapter.map_or(Ok(()), |adapter| peft::resize(&mut folder, adapter))?;
    Ok(folder)
}

/// Returns the card's entry on the tokenizer that comes with an adapter; `None` if it has none.
pub fn own_tokenizer(base: &Path, adapter: &Path) -> Result<Option<OwnTokenizer>, Failure> {
    if TokenizerFiles::beside(adapter, base)?.is_none() {
        return Ok(None);
    }
    let folder = base_with(base, Some(adapter))?;
    Ok(Some(OwnTokenizer {
        rows: Some(folder.spec.vocabulary).filter(|_| folder.is_resized()),
    }))
}

/// Reads the adapter in a folder, for a model with these modules. Notes say what is read
/// differently from how it is stored.
pub fn read_adapter(
    folder: &Path,
    modules: &[LinearSpec],
    report: Reporter,
) -> Result<(LoraConfig, Numbers), Failure> {
    let config = peft::read_config_on(folder, modules)?;
    let numbers = peft::read_numbers(folder, &config, modules)?;
    report_notes(folder, modules, report)?;
    Ok((config, numbers))
}

/// Reports notes on what of an adapter is read differently from how it is stored.
pub fn report_notes(
    folder: &Path,
    modules: &[LinearSpec],
    report: Reporter,
) -> Result<(), Failure> {
    for note in peft::notes(folder, Some(modules))? {
        report(Event::Note(format!(
            "adapter `{}`: {note}",
            folder.display()
        )));
    }
    Ok(())
}

/// Returns the folder of a named adapter: its folder, that of a run or a checkpoint, or a Hub id in
/// the cache.
pub fn find_adapter(named: &Path) -> Result<PathBuf, Failure> {
    if let Some(folder) = RunFolder::adapter_in(named) {
        return Ok(folder);
    }
    if let Some(id) = named.to_str().filter(|_| !named.is_dir()).and_then(hub_id) {
        let snapshot = hub::cached(&id)?.folder;
        return no_adapter(&snapshot).map_or(Ok(snapshot), Err);
    }
    Err(no_adapter(named).unwrap_or_else(|| unreachable!("what is an adapter's folder was found")))
}

/// Returns why a folder holds no adapter; `None` if it holds one.
fn no_adapter(folder: &Path) -> Option<Failure> {
    let (shown, model) = (folder.display(), folder.join(RunFolder::MODEL));
    if peft::is_in(folder) {
        return None;
    }
    if !folder.is_dir() {
        let hint = "give the folder of a run, of a checkpoint, or of an adapter in PEFT's format, \
            or a Hub id that was pulled";
        return Some(no_folder("adapter ", folder, "a folder or a Hub id", hint));
    }
    if peft::is_of_mlx(folder) {
        return Some(
            adapter::AdapterError::OfMlx {
                folder: shown.to_string(),
            }
            .into(),
        );
    }
    let fault = if folder.join("config.json").exists() {
        let fault = Fault::new(format!(
            "`{shown}` holds no adapter: it is a model, it has `config.json` and no \
            `adapter_config.json`"
        ));
        fault.hint(
            "name a model with `--base`, and here a run, a checkpoint or a folder in PEFT's format",
        )
    } else if folder.join(RunFolder::LOCK).exists() && !model.exists() {
        let fault = Fault::new(format!(
            "`{shown}` holds no adapter: it is a run that has not come to one"
        ));
        match Checkpoint::newest_path(folder) {
            Some(newest) => fault.hint(format!(
                "name its newest checkpoint, `{}`",
                newest.display()
            )),
            None => fault.hint(format!(
                "go on with it: `rankine resume {}`",
                shell_word(&shown.to_string())
            )),
        }
    } else if model.join("config.json").exists() {
        let fault = Fault::new(format!(
            "`{shown}` holds a run of all weights, expected an adapter"
        ));
        fault.hint(format!(
            "its model needs none: it is a base itself, `{}`",
            model.display()
        ))
    } else {
        let fault = Fault::new(format!(
            "`{shown}` holds no adapter: it has no `adapter_config.json`"
        ));
        fault.hint("give a folder in PEFT's format, such as the `adapter` of a run")
    };
    Some(Failure::new(Exit::Input, fault))
}
