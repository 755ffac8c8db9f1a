//! Scalars: numbers, booleans and blanks as people write them for YAML 1.1 readers.
//!
//! `1e-4` and `1_000` are numbers and `yes` is a boolean, but only where one is expected: elsewhere
//! `no` stays a text. Text in quotes is never a number or a boolean. Source:
//! <https://yaml.org/type/>.

use serde_json::Value;

use super::tree::{KeyValue, Node, NodeValue};
use crate::files::parse_bytes;

impl Node {
    /// Returns text without quotes.
    pub fn plain(&self) -> Option<&str> {
        match &self.kind {
            NodeValue::Scalar {
                text, plain: true, ..
            } => Some(text),
            _ => None,
        }
    }

    /// Returns text with or without quotes; `None` if it is empty.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            NodeValue::Scalar { text, .. } if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Returns whether the value is left out: `key:`, `~` or `null`.
    pub fn is_blank(&self) -> bool {
        matches!(self.plain(), Some("" | "~" | "null" | "Null" | "NULL"))
    }

    /// Returns a whole number. A number with a leading zero is none, since it is octal to some
    /// readers and decimal to others.
    pub fn whole(&self) -> Option<u64> {
        let text = self.plain()?;
        let digits = text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_digit() || c == '_');
        let ambiguous = text.starts_with('0') && text != "0";
        if digits && !ambiguous {
            text.replace('_', "").parse().ok()
        } else {
            None
        }
    }

    /// Returns a number that is also finite in f32, in which training computes; `inf` and `nan` are
    /// none.
    pub fn number(&self) -> Option<f64> {
        let text = self.plain()?;
        let numeric = text
            .chars()
            .all(|c| c.is_ascii_digit() || "+-._eE".contains(c))
            && !text.starts_with('_');
        if !numeric {
            return None;
        }
        text.replace('_', "")
            .parse()
            .ok()
            .filter(|number: &f64| number.abs() <= f64::from(f32::MAX))
    }

    /// Returns a size in bytes: a whole number, or a number with a unit, such as `12 GB` (10⁹) or
    /// `1.5GiB` (2³⁰).
    pub fn bytes(&self) -> Option<u64> {
        parse_bytes(self.text()?)
    }

    /// Returns a boolean: `true`, `yes` or `on` and their opposites in any case.
    pub fn flag(&self) -> Option<bool> {
        match self.plain()?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    /// Returns any value as JSON. Text without quotes that reads as a boolean or a number becomes
    /// one.
    pub fn json(&self) -> Option<Value> {
        Some(match &self.kind {
            NodeValue::List(nodes) => nodes.iter().map(Self::json).collect::<Option<_>>()?,
            NodeValue::Map(entries) => {
                let entry =
                    |(key, entry): (&String, &KeyValue)| Some((key.clone(), entry.value.json()?));
                Value::Object(entries.iter().map(entry).collect::<Option<_>>()?)
            }
            NodeValue::Refused => return None,
            NodeValue::Scalar { .. } if self.is_blank() => Value::Null,
            NodeValue::Scalar { text, .. } => {
                let whole = || {
                    self.plain()?
                        .parse::<i64>()
                        .ok()
                        .filter(|number| number.to_string() == *text)
                        .map(Value::from)
                };
                let number = || {
                    self.whole()
                        .map(Value::from)
                        .or_else(|| self.number().map(Value::from))
                };
                self.flag()
                    .map(Value::from)
                    .or_else(whole)
                    .or_else(number)
                    .unwrap_or_else(|| text.clone().into())
            }
        })
    }

    /// Returns whether the value holds nothing: blank or an empty collection.
    pub fn is_empty(&self) -> bool {
        match &self.kind {
            NodeValue::List(nodes) => nodes.is_empty(),
            NodeValue::Map(entries) => entries.is_empty(),
            NodeValue::Scalar { .. } => self.is_blank(),
            NodeValue::Refused => false,
        }
    }

    /// Returns whether the value turns something off: blank, `false` or `none`.
    pub fn is_neutral(&self) -> bool {
        self.is_empty()
            || self.flag() == Some(false)
            || self
                .text()
                .is_some_and(|text| text.eq_ignore_ascii_case("none"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::Location;
    use super::*;

    fn plain(text: &str) -> Node {
        let kind = NodeValue::Scalar {
            text: text.into(),
            written: text.into(),
            plain: true,
        };
        Node {
            place: Location::Override(text.into()),
            kind,
        }
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        for (text, number) in [
            ("1e-4", 1e-4),
            ("1_000", 1000.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("+2E3", 2000.0),
            ("-1", -1.0),
            ("16", 16.0),
        ] {
            assert_eq!(plain(text).number(), Some(number), "{text}");
        }
        for text in [
            "inf", ".inf", "nan", ".nan", "1e999", "1e39", "e", "-", "_1", "0x10", "1:30", "1 0",
            "", "sixteen",
        ] {
            assert_eq!(plain(text).number(), None, "{text}");
        }
    }

    #[test]
    fn whole_numbers_have_digits_only() {
        for (text, number) in [
            ("0", 0),
            ("16", 16),
            ("1_000", 1000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(plain(text).whole(), Some(number), "{text}");
        }
        for text in [
            "16.0",
            "1e3",
            "-1",
            "+1",
            "010",
            "00",
            "_1",
            "0x10",
            "18446744073709551616",
            "",
            "٣",
        ] {
            assert_eq!(plain(text).whole(), None, "{text}");
        }
    }

    #[test]
    fn bytes_come_with_units_or_without() {
        for (text, bytes) in [
            ("1", 1),
            ("8_000_000_000", 8_000_000_000),
            ("12 GB", 12_000_000_000),
            ("12GiB", 12 << 30),
            ("1.5 gib", 3 << 29),
            ("0.5 KB", 500),
            ("300 b", 300),
        ] {
            assert_eq!(plain(text).bytes(), Some(bytes), "{text}");
        }
        for text in [
            "",
            "GB",
            "12 G",
            "12 GBs",
            "-1 GB",
            "1e9",
            "1.5",
            "1..5 GB",
            "12 G B",
            "twelve GB",
            "99999 TB",
            ". GB",
            "inf GB",
        ] {
            assert_eq!(plain(text).bytes(), None, "{text}");
        }
    }

    #[test]
    fn booleans_are_words_in_any_case() {
        for (text, flag) in [
            ("yes", true),
            ("On", true),
            ("TRUE", true),
            ("no", false),
            ("oFF", false),
            ("False", false),
        ] {
            assert_eq!(plain(text).flag(), Some(flag), "{text}");
        }
        assert_eq!(plain("1").flag(), None);
    }
}
