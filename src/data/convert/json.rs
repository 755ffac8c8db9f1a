//! One row of JSON. Faults that JSON readers ignore are errors here: a repeated key, or a number
//! that does not fit.

use std::cell::Cell;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::row::{Row, Wrong};
use crate::fault::quoted;

/// Maximum number of characters of a word that a message quotes.
const MAX_WORD: usize = 20;
/// Limit above which a float may be a whole number that lost digits.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Parses the row in some bytes, which start in line `line`.
///
/// # Errors
/// It is not a JSON object; the error has the place.
pub(super) fn row(bytes: &[u8], line: u64) -> Result<Row, Wrong> {
    let wrong = |column, reason: String| Wrong {
        line,
        column,
        reason,
    };
    let text = str::from_utf8(bytes)
        .map_err(|error| wrong(Some(error.valid_up_to() + 1), "it is not UTF-8".into()))?;
    match value(text) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => Err(wrong(
            None,
            format!("it is {}, expected an object", kind(&other)),
        )),
        Err(error) => Err(told(text, line, &error)),
    }
}

/// Parses a JSON text as a value.
///
/// # Errors
/// It is not JSON, repeats a key, or has a number that would lose digits.
fn value(text: &str) -> serde_json::Result<Value> {
    let is_rounded = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict(&is_rounded).deserialize(&mut reader)?;
    reader.end()?;
    match long_number(text).filter(|_| is_rounded.get()) {
        Some(number) => Err(serde_json::Error::custom(format!(
            "the number {} has more than 64 bits and would be rounded: write it as a text",
            quoted(number)
        ))),
        None => Ok(value),
    }
}

/// Returns the kind of a value in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Returns a value's kind and its first characters.
pub(super) fn shown(value: &Value) -> String {
    const MAX_SHOWN: usize = 40;
    let text = value.to_string();
    let start: String = text.chars().take(MAX_SHOWN).collect();
    let dots = if start.len() < text.len() { ".." } else { "" };
    format!("{}, `{}`", kind(value), quoted(format!("{start}{dots}")))
}

/// Converts serde's error on a text, which may have several lines, and adds the word at its place.
fn told(text: &str, line: u64, error: &serde_json::Error) -> Wrong {
    let said = error.to_string();
    let reason = said
        .rsplit_once(" at line ")
        .map_or(&*said, |(reason, _)| reason);
    let here = text
        .lines()
        .nth(error.line().saturating_sub(1))
        .unwrap_or_default();
    let found = here
        .get(error.column().saturating_sub(1)..)
        .unwrap_or_default();
    let word: String = found
        .chars()
        .take_while(|c| c.is_alphanumeric() || "'-_.".contains(*c))
        .take(MAX_WORD)
        .collect();
    let is_of_place = reason.starts_with("expected") && !word.is_empty();
    let reason = if is_of_place {
        format!("{reason}, found `{}`", quoted(word))
    } else {
        reason.to_owned()
    };
    let has_place = error.line() > 0;
    Wrong {
        line: line + error.line().saturating_sub(1) as u64,
        column: has_place.then(|| error.column().max(1)),
        reason,
    }
}

/// Returns the first whole number of a text that 64 bits do not hold.
fn long_number(text: &str) -> Option<&str> {
    let (mut in_string, mut is_escaped, mut start) = (false, false, None);
    for (at, byte) in text.bytes().chain([b' ']).enumerate() {
        let is_of_number = !in_string && (byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        match (start, is_of_number) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                let number = &text[from..at];
                let is_whole = number
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte == b'-');
                if is_whole
                    && number.len() > 18
                    && number.parse::<i64>().is_err()
                    && number.parse::<u64>().is_err()
                {
                    return Some(number);
                }
                start = None;
            }
            _ => {}
        }
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            _ => {}
        }
    }
    None
}

/// Reads a value, and records whether a number may have lost digits.
#[derive(Clone, Copy)]
struct Strict<'a>(&'a Cell<bool>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        if value.abs() >= EXACT {
            self.0.set(true);
        }
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self)?;
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!(
                    "the key `{}` is there twice",
                    quoted(key)
                )));
            }
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::revealed;

    #[test]
    fn what_json_readers_pass_over_is_told_with_its_place() {
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(200), "]".repeat(200));
        for (text, column, reason) in [
            (
                r#"{"a": 1, "a": 2}"#,
                Some(15),
                "the key `a` is there twice",
            ),
            (
                r#"{"a": {"b": 1, "b": 1}}"#,
                Some(21),
                "the key `b` is there twice",
            ),
            (r#"{"a": NaN}"#, Some(7), "expected value, found `NaN`"),
            (r#"{"a": -Infinity}"#, Some(8), "invalid number"),
            (r#"{"a": None}"#, Some(7), "expected value, found `None`"),
            (r"{'a': 1}", Some(2), "key must be a string"),
            (r#"{"a": 1"#, Some(7), "EOF while parsing an object"),
            (r#"{"a": 1} x"#, Some(10), "trailing characters"),
            ("[1]", None, "it is a list, expected an object"),
            ("\"text\"", None, "it is a text, expected an object"),
            (r#"{"a": 1e999}"#, Some(11), "number out of range"),
        ] {
            let wrong = row(text.as_bytes(), 7).expect_err(text);
            assert_eq!(
                (wrong.line, &*revealed(&wrong.reason)),
                (7, reason),
                "{text}: {wrong:?}"
            );
            assert_eq!(
                wrong.column.is_some(),
                column.is_some(),
                "{text}: {wrong:?}"
            );
        }
        assert_eq!(
            row(deep.as_bytes(), 1).expect_err("deep").reason,
            "recursion limit exceeded"
        );
        assert_eq!(
            row(b"{\"a\": \"\xff\"}", 3).expect_err("bytes").column,
            Some(8)
        );
        let over_lines = row(b"{\n\"a\": 1,\n\"b\": @\n}", 40).expect_err("lines");
        assert_eq!(over_lines.line, 42);
    }

    #[test]
    fn numbers_are_kept_or_refused_and_never_rounded() {
        let read = |text: &str| {
            row(format!("{{\"a\": {text}}}").as_bytes(), 1).map(|row| row["a"].to_string())
        };
        for exact in [
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
            "1e300",
            "0.1",
            "1e20",
            "[0, 1e19]",
        ] {
            let read = read(exact)
                .expect(exact)
                .replace('+', "")
                .replace(".0", "")
                .replace(',', ", ");
            assert_eq!(read.replace("100000000000000000000", "1e20"), exact);
        }
        for long in [
            "18446744073709551616",
            "-9223372036854775809",
            "[\"1\", 123456789012345678901234567890]",
        ] {
            let reason = read(long).expect_err(long).reason;
            assert!(
                reason.contains("has more than 64 bits and would be rounded"),
                "{reason}"
            );
        }
        assert!(
            read("\"123456789012345678901234567890\"").is_ok(),
            "a text is no number"
        );
        assert!(read("[\"123456789012345678901234567890\", 1e25]").is_ok());
    }
}
