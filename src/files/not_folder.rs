//! Diagnosis of a path that should be a folder and is not.

use std::fmt;
use std::path::{Path, PathBuf};

/// Reason why a path is not a folder, in words that follow its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotFolder {
    /// Nothing is there.
    Missing,
    /// The path is a dangling link.
    Dangling {
        /// Target of the link.
        target: PathBuf,
    },
    /// The path is a file in this folder.
    File {
        /// Folder of the file.
        folder: PathBuf,
    },
    /// The path is a pipe or a device.
    Other,
}

impl NotFolder {
    /// Examines a path; `None` if it is a folder.
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

    /// Returns whether something of another kind is there.
    pub fn is_there(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Other)
    }

    /// Returns the next step, if more is known than that the path is wrong.
    pub fn hint(&self) -> Option<String> {
        let is_named = |folder: &Path| {
            ["config.json", "adapter_config.json"]
                .iter()
                .any(|name| folder.join(name).exists())
        };
        match self {
            Self::Missing | Self::Other => None,
            Self::Dangling { .. } => {
                Some("restore what the link leads to, or name the folder itself".to_owned())
            }
            Self::File { folder } if is_named(folder) => Some(format!(
                "name the folder that it is in, `{}`",
                folder.display()
            )),
            Self::File { .. } => {
                Some("name a folder: a file alone has neither config nor tokenizer".to_owned())
            }
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
