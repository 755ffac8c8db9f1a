//! Prompts of a data file that a teacher answers, and rows of a prompt with its answer, which
//! training reads as the format `completion`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::encode::Encoder;
use super::error::EncodeError;
use super::format::Example;
use super::token_row::TokenRow;
use super::turns::{self, Chat, chat};
use crate::data::read::cells::ColumnKind;
use crate::data::read::columns::WantedColumn;
use crate::data::read::data_file::DataFile;
use crate::data::read::parquet::ParquetTable;
use crate::data::template::Conversation;
use crate::terms::TrainOn;

/// A prompt to answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// A text to go on from.
    Text(String),
    /// A conversation in which the assistant speaks next.
    Chat(Conversation),
}

/// Reads the prompts of a column: texts, or lists of messages, of which an answer at the end is left
/// out. `None` where a row asks nothing.
///
/// # Errors
/// The file cannot be read, has no such column, or a prompt is none; in words, with its row.
pub fn asked(file: &DataFile, column: &str) -> Result<Vec<Option<Asked>>, String> {
    let wanted = WantedColumn {
        canonical: "prompt",
        name: column.to_owned(),
        kind: ColumnKind::TextOrTurns,
        optional: false,
        instead: None,
    };
    let table = ParquetTable::open(file, &[wanted]).map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for start in table.row_groups() {
        for batch in table.read(&start).map_err(|error| error.to_string())? {
            let batch = batch.map_err(|error| error.to_string())?;
            for row in 0..batch.rows() {
                let cell = batch
                    .cell("prompt", row)
                    .map_err(|error| error.to_string())?;
                let asked = of_cell(cell);
                all.push(asked.map_err(|reason| format!("row {}: {reason}", all.len()))?);
            }
        }
    }
    Ok(all)
}

fn of_cell(cell: Value) -> Result<Option<Asked>, String> {
    match cell {
        Value::Null => Ok(None),
        Value::String(text) => Ok((!text.is_empty()).then_some(Asked::Text(text))),
        cell => {
            let Some(turns) = turns::turns(cell).map_err(|error| error.to_string())? else {
                return Ok(None);
            };
            let read = chat(turns, None, &BTreeMap::new()).map_err(|error| error.to_string())?;
            let mut conversation = read.conversation;
            while conversation
                .messages
                .last()
                .is_some_and(|last| last["role"] == "assistant")
            {
                conversation.messages.pop();
            }
            for message in &conversation.messages {
                let mut keys = message
                    .as_object()
                    .into_iter()
                    .flat_map(|message| message.keys());
                if let Some(key) = keys.find(|key| !["role", "content"].contains(&key.as_str())) {
                    return Err(format!(
                        "a message has `{key}`, expected `role` and `content`"
                    ));
                }
                if !message["content"].is_string() {
                    return Err("the content of a message is no text".to_owned());
                }
            }
            Ok((!conversation.messages.is_empty()).then_some(Asked::Chat(conversation)))
        }
    }
}

impl Encoder {
    /// Encodes a prompt with its answer as a row of the format `completion`, of which the answer is
    /// trained.
    ///
    /// # Errors
    /// As for [`Encoder::encode`].
    pub fn answered(&self, asked: &Asked, answer: &str) -> Result<TokenRow, EncodeError> {
        let example = match asked {
            Asked::Text(prompt) => Example::Completion {
                prompt: prompt.clone(),
                completion: answer.to_owned(),
            },
            Asked::Chat(conversation) => {
                let mut whole = conversation.clone();
                let prompt_turns = whole.messages.len();
                whole
                    .messages
                    .push(json!({"role": "assistant", "content": answer}));
                Example::Chat(Chat {
                    trained: vec![None; prompt_turns + 1],
                    prompt_turns,
                    conversation: whole,
                })
            }
        };
        self.encode(&example, TrainOn::Assistant)
    }
}
