//! Rewrites jinja2 templates for minijinja: line breaks, `{% generation %}`, variables captured by
//! closures, and `%` after a text. Lines keep their numbers, so that messages name the right one.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// The function that a rewritten `generation` tag calls.
pub(super) const GENERATION: &str = "rankine_generation";
/// The filter that formats a text with `%`.
pub(super) const PERCENT: &str = "rankine_percent";
/// Variable through which a closure captures names.
const TAKEN_IN: &str = "rankine_taken_in";

static NAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"([A-Za-z_]\w*)(?:\s*\.\s*\w+)?").expect("the pattern is valid and fixed")
});
/// Matches a name that is sliced.
static SLICED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"([A-Za-z_]\w*)(?:\s*\.\s*\w+|\[[^\[\]:]*\])*\s*\[[^\[\]]*:")
        .expect("the pattern is valid and fixed")
});
/// Words that may stand before a list.
const KEYWORDS: [&str; 10] = [
    "and", "else", "elif", "for", "if", "in", "is", "not", "or", "set",
];

static END_OF_RAW: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\{%[-+]?\s*endraw\s*[-+]?%\}").expect("the pattern is valid and fixed")
});

/// A block tag, or with `is_block: false` an expression.
#[derive(Debug, PartialEq, Eq)]
struct Tag<'a> {
    range: Range<usize>,
    is_block: bool,
    /// `-`, `+` or nothing, at its start and its end.
    controls: [&'a str; 2],
    body: &'a str,
}

impl Tag<'_> {
    /// Returns the first word of a block tag.
    fn keyword(&self) -> &str {
        let body = self.body.trim_start();
        let end = body
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(body.len());
        if self.is_block { &body[..end] } else { "" }
    }

    fn is_generation(&self) -> bool {
        self.is_block && matches!(self.body.trim(), "generation" | "endgeneration")
    }
}

/// Converts every line break of the template to LF, as jinja2 does.
pub(super) fn with_line_feeds(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// Whether a template marks the assistant's text; a tag in a comment does not count.
pub(super) fn is_marked(source: &str) -> bool {
    tags(source).iter().any(Tag::is_generation)
}

/// Removes the `generation` tags from a template, as in the form that models ship.
pub(super) fn without_marks(source: &str) -> String {
    let marks = tags(source)
        .into_iter()
        .filter(Tag::is_generation)
        .map(|tag| (tag.range, String::new()));
    edited(source, marks)
}

/// Rewrites a template for minijinja.
pub(super) fn for_minijinja(source: &str) -> String {
    let source = with_line_feeds(source);
    let tags = tags(&source);
    let taken_in = taken_in(&tags);
    let edits = tags.iter().zip(&taken_in).filter_map(|(tag, names)| {
        let body = percent(tag.body);
        let body = match tag.keyword() {
            "generation" if tag.is_generation() => format!(" call {GENERATION}() "),
            "endgeneration" if tag.is_generation() => " endcall ".to_owned(),
            _ if body == tag.body && names.is_empty() => return None,
            _ => body,
        };
        let [left, right] = tag.controls;
        let names = names.iter().copied().collect::<Vec<_>>().join(", ");
        let text = match (tag.is_block, names.as_str()) {
            (false, _) => format!("{{{{{left}{body}{right}}}}}"),
            (true, "") => format!("{{%{left}{body}{right}%}}"),
            (true, names) => format!("{{%{left}{body}%}}{{% set {TAKEN_IN} = [{names}] {right}%}}"),
        };
        Some((tag.range.clone(), text))
    });
    edited(&source, edits)
}

fn edited(source: &str, edits: impl Iterator<Item = (Range<usize>, String)>) -> String {
    let (mut text, mut end) = (String::with_capacity(source.len()), 0);
    for (range, replacement) in edits {
        text.push_str(&source[end..range.start]);
        text.push_str(&replacement);
        end = range.end;
    }
    text + &source[end..]
}

/// Returns the tags of a template in order, except those in comments and raw blocks. A tag without
/// an end is left to the parser.
fn tags(source: &str) -> Vec<Tag<'_>> {
    let (mut tags, mut at) = (Vec::new(), 0);
    while let Some(open) = source[at..].find('{').map(|open| at + open) {
        let rest = &source[open..];
        let end = match rest.as_bytes().get(1) {
            Some(b'#') => rest[2..].find("#}").map(|end| end + 4),
            Some(b'%') => end_of_tag(rest, "%}"),
            Some(b'{') => end_of_tag(rest, "}}"),
            _ => Some(1),
        };
        let Some(end) = end else { break };
        at = open + end;
        if matches!(rest.as_bytes().get(1), Some(b'%' | b'{')) {
            let tag = tag(&rest[..end], open);
            if tag.is_block && tag.body.trim() == "raw" {
                at = END_OF_RAW
                    .find_at(source, at)
                    .map_or(source.len(), |end| end.end());
            }
            tags.push(tag);
        }
    }
    tags
}

fn tag(text: &str, start: usize) -> Tag<'_> {
    let inside = &text[2..text.len() - 2];
    let is_control = |c: char| c == '-' || c == '+';
    let left = usize::from(inside.starts_with(is_control));
    let right = inside.len() - usize::from(inside.len() > left && inside.ends_with(is_control));
    let controls = [&inside[..left], &inside[right..]];
    Tag {
        range: start..start + text.len(),
        is_block: text.starts_with("{%"),
        controls,
        body: &inside[left..right],
    }
}

/// Returns the position after a tag's `end`, which is ignored inside string literals and braces.
fn end_of_tag(tag: &str, end: &str) -> Option<usize> {
    let (mut at, mut depth) = (2, 0_usize);
    loop {
        let rest = tag.get(at..)?;
        let next = rest.chars().next()?;
        match next {
            '"' | '\'' => at += end_of_text(rest)?,
            _ if depth == 0 && rest.starts_with(end) => return Some(at + 2),
            _ => {
                depth = if next == '{' {
                    depth + 1
                } else {
                    depth.saturating_sub(usize::from(next == '}'))
                };
                at += next.len_utf8();
            }
        }
    }
}

/// Returns the length in bytes of the string literal at the start of `rest`.
fn end_of_text(rest: &str) -> Option<usize> {
    let quote = rest.chars().next()?;
    let mut is_escaped = false;
    rest.char_indices().skip(1).find_map(|(at, c)| {
        let is_end = c == quote && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end.then_some(at + 1)
    })
}

/// Returns, for each tag, the names that its closure must capture. jinja2's closures see everything
/// outside. minijinja's capture the names that they read, except names that they assign, names that
/// are sliced, and `loop` where a loop iterates over it.
fn taken_in<'a>(tags: &[Tag<'a>]) -> Vec<BTreeSet<&'a str>> {
    let mut names: Vec<BTreeSet<&'a str>> = vec![BTreeSet::new(); tags.len()];
    let mut open: Vec<usize> = Vec::new();
    for (index, tag) in tags.iter().enumerate() {
        let mut take_in = |name: &'a str| {
            for scope in open.iter().filter(|_| !KEYWORDS.contains(&name)) {
                names[*scope].insert(name);
            }
        };
        SLICED
            .captures_iter(tag.body)
            .filter_map(|found| found.get(1))
            .for_each(|name| take_in(name.as_str()));
        match tag.keyword() {
            "macro" | "call" => open.push(index),
            "generation" if tag.is_generation() => open.push(index),
            "endmacro" | "endcall" | "endgeneration" => {
                open.pop();
            }
            "for" => {
                let words = NAME
                    .captures_iter(tag.body)
                    .filter_map(|found| found.get(1));
                words
                    .map(|name| name.as_str())
                    .filter(|name| *name == "loop")
                    .for_each(take_in);
            }
            "set" => {
                let target = tag
                    .body
                    .trim_start()
                    .strip_prefix("set")
                    .unwrap_or_default();
                let target = target.split(['=', '|']).next().unwrap_or_default();
                NAME.captures_iter(target)
                    .filter_map(|found| found.get(1))
                    .for_each(|name| take_in(name.as_str()));
            }
            _ => {}
        }
    }
    names
}

/// Rewrites `'..' % x` to a filter, because minijinja's `%` is for numbers only.
fn percent(body: &str) -> String {
    let (mut text, mut at) = (String::with_capacity(body.len()), 0);
    while let Some(next) = body[at..].chars().next() {
        let rest = &body[at..];
        let Some(end) = (next == '"' || next == '\'')
            .then(|| end_of_text(rest))
            .flatten()
        else {
            text.push(next);
            at += next.len_utf8();
            continue;
        };
        text.push_str(&rest[..end]);
        at += end;
        let Some(operand) = rest[end..].trim_start().strip_prefix('%') else {
            continue;
        };
        let end = end_of_operand(operand);
        text.extend(["|", PERCENT, "(", &percent(&operand[..end]), ")"]);
        at = body.len() - operand.len() + end;
    }
    text
}

/// Returns the end of the operand at the start of a text: a value with its calls, lookups and
/// filters.
fn end_of_operand(text: &str) -> usize {
    let blank = |at: usize| text.len() - text[at..].trim_start().len();
    let word = |at: usize| {
        at + text[at..]
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len() - at)
    };
    let mut at = blank(0);
    at += usize::from(text[at..].starts_with(['-', '+']));
    at = match text[at..].chars().next() {
        Some('"' | '\'') => at + end_of_text(&text[at..]).unwrap_or(text.len() - at),
        Some('(' | '[' | '{') => end_of_group(text, at),
        _ => word(at),
    };
    loop {
        let next = blank(at);
        at = match text[next..].chars().next() {
            Some('(' | '[') => end_of_group(text, next),
            Some('.' | '|') => word(blank(next + 1)),
            _ => return at,
        };
    }
}

fn end_of_group(text: &str, start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while let Some(next) = text[at..].chars().next() {
        match next {
            '"' | '\'' => {
                at += end_of_text(&text[at..]).unwrap_or(text.len() - at);
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        at += next.len_utf8();
        if depth == 0 {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_keep_their_whitespace_control_and_their_count() {
        let source = "a {%- generation -%} b {% endgeneration %} \
            {%+ generation %}{% endgeneration -%}";
        let expected = "a {%- call rankine_generation() -%} b {% endcall %} \
            {%+ call rankine_generation() %}{% endcall -%}";
        assert_eq!(for_minijinja(source), expected);
        assert_eq!(without_marks(source), "a  b  ");
        assert!(is_marked(source) && !is_marked("{% if generation %}{% endif %}"));
        assert!(
            !is_marked("{# {% generation %} #}")
                && !is_marked("{% raw %}{% generation %}{% endraw %}")
        );
        assert!(!is_marked("{{ '{% generation %}' }}"));
    }

    #[test]
    fn closures_take_in_what_is_assigned_in_them() {
        let source = "{% generation -%}\n\
            {% set ns.a = 1 %}{% set b, ns.c = 1, 2 %}{% endgeneration %}{% set d = 1 %}";
        let expected = "{% call rankine_generation() %}{% set rankine_taken_in = [b, ns] -%}\n\
            {% set ns.a = 1 %}{% set b, ns.c = 1, 2 %}{% endcall %}{% set d = 1 %}";
        assert_eq!(for_minijinja(source), expected);
        let sliced = "{% call f() %}{% for a in b.c[loop.index:] %}{% if a in [{'x': 1}] %}{{ \
            d[0][1:] }}{% endif %}{% endfor %}{% endcall %}";
        let tag = "{% call f() %}{% set rankine_taken_in = [b, d, loop] %}";
        assert_eq!(for_minijinja(sliced), sliced.replace("{% call f() %}", tag));
        let untouched = "{% macro f(x) %}{{ x == '%}' }}{% endmacro %}{% raw %}{% generation %}{% \
            endraw %}{# {% x";
        assert_eq!(for_minijinja(untouched), untouched);
    }

    #[test]
    fn a_text_with_percent_is_a_filter_and_numbers_are_left() {
        for (source, expected) in [
            (
                "{{ '%s-%s' % (a, ')') ~ b }}",
                "{{ '%s-%s'|rankine_percent( (a, ')')) ~ b }}",
            ),
            (
                "{{- \"%d\" %m['x'].y(1)|upper + c -}}",
                "{{- \"%d\"|rankine_percent(m['x'].y(1)|upper) + c -}}",
            ),
            (
                "{% if 7 % 2 == 1 and '%' in x %}",
                "{% if 7 % 2 == 1 and '%' in x %}",
            ),
        ] {
            assert_eq!(for_minijinja(source), expected);
        }
    }

    #[test]
    fn every_line_break_is_one_lf() {
        assert_eq!(
            for_minijinja("a\r\nb\rc\n\r{{ 'd\\r' }}"),
            "a\nb\nc\n\n{{ 'd\\r' }}"
        );
    }

    #[test]
    fn what_has_no_end_is_left_to_the_parser() {
        for source in [
            "{%",
            "{{ 'a",
            "{% raw %}{% x",
            "{{ {'a': 1} ",
            "{",
            "ü{é",
            "{% set",
            "{{ '%s' % (",
            "{{ '%s' %",
            "{%-%}",
            "{{-",
        ] {
            assert!(for_minijinja(source).len() >= source.len(), "{source}");
        }
    }
}
