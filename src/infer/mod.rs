//! Inference: prompts to tokens, generated tokens, and their text as a stream.

mod frame;
mod generate;
mod prompt;
mod sample_prompt;
mod sampling;
mod stop_tokens;
mod stream;

use std::path::PathBuf;

pub use frame::{Frame, listed as listed_formats};
pub use generate::{GenerateConfig, Generated, Stop, generate};
pub use prompt::{Prompt, read_messages};
pub use sample_prompt::{Answerer, SamplePrompt};
pub use sampling::Sampling;
pub use stop_tokens::stops;
pub use stream::TextStream;

use crate::data::{ConversationError, template, tokenize};
use crate::fault::{Exit, Explain};
use crate::files;

/// A prompt that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// The template does not render the conversation.
    #[error(transparent)]
    Template(#[from] template::TemplateError),
    /// The tokenizer fails.
    #[error(transparent)]
    Tokenizer(#[from] tokenize::TokenizeError),
    /// A file of messages holds something else.
    #[error("`{path}` holds {found}, expected a list of messages or an object with `messages` and, \
        if there are any, `tools`", path = path.display())]
    NotMessages {
        /// The file.
        path: PathBuf,
        /// What the file holds instead.
        found: String,
    },
    /// A message is not valid.
    #[error("`{path}`: {cause}", path = path.display())]
    Message {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: Box<ConversationError>,
    },
    /// A conversation whose last message is the assistant's.
    #[error(
        "`{path}` ends with what the assistant says, expected a message to answer",
        path = path.display()
    )]
    Answered {
        /// The file.
        path: PathBuf,
    },
    /// A conversation, and the base has no chat template.
    #[error("a conversation needs a chat template, the base has none")]
    NoTemplate,
    /// The prompt begins with two bos tokens, which no model has seen in training.
    #[error("the prompt begins with the bos token twice, id {bos}")]
    DoubledBos {
        /// Its id.
        bos: u32,
    },
    /// The prompt has no tokens.
    #[error("the prompt has no token, expected at least one")]
    Empty,
    /// A token beyond the base's embedding.
    #[error("the tokenizer made token id {id}, the base's embedding has ids below {vocabulary}")]
    UnknownToken {
        /// Its id.
        id: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {tokens} tokens, expected fewer than {context}, for which the base was made"
    )]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that a text may have.
        context: usize,
    },
    /// The model's logits are not finite.
    #[error("after {tokens} tokens a logit is {found}, expected a finite number")]
    NotFinite {
        /// The number of tokens that were read.
        tokens: usize,
        /// The value.
        found: f32,
    },
}

impl Explain for InferError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Template(error) => error.exit(),
            Self::Tokenizer(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Template(error) => error.hint(),
            Self::Tokenizer(error) => error.hint(),
            Self::NotMessages { .. } | Self::Message { .. } => {
                Some(r#"such as `[{"role": "user", "content": "What is a tort?"}]`"#.into())
            }
            Self::Answered { .. } => {
                Some("take the last message away, or add one of the user".into())
            }
            Self::NoTemplate => Some(
                "give one with `--chat-template FILE`, or ask with `--instruction` or `--prompt`"
                    .into(),
            ),
            Self::DoubledBos { .. } => {
                Some("the tokenizer adds one: take the other out of the prompt".into())
            }
            Self::Empty => Some("give a text with at least one character".into()),
            Self::UnknownToken { .. } => Some(
                "use the tokenizer that came with the base, or a base whose embedding was \
                resized for it"
                    .into(),
            ),
            Self::TooLong { .. } => {
                Some("shorten the prompt, or use a base with a longer context".into())
            }
            Self::NotFinite { .. } => {
                Some("the base or the adapter is damaged, or its training diverged".into())
            }
        }
    }
}
