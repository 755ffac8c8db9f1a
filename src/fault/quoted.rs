//! Training data quoted in messages.
//!
//! Quotes are marked when a message is made, and shown or hidden when the message is printed. Logs
//! and errors are often passed on, so they quote no confidential data unless `-v` asks for it.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Marks around quoted data. Both are private-use characters of Unicode, and they are removed from
/// the data itself.
const OPEN: char = '\u{f7b00}';
const CLOSE: char = '\u{f7b01}';
/// Placeholder for quoted data that is hidden.
pub const HIDDEN: &str = "[text of the data: -v shows it]";

static SHOWS_DATA: AtomicBool = AtomicBool::new(false);

/// Sets whether messages of this process show the data that they quote. The default is to hide it.
pub fn show_data(shows: bool) {
    SHOWS_DATA.store(shows, Relaxed);
}

/// Marks a text as quoted data, for use in a message.
pub fn quoted(data: impl fmt::Display) -> String {
    format!(
        "{OPEN}{}{CLOSE}",
        data.to_string().replace([OPEN, CLOSE], "\u{fffd}")
    )
}

/// Marks the last occurrence of `data` in the message as quoted data.
pub fn quoting(message: &str, data: &str) -> String {
    match message.rfind(data).filter(|_| !data.is_empty()) {
        Some(start) => {
            let (before, rest) = message.split_at(start);
            format!("{before}{}{}", quoted(data), &rest[data.len()..])
        }
        None => message.to_owned(),
    }
}

/// Returns the message as the user may see it, with or without the data that it quotes.
pub fn shown(message: &str) -> Cow<'_, str> {
    if SHOWS_DATA.load(Relaxed) {
        revealed(message)
    } else {
        without_data(message)
    }
}

/// Returns the message with the data that it quotes.
pub fn revealed(message: &str) -> Cow<'_, str> {
    if message.contains([OPEN, CLOSE]) {
        message.replace([OPEN, CLOSE], "").into()
    } else {
        message.into()
    }
}

/// Returns the message without the data that it quotes. If the closing mark was cut off, the rest
/// of the message counts as data.
pub fn without_data(message: &str) -> Cow<'_, str> {
    if !message.contains([OPEN, CLOSE]) {
        return message.into();
    }
    let mut plain = String::new();
    for (index, part) in message.split(OPEN).enumerate() {
        if index == 0 {
            plain.push_str(part);
            continue;
        }
        plain.push_str(HIDDEN);
        plain.push_str(part.split_once(CLOSE).map_or("", |(_, rest)| rest));
    }
    plain.replace(CLOSE, "").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_hidden_and_shown_where_it_is_marked() {
        let message = format!("role {}, expected {} or user", quoted("Smith"), quoted("x"));
        assert_eq!(
            without_data(&message),
            format!("role {HIDDEN}, expected {HIDDEN} or user")
        );
        assert_eq!(revealed(&message), "role Smith, expected x or user");
        assert_eq!(
            shown(&message),
            without_data(&message),
            "it is hidden until somebody asks"
        );
        let cut: String = message.chars().take(8).collect();
        assert_eq!(without_data(&cut), format!("role {HIDDEN}"));
        let hostile = quoted(format!("a{CLOSE}b{OPEN}c"));
        assert_eq!(without_data(&hostile), HIDDEN, "data closes no mark");
        assert_eq!(without_data("plain"), "plain");
        assert_eq!(
            without_data(&quoting("it is `Smith`: Smith", "Smith")),
            format!("it is `Smith`: {HIDDEN}")
        );
        assert_eq!(quoting("plain", "Smith"), "plain");
    }
}
