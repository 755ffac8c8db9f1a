//! The four shapes of a row: which columns each reads, and how their cells become one example.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::cells::Kind;
use super::parquet::{self, Batch, Table, Wanted};
use super::template::Conversation;
use crate::terms::Format;

/// Roles that chat templates know, and `ShareGPT`'s words for them.
const ROLES: [(&str, &str); 8] = [
    ("system", "system"),
    ("developer", "developer"),
    ("user", "user"),
    ("assistant", "assistant"),
    ("tool", "tool"),
    ("ipython", "ipython"),
    ("human", "user"),
    ("gpt", "assistant"),
];

/// One row, before it is tokenised.
#[derive(Debug, Clone, PartialEq)]
pub enum Example {
    /// A text; every token is trained.
    Text(String),
    /// A prompt and what follows it.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learned.
        completion: String,
    },
    /// A task, what it works on, and its answer.
    Instruction {
        /// The task.
        instruction: String,
        /// What it works on; never empty.
        input: Option<String>,
        /// The answer.
        output: String,
    },
    /// A whole conversation.
    Chat(Conversation),
}

/// A row whose cells make no example.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A cell cannot be read.
    #[error(transparent)]
    Cell(#[from] parquet::Error),
    /// The text of a list column is not a list in JSON.
    #[error("expected a list in JSON: {reason}")]
    NotAList {
        /// What it is instead.
        reason: String,
    },
    /// A turn of a conversation is not an object.
    #[error("message {message} is {found}, expected an object with `role` and `content`")]
    NotAMessage {
        /// Its place in the conversation, from 0.
        message: usize,
        /// What it is instead.
        found: Value,
    },
    /// A turn has no role, or one that no template knows.
    #[error("message {message} has role {found}, expected one of {}", ROLES.map(|(word, _)| word).join(", "))]
    Role {
        /// Its place in the conversation, from 0.
        message: usize,
        /// As the data says it.
        found: Value,
    },
    /// A turn says nothing and calls no tool.
    #[error("message {message} has neither `content` nor `tool_calls`")]
    NoContent {
        /// Its place in the conversation, from 0.
        message: usize,
    },
}

/// What a canonical column holds, and whether a file may do without it.
fn shape(column: &str) -> (Kind, bool) {
    match column {
        "messages" => (Kind::Turns, false),
        "tools" => (Kind::List, true),
        "input" | "system" => (Kind::Text, true),
        _ => (Kind::Text, false),
    }
}

/// The columns that a format reads from a file. One that the recipe names must be there, optional or not.
pub fn wanted(format: Format, names: &BTreeMap<String, String>) -> Vec<Wanted> {
    let wanted = |canonical: &&'static str| {
        let (name, (kind, optional)) = (names.get(*canonical), shape(canonical));
        Wanted { canonical, name: name.map_or(*canonical, String::as_str).to_owned(), kind, optional: optional && name.is_none() }
    };
    format.columns().iter().filter(|canonical| is_read(format, names, canonical)).map(wanted).collect()
}

/// Whether a conversation is made of a question and an answer.
fn is_table(names: &BTreeMap<String, String>) -> bool {
    ["prompt", "completion"].iter().any(|canonical| names.contains_key(*canonical))
}

/// A chat is a list of turns, or a question and an answer where those are named; a column for the system message is always named.
fn is_read(format: Format, names: &BTreeMap<String, String>, canonical: &str) -> bool {
    match (format, canonical) {
        (Format::Chat, "messages") => !is_table(names),
        (Format::Chat, "prompt" | "completion") => is_table(names),
        (Format::Chat, "system") => names.contains_key("system"),
        _ => true,
    }
}

/// The file's column that an answer is in, the one that a fault of a row is told of.
pub fn main_column(format: Format, names: &BTreeMap<String, String>) -> String {
    let canonical = match format {
        Format::Text => "text",
        Format::Completion => "completion",
        Format::Instruction => "output",
        Format::Chat if is_table(names) => "completion",
        Format::Chat => "messages",
    };
    names.get(canonical).map_or(canonical, String::as_str).to_owned()
}

/// The rows of a file, from its footer, after a check that the format's columns are there and can be read.
///
/// # Errors
/// The file is not whole, or a column is missing or holds something else.
pub fn inspect(file: &Path, format: Format, names: &BTreeMap<String, String>) -> Result<u64, parquet::Error> {
    Ok(Table::open(file, &wanted(format, names))?.rows())
}

/// The example in a row of a batch; `None` where there is nothing to learn: a needed cell is null, or the text, completion, output
/// or conversation is empty.
///
/// # Errors
/// A cell cannot be read, or a conversation is not one.
pub fn read(format: Format, batch: &Batch, row: usize) -> Result<Option<Example>, Error> {
    let text = |column| Ok::<_, Error>(batch.cell(column, row)?.as_str().map(str::to_owned));
    let filled = |column| Ok::<_, Error>(text(column)?.filter(|text| !text.is_empty()));
    Ok(match format {
        Format::Text => filled("text")?.map(Example::Text),
        Format::Completion => {
            let (prompt, completion) = (text("prompt")?, filled("completion")?);
            prompt.zip(completion).map(|(prompt, completion)| Example::Completion { prompt, completion })
        }
        Format::Instruction => {
            let (instruction, input, output) = (text("instruction")?, filled("input")?, filled("output")?);
            instruction.zip(output).map(|(instruction, output)| Example::Instruction { instruction, input, output })
        }
        Format::Chat => {
            let tools = list(batch.cell("tools", row)?)?.filter(|tools| !tools.is_empty());
            let turns = if batch.has("completion") {
                text("prompt")?.zip(filled("completion")?).map(|(prompt, completion)| question(&prompt, &completion))
            } else {
                list(batch.cell("messages", row)?)?.filter(|turns| !turns.is_empty())
            };
            let chat = turns.map(|turns| conversation(turns, tools)).transpose()?.map(Example::Chat);
            let system = filled("system")?;
            chat.map(|chat| chat.with_system(system.as_deref()))
        }
    })
}

/// The turns of a question and its answer.
fn question(prompt: &str, completion: &str) -> Vec<Value> {
    vec![json!({"role": "user", "content": prompt}), json!({"role": "assistant", "content": completion})]
}

impl Example {
    /// The conversation with this system message in front, where it has none; any other example as it is.
    #[must_use]
    pub fn with_system(self, system: Option<&str>) -> Self {
        let (Self::Chat(mut conversation), Some(system)) = (self.clone(), system) else { return self };
        let is_system = |message: &Value| ["system", "developer"].iter().any(|role| message["role"] == *role);
        if !conversation.messages.iter().any(is_system) {
            conversation.messages.insert(0, json!({"role": "system", "content": system}));
        }
        Self::Chat(conversation)
    }
}

/// A conversation with the roles and keys that templates know.
///
/// # Errors
/// A turn is none: it has no role that is known, or says nothing.
pub fn conversation(turns: Vec<Value>, tools: Option<Vec<Value>>) -> Result<Conversation, Error> {
    let messages = turns.into_iter().enumerate().map(|(index, turn)| message(index, turn)).collect::<Result<_, _>>()?;
    let tools = tools.map(|tools| tools.into_iter().map(parsed).collect::<Result<_, _>>()).transpose()?;
    Ok(Conversation { messages, tools, variables: Map::new() })
}

/// A turn as templates expect it: `role` and `content` first, then what else it has. `content` is null where tools are called
/// without a word.
fn message(index: usize, turn: Value) -> Result<Value, Error> {
    let Value::Object(mut turn) = turn else { return Err(Error::NotAMessage { message: index, found: turn }) };
    let mut take = |key, sharegpt| turn.shift_remove(key).or_else(|| turn.shift_remove(sharegpt)).unwrap_or_default();
    let (said, content) = (take("role", "from"), take("content", "value"));
    let role = ROLES.iter().find(|(word, _)| said == *word).map(|(_, role)| *role);
    let role = role.ok_or(Error::Role { message: index, found: said })?;
    if let Some(calls) = list(turn.get("tool_calls").cloned().unwrap_or_default())? {
        turn.insert("tool_calls".into(), calls.into());
    } else if content.is_null() {
        return Err(Error::NoContent { message: index });
    }
    let mut message = Map::from_iter([("role".into(), json!(role)), ("content".into(), content)]);
    message.append(&mut turn);
    Ok(message.into())
}

/// A list, or the JSON text of one; null and empty text are none.
fn list(cell: Value) -> Result<Option<Vec<Value>>, Error> {
    match parsed(cell)? {
        Value::Null => Ok(None),
        Value::Array(items) => Ok(Some(items)),
        other => Err(Error::NotAList { reason: format!("it is `{other}`") }),
    }
}

fn parsed(cell: Value) -> Result<Value, Error> {
    match cell {
        Value::String(text) if text.trim().is_empty() => Ok(Value::Null),
        Value::String(text) => serde_json::from_str(&text).map_err(|error| Error::NotAList { reason: error.to_string() }),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::super::parquet::tests::{texts, write_table};
    use super::*;

    fn examples(format: Format, columns: Vec<(&str, ArrayRef)>) -> Result<Vec<Option<Example>>, Error> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.parquet");
        write_table(&path, columns, 1000);
        let table = Table::open(&path, &wanted(format, &BTreeMap::new()))?;
        let start = table.row_groups().next().expect("a row group");
        let batch = table.read(&start)?.next().expect("a batch")?;
        (0..batch.rows()).map(|row| read(format, &batch, row)).collect()
    }

    fn chat(messages: &str) -> Result<Option<Conversation>, Error> {
        let mut examples = examples(Format::Chat, vec![("messages", texts([messages]))])?;
        match examples.remove(0) {
            None => Ok(None),
            Some(Example::Chat(conversation)) => Ok(Some(conversation)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn empty_and_null_answers_have_nothing_to_learn() {
        let column = |rows: [Option<&str>; 4]| Arc::new(StringArray::from(rows.to_vec())) as ArrayRef;
        let given = column([Some("q"), Some(""), None, Some("q")]);
        let learned = column([Some("a"), Some("a"), Some("a"), Some("")]);
        let completion = |prompt: &str| Some(Example::Completion { prompt: prompt.into(), completion: "a".into() });
        let read = examples(Format::Completion, vec![("prompt", given), ("completion", learned.clone())]).expect("read");
        assert_eq!(read, [completion("q"), completion(""), None, None]);
        let read = examples(Format::Text, vec![("text", learned)]).expect("read");
        assert_eq!(read.iter().filter(|example| example.is_some()).count(), 3);
    }

    #[test]
    fn an_empty_input_is_none_and_a_file_may_do_without_the_column() {
        let columns = vec![("instruction", texts(["i", "i"])), ("output", texts(["o", "o"])), ("input", texts(["", "x"]))];
        let instruction = |input: Option<&str>| {
            Some(Example::Instruction { instruction: "i".into(), input: input.map(str::to_owned), output: "o".into() })
        };
        assert_eq!(examples(Format::Instruction, columns.clone()).expect("read"), [instruction(None), instruction(Some("x"))]);
        assert_eq!(examples(Format::Instruction, columns[..2].to_vec()).expect("read"), [instruction(None), instruction(None)]);
        let named = BTreeMap::from([("input".into(), "context".into())]);
        assert!(
            wanted(Format::Instruction, &named).iter().all(|column| !column.optional),
            "a column that is named must be there"
        );
    }

    #[test]
    fn sharegpt_turns_become_messages() {
        let conversation =
            chat(r#"[{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]"#);
        let expected =
            json!([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
        assert_eq!(Value::from(conversation.expect("read").expect("a conversation").messages), expected);
    }

    #[test]
    fn tool_calls_come_nested_or_as_json_and_need_no_content() {
        let call = json!([{"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}}]);
        for calls in [call.clone(), json!(call.to_string())] {
            let turns = json!([{"tool_calls": calls, "role": "assistant"}]).to_string();
            let messages = chat(&turns).expect("read").expect("a conversation").messages;
            let expected = json!([{"role": "assistant", "content": null, "tool_calls": call}]);
            assert_eq!(Value::from(messages).to_string(), expected.to_string(), "keys keep their order");
        }
    }

    #[test]
    fn tools_are_a_list_of_objects_or_of_json_texts() {
        let tool = json!({"type": "function", "function": {"name": "f"}});
        let turns = || ("messages", texts([r#"[{"role": "user", "content": "q"}]"#]));
        for tools in [json!([tool]), json!([tool.to_string()])] {
            let read = examples(Format::Chat, vec![turns(), ("tools", texts([&tools.to_string()]))]).expect("read");
            assert!(matches!(&read[0], Some(Example::Chat(conversation)) if conversation.tools == Some(vec![tool.clone()])));
        }
        let read = examples(Format::Chat, vec![turns(), ("tools", texts([""]))]).expect("read");
        assert!(matches!(&read[0], Some(Example::Chat(conversation)) if conversation.tools.is_none()));
    }

    #[test]
    fn what_is_no_conversation_is_told() {
        assert_eq!(chat("[]").expect("read"), None);
        assert_eq!(chat("null").expect("read"), None);
        let roles = "system, developer, user, assistant, tool, ipython, human, gpt";
        for (turns, expected) in [
            ("hello", "expected a list in JSON: expected value at line 1 column 1".to_owned()),
            ("{}", "expected a list in JSON: it is `{}`".to_owned()),
            ("[1]", "message 0 is 1, expected an object with `role` and `content`".to_owned()),
            (r#"[{"role": "bot", "content": "x"}]"#, format!("message 0 has role \"bot\", expected one of {roles}")),
            (r#"[{"content": "x"}]"#, format!("message 0 has role null, expected one of {roles}")),
            (r#"[{"role": "user"}]"#, "message 0 has neither `content` nor `tool_calls`".to_owned()),
        ] {
            assert_eq!(chat(turns).expect_err(turns).to_string(), expected);
        }
    }
}
