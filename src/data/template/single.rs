//! A single template of a model: compiled, tried, and rendered with its variables.

use std::borrow::Cow;
use std::sync::OnceLock;

use jiff::Timestamp;
use minijinja::Value as Variable;
use minijinja::value::Serde;
use serde_json::{Map, Value};

use super::engine::{self, Engine};
use super::{Conversation, REASONING, Rendered, TemplateError, rewrite, sandbox, twins};
use crate::data::tokenizer::special::SpecialTokens;
use crate::files::{Hash, guarded, hash_bytes};

/// A template, compiled once and rendered from many threads.
#[derive(Debug)]
pub(super) struct Single {
    source: String,
    pub(super) special: SpecialTokens,
    started: Timestamp,
    /// Variables for every conversation; a conversation's own variables take precedence.
    variables: Map<String, Value>,
    pub(super) engine: Engine,
    /// Engine of the marked twin of a stock template that does not mark the assistant's text.
    twin: Option<Engine>,
    /// Result of the trial with the first conversation.
    tried: OnceLock<Result<(), TemplateError>>,
}

impl Single {
    /// Compiles a template; one that is not a stock template is tried first.
    pub(super) fn new(
        source: &str,
        special: &SpecialTokens,
        started: Timestamp,
        variables: &Map<String, Value>,
    ) -> Result<Self, TemplateError> {
        let tried = if twins::marked(&rewrite::with_line_feeds(source)).is_some() {
            OnceLock::from(Ok(()))
        } else {
            let made_up = Conversation {
                variables: variables.clone(),
                ..sandbox::made_up()
            };
            sandbox::attempt(source, special, started, made_up)?;
            OnceLock::new()
        };
        Ok(Self {
            tried,
            variables: variables.clone(),
            ..Self::compiled(source, special, started)?
        })
    }

    /// Compiles a template without a trial: a stock template, or one that is being tried.
    pub(super) fn compiled(
        source: &str,
        special: &SpecialTokens,
        started: Timestamp,
    ) -> Result<Self, TemplateError> {
        let compile = |source: &str| {
            let compiled = guarded(|| Engine::new(source, started));
            compiled.unwrap_or_else(|cause| Err(TemplateError::Syntax { line: 0, cause }))
        };
        let twin = twins::marked(&rewrite::with_line_feeds(source))
            .map(compile)
            .transpose()?;
        let (engine, tried) = (compile(source)?, OnceLock::from(Ok(())));
        Ok(Self {
            source: source.to_owned(),
            special: special.clone(),
            started,
            variables: Map::new(),
            engine,
            twin,
            tried,
        })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn identity(&self) -> Hash {
        let time = match (
            self.source.contains("strftime_now"),
            engine::asks_for_the_day_only(&self.source),
        ) {
            (false, _) => String::new(),
            (true, true) => self.started.strftime("%F").to_string(),
            (true, false) => self.started.to_string(),
        };
        let variables = if self.variables.is_empty() {
            String::new()
        } else {
            Value::from(self.variables.clone()).to_string()
        };
        hash_bytes(format!("{time}\n{variables}\n{}", self.source).as_bytes())
    }

    pub(super) fn text(
        &self,
        conversation: &Conversation,
        prompt: bool,
    ) -> Result<String, TemplateError> {
        Ok(self
            .run(&self.engine, conversation, &conversation.messages, prompt)?
            .text)
    }

    pub(super) fn text_with_spans(
        &self,
        conversation: &Conversation,
        prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        let marked = if rewrite::is_marked(&self.source) {
            Some(&self.engine)
        } else {
            self.twin.as_ref()
        };
        let mut rendered = match marked {
            Some(engine) => self.run(engine, conversation, &conversation.messages, prompt)?,
            None => self.find_spans(conversation, prompt)?,
        };
        rendered.assistant.retain(|span| !span.is_empty());
        Ok(rendered)
    }

    /// Renders `messages` in place of the conversation's own.
    pub(super) fn run(
        &self,
        engine: &Engine,
        conversation: &Conversation,
        messages: &[Value],
        prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        self.tried
            .get_or_init(|| self.attempt(conversation))
            .clone()?;
        let Self {
            special, variables, ..
        } = self;
        let tokens = [
            ("bos_token", &special.bos),
            ("eos_token", &special.eos),
            ("pad_token", &special.pad),
            ("unk_token", &special.unk),
        ];
        // As in transformers, a token that the tokenizer lacks is undefined rather than none: it
        // prints as nothing.
        let tokens = tokens
            .into_iter()
            .filter_map(|(name, token)| Some((name, Variable::from(token.as_deref()?))));
        let extra = variables.iter().chain(&conversation.variables);
        let extra = extra.map(|(name, value)| (name.as_str(), Variable::from(Serde(value))));
        let own = [
            (
                "messages",
                messages
                    .iter()
                    .map(|message| Variable::from(Serde(with_reasoning(message))))
                    .collect(),
            ),
            ("tools", Variable::from(Serde(&conversation.tools))),
            ("documents", Variable::from(())),
            ("add_generation_prompt", Variable::from(prompt)),
        ];
        let variables = Variable::from_pairs(tokens.chain(extra).chain(own));
        guarded(|| engine.render(variables))
            .unwrap_or_else(|cause| Err(TemplateError::Panicked { cause }))
    }

    /// Tries the template with a conversation and the variables that it is rendered with.
    fn attempt(&self, conversation: &Conversation) -> Result<(), TemplateError> {
        let mut conversation = conversation.clone();
        let own = std::mem::replace(&mut conversation.variables, self.variables.clone());
        conversation.variables.extend(own);
        sandbox::attempt(&self.source, &self.special, self.started, conversation)
    }
}

/// Returns the message with its reasoning under the keys that templates read, as transformers
/// passes it.
fn with_reasoning(message: &Value) -> Cow<'_, Value> {
    let Some(turn) = message.as_object() else {
        return Cow::Borrowed(message);
    };
    let Some(reasoning) = REASONING
        .iter()
        .filter_map(|name| turn.get(*name))
        .find(|value| !value.is_null())
    else {
        return Cow::Borrowed(message);
    };
    let mut named = Map::from_iter([("thinking".to_owned(), reasoning.clone())]);
    named.extend(turn.clone());
    named.insert("reasoning_content".to_owned(), reasoning.clone());
    Cow::Owned(Value::Object(named))
}
