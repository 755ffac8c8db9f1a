//! Tokens that end an answer by their names, as llama.cpp finds them.

use std::collections::HashMap;

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
pub(super) fn of(ids: &HashMap<&str, u32>) -> Vec<u32> {
    let has = |name: &str| ids.contains_key(name);
    let has_parts = has("<|call|>") && has("<|return|>") || has("<|calls|>") && has("<|flush|>");
    let is_part =
        |name: &str| name == "<|end|>" && has_parts || name == "</s>" && has("<|tool_response>");
    NAMES
        .iter()
        .filter(|name| !is_part(name))
        .filter_map(|name| ids.get(*name).copied())
        .collect()
}
