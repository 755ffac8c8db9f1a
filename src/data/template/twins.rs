//! Stock templates, marked: a model that ships one of them is trained with exact spans although its copy marks nothing.
//!
//! Only the marked form is kept; the form that models ship is the same text without the tags. A twin is used where the two are
//! equal to the last byte, so it cannot render anything else.

use super::generation;

const MARKED: [&str; 7] = [
    include_str!("stock/chatml.jinja"),
    include_str!("stock/deepseek.jinja"),
    include_str!("stock/gemma.jinja"),
    include_str!("stock/llama3.jinja"),
    include_str!("stock/mistral_v3.jinja"),
    include_str!("stock/phi3.jinja"),
    include_str!("stock/qwen3.jinja"),
];

/// The marked form of a stock template. One line break at the end makes no difference: jinja2 drops it.
pub(super) fn marked(source: &str) -> Option<&'static str> {
    let same = |marked: &&str| without_last_break(&generation::without_tags(marked)) == without_last_break(source);
    MARKED.into_iter().find(same)
}

fn without_last_break(source: &str) -> &str {
    source.strip_suffix('\n').unwrap_or(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stock_template_is_found_by_its_plain_form() {
        for twin in MARKED {
            assert!(generation::is_marked(twin));
            assert_eq!(marked(&generation::without_tags(twin)), Some(twin));
            assert_eq!(marked(without_last_break(&generation::without_tags(twin))), Some(twin));
        }
    }

    #[test]
    fn another_template_has_no_twin() {
        assert_eq!(marked("{{ messages }}"), None);
    }
}
