//! Rules for file names in a repository: which files of a model are downloaded, and which names are
//! refused.
//!
//! Names come from a server. A name that could lead out of its folder refuses the whole repository.
//! Of the others, only files that Rankine reads or that state the license are downloaded.

use std::path::Path;

/// Files that are read, copied into a merged model, or state the terms of use.
const WANTED: [&str; 15] = [
    "README.md",
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];
/// Prefixes of the names of license files.
const LICENCES: [&str; 4] = ["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"];
/// Folder of additional chat templates.
const TEMPLATES: &str = "additional_chat_templates/";
const WEIGHTS: &str = ".safetensors";
const INDEX: &str = ".safetensors.index.json";
/// Extensions of files that can run code when they are read.
const PICKLES: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];
/// Names that Windows reserves for devices, with any extension.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
/// Most bytes of a name that file systems support.
const LONGEST: usize = 255;

/// Treatment of a file in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileStatus {
    /// Download the file.
    Wanted,
    /// Do not download the file.
    Skipped,
    /// Refuse the repository, for this reason.
    Hostile(&'static str),
}

/// Returns the treatment of a file with this name.
pub(super) fn status(name: &str) -> FileStatus {
    if let Some(reason) = leads_out(name) {
        return FileStatus::Hostile(reason);
    }
    match (
        is_wanted(name),
        is_portable(name.strip_prefix(TEMPLATES).unwrap_or(name)),
    ) {
        (false, _) => FileStatus::Skipped,
        (true, true) => FileStatus::Wanted,
        (true, false) => FileStatus::Hostile("is no name that every system has room for"),
    }
}

/// Returns whether a file can run code when it is read.
pub(super) fn is_pickle(name: &str) -> bool {
    PICKLES.iter().any(|end| name.ends_with(end))
}

pub(super) fn is_weights(name: &str) -> bool {
    name.ends_with(WEIGHTS)
}

/// Returns why a name could lead out of its folder; `None` if it cannot.
pub(super) fn leads_out(name: &str) -> Option<&'static str> {
    let parts = || name.split(['/', '\\']);
    match name {
        "" => Some("is empty"),
        _ if name.chars().any(char::is_control) => Some("has control characters"),
        _ if name.starts_with(['/', '\\', '~']) => Some("is absolute"),
        _ if parts().any(|part| part == "..") => Some("leads out of its folder"),
        _ if parts().any(|part| part.is_empty() || part == ".") => Some("has empty parts"),
        _ if name.as_bytes().get(1) == Some(&b':') => Some("names a drive"),
        _ if name.contains('\\') => Some("has a `\\`"),
        _ if parts().any(|part| part.len() > LONGEST) => Some("is longer than 255 bytes"),
        _ => None,
    }
}

/// Returns whether a file is downloaded: only files of the repository's own folder and additional
/// chat templates are.
fn is_wanted(name: &str) -> bool {
    if let Some(template) = name.strip_prefix(TEMPLATES) {
        return !template.contains('/')
            && Path::new(template)
                .extension()
                .is_some_and(|extension| extension == "jinja");
    }
    !name.contains('/')
        && (WANTED.contains(&name) || is_weights(name) || name.ends_with(INDEX) || is_license(name))
}

/// Returns whether a file describes a repository or states its terms of use.
pub(super) fn is_card(name: &str) -> bool {
    name == "README.md" || (is_license(name) && is_portable(name))
}

fn is_license(name: &str) -> bool {
    !name.contains('/') && LICENCES.iter().any(|license| name.starts_with(license))
}

/// Returns whether every system supports the path of a data file. Folders may have names such as
/// `lang=de`.
pub(super) fn is_portable_path(name: &str) -> bool {
    let is_plain = |c: char| !c.is_control() && !"<>:\"|?*\\".contains(c);
    name.split('/')
        .all(|part| part.chars().all(is_plain) && !part.ends_with(['.', ' ']) && !is_device(part))
}

fn is_portable(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+ ()".contains(c);
    name.chars().all(is_plain)
        && !name.starts_with('.')
        && !name.ends_with(['.', ' '])
        && !is_device(name)
}

fn is_device(name: &str) -> bool {
    let stem = name
        .split('.')
        .next()
        .unwrap_or_default()
        .trim_end()
        .to_ascii_lowercase();
    let is_numbered = ["com", "lpt"].iter().any(|device| {
        stem.strip_prefix(device).is_some_and(|number| {
            number.len() == 1 && number.bytes().all(|digit| digit.is_ascii_digit())
        })
    });
    is_numbered || DEVICES.contains(&&*stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_fetched_and_the_rest_stays_there() {
        for name in [
            "config.json",
            "model.safetensors",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "adapter_model.safetensors",
            "LICENSE",
            "LICENSE.txt",
            "USE_POLICY.md",
            "tokenizer.model",
            "additional_chat_templates/tool_use.jinja",
        ] {
            assert_eq!(status(name), FileStatus::Wanted, "{name}");
        }
        for name in [
            "pytorch_model.bin",
            "original/consolidated.00.pth",
            "model.gguf",
            "onnx/model.onnx",
            "sub/config.json",
            "additional_chat_templates/notes.txt",
            "additional_chat_templates/sub/x.jinja",
            ".gitattributes",
            "modeling.py",
            "ab:c.png",
            "config.json.bak",
            "näme.txt",
        ] {
            assert_eq!(status(name), FileStatus::Skipped, "{name}");
        }
    }

    #[test]
    fn folders_of_data_may_have_names_that_a_model_has_not() {
        for name in [
            "data/train-00000-of-00001.parquet",
            "lang=de/x.parquet",
            "größe/a b,c.parquet",
            "_x/.y.parquet",
        ] {
            assert!(is_portable_path(name), "{name}");
        }
        for name in [
            "a:b.parquet",
            "a?.parquet",
            "con/x.parquet",
            "x/aux.parquet",
            "dir./x.parquet",
            "a\u{7}.parquet",
        ] {
            assert!(!is_portable_path(name), "{name}");
        }
        assert!(
            is_card("README.md")
                && is_card("LICENSE.txt")
                && !is_card("sub/LICENSE")
                && !is_card("data.json")
        );
    }

    #[test]
    fn a_name_that_could_lead_elsewhere_is_hostile() {
        let long = format!("{}.safetensors", "x".repeat(300));
        let hostile = [
            "",
            "../config.json",
            "/etc/passwd",
            "a/../../b",
            "..",
            ".",
            "a/./b",
            "a//b",
            "a/",
            "..\\config.json",
            "a\\..\\..\\b",
            "\\\\host\\share",
            "C:\\config.json",
            "C:config.json",
            "~/config.json",
            "config.json\0",
            "model\n.safetensors",
            "aux.safetensors",
            "CON.safetensors",
            "com1.safetensors",
            "LICENSE.",
            "LICENSE ",
            "LICENSE:stream",
            "LICENSE*",
            "mödel.safetensors",
            ".safetensors",
            &long,
        ];
        for name in hostile {
            assert!(
                matches!(status(name), FileStatus::Hostile(_)),
                "{name:?}: {:?}",
                status(name)
            );
        }
    }
}
