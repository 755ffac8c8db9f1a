//! Splits a template into text and actions, trims the white space that `{{-` and `-}}` remove, and
//! splits an action into words.

use super::GoTemplateError;

/// Text outside of delimiters, or the action between them.
#[derive(Debug)]
pub(super) enum GoToken {
    Text(String),
    Action { line: usize, words: Vec<Word> },
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// `range`, `eq`, `true`, ..
    Name(String),
    /// `.Messages`; for the dot alone without a name.
    Field(Vec<String>),
    /// `$`, `$m` or `$.Messages`: the name without `$`, and fields.
    Variable(String, Vec<String>),
    Text(String),
    Whole(usize),
    /// `(`, `)`, `,`, `=`, `:=`.
    Sign(&'static str),
}

/// White space for Go.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// Splits a template into its pieces.
pub(super) fn pieces(source: &str) -> Result<Vec<GoToken>, GoTemplateError> {
    let (mut pieces, mut rest, mut line, mut trims) = (Vec::new(), source, 1, false);
    while !rest.is_empty() {
        let (text, action) = rest
            .split_once("{{")
            .map_or((rest, None), |(text, action)| (text, Some(action)));
        let (shown, left) = if trims {
            (text.trim_start_matches(BLANKS), text)
        } else {
            (text, text)
        };
        let after = action.and_then(|action| action.strip_prefix('-')?.strip_prefix(BLANKS));
        let shown = if after.is_some() {
            shown.trim_end_matches(BLANKS)
        } else {
            shown
        };
        if !shown.is_empty() {
            pieces.push(GoToken::Text(shown.to_owned()));
        }
        line += left.matches('\n').count();
        let Some(action) = action else { break };
        let mut action = Action {
            rest: after.unwrap_or(action),
            line,
        };
        let words = action.words()?;
        if !words.is_empty() {
            pieces.push(GoToken::Action { line, words });
        }
        (trims, rest, line) = (
            action.rest.starts_with('-'),
            action.rest.trim_start_matches('-'),
            action.line,
        );
        rest = rest.strip_prefix("}}").expect("the words end there");
    }
    Ok(pieces)
}

/// The rest of an action that is not read yet.
struct Action<'a> {
    rest: &'a str,
    line: usize,
}

impl Action<'_> {
    /// Reads the words up to the end; a comment has none.
    fn words(&mut self) -> Result<Vec<Word>, GoTemplateError> {
        if self.rest.starts_with("/*") {
            let end = self
                .rest
                .find("*/")
                .ok_or_else(|| self.fault("a comment has no `*/`"))?;
            self.skip(end + 2);
            let blanks = self.rest.len() - self.rest.trim_start_matches(BLANKS).len();
            let is_bare = blanks == 0 || !self.rest[blanks..].starts_with("-}}");
            self.skip(if is_bare { 0 } else { blanks });
            return if self.is_end(is_bare) {
                Ok(Vec::new())
            } else {
                Err(self.fault("`}}` does not follow on a comment"))
            };
        }
        let mut words: Vec<Word> = Vec::new();
        loop {
            let blanks = self.rest.len() - self.rest.trim_start_matches(BLANKS).len();
            self.skip(blanks);
            if self.is_end(blanks == 0) {
                return if words.is_empty() {
                    Err(self.fault("an action is empty"))
                } else {
                    Ok(words)
                };
            }
            let word = self.word()?;
            let is_open = words
                .last()
                .is_none_or(|last| matches!(last, Word::Sign("(" | "," | "=" | ":=")));
            if blanks == 0 && !is_open && !matches!(word, Word::Sign(")" | "," | "=" | ":=")) {
                return Err(self.fault("a blank is missing between two words"));
            }
            words.push(word);
        }
    }

    /// Returns whether the action ends here; `-` counts only after white space.
    fn is_end(&self, follows_a_word: bool) -> bool {
        self.rest.starts_with("}}") || (!follows_a_word && self.rest.starts_with("-}}"))
    }

    fn fault(&self, reason: impl Into<String>) -> GoTemplateError {
        GoTemplateError::new(self.line, reason)
    }

    fn skip(&mut self, bytes: usize) {
        let (done, rest) = self.rest.split_at(bytes);
        self.line += done.matches('\n').count();
        self.rest = rest;
    }

    fn word(&mut self) -> Result<Word, GoTemplateError> {
        let first = self
            .rest
            .chars()
            .next()
            .ok_or_else(|| self.fault("an action has no `}}`"))?;
        match first {
            '"' => self.quoted(),
            '`' => self.raw(),
            '.' => Ok(Word::Field(self.fields()?)),
            '$' => {
                self.skip(1);
                let name = self.name();
                let fields = if self.rest.starts_with('.') {
                    self.fields()?
                } else {
                    Vec::new()
                };
                Ok(Word::Variable(name, fields))
            }
            '0'..='9' => {
                let digits = self.name();
                digits
                    .parse()
                    .map(Word::Whole)
                    .map_err(|_| self.fault(format!("`{digits}` is no whole number")))
            }
            _ if first.is_ascii_alphabetic() => Ok(Word::Name(self.name())),
            _ => self.sign(first),
        }
    }

    fn sign(&mut self, first: char) -> Result<Word, GoTemplateError> {
        let sign = [":=", "=", "(", ")", ","]
            .into_iter()
            .find(|sign| self.rest.starts_with(sign));
        let sign = sign.ok_or_else(|| self.fault(format!("`{first}` is not known here")))?;
        self.skip(sign.len());
        Ok(Word::Sign(sign))
    }

    /// Reads letters, digits and underscores.
    fn name(&mut self) -> String {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        let name = self.rest[..end].to_owned();
        self.skip(end);
        name
    }

    /// Reads `.A.B`, or a dot alone.
    fn fields(&mut self) -> Result<Vec<String>, GoTemplateError> {
        let mut fields = Vec::new();
        while self.rest.starts_with('.') {
            self.skip(1);
            let name = self.name();
            match (name.is_empty(), fields.is_empty()) {
                (true, true) => return Ok(fields),
                (true, false) => return Err(self.fault("a name is missing after `.`")),
                _ => fields.push(name),
            }
        }
        Ok(fields)
    }

    fn raw(&mut self) -> Result<Word, GoTemplateError> {
        let end = self.rest[1..]
            .find('`')
            .ok_or_else(|| self.fault("a string has no end"))?;
        // Go drops carriage returns from such a string.
        let text = self.rest[1..=end].replace('\r', "");
        self.skip(end + 2);
        Ok(Word::Text(text))
    }

    fn quoted(&mut self) -> Result<Word, GoTemplateError> {
        let (mut text, mut chars) = (String::new(), self.rest.char_indices().skip(1));
        while let Some((place, c)) = chars.next() {
            match c {
                '"' => {
                    self.skip(place + 1);
                    return Ok(Word::Text(text));
                }
                '\n' => break,
                '\\' => {
                    let (_, kind) = chars
                        .next()
                        .ok_or_else(|| self.fault("a string has no end"))?;
                    text.push(
                        escaped(kind, &mut chars.by_ref().map(|(_, c)| c)).ok_or_else(|| {
                            self.fault(format!("`\\{kind}` is not known in a string"))
                        })?,
                    );
                }
                c => text.push(c),
            }
        }
        Err(self.fault("a string has no end"))
    }
}

/// Returns the character of an escape sequence.
fn escaped(kind: char, rest: &mut dyn Iterator<Item = char>) -> Option<char> {
    let digits = match kind {
        'n' => return Some('\n'),
        't' => return Some('\t'),
        'r' => return Some('\r'),
        '\\' | '"' => return Some(kind),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return None,
    };
    let code = u32::from_str_radix(&rest.take(digits).collect::<String>(), 16).ok()?;
    // Above 7f, `\x` is a byte and not a character.
    char::from_u32(code).filter(|c| kind != 'x' || c.is_ascii())
}
