//! Values that a dataset writes in one form and a template reads in another: arguments of calls
//! (objects or their JSON text), contents in parts, and answers of tools. The form that a template
//! prints is found by rendering it with a marker word in place of the value.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{ChatTemplate, Conversation, TemplateError, json::dumps};
use crate::data::json_text;

/// Marker for a text.
const WORD: &str = "rankine_probe";
/// Marker for an object in JSON, as Python writes it and without spaces.
const OBJECT: [&str; 2] = [r#"{"rankine_probe": 1}"#, r#"{"rankine_probe":1}"#];

impl ChatTemplate {
    /// Converts each value of the conversation to the form that the template prints: arguments to
    /// objects unless it takes text, contents of text parts to joined text unless it takes parts,
    /// answers of tools to JSON text unless it takes values.
    pub fn fit<'a>(&self, conversation: &'a Conversation) -> Cow<'a, Conversation> {
        let mut fitted = Cow::Borrowed(conversation);
        if has(conversation, |turn| parts(turn).is_some()) && !self.takes_parts(conversation) {
            let join = |turn: &mut Value| {
                if let Some(text) = parts(turn) {
                    turn["content"] = text.into();
                }
            };
            fitted.to_mut().messages.iter_mut().for_each(join);
        }
        if has(conversation, is_value) && !self.takes_values(&fitted) {
            fitted
                .to_mut()
                .messages
                .iter_mut()
                .filter(|turn| is_value(turn))
                .for_each(|turn| {
                    turn["content"] = dumps(&turn["content"]).into();
                });
        }
        if has(conversation, |turn| {
            arguments(turn).any(|value| value.as_str().is_some_and(is_object_text))
        }) {
            if !self.takes_text_arguments(&fitted) {
                change_arguments(fitted.to_mut(), |value| value.as_str().and_then(object));
            }
        } else if has(conversation, |turn| arguments(turn).any(Value::is_object)) {
            return self.with_text_arguments(fitted);
        }
        fitted
    }

    /// Whether the template iterates over content parts. A template that does not prints them as a
    /// list, fails on them, or loses them.
    fn takes_parts(&self, conversation: &Conversation) -> bool {
        let put = |turn: &mut Value| {
            if parts(turn).is_some() {
                turn["content"] = json!([{"type": "text", "text": WORD}]);
            }
        };
        let is_list = |text: &str| {
            ["'type': 'text'", r#""type": "text""#, r#""type":"text""#]
                .iter()
                .any(|key| text.contains(key))
        };
        let without = |turn: &mut Value| {
            if parts(turn).is_some() {
                turn["content"] = "".into();
            }
        };
        // Tools and calls may hold such a key too.
        let is_list_anyway = self
            .prints(conversation, without)
            .is_some_and(|text| is_list(&text));
        self.prints(conversation, put)
            .is_some_and(|text| text.contains(WORD) && (is_list_anyway || !is_list(&text)))
    }

    /// Whether the template takes a tool's answer as a value and writes it as JSON itself.
    fn takes_values(&self, conversation: &Conversation) -> bool {
        let put = |turn: &mut Value| match &mut turn["content"] {
            content @ Value::Object(_) => *content = json!({WORD: 1}),
            content @ Value::Array(_) => *content = json!([{WORD: 1}]),
            _ => {}
        };
        let put = |turn: &mut Value| {
            if is_value(turn) {
                put(turn);
            }
        };
        let is_one = |turn: &Value| {
            is_value(turn) && (turn["content"].is_object() || turn["content"].is_array())
        };
        has(conversation, is_one)
            && self
                .prints(conversation, put)
                .is_some_and(|text| OBJECT.iter().any(|word| text.contains(word)))
    }

    /// Whether the template takes arguments as text. Such a template writes the text as it is; a
    /// template that formats it as JSON escapes its quotes.
    fn takes_text_arguments(&self, conversation: &Conversation) -> bool {
        let mut other = conversation.clone();
        change_arguments(&mut other, |_| Some(OBJECT[0].into()));
        self.render(&other, false)
            .is_ok_and(|text| text.contains(OBJECT[0]))
    }

    /// Converts argument objects to text if the template fails on objects and not on text.
    fn with_text_arguments<'a>(
        &self,
        conversation: Cow<'a, Conversation>,
    ) -> Cow<'a, Conversation> {
        if !matches!(
            self.render(&conversation, false),
            Err(TemplateError::Render { .. })
        ) {
            return conversation;
        }
        let mut other = conversation.clone().into_owned();
        change_arguments(&mut other, |value| {
            value.is_object().then(|| dumps(value).into())
        });
        if self.render(&other, false).is_ok() {
            Cow::Owned(other)
        } else {
            conversation
        }
    }

    /// Renders the conversation with its turns changed; `None` if that fails.
    fn prints(&self, conversation: &Conversation, change: impl Fn(&mut Value)) -> Option<String> {
        let mut other = conversation.clone();
        other.messages.iter_mut().for_each(change);
        self.render(&other, false).ok()
    }
}

fn has(conversation: &Conversation, is: impl Fn(&Value) -> bool) -> bool {
    conversation.messages.iter().any(is)
}

/// Returns the joined text of a turn whose content is a list of text parts and nothing else.
fn parts(turn: &Value) -> Option<String> {
    let text = |part: &Value| {
        part["text"]
            .as_str()
            .filter(|_| part["type"] == "text")
            .map(str::to_owned)
    };
    turn["content"]
        .as_array()
        .filter(|parts| !parts.is_empty())?
        .iter()
        .map(text)
        .collect()
}

/// Whether a turn's content is neither text nor parts of text.
fn is_value(turn: &Value) -> bool {
    let content = &turn["content"];
    !content.is_null() && !content.is_string() && parts(turn).is_none()
}

/// Returns the JSON pointer to a call's arguments: in its function, or beside its name.
fn place(call: &Value) -> &'static str {
    if call["function"].is_object() {
        "/function/arguments"
    } else {
        "/arguments"
    }
}

/// Returns the arguments of a turn's calls.
fn arguments(turn: &Value) -> impl Iterator<Item = &Value> {
    turn["tool_calls"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|call| call.pointer(place(call)))
}

fn change_arguments(conversation: &mut Conversation, change: impl Fn(&Value) -> Option<Value>) {
    for turn in &mut conversation.messages {
        let Some(calls) = turn.get_mut("tool_calls").and_then(Value::as_array_mut) else {
            continue;
        };
        for call in calls {
            let place = place(call);
            if let Some(arguments) = call.pointer_mut(place)
                && let Some(other) = change(arguments)
            {
                *arguments = other;
            }
        }
    }
}

/// Whether a text is the JSON text of arguments. A function without arguments may have an empty
/// text.
fn is_object_text(text: &str) -> bool {
    object(text).is_some()
}

fn object(text: &str) -> Option<Value> {
    if text.trim().is_empty() {
        Some(json!({}))
    } else {
        json_text::object(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenizer::special::SpecialTokens;

    fn rendered(source: &str, messages: Value) -> String {
        let template = ChatTemplate::new(
            source,
            &SpecialTokens::default(),
            jiff::Timestamp::UNIX_EPOCH,
        )
        .expect("valid");
        let messages = serde_json::from_value(messages).expect("a list");
        let conversation = Conversation {
            messages,
            ..Conversation::default()
        };
        template
            .render(&template.fit(&conversation), false)
            .expect("rendered")
    }

    #[test]
    fn arguments_have_the_form_that_the_template_prints() {
        let calls = |argument: Value| {
            let call = json!({"function": {"name": "f", "arguments": argument}});
            json!([{"role": "assistant", "tool_calls": [call]}])
        };
        let flat = |argument: Value| {
            let call = json!({"name": "f", "arguments": argument});
            json!([{"role": "assistant", "tool_calls": [call]}])
        };
        let (text, object) = (json!(r#"{"b":1,"a":[]}"#), json!({"b": 1, "a": []}));
        let each = |body: &str| {
            format!(
                "{{% for m in messages %}}{{% for c in m.tool_calls %}}{body}{{% \
                endfor %}}{{% endfor %}}"
            )
        };
        let (json, spaced) = (r#"{"b":1,"a":[]}"#, r#"{"b": 1, "a": []}"#);
        for (body, of_text, of_object) in [
            ("{{ c.function.arguments | tojson }}", spaced, spaced),
            (
                "{{ 'x' + c.function.arguments }}",
                &*format!("x{json}"),
                &*format!("x{spaced}"),
            ),
            ("{{ c.function.arguments }}", json, "{'b': 1, 'a': []}"),
            (
                "{% set a = c.function.arguments %}{{ a if a is string else a | tojson }}",
                json,
                spaced,
            ),
            (
                "{% for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}",
                "b=1;a=[];",
                "b=1;a=[];",
            ),
        ] {
            assert_eq!(
                rendered(&each(body), calls(text.clone())),
                of_text,
                "{body}"
            );
            assert_eq!(
                rendered(&each(body), calls(object.clone())),
                of_object,
                "{body}"
            );
        }
        assert_eq!(
            rendered(&each("{{ c.arguments | tojson }}"), flat(text)),
            spaced
        );
        assert_eq!(
            rendered(
                &each("{{ c.function.arguments | tojson }}"),
                calls(json!(""))
            ),
            "{}"
        );
        assert_eq!(
            rendered(
                &each("{{ c.function.arguments | tojson }}"),
                calls(json!("{}"))
            ),
            "{}"
        );
        assert_eq!(
            rendered(
                &each("{{ c.function.arguments | tojson }}"),
                calls(json!("none"))
            ),
            "\"none\""
        );
    }

    #[test]
    fn parts_are_joined_unless_the_template_takes_parts() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let said = json!([{"role": "user", "content": [text("a "), text("b")]}]);
        for source in [
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
            "{% for m in messages %}{% if m.content is string %}{{ m.content \
            }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}",
        ] {
            assert_eq!(rendered(source, said.clone()), "a b", "{source}");
        }
        // As transformers renders them: the list that a template goes through stays a list.
        let trims = "{% for m in messages %}{% if m.content is string %}{{ m.content \
            }}{% else %}{% for p in m.content %}{{ p.text | trim \
            }}|{% endfor %}{% endif %}{% endfor %}";
        assert_eq!(rendered(trims, said), "a|b|");
    }

    #[test]
    fn what_a_tool_answers_is_json() {
        let said = |content: Value| json!([{"role": "tool", "content": content}]);
        let plain = "{% for m in messages %}{{ m.content }}{% endfor %}";
        let own = "{% for m in messages %}{% if m.content is mapping or m.content is iterable %}{{ \
            m.content | tojson }}{% else %}{{ m.content }}{% endif %}{% endfor %}";
        for source in [plain, own] {
            assert_eq!(rendered(source, said(json!({"a": true}))), r#"{"a": true}"#);
            assert_eq!(rendered(source, said(json!([{"a": 1}]))), r#"[{"a": 1}]"#);
        }
        assert_eq!(
            (
                rendered(plain, said(json!(20))),
                rendered(plain, said(json!(true)))
            ),
            ("20".into(), "true".into())
        );
    }
}
