//! What a person is told when something is wrong: where, what, the next step, and the exit code of
//! the process.

mod quoted;

use std::fmt;

pub use quoted::{HIDDEN, quoted, quoting, revealed, show_data, shown, without_data};

/// How the process ends when it fails; success is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command line is off.
    Usage = 2,
    /// Any fault of recipe or data, a path that a recipe names and that does not exist included.
    Input = 65,
    /// The RECIPE argument itself does not exist.
    NoInput = 66,
    /// The device is not there, or not proven.
    Unavailable = 69,
    /// A fault of Rankine itself.
    Internal = 70,
    /// There is not enough memory.
    Memory = 71,
    /// The output exists and is not overwritten.
    Exists = 73,
    /// A file could not be read or written.
    Io = 74,
    /// A signal ended the run; a checkpoint is there to go on from.
    Interrupted = 75,
    /// Training diverged.
    Diverged = 76,
    /// A signal ended the run before anything could be saved.
    Signal = 130,
}

/// One thing that is wrong, where, and what to do next. No final period, a value after a colon,
/// backticks round literals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `file:line:column`, a path or an override as it was typed.
    pub place: Option<String>,
    /// Both sides of what does not fit.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault without a place or a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            place: None,
            message: message.into(),
            hint: None,
        }
    }

    /// Says where.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.place = Some(place.to_string());
        self
    }

    /// Says what to do next.
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

/// An error that knows its exit code and explains itself; every module's error implements it, and
/// the command line prints it.
pub trait Explain: std::error::Error {
    /// The exit code of a process that ends with this error.
    fn exit(&self) -> Exit;

    /// The next step, where there is one.
    fn hint(&self) -> Option<String> {
        None
    }

    /// All faults that this error stands for, in the order in which they are printed.
    fn faults(&self) -> Vec<Fault> {
        vec![Fault {
            place: None,
            message: self.to_string(),
            hint: self.hint(),
        }]
    }
}

/// A word as a shell takes it, for commands in hints.
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Characters of a message that are shown.
const MAX_SHOWN: usize = 4000;

/// A text as a terminal may have it: names and values from another's folder command no terminal and
/// fill no screen, and what is quoted of the data is shown only where that was asked for.
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

/// The word that was probably meant: the nearest of which at most a third of the letters differ,
/// and not all of them; else the one that stands after a prefix, as `r` does in the `lora_r` of
/// other trainers.
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
