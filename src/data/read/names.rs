//! Common names of columns: the one table that conversions, hints and `init` know them from.

/// A common name of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CommonName {
    name: &'static str,
    /// Whether a file with this name is converted without asking; otherwise the name is proposed.
    is_certain: bool,
}

const fn certain(name: &'static str) -> CommonName {
    CommonName {
        name,
        is_certain: true,
    }
}

const fn likely(name: &'static str) -> CommonName {
    CommonName {
        name,
        is_certain: false,
    }
}

/// Common names of each canonical column, the most likely first.
const NAMES: [(&str, &[CommonName]); 23] = [
    (
        "messages",
        &[
            certain("messages"),
            certain("conversations"),
            certain("conversation"),
            likely("message"),
            certain("dialogue"),
            certain("dialog"),
            likely("dialogs"),
            certain("turns"),
            likely("chat"),
            likely("chats"),
            likely("items"),
        ],
    ),
    ("tools", &[certain("tools"), likely("functions")]),
    ("history", &[certain("history")]),
    ("system", &[certain("system"), certain("system_prompt")]),
    ("chat_template_kwargs", &[certain("chat_template_kwargs")]),
    (
        "chosen",
        &[
            certain("chosen"),
            likely("chosen_response"),
            likely("preferred"),
        ],
    ),
    (
        "rejected",
        &[
            certain("rejected"),
            likely("rejected_response"),
            likely("dispreferred"),
        ],
    ),
    (
        "anchor",
        &[
            certain("anchor"),
            certain("query"),
            likely("question"),
            likely("sentence1"),
        ],
    ),
    (
        "positive",
        &[
            certain("positive"),
            certain("pos"),
            likely("positive_passage"),
        ],
    ),
    (
        "negative",
        &[
            certain("negative"),
            certain("neg"),
            likely("negatives"),
            likely("negative_passage"),
            likely("hard_negative"),
        ],
    ),
    (
        "label",
        &[
            certain("label"),
            certain("kto_tag"),
            likely("desirable"),
            likely("labels"),
            likely("class"),
            likely("category"),
            likely("intent"),
            likely("sentiment"),
            likely("target"),
        ],
    ),
    (
        "text_pair",
        &[
            certain("text_pair"),
            likely("text2"),
            likely("sentence2"),
            likely("hypothesis"),
        ],
    ),
    ("tokens", &[certain("tokens"), likely("words")]),
    (
        "tags",
        &[
            certain("tags"),
            likely("ner_tags"),
            likely("pos_tags"),
            likely("chunk_tags"),
        ],
    ),
    ("margin", &[certain("margin")]),
    (
        "score_chosen",
        &[
            certain("score_chosen"),
            likely("chosen_score"),
            likely("chosen-score"),
            likely("chosen-rating"),
            likely("chosen_rating"),
        ],
    ),
    (
        "score_rejected",
        &[
            certain("score_rejected"),
            likely("rejected_score"),
            likely("rejected-score"),
            likely("rejected-rating"),
            likely("rejected_rating"),
        ],
    ),
    (
        "prompt",
        &[
            certain("prompt"),
            certain("question"),
            likely("questions"),
            certain("query"),
            likely("instruction"),
            certain("input"),
            likely("problem"),
            likely("source"),
            likely("context"),
            likely("user"),
            likely("human"),
            likely("q"),
        ],
    ),
    (
        "completion",
        &[
            certain("completion"),
            certain("response"),
            certain("answer"),
            likely("answers"),
            certain("output"),
            likely("solution"),
            likely("target"),
            likely("reply"),
            likely("chosen"),
            likely("assistant"),
            likely("label"),
            likely("a"),
        ],
    ),
    (
        "instruction",
        &[
            certain("instruction"),
            likely("instructions"),
            likely("prompt"),
            likely("question"),
            likely("query"),
            likely("task"),
            likely("problem"),
        ],
    ),
    (
        "input",
        &[certain("input"), likely("inputs"), certain("context")],
    ),
    (
        "output",
        &[
            certain("output"),
            likely("outputs"),
            certain("response"),
            certain("answer"),
            certain("completion"),
            likely("solution"),
            likely("target"),
            likely("reply"),
        ],
    ),
    (
        "text",
        &[
            certain("text"),
            certain("content"),
            likely("body"),
            certain("document"),
            likely("passage"),
            likely("article"),
            likely("sentence"),
            likely("sentence1"),
            likely("premise"),
            likely("review"),
            likely("raw"),
            likely("markdown"),
            likely("code"),
        ],
    ),
];

/// Returns the common names of a canonical column, the most likely first.
pub fn common_names(canonical: &str) -> impl Iterator<Item = &'static str> {
    of(canonical).map(|common| common.name)
}

/// Returns the common names of a canonical column that leave no doubt, the most usual first.
pub fn certain_names(canonical: &str) -> impl Iterator<Item = &'static str> {
    of(canonical)
        .filter(|common| common.is_certain)
        .map(|common| common.name)
}

/// Whether a name is one of a canonical column's that leave no doubt, in any case of letters.
pub fn is_certainly(canonical: &str, name: &str) -> bool {
    canonical.eq_ignore_ascii_case(name)
        || certain_names(canonical).any(|known| known.eq_ignore_ascii_case(name))
}

fn of(canonical: &str) -> impl Iterator<Item = &'static CommonName> {
    let names = NAMES.iter().find(|(own, _)| *own == canonical);
    names.into_iter().flat_map(|(_, names)| *names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terms::{Format, Term};

    #[test]
    fn every_column_of_a_format_is_certain_by_its_own_name() {
        for (_, format) in Format::WORDS {
            for canonical in format.columns() {
                assert!(is_certainly(canonical, canonical), "{canonical}");
            }
        }
    }

    #[test]
    fn a_name_leaves_no_doubt_only_where_few_mean_something_else() {
        assert!(is_certainly("completion", "Response") && !is_certainly("completion", "label"));
        assert!(common_names("completion").any(|name| name == "label"));
        assert_eq!(common_names("url").count(), 0);
    }
}
