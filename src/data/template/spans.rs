//! The assistant's text in a template that does not mark it, found from the outside: by sentinels
//! around each answer, otherwise by prefixes of the conversation. Both check themselves against the
//! plain rendering and give up rather than guess.

use std::ops::Range;

use serde_json::Value;

use super::single::Single;
use super::{Conversation, REASONING, Rendered, TemplateError};
use crate::data::tokenizer::special::ENDS_OF_TURNS;

impl Single {
    /// Renders a conversation and finds its spans by the first way that works.
    pub(super) fn find_spans(
        &self,
        conversation: &Conversation,
        prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        let text = self.text(conversation, prompt)?;
        // A template that trims answers takes sentinels around the words, not around the blanks.
        let by_sentinels = |trims| self.spans_by_sentinels(conversation, prompt, &text, trims);
        let assistant = by_sentinels(false).or_else(|whole| by_sentinels(true).map_err(|_| whole));
        let assistant = assistant.or_else(|sentinels| {
            let by_prefixes = self.spans_by_prefixes(conversation, &text);
            by_prefixes.map_err(|prefixes| TemplateError::NoSpans {
                reason: format!("{sentinels}, and {prefixes}"),
            })
        })?;
        Ok(Rendered { text, assistant })
    }

    /// Wraps the content of each assistant turn in marks and renders the whole. A span goes from
    /// the end of the prompt to the special token that follows the content, so that the end of the
    /// turn is trained. With `trims` the marks leave out the blanks around the content.
    fn spans_by_sentinels(
        &self,
        conversation: &Conversation,
        prompt: bool,
        text: &str,
        trims: bool,
    ) -> Result<Vec<Range<usize>>, String> {
        let mut marked = conversation.messages.clone();
        let mut turns = Vec::new();
        for (turn, message) in marked
            .iter_mut()
            .enumerate()
            .filter(|(_, message)| is_assistant(message))
        {
            let content = only_content(message)?;
            let words = if trims {
                content.trim()
            } else {
                content.as_str()
            };
            let start = if trims {
                content.len() - content.trim_start().len()
            } else {
                0
            };
            let (before, after) = (&content[..start], &content[start + words.len()..]);
            *content = format!("{before}{}{after}", self.engine.marks.wrap(words));
            turns.push(turn);
        }
        let rendered = self
            .run(&self.engine, conversation, &marked, prompt)
            .ok()
            .filter(|rendered| rendered.text == text);
        let spans = rendered
            .ok_or("an answer is changed by the template as it is rendered")?
            .assistant;
        if spans.len() != turns.len() {
            return Err(format!(
                "the template renders {} of {} answers",
                spans.len(),
                turns.len()
            ));
        }
        let ends = self.ends_of_last(conversation, &marked, turns.last().copied(), (text, &spans));
        let widened = turns.into_iter().zip(spans).map(|(turn, span)| {
            let start = self
                .end_of_prompt(conversation, turn, text)
                .filter(|end| *end <= span.start);
            self.up_to_end_of_turn(text, start.unwrap_or(span.start)..span.end, &ends)
        });
        widened.collect()
    }

    /// Returns the special tokens with which the template ends the last answer when nothing
    /// follows, so that none of them begins a turn: some templates end an answer and then its turn.
    /// `marked` holds the messages with sentinels.
    fn ends_of_last(
        &self,
        conversation: &Conversation,
        marked: &[Value],
        last: Option<usize>,
        (text, spans): (&str, &[Range<usize>]),
    ) -> Vec<String> {
        let rendered = last.and_then(|last| {
            self.run(&self.engine, conversation, &marked[..=last], false)
                .ok()
        });
        let Some((rendered, span)) = rendered
            .as_ref()
            .and_then(|rendered| Some((rendered, rendered.assistant.last()?)))
        else {
            return Vec::new();
        };
        let mut ends = self.specials(&rendered.text[span.end..]);
        let first = conversation.messages[0]["content"]
            .as_str()
            .and_then(|content| text.find(content))
            .unwrap_or(0);
        let opener = self
            .specials(&text[..first])
            .into_iter()
            .find(|token| self.special.bos.as_deref() != Some(*token));
        // A template may write the prompt for an answer although nobody asked for one.
        let prompts: Vec<&str> = spans
            .iter()
            .filter_map(|span| self.last_special(&text[..span.start]))
            .collect();
        let begins = |token: &str, is_alone: bool| {
            Some(token) == opener || (!is_alone && prompts.contains(&token))
        };
        while ends
            .last()
            .is_some_and(|token| !self.is_end(token) && begins(token, ends.len() == 1))
        {
            ends.pop();
        }
        ends.into_iter().map(str::to_owned).collect()
    }

    /// Returns the consecutive special tokens at the start of a text.
    fn specials<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let (mut found, mut rest) = (Vec::new(), text);
        let longest = |rest: &str| {
            self.special
                .all
                .iter()
                .filter(|token| rest.starts_with(token.as_str()))
                .map(String::len)
                .max()
        };
        while let Some(bytes) = longest(rest).filter(|bytes| *bytes > 0) {
            let (token, after) = rest.split_at(bytes);
            found.push(token);
            rest = after;
        }
        found
    }

    fn last_special(&self, text: &str) -> Option<&str> {
        let all = self.special.all.iter().filter(|token| !token.is_empty());
        let last = all.filter_map(|token| Some((text.rfind(token.as_str())?, token.as_str())));
        last.max_by_key(|(at, token)| at + token.len())
            .map(|(_, token)| token)
    }

    /// Whether a token ends a turn or a text in any template.
    fn is_end(&self, token: &str) -> bool {
        let of_model = || {
            self.special
                .ends
                .iter()
                .chain(&self.special.eos)
                .any(|end| end == token)
        };
        ENDS_OF_TURNS.contains(&token) || of_model()
    }

    /// Returns the end of the prompt for a turn, if the template has one. Text that a template
    /// writes between prompt and content, such as the empty `<think>` block, must be written by the
    /// model.
    fn end_of_prompt(&self, conversation: &Conversation, turn: usize, text: &str) -> Option<usize> {
        let before = |prompt| {
            self.run(
                &self.engine,
                conversation,
                &conversation.messages[..turn],
                prompt,
            )
            .ok()
        };
        let prompted = before(true)?.text;
        (text.starts_with(&prompted) && before(false)?.text != prompted).then_some(prompted.len())
    }

    /// Extends a span by the special tokens that end its answer: as many as also end the last
    /// answer, or up to one that is always an end. Anything after them begins the next turn.
    fn up_to_end_of_turn(
        &self,
        text: &str,
        span: Range<usize>,
        ends: &[String],
    ) -> Result<Range<usize>, String> {
        let follow = self.specials(&text[span.end..]);
        let as_last = follow
            .iter()
            .zip(ends)
            .take_while(|(token, end)| *token == end)
            .count();
        let always = follow
            .iter()
            .rposition(|token| self.is_end(token))
            .map_or(0, |place| place + 1);
        match (as_last.max(always), follow.first()) {
            (0, None) => Err("an answer is not followed by a special token".to_owned()),
            (0, Some(token)) => Err(format!(
                "an answer is followed by `{token}`, which ends no turn: the model \
                would not learn to stop"
            )),
            (count, _) => Ok(span.start
                ..span.end
                    + follow[..count]
                        .iter()
                        .map(|token| token.len())
                        .sum::<usize>()),
        }
    }

    /// Renders the conversation up to each assistant turn, once with the prompt for it and once
    /// with the turn. The whole rendering must begin with both.
    fn spans_by_prefixes(
        &self,
        conversation: &Conversation,
        text: &str,
    ) -> Result<Vec<Range<usize>>, String> {
        let messages = &conversation.messages;
        let prompt = self
            .prompt(conversation)
            .filter(|prompt| !prompt.is_empty());
        let turns = (0..messages.len()).filter(|turn| is_assistant(&messages[*turn]));
        turns
            .map(|turn| {
                let start = self.prefix_bytes(conversation, &messages[..turn], true, text)?;
                let end = self.prefix_bytes(conversation, &messages[..=turn], false, text)?;
                let answer = text.get(start..end).filter(|answer| !answer.is_empty());
                let answer = answer.ok_or("the prompt for an answer is not what precedes it")?;
                if !answer.contains(said(&messages[turn])) {
                    return Err("the template does not render an answer's words".to_owned());
                }
                // Some templates write a prompt behind a user's turn only, and what begins a turn
                // is not the model's elsewhere either.
                let header = prompt
                    .as_ref()
                    .filter(|prompt| answer.starts_with(prompt.as_str()))
                    .map_or(0, String::len);
                let (start, answer) = (start + header, &answer[header..]);
                Ok(start..start + self.without_break(answer).len())
            })
            .collect()
    }

    /// Returns the assistant's prompt: the text that the template adds after the turns up to the
    /// first user's.
    fn prompt(&self, conversation: &Conversation) -> Option<String> {
        let messages = &conversation.messages;
        let user = messages
            .iter()
            .position(|message| message["role"] == "user")?;
        let before = |prompt| {
            self.run(&self.engine, conversation, &messages[..=user], prompt)
                .ok()
                .map(|rendered| rendered.text)
        };
        Some(before(true)?.strip_prefix(&before(false)?)?.to_owned())
    }

    fn prefix_bytes(
        &self,
        conversation: &Conversation,
        messages: &[Value],
        prompt: bool,
        text: &str,
    ) -> Result<usize, String> {
        let prefix = self
            .run(&self.engine, conversation, messages, prompt)
            .map_err(|error| error.to_string())?
            .text;
        let turns = messages.len();
        text.starts_with(&prefix)
            .then_some(prefix.len())
            .ok_or(format!(
                "the first {turns} turns alone render to another text"
            ))
    }

    /// Returns an answer without the white space after the special token at its end: a model stops
    /// at the token and never writes the line break.
    fn without_break<'a>(&self, answer: &'a str) -> &'a str {
        let trimmed = answer.trim_end();
        if self
            .special
            .all
            .iter()
            .any(|token| trimmed.ends_with(token.as_str()))
        {
            trimmed
        } else {
            answer
        }
    }
}

/// Returns the part of a turn's text that every template keeps: templates may leave out thinking
/// before it, or text beside a call.
fn said(message: &Value) -> &str {
    if !is_nothing(&message["tool_calls"]) {
        return "";
    }
    let content = &message["content"];
    let content = content
        .as_str()
        .or_else(|| content[0]["text"].as_str())
        .unwrap_or_default();
    content.rsplit("</think>").next().unwrap_or(content).trim()
}

fn is_assistant(message: &Value) -> bool {
    message["role"] == "assistant"
}

/// Returns the content of a turn that has nothing else: calls and reasoning would be outside its
/// sentinels.
fn only_content(message: &mut Value) -> Result<&mut String, String> {
    if let Some(beside) = REASONING
        .iter()
        .chain(&["tool_calls"])
        .find(|name| !is_nothing(&message[**name]))
    {
        return Err(format!("an answer has `{beside}` beside its content"));
    }
    match message.get_mut("content") {
        Some(Value::String(content)) => Ok(content),
        Some(Value::Array(parts)) if parts.len() == 1 => match parts[0].get_mut("text") {
            Some(Value::String(text)) => Ok(text),
            _ => Err("an answer's content is not a text".to_owned()),
        },
        _ => Err("an answer's content is not a text".to_owned()),
    }
}

/// Whether a value is an empty list of calls, or reasoning without text.
fn is_nothing(value: &Value) -> bool {
    value.is_null() || value == "" || value.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::ChatTemplate;
    use super::*;
    use crate::data::tokenizer::special::SpecialTokens;
    use crate::data::tokenizer::tokenize::Tokenizer;

    fn special() -> SpecialTokens {
        let all = ["<s>", "</s>", "<|end|>"].map(str::to_owned).to_vec();
        SpecialTokens {
            bos: Some("<s>".to_owned()),
            eos: Some("</s>".to_owned()),
            all,
            ..SpecialTokens::default()
        }
    }

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, &special(), "2025-01-01T00:00:00Z".parse().unwrap()).unwrap()
    }

    fn conversation(messages: Value) -> Conversation {
        Conversation {
            messages: serde_json::from_value(messages).unwrap(),
            ..Conversation::default()
        }
    }

    fn spans(source: &str, messages: Value) -> Result<Vec<String>, TemplateError> {
        let rendered = template(source).render_with_spans(&conversation(messages), false)?;
        Ok(rendered
            .assistant
            .into_iter()
            .map(|span| rendered.text[span].to_owned())
            .collect())
    }

    #[test]
    fn a_template_that_leaves_the_answers_out_is_refused() {
        let roles = "{% for message in messages %}{{ message.role }}{% endfor %}";
        assert!(matches!(
            spans(roles, dialogue()),
            Err(TemplateError::NoSpans { .. })
        ));
    }

    fn dialogue() -> Value {
        serde_json::json!([
            {"role": "user", "content": "Grüße 🙂"}, {"role": "assistant", "content": "é🙂"},
            {"role": "user", "content": "é🙂"}, {"role": "assistant", "content": " bye\n"},
        ])
    }

    #[test]
    fn sentinels_train_the_end_of_the_turn_and_nothing_after_it() {
        let source = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content \
            }}<|end|>\n{% endfor %}";
        assert_eq!(
            spans(source, dialogue()).unwrap(),
            ["é🙂<|end|>", " bye\n<|end|>"]
        );
    }

    #[test]
    fn prefixes_serve_where_the_template_changes_an_answer() {
        let turns = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim \
            }}<|end|>\n{% endfor %}";
        let source = format!("{turns}{{% if add_generation_prompt %}}<assistant>{{% endif %}}");
        assert_eq!(
            spans(&source, dialogue()).unwrap(),
            ["é🙂<|end|>", "bye<|end|>"]
        );
    }

    #[test]
    fn calls_are_trained_with_their_turn() {
        let turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ m.tool_calls | tojson \
            if m.tool_calls }}</s>{% endfor %}";
        let source = format!("{turns}{{% if add_generation_prompt %}}<assistant>{{% endif %}}");
        let call = serde_json::json!([
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]},
        ]);
        assert_eq!(spans(&source, call).unwrap(), ["[{\"id\": 1}]</s>"]);
    }

    #[test]
    fn a_template_that_hides_its_answers_is_refused_with_both_reasons() {
        let source = "{% for m in messages %}{{ m.content | trim \
            }}{% endfor %}{% if add_generation_prompt %}>{% endif %}";
        let Err(TemplateError::NoSpans { reason }) = spans(source, dialogue()) else {
            panic!()
        };
        assert_eq!(
            reason,
            "an answer is changed by the template as it is rendered, and the first 1 turns alone \
            render to another text"
        );
    }

    #[test]
    fn a_conversation_without_an_answer_has_no_spans() {
        let source = "{% for m in messages %}{{ m.content }}{% endfor %}";
        assert_eq!(
            spans(
                source,
                serde_json::json!([{"role": "user", "content": "?"}])
            ),
            Ok(Vec::new())
        );
    }

    /// Templates whose twins also train the line break after the end of a turn, which no model has
    /// to write.
    const TRAINS_BREAKS: [&str; 3] = ["gemma", "phi3", "qwen3"];

    /// Cases whose mask needs the twin. Answers beside calls have no sentinels, and the prefixes
    /// fail where the template looks ahead (phi3, qwen3). Mistral has no prompt, so the space
    /// before an answer counts as the model's only if it is a token of its own.
    const NEEDS_TWIN: [&str; 10] = [
        "mistral_v3 system_multi",
        "mistral_v3 newlines",
        "mistral_v3 thinking",
        "mistral_v3 empty_content",
        "phi3 tool_call",
        "phi3 tool_call_pending",
        "phi3 two_tool_calls",
        "qwen3 tool_call",
        "qwen3 two_tool_calls",
        "qwen3 thinking",
    ];

    /// Compares masks with those of the twins, which equal those of transformers, as the golden
    /// test shows.
    #[test]
    fn without_a_twin_the_masks_are_the_same_but_for_these() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat");
        let tokenizer = Tokenizer::open(&folder.join("tokenizer")).unwrap();
        let mut different = Vec::new();
        for name in [
            "chatml",
            "deepseek",
            "gemma",
            "llama3",
            "mistral_v3",
            "phi3",
            "qwen3",
        ] {
            let golden: Value = serde_json::from_str(
                &std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap(),
            )
            .unwrap();
            let token = |key: &str| golden[key].as_str().map(str::to_owned);
            let special = SpecialTokens {
                bos: token("bos_token"),
                eos: token("eos_token"),
                ..tokenizer.special().clone()
            };
            let source = golden["template"].as_str().unwrap();
            let template =
                ChatTemplate::new(source, &special, "2025-01-01T00:00:00Z".parse().unwrap())
                    .unwrap();
            for case in golden["cases"].as_array().unwrap() {
                let prompt = case["add_generation_prompt"] == true;
                let conversation = Conversation {
                    messages: case["messages"].as_array().unwrap().clone(),
                    tools: case["tools"].as_array().cloned(),
                    variables: case["extra"].as_object().unwrap().clone(),
                };
                let Ok(mut expected) = template.render_with_spans(&conversation, prompt) else {
                    continue;
                };
                if TRAINS_BREAKS.contains(&name) {
                    let trim = |span: &mut Range<usize>| {
                        span.end = span.start + expected.text[span.clone()].trim_end().len();
                    };
                    expected.assistant.iter_mut().for_each(trim);
                }
                let mask = |rendered: Rendered| {
                    tokenizer
                        .encode_with_spans(&rendered.text, &rendered.assistant)
                        .unwrap()
                };
                if template.default.find_spans(&conversation, prompt).map(mask)
                    != Ok(mask(expected))
                {
                    different.push(format!("{name} {}", case["name"].as_str().unwrap()));
                }
            }
        }
        different.dedup();
        assert_eq!(different, NEEDS_TWIN);
    }
}
