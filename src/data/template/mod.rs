//! Chat templates: they turn a conversation into the text that transformers renders from it, with
//! the spans of that text that the assistant says and that are trained.
//!
//! Few templates mark the assistant's text (`{% generation %}`), so the spans are found by the
//! first of these ways that works: the template's own marks, a marked twin of a stock template,
//! sentinels around each answer, prefixes of the conversation.

mod engine;
mod fit;
mod generation;
mod json;
mod python;
mod rewrite;
pub mod sandbox;
mod single;
pub mod sources;
mod spans;
mod twins;

use std::ops::Range;

use jiff::Timestamp;
use minijinja::ErrorKind;
use serde_json::{Map, Value};

use self::engine::Raised;
use self::single::Single;
pub use self::sources::Sources;
use crate::data::tokenizer::special::SpecialTokens;
use crate::fault::{Exit, Explain};
use crate::files::{Hash, hash_bytes};

/// Keys of a turn's reasoning, the one that templates read first.
pub(in crate::data) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A conversation with all other input that its template may read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// The turns: objects with at least `role`, mostly with `content`.
    pub messages: Vec<Value>,
    /// JSON schemas of the functions that the assistant may call.
    pub tools: Option<Vec<Value>>,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
}

/// A rendered conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text that is tokenized, its special tokens written out.
    pub text: String,
    /// Byte ranges of `text` that the assistant says, in order, none empty.
    pub assistant: Vec<Range<usize>>,
}

/// A model's chat template, compiled once and rendered from many threads. Like transformers it uses
/// the template named `tool_use`, if the model has one, for a conversation that comes with tools.
#[derive(Debug)]
pub struct ChatTemplate {
    default: Single,
    tool_use: Option<Single>,
}

/// Error of a template that is not valid, or does not render a conversation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template is not valid jinja.
    #[error("the chat template is not valid at line {line}: {cause}")]
    Syntax {
        /// Line of the template, from 1.
        line: usize,
        /// The parse error.
        cause: String,
    },
    /// The template called `raise_exception`.
    #[error("the chat template refuses the conversation: {message}")]
    Raised {
        /// The template's own words.
        message: String,
    },
    /// The template failed on this conversation.
    #[error("the chat template fails at line {line}: {cause}")]
    Render {
        /// Line of the template, from 1; 0 if it is not known.
        line: usize,
        /// The error message.
        cause: String,
    },
    /// The renderer panicked on this conversation.
    #[error("the chat template cannot be rendered: {cause}")]
    Panicked {
        /// The panic message.
        cause: String,
    },
    /// A generation block is inside another.
    #[error("`generation` blocks of the chat template lie in one another")]
    Nested,
    /// The template did not come to an end.
    #[error("the chat template takes more than {limit_steps} steps")]
    Endless {
        /// Maximum steps of a rendering.
        limit_steps: u64,
    },
    /// The template writes too much.
    #[error("the chat template writes more than {limit_bytes} bytes")]
    TooLong {
        /// Maximum bytes of a rendering.
        limit_bytes: usize,
    },
    /// The template was tried in its own process, and a limit ended the process.
    #[error("the chat template takes more than {limit}")]
    Unbounded {
        /// The limit, with its unit.
        limit: String,
    },
    /// The template could not be tried.
    #[error("the chat template cannot be tried in a process of its own: {cause}")]
    Untried {
        /// The system's error message.
        cause: String,
    },
    /// The assistant's text cannot be determined.
    #[error("the chat template does not tell what the assistant says: {reason}")]
    NoSpans {
        /// The reason why each way failed.
        reason: String,
    },
}

impl ChatTemplate {
    /// Compiles a template. `started` is the time that `strftime_now` formats, in UTC, so that a
    /// run can be repeated. A template that is not a stock template is tried first, see
    /// [`sandbox`].
    ///
    /// # Errors
    /// The template is not valid, or exceeds a limit.
    pub fn new(
        source: &str,
        special: &SpecialTokens,
        started: Timestamp,
    ) -> Result<Self, TemplateError> {
        Self::of(&Sources::from(source), special, started)
    }

    /// Compiles the templates of a model, like [`ChatTemplate::new`].
    ///
    /// # Errors
    /// A template is not valid, or exceeds a limit.
    pub fn of(
        sources: &Sources,
        special: &SpecialTokens,
        started: Timestamp,
    ) -> Result<Self, TemplateError> {
        let single = |source: &str| Single::new(source, special, started, &sources.variables);
        Ok(Self {
            default: single(&sources.default)?,
            tool_use: sources.tool_use.as_deref().map(single).transpose()?,
        })
    }

    /// Returns the template as it was given; if there are two, the one for conversations without
    /// tools.
    pub fn source(&self) -> &str {
        self.default.source()
    }

    /// Returns the hash of everything that a rendering depends on besides the conversation and the
    /// special tokens: the sources, the variables and, if a source uses the time, the day, or the
    /// moment if it may use more than the day. Tokens of another identity must not be reused.
    pub fn identity(&self) -> Hash {
        let tool_use = self
            .tool_use
            .as_ref()
            .map_or_else(String::new, |single| format!("{}\n", single.identity()));
        hash_bytes(format!("{tool_use}{}", self.default.identity()).as_bytes())
    }

    /// Renders a conversation; with `add_generation_prompt`, up to the point where the assistant
    /// speaks next.
    ///
    /// # Errors
    /// The template raises an exception, fails, or exceeds a limit.
    pub fn render(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        self.single(conversation)
            .text(conversation, add_generation_prompt)
    }

    /// Renders a conversation and finds the parts of the text that the assistant says, including
    /// the tokens that end its turns.
    ///
    /// # Errors
    /// As for [`ChatTemplate::render`]; [`TemplateError::NoSpans`] if the template marks nothing
    /// and no other way works.
    pub fn render_with_spans(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        self.single(conversation)
            .text_with_spans(conversation, add_generation_prompt)
    }

    /// Returns the template for a conversation.
    fn single(&self, conversation: &Conversation) -> &Single {
        self.tool_use
            .as_ref()
            .filter(|_| conversation.tools.is_some())
            .unwrap_or(&self.default)
    }
}

impl TemplateError {
    fn syntax(error: &minijinja::Error) -> Self {
        Self::Syntax {
            line: error.line().unwrap_or(0),
            cause: cause(error),
        }
    }

    fn render(error: &minijinja::Error) -> Self {
        if let Some(message) = Raised::find(error) {
            return Self::Raised {
                message: message.to_owned(),
            };
        }
        match error.kind() {
            ErrorKind::OutOfFuel => Self::Endless {
                limit_steps: engine::MAX_STEPS,
            },
            _ => Self::Render {
                line: error.line().unwrap_or(0),
                cause: cause(error),
            },
        }
    }
}

fn cause(error: &minijinja::Error) -> String {
    error.detail().map_or_else(
        || error.kind().to_string(),
        |detail| format!("{}: {detail}", error.kind()),
    )
}

impl Explain for TemplateError {
    fn exit(&self) -> Exit {
        match self {
            Self::Untried { .. } => Exit::Io,
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Raised { .. } => "bring the conversation into the shape that the template asks \
                for"
            .to_owned(),
            Self::NoSpans { .. } => {
                "put `{% generation %}` and `{% endgeneration %}` around what the assistant says \
                in a copy of the template and name it in `chat_template`"
                    .to_owned()
            }
            Self::Untried { .. } => "see that this user may start another process, and run the \
                command again"
                .to_owned(),
            _ => "correct a copy of the template and name it in `chat_template`".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_prints_the_day_is_another_one_tomorrow() {
        let identity = |source: &str, seconds| {
            let started = Timestamp::from_second(seconds).expect("in range");
            ChatTemplate::new(source, &SpecialTokens::default(), started)
                .expect("valid")
                .identity()
        };
        let (noon, later, tomorrow) = (43_200, 43_300, 129_600);
        let day = "{{ strftime_now('%d %b %Y') }}";
        assert_eq!(identity(day, noon), identity(day, later));
        assert_ne!(identity(day, noon), identity(day, tomorrow));
        let minute = "{{ strftime_now('%H:%M') }}";
        assert_ne!(identity(minute, noon), identity(minute, later));
        assert_eq!(
            identity("{{ messages }}", noon),
            identity("{{ messages }}", tomorrow)
        );
    }
}
