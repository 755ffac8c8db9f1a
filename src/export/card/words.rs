//! Escapes names and values from outside for Markdown, so that they are shown literally.

use std::path::Path;

use crate::data::visible;

/// The most characters of a value that are shown.
const MAX_SHOWN: usize = 500;

/// Formats any text as inline code.
pub fn code(text: &str) -> String {
    let shown = shortened(&visible(text));
    let longest = shown.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let (fence, room) = (
        "`".repeat(longest + 1),
        if longest > 0 || shown.is_empty() {
            " "
        } else {
            ""
        },
    );
    format!("{fence}{room}{shown}{room}{fence}")
}

/// Formats a text as code in a table cell, where a bar would end the cell.
pub(super) fn cell(text: &str) -> String {
    code(text).replace('|', "\\|")
}

fn shortened(text: &str) -> String {
    let cut = text.char_indices().nth(MAX_SHOWN).map(|(place, _)| place);
    cut.map_or_else(|| text.to_owned(), |place| format!("{}...", &text[..place]))
}

/// Returns the last part of a path, which reveals nothing about the machine.
pub(super) fn last(path: &str) -> String {
    let of_path = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    of_path(Path::new(path))
        .or_else(|| of_path(&Path::new(path).canonicalize().ok()?))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_stays_code() {
        let shown = [
            ("plain", "`plain`"),
            ("", "`  `"),
            ("a`b", "`` a`b ``"),
            ("``", "``` `` ```"),
            ("a|b\n# c", "`a|b␊# c`"),
            ("<script>[x](y)\u{202e}", "`<script>[x](y)\\u{202e}`"),
        ];
        for (text, expected) in shown {
            assert_eq!(code(text), expected);
        }
        assert_eq!(cell("a|b"), "`a\\|b`");
        assert!(code(&"é".repeat(600)).ends_with("é...`"));
        assert_eq!(
            (last("/home/x/b.parquet"), last("b"), last("/")),
            ("b.parquet".into(), "b".into(), String::new())
        );
    }
}
