//! llama.cpp's types of tokens (`llama_token_type`).

/// The type of a token in `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal = 1,
    /// Stands for text that the vocabulary lacks.
    Unknown = 2,
    /// A special token.
    Control = 3,
    /// Found in a text as it is, and not special.
    UserDefined = 4,
    /// Without a use.
    Unused = 5,
    /// One byte, written `<0x0A>`.
    Byte = 6,
}

impl TokenKind {
    /// Returns the type of a number, if it is one.
    pub(super) fn of(number: usize) -> Option<Self> {
        [
            Self::Normal,
            Self::Unknown,
            Self::Control,
            Self::UserDefined,
            Self::Unused,
            Self::Byte,
        ]
        .into_iter()
        .find(|kind| *kind as usize == number)
    }
}

/// Returns llama.cpp's text for an id of the embedding without a token.
pub fn filler(id: usize) -> String {
    format!("[PAD{id}]")
}
