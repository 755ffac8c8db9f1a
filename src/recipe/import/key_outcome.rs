//! The four outcomes of a key.

use super::super::place::Location;
use crate::fault::Fault;

/// The outcome of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOutcome {
    /// The recipe says the same: the recipe's key and value.
    Mapped(String),
    /// The key changes no number: the reason.
    Dropped(String),
    /// The recipe, or Rankine without a key, does something close: what it does, and what the user
    /// should do.
    Replaced(String),
    /// Rankine cannot do it: the reason.
    Refused(String),
}

impl KeyOutcome {
    /// Returns `Dropped`, with a reason.
    pub fn dropped(reason: impl Into<String>) -> Self {
        Self::Dropped(reason.into())
    }

    /// Returns `Replaced`, with a note.
    pub fn replaced(note: impl Into<String>) -> Self {
        Self::Replaced(note.into())
    }

    /// Returns `Refused`, with a reason.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }

    /// Returns the word for the outcome.
    pub fn word(&self) -> &'static str {
        ["mapped", "dropped", "replaced", "refused"][self.rank()]
    }

    /// Returns the text that goes with the outcome.
    pub fn words(&self) -> &str {
        match self {
            Self::Mapped(words)
            | Self::Dropped(words)
            | Self::Replaced(words)
            | Self::Refused(words) => words,
        }
    }

    pub(super) fn rank(&self) -> usize {
        match self {
            Self::Mapped(_) => 0,
            Self::Dropped(_) => 1,
            Self::Replaced(_) => 2,
            Self::Refused(_) => 3,
        }
    }
}

/// A key of the config and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedKey {
    /// Its path, such as `datasets.0.type`.
    pub key: String,
    /// Its value as written, shortened.
    pub value: String,
    /// Its place in the file.
    pub place: Location,
    /// Its outcome.
    pub outcome: KeyOutcome,
}

impl ImportedKey {
    /// Returns the fault if the key was refused.
    pub fn fault(&self) -> Option<Fault> {
        let KeyOutcome::Refused(reason) = &self.outcome else {
            return None;
        };
        let value = if self.value.is_empty() {
            String::new()
        } else {
            format!(": `{}`", self.value)
        };
        Some(Fault::new(format!("{}{value}: {reason}", self.key)).at(&self.place))
    }
}
