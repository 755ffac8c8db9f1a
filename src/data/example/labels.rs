//! Checks for labels that would silently teach the wrong thing: an answer whose end is not trained,
//! so that the model never stops, and padding that is trained.

use super::error::EncodeError;
use super::token_row::TokenRow;
use crate::data::tokenizer::tokenize::Tokenizer;

/// Refuses a conversation in which a trained answer does not end in a trained token. White space
/// between the two is ignored.
///
/// # Errors
/// The token that ends an answer is not trained or does not exist, or the token that begins the
/// next turn is trained in its place.
pub fn check_ends(tokenizer: &Tokenizer, row: &TokenRow) -> Result<(), EncodeError> {
    let ends = tokenizer.end_ids();
    let opener = row
        .ids
        .iter()
        .find(|id| Some(**id) != tokenizer.bos_id())
        .copied()
        .filter(|id| tokenizer.is_special(*id));
    for (last, next) in borders(tokenizer, row) {
        let last_is = |is: fn(&Tokenizer, u32) -> bool| last.is_some_and(|id| is(tokenizer, id));
        match next {
            _ if last.is_some_and(|id| ends.contains(&id)) => {}
            _ if last.is_some() && last == opener => {
                return Err(EncodeError::TrainedOpener {
                    token: tokenizer.decode(opener.as_slice(), false)?,
                });
            }
            None if last_is(Tokenizer::is_special) => {}
            None => return Err(EncodeError::NoEnd),
            Some(id)
                if ends.contains(&id)
                    || (tokenizer.is_added(id) && !last_is(Tokenizer::is_special)) =>
            {
                return Err(EncodeError::UntrainedEnd {
                    token: tokenizer.decode(&[id], false)?,
                });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Returns, for each run of trained tokens that no trained token follows, its last token and the
/// next one. White space is skipped.
fn borders(tokenizer: &Tokenizer, row: &TokenRow) -> Vec<(Option<u32>, Option<u32>)> {
    let is_seen = |id: &u32| {
        tokenizer
            .decode(&[*id], false)
            .is_ok_and(|text| !text.trim().is_empty())
    };
    let (mut borders, mut end) = (Vec::new(), 0);
    for run in row.trained.chunk_by(|left, right| left == right) {
        let start = end;
        end += run.len();
        if !run[0] {
            continue;
        }
        let behind = row.ids[end..]
            .iter()
            .zip(&row.trained[end..])
            .find(|(id, _)| is_seen(id));
        if behind.is_none_or(|(_, trained)| !trained) {
            let last = row.ids[start..end]
                .iter()
                .rev()
                .find(|id| is_seen(id))
                .copied();
            borders.push((last, behind.map(|(id, _)| *id)));
        }
    }
    borders
}

/// Refuses a row that trains the padding token, unless that token has another meaning too, such as
/// eos.
///
/// # Errors
/// The padding token is trained.
pub fn check_padding(tokenizer: &Tokenizer, row: &TokenRow) -> Result<(), EncodeError> {
    let special = tokenizer.special();
    let Some(token) = &special.pad else {
        return Ok(());
    };
    let Some(pad) = tokenizer.token_to_id(token) else {
        return Ok(());
    };
    let is_more =
        [&special.bos, &special.unk].contains(&&special.pad) || tokenizer.end_ids().contains(&pad);
    match row
        .ids
        .iter()
        .zip(&row.trained)
        .position(|(id, trained)| *trained && *id == pad)
    {
        Some(place) if !is_more => Err(EncodeError::TrainedPadding {
            token: token.clone(),
            place,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::super::encode::Encoder;
    use super::super::encode::tests::encoder;
    use super::super::error::EncodeError;
    use super::super::format::Example;
    use super::*;
    use crate::data::template::{self, ChatTemplate, Conversation};
    use crate::data::tokenizer::special::SpecialTokens;
    use crate::terms::TrainOn;

    fn two_answers() -> Example {
        let messages = json!([
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "r"},
            {"role": "assistant", "content": "b"},
        ]);
        Example::Chat(
            Conversation {
                messages: messages.as_array().cloned().unwrap_or_default(),
                ..Conversation::default()
            }
            .into(),
        )
    }

    fn encode(answer: &str, train_on: TrainOn) -> Result<TokenRow, EncodeError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut encoder = encoder(folder.path());
        let source = format!(
            "{{% for m in messages %}}{{% if m.role == 'user' %}}<|im_start|>{{{{ m.content \
            }}}}{{% else %}}{answer}{{% endif %}}{{% endfor %}}"
        );
        let special = encoder.tokenizer.special().clone();
        encoder.template =
            Some(ChatTemplate::new(&source, &special, Timestamp::UNIX_EPOCH).expect("valid"));
        encoder.encode(&two_answers(), train_on)
    }

    #[test]
    fn an_end_of_turn_that_is_not_trained_is_refused() {
        let untrained = "{% generation %}{{ m.content }}{% endgeneration %} <|im_end|>";
        for train_on in [TrainOn::Assistant, TrainOn::Last] {
            let error = encode(untrained, train_on).expect_err("untrained");
            assert!(
                matches!(&error, EncodeError::UntrainedEnd { token } if token == "<|im_end|>"),
                "{error}"
            );
        }
        assert!(
            encode(untrained, TrainOn::All).is_ok(),
            "all is trained, the end too"
        );
        assert!(
            encode(
                "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %} </s>",
                TrainOn::Assistant
            )
            .is_ok()
        );
        let apart = "{% generation %}{{ m.content }}{% endgeneration %} \
            {% generation %}</s>{% endgeneration %}";
        assert!(encode(apart, TrainOn::Assistant).is_ok());
    }

    #[test]
    fn the_token_that_begins_the_next_turn_ends_no_answer() {
        let opener = "{% generation %}{{ m.content }}<|im_start|>{% endgeneration %} then ";
        assert!(matches!(
            encode(opener, TrainOn::Assistant),
            Err(EncodeError::TrainedOpener { token }) if token == "<|im_start|>"
        ));
    }

    #[test]
    fn an_answer_that_nothing_ends_is_refused() {
        let answer = "{% generation %}{{ m.content }}{% endgeneration %}";
        assert!(
            encode(&format!("{answer} then "), TrainOn::Last).is_ok(),
            "text follows, which nobody can judge"
        );
        assert!(matches!(
            encode(&format!("{answer} "), TrainOn::Last),
            Err(EncodeError::NoEnd)
        ));
        assert!(matches!(
            encode(answer, TrainOn::Assistant),
            Err(EncodeError::UntrainedEnd { token }) if token == "<|im_start|>"
        ));
    }

    #[test]
    fn padding_that_is_trained_is_refused_unless_it_ends_rows() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(
            encoder(folder.path())
                .encode(&Example::Text("a</s>".into()), TrainOn::All)
                .is_ok(),
            "eos pads"
        );
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|im_start|>"});
        std::fs::write(
            folder.path().join("tokenizer_config.json"),
            config.to_string(),
        )
        .expect("written");
        let encoder = Encoder {
            tokenizer: Tokenizer::open(folder.path()).expect("a tokenizer"),
            template: None,
        };
        let error = encoder
            .encode(&Example::Text("a<|im_start|>".into()), TrainOn::All)
            .expect_err("trained padding");
        assert_eq!(
            error.to_string(),
            "padding token `<|im_start|>` at position 2 has a label; the model would learn to emit \
            padding"
        );
        let prompt = Example::Completion {
            prompt: "<|im_start|>".into(),
            completion: "a".into(),
        };
        assert!(
            encoder.encode(&prompt, TrainOn::Assistant).is_ok(),
            "what is not trained may pad"
        );
    }

    fn golden() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat")
    }

    /// Checks every conversation that transformers rendered, with the template as shipped and with
    /// one that equals no twin.
    #[test]
    fn every_stock_template_trains_its_ends_with_its_twin_and_without() {
        let mut encoded = 0;
        for name in [
            "chatml",
            "deepseek",
            "gemma",
            "llama3",
            "mistral_v3",
            "phi3",
            "qwen3",
        ] {
            let file =
                std::fs::read_to_string(golden().join(format!("{name}.json"))).expect("read");
            let stock: Value = serde_json::from_str(&file).expect("JSON");
            let source = stock["template"].as_str().expect("a text");
            for source in [source.to_owned(), format!("{source}{{# no twin #}}")] {
                encoded += encode_cases(&stock, &source);
            }
        }
        assert!(encoded > 100, "{encoded}");
    }

    fn encode_cases(stock: &Value, source: &str) -> usize {
        let tokenizer = Tokenizer::open(&golden().join("tokenizer")).expect("a tokenizer");
        let token = |key: &str| stock[key].as_str().map(str::to_owned);
        let special = SpecialTokens {
            bos: token("bos_token"),
            eos: token("eos_token"),
            ..tokenizer.special().clone()
        };
        let template = ChatTemplate::new(source, &special, Timestamp::UNIX_EPOCH).expect("valid");
        let encoder = Encoder {
            tokenizer,
            template: Some(template),
        };
        let cases = stock["cases"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|case| case["error"].is_null());
        let encode = |case: &&Value| {
            let conversation = Conversation {
                messages: case["messages"].as_array().cloned().unwrap_or_default(),
                tools: case["tools"].as_array().cloned(),
                variables: case["extra"].as_object().cloned().unwrap_or_default(),
            };
            match encoder.encode(&Example::Chat(conversation.into()), TrainOn::Assistant) {
                Ok(_) => true,
                Err(EncodeError::Template(template::TemplateError::NoSpans { .. })) => false,
                Err(error) => panic!("{} of {source}: {error}", case["name"]),
            }
        };
        cases.filter(encode).count()
    }
}
