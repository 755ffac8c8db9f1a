//! Chat templates and tokenizers against what transformers made of the same input: text, token ids
//! and assistant mask.

mod common;

use common::golden;
use rankine::data::template::{ChatTemplate, Conversation, TemplateError};
use rankine::data::tokenize::{SpecialTokens, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value};

const TEMPLATES: [&str; 7] = [
    "chatml",
    "deepseek",
    "gemma",
    "llama3",
    "mistral_v3",
    "phi3",
    "qwen3",
];

#[derive(Deserialize)]
struct Golden {
    bos_token: String,
    eos_token: String,
    template: String,
    template_generation: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    extra: Map<String, Value>,
    add_generation_prompt: bool,
    #[serde(default)]
    text: String,
    #[serde(default)]
    input_ids: Vec<u32>,
    #[serde(default)]
    assistant_mask: Vec<u8>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Tokenized {
    text: String,
    ids: Vec<u32>,
    ids_no_special: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
}

/// The golden files hold their keys sorted, the templates saw them as the script that made the
/// files wrote them: these first, in this order.
const WRITTEN_ORDER: [&str; 10] = [
    "id",
    "type",
    "function",
    "name",
    "description",
    "parameters",
    "properties",
    "required",
    "enum",
    "arguments",
];

fn as_written(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(as_written).collect(),
        Value::Object(entries) => {
            let mut entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| (key.clone(), as_written(value)))
                .collect();
            entries.sort_by_key(|(key, _)| {
                WRITTEN_ORDER
                    .iter()
                    .position(|first| first == key)
                    .unwrap_or(WRITTEN_ORDER.len())
            });
            Value::Object(entries.into_iter().collect())
        }
        other => other.clone(),
    }
}

fn read<T: for<'a> Deserialize<'a>>(path: &str) -> T {
    let source = std::fs::read_to_string(golden(path)).unwrap();
    serde_json::from_str(&source).unwrap()
}

/// Every case of a template: its text, ids and mask, or the template's own words.
fn check(template: &ChatTemplate, tokenizer: &Tokenizer, cases: &[Case]) {
    for case in cases {
        let conversation = Conversation {
            messages: case.messages.iter().map(as_written).collect(),
            tools: case
                .tools
                .as_ref()
                .map(|tools| tools.iter().map(as_written).collect()),
            variables: case.extra.clone(),
        };
        let name = format!(
            "{}, add_generation_prompt {}",
            case.name, case.add_generation_prompt
        );
        let rendered = template.render_with_spans(&conversation, case.add_generation_prompt);
        if let Some(expected) = &case.error {
            let Err(TemplateError::Raised { message }) = rendered else {
                panic!("{name}: {rendered:?}, expected {expected}")
            };
            assert_eq!(format!("TemplateError: {message}"), *expected, "{name}");
            continue;
        }
        let rendered = rendered.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(rendered.text, case.text, "{name}");
        assert_eq!(
            template
                .render(&conversation, case.add_generation_prompt)
                .as_ref(),
            Ok(&case.text),
            "{name}"
        );
        let (ids, trained) = tokenizer
            .encode_with_spans(&rendered.text, &rendered.assistant)
            .unwrap();
        assert_eq!(ids, case.input_ids, "{name}");
        let mask: Vec<u8> = trained.into_iter().map(u8::from).collect();
        assert_eq!(mask, case.assistant_mask, "{name}");
    }
}

fn check_all(source: impl Fn(&Golden) -> &str) {
    let tokenizer = Tokenizer::open(&golden("chat/tokenizer")).unwrap();
    for name in TEMPLATES {
        let golden: Golden = read(&format!("chat/{name}.json"));
        let special = SpecialTokens {
            bos: Some(golden.bos_token.clone()),
            eos: Some(golden.eos_token.clone()),
            ..tokenizer.special().clone()
        };
        let started = "2025-01-01T00:00:00Z".parse().unwrap();
        check(
            &ChatTemplate::new(source(&golden), &special, started).unwrap(),
            &tokenizer,
            &golden.cases,
        );
    }
}

#[test]
fn marked_templates_give_the_text_ids_and_mask_of_transformers() {
    check_all(|golden| &golden.template_generation);
}

/// No case is excepted. Without the twins some are: `spans::tests` lists them.
#[test]
fn stock_templates_without_marks_give_the_same_masks() {
    check_all(|golden| &golden.template);
}

#[test]
fn tokenizers_give_the_ids_and_texts_of_transformers() {
    for folder in std::fs::read_dir(golden("archs")).unwrap() {
        let architecture = folder.unwrap().file_name().into_string().unwrap();
        let tokenizer = Tokenizer::open(&golden(&format!("archs/{architecture}/model"))).unwrap();
        let cases: Vec<Tokenized> = read(&format!("archs/{architecture}/tokenizer_golden.json"));
        for case in cases {
            assert_eq!(
                tokenizer.encode(&case.text, true).unwrap().ids,
                case.ids,
                "{architecture}: {:?}",
                case.text
            );
            assert_eq!(
                tokenizer.encode(&case.text, false).unwrap().ids,
                case.ids_no_special,
                "{architecture}: {:?}",
                case.text
            );
            assert_eq!(
                tokenizer.decode(&case.ids, false).unwrap(),
                case.decoded,
                "{architecture}"
            );
            assert_eq!(
                tokenizer.decode(&case.ids, true).unwrap(),
                case.decoded_skip_special,
                "{architecture}"
            );
        }
    }
}
