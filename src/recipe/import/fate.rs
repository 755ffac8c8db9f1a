//! The four fates of a key. There is no fifth.

use super::super::place::Location;
use crate::fault::Fault;

/// What becomes of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOutcome {
    /// The recipe says the same: its key and value.
    Mapped(String),
    /// It changes no number: why.
    Dropped(String),
    /// The recipe, or Rankine without a key, does something close: what, and what is to be done.
    Replaced(String),
    /// Nothing in Rankine does it: why.
    Refused(String),
}

impl KeyOutcome {
    /// Dropped, for a reason.
    pub fn dropped(reason: impl Into<String>) -> Self {
        Self::Dropped(reason.into())
    }

    /// Replaced, with a note.
    pub fn replaced(note: impl Into<String>) -> Self {
        Self::Replaced(note.into())
    }

    /// Refused, for a reason.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }

    /// The word for it.
    pub fn word(&self) -> &'static str {
        ["mapped", "dropped", "replaced", "refused"][self.rank()]
    }

    /// What is said of it.
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

/// A key of the config and its fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFate {
    /// Its path, such as `datasets.0.type`.
    pub key: String,
    /// Its value as it was written, shortened.
    pub value: String,
    /// Where it stands.
    pub place: Location,
    /// What becomes of it.
    pub fate: KeyOutcome,
}

impl KeyFate {
    /// The fault of a key that was refused.
    pub fn fault(&self) -> Option<Fault> {
        let KeyOutcome::Refused(reason) = &self.fate else {
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
