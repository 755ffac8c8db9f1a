//! The YAML front matter of a card, which the Hub reads:
//! <https://huggingface.co/docs/hub/model-cards>. Values are JSON strings, which are valid YAML.

use serde_json::{Value, json};

use super::base::{Base, NOT_STATED};
use super::{Card, CardSubject};
use crate::data::visible;

/// Returns the front matter, including its fences.
pub(super) fn front(card: &Card) -> String {
    let entries = license(&card.base)
        .into_iter()
        .chain(lineage(card))
        .chain(kind(&card.subject));
    let datasets = card.datasets();
    let datasets = (!datasets.is_empty()).then(|| ("datasets", json!(datasets)));
    let lines = entries
        .chain(datasets)
        .map(|(key, value)| format!("{key}: {value}\n"));
    format!("---\n{}---\n", lines.collect::<String>())
}

/// Returns the base's license; `other` if the Hub does not know it.
fn license(base: &Base) -> Vec<(&'static str, Value)> {
    let is_id = |id: &str| {
        !id.is_empty()
            && id.len() < 50
            && id
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))
    };
    let stated = base.license.as_ref();
    let mut entries = match stated.filter(|license| is_id(&license.id)) {
        Some(license) => vec![("license", json!(license.id))],
        None => vec![("license", json!("other"))],
    };
    if entries[0].1 == "other" {
        let name = stated.map_or(NOT_STATED, |license| {
            license.name.as_deref().unwrap_or(&license.id)
        });
        entries.push((
            "license_name",
            json!(visible(if name == "other" { "as-the-base" } else { name })),
        ));
        let link = stated.and_then(|license| license.link.clone());
        let is_here = |link: &String| link.starts_with("https://") || base.notices.contains(link);
        entries.extend(
            link.filter(is_here)
                .or_else(|| base.notices.first().cloned())
                .map(|link| ("license_link", json!(visible(&link)))),
        );
    }
    entries
}

/// Returns the lineage. Only a base that is on the Hub is named: a folder's name could be another
/// repository there.
fn lineage(card: &Card) -> Vec<(&'static str, Value)> {
    let Some(hub) = &card.base.hub else {
        return Vec::new();
    };
    let relation = match &card.subject {
        CardSubject::Adapter | CardSubject::GgufAdapter { .. } | CardSubject::Mlx => {
            Some("adapter")
        }
        CardSubject::Model => Some("finetune"),
        // In whatever format: what was trained is no copy of the base.
        CardSubject::Gguf { .. } | CardSubject::Ollama { .. } if !card.parts.is_empty() => {
            Some("finetune")
        }
        CardSubject::Packed { .. }
        | CardSubject::Gguf {
            is_quantized: true, ..
        } => Some("quantized"),
        CardSubject::Gguf { .. } | CardSubject::Ollama { .. } => None,
    };
    let relation = relation.map(|relation| ("base_model_relation", json!(relation)));
    [("base_model", json!(hub.id))]
        .into_iter()
        .chain(relation)
        .collect()
}

fn kind(subject: &CardSubject) -> Vec<(&'static str, Value)> {
    let (library, tags) = match subject {
        CardSubject::Adapter => (Some("peft"), &["lora"][..]),
        CardSubject::Model => (Some("transformers"), &[][..]),
        CardSubject::Packed { .. } => (Some("transformers"), &["bitsandbytes"][..]),
        CardSubject::Gguf { .. } | CardSubject::Ollama { .. } => (None, &["gguf"][..]),
        CardSubject::GgufAdapter { .. } => (None, &["gguf", "lora"][..]),
        CardSubject::Mlx => (Some("mlx"), &["lora"][..]),
    };
    let tags: Vec<&str> = tags.iter().copied().chain(["rankine"]).collect();
    let library = library.map(|library| ("library_name", json!(library)));
    library
        .into_iter()
        .chain([
            ("pipeline_tag", json!("text-generation")),
            ("tags", json!(tags)),
        ])
        .collect()
}
