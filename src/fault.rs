//! Errors as a person reads them: the place, the message, the next step and the exit code of the
//! process.

mod quoted;

use std::fmt;

pub use quoted::{HIDDEN, quoted, quoting, revealed, show_data, shown, without_data};

/// Exit code of a process that fails; success is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command line is wrong.
    Usage = 2,
    /// The recipe or the data is wrong. This includes a path in a recipe that does not exist.
    Input = 65,
    /// The RECIPE argument itself does not exist.
    NoInput = 66,
    /// The device is missing, or training on it is not proven.
    Unavailable = 69,
    /// An internal error of Rankine.
    Internal = 70,
    /// There is not enough memory.
    Memory = 71,
    /// The output exists and is not overwritten.
    Exists = 73,
    /// A file could not be read or written.
    Io = 74,
    /// A signal ended the run after a checkpoint, from which it can be resumed.
    Interrupted = 75,
    /// Training diverged.
    Diverged = 76,
    /// A signal ended the run before anything could be saved.
    Signal = 130,
}

/// One error: what is wrong, where, and what to do next. Messages have no final period, put a value
/// after a colon, and put backticks around literals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `file:line:column`, a path or an override as it was typed.
    pub place: Option<String>,
    /// What is wrong, naming both sides of a mismatch.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}

impl Fault {
    /// Makes a fault without a place or a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            place: None,
            message: message.into(),
            hint: None,
        }
    }

    /// Sets the place.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.place = Some(place.to_string());
        self
    }

    /// Sets the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&printable(&self.message))
    }
}

/// An error with an exit code and a hint. Every module's error implements this trait, and the
/// command line prints it.
pub trait Explain: std::error::Error {
    /// Returns the exit code of a process that ends with this error.
    fn exit(&self) -> Exit;

    /// Returns the next step, if there is one.
    fn hint(&self) -> Option<String> {
        None
    }

    /// Returns all faults that this error stands for, in the order in which they are printed.
    fn faults(&self) -> Vec<Fault> {
        vec![Fault {
            place: None,
            message: self.to_string(),
            hint: self.hint(),
        }]
    }
}

/// Failure of a command.
#[derive(Debug)]
pub struct Failure {
    /// Exit code of the process.
    pub exit: Exit,
    /// What is wrong, or what is left of a command that the user ended; may be empty then.
    pub faults: Vec<Fault>,
}

impl Failure {
    /// Makes a failure with one fault.
    pub fn new(exit: Exit, fault: Fault) -> Self {
        Self {
            exit,
            faults: vec![fault],
        }
    }

    /// Makes a failure without words.
    pub fn quiet(exit: Exit) -> Self {
        Self {
            exit,
            faults: Vec::new(),
        }
    }
}

impl<E: Explain> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            exit: error.exit(),
            faults: error.faults(),
        }
    }
}

/// Quotes a word for a shell, for commands in hints.
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Quotes a text for YAML, on one line and also within braces, where it would be read as something
/// else.
pub fn yaml_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./-+@".contains(c);
    let starts_well =
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '.' || c == '_');
    let is_word = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
        .contains(&text.to_ascii_lowercase().as_str());
    let is_number = text.starts_with('.')
        && text[1..].starts_with(|c: char| c.is_ascii_digit() || "iInN".contains(c));
    if starts_well && !is_word && !is_number && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        serde_json::to_string(text).expect("a text can be written")
    }
}

/// Most characters of a message that are shown.
const MAX_SHOWN: usize = 4000;

/// Returns a text that is safe to print on a terminal.
///
/// Control characters are escaped and long texts are cut, because names and values may come from a
/// downloaded folder. Quoted data is shown only if the user asked for it.
pub fn printable(text: &str) -> String {
    let is_command = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let text = shown(text);
    let first = text.chars().take(MAX_SHOWN);
    let mut printable: String = first
        .map(|c| {
            if is_command(c) {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        printable.push_str("...");
    }
    printable
}

/// Returns the word that was probably meant.
///
/// This is the nearest word that differs in at most a third of its letters, but not in all of them.
/// Otherwise it is a word that follows a prefix, such as `r` in the `lora_r` of other trainers.
pub fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    const LONGEST_TYPED: usize = 64;
    if word.len() > LONGEST_TYPED {
        return None;
    }
    let typed = word.to_lowercase();
    let distance = |candidate: &&str| strsim::osa_distance(&typed, &candidate.to_lowercase());
    let near = |candidate: &&str| {
        distance(candidate)
            <= (candidate.len() / 3)
                .max(1)
                .min(candidate.len().saturating_sub(1))
    };
    let prefixed = |candidate: &&str| {
        typed
            .strip_suffix(*candidate)
            .is_some_and(|prefix| prefix.ends_with('_'))
    };
    words.clone().filter(near).min_by_key(distance).or_else(|| {
        words
            .filter(prefixed)
            .max_by_key(|candidate| candidate.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_yaml_reads_otherwise_are_quoted() {
        let quoted = [
            "no", "Null", "true", "12", ".5", "", "a b: c", "a, b", "- x", "é", "#x",
        ];
        for word in quoted {
            assert_eq!(yaml_word(word), format!("\"{word}\""));
        }
        for word in ["question", "q_1", "a-b", "data/x.jsonl", "./x"] {
            assert_eq!(yaml_word(word), word);
        }
    }

    #[test]
    fn the_nearest_word_is_near() {
        let words = || ["quantization", "r", "alpha", "learning_rate"].into_iter();
        assert_eq!(nearest("quantizaton", words()), Some("quantization"));
        assert_eq!(nearest("R", words()), Some("r"));
        assert_eq!(nearest("learning-rate", words()), Some("learning_rate"));
        assert_eq!(nearest("x", words()), None);
        assert_eq!(nearest("lora_r", words()), Some("r"));
        assert_eq!(nearest(&"r".repeat(100_000), words()), None);
    }

    #[test]
    fn a_message_commands_no_terminal() {
        let fault = Fault::new(format!("\u{1b}[2J\u{202e}\u{7}é\nb{}", "x".repeat(5000)));
        let shown = fault.to_string();
        assert!(
            shown.starts_with("\\u{1b}[2J\\u{202e}\\u{7}é\nbxxx") && shown.ends_with("xx..."),
            "{shown}"
        );
        assert_eq!(printable("a\tb `c`"), "a\tb `c`");
    }
}
