//! Words for the roles of a conversation, and the role that each probably means.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Words for roles and the role that chat templates know: the roles themselves and `ShareGPT`'s
/// words.
pub(super) const ROLES: [(&str, &str); 8] = [
    ("system", "system"),
    ("developer", "developer"),
    ("user", "user"),
    ("assistant", "assistant"),
    ("tool", "tool"),
    ("ipython", "ipython"),
    ("human", "user"),
    ("gpt", "assistant"),
];
/// Role words of other datasets, in lower case, with the role that each probably means.
const PROPOSALS: [(&str, &[&str]); 4] = [
    (
        "assistant",
        &[
            "model",
            "bot",
            "chatbot",
            "ai",
            "agent",
            "answer",
            "response",
            "output",
            "function_call",
            "tool_call",
            "chatgpt",
        ],
    ),
    (
        "user",
        &[
            "prompter", "input", "question", "query", "prompt", "customer", "client", "patient",
        ],
    ),
    (
        "tool",
        &[
            "observation",
            "function",
            "function_response",
            "tool_response",
            "tool_result",
            "tool_output",
            "environment",
        ],
    ),
    (
        "system",
        &["system_prompt", "instruction", "instructions", "context"],
    ),
];

/// Proposes what to write in the recipe for unknown roles, the first of which is the error.
pub(super) fn proposed(unknown: &[String]) -> String {
    let entry = |word: &str, role: &str| {
        let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_plain {
            format!("{word}: {role}")
        } else {
            format!("{}: {role}", json!(word))
        }
    };
    match unknown {
        [] => String::new(),
        // It may be text of the row: it is not said again.
        [first, ..] if meant(first).is_none() => {
            "; `roles` of the dataset says which one it is, such as `roles: {judge: user}`"
                .to_owned()
        }
        _ => {
            let entries = unknown
                .iter()
                .filter_map(|word| Some(entry(word, meant(word)?)))
                .collect::<Vec<_>>();
            format!(
                "; if that is meant, add `roles: {{{}}}` to the dataset",
                entries.join(", ")
            )
        }
    }
}

/// Returns the role that a word of another dataset probably means.
pub(super) fn meant(word: &str) -> Option<&'static str> {
    let small = word.trim().to_lowercase().replace([' ', '-'], "_");
    let known = ROLES
        .iter()
        .find(|(known, _)| *known == small)
        .map(|(_, role)| *role);
    known.or_else(|| {
        PROPOSALS
            .iter()
            .find(|(_, words)| words.contains(&small.as_str()))
            .map(|(role, _)| *role)
    })
}

/// Returns the words for roles that neither `roles` nor the templates know, in order, each once.
pub(super) fn unknown_roles(turns: &[Value], roles: &BTreeMap<String, String>) -> Vec<String> {
    let mut unknown: Vec<String> = Vec::new();
    for word in turns
        .iter()
        .filter_map(|turn| turn["role"].as_str().or_else(|| turn["from"].as_str()))
    {
        let is_known = roles.contains_key(word) || ROLES.iter().any(|(known, _)| *known == word);
        if !is_known && !word.trim().is_empty() && !unknown.iter().any(|other| other == word) {
            unknown.push(word.to_owned());
        }
    }
    unknown
}
