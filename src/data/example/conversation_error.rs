//! Errors of a conversation that is not in one of the forms that are read.

use serde_json::Value;

use super::roles::{ROLES, meant, proposed};
use crate::data::json_text;

/// Error of a cell that should hold a conversation, tools or a history.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConversationError {
    /// The text of a list is not JSON.
    #[error("expected a list in JSON: {reason}")]
    NotJson {
        /// The parser's error.
        reason: String,
    },
    /// A number cannot be kept to the last digit.
    #[error(transparent)]
    Number(json_text::JsonTextError),
    /// The cell is not a list.
    #[error("expected a list in JSON: it is `{found}`")]
    NotAList {
        /// The value instead.
        found: Value,
    },
    /// The lists of a conversation that is stored as one list per key have different lengths.
    #[error(
        "`{key}` has {found} turns and `{first}` has {expected}, expected one value for each turn"
    )]
    Uneven {
        /// The first key.
        first: String,
        /// Its number of turns.
        expected: usize,
        /// The key with another length.
        key: String,
        /// Its number of turns.
        found: usize,
    },
    /// The variables of a template are not an object.
    #[error("expected an object in JSON with variables of the chat template, found `{found}`")]
    NoVariables {
        /// The value instead.
        found: Value,
    },
    /// A variable has the name of a part of the conversation.
    #[error("`{name}` is no variable that a row may set for the chat template")]
    Reserved {
        /// The name.
        name: String,
    },
    /// A turn of a conversation is not an object.
    #[error("message {message} is {found}, expected an object with `role` and `content`")]
    NotAMessage {
        /// Its place in the conversation, from 0.
        message: usize,
        /// The value instead.
        found: Value,
    },
    /// A turn has no role, or one that no template knows.
    #[error(
        "message {message} has role {found}, expected one of {}{}",
        ROLES.map(|(word, _)| word).join(", "),
        proposed(.unknown)
    )]
    Role {
        /// Its place in the conversation, from 0.
        message: usize,
        /// The role in the data.
        found: Value,
        /// Every word of the conversation that is not a known role.
        unknown: Vec<String>,
    },
    /// A turn has no content and calls no tool.
    #[error("message {message} has neither `content` nor `tool_calls`")]
    NoContent {
        /// Its place in the conversation, from 0.
        message: usize,
    },
    /// The content of a turn is not text.
    #[error(
        "message {message} has content {found}, expected text; write other values as JSON text"
    )]
    Content {
        /// Its place in the conversation, from 0.
        message: usize,
        /// The value instead.
        found: Value,
    },
    /// A part of a turn's content is not text.
    #[error(
        "message {message} has a content part {found}, expected parts of type `text`: images, \
        sounds and files are not read"
    )]
    Part {
        /// Its place in the conversation, from 0.
        message: usize,
        /// The type of the part, or the part itself.
        found: Value,
    },
    /// A weight is neither 0 nor 1.
    #[error(
        "message {message} has `{key}` {found}, expected 0, 1, true or false: a turn is \
        trained or it is not"
    )]
    Weight {
        /// Its place in the conversation, from 0.
        message: usize,
        /// The key.
        key: String,
        /// Its value.
        found: Value,
    },
    /// The calls of a turn are not a list of objects.
    #[error("message {message} has `tool_calls` with {found}, expected a list of objects")]
    Call {
        /// Its place in the conversation, from 0.
        message: usize,
        /// The value instead.
        found: Value,
    },
    /// A tool is not an object.
    #[error("tool {tool} is {found}, expected an object that describes a function")]
    NotATool {
        /// Its place in the list, from 0.
        tool: usize,
        /// The value instead.
        found: Value,
    },
    /// An entry of a history is not a pair.
    #[error(
        "entry {entry} of the history is {found}, expected a list of two texts: what the user \
        said and the answer"
    )]
    NotAPair {
        /// Its place in the history, from 0.
        entry: usize,
        /// The value instead.
        found: Value,
    },
    /// One of prompt and completion is text, and the other a conversation.
    #[error(
        "it is {found} and the prompt is {prompt}, expected text in both or a list of messages \
        in both"
    )]
    Mixed {
        /// The form of the completion.
        found: &'static str,
        /// The form of the prompt.
        prompt: &'static str,
    },
    /// One of two completions is text, and the other a conversation.
    #[error(
        "it is {found} and the chosen one is {chosen}, expected text in both or a list of messages \
        in both"
    )]
    MixedHalves {
        /// The form of the rejected completion.
        found: &'static str,
        /// The form of the chosen completion.
        chosen: &'static str,
    },
    /// Two conversations have no turn in common, and there is no prompt.
    #[error(
        "the chosen and the rejected conversation begin with different turns, expected a `prompt` \
        or the same first turns"
    )]
    NoPrompt,
    /// A completion is text, and the file has no column with its prompt.
    #[error(
        "it is text and there is no column `prompt`, expected a `prompt` or a whole conversation \
        as a list of messages"
    )]
    NoPromptOfText,
    /// A conversation that should hold its prompt has one turn.
    #[error(
        "the conversation has one message and there is no column `prompt`, expected the messages \
        of the prompt before the one that the label is for"
    )]
    OneTurn,
    /// A completion has no turn of the assistant.
    #[error("none of its messages is the assistant's, expected an answer to compare")]
    NoAnswer,
    /// A negative is not a text.
    #[error("one of its negatives is {found}, expected text")]
    NoText {
        /// The value instead.
        found: Value,
    },
    /// A label is none of those that the rows may have.
    #[error("the label is {found}, expected {expected}")]
    ClassLabel {
        /// The value instead.
        found: Value,
        /// What it may be.
        expected: String,
    },
    /// A word is not a text, or empty.
    #[error("one of its words is {found}, expected text that is more than spaces")]
    NoWord {
        /// The value instead.
        found: Value,
    },
    /// There are more words than tags, or fewer.
    #[error("it has {tags} tags for {words} words, expected one for each word")]
    TagCount {
        /// The number of tags.
        tags: usize,
        /// The number of words.
        words: usize,
    },
    /// A label is neither true nor false.
    #[error("the label is {found}, expected true or false, or 1 or 0")]
    Label {
        /// The value instead.
        found: Value,
    },
    /// The factor of a row's loss is negative or no number.
    #[error("the weight of the row's loss is {found}, expected a number from 0 to 1000000")]
    LossWeight {
        /// The value instead.
        found: Value,
    },
}

impl ConversationError {
    /// Returns the parts of the message that are text of the row.
    pub fn quotes(&self) -> Vec<String> {
        match self {
            Self::Number(json_text::JsonTextError::LongNumber { number }) => vec![number.clone()],
            // A role that other data sets use is no secret.
            Self::Role { found, .. }
                if found.is_null() || found.as_str().and_then(meant).is_some() =>
            {
                Vec::new()
            }
            Self::Role { found, .. }
            | Self::NotAList { found }
            | Self::NoVariables { found }
            | Self::NotAMessage { found, .. }
            | Self::Content { found, .. }
            | Self::Part { found, .. }
            | Self::Weight { found, .. }
            | Self::Call { found, .. }
            | Self::NotATool { found, .. }
            | Self::NotAPair { found, .. }
            | Self::LossWeight { found }
            | Self::NoText { found }
            | Self::ClassLabel { found, .. }
            | Self::NoWord { found }
            | Self::Label { found } => vec![found.to_string()],
            Self::NotJson { .. }
            | Self::Number(json_text::JsonTextError::NotJson { .. })
            | Self::Uneven { .. }
            | Self::Reserved { .. }
            | Self::NoContent { .. }
            | Self::TagCount { .. }
            | Self::Mixed { .. }
            | Self::MixedHalves { .. }
            | Self::NoPrompt
            | Self::NoPromptOfText
            | Self::OneTurn
            | Self::NoAnswer => Vec::new(),
        }
    }
}

impl From<json_text::JsonTextError> for ConversationError {
    fn from(error: json_text::JsonTextError) -> Self {
        match error {
            json_text::JsonTextError::NotJson { reason } => Self::NotJson { reason },
            number @ json_text::JsonTextError::LongNumber { .. } => Self::Number(number),
        }
    }
}
