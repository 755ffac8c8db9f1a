//! Converts values of a config to text of a recipe: numbers as written, texts quoted if YAML would
//! read something else.

use std::collections::BTreeMap;

use super::super::tree::{Node, NodeValue};
use crate::fault::yaml_word;

/// Returns a value in flow style. Numbers, booleans and blanks without quotes stay as written.
pub(super) fn flow(node: &Node) -> String {
    match &node.kind {
        NodeValue::Scalar {
            text, plain: true, ..
        } if is_value(node) => text.clone(),
        NodeValue::Scalar { text, .. } => yaml_word(text),
        NodeValue::List(nodes) => format!(
            "[{}]",
            nodes.iter().map(flow).collect::<Vec<_>>().join(", ")
        ),
        NodeValue::Map(entries) => {
            let pairs: Vec<_> = entries
                .iter()
                .map(|(key, entry)| format!("{}: {}", yaml_word(key), flow(&entry.value)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
        NodeValue::Refused => String::new(),
    }
}

/// Returns whether a node is a number or a boolean.
fn is_value(node: &Node) -> bool {
    node.number().is_some() || node.flag().is_some() || node.is_blank()
}

/// Returns a number, in quotes or not.
pub(super) fn number(node: &Node) -> Option<f64> {
    unquoted(node).number()
}

/// Returns a whole number, in quotes or not; `4.0` is one.
pub(super) fn whole(node: &Node) -> Option<u64> {
    let node = unquoted(node);
    node.whole().or_else(|| {
        node.number()
            .filter(|number| number.fract() == 0.0 && (0.0..1e15).contains(number))
            .map(|number| number as u64)
    })
}

/// Returns the node with a quoted text as plain text.
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

/// Returns a list of texts, from a list or from a text with commas.
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

/// Writes pairs in flow style: `{a: b}`.
pub(super) fn pairs(entries: &BTreeMap<String, String>) -> String {
    let entries: Vec<_> = entries
        .iter()
        .map(|(key, value)| format!("{}: {}", yaml_word(key), yaml_word(value)))
        .collect();
    format!("{{{}}}", entries.join(", "))
}

/// Writes a list in flow style: `[a, b]`.
pub(super) fn list(texts: &[String]) -> String {
    format!(
        "[{}]",
        texts
            .iter()
            .map(|text| yaml_word(text))
            .collect::<Vec<_>>()
            .join(", ")
    )
}
