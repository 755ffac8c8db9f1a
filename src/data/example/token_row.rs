//! Rows of tokens with the positions that are trained.

/// A row of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenRow {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether each token is a target. The first never is: no token before it could predict it.
    pub trained: Vec<bool>,
}

/// A row of data whose completions are compared or rated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RatedRow {
    /// A chosen and a rejected sequence.
    Pair([TokenRow; 2]),
    /// A sequence, and whether its completion is desirable.
    Rated(TokenRow, bool),
}
