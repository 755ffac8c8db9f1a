//! An example becomes token ids and, for each, whether it is trained. Labels come from places in the text, never from token ids:
//! where a model pads with its eos, the eos that ends a row is trained all the same.

use std::ops::Range;

use super::format::Example;
use super::labels;
use super::template::{self, ChatTemplate, Conversation};
use super::tokenize::{self, Tokenizer};
use crate::fault::{Exit, Explain};
use crate::terms::TrainOn;

/// What turns examples into tokens.
#[derive(Debug)]
pub struct Encoder {
    /// The base's tokenizer.
    pub tokenizer: Tokenizer,
    /// The base's or the recipe's chat template.
    pub template: Option<ChatTemplate>,
}

/// A row of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenRow {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether each token is a target. The first never is: no token before it could predict it.
    pub trained: Vec<bool>,
}

/// An example that makes no row.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template does not render it.
    #[error(transparent)]
    Template(#[from] template::Error),
    /// The tokenizer fails.
    #[error(transparent)]
    Tokenizer(#[from] tokenize::Error),
    /// A conversation without a template.
    #[error("format `chat` needs a chat template, the base model has none")]
    NoTemplate,
    /// The row cannot be ended.
    #[error("the tokenizer has no eos token to end a row with")]
    NoEos,
    /// The last span may be a part of the last turn only.
    #[error("the chat template marks {spans} spans in {turns} answers, so `train_on: last` does not tell what to train")]
    LastTurnUnclear {
        /// Spans that it marks.
        spans: usize,
        /// Answers of the conversation.
        turns: usize,
    },
    /// The row begins with two bos tokens, which no model has seen.
    #[error("the row begins with the bos token twice, id {bos}")]
    DoubledBos {
        /// Its id.
        bos: u32,
    },
    /// An answer is trained without its end.
    #[error("an answer is followed by `{token}`, which is not trained: the model would not learn to stop")]
    UntrainedEnd {
        /// The token that ends the turn.
        token: String,
    },
    /// An answer has no end.
    #[error("the last answer has no token that ends its turn: the model would not learn to stop")]
    NoEnd,
    /// A label is padding.
    #[error("token {place} is `{token}`, which pads, and is trained: the model would learn to pad")]
    TrainedPadding {
        /// The padding token.
        token: String,
        /// Its place in the row, from 0.
        place: usize,
    },
}

impl Error {
    /// Whether it says something about this row alone, which can be left out and counted. The others will be true of other rows too.
    pub fn is_of_the_row(&self) -> bool {
        matches!(
            self,
            Self::Template(template::Error::Raised { .. } | template::Error::Render { .. })
                | Self::Tokenizer(tokenize::Error::Encode { .. })
        )
    }
}

impl Explain for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Template(error) => error.exit(),
            Self::Tokenizer(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Template(error) => error.hint(),
            Self::Tokenizer(error) => error.hint(),
            Self::NoTemplate => Some("give one with `chat_template: PATH`, or use an instruction-tuned base".into()),
            Self::NoEos => Some("set `eos_token` in the base's tokenizer_config.json".into()),
            Self::LastTurnUnclear { .. } => {
                Some("set `train_on: assistant`, or give a template that marks each answer once".into())
            }
            Self::DoubledBos { .. } => Some("the tokenizer adds one: take the other out of the data or the template".into()),
            Self::UntrainedEnd { .. } | Self::NoEnd => Some(
                "put the token that ends a turn before `{% endgeneration %}` in a copy of the template and name it in `chat_template`"
                    .into(),
            ),
            Self::TrainedPadding { token, .. } => {
                Some(format!("take `{token}` out of the data, or set another `pad_token` in the base's tokenizer_config.json"))
            }
        }
    }
}

impl Encoder {
    /// The tokens of an example and which of them are trained.
    ///
    /// # Errors
    /// The template refuses the conversation or there is none, the row would begin with two bos or end with no eos, or its labels
    /// would teach the model to pad or not to stop.
    pub fn encode(&self, example: &Example, train_on: TrainOn) -> Result<TokenRow, Error> {
        let mut row = match example {
            Example::Text(text) => self.plain(text, None)?,
            Example::Completion { prompt, completion } => self.completion(prompt, completion, train_on)?,
            Example::Instruction { instruction, input, output } => {
                self.completion(&alpaca(instruction, input.as_deref()), output, train_on)?
            }
            Example::Chat(conversation) => self.chat(conversation, train_on)?,
        };
        if let ([first, second, ..], Some(bos)) = (row.ids.as_slice(), self.tokenizer.bos_id())
            && [*first, *second] == [bos, bos]
        {
            return Err(Error::DoubledBos { bos });
        }
        if let Some(first) = row.trained.first_mut() {
            *first = false;
        }
        labels::check_padding(&self.tokenizer, &row)?;
        Ok(row)
    }

    /// Prompt and completion as one string, so that its tokens are those that the model will meet; a token that straddles the
    /// border belongs to the completion.
    fn completion(&self, prompt: &str, completion: &str, train_on: TrainOn) -> Result<TokenRow, Error> {
        let border = (train_on != TrainOn::All).then_some(prompt.len());
        self.plain(&format!("{prompt}{completion}"), border)
    }

    /// A text with the special tokens that its tokenizer adds and an eos at its end, trained from a byte on or all of it.
    fn plain(&self, text: &str, trained_from: Option<usize>) -> Result<TokenRow, Error> {
        let mut row = if let Some(border) = trained_from {
            let encoding = self.tokenizer.encode(text, true)?;
            let is_trained = |&(_, end): &(usize, usize)| end > border;
            TokenRow { trained: encoding.offsets.iter().map(is_trained).collect(), ids: encoding.ids }
        } else {
            let ids = self.tokenizer.ids(text, true)?;
            TokenRow { trained: vec![true; ids.len()], ids }
        };
        let eos = self.tokenizer.eos_id().ok_or(Error::NoEos)?;
        if row.ids.last() == Some(&eos) {
            // One that the tokenizer added stands for no byte of the text.
            row.trained.pop();
        } else {
            row.ids.push(eos);
        }
        row.trained.push(true);
        Ok(row)
    }

    fn chat(&self, conversation: &Conversation, train_on: TrainOn) -> Result<TokenRow, Error> {
        let template = self.template.as_ref().ok_or(Error::NoTemplate)?;
        let (text, spans) = match train_on {
            TrainOn::All => {
                let text = template.render(conversation, false)?;
                let whole: Range<usize> = 0..text.len();
                (text, vec![whole])
            }
            TrainOn::Assistant | TrainOn::Last => {
                let rendered = template.render_with_spans(conversation, false)?;
                let (spans, turns) = (rendered.assistant.len(), assistant_turns(conversation));
                if train_on == TrainOn::Last && spans > turns {
                    return Err(Error::LastTurnUnclear { spans, turns });
                }
                let skipped = if train_on == TrainOn::Last { spans.saturating_sub(1) } else { 0 };
                (rendered.text, rendered.assistant[skipped..].to_vec())
            }
        };
        let (ids, trained) = self.tokenizer.encode_with_spans(&text, &spans)?;
        let row = TokenRow { ids, trained };
        if train_on != TrainOn::All {
            labels::check_ends(&self.tokenizer, &row)?;
        }
        Ok(row)
    }
}

fn assistant_turns(conversation: &Conversation) -> usize {
    conversation.messages.iter().filter(|message| message["role"] == "assistant").count()
}

/// Alpaca's two prompts, word for word: <https://github.com/tatsu-lab/stanford_alpaca/blob/main/train.py>
pub fn alpaca(instruction: &str, input: Option<&str>) -> String {
    let (setting, input) = match input {
        Some(input) => (", paired with an input that provides further context", format!("### Input:\n{input}\n\n")),
        None => ("", String::new()),
    };
    format!(
        "Below is an instruction that describes a task{setting}. Write a response that appropriately completes the request.\n\n\
         ### Instruction:\n{instruction}\n\n{input}### Response:"
    )
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    const BOS: u32 = 0;
    const EOS: u32 = 1;
    const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}\
        {% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}\
        {% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}";

    /// One token a character, but for `::`; bos in front of plain text; the eos pads too.
    pub(in super::super) fn encoder(folder: &Path) -> Encoder {
        let special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];
        let words = special.iter().map(|word| (*word).to_owned()).chain(('!'..='~').map(String::from));
        let words = words.chain(["Ġ", "Ċ", "::"].map(str::to_owned));
        let vocab: Map<String, Value> = words.enumerate().map(|(id, word)| (word, id.into())).collect();
        let added = |(id, word): (usize, &&str)| json!({"id": id, "content": word, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": special.iter().enumerate().map(added).collect::<Vec<_>>(),
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
            },
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "model": {"type": "BPE", "vocab": vocab, "merges": [": :"]},
        });
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"});
        std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("written");
        std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).expect("written");
        let tokenizer = Tokenizer::open(folder).expect("a tokenizer");
        let template = ChatTemplate::new(CHATML, tokenizer.special(), jiff::Timestamp::UNIX_EPOCH).expect("a template");
        Encoder { tokenizer, template: Some(template) }
    }

    #[test]
    fn a_template_that_marks_an_answer_twice_does_not_go_with_the_last_turn() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut encoder = encoder(folder.path());
        let twice = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %} {% generation %}</s>{% endgeneration %}{% endfor %}";
        let special = encoder.tokenizer.special().clone();
        encoder.template = Some(ChatTemplate::new(twice, &special, jiff::Timestamp::UNIX_EPOCH).expect("a template"));
        let messages = vec![json!({"role": "assistant", "content": "yes"})];
        let example = Example::Chat(Conversation { messages, ..Conversation::default() });
        let refused = encoder.encode(&example, TrainOn::Last).expect_err("unclear");
        assert!(matches!(refused, Error::LastTurnUnclear { spans: 2, turns: 1 }), "{refused}");
        assert!(encoder.encode(&example, TrainOn::Assistant).is_ok());
    }

    /// What is trained of an example, eos included.
    fn trained(example: &Example, train_on: TrainOn) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let encoder = encoder(folder.path());
        let row = encoder.encode(example, train_on).expect("encoded");
        assert_eq!(row.ids.len(), row.trained.len());
        assert!(!row.trained[0]);
        let ids: Vec<u32> = row.ids.into_iter().zip(row.trained).filter(|(_, trained)| *trained).map(|(id, _)| id).collect();
        encoder.tokenizer.decode(&ids, false).expect("decoded")
    }

    fn completion(prompt: &str, completion: &str) -> Example {
        Example::Completion { prompt: prompt.into(), completion: completion.into() }
    }

    fn conversation(turns: &[(&str, &str)]) -> Example {
        let messages = turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        Example::Chat(Conversation { messages, tools: None, variables: Map::new() })
    }

    #[test]
    fn a_text_has_bos_and_one_trained_eos_though_the_eos_pads_too() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let encoder = encoder(folder.path());
        for text in ["law", "law</s>"] {
            let row = encoder.encode(&Example::Text(text.into()), TrainOn::Assistant).expect("encoded");
            assert_eq!((row.ids[0], row.ids[4], row.ids.len()), (BOS, EOS, 5));
            assert_eq!(row.trained, [false, true, true, true, true]);
        }
    }

    #[test]
    fn a_completion_is_trained_from_its_first_token_on() {
        assert_eq!(trained(&completion("Q: x", " A: y"), TrainOn::Assistant), " A: y</s>");
        assert_eq!(trained(&completion("Q: x", " A: y"), TrainOn::All), "Q: x A: y</s>");
        assert_eq!(trained(&completion("", "y"), TrainOn::Assistant), "y</s>");
    }

    #[test]
    fn a_token_that_straddles_the_border_belongs_to_the_completion() {
        assert_eq!(trained(&completion("Q:", ": A"), TrainOn::Assistant), ":: A</s>");
    }

    #[test]
    fn instructions_are_alpacas() {
        let no_input = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
            ### Instruction:\nDefine tort.\n\n### Response:";
        let with_input = "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
            response that appropriately completes the request.\n\n### Instruction:\nDefine tort.\n\n### Input:\nUK\n\n### Response:";
        assert_eq!(alpaca("Define tort.", None), no_input);
        assert_eq!(alpaca("Define tort.", Some("UK")), with_input);
        let example = Example::Instruction { instruction: "Define tort.".into(), input: None, output: "A wrong.".into() };
        assert_eq!(trained(&example, TrainOn::Assistant), "A wrong.</s>");
    }

    #[test]
    fn every_answer_or_the_last_or_all_is_trained_with_its_end_of_turn() {
        let chat = conversation(&[("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")]);
        assert_eq!(trained(&chat, TrainOn::Assistant), "a<|im_end|>b<|im_end|>");
        assert_eq!(trained(&chat, TrainOn::Last), "b<|im_end|>");
        assert!(trained(&chat, TrainOn::All).starts_with("user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>"));
        assert_eq!(trained(&conversation(&[("user", "q")]), TrainOn::Last), "");
    }

    #[test]
    fn a_doubled_bos_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let error = encoder(folder.path()).encode(&Example::Text("<s>law".into()), TrainOn::All).expect_err("two bos");
        assert_eq!(error.to_string(), "the row begins with the bos token twice, id 0");
    }

    proptest! {
        #[test]
        fn the_trained_text_is_the_completion(prompt in "[a-z \n]{0,20}", answer in "[a-z \n]{1,20}") {
            prop_assert_eq!(trained(&completion(&prompt, &answer), TrainOn::Last), format!("{answer}</s>"));
        }
    }
}
