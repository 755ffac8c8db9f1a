//! Chat templates: a conversation becomes the text that transformers renders from it, with the spans of that text that the
//! assistant says and that are trained.
//!
//! Few templates mark what the assistant says (`{% generation %}`), so the spans are found by the first of these that holds: the
//! template's own marks, a marked twin of a stock template, sentinels around each answer, prefixes of the conversation.

mod engine;
mod fit;
mod generation;
mod json;
pub mod sandbox;
mod spans;
mod twins;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use jiff::Timestamp;
use minijinja::value::Serde;
use minijinja::{ErrorKind, Value as Variable};
use serde_json::{Map, Value};

use self::engine::{Engine, Raised};
use crate::data::tokenize::SpecialTokens;
use crate::fault::{Exit, Explain};
use crate::files::{Hash, guarded, hash_bytes};

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
    /// The text that is tokenised, its special tokens written out.
    pub text: String,
    /// What the assistant says: ranges of bytes of `text`, in order, none empty.
    pub assistant: Vec<Range<usize>>,
}

/// A model's chat template, compiled once and rendered from many threads.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    special: SpecialTokens,
    started: Timestamp,
    engine: Engine,
    /// The engine that marks what the assistant says: a twin of a stock template that does not.
    twin: Option<Engine>,
    /// What came of the trial with the first conversation.
    tried: OnceLock<Result<(), Error>>,
}

/// A template that is not valid, or a conversation that it does not render.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
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
    /// Compiles a template. `started` is the time that `strftime_now` tells, in UTC, so that a run can be repeated. One that is not a
    /// stock template is tried first, see [`sandbox`].
    ///
    /// # Errors
    /// The template is not valid, or goes past a limit.
    pub fn new(source: &str, special: &SpecialTokens, started: Timestamp) -> Result<Self, Error> {
        if twins::marked(source).is_some() {
            return Self::compiled(source, special, started);
        }
        sandbox::attempt(source, special, started, None)?;
        Ok(Self { tried: OnceLock::new(), ..Self::compiled(source, special, started)? })
    }

    /// Compiles a template that is known, or that is being tried.
    fn compiled(source: &str, special: &SpecialTokens, started: Timestamp) -> Result<Self, Error> {
        let compile = |source: &str| {
            let compiled = guarded(|| Engine::new(source, started));
            compiled.unwrap_or_else(|cause| Err(Error::Syntax { line: 0, cause }))
        };
        let twin = twins::marked(source).map(compile).transpose()?;
        let (engine, tried) = (compile(source)?, OnceLock::from(Ok(())));
        Ok(Self { source: source.to_owned(), special: special.clone(), started, engine, twin, tried })
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Everything that a rendering depends on beside the conversation and the special tokens: the source and, where it asks for the
    /// time, the day, or the moment if it may ask for more. Tokens of another identity must not be reused.
    pub fn identity(&self) -> Hash {
        let time = match (self.source.contains("strftime_now"), engine::asks_for_the_day_only(&self.source)) {
            (false, _) => String::new(),
            (true, true) => self.started.strftime("%F").to_string(),
            (true, false) => self.started.to_string(),
        };
        hash_bytes(format!("{time}\n{}", self.source).as_bytes())
    }

    /// Renders a conversation; with `add_generation_prompt`, up to where the assistant speaks next.
    ///
    /// # Errors
    /// The template raises, fails, or goes past a limit.
    pub fn render(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<String, Error> {
        Ok(self.run(&self.engine, conversation, &conversation.messages, add_generation_prompt)?.text)
    }

    /// Renders a conversation and says which parts of the text the assistant says, the tokens that end its turns included.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`Error::NoSpans`] where the template marks nothing and no other way holds either.
    pub fn render_with_spans(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<Rendered, Error> {
        let marked = if generation::is_marked(&self.source) { Some(&self.engine) } else { self.twin.as_ref() };
        let mut rendered = match marked {
            Some(engine) => self.run(engine, conversation, &conversation.messages, add_generation_prompt)?,
            None => self.find_spans(conversation, add_generation_prompt)?,
        };
        rendered.assistant.retain(|span| !span.is_empty());
        Ok(rendered)
    }

    /// Renders `messages` in place of the conversation's own.
    fn run(&self, engine: &Engine, conversation: &Conversation, messages: &[Value], prompt: bool) -> Result<Rendered, Error> {
        let Self { source, special, started, tried, .. } = self;
        tried.get_or_init(|| sandbox::attempt(source, special, *started, Some(conversation))).clone()?;
        let tokens =
            [("bos_token", &special.bos), ("eos_token", &special.eos), ("pad_token", &special.pad), ("unk_token", &special.unk)];
        // As in transformers, a token that the tokenizer lacks is undefined rather than none: it prints as nothing.
        let tokens = tokens.into_iter().filter_map(|(name, token)| Some((name, Variable::from(token.as_deref()?))));
        let extra = conversation.variables.iter().map(|(name, value)| (name.as_str(), Variable::from(Serde(value))));
        let own = [
            ("messages", messages.iter().map(|message| Variable::from(Serde(with_reasoning(message)))).collect()),
            ("tools", Variable::from(Serde(&conversation.tools))),
            ("documents", Variable::from(())),
            ("add_generation_prompt", Variable::from(prompt)),
        ];
        let variables = Variable::from_pairs(tokens.chain(extra).chain(own));
        guarded(|| engine.render(variables)).unwrap_or_else(|cause| Err(Error::Panicked { cause }))
    }
}

/// The message with its reasoning under the names that templates read, as transformers hands it over.
fn with_reasoning(message: &Value) -> Cow<'_, Value> {
    let Some(turn) = message.as_object() else { return Cow::Borrowed(message) };
    let Some(reasoning) = REASONING.iter().filter_map(|name| turn.get(*name)).find(|value| !value.is_null()) else {
        return Cow::Borrowed(message);
    };
    let mut named = Map::from_iter([("thinking".to_owned(), reasoning.clone())]);
    named.extend(turn.clone());
    named.insert("reasoning_content".to_owned(), reasoning.clone());
    Cow::Owned(Value::Object(named))
}

impl Error {
    fn syntax(error: &minijinja::Error) -> Self {
        Self::Syntax { line: error.line().unwrap_or(0), cause: cause(error) }
    }

    fn render(error: &minijinja::Error) -> Self {
        if let Some(message) = Raised::find(error) {
            return Self::Raised { message: message.to_owned() };
        }
        match error.kind() {
            ErrorKind::OutOfFuel => Self::Endless { limit_steps: engine::MAX_STEPS },
            _ => Self::Render { line: error.line().unwrap_or(0), cause: cause(error) },
        }
    }
}

fn cause(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
}

impl Explain for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Untried { .. } => Exit::Io,
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Raised { .. } => "bring the conversation into the shape that the template asks for".to_owned(),
            Self::NoSpans { .. } => {
                "put `{% generation %}` and `{% endgeneration %}` around what the assistant says in a copy of the template and name it in `chat_template`"
                    .to_owned()
            }
            Self::Untried { .. } => "see that this user may start another process, and run the command again".to_owned(),
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
            ChatTemplate::new(source, &SpecialTokens::default(), started).expect("valid").identity()
        };
        let (noon, later, tomorrow) = (43_200, 43_300, 129_600);
        let day = "{{ strftime_now('%d %b %Y') }}";
        assert_eq!(identity(day, noon), identity(day, later));
        assert_ne!(identity(day, noon), identity(day, tomorrow));
        let minute = "{{ strftime_now('%H:%M') }}";
        assert_ne!(identity(minute, noon), identity(minute, later));
        assert_eq!(identity("{{ messages }}", noon), identity("{{ messages }}", tomorrow));
    }
}
