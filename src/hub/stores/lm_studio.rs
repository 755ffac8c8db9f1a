//! LM Studio's models: `PUBLISHER/MODEL/FILE.gguf` below its folder
//! (<https://lmstudio.ai/docs/app/advanced/import-model>).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{StoreError, StoredModel};
use crate::files::gguf::{is_gguf_name, split_paths};
use crate::files::{files_below, is_there};

/// The most names that are collected for a message.
const MOST_NAMES: usize = 1000;

/// Finds the model that is called `rest` in LM Studio; `name` has the prefix.
pub(super) fn find(name: &str, rest: &str, folders: &[PathBuf]) -> Result<StoredModel, StoreError> {
    check(rest).map_err(|reason| StoreError::Name {
        name: name.to_owned(),
        reason,
    })?;
    let stores: Vec<&PathBuf> = folders.iter().filter(|folder| folder.is_dir()).collect();
    if stores.is_empty() {
        return Err(StoreError::NoStore {
            name: name.to_owned(),
            store: "LM Studio",
            looked: folders.to_vec(),
        });
    }
    let mut places = Vec::new();
    for store in &stores {
        let place = store.join(rest);
        if is_there(&place)? {
            places.push(place);
        }
    }
    // Two of the folders may be one.
    places.dedup_by_key(|place| place.canonicalize().unwrap_or_else(|_| place.clone()));
    match &places[..] {
        [] => Err(StoreError::Missing {
            name: name.to_owned(),
            looked: stores.iter().map(|store| (*store).clone()).collect(),
            found: models(&stores),
        }),
        [place] => file_of(name, place),
        several => Err(StoreError::Several {
            name: name.to_owned(),
            found: several
                .iter()
                .map(|place| place.display().to_string())
                .collect(),
            hint: "name the GGUF file itself as the base".to_owned(),
        }),
    }
}

/// Checks a name: `publisher/model`, or a file there.
fn check(rest: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "expected `publisher/model`, or a file there: \
        `publisher/model/file.gguf`";
    let is_part = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && !part.contains(['\\', '\0', ':'])
            && !part.contains(char::is_control)
    };
    let parts: Vec<&str> = rest.split('/').collect();
    let is_known = (2..=4).contains(&parts.len()) && parts.into_iter().all(is_part);
    is_known.then_some(()).ok_or(EXPECTED)
}

/// Returns the GGUF file of a model's folder, or the one that is named.
fn file_of(name: &str, place: &Path) -> Result<StoredModel, StoreError> {
    let found = |path: PathBuf, notes| StoredModel {
        name: name.to_owned(),
        path,
        digest: None,
        notes,
    };
    if place.is_file() {
        return Ok(found(place.to_owned(), Vec::new()));
    }
    let all = files_below(place)?;
    let is_projector = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.to_lowercase().contains("mmproj")
    };
    let ggufs = || all.iter().filter(|path| is_gguf_name(path));
    let mut models = BTreeSet::new();
    for path in ggufs().filter(|path| !is_projector(path)) {
        models.extend(split_paths(path)?.into_iter().next());
    }
    let projector = ggufs().find(is_projector);
    let notes = projector
        .map(|_| format!("`{name}`: its projector of images is not read: only text is trained"));
    let shown = |path: &PathBuf| {
        let below = path.strip_prefix(place).unwrap_or(path);
        below.display().to_string()
    };
    let mut models = models.into_iter();
    match (models.next(), models.next()) {
        (Some(only), None) => Ok(found(only, notes.into_iter().collect())),
        (Some(first), Some(second)) => {
            let hint = format!("name one of them: `{name}/{}`", shown(&first));
            let several = [first, second].into_iter().chain(models);
            Err(StoreError::Several {
                name: name.to_owned(),
                found: several.map(|path| shown(&path)).collect(),
                hint,
            })
        }
        (None, _) => {
            let is_mlx = all
                .iter()
                .any(|path| path.extension().is_some_and(|end| end == "safetensors"));
            let (reason, hint) = if is_mlx {
                (
                    "holds no GGUF file: its weights are those of MLX",
                    "use a GGUF variant of the model, or its Hugging Face folder or id",
                )
            } else {
                (
                    "holds no GGUF file",
                    "download the model in LM Studio again",
                )
            };
            Err(StoreError::NoGguf {
                name: name.to_owned(),
                reason: reason.to_owned(),
                hint: hint.to_owned(),
            })
        }
    }
}

/// Returns the names of the models that are there, `publisher/model`.
fn models(stores: &[&PathBuf]) -> Vec<String> {
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        folders
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .take(MOST_NAMES)
            .collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for store in stores {
        for publisher in names(store) {
            let models = names(&store.join(&publisher));
            found.extend(
                models
                    .into_iter()
                    .map(|model| format!("{publisher}/{model}")),
            );
        }
    }
    found.sort();
    found.dedup();
    found.truncate(MOST_NAMES);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_a_folder_or_a_file_below_the_store() {
        for right in ["a/b", "a/b/c.gguf", "a/B-GGUF/q/c.gguf", "a b/c"] {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        for wrong in [
            "",
            "a",
            "/a",
            "a/",
            "../b",
            "a/..",
            "a/./b",
            "a/b/c/d/e",
            "a\\b/c",
            "C:/b",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
