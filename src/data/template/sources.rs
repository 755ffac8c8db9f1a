//! The templates of a model, and the choice of the one that renders conversations.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::twins;
use crate::data::tokenizer::templates::{FILE, FOLDER, TEMPLATE_BYTES, TOOL_USE, Templates};
use crate::data::tokenizer::tokenize::Tokenizer;
use crate::fault::{Exit, Explain};
use crate::files::{self, read_text_up_to};

/// Templates and variables that conversations are rendered with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    /// The template.
    pub default: String,
    /// The template for conversations with tools, if it is another one.
    pub tool_use: Option<String>,
    /// Variables for every conversation; a conversation's own variables take precedence.
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
    /// Returns the template files of a model's folder that let every program render the same text:
    /// they set their own variables, unless the caller sets them.
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

    /// Returns the template for conversations without tools, with its variables.
    pub fn default_with_variables(&self) -> String {
        self.with_variables(&self.default)
    }

    /// Whether one of the templates reads a variable.
    pub fn reads(&self, name: &str) -> bool {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let has = |source: &str| source.split(|c| !is_word(c)).any(|word| word == name);
        has(&self.default) || self.tool_use.as_deref().is_some_and(has)
    }

    /// Returns the templates that transformers uses by default; `None` if there are none.
    fn of_model(templates: &Templates) -> Result<Option<Self>, TemplateSourceError> {
        let tool_use = templates.get(TOOL_USE).map(str::to_owned);
        match templates.default_source() {
            Some(source) => Ok(Some(Self {
                tool_use,
                ..Self::from(source)
            })),
            None if *templates == Templates::default() => Ok(None),
            None => Err(TemplateSourceError::NoDefault {
                names: templates.names().into_iter().map(str::to_owned).collect(),
            }),
        }
    }

    /// Puts the variables before a template. jinja2 removes the line break after a block, so the
    /// template itself begins as before.
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

/// Formats a value as jinja2 does: JSON with another word for null.
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

/// Error while a template is chosen.
#[derive(Debug, thiserror::Error)]
pub enum TemplateSourceError {
    /// The model has several templates, and none is the default.
    #[error("the base has chat templates named {}, none named `default`", quoted(.names))]
    NoDefault {
        /// Their names.
        names: Vec<String>,
    },
    /// No template has this name.
    #[error(
        "`{name}` is no file, none of the base's chat templates{} and no stock template",
        if .names.is_empty() { String::new() } else { format!(" ({})", quoted(.names)) }
    )]
    Unknown {
        /// The name.
        name: String,
        /// The base's further templates.
        names: Vec<String>,
    },
    /// A stock template writes tokens that the model does not have.
    #[error(
        "the stock template `{name}` writes {}, which the base's tokenizer has not as tokens",
        quoted(.tokens)
    )]
    Foreign {
        /// The stock template.
        name: String,
        /// The missing tokens.
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
                "stock templates are {}; a path is relative to where the command is started",
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

/// Returns the names of the stock templates in words.
pub fn stock_names() -> String {
    quoted(&twins::names().map(str::to_owned).collect::<Vec<_>>())
}

impl Sources {
    /// Chooses the templates that render the conversations of a model: `named` is a file, otherwise
    /// the name of one of the model's templates, otherwise that of a stock template. Without it the
    /// model's own templates are used, as in transformers. `None` if the model has none.
    ///
    /// # Errors
    /// `named` is none of these, the model lacks a stock template's tokens, a file cannot be read,
    /// or the model's templates have no default.
    pub fn choose(
        named: Option<&Path>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, TemplateSourceError> {
        let templates = tokenizer.chat_templates();
        let Some(path) = named else {
            return Self::of_model(templates);
        };
        let name = path.to_str().unwrap_or_default();
        if path.is_file() {
            return Ok(Some(Self::from(
                read_text_up_to(path, TEMPLATE_BYTES)?.as_str(),
            )));
        }
        if let Some(source) = templates.get(name) {
            return Ok(Some(Self::from(source)));
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
            {% if words is not defined %}\
            {% set words = [\"a\\\"b\", none, {\"é\": 1}] %}{% endif %}\n\
            \x20 {% if thinks %}x{% endif %}\n";
        assert_eq!(sources.default_with_variables(), expected);
        assert!(sources.reads("thinks") && !sources.reads("think") && !sources.reads("words"));
    }

    #[test]
    fn a_model_with_named_templates_and_no_default_says_their_names() {
        let templates = Templates::from_iter([
            ("tool_use".to_owned(), "t".to_owned()),
            ("rag".to_owned(), "r".to_owned()),
        ]);
        let error = Sources::of_model(&templates).expect_err("no default");
        assert_eq!(
            error.to_string(),
            "the base has chat templates named `rag`, `tool_use`, none named `default`"
        );
        assert_eq!(
            Sources::of_model(&Templates::default()).expect("none"),
            None
        );
        let one = Sources::of_model(&Templates::one("d".to_owned()))
            .expect("one")
            .expect("a template");
        assert_eq!(one, Sources::from("d"));
    }
}
