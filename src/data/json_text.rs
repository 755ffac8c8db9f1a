//! JSON text in a cell, as Python's `json` reads it.

use serde_json::Value;

/// Error of a JSON text that does not give the value its writer meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonTextError {
    /// The text is not JSON.
    #[error("{reason}")]
    NotJson {
        /// The parser's error.
        reason: String,
    },
    /// A whole number that would become a fraction or lose digits.
    #[error("the whole number {number} does not fit in 64 bits, write it as text")]
    LongNumber {
        /// The number as written.
        number: String,
    },
}

/// Parses a JSON text; blank text is null.
///
/// # Errors
/// It is not JSON, or a number in it cannot be kept to the last digit.
pub fn parse(text: &str) -> Result<Value, JsonTextError> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let value = serde_json::from_str(text).map_err(|error| JsonTextError::NotJson {
        reason: error.to_string(),
    })?;
    match long_number(text) {
        Some(number) => Err(JsonTextError::LongNumber {
            number: number.to_owned(),
        }),
        None => Ok(value),
    }
}

/// Parses the object in a JSON text; `None` for text that is not JSON or another value.
///
/// # Errors
/// A number in it cannot be kept to the last digit.
pub fn object(text: &str) -> Result<Option<Value>, JsonTextError> {
    if !text.trim_start().starts_with('{') {
        return Ok(None);
    }
    match parse(text) {
        Ok(value) => Ok(Some(value)),
        Err(JsonTextError::NotJson { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Finds the first whole number outside of strings that serde would read as a float. Python
/// integers have any length.
fn long_number(json: &str) -> Option<&str> {
    let is_of_number =
        |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
    let bytes = json.as_bytes();
    let mut place = 0;
    while place < bytes.len() {
        match bytes[place] {
            b'"' => place = end_of_string(bytes, place),
            b'-' | b'0'..=b'9' => {
                let length = bytes[place..]
                    .iter()
                    .take_while(|byte| is_of_number(byte))
                    .count();
                let number = &json[place..place + length];
                let is_whole = !number.contains(['.', 'e', 'E']);
                if is_whole && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    return Some(number);
                }
                place += length;
            }
            _ => place += 1,
        }
    }
    None
}

/// Returns the position after the quote that ends the string beginning at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut place = start + 1;
    while place < bytes.len() {
        match bytes[place] {
            b'\\' => place += 2,
            b'"' => return place + 1,
            _ => place += 1,
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_keep_every_digit_or_are_refused() {
        for json in [
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
            "[1, {\"a\": 2}]",
            "0.1",
            "1e30",
        ] {
            assert_eq!(
                parse(json).expect(json),
                serde_json::from_str::<Value>(json).expect(json)
            );
        }
        for number in [
            "18446744073709551616",
            "-9223372036854775809",
            "123456789012345678901234567890",
        ] {
            let found = parse(&format!(
                "{{\"id \\\" 99999999999999999999\": [1, {number}]}}"
            ))
            .expect_err(number);
            assert_eq!(
                found,
                JsonTextError::LongNumber {
                    number: number.to_owned()
                }
            );
        }
        assert_eq!(
            parse("\"99999999999999999999\""),
            Ok(Value::from("99999999999999999999")),
            "text stays text"
        );
    }

    #[test]
    fn blank_text_is_null_and_other_text_must_be_json() {
        assert_eq!(parse(" \n"), Ok(Value::Null));
        assert_eq!(
            parse("hello").expect_err("no JSON").to_string(),
            "expected value at line 1 column 1"
        );
        assert_eq!(object(" {\"a\": 1}"), Ok(Some(serde_json::json!({"a": 1}))));
        assert_eq!(
            (object("5"), object("{"), object("")),
            (Ok(None), Ok(None), Ok(None))
        );
        assert!(object(r#"{"a": 99999999999999999999}"#).is_err());
    }
}
