//! Conversations made of a question and an answer in columns of their own.

use serde_json::{Value, json};

use super::json::shown;
use super::names::Proposal;
use super::row::Row;
use crate::terms::Format;

/// The columns of a conversation that is made of a question and an answer.
#[derive(Debug, Clone)]
pub(super) struct ChatOf {
    pub prompt: String,
    pub completion: String,
    pub system: Option<String>,
}

impl ChatOf {
    pub fn of(proposal: &Proposal) -> Option<Self> {
        let name = |canonical: &str| proposal.columns.get(canonical).cloned();
        let is_table = proposal.format == Format::Chat && name("messages").is_none();
        is_table.then_some(())?;
        Some(Self {
            prompt: name("prompt")?,
            completion: name("completion")?,
            system: name("system"),
        })
    }

    /// Returns the conversation of a row; null if there is no question or no answer, so that
    /// nothing could be learned.
    pub fn messages(&self, row: &mut Row) -> Result<Value, String> {
        let mut text = |name: &String| match row.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!(
                "column `{name}` holds {}, expected text",
                shown(&other)
            )),
        };
        let (prompt, completion) = (
            text(&self.prompt)?,
            text(&self.completion)?.filter(|text| !text.is_empty()),
        );
        let system = self
            .system
            .as_ref()
            .map(text)
            .transpose()?
            .flatten()
            .filter(|text| !text.is_empty());
        let (Some(prompt), Some(completion)) = (prompt, completion) else {
            return Ok(Value::Null);
        };
        let turn = |role: &str, content: String| json!({"role": role, "content": content});
        let turns = system.map(|system| turn("system", system)).into_iter();
        Ok(turns
            .chain([turn("user", prompt), turn("assistant", completion)])
            .collect())
    }
}
