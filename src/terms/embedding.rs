//! Terms of embeddings of texts.

use super::Term;

term! {
    /// How the hidden rows of a text's tokens become its vector, under sentence-transformers' names.
    Pooling {
        /// The mean of all rows.
        Mean = "mean",
        /// The row of the last token.
        Last = "lasttoken" | "last",
        /// The row of the first token.
        First = "cls",
    }
}

impl Pooling {
    /// Returns the places of the tokens whose rows are pooled, of a text of so many tokens.
    pub fn places(self, tokens: usize) -> std::ops::Range<usize> {
        match self {
            Self::Mean => 0..tokens,
            Self::Last => tokens.saturating_sub(1)..tokens,
            Self::First => 0..tokens.min(1),
        }
    }
}
