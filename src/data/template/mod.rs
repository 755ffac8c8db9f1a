//! Chat templates: a conversation becomes the text that transformers renders from it, with the
//! spans of that text that the assistant says and that are trained.
//!
//! Few templates mark what the assistant says (`{% generation %}`), so the spans are found by the
//! first of these that holds: the template's own marks, a marked twin of a stock template,
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
pub use self::sources::{Sources, Templates};
use crate::data::tokenize::SpecialTokens;
use crate::fault::{Exit, Explain};
use crate::files::{Hash, hash_bytes};

/// The most that is read of a template's file; the longest in use have a fiftieth of it.
pub const TEMPLATE_BYTES: u64 = 1 << 20;

/// The names under which a turn's reasoning is given, the one that templates read first.
pub(in crate::data) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A conversation and everything else that its template may read.
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
    /// What the assistant says: ranges of bytes of `text`, in order, none empty.
    pub assistant: Vec<Range<usize>>,
}

/// A model's chat template, compiled once and rendered from many threads. Like transformers it
/// takes the template named `tool_use` for a conversation that comes with tools, where the model
/// has one.
#[derive(Debug)]
pub struct ChatTemplate {
    default: Single,
    tool_use: Option<Single>,
}

/// A template that is not valid, or a conversation that it does not render.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template is not valid jinja.
    #[error("the chat template is not valid at line {line}: {cause}")]
    Syntax {
        /// Line of the template, from 1.
        line: usize,
        /// What does not parse.
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
        /// Line of the template, from 1; 0 where it is not known.
        line: usize,
        /// What went wrong.
        cause: String,
    },
    /// The renderer panicked over this conversation.
    #[error("the chat template cannot be rendered: {cause}")]
    Panicked {
        /// What it said.
        cause: String,
    },
    /// A generation block lies in another.
    #[error("`generation` blocks of the chat template lie in one another")]
    Nested,
    /// The template did not come to an end.
    #[error("the chat template takes more than {limit_steps} steps")]
    Endless {
        /// Steps that a rendering may take.
        limit_steps: u64,
    },
    /// The template writes too much.
    #[error("the chat template writes more than {limit_bytes} bytes")]
    TooLong {
        /// Bytes that a rendering may have.
        limit_bytes: usize,
    },
    /// It was tried in a process of its own, and a limit ended that.
    #[error("the chat template takes more than {limit}")]
    Unbounded {
        /// The limit, with its unit.
        limit: String,
    },
    /// It could not be tried.
    #[error("the chat template cannot be tried in a process of its own: {cause}")]
    Untried {
        /// What the system said.
        cause: String,
    },
    /// Nothing tells what the assistant says.
    #[error("the chat template does not tell what the assistant says: {reason}")]
    NoSpans {
        /// Why each way of finding out failed.
        reason: String,
    },
}

impl ChatTemplate {
    /// Compiles a template. `started` is the time that `strftime_now` tells, in UTC, so that a run
    /// can be repeated. One that is not a stock template is tried first, see [`sandbox`].
    ///
    /// # Errors
    /// The template is not valid, or goes past a limit.
    pub fn new(
        source: &str,
        special: &SpecialTokens,
        started: Timestamp,
    ) -> Result<Self, TemplateError> {
        Self::of(&Sources::from(source), special, started)
    }

    /// Compiles what a model renders conversations with, as [`ChatTemplate::new`].
    ///
    /// # Errors
    /// A template is not valid, or goes past a limit.
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

    /// The template as it was given; the one of conversations without tools, where there are two.
    pub fn source(&self) -> &str {
        self.default.source()
    }

    /// Everything that a rendering depends on beside the conversation and the special tokens: the
    /// sources, the variables and, where a source asks for the time, the day, or the moment if it
    /// may ask for more. Tokens of another identity must not be reused.
    pub fn identity(&self) -> Hash {
        let tool_use = self
            .tool_use
            .as_ref()
            .map_or_else(String::new, |single| format!("{}\n", single.identity()));
        hash_bytes(format!("{tool_use}{}", self.default.identity()).as_bytes())
    }

    /// Renders a conversation; with `add_generation_prompt`, up to where the assistant speaks next.
    ///
    /// # Errors
    /// The template raises, fails, or goes past a limit.
    pub fn render(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        self.single(conversation)
            .text(conversation, add_generation_prompt)
    }

    /// Renders a conversation and says which parts of the text the assistant says, the tokens that
    /// end its turns included.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`TemplateError::NoSpans`] where the template marks nothing and
    /// no other way holds either.
    pub fn render_with_spans(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        self.single(conversation)
            .text_with_spans(conversation, add_generation_prompt)
    }

    /// The template of a conversation.
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
