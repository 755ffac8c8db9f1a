//! The conversations on which a template is compared with the base's: with and without a system
//! message, one turn and several, and contents that test escaping and trimming. Each ends where the
//! assistant speaks next, as Ollama renders it.

use serde_json::{Value, json};

use super::go::Turn;

const SYSTEM: &str = "You know terms of medicine.";
const FIRST: &str = "What is anaemia?";
const SECOND: &str = "And what causes it?";
const THIRD: &str = "Name three foods.";
const ANSWER: &str = "Too few red blood cells.";
const FURTHER: &str = "Mostly a lack of iron.";
const SIGNS: [&str; 4] = [
    "Quote \"exactly\", 'so' or `so`; 1 < 2 & 3 > 2, back\\slash, {braces} and {{ double }} ones",
    "First line\n\n  indented third line\twith a tab\nGrüße, 漢字, Ελλάδα 🙂",
    "{% if a %} {{ .Content }} {# b #} \"\" ' %s $1",
    "100 % of [that]; see <https://example.org/?a=b&c=d#e>\n- one\n- two",
];

/// A conversation whose contents are all different.
#[derive(Debug, Clone)]
pub(super) struct Golden(pub Vec<Turn>);

impl Golden {
    fn new(turns: &[(&str, &str)]) -> Self {
        Self(
            turns
                .iter()
                .map(|(role, content)| Turn {
                    role: (*role).to_owned(),
                    content: (*content).to_owned(),
                })
                .collect(),
        )
    }

    /// Returns the messages as a chat template takes them.
    pub fn messages(&self) -> Vec<Value> {
        self.0
            .iter()
            .map(|turn| json!({"role": turn.role, "content": turn.content}))
            .collect()
    }

    /// Returns the assistant's messages.
    pub fn answers(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(|turn| turn.role == "assistant")
            .map(|turn| turn.content.as_str())
    }

    /// Describes its roles in words.
    pub fn roles(&self) -> String {
        self.0
            .iter()
            .map(|turn| turn.role.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Returns the conversations.
pub(super) fn golden() -> Vec<Golden> {
    let [system, user, answer, next] = SIGNS;
    let (u, a, s) = ("user", "assistant", "system");
    vec![
        Golden::new(&[(u, FIRST)]),
        Golden::new(&[(u, FIRST), (a, ANSWER), (u, SECOND)]),
        Golden::new(&[
            (u, FIRST),
            (a, ANSWER),
            (u, SECOND),
            (a, FURTHER),
            (u, THIRD),
        ]),
        Golden::new(&[(u, user), (a, answer), (u, next)]),
        Golden::new(&[(s, SYSTEM), (u, FIRST)]),
        Golden::new(&[(s, SYSTEM), (u, FIRST), (a, ANSWER), (u, SECOND)]),
        Golden::new(&[
            (s, system),
            (u, user),
            (a, answer),
            (u, next),
            (a, FURTHER),
            (u, THIRD),
        ]),
    ]
}

/// Returns one with white space around its contents, which some chat templates trim and Go's
/// cannot.
pub(super) fn with_blanks() -> Golden {
    Golden::new(&[
        ("user", "  What is anaemia?\n"),
        ("assistant", " Too few red blood cells. "),
        ("user", "\nAnd what causes it? "),
    ])
}
