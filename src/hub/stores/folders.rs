//! Where Ollama and LM Studio keep their models.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::files::{self, read_text_up_to};

/// Folders of the service that Ollama's installers make.
const OF_SERVICE: [&str; 4] = [
    "/usr/share/ollama/.ollama/models",
    "/var/lib/ollama/.ollama/models",
    "/var/lib/ollama/models",
    "/var/lib/ollama",
];
/// The file that names LM Studio's home.
const POINTER: &str = ".lmstudio-home-pointer";
/// LM Studio's homes below the user's: now, and in old versions.
const HOMES: [&str; 2] = [".lmstudio", ".cache/lm-studio"];
/// Maximum size of LM Studio's settings.
const SETTINGS_BYTES: u64 = 4 << 20;

/// The folders in which models are looked up; they need not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreFolders {
    /// Folders with Ollama's `manifests` and `blobs`.
    pub ollama: Vec<PathBuf>,
    /// Folders with LM Studio's `publisher/model/file.gguf`.
    pub lm_studio: Vec<PathBuf>,
}

impl StoreFolders {
    /// Returns the folders of this machine: `OLLAMA_MODELS`, otherwise those of the user and of
    /// Ollama's service; LM Studio's by its settings.
    pub fn read() -> Self {
        let home = files::home_folder();
        let said = std::env::var("OLLAMA_MODELS").unwrap_or_default();
        let said = said.trim().trim_matches(['"', '\'']);
        Self {
            ollama: of_ollama(said, home.as_deref()),
            lm_studio: home.as_deref().map(of_lm_studio).unwrap_or_default(),
        }
    }
}

fn of_ollama(said: &str, home: Option<&Path>) -> Vec<PathBuf> {
    if !said.is_empty() {
        return vec![said.into()];
    }
    let of_user = home.map(|home| home.join(".ollama").join("models"));
    of_user
        .into_iter()
        .chain(OF_SERVICE.map(PathBuf::from))
        .collect()
}

fn of_lm_studio(home: &Path) -> Vec<PathBuf> {
    let pointer = read_text_up_to(&home.join(POINTER), 64 << 10).unwrap_or_default();
    let own = Some(pointer.trim())
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let homes = own.into_iter().chain(HOMES.map(|name| home.join(name)));
    let mut folders: Vec<PathBuf> = homes
        .flat_map(|home| downloads(&home).into_iter().chain([home.join("models")]))
        .collect();
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| seen.insert(folder.clone()));
    folders
}

/// Returns the folder that LM Studio's settings name.
fn downloads(home: &Path) -> Option<PathBuf> {
    let text = read_text_up_to(&home.join("settings.json"), SETTINGS_BYTES).ok()?;
    let settings: Value = serde_json::from_str(&text).ok()?;
    let folder = PathBuf::from(settings["downloadsFolder"].as_str()?);
    folder.is_absolute().then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_says_comes_first() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| home.path().join(name);
        assert_eq!(
            of_ollama("/models", Some(home.path())),
            [Path::new("/models")]
        );
        assert_eq!(
            of_ollama("", Some(home.path()))[..2],
            [at(".ollama/models"), OF_SERVICE[0].into()]
        );
        let usual = [at(".lmstudio/models"), at(".cache/lm-studio/models")];
        assert_eq!(of_lm_studio(home.path()), usual);
        std::fs::create_dir(at("lm")).expect("made");
        std::fs::write(at(POINTER), format!("{}\n", at("lm").display())).expect("written");
        let settings = r#"{"downloadsFolder": "/disk/models"}"#;
        std::fs::write(at("lm/settings.json"), settings).expect("written");
        let found = of_lm_studio(home.path());
        assert_eq!(found[..2], [PathBuf::from("/disk/models"), at("lm/models")]);
        assert_eq!(found[2..], usual);
        std::fs::write(at("lm/settings.json"), r#"{"downloadsFolder": "../x"}"#).expect("written");
        assert_eq!(of_lm_studio(home.path())[0], at("lm/models"));
    }
}
