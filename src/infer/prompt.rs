//! Prompts and their tokens.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Frame, InferError};
use crate::data::template::{ChatTemplate, Conversation};
use crate::data::tokenize::Tokenizer;
use crate::data::{alpaca, conversation};
use crate::files::{JSON_BYTES, read_text_up_to};
use crate::terms::NOT_VARIABLES;

/// The text or conversation that a model continues.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A plain text.
    Text(String),
    /// A conversation, in which the assistant speaks next.
    Chat(Conversation),
}

impl Prompt {
    /// Makes a conversation of a single user message.
    pub fn said(text: &str) -> Self {
        let messages = vec![json!({"role": "user", "content": text})];
        Self::Chat(Conversation {
            messages,
            ..Conversation::default()
        })
    }

    /// Puts an instruction in Alpaca's frame, as for training rows of `instruction`. An empty input
    /// counts as no input, as in a row.
    pub fn instruction(instruction: &str, input: Option<&str>) -> Self {
        Self::Text(alpaca(instruction, input.filter(|input| !input.is_empty())))
    }

    /// Puts a user's words in a frame.
    pub fn framed(text: &str, frame: Frame) -> Self {
        match frame {
            Frame::Text => Self::Text(text.to_owned()),
            Frame::Instruction => Self::instruction(text, None),
            Frame::Chat => Self::said(text),
        }
    }

    /// Returns the prompt's tokens: for a text with the special tokens that the tokenizer puts
    /// before it, for a conversation as the chat template renders it.
    ///
    /// # Errors
    /// There is no template, or it does not render the conversation; or the text would begin with
    /// two bos tokens.
    pub fn tokens(
        &self,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
    ) -> Result<Vec<u32>, InferError> {
        let tokens = match self {
            Self::Text(text) => plain(tokenizer, text)?,
            Self::Chat(conversation) => {
                let text = {
                    let template = template.ok_or(InferError::NoTemplate)?;
                    template.render(&template.fit(conversation), true)?
                };
                tokenizer.encode(&text, false)?.ids
            }
        };
        match (tokens.as_slice(), tokenizer.bos_id()) {
            ([first, second, ..], Some(bos)) if [*first, *second] == [bos, bos] => {
                Err(InferError::DoubledBos { bos })
            }
            _ => Ok(tokens),
        }
    }
}

/// Tokenizes a text without the eos that some tokenizers append: nothing would follow it.
fn plain(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, InferError> {
    let encoding = tokenizer.encode(text, true)?;
    let mut ids = encoding.ids;
    let is_added = encoding.offsets.last() == Some(&(0, 0));
    if is_added && ids.len() > 1 && ids.last() == tokenizer.eos_id().as_ref() {
        ids.pop();
    }
    Ok(ids)
}

/// Reads a conversation from a JSON file: a list of messages, or an object with `messages` and
/// optionally `tools` and `chat_template_kwargs` (variables of the template).
///
/// # Errors
/// The file cannot be read, holds something else, or ends with an assistant message.
pub fn read_messages(path: &Path) -> Result<Conversation, InferError> {
    let text = read_text_up_to(path, JSON_BYTES)?;
    let refused = |found: &str| InferError::NotMessages {
        path: path.to_owned(),
        found: found.to_owned(),
    };
    let value =
        serde_json::from_str(&text).map_err(|error| refused(&format!("no JSON ({error})")))?;
    let mut variables = Map::new();
    let (messages, tools) = match value {
        Value::Array(messages) => (messages, None),
        Value::Object(mut object) => {
            let (messages, tools) = (object.remove("messages"), object.remove("tools"));
            match object.remove("chat_template_kwargs").unwrap_or_default() {
                Value::Null => {}
                Value::Object(said) => variables = said,
                _ => return Err(refused("`chat_template_kwargs` that are no object")),
            }
            if let Some(name) = variables
                .keys()
                .find(|name| NOT_VARIABLES.contains(&name.as_str()))
            {
                return Err(refused(&format!("`{name}` among `chat_template_kwargs`")));
            }
            if let Some(key) = object.keys().next() {
                return Err(refused(&format!("the key `{key}`")));
            }
            match (messages, tools.unwrap_or_default()) {
                (Some(Value::Array(messages)), Value::Null) => (messages, None),
                (Some(Value::Array(messages)), Value::Array(tools)) => (messages, Some(tools)),
                (Some(Value::Array(_)), _) => return Err(refused("`tools` that are no list")),
                _ => return Err(refused("no list `messages`")),
            }
        }
        other => return Err(refused(&format!("`{other}`"))),
    };
    let conversation = conversation(messages, tools).map_err(|cause| InferError::Message {
        path: path.to_owned(),
        cause: Box::new(cause),
    })?;
    let conversation = Conversation {
        variables,
        ..conversation
    };
    match conversation.messages.last() {
        None => Err(refused("no message")),
        Some(last) if last["role"] == "assistant" => Err(InferError::Answered {
            path: path.to_owned(),
        }),
        Some(_) => Ok(conversation),
    }
}
