//! Ollama's Modelfile (<https://docs.ollama.com/modelfile>). Its reader
//! (<https://github.com/ollama/ollama/blob/main/parser/parser.go>) has no escapes, ends a value at
//! three quotes before a line break, and silently drops characters that Go does not print. Values
//! that it would read differently are refused here.

use serde_json::{Map, Value};

use super::OllamaError;

/// The name of the weight file beside the Modelfile.
pub const WEIGHTS: &str = "model.gguf";
/// Characters other than letters and digits that templates use and that Go prints.
const PRINTED: [char; 2] = ['▁', '｜'];
/// Keys of `generation_config.json` that have the same names in Ollama.
const SAMPLING: [&str; 3] = ["temperature", "top_p", "top_k"];

/// Returns the Modelfile of a GGUF model; `generation` is the model's `generation_config.json`.
pub(super) fn modelfile(
    template: &str,
    stops: &[String],
    generation: &Map<String, Value>,
) -> Result<String, OllamaError> {
    let version = env!("CARGO_PKG_VERSION");
    let mut lines = vec![
        format!(
            "# Written by rankine {version}; `ollama create NAME -f Modelfile` makes the model"
        ),
        format!("FROM ./{WEIGHTS}"),
        format!("TEMPLATE {}", quoted("template", template)?),
    ];
    for stop in stops {
        lines.push(format!("PARAMETER stop {}", quoted("stop", stop)?));
    }
    let draws = generation
        .get("do_sample")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let said = SAMPLING
        .iter()
        .filter_map(|key| Some((key, generation.get(*key).filter(|value| value.is_number())?)));
    lines.extend(
        said.filter(|_| draws)
            .map(|(key, value)| format!("PARAMETER {key} {value}")),
    );
    Ok(lines.join("\n") + "\n")
}

/// Quotes a value that Ollama reads unchanged.
fn quoted(what: &'static str, text: &str) -> Result<String, OllamaError> {
    let is_read = |c: char| {
        let is_ascii = c.is_ascii_graphic() || matches!(c, ' ' | '\n' | '\t');
        is_ascii || (!c.is_ascii() && c.is_alphanumeric()) || PRINTED.contains(&c)
    };
    let refused = |found: String| OllamaError::Modelfile { what, found };
    if let Some(c) = text.chars().find(|c| !is_read(*c)) {
        return Err(refused(format!("the character `{}`", c.escape_unicode())));
    }
    match (text.contains("\"\"\""), text.contains('"'), what) {
        (true, ..) => Err(refused("three quotes in a row".to_owned())),
        (_, true, "stop") => Err(refused("a quote".to_owned())),
        (.., "stop") => Ok(format!("\"{text}\"")),
        _ => Ok(format!("\"\"\"{text}\"\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_read_otherwise_is_refused() {
        let refused = |text: &str| quoted("template", text).expect_err(text).to_string();
        assert!(refused("a \"\"\"\nb").contains("three quotes in a row"));
        assert!(refused("a\u{200b}").contains("`\\u{200b}`"));
        assert!(refused("a\r\nb").contains("`\\u{d}`"));
        assert!(refused("a\u{a0}b").contains("`\\u{a0}`"));
        assert!(quoted("stop", "say \"no\"").is_err());
        assert_eq!(
            quoted("template", "\"a\" \"\"\n").expect("two quotes"),
            "\"\"\"\"a\" \"\"\n\"\"\""
        );
        assert_eq!(
            quoted("stop", "<｜end▁of▁sentence｜>").expect("a token"),
            "\"<｜end▁of▁sentence｜>\""
        );
    }

    #[test]
    fn sampling_is_said_where_the_model_draws() {
        let of = |text: &str| {
            modelfile("t", &[], &serde_json::from_str(text).expect("JSON")).expect("a file")
        };
        let drawing = of(r#"{
                "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": null,
                "max_length": 9
            }"#);
        assert!(
            drawing.ends_with(
                "TEMPLATE \"\"\"t\"\"\"\nPARAMETER temperature 0.6\nPARAMETER top_p 0.9\n"
            ),
            "{drawing}"
        );
        assert!(!of(r#"{"temperature": 0.6}"#).contains("temperature"));
    }
}
