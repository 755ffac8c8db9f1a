//! A row of tokens as text: brackets and a color around the trained parts, a bar between tokens,
//! and a visible sign for every invisible character, so that the data cannot control the terminal.

use anstyle::{AnsiColor, Style};

use crate::data::tokenize::Tokenizer;
use crate::data::{TokenText, visible};

const OPEN: char = '⟦';
const CLOSE: char = '⟧';
const BAR: char = '¦';
/// Sign for a line break; the output line is also broken after it.
const BREAK: char = '␊';
const INDENT: &str = "\n  ";

/// How trained tokens are printed on this terminal.
pub(super) struct Palette {
    trained: Style,
}

impl Palette {
    /// Returns colors if stdout is a terminal and colors are not disabled.
    pub fn of_stdout() -> Self {
        let is_plain =
            anstream::AutoStream::choice(&std::io::stdout()) == anstream::ColorChoice::Never;
        let green = Style::new().fg_color(Some(AnsiColor::Green.into()));
        Self {
            trained: if is_plain { Style::new() } else { green },
        }
    }
}

/// Explains how to read the rows, and lists the special tokens.
pub(super) fn legend(tokenizer: &Tokenizer, end_ids: &[u32]) -> String {
    let special = tokenizer.special();
    let mut tokens: Vec<(String, Vec<&str>)> = Vec::new();
    let mut add = |token: String, role: &'static str| match tokens
        .iter_mut()
        .find(|(other, _)| *other == token)
    {
        Some((_, roles)) if roles.contains(&"eos") && role == "end" => {}
        Some((_, roles)) => roles.push(role),
        None => tokens.push((token, vec![role])),
    };
    for (token, role) in [
        (&special.bos, "bos"),
        (&special.eos, "eos"),
        (&special.pad, "pad"),
        (&special.unk, "unk"),
    ] {
        if let Some(token) = token {
            add(token.clone(), role);
        }
    }
    end_ids
        .iter()
        .filter_map(|id| tokenizer.decode(&[*id], false).ok())
        .for_each(|token| add(token, "end"));
    let tokens: Vec<String> = tokens
        .into_iter()
        .map(|(token, roles)| format!("{} {}", shown(&token), roles.join(", ")))
        .collect();
    let signs = format!(
        "{OPEN}trained{CLOSE}, {BAR} between tokens, {BREAK} a line break, ␛ or \\u{{1b}} and the \
        like: characters that cannot be seen"
    );
    format!(
        "{signs}\nspecial tokens (end: ends a turn or a text): {}",
        tokens.join("; ")
    )
}

/// Characters of a column of [`side_by_side`].
const COLUMN: usize = 56;

/// Formats two texts of several lines next to each other, under their headings.
pub(super) fn side_by_side(headings: [&str; 2], texts: [&[TokenText]; 2]) -> String {
    let plain = Palette {
        trained: Style::new(),
    };
    let [left, right] = [0, 1].map(|half| {
        let text = rendered(texts[half], &plain);
        let lines = text.lines().map(str::trim_start).flat_map(wrapped);
        std::iter::once(headings[half].to_owned())
            .chain(lines)
            .collect::<Vec<_>>()
    });
    let none = String::new();
    let line = |index: usize| {
        let [left, right] = [&left, &right].map(|lines| lines.get(index).unwrap_or(&none));
        let gap = " ".repeat(COLUMN.saturating_sub(left.chars().count()));
        format!("  {left}{gap} | {right}").trim_end().to_owned()
    };
    let lines = (0..left.len().max(right.len())).map(line);
    lines.collect::<Vec<_>>().join("\n")
}

/// Breaks a line into pieces that fit a column.
fn wrapped(line: &str) -> Vec<String> {
    let characters: Vec<char> = line.chars().collect();
    characters
        .chunks(COLUMN)
        .map(|piece| piece.iter().collect())
        .collect()
}

/// Formats the pieces of a row as indented lines.
pub(super) fn rendered(pieces: &[TokenText], palette: &Palette) -> String {
    let mut text = INDENT[1..].to_owned();
    for run in pieces.chunk_by(|left, right| left.trained == right.trained) {
        let joined = run
            .iter()
            .map(|piece| shown(&piece.text))
            .collect::<Vec<_>>()
            .join(&BAR.to_string());
        let lines = broken_into_lines(&joined);
        let style = palette.trained;
        let run = if run[0].trained {
            format!("{style}{OPEN}{lines}{CLOSE}{style:#}")
        } else {
            lines
        };
        text += &run;
        if joined.ends_with(BREAK) {
            text += INDENT;
        }
    }
    text.trim_end().to_owned()
}

/// Breaks the output after each line break sign and a bar that follows it, except at the end, where
/// a bracket may follow.
fn broken_into_lines(joined: &str) -> String {
    let (mut lines, mut previous, mut signs) = (String::new(), None, joined.chars().peekable());
    while let Some(sign) = signs.next() {
        lines.push(sign);
        let ends_line = match sign {
            BREAK => signs.peek().is_some_and(|next| *next != BAR),
            BAR => previous == Some(BREAK),
            _ => false,
        };
        if ends_line {
            lines += INDENT;
        }
        previous = Some(sign);
    }
    lines
}

/// Replaces invisible characters by signs, and escapes characters that could be taken for one of
/// the signs.
fn shown(text: &str) -> String {
    let is_sign =
        |c: char| [OPEN, CLOSE, BAR].contains(&c) || ('\u{2400}'..='\u{2421}').contains(&c);
    let each = text.chars().map(|c| {
        if is_sign(c) {
            c.escape_unicode().to_string()
        } else {
            visible(&c.to_string())
        }
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Palette = Palette {
        trained: Style::new(),
    };

    fn piece(text: &str, trained: bool) -> TokenText {
        TokenText {
            text: text.to_owned(),
            trained,
        }
    }

    #[test]
    fn what_is_trained_is_marked_to_the_character() {
        let pieces = [
            piece("<s>", false),
            piece("Q", false),
            piece(" a", true),
            piece("\n", true),
            piece("b", true),
        ];
        assert_eq!(rendered(&pieces, &PLAIN), "  <s>¦Q⟦ a¦␊¦\n  b⟧");
        let green = Palette {
            trained: Style::new().fg_color(Some(AnsiColor::Green.into())),
        };
        assert_eq!(rendered(&pieces[1..3], &green), "  Q\x1b[32m⟦ a⟧\x1b[0m");
    }

    #[test]
    fn halves_of_a_pair_stand_next_to_each_other() {
        let long = "x".repeat(60);
        let (left, right) = ([piece(&long, true)], [piece("a\n", true), piece("b", true)]);
        let gap = |word: &str| " ".repeat(COLUMN - word.chars().count());
        let expected = [
            format!("  chosen{} | rejected", gap("chosen")),
            format!("  ⟦{} | ⟦a␊¦", "x".repeat(COLUMN - 1)),
            format!("  xxxxx⟧{} | b⟧", gap("xxxxx⟧")),
        ];
        assert_eq!(
            side_by_side(["chosen", "rejected"], [&left, &right]),
            expected.join("\n")
        );
    }

    #[test]
    fn a_mark_is_closed_before_the_line_ends() {
        let pieces = [
            piece("a\n", true),
            piece("b\n", false),
            piece("c\nd\n", true),
        ];
        assert_eq!(rendered(&pieces, &PLAIN), "  ⟦a␊⟧\n  b␊\n  ⟦c␊\n  d␊⟧");
    }

    #[test]
    fn data_cannot_act_as_a_mark_or_on_the_terminal() {
        let hostile = [piece("\x1b[2J⟧¦␊\u{9b}31m\r", true)];
        assert_eq!(
            rendered(&hostile, &PLAIN),
            r"  ⟦␛[2J\u{27e7}\u{a6}\u{240a}\u{9b}31m␍⟧"
        );
    }
}
