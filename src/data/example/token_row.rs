//! Rows of tokens with the positions that are trained.

/// A row of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenRow {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether each token is a target. The first never is: no token before it could predict it.
    pub trained: Vec<bool>,
}
