//! Preferences in Axolotl's configs: `rl` and the keys that go with it. Source: `core/builders/rl.py`
//! and `prompt_strategies/` of the same date as the schema.

use super::super::tree::NodeValue;
use super::Given;
use super::draft::{Draft, is_off};
use super::key_outcome::KeyOutcome;
use super::text::{number, texts};

const LOSSES: &str = "several losses of pairs are not supported, except for one with `sft`";

/// Returns the recipe's format of rows where the config trains on preferences.
pub(super) fn format(draft: &Draft) -> Option<&'static str> {
    match draft.text("rl")? {
        "dpo" | "ipo" | "orpo" | "simpo" => Some("preference"),
        "kto" => Some("unpaired"),
        _ => None,
    }
}

/// Maps `rl`.
pub(super) fn rl(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some(word @ ("dpo" | "orpo" | "simpo" | "kto")) => draft.set("objective.type", word),
        Some("ipo") => {
            draft.set("objective.loss_type", "ipo");
            match draft.set("objective.type", "dpo") {
                KeyOutcome::Mapped(line) => {
                    KeyOutcome::Mapped(format!("{line}, objective.loss_type: ipo"))
                }
                other => other,
            }
        }
        _ => KeyOutcome::refused(
            "`dpo`, `ipo`, `orpo`, `simpo` and `kto` are supported; reinforcement learning is not",
        ),
    }
}

/// Maps a key that is read together with `rl`.
pub(super) fn own(draft: &mut Draft, given: &Given, key: &str) -> KeyOutcome {
    if format(draft).is_none() {
        KeyOutcome::dropped("without `rl` nothing reads it")
    } else {
        draft.same(key, given)
    }
}

/// Maps `trl`, of which trainers of preferences read `beta` alone.
pub(super) fn trl(draft: &mut Draft, given: &Given) -> KeyOutcome {
    const OTHERS: &str = "of `trl` only `beta` is supported; its other keys are those of \
        reinforcement learning";
    let NodeValue::Map(entries) = &given.node.kind else {
        return KeyOutcome::refused("expected keys with values");
    };
    let said: Vec<_> = entries
        .iter()
        .filter(|(_, entry)| !entry.value.is_blank())
        .collect();
    match said[..] {
        [] => KeyOutcome::dropped("empty: not set"),
        [(name, entry)] if name == "beta" => {
            let beta = Given {
                name,
                node: &entry.value,
                parent: given.node,
            };
            own(draft, &beta, "objective.beta")
        }
        _ => KeyOutcome::refused(OTHERS),
    }
}

/// Returns the losses of `dpo_loss_type`, and the weight of each.
fn losses(draft: &Draft) -> Vec<(String, f64)> {
    let words = draft.at("dpo_loss_type").map(texts).unwrap_or_default();
    let weights = match draft.at("dpo_loss_weights").map(|node| &node.kind) {
        Some(NodeValue::List(nodes)) => nodes.iter().filter_map(number).collect(),
        _ => vec![1.0; words.len()],
    };
    words.into_iter().zip(weights).collect()
}

/// Maps `dpo_loss_type`, a list: one loss, or one with a share of cross-entropy.
pub(super) fn loss_type(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if format(draft) != Some("preference") {
        return KeyOutcome::dropped("of `rl: dpo` only");
    }
    let words = texts(given.node);
    let of_pairs: Vec<&String> = words.iter().filter(|word| *word != "sft").collect();
    match of_pairs[..] {
        [one] => draft.set("objective.loss_type", one.clone()),
        _ => KeyOutcome::refused(LOSSES),
    }
}

/// Maps `dpo_loss_weights`: that of `sft` against that of the other loss.
pub(super) fn loss_weights(draft: &mut Draft, _: &Given) -> KeyOutcome {
    let losses = losses(draft);
    let (of_sft, of_pairs): (Vec<_>, Vec<_>) = losses.iter().partition(|(word, _)| word == "sft");
    match (&of_sft[..], &of_pairs[..]) {
        ([], [(_, weight)]) if weight.to_bits() == 1_f64.to_bits() => {
            KeyOutcome::dropped("one loss of weight 1")
        }
        ([(_, of_sft)], [(_, weight)]) if weight.to_bits() == 1_f64.to_bits() => {
            draft.set("objective.sft_weight", format!("{of_sft}"))
        }
        _ => KeyOutcome::refused(format!("{LOSSES}, and that of weight 1")),
    }
}

/// Maps `max_prompt_len`: prompts have no limit of their own.
pub(super) fn max_prompt_len(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if format(draft).is_none() || is_off(given.node) {
        return KeyOutcome::dropped("of preference data only");
    }
    KeyOutcome::replaced(
        "`training.sequence_len` limits prompt and completion together; a pair that loses a \
        completion is left out and counted",
    )
}

/// Types whose rows are conversations, or texts that are trained as they are.
const READ: [&str; 10] = [
    "chat_template",
    "chat_template.default",
    "chat_template.argilla",
    "chat_template.argilla_chat",
    "chatml.argilla_chat",
    "llama3.argilla_chat",
    "chatml.ultra",
    "llama3.ultra",
    "passthrough",
    "passthrough.default",
];

/// Whether a type has the prompt in a column of messages.
pub(super) fn reads_messages(kind: &str) -> bool {
    ["chat_template", "chat_template.default"].contains(&kind)
}

/// Checks the `type` of a dataset of preferences. Without one its columns are TRL's.
pub(super) fn layout(format: &str, kind: Option<&str>) -> Result<(), String> {
    match kind {
        None | Some("") => Ok(()),
        Some(kind) if format == "preference" && READ.contains(&kind) => Ok(()),
        Some(kind) => {
            let columns = if format == "preference" {
                "`prompt`, `chosen` and `rejected`"
            } else {
                "`prompt`, `completion` and `label`"
            };
            Err(format!(
                "`{kind}` writes texts into a template of its own: write {columns}, the texts as \
                lists of messages, and leave `type` out"
            ))
        }
    }
}

/// Returns what differs where a type's rows are read.
pub(super) fn note_of(kind: &str) -> Option<&'static str> {
    if reads_messages(kind) {
        return Some(
            "`format: preference`: of a list in `chosen` or `rejected` every message is the \
            completion; Axolotl takes the last",
        );
    }
    (kind.starts_with("chatml.") || kind.starts_with("llama3.")).then_some(
        "`format: preference`: conversations are rendered by the base's own template; \
        `chat_template` names another, such as `chatml`",
    )
}

/// Adds what TRL's trainers have by default and a recipe has not.
pub(super) fn finish(draft: &mut Draft) {
    if draft.text("rl") == Some("simpo") {
        draft.default(
            &["rl_beta", "dpo_beta", "orpo_alpha", "trl.beta"],
            "objective.beta",
            "0.1",
        );
        draft.default(&["cpo_alpha"], "objective.cpo_alpha", "1.0");
    }
}
