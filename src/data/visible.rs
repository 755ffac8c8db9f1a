//! Text from outside, made safe to display: control characters, escape sequences and characters
//! that change the direction of writing are replaced by harmless ones.

/// Replaces every invisible character, line breaks included, by a visible one.
pub fn visible(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut seen, c| {
            match c {
                '\0'..' ' => seen.push(
                    char::from_u32(0x2400 + u32::from(c)).expect("Unicode has a picture of each"),
                ),
                '\u{7f}' => seen.push('\u{2421}'),
                c if is_invisible(c) => seen.extend(c.escape_unicode()),
                c => seen.push(c),
            }
            seen
        })
}

/// Whether a character is invisible: C1, direction and joining controls, and characters without a
/// width.
fn is_invisible(c: char) -> bool {
    let ranges = [
        ('\u{80}', '\u{9f}'),
        ('\u{200b}', '\u{200f}'),
        ('\u{2028}', '\u{202e}'),
        ('\u{2060}', '\u{206f}'),
        ('\u{fff9}', '\u{fffb}'),
        ('\u{e0000}', '\u{e007f}'),
    ];
    ['\u{ad}', '\u{61c}', '\u{feff}'].contains(&c)
        || ranges
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_becomes_a_sign() {
        assert_eq!(visible("a\x1b[31mb\x07\r\n\tc\x7f"), "a␛[31mb␇␍␊␉c␡");
        assert_eq!(
            visible("\u{9b}2J\u{202e}x\u{feff}"),
            r"\u{9b}2J\u{202e}x\u{feff}"
        );
        assert_eq!(visible("höhe 🩺 법 ⟦x⟧"), "höhe 🩺 법 ⟦x⟧");
    }
}
