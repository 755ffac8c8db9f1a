//! The chat templates in a model's folder, by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Maximum bytes read of a template's file; the longest in use have a fiftieth of it.
pub const TEMPLATE_BYTES: u64 = 1 << 20;

/// Name of the template that transformers uses for conversations without tools.
const DEFAULT: &str = "default";
/// Name of the template that transformers uses for conversations with tools.
pub const TOOL_USE: &str = "tool_use";

/// File of a model's template in its folder.
pub const FILE: &str = "chat_template.jinja";
/// Folder of a model's further templates.
pub const FOLDER: &str = "additional_chat_templates";

/// The chat templates of a model's folder, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Templates(BTreeMap<String, String>);

impl FromIterator<(String, String)> for Templates {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(templates: T) -> Self {
        Self(templates.into_iter().collect())
    }
}

impl Templates {
    /// Creates templates from one without a name.
    pub fn one(source: String) -> Self {
        Self::from_iter([(DEFAULT.to_owned(), source)])
    }

    /// Returns the files of a model's folder that hold the templates.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, String)> {
        let path = |name: &str| {
            if name == DEFAULT {
                FILE.to_owned()
            } else {
                format!("{FOLDER}/{name}.jinja")
            }
        };
        self.0
            .iter()
            .map(move |(name, source)| (path(name).into(), source.clone()))
    }

    /// Returns the template for conversations without tools.
    pub fn default_source(&self) -> Option<&str> {
        self.0.get(DEFAULT).map(String::as_str)
    }

    /// Returns the names, except `default`.
    pub fn names(&self) -> Vec<&str> {
        self.0
            .keys()
            .map(String::as_str)
            .filter(|name| *name != DEFAULT)
            .collect()
    }

    /// Returns the template of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}
