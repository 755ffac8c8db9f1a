//! The base in a card: its name without this machine's paths, its license, and its license files.

use std::path::{Path, PathBuf};

use super::words::{code, last};
use crate::files::gguf::is_gguf_name;
use crate::files::license::{License, is_notice, notice_paths, readme_head};
use crate::model::{Folder, user_path};

/// The license in the front matter of a card if no license is stated.
pub(super) const NOT_STATED: &str = "not-stated";
/// The number of characters of a commit hash.
const COMMIT: usize = 40;

/// A base as a card names it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Base {
    /// The last part of its folder's path, or its id on the Hub.
    pub name: String,
    /// Its place on the Hub, if it came from there.
    pub hub: Option<HubPlace>,
    /// A description of the model.
    pub model: Option<String>,
    /// The license that its `README.md` states.
    pub license: Option<License>,
    /// Names of its license files.
    pub notices: Vec<String>,
}

/// A repository of the Hub at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubPlace {
    /// `owner/name`.
    pub id: String,
    /// The commit.
    pub commit: String,
}

impl Base {
    /// Reads the base's name and licenses from its folder.
    pub fn of(folder: &Path) -> Self {
        let whole = whole(folder);
        let name = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        Self {
            name: Self::name_of(folder),
            hub: HubPlace::of(&whole, "models--"),
            model: Folder::open(folder)
                .ok()
                .map(|folder| folder.spec.describe()),
            license: License::stated(&readme_head(&folder.join(super::CARD))).filter(is_stated),
            notices: notice_paths(folder).iter().map(|path| name(path)).collect(),
        }
    }

    /// Returns the id of a folder in the Hub's cache; for other folders their name.
    pub fn name_of(folder: &Path) -> String {
        let whole = whole(folder);
        HubPlace::of(&whole, "models--")
            .map_or_else(|| last(&whole.display().to_string()), |hub| hub.id)
    }

    /// Returns a base of which only the name is known.
    pub fn named(name: &str) -> Self {
        Self {
            name: last(name),
            ..Self::default()
        }
    }

    /// Returns the base's name in commands: its id, or a placeholder.
    pub(super) fn in_commands(&self) -> &str {
        self.hub.as_ref().map_or("BASE", |hub| &hub.id)
    }

    /// Returns the lines about it.
    pub(super) fn lines(&self) -> String {
        let place = match &self.hub {
            Some(hub) => format!(
                "{} of the Hugging Face Hub, commit {}",
                code(&hub.id),
                code(&hub.commit)
            ),
            None if is_gguf_name(Path::new(&self.name)) => format!("file {}", code(&self.name)),
            None => format!("folder {}", code(&self.name)),
        };
        let model = self
            .model
            .as_ref()
            .map_or_else(String::new, |model| format!("- Model: {model}\n"));
        format!(
            "- Base: {place}\n{model}- License: {}\n",
            self.license_words()
        )
    }

    fn license_words(&self) -> String {
        let files = self
            .notices
            .iter()
            .map(|name| code(name))
            .collect::<Vec<_>>()
            .join(", ");
        let files = if files.is_empty() {
            files
        } else {
            format!("; its text, taken along: {files}")
        };
        match &self.license {
            Some(license) => format!("{}, as the base's README.md states{files}", named(license)),
            None if self.notices.is_empty() => {
                "not stated in the base's folder. Find out what it is before you pass this on"
                    .to_owned()
            }
            None => format!("no identifier is stated{files}"),
        }
    }
}

/// Returns the whole path by which the user knows a base.
fn whole(folder: &Path) -> PathBuf {
    let path = user_path(folder);
    path.canonicalize().unwrap_or(path)
}

impl HubPlace {
    /// Returns the repository whose cache contains a path
    /// (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).
    pub(super) fn of(path: &Path, kind: &str) -> Option<Self> {
        let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
        let at = parts
            .windows(3)
            .position(|three| three[0].starts_with(kind) && three[1] == "snapshots")?;
        let (repository, commit) = (parts[at].strip_prefix(kind)?, parts[at + 2]);
        let is_id = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_commit = commit.len() == COMMIT && commit.chars().all(|c| c.is_ascii_hexdigit());
        let is_known = is_commit && !repository.is_empty() && repository.chars().all(is_id);
        is_known.then(|| Self {
            id: repository.replacen("--", "/", 1),
            commit: commit.to_owned(),
        })
    }
}

/// Returns whether a license is stated: a card of ours for a base without a license says that there
/// is none.
fn is_stated(license: &License) -> bool {
    license.name.as_deref() != Some(NOT_STATED)
}

/// Returns a license by its identifier and name, with its link if that leads to a file in the
/// folder or elsewhere.
pub(super) fn named(license: &License) -> String {
    let name = license
        .name
        .as_ref()
        .map_or_else(String::new, |name| format!(" ({})", code(name)));
    let link = license.link.as_ref().filter(|link| !is_notice(link));
    format!(
        "{}{name}{}",
        code(&license.id),
        link.map_or_else(String::new, |link| format!(", {}", code(link)))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_the_hubs_cache_is_called_by_its_id() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let of = |path: String| HubPlace::of(Path::new(&path), "models--").map(|hub| hub.id);
        assert_eq!(
            of(format!(
                "/home/x/hub/models--Qwen--Qwen2.5-0.5B/snapshots/{commit}"
            ))
            .as_deref(),
            Some("Qwen/Qwen2.5-0.5B")
        );
        assert_eq!(
            of(format!("hub/models--gpt2/snapshots/{commit}/a/b.parquet")).as_deref(),
            Some("gpt2")
        );
        assert_eq!(of("hub/models--a--b/snapshots/main".to_owned()), None);
        assert_eq!(of(format!("hub/models--a--b`<x>/snapshots/{commit}")), None);
        assert_eq!(of(format!("hub/datasets--a--b/snapshots/{commit}")), None);
    }
}
