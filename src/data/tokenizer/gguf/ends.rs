//! Tokens that end an answer by their names, as llama.cpp finds them.

use super::vocabulary::Vocabulary;

/// Names of tokens at which llama.cpp stops.
const NAMES: [&str; 20] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Whether a token of this name is a special one, whatever its type says.
pub(super) fn is_end(text: &str) -> bool {
    NAMES.contains(&text)
}

/// Returns the ids at which llama.cpp stops by the tokens' names. Where a message ends in
/// `<|return|>` or `<|call|>`, `<|end|>` ends only a part of it.
pub(super) fn of(vocabulary: &Vocabulary) -> Vec<u32> {
    let id = |name: &str| {
        let index = vocabulary
            .tokens
            .iter()
            .position(|token| token.text == name)?;
        u32::try_from(index).ok()
    };
    let has = |name: &str| id(name).is_some();
    let has_parts = has("<|call|>") && has("<|return|>") || has("<|calls|>") && has("<|flush|>");
    let is_part =
        |name: &str| name == "<|end|>" && has_parts || name == "</s>" && has("<|tool_response>");
    NAMES
        .into_iter()
        .filter(|name| !is_part(name))
        .filter_map(id)
        .collect()
}
