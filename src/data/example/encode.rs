//! Encodes an example as token ids and, for each, whether it is trained. Labels come from positions
//! in the text, never from token ids: where a model pads with its eos, the eos that ends a row is
//! still trained.

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::Value;

use super::error::EncodeError;
use super::format::{Example, Instruction};
use super::labels;
use super::token_row::{EncodedRow, TokenRow};
use super::turns::Chat;
use super::unread::Unread;
use crate::data::template::{ChatTemplate, Conversation};
use crate::data::tokenizer::tokenize::Tokenizer;
use crate::terms::{RowForm, TrainOn};

/// Encoder from examples to tokens.
#[derive(Debug)]
pub struct Encoder {
    /// The base's tokenizer.
    pub tokenizer: Tokenizer,
    /// The base's or the recipe's chat template.
    pub template: Option<ChatTemplate>,
}

impl Encoder {
    /// Encodes an example as tokens and marks those that are trained.
    ///
    /// # Errors
    /// The template is missing or refuses the conversation, the row would begin with two bos or end
    /// without eos, or its labels would teach the model to pad or not to stop.
    pub fn encode(&self, example: &Example, train_on: TrainOn) -> Result<TokenRow, EncodeError> {
        let mut row = match example {
            Example::Text(text) => self.plain(text, None)?,
            Example::Completion { prompt, completion } => {
                self.completion(prompt, completion, train_on)?
            }
            Example::Instruction(task) => {
                self.completion(&self.alpaca(task)?, &task.output, train_on)?
            }
            Example::Chat(chat) => self.chat(chat, train_on)?,
            Example::Pair(_)
            | Example::Rated(..)
            | Example::Margin(..)
            | Example::Labeled(_)
            | Example::Texts(_) => {
                return Ok(self.encode_row(example, train_on)?.row);
            }
        };
        if let Some(first) = row.trained.first_mut() {
            *first = false;
        }
        self.check(&row)?;
        Ok(row)
    }

    /// Encodes an example of any form. Of preferences the sequences are laid end to end, and
    /// everything after the prompt is trained.
    ///
    /// # Errors
    /// As for [`Encoder::encode`].
    pub fn encode_row(
        &self,
        example: &Example,
        train_on: TrainOn,
    ) -> Result<EncodedRow, EncodeError> {
        match example {
            Example::Pair(halves) => {
                let length = |sequences: &[TokenRow]| sequences[0].ids.len() as u32;
                self.preferences(&halves[..], |sequences| RowForm::Pair {
                    chosen: length(sequences),
                    has_margin: false,
                })
            }
            Example::Margin(pair, margin) => {
                let encoded = self.encode_row(pair, train_on)?;
                let form = match encoded.form {
                    RowForm::Pair { chosen, .. } => RowForm::Pair {
                        chosen,
                        has_margin: true,
                    },
                    other => other,
                };
                Ok(EncodedRow {
                    form,
                    values: vec![*margin],
                    ..encoded
                })
            }
            Example::Labeled(labeled) => self.labeled(labeled),
            Example::Rated(example, desirable) => {
                let form = RowForm::Rated {
                    desirable: *desirable,
                };
                self.preferences(std::slice::from_ref(&**example), |_| form)
            }
            Example::Texts(texts) => self.texts(texts),
            other => Ok(EncodedRow {
                row: self.encode(other, train_on)?,
                ..EncodedRow::default()
            }),
        }
    }

    /// Refuses a sequence that begins with two bos or trains padding.
    pub(super) fn check(&self, row: &TokenRow) -> Result<(), EncodeError> {
        if let ([first, second, ..], Some(bos)) = (row.ids.as_slice(), self.tokenizer.bos_id())
            && [*first, *second] == [bos, bos]
        {
            return Err(EncodeError::DoubledBos { bos });
        }
        labels::check_padding(&self.tokenizer, row)
    }

    /// Encodes a text with the special tokens that the tokenizer adds and an eos at its end.
    pub(super) fn with_eos(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        Ok(self.plain(text, None)?.ids)
    }

    /// Encodes prompt and completion as one string, so that its tokens are those that the model
    /// will meet. A token that straddles the border belongs to the completion.
    fn completion(
        &self,
        prompt: &str,
        completion: &str,
        train_on: TrainOn,
    ) -> Result<TokenRow, EncodeError> {
        let border = (train_on != TrainOn::All).then_some(prompt.len());
        self.plain(&format!("{prompt}{completion}"), border)
    }

    /// Encodes a text with the special tokens that the tokenizer adds and an eos at its end. All of
    /// it is trained, or the part from a byte on.
    fn plain(&self, text: &str, trained_from: Option<usize>) -> Result<TokenRow, EncodeError> {
        let mut row = if let Some(border) = trained_from {
            let encoding = self.tokenizer.encode(text, true)?;
            let is_trained = |&(_, end): &(usize, usize)| end > border;
            TokenRow {
                trained: encoding.offsets.iter().map(is_trained).collect(),
                ids: encoding.ids,
            }
        } else {
            let ids = self.tokenizer.ids(text, true)?;
            TokenRow {
                trained: vec![true; ids.len()],
                ids,
            }
        };
        // A tokenizer without an eos may close texts itself.
        let closed = || {
            row.ids
                .last()
                .copied()
                .filter(|_| !self.tokenizer.closing().is_empty())
        };
        let eos = self.tokenizer.eos_id().or_else(closed);
        let eos = eos.ok_or(EncodeError::NoEos)?;
        if row.ids.last() == Some(&eos) {
            // One that the tokenizer added stands for no byte of the text.
            row.trained.pop();
        } else {
            row.ids.push(eos);
        }
        row.trained.push(true);
        Ok(row)
    }

    fn chat(&self, chat: &Chat, train_on: TrainOn) -> Result<TokenRow, EncodeError> {
        let template = self.template.as_ref().ok_or(EncodeError::NoTemplate)?;
        let conversation = template.fit(&chat.conversation);
        let (text, spans) = spans(
            template,
            &conversation,
            &chat.trained_answers(train_on),
            train_on,
        )?;
        let (ids, trained) = self.tokenizer.encode_with_spans(&text, &spans)?;
        let row = TokenRow { ids, trained };
        if train_on != TrainOn::All {
            labels::check_ends(&self.tokenizer, &row)?;
        }
        Ok(row)
    }

    /// Returns the contents of an example that change nothing in its row.
    pub fn unread(&self, example: &Example, train_on: TrainOn) -> Vec<Unread> {
        let (Example::Chat(chat), Some(template)) = (example, &self.template) else {
            return Vec::new();
        };
        let keys: BTreeSet<&String> = chat
            .conversation
            .messages
            .iter()
            .filter_map(Value::as_object)
            .flat_map(|turn| turn.keys())
            .collect();
        let keys: Vec<&str> = keys
            .into_iter()
            .map(String::as_str)
            .filter(|key| !["role", "content"].contains(key))
            .collect();
        let mut unread: Vec<Unread> = chat
            .has_idle_weight(train_on)
            .then_some(Unread::Weight)
            .into_iter()
            .collect();
        if keys.is_empty() && chat.conversation.tools.is_none() {
            return unread;
        }
        let conversation = template.fit(&chat.conversation);
        let Ok(whole) = template.render(&conversation, false) else {
            return unread;
        };
        let is_same = |other: &Conversation| {
            template
                .render(other, false)
                .is_ok_and(|text| text == whole)
        };
        // None at all would be another template where there is one for tools.
        let no_tools = || Conversation {
            tools: Some(Vec::new()),
            ..conversation.clone().into_owned()
        };
        if conversation.tools.is_some() && is_same(&no_tools()) {
            unread.push(Unread::Tools);
        }
        let without = |key: &str| {
            let mut other = conversation.clone().into_owned();
            other
                .messages
                .iter_mut()
                .filter_map(Value::as_object_mut)
                .for_each(|turn| drop(turn.shift_remove(key)));
            other
        };
        unread.extend(
            keys.into_iter()
                .filter(|key| is_same(&without(key)))
                .map(|key| Unread::Key(key.to_owned())),
        );
        unread
    }

    /// Renders [`alpaca`] with a system prompt and earlier answers, like LLaMA-Factory's template
    /// of that name: the system prompt replaces the first sentence, and each answer ends with an
    /// eos.
    fn alpaca(&self, task: &Instruction) -> Result<String, EncodeError> {
        let input = task.input.as_deref();
        let mut prompt = task.system.clone().unwrap_or_else(|| opening(input));
        for (said, answer) in &task.history {
            let eos = self
                .tokenizer
                .special()
                .eos
                .as_deref()
                .ok_or(EncodeError::NoEos)?;
            prompt.extend([
                "\n\n### Instruction:\n",
                said,
                "\n\n### Response:",
                answer,
                eos,
            ]);
        }
        Ok(prompt + &asked(&task.instruction, input))
    }
}

/// Returns one of Alpaca's two prompts, word for word:
pub fn alpaca(instruction: &str, input: Option<&str>) -> String {
    opening(input) + &asked(instruction, input)
}

fn opening(input: Option<&str>) -> String {
    let setting = if input.is_some() {
        ", paired with an input that provides further context"
    } else {
        ""
    };
    format!(
        "Below is an instruction that describes a task{setting}. Write a response that \
        appropriately completes the request."
    )
}

fn asked(instruction: &str, input: Option<&str>) -> String {
    let input = input
        .map(|input| format!("### Input:\n{input}\n\n"))
        .unwrap_or_default();
    format!("\n\n### Instruction:\n{instruction}\n\n{input}### Response:")
}

/// Renders a conversation and returns the text with the spans that are trained. `answers` states
/// for each answer whether it may be trained.
fn spans(
    template: &ChatTemplate,
    conversation: &Conversation,
    answers: &[bool],
    train_on: TrainOn,
) -> Result<(String, Vec<Range<usize>>), EncodeError> {
    let all = !answers.contains(&false);
    if train_on == TrainOn::All && all || train_on != TrainOn::All && !answers.contains(&true) {
        let text = template.render(conversation, false)?;
        let whole = if train_on == TrainOn::All {
            0..text.len()
        } else {
            0..0
        };
        return Ok((
            text,
            [whole]
                .into_iter()
                .filter(|span| !span.is_empty())
                .collect(),
        ));
    }
    let rendered = template.render_with_spans(conversation, false)?;
    let (spans, turns) = (rendered.assistant, answers.len());
    if train_on == TrainOn::Last {
        if spans.len() > turns {
            return Err(EncodeError::LastTurnUnclear {
                spans: spans.len(),
                turns,
            });
        }
        let is_trained = answers.last() == Some(&true);
        return Ok((
            rendered.text,
            spans
                .into_iter()
                .next_back()
                .filter(|_| is_trained)
                .into_iter()
                .collect(),
        ));
    }
    if !all && spans.len() != turns {
        return Err(EncodeError::AnswersUnclear {
            spans: spans.len(),
            turns,
        });
    }
    let chosen = |wanted: bool| {
        spans
            .iter()
            .zip(answers)
            .filter(move |(_, trained)| **trained == wanted)
            .map(|(span, _)| span.clone())
    };
    let trained = match train_on {
        TrainOn::All => between(chosen(false), rendered.text.len()),
        _ if all => spans,
        _ => chosen(true).collect(),
    };
    Ok((rendered.text, trained))
}

/// Returns the ranges between spans, in a text of this length.
fn between(spans: impl Iterator<Item = Range<usize>>, length: usize) -> Vec<Range<usize>> {
    let (mut between, mut end) = (Vec::new(), 0);
    for span in spans {
        between.push(end..span.start);
        end = span.end;
    }
    between.push(end..length);
    between.retain(|span| !span.is_empty());
    between
}

#[cfg(test)]
pub(in crate::data) mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    const BOS: u32 = 0;
    const EOS: u32 = 1;
    const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' \
        }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + \
        '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}\
        {% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}";

    /// Encoder with one token per character, except for `::`. Plain text begins with bos, and eos
    /// is also the padding token.
    pub(in crate::data) fn encoder(folder: &Path) -> Encoder {
        let special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];
        let words = special
            .iter()
            .map(|word| (*word).to_owned())
            .chain(('!'..='~').map(String::from));
        let words = words.chain(["Ġ", "Ċ", "::"].map(str::to_owned));
        let vocab: Map<String, Value> = words
            .enumerate()
            .map(|(id, word)| (word, id.into()))
            .collect();
        let added = |(id, word): (usize, &&str)| {
            json!({
                "id": id, "content": word, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        };
        let byte_level = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
            "use_regex": false,
        });
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": special.iter().enumerate().map(added).collect::<Vec<_>>(),
            "pre_tokenizer": byte_level,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "<s>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"Sequence": {"id": "B", "type_id": 0}},
                ],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
            },
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": [": :"]},
        });
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"});
        std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("written");
        std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).expect("written");
        let tokenizer = Tokenizer::open(folder).expect("a tokenizer");
        let template = ChatTemplate::new(CHATML, tokenizer.special(), jiff::Timestamp::UNIX_EPOCH)
            .expect("a template");
        Encoder {
            tokenizer,
            template: Some(template),
        }
    }

    #[test]
    fn a_template_that_marks_an_answer_twice_does_not_go_with_the_last_turn() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut encoder = encoder(folder.path());
        let twice = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %} \
            {% generation %}</s>{% endgeneration %}{% endfor %}";
        let special = encoder.tokenizer.special().clone();
        encoder.template = Some(
            ChatTemplate::new(twice, &special, jiff::Timestamp::UNIX_EPOCH).expect("a template"),
        );
        let messages = vec![json!({"role": "assistant", "content": "yes"})];
        let example = Example::Chat(
            Conversation {
                messages,
                ..Conversation::default()
            }
            .into(),
        );
        let refused = encoder
            .encode(&example, TrainOn::Last)
            .expect_err("unclear");
        assert!(
            matches!(refused, EncodeError::LastTurnUnclear { spans: 2, turns: 1 }),
            "{refused}"
        );
        assert!(encoder.encode(&example, TrainOn::Assistant).is_ok());
    }

    /// Returns the trained text of an example, eos included.
    fn trained(example: &Example, train_on: TrainOn) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let encoder = encoder(folder.path());
        let row = encoder.encode(example, train_on).expect("encoded");
        assert_eq!(row.ids.len(), row.trained.len());
        assert!(!row.trained[0]);
        let ids: Vec<u32> = row
            .ids
            .into_iter()
            .zip(row.trained)
            .filter(|(_, trained)| *trained)
            .map(|(id, _)| id)
            .collect();
        encoder.tokenizer.decode(&ids, false).expect("decoded")
    }

    fn completion(prompt: &str, completion: &str) -> Example {
        Example::Completion {
            prompt: prompt.into(),
            completion: completion.into(),
        }
    }

    fn conversation(turns: &[(&str, &str)]) -> Example {
        let messages = turns
            .iter()
            .map(|(role, content)| json!({"role": role, "content": content}))
            .collect();
        Example::Chat(
            Conversation {
                messages,
                tools: None,
                variables: Map::new(),
            }
            .into(),
        )
    }

    #[test]
    fn a_text_has_bos_and_one_trained_eos_though_the_eos_pads_too() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let encoder = encoder(folder.path());
        for text in ["law", "law</s>"] {
            let row = encoder
                .encode(&Example::Text(text.into()), TrainOn::Assistant)
                .expect("encoded");
            assert_eq!((row.ids[0], row.ids[4], row.ids.len()), (BOS, EOS, 5));
            assert_eq!(row.trained, [false, true, true, true, true]);
        }
    }

    #[test]
    fn a_completion_is_trained_from_its_first_token_on() {
        assert_eq!(
            trained(&completion("Q: x", " A: y"), TrainOn::Assistant),
            " A: y</s>"
        );
        assert_eq!(
            trained(&completion("Q: x", " A: y"), TrainOn::All),
            "Q: x A: y</s>"
        );
        assert_eq!(trained(&completion("", "y"), TrainOn::Assistant), "y</s>");
    }

    #[test]
    fn a_token_that_straddles_the_border_belongs_to_the_completion() {
        assert_eq!(
            trained(&completion("Q:", ": A"), TrainOn::Assistant),
            ":: A</s>"
        );
    }

    #[test]
    fn instructions_are_alpacas() {
        let no_input = "Below is an instruction that describes a task. Write a response that \
        appropriately completes the request.\n\n### Instruction:\nDefine tort.\n\n### Response:";
        let with_input = "Below is an instruction that describes a task, paired with an input that \
            provides further context. Write a \
            response that appropriately completes the request.\n\n### Instruction:\nDefine \
            tort.\n\n### Input:\nUK\n\n### Response:";
        let task = |input: Option<&str>| Instruction {
            instruction: "Define tort.".into(),
            input: input.map(str::to_owned),
            output: "A wrong.".into(),
            ..Instruction::default()
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let encoder = encoder(folder.path());
        assert_eq!(encoder.alpaca(&task(None)).expect("a prompt"), no_input);
        assert_eq!(
            encoder.alpaca(&task(Some("UK"))).expect("a prompt"),
            with_input
        );
        let told = Instruction {
            system: Some("Be short.".into()),
            history: vec![("Hi".into(), "Yes?".into())],
            ..task(None)
        };
        let expected = "Be short.\n\n### Instruction:\nHi\n\n### Response:Yes?</s>\n\n### \
            Instruction:\nDefine tort.\n\n### Response:";
        assert_eq!(encoder.alpaca(&told).expect("a prompt"), expected);
        assert_eq!(
            trained(&Example::Instruction(told), TrainOn::Assistant),
            "A wrong.</s>"
        );
    }

    #[test]
    fn answers_that_the_data_keeps_from_training_are_context() {
        let turns = [
            ("user", "q"),
            ("assistant", "a"),
            ("user", "r"),
            ("assistant", "b"),
        ];
        let marked = |trained: [Option<bool>; 4], prompt_turns: usize| match conversation(&turns) {
            Example::Chat(chat) => Example::Chat(Chat {
                trained: trained.to_vec(),
                prompt_turns,
                ..chat
            }),
            other => other,
        };
        let first_off = [None, Some(false), None, None];
        assert_eq!(
            trained(&marked(first_off, 0), TrainOn::Assistant),
            "b<|im_end|>"
        );
        assert_eq!(trained(&marked(first_off, 0), TrainOn::Last), "b<|im_end|>");
        let all = trained(&marked(first_off, 0), TrainOn::All);
        assert!(
            all.contains("b<|im_end|>")
                && !all.contains("a<|im_end|>")
                && all.contains("q<|im_end|>"),
            "{all}"
        );
        assert_eq!(
            trained(&marked([None, None, None, Some(false)], 0), TrainOn::Last),
            ""
        );
        assert_eq!(
            trained(&marked([None; 4], 3), TrainOn::Assistant),
            "b<|im_end|>",
            "answers of a prompt are given"
        );
    }

    #[test]
    fn every_answer_or_the_last_or_all_is_trained_with_its_end_of_turn() {
        let chat = conversation(&[
            ("user", "q"),
            ("assistant", "a"),
            ("user", "r"),
            ("assistant", "b"),
        ]);
        assert_eq!(trained(&chat, TrainOn::Assistant), "a<|im_end|>b<|im_end|>");
        assert_eq!(trained(&chat, TrainOn::Last), "b<|im_end|>");
        assert!(
            trained(&chat, TrainOn::All)
                .starts_with("user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>")
        );
        assert_eq!(trained(&conversation(&[("user", "q")]), TrainOn::Last), "");
    }

    #[test]
    fn a_doubled_bos_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let error = encoder(folder.path())
            .encode(&Example::Text("<s>law".into()), TrainOn::All)
            .expect_err("two bos");
        assert_eq!(
            error.to_string(),
            "the row begins with the bos token twice, id 0"
        );
    }

    proptest! {
        #[test]
        fn the_trained_text_is_the_completion(
            prompt in "[a-z \n]{0,20}",
            answer in "[a-z \n]{1,20}",
        ) {
            let text = trained(&completion(&prompt, &answer), TrainOn::Last);
            prop_assert_eq!(text, format!("{answer}</s>"));
        }
    }
}
