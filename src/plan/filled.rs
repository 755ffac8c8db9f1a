//! Defaults, and where every value comes from. The recipe's values are filled here and nowhere
//! else.

use serde_json::Value;

use crate::recipe::{Location, Said};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The recipe, or an override of it.
    Said(Location),
    /// Nobody said it.
    Default,
    /// Worked out from other values.
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
    /// Dotted, such as `training.learning_rate` or `datasets.0.path`.
    pub key: String,
    /// As it would be written in a recipe.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// The filled values so far.
#[derive(Debug, Default)]
pub(super) struct Filled {
    pub settings: Vec<Setting>,
}

impl Filled {
    /// What was said, or the default; `show` prints it as a recipe would have it.
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

    /// A number, text or truth value.
    pub fn plain<T: Clone + Into<Value>>(
        &mut self,
        key: &str,
        said: Option<&Said<T>>,
        default: T,
    ) -> T {
        self.fill(key, said, default, |value| value.clone().into())
    }

    /// A word.
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

    /// A value that has no default and is listed only where it was said.
    pub fn optional<T: Clone>(
        &mut self,
        key: &str,
        said: Option<&Said<T>>,
        show: impl Fn(&T) -> Value,
    ) -> Option<T> {
        said.map(|said| self.fill(key, Some(said), said.value.clone(), show))
    }

    /// The values, with those of one section together.
    pub fn by_section(mut self) -> Vec<Setting> {
        const SECTIONS: [&str; 9] = [
            "base_model",
            "chat_template",
            "chat_template_kwargs",
            "tokens",
            "datasets",
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

    /// Any value.
    pub fn put(&mut self, key: &str, value: Value, origin: Origin) {
        self.settings.push(Setting {
            key: key.to_owned(),
            value,
            origin,
        });
    }
}
