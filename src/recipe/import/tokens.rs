//! Special tokens and new tokens of Axolotl and `LLaMA-Factory`. Several of their keys add to the
//! one list `tokens.add`, which also accepts tokens that the base has, without adding them.

use super::super::tree::NodeValue;
use super::Given;
use super::draft::Draft;
use super::key_outcome::KeyOutcome;
use super::text::{list, texts};
use crate::fault::yaml_word;

const START: &str = "new rows begin as the mean of all rows, not at random numbers; `from` names a \
    token to begin as";
const RENAMED: &str = "a token of the base is not renamed: this one gets a row of its own, behind \
    those of the base; or name the base's token as it is";

/// Maps `special_tokens` of Axolotl: a token by its role, which is added if the base lacks it.
pub(super) fn special_token(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let key = format!("tokens.{}", given.name.trim_end_matches("_token"));
    let outcome = draft.set(&key, yaml_word(given.node.text().unwrap_or_default()));
    let all = of_axolotl(draft);
    match draft.set("tokens.add", all) {
        KeyOutcome::Mapped(_) => outcome,
        refused => refused,
    }
}

/// Maps `eot_tokens` of Axolotl.
pub(super) fn end_of_turn(draft: &mut Draft, given: &Given) -> KeyOutcome {
    draft.set("tokens.end_of_turn", list(&texts(given.node)))
}

/// Maps `tokens` and `special_tokens.additional_special_tokens` of Axolotl.
pub(super) fn added(draft: &mut Draft, _: &Given) -> KeyOutcome {
    let all = of_axolotl(draft);
    replaced(draft, all, START)
}

/// Maps `added_tokens_overrides` of Axolotl: ids of tokens, with other names for them.
pub(super) fn renamed(draft: &mut Draft, _: &Given) -> KeyOutcome {
    let all = of_axolotl(draft);
    replaced(draft, all, RENAMED)
}

/// Maps `add_tokens` and `add_special_tokens` of `LLaMA-Factory`, which then trains embedding and
/// head whole by default.
pub(super) fn of_llama_factory(draft: &mut Draft, _: &Given) -> KeyOutcome {
    let names = |key: &str| draft.at(key).map(texts).unwrap_or_default();
    let special = names("add_special_tokens")
        .into_iter()
        .map(|token| format!("{{token: {}, special: true}}", yaml_word(&token)));
    let all: Vec<String> = names("add_tokens")
        .iter()
        .map(|token| yaml_word(token))
        .chain(special)
        .collect();
    let is_adapter = draft
        .text("finetuning_type")
        .is_none_or(|kind| kind == "lora");
    if draft.at("additional_target").is_none()
        && draft.at("adapter_name_or_path").is_none()
        && is_adapter
    {
        draft.add(
            "adapter.modules_to_save",
            "[embed_tokens, lm_head]",
            "LLaMA-Factory trains both whole where it adds tokens",
        );
    }
    replaced(draft, format!("[{}]", all.join(", ")), START)
}

fn replaced(draft: &mut Draft, all: String, note: &str) -> KeyOutcome {
    match draft.set("tokens.add", all) {
        KeyOutcome::Mapped(line) => KeyOutcome::replaced(format!("`{line}`: {note}")),
        refused => refused,
    }
}

/// Returns every token that an Axolotl config names, each once.
fn of_axolotl(draft: &Draft) -> String {
    let special = |token: String| format!("{{token: {}, special: true}}", yaml_word(&token));
    let names = |key: &str| draft.at(key).map(texts).unwrap_or_default();
    let roles = ["bos", "eos", "unk"]
        .into_iter()
        .filter_map(|role| draft.text(&format!("special_tokens.{role}_token")));
    let renamed = draft
        .at("added_tokens_overrides")
        .into_iter()
        .flat_map(|node| match &node.kind {
            NodeValue::Map(entries) => entries
                .values()
                .filter_map(|entry| entry.value.text().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        });
    let plain = roles
        .map(str::to_owned)
        .chain(names("tokens"))
        .chain(renamed);
    let mut all: Vec<(String, bool)> = Vec::new();
    let marked = names("special_tokens.additional_special_tokens")
        .into_iter()
        .map(|token| (token, true));
    for (token, is_special) in plain.map(|token| (token, false)).chain(marked) {
        if !all.iter().any(|(known, _)| *known == token) {
            all.push((token, is_special));
        }
    }
    let all = all.into_iter().map(|(token, is_special)| {
        if is_special {
            special(token)
        } else {
            yaml_word(&token)
        }
    });
    format!("[{}]", all.collect::<Vec<_>>().join(", "))
}
