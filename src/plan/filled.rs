//! Filled values: defaults, and the origin of every value. The recipe's values are filled here and
//! nowhere else.

use serde_json::Value;

use crate::recipe::{Location, Said};

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Given by the recipe or an override.
    Said(Location),
    /// The default.
    Default,
    /// Derived from other values.
    Derived(&'static str),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Said(Location::File { line, .. }) => write!(f, "recipe, line {line}"),
            Self::Said(Location::Override(_)) => f.write_str("override"),
            Self::Default => f.write_str("default"),
            Self::Derived(from) => f.write_str(from),
        }
    }
}

/// One filled value.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The dotted key, such as `training.learning_rate` or `datasets.0.path`.
    pub key: String,
    /// The value, as it would be written in a recipe.
    pub value: Value,
    /// Its origin.
    pub origin: Origin,
}

/// The filled values so far.
#[derive(Debug, Default)]
pub(super) struct Filled {
    pub settings: Vec<Setting>,
}

impl Filled {
    /// Returns the given value, or the default, and records it; `show` formats it as a recipe
    /// would.
    pub fn fill<T: Clone>(
        &mut self,
        key: &str,
        said: Option<&Said<T>>,
        default: T,
        show: impl Fn(&T) -> Value,
    ) -> T {
        let (value, origin) = match said {
            Some(said) => (said.value.clone(), Origin::Said(said.place.clone())),
            None => (default, Origin::Default),
        };
        self.put(key, show(&value), origin);
        value
    }

    /// Fills a number, a text or a boolean.
    pub fn plain<T: Clone + Into<Value>>(
        &mut self,
        key: &str,
        said: Option<&Said<T>>,
        default: T,
    ) -> T {
        self.fill(key, said, default, |value| value.clone().into())
    }

    /// Fills a value that is one of a set of words.
    pub fn word<T: crate::terms::Term>(
        &mut self,
        key: &str,
        said: Option<&Said<T>>,
        default: T,
    ) -> T {
        self.fill(key, said, default, |value| match value.word() {
            "true" => true.into(),
            "false" => false.into(),
            word => word.into(),
        })
    }

    /// Records a value without a default, only if it is given.
    pub fn optional<T: Clone>(
        &mut self,
        key: &str,
        said: Option<&Said<T>>,
        show: impl Fn(&T) -> Value,
    ) -> Option<T> {
        said.map(|said| self.fill(key, Some(said), said.value.clone(), show))
    }

    /// Returns the values, grouped by section.
    pub fn by_section(mut self) -> Vec<Setting> {
        const SECTIONS: [&str; 10] = [
            "base_model",
            "chat_template",
            "chat_template_kwargs",
            "tokens",
            "datasets",
            "objective",
            "adapter",
            "training",
            "evaluation",
            "output",
        ];
        let rank = |setting: &Setting| {
            let section = setting.key.split('.').next().unwrap_or_default();
            SECTIONS
                .iter()
                .position(|name| *name == section)
                .unwrap_or(SECTIONS.len())
        };
        self.settings.sort_by_key(rank);
        self.settings
    }

    /// Records any value.
    pub fn put(&mut self, key: &str, value: Value, origin: Origin) {
        self.settings.push(Setting {
            key: key.to_owned(),
            value,
            origin,
        });
    }
}
