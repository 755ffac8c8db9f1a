//! `tojson` as in transformers: Python's `json.dumps` with `ensure_ascii=False`, so that a tool
//! reads the same in training and when the model is served. jinja2's own filter escapes HTML and is
//! not used.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Maximum nesting of a value, well before the stack ends. JSON from outside is at most 128 deep.
const MAX_DEPTH: usize = 256;
/// Maximum indent.
const MAX_INDENT: usize = 80;

/// The arguments of `json.dumps` that transformers passes on.
struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl Style {
    fn new(arguments: &Kwargs) -> Result<Self, Error> {
        let indent = indent(
            &arguments
                .get::<Option<Value>>("indent")?
                .unwrap_or(Value::from(())),
        )?;
        let separators = arguments.get::<Option<Vec<String>>>("separators")?;
        let (item_separator, key_separator) = match separators.as_deref() {
            Some([item, key]) => (item.clone(), key.clone()),
            Some(_) => {
                return Err(invalid(
                    "`separators` of tojson holds two strings".to_owned(),
                ));
            }
            None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
            None => (", ".to_owned(), ": ".to_owned()),
        };
        let flag = |name| Ok::<_, Error>(arguments.get::<Option<bool>>(name)?.unwrap_or(false));
        let style = Self {
            ensure_ascii: flag("ensure_ascii")?,
            indent,
            item_separator,
            key_separator,
            sort_keys: flag("sort_keys")?,
        };
        arguments.assert_all_used()?;
        Ok(style)
    }
}

/// Implements the filter `tojson`: formats a value as JSON text.
///
/// # Errors
/// The value, or something in it, has no JSON form, or an argument is invalid.
#[expect(
    clippy::needless_pass_by_value,
    reason = "minijinja hands keyword arguments over by value"
)]
pub(super) fn tojson(value: &Value, arguments: Kwargs) -> Result<String, Error> {
    let mut text = String::new();
    write_value(&mut text, value, &Style::new(&arguments)?, 0)?;
    Ok(text)
}

/// Formats a value as `json.dumps` does with `ensure_ascii=False`.
pub(super) fn dumps(value: &serde_json::Value) -> String {
    let (item_separator, key_separator) = (", ".to_owned(), ": ".to_owned());
    let style = Style {
        ensure_ascii: false,
        indent: None,
        item_separator,
        key_separator,
        sort_keys: false,
    };
    let mut text = String::new();
    let written = write_value(
        &mut text,
        &Value::from(minijinja::value::Serde(value)),
        &style,
        0,
    );
    written.map_or_else(|_| value.to_string(), |()| text)
}

fn indent(value: &Value) -> Result<Option<String>, Error> {
    if value.is_none() {
        return Ok(None);
    }
    if let Some(text) = value.as_str() {
        return Ok(Some(text.to_owned()));
    }
    match value.as_usize() {
        Some(width) if width <= MAX_INDENT => Ok(Some(" ".repeat(width))),
        _ => Err(invalid(format!(
            "`indent` of tojson is {value}, expected a string or a number from 0 to {MAX_INDENT}"
        ))),
    }
}

fn write_value(text: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    match value.kind() {
        _ if depth > MAX_DEPTH => {
            return Err(invalid(format!(
                "a value for tojson is nested more than {MAX_DEPTH} deep"
            )));
        }
        ValueKind::None => text.push_str("null"),
        ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(text, value),
        ValueKind::String => write_string(text, value.as_str().unwrap_or_default(), style),
        ValueKind::Seq | ValueKind::Iterable => write_array(text, value, style, depth)?,
        ValueKind::Map => write_object(text, value, style, depth)?,
        kind => return Err(invalid(format!("a value of kind {kind} has no JSON form"))),
    }
    Ok(())
}

fn write_array(text: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    text.push('[');
    let mut items = value.try_iter()?.peekable();
    let is_empty = items.peek().is_none();
    for (index, item) in items.enumerate() {
        write_break(text, style, depth + 1, index);
        write_value(text, &item, style, depth + 1)?;
    }
    write_end(text, style, depth, is_empty, ']');
    Ok(())
}

fn write_object(
    text: &mut String,
    value: &Value,
    style: &Style,
    depth: usize,
) -> Result<(), Error> {
    let mut keys: Vec<Value> = value.try_iter()?.collect();
    if style.sort_keys {
        keys.sort();
    }
    text.push('{');
    for (index, key) in keys.iter().enumerate() {
        write_break(text, style, depth + 1, index);
        write_string(text, &key.to_string(), style);
        text.push_str(&style.key_separator);
        write_value(text, &value.get_item(key)?, style, depth + 1)?;
    }
    write_end(text, style, depth, keys.is_empty(), '}');
    Ok(())
}

fn write_break(text: &mut String, style: &Style, depth: usize, index: usize) {
    if index > 0 {
        text.push_str(&style.item_separator);
    }
    if let Some(indent) = &style.indent {
        text.push('\n');
        text.push_str(&indent.repeat(depth));
    }
}

fn write_end(text: &mut String, style: &Style, depth: usize, is_empty: bool, end: char) {
    if let Some(indent) = style.indent.as_ref().filter(|_| !is_empty) {
        text.push('\n');
        text.push_str(&indent.repeat(depth));
    }
    text.push(end);
}

fn write_number(text: &mut String, value: &Value) {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => text.push_str(&python_float(number)),
        _ => text.push_str(&value.to_string()),
    }
}

/// Formats a float as Python's `json` does. Rust's `{:?}` has the same shortest digits and switches
/// to exponents at the same points (1e16 and 1e-4), but writes `1e-5` for Python's `1e-05`.
pub(super) fn python_float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let text = format!("{number:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
    }
}

fn write_string(text: &mut String, string: &str, style: &Style) {
    text.push('"');
    for character in string.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            ' '..='~' => text.push(character),
            character if character >= ' ' && !style.ensure_ascii => text.push(character),
            character => write_escaped(text, character),
        }
    }
    text.push('"');
}

fn write_escaped(text: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        write!(text, "\\u{unit:04x}").expect("writing to a string never fails");
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Formats a JSON text with the filter. Each expected text is the output of Python's
    /// `json.dumps(json.loads(json), ensure_ascii=False, ...)`.
    fn dumps(json: &str, arguments: &str) -> String {
        let mut environment = minijinja::Environment::new();
        environment.add_filter("tojson", tojson);
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let source = format!("{{{{ value|tojson({arguments}) }}}}");
        environment
            .render_str(
                &source,
                minijinja::context! { value => Value::from(minijinja::value::Serde(value)) },
            )
            .unwrap()
    }

    #[test]
    fn json_reads_as_python_writes_it() {
        let json = concat!(
            r#"{"b": [1, -2.5, 1e6, true, null], "#,
            r#""a": {"c": "<é🙂 & 'x'>\n\u0001\u007f\\\""}, "e": [], "f": {}}"#,
        );
        let line = concat!(
            r#"{"b": [1, -2.5, 1000000.0, true, null], "#,
            "\"a\": {\"c\": \"<é🙂 & 'x'>\\n\\u0001\u{7f}\\\\\\\"\"}, \"e\": [], \"f\": {}}",
        );
        assert_eq!(dumps(json, ""), line);
        assert_eq!(
            dumps(r#"{"b": [1, {"a": []}]}"#, "indent=2"),
            "{\n  \"b\": [\n    1,\n    {\n      \"a\": []\n    }\n  ]\n}"
        );
        assert_eq!(
            dumps(
                r#"{"b":1,"a":[1,2]}"#,
                "sort_keys=true, separators=(',', ':')"
            ),
            r#"{"a":[1,2],"b":1}"#
        );
        assert_eq!(
            dumps("\"é🙂\\u007f\"", "ensure_ascii=true"),
            "\"\\u00e9\\ud83d\\ude42\\u007f\""
        );
    }

    #[test]
    fn floats_read_as_python_writes_them() {
        let cases = [
            (1e6, "1000000.0"),
            (0.1, "0.1"),
            (-3.5, "-3.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.000_012_5, "1.25e-05"),
            (-0.0, "-0.0"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (number, expected) in cases {
            assert_eq!(python_float(number), expected);
        }
    }

    #[test]
    fn arguments_that_python_does_not_have_are_refused() {
        let environment = {
            let mut environment = minijinja::Environment::new();
            environment.add_filter("tojson", tojson);
            environment
        };
        for call in [
            "1|tojson(width=3)",
            "1|tojson(indent=1000000000)",
            "1|tojson(separators=[','])",
            "missing|tojson",
        ] {
            assert!(
                environment
                    .render_str(&format!("{{{{ {call} }}}}"), ())
                    .is_err(),
                "{call}"
            );
        }
    }
}
