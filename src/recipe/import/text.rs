//! Values of a config as text of a recipe: numbers as they were written, texts quoted where YAML
//! would read something else.

use std::collections::BTreeMap;

use super::super::tree::{Node, NodeValue};

/// A text as a YAML value in one line.
pub fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./-+@".contains(c);
    let starts_well =
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '.' || c == '_');
    let is_word = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
        .contains(&text.to_ascii_lowercase().as_str());
    let is_number = text.starts_with('.')
        && text[1..].starts_with(|c: char| c.is_ascii_digit() || "iInN".contains(c));
    if starts_well && !is_word && !is_number && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        serde_json::to_string(text).expect("a text can be written")
    }
}

/// A value in flow style. A number that was written in quotes is a number again where `numbers`
/// says so: `"2e-5"` is one to every trainer.
pub(super) fn flow(node: &Node) -> String {
    match &node.kind {
        NodeValue::Scalar {
            text, plain: true, ..
        } if is_value(node) => text.clone(),
        NodeValue::Scalar { text, .. } => quoted(text),
        NodeValue::List(nodes) => format!(
            "[{}]",
            nodes.iter().map(flow).collect::<Vec<_>>().join(", ")
        ),
        NodeValue::Map(entries) => {
            let pairs: Vec<_> = entries
                .iter()
                .map(|(key, entry)| format!("{}: {}", quoted(key), flow(&entry.value)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
        NodeValue::Refused => String::new(),
    }
}

/// A number or a boolean.
fn is_value(node: &Node) -> bool {
    node.number().is_some() || node.flag().is_some() || node.is_blank()
}

/// A number in quotes or not.
pub(super) fn number(node: &Node) -> Option<f64> {
    unquoted(node).number()
}

/// A whole number in quotes or not, `4.0` included.
pub(super) fn whole(node: &Node) -> Option<u64> {
    let node = unquoted(node);
    node.whole().or_else(|| {
        node.number()
            .filter(|number| number.fract() == 0.0 && (0.0..1e15).contains(number))
            .map(|number| number as u64)
    })
}

/// The node, with a text in quotes as plain text.
pub(super) fn unquoted(node: &Node) -> Node {
    let kind = match &node.kind {
        NodeValue::Scalar { text, written, .. } => NodeValue::Scalar {
            text: text.clone(),
            written: written.clone(),
            plain: true,
        },
        other => other.clone(),
    };
    Node {
        place: node.place.clone(),
        kind,
    }
}

/// A list of texts, or a text with commas.
pub(super) fn texts(node: &Node) -> Vec<String> {
    match &node.kind {
        NodeValue::List(nodes) => nodes
            .iter()
            .filter_map(Node::text)
            .map(str::to_owned)
            .collect(),
        _ => node
            .text()
            .unwrap_or_default()
            .split(',')
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty())
            .collect(),
    }
}

/// `{a: b}`.
pub(super) fn pairs(entries: &BTreeMap<String, String>) -> String {
    let entries: Vec<_> = entries
        .iter()
        .map(|(key, value)| format!("{}: {}", quoted(key), quoted(value)))
        .collect();
    format!("{{{}}}", entries.join(", "))
}

/// `[a, b]`.
pub(super) fn list(texts: &[String]) -> String {
    format!(
        "[{}]",
        texts
            .iter()
            .map(|text| quoted(text))
            .collect::<Vec<_>>()
            .join(", ")
    )
}
