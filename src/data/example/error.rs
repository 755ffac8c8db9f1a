//! Errors while an example is encoded.

use crate::data::template;
use crate::data::tokenizer::error::TokenizeError;
use crate::fault::{Exit, Explain};

/// Error while an example is encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The template does not render the example.
    #[error(transparent)]
    Template(#[from] template::TemplateError),
    /// The tokenizer fails.
    #[error(transparent)]
    Tokenizer(#[from] TokenizeError),
    /// A conversation without a template.
    #[error("a conversation needs a chat template, the base model has none")]
    NoTemplate,
    /// The tokenizer has no eos token to end the row with.
    #[error("the tokenizer has no eos token to end a row with")]
    NoEos,
    /// A text makes no token.
    #[error("one of its texts has no token")]
    NoToken,
    /// The last span may be only a part of the last turn.
    #[error(
        "the chat template marks {spans} spans in {turns} answers, so `train_on: last` does \
        not tell what to train"
    )]
    LastTurnUnclear {
        /// Number of spans that the template marks.
        spans: usize,
        /// Number of answers in the conversation.
        turns: usize,
    },
    /// Some answers must not be trained, and it is unknown which of the spans they are.
    #[error(
        "the chat template marks {spans} spans in {turns} answers, so it does not tell which of \
        them the data keeps from training"
    )]
    AnswersUnclear {
        /// Number of spans that the template marks.
        spans: usize,
        /// Number of answers in the conversation.
        turns: usize,
    },
    /// The row begins with two bos tokens, which no model has seen.
    #[error("the row begins with the bos token twice, id {bos}")]
    DoubledBos {
        /// Its id.
        bos: u32,
    },
    /// An answer is trained without its end.
    #[error(
        "an answer is followed by `{token}`, which is not trained: the model would not learn \
        to stop"
    )]
    UntrainedEnd {
        /// The token that ends the turn.
        token: String,
    },
    /// An answer is trained up to a token that begins a turn.
    #[error(
        "an answer is trained up to `{token}`, which begins a turn: the model would not learn \
        to stop"
    )]
    TrainedOpener {
        /// The token that begins a turn.
        token: String,
    },
    /// An answer has no end.
    #[error("the last answer has no token that ends its turn: the model would not learn to stop")]
    NoEnd,
    /// A text that is scored ends with the padding token.
    #[error(
        "the text ends with the padding token `{token}`, and texts are scored at their last token \
        that is not padding"
    )]
    EndsWithPadding {
        /// The padding token.
        token: String,
    },
    /// No word has a class and a token of its own.
    #[error("none of its words has a class and a token of its own")]
    NoTaggedWord,
    /// A trained token is the padding token.
    #[error(
        "padding token `{token}` at position {place} has a label; the model would learn to emit \
        padding"
    )]
    TrainedPadding {
        /// The padding token.
        token: String,
        /// Its place in the row, from 0.
        place: usize,
    },
}

impl EncodeError {
    /// Whether the error concerns this row alone, so that the row can be left out and counted.
    /// Other errors will occur in other rows too.
    pub fn is_of_the_row(&self) -> bool {
        let is_told = matches!(
            self,
            Self::Template(
                template::TemplateError::Raised { .. } | template::TemplateError::Render { .. }
            ) | Self::Tokenizer(TokenizeError::Encode { .. })
                | Self::EndsWithPadding { .. }
                | Self::NoTaggedWord
        );
        is_told || self.is_of_marks()
    }

    /// Whether the template does not tell which parts of this row to train.
    fn is_of_marks(&self) -> bool {
        matches!(
            self,
            Self::Template(
                template::TemplateError::NoSpans { .. } | template::TemplateError::Nested
            ) | Self::LastTurnUnclear { .. }
                | Self::AnswersUnclear { .. }
                | Self::UntrainedEnd { .. }
                | Self::TrainedOpener { .. }
                | Self::NoEnd
                | Self::NoToken
        )
    }

    /// Returns the reason why the row is left out, and a hint where a change to the template helps.
    pub fn reason(&self) -> String {
        match self.hint().filter(|_| self.is_of_marks()) {
            Some(hint) => format!("{self}; {hint}"),
            None => self.to_string(),
        }
    }
}

impl Explain for EncodeError {
    fn exit(&self) -> Exit {
        match self {
            Self::Template(error) => error.exit(),
            Self::Tokenizer(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Template(error) => error.hint(),
            Self::Tokenizer(error) => error.hint(),
            Self::NoTemplate => Some("give one with `chat_template: PATH`, or use an \
                instruction-tuned base".into()),
            Self::NoEos => Some("set `eos_token` in the base's tokenizer_config.json".into()),
            Self::LastTurnUnclear { .. } => Some(
                "set `train_on: assistant`, or give a template that marks each answer once".into(),
            ),
            Self::AnswersUnclear { .. } => Some(
                "give a template that marks each answer once, or take `weight`, `train` and `loss` \
                out of the data".into(),
            ),
            Self::NoToken => Some("take the row out of the data".into()),
            Self::DoubledBos { .. } => Some("the tokenizer adds one: take the other out of the \
                data or the template".into()),
            Self::UntrainedEnd { .. } | Self::TrainedOpener { .. } | Self::NoEnd => Some(
                "put the token that ends a turn before `{% endgeneration %}` in a copy of the \
                template and name it in `chat_template`"
                    .into(),
            ),
            Self::NoTaggedWord => None,
            Self::EndsWithPadding { token } | Self::TrainedPadding { token, .. } => {
                Some(format!("take `{token}` out of the data, or set another `pad_token` in the \
                    base's tokenizer_config.json"))
            }
        }
    }
}
