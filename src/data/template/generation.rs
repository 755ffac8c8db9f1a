//! Marks that carry the contents of `{% generation %}` blocks through a rendering.
//!
//! minijinja has no such tag, so each is rewritten to a `{% call %}` block, as in transformers: one
//! tag for one tag, hence the same white space control, and the same scope for variables set
//! inside.

use std::hash::{BuildHasher, Hasher, RandomState};

use minijinja::value::Kwargs;
use minijinja::{Error, State, Value};

use super::Rendered;

/// A pair of strings around each trained span of a rendering.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    open: String,
    close: String,
}

impl Marks {
    /// Creates marks that no text can contain by chance or intent: the nonce belongs to this
    /// process and never reaches a result.
    pub(super) fn new() -> Self {
        let nonce = RandomState::new().build_hasher().finish();
        Self {
            open: format!("\u{e000}{nonce:016x}\u{e001}"),
            close: format!("\u{e002}{nonce:016x}\u{e003}"),
        }
    }

    /// Wraps a text in the marks.
    pub(super) fn wrap(&self, text: &str) -> String {
        format!("{}{text}{}", self.open, self.close)
    }

    /// Removes the marks from a rendering; `None` if they are not in pairs.
    pub(super) fn cut(&self, marked: &str) -> Option<Rendered> {
        let mut rendered = Rendered {
            text: String::with_capacity(marked.len()),
            assistant: Vec::new(),
        };
        let mut pieces = marked.split(self.open.as_str());
        rendered.text.push_str(
            pieces
                .next()
                .filter(|before| !before.contains(&self.close))?,
        );
        for piece in pieces {
            let (inside, after) = piece
                .split_once(self.close.as_str())
                .filter(|(_, after)| !after.contains(&self.close))?;
            let start = rendered.text.len();
            rendered.text.push_str(inside);
            rendered.assistant.push(start..rendered.text.len());
            rendered.text.push_str(after);
        }
        Some(rendered)
    }

    /// Renders the body of a generation block between the marks.
    pub(super) fn call(&self, state: &mut State, arguments: &Kwargs) -> Result<Value, Error> {
        let body = arguments.get::<Value>("caller")?.call(state, &[])?;
        Ok(Value::from(self.wrap(&body.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_undoes_wrapping() {
        let marks = Marks::new();
        let marked = format!(
            "ü{}-{}{}.",
            marks.wrap("é🙂"),
            marks.wrap(""),
            marks.wrap("b")
        );
        let rendered = marks.cut(&marked).unwrap();
        assert_eq!(rendered.text, "üé🙂-b.");
        assert_eq!(rendered.assistant, [2..8, 9..9, 9..10]);
        assert_eq!(&rendered.text[2..8], "é🙂");
    }

    #[test]
    fn marks_that_are_not_in_pairs_are_refused() {
        let marks = Marks::new();
        for broken in [
            marks.open.clone(),
            marks.close.clone(),
            marks.wrap(&marks.wrap("a")),
            format!("{}{}", marks.wrap("a"), marks.close),
        ] {
            assert_eq!(marks.cut(&broken), None);
        }
    }
}
