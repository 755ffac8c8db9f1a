//! Rows of preferences: a prompt with a chosen and a rejected completion, or with one completion
//! and a label. Prompt and completion are tokenized together, and the completion begins where the
//! tokens of the prompt alone and those of all its sequences first differ, so that both halves of a
//! pair have the same prompt.

use serde_json::{Value, json};

use super::conversation_error::ConversationError;
use super::encode::Encoder;
use super::error::EncodeError;
use super::format::{Cells, Example, FormatError, Read};
use super::token_row::{EncodedRow, TokenRow};
use super::turns::{self, Chat, chat};
use super::unread::Unread;
use crate::terms::{RowForm, TrainOn};

impl Cells<'_> {
    /// Reads a pair; `None` if there is nothing to learn: a needed cell is null or a completion is
    /// empty.
    pub(super) fn pair(&self) -> Result<Option<Read>, FormatError> {
        let (prompt, chosen) = (self.cell("prompt")?, self.cell("chosen")?);
        let rejected = self.cell("rejected")?;
        let tools = self.parsed("tools", turns::tools)?;
        match (prompt, chosen, rejected) {
            (_, Value::Null, _) | (_, _, Value::Null) => Ok(None),
            (Value::Null, ..) if self.has("prompt") => Ok(None),
            (Value::Null, Value::String(chosen), Value::String(rejected)) => {
                let prompt = common_text(&chosen, &rejected);
                let rest = |text: &str| text[prompt.len()..].to_owned();
                Ok(pair_of_texts(
                    prompt,
                    [rest(&chosen), rest(&rejected)],
                    tools,
                ))
            }
            (Value::String(prompt), Value::String(chosen), Value::String(rejected)) => {
                Ok(pair_of_texts(&prompt, [chosen, rejected], tools))
            }
            (_, chosen, rejected) if chosen.is_string() != rejected.is_string() => {
                let cause = ConversationError::MixedHalves {
                    found: form(&rejected),
                    chosen: form(&chosen),
                };
                Err(content("rejected", cause))
            }
            (prompt, chosen, _) if chosen.is_string() => {
                let cause = ConversationError::Mixed {
                    found: form(&chosen),
                    prompt: form(&prompt),
                };
                Err(content("chosen", cause))
            }
            (prompt, ..) => self.pair_of_turns(prompt, tools),
        }
    }

    fn pair_of_turns(
        &self,
        prompt: Value,
        tools: Option<Vec<Value>>,
    ) -> Result<Option<Read>, FormatError> {
        let (Some(chosen), Some(rejected)) = (
            self.parsed("chosen", turns::turns)?,
            self.parsed("rejected", turns::turns)?,
        ) else {
            return Ok(None);
        };
        let (prompt, completions) = match prompt {
            Value::Null | Value::String(_) => split_prompt(prompt, chosen, rejected)
                .ok_or_else(|| content("chosen", ConversationError::NoPrompt))?,
            _ => {
                let Some(prompt) = self.parsed("prompt", turns::turns)? else {
                    return Ok(None);
                };
                let halves = [chosen, rejected];
                // Both may be whole conversations that hold the prompt again.
                let is_held =
                    |half: &Vec<Value>| half.len() > prompt.len() && half.starts_with(&prompt);
                let first = if halves.iter().all(is_held) {
                    prompt.len()
                } else {
                    0
                };
                let halves = halves.map(|half| half[first..].to_vec());
                (prompt, halves)
            }
        };
        let variables = self.parsed("chat_template_kwargs", turns::variables)?;
        let read =
            |column, turns| chat(turns, None, self.roles).map_err(|cause| content(column, cause));
        let prompt = read("prompt", prompt)?;
        let half = |column, turns: Vec<Value>| -> Result<Example, FormatError> {
            let completion = read(column, turns)?;
            let is_answer = |turn: &Value| turn["role"] == "assistant";
            if !completion.conversation.messages.iter().any(is_answer) {
                return Err(content(column, ConversationError::NoAnswer));
            }
            let mut whole = prompt.clone();
            whole.prompt_turns = whole.trained.len();
            whole.conversation.tools.clone_from(&tools);
            whole.conversation.variables.clone_from(&variables);
            whole
                .conversation
                .messages
                .extend(completion.conversation.messages);
            whole.trained.extend(completion.trained);
            Ok(Example::Chat(whole))
        };
        let [chosen, rejected] = completions;
        let halves = [half("chosen", chosen)?, half("rejected", rejected)?];
        Ok(Some(Example::Pair(Box::new(halves)).into()))
    }

    /// Reads a completion with its label; `None` if there is nothing to learn.
    pub(super) fn rated(&self) -> Result<Option<Read>, FormatError> {
        let desirable = match self.cell("label")? {
            Value::Null => return Ok(None),
            Value::Bool(label) => label,
            Value::Number(label) if label.as_f64() == Some(0.0) => false,
            Value::Number(label) if label.as_f64() == Some(1.0) => true,
            found => return Err(content("label", ConversationError::Label { found })),
        };
        let read = if self.has("prompt") {
            self.completion()?
        } else {
            self.conversation()?
        };
        if let Some(Example::Chat(whole)) = read.as_ref().map(|read| &read.example) {
            let completion = whole.conversation.messages.get(whole.prompt_turns..);
            let is_answer = |turn: &Value| turn["role"] == "assistant";
            if !completion.unwrap_or_default().iter().any(is_answer) {
                return Err(content("completion", ConversationError::NoAnswer));
            }
        }
        Ok(read.map(|read| Read {
            example: Example::Rated(Box::new(read.example), desirable),
            unread: read.unread,
        }))
    }

    /// Reads a conversation that holds its prompt: its last turn is the completion.
    fn conversation(&self) -> Result<Option<Read>, FormatError> {
        if self.cell("completion")?.is_string() {
            return Err(content("completion", ConversationError::NoPromptOfText));
        }
        let Some(turns) = self.parsed("completion", turns::turns)? else {
            return Ok(None);
        };
        if turns.len() < 2 {
            return Err(content("completion", ConversationError::OneTurn));
        }
        let tools = self.parsed("tools", turns::tools)?;
        let mut whole =
            chat(turns, tools, self.roles).map_err(|cause| content("completion", cause))?;
        let last = whole.conversation.messages.last();
        if last.is_none_or(|turn| turn["role"] != "assistant") {
            return Err(content("completion", ConversationError::NoAnswer));
        }
        whole.prompt_turns = whole.trained.len() - 1;
        whole.conversation.variables = self.parsed("chat_template_kwargs", turns::variables)?;
        Ok(Some(Example::Chat(whole).into()))
    }
}

fn content(column: &'static str, cause: ConversationError) -> FormatError {
    FormatError::Content {
        column,
        cause: cause.into(),
    }
}

fn form(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Null => "nothing",
        _ => "a list of messages",
    }
}

fn pair_of_texts(
    prompt: &str,
    completions: [String; 2],
    tools: Option<Vec<Value>>,
) -> Option<Read> {
    let is_whole = completions.iter().all(|completion| !completion.is_empty());
    let halves = completions.map(|completion| Example::Completion {
        prompt: prompt.to_owned(),
        completion,
    });
    let unread = tools.map(|_| Unread::Tools).into_iter().collect();
    let example = Example::Pair(Box::new(halves));
    is_whole.then_some(Read { example, unread })
}

/// Returns the text with which both texts begin, without a space at its end, which belongs to the
/// completion as in TRL.
fn common_text<'a>(chosen: &'a str, rejected: &str) -> &'a str {
    let same = chosen
        .char_indices()
        .zip(rejected.chars())
        .find(|((_, one), other)| one != other)
        .map_or(chosen.len().min(rejected.len()), |((place, _), _)| place);
    let common = &chosen[..same];
    common.strip_suffix(' ').unwrap_or(common)
}

/// Splits two conversations that both contain the prompt: it is the turns that they have in common,
/// except for the last of either. Where they have none, a text is what the user says first. `None`
/// without any prompt.
fn split_prompt(
    prompt: Value,
    mut chosen: Vec<Value>,
    mut rejected: Vec<Value>,
) -> Option<(Vec<Value>, [Vec<Value>; 2])> {
    let most = chosen.len().min(rejected.len()) - 1;
    let same = chosen
        .iter()
        .zip(&rejected)
        .take(most)
        .take_while(|(one, other)| one == other)
        .count();
    let turns = match prompt {
        _ if same > 0 => {
            rejected.drain(..same);
            chosen.drain(..same).collect()
        }
        Value::String(prompt) => vec![json!({"role": "user", "content": prompt})],
        _ => return None,
    };
    Some((turns, [chosen, rejected]))
}

impl Encoder {
    /// Encodes the sequences of a row of preferences, laid end to end. What follows the prompt is
    /// trained.
    ///
    /// # Errors
    /// As for [`Encoder::encode`].
    pub(super) fn preferences(
        &self,
        examples: &[Example],
        form: impl FnOnce(&[TokenRow]) -> RowForm,
    ) -> Result<EncodedRow, EncodeError> {
        let ids = examples
            .iter()
            .map(|example| self.prompt_and_whole(example))
            .collect::<Result<Vec<_>, _>>()?;
        let shared = ids
            .iter()
            .flat_map(|(prompt, whole)| [prompt, whole])
            .map(|other| common_prefix(&ids[0].0, other))
            .min()
            .unwrap_or(0);
        let mut sequences = Vec::with_capacity(ids.len());
        for (_, ids) in ids {
            let row = TokenRow {
                trained: (0..ids.len()).map(|place| place >= shared.max(1)).collect(),
                ids,
            };
            self.check(&row)?;
            sequences.push(row);
        }
        let form = form(&sequences);
        let closing = self.tokenizer.closing();
        let is_closed = sequences.iter().all(|row| row.ids.ends_with(closing));
        let mut row = TokenRow::default();
        for sequence in sequences {
            row.ids.extend(sequence.ids);
            row.trained.extend(sequence.trained);
        }
        Ok(EncodedRow {
            row,
            form,
            closing: if is_closed { closing.len() as u32 } else { 0 },
            ..EncodedRow::default()
        })
    }

    /// Returns the tokens of a prompt alone, and of the prompt with its completion.
    fn prompt_and_whole(&self, example: &Example) -> Result<(Vec<u32>, Vec<u32>), EncodeError> {
        match example {
            Example::Completion { prompt, completion } => Ok((
                self.tokenizer.ids(prompt, true)?,
                self.with_eos(&format!("{prompt}{completion}"))?,
            )),
            Example::Chat(chat) => {
                let template = self.template.as_ref().ok_or(EncodeError::NoTemplate)?;
                let whole = template.render(&template.fit(&chat.conversation), false)?;
                let prompt = if chat.prompt_turns == 0 {
                    String::new()
                } else {
                    template.render(&template.fit(&prompt_of(chat).conversation), true)?
                };
                Ok((
                    self.tokenizer.ids(&prompt, false)?,
                    self.tokenizer.ids(&whole, false)?,
                ))
            }
            other => {
                let row = self.encode(other, TrainOn::All)?;
                Ok((Vec::new(), row.ids))
            }
        }
    }
}

/// Returns the turns of the prompt.
fn prompt_of(chat: &Chat) -> Chat {
    let mut prompt = chat.clone();
    prompt.conversation.messages.truncate(chat.prompt_turns);
    prompt.trained.truncate(chat.prompt_turns);
    prompt
}

/// Returns the number of tokens with which both begin.
fn common_prefix(one: &[u32], other: &[u32]) -> usize {
    one.iter()
        .zip(other)
        .take_while(|(one, other)| one == other)
        .count()
}

#[cfg(test)]
mod tests {
    use super::super::encode::tests::encoder;
    use super::*;

    fn text(prompt: &str, completion: &str) -> Example {
        Example::Completion {
            prompt: prompt.into(),
            completion: completion.into(),
        }
    }

    /// Returns what is trained of both halves, and the tokens of their prompts.
    fn encoded(pair: [Example; 2]) -> ([String; 2], [Vec<u32>; 2]) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let encoder = encoder(folder.path());
        let EncodedRow { row, form, .. } = encoder
            .encode_row(&Example::Pair(Box::new(pair)), TrainOn::Assistant)
            .expect("encoded");
        let RowForm::Pair { chosen, .. } = form else {
            panic!("{form:?}");
        };
        let of = |places: std::ops::Range<usize>| {
            let (trained, given): (Vec<_>, Vec<_>) = places.partition(|place| row.trained[*place]);
            let ids = |places: Vec<usize>| -> Vec<u32> {
                places.into_iter().map(|place| row.ids[place]).collect()
            };
            let text = encoder.tokenizer.decode(&ids(trained), false);
            (text.expect("decoded"), ids(given))
        };
        let (chosen, rejected) = (of(0..chosen as usize), of(chosen as usize..row.ids.len()));
        ([chosen.0, rejected.0], [chosen.1, rejected.1])
    }

    #[test]
    fn completions_end_with_eos_and_share_their_prompt() {
        let (trained, prompts) = encoded([text("Q: x", " yes"), text("Q: x", " no")]);
        assert_eq!(trained, [" yes</s>", " no</s>"]);
        assert_eq!(prompts[0], prompts[1]);
    }

    #[test]
    fn a_token_that_straddles_the_border_shortens_both_prompts() {
        // `::` is one token: of the chosen half the prompt's last token changes.
        let (trained, prompts) = encoded([text("Q:", ": A"), text("Q:", " B")]);
        assert_eq!(trained, [":: A</s>", ": B</s>"]);
        assert_eq!(prompts[0], prompts[1]);
    }

    #[test]
    fn everything_behind_the_generation_prompt_is_completion() {
        let chat = |answer: &str| {
            let messages = vec![
                json!({"role": "user", "content": "q"}),
                json!({"role": "assistant", "content": answer}),
            ];
            let conversation = crate::data::template::Conversation {
                messages,
                ..crate::data::template::Conversation::default()
            };
            Example::Chat(Chat {
                prompt_turns: 1,
                ..Chat::from(conversation)
            })
        };
        let (trained, prompts) = encoded([chat("yes"), chat("no")]);
        // The template of the test has no generation prompt: the header is part of the answer.
        assert_eq!(
            trained,
            [
                "<|im_start|>assistant\nyes<|im_end|>\n",
                "<|im_start|>assistant\nno<|im_end|>\n"
            ]
        );
        assert_eq!(prompts[0], prompts[1]);
    }

    #[test]
    fn implicit_prompts_are_what_both_halves_begin_with() {
        assert_eq!(common_text("Q: x A: yes", "Q: x A: no"), "Q: x A:");
        assert_eq!(common_text("äb", "äc"), "ä");
        assert_eq!(common_text("same", "same"), "same");
        let turn = |content: &str| json!({"role": "user", "content": content});
        let (prompt, halves) = split_prompt(
            Value::Null,
            vec![turn("a"), turn("b"), turn("c")],
            vec![turn("a"), turn("b"), turn("d")],
        )
        .expect("a prompt");
        assert_eq!(prompt, [turn("a"), turn("b")]);
        assert_eq!(halves, [[turn("c")], [turn("d")]]);
        let alone = || (vec![turn("x")], vec![turn("y")]);
        let ((chosen, rejected), said) = (alone(), Value::String("q".into()));
        let (prompt, _) = split_prompt(said, chosen, rejected).expect("a prompt");
        assert_eq!(prompt, [turn("q")]);
        let (chosen, rejected) = alone();
        assert_eq!(split_prompt(Value::Null, chosen, rejected), None);
    }
}
