//! Ollama's store: `manifests/HOST/NAMESPACE/MODEL/TAG` lists the layers of a model, which are
//! `blobs/sha256-DIGEST` (`types/model/name.go`, `manifest/` and `server/images.go` of
//! <https://github.com/ollama/ollama>).

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{StoreError, StoredModel};
use crate::files::{FileError, is_there, open_file, read_text_up_to};

const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";
/// Most bytes of a host, and of the other parts.
const LONGEST: [usize; 4] = [350, 80, 80, 80];
/// Maximum size of a manifest; Ollama's have two KB.
const MANIFEST_BYTES: u64 = 1 << 20;
/// The most names that are collected for a message.
const MOST_NAMES: usize = 1000;
/// Digits of a SHA-256.
const DIGITS: usize = 64;

/// Host, namespace, model and tag: valid names of files.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a>([&'a str; 4]);

#[derive(Debug, Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
}

/// Finds the model that is called `rest` in Ollama; `name` has the prefix.
pub(super) fn find(name: &str, rest: &str, folders: &[PathBuf]) -> Result<StoredModel, StoreError> {
    let parts = Name::parse(rest).map_err(|reason| StoreError::Name {
        name: name.to_owned(),
        reason,
    })?;
    let stores: Vec<&PathBuf> = folders
        .iter()
        .filter(|folder| folder.join("manifests").is_dir())
        .collect();
    if stores.is_empty() {
        return Err(StoreError::NoStore {
            name: name.to_owned(),
            store: "Ollama",
            looked: folders.to_vec(),
        });
    }
    let mut found: Vec<StoredModel> = Vec::new();
    for store in &stores {
        let path = parts.manifest(store);
        if is_there(&path)? {
            found.push(read(name, &path, store)?);
        }
    }
    let mut models = found.into_iter();
    let Some(first) = models.next() else {
        return Err(missing(name, &parts, &stores));
    };
    match models.find(|model| model.digest != first.digest) {
        None => Ok(first),
        Some(other) => Err(StoreError::Several {
            name: name.to_owned(),
            found: [first, other]
                .map(|model| model.path.display().to_string())
                .into(),
            hint: "set OLLAMA_MODELS to the folder of one of them".to_owned(),
        }),
    }
}

impl<'a> Name<'a> {
    /// Parses `host/namespace/model:tag`, of which only the model must be there.
    fn parse(text: &'a str) -> Result<Self, &'static str> {
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, TAG),
        };
        let mut parts = path.rsplitn(3, '/');
        let model = parts.next().unwrap_or_default();
        let namespace = parts.next().unwrap_or(NAMESPACE);
        let host = parts.next().unwrap_or(HOST);
        let all = [host, namespace, model, tag];
        for (index, (part, longest)) in all.into_iter().zip(LONGEST).enumerate() {
            let plain = ["-_.:", "-_", "-_.", "-_."][index];
            let is_edge = |c: char| c.is_ascii_alphanumeric() || c == '_';
            match part {
                "" => return Err("a part of it is empty, expected `model:tag`"),
                _ if part.len() > longest => return Err("a part of it is too long"),
                _ if !part.starts_with(is_edge) => {
                    return Err("a part of it does not begin with a letter or a digit");
                }
                _ if !part.chars().all(|c| is_edge(c) || plain.contains(c)) => {
                    return Err(
                        "expected `host/namespace/model:tag` of letters, digits, `-`, `_` \
                        and `.`",
                    );
                }
                _ => {}
            }
        }
        Ok(Self(all))
    }

    fn manifest(&self, store: &Path) -> PathBuf {
        store
            .join("manifests")
            .join(self.0.iter().collect::<PathBuf>())
    }

    /// Returns the shortest name: what goes without saying is left out.
    fn shortest(&self) -> String {
        match self.0 {
            [HOST, NAMESPACE, model, tag] => format!("{model}:{tag}"),
            [HOST, namespace, model, tag] => format!("{namespace}/{model}:{tag}"),
            [host, namespace, model, tag] => format!("{host}/{namespace}/{model}:{tag}"),
        }
    }
}

/// Reads a manifest and checks the file of its model.
fn read(name: &str, path: &Path, store: &Path) -> Result<StoredModel, StoreError> {
    let wrong = |reason: String| StoreError::Manifest {
        name: name.to_owned(),
        path: path.to_owned(),
        reason,
    };
    let text = read_text_up_to(path, MANIFEST_BYTES)?;
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("is no list of layers: {error}")))?;
    let kind = |layer: &Layer| {
        let kind = layer
            .media_type
            .strip_prefix("application/vnd.ollama.image.");
        kind.unwrap_or_default().to_owned()
    };
    let of_kind = |wanted: &'static str| {
        let layers = manifest.layers.iter();
        layers.filter(move |layer| kind(layer) == wanted)
    };
    if of_kind("adapter").next().is_some() {
        return Err(StoreError::NoGguf {
            name: name.to_owned(),
            reason: "is a model with an adapter, expected one without".to_owned(),
            hint: "name the model of its `FROM` line: `ollama show --modelfile` shows it"
                .to_owned(),
        });
    }
    let models: Vec<&Layer> = of_kind("model").collect();
    let [model] = models[..] else {
        if models.is_empty() && of_kind("tensor").next().is_some() {
            return Err(StoreError::NoGguf {
                name: name.to_owned(),
                reason: "is kept tensor by tensor, expected a GGUF file".to_owned(),
                hint: "use the model's Hugging Face folder or id as the base".to_owned(),
            });
        }
        let count = models.len();
        return Err(wrong(format!(
            "has {count} layers of a model, expected one"
        )));
    };
    let digest = digits(&model.digest).ok_or_else(|| {
        let found = &model.digest;
        wrong(format!(
            "has the digest `{found}`, expected `sha256:` and {DIGITS} digits"
        ))
    })?;
    let blob = store.join("blobs").join(format!("sha256-{digest}"));
    check_blob(name, &blob, model.size)?;
    Ok(StoredModel {
        name: name.to_owned(),
        path: blob,
        digest: Some(format!("sha256:{digest}")),
        notes: notes(name, &manifest.layers.iter().map(kind).collect::<Vec<_>>()),
    })
}

/// Returns the digits of a digest.
fn digits(digest: &str) -> Option<String> {
    let digits = digest
        .strip_prefix("sha256:")
        .or_else(|| digest.strip_prefix("sha256-"))?;
    let is_hex = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| digits.to_ascii_lowercase())
}

fn check_blob(name: &str, path: &Path, size: u64) -> Result<(), StoreError> {
    let wrong = |reason: String| StoreError::Blob {
        name: name.to_owned(),
        path: path.to_owned(),
        reason,
    };
    if !is_there(path)? {
        return Err(wrong("does not exist".to_owned()));
    }
    let file = open_file(path)?;
    let found = file
        .metadata()
        .map_err(|cause| FileError::new("read", path, cause))?
        .len();
    if found != size {
        return Err(wrong(format!(
            "has {found} bytes, its manifest says {size}"
        )));
    }
    Ok(())
}

/// Returns notes on layers that are not read.
fn notes(name: &str, kinds: &[String]) -> Vec<String> {
    let has = |wanted: &str| kinds.iter().any(|kind| kind == wanted);
    let of_ollama = [
        ("template", "template"),
        ("system", "system message"),
        ("params", "parameters"),
        ("messages", "messages"),
    ];
    let said: Vec<&str> = of_ollama
        .iter()
        .filter(|(kind, _)| has(kind))
        .map(|(_, words)| *words)
        .collect();
    let unread = (!said.is_empty()).then(|| {
        format!(
            "`{name}`: Ollama's {} not read: the chat template is that of the GGUF file, or \
            `chat_template`",
            joined(&said)
        )
    });
    let projector = has("projector")
        .then(|| format!("`{name}`: its projector of images is not read: only text is trained"));
    unread.into_iter().chain(projector).collect()
}

/// Joins words, followed by `is` or `are`.
fn joined(words: &[&str]) -> String {
    match words {
        [word] if *word == "template" || *word == "system message" => format!("{word} is"),
        [one] => format!("{one} are"),
        [first @ .., last] => format!("{} and {last} are", first.join(", ")),
        [] => String::new(),
    }
}

/// Makes the error for a model that no store has: with the tags of the model, or with all models.
fn missing(name: &str, parts: &Name, stores: &[&PathBuf]) -> StoreError {
    let [host, namespace, model, _] = parts.0;
    let mut tags = Vec::new();
    let mut all = Vec::new();
    for store in stores {
        let mut names = Vec::new();
        walk(&store.join("manifests"), &mut Vec::new(), &mut names);
        for path in names {
            let found: Vec<&str> = path.iter().map(String::as_str).collect();
            let Ok(found) = <[&str; 4]>::try_from(found) else {
                continue;
            };
            let shown = Name(found).shortest();
            if found[..3] == [host, namespace, model] {
                tags.push(shown.clone());
            }
            all.push(shown);
        }
    }
    let mut found = if tags.is_empty() { all } else { tags };
    found.sort();
    found.dedup();
    StoreError::Missing {
        name: name.to_owned(),
        looked: stores.iter().map(|store| (*store).clone()).collect(),
        found,
    }
}

/// Collects the paths of manifests, four names deep.
fn walk(folder: &Path, parts: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if found.len() >= MOST_NAMES {
            return;
        }
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        parts.push(name);
        if parts.len() == 4 {
            found.push(parts.clone());
        } else {
            walk(&entry.path(), parts, found);
        }
        parts.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_ollama() {
        let parse = |text| Name::parse(text).map(|name| name.0);
        assert_eq!(parse("llama3.2"), Ok([HOST, NAMESPACE, "llama3.2", TAG]));
        assert_eq!(
            parse("llama3.2:1b"),
            Ok([HOST, NAMESPACE, "llama3.2", "1b"])
        );
        assert_eq!(parse("me/model:a"), Ok([HOST, "me", "model", "a"]));
        let hub = ["hf.co", "bartowski", "Qwen2.5-0.5B-GGUF", "Q4_K_M"];
        assert_eq!(parse("hf.co/bartowski/Qwen2.5-0.5B-GGUF:Q4_K_M"), Ok(hub));
        assert_eq!(
            parse("localhost:5000/me/model"),
            Ok(["localhost:5000", "me", "model", TAG])
        );
        for wrong in [
            "", ":", "a:", "/a", "a/", "../a", "a/..", "..", "a:..", "a:../b", "a//b", "a b",
            "a/b/c/d", "a\\b", "a\0", "-a", ".a", "a:b:c", "ä",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(Name::parse(&"a".repeat(81)).is_err());
        assert_eq!(
            Name(hub).shortest(),
            "hf.co/bartowski/Qwen2.5-0.5B-GGUF:Q4_K_M"
        );
        assert_eq!(Name([HOST, NAMESPACE, "a", TAG]).shortest(), "a:latest");
    }

    #[test]
    fn a_digest_is_64_digits() {
        let hex = "0123456789abcdef".repeat(4);
        assert_eq!(digits(&format!("sha256:{hex}")), Some(hex.clone()));
        assert_eq!(
            digits(&format!("sha256-{}", hex.to_uppercase())),
            Some(hex.clone())
        );
        for wrong in [
            "",
            "sha256:",
            "sha256:../../x",
            &hex,
            &format!("sha256:{}g", &hex[1..]),
        ] {
            assert_eq!(digits(wrong), None, "{wrong}");
        }
    }
}
