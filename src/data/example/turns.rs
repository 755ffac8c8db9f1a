//! Conversations in the field's usual forms, converted to the one form that chat templates read. As
//! in transformers 5.23, keys of a turn that are null are removed and none is added; the others
//! keep their order.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::conversation_error::ConversationError;
use super::roles::{ROLES, unknown_roles};
use crate::data::json_text::{self, parse};
use crate::data::template::{Conversation, REASONING};
use crate::terms::{NOT_VARIABLES, TrainOn};

/// Keys with which a dataset states whether a turn is trained: `OpenAI`'s, axolotl's and
/// ms-swift's.
const TRAINED: [&str; 3] = ["weight", "train", "loss"];
/// Types of content parts that are text, in `OpenAI`'s two APIs.
const TEXT_PARTS: [&str; 3] = ["text", "input_text", "output_text"];

/// A conversation, with the data's statements on which turns are trained.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chat {
    /// The conversation that the template renders.
    pub conversation: Conversation,
    /// Whether the data says to train each turn; `None` if it says nothing.
    pub trained: Vec<Option<bool>>,
    /// Number of turns at the start that are the prompt.
    pub prompt_turns: usize,
}

impl Chat {
    /// Returns whether each answer may be trained: the data does not forbid it and the answer is
    /// not part of a prompt, unless everything is trained.
    pub fn trained_answers(&self, train_on: TrainOn) -> Vec<bool> {
        let turns = self
            .conversation
            .messages
            .iter()
            .zip(&self.trained)
            .enumerate();
        let answers = turns.filter(|(_, (message, _))| message["role"] == "assistant");
        answers
            .map(|(turn, (_, trained))| {
                *trained != Some(false) && (train_on == TrainOn::All || turn >= self.prompt_turns)
            })
            .collect()
    }

    /// Whether the data's statement on a turn that is not an answer contradicts `train_on`.
    pub fn has_idle_weight(&self, train_on: TrainOn) -> bool {
        let mut turns = self.conversation.messages.iter().zip(&self.trained);
        turns.any(|(message, trained)| {
            message["role"] != "assistant" && *trained == Some(train_on != TrainOn::All)
        })
    }
}

impl From<Conversation> for Chat {
    fn from(conversation: Conversation) -> Self {
        Self {
            trained: vec![None; conversation.messages.len()],
            conversation,
            prompt_turns: 0,
        }
    }
}

/// Returns the turns in a cell: a list of objects or of their JSON texts, the JSON text of one, one
/// message, or an object with a list for each key, as `datasets` stores a sequence of objects.
/// `None` if there is none.
///
/// # Errors
/// The cell holds something else.
pub fn turns(cell: Value) -> Result<Option<Vec<Value>>, ConversationError> {
    let is_text = |turn: &Map<String, Value>| {
        let role = turn.get("role").or_else(|| turn.get("from"));
        role.is_some_and(Value::is_string)
    };
    let cell = match parsed(cell)? {
        Value::Object(turn) if is_text(&turn) => Value::Array(vec![Value::Object(turn)]),
        Value::Object(columns) if columns.contains_key("role") || columns.contains_key("from") => {
            by_turn(columns)?
        }
        other => other,
    };
    Ok(list(cell)?.filter(|turns| !turns.is_empty()))
}

/// Builds a conversation with the roles and keys that templates know. `roles` maps further words to
/// roles.
///
/// # Errors
/// A turn is invalid: it has no known role, no content, or content that is not text.
pub fn chat(
    turns: Vec<Value>,
    tools: Option<Vec<Value>>,
    roles: &BTreeMap<String, String>,
) -> Result<Chat, ConversationError> {
    let unknown = unknown_roles(&turns, roles);
    let read = turns
        .into_iter()
        .enumerate()
        .map(|(index, turn)| message(index, turn, roles));
    let read = read
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| match error {
            ConversationError::Role { message, found, .. } => ConversationError::Role {
                message,
                found,
                unknown: unknown.clone(),
            },
            other => other,
        });
    let (messages, trained) = read?.into_iter().unzip();
    Ok(Chat {
        conversation: Conversation {
            messages,
            tools,
            variables: Map::new(),
        },
        trained,
        prompt_turns: 0,
    })
}

/// Builds a conversation from another source than a dataset.
///
/// # Errors
/// A turn or a tool is invalid.
pub fn conversation(
    turns: Vec<Value>,
    tools: Option<Vec<Value>>,
) -> Result<Conversation, ConversationError> {
    let tools = tools
        .map(|tools| self::tools(tools.into()))
        .transpose()?
        .flatten();
    Ok(chat(turns, tools, &BTreeMap::new())?.conversation)
}

/// Returns the tools in a cell: a list of objects or of their JSON texts, the JSON text of one, or
/// one object. `None` if there is none.
///
/// # Errors
/// The cell holds something else.
pub fn tools(cell: Value) -> Result<Option<Vec<Value>>, ConversationError> {
    let items = match parsed(cell)? {
        tool @ Value::Object(_) => vec![tool],
        other => list(other)?.unwrap_or_default(),
    };
    let tool = |(index, mut item): (usize, Value)| {
        if !item.is_object() {
            return Err(ConversationError::NotATool {
                tool: index,
                found: item,
            });
        }
        parse_object(item.get_mut("function"))?;
        parse_object(item.get_mut("parameters"))?;
        parse_object(item.pointer_mut("/function/parameters"))?;
        Ok(item)
    };
    let tools: Vec<Value> = items
        .into_iter()
        .enumerate()
        .map(tool)
        .collect::<Result<_, _>>()?;
    Ok(Some(tools).filter(|tools| !tools.is_empty()))
}

/// Returns the variables of a chat template in a cell: an object, or the JSON text of one.
///
/// # Errors
/// The cell holds something else, or a variable has the name of a part of the conversation.
pub fn variables(cell: Value) -> Result<Map<String, Value>, ConversationError> {
    let variables = match parsed(cell)? {
        Value::Null => Map::new(),
        Value::Object(variables) => variables,
        found => return Err(ConversationError::NoVariables { found }),
    };
    match variables
        .keys()
        .find(|name| NOT_VARIABLES.contains(&name.as_str()))
    {
        Some(name) => Err(ConversationError::Reserved { name: name.clone() }),
        None => Ok(variables),
    }
}

/// Returns the earlier pairs of a user's message and its answer.
///
/// # Errors
/// The cell is not a list of pairs.
pub fn history(cell: Value) -> Result<Vec<(String, String)>, ConversationError> {
    let pair = |(entry, pair): (usize, Value)| {
        let texts = pair
            .as_array()
            .map(|texts| texts.iter().map(Value::as_str).collect::<Vec<_>>());
        match texts.as_deref() {
            Some([Some(said), Some(answer)]) => Ok(((*said).to_owned(), (*answer).to_owned())),
            _ => Err(ConversationError::NotAPair { entry, found: pair }),
        }
    };
    list(parsed(cell)?)?
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(pair)
        .collect()
}

/// Converts a turn to the form that templates expect, and returns whether the data says to train
/// it.
fn message(
    index: usize,
    turn: Value,
    roles: &BTreeMap<String, String>,
) -> Result<(Value, Option<bool>), ConversationError> {
    let Value::Object(turn) = turn else {
        return Err(ConversationError::NotAMessage {
            message: index,
            found: turn,
        });
    };
    let present = |key, other| {
        if turn.get(key).is_some_and(|value| !value.is_null()) {
            key
        } else {
            other
        }
    };
    let (role_key, content_key) = (present("role", "from"), present("content", "value"));
    let role = role(index, turn.get(role_key).unwrap_or(&Value::Null), roles)?;
    let (mut message, mut trained) = (Map::new(), None);
    for (key, value) in turn {
        match key.as_str() {
            _ if is_nothing(&key, &value) => {}
            name if name == role_key => drop(message.insert("role".into(), json!(role))),
            name if name == content_key => {
                drop(message.insert("content".into(), content(index, &role, value)?));
            }
            name if TRAINED.contains(&name) => {
                trained = Some(is_trained(index, name, value)? && trained != Some(false));
            }
            "tool_calls" => {
                if let Some(calls) = calls(index, value)? {
                    message.insert(key, calls.into());
                }
            }
            _ => drop(message.insert(key, value)),
        }
    }
    if !message.contains_key("content") && !message.contains_key("tool_calls") {
        return Err(ConversationError::NoContent { message: index });
    }
    Ok((message.into(), trained))
}

/// Whether a key carries no information: it is null, an empty list, or reasoning without text.
fn is_nothing(key: &str, value: &Value) -> bool {
    value.is_null()
        || value.as_array().is_some_and(Vec::is_empty)
        || (REASONING.contains(&key) && value == "")
}

fn role(
    index: usize,
    said: &Value,
    roles: &BTreeMap<String, String>,
) -> Result<String, ConversationError> {
    let own = said.as_str().and_then(|word| roles.get(word).cloned());
    let known = || {
        ROLES
            .iter()
            .find(|(word, _)| said == *word)
            .map(|(_, role)| (*role).to_owned())
    };
    own.or_else(known).ok_or_else(|| ConversationError::Role {
        message: index,
        found: said.clone(),
        unknown: Vec::new(),
    })
}

fn is_trained(index: usize, key: &str, value: Value) -> Result<bool, ConversationError> {
    let word = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_lowercase);
    match word.as_str() {
        "1" | "1.0" | "true" => Ok(true),
        "0" | "0.0" | "-0.0" | "false" => Ok(false),
        _ => Err(ConversationError::Weight {
            message: index,
            key: key.to_owned(),
            found: value,
        }),
    }
}

/// Reads the content of a turn: text, a list of text parts, or, in a tool's answer, any value.
/// [`crate::data::template::ChatTemplate::fit`] chooses the form for the template.
fn content(index: usize, role: &str, value: Value) -> Result<Value, ConversationError> {
    let is_of_tool = ["tool", "ipython", "function"].contains(&role);
    match value {
        Value::String(_) => Ok(value),
        Value::Array(parts) => match parts
            .iter()
            .map(|part| text_part(part).map(str::to_owned))
            .collect::<Result<Vec<_>, _>>()
        {
            Ok(texts) => Ok(texts
                .into_iter()
                .map(|text| json!({"type": "text", "text": text}))
                .collect()),
            Err(_) if is_of_tool => Ok(parts.into()),
            Err(found) => Err(ConversationError::Part {
                message: index,
                found,
            }),
        },
        Value::Object(_) if text_part(&value).is_ok() => content(index, role, json!([value])),
        _ if is_of_tool => Ok(value),
        _ => Err(ConversationError::Content {
            message: index,
            found: value,
        }),
    }
}

/// Returns the text of a content part, or the value that it is instead.
fn text_part(part: &Value) -> Result<&str, Value> {
    let kind = &part["type"];
    let is_text = kind.is_null() || kind.as_str().is_some_and(|kind| TEXT_PARTS.contains(&kind));
    let text = part
        .as_str()
        .or_else(|| part["text"].as_str().filter(|_| is_text));
    text.ok_or_else(|| {
        if kind.is_null() {
            part.clone()
        } else {
            json!({"type": kind})
        }
    })
}

/// Returns the calls of a turn: a list of objects or of their JSON texts, the JSON text of one, or
/// one object.
fn calls(index: usize, value: Value) -> Result<Option<Vec<Value>>, ConversationError> {
    let no_calls = |found: &Value| ConversationError::Call {
        message: index,
        found: found.clone(),
    };
    let no_calls_or_number = |error: ConversationError| {
        if matches!(error, ConversationError::Number(_)) {
            error
        } else {
            no_calls(&value)
        }
    };
    let items = match parsed(value.clone()).map_err(no_calls_or_number)? {
        call @ Value::Object(_) => vec![call],
        other => list(other).map_err(no_calls_or_number)?.unwrap_or_default(),
    };
    let call = |mut call: Value| {
        parse_object(call.get_mut("function"))?;
        // Arguments stay the text that they are until the template is known; their numbers are
        // looked at here.
        for place in ["/arguments", "/function/arguments"] {
            parse_object(call.clone().pointer_mut(place))?;
        }
        if call.is_object() {
            Ok(call)
        } else {
            Err(no_calls(&call))
        }
    };
    let calls: Vec<Value> = items.into_iter().map(call).collect::<Result<_, _>>()?;
    Ok(Some(calls).filter(|calls| !calls.is_empty()))
}

/// Replaces the JSON text of an object by the object.
fn parse_object(value: Option<&mut Value>) -> Result<(), ConversationError> {
    if let Some(value) = value
        && let Some(text) = value.as_str()
        && let Some(object) = json_text::object(text)?
    {
        *value = object;
    }
    Ok(())
}

/// Builds turns from one list per key.
fn by_turn(columns: Map<String, Value>) -> Result<Value, ConversationError> {
    let mut turns: Vec<Map<String, Value>> = Vec::new();
    let mut first: Option<String> = None;
    for (key, column) in columns.into_iter().filter(|(_, column)| !column.is_null()) {
        let Value::Array(values) = column else {
            return Err(ConversationError::NotAList {
                found: json!({key: column}),
            });
        };
        match &first {
            None => {
                turns = vec![Map::new(); values.len()];
                first = Some(key.clone());
            }
            Some(first) if values.len() != turns.len() => {
                return Err(ConversationError::Uneven {
                    first: first.clone(),
                    expected: turns.len(),
                    key,
                    found: values.len(),
                });
            }
            Some(_) => {}
        }
        for (turn, value) in turns.iter_mut().zip(values) {
            turn.insert(key.clone(), value);
        }
    }
    Ok(turns.into_iter().map(Value::Object).collect())
}

/// Reads a list whose items may be JSON texts; null is `None`.
fn list(value: Value) -> Result<Option<Vec<Value>>, ConversationError> {
    let item = |item: Value| match item
        .as_str()
        .filter(|text| text.trim_start().starts_with(['{', '[']))
    {
        Some(text) => Ok(parse(text)?),
        None => Ok(item),
    };
    match value {
        Value::Null => Ok(None),
        Value::Array(items) => items
            .into_iter()
            .map(item)
            .collect::<Result<_, ConversationError>>()
            .map(Some),
        found => Err(ConversationError::NotAList { found }),
    }
}

fn parsed(cell: Value) -> Result<Value, ConversationError> {
    Ok(match cell {
        Value::String(text) => parse(&text)?,
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages: Value) -> Result<Chat, ConversationError> {
        chat(turns(messages)?.unwrap_or_default(), None, &BTreeMap::new())
    }

    fn messages(messages: Value) -> String {
        Value::from(
            read(messages)
                .expect("a conversation")
                .conversation
                .messages,
        )
        .to_string()
    }

    #[test]
    fn sharegpt_turns_become_messages() {
        let said = json!([
            {"from": "system", "value": "s"},
            {"from": "human", "value": "q"},
            {"value": "a", "from": "gpt"},
        ]);
        let expected = json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"content": "a", "role": "assistant"},
        ]);
        assert_eq!(
            messages(said),
            expected.to_string(),
            "keys keep their order"
        );
    }

    #[test]
    fn every_way_to_keep_turns_reads_the_same() {
        let expected =
            json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
        let texts: Value = expected
            .as_array()
            .expect("a list")
            .iter()
            .map(|turn| json!(turn.to_string()))
            .collect();
        let columns =
            json!({"role": ["user", "assistant"], "content": ["q", "a"], "name": [null, null]});
        for form in [
            expected.clone(),
            json!(expected.to_string()),
            texts,
            columns.clone(),
            json!(columns.to_string()),
        ] {
            assert_eq!(messages(form.clone()), expected.to_string(), "{form}");
        }
        let uneven =
            read(json!({"role": ["user", "assistant"], "content": ["q"]})).expect_err("uneven");
        assert!(
            uneven
                .to_string()
                .starts_with("`content` has 1 turns and `role` has 2"),
            "{uneven}"
        );
    }

    #[test]
    fn keys_that_are_null_or_empty_are_no_keys_and_none_is_added() {
        let call = json!([{"function": {"name": "f", "arguments": {"b": null}}}]);
        let turn = json!([{
            "role": "assistant", "content": null, "name": null, "tool_calls": call,
            "annotations": [], "reasoning": "",
        }]);
        assert_eq!(
            messages(turn),
            json!([{"role": "assistant", "tool_calls": call}]).to_string()
        );
        let turn = json!([{"role": "user", "content": "", "tool_calls": []}]);
        assert_eq!(messages(turn), r#"[{"role":"user","content":""}]"#);
    }

    #[test]
    fn tool_calls_come_as_objects_or_as_json_and_need_no_content() {
        let call =
            json!({"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}});
        let function = json!({"type": "function", "function": call["function"].to_string()});
        let list = json!([call]);
        for calls in [
            list.clone(),
            json!(list.to_string()),
            json!([call.to_string()]),
            call.clone(),
            json!([function]),
        ] {
            let expected = json!([{"tool_calls": [call], "role": "assistant"}]);
            assert_eq!(
                messages(json!([{"tool_calls": calls, "role": "assistant"}])),
                expected.to_string()
            );
        }
    }

    #[test]
    fn tools_are_a_list_of_objects_or_of_json_texts_or_one() {
        let function = json!({"name": "f", "parameters": {"type": "object"}});
        let tool = json!({"type": "function", "function": function});
        let mut text = tool.clone();
        text["function"]["parameters"] = json!(r#"{"type": "object"}"#);
        for cell in [
            json!([tool]),
            json!([tool.to_string()]),
            tool.clone(),
            json!(tool.to_string()),
            json!([text]),
        ] {
            assert_eq!(tools(cell), Ok(Some(vec![tool.clone()])));
        }
        for none in [
            json!(null),
            json!(""),
            json!("null"),
            json!([]),
            json!("[]"),
        ] {
            assert_eq!(tools(none), Ok(None));
        }
        assert_eq!(
            tools(json!(["f"])).expect_err("a name").to_string(),
            "tool 0 is \"f\", expected an object that describes a function"
        );
    }

    #[test]
    fn content_parts_are_text_or_refused() {
        let parts =
            json!([{"role": "user", "content": [{"type": "input_text", "text": "a"}, "b"]}]);
        let text = |text: &str| json!({"type": "text", "text": text});
        let expected = json!([{"role": "user", "content": [text("a"), text("b")]}]);
        assert_eq!(messages(parts), expected.to_string());
        for (content, said) in [
            (
                json!([{"type": "image_url", "image_url": {"url": "x"}}]),
                r#"a content part {"type":"image_url"}"#,
            ),
            (json!(5), "content 5, expected text"),
            (json!(true), "content true, expected text"),
            (json!({"a": 1}), r#"content {"a":1}, expected text"#),
        ] {
            let refused = read(json!([{"role": "user", "content": content}]))
                .expect_err(said)
                .to_string();
            assert!(refused.contains(said), "{refused}");
            assert!(
                read(json!([{"role": "tool", "content": content}])).is_ok(),
                "a tool may answer with any value"
            );
        }
    }

    #[test]
    fn a_turn_is_trained_or_not_as_the_data_says() {
        let trained = |turn: Value| read(json!([turn])).map(|chat| chat.trained[0]);
        let turn =
            |key: &str, value: Value| json!({"role": "assistant", "content": "a", key: value});
        for (value, expected) in [
            (json!(0), false),
            (json!(1.0), true),
            (json!(false), false),
            (json!("0"), false),
            (json!("True"), true),
        ] {
            for key in TRAINED {
                assert_eq!(trained(turn(key, value.clone())), Ok(Some(expected)));
            }
        }
        assert_eq!(trained(turn("weight", json!(null))), Ok(None));
        assert_eq!(
            trained(json!({"role": "assistant", "content": "a", "weight": 0, "train": true})),
            Ok(Some(false))
        );
        let half = trained(turn("weight", json!(0.5)))
            .expect_err("half")
            .to_string();
        assert!(
            half.starts_with("message 0 has `weight` 0.5, expected 0, 1, true or false"),
            "{half}"
        );
    }

    #[test]
    fn what_is_no_conversation_is_told() {
        assert_eq!(
            (turns(json!("[]")), turns(json!("null")), turns(json!(""))),
            (Ok(None), Ok(None), Ok(None))
        );
        let known = "expected one of system, developer, user, assistant, tool, ipython, human, gpt";
        for (turns, expected) in [
            (
                "hello",
                "expected a list in JSON: expected value at line 1 column 1".to_owned(),
            ),
            ("{}", "expected a list in JSON: it is `{}`".to_owned()),
            (
                "[1]",
                "message 0 is 1, expected an object with `role` and `content`".to_owned(),
            ),
            (
                r#"[{"content": "x"}]"#,
                format!("message 0 has role null, {known}"),
            ),
            (
                r#"[{"role": "user"}]"#,
                "message 0 has neither `content` nor `tool_calls`".to_owned(),
            ),
        ] {
            assert_eq!(read(json!(turns)).expect_err(turns).to_string(), expected);
        }
    }

    #[test]
    fn a_role_of_other_data_sets_is_proposed_and_mapped() {
        for (word, proposal) in [
            (
                "bot",
                "; if that is meant, add `roles: {bot: assistant}` to the dataset",
            ),
            (
                "model",
                "; if that is meant, add `roles: {model: assistant}` to the dataset",
            ),
            (
                "function_call",
                "; if that is meant, add `roles: {function_call: assistant}` to the dataset",
            ),
            (
                "observation",
                "; if that is meant, add `roles: {observation: tool}` to the dataset",
            ),
            (
                "User",
                "; if that is meant, add `roles: {User: user}` to the dataset",
            ),
            (
                "GPT",
                "; if that is meant, add `roles: {GPT: assistant}` to the dataset",
            ),
            (
                "the jury",
                "; `roles` of the dataset says which one it is, such as `roles: {judge: user}`",
            ),
        ] {
            let turn = json!([{"role": word, "content": "x"}]);
            let refused = read(turn.clone()).expect_err(word).to_string();
            assert!(refused.ends_with(proposal), "{refused}");
            let roles = BTreeMap::from([(word.to_owned(), "critic".to_owned())]);
            let mapped =
                chat(turns(turn).expect("turns").expect("some"), None, &roles).expect("mapped");
            assert_eq!(mapped.conversation.messages[0]["role"], "critic");
        }
    }

    #[test]
    fn a_number_in_arguments_keeps_its_digits_or_is_refused() {
        let turn = |arguments: &str| {
            let call = json!({"function": {"name": "f", "arguments": arguments}});
            json!([{"role": "assistant", "tool_calls": [call]}])
        };
        assert!(read(turn(r#"{"n": 18446744073709551615}"#)).is_ok());
        let refused = read(turn(r#"{"n": 18446744073709551616}"#))
            .expect_err("too long")
            .to_string();
        assert_eq!(
            refused,
            "the whole number 18446744073709551616 does not fit in 64 bits, write it as text"
        );
    }

    #[test]
    fn a_history_is_a_list_of_pairs() {
        let pairs = vec![("q".to_owned(), "a".to_owned())];
        assert_eq!(history(json!([["q", "a"]])), Ok(pairs.clone()));
        assert_eq!(history(json!(r#"[["q", "a"]]"#)), Ok(pairs));
        assert_eq!(history(json!(null)), Ok(Vec::new()));
        let refused = history(json!([["q"]]))
            .expect_err("half a pair")
            .to_string();
        assert!(
            refused.starts_with(r#"entry 0 of the history is ["q"], expected a list of two texts"#),
            "{refused}"
        );
    }
}
