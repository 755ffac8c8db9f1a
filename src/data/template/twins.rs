//! Marked stock templates: a model that ships one of them is trained with exact spans although its
//! copy marks nothing, and a recipe may name one.
//!
//! Only the marked form is stored; the form that models ship is the same text without the tags. A
//! twin is used only if the two are equal to the last byte, so it cannot render anything else.

use super::rewrite;

/// A stock template with its name.
pub(super) struct Stock {
    name: &'static str,
    marked: &'static str,
    /// Tokens that a tokenizer must have. Without them a conversation would be cut into pieces that
    /// no model was tuned on.
    pub tokens: &'static [&'static str],
}

impl Stock {
    /// Returns the form that models ship.
    pub fn source(&self) -> String {
        rewrite::without_marks(self.marked)
    }
}

const CHATML: &[&str] = &["<|im_start|>", "<|im_end|>"];

const STOCK: [Stock; 7] = [
    Stock {
        name: "chatml",
        marked: include_str!("stock/chatml.jinja"),
        tokens: CHATML,
    },
    Stock {
        name: "deepseek",
        marked: include_str!("stock/deepseek.jinja"),
        tokens: &["<｜User｜>", "<｜Assistant｜>"],
    },
    Stock {
        name: "gemma",
        marked: include_str!("stock/gemma.jinja"),
        tokens: &["<start_of_turn>", "<end_of_turn>"],
    },
    Stock {
        name: "llama3",
        marked: include_str!("stock/llama3.jinja"),
        tokens: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    },
    Stock {
        name: "mistral_v3",
        marked: include_str!("stock/mistral_v3.jinja"),
        tokens: &["[INST]", "[/INST]"],
    },
    Stock {
        name: "phi3",
        marked: include_str!("stock/phi3.jinja"),
        tokens: &["<|user|>", "<|assistant|>", "<|end|>"],
    },
    Stock {
        name: "qwen3",
        marked: include_str!("stock/qwen3.jinja"),
        tokens: CHATML,
    },
];

/// Returns the names of all stock templates.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    STOCK.iter().map(|stock| stock.name)
}

/// Returns the stock template with a name.
pub(super) fn named(name: &str) -> Option<&'static Stock> {
    STOCK.iter().find(|stock| stock.name == name)
}

/// Returns the marked form of a stock template. One line break at the end makes no difference,
/// because jinja2 drops it.
pub(super) fn marked(source: &str) -> Option<&'static str> {
    let same = |marked: &&str| {
        without_last_break(&rewrite::without_marks(marked)) == without_last_break(source)
    };
    STOCK.iter().map(|stock| stock.marked).find(same)
}

fn without_last_break(source: &str) -> &str {
    source.strip_suffix('\n').unwrap_or(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stock_template_is_found_by_its_plain_form() {
        for stock in &STOCK {
            assert!(rewrite::is_marked(stock.marked));
            assert_eq!(marked(&stock.source()), Some(stock.marked));
            assert_eq!(
                marked(without_last_break(&stock.source())),
                Some(stock.marked)
            );
            assert!(
                stock
                    .tokens
                    .iter()
                    .all(|token| stock.marked.contains(token)),
                "{}",
                stock.name
            );
        }
    }

    #[test]
    fn another_template_has_no_twin() {
        assert_eq!(marked("{{ messages }}"), None);
        assert!(named("zephyr").is_none());
    }
}
