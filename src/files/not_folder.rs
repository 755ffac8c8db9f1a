//! What is at a path where a folder was meant.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why a path leads to no folder, in words that follow on its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotFolder {
    /// There is nothing.
    Missing,
    /// A link that leads nowhere.
    Dangling {
        /// Where it leads.
        target: PathBuf,
    },
    /// A file, in this folder.
    File {
        /// The folder.
        folder: PathBuf,
    },
    /// A pipe or a device.
    Other,
}

impl NotFolder {
    /// `None` where it is a folder.
    pub fn of(path: &Path) -> Option<Self> {
        match path.metadata() {
            Ok(found) if found.is_dir() => None,
            Ok(found) if found.is_file() => {
                let above = path.parent().filter(|above| !above.as_os_str().is_empty());
                Some(Self::File {
                    folder: above.unwrap_or(Path::new(".")).to_owned(),
                })
            }
            Ok(_) => Some(Self::Other),
            Err(_) => Some(
                path.read_link()
                    .map_or(Self::Missing, |target| Self::Dangling { target }),
            ),
        }
    }

    /// Whether there is something, of another kind.
    pub fn is_there(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Other)
    }

    /// The next step, where more can be told than that the path is wrong.
    pub fn hint(&self) -> Option<String> {
        let is_named = |folder: &Path| {
            ["config.json", "adapter_config.json"]
                .iter()
                .any(|name| folder.join(name).exists())
        };
        match self {
            Self::Missing | Self::Other => None,
            Self::Dangling { .. } => Some(
                "restore what the link leads to, or name the folder \
            itself"
                    .to_owned(),
            ),
            Self::File { folder } if is_named(folder) => Some(format!(
                "name the folder that it is \
            in, `{}`",
                folder.display()
            )),
            Self::File { .. } => Some(
                "name a folder: a file alone has neither config nor \
            tokenizer"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for NotFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist"),
            Self::Dangling { target } => write!(
                f,
                "is a link to `{}`, which does not exist",
                target.display()
            ),
            Self::File { .. } => f.write_str("is a file"),
            Self::Other => f.write_str("is neither a folder nor a file"),
        }
    }
}
