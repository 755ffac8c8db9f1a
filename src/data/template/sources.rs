//! Which templates a model has, and which of them, or which other, renders conversations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{TEMPLATE_BYTES, twins};
use crate::data::tokenize::Tokenizer;
use crate::fault::{Exit, Explain};
use crate::files::{self, read_text_up_to};

/// The template that transformers takes for conversations without tools.
const DEFAULT: &str = "default";
/// The one that it takes for a conversation that comes with tools.
pub const TOOL_USE: &str = "tool_use";
/// What conversations are rendered with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    /// The template.
    pub default: String,
    /// The one for conversations that come with tools, where that is another.
    pub tool_use: Option<String>,
    /// Variables of every conversation; those of its own win.
    pub variables: Map<String, Value>,
}

impl From<&str> for Sources {
    fn from(source: &str) -> Self {
        Self {
            default: source.to_owned(),
            ..Self::default()
        }
    }
}

impl Sources {
    /// The files of a model's folder that make every program render as is done here: its own
    /// variables are set in them, unless whoever renders sets them.
    pub fn files(&self) -> Vec<(PathBuf, String)> {
        let tool_use = self
            .tool_use
            .as_deref()
            .map(|source| (format!("{FOLDER}/{TOOL_USE}.jinja"), source));
        let all = [(FILE.to_owned(), self.default.as_str())]
            .into_iter()
            .chain(tool_use);
        all.map(|(name, source)| (name.into(), self.with_variables(source)))
            .collect()
    }

    /// The template of conversations without tools, with its variables.
    pub fn default_with_variables(&self) -> String {
        self.with_variables(&self.default)
    }

    /// Whether one of the templates reads a variable.
    pub fn reads(&self, name: &str) -> bool {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let has = |source: &str| source.split(|c| !is_word(c)).any(|word| word == name);
        has(&self.default) || self.tool_use.as_deref().is_some_and(has)
    }

    /// jinja2 takes the line break behind a block away, so the template itself begins as before.
    fn with_variables(&self, source: &str) -> String {
        let set = |(name, value): (&String, &Value)| {
            format!(
                "{{% if {name} is not defined %}}{{% set {name} = {} %}}{{% endif %}}\n",
                literal(value)
            )
        };
        self.variables.iter().map(set).collect::<String>() + source
    }
}

/// A value as jinja2 writes it: JSON with another word for null.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(literal).collect::<Vec<_>>().join(", ")
        ),
        Value::Object(entries) => {
            let entry = |(key, value): (&String, &Value)| {
                format!("{}: {}", Value::from(key.as_str()), literal(value))
            };
            format!(
                "{{{}}}",
                entries.iter().map(entry).collect::<Vec<_>>().join(", ")
            )
        }
        other => other.to_string(),
    }
}

/// A model's template in its folder.
pub(in crate::data) const FILE: &str = "chat_template.jinja";
/// The folder of its further ones.
pub(in crate::data) const FOLDER: &str = "additional_chat_templates";

/// The chat templates of a model's folder, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Templates(BTreeMap<String, String>);

impl FromIterator<(String, String)> for Templates {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(templates: T) -> Self {
        Self(templates.into_iter().collect())
    }
}

impl Templates {
    /// One template without a name.
    pub(in crate::data) fn one(source: String) -> Self {
        Self::from_iter([(DEFAULT.to_owned(), source)])
    }

    /// The files of a model's folder that hold them.
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

    /// The one of conversations without tools.
    pub fn default_source(&self) -> Option<&str> {
        self.0.get(DEFAULT).map(String::as_str)
    }

    /// The names, those that are not `default`.
    pub fn names(&self) -> Vec<&str> {
        self.0
            .keys()
            .map(String::as_str)
            .filter(|name| *name != DEFAULT)
            .collect()
    }

    /// What transformers renders with where nothing else is said; `None` where there is no
    /// template.
    fn sources(&self) -> Result<Option<Sources>, TemplateSourceError> {
        let tool_use = self.0.get(TOOL_USE).cloned();
        match self.default_source() {
            Some(source) => Ok(Some(Sources {
                tool_use,
                ..Sources::from(source)
            })),
            None if self.0.is_empty() => Ok(None),
            None => Err(TemplateSourceError::NoDefault {
                names: self.names().into_iter().map(str::to_owned).collect(),
            }),
        }
    }
}

/// A template that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateSourceError {
    /// The model has several and none that is taken without a word.
    #[error("the base has chat templates named {}, none named `default`", quoted(.names))]
    NoDefault {
        /// Their names.
        names: Vec<String>,
    },
    /// Nothing has this name.
    #[error("`{name}` is no file, none of the base's chat templates{} and no stock template", if .names.is_empty() { String::new() } else { format!(" ({})", quoted(.names)) })]
    Unknown {
        /// What was named.
        name: String,
        /// The base's further templates.
        names: Vec<String>,
    },
    /// A stock template writes tokens that the model does not have.
    #[error("the stock template `{name}` writes {}, which the base's tokenizer has not as tokens", quoted(.tokens))]
    Foreign {
        /// The stock template.
        name: String,
        /// What it writes.
        tokens: Vec<String>,
    },
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] files::FileError),
}

fn quoted(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl Explain for TemplateSourceError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoDefault { names } => {
                let name = names.first().map_or(TOOL_USE, String::as_str);
                Some(format!(
                    "name the one to use for every conversation, such as `chat_template: \
                {name}`, or a file"
                ))
            }
            Self::Unknown { .. } => Some(format!(
                "stock templates are {}; a path is relative to where the command is \
                started",
                stock_names()
            )),
            Self::Foreign { .. } => Some(
                "name a template that was written for this base, or give it the tokens with \
                `tokens.add`"
                    .to_owned(),
            ),
            Self::File(error) => error.hint(),
        }
    }
}

/// The names of the stock templates, in words.
pub fn stock_names() -> String {
    quoted(&twins::names().map(str::to_owned).collect::<Vec<_>>())
}

impl Sources {
    /// What renders the conversations of a model: `named`, which is a file, else the name of one of
    /// the model's templates, else that of a stock template; without it the model's own, as
    /// transformers takes them. `None` where it has none.
    ///
    /// # Errors
    /// What was named is nothing of these, a stock template's tokens are not the model's, a file
    /// cannot be read, or the model's templates have no default.
    pub fn choose(
        named: Option<&Path>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, TemplateSourceError> {
        let templates = tokenizer.chat_templates();
        let Some(path) = named else {
            return templates.sources();
        };
        let name = path.to_str().unwrap_or_default();
        if path.is_file() {
            return Ok(Some(Self::from(
                read_text_up_to(path, TEMPLATE_BYTES)?.as_str(),
            )));
        }
        if let Some(source) = templates.0.get(name) {
            return Ok(Some(Self::from(source.as_str())));
        }
        let of_model = || templates.names().into_iter().map(str::to_owned).collect();
        let stock = twins::named(name).ok_or_else(|| TemplateSourceError::Unknown {
            name: path.display().to_string(),
            names: of_model(),
        })?;
        let is_foreign = |token: &&str| {
            !tokenizer
                .token_to_id(token)
                .is_some_and(|id| tokenizer.is_added(id))
        };
        let tokens: Vec<String> = stock
            .tokens
            .iter()
            .copied()
            .filter(is_foreign)
            .map(str::to_owned)
            .collect();
        if !tokens.is_empty() {
            return Err(TemplateSourceError::Foreign {
                name: name.to_owned(),
                tokens,
            });
        }
        Ok(Some(Self::from(stock.source().as_str())))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_are_set_before_a_template_and_change_nothing_else_of_it() {
        let variables = json!({"thinks": false, "words": ["a\"b", null, {"é": 1}]})
            .as_object()
            .cloned()
            .unwrap_or_default();
        let sources = Sources {
            variables,
            ..Sources::from("  {% if thinks %}x{% endif %}\n")
        };
        let expected = "{% if thinks is not defined %}{% set thinks = false %}{% endif %}\n\
            {% if words is not defined %}{% set words = [\"a\\\"b\", none, {\"é\": 1}] %}{% endif %}\n  {% if thinks %}x{% endif %}\n";
        assert_eq!(sources.default_with_variables(), expected);
        assert!(sources.reads("thinks") && !sources.reads("think") && !sources.reads("words"));
    }

    #[test]
    fn a_model_with_named_templates_and_no_default_says_their_names() {
        let templates = Templates::from_iter([
            ("tool_use".to_owned(), "t".to_owned()),
            ("rag".to_owned(), "r".to_owned()),
        ]);
        let error = templates.sources().expect_err("no default");
        assert_eq!(
            error.to_string(),
            "the base has chat templates named `rag`, `tool_use`, none \
        named `default`"
        );
        assert_eq!(Templates::default().sources().expect("none"), None);
        let one = Templates::one("d".to_owned())
            .sources()
            .expect("one")
            .expect("a template");
        assert_eq!(one, Sources::from("d"));
    }
}
