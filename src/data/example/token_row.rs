//! Rows of tokens with the positions that are trained.

use crate::terms::RowForm;

/// A row of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenRow {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether each token is a target. The first never is: no token before it could predict it.
    pub trained: Vec<bool>,
}

/// A row of tokens with its form, as it is stored.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EncodedRow {
    /// The tokens of all sequences.
    pub row: TokenRow,
    /// The form.
    pub form: RowForm,
    /// The numbers of the form: a margin, a label, or a class for each trained token.
    pub values: Vec<f32>,
    /// Tokens that the tokenizer put at the end of each text, which stay there when a text that is
    /// read as a whole is cut.
    pub closing: u32,
}

/// A row of data whose completions are compared or rated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RatedRow {
    /// A chosen and a rejected sequence.
    Pair([TokenRow; 2]),
    /// A sequence, and whether its completion is desirable.
    Rated(TokenRow, bool),
}

/// A row of data that a score head scores.
#[derive(Debug, Clone, PartialEq)]
pub enum ScoredRow {
    /// A chosen and a rejected sequence, and by how much the score of the first is to exceed that
    /// of the second.
    Pair([TokenRow; 2], f64),
    /// A sequence with its label: a class, or numbers.
    Text {
        /// The tokens.
        row: TokenRow,
        /// The first token of the second type, or the number of tokens.
        second: usize,
        /// The label.
        values: Vec<f32>,
    },
    /// A sequence with a class for each trained token.
    Tokens(TokenRow, Vec<f32>),
}
