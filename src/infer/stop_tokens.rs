//! Stop tokens of an answer.

use serde_json::json;

use crate::data::template::{ChatTemplate, Conversation};
use crate::data::tokenize::Tokenizer;

/// Returns every token that ends an answer: those of the tokenizer and of `generation_config.json`,
/// the known end-of-turn tokens, and the token with which the template ends an assistant message.
pub fn stops(tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Vec<u32> {
    let of_template = template.and_then(|template| end_of_turn(tokenizer, template));
    tokenizer.end_ids().into_iter().chain(of_template).collect()
}

/// Returns the last token of the assistant message in a made-up conversation, if it is an added
/// token; white space after it does not count. `None` if the template rejects the conversation.
fn end_of_turn(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<u32> {
    let messages = vec![
        json!({"role": "user", "content": "a"}),
        json!({"role": "assistant", "content": "b"}),
    ];
    let rendered = template
        .render_with_spans(
            &Conversation {
                messages,
                ..Conversation::default()
            },
            false,
        )
        .ok()?;
    let (ids, said) = tokenizer
        .encode_with_spans(&rendered.text, &rendered.assistant)
        .ok()?;
    let is_seen = |id: &u32| {
        tokenizer
            .decode(&[*id], false)
            .is_ok_and(|text| !text.trim().is_empty())
    };
    let last = ids
        .into_iter()
        .zip(said)
        .filter(|(id, said)| *said && is_seen(id))
        .map(|(id, _)| id)
        .next_back();
    last.filter(|id| tokenizer.is_added(*id))
}
