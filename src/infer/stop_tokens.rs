//! Where an answer ends.

use serde_json::json;

use crate::data::template::{ChatTemplate, Conversation};
use crate::data::tokenize::Tokenizer;

/// Every token that ends an answer: those of the tokenizer and of `generation_config.json`, the
/// ends of a turn that are known, and the token with which the template ends what the assistant
/// says.
pub fn stops(tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Vec<u32> {
    let of_template = template.and_then(|template| end_of_turn(tokenizer, template));
    tokenizer.end_ids().into_iter().chain(of_template).collect()
}

/// The last token that the assistant says in a made-up conversation, if it is an added one; white
/// space behind it does not count. A template that refuses the conversation has none.
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
