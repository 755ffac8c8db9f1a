//! Folders that a command names: a base, and an adapter, which names its base itself.

use std::path::{Path, PathBuf};

use super::{Failure, hub};
use crate::adapter::{LoraConfig, Numbers, peft};
use crate::fault::{Exit, Fault, shell_word};
use crate::hub::ModelId;
use crate::model::{LinearSpec, Storage, shard_paths};
use crate::plan::{Lock, hub_id};
use crate::terms::{ModelDtype, Technique, Term};
use crate::train::RunFolder;

/// The base that was named, or that the adapter was trained on.
pub(super) fn find_base(named: Option<&Path>, adapter: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(base) = named {
        return find_named(base);
    }
    let Some(adapter) = adapter else {
        let fault = Fault::new("there is no base: neither `--base` nor `--adapter` is given");
        return Err(Failure::new(Exit::Usage, fault.hint("give the folder of a base with `--base`")));
    };
    let refused = |message| Err(Failure::new(Exit::Input, Fault::new(message).hint("give the folder of the base with `--base`")));
    let (name, of_run, id) = (peft::read_base(adapter)?, base_of_run(adapter), peft::read_hub_base(adapter)?);
    if let Some(id) = id.as_ref().filter(|id| id.pinned().is_some()) {
        // Where the cache has it not, the run may know another place, or there is a copy under its name.
        let elsewhere = || of_run.into_iter().chain(name.map(PathBuf::from)).find(|folder| shard_paths(folder).is_ok());
        return hub::cached(id).map(|snapshot| snapshot.folder).or_else(|missing| elsewhere().ok_or_else(|| missing.into()));
    }
    match (name, of_run, id) {
        (Some(base), ..) if Path::new(&base).is_dir() => Ok(base.into()),
        (_, Some(base), _) => Ok(base),
        (_, None, Some(id)) if id.owner_and_name().is_some() => Ok(hub::cached(&id)?.folder),
        (Some(base), None, _) => {
            refused(format!("the adapter in `{}` was trained on `{base}`, which is no folder here", adapter.display()))
        }
        (None, None, _) => refused(format!("the adapter in `{}` names no base", adapter.display())),
    }
}

/// A base that was named: a folder, or a Hub id that is in the cache.
fn find_named(base: &Path) -> Result<PathBuf, Failure> {
    if base.is_dir() {
        return Ok(base.to_owned());
    }
    let name = base.to_str().unwrap_or_default();
    if let Some(id) = hub_id(name) {
        return Ok(hub::cached(&id)?.folder);
    }
    // The oldest models have no owner; any word looks like one of them.
    if let Some(snapshot) =
        ModelId::parse(name).ok().filter(|id| id.owner_and_name().is_none()).and_then(|id| hub::cached(&id).ok())
    {
        return Ok(snapshot.folder);
    }
    let fault = Fault::new(format!("base `{}` does not exist, expected a folder or a Hub id", base.display()));
    let hint =
        "name the folder of a Hugging Face model (config.json, *.safetensors, tokenizer.json), or a Hub id that was pulled";
    Err(Failure::new(Exit::NoInput, fault.hint(hint)))
}

/// The lock of the run or checkpoint in which an adapter lies.
pub(super) fn lock_above(adapter: &Path) -> Option<PathBuf> {
    // Absolute, because `.` has nothing above it.
    Some(adapter.canonicalize().ok()?.parent()?.join(RunFolder::LOCK)).filter(|lock| lock.exists())
}

/// The base as the run above an adapter or a model found it; the adapter's own file has not its whole place.
pub(super) fn base_of_run(adapter: &Path) -> Option<PathBuf> {
    let lock = Lock::read(&lock_above(adapter)?).ok()?;
    let (file, _) = lock.base_files().into_iter().next()?;
    Some(lock.working_directory()?.join(file.parent()?)).filter(|folder| folder.is_dir())
}

/// The lock of the run or checkpoint whose model this is, where all weights were trained.
pub(super) fn lock_of_model(model: &Path) -> Option<PathBuf> {
    let path = lock_above(model).filter(|_| model.canonicalize().is_ok_and(|path| path.ends_with(RunFolder::MODEL)))?;
    let lock = Lock::read(&path).ok()?;
    (lock.values()["recipe"]["adapter"]["method"] == Technique::Full.word()).then_some(path)
}

/// The template file that the adapter's run was trained with in place of the base's.
pub(super) fn template_of_run(adapter: &Path) -> Option<PathBuf> {
    let path = lock_above(adapter)?;
    let lock = Lock::read(&path).ok()?;
    let recipe = Lock::recipe(&path, path.parent()?).ok()?;
    Some(lock.working_directory()?.join(&recipe.chat_template?.value))
}

/// How the adapter's run kept its base: it answers as it was trained only on the same numbers.
pub(super) fn storage_of_run(adapter: &Path) -> Storage {
    let packing = lock_above(adapter).and_then(|path| Lock::read(&path).ok()?.packing());
    let (form, packs_head) = packing.map_or((None, false), |(form, packs_head)| (Some(form), packs_head));
    Storage { form, packs_head, ..ModelDtype::Auto.into() }
}

/// The adapter in a folder, for a model with these modules.
pub(super) fn read_adapter(folder: &Path, modules: &[LinearSpec]) -> Result<(LoraConfig, Numbers), Failure> {
    let config = peft::read_config(folder)?;
    let numbers = peft::read_numbers(folder, &config, modules)?;
    Ok((config, numbers))
}

/// Refuses what is no adapter's folder, with the one that may be meant.
pub(super) fn check_adapter(folder: &Path) -> Result<(), Failure> {
    let of_run = folder.join(RunFolder::ADAPTER);
    let [config, config_of_run] = [folder, &of_run].map(|folder| peft::files(folder)[0].exists());
    let shown = folder.display();
    match (folder.is_dir(), config, config_of_run) {
        (false, ..) => {
            let fault = Fault::new(format!("adapter `{shown}` does not exist, expected a folder"));
            Err(Failure::new(Exit::NoInput, fault.hint("give a folder in PEFT's format, such as the `adapter` of a run")))
        }
        (true, false, true) => {
            let fault = Fault::new(format!("`{shown}` holds a run, expected an adapter"));
            let hint = format!("give `--adapter {}`", shell_word(&of_run.display().to_string()));
            Err(Failure::new(Exit::Input, fault.hint(hint)))
        }
        (true, false, false) if folder.join(RunFolder::MODEL).join("config.json").exists() => {
            let model = folder.join(RunFolder::MODEL);
            let fault = Fault::new(format!("`{shown}` holds a run of all weights, expected an adapter"));
            Err(Failure::new(
                Exit::Input,
                fault.hint(format!("its model needs none: it is a base itself, `{}`", model.display())),
            ))
        }
        (true, false, false) => {
            let fault = Fault::new(format!("`{shown}` holds no adapter: it has no `adapter_config.json`"));
            Err(Failure::new(Exit::Input, fault.hint("give a folder in PEFT's format, such as the `adapter` of a run")))
        }
        _ => Ok(()),
    }
}
