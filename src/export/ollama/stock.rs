//! Ollama's templates of common formats. Each is tried by rendering; none is chosen by its name.

use super::go::GoTemplate;

/// The placeholder in a template for a text that the chat template puts into every conversation.
const FOUND: &str = "@FOUND@";

/// A format with its template.
struct Stock {
    name: &'static str,
    template: &'static str,
    /// The texts around [`FOUND`] in a conversation without a system message.
    between: Option<[&'static str; 2]>,
}

const STOCK: [Stock; 15] = [
    Stock {
        name: "ChatML",
        template: include_str!("stock/chatml.gotmpl"),
        between: None,
    },
    Stock {
        name: "ChatML with a default system message",
        template: include_str!("stock/chatml_default_system.gotmpl"),
        between: Some(["<|im_start|>system\n", "<|im_end|>"]),
    },
    Stock {
        name: "ChatML without thinking",
        template: include_str!("stock/chatml_without_thinking.gotmpl"),
        between: None,
    },
    Stock {
        name: "Granite",
        template: include_str!("stock/granite.gotmpl"),
        between: None,
    },
    Stock {
        name: "Granite with a default system message",
        template: include_str!("stock/granite_default_system.gotmpl"),
        between: Some(["<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>"]),
    },
    Stock {
        name: "Gemma",
        template: include_str!("stock/gemma.gotmpl"),
        between: None,
    },
    Stock {
        name: "Gemma 4",
        template: include_str!("stock/gemma4.gotmpl"),
        between: None,
    },
    Stock {
        name: "Gemma 4 without thinking",
        template: include_str!("stock/gemma4_without_thinking.gotmpl"),
        between: None,
    },
    Stock {
        name: "Llama 3",
        template: include_str!("stock/llama3.gotmpl"),
        between: None,
    },
    Stock {
        name: "Llama 3.1",
        template: include_str!("stock/llama3_preface.gotmpl"),
        between: Some([
            "<|start_header_id|>system<|end_header_id|>\n\n",
            "<|eot_id|>",
        ]),
    },
    Stock {
        name: "Mistral v1",
        template: include_str!("stock/mistral_v1.gotmpl"),
        between: None,
    },
    Stock {
        name: "Mistral v1, spaced",
        template: include_str!("stock/mistral_v1_spaced.gotmpl"),
        between: None,
    },
    Stock {
        name: "Mistral v3",
        template: include_str!("stock/mistral_v3.gotmpl"),
        between: None,
    },
    Stock {
        name: "Mistral Tekken",
        template: include_str!("stock/mistral_tekken.gotmpl"),
        between: None,
    },
    Stock {
        name: "DeepSeek",
        template: include_str!("stock/deepseek.gotmpl"),
        between: None,
    },
];

/// Returns all formats, each with `prefix` before it. `without_system` is the expected text of a
/// conversation without a system message.
pub(super) fn candidates(without_system: &str, prefix: &str) -> Vec<(String, GoTemplate)> {
    let prefix = if prefix.is_empty() {
        String::new()
    } else {
        literal(prefix)
    };
    let candidate = |stock: &Stock| {
        let template = stock.template.strip_suffix('\n').unwrap_or(stock.template);
        let template = match stock.between {
            Some([before, after]) => {
                let (_, rest) = without_system.split_once(before)?;
                template.replace(FOUND, &literal(rest.split_once(after)?.0))
            }
            None => template.to_owned(),
        };
        Some((
            stock.name.to_owned(),
            GoTemplate::new(&format!("{prefix}{template}")).ok()?,
        ))
    };
    STOCK.iter().filter_map(candidate).collect()
}

/// Returns an action that prints a text.
fn literal(text: &str) -> String {
    let escape = |c: char| match c {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        '\n' => "\\n".to_owned(),
        c if c == ' ' || c.is_ascii_graphic() => c.to_string(),
        c => format!("\\U{:08x}", c as u32),
    };
    format!(
        "{{{{ \"{}\" }}}}",
        text.chars().map(escape).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::super::go::Turn;
    use super::*;

    #[test]
    fn every_format_is_a_template() {
        let text = "<|im_start|>system\nD<|im_end|>\
            <|start_of_role|>system<|end_of_role|>D<|end_of_text|>\
            <|start_header_id|>system<|end_header_id|>\n\nP<|eot_id|>";
        assert_eq!(candidates(text, "<s>").len(), STOCK.len());
    }

    #[test]
    fn a_literal_prints_its_text() {
        let text = "a\"b\\c\nd\te ü 漢 {{ .x }} \u{1f642}";
        let template = GoTemplate::new(&format!(
            "{}{{{{ if .Messages }}}}{{{{ end }}}}",
            literal(text)
        ))
        .expect("valid");
        assert_eq!(
            template
                .render(&[Turn {
                    role: "user".into(),
                    content: String::new()
                }])
                .as_deref(),
            Ok(text)
        );
    }
}
