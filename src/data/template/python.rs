//! Methods of Python's strings, mappings and lists that minijinja lacks, or implements with another
//! result.
//!
//! transformers renders in jinja2's immutable sandbox, which refuses methods that change a list or
//! a mapping. They are refused here too.

use std::sync::LazyLock;

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use regex::Regex;

use super::engine::MAX_BYTES;

/// Methods that change their value, from jinja2's `_mutable_spec`.
const CHANGES: [&str; 11] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
];

static DECIMAL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\d+$").expect("the pattern is valid and fixed"));

/// Calls a method of a value by Python's rules.
///
/// # Errors
/// There is no method of this name, or it refuses its arguments.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let found = match value.kind() {
        ValueKind::String => text_method(value.as_str().unwrap_or_default(), name, arguments)?,
        ValueKind::Seq | ValueKind::Map if CHANGES.contains(&name) => {
            return Err(invalid(format!(
                "`{name}` would change a value, which transformers lets no template do"
            )));
        }
        ValueKind::Seq => list_method(value, name, arguments)?,
        ValueKind::Map if name == "copy" => Some(no_arguments(arguments, value.clone())?),
        _ => None,
    };
    found.map_or_else(
        || unknown_method_callback(state, value, name, arguments),
        Ok,
    )
}

/// Implements `'..' % arguments`: a tuple has one value for each placeholder, a mapping fills named
/// placeholders, and anything else is the single value.
pub(super) fn percent(text: &str, arguments: &Value) -> Result<String, Error> {
    match arguments.downcast_object_ref::<Tuple>() {
        Some(_) => format(
            FormatStyle::Printf,
            text,
            &arguments.try_iter()?.collect::<Vec<_>>(),
        ),
        None => format(FormatStyle::Printf, text, std::slice::from_ref(arguments)),
    }
}

/// Implements `trim` with Python's white space.
pub(super) fn trim(value: &Value, characters: Option<&str>) -> String {
    let text = value.to_string();
    strip(&text, characters, true, true).to_owned()
}

/// Implements jinja2's `truncate`: at most `length` characters including `end`, unless the whole
/// text is at most `leeway` characters longer.
#[expect(
    clippy::needless_pass_by_value,
    reason = "minijinja hands arguments over by value"
)]
pub(super) fn truncate(text: &str, arguments: Rest<Value>) -> Result<String, Error> {
    type Arguments<'a> = (
        Option<usize>,
        Option<bool>,
        Option<&'a str>,
        Option<usize>,
        Kwargs,
    );
    let (length, killwords, end, leeway, named) = from_args::<Arguments>(&arguments)?;
    let length = named
        .get::<Option<usize>>("length")?
        .or(length)
        .unwrap_or(255);
    let kills = named
        .get::<Option<bool>>("killwords")?
        .or(killwords)
        .unwrap_or(false);
    let end = named.get::<Option<&str>>("end")?.or(end).unwrap_or("...");
    let leeway = named
        .get::<Option<usize>>("leeway")?
        .or(leeway)
        .unwrap_or(5);
    named.assert_all_used()?;
    let kept = length.checked_sub(end.chars().count());
    let kept = kept.ok_or_else(|| {
        invalid(format!(
            "`truncate` to {length} characters has no room for {end:?}"
        ))
    })?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.to_owned());
    }
    let cut: String = text.chars().take(kept).collect();
    let words = if kills {
        cut.as_str()
    } else {
        cut.rsplit_once(' ')
            .map_or(cut.as_str(), |(words, _)| words)
    };
    Ok(format!("{words}{end}"))
}

/// Percent-encodes every byte that has a meaning in a URL; `/` is kept, as in Python's `quote`.
pub(super) fn url_encode(value: &Value) -> Result<String, Error> {
    let quote = |text: &str, leaves_slash: bool| -> String {
        let plain = |byte: u8| {
            byte.is_ascii_alphanumeric()
                || b"_.-~".contains(&byte)
                || (leaves_slash && byte == b'/')
        };
        let byte = |byte: u8| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        };
        text.bytes().map(byte).collect()
    };
    if value.kind() != ValueKind::Map {
        return Ok(quote(&value.to_string(), true));
    }
    let pair = |key: Value| {
        Ok(format!(
            "{}={}",
            quote(&key.to_string(), false),
            quote(&value.get_item(&key)?.to_string(), false)
        ))
    };
    Ok(value
        .try_iter()?
        .map(pair)
        .collect::<Result<Vec<_>, Error>>()?
        .join("&"))
}

/// Counts the runs of letters, digits and `_`.
pub(super) fn count_words(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .count()
}

fn text_method(text: &str, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,) = from_args::<(Option<&str>,)>(arguments)?;
            Value::from(strip(text, characters, name != "rstrip", name != "lstrip"))
        }
        "split" | "rsplit" => split(text, name == "rsplit", arguments)?,
        "splitlines" => lines(text, arguments)?,
        "partition" | "rpartition" => partition(text, name == "rpartition", arguments)?,
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, arguments)?,
        "startswith" | "endswith" => affix(text, name == "startswith", arguments)?,
        "removeprefix" | "removesuffix" => {
            let (affix,) = from_args::<(&str,)>(arguments)?;
            let rest = if name == "removeprefix" {
                text.strip_prefix(affix)
            } else {
                text.strip_suffix(affix)
            };
            Value::from(rest.unwrap_or(text))
        }
        "ljust" | "rjust" | "center" | "zfill" => padded(text, name, arguments)?,
        "expandtabs" => expand_tabs(text, arguments)?,
        "join" => join(text, arguments)?,
        "casefold" => no_arguments(arguments, casefold(text).into())?,
        "swapcase" => no_arguments(
            arguments,
            text.chars().map(swapped).collect::<String>().into(),
        )?,
        "title" => no_arguments(arguments, title(text).into())?,
        _ => return is(text, name, arguments),
    }))
}

/// Implements Python's `str.is..` methods on a text.
fn is(text: &str, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    let all = |holds: fn(char) -> bool| text.chars().all(holds);
    let (is_empty, has_case) = (
        text.is_empty(),
        text.chars().any(|c| c.is_uppercase() || c.is_lowercase()),
    );
    let answer = match name {
        "isspace" => !is_empty && all(is_space),
        "isdecimal" => DECIMAL.is_match(text),
        "isdigit" => !is_empty && all(is_digit),
        "isidentifier" => {
            text.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && all(|c| c.is_alphanumeric() || c == '_')
        }
        "isprintable" => all(|c| c == ' ' || !(c.is_control() || is_space(c))),
        "istitle" => has_case && title(text) == text,
        _ => return Ok(None),
    };
    no_arguments(arguments, answer.into()).map(Some)
}

fn list_method(list: &Value, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" => no_arguments(arguments, list.try_iter()?.collect()).map(Some),
        "index" => {
            let (item, start, end) = from_args::<(&Value, Option<i64>, Option<i64>)>(arguments)?;
            let items: Vec<Value> = list.try_iter()?.collect();
            let (start, end) = (
                place(start.unwrap_or(0), items.len()),
                place(end.unwrap_or(i64::MAX), items.len()),
            );
            let found = (start..end).find(|place| items[*place] == *item);
            found
                .map(|place| Some(Value::from(place)))
                .ok_or_else(|| invalid(format!("{item:?} is not in the list")))
        }
        _ => Ok(None),
    }
}

fn no_arguments(arguments: &[Value], value: Value) -> Result<Value, Error> {
    let () = from_args(arguments)?;
    Ok(value)
}

/// Whether a character is white space in Python: Unicode white space and the ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Whether a character is a digit in Python: decimal digits, superscripts, subscripts and enclosed
/// digits.
fn is_digit(c: char) -> bool {
    let is_superscript = matches!(
        c,
        '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐' | '⓪'
    );
    is_superscript || DECIMAL.is_match(c.encode_utf8(&mut [0; 4]))
}

fn strip<'a>(text: &'a str, characters: Option<&str>, left: bool, right: bool) -> &'a str {
    let goes =
        |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
    let text = if left {
        text.trim_start_matches(goes)
    } else {
        text
    };
    if right {
        text.trim_end_matches(goes)
    } else {
        text
    }
}

/// Implements `split` and `rsplit`: at a separator, or at runs of white space; at most `maxsplit`
/// times, from the end if `is_right`.
fn split(text: &str, is_right: bool, arguments: &[Value]) -> Result<Value, Error> {
    let (separator, most, named) = from_args::<(Option<&str>, Option<i64>, Kwargs)>(arguments)?;
    let separator = named.get::<Option<&str>>("sep")?.or(separator);
    let most = named.get::<Option<i64>>("maxsplit")?.or(most).unwrap_or(-1);
    named.assert_all_used()?;
    let pieces = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let parts: Vec<&str> = match (separator, is_right) {
        (Some(""), _) => return Err(invalid("the separator of a split is empty".to_owned())),
        (Some(separator), false) => text.splitn(pieces, separator).collect(),
        (Some(separator), true) => reversed(text.rsplitn(pieces, separator).collect()),
        (None, is_right) => words(text, is_right, pieces),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn reversed(mut parts: Vec<&str>) -> Vec<&str> {
    parts.reverse();
    parts
}

fn words(text: &str, is_right: bool, pieces: usize) -> Vec<&str> {
    let trimmed = |text| strip(text, None, !is_right, is_right);
    let (mut parts, mut rest) = (Vec::new(), trimmed(text));
    while !rest.is_empty() {
        let cut = if is_right {
            rest.rfind(is_space)
        } else {
            rest.find(is_space)
        };
        let Some(cut) = cut.filter(|_| parts.len() + 1 < pieces) else {
            parts.push(rest);
            break;
        };
        // The space itself goes as the rest is trimmed, whatever its bytes.
        let (left, right) = rest.split_at(cut);
        let (word, after) = if is_right {
            (right.trim_start_matches(is_space), left)
        } else {
            (left, right)
        };
        parts.push(word);
        rest = trimmed(after);
    }
    if is_right { reversed(parts) } else { parts }
}

fn lines(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (keeps, named) = from_args::<(Option<bool>, Kwargs)>(arguments)?;
    let keeps = named
        .get::<Option<bool>>("keepends")?
        .or(keeps)
        .unwrap_or(false);
    named.assert_all_used()?;
    let is_break = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let (mut lines, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let end = rest.find(is_break).unwrap_or(rest.len());
        let broken = match rest[end..].chars().next() {
            Some('\r') if rest[end..].starts_with("\r\n") => 2,
            Some(c) => c.len_utf8(),
            None => 0,
        };
        lines.push(Value::from(&rest[..if keeps { end + broken } else { end }]));
        rest = &rest[end + broken..];
    }
    Ok(Value::from(lines))
}

fn partition(text: &str, is_right: bool, arguments: &[Value]) -> Result<Value, Error> {
    let (separator,) = from_args::<(&str,)>(arguments)?;
    if separator.is_empty() {
        return Err(invalid("the separator of a partition is empty".to_owned()));
    }
    let found = if is_right {
        text.rsplit_once(separator)
    } else {
        text.split_once(separator)
    };
    let parts = match (found, is_right) {
        (Some((before, after)), _) => [before, separator, after],
        (None, false) => [text, "", ""],
        (None, true) => ["", "", text],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// Converts a Python index to one in a sequence of `length` items; a negative index counts from the
/// end.
fn place(at: i64, length: usize) -> usize {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let at = if at < 0 {
        (at + length).max(0)
    } else {
        at.min(length)
    };
    usize::try_from(at).unwrap_or(0)
}

/// Returns the characters from `start` up to `end`, and the number of characters before them;
/// `None` if `start` is after the text or after `end`.
fn window(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if (start, end) == (None, None) {
        return Some((0, text));
    }
    let length = text.chars().count();
    let is_past =
        start.is_some_and(|start| usize::try_from(start).is_ok_and(|start| start > length));
    let (start, end) = (
        place(start.unwrap_or(0), length),
        place(end.unwrap_or(i64::MAX), length),
    );
    let byte = |at: usize| {
        text.char_indices()
            .nth(at)
            .map_or(text.len(), |(byte, _)| byte)
    };
    (!is_past && start <= end).then(|| (start, &text[byte(start)..byte(end)]))
}

fn search(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end) = from_args::<(&str, Option<i64>, Option<i64>)>(arguments)?;
    let window = window(text, start, end);
    if name == "count" {
        return Ok(Value::from(
            window.map_or(0, |(_, text)| text.matches(wanted).count()),
        ));
    }
    let found = window.and_then(|(before, text)| {
        let byte = if name.starts_with('r') {
            text.rfind(wanted)
        } else {
            text.find(wanted)
        };
        Some(before + text[..byte?].chars().count())
    });
    match found {
        Some(place) => Ok(Value::from(place)),
        None if name.ends_with("index") => Err(invalid(format!("{wanted:?} is not in the text"))),
        None => Ok(Value::from(-1)),
    }
}

fn affix(text: &str, is_start: bool, arguments: &[Value]) -> Result<Value, Error> {
    let (affixes, start, end) = from_args::<(&Value, Option<i64>, Option<i64>)>(arguments)?;
    let affixes: Vec<Value> = match affixes.downcast_object_ref::<Tuple>() {
        Some(_) => affixes.try_iter()?.collect(),
        None => vec![affixes.clone()],
    };
    let Some((_, text)) = window(text, start, end) else {
        return Ok(Value::from(false));
    };
    for affix in &affixes {
        let affix = affix.as_str().ok_or_else(|| {
            invalid(format!(
                "expected a text or a tuple of texts, found {affix:?}"
            ))
        })?;
        if if is_start {
            text.starts_with(affix)
        } else {
            text.ends_with(affix)
        } {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn padded(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (width, fill) = from_args::<(i64, Option<&str>)>(arguments)?;
    let fill = fill.unwrap_or(if name == "zfill" { "0" } else { " " });
    let width = usize::try_from(width).unwrap_or(0);
    if width > MAX_BYTES || fill.chars().count() != 1 {
        return Err(invalid(format!(
            "a text is filled up to {MAX_BYTES} characters at most, with one character"
        )));
    }
    let length = text.chars().count();
    let missing = width.saturating_sub(length);
    // As CPython has it: where the two sides differ, an odd width puts the larger one left.
    let left = match name {
        "ljust" => 0,
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let sign = if name == "zfill" {
        text.len() - text.strip_prefix(['+', '-']).unwrap_or(text).len()
    } else {
        0
    };
    let (sign, rest) = text.split_at(sign);
    Ok(Value::from(format!(
        "{sign}{}{rest}{}",
        fill.repeat(left),
        fill.repeat(missing - left)
    )))
}

fn expand_tabs(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (size, named) = from_args::<(Option<usize>, Kwargs)>(arguments)?;
    let size = named.get::<Option<usize>>("tabsize")?.or(size).unwrap_or(8);
    named.assert_all_used()?;
    let (mut expanded, mut column) = (String::new(), 0);
    for c in text.chars() {
        if c == '\t' {
            let blanks = if size == 0 { 0 } else { size - column % size };
            if blanks > MAX_BYTES || expanded.len() > MAX_BYTES {
                return Err(invalid(format!(
                    "a text grows to more than {MAX_BYTES} bytes"
                )));
            }
            expanded.push_str(&" ".repeat(blanks));
            column += blanks;
        } else {
            expanded.push(c);
            column = if c == '\n' || c == '\r' {
                0
            } else {
                column + 1
            };
        }
    }
    Ok(Value::from(expanded))
}

/// Implements `join`. As in Python, an item that is not a text is an error.
fn join(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (items,) = from_args::<(&Value,)>(arguments)?;
    let mut joined = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        let item = item
            .as_str()
            .ok_or_else(|| {
                invalid(format!(
                    "item {index} of `join` is {item:?}, expected a text"
                ))
            })?
            .to_owned();
        if index > 0 {
            joined.push_str(text);
        }
        joined.push_str(&item);
    }
    Ok(Value::from(joined))
}

/// Folds case, so that texts that differ only in case become equal. Unicode's few full foldings
/// besides `ß` are left out.
fn casefold(text: &str) -> String {
    text.to_lowercase()
        .replace('ß', "ss")
        .replace('ſ', "s")
        .replace('ς', "σ")
}

fn swapped(c: char) -> String {
    if c.is_uppercase() {
        c.to_lowercase().collect()
    } else {
        c.to_uppercase().collect()
    }
}

/// Implements Python's method `title`, which capitalizes every first letter, also after an
/// apostrophe; the filter of this name differs.
fn title(text: &str) -> String {
    let (mut title, mut is_inside) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        if is_inside {
            title.extend(c.to_lowercase());
        } else {
            title.extend(c.to_uppercase());
        }
        is_inside = c.is_uppercase() || c.is_lowercase();
    }
    title
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
