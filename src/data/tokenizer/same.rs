//! Whether two tokenizers have the same tokens.

use super::tokenize::Tokenizer;

impl Tokenizer {
    /// Returns the first id whose token is another one in `other`, with both tokens; `None` where
    /// every token has the same id there. What `other` has beyond these tokens is no matter.
    pub fn first_other_token(&self, other: &Self) -> Option<(u32, Option<String>, Option<String>)> {
        let mut ids: Vec<u32> = self.inner.get_vocab(true).into_values().collect();
        ids.sort_unstable();
        ids.into_iter().find_map(|id| {
            let (ours, theirs) = (self.token_of(id), other.token_of(id));
            (ours != theirs).then_some((id, ours, theirs))
        })
    }
}
