//! Added tokens whose ids are not those of their file: nothing is wrong by itself, and a model that was trained with the other ids answers
//! nonsense.

/// An added token that has another id than its file says. The tokenizers crate, which transformers uses too, numbers added tokens in the
/// order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedToken {
    /// The token.
    pub token: String,
    /// Its id in the file.
    pub said: u32,
    /// Its id.
    pub id: Option<u32>,
}

/// The moved tokens of a tokenizer that was read from `source`.
pub(super) fn find(source: &str, inner: &tokenizers::Tokenizer) -> Vec<MovedToken> {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(serde::Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    let added = serde_json::from_str::<File>(source).map(|file| file.added_tokens).unwrap_or_default();
    let moved =
        added.into_iter().map(|Added { id, content }| MovedToken { id: inner.token_to_id(&content), token: content, said: id });
    moved.filter(|token| token.id != Some(token.said)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_that_are_not_in_the_order_of_their_ids_are_found() {
        let added = |id: u32, content: &str| json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
        let moved = |tokens: [serde_json::Value; 2]| {
            let model = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
            let source = json!({"version": "1.0", "added_tokens": tokens, "model": model}).to_string();
            let inner = tokenizers::Tokenizer::from_bytes(&source).expect("a tokenizer");
            find(&source, &inner).into_iter().map(|token| (token.token, token.said, token.id)).collect::<Vec<_>>()
        };
        assert_eq!(moved([added(1, "<x>"), added(2, "<y>")]), []);
        assert_eq!(moved([added(2, "<y>"), added(1, "<x>")]), [("<y>".to_owned(), 2, Some(1)), ("<x>".to_owned(), 1, Some(2))]);
    }
}
