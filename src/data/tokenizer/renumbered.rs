//! Added tokens whose ids differ from those in their file. This is no error by itself, but a model
//! that was trained with the other ids answers nonsense.

use std::fmt;

/// An added token whose id differs from the id in its file. The tokenizers crate, which
/// transformers uses too, numbers added tokens consecutively.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenumberedToken {
    /// The name of the file.
    pub file: String,
    /// The token.
    pub token: String,
    /// Its id in the file.
    pub said: u32,
    /// Its actual id.
    pub id: Option<u32>,
}

impl fmt::Display for RenumberedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            token,
            said,
            id,
        } = self;
        let id = id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        write!(
            f,
            "{file} gives `{token}` the id {said}, it is read as {id}, as transformers does: its \
            added tokens are not in the order of their ids"
        )
    }
}

/// Finds the renumbered tokens of a tokenizer that was read from `source`.
pub(super) fn find(source: &str, inner: &tokenizers::Tokenizer) -> Vec<RenumberedToken> {
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
    let added = serde_json::from_str::<File>(source)
        .map(|file| file.added_tokens)
        .unwrap_or_default();
    let file = || "tokenizer.json".to_owned();
    let read = |Added { id, content }| RenumberedToken {
        file: file(),
        id: inner.token_to_id(&content),
        token: content,
        said: id,
    };
    added
        .into_iter()
        .map(read)
        .filter(|token| token.id != Some(token.said))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_that_are_not_in_the_order_of_their_ids_are_found() {
        let added = |id: u32, content: &str| {
            json!({
                "id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        };
        let renumbered = |tokens: [serde_json::Value; 2]| {
            let model = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
            let source =
                json!({"version": "1.0", "added_tokens": tokens, "model": model}).to_string();
            let inner = tokenizers::Tokenizer::from_bytes(&source).expect("a tokenizer");
            find(&source, &inner)
                .into_iter()
                .map(|token| (token.token, token.said, token.id))
                .collect::<Vec<_>>()
        };
        assert_eq!(renumbered([added(1, "<x>"), added(2, "<y>")]), []);
        assert_eq!(
            renumbered([added(2, "<y>"), added(1, "<x>")]),
            [
                ("<y>".to_owned(), 2, Some(1)),
                ("<x>".to_owned(), 1, Some(2))
            ]
        );
    }
}
